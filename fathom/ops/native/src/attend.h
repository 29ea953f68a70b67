// Attention of a query over its window, over compressed entries (all visible ones, or those chosen for it), and a sink.
//
// A unit of work is a few neighbouring queries with their heads as lanes (or one query with many heads); keys come in pieces, and one
// running softmax (maximum, sum, weighted values, all fp32; powers of two) goes over the pieces. Neighbours share a piece's keys; a lane that
// doesn't see a key weighs it exactly zero. Entries that were chosen for one query are pieces for its lanes alone. Pieces begin at fixed
// positions of the sequence (multiples of 32 positions and of PIECE entries), so a query's additions are the same whichever queries it
// shares its unit with, and however the prompt was cut.
//
// In precision `official` keys are rows of bytes (coding.h), spelled out in bf16 a piece at a time. There the weights themselves are rounded
// to bf16, not exponentials yet to be divided, so the pieces are visited twice: for maximum and sum, then for the values.
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

constexpr int EIGHT = 8;
constexpr int KEPT = 6;  // pieces of a unit that are kept from their first visit to the second

enum Visit { RUNNING, MEASURE, WEIGH };  // pieces once; or for maximum and sum, and again for the values

struct Softmax {  // of one unit
    int64_t lanes, groups, C, wide;
    int64_t first, span, offset, own;  // groups and lanes that pieces are for: turn_to
    int64_t pieces, kept;  // visited so far; room for
    int counts[KEPT];
    bf16* packs;        // [groups] packed queries
    float *top, *below; // [groups·16]
    float* total;       // [groups·16][wide]
    float* products;    // [kept][PIECE][groups·16]
    input* weights;     // [PIECE/2][16] pairs
    float* term;        // [16][wide]
    bf16* values;       // [kept][wide/16][PIECE/2][16][2]
    int32_t *from, *to; // [groups·16] keys of the piece that a lane sees, to exclusive
    const bf16** rows;  // [PIECE]
    const bf16* nothing;  // a row of zeros
    bf16* decoded;        // [PIECE][wide]

    static int64_t bytes(int64_t groups, int64_t C, int64_t kept) {
        int64_t wide = ceil_div(C, LANES) * LANES, lanes = groups * LANES;
        int64_t once = groups * panel_size(C) * 2 + lanes * 16 + lanes * wide * 4, a_piece = kept * PIECE * (lanes * 4 + wide * 2);
        return once + a_piece + PIECE * LANES * (int64_t)sizeof(input) + 16 * wide * 4 + PIECE * 8 + wide * 2 + PIECE * wide * 2 + 1024;
    }

    void place(void* memory, int64_t n, int64_t c, int64_t room) {
        lanes = n, groups = ceil_div(n, LANES), C = c, wide = ceil_div(C, LANES) * LANES, pieces = 0, kept = room;
        char* at = (char*)memory;
        auto take = [&](int64_t size) { char* p = at; at += ceil_div(size, 64) * 64; return p; };
        packs = (bf16*)take(groups * panel_size(C) * 2);
        top = (float*)take(groups * 64), below = (float*)take(groups * 64);
        from = (int32_t*)take(groups * 64), to = (int32_t*)take(groups * 64);
        total = (float*)take(groups * LANES * wide * 4);
        products = (float*)take(kept * PIECE * groups * 64);
        weights = (input*)take(PIECE * LANES * sizeof(input));
        term = (float*)take(16 * wide * 4);
        values = (bf16*)take(kept * wide * PIECE * 2);
        rows = (const bf16**)take(PIECE * 8);
        decoded = (bf16*)take(PIECE * wide * 2);
        bf16* zeros = (bf16*)take(wide * 2);
        memset(zeros, 0, wide * 2);
        nothing = zeros;
    }

    // The pieces that follow are for `count` lanes from `lane` on: whole groups, or up to half a group.
    void turn_to(int64_t lane, int64_t count) { first = lane / LANES, offset = lane % LANES, own = count, span = ceil_div(offset + count, LANES); }

    int64_t step() const { return span * LANES; }  // from one key's products to the next one's
    float* logits(int64_t slot, int64_t g) { return products + slot * PIECE * groups * LANES + (g - first) * LANES; }
    bf16* packed_values(int64_t slot) { return values + slot * wide * PIECE; }

