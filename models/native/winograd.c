/* Convolution by Winograd's F(4 x 4, 3 x 3), for models/native/winograd.py. For each tile of 4 x 4 output pixels, its
   6 x 6 input pixels and the kernel are transformed to the values of polynomials at 6 x 6 points, where a convolution
   is a product. Along an axis the points are 0, 3/4, -3/4, 3/2, -3/2 and infinity, which lose half as much in float32
   as the usual 0, 1, -1, 2, -2 and infinity. The transforms work in place on numbers that are `step` apart. */
#include "product.h"
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#endif

#define A ((real)0.75)
#define B ((real)1.5)
#define INLINE static inline __attribute__((always_inline))

/* Transforms six pixels. */
INLINE void transform_pixels(vector *x, const int step)
{
    const vector x0 = x[0], x1 = x[step], x2 = x[2 * step], x3 = x[3 * step], x4 = x[4 * step], x5 = x[5 * step];
    const vector even_a = x4 - B * B * x2, odd_a = A * (x3 - B * B * x1);
    const vector even_b = x4 - A * A * x2, odd_b = B * (x3 - A * A * x1);
    x[0] = A * A * B * B * x0 - (A * A + B * B) * x2 + x4;
    x[step] = even_a + odd_a;
    x[2 * step] = even_a - odd_a;
    x[3 * step] = even_b + odd_b;
    x[4 * step] = even_b - odd_b;
    x[5 * step] = A * A * B * B * x1 - (A * A + B * B) * x3 + x5;
}

/* Transforms three taps of a kernel to six numbers. */
INLINE void transform_taps(vector *x, const int step)
{
    const vector x0 = x[0], x1 = x[step], x2 = x[2 * step];
    const real by_a = 1 / (2 * A * A * (A * A - B * B)), by_b = 1 / (2 * B * B * (B * B - A * A));
    const vector even_a = by_a * (x0 + A * A * x2), odd_a = by_a * A * x1;
    const vector even_b = by_b * (x0 + B * B * x2), odd_b = by_b * B * x1;
    x[0] = x0 * (1 / (A * A * B * B));
    x[step] = even_a + odd_a;
    x[2 * step] = even_a - odd_a;
    x[3 * step] = even_b + odd_b;
    x[4 * step] = even_b - odd_b;
    x[5 * step] = x2;
}

/* Transforms six products to four output pixels. */
INLINE void transform_back(vector *x, const int step)
{
    const vector even_a = x[step] + x[2 * step], odd_a = A * (x[step] - x[2 * step]);
    const vector even_b = x[3 * step] + x[4 * step], odd_b = B * (x[3 * step] - x[4 * step]);
    x[0] += even_a + even_b;
    x[step] = odd_a + odd_b;
    x[2 * step] = A * A * even_a + B * B * even_b;
    x[3 * step] = A * A * odd_a + B * B * odd_b + x[5 * step];
}

/* the transpose of transform_back: four pixels, to six numbers */
INLINE void transform_gradient(vector *x, const int step)
{
    const vector y0 = x[0], y1 = x[step], y2 = x[2 * step], y3 = x[3 * step];
    const vector even_a = y0 + A * A * y2, odd_a = A * (y1 + A * A * y3);
    const vector even_b = y0 + B * B * y2, odd_b = B * (y1 + B * B * y3);
    x[step] = even_a + odd_a;
    x[2 * step] = even_a - odd_a;
    x[3 * step] = even_b + odd_b;
    x[4 * step] = even_b - odd_b;
    x[5 * step] = y3;
}

/* the transpose of transform_taps: six numbers, to three taps of a kernel */
INLINE void transform_to_taps(vector *x, const int step)
{
    const real by_a = 1 / (2 * A * A * (A * A - B * B)), by_b = 1 / (2 * B * B * (B * B - A * A));
    const vector even_a = by_a * (x[step] + x[2 * step]), odd_a = by_a * A * (x[step] - x[2 * step]);
    const vector even_b = by_b * (x[3 * step] + x[4 * step]), odd_b = by_b * B * (x[3 * step] - x[4 * step]);
    x[0] = x[0] * (1 / (A * A * B * B)) + even_a + even_b;
    x[step] = odd_a + odd_b;
    x[2 * step] = A * A * even_a + B * B * even_b + x[5 * step];
}

/* the 36 pixels of a tile from (top, left) on, of LANES channels each, zeros beyond the border */
INLINE void read_tile(vector *v, const real *x, long top, long left, long height, long width, long pixel, long row)
{
    for (long f = 0; f < 36; f++) {
        const long i = top + f / 6, j = left + f % 6;
        v[f] = 0 <= i && i < height && 0 <= j && j < width ? load(x + i * row + j * pixel) : (vector){0};
    }
}

