// Heads between the products: turned by their positions, written to the cache, attended for many rows.
#include "native.h"

#include <math.h>
#include <omp.h>
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

float *cached(const Heads *s, float *of, int layer, int row, int kv_head) {
    const Model *m = s->m;
    const Cache *c = s->c;
    return of + (((size_t)layer * c->batch + s->sequence[row]) * m->kv_heads + kv_head) * c->capacity * m->head_dim;
}

// Turn one head of a row's queries, or one of its keys, which goes to the cache with its values.
void place(const Heads *s, int n, int row, int head) {
    const Model *m = s->m;
    const Layer *layer = &m->layer[n];
    const int d = m->head_dim, key = head - m->heads;
    float *x = s->qkv + ((size_t)row * (m->heads + 2 * m->kv_heads) + head) * d;
    const float *norm = key < 0 ? layer->query_norm : layer->key_norm;
    if (norm) level()->rms_norm(x, norm, d, m->eps, x);
    const int64_t table = s->c->tables == 1 ? 0 : s->sequence[row];
    const size_t angle = (table * s->c->capacity + s->position[row]) * (m->rotated / 2);
    turn(m, x, s->c->cos + angle, s->c->sin + angle);
    if (key >= 0) {
        const size_t at = (size_t)s->position[row] * d;
        memcpy(cached(s, s->c->keys, n, row, key) + at, x, 4 * d);
        memcpy(cached(s, s->c->values, n, row, key) + at, x + (size_t)m->kv_heads * d, 4 * d);
        return;
    }
    const float factor = (s->query_scale ? s->query_scale[row] : 1.0f) / sqrtf((float)d);
    for (int i = 0; i < d; i++) x[i] *= factor;
}

// Rows whose queries share turned keys: enough of them to pay for the turning, and tiles for all threads.
static int tile_rows(const Model *m, int rows, int threads) {
    int tile = 16;
    while (tile * (m->heads / m->kv_heads) < 192 && rows / (2 * tile) * m->kv_heads >= 4 * threads) tile *= 2;
    return tile;
}

// Attention of many rows; those of a sequence lie together in the order of their positions. qkv as the product left it,
// mixed [rows, heads · head_dim]. DONE, NO_MEMORY or REFUSED.
EXPORT int itrex_attention(const Model *m, const Cache *c, int layer, int rows, float *qkv, const int64_t *sequence,
                           const int64_t *position, const float *query_scale, float *mixed, int threads) {
    if (!sound_heads(m) || layer < 0 || layer >= m->layers || m->layer[layer].window < 0 || threads < 1 ||
        !placed(c, rows, sequence, position))
        return REFUSED;
    const Heads heads = {m, c, sequence, position, query_scale, qkv};
    const int group = m->heads / m->kv_heads, d = m->head_dim, each_rows = tile_rows(m, rows, threads);
    const int tiles = (rows + each_rows - 1) / each_rows;
    const size_t width = (size_t)(m->heads + 2 * m->kv_heads) * d;
    const size_t each = (4 * tile_floats(each_rows, group, d) + 4095) / 4096 * 4096;
    uint8_t *scratch = malloc(each * threads);
    if (!scratch) return NO_MEMORY;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for collapse(2) schedule(static)
        for (int row = 0; row < rows; row++)
            for (int head = 0; head < m->heads + m->kv_heads; head++) place(&heads, layer, row, head);
        float *own = (float *)(scratch + each * omp_get_thread_num());
#pragma omp for collapse(2) schedule(dynamic)
        for (int tile = tiles - 1; tile >= 0; tile--)  // the longest first
            for (int kv_head = 0; kv_head < m->kv_heads; kv_head++) {
                const int last = (tile + 1) * each_rows < rows ? (tile + 1) * each_rows : rows;
                for (int row = tile * each_rows, next; row < last; row = next) {
                    for (next = row + 1; next < last && sequence[next] == sequence[row]; next++) {}
                    level()->attend_tile(qkv + row * width + (size_t)kv_head * group * d, width, next - row, group, d,
                                         cached(&heads, c->keys, layer, row, kv_head),
                                         cached(&heads, c->values, layer, row, kv_head), position[row],
                                         m->layer[layer].window, mixed + ((size_t)row * m->heads + kv_head * group) * d,
                                         (size_t)m->heads * d, own);
                }
            }
    }
    free(scratch);
    return DONE;
}

// y[rows, n]: each row's norm.
EXPORT void itrex_rms_norm(const float *x, const float *weight, int rows, int n, float eps, float *y, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int row = 0; row < rows; row++) level()->rms_norm(x + (size_t)row * n, weight, n, eps, y + (size_t)row * n);
}

// y[rows, n] from gate and up side by side, [rows, 2n].
EXPORT void itrex_swiglu(const float *gate_up, int rows, int n, float *y, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int row = 0; row < rows; row++)
        level()->swiglu(gate_up + (size_t)row * 2 * n, gate_up + (size_t)row * 2 * n + n, n, y + (size_t)row * n);
}
