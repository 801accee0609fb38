/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Times: the clock, and what stands where among many of them. */
#ifndef FIGURES_H
#define FIGURES_H

#include <stdint.h>
#include <stdlib.h>
#include <time.h>

/* Seconds on a clock that only goes on. */
static inline double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The time of `n`, in order and at least one, that all but one in `above` do not exceed. */
static inline double but_one_in(const double *sorted, uint32_t n, uint32_t above) {
    return sorted[n - 1 - n / above];
}

#endif
