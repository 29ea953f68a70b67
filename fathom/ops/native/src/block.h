// Transformer blocks of inference in one call: what model/block.py composes of operators, on weights and buffers
// that were checked once.
//
// For a decoded token the calls between operators cost more than many of the sums. `Block` knows a block's weights and its buffers in the
// paged state, `Sight` who sees what in a batch (for one compression ratio); `Forward` and run_blocks are the composition, with the same
// numbers; only between sublayers several operators go over the streams in one pass. Names and shapes are those of the checkpoint, of plan/layout.py and of model/geometry.py.
//
// Shapes: T tokens, N streams, D hidden, H heads, C head_dim, J index heads, K index head dim, W window, E experts, I their width.
#pragma once
#include <ATen/ops/cos.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/neg.h>
#include <ATen/ops/sin.h>

#include <memory>
#include <type_traits>

#include "arguments.h"

namespace {

// Named values of a dictionary, which outlives what is read from it.
struct Named {
    PyObject* values;
    explicit Named(PyObject* o) : values(o) { require(PyDict_Check(o), "named values are a dictionary"); }
    bool has(const char* name) const { return PyDict_GetItemString(values, name) != nullptr; }
    PyObject* operator[](const char* name) const {
        PyObject* o = PyDict_GetItemString(values, name);
        require(o != nullptr, name);
        return o;
    }
    PyObject* of(const std::string& prefix, const char* name) const { return (*this)[(prefix + name).c_str()]; }
};

Reading reading(const Named& n, const Named& w, const std::string& sublayer, int64_t N, int64_t D) {
    int64_t M = (2 + N) * N;
    Weight fn = weight(w.of("hc_" + sublayer, "_fn"));
    require(N <= 8 && fn.columns == N * D && fn.rows >= M && fn.rows % M == 0 && fn.format == fathom::BF16, "hc_fn is [parts·M, N·D]");
    PyObject *scale = w.of("hc_" + sublayer, "_scale"), *base = w.of("hc_" + sublayer, "_base");
    require(tensor(scale, at::kFloat).numel() == 3 && tensor(base, at::kFloat).numel() == M, "hc_scale is [3], hc_base [M]");
    return {fn, fp32(scale), fp32(base), norm_weight(w.of(sublayer, "_norm"), D), number(n["sinkhorn_steps"]), (float)real(n["norm_eps"]), (float)real(n["hc_eps"])};
}

struct Ring {  // [slots, length] rows of `width` bytes
    uint8_t* data;
    int64_t slots, length, width;
    explicit Ring(PyObject* o) {
        const Tensor& t = any_tensor(o);
        require(t.dim() >= 3 && t.numel() > 0, "a ring is [slots, rows, …]");
        data = (uint8_t*)t.data_ptr(), slots = t.size(0), length = t.size(1), width = t.nbytes() / (slots * length);
    }
};

struct Pool {  // [rows] of `width` bytes
    uint8_t* data;
    int64_t rows, width;
    explicit Pool(PyObject* o) {
        const Tensor& t = any_tensor(o);
        require(t.dim() == 2, "a pool is [rows, width]");
        data = (uint8_t*)t.data_ptr(), rows = t.size(0), width = t.size(1) * t.element_size();
    }
};

struct Compressor {
    Weight kv, gate;
    const float* ape;
    const uint16_t* norm;
    int64_t P, C;
    Ring tail;
    Pool pool;
    Compressor(const Named& w, const Named& buffers, const std::string& name, const std::string& part, int64_t D, int64_t C, int64_t ratio, bool overlap)
        : C(C), tail(buffers.of(part, "tail")), pool(buffers[part.empty() ? "entries" : "index_keys"]) {
        kv = weight(w.of(name, "wkv")), gate = weight(w.of(name, "wgate")), P = kv.rows;
        require(P == (overlap ? 2 * C : C) && gate.rows == P && kv.columns == D && gate.columns == D && tail.width == 8 * P, "a compressor of another size");
        require(tensor(w.of(name, "ape"), at::kFloat).numel() == ratio * P, "ape is [m, P]");
        ape = fp32(w.of(name, "ape")), norm = norm_weight(w.of(name, "norm"), C);
    }
};

struct Indexer {
    Weight queries, weights;
    int64_t J, K, top_k;
    float factor;
    Compressor keys;
    Indexer(const Named& n, const Named& w, const Named& buffers, int64_t D, int64_t L, int64_t ratio)
        : J(number(n["index_heads"])), K(number(n["index_head_dim"])), top_k(number(n["index_topk"])), factor((float)real(n["index_factor"])),
          keys(w, buffers, "attn.indexer.compressor.", "index_", D, K, ratio, true) {
        queries = weight(w["attn.indexer.wq_b"]), weights = weight(w["attn.indexer.weights_proj"]);
        require(K % 2 == 0 && K <= 1024 && queries.rows == J * K && queries.columns == L && weights.rows == J && weights.columns == D, "an indexer of another size");
    }
};

struct Block {
    int64_t N, D, H, C, rope, ratio, coded, K;
    bool official;
    float eps, factor, limit;
    Reading attn, ffn;
    Weight wq_a, wq_b, wkv, wo_b, router;
    Groups wo_a;
    const uint16_t *q_norm, *kv_norm;
    const float *sink, *bias = nullptr;
    const int64_t* by_token = nullptr;  // experts [vocabulary, K] where the token chooses them
    int64_t vocabulary = 0;
    Ring window;
    std::unique_ptr<Compressor> entries;
    std::unique_ptr<Indexer> indexer;
    Experts experts;
    std::vector<uint8_t> all;  // experts are active

