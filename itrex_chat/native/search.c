// The scale of each group of weights that loses least (quantization/search.py, which is the definition, says how).
//
// Sixteen groups of a row are looked at together, one in each lane. No product and sum are fused, so that all instructions
// give the bits of the definition in PyTorch.
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif
#include "native.h"

#include "instructions.h"

#define LANES 16
#define LARGEST_GROUP 128
#define LEAST 1e-30f      // the magnitude of a scale that has an inverse
#define ROUNDER 12582912.0f  // 1.5 · 2^23: what is added to it is rounded to a whole number, to the even one between two

typedef float wide __attribute__((vector_size(4 * LANES)));
typedef int32_t whole __attribute__((vector_size(4 * LANES)));
const char *itrex_level(void);

typedef struct {
    int rows, in, group, candidates, refits;
    float low, high;
    const float *weight, *counts, *factors;
    float *scales;
    int8_t *integers;
    int taken;
} Search;

#define CHOSEN(mask, a, b) ((wide)(((whole)(a) & (mask)) | ((whole)(b) & ~(mask))))

#define SEARCH(name)                                                                                                    \
    /* The best scales for the integers that these give, and what they are better than scales of zero. */              \
    static void refitted_##name(const Search *s, const wide *w, const wide *counted, const wide *counts, wide *scales, \
                                wide *gain) {                                                                          \
        const whole usable = (*scales > LEAST) | (*scales < -LEAST);                                                   \
        const wide inverse = CHOSEN(usable, 1.0f / *scales, (wide){0});                                                \
        wide along = {0}, squares = {0};                                                                               \
        for (int i = 0; i < s->group; i++) {                                                                           \
            wide q = w[i] * inverse;                                                                                   \
            q = CHOSEN(q < s->low, s->low + (wide){0}, q);                                                             \
            q = CHOSEN(q > s->high, s->high + (wide){0}, q);                                                           \
            q = q + ROUNDER;                                                                                           \
            q = q - ROUNDER;                                                                                           \
            const wide product = counted[i] * q;                                                                       \
            wide square = q * q;                                                                                       \
            if (counts) square = square * counts[i];                                                                   \
            along = along + product;                                                                                   \
            squares = squares + square;                                                                                \
        }                                                                                                              \
        *scales = CHOSEN(squares > 0.0f, along / squares, (wide){0});                                                  \
        *gain = *scales * along;                                                                                       \
    }                                                                                                                  \
    static void rows_##name(void *job, int number, int threads) {                                                      \
        Search *s = job;                                                                                               \
        const int groups = s->in / s->group;                                                                           \
        wide w[LARGEST_GROUP], counted[LARGEST_GROUP], counts[LARGEST_GROUP];                                          \
        (void)number, (void)threads;                                                                                   \
        for (int row; (row = next_task(&s->taken)) < s->rows;)                                                         \
            for (int first = 0; first < groups; first += LANES) {                                                      \
                const int many = groups - first < LANES ? groups - first : LANES;                                      \
                const float *from = s->weight + (size_t)row * s->in + (size_t)first * s->group;                        \
                wide largest = {0};                                                                                    \
                for (int i = 0; i < s->group; i++) {                                                                   \
                    for (int l = 0; l < LANES; l++) {                                                                  \
                        w[i][l] = l < many ? from[l * s->group + i] : 0;                                               \
                        counts[i][l] = s->counts && l < many ? s->counts[(first + l) * s->group + i] : 1;              \
                    }                                                                                                  \
                    counted[i] = s->counts ? w[i] * counts[i] : w[i];                                                  \
                    const wide size = CHOSEN(w[i] < 0.0f, -w[i], w[i]);                                                \
                    largest = CHOSEN(size > largest, size, largest);                                                   \
                }                                                                                                      \
                const wide *weighed = s->counts ? counts : 0;                                                          \
                wide most = (wide){0} - 1.0f, best = {0}, gain;                                                        \
                for (int c = 0; c < s->candidates; c++) {                                                              \
                    wide found = largest * s->factors[c];                                                              \
                    refitted_##name(s, w, counted, weighed, &found, &gain);                                            \
                    const whole better = gain > most;                                                                  \
                    most = CHOSEN(better, gain, most), best = CHOSEN(better, found, best);                             \
                }                                                                                                      \
                for (int c = 0; c < s->refits; c++) refitted_##name(s, w, counted, weighed, &best, &gain);              \
                for (int l = 0; l < many; l++) s->scales[(size_t)row * groups + first + l] = best[l];                  \
            }                                                                                                          \
    }                                                                                                                  \
    static void nearest_##name(void *job, int number, int threads) {                                                   \
        Search *s = job;                                                                                               \
        const int groups = s->in / s->group;                                                                           \
        (void)number, (void)threads;                                                                                   \
        for (int row; (row = next_task(&s->taken)) < s->rows;)                                                         \
            for (int g = 0; g < groups; g++) {                                                                         \
                const size_t at = (size_t)row * s->in + (size_t)g * s->group;                                          \
                const float scale = s->scales[(size_t)row * groups + g], low = s->low, high = s->high;                 \
                const float inverse = scale > LEAST || scale < -LEAST ? 1.0f / scale : 0.0f;                           \
                for (int i = 0; i < s->group; i++) {                                                                   \
                    float q = s->weight[at + i] * inverse;                                                             \
                    q = q < low ? low : q;                                                                             \
                    q = q > high ? high : q;                                                                           \
                    q = q + ROUNDER;                                                                                   \
                    s->integers[at + i] = (int8_t)(q - ROUNDER);                                                       \
                }                                                                                                      \
            }                                                                                                          \
    }

