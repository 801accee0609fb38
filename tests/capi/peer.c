/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Stories of two cards that reach each other's memory. */
#include "story.h"

/* A second card beside the rig's, opened, with a session, a queue and 64 KiB of HBM. */
struct other {
    struct card *card;
    jal_device device;
    jal_session session;
    jal_queue queue;
    jal_buffer buffer;
};

static struct other other_start(void) {
    struct other other;
    other.card = card_start("--hbm", "64M", NULL);
    OK(jal_device_open(other.card->name, NULL, &other.device));
    OK(jal_session_create(other.device, &other.session));
    OK(jal_queue_create(other.session, NULL, &other.queue));
    OK(jal_device_alloc(other.session, 65536, &other.buffer));
    return other;
}

static uint64_t address(jal_buffer buffer) {
    jal_buffer_info info = {.struct_size = sizeof info};
    OK(jal_buffer_get_info(buffer, &info));
    return info.address;
}

static jal_status run(jal_queue queue, struct jalapeno_hw_packet packet) {
    uint64_t sequence;
    OK(jal_submit_one(queue, &packet, &sequence));
    return jal_wait(queue, sequence, SOON);
}

static void another_cards_memory_is_a_buffer_of_its_own_kind(void) {
    struct rig rig = rig_start(16, 0);
    struct other other = other_start();
    jal_buffer_info info = {.struct_size = sizeof info};
    jal_buffer peer, own;
    char text[16] = "", back[16] = "";
    OK(jal_peer_map(rig.session, other.buffer, &peer));
    OK(jal_buffer_get_info(peer, &info));
    SAME(info.kind, JAL_KIND_PEER);
    SAME(info.bytes, 65536);
    CHECK(info.host == NULL && info.address < JALAPENO_HW_HBM_BASE);
    /* One card writes, the other reads; and by way of packets. */
    OK(jal_buffer_write(peer, 100, "pepper", 7));
    OK(jal_buffer_read(other.buffer, 100, text, 7));
    CHECK(strcmp(text, "pepper") == 0);
    OK(jal_device_alloc(rig.session, 4096, &own));
    OK(run(rig.queue, jal_packet_copy(address(own), info.address + 100, 7)));
    OK(jal_buffer_read(own, 0, back, 7));
    CHECK(strcmp(back, "pepper") == 0);
    GIVES(JAL_ERROR_INVALID, jal_buffer_write(peer, 65535, "xy", 2));
    OK(jal_buffer_free(peer));
    GIVES(JAL_ERROR_FAULT, run(rig.queue, jal_packet_fill(info.address, 8, 1)));
    OK(jal_queue_resume(rig.queue));
    OK(jal_buffer_free(other.buffer));
    OK(jal_device_close(other.device));
}

static void what_is_mapped_or_used_is_busy(void) {
    struct rig rig = rig_start(16, 0);
    struct other other = other_start();
    struct jalapeno_hw_packet held[2];
    jal_buffer peer;
    jal_fence fence;
    uint64_t at, sequence;
    OK(jal_peer_map(rig.session, other.buffer, &peer));
    GIVES(JAL_ERROR_BUSY, jal_buffer_free(other.buffer));
    SAYS("for another card");
    CHECK(jal_error_hint()[0] != '\0');
    OK(jal_fence_create(rig.session, 0, &fence));
    OK(jal_fence_address(fence, &at));
    held[0] = jal_packet_wait(at, 1);
    held[1] = jal_packet_fill(address(peer), 8, 42);
    OK(jal_submit(rig.queue, held, 2, sizeof held[0], &sequence));
    GIVES(JAL_ERROR_BUSY, jal_buffer_free(peer));
    OK(jal_fence_signal(fence, 1));
    OK(jal_wait(rig.queue, sequence, SOON));
    OK(jal_buffer_free(peer));
    OK(jal_buffer_free(other.buffer));
    OK(jal_device_close(other.device));
}

