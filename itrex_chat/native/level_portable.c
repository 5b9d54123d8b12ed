// Any processor: plain C.
#include "native.h"

#define LANES 4
#define HALVES 4
#define DENSE_PREFETCH 2048
#define NAME(x) portable_##x
#define LEVEL portable_level
#define LABEL "portable"
#define halves portable_halves
#define bf16s portable_bf16s
#define signed_bytes portable_signed_bytes
#define nearest portable_nearest
#define dot4 portable_dot
#define dot8 portable_dot
#define narrow(p, i, v) \
    for (int l_ = 0; l_ < 4; l_++) (p)[(i) + l_] = (int8_t)(v)[l_]
#define narrow_evens_first(p, i, v) \
    for (int l_ = 0; l_ < 4; l_++) (p)[(i) / 8 * 8 + l_ % 2 * 4 + ((i) % 8 + l_) / 2] = (int8_t)(v)[l_]
#define most_of(v) portable_most(v)
#define sum_of(v) ((v)[0] + (v)[1] + (v)[2] + (v)[3])
#define total(v) ((v)[0] + (v)[2] + ((v)[1] + (v)[3]))
#define nibble(w, p) TOF((vi)((w >> (4 * (p))) & 15) - 8)
typedef float portable_vf __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t portable_vi __attribute__((vector_size(16), aligned(4), may_alias));

#include <math.h>
#include <string.h>

static inline portable_vf portable_halves(const uint8_t *p) {
    portable_vf out;
    for (int i = 0; i < 4; i++) {
        uint16_t half;
        memcpy(&half, p + 2 * i, 2);
        out[i] = half_value(half);
    }
    return out;
}

static inline portable_vf portable_bf16s(const uint8_t *p) {
    uint32_t bitmaps[4];
    for (int i = 0; i < 4; i++) {
        uint16_t half;
        memcpy(&half, p + 2 * i, 2);
        bitmaps[i] = (uint32_t)half << 16;
    }
    portable_vf out;
    memcpy(&out, bitmaps, sizeof out);
    return out;
}

static inline portable_vf portable_signed_bytes(const uint8_t *p) {
    portable_vf out;
    for (int i = 0; i < 4; i++) out[i] = ((const int8_t *)p)[i];
    return out;
}

static inline portable_vi portable_nearest(portable_vf v) {
    portable_vi out;
    for (int i = 0; i < 4; i++) out[i] = (int32_t)lrintf(v[i]);
    return out;
}

static inline int32_t portable_most(portable_vi v) {
    int32_t most = v[0];
    for (int i = 1; i < 4; i++) most = v[i] > most ? v[i] : most;
    return most;
}

static inline portable_vi portable_dot(portable_vi sums, portable_vi w, int32_t x) {
    portable_vi total = sums;
    for (int k = 0; k < 4; k++) total += ((w >> (8 * k)) & 255) * (int32_t)(int8_t)((uint32_t)x >> (8 * k));
    return total;
}

#include "level.h"
