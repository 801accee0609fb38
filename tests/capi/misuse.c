/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Stories of callers' mistakes: null, stale, forged, forked, interrupted. */
#define _GNU_SOURCE
#include "story.h"

static void every_null_is_refused(void) {
    struct rig rig = rig_start(16, 0);
    struct jalapeno_hw_packet packet = jal_packet_nop();
    jal_completion done[1];
    jal_buffer buffer;
    jal_fence fence;
    uint64_t sequence;
    size_t count;
    OK(jal_host_alloc(rig.session, 4096, 0, &buffer));
    OK(jal_fence_create(rig.session, 0, &fence));
    GIVES(JAL_ERROR_INVALID, jal_session_create(rig.device, NULL));
    GIVES(JAL_ERROR_INVALID, jal_device_telemetry(rig.device, NULL, 0, sizeof(jal_telemetry), NULL));
    GIVES(JAL_ERROR_INVALID, jal_device_telemetry(rig.device, NULL, 1, sizeof(jal_telemetry), &count));
    GIVES(JAL_ERROR_INVALID, jal_device_faults(rig.device, NULL, 0, 256, NULL));
    GIVES(JAL_ERROR_INVALID, jal_host_alloc(rig.session, 4096, 0, NULL));
    GIVES(JAL_ERROR_INVALID, jal_device_alloc(rig.session, 4096, NULL));
    GIVES(JAL_ERROR_INVALID, jal_buffer_get_info(buffer, NULL));
    GIVES(JAL_ERROR_INVALID, jal_queue_create(rig.session, NULL, NULL));
    GIVES(JAL_ERROR_INVALID, jal_submit_one(rig.queue, NULL, &sequence));
    GIVES(JAL_ERROR_INVALID, jal_submit_one(rig.queue, &packet, NULL));
    GIVES(JAL_ERROR_INVALID, jal_submit(rig.queue, NULL, 1, sizeof packet, &sequence));
    GIVES(JAL_ERROR_INVALID, jal_submit(rig.queue, &packet, 1, sizeof packet, NULL));
    GIVES(JAL_ERROR_INVALID, jal_submit(rig.queue, &packet, 1, sizeof packet - 8, &sequence));
    GIVES(JAL_ERROR_INVALID, jal_submit(rig.queue, &packet, SIZE_MAX / sizeof packet, sizeof packet, &sequence));
    GIVES(JAL_ERROR_INVALID, jal_submit(rig.queue, &packet, SIZE_MAX, sizeof packet, &sequence));
    GIVES(JAL_ERROR_INVALID, jal_poll(rig.queue, NULL));
    GIVES(JAL_ERROR_INVALID, jal_reap(rig.queue, NULL, 1, sizeof done[0], &count));
    GIVES(JAL_ERROR_INVALID, jal_reap(rig.queue, done, 1, sizeof done[0], NULL));
    GIVES(JAL_ERROR_INVALID, jal_reap(rig.queue, done, 1, 8, &count));
    GIVES(JAL_ERROR_INVALID, jal_reap(rig.queue, done, 1, sizeof done[0], &count)); /* not asked for */
    SAYS("reap");
    GIVES(JAL_ERROR_INVALID, jal_queue_event_fd(rig.queue, NULL));
    GIVES(JAL_ERROR_INVALID, jal_queue_fault(rig.queue, NULL));
    GIVES(JAL_ERROR_INVALID, jal_queue_get_counters(rig.queue, NULL));
    GIVES(JAL_ERROR_INVALID, jal_fence_create(rig.session, 0, NULL));
    GIVES(JAL_ERROR_INVALID, jal_fence_address(fence, NULL));
    GIVES(JAL_ERROR_INVALID, jal_fence_value(fence, NULL));
    OK(jal_submit_one(rig.queue, &packet, &sequence)); /* nothing was done by any of these */
    SAME(sequence, 1);
}

static void misaligned_packets_are_refused(void) {
    struct rig rig = rig_start(16, JAL_QUEUE_COMPLETIONS);
    union { uint8_t bytes[256]; uint64_t align; } space;
    uint64_t sequence;
    size_t count;
    memset(&space, 0, sizeof space);
    GIVES(JAL_ERROR_INVALID, jal_submit_one(rig.queue, (void *)(space.bytes + 1), &sequence));
    GIVES(JAL_ERROR_INVALID, jal_submit(rig.queue, (void *)(space.bytes + 4), 1, 64, &sequence));
    GIVES(JAL_ERROR_INVALID, jal_reap(rig.queue, (void *)(space.bytes + 4), 1, sizeof(jal_completion), &count));
}

