// Attention over the pages of the cache: part of level.h.
//
// A query's scores, weights and mix are computed for ATTENTION_CHUNK positions at a time, from position 0 on, and what they
// give is put together in the order of the chunks (online softmax, arXiv:2205.14135). Each sum is added up in one order
// whatever else is computed: a row has the same bits in a decode step and in a prompt of any length.

#if LANES == 16
#define SHARE 8                                        // queries that share a vector of keys or values, with 32 registers
#define EACH_SHARED EACH_COUNT
#define KEY_VECTORS(Q) ((Q) < 5 ? 4 : 2)               // vectors of keys side by side, at most a page
#define VALUE_VECTORS(Q) ((Q) < 3 ? 8 : (Q) < 5 ? 4 : 2)
#else
#define SHARE 4                                        // with 16
#define EACH_SHARED EACH_OF_FOUR
#define KEY_VECTORS(Q) ((Q) == 1 ? 8 : (Q) == 2 ? 4 : 2)
#define VALUE_VECTORS(Q) ((Q) == 1 ? 8 : (Q) == 2 ? 4 : 2)
#endif

ALWAYS size_t kept_size(int format) { return format == FP32 ? 4 : format == FP16 ? 2 : 1; }
ALWAYS vf kept_load(int format, const uint8_t *p) {
    if (format == FP32) return LOADF(p);
    return format == FP16 ? (vf)halves(p) : (vf)signed_bytes(p);
}
ALWAYS float kept_one(int format, const uint8_t *p) {
    float value;
    uint16_t half;
    if (format == INT8) return *(const int8_t *)p;
    if (format == FP32) {
        memcpy(&value, p, 4);
        return value;
    }
    memcpy(&half, p, 2);
    return half_value(half);
}
// The values of a page, and with INT8 the scales of its keys; those of its values follow.
ALWAYS const uint8_t *values_of(int format, const uint8_t *page, int head_dim) {
    return page + (size_t)CACHE_PAGE * head_dim * kept_size(format);
}
ALWAYS const float *scales_of(const uint8_t *page, int head_dim) {
    return (const float *)(page + (size_t)2 * CACHE_PAGE * head_dim);
}

// What INT8 values are multiplied with, by the largest magnitude; one that is not finite stays so.
static float NAME(scale_of)(const float *x, int n) {
    uint32_t most = 0;
    for (int i = 0; i < n; i++) {
        uint32_t bitmap;
        memcpy(&bitmap, x + i, 4);
        bitmap &= 0x7fffffff;
        most = bitmap > most ? bitmap : most;
    }
    float largest;
    memcpy(&largest, &most, 4);
    const float scale = largest / 127;
    return scale < 0x1p-120f ? 0 : scale;
}
ALWAYS void keep_one(int format, float x, float inverse, uint8_t *to) {
    if (format == FP32)
        memcpy(to, &x, 4);
    else if (format == FP16) {
        const uint16_t half = rounded_half(x);
        memcpy(to, &half, 2);
    } else
        *(int8_t *)to = (int8_t)(inverse == 0 ? 0 : (int)lrintf(x * inverse));
}
ALWAYS void keep_head(int format, const float *key, const float *value, int head_dim, uint8_t *page, int t) {
    const size_t size = kept_size(format);
    uint8_t *values = (uint8_t *)values_of(format, page, head_dim) + (size_t)t * head_dim * size;
    float inverse[2] = {0};
    if (format == INT8) {
        float *scales = (float *)scales_of(page, head_dim);
        scales[t] = NAME(scale_of)(key, head_dim), scales[CACHE_PAGE + t] = NAME(scale_of)(value, head_dim);
        for (int i = 0; i < 2; i++) {
            const float scale = scales[i * CACHE_PAGE + t];
            if (scale > 0 && scale < INFINITY) inverse[i] = 1 / scale;
        }
    }
    for (int i = 0; i < head_dim; i++) {
        keep_one(format, key[i], inverse[0], page + ((size_t)i * CACHE_PAGE + t) * size);
        keep_one(format, value[i], inverse[1], values + i * size);
    }
}

