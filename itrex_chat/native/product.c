// The product of a matrix with any number of rows.
#include "native.h"

#include <stdlib.h>
#include <string.h>

static size_t rounded_up(size_t n) { return (n + 255) / 256 * 256; }

// Bytes that `prepare` writes for the rows of a product.
size_t input_bytes(const Linear *l, int rows) {
    if (l->compute == WITH_FP32) return 0;
    if (l->compute == WITH_BF16) return rounded_up((size_t)4 * l->in * rows);
    return rounded_up((size_t)l->in * rows) + 2 * rounded_up((size_t)4 * (l->in / l->group) * rows);
}

// The inputs of a product as they will lie in `memory` of `input_bytes`, once `round_row` has filled it in.
Input arranged(const Linear *l, int rows, const float *x, size_t ldx, void *memory) {
    Input in = {.rows = rows, .in = l->in, .ld = ldx, .x = x, .groups = l->group ? l->in / l->group : 0};
    uint8_t *at = memory;
    if (input_bytes(l, rows) == 0) return in;
    in.ld = l->in;
    if (l->compute == WITH_BF16) {
        in.x = (const float *)at;
        return in;
    }
    in.q = (const int8_t *)at, at += rounded_up((size_t)l->in * rows);
    in.scale = (const float *)at, at += rounded_up((size_t)4 * in.groups * rows);
    in.zero = (const int32_t *)at;
    return in;
}

// Round a row of x as the matrix wants it.
void round_row(const Linear *l, const Input *in, int row, const float *x) {
    if (in->q)
        level()->quantize(x, l->in, l->group, bits_of(l), (int8_t *)in->q + row * in->ld,
                          (float *)in->scale + (size_t)row * in->groups, (int32_t *)in->zero + (size_t)row * in->groups);
    else if (in->x != x)
        level()->round_bf16(x, l->in, (float *)in->x + row * in->ld);
}

enum Way { FEW_ROWS, VNNI, TILES };

static enum Way way_of(const Linear *l, int rows) {
    if (rows <= ROWS || dense_bytes(l) || l->compute == WITH_FP32) return FEW_ROWS;
    if (has_amx()) return TILES;  // rounds to BF16, which is finer than INT8 by groups
    return l->compute == WITH_INT8 && has_vnni512() ? VNNI : FEW_ROWS;
}

// How many rows a product may have so that each is, bit for bit, what it is alone; 0 for any number.
EXPORT int itrex_rows_alike(const Linear *l) { return way_of(l, INT32_MAX) == TILES ? ROWS : 0; }

// Blocks that a thread takes at a time: of many rows a panel that stays in the second-level cache.
static int chunk_of(const Linear *l, enum Way way, int threads) {
    const int most = way == TILES ? (int)((768 << 10) / amx_panel_bytes(l, 2)) * 2
                   : way == VNNI ? (int)((256 << 10) / block_bytes(l)) : 64;
    int chunk = blocks_of(l) / (8 * threads);
    if (chunk > most) chunk = most;
    return way == FEW_ROWS ? (chunk < 1 ? 1 : chunk) : (chunk < 2 ? 2 : chunk / 2 * 2);
}

typedef struct {
    const Linear *l;
    enum Way way;
    int rows, padded, gated, blocks, chunk;
    const float *x;
    float *y;
    size_t ldx, ldy, panel;
    Input in;
    uint8_t *memory, *panels;  // the rows rounded, and what each thread unpacks
    Meeting rounded;
    int taken;
} Product;

static void run(void *job, int number, int threads) {
    Product *p = job;
    const Linear *l = p->l;
    if (p->memory) {
        for (int row = part(p->padded, number, threads); row < part(p->padded, number + 1, threads); row++)
            if (p->way == TILES)
                amx_input(l, row, row < p->rows ? p->x + row * p->ldx : NULL, (uint16_t *)p->memory);
            else
                round_row(l, &p->in, row, p->x + row * p->ldx);
        meet(&p->rounded, threads);
    }
    if (p->way == TILES) amx_begin();
    for (int first; (first = next_task(&p->taken) * p->chunk) < p->blocks;) {
        const int last = first + p->chunk < p->blocks ? first + p->chunk : p->blocks;
        if (p->way == TILES)
            amx_gemm(l, p->rows, (const uint16_t *)p->memory, first, last, p->y, p->ldy,
                     (uint16_t *)(p->panels + p->panel * number));
        else if (p->gated)
            vnni_gated(l, &p->in, first, last, p->y, p->ldy);
        else if (p->way == VNNI)
            vnni_gemm(l, &p->in, first, last, p->y, p->ldy);
        else
            level()->blocks(l, &p->in, first, last, p->y, p->ldy, 0);
    }
    if (p->way == TILES) amx_end();
}

// `gated`: SwiGLU of the two halves of the outputs, with VNNI only.
static int multiply(const Linear *l, int rows, const float *x, size_t ldx, float *y, size_t ldy, int gated, int threads) {
    if (!sound(l) || rows < 1 || threads < 1 || (rows > 1 && (ldx < (size_t)l->in || ldy < (size_t)(gated ? l->out / 2 : l->out))))
        return REFUSED;
    const enum Way way = way_of(l, rows);
    const int chunk = chunk_of(l, way, threads), halves = gated ? 2 : 1;
    Product p = {.l = l, .way = way, .rows = rows, .padded = way == TILES ? (rows + 31) / 32 * 32 : rows, .gated = gated,
                 .blocks = blocks_of(l) / halves, .chunk = chunk / halves, .x = x, .y = y, .ldx = ldx, .ldy = ldy,
                 .panel = way == TILES ? rounded_up(amx_panel_bytes(l, chunk)) : 0};
    const size_t bytes = way == TILES ? rounded_up(amx_input_bytes(l, rows)) : input_bytes(l, rows);
    uint8_t *memory = bytes ? malloc(bytes + p.panel * threads + 64) : NULL;
    if (bytes && !memory) return NO_MEMORY;
    if (memory) p.memory = memory + (-(uintptr_t)memory & 63), p.panels = p.memory + bytes;
    if (way != TILES) p.in = arranged(l, rows, x, ldx, p.memory);
    team(threads, run, &p);
    free(memory);
    return DONE;
}

// y[rows, out] = x[rows, in] · matrixᵀ + bias. DONE, NO_MEMORY or REFUSED.
EXPORT int itrex_product(const Linear *l, int rows, const float *x, size_t ldx, float *y, size_t ldy, int threads) {
    return multiply(l, rows, x, ldx, y, ldy, 0, threads);
}

// y[rows, out/2]: SwiGLU of a product whose outputs are the gate and then as many others. DONE, NO_MEMORY or REFUSED.
// `gate_up` [rows, out] is for kernels that do not have both halves of a row at once.
EXPORT int itrex_gated_product(const Linear *l, int rows, const float *x, size_t ldx, float *gate_up, float *y, int threads) {
    if (!sound(l) || l->out % 2) return REFUSED;
    if (way_of(l, rows) == VNNI && l->out % (2 * BLOCK) == 0) return multiply(l, rows, x, ldx, y, l->out / 2, 1, threads);
    const int found = multiply(l, rows, x, ldx, gate_up, l->out, 0, threads);
    if (found == DONE) itrex_swiglu(gate_up, rows, l->out / 2, y, threads);
    return found;
}
