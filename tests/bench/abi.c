/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What commands cost through the C ABI: NOPs on a real device.
 *
 * abi one|batch DEVICE: prints "COMMANDS NANOSECONDS", the time spent inside the library's calls.
 * Under callgrind only jal_submit_one, jal_poll, jal_submit and jal_reap are counted. Between
 * submitting and reaping the program sleeps, so that the call that reaps finds everything done: a
 * second look is counted like the first.
 */
#include <jalapeno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCH = 32, ROUNDS = 1000 };

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static void must(jal_status status, const char *tried) {
    if (status == JAL_OK) return;
    fprintf(stderr, "%s: %s: %s\n", tried, jal_status_string(status), jal_error_detail());
    exit(1);
}

static void rest(void) {
    struct timespec time = {0, 400 * 1000}; /* a busy machine has other things to do first */
    nanosleep(&time, NULL);
}

/* One NOP by jal_submit_one and jal_poll; nanoseconds in the calls. */
static double one(jal_queue queue, const struct jalapeno_hw_packet *packet) {
    uint64_t sequence, done = 0;
    double begin = now();
    jal_status status = jal_submit_one(queue, packet, &sequence);
    double took = now() - begin;
    must(status, "jal_submit_one");
    rest();
    do {
        begin = now();
        status = jal_poll(queue, &done);
        took += now() - begin;
        must(status, "jal_poll");
        if (done < sequence) rest();
    } while (done < sequence);
    return took;
}

/* A batch by jal_submit and jal_reap, each completion delivered. */
static double batch(jal_queue queue, const struct jalapeno_hw_packet *packets) {
    jal_completion out[BATCH];
    uint64_t sequence;
    size_t home = 0;
    double begin = now();
    jal_status status = jal_submit(queue, packets, BATCH, sizeof *packets, &sequence);
    double took = now() - begin;
    must(status, "jal_submit");
    while (home < BATCH) {
        size_t count = 0;
        rest();
        begin = now();
        status = jal_reap(queue, out + home, BATCH - home, sizeof *out, &count);
        took += now() - begin;
        must(status, "jal_reap");
        home += count;
    }
    for (size_t index = 0; index < BATCH; index++) {
        if (out[index].status != JAL_OK || out[index].cookie != index) {
            fprintf(stderr, "completion %zu: %s, cookie %llu\n", index,
                    jal_status_string(out[index].status), (unsigned long long)out[index].cookie);
            exit(1);
        }
    }
    return took;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: abi one|batch DEVICE\n");
        return 2;
    }
    int batched = strcmp(argv[1], "batch") == 0;
    struct jalapeno_hw_packet packets[BATCH];
    for (uint64_t index = 0; index < BATCH; index++) {
        packets[index] = jal_packet_nop();
        packets[index].cookie = index;
    }
    jal_device device;
    jal_session session;
    jal_queue queue;
    jal_queue_options options = {.struct_size = sizeof options, .flags = batched ? JAL_QUEUE_COMPLETIONS : 0};
    must(jal_device_open(argv[2], NULL, &device), "jal_device_open");
    must(jal_session_create(device, &session), "jal_session_create");
    must(jal_queue_create(session, &options, &queue), "jal_queue_create");

    double begin = now(), clock = 0, took = 0;
    for (int index = 0; index < ROUNDS; index++) clock = now();
    clock = (clock - begin) / ROUNDS;
    for (int index = 0; index < ROUNDS; index++)
        took += batched ? batch(queue, packets) : one(queue, packets);
    took -= 2 * ROUNDS * clock; /* of two readings around each of two calls, one is in between */

    must(jal_device_close(device), "jal_device_close");
    printf("%d %.0f\n", ROUNDS * (batched ? BATCH : 1), took);
    return 0;
}
