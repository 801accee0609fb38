/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A llama's step, composed of packets for one card of several: what a byte, or a prompt, takes. */
#ifndef LLAMA_H
#define LLAMA_H

#include "card.h"
#include "record.h"

#define RUN(kernel, p, to, a, b) launch(&c->batch, JALAPENO_HW_KERNEL_ID_##kernel, p, to, a, b)
#define WEIGHT(layer, part) ((const tensor[]){weight(c, m, layer, part)})

/* A card's part of a weight by name; load_model() saw that it is there. */
static tensor weight(const struct card *c, const struct model *m, uint32_t layer, const char *part) {
    const struct entry *e = &c->parts[find_weight(m, layer, part) - m->entries];
    return dense(c->weights + e->offset, e->type, e->ne[0], e->ne[1], 1);
}

/* Adds to `x` what the cards have of a sum each, in n: with one card n itself. */
static void residual(struct card *c, const struct model *m, tensor to, tensor x, uint64_t number) {
    const uint64_t floats = (uint64_t)m->dim * x.ne[1];
    tensor n = x;
    n.address = all_reduce(&c->batch, &c->reduce, number, c->n, floats);
    RUN(ADD, none(), to, &x, &n);
}

/* One layer's work on x[0]: attention, whose sum stands in x[1], and the feed-forward part. Its sums
 * over the cards are the numbers `number` and the next. */
static void layer_packets(struct card *c, const struct model *m, uint32_t i, uint32_t rows,
                          uint32_t first, uint64_t number) {
    const uint32_t f32 = JALAPENO_HW_DTYPE_F32, f16 = JALAPENO_HW_DTYPE_F16;
    const uint32_t size = m->dim / m->heads, dim = size * c->heads, kv = size * c->kv_heads, seen = first + rows;
    const uint64_t cache = (uint64_t)m->context * kv * 2 * i;
    const parameters norm = real(m->epsilon);
    const parameters rope = turning(m->turned, m->context, m->base);
    tensor x = dense(c->x[0], f32, m->dim, rows, 1), y = dense(c->x[1], f32, m->dim, rows, 1);
    tensor n = dense(c->n, f32, m->dim, rows, 1), h = dense(c->h, f32, m->dim, rows, 1);
    tensor q = dense(c->q, f32, dim, rows, 1), k = dense(c->k, f32, kv, rows, 1);
    tensor v = dense(c->v, f32, kv, rows, 1);
    tensor at = dense(c->inputs + IN_POSITIONS(m->context), JALAPENO_HW_DTYPE_I32, rows, 1, 1);
    tensor row = dense(c->inputs + IN_ROWS(m->context), JALAPENO_HW_DTYPE_I64, rows, 1, 1);
    tensor mask = dense(c->inputs + IN_MASK(m->context), f32, seen, rows, 1);
    tensor gate = dense(c->gate, f32, c->ff, rows, 1), up = dense(c->up, f32, c->ff, rows, 1);
    tensor heads, turned, keys, values, scores, weights, mixed;

    RUN(RMS_NORM, norm, n, &x, NULL);
    RUN(MUL, none(), h, &n, WEIGHT(i, "attn_norm"));
    RUN(MUL_MAT, none(), q, WEIGHT(i, "attn_q"), &h);
    RUN(MUL_MAT, none(), k, WEIGHT(i, "attn_k"), &h);
    RUN(MUL_MAT, none(), v, WEIGHT(i, "attn_v"), &h);

    /* Keys go to the cache turned, a row a position; values transposed, a column a position. */
    heads = dense(c->k, f32, size, c->kv_heads, rows);
    turned = dense(c->turned, f32, size, c->kv_heads, rows);
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
    heads = dense(c->q, f32, size, c->heads, rows);
    turned = dense(c->turned, f32, size, c->heads, rows);
    RUN(ROPE, rope, turned, &heads, &at);
    turned = strided(dense(c->turned, f32, size, rows, c->heads), (uint64_t)dim * 4, size * 4u);
    keys = strided(dense(c->keys + cache, f16, size, seen, c->kv_heads), (uint64_t)kv * 2, size * 2u);
    scores = dense(c->scores, f32, seen, rows, c->heads);
    RUN(MUL_MAT, none(), scores, &keys, &turned);
    weights = dense(c->mixed, f32, seen, rows, c->heads);
    RUN(SOFT_MAX, real(1.0f / sqrtf((float)size)), weights, &scores, rows > 1 ? &mask : NULL);
    values = dense(c->values + cache, f16, seen, size, c->kv_heads);
    values = strided(values, (uint64_t)m->context * 2, (uint64_t)m->context * 2 * size);
    mixed = strided(dense(c->h, f32, size, rows, c->heads), (uint64_t)dim * 4, size * 4u);
    RUN(MUL_MAT, none(), mixed, &values, &weights);
    mixed = dense(c->h, f32, dim, rows, 1);
    RUN(MUL_MAT, none(), n, WEIGHT(i, "attn_output"), &mixed);
    residual(c, m, y, x, number);

    RUN(RMS_NORM, norm, n, &y, NULL);
    RUN(MUL, none(), h, &n, WEIGHT(i, "ffn_norm"));
    RUN(MUL_MAT, none(), gate, WEIGHT(i, "ffn_gate"), &h);
    RUN(MUL_MAT, none(), up, WEIGHT(i, "ffn_up"), &h);
    turned = dense(c->turned, f32, c->ff, rows, 1);
    RUN(SWIGLU, none(), turned, &gate, &up);
    RUN(MUL_MAT, none(), n, WEIGHT(i, "ffn_down"), &turned);
    residual(c, m, x, y, number + 1);
}

