// Random cases for the native kernels, to be built with sanitizers: `make fuzz`.
//
//   fuzz_native CASES [FIRST]    cases FIRST, FIRST + 1, …; a case is the same whenever it runs
//
// Every buffer has exactly the size that the interface states, so that reading or writing past it is caught. Products and
// attention are compared with plain loops in double; a step of many rows with steps of one row each, to the last bit.
#include "fuzz_matrices.h"

int itrex_choose(const char *name);
int itrex_product(const Linear *, int rows, const float *x, size_t ldx, float *y, size_t ldy, int threads);
int itrex_attention(const Model *, const Cache *, int layer, int rows, float *qkv, const int64_t *sequence,
                    const int64_t *position, const float *query_scale, float *mixed, int threads);
int itrex_gated_product(const Linear *, int rows, const float *x, size_t ldx, float *gate_up, float *y, int threads);
void itrex_rms_norm(const float *x, const float *weight, int rows, int n, float eps, float *y, int threads);
void itrex_swiglu(const float *gate_up, int rows, int n, float *y, int threads);
size_t itrex_step_bytes(const Model *, int rows, int64_t end, int threads);
int itrex_step(const Model *, const Cache *, int rows, float *x, const int64_t *sequence, const int64_t *position,
                const float *query_scale, float *logits, void *memory, int threads);

static int fuzz_product(void) {
    static const int some_rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 18, 22, 23, 24, 25, 33, 70};
    const int format = below(5), group = 32 << below(3), dense = format <= FP16;
    const int in = dense ? below(8) ? between(1, 200) : between(200, 3000) : group * between(1, 4);
    const int out = below(4) ? between(1, 50) : 16 * between(1, 8);
    int rows = some_rows[below(19)];
    if (rows * in * out > 200000) rows = between(1, 9);
    const Matrix m = a_matrix(format, in, out, group, below(3), below(6));
    const size_t ldx = in + below(3) * 5, ldy = out + below(3) * 3;
    float *x = take(4 * ((rows - 1) * ldx + in)), *y = take(4 * ((rows - 1) * ldy + out));
    static const float magnitudes[] = {1, 1, 1, 0, 1e-45f, 1e-38f, 1e-36f, 1e-20f, 1e15f, 1e28f};
    const int bad = below(8) ? -1 : below(rows);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < in; i++) {
            static float magnitude;
            if (i % 16 == 0) magnitude = magnitudes[below(10)];
            x[r * ldx + i] = uniform() * magnitude;
        }
    if (bad >= 0) x[bad * ldx + below(in)] = below(2) ? NAN : below(2) ? INFINITY : -INFINITY;
    CHECK(itrex_product(&m.l, rows, x, ldx, y, ldy, a_few_threads()) == 0, "no memory");
    const int rounded = rounding(&m.l, rows), as_int8 = rounded == WITH_INT8;
    const double roundings = as_int8 ? in / group + 4 : in + 3;
    for (int r = 0; r < rows; r++) {
        for (int o = 0; o < out; o++) {
            const float found = y[r * ldy + o];
            double magnitude, tiny;
            const double exact = product(&m, rounded, x + r * ldx, o, &magnitude, &tiny);
            if (r == bad)
                CHECK(as_int8 ? isnan(found) : !isfinite(found), "row %d of NaN or infinity gives %g", r, found);
            else if (magnitude < 1e37)
                CHECK(fabs(found - exact) <= 1.01 * (roundings * 0x1p-24 * magnitude + tiny),
                      "format %d, compute %d, group %d, %d rows, %d inputs, %d outputs: y[%d, %d] is %g, not %g", format,
                      m.l.compute, group, rows, in, out, r, o, found, exact);
        }
        for (size_t o = out; o < ldy && r < rows - 1; o++) {
            uint32_t u;
            memcpy(&u, &y[r * ldy + o], 4);
            CHECK(u == 0xffffffffu, "written between the rows");
        }
    }
    if (out % 2 == 0 && !dense) {
        float *whole = take(4 * (size_t)rows * out), *gated = take(2 * (size_t)rows * out), *plain = take(2 * (size_t)rows * out);
        for (int r = 0; r < rows; r++) memcpy(whole + (size_t)r * out, y + r * ldy, 4 * (size_t)out);
        itrex_swiglu(whole, rows, out / 2, plain, 1);
        CHECK(itrex_gated_product(&m.l, rows, x, ldx, whole, gated, a_few_threads()) == 0, "no memory");
        for (int i = 0; i < rows * out / 2; i++)
            CHECK(gated[i] == plain[i] || (isnan(gated[i]) && isnan(plain[i])), "gated[%d] is %g, not %g", i, gated[i], plain[i]);
    }
    return 0;
}

