// Sixteen fp32 lanes, and bf16 pairs, on any instruction set.
//
// The kernels are written once, in the compiler's vector types, and compiled once per instruction set (isa.cpp). What decides the speed
// is the product of bf16 pairs, added to fp32. AVX-512 with bf16 has an instruction for it. Elsewhere it is two multiply-adds, and what it
// multiplies must be widened first: the side that is read for many products once, in advance (`input`), the other in registers. The
// compiler keeps a vector that is wider than the machine's registers in memory, so the two products that take nearly all of the time work
// on vectors of the machine's own width, `vn`, of which a whole one has PIECES.
//
// Everything is in a namespace named after the instruction set and nothing comes from the C++ library, so the linker can't merge a
// function compiled for a wide machine into code that must run on a narrow one.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace fathom {
namespace FATHOM_ISA {

typedef uint16_t bf16;  // the upper half of an fp32
typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));
typedef uint16_t vh __attribute__((vector_size(32)));

constexpr int LANES = 16;
#if defined(__AVX512F__)
constexpr int NATIVE = 16;  // lanes of a register
#elif defined(__AVX2__)
constexpr int NATIVE = 8;
#else
constexpr int NATIVE = 4;
#endif
constexpr int PIECES = LANES / NATIVE;
typedef float vn __attribute__((vector_size(4 * NATIVE)));
typedef int32_t in __attribute__((vector_size(4 * NATIVE)));
typedef uint32_t un __attribute__((vector_size(4 * NATIVE)));
typedef uint16_t hn __attribute__((vector_size(2 * NATIVE)));

#define FATHOM_INLINE static inline __attribute__((always_inline))
#define FATHOM_MEMBER inline __attribute__((always_inline))

