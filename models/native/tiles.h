/* Products of matrices in bfloat16 by AMX: its instruction multiplies tiles of 16 rows of 16 packs each, a pack being two
   factors that follow each other along the inner dimension. EMULATED: without the instruction, slowly, for tests. */
#pragma once
#include <string.h>
#include "product.h"

#if GROUP > 16 || UNIT % 16 || COLUMNS % UNIT
#error "tiles have 16 rows of 16 numbers"
#endif

enum { SIDE = 16 };                         /* rows of a tile, and numbers or packs in a row */

typedef struct {                            /* sizes of the tiles, as the processor reads them */
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];                     /* in a row */
    uint8_t rows[16];
} sizes;
_Static_assert(sizeof(sizes) == 64, "what the processor reads");

#ifdef EMULATED
#define written() ((void)0)
#define STEP static __attribute__((noinline)) void
static _Thread_local sizes emulated;        /* all 0 where no sizes have been given: no tile can be used then */
static _Thread_local real tile[8][SIDE][SIDE];

static void demand(int met) { if (!met) __builtin_trap(); }     /* as the processor does */

STEP tile_zero(int at)
{
    demand(emulated.rows[at]);
    memset(tile[at], 0, sizeof tile[at]);
}

STEP tile_sizes(const sizes *these)
{
    emulated = *these;
    demand(emulated.palette == 1);
    memset(tile, 0, sizeof tile);
    for (int at = 0; at < 16; at++)
        demand(emulated.rows[at] <= 16 && emulated.bytes[at] <= 64 && !emulated.rows[at] == !emulated.bytes[at]);
}

STEP tile_release(void) { memset(&emulated, 0, sizeof emulated); }

STEP tile_load(int at, const real *from, long stride)
{
    tile_zero(at);
    for (int r = 0; r < emulated.rows[at]; r++)
        memcpy(tile[at][r], from + r * stride, emulated.bytes[at]);
}

STEP tile_store(int at, real *to, long stride)
{
    demand(emulated.rows[at]);
    for (int r = 0; r < emulated.rows[at]; r++)
        memcpy(to + r * stride, tile[at][r], emulated.bytes[at]);
}

STEP tile_plus_product(int c, int a, int b)
{
    demand(emulated.rows[c] && emulated.rows[c] == emulated.rows[a] && emulated.bytes[c] == emulated.bytes[b]);
    demand(emulated.rows[b] && emulated.bytes[a] == 4 * emulated.rows[b]);
    for (int r = 0; r < emulated.rows[c]; r++)
        for (int i = 0; i < emulated.rows[b]; i++)
            for (int k = 0; k < SIDE; k += LANES)       /* beyond the tiles' sizes there are zeros */
                store(tile[c][r] + k, plus_packed(load(tile[c][r] + k), &tile[a][r][i], tile[b][i] + k));
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
