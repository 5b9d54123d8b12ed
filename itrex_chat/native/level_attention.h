// Attention over the cache: part of level.h.

// Scores of H queries with each key: weights[h][t].
ALWAYS void score_keys(int H, const float *queries, int head_dim, const float *keys, int positions,
                       float weights[][ATTENTION_CHUNK + 16]) {
    const int whole = head_dim - head_dim % LANES;
    for (int t = 0; t < positions; t++) {
        const float *key = keys + (size_t)t * head_dim;
        vf dots[HEADS];
        for (int h = 0; h < H; h++) dots[h] = (vf){0};
        for (int i = 0; i < whole; i += LANES) {
            if (i % 16 == 0) __builtin_prefetch(key + i + KEYS_AHEAD * head_dim, 0, 3);
            const vf k = LOADF(key + i);
            for (int h = 0; h < H; h++) dots[h] += LOADF(queries + h * head_dim + i) * k;
        }
        for (int h = 0; h < H; h++) {
            float score = total(dots[h]);
            for (int i = whole; i < head_dim; i++) score += queries[h * head_dim + i] * key[i];
            weights[h][t] = score;
        }
    }
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

// e^(score - largest) in place, zeros up to a whole vector; the largest and the sum.
static void NAME(weigh)(float *weights, int positions, float *largest, float *sum) {
    int t = positions;
    for (; t % LANES; t++) weights[t] = -INFINITY;
    const float most = largest_of(weights, t, -INFINITY);
    vf sums = {0};
    for (int i = 0; i < t; i += LANES) {
        const vf e = decayed(LOADF(weights + i) - most);
        *(vf *)(weights + i) = e;
        sums += e;
    }
    *largest = most;
    *sum = total(sums);
}

// For H heads the weighted sum of some channels of the values, `vectors` of them side by side in registers.
ALWAYS void mix_values(int H, int vectors, float weights[][ATTENTION_CHUNK + 16], const float *values, int head_dim,
                       int positions, float *mix) {
    vf sums[HEADS][2];
    for (int h = 0; h < H; h++)
        for (int v = 0; v < vectors; v++) sums[h][v] = (vf){0};
    for (int t = 0; t < positions; t++)
        for (int v = 0; v < vectors; v++) {
            const float *p = values + (size_t)t * head_dim + v * LANES;
            if (v * LANES % 16 == 0) __builtin_prefetch(p + KEYS_AHEAD * head_dim, 0, 3);
            const vf value = LOADF(p);
            for (int h = 0; h < H; h++) sums[h][v] += weights[h][t] * value;
        }
    for (int h = 0; h < H; h++)
        for (int v = 0; v < vectors; v++) *(vf *)(mix + h * head_dim + v * LANES) = sums[h][v];
}

ALWAYS void attend_heads(int H, const float *queries, int head_dim, const float *keys, const float *values, int positions,
                         float *mixed, float *largest, float *sum) {
    float weights[HEADS][ATTENTION_CHUNK + 16];
    score_keys(H, queries, head_dim, keys, positions, weights);
    for (int h = 0; h < H; h++) NAME(weigh)(weights[h], positions, largest + h, sum + h);
    int i = 0;
    for (; i + 2 * LANES <= head_dim; i += 2 * LANES) mix_values(H, 2, weights, values + i, head_dim, positions, mixed + i);
    for (; i + LANES <= head_dim; i += LANES) mix_values(H, 1, weights, values + i, head_dim, positions, mixed + i);
    for (; i < head_dim; i++)
        for (int h = 0; h < H; h++) {
            float sum_of = 0;
            for (int t = 0; t < positions; t++) sum_of += weights[h][t] * values[(size_t)t * head_dim + i];
            mixed[h * head_dim + i] = sum_of;
        }
}

// Queries [heads, head_dim] of one key head over some positions: for each the mix of values by e^(score - largest), the
// largest score and the sum of the weights.
static void NAME(attend)(const float *queries, int heads, int head_dim, const float *keys, const float *values,
                         int positions, float *mixed, float *largest, float *sum) {
    for (int head = 0; head < heads;) {
        const size_t at = (size_t)head * head_dim;
        const int H = heads - head < HEADS ? heads - head : HEADS;
#define CALL(n) attend_heads(n, queries + at, head_dim, keys, values, positions, mixed + at, largest + head, sum + head)
        EACH_OF_FOUR(H, CALL)
#undef CALL
        head += H;
    }
}

// Many rows of one sequence: positions [from, from + rows) over the keys [0, from + rows), causal, in chunks that are turned
// once for all queries that share them (online softmax, arXiv:2205.14135).
// Scores of QUERIES queries, side by side in [head_dim, QUERIES], with `vectors` of turned keys from position t on.
ALWAYS void turned_scores(int vectors, const float *queries, int head_dim, const float *turned, float *scores, int t) {
    vf sums[QUERIES][2];
    for (int q = 0; q < QUERIES; q++)
        for (int v = 0; v < vectors; v++) sums[q][v] = (vf){0};
    for (int i = 0; i < head_dim; i++) {
        vf k[2];
        for (int v = 0; v < vectors; v++) k[v] = LOADF(turned + (size_t)i * TURNED + t + v * LANES);
        for (int q = 0; q < QUERIES; q++)
            for (int v = 0; v < vectors; v++) sums[q][v] += k[v] * queries[i * QUERIES + q];
    }
    for (int q = 0; q < QUERIES; q++)
        for (int v = 0; v < vectors; v++) *(vf *)(scores + q * TURNED + t + v * LANES) = sums[q][v];
}

// Some channels of Q mixes: what they were, times a factor, and the weighted values of a chunk.
ALWAYS void mix_chunk(int Q, int vectors, const float *weights, const float *factors, const float *values, int head_dim,
                      int positions, float *const *mixed, int channel) {
    vf sums[4][4];
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < vectors; v++) sums[q][v] = LOADF(mixed[q] + channel + v * LANES) * factors[q];
    values += channel;
    for (int t = 0; t < positions; t++, values += head_dim, weights++) {
        vf value[4];
        for (int v = 0; v < vectors; v++) value[v] = LOADF(values + v * LANES);
        for (int q = 0; q < Q; q++)
            for (int v = 0; v < vectors; v++) sums[q][v] += value[v] * weights[q * TURNED];
    }
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < vectors; v++) *(vf *)(mixed[q] + channel + v * LANES) = sums[q][v];
}
static void NAME(mix_few)(int Q, const float *weights, const float *factors, const float *values, int head_dim, int positions,
                          float *const *mixed) {
    int i = 0;
#define CALL(n) mix_chunk(n, 4, weights, factors, values, head_dim, positions, mixed, i)
    for (; i + 4 * LANES <= head_dim; i += 4 * LANES) EACH_OF_FOUR(Q, CALL)
#undef CALL
#define CALL(n) mix_chunk(n, 1, weights, factors, values, head_dim, positions, mixed, i)
    for (; i + LANES <= head_dim; i += LANES) EACH_OF_FOUR(Q, CALL)
#undef CALL
    for (; i < head_dim; i++)
        for (int q = 0; q < Q; q++) {
            float sum = mixed[q][i] * factors[q];
            for (int t = 0; t < positions; t++) sum += weights[q * TURNED + t] * values[(size_t)t * head_dim + i];
            mixed[q][i] = sum;
        }
}

