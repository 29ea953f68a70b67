// The door to Python: a type `Kernels`, one object an instruction set, whose methods are the operators.
//
// Methods take tensors and numbers by position; the wrappers in kernels.py give them their names and contracts. Checked here: type,
// device, contiguity and sizes of everything whose address is handed on. Long calls let other Python threads run.
#include "block.h"

extern "C" {
#define FATHOM_DECLARE(isa) const Table* fathom_table_##isa();
FATHOM_TABLES(FATHOM_DECLARE)
#undef FATHOM_DECLARE
}

namespace {

// x [T, ≥ columns] (rows may be apart), weight, fp32 → [T, rows]
FATHOM_METHOD(linear, 3) {
    require(THPVariable_Check(a[0]), "not a tensor");
    const Tensor& x = THPVariable_Unpack(a[0]);
    Weight w = weight(a[1]);
    require(x.is_cpu() && x.scalar_type() == at::kBFloat16 && x.dim() == 2 && x.stride(1) == 1 && x.size(1) == w.columns, "x is [T, columns] bf16");
    bool wide = number(a[2]);
    Tensor y = make({x.size(0), w.rows}, wide ? at::kFloat : at::kBFloat16);
    {
        Unlocked unlocked(x.size(0) * w.rows * w.columns);
        Product product{in16(x), x.stride(0), w, y.data_ptr(), w.rows, wide};
        k.linears(&product, 1, x.size(0));
    }
    return THPVariable_Wrap(y);
}

// x [T, columns], two packed matrices of the same rows and columns → [T, 2, rows] fp32
FATHOM_METHOD(linear_pair, 3) {
    const Tensor& x = tensor(a[0], at::kBFloat16);
    Weight w[2] = {weight(a[1]), weight(a[2])};
    int64_t T = x.size(0), rows = w[0].rows, columns = w[0].columns;
    require(x.dim() == 2 && x.size(1) == columns && w[1].rows == rows && w[1].columns == columns, "x is [T, columns] bf16, the matrices of one size");
    Tensor y = make({T, 2, rows}, at::kFloat);
    Unlocked unlocked(2 * T * rows * columns);
    Product products[2];
    for (int i = 0; i < 2; i++) products[i] = {in16(x), columns, w[i], (float*)y.data_ptr() + i * rows, 2 * rows, true};
    k.linears(products, 2, T);
    unlocked.end();
    return THPVariable_Wrap(y);
}

// x [T, G, columns], G packed matrices → [T, G·rows]
FATHOM_METHOD(linear_grouped, 2) {
    const Tensor& x = tensor(a[0], at::kBFloat16);
    Groups w(a[1]);
    require(x.dim() == 3 && x.size(1) == w.count && x.size(2) == w.first.columns, "x is [T, G, columns] bf16");
    Tensor y = make({x.size(0), w.count * w.first.rows}, at::kBFloat16);
    Unlocked unlocked(x.numel() * w.first.rows);
    std::vector<Product> products = w.products(in16(x), out16(y));
    k.linears(products.data(), w.count, x.size(0));
    unlocked.end();
    return THPVariable_Wrap(y);
}

// x [T, D], weights, chosen [T, K], experts ×4, limit, official, active [E + 1] uint8 or None (all), rows [T, K + 1, D]: changed in place
FATHOM_METHOD(experts, 11) {
    const Tensor &x = tensor(a[0], at::kBFloat16), &chosen = tensor(a[2], at::kLong), &rows = tensor(a[10], at::kBFloat16);
    int64_t T = x.size(0), D = x.size(1), K = chosen.size(1);
    const uint8_t* active = a[9] == Py_None ? nullptr : (const uint8_t*)tensor(a[9], at::kByte).const_data_ptr();
    require(!active || tensor(a[9], at::kByte).numel() == tensor(a[3], at::kLong).size(0), "active is [E + 1]");
    Experts all(a + 3, D, active);
    require(chosen.size(0) == T && tensor(a[1], at::kFloat).numel() == T * K && rows.numel() == T * (K + 1) * D, "shapes that don't belong together");
    const int64_t* list = experts_that_exist(chosen, all.count);
    float limit = (float)real(a[7]);
    bool official = number(a[8]);
    const float* weights = fp32(a[1]);
    std::vector<uint8_t> every(all.count + 1, 1);
    {
        Unlocked unlocked(T * K * D * all.width * 3);
        k.experts(in16(x), T, D, all.width, weights, list, K, all.count, all.up.data(), all.down.data(), active ? active : every.data(), limit, official,
                  out16(rows));
    }
    Py_RETURN_NONE;
}

// rows [T, K + 1, D] → [T, D]
FATHOM_METHOD(experts_sum, 1) {
    const Tensor& rows = tensor(a[0], at::kBFloat16);
    Tensor y = make({rows.size(0), rows.size(2)}, at::kBFloat16);
    k.experts_sum((const uint16_t*)rows.const_data_ptr(), rows.size(0), rows.size(1), rows.size(2), (uint16_t*)y.data_ptr());
    return THPVariable_Wrap(y);
}

// logits [T, E], bias [E] or None, chosen [T, K] or None, K, factor → (scores, weights, experts)
FATHOM_METHOD(route, 5) {
    const Tensor& logits = tensor(a[0], at::kFloat);
    int64_t T = logits.size(0), E = logits.size(1), K = number(a[3]);
    const int64_t* given = int64(a[2]);
    if (given) {
        require(tensor(a[2], at::kLong).numel() == T * K, "chosen is [T, K]");
        experts_that_exist(tensor(a[2], at::kLong), E);
    }
    Tensor scores = make({T, E}, at::kFloat), weights = make({T, K}, at::kFloat), chosen = make({T, K}, at::kLong);
    k.route((const float*)logits.const_data_ptr(), T, E, a[1] == Py_None ? nullptr : fp32(a[1]), given, K, (float)real(a[4]),
            (float*)scores.data_ptr(), (float*)weights.data_ptr(), (int64_t*)chosen.data_ptr());
    return three(scores, weights, chosen);
}

// x [.., D], weight [D], eps → like x
FATHOM_METHOD(rms_norm, 3) {
    const Tensor& x = tensor(a[0], at::kBFloat16);
    int64_t D = x.size(-1);
    Tensor y = make(x.sizes(), at::kBFloat16);
    k.rms_norm(in16(x), x.numel() / D, D, norm_weight(a[1], D), (float)real(a[2]), out16(y));
    return THPVariable_Wrap(y);
}

// x [T, C] or [T, H, C], weight [C] or None, eps (negative: no norm), cos, sin [T, R/2], twice → like x
FATHOM_METHOD(norm_rope, 6) {
    const Tensor& x = tensor(a[0], at::kBFloat16);
    int64_t T = x.size(0), C = x.size(-1), H = x.dim() == 3 ? x.size(1) : 1;
    Angles angles(a[3], a[4], T, C);
    Tensor y = make(x.sizes(), at::kBFloat16);
    k.norm_rope(in16(x), T, H, C, a[1] == Py_None ? nullptr : norm_weight(a[1], C), (float)real(a[2]), angles.cos, angles.sin, angles.R, number(a[5]), out16(y));
    return THPVariable_Wrap(y);
}

// X [T, N, D], fn, scale, base, steps, norm_eps, eps → (h, post, comb); or h alone for the head's mix (steps = 0)
FATHOM_METHOD(mhc_mix, 7) {
    const Tensor& X = tensor(a[0], at::kBFloat16);
    int64_t T = X.size(0), N = X.size(1), D = X.size(2), steps = number(a[4]);
    Weight fn = weight(a[1]);
    int64_t M = steps ? (2 + N) * N : N;
    require(N <= 8 && fn.columns == N * D && fn.rows >= M && fn.rows % M == 0 && fn.format == fathom::BF16, "fn is [parts·M, N·D]");
    Tensor h = make({T, D}, at::kBFloat16), post, comb;
    if (steps) post = make({T, N}, at::kFloat), comb = make({T, N, N}, at::kFloat);
    const float *scale = fp32(a[2]), *base = fp32(a[3]);
    float norm_eps = (float)real(a[5]), eps = (float)real(a[6]);
    {
        Unlocked unlocked(T * N * D * fn.rows);
        k.mhc_mix(in16(X), T, N, D, fn, scale, base, steps, norm_eps, eps, out16(h), steps ? (float*)post.data_ptr() : nullptr,
                  steps ? (float*)comb.data_ptr() : nullptr);
    }
    return steps ? three(h, post, comb) : THPVariable_Wrap(h);
}

// X [T, N, D], out [T, D], post [T, N], comb [T, N, N] → X, changed in place
FATHOM_METHOD(mhc_expand, 4) {
    const Tensor& X = tensor(a[0], at::kBFloat16);
    int64_t T = X.size(0), N = X.size(1), D = X.size(2);
    require(tensor(a[1], at::kBFloat16).numel() == T * D && tensor(a[2], at::kFloat).numel() == T * N && tensor(a[3], at::kFloat).numel() == T * N * N && N <= 8,
            "shapes that don't belong together");
    k.mhc_expand((const uint16_t*)X.const_data_ptr(), bf16(a[1]), fp32(a[2]), fp32(a[3]), T, N, D, (uint16_t*)X.data_ptr());
    Py_INCREF(a[0]);
    return a[0];
}

// ring [slots, L, …], values [T, …] of the same type, runs [R, 4], history [R] → rows [Σ (history + length), …]; the ring is changed
FATHOM_METHOD(remember, 4) {
    const Tensor &ring = any_tensor(a[0]), &values = any_tensor(a[1]);
    int64_t R, total = 0, L = ring.size(1), width = ring.nbytes() / (ring.size(0) * L);
    const Run* run = runs(a[2], R);
    const int64_t* history = int64(a[3]);
    require(ring.scalar_type() == values.scalar_type() && values.nbytes() == values.size(0) * (size_t)width && tensor(a[3], at::kLong).numel() == R,
            "values that don't fit the ring");
    for (int64_t r = 0; r < R; r++) {
        require(run[r].slot >= 0 && run[r].slot < ring.size(0) && history[r] >= 0 && history[r] <= smaller(L, run[r].start), "a run outside the ring");
        require(run[r].first >= 0 && run[r].first + run[r].length <= values.size(0), "a run outside the batch");
        total += history[r] + run[r].length;
    }
    std::vector<int64_t> shape(values.sizes().begin(), values.sizes().end());
    shape[0] = total;
    Tensor rows = make(shape, values.scalar_type());
    k.remember((uint8_t*)ring.data_ptr(), L, width, (const uint8_t*)values.const_data_ptr(), run, history, R, (uint8_t*)rows.data_ptr());
    return THPVariable_Wrap(rows);
}

// rows [.., 2, P], ape [m, P], own [n, m], previous [n, m] or None, norm [C], eps, cos, sin [n, R/2], official → [n, C]
FATHOM_METHOD(compress, 9) {
    const Tensor &rows = tensor(a[0], at::kFloat), &own = tensor(a[2], at::kLong), &norm = tensor(a[4], at::kBFloat16), &cos = tensor(a[6], at::kFloat);
    int64_t P = rows.size(-1), n = own.size(0), m = own.size(1), C = norm.numel(), count = rows.size(0);
    const int64_t* previous = int64(a[3]);
    require(P == (previous ? 2 * C : C) && tensor(a[1], at::kFloat).numel() == m * P && cos.size(0) == n, "shapes that don't belong together");
    const int64_t* list = (const int64_t*)own.const_data_ptr();
    for (int64_t i = 0; i < n * m; i++)
        require(list[i] >= 0 && list[i] < count && (!previous || previous[i] < count), "a window outside its rows");
    Tensor y = make({n, C}, at::kBFloat16);
    k.compress((const float*)rows.const_data_ptr(), P, fp32(a[1]), list, previous, n, m, C, (const uint16_t*)norm.const_data_ptr(), (float)real(a[5]),
               (const float*)cos.const_data_ptr(), fp32(a[7]), 2 * cos.size(1), number(a[8]), (uint16_t*)y.data_ptr());
    return THPVariable_Wrap(y);
}

// q [T, J, C], w [T, J], pool [P, C] bf16 or [P, bytes], pages ×3, runs, base [R], ratio, k → [T, k]
FATHOM_METHOD(index_topk, 10) {
    const Tensor &q = tensor(a[0], at::kBFloat16), &pool = any_tensor(a[2]);
    bool coded = pool.scalar_type() == at::kByte;
    int64_t T = q.size(0), J = q.size(1), C = q.size(2), R, ratio = number(a[8]), top_k = number(a[9]);
    const Run* run = runs(a[6], R);
    Pages page = pages(a + 3, R);
    require(tensor(a[1], at::kFloat).numel() == T * J && (coded || pool.scalar_type() == at::kBFloat16) && pool.size(1) == (coded ? key_bytes(C) : C) &&
                C % 2 == 0 && C <= 1024 && ratio > 0,
            "shapes that don't belong together");
    const float* w = fp32(a[1]);
    const int64_t* base = int64(a[7]);
    Tensor chosen = make({T, top_k}, at::kLong);
    {
        Unlocked unlocked(T * J * C * ((run[R - 1].start + run[R - 1].length) / ratio));
        k.index_topk((const uint16_t*)q.const_data_ptr(), w, J, C, pool.const_data_ptr(), coded, page, run, R, base, ratio, top_k,
                     (int64_t*)chosen.data_ptr());
    }
    return THPVariable_Wrap(chosen);
}

// q [T, H, C], window rows, W, sink [H], pool [P, C] or None, pages ×3, runs, entry base [R], ratio (0: window only), chosen [T, k] or None,
// rope dims of coded rows (-1: window and pool are bf16) → like q
FATHOM_METHOD(attend, 13) {
    const Tensor &q = tensor(a[0], at::kBFloat16), &window = any_tensor(a[1]);
    int64_t coded = number(a[12]);
    auto type = coded < 0 ? at::kBFloat16 : at::kByte;
    int64_t T = q.size(0), H = q.size(1), C = q.size(2), W = number(a[2]), R, rows = 0, ratio = number(a[10]), top_k = 0;
    const Run* run = runs(a[8], R);
    for (int64_t r = 0; r < R; r++) rows += smaller(run[r].start, W - 1) + run[r].length;
    int64_t width = coded < 0 ? C : entry_bytes(C, coded);
    require(window.scalar_type() == type && window.size(0) == rows && window.size(1) == width && C % 2 == 0 && C <= 1024 && tensor(a[3], at::kFloat).numel() == H, "shapes that don't belong together");
    Pages page{nullptr, nullptr, 0, 0};
    const void* pool = nullptr;
    const int64_t* chosen = ratio ? int64(a[11]) : nullptr;
    if (ratio) {
        pool = tensor(a[4], type).const_data_ptr();
        page = pages(a + 5, R);
        require(tensor(a[4], type).size(1) == width, "entries of another width");
    }
    if (chosen) top_k = tensor(a[11], at::kLong).size(1);
    const float* sink = fp32(a[3]);
    const int64_t* base = int64(a[9]);
    Tensor out = make(q.sizes(), at::kBFloat16);
    {
        Unlocked unlocked(T * H * C * W * 2);
        k.attend((const uint16_t*)q.const_data_ptr(), H, C, window.const_data_ptr(), W, sink, pool, coded, page, run, R, base, ratio, chosen, top_k,
                 (uint16_t*)out.data_ptr());
    }
    return THPVariable_Wrap(out);
}

// x [.., K] → its values rounded to E4M3
FATHOM_METHOD(quantise, 1) {
    const Tensor& x = tensor(a[0], at::kBFloat16);
    Tensor y = make(x.sizes(), at::kBFloat16);
    k.quantise((const uint16_t*)x.const_data_ptr(), x.numel() / x.size(-1), x.size(-1), (uint16_t*)y.data_ptr());
    return THPVariable_Wrap(y);
}

// x [n, C], rope dims → [n, bytes]
FATHOM_METHOD(encode_entries, 2) {
    const Tensor& x = tensor(a[0], at::kBFloat16);
    int64_t n = x.size(0), C = x.size(1), R = number(a[1]);
    require(x.dim() == 2 && R <= C, "x is [n, C]");
    Tensor y = make({n, entry_bytes(C, R)}, at::kByte);
    k.encode_entries((const uint16_t*)x.const_data_ptr(), n, C, R, (uint8_t*)y.data_ptr());
    return THPVariable_Wrap(y);
}

// x [n, C] → [n, bytes]
FATHOM_METHOD(encode_keys, 1) {
    const Tensor& x = tensor(a[0], at::kBFloat16);
    int64_t n = x.size(0), C = x.size(1);
    require(x.dim() == 2 && C <= 1024 && (C & (C - 1)) == 0, "x is [n, C], C a power of two");
    Tensor y = make({n, key_bytes(C)}, at::kByte);
    k.encode_keys((const uint16_t*)x.const_data_ptr(), n, C, (uint8_t*)y.data_ptr());
    return THPVariable_Wrap(y);
}

// x [.., C] → rotated and rounded to FP4
FATHOM_METHOD(index_queries, 1) {
    const Tensor& x = tensor(a[0], at::kBFloat16);
    int64_t C = x.size(-1);
    require(C <= 1024 && (C & (C - 1)) == 0, "C is a power of two");
    Tensor y = make(x.sizes(), at::kBFloat16);
    k.index_queries((const uint16_t*)x.const_data_ptr(), x.numel() / C, C, (uint16_t*)y.data_ptr());
    return THPVariable_Wrap(y);
}

PyMethodDef methods[] = {
#define FATHOM_ENTRY(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, nullptr}
    FATHOM_ENTRY(linear), FATHOM_ENTRY(linear_pair), FATHOM_ENTRY(linear_grouped), FATHOM_ENTRY(experts), FATHOM_ENTRY(experts_sum), FATHOM_ENTRY(route), FATHOM_ENTRY(rms_norm), FATHOM_ENTRY(norm_rope), FATHOM_ENTRY(mhc_mix),
    FATHOM_ENTRY(mhc_expand), FATHOM_ENTRY(remember), FATHOM_ENTRY(compress), FATHOM_ENTRY(index_topk), FATHOM_ENTRY(attend),
    FATHOM_ENTRY(quantise), FATHOM_ENTRY(encode_entries), FATHOM_ENTRY(encode_keys), FATHOM_ENTRY(index_queries),
    FATHOM_ENTRY(block), FATHOM_ENTRY(sight), FATHOM_ENTRY(run_blocks),
    {nullptr, nullptr, 0, nullptr}};

PyType_Slot slots[] = {{Py_tp_methods, methods}, {0, nullptr}};
PyType_Spec spec = {"fathom_native.Kernels", sizeof(Object), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

// kernels(name): the object of one instruction set, or None where the system refuses it.
PyObject* kernels(PyObject* module, PyObject* name) {
    const char* wanted = PyUnicode_AsUTF8(name);
    if (!wanted) return nullptr;
    const Table* table = nullptr;
    std::string isa(wanted);
#define FATHOM_CHOOSE(known) \
    if (isa == #known) table = fathom_table_##known();
    FATHOM_TABLES(FATHOM_CHOOSE)
#undef FATHOM_CHOOSE
    if (!table) Py_RETURN_NONE;
    PyObject* type = PyObject_GetAttrString(module, "Kernels");
    if (!type) return nullptr;
    Object* object = PyObject_New(Object, (PyTypeObject*)type);
    Py_DECREF(type);
    if (object) object->table = table;
    return (PyObject*)object;
}

PyMethodDef functions[] = {{"kernels", kernels, METH_O, nullptr}, {nullptr, nullptr, 0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "fathom_native", nullptr, -1, functions, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit_fathom_native() {
    PyObject* module = PyModule_Create(&definition);
    if (!module) return nullptr;
    PyObject* type = PyType_FromSpec(&spec);
    if (!type || PyModule_AddObject(module, "Kernels", type) < 0) {
        Py_DECREF(module);
        return nullptr;
    }
    return module;
}
