/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Decodes text on a Jalapeño card: a llama-architecture model of bytes, from a GGUF file.
 *
 *     generate MODEL.gguf "In the beginning"          echo Selah | generate MODEL.gguf -
 *
 * Weights, cache and activations stand in HBM and the card computes everything; the host reads the
 * file, records what a token takes once, runs that by one packet a token and draws a byte from the
 * logits that come home.
 * Text goes to standard output, figures and errors to standard error.
 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <time.h>
#include <unistd.h>

#include <jalapeno.h>

#include "failure.h"
#include "gguf.h"
#include "record.h"

#define STEP_LIMIT_NS INT64_C(60000000000) /* a step that takes longer has failed */

typedef struct jalapeno_hw_tensor tensor;
typedef struct jalapeno_hw_parameters parameters;

/* ---- Tensors on the card -------------------------------------------------------------------- */

/* Elements without gaps. */
static tensor dense(uint64_t address, uint32_t type, uint32_t ne0, uint32_t ne1, uint32_t ne2) {
    uint64_t width = type == JALAPENO_HW_DTYPE_I64 ? 8
                     : type == JALAPENO_HW_DTYPE_I32 ? 4 : element_bytes(type);
    tensor t = {address, type, 0, {ne0, ne1, ne2, 1}, {width, 0, 0, 0}};
    t.nb[1] = t.nb[0] * ne0;
    t.nb[2] = t.nb[1] * ne1;
    t.nb[3] = t.nb[2] * ne2;
    return t;
}

/* The same memory with the strides of dimensions 1 and 2 given. */
static tensor strided(tensor t, uint64_t nb1, uint64_t nb2) {
    t.nb[1] = nb1;
    t.nb[2] = nb2;
    t.nb[3] = nb2 * t.ne[2];
    return t;
}

/* A weight by name; load_model() saw that it is there. */
static tensor weight(const struct model *m, uint32_t layer, const char *part) {
    const struct entry *e = find_weight(m, layer, part);
    return dense(m->address + e->offset, e->type, e->ne[0], e->ne[1], 1);
}

/* ---- One step: a batch of packets ----------------------------------------------------------- */

struct card {
    jal_session session;
    jal_queue queue;
    jal_graph token;         /* what one takes; 0: the card has no graphs */
    uint8_t *host;           /* pinned: what goes to the card and comes from it */
    uint64_t host_address;
    uint64_t in, arguments, logits; /* places in `host` */
    double joules;           /* of what was waited for; no number: the card does not tell */
    uint64_t used;           /* of the argument blocks */
    struct jalapeno_hw_packet *packets;
    size_t count, capacity;
    /* in HBM: inputs, keys, values, and activations */
    uint64_t inputs, keys, values, x[2], h, n, q, k, v, turned, scores, weights, gate, up, out;
};

/* Places of the inputs, by the context's length: bytes in, positions, cache rows, mask. */
#define IN_POSITIONS(context) ((uint64_t)(context) * 4)
#define IN_ROWS(context) ((uint64_t)(context) * 8)
#define IN_MASK(context) ((uint64_t)(context) * 16)

static void push(struct card *c, struct jalapeno_hw_packet packet) {
    packet.cookie = c->count;
    c->packets[c->count++] = packet; /* capacity: packets_needed() */
}

/* Of two steps: one is recorded from two. */
static size_t packets_needed(const struct model *m) { return 2 * (8 + (size_t)m->layers * 21); }

/* Appends a LAUNCH: its parameters, then destination and sources. */
static void launch(struct card *c, uint32_t kernel, parameters p, tensor to, const tensor *a,
                   const tensor *b) {
    uint8_t *block = c->host + c->arguments + c->used;
    uint32_t operands = 1u + (a != NULL) + (b != NULL);
    memcpy(block, &p, 64);
    memcpy(block + 64, &to, 64);
    if (a != NULL) memcpy(block + 128, a, 64);
    if (b != NULL) memcpy(block + 192, b, 64);
    push(c, jal_packet_launch(kernel, c->host_address + c->arguments + c->used, operands));
    c->used += 256;
}

#define WEIGHT(layer, part) ((const tensor[]){weight(m, layer, part)})
#define RUN(kernel, p, to, a, b) launch(c, JALAPENO_HW_KERNEL_ID_##kernel, p, to, a, b)

