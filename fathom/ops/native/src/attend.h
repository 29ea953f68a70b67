// Attention of a query over its window, over compressed entries (all visible ones, or those chosen for it), and a sink.
//
// A unit of work is a few neighbouring queries with their heads as lanes (or one query with many heads); keys come in pieces, and one
// running softmax (maximum, sum, weighted values, all fp32) goes over the pieces. Neighbours share a piece's keys; a lane that doesn't
// see a key weighs it exactly zero. Pieces begin at fixed positions of the sequence (multiples of 32 positions and of PIECE entries), so a
// query's additions are the same whichever queries it shares its unit with, and however the prompt was cut.
//
// In precision `official` keys are rows of bytes (coding.h), spelled out in bf16 a piece at a time.
//
// Shapes: H heads, C head_dim (even), W window. Source: SPEC section 2, attention item 4.
#pragma once
#include <omp.h>

#include "coding.h"
#include "pages.h"
#include "products.h"

namespace fathom {
namespace FATHOM_ISA {

constexpr int UNIT = 32;        // lanes that a unit gathers from neighbouring queries
constexpr int MOST_LANES = 64;  // lanes of a unit at most, by splitting heads
constexpr int ALIGN = 32;       // window keys are taken from a multiple of this on

struct Unit {  // lane q·heads + h is head h0 + h of query q0 + q
    int64_t run, q0, queries, h0, heads;
};

struct Attend {
    const bf16* q;
    int64_t H, C;
    const void* window;
    int64_t W;
    const float* sink;
    const void* pool;
    int64_t coded;  // rope dims of coded rows, -1 where rows are plain bf16
    Pages pages;
    const Run* runs;
    int64_t R;
    const int64_t* entry_base;
    int64_t ratio;
    const int64_t* chosen;
    int64_t k;
    bf16* out;
    int64_t* window_base;  // [R] window row of position 0 of each run (a row that needn't exist)
    int64_t* first_unit;   // [R + 1]
    int64_t queries, heads;  // of a unit

    // Row `row` of `rows` in bf16: in place, or decoded.
    const bf16* key(const void* rows, int64_t row, bf16* decoded) const {
        if (coded < 0) return (const bf16*)rows + row * C;
        decode_entry(decoded, (const uint8_t*)rows + row * entry_bytes(C, coded), C, coded);
        return decoded;
    }

    int64_t splits() const { return ceil_div(H, heads); }

    Unit unit(int64_t i) const {
        int64_t r = 0, last = R - 1;
        while (r < last) {
            int64_t middle = (r + last + 1) / 2;
            if (first_unit[middle] <= i) r = middle;
            else last = middle - 1;
        }
        int64_t tile = (i - first_unit[r]) / splits(), part = (i - first_unit[r]) % splits();
        int64_t a = tile * queries, h0 = part * heads;
        return {r, runs[r].first + a, smaller(queries, runs[r].length - a), h0, smaller(heads, H - h0)};
    }
};

struct Softmax {  // of one unit
    int64_t lanes, groups, C, wide;
    bf16* packs;        // [groups] packed queries
    float *top, *below; // [groups·16]
    float* total;       // [groups·16][wide]
    float* products;    // [PIECE][groups·16]
    uint32_t* weights;  // [PIECE/2][16]
    float* term;        // [16][wide]
    bf16* values;       // [wide/16][PIECE/2][16][2]
    int32_t *from, *to; // [groups·16] keys of the piece that a lane sees, to exclusive
    const bf16** rows;  // [PIECE]
    const bf16* nothing;  // a row of zeros
    bf16* decoded;        // [PIECE][wide]

    static int64_t bytes(int64_t groups, int64_t C) {
        int64_t wide = ceil_div(C, LANES) * LANES, lanes = groups * LANES;
        return groups * panel_size(C) * 2 + lanes * 16 + lanes * wide * 4 + PIECE * lanes * 4 + PIECE * 32 + 16 * wide * 4 + wide * PIECE * 2 + PIECE * 8 + wide * 2 + PIECE * wide * 2 + 1024;
    }

