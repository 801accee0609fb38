/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Makes a recorded graph of packets that were composed twice, for value 0 and for value 1: each word
 * that differs between the two is patched, by as much for each further step of the value. Fences
 * follow a value of their own.
 */
#ifndef RECORD_H
#define RECORD_H

#include "batch.h"

static void check(jal_status status, const char *what); /* ends the program on failure */

/* What a word of a graph follows: a run's value, by so much a step of it. */
struct follows {
    uint32_t value;
    uint64_t scale;
};

static uint64_t word(const void *at, size_t width) {
    uint32_t half;
    uint64_t whole;
    memcpy(&half, at, sizeof half);
    if (width == 4) return half;
    memcpy(&whole, at, sizeof whole);
    return whole;
}

/* Patches the word at `offset` of a place if it differs; `value` is what it follows. */
static void follow(jal_graph graph, uint32_t step, uint32_t place, size_t offset, uint32_t width,
                   const void *first, const void *second, uint32_t value) {
    uint64_t a = word((const uint8_t *)first + offset, width);
    uint64_t b = word((const uint8_t *)second + offset, width);
    jal_patch patch = {sizeof patch, step, place, (uint32_t)offset, width, value, b - a};
    if (a != b) check(jal_graph_patch(graph, &patch), "patch a graph");
}

/* Appends the packets of a batch to a graph: its first half, which its second half is composed like,
 * for one step more of the value `along`. SIGNAL and WAIT follow `fences`. */
static void record(jal_graph graph, const struct batch *b, uint32_t along, struct follows fences) {
    const size_t body = offsetof(struct jalapeno_hw_packet, body), half = b->count / 2;
    uint32_t step, operands, i, n;
    size_t at;
    for (at = 0; at < half; at++) {
        const struct jalapeno_hw_packet *one = &b->packets[at], *two = &b->packets[half + at];
        const uint64_t opcode = one->header & JALAPENO_HW_HEADER_OPCODE;
        const uint8_t *from, *to;
        parameters shared;
        tensor tensors[JALAPENO_HW_OPERANDS_MAX];
        if (opcode != JALAPENO_HW_OPCODE_LAUNCH) {
            check(jal_graph_add(graph, one, &step), "record a packet");
            for (i = 0; i < 5; i++)
                follow(graph, step, JAL_PLACE_PACKET, body + 8 * (size_t)i, 8, one, two, along);
            if (opcode == JALAPENO_HW_OPCODE_SIGNAL || opcode == JALAPENO_HW_OPCODE_WAIT) {
                jal_patch patch = {sizeof patch, step, JAL_PLACE_PACKET, (uint32_t)body + 8, 8, fences.value, fences.scale};
                check(jal_graph_patch(graph, &patch), "patch a fence");
            }
            continue;
        }
        from = b->blocks + (one->body[0] - b->address);
        to = b->blocks + (two->body[0] - b->address);
        operands = (uint32_t)(one->body[1] / 64) - 1;
        memcpy(&shared, from, sizeof shared);
        memcpy(tensors, from + 64, operands * sizeof tensors[0]);
        check(jal_graph_launch(graph, (uint32_t)(one->header >> 32), &shared, tensors, operands,
                               sizeof tensors[0], &step),
              "record a launch");
        for (i = 0; i < 16; i++) follow(graph, step, JAL_PLACE_PARAMETERS, 4 * (size_t)i, 4, from, to, along);
        for (n = 0; n < operands; n++) {
            const uint8_t *x = from + 64 * (n + 1), *y = to + 64 * (n + 1);
            follow(graph, step, JAL_PLACE_TENSOR(n), 0, 8, x, y, along);
            for (i = 0; i < 4; i++) {
                follow(graph, step, JAL_PLACE_TENSOR(n), 16 + 4 * (size_t)i, 4, x, y, along);
                follow(graph, step, JAL_PLACE_TENSOR(n), 32 + 8 * (size_t)i, 8, x, y, along);
            }
        }
    }
}

#endif
