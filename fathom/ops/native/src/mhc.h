// Manifold-constrained hyper-connections: mixing N streams into a sublayer's input, and writing its output back.
//
// The mixing coefficients are a product of all streams of a token with fn, in fp32. fn comes split into bf16 parts (what bf16 keeps of it,
// what bf16 keeps of the rest, …), whose rows are groups of outputs of the one packed product: two parts are 16 significant bits, three are
// fp32, at the speed of bf16. The forty normalisations work on 16 tokens at a time, one token a lane.
//
// Shapes: T tokens, N streams, D hidden size, M = (2 + N)·N coefficients (N for the head's mix).
// Source: SPEC section 2, streams; technical report §2.2.
#pragma once
#include <omp.h>

#include "linear.h"
#include "norm.h"

namespace fathom {
namespace FATHOM_ISA {

constexpr int MAX_STREAMS = 8;
constexpr int TILE = 48;  // tokens of a piece of work: a multiple of 16 and of 12

template <int N>
FATHOM_INLINE void sinkhorn_fixed(vf* m, int64_t steps, float eps) {
    vf c[N * N];
    for (int i = 0; i < N * N; i++) c[i] = m[i];
    for (int64_t step = 0; step < 2 * steps - 1; step++) {
        bool columns = step % 2 == 0;
        for (int a = 0; a < N; a++) {
            vf total = splat(0);
            for (int b = 0; b < N; b++) total += columns ? c[b * N + a] : c[a * N + b];
            vf inverse = 1.f / (total + eps);
            for (int b = 0; b < N; b++) (columns ? c[b * N + a] : c[a * N + b]) *= inverse;
        }
    }
    for (int i = 0; i < N * N; i++) m[i] = c[i];
}

// Rows by softmax and eps, then columns, rows, columns …; [N·N] vectors of 16 tokens each.
static inline void sinkhorn(vf* m, int64_t N, int64_t steps, float eps) {
    for (int64_t i = 0; i < N; i++) {
        vf top = m[i * N], total = splat(0);
        for (int64_t j = 1; j < N; j++) top = max(top, m[i * N + j]);
        for (int64_t j = 0; j < N; j++) total += m[i * N + j] = exp(m[i * N + j] - top);
        for (int64_t j = 0; j < N; j++) m[i * N + j] = m[i * N + j] / total + eps;
    }
    switch (N) {
        case 1: return sinkhorn_fixed<1>(m, steps, eps);
        case 2: return sinkhorn_fixed<2>(m, steps, eps);
        case 3: return sinkhorn_fixed<3>(m, steps, eps);
        case 4: return sinkhorn_fixed<4>(m, steps, eps);
        case 5: return sinkhorn_fixed<5>(m, steps, eps);
        case 6: return sinkhorn_fixed<6>(m, steps, eps);
        case 7: return sinkhorn_fixed<7>(m, steps, eps);
        case 8: return sinkhorn_fixed<8>(m, steps, eps);
    }
}

struct Mix {
    const bf16* X;
    int64_t T, N, D;
    Weight fn;
    const float *scale, *base;
    int64_t steps;
    float norm_eps, eps;
    bf16* h;
    float *post, *comb;

    // Tokens t0 … t0 + count, at most TILE, by their products with fn: [count][stride].
    void tile(int64_t t0, int64_t count, const float* product, int64_t stride, float* room) const {
        bool head = post == nullptr;
        int64_t width = N * D, M = head ? N : (2 + N) * N;
        float *mix = room, *inverse = room + M * TILE;  // [M][TILE], [TILE]
        for (int64_t i = 0; i < ceil_div(count, LANES) * LANES; i++) {
            inverse[i] = 0;
            if (i >= count) {
                for (int64_t j = 0; j < M; j++) mix[j * TILE + i] = 0;
                continue;
            }
            inverse[i] = inverse_rms(X + (t0 + i) * width, width, norm_eps);
            for (int64_t j = 0; j < M; j++) {
                float total = product[i * stride + j];
                for (int64_t rest = M; rest < fn.rows; rest += M) total += product[i * stride + rest + j];
                mix[j * TILE + i] = total * inverse[i];
            }
        }
        for (int64_t i = 0; i < count; i += LANES) {
            int64_t some = smaller(LANES, count - i);
            vf m[MAX_STREAMS * MAX_STREAMS];
            for (int64_t j = 0; j < N; j++) {
                vf pre = sigmoid(load(mix + j * TILE + i) * scale[0] + base[j]) + eps;
                store(mix + j * TILE + i, pre);
                if (head) continue;
                vf p = 2.f * sigmoid(load(mix + (N + j) * TILE + i) * scale[1] + base[N + j]);
                for (int64_t s = 0; s < some; s++) post[(t0 + i + s) * N + j] = p[s];
            }
            if (head) continue;
            for (int64_t j = 0; j < N * N; j++) m[j] = load(mix + (2 * N + j) * TILE + i) * scale[2] + base[2 * N + j];
            sinkhorn(m, N, steps, eps);
            for (int64_t j = 0; j < N * N; j++)
                for (int64_t s = 0; s < some; s++) comb[(t0 + i + s) * N * N + j] = m[j][s];
        }
        switch (N) {
#define FATHOM_CASE(S) case S: mixed<S>(t0, count, mix); break;
            FATHOM_CASE(1) FATHOM_CASE(2) FATHOM_CASE(3) FATHOM_CASE(4) FATHOM_CASE(5) FATHOM_CASE(6) FATHOM_CASE(7) FATHOM_CASE(8)
#undef FATHOM_CASE
        }
    }

