// All kernels for one instruction set: compiled once for each, with FATHOM_ISA naming it and the flags that allow it.
#include "attend.h"
#include "compress.h"
#include "experts.h"
#include "index.h"
#include "linear.h"
#include "mhc.h"
#include "route.h"
#include "state.h"

#define FATHOM_STRING_(x) #x
#define FATHOM_STRING(x) FATHOM_STRING_(x)
#define FATHOM_JOIN_(a, b) a##b
#define FATHOM_JOIN(a, b) FATHOM_JOIN_(a, b)

// The table, or null where the system refuses what the instruction set needs.
extern "C" const fathom::Table* FATHOM_JOIN(fathom_table_, FATHOM_ISA)() {
    namespace isa = fathom::FATHOM_ISA;
#if defined(FATHOM_TILES)
    if (!isa::tile_permission()) return nullptr;
#endif
    static const fathom::Table table = {FATHOM_STRING(FATHOM_ISA), isa::linears, isa::experts, isa::experts_sum, isa::route, isa::rms_norm, isa::norm_rope,
                                        isa::mhc_mix, isa::mhc_turn, isa::mhc_expand, isa::remember, isa::compress, isa::index_topk, isa::attend,
                                        isa::quantise, isa::encode_entries, isa::encode_keys, isa::index_queries};
    return &table;
}