ALWAYS int clamped(int64_t n, int most) { return n < 0 ? 0 : n > most ? most : (int)n; }

// Scores to weights e^(score - largest) for the positions [0, seen) but those before `hidden`; what earlier chunks shrink by.
static float NAME(weigh_chunk)(float *scores, int positions, int hidden, int seen, float *largest, float *sum) {
    for (int t = 0; t < hidden; t++) scores[t] = -INFINITY;
    for (int t = seen; t < positions; t++) scores[t] = -INFINITY;
    const float most = largest_of(scores, positions, *largest);
    if (most == -INFINITY) {
        memset(scores, 0, 4 * (size_t)positions);
        return 1;
    }
    vf sums = {0};
    for (int t = 0; t < positions; t += LANES) {
        const vf e = decayed(LOADF(scores + t) - most);
        *(vf *)(scores + t) = e;
        sums += e;
    }
    const float factor = *largest == most ? 1 : decayed(splat(*largest - most))[0];
    *sum = *sum * factor + total(sums);
    *largest = most;
    return factor;
}

// `scratch` has `tile_floats`. Queries are taken QUERIES at a time; the last of them may be none, of zeros.
static void NAME(attend_tile)(const float *queries, size_t ldq, int rows, int heads, int head_dim, const float *keys,
                              const float *values, int64_t from, int64_t window, float *mixed, size_t ldm, float *scratch) {
    const int count = rows * heads, padded_count = (count + QUERIES - 1) / QUERIES * QUERIES;
    float *turned = scratch, *gathered = turned + (size_t)TURNED * head_dim;
    float *largest = gathered + (size_t)padded_count * head_dim, *sums = largest + count, *scores = sums + count;
    memset(gathered, 0, 4 * (size_t)padded_count * head_dim);
    for (int n = 0; n < count; n++) {
        largest[n] = -INFINITY, sums[n] = 0;
        memset(mixed + n / heads * ldm + (size_t)(n % heads) * head_dim, 0, 4 * (size_t)head_dim);
        for (int i = 0; i < head_dim; i++)
            gathered[(size_t)(n / QUERIES * head_dim + i) * QUERIES + n % QUERIES] =
                queries[n / heads * ldq + (size_t)(n % heads) * head_dim + i];
    }
    const int64_t end = from + rows, first = window && from + 1 > window ? from + 1 - window : 0;
    for (int64_t start = first / TURNED * TURNED; start < end; start += TURNED) {
        const int positions = end - start < TURNED ? (int)(end - start) : TURNED;
        const int padded = (positions + LANES - 1) / LANES * LANES;
        for (int t = 0; t < padded; t++)
            for (int i = 0; i < head_dim; i++)
                turned[(size_t)i * TURNED + t] = t < positions ? keys[(size_t)(start + t) * head_dim + i] : 0;
        for (int n = 0; n < count; n += QUERIES) {
            const int Q = count - n < QUERIES ? count - n : QUERIES;
            const int64_t oldest = from + n / heads, newest = from + (n + Q - 1) / heads;
            const int seen_by_any = clamped(newest + 1 - start, positions), wide = (seen_by_any + LANES - 1) / LANES * LANES;
            if (seen_by_any == 0 || (window && oldest + 1 - window >= start + positions)) continue;
            const float *side_by_side = gathered + (size_t)n * head_dim;
            int t = 0;
            if (LANES == 16)  // as many sums as registers hold
                for (; t + 2 * LANES <= wide; t += 2 * LANES) turned_scores(2, side_by_side, head_dim, turned, scores, t);
            for (; t < wide; t += LANES) turned_scores(1, side_by_side, head_dim, turned, scores, t);
            float *out[QUERIES], factors[QUERIES];
            for (int q = 0; q < Q; q++) {
                const int64_t at = from + (n + q) / heads, hidden = window ? at + 1 - window - start : 0;
                out[q] = mixed + (n + q) / heads * ldm + (size_t)((n + q) % heads) * head_dim;
                factors[q] = NAME(weigh_chunk)(scores + q * TURNED, wide, clamped(hidden, wide),
                                               clamped(at + 1 - start, seen_by_any), largest + n + q, sums + n + q);
            }
            for (int q = 0; q < Q; q += 4)
                NAME(mix_few)(Q - q < 4 ? Q - q : 4, scores + q * TURNED, factors + q, values + (size_t)start * head_dim,
                              head_dim, seen_by_any, out + q);
        }
    }
    for (int n = 0; n < count; n++)
        for (int i = 0; i < head_dim; i++) mixed[n / heads * ldm + (size_t)(n % heads) * head_dim + i] /= sums[n];
}
