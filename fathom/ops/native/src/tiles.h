// AMX: a product of 16 rows by 16 outputs over 32 columns in one instruction.
//
// Compiled with FATHOM_TILES only. FATHOM_TILES_EMULATED replaces the instructions by loops that do the same, so that everything above
// them can be tested on a machine without AMX. The operating system must have granted the tiles (tile_permission, once a process).
//
// All tiles always have their full size: rows that a product doesn't have are computed from whatever lies there, and left alone. So a thread
// sets its tiles up once (Tiles) for all the products of a kernel.
#pragma once
#include "simd.h"

#if defined(FATHOM_TILES) && !defined(FATHOM_TILES_EMULATED)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fathom {
namespace FATHOM_ISA {

#if !defined(FATHOM_TILES)
struct Tiles {  // nothing to set up
    Tiles() {}
};
#else

constexpr int TILE_ROWS = 16;
constexpr int64_t TILE_VALUES = 512;  // bf16 of one tile: 16 rows of 32

#if defined(FATHOM_TILES_EMULATED)
struct Tile { alignas(64) uint8_t data[16][64]; };
static thread_local Tile tiles[8];
static thread_local bool tiles_set = false;
#define FATHOM_TILE_LOAD(t, p, stride) \
    for (int r_ = 0; r_ < 16; r_++) memcpy(tiles[t].data[r_], (const uint8_t*)(p) + r_ * (stride), 64)
#define FATHOM_TILE_STORE(t, p, stride) \
    for (int r_ = 0; r_ < 16; r_++) memcpy((uint8_t*)(p) + r_ * (stride), tiles[t].data[r_], 64)
#define FATHOM_TILE_ZERO(t) memset(tiles[t].data, 0, sizeof tiles[t].data)
#define FATHOM_TILE_DOT(c, a, b) tile_dot(tiles[c], tiles[a], tiles[b])
static inline void tile_dot(Tile& c, const Tile& a, const Tile& b) {
    if (!tiles_set) __builtin_trap();  // as the processor would
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            float even = 0, odd = 0, total;
            for (int k = 0; k < 16; k++) {
                bf16 x[2], y[2];
                memcpy(x, a.data[m] + 4 * k, 4), memcpy(y, b.data[k] + 4 * n, 4);
                even += widen(x[0]) * widen(y[0]), odd += widen(x[1]) * widen(y[1]);
            }
            memcpy(&total, c.data[m] + 4 * n, 4);
            total += even + odd;
            memcpy(c.data[m] + 4 * n, &total, 4);
        }
}
static inline bool tile_permission() { return true; }
struct Tiles {
    Tiles() { tiles_set = true; }
    ~Tiles() { tiles_set = false; }
};
#else
#define FATHOM_TILE_LOAD(t, p, stride) _tile_loadd(t, p, stride)
#define FATHOM_TILE_STORE(t, p, stride) _tile_stored(t, p, stride)
#define FATHOM_TILE_ZERO(t) _tile_zero(t)
#define FATHOM_TILE_DOT(c, a, b) _tile_dpbf16ps(c, a, b)
static inline bool tile_permission() { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0; }
struct Tiles {
    Tiles() {
        struct alignas(64) { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } config = {};
        config.palette = 1;
        for (int t = 0; t < 8; t++) config.bytes[t] = 64, config.rows[t] = TILE_ROWS;
        _tile_loadconfig(&config);
    }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
};
#endif

// Input rows as a product finds them: row r of half h (16 rows), columns 32·s … 32·(s + 1), at rows + h·half + s·step + r·row. Bytes.
struct TileRows {
    const void* rows;
    int64_t row, step, half;
};
FATHOM_INLINE TileRows plain_rows(const bf16* x, int64_t K) { return {x, K * 2, 64, TILE_ROWS * K * 2}; }
FATHOM_INLINE TileRows tiled_rows(const bf16* x, int64_t K) { return {x, 64, TILE_VALUES * 2, TILE_ROWS * K * 2}; }  // one tile after the other

