// The one matrix product. Weights lie in panels of 16 output rows; a product of any number of input rows goes through `panels`.
//
// A panel holds, for each pair of columns, the 16 rows' pairs side by side: [K/2][16][2] bf16, K padded to a multiple of 32. That is
// what a vector instruction wants (16 outputs at once, one input pair for all) and what an AMX tile wants. Every output is one chain of
// additions along K, in the same order whatever the number of rows, so a token's result doesn't depend on the batch around it.
//
// FP8 and FP4 weights keep the same order of values; a few panels at a time, or a few of their columns, are spelled out in bf16 (exactly:
// their values have few bits and their scales are powers of two) just before they are used.
#pragma once
#include "scratch.h"
#include "simd.h"
#include "table.h"
#include "tiles.h"
#include "unpack.h"

namespace fathom {
namespace FATHOM_ISA {

// ROWS: input rows of one block. They and the panels that they meet at once (`at_once`) fill the registers and don't overflow them; where
// registers are few, a product goes over its panels in turns.
#if defined(FATHOM_TILES)
constexpr int ROWS = 32;
#elif defined(__AVX512F__)
constexpr int ROWS = 12;  // 32 registers, a vector in each
#elif defined(__AVX2__)
constexpr int ROWS = 6;  // 16 registers, half a vector in each
#elif defined(__aarch64__)
constexpr int ROWS = 4;  // 32 registers, a quarter of a vector in each
#else
constexpr int ROWS = 2;  // 16 registers, a quarter of a vector in each
#endif
constexpr bool WIDE = ROWS > 6;
constexpr int MAX_PANELS = WIDE ? 8 : 4;
constexpr int GROUP = WIDE ? 8 : 96 / ROWS;  // blocks of rows that share one pass over the weights

FATHOM_INLINE int64_t padded(int64_t columns) { return ceil_div(columns, 32) * 32; }
FATHOM_INLINE int64_t panel_size(int64_t columns) { return padded(columns) * LANES; }  // in values
FATHOM_INLINE int64_t panel_count(const Weight& w) { return ceil_div(w.rows, LANES); }

// How many panels a block of `rows` rows takes at once: many when rows are few, to have enough independent chains of additions.
constexpr int at_once(int rows) {
#if defined(FATHOM_TILES)
    return rows <= TILE_ROWS ? 8 : 2;
#else
    return WIDE ? (rows <= 2 ? 8 : rows <= 4 ? 4 : 2) : (rows == 1 && NATIVE > 4 ? 4 : 2);
#endif
}

// Input rows laid out for `panels`: pairs of all rows side by side, [K/2][rows][2]; with tiles, tile after tile, [2][K/32][16][32]. `buffer`
// holds ROWS·K values.
FATHOM_INLINE void prepare_row(input* buffer, int row, [[maybe_unused]] int rows, const bf16* x, int64_t columns) {
    int64_t K = padded(columns);
#if defined(FATHOM_TILES)
    bf16* out = buffer + row / TILE_ROWS * TILE_ROWS * K + row % TILE_ROWS * 32;
    for (int64_t k = 0; k + 32 <= columns; k += 32) memcpy(out + k * TILE_ROWS, x + k, 64);
    if (int64_t rest = columns % 32) {
        bf16* last = out + (columns - rest) * TILE_ROWS;
        memset(last, 0, 64);
        memcpy(last, x + columns - rest, rest * sizeof(bf16));
    }
#else
    input* out = buffer + 2 * row;
    int64_t k = 0;
    for (; k + 2 <= columns; k += 2) put_pair(out + k * rows, x + k);
    for (; k < K; k += 2) {
        bf16 last[2] = {k < columns ? x[k] : (bf16)0, 0};
        put_pair(out + k * rows, last);
    }
#endif
}

#if !defined(FATHOM_TILES)
// Where the inputs of a product lie: pair k of row r at at[k·step + r·row], its other half `half` further on.
struct Inputs {
    const input* at;
    int64_t step, row, half;
    const input* pair(int64_t k, int r) const { return at + k * step + r * row; }
};
FATHOM_INLINE Inputs prepared_rows(const input* a, int64_t rows) { return {a, 2 * rows, 2, 1}; }

// Where registers are few, a loop that needs nearly all of them is a function of its own, so that compilers give them to it.
#if defined(__AVX512F__)
#define FATHOM_LOOP FATHOM_INLINE
#else
#define FATHOM_LOOP static __attribute__((noinline))
#endif

// R rows by P panels, which fit the registers, over K2 pairs: v[r·step + p].
template <int R, int P, class A>
FATHOM_LOOP void accumulate(const A& a, const bf16* b, int64_t size, int64_t K2, vf* v, int step) {
    constexpr int Q = P * PIECES;
    vn acc[R][Q] = {};
    for (int64_t k = 0; k < K2; k++) {
        const bf16* from = b + k * 2 * LANES;
        auto weights = [&](int q) __attribute__((always_inline)) { return load_n(from + q / PIECES * size + q % PIECES * 2 * NATIVE); };
        if constexpr (PAIRED) {
            un w[Q];
            for (int q = 0; q < Q; q++) w[q] = weights(q);
            for (int r = 0; r < R; r++)
                for (int q = 0; q < Q; q++) acc[r][q] = dot2(acc[r][q], a.pair(k, r), w[q]);
        } else {  // the odd columns of all, then the even ones: half as many registers
            vn w[Q];
            for (int q = 0; q < Q; q++) w[q] = high_half(weights(q));
            for (int r = 0; r < R; r++) {
                vn y = (vn)every(a.pair(k, r) + a.half);
                for (int q = 0; q < Q; q++) acc[r][q] = fma(y, w[q], acc[r][q]);
            }
            for (int q = 0; q < Q; q++) w[q] = low_half(weights(q));
            for (int r = 0; r < R; r++) {
                vn y = (vn)every(a.pair(k, r));
                for (int q = 0; q < Q; q++) acc[r][q] = fma(y, w[q], acc[r][q]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int p = 0; p < P; p++) v[r * step + p] = whole(acc[r] + p * PIECES);
}

// Results go out as store(row, first panel, values, count): one vector for each of `count` neighbouring panels, an even number of them
// wherever an even number is left.
template <int R, int P, class A, class Store>
FATHOM_INLINE void multiply(const A& a, const bf16* b, int64_t size, int64_t K2, int64_t panel, Store&& store) {
    constexpr int TURN = WIDE || R * P * PIECES <= 8 ? P : 1;  // panels
    vf v[R][P];
    for (int p = 0; p < P; p += TURN) accumulate<R, TURN>(a, b + p * size, size, K2, v[0] + p, P);
    for (int r = 0; r < R; r++) store(r, panel, v[r], P);
}
#endif

#if defined(__AVX512BW__) && !defined(FATHOM_TILES)
constexpr int DECODING_ROWS = 4;  // for so few rows quantised weights are spelled out in registers

template <int R, int P, Format F, class Store>
FATHOM_INLINE void multiply_coded(const input* a, const Weight& w, int64_t panel, Store&& store) {
    int64_t K = padded(w.columns), bytes = K * (F == FP8 ? LANES : LANES / 2), runs = F == FP8 ? ceil_div(K, 128) : K / 32 * LANES;
    const uint8_t *data = (const uint8_t*)w.data + panel * bytes, *scales = w.scale + panel * runs;
    vn acc[R][P] = {};
    auto add = [&](int p, int64_t k, vu pairs) __attribute__((always_inline)) {
        for (int r = 0; r < R; r++) acc[r][p] = dot2(acc[r][p], a + 2 * (k * R + r), (un)pairs);
    };
    for (int64_t k32 = 0; k32 < K / 2; k32 += 16) {  // 32 columns
        Scale s[P];
        bool simple = true;
        for (int p = 0; p < P; p++) {
            s[p] = scale_of<F>(F == FP8 ? splat_u(scales[p * runs + k32 / 64]) : widen_bytes(scales + p * runs + k32));
            simple &= s[p].simple;
        }
        auto columns = [&](bool all_simple) __attribute__((always_inline)) {
            for (int p = 0; p < P; p++) s[p].simple = all_simple;
            if constexpr (F == FP8) {
                for (int64_t k = k32; k < k32 + 16; k++)
                    for (int p = 0; p < P; p++) add(p, k, pairs_e4m3(data + p * bytes + k * 2 * LANES, s[p]));
            } else {
                for (int64_t k = k32; k < k32 + 16; k += 4) {
                    vu group[P];
                    for (int p = 0; p < P; p++) group[p] = load_u(data + p * bytes + k * LANES);
                    for (int p = 0; p < P; p++) add(p, k, pairs_e2m1<0>(group[p], s[p]));
                    for (int p = 0; p < P; p++) add(p, k + 1, pairs_e2m1<1>(group[p], s[p]));
                    for (int p = 0; p < P; p++) add(p, k + 2, pairs_e2m1<2>(group[p], s[p]));
                    for (int p = 0; p < P; p++) add(p, k + 3, pairs_e2m1<3>(group[p], s[p]));
                }
            }
        };
        if (simple) columns(true);
        else columns(false);
    }
    for (int r = 0; r < R; r++) {
        vf v[P];
        for (int p = 0; p < P; p++) v[p] = (vf)acc[r][p];
        store(r, panel, v, P);
    }
}

template <int R, Format F, class Store>
static inline void coded_rows(const input* a, const Weight& w, int64_t panel, int64_t end, Store&& store) {
    constexpr int P = R == 1 ? 8 : 4;
    for (; panel + P <= end; panel += P) multiply_coded<R, P, F>(a, w, panel, store);
    for (; panel + 2 <= end; panel += 2) multiply_coded<R, 2, F>(a, w, panel, store);
    if (panel < end) multiply_coded<R, 1, F>(a, w, panel, store);
}
#else
constexpr int DECODING_ROWS = 0;
#endif

#if !defined(FATHOM_TILES)
template <int R, class Store>
FATHOM_INLINE void multiply_rows(const input* x, const bf16* b, int64_t size, int64_t K2, int64_t panel, int count, Store&& store) {
    constexpr int P = at_once(R);
    Inputs a = prepared_rows(x, R);
    if (count == P) return multiply<R, P>(a, b, size, K2, panel, store);
    int p = 0;
    for (; p + 2 <= count; p += 2) multiply<R, 2>(a, b + p * size, size, K2, panel + p, store);
    if (p < count) multiply<R, 1>(a, b + p * size, size, K2, panel + p, store);
}
#endif

#if defined(FATHOM_TILES)
// Rows of P panels, `stride` values apart, on their way out.
template <int P, class Store>
FATHOM_INLINE void store_rows(const float* c, int64_t stride, int rows, int64_t panel, Store&& store) {
    for (int r = 0; r < rows; r++) {
        vf v[P];
        for (int i = 0; i < P; i++) v[i] = load(c + r * stride + i * LANES);
        store(r, panel, v, P);
    }
}

template <int P, class Store>
FATHOM_INLINE void tile_rows(const input* a, int rows, const bf16* b, int64_t size, int64_t K2, int64_t panel, Store&& store) {
    alignas(64) float c[ROWS * 2 * LANES];  // rows of two panels, or half as many of four
    constexpr int64_t STRIDE = P == 4 ? 4 * LANES : 2 * LANES;
    for (int r = 0; r < rows; r++) store.expect(r, panel);
    tile_block(tiled_rows(a, 2 * K2), rows, b, size, K2 / 16, P, c, STRIDE);
    store_rows<P>(c, STRIDE, rows, panel, store);
}

// At most 16 rows by quantised panels: few columns of them are spelled out at a time, so that these are near when the tiles take them and
// the tiles work while the next are spelled out.
constexpr int64_t SPELLED = 128;
template <int P, class Store>
static inline void coded_panels(const input* a, int rows, const Weight& w, int64_t panel, bf16* unpacked, Store&& store) {
    alignas(64) float c[TILE_ROWS * P * LANES];
    int64_t K = padded(w.columns);
    TileRows x = tiled_rows(a, K);
    for (int r = 0; r < rows; r++) store.expect(r, panel);
    sums_begin<P>();
    for (int64_t k = 0; k < K; k += SPELLED) {
        int64_t end = smaller(K, k + SPELLED);
        unpack(w, panel, P, K, k, end, unpacked);
        sums_add<P>((const char*)x.rows + k / 32 * x.step, x.step, x.row, unpacked, (end - k) * LANES, (end - k) / 32);
    }
    sums_end<P>(c, P * LANES);
    store_rows<P>(c, P * LANES, rows, panel, store);
}

template <class Store>
static inline void coded_rows(const input* a, int rows, const Weight& w, int64_t panel, int64_t end, bf16* unpacked, Store&& store) {
    for (; panel + 4 <= end; panel += 4) coded_panels<4>(a, rows, w, panel, unpacked, store);
    for (; panel + 2 <= end; panel += 2) coded_panels<2>(a, rows, w, panel, unpacked, store);
    if (panel < end) coded_panels<1>(a, rows, w, panel, unpacked, store);
}
#endif

// `count` panels (at most at_once(rows)) of bf16 weights by one block of prepared rows.
template <class Store>
static inline void block(const input* a, int rows, const bf16* b, int64_t columns, int64_t panel, int count, Store&& store) {
    int64_t K2 = padded(columns) / 2, size = panel_size(columns);
#if defined(FATHOM_TILES)
    for (int p = 0, some; p < count; p += some) {
        some = rows <= TILE_ROWS && count - p >= 4 ? 4 : count - p > 1 ? 2 : 1;
        const bf16* from = b + p * size;
        if (some == 4) tile_rows<4>(a, rows, from, size, K2, panel + p, store);
        else if (some == 2) tile_rows<2>(a, rows, from, size, K2, panel + p, store);
        else tile_rows<1>(a, rows, from, size, K2, panel + p, store);
    }
#else
    switch (rows) {
#define FATHOM_CASE(R) case R: if constexpr (R <= ROWS) multiply_rows<R>(a, b, size, K2, panel, count, store); break;
        FATHOM_CASE(1) FATHOM_CASE(2) FATHOM_CASE(3) FATHOM_CASE(4) FATHOM_CASE(5) FATHOM_CASE(6)
        FATHOM_CASE(7) FATHOM_CASE(8) FATHOM_CASE(9) FATHOM_CASE(10) FATHOM_CASE(11) FATHOM_CASE(12)
#undef FATHOM_CASE
    }
#endif
}

// Where results go: put(row, first panel, values, count), and before they are worked out ask(row, first panel), which may fetch the memory.
struct Nothing {
    FATHOM_MEMBER void operator()(int, int64_t) const {}
};
template <class Put, class Ask = Nothing>
struct Outputs {
    Put put;
    Ask ask = {};
    FATHOM_MEMBER void operator()(int r, int64_t panel, const vf* v, int n) const { put(r, panel, v, n); }
    FATHOM_MEMBER void expect(int r, int64_t panel) const { ask(r, panel); }
};
template <class Put>
Outputs(Put) -> Outputs<Put>;
template <class Put, class Ask>
Outputs(Put, Ask) -> Outputs<Put, Ask>;

// The same for rows that come after others.
template <class Store>
struct After {
    const Store& store;
    int rows;
    FATHOM_MEMBER void operator()(int r, int64_t panel, const vf* v, int n) const { store(rows + r, panel, v, n); }
    FATHOM_MEMBER void expect(int r, int64_t panel) const { store.expect(rows + r, panel); }
};

// Bytes of scratch that `panels` needs for weights of this format.
FATHOM_INLINE int64_t unpack_bytes(const Weight& w) { return w.format == BF16 ? 0 : MAX_PANELS * panel_size(w.columns) * sizeof(bf16); }

// Panels p0 … p1 of w by several blocks of prepared rows: block i has rows[i] rows at a + i·ROWS·K, the first is the fullest.
// Results go to an Outputs, by their row among all blocks. The caller has a Tiles.
template <class Store>
static inline void panels(const input* a, const int* rows, int blocks, const Weight& w, int64_t p0, int64_t p1, bf16* unpacked, const Store& store) {
    int64_t size = panel_size(w.columns), K = padded(w.columns);
    int most = blocks ? at_once(rows[0]) : 1;
#if defined(FATHOM_TILES)
    if (w.format != BF16) {
        if (blocks == 1 && rows[0] <= TILE_ROWS) return coded_rows(a, rows[0], w, p0, p1, unpacked, store);
        most = 2;  // so many panels stay in the nearest cache until they are used
    }
#else
    if constexpr (DECODING_ROWS)
        if (w.format != BF16 && blocks == 1 && rows[0] <= DECODING_ROWS) {
            switch (rows[0] * 2 + (w.format == FP8)) {
#define FATHOM_CASE(R) case 2 * R: return coded_rows<R, FP4>(a, w, p0, p1, store); case 2 * R + 1: return coded_rows<R, FP8>(a, w, p0, p1, store);
                FATHOM_CASE(1) FATHOM_CASE(2) FATHOM_CASE(3) FATHOM_CASE(4)
#undef FATHOM_CASE
            }
        }
#endif
    for (int64_t p = p0; p < p1; p += most) {
        int count = (int)smaller(most, p1 - p);
        const bf16* b = (const bf16*)w.data + p * size;
        if (w.format != BF16) unpack(w, p, count, K, 0, K, unpacked), b = unpacked;
        for (int i = 0; i < blocks; i++) {
            int take = at_once(rows[i]);  // a last, smaller block takes more at once; its chains are the same
            if (take > count) take = count;
            for (int j = 0; j < count; j += take)
                block(a + i * ROWS * K, rows[i], b + j * size, w.columns, p + j, (int)smaller(take, count - j),
                      After<Store>{store, i * ROWS});
        }
    }
}

}  // namespace FATHOM_ISA
}  // namespace fathom
