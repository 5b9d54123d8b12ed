// Integer products, for level.h.

// LANES sums of a group as floats, less what its zero points at `at` add to them; `zero` is what zero points of 8 do, negated.
ALWAYS vf centred(int zeros, vi sums, const uint8_t *at, int32_t zero) {
    vf n = TOF(sums);
    if (zeros) n = fused(halves(at), splat(0.125f * zero), n);
    return n;
}
// One block of 16 outputs with R rows of int8 activations. Sums of a group are exact integers.
ALWAYS void int8_block(int bits, int zeros, int R, const uint8_t *p, int groups, int group, const Input *in, int row, vf *out) {
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
            for (int r = 0; r < R; r++) a[r] = splati(zeros ? 0 : zero[(size_t)r * groups + g]);
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
            for (int r = 0; r < R; r++) {
                const vf n = centred(zeros, a[r], scales + 2 * BLOCK + 2 * LANES * h, zero[(size_t)r * groups + g]);
                sums[r][h] = fused(n * s, splat(scale[(size_t)r * groups + g]), sums[r][h]);
            }
        }
        p = scales + behind_group(zeros);
    }
    for (int r = 0; r < R; r++)
        for (int h = 0; h < HALVES; h++) out[r * HALVES + h] = sums[r][h];
}

#ifdef pairs
// The same for up to ROWS rows where products of bytes come as sums of two in 16 bits. Weights of 4 bits leave room for eight of
// these (8 · 2 · 15 · 127 < 2^15) before they are added up in 32 bits; those of 8 bits are taken as two of 4 bits.
#define PAIRED(format) ((format) == INT8 ? 8 : 2)  // rows from which on this is faster
#define TOGETHER 4    // rows whose sums are in registers
#define UNPACKED 128  // inputs of a group that is unpacked once for more rows than these
typedef int16_t vs __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

