// Many rows with AMX: a panel of the matrix is unpacked once into BF16 tiles that stay in the second-level cache, and all
// rows, rounded to BF16 too, pass by. Sums are float32.
#include "native.h"
#if defined(__x86_64__) && defined(MODERN_COMPILER)
#include <immintrin.h>

#include "instructions.h"
#ifdef EMULATE_TILES
INSTRUCTIONS("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")
#else
INSTRUCTIONS("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,amx-tile,amx-bf16")
#endif
#include "tiles.h"

#define TILE_VALUES 512  // of BF16 in a tile
#define AHEAD 2          // tiles

static inline __attribute__((always_inline)) __m512i pair(__m512 even, __m512 odd) {
    const __m512i side_by_side = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                                  23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(side_by_side, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

// 32 inputs of a block's 16 outputs, with their scales, to a tile: rows are pairs of inputs.
// `middle` is added to integers of 4 bits, less 8, where there are zero points.
static inline __attribute__((always_inline)) void unpack_tile(int bits, int zeros, const uint8_t *p, __m512 scale, __m512 middle,
                                                              uint16_t *tile) {
    const __m512 values = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    const int per_word = 32 / bits;
    for (int j = 0; j < 32 / per_word; j++) {
        const __m512i w = _mm512_loadu_si512(p + 64 * j);
        for (int k = 0; k < per_word; k += 2) {
            __m512 v[2];
            for (int i = 0; i < 2; i++) {
                const __m512i shifted = _mm512_srlv_epi32(w, _mm512_set1_epi32(bits * (k + i)));
                v[i] = bits == 4 ? _mm512_permutexvar_ps(shifted, values)
                                 : _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_and_si512(shifted, _mm512_set1_epi32(255)),
                                                                       _mm512_set1_epi32(128)));
                if (zeros) v[i] = _mm512_add_ps(v[i], middle);
            }
            _mm512_storeu_si512(tile + 32 * (j * per_word / 2 + k / 2),
                                pair(_mm512_mul_ps(v[0], scale), _mm512_mul_ps(v[1], scale)));
        }
    }
}

static void unpack_block(const Linear *l, int block, uint16_t *tiles) {
    const int bits = bits_of(l), zeros = l->format == INT4_ZEROS;
    const uint8_t *p = (const uint8_t *)l->weight + block * block_bytes(l);
    for (int g = 0; g < l->in / l->group; g++, p += group_bytes(l)) {
        const uint8_t *scales = p + group_bytes(l) - behind_group(zeros);
        const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)scales));
        __m512 middle = _mm512_setzero_ps();
        if (zeros)
            middle = _mm512_sub_ps(_mm512_set1_ps(8), _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(scales + 2 * BLOCK))));
        for (int i = 0; i < l->group; i += 32, tiles += TILE_VALUES)
            if (zeros)
                unpack_tile(4, 1, p + (size_t)i * 8, scale, middle, tiles);
            else if (bits == 4)
                unpack_tile(4, 0, p + (size_t)i * 8, scale, middle, tiles);
            else
                unpack_tile(8, 0, p + (size_t)i * 16, scale, middle, tiles);
    }
}

static void finish(const Linear *l, int rows, int row, int block, const float *tile, float *y, size_t ldy) {
    const int start = block * BLOCK, count = l->out - start < BLOCK ? l->out - start : BLOCK;
    const __mmask16 kept = (__mmask16)((1u << count) - 1);
    const __m512 bias = l->bias ? _mm512_maskz_loadu_ps(kept, l->bias + start) : _mm512_setzero_ps();
    for (int r = 0; r < 16 && row + r < rows; r++)
        _mm512_mask_storeu_ps(y + (size_t)(row + r) * ldy + start, kept, _mm512_add_ps(_mm512_loadu_ps(tile + 16 * r), bias));
}

size_t amx_input_bytes(const Linear *l, int rows) { return (size_t)(rows + 31) / 32 * 32 * l->in * 2; }

