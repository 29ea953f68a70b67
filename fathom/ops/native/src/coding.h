// The number formats of precision `official`: rounding to E4M3 and E2M1, and the rows of bytes that the caches keep.
//
// Bit for bit what quant/ does: a power-of-two scale for each run of numbers (2^ceil(log2(largest / format's largest))), then round to
// nearest even. Rows: quant/rows.py says how they are laid out.
//
// Source: SPEC section 3.
#pragma once
#include <omp.h>

#include "norm.h"
#include "unpack.h"

namespace fathom {
namespace FATHOM_ISA {

constexpr int64_t ACTIVATION_RUN = 128, ENTRY_RUN = 64, KEY_RUN = 32;
constexpr float FLOOR = 1e-4f;  // under the largest magnitude of activations and entries

// ue8m0 code of a run's scale. `inverse_largest` is 1 / the format's largest value.
FATHOM_INLINE uint32_t scale_code(float amax, float floor, float inverse_largest) {
    float quotient = max(amax, floor) * inverse_largest;
    uint32_t bits;
    memcpy(&bits, &quotient, 4);
    uint32_t code = (bits >> 23) + ((bits & 0x7fffff) != 0);
    return code < 255 ? code : 255;
}

FATHOM_INLINE float largest(const float* x, int64_t n) {
    vf top = vf{};
    for (int64_t i = 0; i < n; i += LANES) {
        vf v = load_some(x + i, n - i);
        top = max(top, (vf)((vu)v & 0x7fffffffu));
    }
    return highest(top);
}

// x to the nearest E4M3 (|x| at most 448), as fp32.
FATHOM_INLINE vf round_e4m3(vf x) {
    vu bits = (vu)x, sign = bits & 0x80000000u, size = bits & 0x7fffffffu;
    vf normal = (vf)((size + 0x7ffff + ((size >> 20) & 1)) & ~0xfffffu);
    vf subnormal = ((vf)size + 24576.f) - 24576.f;  // 1.5·2^14: leaves multiples of 2^-9
    return (vf)((vu)(size < (121u << 23) ? (vu)subnormal : (vu)normal) | sign);
}

// Byte of each E4M3 value.
FATHOM_INLINE vu byte_e4m3(vf rounded) {
    vu bits = (vu)rounded, size = bits & 0x7fffffffu;
    vu normal = (size >> 20) - (120u << 3), subnormal = (vu)__builtin_convertvector((vf)size * 512.f, vi);
    return (vu)(size < (121u << 23) ? subnormal : normal) | (bits >> 24 & 0x80);
}

// Nearest E2M1 code (|x| at most 6), ties to the even code; zero keeps its sign.
FATHOM_INLINE vu code_e2m1(vf x) {
    vu bits = (vu)x, sign = bits >> 28 & 8;
    vf size = (vf)(bits & 0x7fffffffu);
    vi code = {};
    code -= (vi)(size > 0.25f);
    code -= (vi)(size >= 0.75f);
    code -= (vi)(size > 1.25f);
    code -= (vi)(size >= 1.75f);
    code -= (vi)(size > 2.5f);
    code -= (vi)(size >= 3.5f);
    code -= (vi)(size > 5.f);
    return (vu)code | sign;
}

// A row of activations, rounded to E4M3 in runs of 128, back in bf16 (exact).
FATHOM_INLINE void quantise_row(bf16* y, const bf16* x, int64_t K) {
    for (int64_t k = 0; k < K; k += ACTIVATION_RUN) {
        int64_t n = smaller(ACTIVATION_RUN, K - k);
        float v[ACTIVATION_RUN];
        widen_row(v, x + k, n);
        uint32_t code = scale_code(largest(v, n), FLOOR, 1.f / 448.f);
        vf scale = power_of_two(splat_u(code)), inverse = code < 255 ? power_of_two(splat_u(254 - code)) : vf{};
        for (int64_t i = 0; i < n; i += LANES) store_some(y + k + i, round_e4m3(load_some(v + i, n - i) * inverse) * scale, n - i);
    }
}

static void quantise(const bf16* x, int64_t rows, int64_t K, bf16* y) {
#pragma omp parallel for schedule(static) if (rows * K > SMALL)
    for (int64_t t = 0; t < rows; t++) quantise_row(y + t * K, x + t * K, K);
}

// --- rows of key-value entries: E4M3 plain dims, bf16 rope dims, scales, padding ---

FATHOM_INLINE int64_t entry_bytes(int64_t C, int64_t R) { return ceil_div(C - R + 2 * R + ceil_div(C - R, ENTRY_RUN), 8) * 8; }

static void encode_entries(const bf16* x, int64_t rows, int64_t C, int64_t R, uint8_t* out) {
    int64_t plain = C - R, bytes = entry_bytes(C, R);
#pragma omp parallel for schedule(static) if (rows * C > SMALL)
    for (int64_t t = 0; t < rows; t++) {
        uint8_t *to = out + t * bytes, *scales = to + plain + 2 * R;
        memset(scales, 0, bytes - plain - 2 * R);
        memcpy(to + plain, x + t * C + plain, 2 * R);
        for (int64_t c = 0; c < plain; c += ENTRY_RUN) {
            int64_t n = smaller(ENTRY_RUN, plain - c);
            float v[ENTRY_RUN];
            widen_row(v, x + t * C + c, n);
            uint32_t code = scale_code(largest(v, n), FLOOR, 1.f / 448.f);
            vf scale = power_of_two(splat_u(code));
            scales[c / ENTRY_RUN] = (uint8_t)code;
            for (int64_t i = 0; i < n; i += LANES) {
                vu byte = byte_e4m3(round_e4m3(load_some(v + i, n - i) / scale));
                for (int64_t j = 0; j < smaller(LANES, n - i); j++) to[c + i + j] = (uint8_t)byte[j];
            }
        }
    }
}

FATHOM_INLINE void decode_entry(bf16* y, const uint8_t* row, int64_t C, int64_t R) {
    int64_t plain = C - R, c = 0;
    const uint8_t* scales = row + plain + 2 * R;
    memcpy(y + plain, row + plain, 2 * R);
    for (; c + 32 <= plain; c += 32) store_u(y + c, pairs_e4m3(row + c, scale_of<FP8>(splat_u(scales[c / ENTRY_RUN]))));
    for (; c < plain; c += LANES) {
        int64_t n = smaller(LANES, plain - c);
        uint8_t bytes[LANES] = {};
        memcpy(bytes, row + c, n);
        vf scale = power_of_two(splat_u(scales[c / ENTRY_RUN]));
        store_some(y + c, from_e4m3(widen_bytes(bytes)) * scale, n);
    }
}

// --- rows of index keys: rotated by the Hadamard matrix, E2M1 nibbles, scales ---

FATHOM_INLINE int64_t key_bytes(int64_t C) { return C / 2 + ceil_div(C, KEY_RUN); }

FATHOM_INLINE void hadamard(float* v, int64_t n) {
    for (int64_t stride = 1; stride < n; stride *= 2)
        for (int64_t i = 0; i < n; i += 2 * stride)
            for (int64_t j = i; j < i + stride; j++) {
                float a = v[j], b = v[j + stride];
                v[j] = a + b, v[j + stride] = a - b;
            }
    float factor = 1.f / __builtin_sqrtf((float)n);
    for (int64_t i = 0; i < n; i++) v[i] *= factor;
}

FATHOM_INLINE void encode_key(uint8_t* row, const bf16* x, int64_t C) {
    float v[1024];
    widen_row(v, x, C);
    hadamard(v, C);
    bf16 rounded[1024];
    narrow_row(rounded, v, C);
    widen_row(v, rounded, C);
    for (int64_t c = 0; c < C; c += KEY_RUN) {
        int64_t n = smaller(KEY_RUN, C - c);
        uint32_t code = scale_code(largest(v + c, n), 6.f * 0x1p-126f, 1.f / 6.f);
        vf scale = power_of_two(splat_u(code));
        row[C / 2 + c / KEY_RUN] = (uint8_t)code;
        for (int64_t i = 0; i < n; i += LANES) {
            vu nibble = code_e2m1(load_some(v + c + i, n - i) / scale);
            for (int64_t j = 0; j < smaller(LANES, n - i); j += 2) row[(c + i + j) / 2] = (uint8_t)(nibble[j] | nibble[j + 1] << 4);
        }
    }
}

FATHOM_INLINE void decode_key(bf16* y, const uint8_t* row, int64_t C) {
    for (int64_t c = 0; c < C; c += KEY_RUN) {
        Scale scale = scale_of<FP4>(splat_u(row[C / 2 + c / KEY_RUN]));
        if (c + KEY_RUN <= C) {
            store_u(y + c, pairs_e2m1(row + c / 2, scale));
            continue;
        }
        uint8_t rest[LANES] = {};
        bf16 values[KEY_RUN];
        memcpy(rest, row + c / 2, (C - c) / 2);
        store_u(values, pairs_e2m1(rest, scale));
        memcpy(y + c, values, (C - c) * sizeof(bf16));
    }
}

static void encode_keys(const bf16* x, int64_t rows, int64_t C, uint8_t* out) {
#pragma omp parallel for schedule(static) if (rows * C > SMALL)
    for (int64_t t = 0; t < rows; t++) encode_key(out + t * key_bytes(C), x + t * C, C);
}

static void index_queries(const bf16* x, int64_t rows, int64_t C, bf16* y) {
#pragma omp parallel for schedule(static) if (rows * C > SMALL)
    for (int64_t t = 0; t < rows; t++) {
        uint8_t row[1024];
        encode_key(row, x + t * C, C);
        decode_key(y + t * C, row, C);
    }
}

}  // namespace FATHOM_ISA
}  // namespace fathom
