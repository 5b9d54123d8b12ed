// One decode step: some rows, each the next token of a sequence, through all blocks of the decoder.
//
// All threads go through the layers side by side and meet at barriers. What is small (norms, rounding of activations)
// each thread computes for itself where rows are few, else for its share of the rows; products are shared out by outputs
// and attention by heads and chunks of positions, so that no sum depends on the number of threads, nor a row's values on the other rows.
#include "native.h"

#include <math.h>
#include <string.h>

#define CHUNK_BYTES (4 << 20)  // long streams: each start of one costs the memory latency
#define WARM_BYTES (32 << 10)

typedef struct {
    const Model *m;
    Heads heads;
    int rows, threads, wide;           // wide: what is computed for a row is computed by one thread, for all
    int run[STEP_ROWS + 1], runs;      // rows that follow each other in a sequence: the first of each, and behind the last
    float *x;                          // [rows, hidden]
    float *mixed, *gate_up, *y;        // [rows, …]
    float *parts, *largest, *sums;     // [rows, kv_heads, chunks, heads that share, …]
    int chunks;
    int *taken;                        // chunks of each product and of each layer's attention that threads have taken
    Meeting meeting;
} Step;

typedef struct {
    int number, threads, shared;
    float *row;     // [rows, widest]: a norm's output
    float *queries; // scratch of `attend`
    void *rounded;  // the inputs of a product
} Thread;

static size_t up(size_t n) { return (n + 255) / 256 * 256; }
static int larger(int a, int b) { return a > b ? a : b; }
static int queries(const Model *m) { return m->heads * m->head_dim; }
static int widest(const Model *m) { return larger(larger(m->hidden, m->inner), queries(m)); }
static int parts_of(const Linear *l) { return l ? 1 + parts_of(l->next) : 0; }

static size_t most_rounded(const Linear *l, int rows, size_t most) {
    for (; l; l = l->next)
        if (input_bytes(l, rows) > most) most = input_bytes(l, rows);
    return most;
}
static size_t rounded_bytes(const Model *m, int rows) {
    size_t most = most_rounded(m->head, rows, 0);
    for (int n = 0; n < m->layers; n++) {
        const Linear *of[] = {m->layer[n].qkv, m->layer[n].output, m->layer[n].gate_up, m->layer[n].down};
        for (int i = 0; i < 4; i++) most = most_rounded(of[i], rows, most);
    }
    return most;
}
static int shared_out(const Model *m) {
    int count = parts_of(m->head) + m->layers;
    for (int n = 0; n < m->layers; n++)
        count += parts_of(m->layer[n].qkv) + parts_of(m->layer[n].output) + parts_of(m->layer[n].gate_up) +
                 parts_of(m->layer[n].down);
    return count;
}
static int chunks_for(int64_t positions) { return (int)((positions + ATTENTION_CHUNK - 1) / ATTENTION_CHUNK); }

// Lay the memory out from `at` (NULL to measure it); its size.
static size_t lay_out(Step *s, Thread *threads, uint8_t *at) {
    const Model *m = s->m;
    const size_t rows = s->rows, heads = m->heads;
    size_t size = 0;
#define TAKE(type, count) (size += up((count) * sizeof(type)), (type *)(at + (size - up((count) * sizeof(type)))))
    s->taken = TAKE(int, (size_t)shared_out(m));
    s->heads.qkv = TAKE(float, rows * (heads + 2 * m->kv_heads) * m->head_dim);
    s->mixed = TAKE(float, rows * heads * m->head_dim);
    s->gate_up = TAKE(float, rows * 2 * m->inner);
    s->y = TAKE(float, rows * m->hidden);
    s->parts = TAKE(float, rows * heads * s->chunks * m->head_dim);
    s->largest = TAKE(float, rows * heads * s->chunks);
    s->sums = TAKE(float, rows * heads * s->chunks);
    const size_t rounded = rounded_bytes(m, s->rows);
    float *row = NULL;
    uint8_t *own = NULL;
    for (int t = 0; t < s->threads; t++) {
        if (!s->wide || t == 0) {
            row = TAKE(float, rows * widest(m));
            own = TAKE(uint8_t, rounded);
        }
        float *queries = TAKE(float, attend_floats(m->head_dim));
        if (threads) threads[t] = (Thread){t, 0, 0, row, queries, own};
    }
#undef TAKE
    return size;
}

static int chunk_of(const Linear *l, int threads) {
    int chunk = blocks_of(l) / (2 * threads);
    const int most = (int)(CHUNK_BYTES / block_bytes(l));
    if (chunk > most) chunk = most;
    return chunk < 1 ? 1 : chunk;
}

