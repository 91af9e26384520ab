/* Calls the compiled code of models/native with fixed numbers and prints what it gives; see scripts/cross.sh. */
#include "../models/native/msit_decoder.c"
#include "../models/native/winograd.c"
#include <stdio.h>
#include <stdlib.h>

static uint32_t state = 1;

static real *numbers(long n, real size)                 /* between -size and size, the same on every machine */
{
    real *x = malloc(n * sizeof(real));
    for (long k = 0; k < n; k++) {
        state = state * 1664525u + 1013904223u;
        x[k] = size * ((long)(state >> 8) - 0x800000) / 0x800000;
    }
    return x;
}

static int64_t *indices(long n, long below)
{
    int64_t *x = malloc(n * sizeof(int64_t));
    for (long k = 0; k < n; k++)
        x[k] = k * 7 % below;
    return x;
}

static void print(const real *x, long n)
{
    for (long k = 0; k < n; k++)
        printf("%.17g\n", (double)x[k]);
}

static void decode(long n, long my, long mx, long d, long side)
{
    const long heads = 2, pixels = 40, m = my * mx, window = side * side, units = in_units(window);
    const long hidden = 2 * COLUMNS;
    const long wide = ((d > window ? d : window) + COLUMNS - 1) / COLUMNS * COLUMNS, inner = 2 * UNIT;
    real *rows = numbers(heads * 3 * my * units, 1), *columns = numbers(heads * 2 * mx * units, 1);
    for (long k = 0; k < heads * 3 * my * units; k++)
        if (k % units >= window)
            rows[k] = -INFINITY;
    real *x = numbers(n * m * hidden, 0), *near = numbers(n * m * 9, 1), *keys = numbers(heads * pixels * d, 1);
    real *values = numbers(heads * pixels * d, 1), *weight = numbers(heads * hidden * window * d, (real)0.1);
    real *constant = numbers(hidden, 1);
    real *room = numbers((18 + d + 2 * ROWS) * wide + n * m * units + GROUP * window * COLUMNS, 1);
    first_layer(x, near, keys, values, indices(window * n, pixels), rows, indices(n, 3), columns, indices(n, 2), weight,
                constant, room, n, my, mx, heads, d, side, pixels, 3, 2, hidden, wide);
    print(x, n * m * hidden);
    const long width[] = {hidden, inner, UNIT};
    const real *weights[] = {numbers(hidden * inner, (real)0.2), numbers(inner * UNIT, (real)0.2)};
    const real *biases[] = {numbers(inner, 1), numbers(UNIT, 1)};
    for (long gelu = 0; gelu < 2; gelu++) {
        real *out = numbers(n * m * UNIT, 0);
        perceptron(out, x, weights, biases, width, 2, gelu, n * m, numbers(3 * STRIP * hidden, 0));
        print(out, n * m * UNIT);
    }
}

static void convolution(long height, long width, long channels, long out_channels, long k)
{
    const long threads = 2, parts = (k + 2) / 3, area = channels * out_channels;
    real *out = numbers(height * width * out_channels, 0), *x = numbers(height * width * channels, 1);
    real *weight = numbers(area * k * k, (real)0.1), *bias = numbers(out_channels, 1);
    real *kernel = numbers(36 * parts * parts * area, 0);
    real *room = numbers(threads * 36 * (TILES * (channels + out_channels) + area), 0);
    real *gradient = numbers(9 * area, 0);
    convolve(out, x, weight, bias, kernel, room, 1, height, width, channels, out_channels, k, channels,
             width * channels, height * width * channels, threads);
    print(out, height * width * out_channels);
    if (k == 3) {
        convolve_weight(gradient, x, out, room, 1, height, width, channels, out_channels, channels, width * channels,
                        height * width * channels, out_channels, width * out_channels, height * width * out_channels,
                        threads);
        print(gradient, 9 * area);
    }
}

int main(void)
{
    decode(7, 2, 2, 5, 3);
    decode(GROUP + 1, 3, 4, 17, 5);
    convolution(9, 14, 16, 32, 3);
    convolution(6, 25, 32, 48, 5);
    return 0;
}
