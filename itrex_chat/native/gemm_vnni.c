// Many rows of int8 activations with AVX-512 VNNI: tiles of 2 blocks by 6 rows stay in registers. A row gets the bits that
// `int8_block` (level_int8.h) gives it: integer sums of a group, times its scale, and times the row's in one rounding with the
// addition; then the bias. Zero points come in as there, too.
#include "native.h"
#if defined(__x86_64__)
#include <immintrin.h>

#include "instructions.h"

INSTRUCTIONS("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")

#define TILE 6
#define ALWAYS static inline __attribute__((always_inline))

ALWAYS __m512i spread(const int8_t *x) { return _mm512_set1_epi32(*(const int32_t *)x); }

// As the intrinsic, which makes GCC 12 copy the accumulators from register to register: a sixth slower.
ALWAYS __m512i dot(__m512i sums, __m512i weights, __m512i x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(x));
    return sums;
}

// `ahead`: memory that is fetched meanwhile, as much as a block, or two where it is the first of the whole rows.
ALWAYS void tile(int bits, int zeros, int pair, int R, const uint8_t *p, size_t block, int groups, int group, const Input *in, int row,
                 ptrdiff_t ahead, int both, __m512 sums[2][TILE]) {
    const int words = group * bits / 32;
    const __m512i mask = _mm512_set1_epi8(15);
    const int8_t *q = in->q + (size_t)row * in->ld;
    const float *scale = in->scale + (size_t)row * groups;
    const int32_t *zero = in->zero + (size_t)row * groups;
    for (int b = 0; b < pair; b++)
        for (int r = 0; r < R; r++) sums[b][r] = _mm512_setzero_ps();
    for (int g = 0; g < groups; g++) {
        __m512i a[2][TILE];
        for (int r = 0; r < R; r++)
            for (int b = 0; b < pair; b++) a[b][r] = zeros ? _mm512_setzero_si512() : _mm512_set1_epi32(zero[(size_t)r * groups + g]);
#pragma GCC unroll 4
        for (int j = 0; j < words; j++, p += 64) {
            __m512i low[2], high[2];
            if (ahead) __builtin_prefetch(p + ahead, 0, 3);
            if (both) __builtin_prefetch(p + ahead + block, 0, 3);
            for (int b = 0; b < pair; b++) {
                low[b] = _mm512_loadu_si512(p + b * block);
                if (bits == 4) {
                    high[b] = _mm512_and_si512(_mm512_srli_epi16(low[b], 4), mask);
                    low[b] = _mm512_and_si512(low[b], mask);
                }
            }
            for (int r = 0; r < R; r++) {
                const __m512i x = spread(q + r * in->ld);
                for (int b = 0; b < pair; b++) a[b][r] = dot(a[b][r], low[b], x);
            }
            if (bits == 4)
                for (int r = 0; r < R; r++) {
                    const __m512i x = spread(q + r * in->ld + 4);
                    for (int b = 0; b < pair; b++) a[b][r] = dot(a[b][r], high[b], x);
                }
            q += bits == 4 ? 8 : 4;
        }
        for (int b = 0; b < pair; b++) {
            const __m512 s = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p + b * block)));
            __m512 z = s;
            if (zeros) z = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p + b * block + 2 * BLOCK)));
            for (int r = 0; r < R; r++) {
                __m512 n = _mm512_cvtepi32_ps(a[b][r]);
                if (zeros) n = _mm512_fmadd_ps(z, _mm512_set1_ps(0.125f * zero[(size_t)r * groups + g]), n);
                sums[b][r] = _mm512_fmadd_ps(_mm512_mul_ps(n, s), _mm512_set1_ps(scale[(size_t)r * groups + g]), sums[b][r]);
            }
        }
        p += behind_group(zeros);
    }
}

// R rows from `row` on; the first `done` of them have their outputs already.
ALWAYS void rows_of(int bits, int zeros, int pair, int R, const Linear *l, const Input *in, int b, int row, int done, float *y,
                    size_t ldy, int add, ptrdiff_t ahead, int both) {
    __m512 sums[2][TILE];
    const size_t block = block_bytes(l);
    tile(bits, zeros, pair, R, (const uint8_t *)l->weight + b * block, block, l->in / l->group, l->group, in, row, ahead, both, sums);
    for (int k = 0; k < pair; k++) {
        const int start = (b + k) * BLOCK, count = l->out - start < BLOCK ? l->out - start : BLOCK;
        const __mmask16 kept = (__mmask16)((1u << count) - 1);
        if (l->bias) {
            const __m512 bias = _mm512_maskz_loadu_ps(kept, l->bias + start);
            for (int r = 0; r < R; r++) sums[k][r] = _mm512_add_ps(sums[k][r], bias);
        }
        if (add)
            for (int r = 0; r < R; r++)
                sums[k][r] = _mm512_add_ps(_mm512_maskz_loadu_ps(kept, y + (row + r) * ldy + start), sums[k][r]);
        for (int r = 0; r < R; r++)
            if (r >= done) _mm512_mask_storeu_ps(y + (row + r) * ldy + start, kept, sums[k][r]);
    }
}

