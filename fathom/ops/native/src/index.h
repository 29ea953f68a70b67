// The lightning indexer: score all visible entries of a query, keep the k best.
//
//     score(t, i) = Σ_j w_tj · ReLU(q_tj · k_i)
//
// A long run goes 16 queries at a time, a query a lane, one head after the other, and some sixteens side by side; a query on its own has its
// heads as lanes, and its history is shared out among the threads. Both add up the same terms in the same order.
//
// Scores live until the running selection has seen them: what beats the worst of the best k so far is kept in a list, and a full list
// is cut back to the k best. Entries come in ascending order, so "beats" is strict and ties stay with the lower index; the lists keep
// that order, and so does the result.
//
// In precision `official` keys are rows of bytes (coding.h) and scores are rounded to bf16 before they are compared.
//
// Source: SPEC section 2, lightning indexer.
#pragma once
#include <omp.h>

#include "coding.h"
#include "pages.h"
#include "products.h"

namespace fathom {
namespace FATHOM_ISA {

constexpr int KEYS = 32;        // keys scored at once
constexpr int SHARED_FROM = 4;  // runs of at least this many queries go 16 queries at a time
constexpr int64_t SIDE = 4, STRETCH = 1024;  // so many sixteens share so many keys while those are near
constexpr int64_t PART = 4096;  // entries of a part of a single query's history, at least

struct Candidates {  // of one query; ascending entries
    float* score;
    int32_t* entry;
    int64_t count, capacity;
    float bar;  // what a score must beat
};

FATHOM_INLINE vi ordered(vf score) { return (vi)score ^ (((vi)score >> 31) & 0x7fffffff); }  // integers in the order of the reals

FATHOM_INLINE vf as_score(int64_t key) { return (vf)ordered((vf)splat_i((int32_t)(key == -1 ? -2 : key))); }  // -0 isn't below 0

// Cuts the list back to its k best, or to at most k + more that beat all others, if it is longer.
static void cut_back(Candidates& c, int64_t k, int64_t more = 0) {
    if (c.count <= k + more) return;
    int64_t n = c.count;
    for (int64_t i = n; i % LANES; i++) c.score[i] = -__builtin_inff();
    vf top = splat(c.score[0]), bottom = top;
    for (int64_t i = 0; i < n; i += LANES) {
        vf score = load(c.score + i);
        top = max(top, score);
        if (i + LANES <= n) bottom = min(bottom, score);
    }
    auto above = [&](int64_t bound) {  // scores beyond a bound
        vf limit = as_score(bound);
        int64_t total = 0;
        for (int64_t i = 0; i < n; i += LANES) total += __builtin_popcount(greater(load(c.score + i), limit));
        return total;
    };
    int64_t low = INT32_MAX, high = INT32_MIN;  // above(low) >= k > above(high)
    vi lowest = ordered(bottom), highest = ordered(top);
    for (int i = 0; i < LANES; i++) low = smaller(low, lowest[i]), high = larger(high, highest[i]);
    for (int64_t i = n / LANES * LANES; i < n; i++) low = smaller(low, ordered(splat(c.score[i]))[0]);
    low--;
    int64_t found = n;
    while (high - low > 1 && found > k + more) {
        int64_t middle = low + (high - low) / 2, count = above(middle);
        if (count >= k) low = middle, found = count;
        else high = middle;
    }
    // where many are equal: what is above `high` has a place; of those between, the first
    bool equals = found > k + more;
    int64_t ties = equals ? k - above(high) : 0, kept = 0;
    vf limit = as_score(equals ? high : low), below = as_score(low);
    for (int64_t i = 0; i < n; i += LANES) {
        vf score = load(c.score + i);
        uint32_t bits = greater(score, limit);
        if (equals)
            for (uint32_t equal = greater(score, below) & ~bits; equal && ties; equal &= equal - 1, ties--)
                bits |= equal & -equal;
        vu entries = load_u(c.entry + i);
        store_chosen(c.score + kept, (vu)score, bits);
        kept += store_chosen(c.entry + kept, entries, bits);
    }
    c.count = kept;
    vf worst = splat(__builtin_inff());
    for (int64_t i = kept; i % LANES; i++) c.score[i] = __builtin_inff();
    for (int64_t i = 0; i < kept; i += LANES) worst = min(worst, load(c.score + i));
    c.bar = __builtin_inff();
    for (int i = 0; i < LANES; i++) c.bar = worst[i] < c.bar ? worst[i] : c.bar;
}

FATHOM_INLINE void append(Candidates& c, float score, int32_t entry, int64_t k) {
    if (c.count == c.capacity) cut_back(c, k);
    if (score > c.bar) c.score[c.count] = score, c.entry[c.count++] = entry;
}

// Entries e … e + 16 with these scores, of which the set bits are there.
FATHOM_INLINE void offer(Candidates& c, vf scores, int64_t e, uint32_t there, int64_t k) {
    uint32_t better = greater(scores, splat(c.bar)) & there;
    if (!better) return;
    if (c.count + LANES > c.capacity) {
        cut_back(c, k, k / 4);
        better = greater(scores, splat(c.bar)) & there;
    }
    const vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    store_chosen(c.score + c.count, (vu)scores, better);
    c.count += store_chosen(c.entry + c.count, (vu)(lane + (int32_t)e), better);
}

struct Sixteen {  // up to 16 queries of a run, a lane each
    int64_t t0, count, most;  // `most` entries are seen by one of them
    bf16* packs;
    float* weight;  // [J][16]
    Candidates c[LANES];
    vi limit;  // entries that each sees
    vf bar;
};

struct Index {
    const bf16* q;
    const float* w;
    int64_t J, C;
    const void* pool;
    bool coded;
    Pages pages;
    const Run* runs;
    int64_t R;
    const int64_t* base;
    int64_t ratio, k;
    int64_t* chosen;
    int64_t side;  // sixteens of a unit of work, at most SIDE