    Block(const Named& n, const Named& w, const Named& buffers, PyObject* const* bank)
        : N(number(n["streams"])), D(number(n["hidden"])), H(number(n["heads"])), C(number(n["head_dim"])), rope(number(n["rope_dims"])),
          ratio(number(n["ratio"])), coded(number(n["coded"])), K(number(n["top_k"])), official(number(n["official"])),
          eps((float)real(n["norm_eps"])), factor((float)real(n["factor"])), limit((float)real(n["limit"])), attn(reading(n, w, "attn", N, D)),
          ffn(reading(n, w, "ffn", N, D)), wo_a(w["attn.wo_a"]), window(buffers["window"]), experts(bank, D, nullptr), all(experts.count + 1, 1) {
        bool overlap = number(n["overlap"]);
        wq_a = weight(w["attn.wq_a"]), wq_b = weight(w["attn.wq_b"]), wkv = weight(w["attn.wkv"]), wo_b = weight(w["attn.wo_b"]);
        router = weight(w["ffn.gate"]);
        require(rope <= C && (!overlap || rope <= number(n["index_head_dim"])), "more rope dims than a head has");
        require(C % 2 == 0 && C <= 1024 && wq_a.columns == D && wkv.columns == D && wkv.rows == C && wq_b.columns == wq_a.rows && wq_b.rows == H * C, "queries or keys of another size");
        require(wo_a.count * wo_a.first.columns == H * C && wo_b.columns == wo_a.count * wo_a.first.rows && wo_b.rows == D, "an output of another size");
        require(router.columns == D && router.rows == experts.count && K <= experts.count, "a router of another size");
        require(tensor(w["attn.attn_sink"], at::kFloat).numel() == H, "one sink a head");
        q_norm = norm_weight(w["attn.q_norm"], wq_a.rows), kv_norm = norm_weight(w["attn.kv_norm"], C), sink = fp32(w["attn.attn_sink"]);
        if (w.has("ffn.gate.tid2eid")) {
            const Tensor& table = tensor(w["ffn.gate.tid2eid"], at::kLong);
            require(table.dim() == 2 && table.size(1) == K, "tid2eid is [vocabulary, K]");
            by_token = experts_that_exist(table, experts.count), vocabulary = table.size(0);
        } else {
            require(tensor(w["ffn.gate.bias"], at::kFloat).numel() == experts.count, "one bias an expert");
            bias = fp32(w["ffn.gate.bias"]);
        }
        if (ratio) entries.reset(new Compressor(w, buffers, "attn.compressor.", "", D, C, ratio, overlap));
        if (overlap) indexer.reset(new Indexer(n, w, buffers, D, wq_a.rows, ratio));
        int64_t width = official ? entry_bytes(C, coded) : 2 * C;
        require(window.width == width && (!ratio || entries->pool.width == width), "buffers of another width");
        require(!indexer || !official || (indexer->K & (indexer->K - 1)) == 0, "index keys whose width is no power of two");
        require(!indexer || indexer->keys.pool.width == (official ? key_bytes(indexer->K) : 2 * indexer->K), "index keys of another width");
    }
};

// cos and sin at positions of tokens or entries, by the same functions that model/rope.py calls.
struct Rotation {
    Tensor cos, sin, back;
    Rotation() = default;
    Rotation(const std::vector<int64_t>& positions, const Tensor& frequency) {
        Tensor column = make({(int64_t)positions.size(), 1}, at::kFloat);
        float* out = (float*)column.data_ptr();
        for (size_t i = 0; i < positions.size(); i++) out[i] = (float)positions[i];
        Tensor angle = at::mul(column, frequency);
        cos = at::cos(angle), sin = at::sin(angle);
    }
};
const float* values(const Tensor& t) { return (const float*)t.const_data_ptr(); }

// Who sees what in a batch, as model/geometry.py has it without marks; for blocks of one ratio.
struct Sight {
    const Run* runs;
    int64_t R, T = 0, W, ratio, rope, slots = 0;
    std::vector<int64_t> history, waiting, base;  // [R] window rows and waiting tokens before each run; its first entry
    int64_t window_rows = 0, tail_rows = 0, most_waiting = 0;
    Rotation tokens, entries;
    Pages pages{nullptr, nullptr, 0, 0};
    int64_t made = 0, highest = -1;             // new entries; the last pool row that one of them goes to
    std::vector<int64_t> own, previous, place;  // [made, ratio] rows of their windows; [made]

