/* Products of small matrices whose sums stay in registers. models/native/library.py defines REAL (float or double),
   ROWS, COLUMNS and UNIT. Columns come in blocks of COLUMNS; the last may be narrower, but is a multiple of UNIT.

   With BF16, factors are rounded to bfloat16 and packed: two that follow each other along the inner dimension take the
   place of one real, the first in its lower half. Sums are in float. EMULATED: without the instruction for it, slowly,
   for tests. */
#pragma once
#include <stdint.h>
#if defined(BF16) && defined(__AVX512BF16__)
#include <immintrin.h>
#elif defined(BF16) && !defined(EMULATED)
#error "neither this processor nor this compiler has products in bfloat16"
#endif
#if defined(AMX) && !defined(__AMX_BF16__) && !defined(__AMXBF16__) && !defined(EMULATED)
#error "neither this processor nor this compiler has AMX"
#endif

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

#ifdef BF16
enum { PER_PACK = 2 };                      /* factors */
typedef uint32_t bits __attribute__((vector_size(BYTES), may_alias));
typedef uint32_t word __attribute__((may_alias));
typedef uint16_t half __attribute__((may_alias));

/* Numbers with the nearest bfloat16 numbers in their upper halves. What is not finite stays so. */
static inline bits rounded(vector x) { return (bits)x + ((bits)(x == x) & 0x8000); }

/* The numbers of two vectors, each of `first` packed with its neighbour in `second` */
static inline vector packed(vector first, vector second)
{
    return (vector)(rounded(first) >> 16 | (rounded(second) & 0xffff0000));
}

/* n numbers, each packed with the next; `to` and `from` do not overlap */
static inline void pack(real *restrict to, const real *restrict from, long n)
{
    for (long k = 0; k < n; k++)
        ((half *)to)[k] = (((const word *)from)[k] + (from[k] == from[k] ? 0x8000 : 0)) >> 16;
}

/* sum + the packed factors at a times those at b */
static inline vector plus_packed(vector sum, const real *a, const real *b)
{
    const bits every = (bits){0} + *(const word *)a, each = (bits)load(b);
#ifdef __AVX512BF16__
    return (vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)every, (__m512bh)each);
#else
    sum += (vector)(every << 16) * (vector)(each << 16);
    return sum + (vector)(every & 0xffff0000) * (vector)(each & 0xffff0000);
#endif
}
#else
enum { PER_PACK = 1 };
static inline vector packed(vector first, vector second) { (void)second; return first; }
static inline void pack(real *to, const real *from, long n) { (void)to, (void)from, (void)n; }
static inline vector plus_packed(vector sum, const real *a, const real *b) { return sum + *a * load(b); }
#endif

static inline long packs(long n) { return (n + PER_PACK - 1) / PER_PACK; }

/* c (rows, vectors * LANES) = start + a (rows, inner) b (inner, vectors * LANES), where each row of a has its own
   address; NULL as start means 0. If the factors are packed, `inner` counts packs. `second`: what is in c and this
   product become packed factors of another one */
static inline __attribute__((always_inline)) void product(
    const int are_packed, const int second, const int rows, const int vectors, long inner, const real *const *a,
    const real *b, long b_stride, const real *start, long start_stride, real *c, long c_stride)
{
    vector sum[ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = start ? load(start + r * start_stride + v * LANES) : (vector){0};
    for (long i = 0; i < inner; i++)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++)
                if (are_packed)
                    sum[r][v] = plus_packed(sum[r][v], a[r] + i, b + i * b_stride + v * LANES);
                else
                    sum[r][v] += a[r][i] * load(b + i * b_stride + v * LANES);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            real *to = c + r * c_stride + v * LANES;
            store(to, second ? packed(load(to), sum[r][v]) : sum[r][v]);
        }
}

/* The same for 1 to ROWS rows and any multiple of UNIT columns */
#define MULTIPLY(name, are_packed, second) \
static void name(long rows, long inner, const real *const *a, const real *b, long b_stride, const real *start, \
                 long start_stride, real *c, long c_stride, long columns) \
{ \
    for (long at = 0, wide; at < columns; at += wide) { \
        const int whole = columns - at >= VECTORS * LANES; \
        const real *from = start ? start + at : 0; \
        wide = whole ? VECTORS * LANES : LANES; \
        switch (rows) { \
            FOR_ROWS(are_packed, second, 1) FOR_ROWS(are_packed, second, 2) FOR_ROWS(are_packed, second, 3) \
            FOR_ROWS(are_packed, second, 4) FOR_ROWS(are_packed, second, 5) FOR_ROWS(are_packed, second, 6) \
        } \
    } \
}
#define FOR_ROWS(are_packed, second, n) \
    case n: \
        if (whole) product(are_packed, second, n, VECTORS, inner, a, b + at, b_stride, from, start_stride, c + at, \
                           c_stride); \
        else product(are_packed, second, n, 1, inner, a, b + at, b_stride, from, start_stride, c + at, c_stride); \
        break;
MULTIPLY(multiply, 0, 0)
