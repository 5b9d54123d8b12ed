// Heads between the products: turned by their positions, written to the cache, attended for many rows.
#include "native.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Turn the rotated channels of a head by the angles of its position (arXiv:2104.09864).
static void turn(const Model *m, float *x, const float *cos, const float *sin) {
    const int half = m->rotated / 2, step = m->interleaved ? 2 : 1, apart = m->interleaved ? 1 : half;
    for (int i = 0; i < half; i++) {
        const float a = x[i * step], b = x[i * step + apart];
        x[i * step] = a * cos[i] - b * sin[i];
        x[i * step + apart] = b * cos[i] + a * sin[i];
    }
}

// A head by an orthogonal matrix of as many channels as divide it and are a power of two (Walsh and Hadamard's, fast), so that a
// channel of large values is spread over all: INT8 rounds a key by its largest. Queries and keys have the same products then.
static void spread(float *x, int head_dim) {
    const int each = head_dim & -head_dim;
    const float factor = 1 / sqrtf((float)each);
    for (int apart = 1; apart < each; apart *= 2)
        for (int i = 0; i < head_dim; i += 2 * apart)
            for (int k = i; k < i + apart; k++) {
                const float a = x[k], b = x[k + apart];
                x[k] = a + b, x[k + apart] = a - b;
            }
    for (int i = 0; i < head_dim; i++) x[i] *= factor;
}

// The pages of one head of keys of the sequence that a row belongs to.
Kept kept(const Heads *s, int layer, int row, int kv_head) {
    const Model *m = s->m;
    const Cache *c = s->c;
    return (Kept){c->pool + ((size_t)layer * m->kv_heads + kv_head) * kept_bytes(c->format, m->head_dim),
                  c->pages + s->sequence[row] * c->each, page_bytes(m, c->format), c->format};
}

// Turn one head of a row's queries, or one of its keys, which goes to the cache with its values.
void place(const Heads *s, int n, int row, int head) {
    const Model *m = s->m;
    const Layer *layer = &m->layer[n];
    const int d = m->head_dim, key = head - m->heads;
    float *x = s->qkv + ((size_t)row * (m->heads + 2 * m->kv_heads) + head) * d;
    const float *norm = key < 0 ? layer->query_norm : layer->key_norm, *angles = s->angles + (size_t)row * m->rotated;
    if (norm) level()->rms_norm(x, norm, d, m->eps, x);
    turn(m, x, angles, angles + m->rotated / 2);
    if (s->c->format == INT8) spread(x, d);
    if (key >= 0) {
        const Kept k = kept(s, n, row, key);
        const int64_t position = s->position[row];
        level()->keep(k.format, x, x + (size_t)m->kv_heads * d, d, (uint8_t *)k.base + k.pages[position / CACHE_PAGE] * k.apart,
                      (int)(position % CACHE_PAGE));
        return;
    }
    const float factor = (s->query_scale ? s->query_scale[row] : 1.0f) / sqrtf((float)d);
    for (int i = 0; i < d; i++) x[i] *= factor;
}

// Rows whose queries share what is read of the cache: enough of them, and tiles for all threads.
static int tile_rows(const Model *m, int rows, int threads) {
    int tile = 16;
    while (tile * (m->heads / m->kv_heads) < 192 && rows / (2 * tile) * m->kv_heads >= 4 * threads) tile *= 2;
    return tile;
}

typedef struct {
    Heads heads;
    int layer, rows, tiles, each_rows;  // rows of a tile
    float *mixed, *scratch;
    size_t each;  // floats of a thread's scratch
    int taken;
    Meeting placed;
} Attention;

static void attend_tile(const Attention *a, int tile, int kv_head, float *scratch) {
    const Heads *h = &a->heads;
    const Model *m = h->m;
    const int group = m->heads / m->kv_heads, d = m->head_dim, end = (tile + 1) * a->each_rows;
    const int last = end < a->rows ? end : a->rows;
    const size_t width = (size_t)(m->heads + 2 * m->kv_heads) * d;
    for (int row = tile * a->each_rows, next; row < last; row = next) {
        for (next = row + 1; next < last && h->sequence[next] == h->sequence[row]; next++) {}
        const Kept k = kept(h, a->layer, row, kv_head);
        level()->attend_tile(&k, h->qkv + row * width + (size_t)kv_head * group * d, width, next - row, group, d,
                             h->position[row], m->layer[a->layer].window,
                             a->mixed + ((size_t)row * m->heads + kv_head * group) * d, (size_t)m->heads * d, scratch);
    }
}

