// The inner loops, written once. A file that includes this has defined
//   NAME(x)   x with the level's suffix;  LEVEL its table's name;  LABEL its name in words
//   LANES     float lanes of a vector;  HALVES = 16 / LANES
//   halves(p), bf16s(p), signed_bytes(p)  LANES float16, bfloat16 or int8 values as floats
//   dot4, dot8(sums, w, x)   to each int32 lane add the products of its 4 unsigned bytes with the 4 signed bytes of x
//             (dot4: bytes below 16)
//   nearest(v)    floats to int32, halves to even
//   narrow(p, i, v), narrow_evens_first(p, i, v)  int32 within a byte's range, stored as bytes from p[i]; the second: of 8
//             those at even places first
//   most_of(v), sum_of(v)  the largest and the sum of int32 lanes
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
        float value = out[n] + (bias ? bias[n] : 0.0f);
        y[n] = add ? y[n] + value : value;
    }
}

// One block of 16 outputs with R rows of int8 activations. Sums of a group are exact integers.
ALWAYS void int8_block(int bits, int R, const uint8_t *p, int groups, int group, const Input *in, int row, vf *out) {
    const int words = group * bits / 32;
    const int8_t *q = in->q + (size_t)row * in->ld;
    const float *scale = in->scale + (size_t)row * groups;
    const int32_t *zero = in->zero + (size_t)row * groups;
    vf sums[FEW][HALVES];
    for (int r = 0; r < R; r++)
        for (int h = 0; h < HALVES; h++) sums[r][h] = (vf){0};
    for (int g = 0; g < groups; g++, q += group) {
        const uint8_t *scales = p + 64 * words;
        for (int h = 0; h < HALVES; h++) {
            vi a[FEW], b = {0};  // two chains of sums where there are few
            for (int r = 0; r < R; r++) a[r] = splati(zero[(size_t)r * groups + g]);
            for (int j = 0; j < words; j++) {
                if (h == 0) __builtin_prefetch(p + 64 * j + PREFETCH, 0, 3);
                vu w = LOADU(p + 64 * j + 4 * LANES * h);
                if (bits == 4) {
                    vi low = (vi)(w & 0x0f0f0f0f), high = (vi)((w >> 4) & 0x0f0f0f0f);
                    for (int r = 0; r < R; r++) {
                        const int8_t *x = q + r * in->ld + 8 * j;
                        a[r] = dot4(a[r], low, word_of(x));
                        if (R == 1)
                            b = dot4(b, high, word_of(x + 4));
                        else
                            a[r] = dot4(a[r], high, word_of(x + 4));
                    }
                } else
                    for (int r = 0; r < R; r++)
                        if (R == 1 && j % 2)
                            b = dot8(b, (vi)w, word_of(q + r * in->ld + 4 * j));
                        else
                            a[r] = dot8(a[r], (vi)w, word_of(q + r * in->ld + 4 * j));
            }
            vf s = halves(scales + 2 * LANES * h);
            if (R == 1) a[0] += b;
            for (int r = 0; r < R; r++) sums[r][h] += TOF(a[r]) * s * scale[(size_t)r * groups + g];
        }
        p = scales + 2 * BLOCK;
    }
    for (int r = 0; r < R; r++)
        for (int h = 0; h < HALVES; h++) out[r * HALVES + h] = sums[r][h];
}

