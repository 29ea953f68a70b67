// FP8 and FP4 weights, spelled out in bf16.
//
// Both formats keep the order of the bf16 panels: value (pair k, row r, half j) of a panel is number (k·16 + r)·2 + j.
//   FP8 (E4M3): one byte a value, in that order. One scale byte for 128 columns of the panel: a panel's 16 rows share a block of 128.
//   FP4 (E2M1): groups of four pairs, [K/8][16][2] of 16 bits: half j of row r, the first pair's value in the lowest four bits. One scale
//   byte a row for each 32 columns: [K/32][16].
// A scale byte s means 2^(s - 127). The products are exact in bf16: 4 (FP8) or 2 (FP4) significant bits, and an exponent that only a
// scale near the ends of its range can push out of bf16's.
//
// With AVX-512 or AVX2 that is arithmetic on bf16's own bits: numbers come with the largest exponent that they could need, and one subtraction that
// stops at zero scales them, since zero (of either sign) has no bits to take from.
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

// Two vectors as pairs of bf16, lane by lane; what bf16 doesn't hold is cut off.
FATHOM_INLINE vu pairs_of(vf low, vf high) { return ((vu)low >> 16) | ((vu)high & 0xffff0000u); }

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

// Scales of 16 lanes of numbers in a format, by their bytes.
struct Scale {
    vu byte;
    vu less;      // what to take off both halves' exponents
    bool simple;  // that is all: no exponent leaves its range
    vf factor() const { return power_of_two(byte); }
};
template <Format F>
FATHOM_INLINE Scale scale_of(vu byte) {
    constexpr uint32_t LEAST = F == FP8 ? 10 : 3, MOST = F == FP8 ? 246 : 251;  // bytes of simple scales
    Scale scale{byte, {}, false};
#if defined(__AVX2__)
    vu less = (MOST - byte) << 7 & 0xffff, off = byte - LEAST;
    scale.less = less | less << 16;
#if defined(__AVX512BW__)
    scale.simple = !_mm512_cmpgt_epu32_mask((__m512i)off, _mm512_set1_epi32(MOST - LEAST));
#else
    __m256i far[2], most = _mm256_set1_epi32(MOST - LEAST);
    memcpy(far, &off, sizeof off);
    __m256i larger_ = _mm256_max_epu32(_mm256_max_epu32(far[0], far[1]), most);
    scale.simple = _mm256_movemask_epi8(_mm256_cmpeq_epi32(larger_, most)) == -1;
#endif
#endif
    return scale;
}

#if defined(__AVX512BW__)
// bf16 of the E2M1 in the low four bits of each half of a lane; a fifth bit may be anything.
FATHOM_INLINE vu scaled_e2m1(__m512i codes, const Scale& scale) {
    constexpr uint32_t UP = 124u << 23 | 124u << 7;
    const __m512i table = _mm512_set_epi32(
        (int)(0xc0c0c080 + UP), (int)(0xc040c000 + UP), (int)(0xbfc0bf80 + UP), (int)0xfd000000, 0x40c04080 + UP, 0x40404000 + UP, 0x3fc03f80 + UP, 0x7d000000,
        (int)(0xc0c0c080 + UP), (int)(0xc040c000 + UP), (int)(0xbfc0bf80 + UP), (int)0xfd000000, 0x40c04080 + UP, 0x40404000 + UP, 0x3fc03f80 + UP, 0x7d000000);
    return (vu)_mm512_subs_epu16(_mm512_permutexvar_epi16(codes, table), (__m512i)scale.less);
}
#elif defined(__AVX2__)
// Entries of a table of 16-bit numbers, given as their low bytes and their high bytes, by the low four bits of each half of a lane.
FATHOM_INLINE __m256i look_up(__m256i index, __m128i low, __m128i high) {
    index = _mm256_and_si256(index, _mm256_set1_epi16(15));
    __m256i a = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(low), _mm256_or_si256(index, _mm256_set1_epi16((short)0x8000)));
    return _mm256_or_si256(a, _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(high), _mm256_or_si256(_mm256_slli_epi16(index, 8), _mm256_set1_epi16(0x80))));
}

