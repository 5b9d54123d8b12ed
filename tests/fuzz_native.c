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
                    const int64_t *position, const float *angles, const float *query_scale, float *mixed, int threads);
int itrex_gated_product(const Linear *, int rows, const float *x, size_t ldx, float *gate_up, float *y, int threads);
void itrex_rms_norm(const float *x, const float *weight, int rows, int n, float eps, float *y, int threads);
void itrex_swiglu(const float *gate_up, int rows, int n, float *y, int threads);
size_t itrex_step_bytes(const Model *, int rows, int64_t end, int threads);
int itrex_step(const Model *, const Cache *, int rows, float *x, const int64_t *sequence, const int64_t *position,
                const float *angles, const float *query_scale, int wanted, const int32_t *which, float *logits, void *memory,
                int threads);

static int fuzz_product(void) {
    static const int some_rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 18, 22, 23, 24, 25, 33, 70};
    const int format = below(6), group = 32 << below(3), dense = format <= FP16;
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
    float *angles, *query_scale;
} Text;

static int whole(int positions) { return (positions + CACHE_PAGE - 1) / CACHE_PAGE; }

// Where a value of a position is: of the keys or, as `part` 1, the values of a head.
static uint8_t *place_of(const Model *m, const Cache *c, int layer, int64_t sequence, int64_t position, int kv_head, int part, int i) {
    const size_t size = c->format == FP32 ? 4 : c->format == FP16 ? 2 : 1, d = m->head_dim, t = position % CACHE_PAGE;
    uint8_t *page = c->pool + (size_t)c->pages[sequence * c->each + position / CACHE_PAGE] * page_bytes(m, c->format) +
                    ((size_t)layer * m->kv_heads + kv_head) * kept_bytes(c->format, m->head_dim);
    return page + (part ? CACHE_PAGE * d + t * d + i : (size_t)i * CACHE_PAGE + t) * size;
}
static float *scale_of(const Model *m, const Cache *c, int layer, int64_t sequence, int64_t position, int kv_head, int part) {
    uint8_t *page = place_of(m, c, layer, sequence, position / CACHE_PAGE * CACHE_PAGE, kv_head, 0, 0);
    return (float *)(page + (size_t)2 * CACHE_PAGE * m->head_dim) + part * CACHE_PAGE + position % CACHE_PAGE;
}
static float value_of(const Model *m, const Cache *c, int layer, int64_t sequence, int64_t position, int kv_head, int part, int i) {
    const uint8_t *at = place_of(m, c, layer, sequence, position, kv_head, part, i);
    float value;
    uint16_t half;
    if (c->format == INT8) return *(const int8_t *)at * *scale_of(m, c, layer, sequence, position, kv_head, part);
    if (c->format == FP32) return memcpy(&value, at, 4), value;
    return memcpy(&half, at, 2), half_value(half);
}