// Sequences in a cache, and the rows that continue them.
typedef struct {
    Cache c;
    int rows;
    int64_t end, *sequence, *position;
    float *query_scale;
} Text;

static size_t cache_floats(const Model *m, const Cache *c) {
    return (size_t)m->layers * c->batch * m->kv_heads * c->capacity * m->head_dim;
}

static Text a_text(const Model *m, int most_rows, int most_before) {
    Text t = {.c = {.batch = between(1, 3)}};
    int before[3], count[3], longest = 0;
    for (int b = 0; b < t.c.batch; b++) {
        before[b] = below(most_before + 1);
        count[b] = between(b == 0, most_rows / (int)t.c.batch);
        t.rows += count[b];
        if (before[b] + count[b] > longest) longest = before[b] + count[b];
    }
    t.end = 0;
    t.c.capacity = longest + below(3);
    t.c.tables = below(2) ? 1 : t.c.batch;
    t.sequence = take(8 * t.rows), t.position = take(8 * t.rows);
    for (int b = 0, r = 0; b < t.c.batch; b++)
        for (int i = 0; i < count[b]; i++, r++) {
            t.sequence[r] = b, t.position[r] = before[b] + i;
            if (t.position[r] + 1 > t.end) t.end = t.position[r] + 1;
        }
    t.query_scale = below(2) ? near_one(t.rows) : NULL;
    const size_t size = cache_floats(m, &t.c), angles = (size_t)t.c.tables * t.c.capacity * (m->rotated / 2);
    float *cos = take(4 * angles), *sin = take(4 * angles);
    for (size_t i = 0; i < angles; i++) {
        const float angle = 7 * uniform();
        cos[i] = cosf(angle), sin[i] = sinf(angle);
    }
    t.c.cos = cos, t.c.sin = sin;
    t.c.keys = take(4 * size), t.c.values = take(4 * size);  // NaN, but for what the sequences hold
    for (size_t head = 0; head < (size_t)m->layers * t.c.batch * m->kv_heads; head++)
        for (int64_t i = 0; i < (int64_t)before[head / m->kv_heads % t.c.batch] * m->head_dim; i++) {
            t.c.keys[head * t.c.capacity * m->head_dim + i] = uniform();
            t.c.values[head * t.c.capacity * m->head_dim + i] = uniform();
        }
    return t;
}

static void some_heads(Model *m) {
    m->kv_heads = between(1, 3);
    m->heads = m->kv_heads * between(1, 6);
    m->head_dim = 2 * between(1, 36);
    m->rotated = 2 * between(1, m->head_dim / 2);
    m->interleaved = below(2);
    m->eps = 1e-5f;
}

// A head normed, turned and multiplied, in place.
static void place_plainly(const Model *m, const Text *t, int row, float *x, const float *norm, double factor) {
    const int d = m->head_dim, half = m->rotated / 2;
    double squares = 0, y[72];
    for (int i = 0; i < d; i++) squares += (double)x[i] * x[i];
    for (int i = 0; i < d; i++) y[i] = norm ? x[i] / sqrt(squares / d + m->eps) * norm[i] : x[i];
    const size_t angle = ((t->c.tables == 1 ? 0 : t->sequence[row]) * t->c.capacity + t->position[row]) * half;
    for (int i = 0; i < half; i++) {
        const int first = m->interleaved ? 2 * i : i, second = m->interleaved ? 2 * i + 1 : i + half;
        const double a = y[first], b = y[second], cos = t->c.cos[angle + i], sin = t->c.sin[angle + i];
        y[first] = a * cos - b * sin, y[second] = a * sin + b * cos;
    }
    for (int i = 0; i < d; i++) x[i] = (float)(y[i] * factor);
}