FATHOM_INLINE vf splat(float x) { return vf{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
FATHOM_INLINE vi splat_i(int32_t x) { return vi{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
FATHOM_INLINE vu splat_u(uint32_t x) { return vu{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
FATHOM_INLINE vf load(const float* p) { vf v; memcpy(&v, p, sizeof v); return v; }
FATHOM_INLINE void store(float* p, vf v) { memcpy(p, &v, sizeof v); }
FATHOM_INLINE vu load_u(const void* p) { vu v; memcpy(&v, p, sizeof v); return v; }
FATHOM_INLINE void store_u(void* p, vu v) { memcpy(p, &v, sizeof v); }

#if !defined(__AVX512F__)
// f of every piece: in registers, where of a whole vector the compiler would make lanes.
template <class F>
FATHOM_INLINE vf each(vf a, F&& f) {
    vn x[PIECES];
    memcpy(x, &a, sizeof a);
    for (int p = 0; p < PIECES; p++) x[p] = f(x[p]);
    memcpy(&a, x, sizeof a);
    return a;
}
template <class F>
FATHOM_INLINE vf each(vf a, vf b, F&& f) {
    vn x[PIECES], y[PIECES];
    memcpy(x, &a, sizeof a), memcpy(y, &b, sizeof b);
    for (int p = 0; p < PIECES; p++) x[p] = f(x[p], y[p]);
    memcpy(&a, x, sizeof a);
    return a;
}

// Bit i is set where f of the lanes i is true.
template <class F>
FATHOM_INLINE uint32_t bits_where(vf a, vf b, F&& f) {
    vf m = each(a, b, [&](vn x, vn y) __attribute__((always_inline)) { return (vn)f(x, y); });
    uint32_t bits = 0;
#if defined(__AVX2__)
    __m256 half[2];
    memcpy(half, &m, sizeof m);
    bits = (uint32_t)_mm256_movemask_ps(half[0]) | (uint32_t)_mm256_movemask_ps(half[1]) << 8;
#else
    for (int i = 0; i < LANES; i++) bits |= (uint32_t)(((vi)m)[i] & 1) << i;
#endif
    return bits;
}

FATHOM_INLINE vn max(vn a, vn b) { return a > b ? a : b; }
FATHOM_INLINE vn min(vn a, vn b) { return a < b ? a : b; }
FATHOM_INLINE vn fma(vn a, vn b, vn c) {
#if defined(__FMA__)
    return (vn)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}
#endif

#if defined(__AVX512F__)
FATHOM_INLINE vf max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
FATHOM_INLINE vf min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
#else
FATHOM_INLINE vf max(vf a, vf b) { return each(a, b, [](vn x, vn y) __attribute__((always_inline)) { return max(x, y); }); }
FATHOM_INLINE vf min(vf a, vf b) { return each(a, b, [](vn x, vn y) __attribute__((always_inline)) { return min(x, y); }); }
#endif
FATHOM_INLINE float max(float a, float b) { return a > b ? a : b; }

FATHOM_INLINE vf widen(vh h) {
#if defined(__AVX512F__)
    return (vf)((vu)_mm512_cvtepu16_epi32((__m256i)h) << 16);  // the compiler's own conversion goes by halves
#else
    hn from[PIECES];
    vn to[PIECES];
    memcpy(from, &h, sizeof h);
    for (int p = 0; p < PIECES; p++) to[p] = (vn)(__builtin_convertvector(from[p], un) << 16);
    vf v;
    memcpy(&v, to, sizeof v);
    return v;
#endif
}
FATHOM_INLINE vf load_bf(const bf16* p) { vh h; memcpy(&h, p, sizeof h); return widen(h); }
FATHOM_INLINE float widen(bf16 h) { uint32_t u = (uint32_t)h << 16; float f; memcpy(&f, &u, 4); return f; }

// Rounds to nearest even; NaN stays NaN. To the low half of each lane.
FATHOM_INLINE un rounded(vn x) {
    un u = (un)x, up = (u + 0x7fff + ((u >> 16) & 1)) >> 16, nan = (u >> 16) | 0x40;
    return (u & 0x7fffffff) > 0x7f800000 ? nan : up;
}
FATHOM_INLINE vh narrow(vf x) {
#if defined(__AVX512BF16__)
    return (vh)_mm512_cvtneps_pbh((__m512)x);
#else
    vn from[PIECES];
    hn to[PIECES];
    memcpy(from, &x, sizeof x);
    for (int p = 0; p < PIECES; p++) to[p] = __builtin_convertvector(rounded(from[p]), hn);
    vh h;
    memcpy(&h, to, sizeof h);
    return h;
#endif
}
FATHOM_INLINE void store_bf(bf16* p, vf x) { vh h = narrow(x); memcpy(p, &h, sizeof h); }
FATHOM_INLINE void store_bf(bf16* p, vf x, vf y) {  // side by side
#if defined(__AVX512BF16__)
    store_u(p, (vu)_mm512_cvtne2ps_pbh((__m512)y, (__m512)x));
#else
    store_bf(p, x), store_bf(p + LANES, y);
#endif
}

// The same past the caches, for memory that isn't read again soon; p is a multiple of 64 bytes. Until `streamed`, others may not see it.
FATHOM_INLINE void stream_bf(bf16* p, vf x, vf y) {
#if defined(__AVX512BF16__)
    _mm512_stream_si512((__m512i*)p, (__m512i)_mm512_cvtne2ps_pbh((__m512)y, (__m512)x));
#elif defined(__AVX512F__)
    _mm512_stream_si512((__m512i*)p, _mm512_inserti64x4(_mm512_castsi256_si512((__m256i)narrow(x)), (__m256i)narrow(y), 1));
#else
    store_bf(p, x, y);
#endif
}
FATHOM_INLINE void streamed() {
#if defined(__AVX512F__)
    _mm_sfence();
#endif
}

// x in the low halves of lanes, y in the high ones.
FATHOM_INLINE vu narrow_pairs(vf x, vf y) {
#if defined(__AVX512BF16__)
    const vu lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (vu)_mm512_permutexvar_epi16((__m512i)(lane | (lane + LANES) << 16), (__m512i)_mm512_cvtne2ps_pbh((__m512)y, (__m512)x));
#else
    vn low[PIECES], high[PIECES];
    un pairs[PIECES];
    memcpy(low, &x, sizeof x), memcpy(high, &y, sizeof y);
    for (int p = 0; p < PIECES; p++) pairs[p] = rounded(low[p]) | rounded(high[p]) << 16;
    vu v;
    memcpy(&v, pairs, sizeof v);
    return v;
#endif
}
FATHOM_INLINE bf16 narrow(float x) { bf16 out[LANES]; store_bf(out, splat(x)); return out[0]; }

// a·b + c, rounded once where the machine can: one spelling, so that a sum has the same bits wherever it is written.
FATHOM_INLINE vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    vn x[PIECES], y[PIECES], z[PIECES];
    memcpy(x, &a, sizeof a), memcpy(y, &b, sizeof b), memcpy(z, &c, sizeof c);
    for (int p = 0; p < PIECES; p++) z[p] = fma(x[p], y[p], z[p]);
    memcpy(&c, z, sizeof c);
    return c;
#endif
}
FATHOM_INLINE float fma(float a, float b, float c) {
#if defined(__FMA__)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

// Bit i is set where a[i] = b[i].
FATHOM_INLINE uint32_t same(vf a, vf b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ);
#else
    return bits_where(a, b, [](vn x, vn y) __attribute__((always_inline)) { return x == y; });
#endif
}

// Bit i is set where a[i] > b[i].
FATHOM_INLINE uint32_t greater(vf a, vf b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
#else
    return bits_where(a, b, [](vn x, vn y) __attribute__((always_inline)) { return x > y; });
#endif
}

FATHOM_INLINE un load_n(const void* p) { un v; memcpy(&v, p, sizeof v); return v; }

// 32 bits for all lanes.
FATHOM_INLINE un every(const void* p) { uint32_t u; memcpy(&u, p, 4); return un{} + u; }

// A value of what the products read again and again, and a pair of them from two bf16.
#if defined(__AVX512BF16__) || defined(FATHOM_TILES)
constexpr bool PAIRED = true;
typedef bf16 input;
FATHOM_INLINE void put_pair(input* p, const bf16* x) { memcpy(p, x, 4); }
#else
constexpr bool PAIRED = false;
typedef float input;
FATHOM_INLINE void put_pair(input* p, const bf16* x) {
    float both[2] = {widen(x[0]), widen(x[1])};
    memcpy(p, both, 8);
}

FATHOM_INLINE vn low_half(un pairs) { return (vn)(pairs << 16); }
FATHOM_INLINE vn high_half(un pairs) { return (vn)(pairs & 0xffff0000u); }
#endif

#if !defined(FATHOM_TILES)
// acc + x[1]·w.high + x[0]·w.low, lane by lane, for lanes of two bf16.
FATHOM_INLINE vn dot2(vn acc, const input* x, un w) {
#if defined(__AVX512BF16__)
    return (vn)_mm512_dpbf16_ps((__m512)acc, (__m512bh)every(x), (__m512bh)w);
#else
    acc = fma((vn)every(x + 1), high_half(w), acc);
    return fma((vn)every(x), low_half(w), acc);
#endif
}
#endif

// A whole vector of its pieces.
FATHOM_INLINE vf whole(const vn* pieces) {
    vn copy[PIECES];  // so that the sums themselves never need an address
    for (int p = 0; p < PIECES; p++) copy[p] = pieces[p];
    vf v;
    memcpy(&v, copy, sizeof v);
    return v;
}

// Up to `n` lanes; the others are zero and stay unread or unwritten.
FATHOM_INLINE vf load_some(const float* p, int64_t n) {
    if (n >= LANES) return load(p);
    float buffer[LANES] = {};
    for (int64_t i = 0; i < n; i++) buffer[i] = p[i];
    return load(buffer);
}
FATHOM_INLINE vf load_some(const bf16* p, int64_t n) {
    if (n >= LANES) return load_bf(p);
    bf16 buffer[LANES] = {};
    for (int64_t i = 0; i < n; i++) buffer[i] = p[i];
    return load_bf(buffer);
}
FATHOM_INLINE void store_some(float* p, vf v, int64_t n) {
    if (n >= LANES) return store(p, v);
    for (int64_t i = 0; i < n; i++) p[i] = v[i];
}
FATHOM_INLINE void store_some(bf16* p, vf v, int64_t n) {
    if (n >= LANES) return store_bf(p, v);
    vh h = narrow(v);
    for (int64_t i = 0; i < n; i++) p[i] = h[i];
}

// The same for vectors side by side.
template <class Value>
FATHOM_INLINE void store_some(Value* p, const vf* v, int count, int64_t n) {
    for (int i = 0; i < count; i++) store_some(p + i * LANES, v[i], n - i * LANES);
}
FATHOM_INLINE void store_some(bf16* p, const vf* v, int count, int64_t n) {
    int i = 0;
    if (n >= count * LANES)
        for (; i + 2 <= count; i += 2) store_bf(p + i * LANES, v[i], v[i + 1]);
    for (; i < count; i++) store_some(p + i * LANES, v[i], n - i * LANES);
}

// Eight lanes beside eight others.
FATHOM_INLINE vf beside(const float* a, const float* b) {
#if defined(__AVX512F__)
    return (vf)_mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(a)), _mm256_loadu_ps(b), 1);
#else
    float both[LANES];
    memcpy(both, a, 32), memcpy(both + 8, b, 32);
    return load(both);
#endif
}
FATHOM_INLINE vf halves_swapped(vf v) {
    const vi other = {8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7};
    return __builtin_shuffle(v, other);
}

// f(d, n) for every vector d … d + n of a row, n = LANES but for the last: a constant that load_some and store_some go by.
template <class F>
FATHOM_INLINE void by_lanes(int64_t length, F&& f, int64_t from = 0) {
    int64_t d = from;
    for (; d + LANES <= length; d += LANES) f(d, LANES);
    if (d < length) f(d, length - d);
}

FATHOM_INLINE void widen_row(float* v, const bf16* x, int64_t D) {
    by_lanes(D, [&](int64_t d, int64_t n) __attribute__((always_inline)) { store_some(v + d, load_some(x + d, n), n); });
}

// Always the same tree, whatever the instruction set: lane i and lane i + 8, then i + 4, i + 2, i + 1.
FATHOM_INLINE float sum(vf v) {
#if defined(__AVX512F__)
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
    float x[LANES];
    store(x, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
#endif
}

// e^x within two units in the last place; 0 below -87, so that a masked logit weighs exactly nothing.
FATHOM_INLINE vn exp_piece(vn x) {
    auto all = [](float v) __attribute__((always_inline)) { return vn{} + v; };
    vn shifted = min(max(x, all(-88.f)), all(88.f));
#if defined(__AVX512F__)
    vn n = (vn)_mm512_roundscale_ps((__m512)(shifted * 1.44269504088896341f), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    vn n = shifted * 1.44269504088896341f + 12582912.f;  // the magic number leaves the rounded exponent in the low bits
    in exponent = (in)n - 0x4B400000;
    n = n - 12582912.f;
#endif
    vn f = fma(n, all(2.12194440e-4f), fma(n, all(-0.693359375f), shifted));
    vn p = all(1.9875691500e-4f);
    p = fma(p, f, all(1.3981999507e-3f));
    p = fma(p, f, all(8.3334519073e-3f));
    p = fma(p, f, all(4.1665795894e-2f));
    p = fma(p, f, all(1.6666665459e-1f));
    p = fma(p, f, all(5.0000001201e-1f));
    p = fma(p, f * f, f) + 1.f;
#if defined(__AVX512F__)
    return (vn)_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-87.f), _CMP_NLT_UQ), (__m512)p, (__m512)n);
#else
    return x < -87.f ? vn{} : p * (vn)((exponent + 127) << 23);
#endif
}
FATHOM_INLINE vf exp(vf x) {
#if defined(__AVX512F__)
    return exp_piece(x);
#else
    return each(x, [](vn piece) __attribute__((always_inline)) { return exp_piece(piece); });
#endif
}
FATHOM_INLINE float exp(float x) { return exp(splat(x))[0]; }

// 2^x within two units in the last place, for x up to 127; 0 below -126, so that a masked logit weighs exactly nothing. Half of exp's work.
FATHOM_INLINE vn exp2_piece(vn x) {
    auto all = [](float v) __attribute__((always_inline)) { return vn{} + v; };
#if defined(__AVX512F__)
    vn f = (vn)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);  // 0 of an infinite x
#else
    vn raised = max(x, all(-126.f)), n = raised + 12582912.f;  // the magic number leaves the rounded exponent in the low bits
    in exponent = (in)n - 0x4B400000;
    vn f = raised - (n - 12582912.f);
#endif
    vn p = all(1.3264727313e-3f);
    p = fma(p, f, all(9.6715129912e-3f));
    p = fma(p, f, all(5.5507335812e-2f));
    p = fma(p, f, all(2.4022242427e-1f));
    p = fma(p, f, all(6.9314700365e-1f));
    p = fma(p, f, all(1.f));
#if defined(__AVX512F__)
    return (vn)_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-126.f), _CMP_NLT_UQ), (__m512)p, (__m512)(x - f));
