/* A matrix in compressed sparse rows times a dense one in row-major order, float32: out = activation(bias + W x).
 *
 * A row of `out` is summed up in registers, up to eight vectors of it at a time, and written once; the columns of x are taken in
 * tiles, so that a tile stays in the second-level cache while all rows of W pass by. Threads share out the rows by their number of
 * values. No library for CPUs has this product (MKL's, behind torch.sparse, takes twice the time and adds no bias); models/
 * compression/kernel.py compiles it for the processor that it runs on, and what cannot compile it uses MKL's. */
#include <stdint.h>

typedef float vector __attribute__((vector_size(64), aligned(4)));
typedef int32_t integers __attribute__((vector_size(64)));
enum { WIDTH = 16, MOST = 8 };
enum { NONE, RELU, GELU };

static inline vector all(float value) { return (vector){0} + value; }

static inline vector either(integers which, vector yes, vector no) {
    return (vector)(((integers)yes & which) | ((integers)no & ~which));
}

/* exp(x) for x <= 0: 2^n exp(r) with |r| <= ln(2) / 2, and the Taylor series of exp(r) up to r^7. */
static inline vector exponential(vector x) {
    x = either(x < all(-87.0f), all(-87.0f), x);
    integers n = __builtin_convertvector(x * 1.44269504f - 0.5f, integers); /* towards zero, so to the nearest for x <= 0 */
    vector whole = __builtin_convertvector(n, vector);
    vector r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f; /* ln(2), in two parts */
    vector sum = all(1.0f / 5040);
    sum = sum * r + 1.0f / 720;
    sum = sum * r + 1.0f / 120;
    sum = sum * r + 1.0f / 24;
    sum = sum * r + 1.0f / 6;
    sum = sum * r + 0.5f;
    sum = sum * r + 1.0f;
    sum = sum * r + 1.0f;
    return sum * (vector)((n + 127) << 23);
}

/* x (1 + erf(x / sqrt 2)) / 2, with erf by Abramowitz and Stegun, 7.1.26: its error is at most 1.5e-7. */
static inline vector gelu(vector x) {
    vector size = either(x < all(0.0f), -x, x) * 0.70710678f;
    vector t = 1.0f / (1.0f + 0.3275911f * size);
    vector tail = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    tail = tail * exponential(-size * size);
    return x * either(x < all(0.0f), 0.5f * tail, 1.0f - 0.5f * tail);
}

static inline vector activated(vector x, int64_t activation) {
    if (activation == GELU) return gelu(x);
    if (activation == RELU) return either(x < all(0.0f), all(0.0f), x);
    return x;
}

#define TILE(N)                                                                                                          \
    static void tile_##N(int64_t from, int64_t to, int64_t width, int64_t activation, const int32_t *rows,               \
                         const int32_t *columns, const float *values, const float *bias, const float *x, float *out) {   \
        for (int64_t i = from; i < to; i++) {                                                                            \
            vector sum[N];                                                                                               \
            for (int k = 0; k < N; k++) sum[k] = all(bias ? bias[i] : 0.0f);                                             \
            for (int32_t p = rows[i]; p < rows[i + 1]; p++) {                                                            \
                const vector *row = (const vector *)(x + columns[p] * width);                                            \
                for (int k = 0; k < N; k++) sum[k] += values[p] * row[k];                                                \
            }                                                                                                            \
            for (int k = 0; k < N; k++) ((vector *)(out + i * width))[k] = activated(sum[k], activation);                \
        }                                                                                                                \
    }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8)

typedef void tile(int64_t, int64_t, int64_t, int64_t, const int32_t *, const int32_t *, const float *, const float *,
                  const float *, float *);
static tile *const TILES[] = {0, tile_1, tile_2, tile_3, tile_4, tile_5, tile_6, tile_7, tile_8};

/* Fewer columns than a vector has. */
static void narrow(int64_t from, int64_t to, int64_t width, int64_t activation, const int32_t *rows, const int32_t *columns,
                   const float *values, const float *bias, const float *x, float *out) {
    for (int64_t i = from; i < to; i++) {
        vector sum = all(bias ? bias[i] : 0.0f);
        for (int32_t p = rows[i]; p < rows[i + 1]; p++)
            for (int64_t k = 0; k < width; k++) sum[k] += values[p] * x[columns[p] * width + k];
        sum = activated(sum, activation);
        for (int64_t k = 0; k < width; k++) out[i * width + k] = sum[k];
    }
}

/* The first row of a part, so that all have about as much to do. */
static int64_t first(int64_t part, int64_t parts, int64_t outs, const int32_t *rows) {
    int64_t low = 0, high = outs, wanted = (rows[outs] + outs) * part / parts;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (rows[middle] + middle < wanted) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* rows: (outs + 1), columns and values: (stored), bias: (outs) or null, x: (ins, width), out: (outs, width). */
void plumbline_sparse_product(int64_t outs, int64_t width, int64_t threads, int64_t activation, const int32_t *rows,
                              const int32_t *columns, const float *values, const float *bias, const float *x, float *out) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int64_t part = 0; part < threads; part++) {
        int64_t from = first(part, threads, outs, rows), to = first(part + 1, threads, outs, rows);
        if (width < WIDTH) {
            narrow(from, to, width, activation, rows, columns, values, bias, x, out);
            continue;
        }
        for (int64_t start = 0; start < width;) {
            int64_t vectors = (width - start + WIDTH - 1) / WIDTH;
            if (vectors > width / WIDTH) vectors = width / WIDTH;
            if (vectors > MOST) vectors = MOST;
            /* the last tile begins earlier instead of being cut: some sums are made twice */
            int64_t at = start + vectors * WIDTH > width ? width - vectors * WIDTH : start;
            TILES[vectors](from, to, width, activation, rows, columns, values, bias, x + at, out + at);
            start += vectors * WIDTH;
        }
    }
}