static int fuzz_attention(void) {
    Model m = {.layers = between(1, 2)};
    Layer layers[2] = {{0}};
    some_heads(&m);
    m.layer = layers;
    const int layer = below(m.layers), d = m.head_dim, width = (m.heads + 2 * m.kv_heads) * d, shared = m.heads / m.kv_heads;
    layers[layer].window = below(2) ? 0 : between(1, 90);
    if (below(2)) layers[layer].query_norm = near_one(d), layers[layer].key_norm = near_one(d);
    const Text t = a_text(&m, below(6) ? 40 : 200, below(2) ? 0 : 150);  // 200: tiles of more than 16 rows
    float *qkv = floats((size_t)t.rows * width), *plain = take(4 * (size_t)t.rows * width);
    float *mixed = take(4 * (size_t)t.rows * m.heads * d);
    memcpy(plain, qkv, 4 * (size_t)t.rows * width);
    CHECK(itrex_attention(&m, &t.c, layer, t.rows, qkv, t.sequence, t.position, t.query_scale, mixed, a_few_threads()) == 0,
          "no memory");
    for (int r = 0; r < t.rows; r++)
        for (int head = 0; head < m.heads + 2 * m.kv_heads; head++) {
            float *x = plain + (size_t)r * width + head * d;
            const int kv_head = (head - m.heads) % m.kv_heads, is_key = head >= m.heads && head < m.heads + m.kv_heads;
            if (head < m.heads) {
                place_plainly(&m, &t, r, x, layers[layer].query_norm, (t.query_scale ? t.query_scale[r] : 1) / sqrt(d));
                continue;
            }
            if (is_key) place_plainly(&m, &t, r, x, layers[layer].key_norm, 1);
            const size_t at = (((layer * t.c.batch + t.sequence[r]) * m.kv_heads + kv_head) * t.c.capacity + t.position[r]) * d;
            for (int i = 0; i < d; i++) {
                const float kept = (is_key ? t.c.keys : t.c.values)[at + i];
                CHECK(fabs(kept - x[i]) <= (is_key ? 1e-5 : 0), "row %d: %g in the cache, not %g", r, kept, x[i]);
            }
        }
    for (int r = 0; r < t.rows; r++)
        for (int head = 0; head < m.heads; head++) {
            const size_t at = ((layer * t.c.batch + t.sequence[r]) * m.kv_heads + head / shared) * t.c.capacity * d;
            const int64_t end = t.position[r] + 1, window = layers[layer].window, first = window && end > window ? end - window : 0;
            const float *query = plain + (size_t)r * width + head * d;
            double sum = 0, mix[72] = {0};
            for (int64_t p = first; p < end; p++) {
                double score = 0;
                for (int i = 0; i < d; i++) score += (double)query[i] * t.c.keys[at + p * d + i];
                sum += exp(score);
                for (int i = 0; i < d; i++) mix[i] += exp(score) * t.c.values[at + p * d + i];
            }
            for (int i = 0; i < d; i++) {
                const float found = mixed[((size_t)r * m.heads + head) * d + i];
                CHECK(fabs(found - mix[i] / sum) <= 2e-5, "attention of row %d, head %d: %g, not %g", r, head, found, mix[i] / sum);
            }
        }
    return 1;
}

static int fuzz_between(void) {
    const int rows = between(1, 20), n = between(1, 100);
    float *x = floats((size_t)rows * n), *weight = near_one(n), *y = take(4 * (size_t)rows * n);
    itrex_rms_norm(x, weight, rows, n, 1e-5f, y, a_few_threads());
    for (int r = 0; r < rows; r++) {
        double squares = 0;
        for (int i = 0; i < n; i++) squares += (double)x[r * n + i] * x[r * n + i];
        for (int i = 0; i < n; i++) {
            const double exact = x[r * n + i] / sqrt(squares / n + 1e-5f) * weight[i];
            CHECK(fabs(y[r * n + i] - exact) <= 2e-5 * (fabs(exact) + 1e-3), "norm: %g, not %g", y[r * n + i], exact);
        }
    }
    float *gate_up = floats((size_t)rows * 2 * n);
    const float magnitude = (float[]){1, 10, 120, 1e30f}[below(4)];
    for (int i = 0; i < rows * 2 * n; i++) gate_up[i] *= magnitude;
    itrex_swiglu(gate_up, rows, n, y, a_few_threads());
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < n; i++) {
            const double gate = gate_up[2 * r * n + i], up = gate_up[(2 * r + 1) * n + i], exact = gate / (1 + exp(-gate)) * up;
            if (fabs(exact) < 1e38)
                CHECK(fabs(y[r * n + i] - exact) <= 1e-5 * fabs(exact) + 1e-35 * (fabs(gate * up) + 1), "SwiGLU: %g, not %g",
                      y[r * n + i], exact);
        }
    return 2;
}