static void queue_shapes_are_checked(void) {
    struct rig rig = rig_start(16, 0);
    static const struct { uint32_t depth, errors, flags, priority; } bad[] = {
        {3, 0, 0, 0}, {UINT32_MAX, 0, 0, 0}, {UINT32_C(1) << 31, 0, 0, 0}, {64, 3, 0, 0},
        {64, UINT32_MAX, 0, 0}, {64, 0, 4, 0}, {64, 0, 0, 4}, {64, 0, 0, UINT32_MAX}};
    jal_queue_options options = {.struct_size = sizeof options};
    jal_queue queues[80], queue;
    size_t i, made = 0;
    jal_status status = JAL_OK;
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        options.depth = bad[i].depth;
        options.errors = bad[i].errors;
        options.flags = bad[i].flags;
        options.priority = bad[i].priority;
        GIVES(JAL_ERROR_INVALID, jal_queue_create(rig.session, &options, &queue));
    }
    options = (jal_queue_options){.struct_size = 12};
    GIVES(JAL_ERROR_INVALID, jal_queue_create(rig.session, &options, &queue));
    while (made < 80 && (status = jal_queue_create(rig.session, NULL, &queues[made])) == JAL_OK) made++;
    SAME(status, JAL_ERROR_MEMORY); /* the card has no more */
    CHECK(made > 10);
    OK(jal_queue_destroy(queues[0]));
    OK(jal_queue_create(rig.session, NULL, &queues[0]));
}

/* Calls everything that takes a handle with `id` for it; nothing may come of it. */
static void give_everywhere(uint64_t id, jal_status wanted) {
    jal_device device = {id};
    jal_session session = {id};
    jal_buffer buffer = {id};
    jal_queue queue = {id};
    jal_fence fence = {id};
    jal_device_info info = {.struct_size = sizeof info};
    jal_buffer_info buffer_info = {.struct_size = sizeof buffer_info};
    jal_queue_counters counters = {.struct_size = sizeof counters};
    jal_clock clock = {.struct_size = sizeof clock};
    jal_memory_use use = {.struct_size = sizeof use};
    struct jalapeno_hw_packet packet = jal_packet_nop();
    struct jalapeno_hw_fault_record fault;
    jal_completion done;
    jal_session new_session;
    jal_buffer new_buffer;
    jal_queue new_queue;
    jal_fence new_fence;
    jal_graph graph = {id}, new_graph;
    jal_patch patch = {.struct_size = sizeof patch};
    const uint32_t none = 0;
    struct jalapeno_hw_parameters parameters = {{0}};
    struct jalapeno_hw_tensor tensor = {0};
    uint64_t value, memory[1] = {0};
    size_t count;
    int fd;
    GIVES(wanted, jal_device_get_info(device, &info));
    GIVES(wanted, jal_device_telemetry(device, NULL, 0, sizeof(jal_telemetry), &count));
    GIVES(wanted, jal_device_faults(device, NULL, 0, sizeof fault, &count));
    GIVES(wanted, jal_device_clock(device, &clock));
    GIVES(wanted, jal_device_reset(device, JALAPENO_HW_RESET_LEVEL_DEVICE, 0));
    GIVES(wanted, jal_session_create(device, &new_session));
    GIVES(wanted, jal_session_get_memory_use(session, &use));
    GIVES(wanted, jal_host_alloc(session, 4096, 0, &new_buffer));
    GIVES(wanted, jal_device_alloc(session, 4096, &new_buffer));
    GIVES(wanted, jal_host_register(session, memory, 4096, 0, &new_buffer));
    GIVES(wanted, jal_queue_create(session, NULL, &new_queue));
    GIVES(wanted, jal_fence_create(session, 0, &new_fence));
    GIVES(wanted, jal_buffer_get_info(buffer, &buffer_info));
    GIVES(wanted, jal_buffer_write(buffer, 0, memory, 8));
    GIVES(wanted, jal_buffer_read(buffer, 0, memory, 8));
    GIVES(wanted, jal_submit_one(queue, &packet, &value));
    GIVES(wanted, jal_submit(queue, &packet, 1, sizeof packet, &value));
    GIVES(wanted, jal_poll(queue, &value));
    GIVES(wanted, jal_reap(queue, &done, 1, sizeof done, &count));
    GIVES(wanted, jal_wait(queue, 1, 0));
    GIVES(wanted, jal_queue_event_fd(queue, &fd));
    GIVES(wanted, jal_queue_arm(queue, 1));
    GIVES(wanted, jal_queue_fault(queue, &fault));
    GIVES(wanted, jal_queue_resume(queue));
    GIVES(wanted, jal_queue_cancel(queue, 0));
    GIVES(wanted, jal_queue_get_counters(queue, &counters));
    GIVES(wanted, jal_fence_address(fence, &value));
    GIVES(wanted, jal_fence_value(fence, &value));
    GIVES(wanted, jal_fence_signal(fence, 1));
    GIVES(wanted, jal_fence_wait(fence, 1, 0));
    GIVES(wanted, jal_graph_create(session, &new_graph));
    GIVES(wanted, jal_graph_add(graph, &packet, NULL));
    GIVES(wanted, jal_graph_launch(graph, 1, &parameters, &tensor, 1, sizeof tensor, NULL));
    GIVES(wanted, jal_graph_patch(graph, &patch));
    GIVES(wanted, jal_graph_finish(graph, NULL, 0));
    GIVES(wanted, jal_graph_replay(graph, queue, &none, 1, &value));
    GIVES(wanted, jal_graph_get_packet(graph, &none, 1, &packet));
    GIVES(wanted, jal_graph_destroy(graph));
    GIVES(wanted, jal_fence_destroy(fence));
    GIVES(wanted, jal_queue_destroy(queue));
    GIVES(wanted, jal_buffer_free(buffer));
    GIVES(wanted, jal_session_destroy(session));
    GIVES(wanted, jal_device_close(device));
}