static void a_card_that_closes_takes_its_memory_from_its_peers(void) {
    struct rig rig = rig_start(16, 0);
    int which;
    for (which = 0; which < 2; which++) {
        struct other other = other_start();
        jal_buffer_info info = {.struct_size = sizeof info};
        jal_buffer peer;
        uint64_t at;
        OK(jal_peer_map(rig.session, other.buffer, &peer));
        at = address(peer);
        if (which == 0) OK(jal_session_destroy(other.session));
        else OK(jal_device_close(other.device));
        GIVES(JAL_ERROR_HANDLE, jal_buffer_get_info(peer, &info));
        GIVES(JAL_ERROR_FAULT, run(rig.queue, jal_packet_fill(at, 8, 1)));
        OK(jal_queue_resume(rig.queue));
        if (which == 0) OK(jal_device_close(other.device));
        /* It is free for its next owner at once. */
        OK(jal_device_open(other.card->name, NULL, &other.device));
        OK(jal_device_close(other.device));
    }
}

static void mistakes_with_peers_are_refused(void) {
    struct rig rig = rig_start(16, 0);
    struct other other = other_start();
    jal_buffer own, host, peer = {77}, through;
    OK(jal_device_alloc(rig.session, 4096, &own));
    OK(jal_host_alloc(other.session, 4096, 0, &host));
    GIVES(JAL_ERROR_INVALID, jal_peer_map(rig.session, own, &peer));
    SAYS("of this card");
    GIVES(JAL_ERROR_INVALID, jal_peer_map(rig.session, host, &peer));
    SAYS("no device memory");
    GIVES(JAL_ERROR_INVALID, jal_peer_map(rig.session, other.buffer, NULL));
    GIVES(JAL_ERROR_HANDLE, jal_peer_map(rig.session, (jal_buffer){rig.queue.id}, &peer));
    GIVES(JAL_ERROR_HANDLE, jal_peer_map((jal_session){other.buffer.id}, other.buffer, &peer));
    SAME(peer.id, 77);
    OK(jal_peer_map(rig.session, other.buffer, &through));
    GIVES(JAL_ERROR_INVALID, jal_peer_map(other.session, through, &peer));
    OK(jal_buffer_free(through));
    OK(jal_buffer_free(other.buffer));
    GIVES(JAL_ERROR_HANDLE, jal_peer_map(rig.session, other.buffer, &peer));
    OK(jal_device_close(other.device));
}

static void a_card_that_is_killed_ends_a_wait_by_its_deadline(void) {
    struct rig rig = rig_start(16, 0);
    struct other other = other_start();
    jal_device_info info = {.struct_size = sizeof info};
    jal_clock clock = {.struct_size = sizeof clock};
    struct jalapeno_hw_fault_record fault;
    struct jalapeno_hw_packet wait;
    jal_buffer own, peer, mine;
    uint64_t sequence, zero = 0;
    double begin;
    OK(jal_device_alloc(rig.session, 4096, &own));
    OK(jal_buffer_write(own, 0, &zero, 8));
    OK(jal_peer_map(rig.session, other.buffer, &peer));
    OK(jal_peer_map(other.session, own, &mine));
    OK(run(other.queue, jal_packet_signal(address(mine), 1)));
    OK(run(rig.queue, jal_packet_wait(address(own), 1)));
    OK(jal_device_get_info(rig.device, &info));
    OK(jal_device_clock(rig.device, &clock));
    wait = jal_packet_wait(address(own), 2); /* which never comes */
    wait.deadline = clock.device + info.ticks_per_second / 2;
    OK(jal_submit_one(rig.queue, &wait, &sequence));
    card_kill(other.card);
    begin = now();
    GIVES(JAL_ERROR_FAULT, jal_wait(rig.queue, sequence, SOON));
    CHECK(now() - begin < 10);
    OK(jal_queue_fault(rig.queue, &fault));
    SAME(fault.code, JALAPENO_HW_FAULT_CODE_DEADLINE);
    OK(jal_queue_resume(rig.queue));
    GIVES(JAL_ERROR_LOST, jal_peer_map(rig.session, other.buffer, &mine));
    OK(jal_device_close(other.device));
    OK(run(rig.queue, jal_packet_nop()));
}

const struct story peer_stories[] = {
    {"another_cards_memory_is_a_buffer_of_its_own_kind", another_cards_memory_is_a_buffer_of_its_own_kind},
    {"what_is_mapped_or_used_is_busy", what_is_mapped_or_used_is_busy},
    {"a_card_that_closes_takes_its_memory_from_its_peers", a_card_that_closes_takes_its_memory_from_its_peers},
    {"mistakes_with_peers_are_refused", mistakes_with_peers_are_refused},
    {"a_card_that_is_killed_ends_a_wait_by_its_deadline", a_card_that_is_killed_ends_a_wait_by_its_deadline},
    {NULL, NULL},
};