// Fetch the beginning of what this thread reads first of the next matrix, while it would wait for the others.
static void warm(const Linear *l, const Thread *t) {
    const size_t block = block_bytes(l);
    const int first = t->number * chunk_of(l, t->threads);
    if (first >= blocks_of(l)) return;
    const uint8_t *p = (const uint8_t *)l->weight + first * block;
    const size_t bytes = block < WARM_BYTES ? block : WARM_BYTES;
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
}

// The rows [first, last) of so many whose small things this thread computes.
typedef struct {
    int first, last;
} Own;
static Own own_rows(const Step *s, const Thread *t, int rows) {
    return s->wide ? (Own){part(rows, t->number, t->threads), part(rows, t->number + 1, t->threads)} : (Own){0, rows};
}

// y[rows, out] = x[rows, in] · matrixᵀ + bias, or added to y; every thread its share of the outputs. Where the step is wide, of x
// the thread's own rows must be there.
static void multiply_rows(Step *s, Thread *t, const Linear *l, int rows, const float *x, size_t ldx, float *y, size_t ldy,
                          int add) {
    for (; l; y += l->out, l = l->next) {
        const Own own = own_rows(s, t, rows);
        const Input in = arranged(l, rows, x, ldx, t->rounded);
        for (int r = own.first; r < own.last && (in.q || in.x != x); r++) round_row(l, &in, r, x + r * ldx);
        if (s->wide) meet(&s->meeting, t->threads);
        const int blocks = blocks_of(l), chunk = chunk_of(l, t->threads);
        int *taken = &s->taken[t->shared++];
        if (l->stream) itrex_enter(l->stream, l->piece);
        for (int first = t->number * chunk; first < blocks;
             first = (t->threads + __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED)) * chunk) {
            const int last = first + chunk < blocks ? first + chunk : blocks;
            level()->blocks(l, &in, first, last, y, ldy, add);
        }
        if (l->stream) itrex_leave(l->stream, l->piece, t->threads);
        if (s->wide && l->next) meet(&s->meeting, t->threads);
    }
}

static void multiply(Step *s, Thread *t, const Linear *l, const float *x, size_t ldx, float *y, size_t ldy, int add) {
    multiply_rows(s, t, l, s->rows, x, ldx, y, ldy, add);
}

static const float *normed(const Step *s, Thread *t, const float *weight) {
    const Model *m = s->m;
    const Own own = own_rows(s, t, s->rows);
    for (int r = own.first; r < own.last; r++)
        level()->rms_norm(s->x + (size_t)r * m->hidden, weight, m->hidden, m->eps, t->row + (size_t)r * m->hidden);
    return t->row;
}

// Chunks of the cache from position 0 on; those before a window are passed over.
static int first_chunk(const Step *s, int n, int row) {
    const int64_t window = s->m->layer[n].window, end = s->heads.position[row] + 1;
    return window && end > window ? (int)((end - window) / ATTENTION_CHUNK) : 0;
}

// A chunk of a head of keys that rows of one sequence attend to; `number` counts the chunks of all heads of all these.
typedef struct {
    int run, kv_head, chunk;
} Part;
static Part part_of(const Step *s, int number) {
    const int parts = s->m->kv_heads * s->chunks;
    return (Part){number / parts, number % parts / s->chunks, number % s->chunks};
}
static int is_there(const Step *s, int n, Part p) {
    return p.run < s->runs && p.chunk >= first_chunk(s, n, s->run[p.run]) &&
           p.chunk < chunks_for(s->heads.position[s->run[p.run + 1] - 1] + 1);
}

// Attend to one part, and fetch the beginning of the one that this thread takes `after` it.
static void attend(const Step *s, const Thread *t, int n, Part p, Part after) {
    const Model *m = s->m;
    if (!is_there(s, n, p)) return;
    const int group = m->heads / m->kv_heads, d = m->head_dim, row = s->run[p.run];
    const size_t at = (((size_t)row * m->kv_heads + p.kv_head) * s->chunks + p.chunk) * group;
    const size_t width = (size_t)(m->heads + 2 * m->kv_heads) * d;
    Kept k = kept(&s->heads, n, row, p.kv_head);
    if (is_there(s, n, after)) {
        const Kept next = kept(&s->heads, n, s->run[after.run], after.kv_head);
        k.next = next.base + next.pages[(size_t)after.chunk * (ATTENTION_CHUNK / CACHE_PAGE)] * next.apart;
    }
    level()->attend(&k, s->heads.qkv + row * width + (size_t)p.kv_head * group * d, width, s->run[p.run + 1] - row, group, d,
                    s->heads.position[row], m->layer[n].window, p.chunk, s->parts + at * d, s->largest + at, s->sums + at,
                    (size_t)m->kv_heads * s->chunks * group, t->queries);
}

