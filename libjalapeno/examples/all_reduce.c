/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Sums vectors of floats over cards, again and again: recorded once on each card, then one packet a
 * card and round. Every result is compared, bit by bit, with a sum that the host computes.
 *
 *     jalctl emulate --devices 4 -- all_reduce 4 100000 50        cards, floats, rounds
 */
#define _POSIX_C_SOURCE 200809L

#include "figures.h"
#include "record.h"
#include "reduce.h"

#define WAIT_LIMIT_NS INT64_C(10000000000) /* a round that takes longer has failed: a card is gone */
#define NUMBER 2u /* of the first: even, and not 0 */

struct card {
    jal_session session;
    jal_queue queue;
    jal_graph graph;
    struct batch batch;
    struct reduce reduce;
    jal_clock clock; /* some moment, for deadlines */
    uint64_t ticks_per_second;
    uint64_t input, output; /* in HBM */
    float *host;            /* pinned: a vector that goes there, then one that comes back */
    uint64_t host_address;
};

/* What card `rank` has in round `round`: of either sign and many sizes, so that order matters. */
static float term(uint32_t rank, uint64_t round, uint64_t i) {
    uint64_t z = (rank * UINT64_C(0x9E3779B97F4A7C15)) ^ (round << 40) ^ i;
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return ((float)(z >> 40) - 8388608.0f) / (float)(1u << (z & 15));
}

static void open_card(struct card *c, jal_device device, uint64_t floats) {
    jal_buffer_info info = {.struct_size = sizeof info};
    const size_t packets = 2 * (2 + reduce_packets(CARDS_LIMIT));
    const uint64_t vector = (floats * 4 + 255) / 256 * 256;
    jal_buffer hbm, host;
    jal_device_info about = {.struct_size = sizeof about};
    check(jal_device_get_info(device, &about), "ask how its time runs");
    c->ticks_per_second = about.ticks_per_second;
    c->clock.struct_size = sizeof c->clock;
    check(jal_device_clock(device, &c->clock), "ask what time it is");
    check(jal_session_create(device, &c->session), "start a session");
    check(jal_queue_create(c->session, NULL, &c->queue), "create a queue");
    check(jal_device_alloc(c->session, vector, &hbm), "allocate a vector");
    check(jal_buffer_get_info(hbm, &info), "ask where the vector is");
    c->input = info.address;
    check(jal_host_alloc(c->session, 2 * vector + packets * BLOCK_BYTES, 0, &host), "allocate pinned memory");
    check(jal_buffer_get_info(host, &info), "ask where the pinned memory is");
    c->host = info.host;
    c->host_address = info.address;
    c->output = info.address + vector;
    c->batch.blocks = (uint8_t *)info.host + 2 * vector;
    c->batch.address = info.address + 2 * vector;
    c->batch.packets = calloc(packets, sizeof *c->batch.packets);
    if (c->batch.packets == NULL) fail(1, "free some memory", "no memory for packets");
}

/* One round of one card, as all-reduce `number`. */
static void compose(struct card *c, uint64_t number, uint64_t floats) {
    uint64_t sum;
    push(&c->batch, jal_packet_copy(c->input, c->host_address, floats * 4));
    sum = all_reduce(&c->batch, &c->reduce, number, c->input, floats);
    push(&c->batch, jal_packet_copy(c->output, sum, floats * 4));
}

/* Value 0 of a run is whether its round is odd, value 1 how many pairs of rounds went before. */
static void record_round(struct card *c, uint64_t floats) {
    const uint32_t limits[2] = {1, UINT32_MAX};
    const struct follows fences = {1, 2};
    check(jal_graph_create(c->session, &c->graph), "record a graph");
    compose(c, NUMBER, floats);
    compose(c, NUMBER + 1, floats);
    record(c->graph, &c->batch, 0, fences);
    check(jal_graph_finish(c->graph, limits, 2), "finish a graph");
}

/* Device time that is a limit from now on. */
static uint64_t deadline(const struct card *c) {
    struct timespec t;
    double past;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    past = (double)t.tv_sec * 1e9 + (double)t.tv_nsec - (double)c->clock.monotonic_raw + (double)WAIT_LIMIT_NS;
    return c->clock.device + (uint64_t)(past * 1e-9 * (double)c->ticks_per_second);
}

