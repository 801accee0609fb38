/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A model split over cards by tensor parallelism: of attention each card has some of the heads, of the
 * feed-forward part some of the columns between its two matrices. So of attn_q, attn_k, attn_v, ffn_gate
 * and ffn_up a card has some of the outputs, of attn_output and ffn_down some of the inputs, and what
 * these two give are addends of a sum over the cards. The rest each card has whole.
 */
#ifndef SPLIT_H
#define SPLIT_H

#include "failure.h"
#include "gguf.h"

/* Refuses a number of cards that the model's heads and columns do not divide by. */
static void check_split(const struct model *m, uint32_t cards) {
    if (m->heads % cards == 0 && m->kv_heads % cards == 0 && m->ff % cards == 0) return;
    fail(1, "use a number of cards that divides all three", "%s cannot be split over %" PRIu32
         " cards: it has %" PRIu32 " heads, %" PRIu32 " of keys and values, and %" PRIu32
         " columns of feed-forward", m->path, cards, m->heads, m->kv_heads, m->ff);
}

/* Whether a tensor's name has this part. */
static int is_part(const struct entry *e, const char *const *parts, size_t count) {
    size_t i;
    for (i = 0; i < count; i++)
        if (strstr(e->name, parts[i]) != NULL) return 1;
    return 0;
}

/* Copies a card's part of one tensor to `into`, if that is not null; `part` becomes its shape. */
static void take_part(const struct model *m, const struct entry *e, uint32_t cards, uint32_t rank,
                      struct entry *part, uint8_t *into) {
    static const char *const by_output[] = {".attn_q.", ".attn_k.", ".attn_v.", ".ffn_gate.", ".ffn_up."};
    static const char *const by_input[] = {".attn_output.", ".ffn_down."};
    const uint64_t width = weight_bytes(e->type), row = e->ne[0] * width;
    uint64_t first = 0, column = 0, i;
    *part = *e;
    if (is_part(e, by_output, 5)) {
        part->ne[1] = e->ne[1] / cards;
        first = (uint64_t)part->ne[1] * rank;
    } else if (is_part(e, by_input, 2)) {
        part->ne[0] = e->ne[0] / cards;
        column = part->ne[0] * width * rank;
    }
    if (into == NULL) return;
    for (i = 0; i < part->ne[1]; i++)
        memcpy(into + i * part->ne[0] * width, m->bytes + m->data + e->offset + (first + i) * row + column,
               part->ne[0] * width);
}

#endif
