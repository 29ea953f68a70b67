// The mixture of experts of one layer: routed experts and the shared one, in one pass.
//
// Tokens are listed expert by expert; the shared expert is one more expert that has all tokens. With many tokens a job is a block of
// one expert's tokens through both of its matrices, so the activations never leave the cache. With few, all experts' panels are
// shared out instead, first those of gate and up, then those of down, so that every thread streams its share of the weights.
// Either way a token's output is the same: rounded rows of its experts, summed in fp32 in the order of its choices, the shared one last.
// The rows go to a buffer of the caller's and the sum is a step of its own, so that a model larger than memory can do its experts a few
// at a time.
//
// Source: SPEC section 2, MoE.
#pragma once
#include <omp.h>

#include "coding.h"
#include "packed.h"

namespace fathom {
namespace FATHOM_ISA {

constexpr int64_t FAR = 4 << 20;  // bytes

// Panels of w1 and w3 alternate: two neighbouring vectors are gate and up of the same 16 values. rounded: to bf16 before anything else.
FATHOM_INLINE void swiglu(bf16* h, int64_t I, int64_t panel, const vf* v, int n, float limit, float weight, bool rounded) {
    for (int i = 0; i + 1 < n; i += 2) {
        vf gate = rounded ? widen(narrow(v[i])) : v[i], up = rounded ? widen(narrow(v[i + 1])) : v[i + 1];
        gate = min(gate, splat(limit)), up = min(max(up, splat(-limit)), splat(limit));
        int64_t column = (panel + i) / 2 * LANES;
        store_some(h + column, gate * sigmoid(gate) * up * weight, I - column);
    }
}

struct Places {  // choices of all tokens, expert by expert
    int64_t* first;   // [E + 2] where each expert's rows begin
    int64_t* token;   // [rows]
    int64_t* slot;    // [rows] which of the token's choices
};

// Fills `places` for E routed experts and the shared one, as far as they are active.
static void arrange(const int64_t* chosen, int64_t T, int64_t K, int64_t E, const uint8_t* active, Places& places) {
    for (int64_t e = 0; e < E + 2; e++) places.first[e] = 0;
    for (int64_t i = 0; i < T * K; i++) places.first[chosen[i] + 1] += active[chosen[i]];
    places.first[E + 1] = active[E] ? T : 0;
    for (int64_t e = 0; e <= E; e++) places.first[e + 1] += places.first[e];
    int64_t* next = places.first;
    for (int64_t t = 0; t < T; t++)
        for (int64_t k = 0; k < K; k++)
            if (active[chosen[t * K + k]]) {
                int64_t row = next[chosen[t * K + k]]++;
                places.token[row] = t, places.slot[row] = k;
            }
    for (int64_t e = E; e > 0; e--) next[e] = next[e - 1];  // the ends have become the next one's beginnings
    next[0] = 0;
    for (int64_t row = next[E], t = 0; row < next[E + 1]; row++, t++) places.token[row] = t, places.slot[row] = K;
}

struct Blocks {  // of the rows of one job
    int rows[GROUP];
    int count;
};

static inline Blocks cut(int64_t n) {
    Blocks b;
    b.count = 0;
    for (int64_t r = 0; r < n; r += ROWS) b.rows[b.count++] = (int)smaller(ROWS, n - r);
    return b;
}

struct Experts {
    const bf16* x;
    int64_t T, D, I, K, E;
    const float* weights;
    const Weight *gate_up, *down;
    float limit;
    bool official;  // activations are rounded to E4M3 before either product, gate and up to bf16
    Places places;
    bf16* y;   // [T, K + 1, D]
    bool far;  // y is too large to be still in a cache when it is added up, and its rows are whole lines

    float weight(int64_t row) const { return places.slot[row] == K ? 1.f : weights[places.token[row] * K + places.slot[row]]; }

    // Rows of a block as the products want them. `prepared` has room for one more row behind them. rounded: to E4M3 before.
    template <class Row>
    void prepare(input* prepared, const Blocks& b, int64_t width, bool rounded, Row&& row) const {
        bf16* spare = (bf16*)(prepared + GROUP * ROWS * larger(padded(D), padded(I)));
        for (int i = 0; i < b.count; i++)
            for (int r = 0; r < b.rows[i]; r++) {
                const bf16* from = row(i * ROWS + r);
                if (rounded) quantise_row(spare, from, width), from = spare;
                prepare_row(prepared + i * ROWS * padded(width), r, b.rows[i], from, width);
            }
    }

    // Rows a … of `places`, all of one expert, through gate and up (panels p0 … p1) into h [rows][I].
    void up(int64_t expert, int64_t a, const Blocks& b, int64_t p0, int64_t p1, input* prepared, bf16* unpacked, bf16* h) const {
        prepare(prepared, b, D, false, [&](int row) { return x + places.token[a + row] * D; });
        panels(prepared, b.rows, b.count, gate_up[expert], p0, p1, unpacked,
               Outputs{[&](int row, int64_t panel, const vf* v, int n) __attribute__((always_inline)) {
                   swiglu(h + row * I, I, panel, v, n, limit, weight(a + row), official);
               }});
    }

    // And through down, to their places.
    void out(int64_t expert, int64_t a, const Blocks& b, int64_t p0, int64_t p1, input* prepared, bf16* unpacked, const bf16* h) const {
        prepare(prepared, b, I, official, [&](int row) { return h + row * I; });
        auto place = [&](int row, int64_t panel) { return y + (places.token[a + row] * (K + 1) + places.slot[a + row]) * D + panel * LANES; };
        panels(prepared, b.rows, b.count, down[expert], p0, p1, unpacked,
               Outputs{[&](int row, int64_t panel, const vf* v, int n) __attribute__((always_inline)) {
                           if (far && n == 2) stream_bf(place(row, panel), v[0], v[1]);
                           else store_some(place(row, panel), v, n, D - panel * LANES);
                       },
                       [&](int row, int64_t panel) __attribute__((always_inline)) { if (!far) __builtin_prefetch(place(row, panel), 1); }});
        if (far) streamed();
    }