    // runs [R, 4], known [R], window, ratio, whether windows overlap, frequencies [R/2], block tables [R, width] or None, entries a block
    Sight(PyObject* const* a, const Sight* same) {
        const Tensor& frequency = tensor(a[5], at::kFloat);
        runs = ::runs(a[0], R), W = number(a[2]), ratio = number(a[3]), rope = 2 * frequency.numel();
        std::vector<int64_t> positions;
        for (int64_t r = 0; r < R; r++) {
            const Run& run = runs[r];
            require(run.slot >= 0 && run.start >= 0 && run.first == T && run.length > 0, "runs that don't follow one another");
            history.push_back(smaller(W - 1, run.start));
            T += run.length, window_rows += history[r] + run.length, slots = larger(slots, run.slot + 1);
            for (int64_t i = 0; i < run.length; i++) positions.push_back(run.start + i);
        }
        require(!same || (same->T == T && same->rope == rope), "a Sight of other tokens");
        tokens = same ? same->tokens : Rotation(positions, frequency);
        if (!same) tokens.back = at::neg(tokens.sin);
        if (ratio) see_entries(a, frequency);
    }

    void see_entries(PyObject* const* a, const Tensor& frequency) {
        require(tensor(a[1], at::kLong).numel() == R, "one number of known tokens a run");
        const Tensor& table = tensor(a[6], at::kInt);
        require(table.dim() == 2 && table.size(0) == R, "a block table is [R, width]");
        const int64_t* known = int64(a[1]);
        bool overlap = number(a[4]);
        pages.table = (const int32_t*)table.const_data_ptr(), pages.width = table.size(1), pages.per_block = number(a[7]);
        require(pages.per_block > 0, "blocks without entries");
        std::vector<int64_t> positions;
        int64_t visible = 0;
        for (int64_t r = 0; r < R; r++) {
            const Run& run = runs[r];
            int64_t stop = run.start + run.length, begin = smaller(larger(known[r], run.start), stop) / ratio, count = stop / ratio - begin;
            require(stop / ratio <= pages.width * pages.per_block, "a block table that is too short");
            waiting.push_back(count ? larger(0, run.start - larger(0, begin - overlap) * ratio) : 0);
            base.push_back(visible);
            visible += stop / ratio;
            int64_t row = tail_rows - (run.start - waiting[r]);  // of position 0, if it were there
            for (int64_t e = begin; e < begin + count; e++) {
                int64_t position = e * ratio, at_ = (int64_t)pages.table[r * pages.width + e / pages.per_block] * pages.per_block + e % pages.per_block;
                require(at_ >= 0, "an entry without a place");
                positions.push_back(position), place.push_back(at_), highest = larger(highest, at_);
                for (int64_t i = 0; i < ratio; i++) {
                    own.push_back(row + position + i);
                    if (overlap) previous.push_back(position < ratio ? -1 : row + position - ratio + i);
                }
            }
            tail_rows += waiting[r] + run.length, most_waiting = larger(most_waiting, waiting[r]);
        }
        pages.base = base.data();
        if ((made = (int64_t)positions.size())) entries = Rotation(positions, frequency);
    }