#define EACH_FORMAT(format, CALL)            \
    switch (format) {                        \
        case FP32: CALL(FP32); break;        \
        case FP16: CALL(FP16); break;        \
        default: CALL(INT8);                 \
    }

// A key and a value to position t of a page.
static void NAME(keep)(int format, const float *key, const float *value, int head_dim, uint8_t *page, int t) {
#define CALL(f) keep_head(f, key, value, head_dim, page, t)
    EACH_FORMAT(format, CALL)
#undef CALL
}

// The largest of whole vectors of values and `most`; NaN is larger than all.
ALWAYS float largest_of(const float *values, int n, float most) {
    vf largest = splat(most);
    for (int i = 0; i < n; i += LANES) {
        const vf value = LOADF(values + i);
        largest = pick((vi)(value > largest) | (vi)(value != value), value, largest);
    }
    const vi bits = (vi)pick((vi)(largest == largest), largest, splat(NAN));  // as integers in the same order
    const int32_t in_order = most_of(bits ^ (bits >> 31 & 0x7fffffff)), found = in_order ^ (in_order >> 31 & 0x7fffffff);
    memcpy(&most, &found, 4);
    return most;
}

// Scores [from, to), whole vectors, to weights e^(score - largest); those before `hidden` and from `seen` on are 0. The
// largest score and the sum of the weights.
static __attribute__((noinline)) void NAME(weigh)(float *scores, int from, int to, int hidden, int seen, float *largest,
                                                  float *sum) {
    for (int t = from; t < hidden; t++) scores[t] = -INFINITY;
    for (int t = seen; t < to; t++) scores[t] = -INFINITY;
    const float most = largest_of(scores + from, to - from, -INFINITY);
    *largest = most, *sum = 0;
    if (most == -INFINITY) {
        memset(scores + from, 0, 4 * (size_t)(to - from));
        return;
    }
    vf sums = {0};
    for (int t = from; t < to; t += LANES) {
        const vf e = decayed(LOADF(scores + t) - most);
        *(vf *)(scores + t) = e;
        sums += e;
    }
    *sum = total(sums);
}

// Fetch what is needed after these bytes, at the same place behind `next`, if there is any: keys and values of a page are of one
// size, and what comes next lies elsewhere, where the processor does not foresee it.
ALWAYS void fetch(int format, const uint8_t *next, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64)
        if (format == FP32)
            __builtin_prefetch(next + i, 0, 2);  // the first-level cache has no room for two of them
        else
            __builtin_prefetch(next + i, 0, 3);
}

// Scores of Q queries, side by side in [head_dim, QUERIES], with `vectors` of a page's keys.
ALWAYS void score_keys(int format, int Q, int vectors, const float *queries, int head_dim, const uint8_t *keys, float *scores,
                       const uint8_t *next) {
    const size_t row = CACHE_PAGE * kept_size(format);
    vf sums[SHARE][8];
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < vectors; v++) sums[q][v] = (vf){0};
    for (int i = 0; i < head_dim; i++, keys += row, queries += QUERIES) {
        vf k[8];
        if (next) fetch(format, next + i * row, vectors * LANES * kept_size(format));
        for (int v = 0; v < vectors; v++) k[v] = kept_load(format, keys + v * LANES * kept_size(format));
        for (int q = 0; q < Q; q++)
            for (int v = 0; v < vectors; v++) sums[q][v] += k[v] * queries[q];
    }
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < vectors; v++) *(vf *)(scores + (size_t)q * ATTENTION_CHUNK + v * LANES) = sums[q][v];
}
ALWAYS void score_page(int format, int count, const float *queries, int head_dim, const uint8_t *page, int from, int to,
                       float *scores, const uint8_t *next) {
    const int step = (count > SHARE ? 2 : KEY_VECTORS(count)) * LANES;
    for (int t = from / step * step; t < to; t += step)
        for (int q = 0; q < count; q += SHARE) {
            const int Q = count - q < SHARE ? count - q : SHARE;
            const uint8_t *keys = page + (size_t)t * kept_size(format);
            const uint8_t *fetched = next && q == 0 && t * kept_size(format) % 64 == 0 ? next + t * kept_size(format) : NULL;
            float *out = scores + (size_t)q * ATTENTION_CHUNK + t;
#define CALL(n)                                                                     \
    if (count > SHARE)                                                              \
        score_keys(format, n, 2, queries + q, head_dim, keys, out, fetched);        \
    else                                                                            \
        score_keys(format, n, KEY_VECTORS(n), queries + q, head_dim, keys, out, fetched)
            EACH_SHARED(Q, CALL)
#undef CALL
        }
    if (format != INT8) return;
    const float *scales = scales_of(page, head_dim);
    for (int q = 0; q < count; q++)
        for (int t = from; t < to; t += LANES)
            *(vf *)(scores + (size_t)q * ATTENTION_CHUNK + t) *= LOADF(scales + t);
}

