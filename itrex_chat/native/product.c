// The product of a matrix with any number of rows.
#include "native.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

static size_t rounded_up(size_t n) { return (n + 255) / 256 * 256; }

// Bytes that `prepare` writes for the rows of a product.
size_t input_bytes(const Linear *l, int rows) {
    if (l->format == FP32 || (l->format > BF16 && l->compute == WITH_FP32)) return 0;
    if (l->format == BF16 || l->compute == WITH_BF16) return rounded_up((size_t)4 * l->in * rows);
    return rounded_up((size_t)l->in * rows) + 2 * rounded_up((size_t)4 * (l->in / l->group) * rows);
}

static Input arranged(const Linear *l, int rows, const float *x, size_t ldx, void *memory) {
    Input in = {.rows = rows, .in = l->in, .ld = ldx, .x = x, .groups = l->group ? l->in / l->group : 0};
    uint8_t *at = memory;
    if (input_bytes(l, rows) == 0) return in;
    in.ld = l->in;
    if (l->format == BF16 || l->compute == WITH_BF16) {
        in.x = (const float *)at;
        return in;
    }
    in.q = (const int8_t *)at, at += rounded_up((size_t)l->in * rows);
    in.scale = (const float *)at, at += rounded_up((size_t)4 * in.groups * rows);
    in.zero = (const int32_t *)at;
    return in;
}

static void fill(const Linear *l, const Input *in, int row, const float *x) {
    if (in->q)
        level()->quantize(x, l->in, l->group, l->format == INT4 ? 4 : 8, (int8_t *)in->q + row * in->ld,
                          (float *)in->scale + (size_t)row * in->groups, (int32_t *)in->zero + (size_t)row * in->groups);
    else if (in->x != x)
        level()->round_bf16(x, l->in, (float *)in->x + row * in->ld);
}

// Round rows of x as the matrix wants them, into `memory` of `input_bytes`.
Input prepare(const Linear *l, int rows, const float *x, size_t ldx, void *memory) {
    Input in = arranged(l, rows, x, ldx, memory);
    if (in.ld != ldx || in.x != x || in.q)
        for (int row = 0; row < rows; row++) fill(l, &in, row, x + row * ldx);
    return in;
}

// y[rows, out] = x[rows, in] · matrixᵀ + bias. 0, or 1 without memory.
EXPORT int itrex_product(const Linear *l, int rows, const float *x, size_t ldx, float *y, size_t ldy, int threads) {
    const size_t bytes = input_bytes(l, rows);
    void *memory = bytes ? malloc(bytes) : NULL;
    if (bytes && !memory) return 1;
    Input in = arranged(l, rows, x, ldx, memory);
    const int blocks = blocks_of(l);
    const int many = rows > ROWS && l->format > BF16 && l->compute == WITH_INT8 && has_vnni512();
    int chunk = blocks / (4 * threads);
    if (many) {  // a panel of the matrix that stays in the second-level cache
        const int most = (int)((448 << 10) / block_bytes(l));
        chunk = (chunk < most ? chunk : most) / 2 * 2;
        if (chunk < 2) chunk = 2;
    } else {
        if (chunk > 64) chunk = 64;
        if (chunk < 1) chunk = 1;
    }
#pragma omp parallel num_threads(threads)
    {
        if (memory) {
#pragma omp for schedule(static)
            for (int row = 0; row < rows; row++) fill(l, &in, row, x + row * ldx);
        }
#pragma omp for schedule(dynamic) nowait
        for (int first = 0; first < blocks; first += chunk) {
            const int last = first + chunk < blocks ? first + chunk : blocks;
            if (many)
                vnni_gemm(l, &in, first, last, y, ldy);
            else
                level()->blocks(l, &in, first, last, y, ldy, 0);
        }
    }
    free(memory);
    return 0;
}