/* Starts a card's round; 0: it could not, as is said. */
static uint64_t start(struct card *c, uint32_t rank, uint64_t round) {
    const uint32_t values[2] = {round & 1, (uint32_t)(round >> 1)};
    struct jalapeno_hw_packet run;
    uint64_t sequence = 0;
    jal_status status;
    check(jal_graph_get_packet(c->graph, values, 2, &run), "run a round");
    run.deadline = deadline(c);
    status = jal_submit_one(c->queue, &run, &sequence);
    if (status == JAL_OK) return sequence;
    fprintf(stderr, "card %" PRIu32 ": %s: %s\n", rank, jal_status_string(status), jal_error_detail());
    return 0;
}

/* Waits for a card's round. Gives whether it went well, and says why not. */
static int await(struct card *c, uint32_t rank, uint64_t sequence) {
    struct jalapeno_hw_fault_record fault;
    jal_status status;
    if (sequence == 0) return 0;
    status = jal_wait(c->queue, sequence, 2 * WAIT_LIMIT_NS);
    if (status == JAL_OK) return 1;
    fprintf(stderr, "card %" PRIu32 ": %s: %s\n", rank, jal_status_string(status), jal_error_detail());
    if (jal_queue_fault(c->queue, &fault) == JAL_OK)
        fprintf(stderr, "card %" PRIu32 ": packet %" PRIu64 " of the round: fault %#" PRIx32 "\n", rank,
                fault.detail[3] - 1, fault.code);
    return 0;
}

static uint64_t number_of(const char *text, uint64_t most) {
    char *end;
    uint64_t value = strtoull(text, &end, 10);
    if (*end != '\0' || end == text || value - 1 >= most)
        fail(2, "all_reduce CARDS FLOATS ROUNDS", "%s: not a number from 1 to %" PRIu64, text, most);
    return value;
}

int main(int argc, char **argv) {
    static struct card cards[CARDS_LIMIT];
    jal_session sessions[CARDS_LIMIT];
    struct reduce *reduces[CARDS_LIMIT];
    uint64_t sequence[CARDS_LIMIT], floats, rounds, round, i;
    uint32_t count, rank;
    double seconds = 0;
    if (argc != 4) fail(2, "all_reduce CARDS FLOATS ROUNDS", "three numbers are wanted");
    count = (uint32_t)number_of(argv[1], CARDS_LIMIT);
    floats = number_of(argv[2], 1u << 26);
    rounds = number_of(argv[3], 1u << 30);
    open_devices(count, NULL);
    for (rank = 0; rank < count; rank++) {
        open_card(&cards[rank], devices[rank], floats);
        sessions[rank] = cards[rank].session;
        reduces[rank] = &cards[rank].reduce;
    }
    reduce_open(reduces, sessions, count, floats);
    for (rank = 0; rank < count; rank++) record_round(&cards[rank], floats);

    for (round = 0; round < rounds; round++) {
        int well = 1;
        double begin;
        for (rank = 0; rank < count; rank++)
            for (i = 0; i < floats; i++) cards[rank].host[i] = term(rank, round, i);
        begin = now();
        for (rank = 0; rank < count; rank++) sequence[rank] = start(&cards[rank], rank, round);
        for (rank = 0; rank < count; rank++) well &= await(&cards[rank], rank, sequence[rank]);
        if (!well) fail(9, "jalctl list shows which cards are there", "round %" PRIu64 " failed", round);
        seconds += now() - begin;
        for (i = 0; i < floats; i++) {
            float sum = term(0, round, i);
            for (rank = 1; rank < count; rank++) sum += term(rank, round, i);
            for (rank = 0; rank < count; rank++) {
                const float got = cards[rank].host[(cards[rank].output - cards[rank].host_address) / 4 + i];
                if (memcmp(&got, &sum, 4) != 0)
                    fail(1, "report it", "round %" PRIu64 ", card %" PRIu32 ", float %" PRIu64 ": %.9g, and not %.9g",
                         round, rank, i, (double)got, (double)sum);
            }
        }
    }
    printf("%" PRIu64 " rounds of %" PRIu64 " floats on %" PRIu32 " cards: %.1f us each, all sums as the host's\n",
           rounds, floats, count, seconds * 1e6 / (double)rounds);
    for (rank = 0; rank < count; rank++) free(cards[rank].batch.packets);
    while (devices_open > 0) check(jal_device_close(devices[--devices_open]), "close a card");
    return 0;
}
