/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A batch: packets that are composed for a card, with their argument blocks. */
#ifndef BATCH_H
#define BATCH_H

#include <stddef.h>

#include "tensors.h"

#define BLOCK_BYTES 256u /* of an argument block of three operands */

struct batch {
    struct jalapeno_hw_packet *packets; /* room for `capacity`: whoever composes has counted */
    size_t count, capacity;
    uint8_t *blocks;  /* pinned, with room for as many argument blocks */
    uint64_t address; /* of the blocks, for the card */
    uint64_t used;    /* bytes of them */
};

static void push(struct batch *b, struct jalapeno_hw_packet packet) {
    packet.cookie = b->count;
    b->packets[b->count++] = packet;
}

/* Appends a LAUNCH: its parameters, then destination and sources. */
static void launch(struct batch *b, uint32_t kernel, parameters p, tensor to, const tensor *x,
                   const tensor *y) {
    uint8_t *block = b->blocks + b->used;
    uint32_t operands = 1u + (x != NULL) + (y != NULL);
    memcpy(block, &p, 64);
    memcpy(block + 64, &to, 64);
    if (x != NULL) memcpy(block + 128, x, 64);
    if (y != NULL) memcpy(block + 192, y, 64);
    push(b, jal_packet_launch(kernel, b->address + b->used, operands));
    b->used += BLOCK_BYTES;
}

#endif
