// y = x·Wᵀ for one matrix or several, results rounded to bf16 or left in fp32.
//
// Many rows are cut into groups and shared out among the threads; of few rows the panels are shared out, those of all matrices together,
// so that decoding reads every weight once, at the speed of memory, and starts its threads once.
#pragma once
#include <omp.h>

#include "packed.h"

namespace fathom {
namespace FATHOM_ISA {

// One thread's rows, laid out for the products that take them.
struct Prepared {
    input* data;
    bf16* unpacked;
    const bf16* x = nullptr;
    int64_t stride = 0, columns = 0;
    int rows[GROUP], blocks = 0;

    void take(const bf16* from, int64_t from_stride, int64_t count, int64_t from_columns) {
        if (from == x && from_stride == stride && from_columns == columns) return;
        x = from, stride = from_stride, columns = from_columns, blocks = 0;
        for (int64_t t = 0; t < count; t += ROWS, blocks++) {
            rows[blocks] = (int)smaller(ROWS, count - t);
            for (int r = 0; r < rows[blocks]; r++) prepare_row(data + blocks * ROWS * padded(columns), r, rows[blocks], x + (t + r) * stride, columns);
        }
    }
};

static void linears(const Product* all, int64_t count, int64_t T) {
    constexpr int64_t SIZE = GROUP * ROWS;
    int64_t groups = ceil_div(T, SIZE), work = 0, panels_ = 0, parts = 0, room = 0, more = 0;
    for (int64_t i = 0; i < count; i++) {
        const Weight& w = all[i].w;
        work += T * w.rows * padded(w.columns), panels_ += panel_count(w);
        room = larger(room, SIZE * padded(w.columns) * (int64_t)sizeof(input)), more = larger(more, unpack_bytes(w));
    }
    int threads = work < 1 << 15 ? 1 : omp_get_max_threads();  // a fork costs more than so little work
    int64_t share = smaller(MAX_PANELS, ceil_div(panels_, threads));  // panels of a part, where rows alone don't occupy all threads
    for (int64_t i = 0; i < count; i++) parts += ceil_div(panel_count(all[i].w), share);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Tiles tiles;
        char* memory = (char*)fathom_scratch(THREAD, room + more);
        Prepared own{(input*)memory, (bf16*)(memory + room)};
        auto run = [&](const Product& p, int64_t t0, int64_t p0, int64_t p1) {
            own.take(p.x + t0 * p.x_stride, p.x_stride, smaller(SIZE, T - t0), p.w.columns);
            panels(own.data, own.rows, own.blocks, p.w, p0, p1, own.unpacked,
                   Outputs{[&](int row, int64_t panel, const vf* v, int n) __attribute__((always_inline)) {
                               int64_t at = (t0 + row) * p.y_stride + panel * LANES, left = p.w.rows - panel * LANES;
                               if (p.fp32) store_some((float*)p.y + at, v, n, left);
                               else store_some((bf16*)p.y + at, v, n, left);
                           },
                           [&](int row, int64_t panel) __attribute__((always_inline)) {
                               __builtin_prefetch((char*)p.y + ((t0 + row) * p.y_stride + panel * LANES) * (p.fp32 ? 4 : 2), 1);
                           }});
        };
        if (groups >= threads) {
#pragma omp for schedule(dynamic)
            for (int64_t g = 0; g < groups; g++)
                for (int64_t i = 0; i < count; i++) run(all[i], g * SIZE, 0, panel_count(all[i].w));
        } else {
#pragma omp for schedule(dynamic)
            for (int64_t job = 0; job < groups * parts; job++) {
                int64_t i = 0, part = job % parts, of;
                for (; part >= (of = ceil_div(panel_count(all[i].w), share)); i++) part -= of;
                run(all[i], job / parts * SIZE, part * share, smaller(panel_count(all[i].w), (part + 1) * share));
            }
        }
    }
}

}  // namespace FATHOM_ISA
}  // namespace fathom