    void fits(const Block& b) const {
        auto ring = [&](const Ring& r, int64_t most) { require(slots <= r.slots && most <= r.length, "a run outside its ring"); };
        require(ratio == b.ratio && rope == b.rope, "a batch of another ratio");
        ring(b.window, W - 1);
        if (ratio) ring(b.entries->tail, most_waiting), require(highest < b.entries->pool.rows, "an entry outside its pool");
        if (b.indexer) ring(b.indexer->keys.tail, most_waiting), require(highest < b.indexer->keys.pool.rows && previous.size() == own.size(), "a key outside its pool");
    }
};

// Memory for one call: small things lie in a buffer that stays, and stays near. What was taken in a Scope is free after it.
class Room {
    static constexpr int64_t NEAR = 1 << 18;
    alignas(64) static thread_local uint8_t near[NEAR];
    int64_t used = 0;
    std::vector<Tensor> far;

public:
    template <class Value>
    Value* take(int64_t count) {
        int64_t bytes = (count * (int64_t)sizeof(Value) + 63) / 64 * 64;
        if (used + bytes <= NEAR) return (Value*)(near + (used += bytes) - bytes);
        far.push_back(make({bytes}, at::kByte));
        return (Value*)far.back().data_ptr();
    }

    class Scope {
        Room& room;
        int64_t used;
        size_t far;

    public:
        explicit Scope(Room& room) : room(room), used(room.used), far(room.far.size()) {}
        ~Scope() { room.used = used, room.far.resize(far); }
    };
};
alignas(64) thread_local uint8_t Room::near[Room::NEAR];

struct Forward {  // of one block's sublayers on one batch
    const Table& k;
    Room& room;
    const Block& b;
    const Sight& s;
    int64_t T = s.T;
    const float *cos = values(s.tokens.cos), *sin = values(s.tokens.sin);

    uint16_t* vectors(int64_t width) { return room.take<uint16_t>(T * width); }

    // What a product with a stored matrix takes: x itself, or (official) rounded to E4M3.
    const uint16_t* taken(const uint16_t* x, int64_t width) {
        if (!b.official) return x;
        uint16_t* rounded = vectors(width);
        k.quantise(x, T, width, rounded);
        return rounded;
    }

    Product product(const uint16_t* x, const Weight& w, void* y, bool fp32 = false) const { return {x, w.columns, w, y, w.rows, fp32}; }
    void multiply(const std::vector<Product>& all) { k.linears(all.data(), (int64_t)all.size(), T); }