    void place(void* memory, int64_t n, int64_t c) {
        lanes = n, groups = ceil_div(n, LANES), C = c, wide = ceil_div(C, LANES) * LANES;
        char* at = (char*)memory;
        auto take = [&](int64_t size) { char* p = at; at += ceil_div(size, 64) * 64; return p; };
        packs = (bf16*)take(groups * panel_size(C) * 2);
        top = (float*)take(groups * 64), below = (float*)take(groups * 64);
        from = (int32_t*)take(groups * 64), to = (int32_t*)take(groups * 64);
        total = (float*)take(groups * LANES * wide * 4);
        products = (float*)take(PIECE * groups * 64);
        weights = (uint32_t*)take(PIECE * 32);
        term = (float*)take(16 * wide * 4);
        values = (bf16*)take(wide * PIECE * 2);
        rows = (const bf16**)take(PIECE * 8);
        decoded = (bf16*)take(PIECE * wide * 2);
        bf16* zeros = (bf16*)take(wide * 2);
        memset(zeros, 0, wide * 2);
        nothing = zeros;
    }

    // The next n keys (rows[0 … n)), of which lane l sees from[l] … to[l].
    void piece(int n, float scale) {
        int even = (int)ceil_div(n, ALIGN) * ALIGN;
        for (int i = n; i < even; i++) rows[i] = nothing;
        ::fathom::FATHOM_ISA::products(rows, n, packs, groups, C, products);
        pack_values(values, rows, even, C);
        for (int64_t g = 0; g < groups; g++) group(g, n, even, scale);
    }