// Put the chunks of a head together, in their order.
static void join(const Step *s, int n, int row, int head) {
    const Model *m = s->m;
    const int d = m->head_dim, chunks = chunks_for(s->heads.position[row] + 1), group = m->heads / m->kv_heads;
    const size_t at = ((size_t)row * m->kv_heads + head / group) * s->chunks * group + head % group;
    float most = -INFINITY, sum = 0, *out = s->mixed + ((size_t)row * m->heads + head) * d;
    memset(out, 0, 4 * d);
    for (int c = first_chunk(s, n, row); c < chunks; c++) {
        const size_t part = at + (size_t)c * group;
        level()->fold(s->parts + part * d, s->largest[part], s->sums[part], d, out, &most, &sum);
    }
    for (int i = 0; i < d; i++) out[i] /= sum;
}

// x += the norm of y.
static void add_normed(Step *s, const Thread *t, const float *weight) {
    const int hidden = s->m->hidden;
    for (int r = t->number; r < s->rows; r += t->threads) {
        float *y = s->y + (size_t)r * hidden, *x = s->x + (size_t)r * hidden;
        level()->rms_norm(y, weight, hidden, s->m->eps, y);
        for (int i = 0; i < hidden; i++) x[i] += y[i];
    }
    meet(&s->meeting, t->threads);
}

// The heads that share keys, of all rows, by one thread from their place to their mix.
static void mix_heads(Step *s, const Thread *t, int n, int kv_head) {
    const Model *m = s->m;
    const int group = m->heads / m->kv_heads;
    for (int row = 0; row < s->rows; row++) {
        place(&s->heads, n, row, m->heads + kv_head);
        for (int i = 0; i < group; i++) place(&s->heads, n, row, kv_head * group + i);
    }
    for (int run = 0; run < s->runs; run++) attend(s, t, n, (Part){run, kv_head, 0}, (Part){run + 1, kv_head, 0});
    for (int row = 0; row < s->rows; row++) {
        for (int i = 0; i < group; i++) join(s, n, row, kv_head * group + i);
    }
}

// Queries, keys and values as the product left them, to `mixed`. Where heads suffice to share out, threads meet once for it.
static void mix(Step *s, Thread *t, int n) {
    const Model *m = s->m;
    const int heads = m->heads + m->kv_heads, parts = m->kv_heads * s->chunks;
    int *taken = &s->taken[t->shared++];
    if (s->chunks == 1 && m->kv_heads >= t->threads) {
        for (int head; (head = next_task(taken)) < m->kv_heads;) mix_heads(s, t, n, head);
        return;
    }
    for (int i = t->number; i < s->rows * heads; i += t->threads) place(&s->heads, n, i / heads, i % heads);
    meet(&s->meeting, t->threads);
    for (int task = next_task(taken), after; task < s->runs * parts; task = after)
        attend(s, t, n, part_of(s, task), part_of(s, after = next_task(taken)));
    meet(&s->meeting, t->threads);
    for (int i = t->number; i < s->rows * m->heads; i += t->threads) join(s, n, i / m->heads, i % m->heads);
}

static void run_layer(Step *s, Thread *t, int n) {
    const Model *m = s->m;
    const Layer *layer = &m->layer[n];
    const int qkv = (m->heads + 2 * m->kv_heads) * m->head_dim;
    multiply(s, t, layer->qkv, normed(s, t, layer->attention_norm), m->hidden, s->heads.qkv, qkv, 0);
    meet(&s->meeting, t->threads);
    mix(s, t, n);
    warm(layer->output, t);
    meet(&s->meeting, t->threads);
    multiply(s, t, layer->output, s->mixed, queries(m), layer->after_attention_norm ? s->y : s->x, m->hidden,
             !layer->after_attention_norm);
    warm(layer->gate_up, t);
    meet(&s->meeting, t->threads);
    if (layer->after_attention_norm) add_normed(s, t, layer->after_attention_norm);
    multiply(s, t, layer->gate_up, normed(s, t, layer->mlp_norm), m->hidden, s->gate_up, 2 * m->inner, 0);
    warm(layer->down, t);
    meet(&s->meeting, t->threads);
    const Own own = own_rows(s, t, s->rows);
    for (int r = own.first; r < own.last; r++) {
        const float *gate = s->gate_up + (size_t)r * 2 * m->inner;
        level()->swiglu(gate, gate + m->inner, m->inner, t->row + (size_t)r * m->inner);
    }
    multiply(s, t, layer->down, t->row, m->inner, layer->after_mlp_norm ? s->y : s->x, m->hidden, !layer->after_mlp_norm);
    warm(n + 1 < m->layers ? m->layer[n + 1].qkv : m->head, t);
    meet(&s->meeting, t->threads);
    if (layer->after_mlp_norm) add_normed(s, t, layer->after_mlp_norm);
}