// HALVES·16 rows by PANELS (two panels of a matrix lie `size` values apart), `steps` of 32 columns; fp32 results to out, whose rows are
// `stride` values apart.
template <int HALVES, int PANELS>
FATHOM_INLINE void tile_products(const TileRows& a, const bf16* b, int64_t size, int64_t steps, float* out, int64_t stride) {
    const char* x = (const char*)a.rows;
    FATHOM_TILE_ZERO(0);
    if (PANELS > 1) { FATHOM_TILE_ZERO(1); }
    if (HALVES > 1) { FATHOM_TILE_ZERO(2); }
    if (HALVES > 1 && PANELS > 1) { FATHOM_TILE_ZERO(3); }
    for (int64_t s = 0; s < steps; s++) {
        FATHOM_TILE_LOAD(4, x + s * a.step, a.row);
        FATHOM_TILE_LOAD(6, b + s * TILE_VALUES, 64);
        FATHOM_TILE_DOT(0, 4, 6);
        if (PANELS > 1) {
            FATHOM_TILE_LOAD(7, b + size + s * TILE_VALUES, 64);
            FATHOM_TILE_DOT(1, 4, 7);
        }
        if (HALVES > 1) {
            FATHOM_TILE_LOAD(5, x + a.half + s * a.step, a.row);
            FATHOM_TILE_DOT(2, 5, 6);
            if (PANELS > 1) { FATHOM_TILE_DOT(3, 5, 7); }
        }
    }
    FATHOM_TILE_STORE(0, out, stride * 4);
    if (PANELS > 1) { FATHOM_TILE_STORE(1, out + 16, stride * 4); }
    if (HALVES > 1) { FATHOM_TILE_STORE(2, out + 16 * stride, stride * 4); }
    if (HALVES > 1 && PANELS > 1) { FATHOM_TILE_STORE(3, out + 16 * stride + 16, stride * 4); }
}

// 16 rows by four panels: four sums that don't wait for each other.
FATHOM_INLINE void tile_four(const TileRows& a, const bf16* b, int64_t size, int64_t steps, float* out, int64_t stride) {
    FATHOM_TILE_ZERO(0);
    FATHOM_TILE_ZERO(1);
    FATHOM_TILE_ZERO(2);
    FATHOM_TILE_ZERO(3);
    for (int64_t s = 0; s < steps; s++) {
        const bf16* at = b + s * TILE_VALUES;
        FATHOM_TILE_LOAD(4, (const char*)a.rows + s * a.step, a.row);
        FATHOM_TILE_LOAD(5, at, 64);
        FATHOM_TILE_DOT(0, 4, 5);
        FATHOM_TILE_LOAD(6, at + size, 64);
        FATHOM_TILE_DOT(1, 4, 6);
        FATHOM_TILE_LOAD(7, at + 2 * size, 64);
        FATHOM_TILE_DOT(2, 4, 7);
        FATHOM_TILE_LOAD(5, at + 3 * size, 64);
        FATHOM_TILE_DOT(3, 4, 5);
    }
    FATHOM_TILE_STORE(0, out, stride * 4);
    FATHOM_TILE_STORE(1, out + 16, stride * 4);
    FATHOM_TILE_STORE(2, out + 32, stride * 4);
    FATHOM_TILE_STORE(3, out + 48, stride * 4);
}

// The same for `rows` rows (at most 32, with four panels 16: whole halves are written) and one, two or four panels.
static inline void tile_block(const TileRows& a, int rows, const bf16* b, int64_t size, int64_t steps, int panels, float* out, int64_t stride) {
    if (panels == 4) tile_four(a, b, size, steps, out, stride);
    else if (rows > TILE_ROWS) panels > 1 ? tile_products<2, 2>(a, b, size, steps, out, stride) : tile_products<2, 1>(a, b, size, steps, out, stride);
    else panels > 1 ? tile_products<1, 2>(a, b, size, steps, out, stride) : tile_products<1, 1>(a, b, size, steps, out, stride);
}
#endif

}  // namespace FATHOM_ISA
}  // namespace fathom