    // What a compressor takes of tokens, [T, 2, P]: two more products.
    float* project(const Compressor& c, const uint16_t* h, std::vector<Product>& all) {
        float* y = room.take<float>(T * 2 * c.P);
        all.push_back({h, b.D, c.kv, y, 2 * c.P, true});
        all.push_back({h, b.D, c.gate, y + c.P, 2 * c.P, true});
        return y;
    }

    // Waiting tokens and these; entries of the windows that became complete go to their places.
    template <class Encode>
    void compress(const Compressor& c, const float* projected, Encode&& encode) {
        Room::Scope scope(room);
        float* rows = room.take<float>(s.tail_rows * 2 * c.P);
        k.remember(c.tail.data, c.tail.length, c.tail.width, (const uint8_t*)projected, s.runs, s.waiting.data(), s.R, (uint8_t*)rows);
        if (!s.made) return;
        uint16_t* fresh = room.take<uint16_t>(s.made * c.C);
        k.compress(rows, c.P, c.ape, s.own.data(), c.P > c.C ? s.previous.data() : nullptr, s.made, s.ratio, c.C, c.norm, b.eps, values(s.entries.cos),
                   values(s.entries.sin), s.rope, b.official, fresh);
        const uint8_t* coded = (const uint8_t*)fresh;
        if (b.official) {
            uint8_t* bytes = room.take<uint8_t>(s.made * c.pool.width);
            encode(fresh, bytes);
            coded = bytes;
        }
        for (int64_t i = 0; i < s.made; i++) memcpy(c.pool.data + s.place[i] * c.pool.width, coded + i * c.pool.width, c.pool.width);
    }

    // The best entries of each token, [T, top_k], by index queries [T, J, K] before their rotation, and head weights [T, J].
    void choose(const Indexer& x, uint16_t* wide, float* w, int64_t* chosen) {
        Room::Scope scope(room);
        uint16_t* q = vectors(x.J * x.K);
        k.norm_rope(wide, T, x.J, x.K, nullptr, -1, cos, sin, s.rope, false, q);
        if (b.official) k.index_queries(q, T * x.J, x.K, wide), q = wide;
        for (int64_t i = 0; i < T * x.J; i++) w[i] *= x.factor;
        k.index_topk(q, w, x.J, x.K, x.keys.pool.data, b.official, s.pages, s.runs, s.R, s.base.data(), s.ratio, x.top_k, chosen);
    }