// A layer whose parts are of one width and of so many outputs together.
static int sound_parts(const Linear *l, int in, int out) {
    int64_t outputs = 0;
    for (; l; l = l->next) {
        if (!sound(l) || l->in != in) return 0;
        outputs += l->out;
    }
    return outputs == out;
}
static int sound_model(const Model *m) {
    if (!sound_heads(m) || m->hidden < 1 || m->inner < 1 || m->inner > INT32_MAX / 2 || m->vocabulary < 1) return 0;
    if (!sound_parts(m->head, m->hidden, m->vocabulary)) return 0;
    for (int n = 0; n < m->layers; n++) {
        const Layer *l = &m->layer[n];
        if (l->window < 0 || !sound_parts(l->qkv, m->hidden, (m->heads + 2 * m->kv_heads) * m->head_dim) ||
            !sound_parts(l->output, queries(m), m->hidden) || !sound_parts(l->gate_up, m->hidden, 2 * m->inner) ||
            !sound_parts(l->down, m->inner, m->hidden))
            return 0;
    }
    return 1;
}

typedef struct {
    Step s;
    Thread *all;
    int wanted;
    const int32_t *which;  // rows whose logits are wanted
    float *logits;
} Pass;

static void run(void *job, int number, int threads) {
    Pass *pass = job;
    Step *s = &pass->s;
    const Model *m = s->m;
    Thread t = pass->all[number];
    t.threads = threads;
    for (int n = 0; n < m->layers; n++) run_layer(s, &t, n);
    if (!pass->wanted) return;
    const Own own = own_rows(s, &t, pass->wanted);
    for (int i = own.first; i < own.last; i++)
        level()->rms_norm(s->x + (size_t)pass->which[i] * m->hidden, m->norm, m->hidden, m->eps, t.row + (size_t)i * m->hidden);
    multiply_rows(s, &t, m->head, pass->wanted, t.row, m->hidden, pass->logits, m->vocabulary, 0);
}

// Bytes of `memory` for a step of these rows, the farthest of which is at position `end` - 1; 0 for
// a model or a step that cannot be.
EXPORT size_t itrex_step_bytes(const Model *m, int rows, int64_t end, int threads) {
    if (rows < 1 || rows > STEP_ROWS || end < 1 || threads < 1 || !sound_model(m)) return 0;
    Step s = {.m = m, .rows = rows, .threads = threads, .wide = rows > FEW, .chunks = chunks_for(end)};
    return lay_out(&s, NULL, NULL);
}

// Read a token in each row: x [rows, hidden] is its embedding (overwritten), its keys and values go to the cache at its
// sequence and position, whose angles are given, and what follows some of them, `which`, to logits [wanted, vocabulary]. `memory` is of
// `itrex_step_bytes`, which has looked at the model. DONE or REFUSED.
EXPORT int itrex_step(const Model *m, const Cache *c, int rows, float *x, const int64_t *sequence, const int64_t *position,
                      const float *angles, const float *query_scale, int wanted, const int32_t *which,
                      float *logits, void *memory, int threads) {
    if (rows > STEP_ROWS || threads < 1 || wanted < 0 || wanted > rows || !placed(m, c, rows, sequence, position)) return REFUSED;
    for (int i = 0; i < wanted; i++)
        if (which[i] < 0 || which[i] >= rows) return REFUSED;
    int64_t end = 0;
    for (int r = 0; r < rows; r++) end = position[r] + 1 > end ? position[r] + 1 : end;
    Thread all[threads];
    Pass pass = {.s = {.m = m, .heads = {m, c, sequence, position, angles, query_scale, NULL}, .rows = rows, .threads = threads,
                       .wide = rows > FEW, .x = x,
                       .chunks = chunks_for(end)},
                 .all = all, .wanted = wanted, .which = which, .logits = logits};
    for (int r = 0; r < rows; r++)
        if (r == 0 || sequence[r] != sequence[r - 1] || position[r] != position[r - 1] + 1) pass.s.run[pass.s.runs++] = r;
    pass.s.run[pass.s.runs] = rows;
    lay_out(&pass.s, all, memory);
    memset(pass.s.taken, 0, sizeof(int) * shared_out(m));
    team(threads, run, &pass);
    return DONE;
}