static void forged_handles_are_refused_everywhere(void) {
    struct rig rig = rig_start(16, 0);
    uint64_t forged = 0x9E3779B97F4A7C15, sequence;
    struct jalapeno_hw_packet packet = jal_packet_nop();
    int i;
    give_everywhere(0, JAL_ERROR_HANDLE);
    give_everywhere(1, JAL_ERROR_HANDLE);
    give_everywhere(UINT64_MAX, JAL_ERROR_HANDLE);
    give_everywhere(rig.queue.id ^ UINT64_C(1) << 63, JAL_ERROR_HANDLE);
    give_everywhere(rig.queue.id ^ UINT64_C(1) << 20, JAL_ERROR_HANDLE); /* another generation */
    give_everywhere(rig.queue.id ^ 1, JAL_ERROR_HANDLE);                 /* another index */
    for (i = 0; i < 200; i++) {
        forged ^= forged << 13;
        forged ^= forged >> 7;
        forged ^= forged << 17;
        give_everywhere(forged, JAL_ERROR_HANDLE);
    }
    OK(jal_submit_one(rig.queue, &packet, &sequence));
    OK(jal_wait(rig.queue, sequence, SOON));
}

static void a_handle_of_another_kind_is_named(void) {
    struct rig rig = rig_start(16, 0);
    jal_session session = {rig.queue.id};
    jal_queue queue = {rig.device.id};
    uint64_t sequence;
    GIVES(JAL_ERROR_HANDLE, jal_session_destroy(session));
    SAYS("jal_queue");
    GIVES(JAL_ERROR_HANDLE, jal_poll(queue, &sequence));
    SAYS("jal_device");
}

static void a_closed_handle_stays_closed_when_its_place_is_used_again(void) {
    struct rig rig = rig_start(16, 0);
    jal_buffer old, buffer;
    jal_buffer_info info = {.struct_size = sizeof info};
    int i;
    OK(jal_host_alloc(rig.session, 4096, 0, &old));
    OK(jal_buffer_free(old));
    for (i = 0; i < 100; i++) {
        OK(jal_host_alloc(rig.session, 4096, 0, &buffer));
        GIVES(JAL_ERROR_HANDLE, jal_buffer_get_info(old, &info));
        GIVES(JAL_ERROR_HANDLE, jal_buffer_free(old));
        OK(jal_buffer_free(buffer));
    }
}