// For Q queries some channels of a page's values by their weights, `vectors` of them side by side, added to mixed.
ALWAYS void mix_values(int format, int Q, int vectors, const float *weights, const uint8_t *values, int head_dim, int from,
                       int to, float *mixed, const uint8_t *next) {
    const size_t row = head_dim * kept_size(format);
    vf sums[SHARE][8];
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < vectors; v++) sums[q][v] = LOADF(mixed + (size_t)q * head_dim + v * LANES);
    for (int t = from; t < to; t++) {
        const uint8_t *p = values + t * row;
        vf value[8];
        if (next) fetch(format, next + t * row, vectors * LANES * kept_size(format));
        for (int v = 0; v < vectors; v++) value[v] = kept_load(format, p + v * LANES * kept_size(format));
        for (int q = 0; q < Q; q++)
            for (int v = 0; v < vectors; v++) sums[q][v] += value[v] * weights[(size_t)q * ATTENTION_CHUNK + t];
    }
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < vectors; v++) *(vf *)(mixed + (size_t)q * head_dim + v * LANES) = sums[q][v];
}
ALWAYS void mix_page(int format, int count, const float *weights, const uint8_t *page, int head_dim, int from, int to,
                     float *mixed, const uint8_t *next) {
    const uint8_t *values = values_of(format, page, head_dim);
    for (int q = 0; q < count; q += SHARE, weights += SHARE * ATTENTION_CHUNK, mixed += (size_t)SHARE * head_dim, next = NULL) {
        const int Q = count - q < SHARE ? count - q : SHARE;
        int i = 0;
#define CALL(n)                                                                                                          \
    for (; i + VALUE_VECTORS(n) * LANES <= head_dim; i += VALUE_VECTORS(n) * LANES)                                      \
        mix_values(format, n, VALUE_VECTORS(n), weights, values + i * kept_size(format), head_dim, from, to, mixed + i,  \
                   next && i * kept_size(format) % 64 == 0 ? next + i * kept_size(format) : NULL);                       \
    for (; i + LANES <= head_dim; i += LANES)                                                                            \
        mix_values(format, n, 1, weights, values + i * kept_size(format), head_dim, from, to, mixed + i, NULL)
        EACH_SHARED(Q, CALL)
#undef CALL
        for (; i < head_dim; i++)
            for (int k = 0; k < Q; k++) {
                float sum = mixed[(size_t)k * head_dim + i];
                for (int t = from; t < to; t++) {
                    sum += weights[(size_t)k * ATTENTION_CHUNK + t] *
                           kept_one(format, values + ((size_t)t * head_dim + i) * kept_size(format));
                    IN_REGISTER(sum);  // one by one, or else how the products are rounded would depend on how many there are
                }
                mixed[(size_t)k * head_dim + i] = sum;
            }
    }
}

ALWAYS int clamped(int64_t n, int most) { return n < 0 ? 0 : n > most ? most : (int)n; }

