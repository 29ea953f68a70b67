// Scores, weights and experts of each token. Equal scores go to the lower expert, as everywhere.
//
// Source: SPEC section 2, MoE.
#pragma once
#include <omp.h>

#include "norm.h"

namespace fathom {
namespace FATHOM_ISA {

// √ln(1 + e^x). The root of a tiny logarithm is that of e^x, which fp32 may not have.
FATHOM_INLINE vf score(vf x) {
    vf root = sqrt(softplus(min(x, splat(80.f))));
    return x > 20.f ? sqrt(x) : x < -16.f ? exp(0.5f * x) : root;
}

// Index of the first of the largest of n numbers, a multiple of 16.
FATHOM_INLINE int64_t first_highest(const float* x, int64_t n) {
    vf top = load(x);
    for (int64_t i = LANES; i < n; i += LANES) top = max(top, load(x + i));
    vf highest_ = splat(highest(top));
    for (int64_t i = 0; i < n; i += LANES)
        if (uint32_t bits = same(load(x + i), highest_)) return i + __builtin_ctz(bits);
    return 0;
}

static void route(const float* logits, int64_t T, int64_t E, const float* bias, const int64_t* given, int64_t K, float factor, float* scores,
                  float* weights, int64_t* chosen) {
    int64_t wide = ceil_div(E, LANES) * LANES;
#pragma omp parallel for schedule(static) if (T * E > 512)
    for (int64_t t = 0; t < T; t++) {
        float* ranked = (float*)fathom_scratch(THREAD, wide * sizeof(float));
        float* s = scores + t * E;
        for (int64_t e = 0; e < wide; e += LANES) {
            vf v = score(load_some(logits + t * E + e, E - e));
            store_some(s + e, v, E - e);
            store(ranked + e, splat(-__builtin_inff()));
            if (bias) store_some(ranked + e, v + load_some(bias + e, E - e), E - e);
        }
        float total = 0;
        for (int64_t k = 0; k < K; k++) {
            int64_t best = given ? given[t * K + k] : first_highest(ranked, wide);
            ranked[best] = -__builtin_inff();
            chosen[t * K + k] = best;
            total += weights[t * K + k] = s[best];
        }
        for (int64_t k = 0; k < K; k++) weights[t * K + k] = weights[t * K + k] / (total + 1e-20f) * factor;
    }
}

}  // namespace FATHOM_ISA
}  // namespace fathom