    void attention(const uint16_t* h, uint16_t* out) {
        Room::Scope scope(room);
        const Compressor* e = b.entries.get();
        const Indexer* x = b.indexer.get();
        int64_t L = b.wq_a.rows, HC = b.H * b.C, width = b.window.width;
        uint16_t *latent = vectors(L), *c_q = vectors(L), *kv_raw = vectors(b.C), *kv = vectors(b.C), *one = vectors(HC), *other = vectors(HC);
        uint16_t* index_q = x ? vectors(x->J * x->K) : nullptr;
        float* index_w = x ? room.take<float>(T * x->J) : nullptr;

        const uint16_t* rounded = taken(h, b.D);
        std::vector<Product> first{product(rounded, b.wq_a, latent), product(rounded, b.wkv, kv_raw)};
        float *projected = e ? project(*e, h, first) : nullptr, *projected_keys = x ? project(x->keys, h, first) : nullptr;
        if (x) first.push_back(product(h, x->weights, index_w, true));
        multiply(first);
        k.rms_norm(latent, T, L, b.q_norm, b.eps, c_q);
        const uint16_t* rounded_q = taken(c_q, L);
        std::vector<Product> second{product(rounded_q, b.wq_b, one)};
        if (x) second.push_back(product(rounded_q, x->queries, index_q));
        multiply(second);
        k.norm_rope(one, T, b.H, b.C, nullptr, b.eps, cos, sin, s.rope, b.official, other);
        k.norm_rope(kv_raw, T, 1, b.C, b.kv_norm, b.eps, cos, sin, s.rope, b.official, kv);

        const uint8_t* coded = (const uint8_t*)kv;
        if (b.official) {
            uint8_t* bytes = room.take<uint8_t>(T * width);
            k.encode_entries(kv, T, b.C, b.coded, bytes);
            coded = bytes;
        }
        uint8_t* window = room.take<uint8_t>(s.window_rows * width);
        k.remember(b.window.data, b.window.length, width, coded, s.runs, s.history.data(), s.R, window);
        if (e) compress(*e, projected, [&](const uint16_t* fresh, uint8_t* bytes) { k.encode_entries(fresh, s.made, b.C, b.coded, bytes); });
        if (x) compress(x->keys, projected_keys, [&](const uint16_t* fresh, uint8_t* bytes) { k.encode_keys(fresh, s.made, x->K, bytes); });
        int64_t* chosen = x ? room.take<int64_t>(T * x->top_k) : nullptr;
        if (x) choose(*x, index_q, index_w, chosen);
        k.attend(other, b.H, b.C, window, s.W, b.sink, e ? e->pool.data : nullptr, b.coded, s.pages, s.runs, s.R, s.base.data(), s.ratio, chosen,
                 x ? x->top_k : 0, one);

        k.norm_rope(one, T, b.H, b.C, nullptr, -1, cos, values(s.tokens.back), s.rope, false, other);
        uint16_t* grouped = vectors(b.wo_b.columns);
        multiply(b.wo_a.products(other, grouped));
        multiply({product(taken(grouped, b.wo_b.columns), b.wo_b, out)});
    }

    // scores [T, E], chosen [T, K]: what the router does; rows [T, K + 1, D], which add up to the output.
    void moe(const uint16_t* h, const int64_t* ids, float* scores, int64_t* chosen, uint16_t* rows) {
        Room::Scope scope(room);
        int64_t E = b.experts.count, *given = b.by_token ? room.take<int64_t>(T * b.K) : nullptr;
        for (int64_t t = 0; given && t < T; t++) memcpy(given + t * b.K, b.by_token + ids[t] * b.K, b.K * sizeof(int64_t));
        float *logits = room.take<float>(T * E), *weights = room.take<float>(T * b.K);
        multiply({product(h, b.router, logits, true)});
        k.route(logits, T, E, b.bias, given, b.K, b.factor, scores, weights, chosen);
        k.experts(h, T, b.D, b.experts.width, weights, chosen, b.K, E, b.experts.up.data(), b.experts.down.data(), b.all.data(), b.limit, b.official, rows);
    }
};

// An object of ours in Python's hands, with what its pointers point into.
template <class Held>
struct Kept {
    Held value;
    PyObject* source;

