// AVX2 with FMA and F16C: Haswell (2013), Zen (2017) and later.
#include "native.h"
#if defined(__x86_64__)
#include <immintrin.h>

#include "instructions.h"

INSTRUCTIONS("avx2,fma,f16c")
#define NAME(x) avx2_##x
#define LEVEL avx2_level
#define LABEL "avx2"
#define dot4(sums, w, x) ((vi)dot_below_128((__m256i)(sums), (__m256i)(w), x))
#define dot8(sums, w, x) ((vi)dot_bytes((__m256i)(sums), (__m256i)(w), x))

// Bytes below 128, so that no sum of two products leaves 16 bits.
static inline __attribute__((always_inline)) __m256i dot_below_128(__m256i sums, __m256i w, int32_t x) {
    __m256i pairs = _mm256_maddubs_epi16(w, _mm256_set1_epi32(x));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
// The highest bit of each byte apart.
static inline __attribute__((always_inline)) __m256i dot_bytes(__m256i sums, __m256i w, int32_t x) {
    __m256i high = _mm256_and_si256(_mm256_srli_epi16(w, 7), _mm256_set1_epi8(1));
    __m256i pairs = _mm256_maddubs_epi16(high, _mm256_set1_epi32(x));
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(128)));
    return dot_below_128(sums, _mm256_and_si256(w, _mm256_set1_epi8(127)), x);
}

// In 16-bit lanes the sums of two products; and such lanes, times `by`, added to those of 32 bits.
#define pairs(w, x) ((vs)_mm256_maddubs_epi16((__m256i)(w), _mm256_set1_epi32(x)))
#define fold(sums, s, by) ((vi)_mm256_add_epi32((__m256i)(sums), _mm256_madd_epi16((__m256i)(s), _mm256_set1_epi16(by))))

#include "level_256.h"
INSTRUCTIONS_END
#endif
