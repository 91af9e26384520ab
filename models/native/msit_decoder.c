/* MSIT's decoder: from the attention to the colours of the output pixels, for models/native/msit_decoder.py. */
#include <math.h>
#include <string.h>
#include "product.h"
#ifdef AMX
#include "tiles.h"
#else
typedef int shape;                          /* of tiles, of which there are none */
#define tile_release() ((void)0)

#ifdef BF16
MULTIPLY(multiply_packed, 1, 0)
MULTIPLY(multiply_second, 1, 1)             /* the results are packed with those that are there */
#else
#define multiply_packed multiply
#define multiply_second multiply
#endif
#endif

typedef __typeof__(__builtin_choose_expr(sizeof(real) == 4, (int32_t)0, (int64_t)0)) integer;
typedef integer mask __attribute__((vector_size(BYTES), may_alias));

enum { FEW = 16 / sizeof(real) };           /* numbers in the narrowest register */
typedef real few __attribute__((vector_size(16), may_alias));
typedef integer few_mask __attribute__((vector_size(16), may_alias));

static inline vector chosen(mask where, vector yes, vector no)
{
    return (vector)(((mask)yes & where) | ((mask)no & ~where));
}

static inline vector larger(vector a, vector b) { return chosen(a < b, b, a); }     /* a where it is NaN */

static inline real largest_of(vector x)
{
    real part[LANES] __attribute__((aligned(BYTES)));
    store(part, x);
    few top = *(few *)part;
    for (long k = FEW; k < LANES; k += FEW) {
        const few other = *(few *)(part + k);
        const few_mask where = top < other;
        top = (few)(((few_mask)other & where) | ((few_mask)top & ~where));
    }
    real largest = top[0];
    for (int k = 1; k < FEW; k++)
        largest = largest < top[k] ? top[k] : largest;
    return largest;
}

static inline real sum_of(vector x)
{
    real part[LANES] __attribute__((aligned(BYTES)));
    store(part, x);
    few sums = *(few *)part;
    for (long k = FEW; k < LANES; k += FEW)
        sums += *(few *)(part + k);
    real sum = sums[0];
    for (int k = 1; k < FEW; k++)
        sum += sums[k];
    return sum;
}

/* e^x for x <= 0, not below about the smallest normal number: 2^n e^rest with |rest| <= log(2) / 2. For bfloat16 the
   relative error is up to 4e-5. */
static inline vector exponential(vector x)
{
    enum { SINGLE = sizeof(real) == 4, TERMS = PER_PACK > 1 ? 5 : SINGLE ? 8 : 14, FRACTION = SINGLE ? 23 : 52 };
    const integer bias = SINGLE ? 127 : 1023;
    static const real series[] = {1, 1, 1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040, 1. / 40320, 1. / 362880,
                                  1. / 3628800, 1. / 39916800, 1. / 479001600, 1. / 6227020800};
    const real round = SINGLE ? 12582912. : 6755399441055744.;      /* 1.5 * 2^FRACTION: n is in the lowest bits */
    const real lowest = SINGLE ? -87 : -708;
    x = larger(x, (vector){0} + lowest);
    const vector sum = x * (real)1.4426950408889634 + round, n = sum - round;
    const vector rest = x - n * (real)0.693145751953125 - n * (real)1.428606820309417232e-6;  /* log(2) = their sum */
    vector y = (vector){0} + series[TERMS - 1];
    for (int k = TERMS - 2; k >= 0; k--)
        y = y * rest + series[k];
    return y * (vector)(((mask)sum << FRACTION) + (bias << FRACTION));
}

/* GELU, x Phi(x). In float, Phi is by formula 7.1.26 of Abramowitz and Stegun, whose erf has an error of at most
   1.5e-7; in double, by the C library. For bfloat16 it is a polynomial, with which GELU has an error of at most 2e-4 in
   [-8, 8] and 5e-5 |x| beyond; its coefficients minimise the largest error times max(|x|, 0.3) in [-4, 4]. */