    int64_t prepared_size() const { return (GROUP * ROWS + 1) * larger(padded(D), padded(I)); }
    int64_t unpacked_size() const {
        int64_t routed = larger(unpack_bytes(gate_up[0]), unpack_bytes(down[0])), shared = larger(unpack_bytes(gate_up[E]), unpack_bytes(down[E]));
        return larger(routed, shared) / sizeof(bf16);
    }

    void by_rows(int threads) const {
        int64_t size = GROUP * ROWS, jobs = 0;
        for (int64_t e = 0; e <= E; e++) jobs += ceil_div(places.first[e + 1] - places.first[e], size);
        int64_t* job = (int64_t*)fathom_scratch(CALL_TOO, 2 * jobs * sizeof(int64_t));  // (expert, first row)
        int64_t n = 0;
        for (int64_t e = E; e >= 0; e--)
            for (int64_t a = places.first[e]; a < places.first[e + 1]; a += size) job[2 * n] = e, job[2 * n + 1] = a, n++;
#pragma omp parallel num_threads(threads)
        {
            Tiles tiles;
#pragma omp for schedule(dynamic)
            for (int64_t j = 0; j < jobs; j++) {
                int64_t e = job[2 * j], a = job[2 * j + 1];
                Blocks b = cut(smaller(size, places.first[e + 1] - a));
                input* prepared = (input*)fathom_scratch(THREAD, prepared_size() * sizeof(input) + (unpacked_size() + size * I) * sizeof(bf16));
                bf16 *unpacked = (bf16*)(prepared + prepared_size()), *h = unpacked + unpacked_size();
                up(e, a, b, 0, panel_count(gate_up[e]), prepared, unpacked, h);
                out(e, a, b, 0, panel_count(down[e]), prepared, unpacked, h);
            }
        }
    }

    // Few tokens: every expert's rows fit one job. Panels are shared out in pieces of MAX_PANELS.
    void by_panels(int threads) const {
        int64_t rows = T * (K + 1), ups = ceil_div(panel_count(gate_up[0]), MAX_PANELS), downs = ceil_div(panel_count(down[0]), MAX_PANELS);
        int64_t* active = (int64_t*)fathom_scratch(CALL_TOO, (E + 1) * sizeof(int64_t) + rows * I * sizeof(bf16));
        bf16* h = (bf16*)(active + E + 1);
        int64_t n = 0;
        for (int64_t e = 0; e <= E; e++)
            if (places.first[e + 1] > places.first[e]) active[n++] = e;
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            Tiles tiles;
            input* prepared = (input*)fathom_scratch(THREAD, prepared_size() * sizeof(input) + unpacked_size() * sizeof(bf16));
            bf16* unpacked = (bf16*)(prepared + prepared_size());
#pragma omp for schedule(dynamic)
            for (int64_t j = 0; j < n * ups; j++) {
                int64_t e = active[j / ups], a = places.first[e], p = j % ups * MAX_PANELS;
                up(e, a, cut(places.first[e + 1] - a), p, smaller(p + MAX_PANELS, panel_count(gate_up[e])), prepared, unpacked, h + a * I);
            }
#pragma omp for schedule(dynamic)
            for (int64_t j = 0; j < n * downs; j++) {
                int64_t e = active[j / downs], a = places.first[e], p = j % downs * MAX_PANELS;
                out(e, a, cut(places.first[e + 1] - a), p, smaller(p + MAX_PANELS, panel_count(down[e])), prepared, unpacked, h + a * I);
            }
        }
    }
};

static void experts(const bf16* x, int64_t T, int64_t D, int64_t I, const float* weights, const int64_t* chosen, int64_t K, int64_t E,
                    const Weight* gate_up, const Weight* down, const uint8_t* active, float limit, bool official, bf16* rows) {
    int64_t most = T * (K + 1);
    int64_t* numbers = (int64_t*)fathom_scratch(CALL, (E + 2 + 2 * most) * sizeof(int64_t) + (official ? T * D * sizeof(bf16) : 0));
    if (official) {  // once, not for each of a token's experts
        bf16* rounded = (bf16*)(numbers + E + 2 + 2 * most);
        quantise(x, T, D, rounded);
        x = rounded;
    }
    bool far = T * (K + 1) * D * (int64_t)sizeof(bf16) > FAR && D % (2 * LANES) == 0 && (uintptr_t)rows % 64 == 0;
    Experts job{x, T, D, I, K, E, weights, gate_up, down, limit, official, {}, rows, far};
    job.places = {numbers, numbers + E + 2, numbers + E + 2 + most};
    arrange(chosen, T, K, E, active, job.places);
    int threads = omp_get_max_threads();
    if (T <= larger(ROWS, 8)) job.by_panels(threads);
    else job.by_rows(threads);
}

static void experts_sum(const bf16* rows, int64_t T, int64_t count, int64_t D, bf16* y) {
#pragma omp parallel for schedule(static) if (T * D * count > 1 << 15)
    for (int64_t t = 0; t < T; t++)
        by_lanes(D, [&](int64_t d, int64_t n) __attribute__((always_inline)) {
            vf total = vf{};
            for (int64_t k = 0; k < count; k++) total += load_some(rows + (t * count + k) * D + d, n);
            store_some(y + t * D + d, total, n);
        });
}

}  // namespace FATHOM_ISA
}  // namespace fathom