// Pages of sequences lie in no order; those of the first page's worth of two sequences may be the same. What no sequence holds
// is NaN.
static Text a_text(const Model *m, int most_rows, int most_before) {
    Text t = {.c = {.sequences = between(1, 3), .format = (int[]){FP32, FP16, INT8}[below(3)]}};
    int before[3], count[3], longest = 0, taken = 0;
    for (int b = 0; b < t.c.sequences; b++) {
        before[b] = below(most_before + 1);
        count[b] = between(b == 0, most_rows / (int)t.c.sequences);
        t.rows += count[b];
        if (before[b] + count[b] > longest) longest = before[b] + count[b];
    }
    t.c.each = whole(longest) + below(2);
    t.c.count = t.c.sequences * t.c.each + below(3);
    int32_t *pages = take(4 * t.c.sequences * t.c.each), *order = take(4 * t.c.count);
    for (int i = 0; i < t.c.count; i++) order[i] = i;
    for (int i = (int)t.c.count - 1; i > 0; i--) {
        const int other = below(i + 1), page = order[i];
        order[i] = order[other], order[other] = page;
    }
    for (int b = 0; b < t.c.sequences; b++)
        for (int n = 0; n < t.c.each; n++) {
            const int shared = b > 0 && n == 0 && before[b] >= CACHE_PAGE && before[0] >= CACHE_PAGE && below(2);
            pages[b * t.c.each + n] = n >= whole(before[b] + count[b]) ? (int[]){-1, 1 << 30}[below(2)] : shared ? pages[0] : order[taken++];
        }
    t.c.pages = pages;
    t.sequence = take(8 * t.rows), t.position = take(8 * t.rows);
    for (int b = 0, r = 0; b < t.c.sequences; b++)
        for (int i = 0; i < count[b]; i++, r++) {
            t.sequence[r] = b, t.position[r] = before[b] + i;
            if (t.position[r] + 1 > t.end) t.end = t.position[r] + 1;
        }
    t.query_scale = below(2) ? near_one(t.rows) : NULL;
    t.angles = take(4 * (size_t)t.rows * m->rotated);
    for (int r = 0; r < t.rows; r++)
        for (int i = 0; i < m->rotated / 2; i++) {
            const float angle = 7 * uniform();
            t.angles[r * m->rotated + i] = cosf(angle), t.angles[r * m->rotated + m->rotated / 2 + i] = sinf(angle);
        }
    t.c.bytes = t.c.count * page_bytes(m, t.c.format);
    t.c.pool = take(t.c.bytes);
    memset(t.c.pool, t.c.format == INT8 ? 0x7f : 0xff, t.c.bytes);
    for (int layer = 0; layer < m->layers; layer++)
        for (int b = 0; b < t.c.sequences; b++)
            for (int p = 0; p < before[b]; p++)
                for (int head = 0; head < m->kv_heads; head++) {
                    float kv[2][72];
                    for (int i = 0; i < m->head_dim; i++) kv[0][i] = uniform(), kv[1][i] = uniform();
                    level()->keep(t.c.format, kv[0], kv[1], m->head_dim, place_of(m, &t.c, layer, b, p / CACHE_PAGE * CACHE_PAGE, head, 0, 0),
                                  p % CACHE_PAGE);
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

// A head normed, turned, with INT8 spread, and multiplied, in place.
static void place_plainly(const Model *m, const Text *t, int row, float *x, const float *norm, double factor) {
    const int d = m->head_dim, half = m->rotated / 2;
    double squares = 0, y[72];
    for (int i = 0; i < d; i++) squares += (double)x[i] * x[i];
    for (int i = 0; i < d; i++) y[i] = norm ? x[i] / sqrt(squares / d + m->eps) * norm[i] : x[i];
    for (int i = 0; i < half; i++) {
        const int first = m->interleaved ? 2 * i : i, second = m->interleaved ? 2 * i + 1 : i + half;
        const double a = y[first], b = y[second], cos = t->angles[row * m->rotated + i], sin = t->angles[row * m->rotated + half + i];
        y[first] = a * cos - b * sin, y[second] = a * sin + b * cos;
    }
    const int each = t->c.format == INT8 ? d & -d : 1;  // channels that are spread over each other
    for (int i = 0; i < d; i++) {
        double sum = 0;
        for (int k = 0; k < each; k++) sum += (__builtin_popcount(i % each & k) % 2 ? -1 : 1) * y[i / each * each + k];
        x[i] = (float)(sum / sqrt(each) * factor);
    }
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
    CHECK(itrex_attention(&m, &t.c, layer, t.rows, qkv, t.sequence, t.position, t.angles, t.query_scale, mixed, a_few_threads()) == 0,
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
            float largest = 0;
            for (int i = 0; i < d; i++) largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
            for (int i = 0; i < d; i++) {
                const float kept = value_of(&m, &t.c, layer, t.sequence[r], t.position[r], kv_head, !is_key, i);
                const float rounded = t.c.format == FP32 ? 0 : t.c.format == FP16 ? fabsf(x[i]) * 0x1p-11f + 0x1p-25f : 0.501f * largest / 127;
                CHECK(fabs(kept - x[i]) <= (is_key ? 1e-5 : 0) + rounded, "row %d: %g in the cache, not %g", r, kept, x[i]);
            }
        }
    for (int r = 0; r < t.rows; r++)
        for (int head = 0; head < m.heads; head++) {
            const int64_t end = t.position[r] + 1, window = layers[layer].window, first = window && end > window ? end - window : 0;
            const float *query = plain + (size_t)r * width + head * d;
            double sum = 0, mix[72] = {0};
            for (int64_t p = first; p < end; p++) {
                double score = 0;
                for (int i = 0; i < d; i++) score += (double)query[i] * value_of(&m, &t.c, layer, t.sequence[r], p, head / shared, 0, i);
                sum += exp(score);
                for (int i = 0; i < d; i++) mix[i] += exp(score) * value_of(&m, &t.c, layer, t.sequence[r], p, head / shared, 1, i);
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
        *l = a_matrix(in % group ? below(3) : below(6), in, count, group, below(3), 5).l;
        l->next = NULL;
        if (first)
            first->next = l;
        else
            first = l;
        done += count;
    }
    return first;
}

// A row's attention is the same, bit for bit, in a step and among many rows.
static int same_attention(const Model *m, Text t) {
    Layer layer = m->layer[0];
    Model one = *m;
    const int d = m->head_dim, width = (m->heads + 2 * m->kv_heads) * d;
    one.layers = 1, one.layer = &layer;
    Cache c = t.c;
    c.bytes = c.count * page_bytes(&one, c.format);
    float *qkv = floats((size_t)t.rows * width), *each = take(4 * (size_t)width), *mixed = take(4 * (size_t)t.rows * m->heads * d);
    float *kept = memcpy(take(4 * (size_t)t.rows * width), qkv, 4 * (size_t)t.rows * width), *alone = take(4 * (size_t)m->heads * d);
    memset(c.pool, 0, c.bytes);
    CHECK(itrex_attention(&one, &c, 0, t.rows, qkv, t.sequence, t.position, t.angles, t.query_scale, mixed, a_few_threads()) == 0,
          "no memory");
    for (int r = 0; r < t.rows; r++) {
        memcpy(each, kept + (size_t)r * width, 4 * (size_t)width);
        itrex_attention(&one, &c, 0, 1, each, t.sequence + r, t.position + r, t.angles + (size_t)r * m->rotated,
                        t.query_scale ? t.query_scale + r : NULL, alone, 1);
        CHECK(!memcmp(alone, mixed + (size_t)r * m->heads * d, 4 * (size_t)m->heads * d), "attention of row %d depends on the others", r);
    }
    return 3;
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
    const Text t = a_text(&m, below(3) ? ROWS : STEP_ROWS, below(4) ? 40 : 600);
    const size_t hidden = m.hidden;
    Cache alone = t.c;
    alone.pool = memcpy(take(t.c.bytes), t.c.pool, t.c.bytes);
    float *x = floats(t.rows * hidden), *kept = memcpy(take(4 * t.rows * hidden), x, 4 * t.rows * hidden);
    float *logits = take(4 * (size_t)t.rows * m.vocabulary), *one = take(4 * (size_t)m.vocabulary), *token = take(4 * hidden);
    int threads = a_few_threads();
    int32_t which[STEP_ROWS];
    for (int r = 0; r < t.rows; r++) which[r] = r;
    CHECK(itrex_step(&m, &t.c, t.rows, x, t.sequence, t.position, t.angles, t.query_scale, t.rows, which, logits,
                     take(itrex_step_bytes(&m, t.rows, t.end, threads)), threads) == 0, "step: refused");
    threads = a_few_threads();
    void *memory = take(itrex_step_bytes(&m, 1, t.end, threads));
    for (int r = 0; r < t.rows; r++) {
        memcpy(token, kept + r * hidden, 4 * hidden);
        itrex_step(&m, &alone, 1, token, t.sequence + r, t.position + r, t.angles + (size_t)r * m.rotated,
                   t.query_scale ? t.query_scale + r : NULL, 1, which, one, memory, threads);
        for (int v = 0; v < m.vocabulary; v++) CHECK(isfinite(one[v]), "step: logit %d of row %d is %g", v, r, one[v]);
        CHECK(!memcmp(one, logits + (size_t)r * m.vocabulary, 4 * m.vocabulary), "step: row %d of %d depends on the others", r,
              t.rows);
    }
    CHECK(!memcmp(alone.pool, t.c.pool, t.c.bytes), "step: the caches differ");
    return same_attention(&m, t);
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
