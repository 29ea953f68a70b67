// AMX: a product of 16 rows by 16 outputs over 32 columns in one instruction.
//
// Compiled with FATHOM_TILES only. FATHOM_TILES_EMULATED replaces the instructions by loops that do the same, so that everything above
// them can be tested on a machine without AMX. The operating system must have granted the tiles (tile_permission, once a process).
#pragma once
#if defined(FATHOM_TILES)
#include "simd.h"

#if !defined(FATHOM_TILES_EMULATED)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fathom {
namespace FATHOM_ISA {

#if defined(FATHOM_TILES_EMULATED)
struct Tile { uint8_t rows, bytes; alignas(64) uint8_t data[16][64]; };
static thread_local Tile tiles[8];
FATHOM_INLINE void tile_shape(int t, int rows, int bytes) { tiles[t].rows = rows, tiles[t].bytes = bytes; }
#define FATHOM_TILE_LOAD(t, p, stride) \
    for (int r_ = 0; r_ < tiles[t].rows; r_++) memcpy(tiles[t].data[r_], (const uint8_t*)(p) + r_ * (stride), tiles[t].bytes)
#define FATHOM_TILE_STORE(t, p, stride) \
    for (int r_ = 0; r_ < tiles[t].rows; r_++) memcpy((uint8_t*)(p) + r_ * (stride), tiles[t].data[r_], tiles[t].bytes)
#define FATHOM_TILE_ZERO(t) memset(tiles[t].data, 0, sizeof tiles[t].data)
#define FATHOM_TILE_DOT(c, a, b) tile_dot(tiles[c], tiles[a], tiles[b])
static inline void tile_dot(Tile& c, const Tile& a, const Tile& b) {
    for (int m = 0; m < c.rows; m++)
        for (int n = 0; n < c.bytes / 4; n++) {
            float even = 0, odd = 0, total;
            for (int k = 0; k < a.bytes / 4; k++) {
                bf16 x[2], y[2];
                memcpy(x, a.data[m] + 4 * k, 4), memcpy(y, b.data[k] + 4 * n, 4);
                even += widen(x[0]) * widen(y[0]), odd += widen(x[1]) * widen(y[1]);
            }
            memcpy(&total, c.data[m] + 4 * n, 4);
            total += even + odd;
            memcpy(c.data[m] + 4 * n, &total, 4);
        }
}
FATHOM_INLINE void tile_configure(int rows) {
    int low = rows < 16 ? rows : 16, high = rows - low;
    for (int t = 0; t < 4; t++) tile_shape(t, t < 2 ? low : high, 64);
    tile_shape(4, low, 64), tile_shape(5, high, 64), tile_shape(6, 16, 64), tile_shape(7, 16, 64);
}
FATHOM_INLINE void tile_release() {}
static inline bool tile_permission() { return true; }
#else
#define FATHOM_TILE_LOAD(t, p, stride) _tile_loadd(t, p, stride)
#define FATHOM_TILE_STORE(t, p, stride) _tile_stored(t, p, stride)
#define FATHOM_TILE_ZERO(t) _tile_zero(t)
#define FATHOM_TILE_DOT(c, a, b) _tile_dpbf16ps(c, a, b)
struct alignas(64) TileConfig { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; };
// Tiles 0 to 3 hold results (two by two), 4 and 5 input rows, 6 and 7 weights. A tile without rows may not be configured: it gets one.
static inline void tile_configure(int rows) {
    int low = rows < 16 ? rows : 16, high = rows > 16 ? rows - 16 : 1;
    TileConfig c = {};
    c.palette = 1;
    for (int t = 0; t < 8; t++) c.bytes[t] = 64, c.rows[t] = 16;
    c.rows[0] = c.rows[1] = c.rows[4] = low;
    c.rows[2] = c.rows[3] = c.rows[5] = high;
    _tile_loadconfig(&c);
}
FATHOM_INLINE void tile_release() { _tile_release(); }
static inline bool tile_permission() { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0; }
#endif

// One or two panels by up to 32 plain rows [rows][K]; `steps` of 32 columns. tile_configure(rows) has been called.
template <class Store>
static inline void tile_block(const bf16* a, int rows, const bf16* b, int64_t size, int64_t steps, int64_t panel, int count, Store&& store) {
    alignas(64) float c[32][32];
    int64_t K = steps * 32;
    bool high = rows > 16, second = count > 1;
    FATHOM_TILE_ZERO(0);
    FATHOM_TILE_ZERO(1);
    FATHOM_TILE_ZERO(2);
    FATHOM_TILE_ZERO(3);
    for (int64_t s = 0; s < steps; s++) {
        FATHOM_TILE_LOAD(4, a + s * 32, K * 2);
        FATHOM_TILE_LOAD(6, b + s * 512, 64);
        FATHOM_TILE_DOT(0, 4, 6);
        if (second) {
            FATHOM_TILE_LOAD(7, b + size + s * 512, 64);
            FATHOM_TILE_DOT(1, 4, 7);
        }
        if (high) {
            FATHOM_TILE_LOAD(5, a + 16 * K + s * 32, K * 2);
            FATHOM_TILE_DOT(2, 5, 6);
            if (second) FATHOM_TILE_DOT(3, 5, 7);
        }
    }
    FATHOM_TILE_STORE(0, c[0], 128);
    if (second) FATHOM_TILE_STORE(1, c[0] + 16, 128);
    if (high) {
        FATHOM_TILE_STORE(2, c[16], 128);
        if (second) FATHOM_TILE_STORE(3, c[16] + 16, 128);
    }
    for (int r = 0; r < rows; r++) {
        vf v[2] = {load(c[r]), load(c[r] + 16)};
        store(r, panel, v, count);
    }
}

}  // namespace FATHOM_ISA
}  // namespace fathom
#endif
