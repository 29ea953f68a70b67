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

// What was written must be in memory, and what comes later must not yet be: compilers aren't told that tile instructions read memory (GCC 12).
FATHOM_INLINE void written(const void* memory) { asm volatile("" ::"r"(memory) : "memory"); }

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
        written(&config);
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

// Sums of 16 rows by PANELS (one, two or four) panels: begun, added to as often as one likes, and written out in fp32. Four don't wait for each
// other. In between they lie in the first tiles; what else is computed there leaves them alone.
template <int PANELS>
FATHOM_INLINE void sums_begin() {
    FATHOM_TILE_ZERO(0);
    if (PANELS > 1) { FATHOM_TILE_ZERO(1); }
    if (PANELS > 2) { FATHOM_TILE_ZERO(2); }
    if (PANELS > 2) { FATHOM_TILE_ZERO(3); }
}

// `steps` of 32 columns: rows from x on, of which each is `row` and each step `step` bytes further; panels `size` values apart.
template <int PANELS>
FATHOM_INLINE void sums_add(const void* x, int64_t step, int64_t row, const bf16* b, int64_t size, int64_t steps) {
    written(b);
    for (int64_t s = 0; s < steps; s++) {
        const bf16* at = b + s * TILE_VALUES;
        FATHOM_TILE_LOAD(4, (const char*)x + s * step, row);
        FATHOM_TILE_LOAD(5, at, 64);
        FATHOM_TILE_DOT(0, 4, 5);
        if (PANELS > 1) {
            FATHOM_TILE_LOAD(6, at + size, 64);
            FATHOM_TILE_DOT(1, 4, 6);
        }
        if (PANELS > 2) {
            FATHOM_TILE_LOAD(7, at + 2 * size, 64);
            FATHOM_TILE_DOT(2, 4, 7);
            FATHOM_TILE_LOAD(5, at + 3 * size, 64);
            FATHOM_TILE_DOT(3, 4, 5);
        }
    }
    written(b);
}

// To out, whose rows are `stride` values apart.
template <int PANELS>
FATHOM_INLINE void sums_end(float* out, int64_t stride) {
    FATHOM_TILE_STORE(0, out, stride * 4);
    if (PANELS > 1) { FATHOM_TILE_STORE(1, out + 16, stride * 4); }
    if (PANELS > 2) { FATHOM_TILE_STORE(2, out + 32, stride * 4); }
    if (PANELS > 2) { FATHOM_TILE_STORE(3, out + 48, stride * 4); }
}

template <int PANELS>
FATHOM_INLINE void sixteen_rows(const TileRows& a, const bf16* b, int64_t size, int64_t steps, float* out, int64_t stride) {
    sums_begin<PANELS>();
    sums_add<PANELS>(a.rows, a.step, a.row, b, size, steps);
    sums_end<PANELS>(out, stride);
}

// 32 rows by PANELS (one or two).
template <int PANELS>
FATHOM_INLINE void thirty_two_rows(const TileRows& a, const bf16* b, int64_t size, int64_t steps, float* out, int64_t stride) {
    const char* x = (const char*)a.rows;
    written(b);
    FATHOM_TILE_ZERO(0);
    if (PANELS > 1) { FATHOM_TILE_ZERO(1); }
    FATHOM_TILE_ZERO(2);
    if (PANELS > 1) { FATHOM_TILE_ZERO(3); }
    for (int64_t s = 0; s < steps; s++) {
        FATHOM_TILE_LOAD(4, x + s * a.step, a.row);
        FATHOM_TILE_LOAD(6, b + s * TILE_VALUES, 64);
        FATHOM_TILE_DOT(0, 4, 6);
        if (PANELS > 1) {
            FATHOM_TILE_LOAD(7, b + size + s * TILE_VALUES, 64);
            FATHOM_TILE_DOT(1, 4, 7);
        }
        FATHOM_TILE_LOAD(5, x + a.half + s * a.step, a.row);
        FATHOM_TILE_DOT(2, 5, 6);
        if (PANELS > 1) { FATHOM_TILE_DOT(3, 5, 7); }
    }
    FATHOM_TILE_STORE(0, out, stride * 4);
    if (PANELS > 1) { FATHOM_TILE_STORE(1, out + 16, stride * 4); }
    FATHOM_TILE_STORE(2, out + 16 * stride, stride * 4);
    if (PANELS > 1) { FATHOM_TILE_STORE(3, out + 16 * stride + 16, stride * 4); }
}

// The same for `rows` rows (at most 32, with four panels 16: whole halves are written) and one, two or four panels.
static inline void tile_block(const TileRows& a, int rows, const bf16* b, int64_t size, int64_t steps, int panels, float* out, int64_t stride) {
    if (panels == 4) sixteen_rows<4>(a, b, size, steps, out, stride);
    else if (rows > TILE_ROWS) panels > 1 ? thirty_two_rows<2>(a, b, size, steps, out, stride) : thirty_two_rows<1>(a, b, size, steps, out, stride);
    else panels > 1 ? sixteen_rows<2>(a, b, size, steps, out, stride) : sixteen_rows<1>(a, b, size, steps, out, stride);
}
#endif

}  // namespace FATHOM_ISA
}  // namespace fathom
