// The plain C interface of the native kernels, and what its files share.
//
// Matrices that are quantized lie in blocks of 16 outputs. A block is a stream of groups; a group is its integers, in
// words of 64 bytes (4 for each output: 8 inputs of 4 bits or 4 of 8 bits, as GPTQ packs them), and then its 16 float16
// scales; in INT4_ZEROS 16 float16 zero points follow these, and an integer n of 0 to 15 stands for (n - zero) · scale, where it
// is (n - 8) · scale in INT4. One product reads the stream from its start to its end.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__clang__) ? __clang_major__ >= 14 : __GNUC__ >= 11
#define MODERN_COMPILER  // knows AVX-VNNI and AMX
#endif

#define BLOCK 16       // outputs
#define FEW 8          // rows that one pass over the weights serves
#define ROWS 16        // rows that are few with every kernel
#define STEP_ROWS 64   // rows that a step takes at most
#define PREFETCH 4096  // bytes ahead of the reading
#define CACHE_PAGE 64              // positions of a page of the cache
#define ATTENTION_CHUNK 256  // positions whose weights are summed up before they are put together with others
#define QUERIES 8            // queries that share what is read of the cache

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

enum Format { FP32, BF16, FP16, INT4, INT8, INT4_ZEROS };
enum Compute { WITH_INT8, WITH_BF16, WITH_FP32 };  // what activations are rounded to

// A matrix [out, in]: row-major in FP32, BF16 and FP16, in blocks in INT4, INT8 and INT4_ZEROS. `next` is one whose outputs follow.
// What is row-major is computed in FP32, its values widened as they are read; BF16 also with activations rounded to it.
// One that is not in memory is `piece` of a `stream`, which is NULL elsewhere.
typedef struct Linear {
    int32_t format, compute, in, out, group, piece;
    const void *weight;
    const float *bias;
    const struct Linear *next;
    void *stream;
} Linear;

typedef struct {
    const float *attention_norm, *mlp_norm, *query_norm, *key_norm, *after_attention_norm, *after_mlp_norm;
    const Linear *qkv, *output, *gate_up, *down;
    int64_t window;  // positions attended to; 0 for all
} Layer;

typedef struct {
    int32_t layers, hidden, inner, heads, kv_heads, head_dim, rotated, interleaved, vocabulary;
    float eps;
    const Layer *layer;
    const float *norm;
    const Linear *head;
} Model;

// Keys and values of sequences, in pages of CACHE_PAGE positions from one pool of `count`. A page has for each layer and each head
// of keys its keys [head_dim, CACHE_PAGE], so that a vector has one channel of neighbouring positions, and its values
// [CACHE_PAGE, head_dim], in FP32, FP16 or INT8; with INT8 follow the scales of the keys and of the values, float32 [CACHE_PAGE] each.
typedef struct {
    uint8_t *pool;
    const int32_t *pages;  // [sequences, each]: which pages a sequence has, from its first position on
    int64_t sequences, each, count, bytes;
    int32_t format;
} Cache;

// The pages of one head of keys of a sequence: page n of the sequence is at base + pages[n] · apart. `next`: what will be read
// behind them, as many bytes as values of a page are; NULL where that is not known.
typedef struct {
    const uint8_t *base;
    const int32_t *pages;
    size_t apart;
    int format;
    const uint8_t *next;
} Kept;

// The inputs of a product, rounded as its matrix wants them.
typedef struct {
    int32_t rows, in, groups;
    size_t ld;           // between rows of x and q
    const float *x;      // as they were, or rounded to bfloat16
    const int8_t *q;     // rounded to int8, of 8 neighbours the even ones first where the matrix has 4 bits
    const float *scale;  // [rows, groups]
    const int32_t *zero; // [rows, groups]: what a zero point in the middle adds to a group's sum, negated
} Input;

