// The inner loops, written once. A file that includes this has defined
//   NAME(x)   x with the level's suffix;  LEVEL its table's name;  LABEL its name in words
//   LANES     float lanes of a vector;  HALVES = 16 / LANES
//   halves(p), bf16s(p), signed_bytes(p)  LANES float16, bfloat16 or int8 values as floats
//   dot4, dot8(sums, w, x)   to each int32 lane add the products of its 4 unsigned bytes with the 4 signed bytes of x
//             (dot4: bytes below 16)
//   nearest(v)    floats to int32, halves to even
//   narrow(p, i, v), narrow_evens_first(p, i, v)  int32 within a byte's range, stored as bytes from p[i]; the second: of 8
//             those at even places first
//   pairs(w, x), fold(sums, s, by)  where 16-bit sums are what there is: those of two products of unsigned with signed bytes;
//             to each int32 lane the two of s, times by
//   most_of(v), sum_of(v)  the largest and the sum of int32 lanes
//   fused(a, b, c)  a · b + c, where it must be one rounding at any level of optimization
//   total(v)      the sum of the lanes
//   nibble(w, p)  nibble p of each 32-bit lane, less 8, as float
// and has chosen the instructions. Vectors are GCC's and Clang's own.
#include <math.h>
#include <string.h>

typedef float vf __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define ALWAYS static inline __attribute__((always_inline))
#define LOADF(p) (*(const vf *)(p))
#define LOADI(p) (*(const vi *)(p))
#define LOADU(p) (*(const vu *)(p))
#define TOF(v) __builtin_convertvector(v, vf)
#if defined(__x86_64__)
#define IN_REGISTER(v) __asm__("" : "+v"(v))  // read once, not by each instruction that takes it
#else
#define IN_REGISTER(v)
#endif

#ifndef fused
#define fused(a, b, c) ((a) * (b) + (c))
#endif
ALWAYS vf splat(float x) { return x - (vf){0}; }
ALWAYS vi splati(int32_t x) { return x - (vi){0}; }
ALWAYS vf pick(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }
ALWAYS vf bf16_of(vf x) {  // round to nearest even; NaN stays NaN
    vu u = (vu)x;
    vu rounded = (u + 0x7fff + ((u >> 16) & 1)) & 0xffff0000u;
    return pick((vi)(x == x), (vf)rounded, x);
}
static inline float bf16_one(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    if (x == x) u = (u + 0x7fff + ((u >> 16) & 1)) & 0xffff0000u;
    memcpy(&x, &u, 4);
    return x;
}
// e^x to 2 units in the last place (Cephes' expf), for -87.3 <= x <= 88.3.
ALWAYS vf exponential_inside(vf x) {
    vf n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (vf)((__builtin_convertvector(n, vi) + 127) << 23);
}
// e^x; below -87 a value near 0, above 88 infinity.
ALWAYS vf exponential(vf x) {
    vf y = pick((vi)(x < splat(-87.3f)), splat(-87.3f), x);
    y = pick((vi)(y > splat(88.3f)), splat(88.3f), y);
    vf e = pick((vi)(x > splat(88.3f)), splat(INFINITY), exponential_inside(y));
    return pick((vi)(x == x), e, x);
}
// e^x for x <= 0; below -87 it is 0. NaN stays.
ALWAYS vf decayed(vf x) { return pick((vi)(x < splat(-87.3f)), splat(0), exponential_inside(x)); }

static void NAME(round_bf16)(const float *x, int n, float *y) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) *(vf *)(y + i) = bf16_of(LOADF(x + i));
    for (; i < n; i++) y[i] = bf16_one(x[i]);
}

// Each group to int8 by its largest magnitude / 127. A group that is not finite keeps that in its scale.
static void NAME(quantize)(const float *x, int in, int group, int bits, int8_t *q, float *scale, int32_t *zero) {
    for (int g = 0; g < in / group; g++, x += group, q += group) {
        vi most = {0};
        for (int i = 0; i < group; i += LANES) {  // magnitudes compare as integers, NaN above all
            vi magnitude = LOADI(x + i) & 0x7fffffff;
            vi larger = (vi)(magnitude > most);
            most = (magnitude & larger) | (most & ~larger);
        }
        const int32_t bitmap = most_of(most);
        float largest;
        memcpy(&largest, &bitmap, 4);
        float step = largest / 127;
        float inverse = step >= 0x1p-126f && step <= 0x1p126f ? 1 / step : 0;
        if (inverse == 0 && step <= 0x1p126f) step = 0;
        vi sums = {0};
        for (int i = 0; i < group; i += LANES) {
            vf y = LOADF(x + i) * inverse;
            if (inverse == 0) y = (vf){0};
            const vi n = nearest(y);
            sums += n;
            if (bits == 4)
                narrow_evens_first(q, i, n);
            else
                narrow(q, i, n);
        }
        const int32_t sum = sum_of(sums);
        scale[g] = step;
        zero[g] = -sum * (1 << (bits - 1));
    }
}