#else
    return x < -126.f ? vn{} : p * (vn)((exponent + 127) << 23);
#endif
}
FATHOM_INLINE vf exp2(vf x) {
#if defined(__AVX512F__)
    return exp2_piece(x);
#else
    return each(x, [](vn piece) __attribute__((always_inline)) { return exp2_piece(piece); });
#endif
}
constexpr float LOG2_E = 1.44269504088896341f;

// 1 / x within two units in the last place, for positive x that are neither tiny nor huge.
FATHOM_INLINE vf reciprocal(vf x) {
#if defined(__AVX512F__)
    vf y = (vf)_mm512_rcp14_ps((__m512)x);
    return fma(y, fma(-x, y, splat(1.f)), y);
#else
    return 1.f / x;
#endif
}

FATHOM_INLINE vf sqrt(vf x) {
#if defined(__AVX512F__)
    return (vf)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return each(x, [](vn piece) __attribute__((always_inline)) { return (vn)_mm256_sqrt_ps((__m256)piece); });
#else
    for (int i = 0; i < LANES; i++) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
}

// ln(1 + e^x) within a few units in the last place, for x of at most 80.
FATHOM_INLINE vf softplus(vf x) {
    vf e = exp(x), u = 1.f + e;
    vi k = ((vi)u - 0x3f3504f3) >> 23;  // u = m·2^k, m from √½ to √2
    vf f = k == 0 ? e : (vf)((vi)u - (k << 23)) - 1.f, s = f / (2.f + f), z = s * s;
    vf p = fma(z, splat(1.f / 11), splat(1.f / 9));
    p = fma(p, z, splat(1.f / 7));
    p = fma(p, z, splat(1.f / 5));
    p = fma(p, z, splat(1.f / 3));
    p = fma(p, z, splat(1.f));
    return fma(__builtin_convertvector(k, vf), splat(0.693147180559945f), 2.f * s * p);
}

