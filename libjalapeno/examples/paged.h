/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A model on a card with a cache in pages, and its step: rows of any sequences go through all layers
 * at once. A row is a byte at a position of a sequence. All rows of a step write their keys and values
 * before any row looks, and a row looks at as many keys as it says: so a step may have one row of each
 * of many sequences, many rows of one, or both. A step is recorded once for each number of rows, and
 * is then run by one packet; what differs from step to step stands in pinned memory.
 */
#ifndef PAGED_H
#define PAGED_H

#include <math.h>

#include "failure.h"
#include "gguf.h"
#include "tensors.h"

#define STEP_LIMIT_NS UINT64_C(10000000000) /* a step that takes longer has failed */
#define WITHIN 256u                         /* most likely bytes that a draw looks at: all */

/* What a row is, in pinned memory; the pages of its sequence's cache follow it. */
struct row { int32_t byte, position, seen, place; int32_t pages[]; };

struct paged {
    const struct model *model;
    jal_session session;
    jal_queue queue;
    jal_graph *steps;          /* of 1 to `rows` rows */
    uint32_t rows;             /* most of a step */
    uint32_t page, pages, most; /* positions of a page; pages there are, and of one sequence */
    int32_t *unused;           /* pages that no sequence has: a stack */
    uint32_t spare;
    uint32_t drawn;            /* most likely bytes that come home; 0: only the likeliest */
    uint8_t *host;             /* pinned: rows, then the likeliest bytes, stamps and logits */
    uint64_t host_address, stride, best, stamps, logits;
    uint64_t weights;          /* where the model's tensors begin in HBM */
    uint64_t inputs, keys, values, x[2], h, n, q, k, v, turned, gate, up, out, likeliest; /* in HBM */
    double joules, counted;    /* of the steps so far: by their records, by the card's counter */
    jal_clock clock;
    uint64_t ticks_per_second, sequence;
};

static inline struct row *row_at(const struct paged *p, uint32_t i) {
    return (struct row *)(void *)(p->host + p->stride * i);
}

/* ---- One step, recorded --------------------------------------------------------------------- */

static void launch_step(jal_graph graph, uint32_t kernel, parameters p, const tensor *t, size_t count) {
    check(jal_graph_launch(graph, kernel, &p, t, count, sizeof *t, NULL), "record a launch");
}

static void add_copy(jal_graph graph, uint64_t to, uint64_t from, uint64_t bytes) {
    struct jalapeno_hw_packet packet = jal_packet_copy(to, from, bytes);
    check(jal_graph_add(graph, &packet, NULL), "record a copy");
}

/* A LAUNCH of these tensors, the destination first. */
#define DO(kernel, p, ...)                                                         \
    launch_step(graph, JALAPENO_HW_KERNEL_ID_##kernel, p, (const tensor[]){__VA_ARGS__}, \
                sizeof((const tensor[]){__VA_ARGS__}) / sizeof(tensor))

/* A weight by name; load_model() saw that it is there. */
static tensor weight(const struct paged *p, uint32_t layer, const char *part) {
    const struct entry *e = find_weight(p->model, layer, part);
    return dense(p->weights + e->offset, e->type, e->ne[0], e->ne[1], 1);
}

/* A word of every row. */
static tensor of_rows(const struct paged *p, size_t offset, uint32_t rows) {
    tensor t = dense(p->inputs + offset, JALAPENO_HW_DTYPE_I32, rows, 1, 1);
    t.nb[0] = p->stride;
    return t;
}

