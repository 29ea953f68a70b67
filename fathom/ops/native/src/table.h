// What every instruction set offers: one function per operator, on plain pointers.
//
// Strides count elements. Tensors are contiguous unless a stride is given. bf16 values travel as uint16_t. Nothing here checks:
// binding.cpp does, once for all instruction sets.
#pragma once
#include <cstdint>

namespace fathom {

enum Format : int32_t { BF16 = 0, FP8 = 1, FP4 = 2 };

// A matrix [rows, columns] in panels of 16 rows (packed.h). Quantised formats keep one power-of-two exponent byte (ue8m0) for `run`
// columns of each row (FP4) or of each group of rows (FP8), in the order of the panels.
struct Weight {
    const void* data;
    const uint8_t* scale;
    int64_t rows, columns;
    Format format;
};

// One stretch of consecutive tokens of a sequence: flat tokens first … first + length, at positions start …, state row `slot`.
struct Run {
    int64_t first, length, start, slot;
};

// Pool rows of a sequence's entries: entry i of run r is row table[r·width + i / per_block]·per_block + i % per_block. Without a
// table, run r's entries begin at row base[r].
struct Pages {
    const int32_t* table;
    const int64_t* base;
    int64_t width, per_block;
};

// y [T, rows] = x [T, columns] · wᵀ, rounded to bf16 or left in fp32.
struct Product {
    const uint16_t* x;
    int64_t x_stride;
    Weight w;
    void* y;
    int64_t y_stride;
    bool fp32;
};

// How a sublayer reads from the streams: mhc_mix, then rms_norm.
struct Reading {
    Weight fn;
    const float *scale, *base;
    const uint16_t* norm;
    int64_t steps;
    float norm_eps, eps;
};

struct Table {
    const char* name;

    // Products of the same number of rows, none of which reads what another writes.
    void (*linears)(const Product* all, int64_t count, int64_t T);

    // Routed experts and the shared one, of which those with active[e] are done: their outputs go to rows [T, K + 1, D], the shared
    // one's last. gate_up [E + 1] and down [E + 1] hold one Weight an expert, the shared one last; gate_up alternates panels of w1 and
    // w3. official: activations are rounded to E4M3 before each product, gate and up to bf16.
    void (*experts)(const uint16_t* x, int64_t T, int64_t D, int64_t I, const float* weights, const int64_t* chosen, int64_t K, int64_t E,
                    const Weight* gate_up, const Weight* down, const uint8_t* active, float limit, bool official, uint16_t* rows);

    // y [T, D] = sums of rows [T, count, D], in fp32 and in order.
    void (*experts_sum)(const uint16_t* rows, int64_t T, int64_t count, int64_t D, uint16_t* y);

    void (*route)(const float* logits, int64_t T, int64_t E, const float* bias, const int64_t* given, int64_t K, float factor, float* scores,
                  float* weights, int64_t* chosen);

    void (*rms_norm)(const uint16_t* x, int64_t rows, int64_t D, const uint16_t* weight, float eps, uint16_t* y);

    // Norm (unless eps < 0) and rotation (unless R = 0) of rows [T, H, C]; cos, sin [T, R/2]. twice: round between the two as well.
    void (*norm_rope)(const uint16_t* x, int64_t T, int64_t H, int64_t C, const uint16_t* weight, float eps, const float* cos, const float* sin,
                      int64_t R, bool twice, uint16_t* y);

    // fn is packed as [parts·M, N·D]: its bf16 part, then that of what is left over, and so on. comb and post may be null (the head's mix: M = N).
    void (*mhc_mix)(const uint16_t* X, int64_t T, int64_t N, int64_t D, Weight fn, const float* scale, const float* base, int64_t steps,
                    float norm_eps, float eps, uint16_t* h, float* post, float* comb);

    // From one sublayer to the next, in one pass over the streams: what the last one wrote, the sums of rows [T, count, D] (null before the
    // first one), goes into X by post and comb, as experts_sum and mhc_expand would put it; then they and h [T, D] become the next one's
    // (null after the last one).
    void (*mhc_turn)(uint16_t* X, int64_t T, int64_t N, int64_t D, const uint16_t* rows, int64_t count, const Reading* next, uint16_t* h, float* post,
                     float* comb);

    void (*mhc_expand)(const uint16_t* X, const uint16_t* out, const float* post, const float* comb, int64_t T, int64_t N, int64_t D, uint16_t* Y);

    // rows (of `width` bytes): for each run the last history[r] ring rows before it, then its tokens; the ring [slots, L] then
    // remembers the run's last L tokens.
    void (*remember)(uint8_t* ring, int64_t L, int64_t width, const uint8_t* values, const Run* runs, const int64_t* history, int64_t R, uint8_t* rows);

    // Entries of complete windows; kv and gate are the halves of rows [.., 2, P]. previous may be null (no overlap). official: round the
    // pooled and the normed value to bf16.
    void (*compress)(const float* rows, int64_t P, const float* ape, const int64_t* own, const int64_t* previous, int64_t n, int64_t m, int64_t C,
                     const uint16_t* norm, float eps, const float* cos, const float* sin, int64_t R, bool official, uint16_t* y);

    // Up to k best entries of each query, in ascending order, then -1. coded: the pool holds rows of bytes (coding.h).
    void (*index_topk)(const uint16_t* q, const float* w, int64_t J, int64_t C, const void* pool, bool coded, Pages pages, const Run* runs, int64_t R,
                       const int64_t* entry_base, int64_t ratio, int64_t k, int64_t* chosen);

    // Attention over window rows, and dense or chosen entries; see attend.h. coded: rope dims of rows of bytes, -1 where rows are bf16.
    void (*attend)(const uint16_t* q, int64_t H, int64_t C, const void* window, int64_t W, const float* sink, const void* pool, int64_t coded,
                   Pages pages, const Run* runs, int64_t R, const int64_t* entry_base, int64_t ratio, const int64_t* chosen, int64_t k, uint16_t* out);

    // Precision `official` (coding.h). Rows to rows of the same shape, or of bytes.
    void (*quantise)(const uint16_t* x, int64_t rows, int64_t K, uint16_t* y);
    void (*encode_entries)(const uint16_t* x, int64_t rows, int64_t C, int64_t R, uint8_t* out);
    void (*encode_keys)(const uint16_t* x, int64_t rows, int64_t C, uint8_t* out);
    void (*index_queries)(const uint16_t* x, int64_t rows, int64_t C, uint16_t* y);
};

}  // namespace fathom
