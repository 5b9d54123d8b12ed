// From GPTQ's layout to blocks of 16 outputs, and back to float32.
#include "native.h"

#include <math.h>
#include <string.h>

static int possible(const Linear *l) {
    return l->in > 0 && l->out > 0 && l->format >= INT4 && l->format <= INT4_ZEROS && l->group >= 32 && l->group % 32 == 0 &&
           l->in % l->group == 0;
}

// 0 for a matrix that cannot be.
EXPORT size_t itrex_packed_bytes(const Linear *l) { return possible(l) ? block_bytes(l) * blocks_of(l) : 0; }

typedef struct {
    const Linear *l;
    const int32_t *qweight;
    const uint16_t *scales, *zeros;
    int64_t qstride, sstride;
    int first, count, taken;
} Packing;

// Outputs of the block b of the group g: its words, then its scales, then its zero points.
static void pack_group(const Packing *p, int b, int g, int j, int words) {
    const Linear *l = p->l;
    const int end_of_all = p->first + p->count;
    const int start = b * BLOCK > p->first ? b * BLOCK : p->first;
    const int end = (b + 1) * BLOCK < end_of_all ? (b + 1) * BLOCK : end_of_all;
    const size_t size = j < words ? 4 : 2;
    uint8_t *word = (uint8_t *)l->weight + b * block_bytes(l) + g * group_bytes(l) +
                    (j <= words ? (size_t)64 * j : (size_t)64 * words + 2 * BLOCK);
    const uint8_t *source = j < words ? (const uint8_t *)(p->qweight + ((size_t)g * words + j) * p->qstride + (start - p->first))
                                      : (const uint8_t *)((j == words ? p->scales : p->zeros) + (size_t)g * p->sstride + (start - p->first));
    memcpy(word + size * (start - b * BLOCK), source, size * (end - start));
    if (end_of_all == l->out && end == l->out)
        memset(word + size * (end - b * BLOCK), 0, size * ((b + 1) * BLOCK - end));
}

static void pack_blocks(void *job, int number, int threads) {
    Packing *p = job;
    const Linear *l = p->l;
    const int words = l->group * bits_of(l) / 32, groups = l->in / l->group, together = 16;
    const int parts = words + 1 + (l->format == INT4_ZEROS);
    const int from = p->first / BLOCK, to = (p->first + p->count + BLOCK - 1) / BLOCK;
    (void)number, (void)threads;
    for (int b0; (b0 = from + together * next_task(&p->taken)) < to;)
        for (int g = 0; g < groups; g++)
            for (int j = 0; j < parts; j++)
                for (int b = b0; b < to && b < b0 + together; b++) pack_group(p, b, g, j, words);
}

// Outputs [first, first + count) of a packed matrix from qweight int32 [in·bits/32, count] (rows `qstride` words apart)
// and scales float16 [in/group, count] (rows `sstride` apart), in INT4_ZEROS with zero points that lie like the scales (NULL
// elsewhere). The last outputs fill the block up with zeros.
// DONE or REFUSED.
EXPORT int itrex_pack(const Linear *l, const int32_t *qweight, int64_t qstride, const uint16_t *scales, const uint16_t *zeros,
                      int64_t sstride, int first, int count, int threads) {
    if (!possible(l) || !l->weight || first < 0 || count < 1 || count > l->out - first || qstride < count ||
        sstride < count || threads < 1 || !zeros != (l->format != INT4_ZEROS))
        return REFUSED;
    team(threads, pack_blocks,
         &(Packing){.l = l, .qweight = qweight, .scales = scales, .zeros = zeros, .qstride = qstride, .sstride = sstride, .first = first,
                    .count = count});
    return DONE;
}

typedef struct {
    const Linear *l;
    float *out;
} Unpacking;

static void unpack_group(const Linear *l, int o, int g, float *out) {
    const int bits = bits_of(l), per_word = 32 / bits, words = l->group / per_word;
    const uint8_t *p = (const uint8_t *)l->weight + o / BLOCK * block_bytes(l) + g * group_bytes(l);
    uint16_t half;
    memcpy(&half, p + 64 * words + 2 * (o % BLOCK), 2);
    const float scale = half_value(half);
    float middle = 0;
    if (l->format == INT4_ZEROS) {
        memcpy(&half, p + 64 * words + 2 * BLOCK + 2 * (o % BLOCK), 2);
        middle = 8 - half_value(half);
    }
    for (int i = 0; i < l->group; i++) {
        uint32_t word;
        memcpy(&word, p + 64 * (i / per_word) + 4 * (o % BLOCK), 4);
        const int q = (int)(word >> (bits * (i % per_word)) & ((1u << bits) - 1)) - (1 << (bits - 1));
        out[i] = (q + middle) * scale;
    }
}

static void unpack_rows(void *job, int number, int threads) {
    const Unpacking *u = job;
    const Linear *l = u->l;
    for (int o = part(l->out, number, threads); o < part(l->out, number + 1, threads); o++)
        for (int g = 0; g < l->in / l->group; g++) unpack_group(l, o, g, u->out + (size_t)o * l->in + (size_t)g * l->group);
}

// The weights that are computed with, float32 [out, in]. DONE or REFUSED.
EXPORT int itrex_unpack(const Linear *l, float *out, int threads) {
    if (!possible(l) || !l->weight || threads < 1) return REFUSED;
    team(threads, unpack_rows, &(Unpacking){l, out});
    return DONE;
}