// One layer, or two side by side, quantized where groups divide the inputs.
static const Linear *a_layer(int in, int out) {
    const int parts = out > 1 ? between(1, 2) : 1;
    Linear *first = NULL;
    for (int part = 0, done = 0; part < parts; part++) {
        const int count = part == parts - 1 ? out - done : between(1, out - 1);
        int group = 32 << below(3);
        while (group > 32 && in % group) group /= 2;
        Linear *l = take(sizeof *l);
        *l = a_matrix(in % group ? below(3) : below(5), in, count, group, below(3), 5).l;
        l->next = NULL;
        if (first)
            first->next = l;
        else
            first = l;
        done += count;
    }
    return first;
}

static int fuzz_step(void) {
    Model m = {.layers = between(1, 2), .hidden = below(2) ? 32 * between(1, 3) : between(1, 70),
               .inner = below(2) ? 32 * between(1, 4) : between(1, 90), .vocabulary = between(1, 60)};
    Layer layers[2] = {{0}};
    some_heads(&m);
    m.layer = layers;
    const int sandwich = below(2), normed_heads = below(2);
    for (int n = 0; n < m.layers; n++)
        layers[n] = (Layer){
            .attention_norm = near_one(m.hidden), .mlp_norm = near_one(m.hidden),
            .query_norm = normed_heads ? near_one(m.head_dim) : NULL, .key_norm = normed_heads ? near_one(m.head_dim) : NULL,
            .after_attention_norm = sandwich ? near_one(m.hidden) : NULL, .after_mlp_norm = sandwich ? near_one(m.hidden) : NULL,
            .qkv = a_layer(m.hidden, (m.heads + 2 * m.kv_heads) * m.head_dim), .output = a_layer(m.heads * m.head_dim, m.hidden),
            .gate_up = a_layer(m.hidden, 2 * m.inner), .down = a_layer(m.inner, m.hidden), .window = below(2) ? 0 : between(1, 90)};
    m.norm = near_one(m.hidden), m.head = a_layer(m.hidden, m.vocabulary);
    const Text t = a_text(&m, ROWS, below(4) ? 40 : 600);
    const size_t size = 4 * cache_floats(&m, &t.c), hidden = m.hidden;
    Cache alone = t.c;
    alone.keys = memcpy(take(size), t.c.keys, size), alone.values = memcpy(take(size), t.c.values, size);
    float *x = floats(t.rows * hidden), *kept = memcpy(take(4 * t.rows * hidden), x, 4 * t.rows * hidden);
    float *logits = take(4 * (size_t)t.rows * m.vocabulary), *one = take(4 * (size_t)m.vocabulary), *token = take(4 * hidden);
    int threads = a_few_threads();
    CHECK(itrex_step(&m, &t.c, t.rows, x, t.sequence, t.position, t.query_scale, logits,
                     take(itrex_step_bytes(&m, t.rows, t.end, threads)), threads) == 0, "step: refused");
    threads = a_few_threads();
    void *memory = take(itrex_step_bytes(&m, 1, t.end, threads));
    for (int r = 0; r < t.rows; r++) {
        memcpy(token, kept + r * hidden, 4 * hidden);
        itrex_step(&m, &alone, 1, token, t.sequence + r, t.position + r, t.query_scale ? t.query_scale + r : NULL, one, memory,
                   threads);
        for (int v = 0; v < m.vocabulary; v++) CHECK(isfinite(one[v]), "step: logit %d of row %d is %g", v, r, one[v]);
        CHECK(!memcmp(one, logits + (size_t)r * m.vocabulary, 4 * m.vocabulary), "step: row %d of %d depends on the others", r,
              t.rows);
    }
    CHECK(!memcmp(alone.keys, t.c.keys, size) && !memcmp(alone.values, t.c.values, size), "step: the caches differ");
    return 3;
}

int main(int arguments, char **argument) {
    const int cases = arguments > 1 ? atoi(argument[1]) : 500, first = arguments > 2 ? atoi(argument[2]) : 0;
    int kinds[4] = {0}, used[5] = {0};
    for (number = first; number < first + cases; number++) {
        state = 0x5eed0000u + (uint64_t)number * 1000003u;
        do level_used = below(5);
        while (itrex_choose(levels[level_used]));
        used[level_used]++;
        const int kind = below(8);
        kinds[kind < 4 ? fuzz_product() : kind < 5 ? fuzz_attention() : kind < 6 ? fuzz_between() : fuzz_step()]++;
        release();
    }
    printf("%d cases: %d products, %d attention, %d norms and SwiGLU, %d steps;", cases, kinds[0], kinds[1], kinds[2], kinds[3]);
    for (int i = 0; i < 5; i++) printf(" %s %d", levels[i], used[i]);
    printf("\n");
    return 0;
}
