/* Products of small matrices whose sums stay in registers. models/native/library.py defines REAL (float or double),
   ROWS, COLUMNS and UNIT. Columns come in blocks of COLUMNS; the last may be narrower, but is a multiple of UNIT. */
#pragma once
#include <stdint.h>

#if ROWS != 6
#error "multiply() is written for up to 6 rows"
#endif

typedef REAL real;

#if defined(__AVX512F__)
#define BYTES 64                            /* in a vector register */
#define VECTORS 4                           /* registers for a row of a product; ROWS rows at a time */
#elif defined(__AVX__)
#define BYTES 32
#define VECTORS 2
#else
#define BYTES 16
#define VECTORS 2
#endif
#define LANES ((long)(BYTES / sizeof(real)))

typedef real vector __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

static inline vector load(const real *from) { return *(const vector *)from; }
static inline void store(real *to, vector x) { *(vector *)to = x; }
static inline long at_most(long most, long n) { return n < most ? n : most; }

/* c (rows, vectors * LANES) = start + a (rows, inner) b (inner, vectors * LANES), where each row of a has its own
   address; NULL as start means 0 */
static inline __attribute__((always_inline)) void product(
    const int rows, const int vectors, long inner, const real *const *a, const real *b, long b_stride,
    const real *start, long start_stride, real *c, long c_stride)
{
    vector sum[ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = start ? load(start + r * start_stride + v * LANES) : (vector){0};
    for (long i = 0; i < inner; i++)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++)
                sum[r][v] += a[r][i] * load(b + i * b_stride + v * LANES);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            store(c + r * c_stride + v * LANES, sum[r][v]);
}

/* The same for 1 to ROWS rows and any multiple of UNIT columns */
static void multiply(long rows, long inner, const real *const *a, const real *b, long b_stride, const real *start,
                     long start_stride, real *c, long c_stride, long columns)
{
    for (long at = 0, wide; at < columns; at += wide) {
        const int whole = columns - at >= VECTORS * LANES;
        const real *from = start ? start + at : 0;
        wide = whole ? VECTORS * LANES : LANES;
#define CASE(n) \
        case n: \
            if (whole) product(n, VECTORS, inner, a, b + at, b_stride, from, start_stride, c + at, c_stride); \
            else product(n, 1, inner, a, b + at, b_stride, from, start_stride, c + at, c_stride); \
            break;
        switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
#undef CASE
    }
}
