// y = x·Wᵀ, the result rounded to bf16 or left in fp32.
//
// Many rows are cut into blocks and shared out among the threads; few rows are prepared once and the panels are shared out, so that
// decoding reads every weight once, at the speed of memory.
#pragma once
#include <omp.h>

#include "packed.h"

namespace fathom {
namespace FATHOM_ISA {

static inline void put(void* y, int64_t at, vf v, int64_t n, bool fp32) {
    if (fp32) store_some((float*)y + at, v, n);
    else store_some((bf16*)y + at, v, n);
}

static void linear(const bf16* x, int64_t x_stride, int64_t T, Weight w, void* y, int64_t y_stride, bool fp32) {
    int64_t K = padded(w.columns), count = panel_count(w), groups = ceil_div(T, GROUP * ROWS);
    int threads = omp_get_max_threads();
    if (T * w.rows * K < 1 << 15) threads = 1;  // a fork costs more than this work
    int64_t parts = groups >= threads ? 1 : ceil_div(threads, groups);  // parts of the panels, where rows alone don't occupy all threads
    int64_t share = ceil_div(ceil_div(count, parts), MAX_PANELS) * MAX_PANELS;
    parts = ceil_div(count, share);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Tiles tiles;
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t g = 0; g < groups; g++)
            for (int64_t part = 0; part < parts; part++) {
                int64_t t0 = g * GROUP * ROWS, t1 = smaller(T, t0 + GROUP * ROWS);
                bf16* a = (bf16*)fathom_scratch(THREAD, GROUP * ROWS * K * sizeof(bf16) + unpack_bytes(w));
                bf16* unpacked = a + GROUP * ROWS * K;
                int rows[GROUP], blocks = 0;
                for (int64_t t = t0; t < t1; t += ROWS, blocks++) {
                    rows[blocks] = (int)smaller(ROWS, t1 - t);
                    for (int r = 0; r < rows[blocks]; r++) prepare_row(a + blocks * ROWS * K, r, rows[blocks], x + (t + r) * x_stride, w.columns);
                }
                panels(a, rows, blocks, w, part * share, smaller(count, (part + 1) * share), unpacked,
                       [&](int row, int64_t panel, const vf* v, int n) __attribute__((always_inline)) {
                           for (int i = 0; i < n; i++) {
                               int64_t column = (panel + i) * LANES;
                               put(y, (t0 + row) * y_stride + column, v[i], w.rows - column, fp32);
                           }
                       });
            }
    }
}

}  // namespace FATHOM_ISA
}  // namespace fathom
