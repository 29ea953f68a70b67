// Where a sequence's entries are in a pool.
#pragma once
#include "table.h"

namespace fathom {
namespace FATHOM_ISA {

static inline int64_t pool_row(const Pages& pages, int64_t run, int64_t entry) {
    if (!pages.table) return pages.base[run] + entry;
    return (int64_t)pages.table[run * pages.width + entry / pages.per_block] * pages.per_block + entry % pages.per_block;
}

}  // namespace FATHOM_ISA
}  // namespace fathom