// The inner loops, compiled once for each set of instructions.
typedef struct {
    const char *name;
    void (*quantize)(const float *x, int in, int group, int bits, int8_t *q, float *scale, int32_t *zero);
    void (*round_bf16)(const float *x, int n, float *y);
    void (*blocks)(const Linear *, const Input *, int first, int last, float *y, size_t ldy, int add);
    void (*rms_norm)(const float *x, const float *weight, int n, float eps, float *y);
    void (*swiglu)(const float *gate, const float *up, int n, float *y);
    void (*keep)(int format, const float *key, const float *value, int head_dim, uint8_t *page, int t);
    void (*attend)(const Kept *, const float *queries, size_t ldq, int rows, int heads, int head_dim, int64_t position,
                   int64_t window, int chunk, float *mixed, float *largest, float *sums, size_t ldp, float *scratch);
    void (*fold)(const float *mixed, float largest, float sum, int head_dim, float *into, float *most, float *total);
    void (*attend_tile)(const Kept *, const float *queries, size_t ldq, int rows, int heads, int head_dim, int64_t from,
                        int64_t window, float *mixed, size_t ldm, float *scratch);
} Level;

extern const Level portable_level, avx2_level, avx_vnni_level, avx512_level;
const Level *level(void);
int has_amx(void);
int has_vnni512(void);

// What a caller is told instead of memory being written that is not there.
enum { DONE, NO_MEMORY, REFUSED };

// Bytes of a value of a row-major matrix; 0 for one in blocks.
static inline int dense_bytes(const Linear *l) { return l->format == FP32 ? 4 : l->format <= FP16 ? 2 : 0; }
// Whether a matrix can be of these sizes.
static inline int sound(const Linear *l) {
    if (!l || !l->weight || l->in < 1 || l->out < 1 || l->format < FP32 || l->format > INT4_ZEROS) return 0;
    if (dense_bytes(l)) return l->compute == WITH_FP32 || (l->compute == WITH_BF16 && l->format == BF16);
    return l->group >= 32 && l->group % 32 == 0 && l->in % l->group == 0;
}
static inline int sound_heads(const Model *m) {
    return m->layers > 0 && m->heads > 0 && m->kv_heads > 0 && m->heads % m->kv_heads == 0 && m->head_dim > 0 &&
           m->rotated >= 0 && m->rotated % 2 == 0 && m->rotated <= m->head_dim &&
           (int64_t)(m->heads + 2 * (int64_t)m->kv_heads) * m->head_dim <= INT32_MAX;
}
// Bytes of a page for one head of keys.
static inline size_t kept_bytes(int format, int head_dim) {
    const size_t values = (size_t)2 * CACHE_PAGE * head_dim;
    return format == INT8 ? values + 2 * CACHE_PAGE * sizeof(float) : values * (format == FP16 ? 2 : 4);
}
static inline size_t page_bytes(const Model *m, int format) {
    return (size_t)m->layers * m->kv_heads * kept_bytes(format, m->head_dim);
}
// Whether each of these rows has its place in the cache, and all that its sequence has before it; those of a sequence follow
// each other.
static inline int placed(const Model *m, const Cache *c, int rows, const int64_t *sequence, const int64_t *position) {
    if (rows < 1 || c->count < 1 || (c->format != FP32 && c->format != FP16 && c->format != INT8)) return 0;
    if ((size_t)c->bytes / c->count < page_bytes(m, c->format)) return 0;
    for (int r = 0; r < rows; r++) {
        if (sequence[r] < 0 || sequence[r] >= c->sequences || position[r] < 0 || position[r] / CACHE_PAGE >= c->each) return 0;
        if (r + 1 < rows && sequence[r + 1] == sequence[r] && position[r + 1] > position[r]) continue;
        for (int64_t n = 0; n <= position[r] / CACHE_PAGE; n++) {
            const int32_t page = c->pages[sequence[r] * c->each + n];
            if (page < 0 || page >= c->count) return 0;
        }
    }
    return 1;
}