SEARCH(portable)
#if defined(__x86_64__)
INSTRUCTIONS("avx2")
SEARCH(avx2)
INSTRUCTIONS_END
INSTRUCTIONS("avx512f,avx512dq,avx512bw,avx512vl")
SEARCH(avx512)
INSTRUCTIONS_END
#endif

#if defined(__x86_64__)
#define CHOOSE(what) \
    (strcmp(itrex_level(), "amx") && strncmp(itrex_level(), "avx512", 6) \
         ? (strncmp(itrex_level(), "avx", 3) ? what##_portable : what##_avx2) : what##_avx512)
#else
#define CHOOSE(what) what##_portable
#endif

static int possible(int rows, int in, int group, int threads) {
    return rows >= 0 && in > 0 && group > 0 && group <= LARGEST_GROUP && in % group == 0 && threads > 0;
}

// Scales float32 [rows, in/group] of weights float32 [rows, in], of which those of an input count as `counts` [in] says (NULL:
// 1). Each factor times the largest magnitude of a group is a candidate. DONE or REFUSED.
EXPORT int itrex_search(int rows, int in, int group, const float *weight, const float *counts, int low, int high,
                        const float *factors, int candidates, int refits, float *scales, int threads) {
    if (!possible(rows, in, group, threads) || candidates < 1 || refits < 0) return REFUSED;
    Search job = {.rows = rows, .in = in, .group = group, .candidates = candidates, .refits = refits, .low = low,
                  .high = high, .weight = weight, .counts = counts, .factors = factors, .scales = scales};
    team(threads, CHOOSE(rows), &job);
    return DONE;
}

// The nearest integers, int8 [rows, in], of weights with these scales. DONE or REFUSED.
EXPORT int itrex_nearest(int rows, int in, int group, const float *weight, const float *scales, int low, int high,
                         int8_t *integers, int threads) {
    if (!possible(rows, in, group, threads)) return REFUSED;
    Search job = {.rows = rows, .in = in, .group = group, .low = low, .high = high, .weight = weight,
                  .scales = (float *)scales, .integers = integers};
    team(threads, CHOOSE(nearest), &job);
    return DONE;
}
