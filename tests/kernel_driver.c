/* Runs models/compression/kernel.c, which is included before this, on small matrices of every width up to three tiles, and compares
 * with sums in double. Prints the bytes of a vector. Not linked with torch, so that it can be built for any processor and emulated. */
#include <math.h>
#include <stdio.h>

static uint32_t state = 1;
static float drawn(void) { return (float)(int32_t)(state = state * 1664525u + 1013904223u) / (1u << 29); }

int main(void) {
    enum { INS = 7, OUTS = 5, WIDEST = 3 * MOST * BYTES / 4 + 1 };
    static float x[INS * WIDEST], out[OUTS * WIDEST + 1], values[INS * OUTS], bias[OUTS];
    static int32_t rows[OUTS + 1], columns[INS * OUTS];
    int32_t stored = 0;
    for (int i = 0; i < OUTS; i++) {
        bias[i] = drawn();
        for (int j = 0; j < INS; j++)
            if (i != 2 && drawn() > 0) { /* the third row is empty */
                columns[stored] = j;
                values[stored++] = drawn();
            }
        rows[i + 1] = stored;
    }
    for (int64_t width = 1; width <= WIDEST; width++)
        for (int64_t activation = NONE; activation <= GELU; activation++) {
            for (int64_t k = 0; k < INS * width; k++) x[k] = drawn();
            out[OUTS * width] = 12345;
            plumbline_sparse_product(OUTS, width, 2, activation, rows, columns, values, width % 2 ? bias : 0, x, out);
            for (int i = 0; i < OUTS; i++)
                for (int64_t k = 0; k < width; k++) {
                    double sum = width % 2 ? bias[i] : 0, size = 1;
                    for (int32_t p = rows[i]; p < rows[i + 1]; p++) {
                        sum += (double)values[p] * x[columns[p] * width + k];
                        size += fabs((double)values[p] * x[columns[p] * width + k]);
                    }
                    double wanted = activation == GELU ? sum * erfc(-sum / sqrt(2)) / 2 : activation == RELU ? fmax(sum, 0) : sum;
                    if (!(fabs(out[i * width + k] - wanted) <= 2e-6 + 1e-6 * size)) {
                        printf("width %d, activation %d, row %d, column %d: wanted %.9g, came %.9g\n", (int)width, (int)activation, i,
                               (int)k, wanted, out[i * width + k]);
                        return 1;
                    }
                }
            if (out[OUTS * width] != 12345) {
                printf("width %d: written behind the end\n", (int)width);
                return 1;
            }
        }
    printf("%d\n", BYTES);
    return 0;
}