// A float32 value rounded to float16, to nearest even; beyond its range the largest value, but infinite stays infinite.
static inline uint16_t rounded_half(float value) {
    uint32_t bitmap, magnitude;
    memcpy(&bitmap, &value, 4);
    magnitude = bitmap & 0x7fffffff;
    const uint16_t sign = (uint16_t)(bitmap >> 16 & 0x8000);
    if (magnitude >= 0x7f800000) return sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00);
    if (magnitude >= 0x477ff000) return sign | 0x7bff;
    if (magnitude < 0x38800000) {  // subnormal: added to 0.5, whose last place is the half's
        float small;
        memcpy(&small, &magnitude, 4);
        small += 0.5f;
        memcpy(&magnitude, &small, 4);
        return sign | (uint16_t)(magnitude - 0x3f000000);
    }
    return sign | (uint16_t)((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}
// A float16 value, exactly.
static inline float half_value(uint16_t half) {
    uint32_t bitmap = (uint32_t)(half & 0x7fff) << 13;
    float value;
    memcpy(&value, &bitmap, 4);
    value *= 0x1p112f;  // the exponent's bias; right for subnormal values too
    memcpy(&bitmap, &value, 4);
    if ((half & 0x7c00) == 0x7c00) bitmap = 0x7f800000 | (uint32_t)(half & 0x3ff) << 13;
    bitmap |= (uint32_t)(half & 0x8000) << 16;
    memcpy(&value, &bitmap, 4);
    return value;
}

// The inputs of a product (product.c).
size_t input_bytes(const Linear *, int rows);
Input arranged(const Linear *, int rows, const float *x, size_t ldx, void *memory);
void round_row(const Linear *, const Input *, int row, const float *x);

// Heads of a row's queries or keys, turned by its position; keys and values go to the cache (heads.c).
typedef struct {
    const Model *m;
    const Cache *c;
    const int64_t *sequence, *position;  // [rows]
    const float *angles;                 // [rows, rotated]: cosines of the row's position, then sines
    const float *query_scale;            // [rows] or NULL
    float *qkv;                          // [rows, heads + 2 · kv_heads, head_dim]
} Heads;
void place(const Heads *, int layer, int row, int head);
Kept kept(const Heads *, int layer, int row, int kv_head);

static inline int bits_of(const Linear *l) { return l->format == INT8 ? 8 : 4; }
// Bytes behind the integers of a group: scales, and zero points where there are some.
static inline int behind_group(int zeros) { return 2 * BLOCK * (1 + zeros); }
static inline size_t group_bytes(const Linear *l) {
    return (size_t)BLOCK * l->group * bits_of(l) / 8 + behind_group(l->format == INT4_ZEROS);
}
// Bytes of 16 outputs.
static inline size_t block_bytes(const Linear *l) {
    if (dense_bytes(l)) return (size_t)BLOCK * l->in * dense_bytes(l);
    return (size_t)(l->in / l->group) * group_bytes(l);
}
// Floats of the scratch of `attend`, and of `attend_tile`.
static inline size_t attend_floats(int head_dim) { return (size_t)2 * QUERIES * head_dim; }
static inline size_t tile_floats(int rows, int heads, int head_dim) {
    const size_t count = (size_t)rows * heads, padded = (count + QUERIES - 1) / QUERIES * QUERIES;
    return (padded + QUERIES) * head_dim + 2 * count;
}
static inline int blocks_of(const Linear *l) { return (l->out + BLOCK - 1) / BLOCK; }

// Threads (team.c). `team` has a piece of work done by up to so many at once, each of which is told its number and how many
// they are, and comes back when all have ended; where another thread has the team, its caller does the work alone.
typedef void (*Work)(void *job, int number, int threads);
void team(int threads, Work work, void *job);

// Weights that are read ahead of the products (stream.c): wait for a piece, and let go of it, all threads of a product.
void itrex_enter(void *stream, int piece);
void itrex_leave(void *stream, int piece, int threads);
int itrex_finite(const void *values, int format, size_t count, int threads);

// Where threads wait until all of them have come. All zero at the beginning.
typedef struct {
    _Alignas(64) int arrived, held, asleep;
} Meeting;
void meet(Meeting *, int threads);

// The next of the tasks that threads share out among them.
static inline int next_task(int *taken) { return __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED); }
// Where the part of a thread begins that shares `count` with the others in parts as even as can be.
static inline int part(int count, int number, int threads) { return (int)((int64_t)count * number / threads); }

// Many rows.
EXPORT void itrex_swiglu(const float *gate_up, int rows, int n, float *y, int threads);
void vnni_gemm(const Linear *, const Input *, int first, int last, float *y, size_t ldy);
void vnni_blocks(const Linear *, const Input *, int first, int last, float *y, size_t ldy, int add);
void vnni_gated(const Linear *, const Input *, int first, int last, float *y, size_t ldy);
size_t amx_input_bytes(const Linear *, int rows);
void amx_input(const Linear *, int row, const float *x, uint16_t *tiles);
size_t amx_panel_bytes(const Linear *, int blocks);
void amx_gemm(const Linear *, int rows, const uint16_t *input, int first, int last, float *y, size_t ldy, uint16_t *panel);
void amx_begin(void);
void amx_end(void);
