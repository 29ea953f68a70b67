// Where a sequence's entries are in a pool.
#pragma once
#include "simd.h"
#include "table.h"

namespace fathom {
namespace FATHOM_ISA {

static inline int64_t pool_row(const Pages& pages, int64_t run, int64_t entry) {
    if (!pages.table) return pages.base[run] + entry;
    uint32_t number = (uint32_t)entry, size = (uint32_t)pages.per_block;  // dividing 64 bits is slow on many processors
    return (int64_t)pages.table[run * pages.width + number / size] * size + number % size;
}

// How many of `n` entries from this one on lie in rows that follow one another.
static inline int64_t rows_ahead(const Pages& pages, int64_t entry, int64_t n) {
    return pages.table ? smaller(n, pages.per_block - (uint32_t)entry % (uint32_t)pages.per_block) : n;
}

}  // namespace FATHOM_ISA
}  // namespace fathom