// The largest lane.
FATHOM_INLINE float highest(vf v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float top = v[0];
    for (int i = 1; i < LANES; i++) top = max(top, v[i]);
    return top;
#endif
}

FATHOM_INLINE vf sigmoid(vf x) { return reciprocal(1.f + exp2(min(x * -LOG2_E, splat(126.f)))); }

// Sixteen rows of sixteen lanes, rows to columns; or N rows: each N of their lanes by itself.
template <int N = LANES>
FATHOM_INLINE void transpose(vu* m) {
#if defined(__AVX512F__)
    const vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#pragma GCC unroll 4
    for (int d = N / 2; d; d /= 2) {  // blocks of d by d change places
        vi low = (lane & d) != 0 ? lane - d + LANES : lane, high = (lane & d) != 0 ? lane + LANES : lane + d;
#pragma GCC unroll 16
        for (int i = 0; i < N; i++)
            if (!(i & d)) {
                vu a = m[i], b = m[i + d];
                m[i] = __builtin_shuffle(a, b, (vu)low), m[i + d] = __builtin_shuffle(a, b, (vu)high);
            }
    }
#else
    uint32_t from[N][LANES];
    memcpy(from, m, sizeof from);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < LANES; j++) m[j % N][j / N * N + i] = from[i][j];
#endif
}

// Writes the lanes whose bits are set side by side, with room for all, and says how many.
FATHOM_INLINE int64_t store_chosen(void* to, vu v, uint32_t bits) {
#if defined(__AVX512F__)
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32((__mmask16)bits, (__m512i)v));
#else
    char* at = (char*)to;
    for (uint32_t rest = bits; rest; rest &= rest - 1, at += 4) {
        uint32_t lane = v[__builtin_ctz(rest)];
        memcpy(at, &lane, 4);
    }
#endif
    return __builtin_popcount(bits);
}

FATHOM_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
FATHOM_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
FATHOM_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace FATHOM_ISA
}  // namespace fathom