// Row `row` of x to its place in tiles of 16 rows by 32 inputs. Rows past the last are zeros.
void amx_input(const Linear *l, int row, const float *x, uint16_t *tiles) {
    uint16_t *to = tiles + (size_t)(row / 16) * l->in * 16 + row % 16 * 32;
    for (int i = 0; i < l->in; i += 32, to += TILE_VALUES)
        if (x)
            _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + 16), _mm512_loadu_ps(x + i)));
        else
            memset(to, 0, 64);
}

size_t amx_panel_bytes(const Linear *l, int blocks) { return (size_t)((blocks + 1) / 2 * 2) * l->in * BLOCK * 2; }

// y[rows, outputs of the blocks [first, last)]; `panel` has `amx_panel_bytes` of them.
void amx_gemm(const Linear *l, int rows, const uint16_t *input, int first, int last, float *y, size_t ldy, uint16_t *panel) {
    const size_t each = (size_t)l->in * BLOCK;
    const int count = last - first, groups = l->in / 32;
    for (int b = 0; b < count; b++) unpack_block(l, first + b, panel + b * each);
    if (count % 2) memset(panel + count * each, 0, each * 2);
    float out[4][256] __attribute__((aligned(64)));
    for (int row = 0; row < rows; row += 32)
        for (int b = 0; b < count; b += 2) {
            const uint16_t *a0 = input + (size_t)row * l->in, *a1 = a0 + each;
            const uint16_t *b0 = panel + b * each, *b1 = b0 + each;
            tile_zero(0); tile_zero(1); tile_zero(2); tile_zero(3);
            for (int g = 0; g < groups; g++, a0 += TILE_VALUES, a1 += TILE_VALUES, b0 += TILE_VALUES, b1 += TILE_VALUES) {
                for (int line = 0; line < TILE_VALUES; line += 32) {
                    _mm_prefetch((const char *)(a0 + AHEAD * TILE_VALUES + line), _MM_HINT_T0);
                    _mm_prefetch((const char *)(b0 + AHEAD * TILE_VALUES + line), _MM_HINT_T0);
                    _mm_prefetch((const char *)(a1 + AHEAD * TILE_VALUES + line), _MM_HINT_T0);
                    _mm_prefetch((const char *)(b1 + AHEAD * TILE_VALUES + line), _MM_HINT_T0);
                }
                tile_load(4, a0, 64);
                tile_load(6, b0, 64);
                tile_dot(0, 4, 6);
                tile_load(7, b1, 64);
                tile_dot(1, 4, 7);
                tile_load(5, a1, 64);
                tile_dot(2, 5, 6);
                tile_dot(3, 5, 7);
            }
            tile_store(0, out[0], 64);
            tile_store(1, out[1], 64);
            tile_store(2, out[2], 64);
            tile_store(3, out[3], 64);
            for (int t = 0; t < 4; t++)
                if (row + t / 2 * 16 < rows && b + t % 2 < count)
                    finish(l, rows, row + t / 2 * 16, first + b + t % 2, out[t], y, ldy);
        }
}

void amx_begin(void) { tiles_on(); }
void amx_end(void) { tiles_off(); }
INSTRUCTIONS_END
#else
size_t amx_input_bytes(const Linear *l, int rows) { return (void)l, (void)rows, 0; }
void amx_input(const Linear *l, int row, const float *x, uint16_t *tiles) { (void)l, (void)row, (void)x, (void)tiles; }
size_t amx_panel_bytes(const Linear *l, int blocks) { return (void)l, (void)blocks, 0; }
void amx_gemm(const Linear *l, int rows, const uint16_t *input, int first, int last, float *y, size_t ldy, uint16_t *panel) {
    (void)l, (void)rows, (void)input, (void)first, (void)last, (void)y, (void)ldy, (void)panel;
}
void amx_begin(void) {}
void amx_end(void) {}
#endif
