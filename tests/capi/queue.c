/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Stories of queues: packets in, completions out, failures, waits of every kind. */
#define _GNU_SOURCE
#include <sys/epoll.h>

#include "story.h"

static void packets_are_numbered_from_one_and_lap_the_ring(void) {
    struct rig rig = rig_start(16, 0);
    struct jalapeno_hw_packet packets[16];
    uint64_t sequence, seen, expected = 0;
    size_t i, lap;
    for (i = 0; i < 16; i++) packets[i] = jal_packet_nop();
    for (lap = 0; lap < 100; lap++) {
        OK(jal_submit_one(rig.queue, &packets[0], &sequence));
        SAME(sequence, ++expected);
        OK(jal_submit(rig.queue, packets, 15, sizeof packets[0], &sequence));
        SAME(sequence, expected += 15);
        OK(jal_wait(rig.queue, sequence, SOON));
        OK(jal_poll(rig.queue, &seen));
        SAME(seen, sequence);
    }
    OK(jal_submit(rig.queue, packets, 0, sizeof packets[0], &sequence));
    SAME(sequence, expected);
}

static void completions_come_once_each_with_their_cookie(void) {
    struct rig rig = rig_start(32, JAL_QUEUE_COMPLETIONS);
    struct jalapeno_hw_packet packets[8];
    jal_completion done[5];
    uint64_t sequence, next = 1, i;
    size_t count;
    for (i = 0; i < 1000; i += 8) {
        uint64_t k;
        for (k = 0; k < 8; k++) {
            packets[k] = jal_packet_nop();
            packets[k].cookie = (i + k) * 3 + 1;
        }
        OK(jal_submit(rig.queue, packets, 8, sizeof packets[0], &sequence));
        OK(jal_wait(rig.queue, sequence, SOON));
        while (next <= sequence) {
            OK(jal_reap(rig.queue, done, 5, sizeof done[0], &count));
            CHECK(count > 0 && count <= 5);
            for (k = 0; k < count; k++, next++) {
                SAME(done[k].sequence, next);
                SAME(done[k].cookie, (next - 1) * 3 + 1);
                SAME(done[k].status, JAL_OK);
                SAME(done[k].code, 0);
            }
        }
    }
    OK(jal_reap(rig.queue, done, 5, sizeof done[0], &count));
    SAME(count, 0);
}

static void a_full_queue_says_try_again(void) {
    struct rig rig = rig_start(8, 0);
    struct jalapeno_hw_packet nops[8], wait;
    uint64_t address, sequence = 0, before;
    jal_fence fence;
    int i;
    OK(jal_fence_create(rig.session, 0, &fence));
    OK(jal_fence_address(fence, &address));
    wait = jal_packet_wait(address, 1);
    OK(jal_submit_one(rig.queue, &wait, &sequence));
    for (i = 0; i < 8; i++) nops[i] = jal_packet_nop();
    OK(jal_submit(rig.queue, nops, 6, sizeof nops[0], &sequence));
    before = sequence;
    GIVES(JAL_ERROR_AGAIN, jal_submit(rig.queue, nops, 2, sizeof nops[0], &sequence)); /* all or none */
    OK(jal_submit_one(rig.queue, &nops[0], &sequence));
    SAME(sequence, before + 1);
    GIVES(JAL_ERROR_AGAIN, jal_submit_one(rig.queue, &nops[0], &sequence));
    SAME(sequence, before + 1);
    OK(jal_fence_signal(fence, 1));
    OK(jal_wait(rig.queue, before + 1, SOON));
    OK(jal_submit(rig.queue, nops, 8, sizeof nops[0], &sequence));
    OK(jal_wait(rig.queue, sequence, SOON));
    GIVES(JAL_ERROR_INVALID, jal_submit(rig.queue, nops, 9, sizeof nops[0], &sequence));
}

static void who_never_reaps_is_told_so(void) {
    struct rig rig = rig_start(8, JAL_QUEUE_COMPLETIONS);
    struct jalapeno_hw_packet nop = jal_packet_nop();
    jal_completion done[8];
    uint64_t sequence, i;
    size_t count;
    for (i = 0; i < 8; i++) OK(jal_submit_one(rig.queue, &nop, &sequence));
    OK(jal_wait(rig.queue, sequence, SOON));
    for (i = 0; i < 1000; i++) GIVES(JAL_ERROR_AGAIN, jal_submit_one(rig.queue, &nop, &sequence));
    OK(jal_reap(rig.queue, done, 8, sizeof done[0], &count));
    SAME(count, 8);
    OK(jal_submit_one(rig.queue, &nop, &sequence));
}