    void group(int64_t g, int n, int even, float scale) {
        vi first, last;
        memcpy(&first, from + g * LANES, 64), memcpy(&last, to + g * LANES, 64);
        vf peak = splat(-__builtin_inff());
        int64_t step = groups * LANES;
        float* logits = products + g * LANES;
        for (int i = 0; i < n; i++) {
            vi key = (vi)splat_u(i);
            vf v = (key >= first) & (key < last) ? load(logits + i * step) * scale : splat(-__builtin_inff());
            store(logits + i * step, v);
            peak = max(peak, v);
        }
        vf old = load(top + g * LANES), highest = max(old, peak), fade = exp(old - highest), sum_ = load(below + g * LANES) * fade;
        for (int i = 0; i < even; i += 2) {
            vf a = i < n ? exp(load(logits + i * step) - highest) : vf{}, b = i + 1 < n ? exp(load(logits + (i + 1) * step) - highest) : vf{};
            sum_ += a;
            sum_ += b;
            vu low = __builtin_convertvector(narrow(a), vu), high = __builtin_convertvector(narrow(b), vu);
            store_u(weights + i / 2 * LANES, low | high << 16);
        }
        store(top + g * LANES, highest), store(below + g * LANES, sum_);
        int some = (int)smaller(LANES, lanes - g * LANES);
        weigh(weights, some, values, even, C, term);
        for (int l = 0; l < some; l++) {
            float* to_ = total + (g * LANES + l) * wide;
            for (int64_t c = 0; c < wide; c += LANES) store(to_ + c, fma(load(to_ + c), splat(fade[l]), load(term + l * wide + c)));
        }
    }
};

// Lanes of query i of the unit see keys a … b of the piece.
FATHOM_INLINE void see(Softmax& s, const Unit& u, int64_t i, int64_t a, int64_t b) {
    for (int64_t l = i * u.heads; l < (i + 1) * u.heads; l++) s.from[l] = (int32_t)a, s.to[l] = (int32_t)b;
}

static void attend_unit(const Attend& a, const Unit& u) {
    Softmax s;
    int64_t lanes = u.queries * u.heads, C = a.C;
    s.place(fathom_scratch(THREAD, Softmax::bytes(ceil_div(lanes, LANES), C)), lanes, C);
    float scale = 1.f / __builtin_sqrtf((float)C);
    for (int64_t l = 0; l < s.groups * LANES; l++) {
        s.top[l] = l < lanes ? a.sink[u.h0 + l % u.heads] : 0;
        s.below[l] = 1, s.from[l] = s.to[l] = 0;
    }
    memset(s.total, 0, s.groups * LANES * s.wide * 4);
    for (int64_t l = 0; l < lanes; l += LANES) {  // lanes of one group may belong to several queries; their rows follow one another
        int64_t n = smaller(LANES, lanes - l);
        pack_lanes(s.packs + l / LANES * panel_size(C), a.q + (u.q0 * a.H + u.h0 + l) * C, C, n, C);
    }
    const Run& run = a.runs[u.run];
    int64_t p0 = run.start + u.q0 - run.first, p1 = p0 + u.queries;  // positions of the queries
    int64_t oldest = larger(0, p0 - a.W + 1);
    for (int64_t k0 = oldest / ALIGN * ALIGN; k0 < p1;) {
        int64_t k1 = smaller(p1, (k0 / PIECE + 1) * PIECE);
        for (int64_t k = k0; k < k1; k++) s.rows[k - k0] = k < oldest ? s.nothing : a.key(a.window, a.window_base[u.run] + k, s.decoded + (k - k0) * s.wide);
        for (int64_t i = 0; i < u.queries; i++) see(s, u, i, p0 + i - a.W + 1 - k0, p0 + i + 1 - k0);
        s.piece((int)(k1 - k0), scale);
        k0 = k1;
    }
    if (a.ratio && !a.chosen) {
        int64_t visible = p1 / a.ratio;
        for (int64_t e0 = 0; e0 < visible; e0 += PIECE) {
            int64_t e1 = smaller(visible, e0 + PIECE);
            for (int64_t e = e0; e < e1; e++) s.rows[e - e0] = a.key(a.pool, pool_row(a.pages, u.run, e), s.decoded + (e - e0) * s.wide);
            for (int64_t i = 0; i < u.queries; i++) see(s, u, i, 0, (p0 + i + 1) / a.ratio - e0);
            s.piece((int)(e1 - e0), scale);
        }
    } else if (a.ratio) {  // one query a unit
        const int64_t* list = a.chosen + u.q0 * a.k;
        int64_t count = 0;
        while (count < a.k && list[count] >= 0) count++;
        for (int64_t e0 = 0; e0 < count; e0 += PIECE) {
            int64_t e1 = smaller(count, e0 + PIECE);
            for (int64_t e = e0; e < e1; e++)
                s.rows[e - e0] = a.key(a.pool, pool_row(a.pages, u.run, list[e] - a.entry_base[u.run]), s.decoded + (e - e0) * s.wide);
            see(s, u, 0, 0, e1 - e0);
            s.piece((int)(e1 - e0), scale);
        }
    }
    for (int64_t l = 0; l < lanes; l++) {
        bf16* to = a.out + ((u.q0 + l / u.heads) * a.H + u.h0 + l % u.heads) * C;
        for (int64_t c = 0; c < C; c += LANES) store_some(to + c, load(s.total + l * s.wide + c) / s.below[l], C - c);
    }
}

static void attend(const bf16* q, int64_t H, int64_t C, const void* window, int64_t W, const float* sink, const void* pool, int64_t coded,
                   Pages pages, const Run* runs, int64_t R, const int64_t* entry_base, int64_t ratio, const int64_t* chosen, int64_t k, bf16* out) {
    int64_t* numbers = (int64_t*)fathom_scratch(CALL, (2 * R + 1) * sizeof(int64_t));
    Attend a{q, H, C, window, W, sink, pool, coded, pages, runs, R, entry_base, ratio, chosen, k, out, numbers, numbers + R, 1, smaller(H, MOST_LANES)};
    if (!chosen) a.queries = larger(1, UNIT / H);
    int64_t row = 0, units = 0;
    for (int64_t r = 0; r < R; r++) {
        int64_t history = smaller(runs[r].start, W - 1);
        a.window_base[r] = row - (runs[r].start - history);
        row += history + runs[r].length;
        a.first_unit[r] = units;
        units += ceil_div(runs[r].length, a.queries) * a.splits();
    }
    a.first_unit[R] = units;
#pragma omp parallel for schedule(dynamic) if (units > 1)
    for (int64_t i = 0; i < units; i++) attend_unit(a, a.unit(i));
}

}  // namespace FATHOM_ISA
}  // namespace fathom
