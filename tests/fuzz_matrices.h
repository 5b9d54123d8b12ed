// What a case of fuzz_native.c is made of: random values, buffers of exactly the size that the interface states, and matrices
// with the weights that they stand for, whose product is computed with plain loops in double.
#pragma once
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../itrex_chat/native/native.h"

size_t itrex_packed_bytes(const Linear *);
int itrex_pack(const Linear *, const int32_t *qweight, int64_t qstride, const uint16_t *scales, const uint16_t *zeros, int64_t sstride, int first,
                int count, int threads);
int itrex_unpack(const Linear *, float *out, int threads);

static const char *const levels[] = {"portable", "avx2", "avx_vnni", "avx512", "amx"};
static uint64_t state;
static int number, level_used;

static uint64_t next64(void) {  // SplitMix64
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static int below(int n) { return (int)(next64() % (uint64_t)n); }
static int between(int low, int high) { return low + below(high - low + 1); }
static float uniform(void) { return (float)((double)(next64() >> 40) / (1 << 23) - 1); }
static int a_few_threads(void) { return between(1, 3); }

#define CHECK(condition, ...)                                                        \
    do {                                                                             \
        if (!(condition)) {                                                          \
            fprintf(stderr, "case %d with %s: ", number, levels[level_used]);        \
            fprintf(stderr, __VA_ARGS__);                                            \
            fprintf(stderr, "\n");                                                   \
            exit(1);                                                                 \
        }                                                                            \
    } while (0)

// What a case has allocated, released at its end.
static void *pieces[256];
static int piece_count;
static void *take(size_t bytes) {
    void *piece = malloc(bytes ? bytes : 1);
    if (!piece || piece_count == 256) abort();
    memset(piece, 0xff, bytes);  // NaN as float: what nobody wrote shows
    return pieces[piece_count++] = piece;
}
static void release(void) {
    while (piece_count) free(pieces[--piece_count]);
}
static float *floats(size_t n) {
    float *out = take(4 * n);
    for (size_t i = 0; i < n; i++) out[i] = uniform();
    return out;
}
static float *near_one(size_t n) {
    float *out = floats(n);
    for (size_t i = 0; i < n; i++) out[i] = 1 + 0.2f * out[i];
    return out;
}

static double half_plainly(uint16_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    const double value = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return half & 0x8000 ? -value : value;
}
static float bf16_value(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    if (x == x) u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u;
    memcpy(&x, &u, 4);
    return x;
}

// A matrix with the weights that it stands for.
typedef struct {
    Linear l;
    double *w;  // [out, in]
} Matrix;

static uint16_t a_scale(int kind) {
    switch (kind) {
        case 0: return (uint16_t)(below(2) << 15 | below(3));  // zero, or subnormal
        case 1: return below(2) ? 0x7bff : 0xfbff;             // the largest
        case 2: return (uint16_t)(below(2) << 15 | below(0x7c00));
        default: return (uint16_t)(below(2) << 15 | (0x1800 + below(0x0c00)));  // 0.002 to 0.06
    }
}

static void quantized(Matrix *m, int scale_kind) {
    Linear *l = &m->l;
    const int bits = bits_of(l), per_word = 32 / bits, words = l->in / per_word, groups = l->in / l->group;
    l->weight = take(itrex_packed_bytes(l));
    for (int first = 0; first < l->out;) {  // in parts, each a part of wider rows
        const int count = below(2) ? l->out - first : between(1, l->out - first);
        const int qstride = count + below(3), sstride = count + below(3);
        int32_t *q = take(4 * ((size_t)(words - 1) * qstride + count));
        uint16_t *s = take(2 * ((size_t)(groups - 1) * sstride + count));
        uint16_t *z = l->format == INT4_ZEROS ? take(2 * ((size_t)(groups - 1) * sstride + count)) : NULL;
        for (int o = 0; o < count; o++) {
            for (int g = 0; g < groups; g++) s[(size_t)g * sstride + o] = a_scale(scale_kind);
            for (int g = 0; z && g < groups; g++) z[(size_t)g * sstride + o] = rounded_half((float)below(17));
            for (int word = 0; word < words; word++) {
                const uint32_t value = (uint32_t)next64();
                memcpy(&q[(size_t)word * qstride + o], &value, 4);
                for (int k = 0; k < per_word; k++) {
                    const int i = word * per_word + k, integer = (int)(value >> (bits * k) & ((1u << bits) - 1));
                    m->w[(size_t)(first + o) * l->in + i] =
                        (integer - (z ? half_plainly(z[(size_t)(i / l->group) * sstride + o]) : 1 << (bits - 1))) *
                        half_plainly(s[(size_t)(i / l->group) * sstride + o]);
                }
            }
        }
        CHECK(itrex_pack(l, q, qstride, s, z, sstride, first, count, a_few_threads()) == 0, "pack: refused");
        first += count;
    }
    float *unpacked = take(4 * (size_t)l->in * l->out);
    CHECK(itrex_unpack(l, unpacked, a_few_threads()) == 0, "unpack: refused");
    for (size_t i = 0; i < (size_t)l->in * l->out; i++)
        CHECK(unpacked[i] == m->w[i], "weight %zu is %g, not %g", i, unpacked[i], m->w[i]);
}

static Matrix a_matrix(int format, int in, int out, int group, int compute, int scale_kind) {
    Matrix m = {.l = {.format = format, .compute = compute, .in = in, .out = out, .group = group}};
    const size_t count = (size_t)in * out;
    m.w = take(8 * count);
    if (!dense_bytes(&m.l))
        quantized(&m, scale_kind);
    else {
        m.l.compute = format == BF16 && compute == WITH_BF16 ? WITH_BF16 : WITH_FP32;
        float *w = floats(count);
        const int odd = below(2);  // as a file may have them
        uint16_t *halves = (uint16_t *)take(2 * (count + odd)) + odd;
        for (size_t i = 0; i < count; i++) {
            w[i] *= 0.1f;
            if (format == BF16) {
                uint32_t u;
                w[i] = bf16_value(w[i]);
                memcpy(&u, &w[i], 4);
                halves[i] = (uint16_t)(u >> 16);
            } else if (format == FP16)
                w[i] = (float)half_plainly(halves[i] = a_scale(scale_kind == 1 ? 2 : scale_kind));
            m.w[i] = w[i];
        }
        m.l.weight = format == FP32 ? (void *)w : (void *)halves;
    }
    m.l.bias = below(2) ? floats(out) : NULL;
    return m;
}

// What both factors of a product are rounded to. Tiles take many rows in BF16 where INT8 would do.
static int rounding(const Linear *l, int rows) {
    return l->compute == WITH_INT8 && rows > ROWS && !strcmp(levels[level_used], "amx") ? WITH_BF16 : l->compute;
}

// The product of one row with one output: its value and the sum of its terms' magnitudes, with the inputs rounded.
static double product(const Matrix *m, int rounded, const float *x, int o, double *magnitude, double *tiny) {
    const Linear *l = &m->l;
    const double *w = m->w + (size_t)o * l->in;
    double sum = 0, inputs = 0, weights = 0;
    const int as_int8 = rounded == WITH_INT8, as_bf16 = rounded == WITH_BF16;
    *magnitude = 0;
    for (int i = 0; i < l->in;) {
        const int end = as_int8 ? i + l->group : i + 1;
        double term = 0;
        if (as_int8) {
            float largest = 0;
            for (int k = i; k < end; k++) largest = fabsf(x[k]) > largest ? fabsf(x[k]) : largest;
            const float step = largest / 127;
            if (step >= 0x1p-126f)
                for (int k = i; k < end; k++) term += rint(x[k] * (1 / step)) * (double)step * w[k];
        } else if (as_bf16)
            term = (double)bf16_value(x[i]) * (dense_bytes(l) ? w[i] : bf16_value((float)w[i]));
        else
            term = x[i] * w[i];
        for (int k = i; k < end; k++) inputs += fabs(x[k]), weights += fabs(w[k]);
        sum += term, *magnitude += fabs(term), i = end;
    }
    if (l->bias) sum += l->bias[o], *magnitude += fabs(l->bias[o]);
    *tiny = as_bf16 ? 0x1p-126 * (l->in + inputs + weights) : l->in * 0x1p-149;
    return sum;
}
