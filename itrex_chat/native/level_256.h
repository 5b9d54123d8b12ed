// Vectors of 8 floats: what AVX2 with and without VNNI share. The including file has chosen the instructions and defined
// dot4 and dot8, besides NAME, LEVEL and LABEL.
#define LANES 8
#define HALVES 2
#define DENSE_PREFETCH 2048
#define nearest(v) ((vi)_mm256_cvtps_epi32((__m256)(v)))
#define halves(p) ((vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p))))
#define bf16s(p) ((vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p))), 16))
#define signed_bytes(p) ((vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p)))))
#define narrow(p, i, v) _mm_storel_epi64((__m128i *)((p) + (i)), bytes_of((__m256i)(v)))
#define narrow_evens_first(p, i, v)                                     \
    _mm_storel_epi64((__m128i *)((p) + (i)), _mm_shuffle_epi8(bytes_of((__m256i)(v)), \
                                                              _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 0, 0, 0, 0, 0, 0, 0, 0)))
#define most_of(v) most_of_lanes((__m256i)(v))
#define sum_of(v) sum_of_lanes((__m256i)(v))
#define total(v) total_of_lanes((__m256)(v))
#define nibble(w, p) TOF((vi)((w >> (4 * (p))) & 15) - 8)

static inline __attribute__((always_inline)) __m128i bytes_of(__m256i v) {
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    return _mm_packs_epi16(words, words);
}
static inline __attribute__((always_inline)) int32_t most_of_lanes(__m256i v) {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
static inline __attribute__((always_inline)) int32_t sum_of_lanes(__m256i v) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
static inline __attribute__((always_inline)) float total_of_lanes(__m256 v) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

#include "level.h"