/* c (rows, vectors * LANES) += the sum over `inner` of a[i][rows] b[i][vectors * LANES] */
INLINE void outer(const int rows, const int vectors, long inner, const real *a, long a_stride, const real *b,
                  long stride, real *c)
{
    vector sum[ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = load(c + r * stride + v * LANES);
    for (long i = 0; i < inner; i++)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++)
                sum[r][v] += a[i * a_stride + r] * load(b + i * stride + v * LANES);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            store(c + r * stride + v * LANES, sum[r][v]);
}

/* sum (channels, out_channels) += the transpose of a (inner, channels) times b (inner, out_channels); channels come in
   multiples of LANES, so that ROWS or an even rest of them are left */
static void add_outer(real *sum, const real *a, const real *b, long inner, long channels, long out_channels)
{
    for (long o = 0, wide; o < out_channels; o += wide) {
        const int whole = out_channels - o >= VECTORS * LANES;
        wide = whole ? VECTORS * LANES : LANES;
        for (long c = 0; c < channels; c += ROWS) {
            real *to = sum + c * out_channels + o;
#define CASE(n) \
            case n: \
                if (whole) outer(n, VECTORS, inner, a + c, channels, b + o, out_channels, to); \
                else outer(n, 1, inner, a + c, channels, b + o, out_channels, to); \
                break;
            switch (at_most(ROWS, channels - c)) { CASE(2) CASE(4) CASE(6) }
#undef CASE
        }
    }
}

/* numbers in a vector register */
long lanes(void) { return LANES; }

/* out (batch, height, width, out_channels) = x * weight + bias (out_channels), of the same height and width. x has its
   channels last; `pixel`, `row` and `image` are the distances between its pixels, rows and images. weight
   (out_channels, channels, k, k), k odd, is cut into `parts` x `parts` kernels of 3 x 3, padded with zeros. Both
   numbers of channels are multiples of LANES.
   kernel: room for 36 * parts * parts * channels * out_channels numbers; room: for each thread 36 * TILES * (channels
   + out_channels) */
void convolve(real *out, const real *x, const real *weight, const real *bias, real *kernel, real *room, long batch,
              long height, long width, long channels, long out_channels, long k, long pixel, long row, long image,
              long threads)
{
    static const real zeros[LANES];
    const long parts = (k + 2) / 3, high = (height + 3) / 4, wide = (width + 3) / 4, tiles = batch * high * wide;
    const long area = channels * out_channels;
#pragma omp parallel num_threads(threads)
    {
        real *spectra = room + omp_get_thread_num() * 36 * TILES * (channels + out_channels);
        real *products = spectra + 36 * TILES * channels;
#pragma omp for
        for (long at = 0; at < parts * parts * channels; at++) {
            const long part = at / channels, c = at % channels, top = part / parts * 3, left = part % parts * 3;
            for (long o = 0; o < out_channels; o += LANES) {
                const long first = o / COLUMNS * COLUMNS, block = at_most(COLUMNS, out_channels - first);
                real *to = kernel + 36 * (part * area + first * channels) + c * block + o - first;
                vector v[36] = {{0}};
                for (long p = 0; p < at_most(3, k - top); p++)
                    for (long q = 0; q < at_most(3, k - left); q++)
                        for (long lane = 0; lane < LANES; lane++)
                            v[6 * p + q][lane] = weight[(((o + lane) * channels + c) * k + top + p) * k + left + q];
                for (int q = 0; q < 3; q++)
                    transform_taps(v + q, 6);
                for (int p = 0; p < 6; p++)
                    transform_taps(v + 6 * p, 1);
                for (int f = 0; f < 36; f++)
                    store(to + f * channels * block, v[f]);
            }
        }
#pragma omp for schedule(dynamic)
        for (long first = 0; first < tiles; first += TILES) {
            const long group = at_most(TILES, tiles - first);
            for (long part = 0; part < parts * parts; part++) {
                for (long t = 0; t < group; t++) {
                    const long b = (first + t) / (high * wide);
                    const long top = (first + t) / wide % high * 4 - k / 2 + part / parts * 3;
                    const long left = (first + t) % wide * 4 - k / 2 + part % parts * 3;
                    const real *from[36];
                    long step[36];
                    for (long f = 0; f < 36; f++) {
                        const long i = top + f / 6, j = left + f % 6;
                        step[f] = 0 <= i && i < height && 0 <= j && j < width;
                        from[f] = step[f] ? x + b * image + i * row + j * pixel : zeros;
                    }
                    for (long c = 0; c < channels; c += LANES) {
                        vector v[36];
                        for (int f = 0; f < 36; f++)
                            v[f] = load(from[f] + c * step[f]);
                        for (int j = 0; j < 6; j++)
                            transform_pixels(v + j, 6);
                        for (int i = 0; i < 6; i++)
                            transform_pixels(v + 6 * i, 1);
                        for (int f = 0; f < 36; f++)
                            store(spectra + (f * group + t) * channels + c, v[f]);
                    }
                }
                for (long o = 0; o < out_channels; o += COLUMNS)
                    for (long f = 0; f < 36; f++) {
                        const long block = at_most(COLUMNS, out_channels - o);
                        const real *b = kernel + 36 * (part * area + o * channels) + f * channels * block;
                        for (long t = 0; t < group; t += ROWS) {
                            const real *a[ROWS];
                            for (long r = 0; r < at_most(ROWS, group - t); r++)
                                a[r] = spectra + (f * group + t + r) * channels;
                            real *c = products + (f * group + t) * out_channels + o;
                            multiply(at_most(ROWS, group - t), channels, a, b, block, part ? c : 0, out_channels, c,
                                     out_channels, block);
                        }
                    }
            }
            for (long t = 0; t < group; t++) {
                const long b = (first + t) / (high * wide);
                const long top = (first + t) / wide % high * 4, left = (first + t) % wide * 4;
                for (long o = 0; o < out_channels; o += LANES) {
                    vector v[36];
                    for (int f = 0; f < 36; f++)
                        v[f] = load(products + (f * group + t) * out_channels + o);
                    for (int j = 0; j < 6; j++)
                        transform_back(v + j, 6);
                    for (int i = 0; i < 4; i++)
                        transform_back(v + 6 * i, 1);
                    for (long i = 0; i < at_most(4, height - top); i++)
                        for (long j = 0; j < at_most(4, width - left); j++)
                            store(out + ((b * height + top + i) * width + left + j) * out_channels + o,
                                  v[6 * i + j] + load(bias + o));
                }
            }
        }
    }
}

