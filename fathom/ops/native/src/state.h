// The rings of the inference state: what came before a run is read back, then the run's last rows are remembered.
#pragma once
#include <cstring>

#include "simd.h"
#include "table.h"

namespace fathom {
namespace FATHOM_ISA {

static void remember(uint8_t* ring, int64_t L, int64_t width, const uint8_t* values, const Run* runs, const int64_t* history, int64_t R,
                     uint8_t* rows) {
    for (int64_t r = 0; r < R; r++) {
        const Run& run = runs[r];
        uint8_t* own = ring + run.slot * L * width;
        for (int64_t t = run.start - history[r]; t < run.start; t++, rows += width) memcpy(rows, own + t % L * width, width);
        const uint8_t* from = values + run.first * width;
        memcpy(rows, from, run.length * width);
        rows += run.length * width;
        for (int64_t i = larger(0, run.length - L); i < run.length; i++) memcpy(own + (run.start + i) % L * width, from + i * width, width);
    }
}

}  // namespace FATHOM_ISA
}  // namespace fathom