    int64_t capacity() const { return ceil_div(larger(2 * k, k + 256), LANES) * LANES; }

    void all(int64_t query, int64_t run, int64_t visible) const {
        for (int64_t i = 0; i < k; i++) chosen[query * k + i] = i < visible ? base[run] + i : -1;
    }

    void write(int64_t query, int64_t run, const Candidates& c) const {
        for (int64_t i = 0; i < k; i++) chosen[query * k + i] = i < c.count ? base[run] + c.entry[i] : -1;
    }

    // Keys e … e + n of a run: in place, or decoded into [KEYS][C].
    void point(const bf16** rows, int64_t run, int64_t e, int n, bf16* decoded) const {
        for (int i = 0; i < n;) {
            int64_t row = pool_row(pages, run, e + i);
            for (int end = i + (int)rows_ahead(pages, e + i, n - i); i < end; i++, row++) {
                rows[i] = coded ? decoded + i * C : (const bf16*)pool + row * C;
                if (coded) decode_key(decoded + i * C, (const uint8_t*)pool + row * key_bytes(C), C);
            }
        }
    }

    // Σ_j w_j · ReLU(p_j) over heads' vectors, of COUNT keys whose products are J·LANES apart.
    template <int COUNT>
    void weighted(const float* p, const float* weights_, vf* score) const {
        vf sums[COUNT] = {};
        for (int64_t j = 0; j < J; j++) {
            vf w_ = load(weights_ + j * LANES);
            for (int i = 0; i < COUNT; i++) sums[i] = fma(max(load(p + (i * J + j) * LANES), vf{}), w_, sums[i]);
        }
        for (int i = 0; i < COUNT; i++) score[i] = coded ? widen(narrow(sums[i])) : sums[i];
    }

    // Entries e … e + KEYS, as far as there are so many, by the scores that 16 queries give them, of which each sees those below its limit.
    void choose(vf* score, int64_t e, int64_t most, vi limit, vf& bar, Candidates* c) const {
        for (int a = 0; a < KEYS && e + a < most; a += LANES) {
            vf best = splat(-__builtin_inff());
            bool whole = e + a + LANES <= limit[0];
            for (int i = a; i < a + LANES; i++) {
                if (!whole) score[i] = splat_i((int32_t)(e + i)) < limit ? score[i] : splat(-__builtin_inff());
                best = max(score[i], best);  // a NaN is never the best
            }
            uint32_t better = greater(best, bar);
            if (!better) continue;
            vu block[LANES];  // by entry, a query a lane; then by query, an entry a lane
            for (int i = 0; i < LANES; i++) block[i] = (vu)score[a + i];
            transpose(block);
            for (; better; better &= better - 1) {
                int i = __builtin_ctz(better);
                offer(c[i], (vf)block[i], e + a, 0xffff, k);
                bar[i] = c[i].bar;
            }
        }
    }