// bf16 of the E2M1 in the low four bits of each half of a lane; the other bits may be anything.
FATHOM_INLINE __m256i scaled_e2m1(__m256i codes, __m256i less) {
    const __m128i low = _mm_setr_epi8(0, 0, (char)0x80, (char)0xc0, 0, 0x40, (char)0x80, (char)0xc0, 0, 0, (char)0x80, (char)0xc0, 0, 0x40, (char)0x80, (char)0xc0);
    const __m128i high = _mm_setr_epi8(0, 0x7d, 0x7d, 0x7d, 0x7e, 0x7e, 0x7e, 0x7e, 0, (char)0xfd, (char)0xfd, (char)0xfd, (char)0xfe, (char)0xfe, (char)0xfe, (char)0xfe);
    return _mm256_subs_epu16(look_up(codes, low, high), less);
}
FATHOM_INLINE vu scaled_e2m1(vu codes, const Scale& scale) {
    __m256i half[2], less[2];
    memcpy(half, &codes, sizeof codes), memcpy(less, &scale.less, sizeof less);
    for (int i = 0; i < 2; i++) half[i] = scaled_e2m1(half[i], less[i]);
    return load_u(half);
}

// bf16 of 16 bytes of E4M3.
FATHOM_INLINE __m256i scaled_e4m3(const uint8_t* from, __m256i less) {
    const __m128i low = _mm_setr_epi8(0, (char)0x80, 0, 0x40, (char)0x80, (char)0xa0, (char)0xc0, (char)0xe0, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m128i high = _mm_setr_epi8(0, 0x76, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0, 0, 0, 0, 0, 0, 0, 0);
    __m256i x = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)from)), size = _mm256_and_si256(_mm256_slli_epi16(x, 4), _mm256_set1_epi16(0x7f0));
    __m256i value = _mm256_add_epi16(size, _mm256_set1_epi16(239 << 7));
    value = _mm256_blendv_epi8(value, look_up(x, low, high), _mm256_cmpgt_epi16(_mm256_set1_epi16(0x80), size));
    return _mm256_or_si256(_mm256_subs_epu16(value, less), _mm256_and_si256(_mm256_slli_epi16(x, 8), _mm256_set1_epi16((short)0x8000)));
}
#endif

// Pair I of a group of four, [16][2] of 16 bits, as bf16. (On AVX2 simple scales are `unpack`'s own, half a vector at a time.)
template <int I>
FATHOM_INLINE vu pairs_e2m1(vu group, const Scale& scale) {
#if defined(__AVX512BW__)
    if (scale.simple) return scaled_e2m1(_mm512_srli_epi16((__m512i)group, 4 * I), scale);
#endif
    return pairs_of(from_e2m1(group >> 4 * I & 15) * scale.factor(), from_e2m1(group >> (16 + 4 * I) & 15) * scale.factor());
}

// Sixteen bytes of two E2M1 each, the low nibble first.
FATHOM_INLINE vu pairs_e2m1(const uint8_t* from, const Scale& scale) {
    vu x = widen_bytes(from);
#if defined(__AVX512BW__)
    if (scale.simple) return scaled_e2m1((__m512i)(x | x << 12), scale);
#elif defined(__AVX2__)
    if (scale.simple) return scaled_e2m1(x | x << 12, scale);
#endif
    return pairs_of(from_e2m1(x & 15) * scale.factor(), from_e2m1(x >> 4) * scale.factor());
}

// 32 bytes of E4M3 as bf16, all with one scale.
FATHOM_INLINE vu pairs_e4m3(const uint8_t* from, const Scale& scale) {
#if defined(__AVX512BW__)
    if (scale.simple) {
        const __m512i subnormal = _mm512_castsi128_si512(_mm_setr_epi16(0, 0x7680, 0x7700, 0x7740, 0x7780, 0x77a0, 0x77c0, 0x77e0));
        __m512i x = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)from)), size = _mm512_and_si512(_mm512_slli_epi16(x, 4), _mm512_set1_epi16(0x7f0));
        __m512i value = _mm512_add_epi16(size, _mm512_set1_epi16(239 << 7));
        value = _mm512_mask_permutexvar_epi16(value, _mm512_cmplt_epu16_mask(size, _mm512_set1_epi16(0x80)), x, subnormal);
        value = _mm512_subs_epu16(value, (__m512i)scale.less);
        return (vu)_mm512_ternarylogic_epi32(value, _mm512_slli_epi16(x, 8), _mm512_set1_epi16((short)0x8000), 0xf8);  // value | (sign & 0x8000)
    }
