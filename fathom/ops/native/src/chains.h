// Operators that always follow one another, in one call each: ops/chains.py says what they mean. And what they share with the single ones.
#pragma once
#include "arguments.h"

namespace {

uint16_t* out16(const Tensor& t) { return (uint16_t*)t.data_ptr(); }
const uint16_t* in16(const Tensor& t) { return (const uint16_t*)t.const_data_ptr(); }

PyObject* three(const Tensor& a, const Tensor& b, const Tensor& c) {
    PyObject* all = PyTuple_New(3);
    PyTuple_SET_ITEM(all, 0, THPVariable_Wrap(a));
    PyTuple_SET_ITEM(all, 1, THPVariable_Wrap(b));
    PyTuple_SET_ITEM(all, 2, THPVariable_Wrap(c));
    return all;
}

// What a product with a stored matrix takes: x [T, columns] itself, or (official) rounded to E4M3, which lies in `room`.
const uint16_t* taken(const Table& k, const Tensor& x, bool official, Tensor& room) {
    if (!official) return in16(x);
    room = make(x.sizes(), at::kBFloat16);
    k.quantise(in16(x), x.numel() / x.size(-1), x.size(-1), out16(room));
    return in16(room);
}

// Matrices of one size, as a tuple whose data and scale are [G, …].
struct Groups {
    Weight first;
    int64_t count, data_bytes, scale_bytes;
    explicit Groups(PyObject* o) : count(0), data_bytes(0), scale_bytes(0) {
        require(PyTuple_Check(o) && PyTuple_GET_SIZE(o) == 5, "matrices are data, scale, rows, columns, format");
        const Tensor& data = any_tensor(PyTuple_GET_ITEM(o, 0));
        count = data.size(0);
        first = weight(o, count);
        data_bytes = data.nbytes() / count;
        if (first.scale) scale_bytes = any_tensor(PyTuple_GET_ITEM(o, 1)).nbytes() / count;
    }
    Weight operator[](int64_t g) const {
        return {(const uint8_t*)first.data + g * data_bytes, first.scale ? first.scale + g * scale_bytes : nullptr, first.rows, first.columns, first.format};
    }
    // y [T, G·rows] of x [T, G, columns]
    void multiply(const Table& k, const uint16_t* x, int64_t T, uint16_t* y) const {
        for (int64_t g = 0; g < count; g++)
            k.linear(x + g * first.columns, count * first.columns, T, (*this)[g], y + g * first.rows, count * first.rows, false);
    }
};

// All experts of a layer: their addresses [E + 1, 4] int64 (gate_up data, scale, down data, scale; the shared expert last), width I,
// formats of the routed and of the shared ones. Those with active[e] = 0 may be missing.
struct Experts {
    int64_t count, width;
    std::vector<Weight> up, down;
    Experts(PyObject* const* a, int64_t D, const uint8_t* active) {
        const Tensor& pointers = tensor(a[0], at::kLong);
        require(pointers.dim() == 2 && pointers.size(1) == 4, "pointers are [E + 1, 4]");
        const int64_t* at_ = (const int64_t*)pointers.const_data_ptr();
        count = pointers.size(0) - 1, width = number(a[1]);
        fathom::Format routed = (fathom::Format)number(a[2]), shared = (fathom::Format)number(a[3]);
        up.resize(count + 1), down.resize(count + 1);
        for (int64_t e = 0; e <= count; e++, at_ += 4) {
            require((active && !active[e]) || (at_[0] && at_[2]), "an active expert without weights");
            fathom::Format format = e == count ? shared : routed;
            up[e] = {(const void*)at_[0], (const uint8_t*)at_[1], 2 * ((width + 15) / 16 * 16), D, format};
            down[e] = {(const void*)at_[2], (const uint8_t*)at_[3], D, width, format};
        }
    }
};

const int64_t* experts_that_exist(const Tensor& chosen, int64_t E) {
    const int64_t* list = (const int64_t*)chosen.const_data_ptr();
    for (int64_t i = 0; i < chosen.numel(); i++) require(list[i] >= 0 && list[i] < E, "an expert that doesn't exist");
    return list;
}

// cos and sin [T, R/2] of a rotation.
struct Angles {
    const float *cos, *sin;
    int64_t R;
    Angles(PyObject* c, PyObject* s, int64_t T, int64_t C) {
        const Tensor &cosines = tensor(c, at::kFloat), &sines = tensor(s, at::kFloat);
        require(cosines.dim() == 2 && cosines.size(0) == T && 2 * cosines.size(1) <= C && sines.numel() == cosines.numel(), "cos and sin are [T, R/2]");
        cos = (const float*)cosines.const_data_ptr(), sin = (const float*)sines.const_data_ptr(), R = 2 * cosines.size(1);
    }
};

const uint16_t* norm_weight(PyObject* o, int64_t columns) {
    require(tensor(o, at::kBFloat16).numel() == columns, "one weight a column");
    return bf16(o);
}

// h [T, D], wq_a, q_norm, wq_b, wkv, kv_norm, heads, eps, cos, sin, official → (c_q [T, q_lora], q [T, H, C], kv [T, C])
FATHOM_METHOD(attention_inputs, 11) {
    const Tensor& h = tensor(a[0], at::kBFloat16);
    int64_t T = h.size(0), D = h.size(1), H = number(a[6]);
    Weight down = weight(a[1]), up = weight(a[3]), one = weight(a[4]);
    int64_t C = one.rows, L = down.rows;
    require(h.dim() == 2 && down.columns == D && one.columns == D && up.columns == L && up.rows == H * C, "shapes that don't belong together");
    const uint16_t *q_norm = norm_weight(a[2], L), *kv_norm = norm_weight(a[5], C);
    Angles angles(a[8], a[9], T, C);
    float eps = (float)real(a[7]);
    bool official = number(a[10]);
    Tensor latent = make({T, L}, at::kBFloat16), c_q = make({T, L}, at::kBFloat16), wide = make({T, H, C}, at::kBFloat16), q = make({T, H, C}, at::kBFloat16),
           row = make({T, C}, at::kBFloat16), kv = make({T, C}, at::kBFloat16), room, more;
    {
        Unlocked unlocked(T * (D * L + L * H * C + D * C));
        const uint16_t* x = taken(k, h, official, room);
        k.linear(x, D, T, down, latent.data_ptr(), L, false);
        k.rms_norm(in16(latent), T, L, q_norm, eps, out16(c_q));
        k.linear(taken(k, c_q, official, more), L, T, up, wide.data_ptr(), H * C, false);
        k.norm_rope(in16(wide), T, H, C, nullptr, eps, angles.cos, angles.sin, angles.R, official, out16(q));
        k.linear(x, D, T, one, row.data_ptr(), C, false);
        k.norm_rope(in16(row), T, 1, C, kv_norm, eps, angles.cos, angles.sin, angles.R, official, out16(kv));
    }
    return three(c_q, q, kv);
}

// out [T, H, C], cos, back, wo_a (grouped), wo_b, official → [T, D]
FATHOM_METHOD(attention_output, 6) {
    const Tensor& x = tensor(a[0], at::kBFloat16);
    require(x.dim() == 3, "out is [T, H, C]");
    int64_t T = x.size(0), H = x.size(1), C = x.size(2);
    Angles angles(a[1], a[2], T, C);
    Groups first(a[3]);
    Weight second = weight(a[4]);
    int64_t width = first.count * first.first.rows;
    require(first.count * first.first.columns == H * C && second.columns == width, "shapes that don't belong together");
    bool official = number(a[5]);
    Tensor turned = make(x.sizes(), at::kBFloat16), middle = make({T, width}, at::kBFloat16), y = make({T, second.rows}, at::kBFloat16), room;
    {
        Unlocked unlocked(T * (H * C * first.first.rows + width * second.rows));
        k.norm_rope(in16(x), T, H, C, nullptr, -1, angles.cos, angles.sin, angles.R, false, out16(turned));
        first.multiply(k, in16(turned), T, out16(middle));
        k.linear(taken(k, middle, official, room), width, T, second, y.data_ptr(), second.rows, false);
    }
    return THPVariable_Wrap(y);
}

// h [T, D], c_q [T, q_lora], wq_b, weights_proj, heads, cos, sin, factor, official → (q [T, J, K], w [T, J] fp32)
FATHOM_METHOD(index_inputs, 9) {
    const Tensor &h = tensor(a[0], at::kBFloat16), &c_q = tensor(a[1], at::kBFloat16);
    int64_t T = h.size(0), D = h.size(1), L = c_q.size(1), J = number(a[4]);
    Weight up = weight(a[2]), heads = weight(a[3]);
    int64_t K = up.rows / J;
    require(c_q.size(0) == T && up.columns == L && up.rows == J * K && heads.columns == D && heads.rows == J, "shapes that don't belong together");
    require(!number(a[8]) || (K <= 1024 && (K & (K - 1)) == 0), "K is a power of two");
    Angles angles(a[5], a[6], T, K);
    float factor = (float)real(a[7]);
    bool official = number(a[8]);
    Tensor wide = make({T, J, K}, at::kBFloat16), q = make({T, J, K}, at::kBFloat16), w = make({T, J}, at::kFloat), room;
    {
        Unlocked unlocked(T * (L * up.rows + D * J));
        k.linear(taken(k, c_q, official, room), L, T, up, wide.data_ptr(), J * K, false);
        k.norm_rope(in16(wide), T, J, K, nullptr, -1, angles.cos, angles.sin, angles.R, false, out16(q));
        if (official) k.index_queries(in16(q), T * J, K, out16(wide));
        k.linear(in16(h), D, T, heads, w.data_ptr(), J, true);
        for (float *at_ = (float*)w.data_ptr(), *end = at_ + T * J; at_ < end; at_++) *at_ *= factor;
    }
    PyObject* two = PyTuple_New(2);
    PyTuple_SET_ITEM(two, 0, THPVariable_Wrap(official ? wide : q));
    PyTuple_SET_ITEM(two, 1, THPVariable_Wrap(w));
    return two;
}

// x [T, D], gate, bias [E] or None, given [T, K] or None, K, factor, experts ×4, limit, official, rows [T, K + 1, D] to work in
// → (y [T, D], scores [T, E], chosen [T, K])
FATHOM_METHOD(moe, 13) {
    const Tensor &x = tensor(a[0], at::kBFloat16), &rows = tensor(a[12], at::kBFloat16);
    int64_t T = x.size(0), D = x.size(1), K = number(a[4]);
    Weight gate = weight(a[1]);
    Experts all(a + 6, D, nullptr);
    int64_t E = all.count, I = all.width;
    require(x.dim() == 2 && gate.columns == D && gate.rows == E && rows.numel() == T * (K + 1) * D, "shapes that don't belong together");
    const int64_t* given = nullptr;
    if (a[3] != Py_None) {
        require(tensor(a[3], at::kLong).numel() == T * K, "given is [T, K]");
        given = experts_that_exist(tensor(a[3], at::kLong), E);
    }
    const float* bias = a[2] == Py_None ? nullptr : fp32(a[2]);
    require((bias == nullptr) != (given == nullptr) && (!bias || tensor(a[2], at::kFloat).numel() == E), "either a bias [E] or given experts");
    float factor = (float)real(a[5]), limit = (float)real(a[10]);
    bool official = number(a[11]);
    Tensor logits = make({T, E}, at::kFloat), scores = make({T, E}, at::kFloat), weights = make({T, K}, at::kFloat), chosen = make({T, K}, at::kLong),
           y = make({T, D}, at::kBFloat16);
    {
        Unlocked unlocked(T * K * D * I * 3);
        k.linear(in16(x), D, T, gate, logits.data_ptr(), E, true);
        k.route((const float*)logits.const_data_ptr(), T, E, bias, given, K, factor, (float*)scores.data_ptr(), (float*)weights.data_ptr(),
                (int64_t*)chosen.data_ptr());
        std::vector<uint8_t> every(E + 1, 1);
        k.experts(in16(x), T, D, I, (const float*)weights.const_data_ptr(), (const int64_t*)chosen.const_data_ptr(), K, E, all.up.data(), all.down.data(),
                  every.data(), limit, official, out16(rows));
        k.experts_sum(in16(rows), T, K + 1, D, out16(y));
    }
    return three(y, scores, chosen);
}

}  // namespace