/* One layer's work on x[0]. */
static void record_layer(const struct paged *p, jal_graph graph, uint32_t layer, uint32_t rows) {
    const struct model *m = p->model;
    const uint32_t f32 = JALAPENO_HW_DTYPE_F32, f16 = JALAPENO_HW_DTYPE_F16;
    const uint32_t size = m->dim / m->heads, kv = size * m->kv_heads, all = p->page * p->pages;
    const uint64_t cache = (uint64_t)all * kv * 2 * layer;
    const parameters norm = real(m->epsilon), rope = turning(m->turned, m->context, m->base), nothing = none();
    parameters attention = real(1.0f / sqrtf((float)size));
    const tensor x = dense(p->x[0], f32, m->dim, rows, 1), y = dense(p->x[1], f32, m->dim, rows, 1);
    const tensor n = dense(p->n, f32, m->dim, rows, 1), h = dense(p->h, f32, m->dim, rows, 1);
    const tensor q = dense(p->q, f32, m->dim, rows, 1), k = dense(p->k, f32, kv, rows, 1);
    const tensor v = dense(p->v, f32, kv, rows, 1), absent = {0};
    const tensor gate = dense(p->gate, f32, m->ff, rows, 1), up = dense(p->up, f32, m->ff, rows, 1);
    const tensor at = of_rows(p, offsetof(struct row, position), rows);
    const tensor place = of_rows(p, offsetof(struct row, place), rows);
    const tensor seen = of_rows(p, offsetof(struct row, seen), rows);
    const tensor into = dense(p->keys + cache, f16, kv, all, 1);
    const tensor wide = dense(p->turned, f32, m->ff, rows, 1);
    tensor pages = dense(p->inputs + offsetof(struct row, pages), JALAPENO_HW_DTYPE_I32, p->most, rows, 1);
    tensor keys = dense(p->keys + cache, f16, size, all, m->kv_heads), values, heads, mixed;
    pages.nb[1] = p->stride;

    DO(RMS_NORM, norm, n, x);
    DO(MUL, nothing, h, n, weight(p, layer, "attn_norm"));
    DO(MUL_MAT, nothing, q, weight(p, layer, "attn_q"), h);
    DO(MUL_MAT, nothing, k, weight(p, layer, "attn_k"), h);
    DO(MUL_MAT, nothing, v, weight(p, layer, "attn_v"), h);
    DO(ROPE, rope, dense(p->turned, f32, size, m->kv_heads, rows), dense(p->k, f32, size, m->kv_heads, rows), at);
    DO(SET_ROWS, nothing, into, dense(p->turned, f32, kv, rows, 1), place);
    DO(SET_ROWS, nothing, dense(p->values + cache, f16, kv, all, 1), v, place);

    /* Each row is a sequence of its own to ATTENTION: it has pages, keys that it sees, one query. */
    DO(ROPE, rope, dense(p->turned, f32, size, m->heads, rows), dense(p->q, f32, size, m->heads, rows), at);
    keys = strided(keys, (uint64_t)kv * 2, size * 2u);
    values = keys;
    values.address = p->values + cache;
    heads = dense(p->turned, f32, size, 1, m->heads);
    heads.ne[3] = rows;
    heads.nb[3] = (uint64_t)m->dim * 4;
    mixed = heads;
    mixed.address = p->h;
    attention.word[3] = p->page;
    attention.word[4] = p->page * p->most;
    DO(ATTENTION, attention, mixed, heads, keys, values, absent, absent, pages, seen);
    DO(MUL_MAT, nothing, n, weight(p, layer, "attn_output"), h);
    DO(ADD, nothing, y, x, n);

    DO(RMS_NORM, norm, n, y);
    DO(MUL, nothing, h, n, weight(p, layer, "ffn_norm"));
    DO(MUL_MAT, nothing, gate, weight(p, layer, "ffn_gate"), h);
    DO(MUL_MAT, nothing, up, weight(p, layer, "ffn_up"), h);
    DO(SWIGLU, nothing, wide, gate, up);
    DO(MUL_MAT, nothing, n, weight(p, layer, "ffn_down"), wide);
    DO(ADD, nothing, x, y, n);
}

/* Records the step of so many rows: they come from pinned memory, and a byte each goes home. */
static void record_step(struct paged *p, uint32_t rows) {
    const struct model *m = p->model;
    const uint32_t f32 = JALAPENO_HW_DTYPE_F32, i32 = JALAPENO_HW_DTYPE_I32;
    const parameters nothing = none();
    const tensor x = dense(p->x[0], f32, m->dim, rows, 1), n = dense(p->n, f32, m->dim, rows, 1);
    const tensor h = dense(p->h, f32, m->dim, rows, 1), out = dense(p->out, f32, VOCABULARY, rows, 1);
    const uint32_t each = p->drawn > 0 ? p->drawn : 1;
    const tensor byte = of_rows(p, offsetof(struct row, byte), rows);
    jal_graph graph;
    uint32_t layer;
    check(jal_graph_create(p->session, &graph), "record a step");
    add_copy(graph, p->inputs, p->host_address, p->stride * rows);
    DO(GET_ROWS, nothing, x, weight(p, m->layers, "token_embd"), byte);
    for (layer = 0; layer < m->layers; layer++) record_layer(p, graph, layer, rows);
    DO(RMS_NORM, real(m->epsilon), n, x);
    DO(MUL, nothing, h, n, weight(p, m->layers, "output_norm"));
    DO(MUL_MAT, nothing, out, weight(p, m->layers, "token_embd"), h);
    if (p->drawn == 0) DO(ARGMAX, nothing, dense(p->likeliest, i32, rows, 1, 1), out);
    else DO(TOP_K, nothing, dense(p->likeliest, i32, p->drawn, rows, 1), out);
    add_copy(graph, p->host_address + p->best, p->likeliest, (uint64_t)rows * each * 4);
    if (p->drawn > 0) add_copy(graph, p->host_address + p->logits, p->out, (uint64_t)rows * VOCABULARY * 4);
    check(jal_graph_finish(graph, NULL, 0), "finish a step");
    p->steps[rows] = graph;
}