static void a_failed_packet_stops_the_queue_until_resumed(void) {
    struct rig rig = rig_start(16, JAL_QUEUE_COMPLETIONS);
    struct jalapeno_hw_packet packets[4];
    struct jalapeno_hw_fault_record fault;
    jal_queue_counters counters = {.struct_size = sizeof counters};
    jal_completion done[8];
    uint64_t sequence, seen;
    size_t count, i;
    GIVES(JAL_ERROR_NOT_FOUND, jal_queue_fault(rig.queue, &fault));
    for (i = 0; i < 4; i++) {
        packets[i] = jal_packet_nop();
        packets[i].cookie = 100 + i;
    }
    packets[1] = jal_packet_copy(0xDEAD0000, 0xBEEF0000, 64); /* nothing is mapped there */
    packets[1].cookie = 101;
    OK(jal_submit(rig.queue, packets, 4, sizeof packets[0], &sequence));
    GIVES(JAL_ERROR_FAULT, jal_wait(rig.queue, 2, SOON));
    SAYS("0xbeef0000");
    OK(jal_wait(rig.queue, 1, 0));
    GIVES(JAL_ERROR_CANCELLED, jal_wait(rig.queue, 4, SOON));
    seen = 99;
    GIVES(JAL_ERROR_STOPPED, jal_poll(rig.queue, &seen));
    SAME(seen, 1);
    GIVES(JAL_ERROR_STOPPED, jal_submit_one(rig.queue, &packets[0], &sequence));
    OK(jal_queue_fault(rig.queue, &fault));
    SAME(fault.code, JALAPENO_HW_FAULT_CODE_UNMAPPED_READ);
    SAME(fault.cookie, 101);
    SAME(fault.sequence, 2);
    SAME(fault.address, 0xBEEF0000);
    OK(jal_queue_resume(rig.queue));
    OK(jal_reap(rig.queue, done, 8, sizeof done[0], &count));
    SAME(count, 4);
    for (i = 0; i < 4; i++) {
        SAME(done[i].cookie, 100 + i);
        SAME(done[i].status, i == 0 ? JAL_OK : i == 1 ? JAL_ERROR_FAULT : JAL_ERROR_CANCELLED);
        SAME(done[i].code, i == 1 ? JALAPENO_HW_FAULT_CODE_UNMAPPED_READ : 0);
    }
    OK(jal_submit_one(rig.queue, &packets[0], &sequence));
    OK(jal_wait(rig.queue, sequence, SOON));
    OK(jal_queue_get_counters(rig.queue, &counters));
    SAME(counters.submitted, 5);
    SAME(counters.succeeded, 2);
    SAME(counters.failed, 1);
    SAME(counters.cancelled, 2);
    CHECK(counters.number >= 1);
    OK(jal_queue_resume(rig.queue)); /* nothing to acknowledge: nothing done */
    counters.struct_size = 4;
    GIVES(JAL_ERROR_INVALID, jal_queue_get_counters(rig.queue, &counters));
}

static void cancel_ends_what_would_never_end(void) {
    struct rig rig = rig_start(16, 0);
    struct jalapeno_hw_packet packets[3];
    jal_queue_counters counters = {.struct_size = sizeof counters};
    uint64_t address, sequence;
    jal_fence fence;
    OK(jal_fence_create(rig.session, 0, &fence));
    OK(jal_fence_address(fence, &address));
    packets[0] = jal_packet_nop();
    packets[1] = jal_packet_wait(address, 1);
    packets[2] = jal_packet_nop();
    OK(jal_submit(rig.queue, packets, 3, sizeof packets[0], &sequence));
    GIVES(JAL_ERROR_TIMEOUT, jal_wait(rig.queue, sequence, SECOND / 50));
    OK(jal_queue_cancel(rig.queue, SOON));
    CHECK(jal_wait(rig.queue, sequence, 0) != JAL_OK);
    OK(jal_fence_destroy(fence)); /* the card touches it no more */
    OK(jal_submit_one(rig.queue, &packets[0], &sequence));
    OK(jal_wait(rig.queue, sequence, SOON));
    OK(jal_queue_get_counters(rig.queue, &counters));
    SAME(counters.submitted, 4);
    SAME(counters.succeeded, 2);
    SAME(counters.failed + counters.cancelled, 2);
    GIVES(JAL_ERROR_INVALID, jal_queue_cancel(rig.queue, -5));
}