// At most QUERIES queries, side by side in [head_dim, QUERIES], over a chunk: for each the mix of values by
// e^(score - largest), the largest score and the sum of the weights. Query q is at position `position` + (first + q) / heads.
// `fetches`: whether what is read may not be in the processor's cache yet.
ALWAYS void attend_chunk(int format, const Kept *kept, const float *queries, int count, int heads, int first, int head_dim,
                         int64_t position, int64_t window, int chunk, int fetches, float *mixed, float *largest,
                         float *sums) {
    float scores[QUERIES * ATTENTION_CHUNK];
    const int64_t start = (int64_t)chunk * ATTENTION_CHUNK, newest = position + (first + count - 1) / heads;
    const int64_t oldest = position + first / heads;
    const int seen = clamped(newest + 1 - start, ATTENTION_CHUNK), wide = (seen + LANES - 1) / LANES * LANES;
    const int from = window ? clamped(oldest + 1 - window - start, seen) / LANES * LANES : 0;
    const int32_t *pages = kept->pages + start / CACHE_PAGE;
    const int first_page = from / CACHE_PAGE;
    for (int page = first_page; page * CACHE_PAGE < seen; page++) {
        const int last = wide - page * CACHE_PAGE < CACHE_PAGE ? wide - page * CACHE_PAGE : CACHE_PAGE, begin = from > page * CACHE_PAGE ? from - page * CACHE_PAGE : 0;
        const uint8_t *at = kept->base + pages[page] * kept->apart, *next = NULL;
        if (fetches && format == INT8) fetch(format, (const uint8_t *)scales_of(at, head_dim), 8 * CACHE_PAGE);
        if (fetches)
            next = (page + 1) * CACHE_PAGE < seen ? kept->base + pages[page + 1] * kept->apart
                                                  : values_of(format, kept->base + pages[first_page] * kept->apart, head_dim);
        score_page(format, count, queries, head_dim, at, begin, last, scores + page * CACHE_PAGE, next);
    }
    for (int q = 0; q < count; q++) {
        const int64_t at = position + (first + q) / heads;
        const int hidden = window ? clamped(at + 1 - window - start, wide) : 0;
        NAME(weigh)(scores + q * ATTENTION_CHUNK, from, wide, hidden, clamped(at + 1 - start, seen), largest + q, sums + q);
    }
    memset(mixed, 0, 4 * (size_t)count * head_dim);
    for (int page = from / CACHE_PAGE; page * CACHE_PAGE < seen; page++) {
        const int last = seen - page * CACHE_PAGE < CACHE_PAGE ? seen - page * CACHE_PAGE : CACHE_PAGE, begin = from > page * CACHE_PAGE ? from - page * CACHE_PAGE : 0;
        const uint8_t *at = kept->base + pages[page] * kept->apart, *next = kept->next;
        if ((page + 1) * CACHE_PAGE < seen) next = values_of(format, kept->base + pages[page + 1] * kept->apart, head_dim);
        float *weights = scores + page * CACHE_PAGE;
        if (format == INT8) {
            const float *scales = scales_of(at, head_dim) + CACHE_PAGE;
            for (int q = 0; q < count; q++)
                for (int t = begin; t < last; t++) weights[q * ATTENTION_CHUNK + t] *= scales[t];
        }
        mix_page(format, count, weights, at, head_dim, begin, last, mixed, fetches ? next : NULL);
    }
}
static __attribute__((noinline)) void NAME(attend_some)(const Kept *kept, const float *queries, int count, int heads, int first,
                                                        int head_dim, int64_t position, int64_t window, int chunk, int fetches,
                                                        float *mixed, float *largest, float *sums) {
#define CALL(f) \
    attend_chunk(f, kept, queries, count, heads, first, head_dim, position, window, chunk, fetches, mixed, largest, sums)
    EACH_FORMAT(kept->format, CALL)
#undef CALL
}

