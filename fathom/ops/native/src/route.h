// Scores, weights and experts of each token. Equal scores go to the lower expert, as everywhere.
//
// Source: SPEC section 2, MoE.
#pragma once
#include <omp.h>

#include "norm.h"

namespace fathom {
namespace FATHOM_ISA {

// ln(1 + e^x) from the C library: sqrt magnifies errors near zero.
extern "C" float log1pf(float);
extern "C" float expf(float);

FATHOM_INLINE float score(float x) { return __builtin_sqrtf(x > 20.f ? x : log1pf(expf(x))); }

static void route(const float* logits, int64_t T, int64_t E, const float* bias, const int64_t* given, int64_t K, float factor, float* scores,
                  float* weights, int64_t* chosen) {
#pragma omp parallel for schedule(static) if (T * E > 512)
    for (int64_t t = 0; t < T; t++) {
        float* ranked = (float*)fathom_scratch(THREAD, E * sizeof(float));
        float* s = scores + t * E;
        for (int64_t e = 0; e < E; e++) {
            s[e] = score(logits[t * E + e]);
            ranked[e] = bias ? s[e] + bias[e] : 0;
        }
        float total = 0;
        for (int64_t k = 0; k < K; k++) {
            int64_t best = 0;
            if (given) {
                best = given[t * K + k];
            } else {
                for (int64_t e = 1; e < E; e++) best = ranked[e] > ranked[best] ? e : best;
                ranked[best] = -__builtin_inff();
            }
            chosen[t * K + k] = best;
            total += weights[t * K + k] = s[best];
        }
        for (int64_t k = 0; k < K; k++) weights[t * K + k] = weights[t * K + k] / (total + 1e-20f) * factor;
    }
}

}  // namespace FATHOM_ISA
}  // namespace fathom
