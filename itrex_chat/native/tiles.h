// AMX tiles of 16 rows by 64 bytes. With EMULATE_TILES in plain C, so that what is built on them is tested anywhere.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#ifdef EMULATE_TILES
static _Thread_local uint8_t tiles[8][16][64];
static inline void tiles_on(void) {}
static inline void tiles_off(void) {}
#define tile_zero(t) memset(tiles[t], 0, sizeof tiles[t])
#define tile_load(t, p, stride) \
    for (int r_ = 0; r_ < 16; r_++) memcpy(tiles[t][r_], (const uint8_t *)(p) + (size_t)r_ * (stride), 64)
#define tile_store(t, p, stride) \
    for (int r_ = 0; r_ < 16; r_++) memcpy((uint8_t *)(p) + (size_t)r_ * (stride), tiles[t][r_], 64)
static inline float tile_bf16(const uint8_t *p) {
    uint16_t half;
    memcpy(&half, p, 2);
    uint32_t bitmap = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bitmap, 4);
    return value;
}
static inline void tile_dot(int c, int a, int b) {
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            float sum;
            memcpy(&sum, &tiles[c][m][4 * n], 4);
            for (int k = 0; k < 32; k++) sum += tile_bf16(&tiles[a][m][2 * k]) * tile_bf16(&tiles[b][k / 2][4 * n + k % 2 * 2]);
            memcpy(&tiles[c][m][4 * n], &sum, 4);
        }
}
#else
static inline void tiles_on(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config __attribute__((aligned(64)));
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int t = 0; t < 8; t++) config.bytes[t] = 64, config.rows[t] = 16;
    __asm__ volatile("" : : "r"(&config) : "memory");  // GCC 12 drops stores that only the next line reads
    _tile_loadconfig(&config);
}
static inline void tiles_off(void) { _tile_release(); }
#define tile_zero(t) _tile_zero(t)
#define tile_load(t, p, stride) _tile_loadd(t, p, stride)
#define tile_store(t, p, stride) _tile_stored(t, p, stride)
#define tile_dot(c, a, b) _tile_dpbf16ps(c, a, b)
#endif
