// AVX2 with FMA and F16C: Haswell (2013), Zen (2017) and later.
#include "native.h"
#if defined(__x86_64__)
#include <immintrin.h>

#include "instructions.h"

INSTRUCTIONS("avx2,fma,f16c")
#define LANES 8
#define HALVES 2
#define DENSE_PREFETCH 2048
#define NAME(x) avx2_##x
#define LEVEL avx2_level
#define LABEL "avx2"
#define nearest(v) ((vi)_mm256_cvtps_epi32((__m256)(v)))
#define halves(p) ((vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p))))
#define narrow(p, i, v) _mm_storel_epi64((__m128i *)((p) + (i)), avx2_bytes((__m256i)(v)))
#define narrow_evens_first(p, i, v) \
    _mm_storel_epi64((__m128i *)((p) + (i)), _mm_shuffle_epi8(avx2_bytes((__m256i)(v)), _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 0, 0, 0, 0, 0, 0, 0, 0)))
#define most_of(v) avx2_most((__m256i)(v))
#define sum_of(v) avx2_sum((__m256i)(v))
#define total(v) avx2_total((__m256)(v))
#define nibble(w, p) TOF((vi)((w >> (4 * (p))) & 15) - 8)
#define dot4(sums, w, x) ((vi)avx2_dot4((__m256i)(sums), (__m256i)(w), x))
#define dot8(sums, w, x) ((vi)avx2_dot8((__m256i)(sums), (__m256i)(w), x))

// Bytes below 128, so that no sum of two products leaves 16 bits.
static inline __attribute__((always_inline)) __m256i avx2_dot4(__m256i sums, __m256i w, int32_t x) {
    __m256i pairs = _mm256_maddubs_epi16(w, _mm256_set1_epi32(x));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
// The highest bit of each byte apart.
static inline __attribute__((always_inline)) __m256i avx2_dot8(__m256i sums, __m256i w, int32_t x) {
    __m256i high = _mm256_and_si256(_mm256_srli_epi16(w, 7), _mm256_set1_epi8(1));
    __m256i pairs = _mm256_maddubs_epi16(high, _mm256_set1_epi32(x));
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(128)));
    return avx2_dot4(sums, _mm256_and_si256(w, _mm256_set1_epi8(127)), x);
}

static inline __attribute__((always_inline)) float avx2_total(__m256 v) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

static inline __attribute__((always_inline)) __m128i avx2_bytes(__m256i v) {
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    return _mm_packs_epi16(words, words);
}
static inline __attribute__((always_inline)) int32_t avx2_most(__m256i v) {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
static inline __attribute__((always_inline)) int32_t avx2_sum(__m256i v) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

#include "level.h"
INSTRUCTIONS_END
#endif
