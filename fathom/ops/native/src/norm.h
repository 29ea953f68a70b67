// RMSNorm, and RMSNorm with rotary embedding: fp32 inside, one rounding at the end.
#pragma once
#include <omp.h>

#include "scratch.h"
#include "simd.h"

namespace fathom {
namespace FATHOM_ISA {

constexpr int64_t SMALL = 1 << 14;  // values; less work than this stays on one thread

// Four sums that don't wait for each other, then the rest.
template <class Value>
FATHOM_INLINE float inverse_rms(const Value* x, int64_t D, float eps) {
    vf squares[4] = {};
    int64_t d = 0;
    for (; d + 4 * LANES <= D; d += 4 * LANES)
        for (int i = 0; i < 4; i++) {
            vf v = load_some(x + d + i * LANES, LANES);
            squares[i] = fma(v, v, squares[i]);
        }
    by_lanes(D, [&](int64_t d, int64_t n) __attribute__((always_inline)) {
        vf v = load_some(x + d, n);
        squares[0] = fma(v, v, squares[0]);
    }, d);
    return 1.f / __builtin_sqrtf(sum((squares[0] + squares[1]) + (squares[2] + squares[3])) / (float)D + eps);
}

// Turns pairs 2i, 2i + 1 of x [R] by the angles of cos, sin [R/2].
FATHOM_INLINE void rotate(float* x, const float* cos, const float* sin, int64_t R) {
    int64_t i = 0;
#if defined(__AVX512F__)
    const vi twice = {0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7}, other = {1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14};
    const vf sign = {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1};
    for (; i + 8 <= R / 2; i += 8) {
        vf v = load(x + 2 * i), c = __builtin_shuffle(beside(cos + i, cos + i), twice), s = __builtin_shuffle(beside(sin + i, sin + i), twice);
        store(x + 2 * i, v * c + __builtin_shuffle(v, other) * (s * sign));
    }
#endif
    for (; i < R / 2; i++) {
        float even = x[2 * i], odd = x[2 * i + 1];
        x[2 * i] = even * cos[i] - odd * sin[i];
        x[2 * i + 1] = odd * cos[i] + even * sin[i];
    }
}

FATHOM_INLINE void scale_row(float* v, float factor, const bf16* weight, int64_t D) {
    by_lanes(D, [&](int64_t d, int64_t n) __attribute__((always_inline)) {
        vf x = load_some(v + d, n) * factor;
        store_some(v + d, weight ? x * load_some(weight + d, n) : x, n);
    });
}

FATHOM_INLINE void narrow_row(bf16* y, const float* v, int64_t D, int64_t from = 0) {
    by_lanes(D, [&](int64_t d, int64_t n) __attribute__((always_inline)) { store_some(y + d, load_some(v + d, n), n); }, from);
}

FATHOM_INLINE void round_row(float* v, int64_t D) {
    by_lanes(D, [&](int64_t d, int64_t n) __attribute__((always_inline)) { store_some(v + d, widen(narrow(load_some(v + d, n))), n); });
}

// y may be x.
FATHOM_INLINE void norm_row(const bf16* x, int64_t D, const bf16* weight, float eps, bf16* y) {
    float factor = inverse_rms(x, D, eps);
    by_lanes(D, [&](int64_t d, int64_t n) __attribute__((always_inline)) {
        vf v = load_some(x + d, n) * factor;
        store_some(y + d, weight ? v * load_some(weight + d, n) : v, n);
    });
}

static void rms_norm(const bf16* x, int64_t rows, int64_t D, const bf16* weight, float eps, bf16* y) {
#pragma omp parallel for schedule(static) if (rows * D > SMALL)
    for (int64_t t = 0; t < rows; t++) norm_row(x + t * D, D, weight, eps, y + t * D);
}

// twice: round between norm and rotation too.
static void norm_rope(const bf16* x, int64_t T, int64_t H, int64_t C, const bf16* weight, float eps, const float* cos, const float* sin, int64_t R,
                      bool twice, bf16* y) {
#pragma omp parallel for schedule(static) if (T * H * C > SMALL)
    for (int64_t t = 0; t < T; t++) {
        float* v = (float*)fathom_scratch(THREAD, C * sizeof(float));
        int64_t plain = (C - R) / LANES * LANES;  // what isn't turned goes where it belongs at once
        for (int64_t row = t * H; row < (t + 1) * H; row++) {
            const bf16* from = x + row * C;
            bf16* to = y + row * C;
            float factor = eps >= 0 ? inverse_rms(from, C, eps) : 1.f;
            auto value = [&](int64_t c, int64_t n) __attribute__((always_inline)) {
                vf scaled = load_some(from + c, n) * factor;
                return weight ? scaled * load_some(weight + c, n) : scaled;
            };
            for (int64_t c = 0; c < plain; c += LANES) store_bf(to + c, value(c, LANES));
            by_lanes(C, [&](int64_t c, int64_t n) __attribute__((always_inline)) { store_some(v + c, twice ? widen(narrow(value(c, n))) : value(c, n), n); }, plain);
            rotate(v + C - R, cos + t * (R / 2), sin + t * (R / 2), R);
            narrow_row(to, v, C, plain);
        }
    }
}

}  // namespace FATHOM_ISA
}  // namespace fathom