    static constexpr const char* NAME = std::is_same_v<Held, Block> ? "fathom.Block" : "fathom.Sight";
    static void drop(PyObject* capsule) {
        auto* kept = (Kept*)PyCapsule_GetPointer(capsule, NAME);
        Py_DECREF(kept->source);
        delete kept;
    }
    static PyObject* wrap(Held&& value, PyObject* source) {
        Py_INCREF(source);
        return PyCapsule_New(new Kept{std::move(value), source}, NAME, drop);
    }
    static const Held& get(PyObject* capsule) {
        auto* kept = (Kept*)PyCapsule_GetPointer(capsule, NAME);
        require(kept != nullptr, NAME);
        return kept->value;
    }
};

// (numbers, weights, buffers, bank's addresses, width, formats ×2), a tuple that is kept → a Block
FATHOM_METHOD(block, 1) {
    require(PyTuple_Check(a[0]) && PyTuple_GET_SIZE(a[0]) == 7, "a block is numbers, weights, buffers and four of its bank");
    PyObject* const* all = &PyTuple_GET_ITEM(a[0], 0);
    return Kept<Block>::wrap(Block(Named(all[0]), Named(all[1]), Named(all[2]), all + 3), a[0]);
}

// A tuple of what the constructor says, which is kept; a Sight of the same tokens and frequencies, or None → a Sight
FATHOM_METHOD(sight, 2) {
    require(PyTuple_Check(a[0]) && PyTuple_GET_SIZE(a[0]) == 8, "who sees what is told by eight values");
    return Kept<Sight>::wrap(Sight(&PyTuple_GET_ITEM(a[0], 0), a[1] == Py_None ? nullptr : &Kept<Sight>::get(a[1])), a[0]);
}

// Blocks (a tuple), the Sight of each (a tuple), X [T, N, D] (changed in place), token ids [T], rows [T, K + 1, D] to work in → (router scores
// [blocks, T, E], experts [blocks, T, K])
FATHOM_METHOD(run_blocks, 5) {
    require(PyTuple_Check(a[0]) && PyTuple_Check(a[1]) && PyTuple_GET_SIZE(a[0]) == PyTuple_GET_SIZE(a[1]) && PyTuple_GET_SIZE(a[0]) > 0, "a Sight for each Block");
    const Tensor &X = tensor(a[2], at::kBFloat16), &ids = tensor(a[3], at::kLong), &rows = tensor(a[4], at::kBFloat16);
    int64_t count = PyTuple_GET_SIZE(a[0]), T = X.size(0);
    std::vector<std::pair<const Block*, const Sight*>> all;
    const int64_t* list = (const int64_t*)ids.const_data_ptr();
    for (int64_t i = 0; i < count; i++) {
        const Block& b = Kept<Block>::get(PyTuple_GET_ITEM(a[0], i));
        const Sight& s = Kept<Sight>::get(PyTuple_GET_ITEM(a[1], i));
        s.fits(b);
        require(X.dim() == 3 && T == s.T && X.size(1) == b.N && X.size(2) == b.D && ids.numel() == T, "X is [T, N, D], with T token ids");
        require(rows.numel() == T * (b.K + 1) * b.D, "rows are [T, K + 1, D]");
        for (int64_t t = 0; b.by_token && t < T; t++) require(list[t] >= 0 && list[t] < b.vocabulary, "a token that doesn't exist");
        all.emplace_back(&b, &s);
    }
    const Block& first = *all[0].first;
    int64_t E = first.experts.count, K = first.K;
    for (auto& [b, s] : all) require(b->experts.count == E && b->K == K, "blocks of different routers");
    Tensor scores = make({count, T, E}, at::kFloat), chosen = make({count, T, K}, at::kLong);
    {
        Unlocked unlocked(T * first.D * (first.experts.width * 3 * K + first.H * first.C));
        int64_t N = first.N, D = first.D;
        Room room;
        float *post = room.take<float>(T * N), *comb = room.take<float>(T * N * N);
        uint16_t *h = room.take<uint16_t>(T * D), *out = room.take<uint16_t>(T * D), *streams = (uint16_t*)X.data_ptr(), *written = nullptr;
        for (int64_t i = 0; i < count; i++) {
            const Block& b = *all[i].first;
            Forward forward{k, room, b, *all[i].second};
            k.mhc_turn(streams, T, N, D, written, K + 1, &b.attn, h, post, comb);
            forward.attention(h, out);
            k.mhc_turn(streams, T, N, D, out, 1, &b.ffn, h, post, comb);
            forward.moe(h, list, (float*)scores.data_ptr() + i * T * E, (int64_t*)chosen.data_ptr() + i * T * K, written = out16(rows));
        }
        k.mhc_turn(streams, T, N, D, written, K + 1, nullptr, h, post, comb);
    }
    PyObject* two = PyTuple_New(2);
    PyTuple_SET_ITEM(two, 0, THPVariable_Wrap(scores));
    PyTuple_SET_ITEM(two, 1, THPVariable_Wrap(chosen));
    return two;
}

}  // namespace