// SwiGLU of a block of the gate, in the first half of the outputs, and the block of the second half that belongs to it.
ALWAYS void gated_rows_of(int bits, int zeros, int R, const Linear *l, const Input *in, int b, int row, float *y, size_t ldy) {
    __m512 sums[2][TILE];
    float halves[2][TILE * BLOCK], out[TILE * BLOCK];
    const size_t block = block_bytes(l), half = l->out / 2;
    tile(bits, zeros, 2, R, (const uint8_t *)l->weight + b * block, half / BLOCK * block, l->in / l->group, l->group, in, row, 0, 0, sums);
    for (int k = 0; k < 2; k++) {
        if (l->bias) {
            const __m512 bias = _mm512_loadu_ps(l->bias + k * half + b * BLOCK);
            for (int r = 0; r < R; r++) sums[k][r] = _mm512_add_ps(sums[k][r], bias);
        }
        for (int r = 0; r < R; r++) _mm512_storeu_ps(halves[k] + r * BLOCK, sums[k][r]);
    }
    level()->swiglu(halves[0], halves[1], R * BLOCK, out);
    for (int r = 0; r < R; r++) _mm512_storeu_ps(y + (row + r) * ldy + b * BLOCK, _mm512_loadu_ps(out + r * BLOCK));
}

#define FOR_ROWS(CALL) \
    switch (R) {       \
        case 1: CALL(1); break; case 2: CALL(2); break; case 3: CALL(3); break; \
        case 4: CALL(4); break; case 5: CALL(5); break; default: CALL(6);       \
    }
static void rows_few(int pair, int R, const Linear *l, const Input *in, int b, int row, int done, float *y, size_t ldy, int add,
                     ptrdiff_t ahead, int both) {
#define OF(bits, zeros, n)                                                                  \
    (pair == 2 ? rows_of(bits, zeros, 2, n, l, in, b, row, done, y, ldy, add, ahead, both)  \
               : rows_of(bits, zeros, 1, n, l, in, b, row, done, y, ldy, add, ahead, both))
#define CALL(n) (l->format == INT4 ? OF(4, 0, n) : l->format == INT8 ? OF(8, 0, n) : OF(4, 1, n))
    FOR_ROWS(CALL)
#undef CALL
#undef OF
}
static void gated_rows_few(int R, const Linear *l, const Input *in, int b, int row, float *y, size_t ldy) {
#define OF(bits, zeros, n) gated_rows_of(bits, zeros, n, l, in, b, row, y, ldy)
#define CALL(n) (l->format == INT4 ? OF(4, 0, n) : l->format == INT8 ? OF(8, 0, n) : OF(4, 1, n))
    FOR_ROWS(CALL)
#undef CALL
#undef OF
}

// y[rows, outputs of the blocks [first, last)]: the rows pass by while the blocks stay in the cache.
void vnni_gemm(const Linear *l, const Input *in, int first, int last, float *y, size_t ldy) {
    for (int row = 0; row < in->rows; row += TILE) {
        const int R = in->rows - row < TILE ? in->rows - row : TILE;
        for (int b = first; b < last; b += 2) rows_few(last - b >= 2 ? 2 : 1, R, l, in, b, row, 0, y, ldy, 0, 0, 0);
    }
}

// The same for a few rows, or added to y: blocks are read once, and the rows pass by each of them, as many at a time in the first
// two parts, which fetch what comes next: with the loops of two numbers in turn that takes a fifth longer, and with a loop of six
// rows by itself a sixth (Zen 5). So where two parts are all, one row may be in both.
void vnni_blocks(const Linear *l, const Input *in, int first, int last, float *y, size_t ldy, int add) {
    const int parts = in->rows == TILE ? 2 : (in->rows + TILE - 1) / TILE, each = (in->rows + parts - 1) / parts;
    for (int b = first; b < last; b += 2)
        for (int part = 0, next = 0; next < in->rows; part++, next += each) {
            const int row = part == 1 && next + each > in->rows ? in->rows - each : next;
            const int R = in->rows - row < each ? in->rows - row : each;
            const ptrdiff_t ahead = part < 2 ? (2 + part) * block_bytes(l) : 0;
            rows_few(last - b >= 2 ? 2 : 1, R, l, in, b, row, next - row, y, ldy, add, ahead, parts == 1);
        }
}

// The same for blocks of the gate, with SwiGLU: y[rows, out/2].
void vnni_gated(const Linear *l, const Input *in, int first, int last, float *y, size_t ldy) {
    for (int row = 0; row < in->rows; row += TILE) {
        const int R = in->rows - row < TILE ? in->rows - row : TILE;
        for (int b = first; b < last; b++) gated_rows_few(R, l, in, b, row, y, ldy);
    }
}
INSTRUCTIONS_END
#else
void vnni_gemm(const Linear *l, const Input *in, int first, int last, float *y, size_t ldy) {
    (void)l, (void)in, (void)first, (void)last, (void)y, (void)ldy;
}
void vnni_blocks(const Linear *l, const Input *in, int first, int last, float *y, size_t ldy, int add) {
    (void)l, (void)in, (void)first, (void)last, (void)y, (void)ldy, (void)add;
}
void vnni_gated(const Linear *l, const Input *in, int first, int last, float *y, size_t ldy) {
    (void)l, (void)in, (void)first, (void)last, (void)y, (void)ldy;
}
#endif