static void waits_end_by_their_deadline(void) {
    struct rig rig = rig_start(16, 0);
    struct jalapeno_hw_packet wait;
    uint64_t address, sequence;
    jal_fence fence;
    double begin;
    OK(jal_fence_create(rig.session, 0, &fence));
    OK(jal_fence_address(fence, &address));
    wait = jal_packet_wait(address, 1);
    OK(jal_submit_one(rig.queue, &wait, &sequence));
    GIVES(JAL_ERROR_TIMEOUT, jal_wait(rig.queue, sequence, 0));
    begin = now();
    GIVES(JAL_ERROR_TIMEOUT, jal_wait(rig.queue, sequence, SECOND / 10));
    CHECK(now() - begin >= 0.1);
    GIVES(JAL_ERROR_INVALID, jal_wait(rig.queue, sequence, -1));
    GIVES(JAL_ERROR_INVALID, jal_wait(rig.queue, sequence, INT64_MIN));
    GIVES(JAL_ERROR_INVALID, jal_wait(rig.queue, sequence + 1, 0));
    GIVES(JAL_ERROR_INVALID, jal_wait(rig.queue, 0, 0));
    OK(jal_fence_signal(fence, 1));
    OK(jal_wait(rig.queue, sequence, JAL_FOREVER));
    OK(jal_wait(rig.queue, sequence, INT64_MAX - 1));
}

static void a_queue_sits_in_the_program_s_own_epoll_loop(void) {
    struct rig rig = rig_start(16, 0);
    struct jalapeno_hw_packet packets[2];
    struct epoll_event event = {.events = EPOLLIN, .data = {.u64 = 42}}, got;
    uint64_t address, sequence, seen, ticks;
    jal_fence fence;
    int fd = -1, loop = epoll_create1(EPOLL_CLOEXEC), i;
    OK(jal_queue_event_fd(rig.queue, &fd));
    CHECK(fd >= 0 && loop >= 0 && epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event) == 0);
    OK(jal_fence_create(rig.session, 0, &fence));
    OK(jal_fence_address(fence, &address));
    for (i = 1; i <= 20; i++) {
        packets[0] = jal_packet_wait(address, (uint64_t)i);
        packets[1] = jal_packet_nop();
        OK(jal_submit(rig.queue, packets, 2, sizeof packets[0], &sequence));
        OK(jal_queue_arm(rig.queue, sequence));
        CHECK(epoll_wait(loop, &got, 1, 5) == 0); /* nothing yet */
        OK(jal_fence_signal(fence, (uint64_t)i));
        CHECK(epoll_wait(loop, &got, 1, 20000) == 1 && got.data.u64 == 42);
        CHECK(read(fd, &ticks, 8) == 8);
        OK(jal_poll(rig.queue, &seen));
        SAME(seen, sequence);
    }
    OK(jal_queue_arm(rig.queue, sequence)); /* done already: at once */
    CHECK(epoll_wait(loop, &got, 1, 1000) == 1);
    close(loop);
}

struct waiter { struct rig *rig; uint64_t sequence; jal_status status; };
static void *wait_for_it(void *argument) {
    struct waiter *waiter = argument;
    waiter->status = jal_wait(waiter->rig->queue, waiter->sequence, JAL_FOREVER);
    return NULL;
}