// LANES outputs of word j: the inputs at even places, or those at odd ones; or the lower or the upper halves of 8 bits.
ALWAYS vi half_of(const uint8_t *p, int unpacked, int j, int upper, int h) {
    if (unpacked) return LOADI(p + 128 * j + 64 * upper + 4 * LANES * h);
    const vu w = LOADU(p + 64 * j + 4 * LANES * h);
    return (vi)((upper ? w >> 4 : w) & 0x0f0f0f0f);
}
ALWAYS vs add_pairs(int k, vs sums, vs to) {
    if (k) to += sums;  // else they are the first ones
    return to;
}
// To the integer sums a[r] of 16 outputs the products of `words` words with R rows of inputs.
ALWAYS void pairs_of_4_bits(int R, int unpacked, const uint8_t *p, const uint8_t *ahead, int words, const int8_t *q, size_t ld, vi (*a)[HALVES]) {
    for (int j = 0; j < words; j += 4) {
        vs s[TOGETHER][HALVES];
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) {
            vi w[HALVES];
            if (k % 2) __builtin_prefetch(ahead + 64 * (j + k / 2), 0, 3);
            for (int h = 0; h < HALVES; h++) w[h] = half_of(p, unpacked, j + k / 2, k % 2, h);
            for (int r = 0; r < R; r++) {
                const int32_t x = word_of(q + r * ld + 8 * j + 4 * k);
                for (int h = 0; h < HALVES; h++) s[r][h] = add_pairs(k, s[r][h], pairs(w[h], x));
            }
        }
        for (int r = 0; r < R; r++)
            for (int h = 0; h < HALVES; h++) a[r][h] = fold(a[r][h], s[r][h], 1);
    }
}
ALWAYS void pairs_of_8_bits(int R, int unpacked, const uint8_t *p, const uint8_t *ahead, int words, const int8_t *q, size_t ld, int h,
                            vi (*a)[HALVES]) {
    for (int j = 0; j < words; j += 8) {
        vs low[TOGETHER], high[TOGETHER];
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) {
            if (h == 0) __builtin_prefetch(ahead + 64 * (j + k), 0, 3);
            const vi lower = half_of(p, unpacked, j + k, 0, h), upper = half_of(p, unpacked, j + k, 1, h);
            for (int r = 0; r < R; r++) {
                const int32_t x = word_of(q + r * ld + 4 * (j + k));
                low[r] = add_pairs(k, low[r], pairs(lower, x));
                high[r] = add_pairs(k, high[r], pairs(upper, x));
            }
        }
        for (int r = 0; r < R; r++) a[r][h] = fold(fold(a[r][h], low[r], 1), high[r], 16);
    }
}
// A group of R rows, added to their sums in the order in which int8_block does.
ALWAYS void group_of_rows(int bits, int zeros, int R, int unpacked, const uint8_t *p, int words, const uint8_t *scales, const int8_t *q,
                          size_t ld, const float *scale, const int32_t *zero, int groups, vf (*sums)[HALVES]) {
    vi a[TOGETHER][HALVES];
    for (int r = 0; r < R; r++)
        for (int h = 0; h < HALVES; h++) a[r][h] = splati(zeros ? 0 : zero[(size_t)r * groups]);
    if (bits == 4)
        pairs_of_4_bits(R, unpacked, p, scales + PREFETCH - 64 * words, words, q, ld, a);
    else
        for (int h = 0; h < HALVES; h++) pairs_of_8_bits(R, unpacked, p, scales + PREFETCH - 64 * words, words, q, ld, h, a);
    for (int h = 0; h < HALVES; h++) {
        const vf s = halves(scales + 2 * LANES * h);
        for (int r = 0; r < R; r++) {
            const vf n = centred(zeros, a[r][h], scales + 2 * BLOCK + 2 * LANES * h, zero[(size_t)r * groups]);
            sums[r][h] += n * s * scale[(size_t)r * groups];
        }
    }
}
ALWAYS void int8_rows(int bits, int zeros, const uint8_t *p, int groups, int group, const Input *in, int row, int rows, vf (*sums)[HALVES]) {
    const int parts = (rows + TOGETHER - 1) / TOGETHER, words = group * bits / 32, unpacked = rows > TOGETHER && group <= UNPACKED;
    const int8_t *q = in->q + (size_t)row * in->ld;
    const float *scale = in->scale + (size_t)row * groups;
    const int32_t *zero = in->zero + (size_t)row * groups;
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < HALVES; h++) sums[r][h] = (vf){0};
    for (int g = 0; g < groups; g++, q += group, p += 64 * words + behind_group(zeros)) {
        _Alignas(64) uint8_t wide[2 * BLOCK * UNPACKED];
        for (int j = 0; j < words; j++) {
            if (unpacked)
                for (int h = 0; h < HALVES; h++)
                    for (int upper = 0; upper < 2; upper++)
                        *(vi *)(wide + 128 * j + 64 * upper + 4 * LANES * h) = half_of(p, 0, j, upper, h);
        }
        for (int part = 0; part < parts; part++) {
            const int r = rows * part / parts;
#define CALL(R)                                                                                                         \
    if (unpacked)                                                                                                       \
        group_of_rows(bits, zeros, R, 1, wide, words, p + 64 * words, q + r * in->ld, in->ld, scale + (size_t)r * groups + g,  \
                      zero + (size_t)r * groups + g, groups, sums + r);                                                 \
    else                                                                                                                \
        group_of_rows(bits, zeros, R, 0, p, words, p + 64 * words, q + r * in->ld, in->ld, scale + (size_t)r * groups + g,     \
                      zero + (size_t)r * groups + g, groups, sums + r)
            EACH_OF_FOUR(rows * (part + 1) / parts - r, CALL)
#undef CALL
        }
    }
}
static void NAME(int4_rows)(const Linear *l, const Input *in, const uint8_t *p, int row, int rows, vf (*sums)[HALVES]) {
    int8_rows(4, 0, p, l->in / l->group, l->group, in, row, rows, sums);
}
static void NAME(int4_zeros_rows)(const Linear *l, const Input *in, const uint8_t *p, int row, int rows, vf (*sums)[HALVES]) {
    int8_rows(4, 1, p, l->in / l->group, l->group, in, row, rows, sums);
}
static void NAME(int8_rows)(const Linear *l, const Input *in, const uint8_t *p, int row, int rows, vf (*sums)[HALVES]) {
    int8_rows(8, 0, p, l->in / l->group, l->group, in, row, rows, sums);
}
// Outputs of the blocks [first, last): some rows, whose inputs stay in the second-level cache, pass by each block.
static void NAME(integer_blocks)(const Linear *l, const Input *in, int first, int last, float *y, size_t ldy, int add) {
    for (int some = 0; some < in->rows; some += STEP_ROWS) {
        const int end = in->rows - some < STEP_ROWS ? in->rows : some + STEP_ROWS;
        for (int b = first; b < last; b++) {
            const uint8_t *p = (const uint8_t *)l->weight + (size_t)b * block_bytes(l);
            const int start = b * BLOCK, count = l->out - start < BLOCK ? l->out - start : BLOCK;
            for (int row = some; row < end; row += ROWS) {
                const int rows = end - row < ROWS ? end - row : ROWS;
                vf sums[ROWS][HALVES];
                (l->format == INT4 ? NAME(int4_rows) : l->format == INT8 ? NAME(int8_rows) : NAME(int4_zeros_rows))(l, in, p, row, rows, sums);
                for (int r = 0; r < rows; r++)
                    store_block(sums[r], l->bias ? l->bias + start : 0, count, y + (row + r) * ldy + start, add);
            }
        }
    }
}
#endif