    // Entries e0 … e1, a multiple of KEYS and any number, for up to 16 queries. While the products of some keys are made, those of the keys
    // before them become scores.
    void stretch(Sixteen& s, int64_t run, int64_t e0, int64_t e1, float* const* product, bf16* decoded) const {
        constexpr int AT_ONCE = NATIVE == LANES ? 8 : 1;
        const bf16* rows[KEYS];
        vf score[KEYS];
        int scored = KEYS;  // of the keys before
        for (int64_t e = e0, turn = 0; e < e1 + KEYS; e += KEYS, turn ^= 1) {
            const float* before = product[turn ^ 1];
            auto weigh_some = [&]() __attribute__((always_inline)) {
                if (scored < KEYS) weighted<AT_ONCE>(before + scored * J * LANES, s.weight, score + scored), scored += AT_ONCE;
            };
            if (e < e1) {
                int n = (int)smaller(KEYS, e1 - e);
                point(rows, run, e, n, decoded);
                products(rows, n, s.packs, J, C, product[turn], weigh_some);
            }
            while (scored < KEYS) weigh_some();
            scored = 0;
            if (e > e0) choose(score, e - KEYS, e1, s.limit, s.bar, s.c);
        }
    }

    // Queries of one run, at most `side`·16. Sixteens take turns with a stretch of keys, so that it comes from far away once for all of them.
    void together(int64_t run, int64_t t0, int64_t count) const {
        int64_t size = panel_size(C), room = capacity() + LANES, groups = 0, most = 0;
        char* at = (char*)fathom_scratch(THREAD, side * (J * size * 2 + J * 64 + LANES * room * 8) + 2 * KEYS * J * 64 + KEYS * C * 2);
        auto take = [&](int64_t bytes) { char* p = at; at += bytes; return p; };
        float* product[2] = {(float*)take(KEYS * J * 64), (float*)take(KEYS * J * 64)};
        Sixteen all_of_them[SIDE];
        for (int64_t t = t0; t < t0 + count; t += LANES) {
            int64_t some = smaller(LANES, t0 + count - t), position = runs[run].start + t - runs[run].first;
            if ((position + some) / ratio <= k) {
                for (int64_t i = 0; i < some; i++) all(t + i, run, (position + i + 1) / ratio);
                continue;
            }
            Sixteen& s = all_of_them[groups++];
            s.t0 = t, s.count = some, s.most = most = (position + some) / ratio, s.limit = vi{}, s.bar = splat(__builtin_inff());
            s.packs = (bf16*)take(J * size * 2), s.weight = (float*)take(J * 64);
            for (int64_t j = 0; j < J; j++) {
                pack_lanes(s.packs + j * size, q + (t * J + j) * C, J * C, some, C);
                for (int64_t i = 0; i < LANES; i++) s.weight[j * LANES + i] = i < some ? w[(t + i) * J + j] : 0;
            }
            float* scores = (float*)take(LANES * room * 4);
            int32_t* entries = (int32_t*)take(LANES * room * 4);
            for (int64_t i = 0; i < some; i++) {
                s.c[i] = {scores + i * room, entries + i * room, 0, room - LANES, -__builtin_inff()};
                s.limit[i] = (int32_t)((position + i + 1) / ratio), s.bar[i] = s.c[i].bar;
            }
        }
        bf16* decoded = (bf16*)take(KEYS * C * 2);
        for (int64_t e = 0; e < most; e += STRETCH)
            for (int64_t g = 0; g < groups; g++)
                if (Sixteen& s = all_of_them[g]; e < s.most) stretch(s, run, e, smaller(s.most, e + STRETCH), product, decoded);
        for (int64_t g = 0; g < groups; g++)
            for (int64_t i = 0; i < all_of_them[g].count; i++) {
                cut_back(all_of_them[g].c[i], k);
                write(all_of_them[g].t0 + i, run, all_of_them[g].c[i]);
            }
    }