static void several_threads_wait_at_once(void) {
    struct rig rig = rig_start(16, 0);
    struct jalapeno_hw_packet packets[8];
    struct waiter waiters[8];
    pthread_t threads[8];
    uint64_t address, sequence;
    jal_fence fence;
    int i;
    OK(jal_fence_create(rig.session, 0, &fence));
    OK(jal_fence_address(fence, &address));
    for (i = 0; i < 8; i++) packets[i] = jal_packet_wait(address, (uint64_t)i + 1);
    OK(jal_submit(rig.queue, packets, 8, sizeof packets[0], &sequence));
    for (i = 0; i < 8; i++) {
        waiters[i] = (struct waiter){&rig, (uint64_t)(8 - i), JAL_ERROR_INTERNAL};
        CHECK(pthread_create(&threads[i], NULL, wait_for_it, &waiters[i]) == 0);
    }
    for (i = 1; i <= 8; i++) {
        usleep(2000);
        OK(jal_fence_signal(fence, (uint64_t)i));
    }
    for (i = 0; i < 8; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        SAME(waiters[i].status, JAL_OK);
    }
}

static void a_close_ends_other_threads_waits(void) {
    struct rig rig = rig_start(16, 0);
    struct jalapeno_hw_packet packet;
    struct waiter waiter = {&rig, 0, JAL_OK};
    uint64_t address;
    jal_fence fence;
    pthread_t thread;
    double begin;
    OK(jal_fence_create(rig.session, 0, &fence));
    OK(jal_fence_address(fence, &address));
    packet = jal_packet_wait(address, 1);
    OK(jal_submit_one(rig.queue, &packet, &waiter.sequence));
    CHECK(pthread_create(&thread, NULL, wait_for_it, &waiter) == 0);
    usleep(50000);
    begin = now();
    OK(jal_queue_destroy(rig.queue));
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(now() - begin < 4);
    SAME(waiter.status, JAL_ERROR_HANDLE);
    GIVES(JAL_ERROR_HANDLE, jal_submit_one(rig.queue, &packet, &waiter.sequence));
}

struct submitter { struct rig *rig; int done; };
static void *submit_many(void *argument) {
    struct submitter *submitter = argument;
    struct jalapeno_hw_packet nop = jal_packet_nop();
    uint64_t sequence;
    while (submitter->done < 2000) {
        jal_status status = jal_submit_one(submitter->rig->queue, &nop, &sequence);
        CHECK(status == JAL_OK || status == JAL_ERROR_AGAIN);
        if (status == JAL_OK) submitter->done++;
    }
    OK(jal_wait(submitter->rig->queue, sequence, SOON));
    return NULL;
}