static inline vector gelu(vector x)
{
    if (PER_PACK > 1) {
        static const real series[] = {0.397883401, -0.0645731554, 0.00877240014, -0.000814016791, 4.79555804e-05,
                                      -1.59860292e-06, 2.27814196e-08};
        const vector low = larger(x, (vector){0} - 4), at = chosen(low > 4, (vector){0} + 4, low), square = at * at;
        vector y = (vector){0} + series[6];
        for (int k = 5; k >= 0; k--)
            y = y * square + series[k];
        return x * ((real)0.5 + at * y);
    }
    if (sizeof(real) > 4) {
        for (int k = 0; k < LANES; k++)
            x[k] *= 0.5 * (1 + erf(x[k] * 0.70710678118654752));
        return x;
    }
    const vector a = chosen(x < 0, -x, x) * (real)0.70710678118654752, t = 1 / (1 + (real)0.3275911 * a);
    const vector sum = (real)0.254829592 + t * ((real)-0.284496736 + t * ((real)1.421413741
                       + t * ((real)-1.453152027 + t * (real)1.061405429)));
    const vector tail = (real)0.5 * exponential(-a * a) * t * sum;
    return x * chosen(x < 0, tail, 1 - tail);
}

/* c = a b for up to ROWS rows of a; the strides are the distances between the rows of a, b and c */
static void rows_times(long rows, long inner, const real *first, long stride, const real *b, long b_stride,
                       long columns, real *c, long c_stride)
{
    const real *a[ROWS];
    for (long r = 0; r < rows; r++)
        a[r] = first + r * stride;
    multiply(rows, inner, a, b, b_stride, 0, 0, c, c_stride, columns);
}

static inline long in_units(long n) { return (n + UNIT - 1) / UNIT * UNIT; }

/* The softmax of each of up to ROWS rows of n numbers, in place */
static void softmax(real *logits, long rows, long n)
{
    real of[ROWS];
    for (long r = 0; r < rows; r++) {
        vector top = load(logits + r * n);
        for (long k = LANES; k < n; k += LANES)
            top = larger(top, load(logits + r * n + k));
        of[r] = largest_of(top);
    }
    for (long r = 0; r < rows; r++) {
        vector sum = {0};
        for (real *at = logits + r * n; at < logits + (r + 1) * n; at += LANES) {
            const vector weight = exponential(load(at) - of[r]);
            store(at, weight);
            sum += weight;
        }
        of[r] = 1 / sum_of(sum);
    }
    for (long r = 0; r < rows; r++)
        for (real *at = logits + r * n; at < logits + (r + 1) * n; at += LANES)
            store(at, load(at) * of[r]);
}

/* attention (n, my * mx, units) = softmax(queries . keys / sqrt(d) + bias), for one head: the keys are the pixels of
   `maps` (pixels, d) at index (side * side, n), the queries their middle 3 x 3 weighted by near (n, my * mx, 9). The
   bias is the sum of rows (., my, units) at i (n) and columns (., mx, units) at j (n), -infinity from side * side on.
   `units` is side * side rounded up to whole UNITs; the attention is packed along it. room: 18 + d + 2 ROWS rows of
   `wide` numbers, initially 0 */
static void find_attention(real *attention, const real *near, const real *maps, const int64_t *index, const real *rows,
                           const int64_t *i, const real *columns, const int64_t *j, real *room,
                           long n, long my, long mx, long d, long side, long wide)
{
    const long window = side * side, m = my * mx, units = in_units(window);
    const real scale = 1 / sqrt(d);
    const int keys_first = 9 * (d + m) * window < m * d * (9 + window);  /* near (middle keys) takes fewer products */
    real *middle = room, *keys = middle + 9 * wide, *products = keys + d * wide, *query = products + 9 * wide;
    real *apart = query + ROWS * wide;
    for (long p = 0; p < n; p++) {
        for (long k = 0; k < window; k++) {
            const real *pixel = maps + index[k * n + p] * d;
            const long y = k / side - side / 2 + 1, x = k % side - side / 2 + 1;
            for (long c = 0; c < d; c++)
                keys[c * wide + k] = pixel[c];
            if (0 <= y && y < 3 && 0 <= x && x < 3)
                for (long c = 0; c < d; c++)
                    middle[(3 * y + x) * wide + c] = scale * pixel[c];
        }
        for (long q = 0; keys_first && q < 9; q += ROWS)
            rows_times(at_most(ROWS, 9 - q), d, middle + q * wide, wide, keys, wide, units,
                       products + q * wide, wide);
        for (long q = 0; q < m; q += ROWS) {
            const long many = at_most(ROWS, m - q);
            const real *weights = near + (p * m + q) * 9;
            real *found = attention + (p * m + q) * packs(units), *logits = PER_PACK > 1 ? apart : found;
            if (keys_first)
                rows_times(many, 9, weights, 9, products, wide, units, logits, units);
            else {
                rows_times(many, 9, weights, 9, middle, wide, in_units(d), query, wide);
                rows_times(many, d, query, wide, keys, wide, units, logits, units);
            }
            for (long r = 0; r < many; r++) {
                const real *row = rows + (i[p] * my + (q + r) / mx) * units;
                const real *column = columns + (j[p] * mx + (q + r) % mx) * units;
                for (long k = 0; k < units; k += LANES)
                    store(logits + r * units + k, load(logits + r * units + k) + load(row + k) + load(column + k));
            }
            softmax(logits, many, units);
            pack(found, logits, many * units);
        }
    }
}

