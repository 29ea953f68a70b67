// Products of rows that lie anywhere (keys) with up to 16 packed vectors a group (queries): the shape of all attention here.
//
// Rows are read as they are, one pair of values for all lanes; the packed side puts 16 vectors' pairs side by side, [C/2][16][2]. So
// history needs no transposed copy, and one query with 16 heads or 16 queries with one head are the same product. Each result is one
// chain along C. With tiles, 32 rows that follow one another are read where they are, others are gathered first.
#pragma once
#include "packed.h"

namespace fathom {
namespace FATHOM_ISA {

constexpr int PIECE = 256;  // keys whose products exist at once

// Whether values are packed with their columns folded: [0…3, 8…11, 16…19, 24…27] and [4…7, 12…15, 20…23, 28…31] of each 32.
FATHOM_INLINE bool folded([[maybe_unused]] int64_t C) {
#if defined(__AVX512BW__)
    return C % 32 == 0;
#else
    return false;
#endif
}

// Packs `n` vectors (at most 16) of C values at x + i·stride into [padded(C)/2][16][2]; missing ones are zero.
static inline void pack_lanes(bf16* out, const bf16* x, int64_t stride, int64_t n, int64_t C) {
    for (int64_t c = 0; c < padded(C); c += 2 * LANES) {
        vu pairs[LANES];
        for (int64_t i = 0; i < LANES; i++) {
            pairs[i] = vu{};
            if (i < n && c + 2 * LANES <= C) pairs[i] = load_u(x + i * stride + c);
            else if (i < n && c < C) memcpy(&pairs[i], x + i * stride + c, (C - c) * sizeof(bf16));
        }
        transpose(pairs);
        for (int64_t i = 0; i < LANES; i++) store_u(out + (c + 2 * i) * LANES, pairs[i]);
    }
}

#if defined(FATHOM_TILES)
FATHOM_INLINE bool in_a_row(const bf16* const* rows, int64_t C) {
    int64_t off = 0;
    for (int i = 0; i < ROWS; i++) off |= rows[i] - rows[0] - i * C;
    return off == 0;
}
#endif

#if !defined(FATHOM_TILES)
struct Rows {  // inputs that lie anywhere
    const input* row[8];
    static constexpr int64_t half = 1;
    const input* pair(int64_t k, int r) const { return row[r] + 2 * k; }
};
#endif

// out [n][groups·16] = rows · packs; n at most PIECE, C even. rows[n … ceil(n / 8)·8) may be anything readable, and out has room for a
// multiple of 32 rows. meanwhile() may be called now and then, for other work while the tiles are busy. The caller has a Tiles.
template <class Meanwhile>
FATHOM_INLINE void products(const bf16* const* rows, int n, const bf16* packs, int64_t groups, int64_t C, float* out, [[maybe_unused]] Meanwhile&& meanwhile) {
    int64_t size = panel_size(C), wide = groups * LANES;
#if defined(FATHOM_TILES)
    int64_t K = padded(C);
    alignas(64) bf16 keys[ROWS * 1024];
    for (int r0 = 0; r0 < n; r0 += ROWS) {
        int count = (int)smaller(ROWS, n - r0);
        TileRows a = tiled_rows(keys, K);
        if (count == ROWS && K == C && in_a_row(rows + r0, C)) a = plain_rows(rows[r0], K);
        else
            for (int r = 0; r < count; r++) prepare_row(keys, r, count, rows[r0 + r], C);
        for (int64_t g = 0; g < groups; g += 2) {
            tile_block(a, count, packs + g * size, size, K / 32, (int)smaller(2, groups - g), out + r0 * wide + g * LANES, wide);
            meanwhile();
        }
    }
#else
    constexpr int BLOCK = WIDE ? 8 : NATIVE > 4 ? 4 : 2;
    alignas(64) float widened[PAIRED ? 1 : BLOCK * 1024];
    for (int r0 = 0; r0 < n; r0 += BLOCK) {
        Rows a;
        for (int i = 0; i < BLOCK; i++) {
            const bf16* row = rows[r0 + i < n ? r0 + i : r0];
            if constexpr (!PAIRED) widen_row(widened + i * C, row, C);
            a.row[i] = PAIRED ? (const input*)row : (const input*)widened + i * C;
        }
        auto put = [&](int i, int64_t g, const vf* v, int some) __attribute__((always_inline)) {
            for (int j = 0; j < some && r0 + i < n; j++) store(out + (r0 + i) * wide + (g + j) * LANES, v[j]);
        };
        int64_t g = 0;
        for (; g + 2 <= groups; g += 2) multiply<BLOCK, 2>(a, packs + g * size, size, C / 2, g, put);
        if (g < groups) multiply<BLOCK, 1>(a, packs + g * size, size, C / 2, g, put);
    }
#endif
}

static inline void products(const bf16* const* rows, int n, const bf16* packs, int64_t groups, int64_t C, float* out) {
    products(rows, n, packs, groups, C, out, []() __attribute__((always_inline)) {});
}

// Rows as values: `n` rows (even) of C values to panels [ceil(C / 16)][n/2][16][2], K = n. Columns beyond C are zero. Where C is
// `folded`, interleaving rows is half the work.
static inline void pack_values(bf16* out, const bf16* const* rows, int n, int64_t C) {
#if defined(__AVX512BW__)
    if (folded(C)) {
        for (int i = 0; i < n; i += 2)
            for (int64_t c = 0; c < C; c += 2 * LANES) {
                __m512i a = _mm512_loadu_si512(rows[i] + c), b = _mm512_loadu_si512(rows[i + 1] + c);
                bf16* to = out + (c / LANES * n + i) * LANES;
                _mm512_storeu_si512(to, _mm512_unpacklo_epi16(a, b));
                _mm512_storeu_si512(to + n * LANES, _mm512_unpackhi_epi16(a, b));
            }
        return;
    }
#endif
    for (int i = 0; i < n; i += 2)
        for (int64_t c = 0; c < C; c += LANES) {
            vu low = (vu)load_some(rows[i] + c, C - c) >> 16, high = (vu)load_some(rows[i + 1] + c, C - c);
            store_u(out + (c / LANES * n + i) * LANES, low | high);
        }
}

// Two vectors of folded columns in the order of the columns.
FATHOM_INLINE void unfold(vf& a, vf& b) {
#if defined(__AVX512F__)
    __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    __m512i x = (__m512i)a, y = (__m512i)b;
    a = (vf)_mm512_permutex2var_epi64(x, first, y), b = (vf)_mm512_permutex2var_epi64(x, second, y);
#endif
}

// Weights of 32 keys for 16 lanes, pairs of keys by lane, where `weigh` wants them: [n/2][16] pairs, with tiles by lane, or widened,
// [n/2][2][16].
FATHOM_INLINE void put_weights(input* weights, int key, vu* pairs) {
#if defined(FATHOM_TILES)
    transpose(pairs);
#endif
    for (int i = 0; i < LANES; i++) {
        input* to = weights + (key + 2 * i) * LANES;
        if constexpr (PAIRED) store_u(to, pairs[i]);
        else store((float*)to, (vf)(pairs[i] << 16)), store((float*)to + LANES, (vf)(pairs[i] & 0xffff0000u));
    }
}

// The same for eight lanes: those of pair i and of pair i + 8 side by side.
FATHOM_INLINE void put_half_weights(input* weights, int key, vu* pairs) {
#if defined(FATHOM_TILES)
    transpose<8>(pairs);
    for (int i = 0; i < 8; i++) store_u(weights + (key + 2 * i) * LANES, pairs[i]);
#else
    for (int i = 0; i < 8; i++)
        for (int half = 0; half < 2; half++) {
            input* to = weights + (key + 2 * (i + 8 * half)) * LANES;
            if constexpr (PAIRED) memcpy(to, (const char*)&pairs[i] + 32 * half, 32);
            else {
                vf low = (vf)(pairs[i] << 16), high = (vf)(pairs[i] & 0xffff0000u);
                memcpy(to, (const char*)&low + 32 * half, 32), memcpy((float*)to + LANES, (const char*)&high + 32 * half, 32);
            }
        }
#endif
}

// out [16][ceil(C / 16)·16] = weights · values, for n keys, a multiple of 32. `lanes` of the 16 matter. The caller has a Tiles.
static inline void weigh(const input* weights, [[maybe_unused]] int lanes, const bf16* values, int n, int64_t C, float* out) {
    int64_t count = ceil_div(C, LANES), size = (int64_t)n * LANES, wide = count * LANES;
#if defined(FATHOM_TILES)
    for (int64_t p = 0, some; p < count; p += some) {
        some = count - p >= 4 ? 4 : smaller(2, count - p);
        tile_block(tiled_rows(weights, n), TILE_ROWS, values + p * size, size, n / 32, (int)some, out + p * LANES, wide);
    }
#else
    constexpr int R = WIDE ? 8 : NATIVE > 4 ? 4 : 2;
    for (int l = 0; l < lanes; l += R) {
        auto put = [&](int r, int64_t panel, const vf* v, int some) __attribute__((always_inline)) {
            for (int i = 0; i < some; i++) store(out + (l + r) * wide + (panel + i) * LANES, v[i]);
        };
        Inputs a = PAIRED ? Inputs{weights + 2 * l, 2 * LANES, 2, 1} : Inputs{weights + l, 2 * LANES, 1, LANES};
        int64_t p = 0;
        for (; p + 2 <= count; p += 2) multiply<R, 2>(a, values + p * size, size, n / 2, p, put);
        if (p < count) multiply<R, 1>(a, values + p * size, size, n / 2, p, put);
    }
#endif
}

}  // namespace FATHOM_ISA
}  // namespace fathom
