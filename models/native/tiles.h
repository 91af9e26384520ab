/* Products of matrices in bfloat16 by AMX: its instruction multiplies tiles of 16 rows of 16 packs each, a pack being two
   factors that follow each other along the inner dimension. EMULATED: without the instruction, slowly, for tests. */
#pragma once
#include "product.h"

enum { SIDE = 16 };                         /* rows of a tile, and numbers or packs in a row */

typedef struct {                            /* sizes of the tiles, as the processor reads them */
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];                     /* in a row */
    uint8_t rows[16];
} sizes;

#ifdef EMULATED
#define written() ((void)0)
static _Thread_local sizes emulated;
static _Thread_local struct { word row[SIDE][SIDE]; } tile[8];

static inline void tile_sizes(const sizes *these) { emulated = *these; }
static inline void tile_release(void) { }

static inline void tile_load(int at, const real *from, long stride)
{
    for (int r = 0; r < emulated.rows[at]; r++)
        for (int k = 0; k < emulated.bytes[at] / 4; k++)
            tile[at].row[r][k] = ((const word *)(from + r * stride))[k];
}

static inline void tile_store(int at, real *to, long stride)
{
    for (int r = 0; r < emulated.rows[at]; r++)
        for (int k = 0; k < emulated.bytes[at] / 4; k++)
            ((word *)(to + r * stride))[k] = tile[at].row[r][k];
}

static inline void tile_zero(int at)
{
    for (int r = 0; r < SIDE; r++)
        for (int k = 0; k < SIDE; k++)
            tile[at].row[r][k] = 0;
}

static inline real as_real(word x) { union { word bits; real number; } both = {x}; return both.number; }

static inline void tile_plus_product(int c, int a, int b)
{
    for (int r = 0; r < emulated.rows[c]; r++)
        for (int i = 0; i < emulated.rows[b]; i++)
            for (int k = 0; k < emulated.bytes[c] / 4; k++) {
                const word every = tile[a].row[r][i], each = tile[b].row[i][k];
                union { real number; word bits; } sum = {as_real(tile[c].row[r][k])};
                sum.number += as_real(every << 16) * as_real(each << 16);
                sum.number += as_real(every & 0xffff0000) * as_real(each & 0xffff0000);
                tile[c].row[r][k] = sum.bits;
            }
}
#else
/* GCC does not know all of what these read */
#define written() __asm__ volatile ("" ::: "memory")
#define tile_sizes(these) do { written(); _tile_loadconfig(these); } while (0)
#define tile_release() _tile_release()
#define tile_load(at, from, stride) _tile_loadd(at, from, (stride) * sizeof(real))
#define tile_store(at, to, stride) _tile_stored(at, to, (stride) * sizeof(real))
#define tile_zero(at) _tile_zero(at)
#define tile_plus_product(c, a, b) _tile_dpbf16ps(c, a, b)
#endif

/* The tiles: 0 to 3 are sums; 4 and 5 are left factors, 6 and 7 right ones, of SIDE packs and of the rest of the inner
   dimension. To change their sizes takes longer than a few products, so `shape` knows those they have. */
typedef struct { long rows, rest; } shape;  /* initially 0 */

static inline void take_shape(shape *now, long rows, long rest)
{
    if (now->rows == rows && now->rest == rest)
        return;
    sizes these = {.palette = 1};
    for (int at = 0; at < 8; at++) {
        const int is_rest = at == 5 || at == 7;
        these.rows[at] = is_rest && !rest ? 0 : at < 6 ? rows : is_rest ? rest : SIDE;
        these.bytes[at] = 4 * (at == 5 ? rest : is_rest && !rest ? 0 : SIDE);
    }
    tile_sizes(&these);
    *now = (shape){rows, rest};
}

#define BEGIN(sum, from) \
    if (start) \
        tile_load(sum, start + (from), start_stride); \
    else \
        tile_zero(sum);
#define ADD(sum, left, right, from) \
    tile_load(right, from, b_stride); \
    tile_plus_product(sum, left, right);
#define ADD_ONE(left, right, k) \
    tile_load(left, a + (k), a_stride); \
    ADD(0, left, right, b + (k) * b_stride + at)
#define ADD_FOUR(left, right, k) \
    ADD_ONE(left, right, k) \
    ADD(1, left, right, b + (k) * b_stride + at + SIDE) \
    ADD(2, left, right, b + (k) * b_stride + at + 2 * SIDE) \
    ADD(3, left, right, b + (k) * b_stride + at + 3 * SIDE)

/* c (rows, columns) = start + a b for up to SIDE rows of a; `columns` is a multiple of SIDE, and `inner` counts packs.
   NULL as start means 0. The strides are the distances between rows. */
static void multiply_tile(shape *now, long rows, long inner, const real *a, long a_stride, const real *b, long b_stride,
                          const real *start, long start_stride, real *c, long c_stride, long columns)
{
    const long rest = inner % SIDE, whole = inner - rest;
    long at = 0;
    take_shape(now, rows, rest);
    written();
    for (; at + 4 * SIDE <= columns; at += 4 * SIDE) {
        BEGIN(0, at)
        BEGIN(1, at + SIDE)
        BEGIN(2, at + 2 * SIDE)
        BEGIN(3, at + 3 * SIDE)
        for (long k = 0; k < whole; k += SIDE) {
            ADD_FOUR(4, 6, k)
        }
        if (rest) {
            ADD_FOUR(5, 7, whole)
        }
        tile_store(0, c + at, c_stride);
        tile_store(1, c + at + SIDE, c_stride);
        tile_store(2, c + at + 2 * SIDE, c_stride);
        tile_store(3, c + at + 3 * SIDE, c_stride);
    }
    for (; at < columns; at += SIDE) {
        BEGIN(0, at)
        for (long k = 0; k < whole; k += SIDE) {
            ADD_ONE(4, 6, k)
        }
        if (rest) {
            ADD_ONE(5, 7, whole)
        }
        tile_store(0, c + at, c_stride);
    }
}