ALWAYS int32_t word_of(const int8_t *q) {
    int32_t word;
    memcpy(&word, q, 4);
    return word;
}
ALWAYS void store_block(const vf *sums, const float *bias, int count, float *y, int add) {
    float out[BLOCK];
    for (int h = 0; h < HALVES; h++) *(vf *)(out + h * LANES) = sums[h];
    if (count == BLOCK && !bias && !add) {
        memcpy(y, out, sizeof out);
        return;
    }
    for (int n = 0; n < count; n++) {
        const float value = bias ? out[n] + bias[n] : out[n];
        y[n] = add ? y[n] + value : value;
    }
}

#define EACH_OF_FOUR(R, CALL) \
    switch (R) { case 1: CALL(1); break; case 2: CALL(2); break; case 3: CALL(3); break; default: CALL(4); }
#define EACH_OF_SIX(R, CALL)                                                                  \
    switch (R) {                                                                              \
        case 1: CALL(1); break; case 2: CALL(2); break; case 3: CALL(3); break;               \
        case 4: CALL(4); break; case 5: CALL(5); break; default: CALL(6);                     \
    }
#define EACH_COUNT(R, CALL)                                                                   \
    switch (R) {                                                                              \
        case 1: CALL(1); break; case 2: CALL(2); break; case 3: CALL(3); break;               \
        case 4: CALL(4); break; case 5: CALL(5); break; case 6: CALL(6); break;               \
        case 7: CALL(7); break; default: CALL(8);                                             \
    }

#include "level_int8.h"

// The same with float32 activations: weights exact, or rounded to bfloat16 where `bf16`.
ALWAYS void float_block(int bits, int zeros, int bf16, int R, const uint8_t *p, int groups, int group, const Input *in, int row,
                        vf *out) {
    const int per_word = 32 / bits, words = group / per_word;
    const float *x = in->x + (size_t)row * in->ld;
    vf sums[FEW][HALVES];
    for (int r = 0; r < R; r++)
        for (int h = 0; h < HALVES; h++) sums[r][h] = (vf){0};
    for (int g = 0; g < groups; g++, x += group) {
        const uint8_t *scales = p + 64 * words;
        for (int h = 0; h < HALVES; h++) {
            vf s = halves(scales + 2 * LANES * h), part[FEW], middle = {0};
            if (zeros) middle = 8 - halves(scales + 2 * BLOCK + 2 * LANES * h);
            for (int r = 0; r < R; r++) {
                part[r] = (vf){0};
                if (bf16) part[r] = sums[r][h];
            }
            for (int j = 0; j < words; j++) {
                if (h == 0) __builtin_prefetch(p + 64 * j + PREFETCH, 0, 3);
                vu w = LOADU(p + 64 * j + 4 * LANES * h);
#pragma GCC unroll 8
                for (int k = 0; k < per_word; k++) {
                    vf v;
                    if (bits == 4)
                        v = nibble(w, k);
                    else
                        v = TOF((vi)((w >> (8 * k)) & 255) - 128);
                    if (zeros) v += middle;
                    if (bf16) v = bf16_of(v * s);
                    for (int r = 0; r < R; r++) part[r] += v * x[r * in->ld + per_word * j + k];
                }
            }
            for (int r = 0; r < R; r++)
                if (bf16)
                    sums[r][h] = part[r];
                else
                    sums[r][h] += part[r] * s;
        }
        p = scales + behind_group(zeros);
    }
    for (int r = 0; r < R; r++)
        for (int h = 0; h < HALVES; h++) out[r * HALVES + h] = sums[r][h];
}

#include "level_dense.h"

#define PRODUCT(name, CALL)                                                                                  \
    static void NAME(name)(const Linear *l, const Input *in, const uint8_t *p, int row, int R, vf *out) {    \
        const int groups = l->in / l->group, group = l->group;                                               \
        EACH_COUNT(R, CALL)                                                                                  \
    }
