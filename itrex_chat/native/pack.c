// From GPTQ's layout to blocks of 16 outputs, and back to float32.
#include "native.h"

#include <math.h>
#include <omp.h>
#include <string.h>

static int possible(const Linear *l) {
    return l->in > 0 && l->out > 0 && (l->format == INT4 || l->format == INT8) && l->group >= 32 && l->group % 32 == 0 &&
           l->in % l->group == 0;
}

// 0 for a matrix that cannot be.
EXPORT size_t itrex_packed_bytes(const Linear *l) { return possible(l) ? block_bytes(l) * blocks_of(l) : 0; }

// Outputs [first, first + count) of a packed matrix from qweight int32 [in·bits/32, count] (rows `qstride` words apart)
// and scales float16 [in/group, count] (rows `sstride` apart). The last outputs fill the block up with zeros.
// DONE or REFUSED.
EXPORT int itrex_pack(const Linear *l, const int32_t *qweight, int64_t qstride, const uint16_t *scales, int64_t sstride,
                      int first, int count, int threads) {
    if (!possible(l) || !l->weight || first < 0 || count < 1 || count > l->out - first || qstride < count ||
        sstride < count || threads < 1)
        return REFUSED;
    const int bits = l->format == INT4 ? 4 : 8, words = l->group * bits / 32, groups = l->in / l->group;
    const size_t block = block_bytes(l), group = group_bytes(bits, l->group);
    const int from = first / BLOCK, to = (first + count + BLOCK - 1) / BLOCK, together = 16;
    uint8_t *out = (uint8_t *)l->weight;
    const int fill = first + count == l->out;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int b0 = from; b0 < to; b0 += together)
        for (int g = 0; g < groups; g++)
            for (int j = 0; j <= words; j++)
                for (int b = b0; b < to && b < b0 + together; b++) {
                    const int start = b * BLOCK > first ? b * BLOCK : first;
                    const int end = (b + 1) * BLOCK < first + count ? (b + 1) * BLOCK : first + count;
                    const size_t size = j < words ? 4 : 2;
                    uint8_t *word = out + b * block + g * group + (size_t)64 * j;
                    const uint8_t *source = j < words
                        ? (const uint8_t *)(qweight + ((size_t)g * words + j) * qstride + (start - first))
                        : (const uint8_t *)(scales + (size_t)g * sstride + (start - first));
                    memcpy(word + size * (start - b * BLOCK), source, size * (end - start));
                    if (fill && end == l->out)
                        memset(word + size * (end - b * BLOCK), 0, size * ((b + 1) * BLOCK - end));
                }
    return DONE;
}

// The weights that are computed with, float32 [out, in]. DONE or REFUSED.
EXPORT int itrex_unpack(const Linear *l, float *out, int threads) {
    if (!possible(l) || !l->weight || threads < 1) return REFUSED;
    const int bits = l->format == INT4 ? 4 : 8, per_word = 32 / bits, words = l->group / per_word;
    const size_t block = block_bytes(l), group = group_bytes(bits, l->group);
#pragma omp parallel for num_threads(threads)
    for (int o = 0; o < l->out; o++)
        for (int g = 0; g < l->in / l->group; g++) {
            const uint8_t *p = (const uint8_t *)l->weight + o / BLOCK * block + g * group;
            uint16_t half;
            memcpy(&half, p + 64 * words + 2 * (o % BLOCK), 2);
            const float scale = half_value(half);
            for (int i = 0; i < l->group; i++) {
                uint32_t word;
                memcpy(&word, p + 64 * (i / per_word) + 4 * (o % BLOCK), 4);
                const int q = (int)(word >> (bits * (i % per_word)) & ((1u << bits) - 1)) - (1 << (bits - 1));
                out[(size_t)o * l->in + (size_t)g * l->group + i] = q * scale;
            }
        }
    return DONE;
}
