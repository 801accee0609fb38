/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What a token costs the host when it is a recorded graph.
 *
 * graph LAYERS count|calls|doorbells DEVICE. The graph has a decoded token's form: token, position and cache
 * slot stored, then 21 launches a layer of which 19 words change from token to token. `count` prints
 * "TOKENS NANOSECONDS", the time inside jal_graph_replay and jal_wait, which callgrind counts; between
 * the two the program sleeps, so that the wait finds the token done. `calls` polls instead, under a
 * filter that counts system calls, and prints "TOKENS PACKETS SYSTEM-CALLS". `doorbells` polls without
 * the filter, between two lines in and two out: whoever reads them asks the emulator what it counted.
 */
#define _GNU_SOURCE
#include <jalapeno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { TOKENS = 200, LAUNCHES = 21, CHANGES = 19, FLOATS = 16, CONTEXT = 1024 };

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

static struct jalapeno_hw_tensor row(uint64_t address) {
    struct jalapeno_hw_tensor t = {address, JALAPENO_HW_DTYPE_F32, 0, {FLOATS, 1, 1, 1}, {4, 0, 0, 0}};
    t.nb[1] = t.nb[2] = t.nb[3] = 4 * FLOATS;
    return t;
}

static void patch(jal_graph graph, uint32_t step, uint32_t place, size_t offset, uint32_t value, uint64_t scale) {
    jal_patch patch = {sizeof patch, step, place, (uint32_t)offset, 8, value, scale};
    must(jal_graph_patch(graph, &patch), "jal_graph_patch");
}

/* Three words and `layers` x 21 launches; position p works on row p. */
static jal_graph record(jal_session session, uint64_t memory, int layers) {
    const uint32_t limits[3] = {UINT32_MAX, CONTEXT - 1, CONTEXT - 1};
    struct jalapeno_hw_parameters same = {{0x3F800000}}; /* times 1.0 */
    jal_graph graph;
    must(jal_graph_create(session, &graph), "jal_graph_create");
    for (uint32_t value = 0; value < 3; value++) {
        struct jalapeno_hw_packet fill = jal_packet_fill(memory + 8 * value, 8, 0);
        must(jal_graph_add(graph, &fill, NULL), "jal_graph_add");
        patch(graph, value, JAL_PLACE_PACKET, offsetof(struct jalapeno_hw_packet, body[2]), value, 1);
    }
    for (uint32_t index = 0; index < (uint32_t)layers * LAUNCHES; index++) {
        const uint64_t from = memory + 4096, to = from + (uint64_t)CONTEXT * 4 * FLOATS;
        struct jalapeno_hw_tensor operands[2] = {row(to), row(from)};
        uint32_t step, operand = index % 2;
        must(jal_graph_launch(graph, JALAPENO_HW_KERNEL_ID_SCALE, &same, operands, 2,
                              sizeof operands[0], &step),
             "jal_graph_launch");
        if (index % LAUNCHES < CHANGES)
            patch(graph, step, JAL_PLACE_TENSOR(operand), 0, 1, 4 * FLOATS);
    }
    must(jal_graph_finish(graph, limits, 3), "jal_graph_finish");
    return graph;
}

static volatile sig_atomic_t calls;

static void called(int signal) {
    (void)signal;
    calls++;
}

/* From here on this thread's system calls are counted and do nothing, but for what ends it. */
static int watch(void) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    struct sigaction action = {0};
    action.sa_handler = called;
    return sigaction(SIGSYS, &action, NULL) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

int main(int argc, char **argv) {
    const struct timespec rest = {0, 10 * 1000 * 1000};
    jal_device device;
    jal_session session;
    jal_queue queue;
    jal_buffer buffer;
    jal_buffer_info info = {.struct_size = sizeof info};
    jal_queue_counters before = {.struct_size = sizeof before}, after = before;
    uint64_t sequence = 0, done = 0;
    jal_status status = JAL_OK;
    double begin, clock = 0, took = 0;
    char line[64];
    if (argc != 4 || atoi(argv[1]) < 1) {
        fprintf(stderr, "usage: graph LAYERS count|calls DEVICE\n");
        return 2;
    }
    must(jal_device_open(argv[3], NULL, &device), "jal_device_open");
    must(jal_session_create(device, &session), "jal_session_create");
    must(jal_queue_create(session, NULL, &queue), "jal_queue_create");
    must(jal_host_alloc(session, 4096 + 2 * CONTEXT * 4 * FLOATS, 0, &buffer), "jal_host_alloc");
    must(jal_buffer_get_info(buffer, &info), "jal_buffer_get_info");
    jal_graph graph = record(session, info.address, atoi(argv[1]));
    volatile uint64_t *stored = info.host;

    const int doorbells = strcmp(argv[2], "doorbells") == 0;
    if (doorbells || strcmp(argv[2], "calls") == 0) {
        must(jal_queue_get_counters(queue, &before), "jal_queue_get_counters");
        if (doorbells && (puts("ready") < 0 || fflush(stdout) != 0 || !fgets(line, sizeof line, stdin))) {
            perror("wait for a line");
            return 1;
        }
        if (!doorbells && watch() != 0) {
            perror("count system calls");
            return 1;
        }
        for (uint32_t token = 0; token < TOKENS && status == JAL_OK; token++) {
            const uint32_t values[3] = {token, token, token};
            status = jal_graph_replay(graph, queue, values, 3, &sequence);
            while (status == JAL_OK && done < sequence) status = jal_poll(queue, &done);
            if (stored[0] != token || stored[2] != token) status = JAL_ERROR_INTERNAL;
        }
        must(status, "replay and poll"); /* at the worst it ends without words */
        must(jal_queue_get_counters(queue, &after), "jal_queue_get_counters");
        int length = snprintf(line, sizeof line, "%d %d %d\n", TOKENS,
                              (int)(after.submitted - before.submitted), (int)calls);
        if (write(STDOUT_FILENO, line, (size_t)length) != length) _exit(1);
        /* Nothing more is rung before the second line: closing would be. */
        _exit(doorbells && !fgets(line, sizeof line, stdin));
    }
    begin = now();
    for (int index = 0; index < TOKENS; index++) clock = now();
    clock = (clock - begin) / TOKENS;
    for (uint32_t token = 0; token < TOKENS; token++) {
        const uint32_t values[3] = {token, token, token};
        begin = now();
        status = jal_graph_replay(graph, queue, values, 3, &sequence);
        took += now() - begin;
        must(status, "jal_graph_replay");
        do {
            nanosleep(&rest, NULL);
            must(jal_poll(queue, &done), "jal_poll");
        } while (done < sequence);
        begin = now();
        status = jal_wait(queue, sequence, JAL_FOREVER);
        took += now() - begin;
        must(status, "jal_wait");
        if (stored[0] != token || stored[2] != token) {
            fprintf(stderr, "token %u: the card stored %llu\n", token, (unsigned long long)stored[0]);
            return 1;
        }
    }
    must(jal_device_close(device), "jal_device_close");
    printf("%d %.0f\n", TOKENS, took - 2 * TOKENS * clock);
    return 0;
}
