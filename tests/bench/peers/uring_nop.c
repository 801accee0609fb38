/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* liburing's NOP: how many a second in batches of 32, or what one costs.
 *
 * Without an argument: a sample for every line read, in millions a second.
 * With a batch size: prints "COMMANDS NANOSECONDS"; callgrind counts what the counted_ functions do.
 */
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BATCH = 32, BATCHES = 1000, ENTRIES = 256, COUNTED = 32000 };

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Prepares and submits a batch; how many were submitted, or an errno below zero. */
__attribute__((noinline)) int counted_submit(struct io_uring *ring, unsigned batch) {
    for (unsigned index = 0; index < batch; index++) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
        if (!sqe) return -1;
        io_uring_prep_nop(sqe);
        io_uring_sqe_set_data64(sqe, index);
    }
    return io_uring_submit(ring);
}

/* Takes a batch home, each with its data and result. */
__attribute__((noinline)) int counted_reap(struct io_uring *ring, unsigned batch, unsigned long *sum) {
    struct io_uring_cqe *cqe;
    unsigned head, done = 0;
    io_uring_for_each_cqe(ring, head, cqe) {
        if (cqe->res < 0) return cqe->res;
        *sum += cqe->user_data;
        if (++done == batch) break;
    }
    io_uring_cq_advance(ring, done);
    return (int)done;
}

static void batch_once(struct io_uring *ring, unsigned batch) {
    unsigned long sum = 0;
    int sent = counted_submit(ring, batch);
    int home = counted_reap(ring, batch, &sum);
    if (sent != (int)batch || home != (int)batch || sum != (unsigned long)batch * (batch - 1) / 2) {
        fprintf(stderr, "sent %d, %d came home, of %u\n", sent, home, batch);
        exit(1);
    }
}

int main(int argc, char **argv) {
    struct io_uring ring;
    int error = io_uring_queue_init(ENTRIES, &ring, 0);
    if (error < 0) {
        fprintf(stderr, "io_uring is not permitted here (error %d)\n", -error);
        return 1;
    }
    if (argc > 1) {
        unsigned batch = (unsigned)atoi(argv[1]);
        if (batch == 0 || batch > ENTRIES) return 2;
        for (int index = 0; index < 100; index++) batch_once(&ring, batch);
        double begin = now();
        for (unsigned done = 0; done < COUNTED; done += batch) batch_once(&ring, batch);
        double took = now() - begin;
        /* The first hundred batches are counted too. */
        unsigned counted = COUNTED + 100 * batch;
        printf("%u %.0f\n", counted, took * 1e9 * counted / COUNTED);
        return 0;
    }
    char line[8];
    while (fgets(line, sizeof line, stdin)) {
        double begin = now();
        for (int index = 0; index < BATCHES; index++) batch_once(&ring, BATCH);
        printf("%.6f\n", BATCH * BATCHES / (now() - begin) / 1e6);
        fflush(stdout);
    }
    return 0;
}
