/* A matrix in compressed sparse rows times a dense one in row-major order, float32: out = activation(bias + W x).
 *
 * A row of `out` is summed up in registers, a few vectors of it at a time, and written once; the columns of x are taken in
 * tiles, so that a tile stays in the second-level cache while all rows of W pass by. Threads share out the rows by their number of
 * values. No library for CPUs has this product (MKL's, behind torch.sparse, takes twice the time and adds no bias); models/
 * compression/kernel.py compiles it for the processor that it runs on, and what cannot compile it uses MKL's. */
#include <stdint.h>

/* Bytes of a vector, as many as a register of the processor has that is compiled for (wider ones go through memory), and how many
 * of them a tile has at most: their sums stay in registers, of which there are 32, but 16 on x86 without AVX-512, and a tile of
 * 3,072 rows in a second-level cache of half a megabyte. On Zen 3, in turns, tiles of 6 were up to 6 % faster than those of 8. */
#if defined(__AVX512F__)
enum { BYTES = 64, MOST = 8 };
#elif defined(__AVX__)
enum { BYTES = 32, MOST = 6 };
#elif defined(__aarch64__)
enum { BYTES = 16, MOST = 12 };
#else
enum { BYTES = 16, MOST = 8 };
#endif

typedef float vector __attribute__((vector_size(BYTES), aligned(4)));
typedef int32_t integers __attribute__((vector_size(BYTES)));
enum { WIDTH = BYTES / 4 };
enum { NONE, RELU, GELU };

static inline vector all(float value) { return (vector){0} + value; }

static inline vector either(integers which, vector yes, vector no) {
    return (vector)(((integers)yes & which) | ((integers)no & ~which));
}

/* x P(X <= x) for a normal X: the probability is 1/2 + x p(x^2) / q(x^2), with p and q fitted on |x| <= 5.4 by least squares that
 * were weighted anew until the largest error of x times it, 1.7e-8 in float64, was smallest; below -5.4 the product stays at its
 * value there, which is 2e-7. In float32 its error is at most 1.2e-6, within |x| < 1 1.1e-7. A division and 13 products; by way of
 * exp, as in Abramowitz and Stegun, 7.1.26, twice as many. */
static inline vector gelu(vector x) {
    x = either(x < all(-5.4f), all(-5.4f), x);
    vector inside = either(x > all(5.4f), all(5.4f), x), square = inside * inside;
    vector above = all(2.2825597e-8f), below = all(1.20689788e-6f);
    above = above * square + 6.44902709e-6f;
    below = below * square + 7.55469126e-5f;
    above = above * square + 1.73699782e-4f;
    below = below * square + 1.91160706e-3f;
    above = above * square + 4.70745923e-3f;
    below = below * square + 2.88943357e-2f;
    above = above * square + 3.42639492e-2f;
    below = below * square + 0.252552164f;
    above = above * square + 0.398942177f;
    below = below * square + 1.0f;
    return x * (inside * (above / below) + 0.5f);
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
            vector *written = (vector *)(out + i * width);                                                               \
            for (int k = 0; k < N; k++) written[k] = activated(sum[k], activation);                                      \
        }                                                                                                                \
    }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)

typedef void tile(int64_t, int64_t, int64_t, int64_t, const int32_t *, const int32_t *, const float *, const float *,
                  const float *, float *);
static tile *const TILES[] = {0, tile_1, tile_2, tile_3, tile_4, tile_5, tile_6, tile_7, tile_8, tile_9, tile_10, tile_11, tile_12};

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
            int64_t left = (width - start + WIDTH - 1) / WIDTH, tiles = (left + MOST - 1) / MOST;
            int64_t vectors = (left + tiles - 1) / tiles; /* about as many in each */
            if (vectors > width / WIDTH) vectors = width / WIDTH;
            /* the last tile begins earlier instead of being cut: some sums are made twice */
            int64_t at = start + vectors * WIDTH > width ? width - vectors * WIDTH : start;
            TILES[vectors](from, to, width, activation, rows, columns, values, bias, x + at, out + at);
            start += vectors * WIDTH;
        }
    }
}

/* x: width rows that lie `apart` numbers apart, of `ins` each; out: (ins, padded), of which the numbers behind `width` become 0. In
 * squares of a line of the cache each way; torch's copy takes three times as long. */
void plumbline_transposed(int64_t ins, int64_t width, int64_t apart, int64_t padded, int64_t threads, const float *x, float *out) {
    enum { SIDE = 16 };
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t from = 0; from < ins; from += SIDE) {
        int64_t to = from + SIDE < ins ? from + SIDE : ins;
        for (int64_t start = 0; start < padded; start += SIDE) {
            int64_t end = start + SIDE < width ? start + SIDE : width, last = start + SIDE < padded ? start + SIDE : padded;
            for (int64_t i = from; i < to; i++) {
                for (int64_t j = start; j < end; j++) out[i * padded + j] = x[j * apart + i];
                for (int64_t j = end > start ? end : start; j < last; j++) out[i * padded + j] = 0.0f;
            }
        }
    }
}
