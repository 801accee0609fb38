/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A card of the decoder: what stands in its memory, and steps that it runs. */
#ifndef CARD_H
#define CARD_H

#include <math.h>

#include "figures.h"
#include "reduce.h"
#include "split.h"

#define STEP_LIMIT_NS INT64_C(60000000000)  /* a step that takes longer has failed */
#define WAIT_LIMIT_NS UINT64_C(30000000000) /* so has one of several cards: one of the others is gone */

struct card {
    jal_session session;
    jal_queue queue;
    jal_graph token;         /* what one takes; 0: the card has no graphs */
    jal_clock clock;         /* some moment, for deadlines */
    uint64_t ticks_per_second;
    uint32_t cards, rank;
    uint32_t heads, kv_heads, ff; /* its own of the model's */
    struct reduce reduce;
    struct batch batch;
    struct entry *parts;     /* its weights, in the model's order; offsets count from `weights` */
    uint8_t *host;           /* pinned: what goes to the card and comes from it */
    uint64_t host_address;
    uint64_t in, logits;     /* places in `host` */
    double joules;           /* of what was waited for; no number: the card does not tell */
    /* in HBM: weights, inputs, keys, values, and activations */
    uint64_t weights, inputs, keys, values, x[2], h, n, q, k, v, turned, scores, mixed, gate, up, out;
};

/* Places of the inputs, by the context's length: bytes in, positions, cache rows, mask. */
#define IN_POSITIONS(context) ((uint64_t)(context) * 4)
#define IN_ROWS(context) ((uint64_t)(context) * 8)
#define IN_MASK(context) ((uint64_t)(context) * 16)

/* Sums over the cards that one step takes. */
static uint64_t reduces(const struct card *c, const struct model *m) { return c->cards > 1 ? 2 * (uint64_t)m->layers : 0; }

/* Of two steps: one is recorded from two. */
static size_t packets_needed(const struct card *c, const struct model *m) {
    return 2 * (8 + (size_t)m->layers * 21 + (size_t)reduces(c, m) * reduce_packets(c->cards));
}