// Queries of rows at the positions [position, position + rows) of a sequence, `heads` of each that share one of keys, over a chunk:
// to mixed, largest and sums, rows `ldp` apart (mixed: ldp · head_dim). `scratch` has `attend_floats`.
static void NAME(attend)(const Kept *kept, const float *queries, size_t ldq, int rows, int heads, int head_dim, int64_t position,
                         int64_t window, int chunk, float *mixed, float *largest, float *sums, size_t ldp, float *scratch) {
    const int64_t start = (int64_t)chunk * ATTENTION_CHUNK;
    float *part = scratch + QUERIES * head_dim;
    for (int n = 0, fetches = 1; n < rows * heads; n += QUERIES) {
        const int count = rows * heads - n < QUERIES ? rows * heads - n : QUERIES;
        const int64_t oldest = position + n / heads, newest = position + (n + count - 1) / heads;
        float most[QUERIES], total[QUERIES];
        if (newest < start || (window && oldest + 1 - window >= start + ATTENTION_CHUNK)) continue;
        for (int q = 0; q < count; q++) {
            const float *query = queries + (n + q) / heads * ldq + (size_t)((n + q) % heads) * head_dim;
            for (int i = 0; i < head_dim; i++) scratch[i * QUERIES + q] = query[i];
        }
        NAME(attend_some)(kept, scratch, count, heads, n, head_dim, position, window, chunk, fetches, part, most, total);
        fetches = 0;
        for (int q = 0; q < count; q++) {
            const size_t at = (n + q) / heads * ldp + (n + q) % heads;
            memcpy(mixed + at * head_dim, part + (size_t)q * head_dim, 4 * (size_t)head_dim);
            largest[at] = most[q], sums[at] = total[q];
        }
    }
}

// The mix of a chunk, put together with that of the chunks before it, whose largest score and sum are `most` and `total`.
static __attribute__((noinline)) void NAME(fold)(const float *mixed, float largest, float sum, int head_dim, float *into,
                                                 float *most, float *total) {
    if (largest == -INFINITY) return;
    const float both = *most > largest ? *most : largest;
    const float before = decayed(splat(*most - both))[0], now = decayed(splat(largest - both))[0];
    int i = 0;
    for (; i + LANES <= head_dim; i += LANES) *(vf *)(into + i) = LOADF(into + i) * before + LOADF(mixed + i) * now;
    for (; i < head_dim; i++) into[i] = into[i] * before + mixed[i] * now;
    *total = *total * before + sum * now;
    *most = both;
}

// Rows of one sequence at the positions [from, from + rows), causal; `scratch` has `tile_floats`.
static void NAME(attend_tile)(const Kept *kept, const float *queries, size_t ldq, int rows, int heads, int head_dim, int64_t from,
                              int64_t window, float *mixed, size_t ldm, float *scratch) {
    const int count = rows * heads, padded = (count + QUERIES - 1) / QUERIES * QUERIES;
    float *gathered = scratch, *part = gathered + (size_t)padded * head_dim;
    float *most = part + (size_t)QUERIES * head_dim, *totals = most + count;
    for (int n = 0; n < count; n++) {
        const float *query = queries + n / heads * ldq + (size_t)(n % heads) * head_dim;
        most[n] = -INFINITY, totals[n] = 0;
        memset(mixed + n / heads * ldm + (size_t)(n % heads) * head_dim, 0, 4 * (size_t)head_dim);
        for (int i = 0; i < head_dim; i++) gathered[((size_t)(n / QUERIES) * head_dim + i) * QUERIES + n % QUERIES] = query[i];
    }
    const int64_t end = from + rows, first = window && from + 1 > window ? from + 1 - window : 0;
    for (int chunk = (int)(first / ATTENTION_CHUNK); (int64_t)chunk * ATTENTION_CHUNK < end; chunk++)
        for (int n = 0, fetches = 1; n < count; n += QUERIES) {
            const int Q = count - n < QUERIES ? count - n : QUERIES;
            const int64_t start = (int64_t)chunk * ATTENTION_CHUNK, oldest = from + n / heads, newest = from + (n + Q - 1) / heads;
            float largest[QUERIES], sums[QUERIES];
            if (newest < start || (window && oldest + 1 - window >= start + ATTENTION_CHUNK)) continue;
            NAME(attend_some)(kept, gathered + (size_t)n * head_dim, Q, heads, n, head_dim, from, window, chunk, fetches, part,
                              largest, sums);
            fetches = 0;
            for (int q = 0; q < Q; q++)
                NAME(fold)(part + (size_t)q * head_dim, largest[q], sums[q], head_dim,
                           mixed + (n + q) / heads * ldm + (size_t)((n + q) % heads) * head_dim, most + n + q, totals + n + q);
        }
    for (int n = 0; n < count; n++)
        for (int i = 0; i < head_dim; i++) mixed[n / heads * ldm + (size_t)(n % heads) * head_dim + i] /= totals[n];
}
