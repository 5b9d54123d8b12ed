// AVX2 with AVX-VNNI: Alder Lake (2021) and later laptops.
#include "native.h"
#if defined(__x86_64__) && defined(MODERN_COMPILER)
#include <immintrin.h>

#include "instructions.h"

INSTRUCTIONS("avx2,fma,f16c,avxvnni")
#define NAME(x) avx_vnni_##x
#define LEVEL avx_vnni_level
#define LABEL "avx_vnni"
#define dot4(sums, w, x) ((vi)_mm256_dpbusd_avx_epi32((__m256i)(sums), (__m256i)(w), _mm256_set1_epi32(x)))
#define dot8 dot4

#include "level_256.h"
INSTRUCTIONS_END
#endif
