// Compressed entries of complete windows: a softmax over the window's slots for each channel, norm, rotation.
//
// Source: SPEC section 2, compressor; the reference operator says what "own" and "previous" are.
#pragma once
#include <omp.h>

#include "norm.h"

namespace fathom {
namespace FATHOM_ISA {

// One channel group: softmax-weighted sum over up to 2m slots. The maximum comes first, so that no slot is visited with two weights.
struct Pool {
    const float* rows;  // [.., 2, P]: values, then gates
    const float* ape;   // [m, P]
    const int64_t *own, *previous;
    int64_t P, m, C, n;

    template <class Visit>
    FATHOM_INLINE void visit(const Pool& p, int64_t c, Visit&& slot) {
        if (p.previous)
            for (int64_t j = 0; j < p.m; j++)
                if (p.previous[j] >= 0) slot(p.rows + p.previous[j] * 2 * p.P + c, p.ape + j * p.P + c);
        int64_t shift = p.P - p.C;  // with overlap the own window's series is the second half of the channels
        for (int64_t j = 0; j < p.m; j++) slot(p.rows + p.own[j] * 2 * p.P + shift + c, p.ape + j * p.P + shift + c);
    }

    FATHOM_INLINE vf channel(const Pool& p, int64_t c) {
        int64_t some = p.C - c;
        vf top = splat(-__builtin_inff()), below = vf{}, total = vf{};
        visit(p, c, [&](const float* value, const float* bias) { top = max(top, load_some(value + p.P, some) + load_some(bias, some)); });
        visit(p, c, [&](const float* value, const float* bias) {
            vf weight = exp(load_some(value + p.P, some) + load_some(bias, some) - top);
            below += weight;
            total = fma(weight, load_some(value, some), total);
        });
        return total / below;
    }
};

static void compress(const float* rows, int64_t P, const float* ape, const int64_t* own, const int64_t* previous, int64_t n, int64_t m, int64_t C,
                     const bf16* norm, float eps, const float* cos, const float* sin, int64_t R, bool official, bf16* y) {
#pragma omp parallel for schedule(static) if (n * m * C > SMALL)
    for (int64_t i = 0; i < n; i++) {
        float* v = (float*)fathom_scratch(THREAD, C * sizeof(float));
        Pool pool{rows, ape, own + i * m, previous ? previous + i * m : nullptr, P, m, C, n};
        for (int64_t c = 0; c < C; c += LANES) store_some(v + c, Pool::channel(pool, c), C - c);
        if (official) round_row(v, C);
        scale_row(v, inverse_rms(v, C, eps), norm, C);
        if (official) round_row(v, C);
        rotate(v + C - R, cos + i * (R / 2), sin + i * (R / 2), R);
        narrow_row(y + i * C, v, C);
    }
}

}  // namespace FATHOM_ISA
}  // namespace fathom
