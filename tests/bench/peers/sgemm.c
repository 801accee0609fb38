/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The peer of MUL_MAT: OpenBLAS's sgemm. sgemm M N K TIMES; each line in is answered by the GFLOP/s of
 * TIMES products of M x K weights, row by row, with N columns of K. */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static float *numbers(unsigned state, size_t count) {
    float *all = aligned_alloc(64, (count * sizeof *all + 63) / 64 * 64);
    if (!all) {
        fprintf(stderr, "no room for %zu numbers\n", count);
        exit(1);
    }
    for (size_t at = 0; at < count; at++) {
        state = state * 1664525u + 1013904223u;
        all[at] = (float)(state >> 16) / 65536.0f - 0.5f;
    }
    return all;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: sgemm M N K TIMES\n");
        return 2;
    }
    const int m = atoi(argv[1]), n = atoi(argv[2]), k = atoi(argv[3]), times = atoi(argv[4]);
    if (m < 1 || n < 1 || k < 1 || times < 1) return 2;
    float *w = numbers(1, (size_t)m * (size_t)k), *x = numbers(2, (size_t)n * (size_t)k);
    float *out = numbers(3, (size_t)m * (size_t)n);
    char line[8];
    openblas_set_num_threads(1);
    while (fgets(line, sizeof line, stdin)) {
        const double begin = now();
        for (int product = 0; product < times; product++)
            cblas_sgemm(CblasColMajor, CblasTrans, CblasNoTrans, m, n, k, 1.0f, w, k, x, k, 0.0f, out, m);
        printf("%.6f\n", 2.0 * m * n * k * times / (now() - begin) / 1e9);
        fflush(stdout);
    }
    return 0;
}