    // The next n keys (rows[0 … n)), of which lane l sees from[l] … to[l], and all lanes those from `all0` to `all1`. For one query (`alone`)
    // of at most eight heads, two keys make a vector.
    template <Visit visit>
    void piece(int n, float scale, int64_t all0, int64_t all1, bool alone = false) {
        int64_t slot = visit == MEASURE && pieces < kept ? pieces : 0;
        int even = (int)ceil_div(n, ALIGN) * ALIGN;
        for (int i = n; i < even; i++) rows[i] = nothing;
        counts[slot] = n;
        ::fathom::FATHOM_ISA::products(rows, n, packs + first * panel_size(C), span, C, logits(slot, first));
        if (visit != MEASURE || pieces < kept) pack_values(packed_values(slot), rows, even, C);
        all0 = larger(0, all0), all1 = smaller(n, all1);
        if (visit == RUNNING && alone && own <= EIGHT) run_eight(n, even, scale);
        else
            for (int64_t g = first; g < first + span; g++) {
                mask(slot, g, 0, (int)smaller(n, all1 > all0 ? all0 : n));
                if (all1 > all0) mask(slot, g, (int)all1, n);
                vf peak = peak_of(slot, g, n) * scale;
                if constexpr (visit == RUNNING) run(g, n, peak, scale);
                if constexpr (visit == MEASURE) measure(slot, g, n, peak, scale);
                if constexpr (visit == WEIGH) weigh_group(slot, g, scale);
            }
        pieces++;
    }

    // Takes away what a lane doesn't see of keys a … b.
    void mask(int64_t slot, int64_t g, int a, int b) {
        vi from_, to_;
        memcpy(&from_, from + g * LANES, 64), memcpy(&to_, to + g * LANES, 64);
        float* at = logits(slot, g) + a * step();
        for (int i = a; i < b; i++, at += step()) {
            vi key = (vi)splat_u(i);
            store(at, (key >= from_) & (key < to_) ? load(at) : splat(-__builtin_inff()));
        }
    }

    // Each lane's largest product. Scaling keeps the order.
    vf peak_of(int64_t slot, int64_t g, int n) {
        vf peak = splat(-__builtin_inff());
        const float* at = logits(slot, g);
        for (int i = 0; i < n; i++, at += step()) peak = max(peak, load(at));
        return peak;
    }

    // Weights of the piece's keys for `weigh`, by a function of their number; keys that don't exist weigh nothing.
    template <class Weigh>
    void put_all(int n, int even, Weigh&& weight) {
        for (int i = 0; i < even; i += ALIGN) {
            vu pairs[LANES];
            for (int j = 0; j < LANES; j++) {
                int key = i + 2 * j;
                vf a = key < n ? weight(key) : vf{}, b = key + 1 < n ? weight(key + 1) : vf{};
                pairs[j] = narrow_pairs(a, b);
            }
            put_weights(weights, i, pairs);
        }
    }

    // One visit for everything: what was summed up so far fades as the maximum grows.
    void run(int64_t g, int n, vf peak, float scale) {
        vf old = load(top + g * LANES), highest = max(old, peak), fade = exp2(old - highest), sum_ = load(below + g * LANES) * fade;
        const float* at = logits(0, g);
        int even = (int)ceil_div(n, ALIGN) * ALIGN;
        put_all(n, even, [&](int key) __attribute__((always_inline)) {
            vf weight = exp2(fma(load(at + key * step()), splat(scale), -highest));
            sum_ += weight;
            return weight;
        });
        store(top + g * LANES, highest), store(below + g * LANES, sum_);
        add_values(0, g * LANES, (int)smaller(LANES, lanes - g * LANES), 0, even, fade);
    }

    // The same for eight lanes, two keys a vector.
    void run_eight(int n, int even, float scale) {
        int64_t lane = first * LANES + offset / EIGHT * EIGHT;
        float* at = logits(0, first) + offset / EIGHT * EIGHT;
        for (int i = n; i < even; i++) store(logits(0, first) + i * LANES, splat(-__builtin_inff()));
        auto keys = [&](int a, int b) __attribute__((always_inline)) { return beside(at + a * LANES, at + b * LANES); };
        vf peak = splat(-__builtin_inff());
        for (int i = 0; i < even; i += 2) peak = max(peak, keys(i, i + 1));
        vf old = beside(top + lane, top + lane), highest = max(old, max(peak, halves_swapped(peak)) * scale), fade = exp2(old - highest), sum_ = {};
        for (int i = 0; i < even; i += ALIGN) {
            vu pairs[EIGHT];
            for (int j = 0; j < EIGHT; j++) {
                int key = i + 2 * j;
                vf a = exp2(fma(keys(key, key + LANES), splat(scale), -highest)), b = exp2(fma(keys(key + 1, key + 1 + LANES), splat(scale), -highest));
                sum_ += a, sum_ += b;
                pairs[j] = narrow_pairs(a, b);
            }
            put_half_weights(weights, i, pairs);
        }
        sum_ = beside(below + lane, below + lane) * fade + (sum_ + halves_swapped(sum_));
        int skip = (int)(offset % EIGHT);
        for (int64_t l = skip; l < skip + own; l++) top[lane + l] = highest[l], below[lane + l] = sum_[l];
        add_values(0, lane, skip + (int)own, skip, even, fade);
    }