/* The packets for `rows` bytes at positions `first` and on, once bytes, positions and rows are in.
 * `done` sums over the cards went before. The first card has the logits. */
static void compose(struct card *c, const struct model *m, uint32_t rows, uint32_t first, uint64_t done) {
    const uint32_t f32 = JALAPENO_HW_DTYPE_F32;
    tensor x = dense(c->x[0], f32, m->dim, rows, 1), n = dense(c->n, f32, m->dim, rows, 1);
    tensor h = dense(c->h, f32, m->dim, rows, 1), out = dense(c->out, f32, VOCABULARY, rows, 1);
    tensor at = dense(c->inputs, JALAPENO_HW_DTYPE_I32, rows, 1, 1);
    uint32_t i;
    RUN(GET_ROWS, none(), x, WEIGHT(m->layers, "token_embd"), &at);
    for (i = 0; i < m->layers; i++) layer_packets(c, m, i, rows, first, done + 2 * (uint64_t)i + 1);
    if (c->rank != 0) return;
    RUN(RMS_NORM, real(m->epsilon), n, &x, NULL);
    RUN(MUL, none(), h, &n, WEIGHT(m->layers, "output_norm"));
    RUN(MUL_MAT, none(), out, WEIGHT(m->layers, "token_embd"), &h);
    push(&c->batch, jal_packet_copy(c->host_address + c->logits, c->out, (uint64_t)rows * VOCABULARY * 4));
}

/* Records what one token takes: value 0 is the byte, value 1 its position, value 2 (of several cards)
 * how many steps went before. */
static void record_token(struct card *c, const struct model *m) {
    const uint64_t places[3] = {c->inputs, c->inputs + IN_POSITIONS(m->context), c->inputs + IN_ROWS(m->context)};
    const uint32_t limits[3] = {VOCABULARY - 1, m->context - 1, UINT32_MAX};
    const struct follows fences = {2, reduces(c, m)};
    jal_status status = jal_graph_create(c->session, &c->token);
    uint32_t i;
    if (status == JAL_ERROR_UNSUPPORTED) return;
    check(status, "record a graph");
    for (i = 0; i < 3; i++) {
        struct jalapeno_hw_packet fill = jal_packet_fill(places[i], i == 2 ? 8 : 4, 0);
        jal_patch patch = {sizeof patch, i, JAL_PLACE_PACKET, offsetof(struct jalapeno_hw_packet, body[2]), 8, i != 0, 1};
        check(jal_graph_add(c->token, &fill, NULL), "record a packet");
        check(jal_graph_patch(c->token, &patch), "patch a graph");
    }
    compose(c, m, 1, 0, 0);
    compose(c, m, 1, 1, 0); /* behind the other */
    record(c->token, &c->batch, 1, fences);
    check(jal_graph_finish(c->token, limits, c->cards > 1 ? 3 : 2), "finish a graph");
    c->batch.count = c->batch.used = 0;
}

/* Puts bytes, their positions and the mask where the card reads them. */
static void write_inputs(struct card *c, const struct model *m, const uint8_t *text, uint32_t rows, uint32_t first) {
    const uint32_t seen = first + rows;
    uint8_t *in = c->host + c->in;
    uint32_t i, j;
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
}

/* Reads `rows` bytes that stand at positions `first` and on; their logits are then in the host memory
 * of the first card. Step `number` of all, from 0. Gives the seconds it took. */
static double step(struct card *cards, uint32_t count, const struct model *m, const uint8_t *text,
                   uint32_t rows, uint32_t first, uint32_t number) {
    const uint32_t values[3] = {text[0], first, number};
    const uint64_t in_bytes = IN_MASK(m->context) + (rows > 1 ? (uint64_t)rows * (first + rows) * 4 : 0);
    uint64_t sequence[CARDS_LIMIT];
    size_t jobs[CARDS_LIMIT];
    double begin = now();
    uint32_t i;
    for (i = 0; i < count; i++) { /* all are on their way before the first is waited for */
        struct card *c = &cards[i];
        jobs[i] = 1;
        if (rows == 1 && c->token.id != 0 && count == 1) {
            check(jal_graph_replay(c->token, c->queue, values, 2, &sequence[i]), "run a token");
        } else if (rows == 1 && c->token.id != 0) {
            struct jalapeno_hw_packet run;
            check(jal_graph_get_packet(c->token, values, 3, &run), "run a token");
            run.deadline = deadline(c);
            check(jal_submit_one(c->queue, &run, &sequence[i]), "run a token");
        } else {
            write_inputs(c, m, text, rows, first);
            push(&c->batch, jal_packet_copy(c->inputs, c->host_address + c->in, in_bytes));
            compose(c, m, rows, first, number * reduces(c, m));
            jobs[i] = c->batch.count;
            sequence[i] = go(c);
            c->batch.count = c->batch.used = 0; /* packets were copied; of the blocks none is written before the end */
        }
    }
    for (i = 0; i < count; i++) await(&cards[i], sequence[i], jobs[i]);
    return now() - begin;
}

#endif