// The same with float32 activations: weights exact, or rounded to bfloat16 where `bf16`.
ALWAYS void float_block(int bits, int bf16, int R, const uint8_t *p, int groups, int group, const Input *in, int row,
                        vf *out) {
    const int per_word = 32 / bits, words = group / per_word;
    const float *x = in->x + (size_t)row * in->ld;
    vf sums[FEW][HALVES];
    for (int r = 0; r < R; r++)
        for (int h = 0; h < HALVES; h++) sums[r][h] = (vf){0};
    for (int g = 0; g < groups; g++, x += group) {
        const uint8_t *scales = p + 64 * words;
        for (int h = 0; h < HALVES; h++) {
            vf s = halves(scales + 2 * LANES * h), part[FEW];
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
        p = scales + 2 * BLOCK;
    }
    for (int r = 0; r < R; r++)
        for (int h = 0; h < HALVES; h++) out[r * HALVES + h] = sums[r][h];
}

// LANES values of a row of a row-major matrix from value i on.
ALWAYS vf dense_load(int format, const uint8_t *row, int i) {
    if (format == FP32) return LOADF((const float *)row + i);
    return format == BF16 ? (vf)bf16s(row + 2 * (size_t)i) : (vf)halves(row + 2 * (size_t)i);
}
// A row-major matrix with a few rows of inputs. The sums of 16 outputs are kept while the inputs are gone through in parts
// that stay in the first-level cache, and in registers for some rows and outputs at a time. Each sum is that of FP32 weights
// whatever the format, and added up in the same order whatever else is computed: vector by vector, the last one with zeros.
#define DENSE_ROWS 6
#define DENSE_PART 4096   // inputs of all rows together
#define DENSE_SHORT 4096  // bytes of a row of the matrix
#if LANES == 16
#define DENSE_OUTPUTS(R) 4  // with 32 registers
#else
#define DENSE_OUTPUTS(R) ((R) < 4 ? 4 : 2)  // with 16
#endif
// The inputs [i, end), whole vectors, of `outputs` rows of the matrix with R rows of inputs, added to sums [outputs, ROWS].
// What is `ahead` bytes behind is prefetched, unless that is 0: of each row, or, `together`, of all of them at the same pace.
ALWAYS void dense_part(int format, int R, int outputs, const uint8_t *weight, size_t bytes, const float *x, size_t ld, int i,
                       int end, size_t ahead, int together, vf *sums) {
    const int line = format == FP32 ? 16 : 32;
    vf s[4][DENSE_ROWS];
    for (int o = 0; o < outputs; o++)
        for (int r = 0; r < R; r++) s[o][r] = sums[o * ROWS + r];
    while (i < end) {
        if (ahead)
            for (int o = 0; o < outputs; o++) {
                const size_t at = (size_t)i * (64 / line);
                __builtin_prefetch(weight + ahead + (together ? at * outputs + o * 64 : at + o * bytes), 0, 3);
            }
        for (const int stop = i + line < end ? i + line : end; i < stop; i += LANES) {
            vf v[4];
            for (int o = 0; o < outputs; o++) v[o] = dense_load(format, weight + o * bytes, i);
            for (int r = 0; r < R; r++) {
                vf from = LOADF(x + r * ld + i);
                if (outputs > 1) IN_REGISTER(from);
                for (int o = 0; o < outputs; o++) s[o][r] += v[o] * from;
            }
        }
    }
    for (int o = 0; o < outputs; o++)
        for (int r = 0; r < R; r++) sums[o * ROWS + r] = s[o][r];
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

// The same for any number of rows and outputs of those that are summed together, both at most 16.
ALWAYS void dense_sums(int format, int rows, int outputs, const uint8_t *weight, size_t bytes, const float *x, size_t ld, int i,
                       int end, size_t ahead, int together, vf *sums) {
    const int parts = (rows + DENSE_ROWS - 1) / DENSE_ROWS;
    for (int part = 0; part < parts; part++) {
        const int row = rows * part / parts, R = rows * (part + 1) / parts - row;
        const float *from = x + row * ld;
        int o = 0;
#define CALL(R)                                                                                                       \
    for (; o + DENSE_OUTPUTS(R) <= outputs; o += DENSE_OUTPUTS(R))                                                    \
        dense_part(format, R, DENSE_OUTPUTS(R), weight + o * bytes, bytes, from, ld, i, end, part ? 0 : ahead,        \
                   together, sums + o * ROWS + row);                                                                            \
    for (; o < outputs; o++)                                                                                          \
        dense_part(format, R, 1, weight + o * bytes, bytes, from, ld, i, end, part ? 0 : ahead, together, \
                   sums + o * ROWS + row)
        EACH_OF_SIX(R, CALL)
#undef CALL
    }
}
// 16 outputs, or the last ones, with at most 16 rows.
ALWAYS void dense_block(int format, const Linear *l, const Input *in, int row, int rows, int first, int count, float *y,
                        size_t ldy, int add) {
    const size_t size = format == FP32 ? 4 : 2, bytes = l->in * size;
    const uint8_t *w = (const uint8_t *)l->weight + first * bytes;
    const float *x = in->x + (size_t)row * in->ld;
    const int whole = l->in - l->in % LANES;
    vf sums[BLOCK * ROWS];
    for (int o = 0; o < count; o++)
        for (int r = 0; r < rows; r++) sums[o * ROWS + r] = (vf){0};
    if (rows < 4) {  // some outputs after the others: what is behind the end of a row begins with the next ones
        const int together = bytes <= DENSE_SHORT, last = whole - (int)(DENSE_PREFETCH / size);
        const int parted = together || last < 0 ? 0 : last - last % LANES;
        for (int o = 0; o < count; o += 4) {
            const int n = count - o < 4 ? count - o : 4;
            const size_t ahead = (whole - parted) * size;
            vf *to = sums + o * ROWS;
            if (together)
                dense_sums(format, rows, n, w + o * bytes, bytes, x, in->ld, 0, whole, n * bytes, 1, to);
            else {
                dense_sums(format, rows, n, w + o * bytes, bytes, x, in->ld, 0, parted, ahead, 0, to);
                dense_sums(format, rows, n, w + o * bytes, bytes, x, in->ld, parted, whole, ahead + (n - 1) * bytes, 0, to);
            }
        }
    } else {
        const int part = DENSE_PART / rows / 64 * 64;
        for (int i = 0; i < whole; i += part) {
            const int end = i + part < whole ? i + part : whole;
            const size_t ahead = end < whole ? part * size : count * bytes - i * size;
            dense_sums(format, rows, count, w, bytes, x, in->ld, i, end, ahead, 0, sums);
        }
    }
    if (whole < l->in)  // the last ones in a vector with zeros
        for (int o = 0; o < count; o++) {
            uint8_t weights[4 * LANES] = {0};
            memcpy(weights, w + o * bytes + whole * size, bytes - whole * size);
            for (int r = 0; r < rows; r++) {
                float inputs[LANES] = {0};
                memcpy(inputs, x + r * in->ld + whole, 4 * (l->in - whole));
                sums[o * ROWS + r] += dense_load(format, weights, 0) * LOADF(inputs);
            }
        }
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < count; o++) {
            const float value = total(sums[o * ROWS + r]) + (l->bias ? l->bias[first + o] : 0.0f);
            float *to = y + (row + r) * ldy + o;
            *to = add ? *to + value : value;
        }
}
#define DENSE(name, format)                                                                                              \
    static void NAME(name)(const Linear *l, const Input *in, int row, int rows, int first, int count, float *y,          \
                           size_t ldy, int add) {                                                                        \
        dense_block(format, l, in, row, rows, first, count, y, ldy, add);                                                \
    }
DENSE(dense_fp32, FP32)
DENSE(dense_bf16, BF16)
DENSE(dense_fp16, FP16)

#define PRODUCT(name, CALL)                                                                                  \
    static void NAME(name)(const Linear *l, const Input *in, const uint8_t *p, int row, int R, vf *out) {    \
        const int groups = l->in / l->group, group = l->group;                                               \
        EACH_COUNT(R, CALL)                                                                                  \
    }
#define CALL(n) int8_block(4, n, p, groups, group, in, row, out)
PRODUCT(int4_int8, CALL)
#undef CALL
#define CALL(n) int8_block(8, n, p, groups, group, in, row, out)
PRODUCT(int8_int8, CALL)
#undef CALL
#define CALL(n) float_block(4, 0, n, p, groups, group, in, row, out)
PRODUCT(int4_fp32, CALL)
#undef CALL
#define CALL(n) float_block(8, 0, n, p, groups, group, in, row, out)
PRODUCT(int8_fp32, CALL)
#undef CALL
#define CALL(n) float_block(4, 1, n, p, groups, group, in, row, out)
PRODUCT(int4_bf16, CALL)
#undef CALL
#define CALL(n) float_block(8, 1, n, p, groups, group, in, row, out)
PRODUCT(int8_bf16, CALL)
#undef CALL

// Outputs of the blocks [first, last) for all rows: y[r, o], or added to it.
static void NAME(blocks)(const Linear *l, const Input *in, int first, int last, float *y, size_t ldy, int add) {
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
            if (l->compute == WITH_INT8)
                (l->format == INT4 ? NAME(int4_int8) : NAME(int8_int8))(l, in, p, row, R, out);
            else if (l->compute == WITH_FP32)
                (l->format == INT4 ? NAME(int4_fp32) : NAME(int8_fp32))(l, in, p, row, R, out);
            else
                (l->format == INT4 ? NAME(int4_bf16) : NAME(int8_bf16))(l, in, p, row, R, out);
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