static void attend_rows(void *job, int number, int threads) {
    Attention *a = job;
    const Model *m = a->heads.m;
    const int heads = m->heads + m->kv_heads, from = part(a->rows, number, threads), to = part(a->rows, number + 1, threads);
    for (int row = from; row < to; row++)
        for (int head = 0; head < heads; head++) place(&a->heads, a->layer, row, head);
    meet(&a->placed, threads);
    for (int task; (task = next_task(&a->taken)) < a->tiles * m->kv_heads;)  // the longest first
        attend_tile(a, a->tiles - 1 - task / m->kv_heads, task % m->kv_heads, a->scratch + a->each * number);
}

// Attention of many rows; those of a sequence lie together in the order of their positions. qkv as the product left it,
// mixed [rows, heads · head_dim]. DONE, NO_MEMORY or REFUSED.
EXPORT int itrex_attention(const Model *m, const Cache *c, int layer, int rows, float *qkv, const int64_t *sequence,
                           const int64_t *position, const float *angles, const float *query_scale, float *mixed, int threads) {
    if (!sound_heads(m) || layer < 0 || layer >= m->layers || m->layer[layer].window < 0 || threads < 1 ||
        !placed(m, c, rows, sequence, position))
        return REFUSED;
    const int each_rows = tile_rows(m, rows, threads);
    Attention a = {.heads = {m, c, sequence, position, angles, query_scale, qkv}, .layer = layer, .rows = rows,
                   .tiles = (rows + each_rows - 1) / each_rows, .each_rows = each_rows, .mixed = mixed,
                   .each = (tile_floats(each_rows, m->heads / m->kv_heads, m->head_dim) + 1023) / 1024 * 1024};
    a.scratch = malloc(4 * a.each * threads);
    if (!a.scratch) return NO_MEMORY;
    team(threads, attend_rows, &a);
    free(a.scratch);
    return DONE;
}

typedef struct {
    const float *x, *weight;
    int rows, n;
    float eps, *y;
} Rows;

static void norm_rows(void *job, int number, int threads) {
    const Rows *r = job;
    for (int row = part(r->rows, number, threads); row < part(r->rows, number + 1, threads); row++)
        level()->rms_norm(r->x + (size_t)row * r->n, r->weight, r->n, r->eps, r->y + (size_t)row * r->n);
}

// y[rows, n]: each row's norm.
EXPORT void itrex_rms_norm(const float *x, const float *weight, int rows, int n, float eps, float *y, int threads) {
    team(threads, norm_rows, &(Rows){.x = x, .weight = weight, .rows = rows, .n = n, .eps = eps, .y = y});
}

static void swiglu_rows(void *job, int number, int threads) {
    const Rows *r = job;
    for (int row = part(r->rows, number, threads); row < part(r->rows, number + 1, threads); row++) {
        const float *gate = r->x + (size_t)row * 2 * r->n;
        level()->swiglu(gate, gate + r->n, r->n, r->y + (size_t)row * r->n);
    }
}

// y[rows, n] from gate and up side by side, [rows, 2n].
EXPORT void itrex_swiglu(const float *gate_up, int rows, int n, float *y, int threads) {
    team(threads, swiglu_rows, &(Rows){.x = gate_up, .rows = rows, .n = n, .y = y});
}

static void add_rows(void *job, int number, int threads) {
    const Rows *r = job;
    const size_t from = (size_t)part(r->rows, number, threads) * r->n, to = (size_t)part(r->rows, number + 1, threads) * r->n;
    for (size_t i = from; i < to; i++) r->y[i] += r->x[i];
}

// x[rows, n] added to y.
EXPORT void itrex_add(const float *x, int rows, int n, float *y, int threads) {
    team(threads, add_rows, &(Rows){.x = x, .rows = rows, .n = n, .y = y});
}
