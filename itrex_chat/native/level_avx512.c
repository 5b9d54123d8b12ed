// AVX-512 with VNNI: Cascade Lake (2019), Zen 4 (2022) and later.
#include "native.h"
#if defined(__x86_64__)
#include <immintrin.h>

#include "instructions.h"

INSTRUCTIONS("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#define LANES 16
#define HALVES 1
#define DENSE_PREFETCH 2048
#define TILED 5
#define NAME(x) avx512_##x
#define LEVEL avx512_level
#define LABEL "avx512"
#define nearest(v) ((vi)_mm512_cvtps_epi32((__m512)(v)))
#define halves(p) ((vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p))))
#define bf16s(p) ((vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(p))), 16))
#define signed_bytes(p) ((vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(p)))))
#define narrow(p, i, v) _mm_storeu_si128((__m128i *)((p) + (i)), _mm512_cvtepi32_epi8((__m512i)(v)))
#define narrow_evens_first(p, i, v) \
    _mm_storeu_si128((__m128i *)((p) + (i)), _mm_shuffle_epi8(_mm512_cvtepi32_epi8((__m512i)(v)), \
                                                      _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15)))
#define most_of(v) _mm512_reduce_max_epi32((__m512i)(v))
#define sum_of(v) _mm512_reduce_add_epi32((__m512i)(v))
#define fused(a, b, c) ((vf)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define total(v) _mm512_reduce_add_ps((__m512)(v))
#define dot4(sums, w, x) ((vi)_mm512_dpbusd_epi32((__m512i)(sums), (__m512i)(w), _mm512_set1_epi32(x)))
#define dot8 dot4
// The table takes its index from the lowest 4 bits of each lane.
#define nibble(w, p) ((vf)_mm512_permutexvar_ps((__m512i)((w) >> (4 * (p))), avx512_values()))

static inline __attribute__((always_inline)) __m512 avx512_values(void) {
    return _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
}

#include "level.h"
INSTRUCTIONS_END
#endif