/* gradient (out_channels, channels, 3, 3): of the kernels of such a convolution with k = 3, from x and from the
   gradient g (batch, height, width, out_channels) of its result. The products of a tile's transformed pixels and
   transformed gradients are summed before they are transformed back. x and g have their channels last, each with its
   pixels, rows and images so many numbers apart. room: for each thread 36 * (TILES * (channels + out_channels) +
   channels * out_channels). For so many threads the sums have one order. */
void convolve_weight(real *gradient, const real *x, const real *g, real *room, long batch, long height, long width,
                     long channels, long out_channels, long pixel, long row, long image, long g_pixel, long g_row,
                     long g_image, long threads)
{
    const long high = (height + 3) / 4, wide = (width + 3) / 4, tiles = batch * high * wide;
    const long area = channels * out_channels, sums = 36 * area, own = sums + 36 * TILES * (channels + out_channels);
    for (long at = 0; at < threads * own; at++)
        room[at] = 0;
#pragma omp parallel num_threads(threads)
    {
        real *sum = room + omp_get_thread_num() * own, *spectra = sum + sums;
        real *gradients = spectra + 36 * TILES * channels;
#pragma omp for schedule(static)
        for (long first = 0; first < tiles; first += TILES) {
            const long group = at_most(TILES, tiles - first);
            for (long t = 0; t < group; t++) {
                const long b = (first + t) / (high * wide);
                const long top = (first + t) / wide % high * 4, left = (first + t) % wide * 4;
                for (long c = 0; c < channels; c += LANES) {
                    vector v[36];
                    read_tile(v, x + b * image + c, top - 1, left - 1, height, width, pixel, row);
                    for (int j = 0; j < 6; j++)
                        transform_pixels(v + j, 6);
                    for (int i = 0; i < 6; i++)
                        transform_pixels(v + 6 * i, 1);
                    for (int f = 0; f < 36; f++)
                        store(spectra + (f * TILES + t) * channels + c, v[f]);
                }
                for (long o = 0; o < out_channels; o += LANES) {
                    vector v[36];
                    read_tile(v, g + b * g_image + o, top, left, height, width, g_pixel, g_row);
                    for (int j = 0; j < 4; j++)
                        transform_gradient(v + j, 6);
                    for (int i = 0; i < 6; i++)
                        transform_gradient(v + 6 * i, 1);
                    for (int f = 0; f < 36; f++)
                        store(gradients + (f * TILES + t) * out_channels + o, v[f]);
                }
            }
            for (long f = 0; f < 36; f++)
                add_outer(sum + f * area, spectra + f * TILES * channels, gradients + f * TILES * out_channels, group,
                          channels, out_channels);
        }
#pragma omp for schedule(static)
        for (long c = 0; c < channels; c++)
            for (long o = 0; o < out_channels; o += LANES) {
                vector v[36];
                for (long f = 0; f < 36; f++) {
                    v[f] = load(room + f * area + c * out_channels + o);
                    for (long thread = 1; thread < threads; thread++)
                        v[f] += load(room + thread * own + f * area + c * out_channels + o);
                }
                for (int q = 0; q < 6; q++)
                    transform_to_taps(v + q, 6);
                for (int p = 0; p < 3; p++)
                    transform_to_taps(v + 6 * p, 1);
                for (long p = 0; p < 3; p++)
                    for (long q = 0; q < 3; q++)
                        for (long lane = 0; lane < LANES; lane++)
                            gradient[(((o + lane) * channels + c) * 3 + p) * 3 + q] = v[6 * p + q][lane];
            }
    }
}