    // Entries e0 … e1 of one query; `c` holds its k best of them afterwards.
    void alone(int64_t run, int64_t t, int64_t e0, int64_t e1, Candidates& c) const {
        int64_t groups = ceil_div(J, LANES), size = panel_size(C), wide = groups * LANES;
        char* at = (char*)fathom_scratch(THREAD, groups * size * 2 + wide * 64 + 2 * KEYS * wide * 4 + KEYS * C * 2);
        bf16* packs = (bf16*)at;
        float *weight = (float*)(at + groups * size * 2), *product = weight + wide * LANES, *by_head = product + KEYS * wide;
        bf16* decoded = (bf16*)(by_head + KEYS * wide);
        for (int64_t g = 0; g < groups; g++) pack_lanes(packs + g * size, q + (t * J + g * LANES) * C, C, smaller(LANES, J - g * LANES), C);
        for (int64_t j = 0; j < J; j++) store(weight + j * LANES, splat(w[t * J + j]));
        const bf16* rows[KEYS];
        for (int64_t e = e0; e < e1; e += KEYS) {
            int n = (int)smaller(KEYS, e1 - e);
            point(rows, run, e, n, decoded);
            products(rows, n, packs, groups, C, product);
            for (int a = 0; a < n; a += LANES) {
                int some = (int)smaller(LANES, n - a);
                for (int64_t g = 0; g < groups; g++) {
                    vu block[LANES];
                    for (int i = 0; i < LANES; i++) block[i] = load_u(product + (i < some ? a + i : a) * wide + g * LANES);
                    transpose(block);
                    for (int i = 0; i < LANES; i++) store_u(by_head + (g * LANES + i) * LANES, block[i]);
                }
                vf score;
                weighted<1>(by_head, weight, &score);
                offer(c, score, e + a, (1u << some) - 1, k);
            }
        }
        cut_back(c, k);
    }
};

static void index_topk(const bf16* q, const float* w, int64_t J, int64_t C, const void* pool, bool coded, Pages pages, const Run* runs,
                       int64_t R, const int64_t* base, int64_t ratio, int64_t k, int64_t* chosen) {
    int64_t threads = omp_get_max_threads(), shared = 0, single = 0, longest = 0, tokens = 0;
    for (int64_t r = 0; r < R; r++) tokens += runs[r].length;
    int64_t side = larger(1, smaller(smaller(SIDE, tokens / (4 * LANES * threads)), (1 << 18) / (J * panel_size(C) * 2)));  // work for all, and packs stay near
    Index index{q, w, J, C, pool, coded, pages, runs, R, base, ratio, k, chosen, side};
    for (int64_t r = 0; r < R; r++) {
        if (runs[r].length >= SHARED_FROM) shared += ceil_div(runs[r].length, side * LANES);
        else single += runs[r].length, longest = larger(longest, (runs[r].start + runs[r].length) / ratio);
    }
    int64_t parts = larger(1, smaller(threads, longest / PART)), room = index.capacity();
    int64_t* units = (int64_t*)fathom_scratch(CALL, (shared + single) * 3 * sizeof(int64_t));  // (run, query, count)
    char* lists = (char*)fathom_scratch(CALL_TOO, single * parts * (sizeof(Candidates) + (room + LANES) * 8) + 64);
    Candidates* lone = (Candidates*)lists;
    float* scores = (float*)(lists + ceil_div(single * parts * sizeof(Candidates), 64) * 64);
    int32_t* entries = (int32_t*)(scores + single * parts * (room + LANES));
    int64_t s = 0, o = shared;
    for (int64_t r = 0; r < R; r++)
        for (int64_t a = 0; a < runs[r].length;) {
            bool together = runs[r].length >= SHARED_FROM;
            int64_t *unit = units + 3 * (together ? s++ : o++), count = together ? smaller(side * LANES, runs[r].length - a) : 1;
            unit[0] = r, unit[1] = runs[r].first + a, unit[2] = count;
            a += count;
        }
#pragma omp parallel if (shared + single * parts > 1)
    {
        Tiles tiles;
#pragma omp for schedule(dynamic) nowait
        for (int64_t i = 0; i < shared; i++) index.together(units[3 * i], units[3 * i + 1], units[3 * i + 2]);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < single * parts; i++) {
            const int64_t* unit = units + 3 * (shared + i / parts);
            const Run& run = runs[unit[0]];
            int64_t visible = (run.start + unit[1] - run.first + 1) / ratio, share = ceil_div(ceil_div(visible, parts), KEYS) * KEYS;
            lone[i] = {scores + i * (room + LANES), entries + i * (room + LANES), 0, room, -__builtin_inff()};
            if (visible > k) index.alone(unit[0], unit[1], i % parts * share, smaller(visible, (i % parts + 1) * share), lone[i]);
        }
    }
    for (int64_t i = 0; i < single; i++) {
        const int64_t* unit = units + 3 * (shared + i);
        const Run& run = runs[unit[0]];
        int64_t visible = (run.start + unit[1] - run.first + 1) / ratio;
        if (visible <= k) {
            index.all(unit[1], unit[0], visible);
            continue;
        }
        Candidates* all = lone + i * parts;
        for (int64_t p = 1; p < parts; p++)
            for (int64_t j = 0; j < all[p].count; j++) append(all[0], all[p].score[j], all[p].entry[j], k);
        cut_back(all[0], k);
        index.write(unit[1], unit[0], all[0]);
    }
}

}  // namespace FATHOM_ISA
}  // namespace fathom