/* c (rows, columns) = start + a b, packed factors, for any number of rows of a that follow each other */
static void multiply_rows(shape *now, long rows, long inner, const real *a, long a_stride, const real *b, long b_stride,
                          const real *start, long start_stride, real *c, long c_stride, long columns)
{
#ifdef AMX
    for (long r = 0; r < rows; r += SIDE)
        multiply_tile(now, at_most(SIDE, rows - r), inner, a + r * a_stride, a_stride, b, b_stride,
                      start ? start + r * start_stride : 0, start_stride, c + r * c_stride, c_stride, columns);
#else
    (void)now;
    for (long r = 0; r < rows; r += ROWS) {
        const long many = at_most(ROWS, rows - r);
        const real *each[ROWS];
        for (long k = 0; k < many; k++)
            each[k] = a + (r + k) * a_stride;
        multiply_packed(many, inner, each, b, b_stride, start ? start + r * start_stride : 0, start_stride,
                        c + r * c_stride, c_stride, columns);
    }
#endif
}

/* What the output pixels of `many` LR pixels share of one head: to (many, packs of the window, COLUMNS) are the pixels
   of `values`, at index (window, n), each times its own weight (window, packs of d, COLUMNS). room: (GROUP, packs of d) */
#ifdef AMX
static void share(shape *now, real *to, const real *values, const int64_t *index, const real *weight, long n, long many,
                  long d, long window, real *room)
{
    const long stride = packs(window) * COLUMNS, inner = packs(d);
    real pair[PER_PACK][GROUP * COLUMNS];
    for (long k = 0; k < packs(window) * PER_PACK; k++) {
        const long at = at_most(window - 1, k);         /* what is beyond the window meets no attention */
        for (long p = 0; p < many; p++)
            memcpy(room + p * inner, values + index[at * n + p] * inner, inner * sizeof(real));
        multiply_tile(now, many, inner, room, inner, weight + at * inner * COLUMNS, COLUMNS, 0, 0,
                      pair[k % PER_PACK], COLUMNS, COLUMNS);
        for (long p = 0; k % PER_PACK && p < many; p++)
            for (long c = 0; c < COLUMNS; c += LANES)
                store(to + p * stride + k / PER_PACK * COLUMNS + c,
                      packed(load(pair[0] + p * COLUMNS + c), load(pair[1] + p * COLUMNS + c)));
    }
}
#else
static void share(shape *now, real *to, const real *values, const int64_t *index, const real *weight, long n, long many,
                  long d, long window, real *room)
{
    const real *a[ROWS];
    const long stride = packs(window) * COLUMNS;
    (void)now, (void)room;
    for (long k = 0; k < packs(window) * PER_PACK; k++) {
        const long at = at_most(window - 1, k);         /* what is beyond the window meets no attention */
        for (long p = 0; p < many; p += ROWS) {
            const long rows = at_most(ROWS, many - p);
            for (long r = 0; r < rows; r++)
                a[r] = values + index[at * n + p + r] * packs(d);
            (k % PER_PACK ? multiply_second : multiply_packed)(
                rows, packs(d), a, weight + at * packs(d) * COLUMNS, COLUMNS, 0, 0,
                to + p * stride + k / PER_PACK * COLUMNS, stride, COLUMNS);
        }
    }
}
#endif

/* For one head, hidden (columns / COLUMNS, n * m, COLUMNS) = start + attention (n, m, units) * what `share` gives. GROUP
   LR pixels are handled at a time, so that it stays in the cache together with the weights. weight: (columns / COLUMNS,
   window, packs of d, COLUMNS); start: (columns), or NULL for hidden itself; room: (GROUP, packs of window, COLUMNS) and
   (GROUP, packs of d) */