#define CALL(n) int8_block(4, 0, n, p, groups, group, in, row, out)
PRODUCT(int4_int8, CALL)
#undef CALL
#define CALL(n) int8_block(8, 0, n, p, groups, group, in, row, out)
PRODUCT(int8_int8, CALL)
#undef CALL
#define CALL(n) float_block(4, 0, 0, n, p, groups, group, in, row, out)
PRODUCT(int4_fp32, CALL)
#undef CALL
#define CALL(n) float_block(8, 0, 0, n, p, groups, group, in, row, out)
PRODUCT(int8_fp32, CALL)
#undef CALL
#define CALL(n) float_block(4, 0, 1, n, p, groups, group, in, row, out)
PRODUCT(int4_bf16, CALL)
#undef CALL
#define CALL(n) float_block(8, 0, 1, n, p, groups, group, in, row, out)
PRODUCT(int8_bf16, CALL)
#undef CALL
#define CALL(n) int8_block(4, 1, n, p, groups, group, in, row, out)
PRODUCT(int4_zeros_int8, CALL)
#undef CALL
#define CALL(n) float_block(4, 1, 0, n, p, groups, group, in, row, out)
PRODUCT(int4_zeros_fp32, CALL)
#undef CALL
#define CALL(n) float_block(4, 1, 1, n, p, groups, group, in, row, out)
PRODUCT(int4_zeros_bf16, CALL)
#undef CALL

// Outputs of the blocks [first, last) for all rows: y[r, o], or added to it.
static void NAME(blocks)(const Linear *l, const Input *in, int first, int last, float *y, size_t ldy, int add) {
#ifdef TILED  // rows from which on this is faster
    if (!dense_bytes(l) && l->compute == WITH_INT8 && in->rows >= TILED) {
        vnni_blocks(l, in, first, last, y, ldy, add);
        return;
    }
#endif
#ifdef pairs
    if (!dense_bytes(l) && l->compute == WITH_INT8 && in->rows >= PAIRED(l->format)) {
        NAME(integer_blocks)(l, in, first, last, y, ldy, add);
        return;
    }
#endif
    for (int b = first; b < last; b++) {
        const int start = b * BLOCK, count = l->out - start < BLOCK ? l->out - start : BLOCK;
        if (dense_bytes(l)) {
            for (int row = 0; row < in->rows; row += ROWS) {
                const int rows = in->rows - row < ROWS ? in->rows - row : ROWS;
                (l->format == FP32 ? NAME(dense_fp32) : l->format == BF16 ? NAME(dense_bf16) : NAME(dense_fp16))(
                    l, in, row, rows, start, count, y + start, ldy, add);
            }
            continue;
        }
        const uint8_t *p = (const uint8_t *)l->weight + (size_t)b * block_bytes(l);
        for (int row = 0; row < in->rows; row += FEW) {
            const int R = in->rows - row < FEW ? in->rows - row : FEW;
            vf out[FEW * HALVES];
#define PRODUCT_OF(with) (l->format == INT4 ? NAME(int4_##with) : l->format == INT8 ? NAME(int8_##with) : NAME(int4_zeros_##with))
            if (l->compute == WITH_INT8)
                PRODUCT_OF(int8)(l, in, p, row, R, out);
            else if (l->compute == WITH_FP32)
                PRODUCT_OF(fp32)(l, in, p, row, R, out);
            else
                PRODUCT_OF(bf16)(l, in, p, row, R, out);
#undef PRODUCT_OF
            for (int r = 0; r < R; r++)
                store_block(out + r * HALVES, l->bias ? l->bias + start : 0, count, y + (row + r) * ldy + start, add);
        }
    }
}

static void NAME(rms_norm)(const float *x, const float *weight, int n, float eps, float *y) {
    vf squares = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES) squares += LOADF(x + i) * LOADF(x + i);
    float sum = total(squares);
    for (int k = i; k < n; k++) sum += x[k] * x[k];
    const float factor = 1.0f / sqrtf(sum / n + eps);
    for (i = 0; i + LANES <= n; i += LANES) *(vf *)(y + i) = LOADF(x + i) * factor * LOADF(weight + i);
    for (; i < n; i++) y[i] = x[i] * factor * weight[i];
}

static void NAME(swiglu)(const float *gate, const float *up, int n, float *y) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf g = LOADF(gate + i);
        *(vf *)(y + i) = g / (1.0f + exponential(-g)) * LOADF(up + i);
    }
    for (; i < n; i++) y[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

#include "level_attention.h"

const Level LEVEL = {LABEL, NAME(quantize), NAME(round_bf16), NAME(blocks), NAME(rms_norm), NAME(swiglu), NAME(keep),
                     NAME(attend), NAME(fold), NAME(attend_tile)};
