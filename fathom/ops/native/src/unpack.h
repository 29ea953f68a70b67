// FP8 and FP4 weights, spelled out in bf16.
//
// Both formats keep the order of the bf16 panels: value (pair k, row r, half j) of a panel is number (k·16 + r)·2 + j.
//   FP8 (E4M3): one byte a value, in that order. One scale byte for 128 columns of the panel: a panel's 16 rows share a block of 128.
//   FP4 (E2M1): one byte a pair, the low nibble first. One scale byte a row for each 32 columns: [K/32][16].
// A scale byte s means 2^(s - 127). The products are exact in bf16: 4 (FP8) or 2 (FP4) significant bits, and an exponent that only a
// scale near the ends of its range can push out of bf16's.
#pragma once
#include "simd.h"
#include "table.h"

namespace fathom {
namespace FATHOM_ISA {

FATHOM_INLINE vf power_of_two(vu exponent_byte) { return (vf)(exponent_byte == 0 ? splat_u(1 << 22) : exponent_byte << 23); }

// E4M3 in the low byte of each lane. Subnormals are made from integers: arithmetic on fp32's own subnormals is slow on many machines.
FATHOM_INLINE vf from_e4m3(vu x) {
    vu sign = (x & 0x80) << 24, rest = x & 0x7f;
    vf normal = (vf)((rest << 20) + (120u << 23)), subnormal = __builtin_convertvector((vi)rest, vf) * 0x1p-9f;
    return (vf)((vu)(rest < 8 ? subnormal : normal) | sign);
}

// E2M1 in the low nibble of each lane.
FATHOM_INLINE vf from_e2m1(vu x) {
    const vf table = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};
    return __builtin_shuffle(table, (vi)x);
}

FATHOM_INLINE void store_pairs(bf16* out, vf low, vf high) {  // interleaves two vectors of bf16
    vu pairs = ((vu)low >> 16) | ((vu)high & 0xffff0000u);  // exact: the low halves are zero
    store_u(out, pairs);
}

// Panels p … p + count of w in bf16; K is its padded width.
static inline void unpack(const Weight& w, int64_t p, int count, int64_t K, bf16* out) {
    for (int i = 0; i < count; i++, p++) {
        bf16* to = out + i * K * LANES;
        if (w.format == FP8) {
            const uint8_t* from = (const uint8_t*)w.data + p * K * LANES;
            const uint8_t* scale = w.scale + p * ceil_div(K, 128);
            for (int64_t k = 0; k < K / 2; k++) {
                vf s = power_of_two(splat_u(scale[k / 64]));
                uint16_t pairs[LANES];
                memcpy(pairs, from + k * 2 * LANES, sizeof pairs);
                vh packed;
                memcpy(&packed, pairs, sizeof packed);
                vu x = __builtin_convertvector(packed, vu);
                store_pairs(to + k * 2 * LANES, from_e4m3(x & 0xff) * s, from_e4m3(x >> 8) * s);
            }
        } else {
            const uint8_t* from = (const uint8_t*)w.data + p * K * LANES / 2;
            const uint8_t* scale = w.scale + p * K / 32 * LANES;
            typedef uint8_t vb __attribute__((vector_size(16)));
            for (int64_t k32 = 0; k32 < K / 32; k32++) {
                vb bytes;
                memcpy(&bytes, scale + k32 * LANES, sizeof bytes);
                vf s = power_of_two(__builtin_convertvector(bytes, vu));
                for (int64_t k = k32 * 16; k < (k32 + 1) * 16; k++) {
                    memcpy(&bytes, from + k * LANES, sizeof bytes);
                    vu x = __builtin_convertvector(bytes, vu);
                    store_pairs(to + k * 2 * LANES, from_e2m1(x & 15) * s, from_e2m1(x >> 4) * s);
                }
            }
        }
    }
}

}  // namespace FATHOM_ISA
}  // namespace fathom