    void measure(int64_t slot, int64_t g, int n, vf peak, float scale) {
        vf old = load(top + g * LANES), highest = max(old, peak), sum_ = load(below + g * LANES) * exp2(old - highest);
        const float* at = logits(slot, g);
        for (int i = 0; i < n; i++, at += step()) sum_ += exp2(fma(load(at), splat(scale), -highest));
        store(top + g * LANES, highest), store(below + g * LANES, sum_);
    }

    void weigh_group(int64_t slot, int64_t g, float scale) {
        vf highest = load(top + g * LANES), share = 1.f / load(below + g * LANES);
        const float* at = logits(slot, g);
        int n = counts[slot], even = (int)ceil_div(n, ALIGN) * ALIGN;
        put_all(n, even, [&](int key) __attribute__((always_inline)) { return exp2(fma(load(at + key * step()), splat(scale), -highest)) * share; });
        add_values(slot, g * LANES, (int)smaller(LANES, lanes - g * LANES), 0, even, splat(1.f));
    }

    // The second visit to all pieces, if they were kept.
    bool weigh_kept(float scale) {
        if (pieces > kept) return false;
        for (int64_t slot = 0; slot < pieces; slot++)
            for (int64_t g = 0; g < groups; g++) weigh_group(slot, g, scale);
        return true;
    }

    // The piece's values by its weights, to the sums of lanes from `lane` + skip to `lane` + end; `lane` is the first that has weights.
    void add_values(int64_t slot, int64_t lane, int end, int skip, int even, vf fade) {
        weigh(weights, end, packed_values(slot), even, C, term);
        for (int l = skip; l < end; l++) {
            float* to_ = total + (lane + l) * wide;
            for (int64_t c = 0; c < wide; c += LANES) store(to_ + c, fma(load(to_ + c), splat(fade[l]), load(term + l * wide + c)));
        }
    }
};

// Lanes of query i of the unit see keys a … b of the piece.
FATHOM_INLINE void see(Softmax& s, const Unit& u, int64_t i, int64_t a, int64_t b) {
    for (int64_t l = i * u.heads; l < (i + 1) * u.heads; l++) s.from[l] = (int32_t)a, s.to[l] = (int32_t)b;
}

// All keys of a unit, piece by piece.
template <Visit visit>
static void visit_pieces(const Attend& a, const Unit& u, Softmax& s, float scale) {
    const Run& run = a.runs[u.run];
    int64_t p0 = run.start + u.q0 - run.first, p1 = p0 + u.queries;  // positions of the queries
    int64_t oldest = larger(0, p0 - a.W + 1);
    s.turn_to(0, s.lanes);
    for (int64_t k0 = oldest / ALIGN * ALIGN; k0 < p1;) {
        int64_t k1 = smaller(p1, (k0 / PIECE + 1) * PIECE);
        for (int64_t k = k0; k < k1; k++) s.rows[k - k0] = k < oldest ? s.nothing : a.key(a.window, a.window_base[u.run] + k, s.decoded + (k - k0) * s.wide);
        for (int64_t i = 0; i < u.queries; i++) see(s, u, i, p0 + i - a.W + 1 - k0, p0 + i + 1 - k0);
        s.piece<visit>((int)(k1 - k0), scale, p1 - a.W - k0, p0 + 1 - k0);
        k0 = k1;
    }
    if (a.ratio && !a.chosen) {
        int64_t visible = p1 / a.ratio;
        for (int64_t e0 = 0; e0 < visible; e0 += PIECE) {
            int64_t e1 = smaller(visible, e0 + PIECE);
            for (int64_t e = e0; e < e1; e++) s.rows[e - e0] = a.key(a.pool, pool_row(a.pages, u.run, e), s.decoded + (e - e0) * s.wide);
            for (int64_t i = 0; i < u.queries; i++) see(s, u, i, 0, (p0 + i + 1) / a.ratio - e0);
            s.piece<visit>((int)(e1 - e0), scale, 0, (p0 + 1) / a.ratio - e0);
        }
    } else if (a.ratio)
        for (int64_t i = 0; i < u.queries; i++) {
            const int64_t* list = a.chosen + (u.q0 + i) * a.k;
            int64_t count = 0;
            while (count < a.k && list[count] >= 0) count++;
            s.turn_to(i * u.heads, u.heads);
            for (int64_t e0 = 0; e0 < count; e0 += PIECE) {
                int64_t e1 = smaller(count, e0 + PIECE);
                for (int64_t e = e0; e < e1; e++)
                    s.rows[e - e0] = a.key(a.pool, pool_row(a.pages, u.run, list[e] - a.entry_base[u.run]), s.decoded + (e - e0) * s.wide);
                s.piece<visit>((int)(e1 - e0), scale, 0, PIECE, true);
            }
        }
}