#endif
    vh halves[2] = {narrow(from_e4m3(widen_bytes(from)) * scale.factor()), narrow(from_e4m3(widen_bytes(from + LANES)) * scale.factor())};
    return load_u(halves);
}

// Columns a … b of panels p … p + count of w in bf16, panel after panel. K is its padded width; a and b are multiples of 128, or K. The same
// columns of the next `count` panels are asked for (not on AVX2): so many pieces that lie apart are more than processors foresee.
static inline void unpack(const Weight& w, int64_t p, int count, int64_t K, int64_t a, int64_t b, bf16* out) {
    for (int i = 0; i < count; i++, p++) {
        bf16* to = out + i * (b - a) * LANES;
        int64_t ahead = count * K * (w.format == FP8 ? LANES : LANES / 2);
        const uint8_t* from = (const uint8_t*)w.data + (p * K + a) * (w.format == FP8 ? LANES : LANES / 2);
        if (w.format == FP8) {
            const uint8_t* scale = w.scale + p * ceil_div(K, 128) + a / 128;
            for (int64_t k128 = 0; k128 < (b - a) / 2; k128 += 64) {
                Scale s = scale_of<FP8>(splat_u(scale[k128 / 64]));
                int64_t end = smaller((b - a) / 2, k128 + 64);
#if defined(__AVX2__) && !defined(__AVX512BW__)
                if (s.simple) {
                    __m256i less;
                    memcpy(&less, &s.less, sizeof less);
                    for (int64_t at = k128 * 2 * LANES; at < end * 2 * LANES; at += LANES) _mm256_storeu_si256((__m256i*)(to + at), scaled_e4m3(from + at, less));
                    continue;
                }
#endif
                for (int64_t k = k128; k < end; k++) {
                    if (k % 2 == 0) __builtin_prefetch(from + k * 2 * LANES + ahead, 0, 2);
                    store_u(to + k * 2 * LANES, pairs_e4m3(from + k * 2 * LANES, s));
                }
            }
        } else {
            const uint8_t* scale = w.scale + (p * K + a) / 32 * LANES;
            for (int64_t k32 = 0; k32 < (b - a) / 32; k32++) {
                Scale s = scale_of<FP4>(widen_bytes(scale + k32 * LANES));
#if defined(__AVX2__) && !defined(__AVX512BW__)
                if (s.simple) {
                    __m256i less[2];
                    memcpy(less, &s.less, sizeof less);
                    for (int64_t half = k32 * 8; half < k32 * 8 + 8; half++) {  // of a group: of its 16 rows
                        __m256i group = _mm256_loadu_si256((const __m256i*)(from + half * 32));
                        for (int i = 0; i < 4; i++)
                            _mm256_storeu_si256((__m256i*)(to + (half / 2 * 4 + i) * 2 * LANES + half % 2 * LANES),
                                                scaled_e2m1(_mm256_srli_epi16(group, 4 * i), less[half % 2]));
                    }
                    continue;
                }
#endif
                for (int64_t g = k32 * 4; g < k32 * 4 + 4; g++) {
                    vu group = load_u(from + g * 64);
                    __builtin_prefetch(from + g * 64 + ahead, 0, 2);
                    bf16* four = to + g * 8 * LANES;
                    store_u(four, pairs_e2m1<0>(group, s)), store_u(four + 2 * LANES, pairs_e2m1<1>(group, s));
                    store_u(four + 4 * LANES, pairs_e2m1<2>(group, s)), store_u(four + 6 * LANES, pairs_e2m1<3>(group, s));
                }
            }
        }
    }
}

}  // namespace FATHOM_ISA
}  // namespace fathom
