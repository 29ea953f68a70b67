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
    for (; d < D; d += LANES) {
        vf v = load_some(x + d, D - d);
        squares[0] = fma(v, v, squares[0]);
    }
    return 1.f / __builtin_sqrtf(sum((squares[0] + squares[1]) + (squares[2] + squares[3])) / (float)D + eps);
}

// Turns pairs 2i, 2i + 1 of x [R] by the angles of cos, sin [R/2].
FATHOM_INLINE void rotate(float* x, const float* cos, const float* sin, int64_t R) {
    for (int64_t i = 0; i < R / 2; i++) {
        float even = x[2 * i], odd = x[2 * i + 1];
        x[2 * i] = even * cos[i] - odd * sin[i];
        x[2 * i + 1] = odd * cos[i] + even * sin[i];
    }
}

FATHOM_INLINE void scale_row(float* v, float factor, const bf16* weight, int64_t D) {
    for (int64_t d = 0; d < D; d += LANES) {
        vf x = load_some(v + d, D - d) * factor;
        store_some(v + d, weight ? x * load_some(weight + d, D - d) : x, D - d);
    }
}

FATHOM_INLINE void narrow_row(bf16* y, const float* v, int64_t D) {
    for (int64_t d = 0; d < D; d += LANES) store_some(y + d, load_some(v + d, D - d), D - d);
}

FATHOM_INLINE void round_row(float* v, int64_t D) {
    for (int64_t d = 0; d < D; d += LANES) store_some(v + d, widen(narrow(load_some(v + d, D - d))), D - d);
}

// y may be x.
FATHOM_INLINE void norm_row(const bf16* x, int64_t D, const bf16* weight, float eps, bf16* y) {
    float factor = inverse_rms(x, D, eps);
    for (int64_t d = 0; d < D; d += LANES) {
        vf v = load_some(x + d, D - d) * factor;
        store_some(y + d, weight ? v * load_some(weight + d, D - d) : v, D - d);
    }
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
        for (int64_t row = t * H; row < (t + 1) * H; row++) {
            const bf16* from = x + row * C;
            bf16* to = y + row * C;
            float factor = eps >= 0 ? inverse_rms(from, C, eps) : 1.f;
            for (int64_t c = 0; c < C; c += LANES) {  // what isn't turned goes where it belongs at once
                vf value = load_some(from + c, C - c) * factor;
                if (weight) value = value * load_some(weight + c, C - c);
                if (c + LANES <= C - R) store_bf(to + c, value);
                else store_some(v + c, twice ? widen(narrow(value)) : value, C - c);
            }
            rotate(v + C - R, cos + t * (R / 2), sin + t * (R / 2), R);
            for (int64_t c = (C - R) / LANES * LANES; c < C; c += LANES) store_some(to + c, load_some(v + c, C - c), C - c);
        }
    }
}

}  // namespace FATHOM_ISA
}  // namespace fathom