static void attend_unit(const Attend& a, const Unit& u) {
    Softmax s;
    bool twice = a.coded >= 0;
    int64_t lanes = u.queries * u.heads, C = a.C, kept = twice ? KEPT : 1;
    s.place(fathom_scratch(THREAD, Softmax::bytes(ceil_div(lanes, LANES), C, kept)), lanes, C, kept);
    for (int64_t l = 0; l < s.groups * LANES; l++) {
        s.top[l] = l < lanes ? a.sink[u.h0 + l % u.heads] * LOG2_E : 0;
        s.below[l] = 1, s.from[l] = s.to[l] = 0;
    }
    memset(s.total, 0, s.groups * LANES * s.wide * 4);
    for (int64_t l = 0; l < lanes; l += LANES) {  // lanes of one group may belong to several queries; their rows follow one another
        int64_t n = smaller(LANES, lanes - l);
        pack_lanes(s.packs + l / LANES * panel_size(C), a.q + (u.q0 * a.H + u.h0 + l) * C, C, n, C);
    }
    float scale = LOG2_E / __builtin_sqrtf((float)C);
    if (!twice) visit_pieces<RUNNING>(a, u, s, scale);
    else if (visit_pieces<MEASURE>(a, u, s, scale); !s.weigh_kept(scale)) visit_pieces<WEIGH>(a, u, s, scale);
    for (int64_t l = 0; l < lanes; l++) {
        bf16* to = a.out + ((u.q0 + l / u.heads) * a.H + u.h0 + l % u.heads) * C;
        vf share = splat(twice ? 1.f : 1.f / s.below[l]);
        if (folded(C)) {
            for (int64_t c = 0; c < C; c += 2 * LANES) {
                vf a_ = load(s.total + l * s.wide + c) * share, b_ = load(s.total + l * s.wide + c + LANES) * share;
                unfold(a_, b_);
                store_bf(to + c, a_, b_);
            }
            continue;
        }
        for (int64_t c = 0; c < C; c += LANES) store_some(to + c, load(s.total + l * s.wide + c) * share, C - c);
    }
}

static void attend(const bf16* q, int64_t H, int64_t C, const void* window, int64_t W, const float* sink, const void* pool, int64_t coded,
                   Pages pages, const Run* runs, int64_t R, const int64_t* entry_base, int64_t ratio, const int64_t* chosen, int64_t k, bf16* out) {
    int64_t* numbers = (int64_t*)fathom_scratch(CALL, (2 * R + 1) * sizeof(int64_t));
    Attend a{q, H, C, window, W, sink, pool, coded, pages, runs, R, entry_base, ratio, chosen, k, out, numbers, numbers + R, 1, smaller(H, MOST_LANES)};
    if (!chosen || (coded < 0 && LANES % H == 0)) a.queries = larger(1, UNIT / H);  // chosen entries: lanes of a query within one group
    int64_t row = 0, units = 0;
    for (int64_t r = 0; r < R; r++) {
        int64_t history = smaller(runs[r].start, W - 1);
        a.window_base[r] = row - (runs[r].start - history);
        row += history + runs[r].length;
        a.first_unit[r] = units;
        units += ceil_div(runs[r].length, a.queries) * a.splits();
    }
    a.first_unit[R] = units;
#pragma omp parallel if (units > 1)
    {
        Tiles tiles;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < units; i++) attend_unit(a, a.unit(i));
    }
}

}  // namespace FATHOM_ISA
}  // namespace fathom