/* Device time by which a step must be over; 0 for one card, which waits for nobody. */
static uint64_t deadline(const struct card *c) {
    struct timespec t;
    uint64_t past;
    if (c->cards == 1) return 0;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    past = (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec - c->clock.monotonic_raw + WAIT_LIMIT_NS;
    return c->clock.device + (uint64_t)((double)past * 1e-9 * (double)c->ticks_per_second);
}

/* Waits for the jobs that were submitted, up to `sequence`, and adds up what they took. */
static void await(struct card *c, uint64_t sequence, size_t jobs) {
    struct jalapeno_hw_fault_record fault;
    jal_stats stats = {.struct_size = sizeof stats};
    jal_status status = jal_wait(c->queue, sequence, STEP_LIMIT_NS);
    if ((status == JAL_ERROR_FAULT || status == JAL_ERROR_CANCELLED) &&
        jal_queue_fault(c->queue, &fault) == JAL_OK)
        fail(1, fault.code == JALAPENO_HW_FAULT_CODE_DEADLINE && c->cards > 1
                ? "see whether the other cards are there: jalctl list" : "jalctl explain CODE says what it means",
             "card %" PRIu32 ": packet %" PRIu64 " of the step failed: fault %#" PRIx32 ", opcode %" PRIu32
             ", kernel %" PRIu32 ", operand %" PRId64 ", address %#" PRIx64, c->rank,
             fault.detail[3] != 0 ? fault.detail[3] - 1 : fault.cookie, fault.code, fault.opcode,
             fault.kernel, (int64_t)fault.operand - 1, fault.address);
    check(status, "wait for a step");
    for (; jobs > 0 && !isnan(c->joules); jobs--, c->joules += (double)stats.energy_nj * 1e-9)
        check(jal_job_stats(c->queue, sequence + 1 - jobs, &stats), "ask what a job took");
}

/* Submits what was composed; gives the last one's number. */
static uint64_t go(struct card *c) {
    uint64_t sequence, by = deadline(c);
    size_t i;
    for (i = 0; i < c->batch.count; i++) c->batch.packets[i].deadline = by;
    check(jal_submit(c->queue, c->batch.packets, c->batch.count, sizeof c->batch.packets[0], &sequence), "submit");
    return sequence;
}

/* A card's weights, placed from offset 0 on; gives their bytes. With a place they are copied there. */
static uint64_t place_weights(struct card *c, const struct model *m, uint8_t *into) {
    uint64_t end = 0, i;
    for (i = 0; i < m->count; i++) {
        const struct entry *e = &m->entries[i];
        struct entry *part = &c->parts[i];
        take_part(m, e, c->cards, c->rank, part, NULL);
        part->offset = carve(&end, (uint64_t)part->ne[0] * part->ne[1] * weight_bytes(part->type));
        if (into != NULL) {
            struct entry placed;
            take_part(m, e, c->cards, c->rank, &placed, into + part->offset);
        }
    }
    return end;
}

/* Takes the memory that a card of the decoder needs, and puts its weights there. */
static void open_card(struct card *c, const struct model *m, jal_device device, uint32_t cards, uint32_t rank) {
    jal_device_info info = {.struct_size = sizeof info};
    jal_buffer_info memory = {.struct_size = sizeof memory};
    jal_queue_options options = {.struct_size = sizeof options};
    jal_buffer hbm, host;
    const uint64_t t = m->context, kv = (uint64_t)m->dim / m->heads * m->kv_heads / cards;
    const uint64_t wide = m->ff > m->dim ? m->ff : m->dim;
    uint64_t need = 0, pinned = 0, blocks, tensors, i;
    uint8_t *staged;
    uint64_t *const places[] = {&c->weights, &c->inputs, &c->keys, &c->values, &c->x[0], &c->x[1], &c->h,
                                &c->n, &c->q, &c->k, &c->v, &c->turned, &c->scores, &c->mixed, &c->gate,
                                &c->up, &c->out};
    c->cards = cards;
    c->rank = rank;
    c->heads = m->heads / cards;
    c->kv_heads = m->kv_heads / cards;
    c->ff = m->ff / cards;
    check(jal_device_get_info(device, &info), "ask what card it is");
    check(jal_session_create(device, &c->session), "start a session");
    c->ticks_per_second = info.ticks_per_second;
    c->clock.struct_size = sizeof c->clock;
    check(jal_device_clock(device, &c->clock), "ask what time it is");
    c->parts = calloc((size_t)m->count, sizeof *c->parts);
    if (c->parts == NULL) fail(1, "free some memory", "no memory for the tensor table");

    tensors = place_weights(c, m, NULL);
    c->weights = carve(&need, tensors);
    c->inputs = carve(&need, IN_MASK(t) + t * t * 4);
    c->keys = carve(&need, t * kv * 2 * m->layers);
    c->values = carve(&need, t * kv * 2 * m->layers);
    c->x[0] = carve(&need, t * m->dim * 4);
    c->x[1] = carve(&need, t * m->dim * 4);
    c->h = carve(&need, t * m->dim * 4);
    c->n = carve(&need, t * m->dim * 4);
    c->q = carve(&need, t * m->dim * 4);
    c->k = carve(&need, t * kv * 4);
    c->v = carve(&need, t * kv * 4);
    c->turned = carve(&need, t * wide * 4);
    c->scores = carve(&need, t * t * c->heads * 4);
    c->mixed = carve(&need, t * t * c->heads * 4);
    c->gate = carve(&need, t * c->ff * 4);
    c->up = carve(&need, t * c->ff * 4);
    c->out = carve(&need, t * VOCABULARY * 4);
    if (need > info.hbm_bytes)
        fail(1, "use a smaller model, or start the emulator with a larger --hbm",
             "the model needs %" PRIu64 " bytes of HBM and the card has %" PRIu64, need,
             info.hbm_bytes);
    check(jal_device_alloc(c->session, need, &hbm), "allocate HBM for weights, cache and activations");
    check(jal_buffer_get_info(hbm, &memory), "ask where the HBM is");
    staged = malloc(tensors);
    if (staged == NULL) fail(1, "free some memory", "no memory for %" PRIu64 " bytes of weights", tensors);
    place_weights(c, m, staged);
    check(jal_buffer_write(hbm, c->weights, staged, tensors), "copy the weights to HBM");
    free(staged);
    for (i = 0; i < sizeof places / sizeof places[0]; i++) *places[i] += memory.address;

    c->batch.capacity = packets_needed(c, m);
    c->in = carve(&pinned, IN_MASK(t) + t * t * 4);
    blocks = carve(&pinned, c->batch.capacity * BLOCK_BYTES);
    c->logits = carve(&pinned, t * VOCABULARY * 4);
    check(jal_host_alloc(c->session, pinned, 0, &host), "allocate pinned memory");
    check(jal_buffer_get_info(host, &memory), "ask where the pinned memory is");
    c->host = memory.host;
    c->host_address = memory.address;
    c->batch.blocks = c->host + blocks;
    c->batch.address = c->host_address + blocks;
    c->batch.packets = calloc(c->batch.capacity, sizeof *c->batch.packets);
    if (c->batch.packets == NULL) fail(1, "free some memory", "no memory for packets");
    for (options.depth = 64; options.depth < c->batch.capacity;) options.depth *= 2;
    options.flags = JAL_QUEUE_PROFILE; /* of jobs of the last `depth`, so of a whole step */
    if (jal_queue_create(c->session, &options, &c->queue) != JAL_OK) { /* then without figures */
        options.flags = 0, c->joules = NAN;
        check(jal_queue_create(c->session, &options, &c->queue), "create a queue");
    }
    fprintf(stderr, "card      %s, %s firmware %s, %.1f GB of HBM, by %s\n", info.product,
            info.platform == JALAPENO_HW_PLATFORM_EMULATOR ? "EMULATED," : "silicon,", info.firmware,
            (double)info.hbm_bytes / 1e9, info.backend);
    fprintf(stderr, "model     %s, %.2f MB of weights in %.2f MB of HBM\n", m->path,
            (double)tensors / 1e6, (double)need / 1e6);
}

#endif