static parameters none(void) { parameters p = {{0}}; return p; }
static uint32_t bits(float v) { uint32_t u; memcpy(&u, &v, 4); return u; }
static parameters real(float v) { parameters p = none(); p.word[0] = bits(v); return p; }

/* One layer's work on x[0]: attention, whose sum stands in x[1], and the feed-forward part. */
static void layer_packets(struct card *c, const struct model *m, uint32_t i, uint32_t rows,
                          uint32_t first) {
    const uint32_t f32 = JALAPENO_HW_DTYPE_F32, f16 = JALAPENO_HW_DTYPE_F16;
    const uint32_t size = m->dim / m->heads, kv = size * m->kv_heads, seen = first + rows;
    const uint64_t cache = (uint64_t)m->context * kv * 2 * i;
    const parameters norm = real(m->epsilon);
    parameters rope = none();
    tensor x = dense(c->x[0], f32, m->dim, rows, 1), y = dense(c->x[1], f32, m->dim, rows, 1);
    tensor n = dense(c->n, f32, m->dim, rows, 1), h = dense(c->h, f32, m->dim, rows, 1);
    tensor q = dense(c->q, f32, m->dim, rows, 1), k = dense(c->k, f32, kv, rows, 1);
    tensor v = dense(c->v, f32, kv, rows, 1);
    tensor at = dense(c->inputs + IN_POSITIONS(m->context), JALAPENO_HW_DTYPE_I32, rows, 1, 1);
    tensor row = dense(c->inputs + IN_ROWS(m->context), JALAPENO_HW_DTYPE_I64, rows, 1, 1);
    tensor mask = dense(c->inputs + IN_MASK(m->context), f32, seen, rows, 1);
    tensor gate = dense(c->gate, f32, m->ff, rows, 1), up = dense(c->up, f32, m->ff, rows, 1);
    tensor heads, turned, keys, values, scores, weights, mixed;
    rope.word[0] = m->turned;
    rope.word[1] = 0; /* neighbours are a pair */
    rope.word[2] = m->context;
    rope.word[3] = bits(m->base);
    rope.word[4] = bits(1.0f); /* positions as they are, */
    rope.word[6] = bits(1.0f); /* and lengths */

    RUN(RMS_NORM, norm, n, &x, NULL);
    RUN(MUL, none(), h, &n, WEIGHT(i, "attn_norm"));
    RUN(MUL_MAT, none(), q, WEIGHT(i, "attn_q"), &h);
    RUN(MUL_MAT, none(), k, WEIGHT(i, "attn_k"), &h);
    RUN(MUL_MAT, none(), v, WEIGHT(i, "attn_v"), &h);

    /* Keys go to the cache turned, a row a position; values transposed, a column a position. */
    heads = dense(c->k, f32, size, m->kv_heads, rows);
    turned = dense(c->turned, f32, size, m->kv_heads, rows);
    RUN(ROPE, rope, turned, &heads, &at);
    turned = dense(c->turned, f32, kv, rows, 1);
    keys = dense(c->keys + cache, f16, kv, m->context, 1);
    RUN(SET_ROWS, none(), keys, &turned, &row);
    values = dense(c->values + cache + (uint64_t)first * 2, f16, rows, kv, 1);
    values = strided(values, (uint64_t)m->context * 2, 0);
    v = strided(dense(c->v, f32, rows, kv, 1), 4, 0);
    v.nb[0] = (uint64_t)kv * 4;
    RUN(COPY, none(), values, &v, NULL);

    /* Each group of query heads shares a key and value head: dimension 2 is broadcast. */
    heads = dense(c->q, f32, size, m->heads, rows);
    turned = dense(c->turned, f32, size, m->heads, rows);
    RUN(ROPE, rope, turned, &heads, &at);
    turned = strided(dense(c->turned, f32, size, rows, m->heads), (uint64_t)m->dim * 4, size * 4u);
    keys = strided(dense(c->keys + cache, f16, size, seen, m->kv_heads), (uint64_t)kv * 2, size * 2u);
    scores = dense(c->scores, f32, seen, rows, m->heads);
    RUN(MUL_MAT, none(), scores, &keys, &turned);
    weights = dense(c->weights, f32, seen, rows, m->heads);
    RUN(SOFT_MAX, real(1.0f / sqrtf((float)size)), weights, &scores, rows > 1 ? &mask : NULL);
    values = dense(c->values + cache, f16, seen, size, m->kv_heads);
    values = strided(values, (uint64_t)m->context * 2, (uint64_t)m->context * 2 * size);
    mixed = strided(dense(c->h, f32, size, rows, m->heads), (uint64_t)m->dim * 4, size * 4u);
    RUN(MUL_MAT, none(), mixed, &values, &weights);
    RUN(MUL_MAT, none(), n, WEIGHT(i, "attn_output"), &h);
    RUN(ADD, none(), y, &x, &n);

    RUN(RMS_NORM, norm, n, &y, NULL);
    RUN(MUL, none(), h, &n, WEIGHT(i, "ffn_norm"));
    RUN(MUL_MAT, none(), gate, WEIGHT(i, "ffn_gate"), &h);
    RUN(MUL_MAT, none(), up, WEIGHT(i, "ffn_up"), &h);
    turned = dense(c->turned, f32, m->ff, rows, 1);
    RUN(SWIGLU, none(), turned, &gate, &up);
    RUN(MUL_MAT, none(), n, WEIGHT(i, "ffn_down"), &turned);
    RUN(ADD, none(), x, &y, &n);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Waits for the jobs that were submitted, up to `sequence`, and adds up what they took. */
static void await(struct card *c, uint64_t sequence, size_t jobs) {
    struct jalapeno_hw_fault_record fault;
    jal_stats stats = {.struct_size = sizeof stats};
    jal_status status = jal_wait(c->queue, sequence, STEP_LIMIT_NS);
    if ((status == JAL_ERROR_FAULT || status == JAL_ERROR_CANCELLED) &&
        jal_queue_fault(c->queue, &fault) == JAL_OK)
        fail(1, "jalctl explain CODE says what it means",
             "packet %" PRIu64 " of the step failed: fault %#" PRIx32 ", opcode %" PRIu32
             ", kernel %" PRIu32 ", operand %" PRId64 ", address %#" PRIx64,
             fault.detail[3] != 0 ? fault.detail[3] - 1 : fault.cookie, fault.code, fault.opcode, fault.kernel, (int64_t)fault.operand - 1, fault.address);
    check(status, "wait for a step");
    for (; jobs > 0 && !isnan(c->joules); jobs--, c->joules += (double)stats.energy_nj * 1e-9)
        check(jal_job_stats(c->queue, sequence + 1 - jobs, &stats), "ask what a job took");
}

/* Submits what was pushed and waits; gives the seconds it took. */
static double go(struct card *c) {
    uint64_t sequence;
    double begin = now();
    check(jal_submit(c->queue, c->packets, c->count, sizeof c->packets[0], &sequence), "submit");
    await(c, sequence, c->count);
    c->count = c->used = 0;
    return now() - begin;
}

/* The packets for `rows` bytes at positions `first` and on, once bytes, positions and rows are in. */
static void compose(struct card *c, const struct model *m, uint32_t rows, uint32_t first) {
    const uint32_t f32 = JALAPENO_HW_DTYPE_F32;
    tensor x = dense(c->x[0], f32, m->dim, rows, 1), n = dense(c->n, f32, m->dim, rows, 1);
    tensor h = dense(c->h, f32, m->dim, rows, 1), out = dense(c->out, f32, VOCABULARY, rows, 1);
    tensor at = dense(c->inputs, JALAPENO_HW_DTYPE_I32, rows, 1, 1);
    uint32_t i;
    RUN(GET_ROWS, none(), x, WEIGHT(m->layers, "token_embd"), &at);
    for (i = 0; i < m->layers; i++) layer_packets(c, m, i, rows, first);
    RUN(RMS_NORM, real(m->epsilon), n, &x, NULL);
    RUN(MUL, none(), h, &n, WEIGHT(m->layers, "output_norm"));
    RUN(MUL_MAT, none(), out, WEIGHT(m->layers, "token_embd"), &h);
    push(c, jal_packet_copy(c->host_address + c->logits, c->out, (uint64_t)rows * VOCABULARY * 4));
}

/* Records what one token takes: value 0 is the byte, value 1 its position. */
static void record_token(struct card *c, const struct model *m) {
    const uint64_t places[3] = {c->inputs, c->inputs + IN_POSITIONS(m->context), c->inputs + IN_ROWS(m->context)};
    const uint32_t limits[2] = {VOCABULARY - 1, m->context - 1};
    struct composed first = {c->packets, c->host + c->arguments, c->host_address + c->arguments}, second = first;
    jal_status status = jal_graph_create(c->session, &c->token);
    size_t count;
    uint32_t i;
    if (status == JAL_ERROR_UNSUPPORTED) return;
    check(status, "record a graph");
    for (i = 0; i < 3; i++) {
        struct jalapeno_hw_packet fill = jal_packet_fill(places[i], i == 2 ? 8 : 4, 0);
        jal_patch patch = {sizeof patch, i, JAL_PLACE_PACKET, offsetof(struct jalapeno_hw_packet, body[2]), 8, i != 0, 1};
        check(jal_graph_add(c->token, &fill, NULL), "record a packet");
        check(jal_graph_patch(c->token, &patch), "patch a graph");
    }
    compose(c, m, 1, 0);
    count = c->count;
    compose(c, m, 1, 1); /* behind the other */
    second.packets += count;
    record(c->token, first, second, count, 1);
    check(jal_graph_finish(c->token, limits, 2), "finish a graph");
    c->count = c->used = 0;
}

/* Reads `rows` bytes that stand at positions `first` and on; their logits are then in host memory. */
static double step(struct card *c, const struct model *m, const uint8_t *text, uint32_t rows,
                   uint32_t first) {
    const uint32_t seen = first + rows, values[2] = {text[0], first};
    uint8_t *in = c->host + c->in;
    uint64_t in_bytes = IN_MASK(m->context) + (rows > 1 ? (uint64_t)rows * seen * 4 : 0);
    double begin = now();
    uint64_t sequence;
    uint32_t i, j;
    if (rows == 1 && c->token.id != 0) {
        check(jal_graph_replay(c->token, c->queue, values, 2, &sequence), "run a token");
        await(c, sequence, 1);
        return now() - begin;
    }
    for (i = 0; i < rows; i++) {
        int32_t byte = text[i], position = (int32_t)(first + i);
        int64_t row = position;
        memcpy(in + i * 4, &byte, 4);
        memcpy(in + IN_POSITIONS(m->context) + i * 4, &position, 4);
        memcpy(in + IN_ROWS(m->context) + (size_t)i * 8, &row, 8);
        for (j = 0; rows > 1 && j < seen; j++) { /* nobody looks ahead */
            float open = j <= first + i ? 0.0f : -INFINITY;
            memcpy(in + IN_MASK(m->context) + ((size_t)i * seen + j) * 4, &open, 4);
        }
    }
    push(c, jal_packet_copy(c->inputs, c->host_address + c->in, in_bytes));
    compose(c, m, rows, first);
    return go(c);
}

/* ---- Memory --------------------------------------------------------------------------------- */

/* The next `bytes` of a growing block, aligned to 256. */
static uint64_t carve(uint64_t *end, uint64_t bytes) {
    uint64_t at = *end;
    *end = (at + bytes + 255) / 256 * 256;
    return at;
}

static void open_card(struct card *c, struct model *m, const char *name) {
    jal_device_info info = {0};
    jal_buffer_info memory = {0};
    jal_queue_options options = {0};
    jal_buffer hbm, host;
    const uint64_t t = m->context, kv = (uint64_t)m->dim / m->heads * m->kv_heads;
    const uint64_t wide = m->ff > m->dim ? m->ff : m->dim, tensors = m->size - m->data;
    uint64_t need = 0, pinned = 0, base, i;
    uint64_t *const places[] = {&c->inputs, &c->keys, &c->values, &c->x[0], &c->x[1], &c->h, &c->n,
                                &c->q, &c->k, &c->v, &c->turned, &c->scores, &c->weights, &c->gate,
                                &c->up, &c->out};
    check(jal_check_version(JAL_VERSION), "check the library's version");
    check(jal_device_open(name, NULL, &device), "open the card");
    info.struct_size = sizeof info;
    check(jal_device_get_info(device, &info), "ask what card it is");
    check(jal_session_create(device, &c->session), "start a session");

    m->address = carve(&need, tensors);
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
    c->scores = carve(&need, t * t * m->heads * 4);
    c->weights = carve(&need, t * t * m->heads * 4);
    c->gate = carve(&need, t * m->ff * 4);
    c->up = carve(&need, t * m->ff * 4);
    c->out = carve(&need, t * VOCABULARY * 4);
    if (need > info.hbm_bytes)
        fail(1, "use a smaller model, or start the emulator with a larger --hbm",
             "the model needs %" PRIu64 " bytes of HBM and the card has %" PRIu64, need,
             info.hbm_bytes);
    check(jal_device_alloc(c->session, need, &hbm), "allocate HBM for weights, cache and activations");
    memory.struct_size = sizeof memory;
    check(jal_buffer_get_info(hbm, &memory), "ask where the HBM is");
    base = memory.address;
    check(jal_buffer_write(hbm, m->address, m->bytes + m->data, tensors), "copy the weights to HBM");
    m->address += base;
    for (i = 0; i < sizeof places / sizeof places[0]; i++) *places[i] += base;

    c->capacity = packets_needed(m);
    c->in = carve(&pinned, IN_MASK(t) + t * t * 4);
    c->arguments = carve(&pinned, c->capacity * 256);
    c->logits = carve(&pinned, t * VOCABULARY * 4);
    check(jal_host_alloc(c->session, pinned, 0, &host), "allocate pinned memory");
    check(jal_buffer_get_info(host, &memory), "ask where the pinned memory is");
    c->host = memory.host;
    c->host_address = memory.address;
    c->packets = calloc(c->capacity, sizeof *c->packets);
    if (c->packets == NULL) fail(1, "free some memory", "no memory for packets");
    options.struct_size = sizeof options;
    for (options.depth = 64; options.depth < c->capacity;) options.depth *= 2;
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

/* ---- The program ---------------------------------------------------------------------------- */

/* A byte drawn from the logits; the most likely one at temperature 0. `state` is the generator's
 * (SplitMix64). */
static uint8_t draw(const float *logits, double temperature, uint64_t *state) {
    double weights[VOCABULARY], sum = 0, part;
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    uint32_t i, best = 0;
    for (i = 0; i < VOCABULARY; i++) {
        if (!isfinite(logits[i])) fail(1, "the card computed wrongly", "logit %" PRIu32 " is no number", i);
        if (logits[i] > logits[best]) best = i;
    }
    if (temperature == 0) return (uint8_t)best;
    for (i = 0; i < VOCABULARY; i++)
        sum += weights[i] = exp((double)(logits[i] - logits[best]) / temperature);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    part = (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0 * sum;
    for (i = 0; i < VOCABULARY - 1 && part >= weights[i]; i++) part -= weights[i];
    return (uint8_t)i;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void figure(const char *what, double *seconds, uint32_t n) {
    qsort(seconds, n, sizeof *seconds, by_size);
    fprintf(stderr, "%s p50 %.1f us, p90 %.1f us, p99 %.1f us (of %" PRIu32 ")\n", what,
            seconds[n / 2] * 1e6, seconds[n - 1 - n / 10] * 1e6, seconds[n - 1 - n / 100] * 1e6, n);
}

/* What an empty packet takes there and back. */
static void idle_round_trips(struct card *c) {
    double times[1000];
    uint32_t i;
    for (i = 0; i < 1000; i++) {
        push(c, jal_packet_nop());
        times[i] = go(c);
    }
    figure("a packet ", times, 1000);
}

static const char usage[] =
    "usage: generate [--tokens N] [--temperature T] [--greedy] [--seed N] [--device NAME]\n"
    "                [--logits FILE] MODEL.gguf PROMPT\n"
    "PROMPT may be -, which reads standard input. Defaults: 400 tokens, temperature 0.7, seed 1611.\n";

static void print(uint8_t byte) { /* a model's control characters do not reach a terminal */
    putchar(byte >= 32 || byte == '\n' || byte == '\t' || !isatty(1) ? byte : '?');
    fflush(stdout);
}

int main(int argc, char **argv) {
    struct model m = {0};
    struct card c = {0};
    const char *name = NULL, *prompt = NULL, *dump = NULL;
    double temperature = 0.7, *times, reading, begin, seconds;
    uint64_t seed = 1611, tokens = 400, done = 0;
    uint32_t length, at = 0, rows, steps = 0, i;
    static uint8_t text[65536];
    FILE *file = NULL;
    for (i = 1; i < (uint32_t)argc; i++) {
        const char *option = argv[i], *value = i + 1 < (uint32_t)argc ? argv[i + 1] : NULL;
        char *end = "";
        errno = 0;
        if (strcmp(option, "--greedy") == 0) { temperature = 0; continue; }
        if (strcmp(option, "--help") == 0) { fputs(usage, stdout); return 0; }
        if (strncmp(option, "--", 2) != 0) {
            if (prompt != NULL) fail(2, usage, "one argument too many: %s", option);
            if (m.path == NULL) m.path = option; else prompt = option;
            continue;
        }
        if (value == NULL) fail(2, usage, "%s: unknown, or without its value", option);
        if (strcmp(option, "--tokens") == 0) tokens = strtoull(value, &end, 10);
        else if (strcmp(option, "--seed") == 0) seed = strtoull(value, &end, 10);
        else if (strcmp(option, "--temperature") == 0) temperature = strtod(value, &end);
        else if (strcmp(option, "--device") == 0) name = value;
        else if (strcmp(option, "--logits") == 0) dump = value;
        else fail(2, usage, "unknown option %s", option);
        if (*end != '\0' || end == value || errno != 0 || tokens - 1 >= 1000000 ||
            !(temperature >= 0) || temperature > 100)
            fail(2, usage, "%s %s: not a number, or out of range", option, value);
        i++;
    }
    if (m.path == NULL) fail(2, usage, "no model");
    if (prompt == NULL) fail(2, usage, "no prompt");
    length = 0;
    if (strcmp(prompt, "-") == 0) length = (uint32_t)fread(text, 1, sizeof text, stdin);
    else if (strlen(prompt) < sizeof text) memcpy(text, prompt, length = (uint32_t)strlen(prompt));
    else fail(2, NULL, "the prompt is longer than %zu bytes", sizeof text - 1);
    if (length == 0) fail(2, "generate MODEL.gguf 'In the beginning'", "the prompt is empty");
    if (dump != NULL && (file = fopen(dump, "wb")) == NULL)
        fail(1, "name a place that can be written", "open %s: %s", dump, strerror(errno));

    load_model(&m);
    open_card(&c, &m, name);
    times = calloc((size_t)tokens, sizeof *times);
    if (times == NULL) fail(1, "ask for fewer tokens", "no memory for their times");
    record_token(&c, &m);
    idle_round_trips(&c);

    /* Of a prompt that fills the context, the end is read; the same when the text has filled it. */
    for (i = 0; i < length; i++) print(text[i]);
    rows = length < m.context ? length : m.context / 2;
    memmove(text, text + length - rows, rows);
    reading = step(&c, &m, text, rows, 0);
    c.joules -= c.joules; /* what no number is stays none */
    begin = now();
    for (;;) {
        const float *logits = (const float *)(const void *)(c.host + c.logits);
        if (file != NULL && fwrite(logits, VOCABULARY * 4, rows, file) != rows)
            fail(1, "look for room on the disk", "write %s: %s", dump, strerror(errno));
        at += rows;
        text[at] = draw(logits + (size_t)(rows - 1) * VOCABULARY, temperature, &seed);
        if (text[at] == 0) break; /* how a text ends */
        print(text[at]);
        if (++done == tokens) break;
        rows = 1;
        if (at == m.context) {
            rows = m.context / 2;
            memmove(text, text + at + 1 - rows, rows);
            at = 0;
        }
        times[steps++] = step(&c, &m, text + at, rows, at);
    }
    seconds = now() - begin;
    putchar('\n');
    if (file != NULL && fclose(file) != 0)
        fail(1, "look for room on the disk", "write %s: %s", dump, strerror(errno));
    fflush(stdout);
    fprintf(stderr, "prompt    %" PRIu32 " tokens in %.1f ms\n", length, reading * 1e3);
    if (steps > 0) {
        fprintf(stderr, "decoding  %.1f tokens/s, %.2f mJ a token (modelled by the card)\n",
                (double)steps / seconds, c.joules * 1e3 / (double)steps);
        figure("a token  ", times, steps);
    }
    free(times);
    free(c.packets);
    free(m.entries);
    free(m.bytes);
    check(jal_device_close(device), "close the card"); /* and all that was made from it */
    return 0;
}