static void add_shared(shape *now, real *hidden, const real *attention, const real *values, const int64_t *index,
                       const real *weight, const real *start, real *room, long n, long m, long d, long window,
                       long columns)
{
    const long units = in_units(window);
    for (long column = 0; column < columns; column += COLUMNS, weight += window * packs(d) * COLUMNS)
        for (long first = 0; first < n; first += GROUP) {
            const long group = at_most(GROUP, n - first);
            share(now, room, values, index + first, weight, n, group, d, window, room + GROUP * packs(window) * COLUMNS);
            for (long p = first; p < first + group; p++) {
                real *c = hidden + column * n * m + p * m * COLUMNS;
                multiply_rows(now, m, packs(window), attention + p * m * packs(units), packs(units),
                              room + (p - first) * packs(window) * COLUMNS, COLUMNS, start ? start + column : c,
                              start ? 0 : COLUMNS, c, COLUMNS, COLUMNS);
            }
        }
}

/* The first layer before its activation: hidden (width / COLUMNS, n * my * mx, COLUMNS). The arrays are those of
   find_attention and add_shared for all heads, which are their first axis; `pixels`, `n_rows` and `n_columns` are the
   lengths of the second. `values` and `weight` are packed along d. constant: (width); room: (18 + d + 2 ROWS) * wide +
   n * my * mx * packs(units) + GROUP * packs(window) * COLUMNS + GROUP * packs(d) */
void first_layer(real *hidden, const real *near, const real *query_key, const real *values, const int64_t *index,
                 const real *rows, const int64_t *i, const real *columns, const int64_t *j, const real *weight,
                 const real *constant, real *room, long n, long my, long mx, long heads, long d, long side,
                 long pixels, long n_rows, long n_columns, long width, long wide)
{
    const long m = my * mx, window = side * side, units = in_units(window);
    real *attention = room + (18 + d + 2 * ROWS) * wide, *shared = attention + n * m * packs(units);
    shape now = {0};
    for (real *at = room; at < attention; at++)
        *at = 0;
    for (long head = 0; head < heads; head++) {
        find_attention(attention, near, query_key + head * pixels * d, index, rows + head * n_rows * my * units, i,
                       columns + head * n_columns * mx * units, j, room, n, my, mx, d, side, wide);
        add_shared(&now, hidden, attention, values + head * pixels * packs(d), index,
                   weight + head * window * packs(d) * width, head ? 0 : constant, shared, n, m, d, window, width);
    }
    tile_release();
}

/* The layers of the MLP after the first, each an activation and a product: out (rows, width[layers]) from hidden
   (width[0] / COLUMNS, rows, COLUMNS). weight[l] comes in blocks of (packs of width[l], COLUMNS), bias[l] has width[l + 1]
   numbers. STRIP rows at a time go through all layers, so that they stay in the cache. room: (3, STRIP, the largest
   width) */
void perceptron(real *out, const real *hidden, const real *const *weight, const real *const *bias, const long *width,
                long layers, long is_gelu, long rows, real *room)
{
    shape now = {0};
    long widest = 0;
    for (long l = 0; l <= layers; l++)
        widest = widest < width[l] ? width[l] : widest;
    for (long first = 0; first < rows; first += STRIP) {
        const long many = at_most(STRIP, rows - first);
        real *x = room, *y = room + STRIP * widest, *apart = room + 2 * STRIP * widest;
        for (long column = 0; column < width[0]; column += COLUMNS)
            for (long r = 0; r < many; r++)
                for (long k = 0; k < COLUMNS; k += LANES)
                    store(x + r * width[0] + column + k, load(hidden + column * rows + (first + r) * COLUMNS + k));
        for (long l = 0; l < layers; l++) {
            const long inner = width[l], columns = width[l + 1];
            for (real *at = x; at < x + many * inner; at += LANES)
                store(at, is_gelu ? gelu(load(at)) : larger(load(at), (vector){0}));
            pack(apart, x, many * inner);
            const real *factors = PER_PACK > 1 ? apart : x;
            real *to = l + 1 < layers ? y : out + first * columns;
            for (long column = 0; column < columns; column += COLUMNS) {
                const long block = at_most(COLUMNS, columns - column);
                multiply_rows(&now, many, packs(inner), factors, packs(inner), weight[l] + column * packs(inner), block,
                              bias[l] + column, 0, to + column, columns, block);
            }
            y = x, x = to;
        }
    }
    tile_release();
}