static void a_child_of_fork_is_refused_and_the_parent_unharmed(void) {
    struct rig rig = rig_start(16, 0);
    struct jalapeno_hw_packet packet = jal_packet_nop();
    uint64_t sequence, value;
    jal_buffer buffer;
    jal_fence fence;
    pid_t child;
    int status;
    OK(jal_host_alloc(rig.session, 4096, 0, &buffer));
    OK(jal_fence_create(rig.session, 0, &fence));
    fflush(stdout);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        jal_buffer other;
        int bad = 0;
        bad |= (jal_submit_one(rig.queue, &packet, &sequence) != JAL_ERROR_FORKED) << 0;
        bad |= (jal_poll(rig.queue, &value) != JAL_ERROR_FORKED) << 1;
        bad |= (jal_wait(rig.queue, 1, 0) != JAL_ERROR_FORKED) << 2;
        bad |= (jal_host_alloc(rig.session, 4096, 0, &other) != JAL_ERROR_FORKED) << 3;
        bad |= (jal_fence_value(fence, &value) != JAL_ERROR_FORKED) << 4;
        bad |= (jal_device_reset(rig.device, JALAPENO_HW_RESET_LEVEL_DEVICE, SOON) != JAL_ERROR_FORKED) << 5;
        _exit(bad);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    SAME(WEXITSTATUS(status), 0);
    OK(jal_submit_one(rig.queue, &packet, &sequence));
    OK(jal_wait(rig.queue, sequence, SOON));
}

static void on_alarm(int signal) { (void)signal; }

static void signals_do_not_cut_a_wait_short(void) {
    struct rig rig = rig_start(16, 0);
    struct sigaction action = {.sa_handler = on_alarm}; /* no SA_RESTART */
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    struct itimerspec often = {{0, 2000000}, {0, 2000000}}, never = {{0, 0}, {0, 0}};
    struct jalapeno_hw_packet packet;
    uint64_t address, sequence;
    jal_fence fence;
    timer_t timer;
    double begin;
    OK(jal_fence_create(rig.session, 0, &fence));
    OK(jal_fence_address(fence, &address));
    packet = jal_packet_wait(address, 1);
    OK(jal_submit_one(rig.queue, &packet, &sequence));
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    CHECK(timer_settime(timer, 0, &often, NULL) == 0);
    begin = now();
    GIVES(JAL_ERROR_TIMEOUT, jal_wait(rig.queue, sequence, SECOND / 5));
    CHECK(now() - begin >= 0.2);
    begin = now();
    GIVES(JAL_ERROR_TIMEOUT, jal_fence_wait(fence, 1, SECOND / 5));
    CHECK(now() - begin >= 0.2);
    OK(jal_fence_signal(fence, 1));
    OK(jal_wait(rig.queue, sequence, SOON));
    CHECK(timer_settime(timer, 0, &never, NULL) == 0);
    timer_delete(timer);
}

static int descriptors(void) {
    int fd, count = 0;
    for (fd = 0; fd < 1024; fd++) count += fcntl(fd, F_GETFD) != -1;
    return count;
}

static void opening_and_closing_leaves_no_descriptor(void) {
    struct card *card = card_start("--hbm", "64M", NULL);
    int before = 0, i;
    for (i = 0; i < (on_stage() ? 2 : 20); i++) { /* a kernel resets the card at each opening */
        jal_device device;
        jal_session session;
        jal_queue queue;
        jal_buffer buffer;
        struct jalapeno_hw_packet packet = jal_packet_nop();
        uint64_t sequence;
        OK(jal_device_open(card->name, NULL, &device));
        OK(jal_session_create(device, &session));
        OK(jal_queue_create(session, NULL, &queue));
        OK(jal_host_alloc(session, 1 << 20, 0, &buffer));
        OK(jal_submit_one(queue, &packet, &sequence));
        OK(jal_wait(queue, sequence, SOON));
        OK(jal_device_close(device));
        if (i == 0) before = descriptors();
    }
    SAME(descriptors(), before);
}

const struct story misuse_stories[] = {
    {"every_null_is_refused", every_null_is_refused},
    {"misaligned_packets_are_refused", misaligned_packets_are_refused},
    {"queue_shapes_are_checked", queue_shapes_are_checked},
    {"forged_handles_are_refused_everywhere", forged_handles_are_refused_everywhere},
    {"a_handle_of_another_kind_is_named", a_handle_of_another_kind_is_named},
    {"a_closed_handle_stays_closed_when_its_place_is_used_again", a_closed_handle_stays_closed_when_its_place_is_used_again},
    {"a_child_of_fork_is_refused_and_the_parent_unharmed", a_child_of_fork_is_refused_and_the_parent_unharmed},
    {"signals_do_not_cut_a_wait_short", signals_do_not_cut_a_wait_short},
    {"opening_and_closing_leaves_no_descriptor", opening_and_closing_leaves_no_descriptor},
    {NULL, NULL},
};
