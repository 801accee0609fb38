/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The all-reduce: each card has a vector of floats, and then each has the sum of all, made of packets
 * and fences alone. The host has no part in it once the packets are on their way.
 *
 * Each card gives an inbox in its HBM, which the others map: a slot for each sender, a place for the
 * sum, and a fence for each sender, which that sender alone raises. Short vectors go whole to
 * everybody, and everybody adds; of long ones each card adds up one part and sends that sum to the
 * others. In both the addends stand in the order of the cards' ranks, so the sums are the same bits
 * on every card, each time, by either way.
 *
 * All-reduces are numbered from 1, on all cards alike. An inbox has everything twice, for odd and even
 * numbers. A card writes for number k only after it saw every other's fences of k - 1, which these
 * raised after they had used all of k - 2. So nobody need say that an inbox is free again, as long as
 * a card's packets stand on one queue and it uses a sum before it begins the next but one.
 */
#ifndef REDUCE_H
#define REDUCE_H

#include "batch.h"
#include "failure.h"

#define REDUCE_SHORT 65536u /* bytes of the longest vector that goes whole */

struct reduce {
    uint32_t cards, rank;
    uint64_t slot;               /* bytes of one */
    uint64_t inbox[CARDS_LIMIT]; /* of each card, as packets of this one name it */
};

/* Packets that an all-reduce takes at most, and launches among them. */
static size_t reduce_packets(uint32_t cards) { return 7 * (size_t)cards; }

static uint64_t reduce_half(const struct reduce *r) { return (r->cards + 1) * r->slot; }

/* Where a sender's vector goes, in the inbox of `card`; of sender `cards`: the sum. */
static uint64_t reduce_slot(const struct reduce *r, uint32_t card, uint64_t number, uint32_t sender) {
    return r->inbox[card] + (number & 1) * reduce_half(r) + sender * r->slot;
}

/* A sender's fence there, on a cache line of its own: 0 tells of vectors, 1 of sums. */
static uint64_t reduce_fence(const struct reduce *r, uint32_t card, uint32_t sender, uint32_t which) {
    return r->inbox[card] + 2 * reduce_half(r) + (sender * 2 + which) * UINT64_C(64);
}

/* Gives each card an inbox for vectors of up to `floats`, and maps them all for all. */
static void reduce_open(struct reduce *all[], const jal_session *sessions, uint32_t cards,
                        uint64_t floats) {
    static const uint8_t zeros[CARDS_LIMIT * 2 * 64];
    jal_buffer inbox[CARDS_LIMIT], mapped;
    jal_buffer_info info = {.struct_size = sizeof info};
    uint32_t i, j;
    for (i = 0; i < cards; i++) {
        struct reduce *r = all[i];
        uint64_t fences;
        r->cards = cards;
        r->rank = i;
        r->slot = (floats * 4 + 255) / 256 * 256;
        fences = 2 * reduce_half(r);
        check(jal_device_alloc(sessions[i], fences + cards * UINT64_C(128), &inbox[i]), "allocate an inbox");
        check(jal_buffer_write(inbox[i], fences, zeros, cards * UINT64_C(128)), "lower an inbox's fences");
    }
    for (i = 0; i < cards; i++)
        for (j = 0; j < cards; j++) {
            mapped = inbox[j];
            if (i != j) check(jal_peer_map(sessions[i], inbox[j], &mapped), "map another card's inbox");
            check(jal_buffer_get_info(mapped, &info), "ask where an inbox is");
            all[i]->inbox[j] = info.address;
        }
}

/* Sends floats to every other card and waits for those that they send. */
static void reduce_exchange(struct batch *b, const struct reduce *r, uint64_t number, uint32_t which,
                            uint64_t source, uint64_t floats, int whole) {
    uint32_t n;
    for (n = 1; n < r->cards; n++) { /* each begins with its neighbour: not all with the first */
        const uint32_t to = (r->rank + n) % r->cards;
        const uint64_t first = whole ? 0 : floats * to / r->cards;
        const uint64_t end = whole ? floats : floats * (to + 1) / r->cards;
        const uint64_t own = floats * r->rank / r->cards, past = floats * (r->rank + 1) / r->cards;
        if (which == 0)
            push(b, jal_packet_copy(reduce_slot(r, to, number, r->rank) + first * 4, source + first * 4,
                                    (end - first) * 4));
        else
            push(b, jal_packet_copy(reduce_slot(r, to, number, r->cards) + own * 4, source + own * 4,
                                    (past - own) * 4));
        push(b, jal_packet_signal(reduce_fence(r, to, r->rank, which), number));
    }
    for (n = 1; n < r->cards; n++)
        push(b, jal_packet_wait(reduce_fence(r, r->rank, (r->rank + n) % r->cards, which), number));
}

/* Adds what was sent and what is here, in the order of ranks. */
static void reduce_add(struct batch *b, const struct reduce *r, uint64_t number, uint64_t source,
                       uint64_t first, uint64_t floats) {
    const uint32_t f32 = JALAPENO_HW_DTYPE_F32, count = (uint32_t)floats;
    const tensor sum = dense(reduce_slot(r, r->rank, number, r->cards) + first * 4, f32, count, 1, 1);
    tensor left = sum;
    uint32_t n;
    if (floats == 0) return;
    for (n = 0; n < r->cards; n++) {
        const uint64_t at = n == r->rank ? source : reduce_slot(r, r->rank, number, n);
        const tensor next = dense(at + first * 4, f32, count, 1, 1);
        if (n == 0) left = next;
        else launch(b, JALAPENO_HW_KERNEL_ID_ADD, none(), sum, n == 1 ? &left : &sum, &next);
    }
}

/* Composes all-reduce `number` of `floats` floats at `source`; gives the address of the sum. */
static uint64_t all_reduce(struct batch *b, const struct reduce *r, uint64_t number, uint64_t source,
                           uint64_t floats) {
    const uint64_t own = floats * r->rank / r->cards, past = floats * (r->rank + 1) / r->cards;
    const uint64_t sum = reduce_slot(r, r->rank, number, r->cards);
    if (r->cards == 1) return source;
    if (floats * 4 <= REDUCE_SHORT) {
        reduce_exchange(b, r, number, 0, source, floats, 1);
        reduce_add(b, r, number, source, 0, floats);
        return sum;
    }
    reduce_exchange(b, r, number, 0, source, floats, 0);
    reduce_add(b, r, number, source, own, past - own);
    reduce_exchange(b, r, number, 1, sum, floats, 0);
    return sum;
}

#endif
