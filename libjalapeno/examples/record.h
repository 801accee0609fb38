/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Makes a recorded graph of packets that were composed twice, for value 0 and for value 1: each word
 * that differs between the two is patched, by as much for each further step of the value.
 */
#ifndef RECORD_H
#define RECORD_H

#include <stddef.h>
#include <string.h>

#include <jalapeno.h>

static void check(jal_status status, const char *what); /* ends the program on failure */

/* One composition: packets, and their argument blocks, which stand at `address` for the card. */
struct composed {
    const struct jalapeno_hw_packet *packets;
    const uint8_t *blocks;
    uint64_t address;
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

/* Appends `count` packets to a graph. */
static void record(jal_graph graph, struct composed first, struct composed second, size_t count,
                   uint32_t value) {
    const size_t body = offsetof(struct jalapeno_hw_packet, body);
    uint32_t step, operands, i, n;
    size_t at;
    for (at = 0; at < count; at++) {
        const struct jalapeno_hw_packet *a = &first.packets[at], *b = &second.packets[at];
        const uint8_t *from = first.blocks + (a->body[0] - first.address);
        const uint8_t *to = second.blocks + (b->body[0] - second.address);
        struct jalapeno_hw_parameters parameters;
        struct jalapeno_hw_tensor tensors[JALAPENO_HW_OPERANDS_MAX];
        if ((a->header & JALAPENO_HW_HEADER_OPCODE) != JALAPENO_HW_OPCODE_LAUNCH) {
            check(jal_graph_add(graph, a, &step), "record a packet");
            for (i = 0; i < 5; i++)
                follow(graph, step, JAL_PLACE_PACKET, body + 8 * (size_t)i, 8, a, b, value);
            continue;
        }
        operands = (uint32_t)(a->body[1] / 64) - 1;
        memcpy(&parameters, from, sizeof parameters);
        memcpy(tensors, from + 64, operands * sizeof tensors[0]);
        check(jal_graph_launch(graph, (uint32_t)(a->header >> 32), &parameters, tensors, operands,
                               sizeof tensors[0], &step),
              "record a launch");
        for (i = 0; i < 16; i++) follow(graph, step, JAL_PLACE_PARAMETERS, 4 * (size_t)i, 4, from, to, value);
        for (n = 0; n < operands; n++) {
            const uint8_t *x = from + 64 * (n + 1), *y = to + 64 * (n + 1);
            follow(graph, step, JAL_PLACE_TENSOR(n), 0, 8, x, y, value);
            for (i = 0; i < 4; i++) {
                follow(graph, step, JAL_PLACE_TENSOR(n), 16 + 4 * (size_t)i, 4, x, y, value);
                follow(graph, step, JAL_PLACE_TENSOR(n), 32 + 8 * (size_t)i, 8, x, y, value);
            }
        }
    }
}

#endif
