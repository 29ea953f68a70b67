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

// Powers of two by their bytes, for pairs of bf16 in a lane.
struct PairScale {
    vf factor;
    vu shift;     // what to add to exponents
    bool simple;  // that is all: no exponent of an E2M1 number leaves its range
};
FATHOM_INLINE PairScale pair_scale(vu byte) {
    vu shift = (byte - 127) << 7 & 0xffff, off = byte - 3;
    bool simple = false;
#if defined(__AVX512BW__)
    simple = !_mm512_cmpgt_epu32_mask((__m512i)off, _mm512_set1_epi32(248));
#endif
    return {power_of_two(byte), shift | shift << 16, simple};
}
FATHOM_INLINE vu scale_pairs(vu pairs, const PairScale& scale) {
#if defined(__AVX512BW__)
    if (scale.simple) {
        __mmask32 nonzero = _mm512_test_epi16_mask((__m512i)pairs, _mm512_set1_epi16(0x7fff));
        return (vu)_mm512_mask_add_epi16((__m512i)pairs, nonzero, (__m512i)pairs, (__m512i)scale.shift);
    }
#endif
    vf low = (vf)(pairs << 16) * scale.factor, high = (vf)(pairs & 0xffff0000u) * scale.factor;
    return ((vu)low >> 16) | ((vu)high & 0xffff0000u);
}
FATHOM_INLINE vu widen_bytes(const uint8_t* from) {  // the compiler's own conversion takes bytes out one by one
#if defined(__AVX512F__)
    return (vu)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)from));
#elif defined(__AVX2__)
    __m256i halves[2] = {_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)from)), _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(from + 8)))};
    return load_u(halves);
#else
    typedef uint8_t vb __attribute__((vector_size(16)));
    vb bytes;
    memcpy(&bytes, from, sizeof bytes);
    return __builtin_convertvector(bytes, vu);
#endif
}

// Sixteen bytes of two E2M1 each, the low nibble first, as pairs of bf16.
FATHOM_INLINE vu pairs_e2m1(const uint8_t* from) {
    vu x = widen_bytes(from);
#if defined(__AVX512BW__)
    const __m512i table = _mm512_set_epi32(  // of bf16, twice: only the low five bits of an index count, and the fifth is the other nibble's
        (int)0xc0c0c080, (int)0xc040c000, (int)0xbfc0bf80, (int)0xbf008000, 0x40c04080, 0x40404000, 0x3fc03f80, 0x3f000000,
        (int)0xc0c0c080, (int)0xc040c000, (int)0xbfc0bf80, (int)0xbf008000, 0x40c04080, 0x40404000, 0x3fc03f80, 0x3f000000);
    return (vu)_mm512_permutexvar_epi16((__m512i)(x | x << 12), table);
#else
    return ((vu)from_e2m1(x & 15) >> 16) | (vu)from_e2m1(x >> 4);
#endif
}

// 32 bytes of E4M3 times a power of two, as bf16.
#if defined(__AVX512BW__) && defined(__AVX512BF16__)
FATHOM_INLINE vu pairs_e4m3(const uint8_t* from, vf scale) {
    __m512i x = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)from));  // an fp16 has room for them, 2^8 times too small
    __m512i half = _mm512_or_si512(_mm512_slli_epi16(_mm512_and_si512(x, _mm512_set1_epi16(0x7f)), 7),
                                   _mm512_slli_epi16(_mm512_and_si512(x, _mm512_set1_epi16(0x80)), 8));
    vf low = (vf)_mm512_cvtph_ps(_mm512_castsi512_si256(half)), high = (vf)_mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1));
    return (vu)_mm512_cvtne2ps_pbh((__m512)(high * 256.f * scale), (__m512)(low * 256.f * scale));
}
#else
FATHOM_INLINE vu pairs_e4m3(const uint8_t* from, vf scale) {
    vh halves[2] = {narrow(from_e4m3(widen_bytes(from)) * scale), narrow(from_e4m3(widen_bytes(from + LANES)) * scale)};
    return load_u(halves);
}
#endif

// Panels p … p + count of w in bf16; K is its padded width.
static inline void unpack(const Weight& w, int64_t p, int count, int64_t K, bf16* out) {
    for (int i = 0; i < count; i++, p++) {
        bf16* to = out + i * K * LANES;
        const uint8_t* from = (const uint8_t*)w.data + p * K * (w.format == FP8 ? LANES : LANES / 2);
        if (w.format == FP8) {
            const uint8_t* scale = w.scale + p * ceil_div(K, 128);
            for (int64_t k = 0; k < K / 2; k++) store_u(to + k * 2 * LANES, pairs_e4m3(from + k * 2 * LANES, power_of_two(splat_u(scale[k / 64]))));
        } else {
            const uint8_t* scale = w.scale + p * K / 32 * LANES;
            for (int64_t k32 = 0; k32 < K / 32; k32++) {
                PairScale s = pair_scale(widen_bytes(scale + k32 * LANES));
                for (int64_t k = k32 * 16; k < (k32 + 1) * 16; k++) store_u(to + k * 2 * LANES, scale_pairs(pairs_e2m1(from + k * LANES), s));
            }
        }
    }
}

}  // namespace FATHOM_ISA
}  // namespace fathom
