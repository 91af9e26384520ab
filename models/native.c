/* The inner products of decoding on a CPU, for models/native.py, which says what REAL (float or double), ROWS, COLUMNS
   and GROUP are. All arrays are contiguous. Columns come in blocks of COLUMNS, filled up with zeros. */
#include <stdint.h>

#if ROWS != 6
#error "multiply() and product() are written for up to 6 rows"
#endif

typedef REAL real;

#if defined(__AVX512F__)
#define BYTES 64                            /* of a vector register */
#define VECTORS 4                           /* of them that hold a row of a product, ROWS rows at a time */
#elif defined(__AVX__)
#define BYTES 32
#define VECTORS 2
#else
#define BYTES 16
#define VECTORS 2
#endif
#define LANES ((long)(BYTES / sizeof(real)))

typedef real vector __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

/* c (rows, VECTORS * LANES) = a (rows, inner) b (inner, VECTORS * LANES), or c += it; all sums stay in registers */
static inline __attribute__((always_inline)) void product(
    const int rows, long inner, const real *const *a, const real *b, long b_stride, real *c, long c_stride, int add)
{
    vector sum[ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VECTORS; v++)
            sum[r][v] = add ? *(const vector *)(c + r * c_stride + v * LANES) : (vector){0};
    for (long i = 0; i < inner; i++)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < VECTORS; v++)
                sum[r][v] += a[r][i] * *(const vector *)(b + i * b_stride + v * LANES);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VECTORS; v++)
            *(vector *)(c + r * c_stride + v * LANES) = sum[r][v];
}

/* The same for 1 to ROWS rows, each at its own place a[r], and a block of COLUMNS */
static void multiply(long rows, long inner, const real *const *a, const real *b, long b_stride, real *c, long c_stride,
                     int add)
{
    for (long v = 0; v < COLUMNS; v += VECTORS * LANES)
        switch (rows) {
        case 1: product(1, inner, a, b + v, b_stride, c + v, c_stride, add); break;
        case 2: product(2, inner, a, b + v, b_stride, c + v, c_stride, add); break;
        case 3: product(3, inner, a, b + v, b_stride, c + v, c_stride, add); break;
        case 4: product(4, inner, a, b + v, b_stride, c + v, c_stride, add); break;
        case 5: product(5, inner, a, b + v, b_stride, c + v, c_stride, add); break;
        default: product(6, inner, a, b + v, b_stride, c + v, c_stride, add);
        }
}

static long at_most(long most, long n) { return n < most ? n : most; }

/* The same for rows that follow each other, and any number of columns */
static void rows_times(long rows, long inner, const real *first, long stride, const real *b, long columns, real *c,
                       long wide)
{
    const real *a[ROWS];
    for (long r = 0; r < rows; r++)
        a[r] = first + r * stride;
    for (long column = 0; column < columns; column += COLUMNS)
        multiply(rows, inner, a, b + column, wide, c + column, wide, 0);
}

/* logits (n, my * mx, side * side) = scale * queries . keys + bias, for one head: the keys are the pixels of `maps`
   (pixels, d) at index (side * side, n), the queries their middle 3 x 3 weighed by near (n, my * mx, 9). The bias is
   the sum of rows (., my, side * side) at i (n) and columns (., mx, side * side) at j (n).
   room: 18 + d + 2 * ROWS rows of `wide` numbers, which is d or side * side, the larger, in whole blocks of COLUMNS */
void find_logits(real *logits, const real *near, const real *maps, const int64_t *index, const real *rows,
                 const int64_t *i, const real *columns, const int64_t *j, real *room, real scale,
                 long n, long my, long mx, long d, long side, long wide)
{
    const long window = side * side, m = my * mx;
    const int keys_first = 9 * (d + m) * window < m * d * (9 + window);     /* near (middle keys) is fewer products */
    real *middle = room, *keys = middle + 9 * wide, *products = keys + d * wide, *query = products + 9 * wide;
    real *logit = query + ROWS * wide;
    for (long at = 0; at < (18 + d + 2 * ROWS) * wide; at++)
        room[at] = 0;
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
            rows_times(at_most(ROWS, 9 - q), d, middle + q * wide, wide, keys, window, products + q * wide, wide);
        for (long q = 0; q < m; q += ROWS) {
            const long many = at_most(ROWS, m - q);
            const real *weights = near + (p * m + q) * 9;
            if (keys_first)
                rows_times(many, 9, weights, 9, products, window, logit, wide);
            else {
                rows_times(many, 9, weights, 9, middle, d, query, wide);
                rows_times(many, d, query, wide, keys, window, logit, wide);
            }
            for (long r = 0; r < many; r++) {
                const real *row = rows + (i[p] * my + (q + r) / mx) * window;
                const real *column = columns + (j[p] * mx + (q + r) % mx) * window;
                for (long k = 0; k < window; k++)
                    logits[(p * m + q + r) * window + k] = logit[r * wide + k] + row[k] + column[k];
            }
        }
    }
}

/* hidden (n, m, columns) += attention (n, m, window) times what each LR pixel's output pixels share, for one head: the
   pixels of `values` (pixels, d) at index (window, n), each times its own weight. Of GROUP LR pixels at a time, so that
   what is shared stays in the cache together with its weights.
   weight: (columns / COLUMNS, window, d, COLUMNS); room: (GROUP, window, COLUMNS) */
void add_shared(real *hidden, const real *attention, const real *values, const int64_t *index, const real *weight,
                real *room, long n, long m, long d, long window, long columns)
{
    const real *a[ROWS];
    for (long column = 0; column < columns; column += COLUMNS, weight += window * d * COLUMNS)
        for (long first = 0; first < n; first += GROUP) {
            const long group = at_most(GROUP, n - first);
            for (long k = 0; k < window; k++)
                for (long p = 0; p < group; p += ROWS) {
                    const long rows = at_most(ROWS, group - p);
                    for (long r = 0; r < rows; r++)
                        a[r] = values + index[k * n + first + p + r] * d;
                    multiply(rows, d, a, weight + k * d * COLUMNS, COLUMNS, room + (p * window + k) * COLUMNS,
                             window * COLUMNS, 0);
                }
            for (long p = 0; p < group; p++)
                for (long q = 0; q < m; q += ROWS) {
                    const long rows = at_most(ROWS, m - q), at = (first + p) * m + q;
                    for (long r = 0; r < rows; r++)
                        a[r] = attention + (at + r) * window;
                    multiply(rows, window, a, room + p * window * COLUMNS, COLUMNS, hidden + at * columns + column,
                             columns, 1);
                }
        }
}