static void threads_take_turns_on_one_queue(void) {
    struct rig rig = rig_start(64, 0);
    struct submitter submitters[4];
    jal_queue_counters counters = {.struct_size = sizeof counters};
    pthread_t threads[4];
    int i;
    for (i = 0; i < 4; i++) {
        submitters[i] = (struct submitter){&rig, 0};
        CHECK(pthread_create(&threads[i], NULL, submit_many, &submitters[i]) == 0);
    }
    for (i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    OK(jal_queue_get_counters(rig.queue, &counters));
    SAME(counters.submitted, 8000);
    SAME(counters.succeeded, 8000);
}

static void queues_of_every_priority_run_and_an_older_header_has_none(void) {
    struct rig rig = rig_start(16, 0);
    const struct jalapeno_hw_packet nop = jal_packet_nop();
    jal_queue_options options = {.struct_size = sizeof options};
    uint64_t sequence;
    jal_queue queue;
    for (options.priority = JAL_PRIORITY_NORMAL; options.priority <= JAL_PRIORITY_REALTIME; options.priority++) {
        OK(jal_queue_create(rig.session, &options, &queue));
        OK(jal_submit_one(queue, &nop, &sequence));
        OK(jal_wait(queue, sequence, SOON));
    }
    options.struct_size = 16; /* what lies behind it is not looked at */
    options.priority = 99;
    OK(jal_queue_create(rig.session, &options, &queue));
}

static void a_job_says_what_it_took(void) {
    struct rig rig = rig_start(16, JAL_QUEUE_PROFILE), plain = rig;
    struct jalapeno_hw_packet fill, nop = jal_packet_nop();
    jal_stats stats = {.struct_size = sizeof stats};
    uint64_t sequence, first;
    jal_queue_options options = {.struct_size = sizeof options};
    jal_buffer buffer;
    jal_buffer_info info = {.struct_size = sizeof info};
    int i;
    OK(jal_device_alloc(rig.session, 1 << 20, &buffer));
    OK(jal_buffer_get_info(buffer, &info));
    fill = jal_packet_fill(info.address, 1 << 20, 3);
    fill.cookie = 77;
    OK(jal_submit_one(rig.queue, &fill, &first));
    OK(jal_wait(rig.queue, first, SOON));
    OK(jal_job_stats(rig.queue, first, &stats));
    SAME(stats.sequence, first);
    SAME(stats.cookie, 77);
    SAME(stats.opcode, JALAPENO_HW_OPCODE_FILL);
    SAME(stats.failed, 0);
    SAME(stats.bytes, 1 << 20);
    CHECK(stats.start < stats.end && stats.energy_nj > 0);
    GIVES(JAL_ERROR_INVALID, jal_job_stats(rig.queue, 0, &stats));
    GIVES(JAL_ERROR_INVALID, jal_job_stats(rig.queue, first + 1, &stats));
    for (i = 0; i < 16; i++) OK(jal_submit_one(rig.queue, &nop, &sequence));
    OK(jal_wait(rig.queue, sequence, SOON));
    OK(jal_job_stats(rig.queue, sequence, &stats));
    SAME(stats.opcode, JALAPENO_HW_OPCODE_NOP);
    GIVES(JAL_ERROR_INVALID, jal_job_stats(rig.queue, first, &stats)); /* written over */
    GIVES(JAL_ERROR_INVALID, jal_job_stats(rig.queue, sequence, NULL));
    OK(jal_queue_create(rig.session, &options, &plain.queue));
    GIVES(JAL_ERROR_UNSUPPORTED, jal_job_stats(plain.queue, 1, &stats));
    OK(jal_queue_destroy(plain.queue));
}

static void a_killed_card_is_lost_to_every_waiter(void) {
    struct rig rig = rig_start(16, 0);
    struct jalapeno_hw_packet packet;
    struct waiter waiter = {&rig, 0, JAL_OK};
    jal_device_info info = {.struct_size = sizeof info};
    uint64_t address, sequence;
    jal_fence fence;
    pthread_t thread;
    double begin;
    if (on_stage()) story_skip("the card cannot be killed from here");
    OK(jal_fence_create(rig.session, 0, &fence));
    OK(jal_fence_address(fence, &address));
    packet = jal_packet_wait(address, 1);
    OK(jal_submit_one(rig.queue, &packet, &waiter.sequence));
    CHECK(pthread_create(&thread, NULL, wait_for_it, &waiter) == 0);
    usleep(50000);
    card_kill(rig.card);
    begin = now();
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(now() - begin < 2);
    SAME(waiter.status, JAL_ERROR_LOST);
    GIVES(JAL_ERROR_LOST, jal_submit_one(rig.queue, &packet, &sequence));
    GIVES(JAL_ERROR_LOST, jal_device_get_info(rig.device, &info));
    OK(jal_device_close(rig.device));
}

const struct story queue_stories[] = {
    {"packets_are_numbered_from_one_and_lap_the_ring", packets_are_numbered_from_one_and_lap_the_ring},
    {"completions_come_once_each_with_their_cookie", completions_come_once_each_with_their_cookie},
    {"a_full_queue_says_try_again", a_full_queue_says_try_again},
    {"who_never_reaps_is_told_so", who_never_reaps_is_told_so},
    {"a_failed_packet_stops_the_queue_until_resumed", a_failed_packet_stops_the_queue_until_resumed},
    {"cancel_ends_what_would_never_end", cancel_ends_what_would_never_end},
    {"waits_end_by_their_deadline", waits_end_by_their_deadline},
    {"a_queue_sits_in_the_program_s_own_epoll_loop", a_queue_sits_in_the_program_s_own_epoll_loop},
    {"several_threads_wait_at_once", several_threads_wait_at_once},
    {"a_close_ends_other_threads_waits", a_close_ends_other_threads_waits},
    {"threads_take_turns_on_one_queue", threads_take_turns_on_one_queue},
    {"queues_of_every_priority_run_and_an_older_header_has_none",
     queues_of_every_priority_run_and_an_older_header_has_none},
    {"a_job_says_what_it_took", a_job_says_what_it_took},
    {"a_killed_card_is_lost_to_every_waiter", a_killed_card_is_lost_to_every_waiter},
    {NULL, NULL},
};