/* ---- One step, run -------------------------------------------------------------------------- */

/* Asks the card what time it is; it is there if it answers. */
static void set_clock(struct paged *p) {
    p->clock.struct_size = sizeof p->clock;
    check(jal_device_clock(devices[0], &p->clock), "ask the card for its time");
}

/* The device time at which what is submitted now has failed. */
static uint64_t step_deadline(struct paged *p) {
    struct timespec t;
    uint64_t passed;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    passed = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec - p->clock.monotonic_raw;
    if (passed > 6 * STEP_LIMIT_NS) set_clock(p), passed = 0; /* two clocks drift apart */
    return p->clock.device + (uint64_t)((double)(passed + STEP_LIMIT_NS) * 1e-9 * (double)p->ticks_per_second);
}

/* Runs the first `rows` rows. Before and after it the card writes down what it has counted. */
static void begin_step(struct paged *p, uint32_t rows) {
    struct jalapeno_hw_packet packets[3];
    packets[0] = packets[2] = jal_packet(JALAPENO_HW_OPCODE_TIMESTAMP, 0);
    packets[0].body[0] = p->host_address + p->stamps;
    packets[2].body[0] = p->host_address + p->stamps + sizeof(struct jalapeno_hw_stamp);
    check(jal_graph_get_packet(p->steps[rows], NULL, 0, &packets[1]), "run a step");
    packets[1].deadline = step_deadline(p);
    check(jal_submit(p->queue, packets, 3, sizeof packets[0], &p->sequence), "submit a step");
}

/* Waits for the step; gives the joules that it took. */
static double finish_step(struct paged *p) {
    struct jalapeno_hw_fault_record fault;
    struct jalapeno_hw_stamp stamps[2];
    jal_stats stats = {.struct_size = sizeof stats};
    jal_status status = jal_wait(p->queue, p->sequence, (int64_t)STEP_LIMIT_NS + 1000000000);
    if ((status == JAL_ERROR_FAULT || status == JAL_ERROR_CANCELLED) &&
        jal_queue_fault(p->queue, &fault) == JAL_OK)
        fail(1, "jalctl explain CODE says what it means",
             "packet %" PRIu64 " of a step failed: fault %#" PRIx32 ", opcode %" PRIu32
             ", kernel %" PRIu32 ", operand %" PRId64,
             fault.detail[3] != 0 ? fault.detail[3] - 1 : 0, fault.code, fault.opcode, fault.kernel,
             (int64_t)fault.operand - 1);
    check(status, "wait for a step");
    memcpy(stamps, p->host + p->stamps, sizeof stamps);
    check(jal_job_stats(p->queue, p->sequence - 1, &stats), "ask what a step took");
    p->counted += (double)(stamps[1].energy_uj - stamps[0].energy_uj) * 1e-6;
    p->joules += (double)stats.energy_nj * 1e-9;
    return (double)stats.energy_nj * 1e-9;
}

/* ---- Memory --------------------------------------------------------------------------------- */

/* Takes pages for so many positions; 0: there are not as many. */
static int take_pages(struct paged *p, uint32_t positions, int32_t *into) {
    uint32_t count = (positions + p->page - 1) / p->page, i;
    if (count > p->spare) return 0;
    for (i = 0; i < p->most; i++) into[i] = i < count ? p->unused[--p->spare] : 0;
    return 1;
}

static void give_pages(struct paged *p, uint32_t positions, const int32_t *from) {
    uint32_t count = (positions + p->page - 1) / p->page, i;
    for (i = 0; i < count; i++) p->unused[p->spare++] = from[i];
}