    // h of tokens t0 … t0 + count: S streams by their weights [S][TILE].
    template <int S>
    void mixed(int64_t t0, int64_t count, const float* weights) const {
        for (int64_t i = 0; i < count; i++) {
            const bf16* from = X + (t0 + i) * S * D;
            vf weight[S];
            for (int j = 0; j < S; j++) weight[j] = splat(weights[j * TILE + i]);
            by_lanes(D, [&](int64_t d, int64_t n) __attribute__((always_inline)) {
                vf total = vf{};
                for (int j = 0; j < S; j++) total = fma(weight[j], load_some(from + j * D + d, n), total);
                store_some(h + (t0 + i) * D + d, total, n);
            });
        }
    }

    // The product of some tokens on the calling thread, then the rest.
    void product_and_tile(int64_t t0, int64_t count) const {
        int64_t width = N * D, K = padded(width), wide = panel_count(fn) * LANES;
        constexpr int BLOCKS = (TILE + ROWS - 1) / ROWS;
        input* a = (input*)fathom_scratch(THREAD, BLOCKS * ROWS * K * sizeof(input) + (BLOCKS * ROWS * wide + (fn.rows + 1) * TILE) * sizeof(float));
        float* product = (float*)(a + BLOCKS * ROWS * K);  // [rows][wide]
        int rows[BLOCKS], blocks = 0;
        for (int64_t r = 0; r < count; r += ROWS, blocks++) {
            rows[blocks] = (int)smaller(ROWS, count - r);
            for (int i = 0; i < rows[blocks]; i++) prepare_row(a + blocks * ROWS * K, i, rows[blocks], X + (t0 + r + i) * width, width);
        }
        panels(a, rows, blocks, fn, 0, panel_count(fn), nullptr, Outputs{[&](int row, int64_t panel, const vf* v, int n) __attribute__((always_inline)) {
            for (int i = 0; i < n; i++) store(product + row * wide + (panel + i) * LANES, v[i]);
        }});
        tile(t0, count, product, wide, product + BLOCKS * ROWS * wide);
    }
};

// Tokens whose stream coefficients are worked out at once, where several threads take part.
static int64_t tile_size(int64_t T) { return larger(2, smaller(TILE, ceil_div(T, omp_get_max_threads()))); }

// Of so few tokens what counts is reading fn, which the threads share.
constexpr int64_t FEW = 4;
static void mix_few(const Mix& mix) {
    float* room = (float*)fathom_scratch(CALL, (mix.T * mix.fn.rows + (mix.fn.rows + 1) * TILE) * sizeof(float));
    Product all{mix.X, mix.N * mix.D, mix.fn, room, mix.fn.rows, true};
    linears(&all, 1, mix.T);
    mix.tile(0, mix.T, room, mix.fn.rows, room + mix.T * mix.fn.rows);
}

static void mhc_mix(const bf16* X, int64_t T, int64_t N, int64_t D, Weight fn, const float* scale, const float* base, int64_t steps, float norm_eps,
                    float eps, bf16* h, float* post, float* comb) {
    Mix mix{X, T, N, D, fn, scale, base, steps, norm_eps, eps, h, post, comb};
    if (T < FEW) return mix_few(mix);
    int64_t size = tile_size(T);
#pragma omp parallel
    {
        Tiles tiles;
#pragma omp for schedule(dynamic)
        for (int64_t t0 = 0; t0 < T; t0 += size) mix.product_and_tile(t0, smaller(size, T - t0));
    }
}

// Streams [N, D] of a token, when a sublayer has written rows [count, D]: their sum, rounded to bf16, goes in. Y may be X.
template <int N>
FATHOM_INLINE void expand_fixed(const bf16* X, const bf16* rows, int64_t count, const float* post, const float* comb, int64_t D, bf16* Y) {
    vf own[N], other[N][N];
    for (int k = 0; k < N; k++) {
        own[k] = splat(post[k]);
        for (int j = 0; j < N; j++) other[j][k] = splat(comb[j * N + k]);
    }
    by_lanes(D, [&](int64_t d, int64_t n) __attribute__((always_inline)) {
        if (d % (2 * LANES) == 0) {  // the next token's lines: so many rows at once are more than processors foresee
            for (int64_t i = 0; i < count; i++) __builtin_prefetch(rows + (count + i) * D + d);
            for (int j = 0; j < N; j++) __builtin_prefetch(X + (N + j) * D + d, 1);
        }
        vf x[N], o = load_some(rows + d, n);
        if (count > 1) {
            o = vf{} + o;
            for (int64_t i = 1; i < count; i++) o += load_some(rows + i * D + d, n);
            o = widen(narrow(o));
        }
        for (int j = 0; j < N; j++) x[j] = load_some(X + j * D + d, n);
        for (int k = 0; k < N; k++) {
            vf y = o * own[k];
            for (int j = 0; j < N; j++) y = fma(x[j], other[j][k], y);
            store_some(Y + k * D + d, y, n);
        }
    });
}

static inline void expand(const bf16* X, const bf16* rows, int64_t count, const float* post, const float* comb, int64_t N, int64_t D, bf16* Y) {
    switch (N) {
        case 1: return expand_fixed<1>(X, rows, count, post, comb, D, Y);
        case 2: return expand_fixed<2>(X, rows, count, post, comb, D, Y);
        case 3: return expand_fixed<3>(X, rows, count, post, comb, D, Y);
        case 4: return expand_fixed<4>(X, rows, count, post, comb, D, Y);
        case 5: return expand_fixed<5>(X, rows, count, post, comb, D, Y);
        case 6: return expand_fixed<6>(X, rows, count, post, comb, D, Y);
        case 7: return expand_fixed<7>(X, rows, count, post, comb, D, Y);
        case 8: return expand_fixed<8>(X, rows, count, post, comb, D, Y);
    }
}

// Y may be X.
static void mhc_expand(const bf16* X, const bf16* out, const float* post, const float* comb, int64_t T, int64_t N, int64_t D, bf16* Y) {
#pragma omp parallel for schedule(static) if (T * N * D > SMALL)
    for (int64_t t = 0; t < T; t++) expand(X + t * N * D, out + t * D, 1, post + t * N, comb + t * N * N, N, D, Y + t * N * D);
}

static void mhc_turn(bf16* X, int64_t T, int64_t N, int64_t D, const bf16* rows, int64_t count, const Reading* next, bf16* h, float* post, float* comb) {
    Mix mix{X, T, N, D, {}, nullptr, nullptr, 0, 0, 0, h, post, comb};
    if (next) mix = {X, T, N, D, next->fn, next->scale, next->base, next->steps, next->norm_eps, next->eps, h, post, comb};
    auto write = [&](int64_t t0, int64_t t1) {
        for (int64_t t = t0; rows && t < t1; t++) expand(X + t * N * D, rows + t * count * D, count, post + t * N, comb + t * N * N, N, D, X + t * N * D);
    };
    auto norm = [&](int64_t t0, int64_t t1) {
        for (int64_t t = t0; t < t1; t++) norm_row(h + t * D, D, next->norm, next->norm_eps, h + t * D);
    };
    if (T < FEW) {
        write(0, T);
        if (next) mix_few(mix), norm(0, T);
        return;
    }
    int64_t size = tile_size(T);
#pragma omp parallel
    {
        Tiles tiles;
#pragma omp for schedule(dynamic)
        for (int64_t t0 = 0; t0 < T; t0 += size) {
            int64_t t1 = smaller(T, t0 + size);
            write(t0, t1);
            if (next) mix.product_and_tile(t0, t1 - t0), norm(t0, t1);
        }
    }
}

}  // namespace FATHOM_ISA
}  // namespace fathom
