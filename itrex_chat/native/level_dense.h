// Products with row-major matrices, for level.h.
// LANES values of a row of a row-major matrix from value i on.
ALWAYS vf dense_load(int format, const uint8_t *row, int i) {
    if (format == FP32) return LOADF((const float *)row + i);
    return format == BF16 ? (vf)bf16s(row + 2 * (size_t)i) : (vf)halves(row + 2 * (size_t)i);
}
// A row-major matrix with a few rows of inputs. The sums of 16 outputs are kept while the inputs are gone through in parts
// that stay in the first-level cache, and in registers for some rows and outputs at a time. Each sum is that of FP32 weights
// whatever the format, and added up in the same order whatever else is computed: vector by vector, the last one with zeros.
#define DENSE_ROWS 6
#define DENSE_PART 4096   // inputs of all rows together
#define DENSE_SHORT 4096  // bytes of a row of the matrix
#if LANES == 16
#define DENSE_OUTPUTS(R) 4  // with 32 registers
#else
#define DENSE_OUTPUTS(R) ((R) < 4 ? 4 : 2)  // with 16
#endif
// The inputs [i, end), whole vectors, of `outputs` rows of the matrix with R rows of inputs, added to sums [outputs, ROWS].
// What is `ahead` bytes behind is prefetched, unless that is 0: of each row, or, `together`, of all of them at the same pace.
ALWAYS void dense_part(int format, int R, int outputs, const uint8_t *weight, size_t bytes, const float *x, size_t ld, int i,
                       int end, size_t ahead, int together, vf *sums) {
    const int line = format == FP32 ? 16 : 32;
    vf s[4][DENSE_ROWS];
    for (int o = 0; o < outputs; o++)
        for (int r = 0; r < R; r++) s[o][r] = sums[o * ROWS + r];
    while (i < end) {
        if (ahead)
            for (int o = 0; o < outputs; o++) {
                const size_t at = (size_t)i * (64 / line);
                __builtin_prefetch(weight + ahead + (together ? at * outputs + o * 64 : at + o * bytes), 0, 3);
            }
        for (const int stop = i + line < end ? i + line : end; i < stop; i += LANES) {
            vf v[4];
            for (int o = 0; o < outputs; o++) v[o] = dense_load(format, weight + o * bytes, i);
            for (int r = 0; r < R; r++) {
                vf from = LOADF(x + r * ld + i);
                if (outputs > 1) IN_REGISTER(from);
                for (int o = 0; o < outputs; o++) s[o][r] += v[o] * from;
            }
        }
    }
    for (int o = 0; o < outputs; o++)
        for (int r = 0; r < R; r++) sums[o * ROWS + r] = s[o][r];
}
// The same for any number of rows and outputs of those that are summed together, both at most 16.
ALWAYS void dense_sums(int format, int rows, int outputs, const uint8_t *weight, size_t bytes, const float *x, size_t ld, int i,
                       int end, size_t ahead, int together, vf *sums) {
    const int parts = (rows + DENSE_ROWS - 1) / DENSE_ROWS;
    for (int part = 0; part < parts; part++) {
        const int row = rows * part / parts, R = rows * (part + 1) / parts - row;
        const float *from = x + row * ld;
        int o = 0;
#define CALL(R)                                                                                                       \
    for (; o + DENSE_OUTPUTS(R) <= outputs; o += DENSE_OUTPUTS(R))                                                    \
        dense_part(format, R, DENSE_OUTPUTS(R), weight + o * bytes, bytes, from, ld, i, end, part ? 0 : ahead,        \
                   together, sums + o * ROWS + row);                                                                            \
    for (; o < outputs; o++)                                                                                          \
        dense_part(format, R, 1, weight + o * bytes, bytes, from, ld, i, end, part ? 0 : ahead, together, \
                   sums + o * ROWS + row)
        EACH_OF_SIX(R, CALL)
#undef CALL
    }
}
// 16 outputs, or the last ones, with at most 16 rows.
ALWAYS void dense_block(int format, const Linear *l, const Input *in, int row, int rows, int first, int count, float *y,
                        size_t ldy, int add) {
    const size_t size = format == FP32 ? 4 : 2, bytes = l->in * size;
    const uint8_t *w = (const uint8_t *)l->weight + first * bytes;
    const float *x = in->x + (size_t)row * in->ld;
    const int whole = l->in - l->in % LANES;
    vf sums[BLOCK * ROWS];
    for (int o = 0; o < count; o++)
        for (int r = 0; r < rows; r++) sums[o * ROWS + r] = (vf){0};
    if (rows < 4) {  // some outputs after the others: what is behind the end of a row begins with the next ones
        const int together = bytes <= DENSE_SHORT, last = whole - (int)(DENSE_PREFETCH / size);
        const int parted = together || last < 0 ? 0 : last - last % LANES;
        for (int o = 0; o < count; o += 4) {
            const int n = count - o < 4 ? count - o : 4;
            const size_t ahead = (whole - parted) * size;
            vf *to = sums + o * ROWS;
            if (together)
                dense_sums(format, rows, n, w + o * bytes, bytes, x, in->ld, 0, whole, n * bytes, 1, to);
            else {
                dense_sums(format, rows, n, w + o * bytes, bytes, x, in->ld, 0, parted, ahead, 0, to);
                dense_sums(format, rows, n, w + o * bytes, bytes, x, in->ld, parted, whole, ahead + (n - 1) * bytes, 0, to);
            }
        }
    } else {
        const int part = DENSE_PART / rows / 64 * 64;
        for (int i = 0; i < whole; i += part) {
            const int end = i + part < whole ? i + part : whole;
            const size_t ahead = end < whole ? part * size : count * bytes - i * size;
            dense_sums(format, rows, count, w, bytes, x, in->ld, i, end, ahead, 0, sums);
        }
    }
    if (whole < l->in)  // the last ones in a vector with zeros
        for (int o = 0; o < count; o++) {
            uint8_t weights[4 * LANES] = {0};
            memcpy(weights, w + o * bytes + whole * size, bytes - whole * size);
            for (int r = 0; r < rows; r++) {
                float inputs[LANES] = {0};
                memcpy(inputs, x + r * in->ld + whole, 4 * (l->in - whole));
                sums[o * ROWS + r] += dense_load(format, weights, 0) * LOADF(inputs);
            }
        }
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < count; o++) {
            const float value = total(sums[o * ROWS + r]) + (l->bias ? l->bias[first + o] : 0.0f);
            float *to = y + (row + r) * ldy + o;
            *to = add ? *to + value : value;
        }
}
#define DENSE(name, format)                                                                                              \
    static void NAME(name)(const Linear *l, const Input *in, int row, int rows, int first, int count, float *y,          \
                           size_t ldy, int add) {                                                                        \
        dense_block(format, l, in, row, rows, first, count, y, ldy, add);                                                \
    }
DENSE(dense_fp32, FP32)
DENSE(dense_bf16, BF16)
DENSE(dense_fp16, FP16)