/* Opens the card, brings the model there and records its steps; rows, pages and the like are set. */
static void open_paged(struct paged *p, struct model *m, const char *name) {
    jal_device_info info = {.struct_size = sizeof info};
    jal_buffer_info memory = {.struct_size = sizeof memory};
    jal_queue_options options = {.struct_size = sizeof options, .depth = 64, .flags = JAL_QUEUE_PROFILE};
    jal_buffer hbm, host;
    const uint64_t rows = p->rows, kv = (uint64_t)m->dim / m->heads * m->kv_heads;
    const uint64_t wide = m->ff > m->dim ? m->ff : m->dim, tensors = m->size - m->data;
    const uint64_t cache = (uint64_t)p->page * p->pages * kv * 2 * m->layers;
    uint64_t need = 0, pinned = 0, base, i;
    uint64_t *const places[] = {&p->inputs, &p->keys, &p->values, &p->x[0], &p->x[1], &p->h, &p->n, &p->q,
                                &p->k, &p->v, &p->turned, &p->gate, &p->up, &p->out, &p->likeliest};
    const uint64_t sizes[] = {0, cache, cache, rows * m->dim * 4, rows * m->dim * 4, rows * m->dim * 4,
                              rows * m->dim * 4, rows * m->dim * 4, rows * kv * 4, rows * kv * 4,
                              rows * wide * 4, rows * m->ff * 4, rows * m->ff * 4, rows * VOCABULARY * 4,
                              rows * WITHIN * 4};
    p->model = m;
    p->stride = sizeof(struct row) + 4 * (uint64_t)p->most;
    open_devices(1, name);
    check(jal_device_get_info(devices[0], &info), "ask what card it is");
    p->ticks_per_second = info.ticks_per_second;
    set_clock(p);
    check(jal_session_create(devices[0], &p->session), "start a session");

    p->weights = carve(&need, tensors);
    for (i = 0; i < sizeof places / sizeof places[0]; i++)
        *places[i] = carve(&need, i == 0 ? p->stride * rows : sizes[i]);
    if (need > info.hbm_bytes)
        fail(1, "take fewer --pages, a smaller model, or start the emulator with a larger --hbm",
             "model and pages need %" PRIu64 " bytes of HBM and the card has %" PRIu64, need, info.hbm_bytes);
    check(jal_device_alloc(p->session, need, &hbm), "allocate HBM for weights and pages");
    check(jal_buffer_get_info(hbm, &memory), "ask where the HBM is");
    base = memory.address;
    check(jal_buffer_write(hbm, p->weights, m->bytes + m->data, tensors), "copy the weights to HBM");
    p->weights += base;
    for (i = 0; i < sizeof places / sizeof places[0]; i++) *places[i] += base;

    carve(&pinned, p->stride * rows);
    p->best = carve(&pinned, rows * WITHIN * 4);
    p->stamps = carve(&pinned, 32);
    p->logits = carve(&pinned, rows * VOCABULARY * 4);
    check(jal_host_alloc(p->session, pinned, 0, &host), "allocate pinned memory");
    check(jal_buffer_get_info(host, &memory), "ask where the pinned memory is");
    p->host = memory.host;
    p->host_address = memory.address;
    check(jal_queue_create(p->session, &options, &p->queue), "create a queue with a profile");

    p->unused = calloc(p->pages, sizeof *p->unused);
    p->steps = calloc(rows + 1, sizeof *p->steps);
    if (p->unused == NULL || p->steps == NULL) fail(1, "take fewer --pages", "no memory for their table");
    while (p->spare < p->pages) p->unused[p->spare] = (int32_t)p->spare, p->spare++;
    for (i = 1; i <= rows; i++) record_step(p, (uint32_t)i);
    fprintf(stderr, "card      %s, %s firmware %s, %.1f GB of HBM, by %s\n", info.product,
            info.platform == JALAPENO_HW_PLATFORM_EMULATOR ? "EMULATED," : "silicon,", info.firmware,
            (double)info.hbm_bytes / 1e9, info.backend);
    fprintf(stderr, "model     %s, %.2f MB of weights in %.2f MB of HBM, %" PRIu32 " pages of %" PRIu32
            " positions\n", m->path, (double)tensors / 1e6, (double)need / 1e6, p->pages, p->page);
}

/* Frees what open_paged() and load_model() took from the host; what is on the card ends with it. */
static void close_paged(struct paged *p) {
    free(p->steps);
    free(p->unused);
    free(p->model->entries);
    free(p->model->bytes);
}

#endif
