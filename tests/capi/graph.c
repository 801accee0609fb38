/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Stories of recorded graphs. */
#include <stddef.h>

#include "story.h"

struct memory { jal_buffer buffer; jal_buffer_info info; };

static struct memory pinned(jal_session session) {
    struct memory m = {.info = {.struct_size = sizeof m.info}};
    OK(jal_host_alloc(session, 4096, 0, &m.buffer));
    OK(jal_buffer_get_info(m.buffer, &m.info));
    return m;
}

static struct jalapeno_hw_tensor row(uint64_t address, uint32_t floats) {
    struct jalapeno_hw_tensor t = {address, JALAPENO_HW_DTYPE_F32, 0, {floats, 1, 1, 1}, {4, 0, 0, 0}};
    t.nb[1] = t.nb[2] = t.nb[3] = 4 * (uint64_t)floats;
    return t;
}

static jal_status change(jal_graph graph, uint32_t step, uint32_t place, size_t offset, uint32_t width,
                         uint32_t value, uint64_t scale) {
    jal_patch patch = {sizeof patch, step, place, (uint32_t)offset, width, value, scale};
    return jal_graph_patch(graph, &patch);
}

#define PATTERN offsetof(struct jalapeno_hw_packet, body[2])

static void a_graph_runs_with_the_values_of_each_run(void) {
    struct rig rig = rig_start(16, 0);
    struct memory m = pinned(rig.session);
    volatile uint64_t *token = m.info.host;
    float *floats = (float *)m.info.host;
    struct jalapeno_hw_packet fill = jal_packet_fill(m.info.address, 8, 1000), both[2];
    struct jalapeno_hw_parameters twice = {{0}};
    struct jalapeno_hw_tensor operands[2] = {row(m.info.address + 2048, 4), row(m.info.address + 1024, 4)};
    const float two = 2.0f;
    const uint32_t limits[] = {UINT32_MAX, 3};
    uint32_t values[2], step, launch, i;
    uint64_t sequence;
    jal_graph graph;
    memcpy(&twice.word[0], &two, 4);
    OK(jal_graph_create(rig.session, &graph));
    OK(jal_graph_add(graph, &fill, &step));
    OK(jal_graph_launch(graph, JALAPENO_HW_KERNEL_ID_SCALE, &twice, operands, 2, sizeof operands[0], &launch));
    SAME(step, 0);
    SAME(launch, 1);
    OK(change(graph, step, JAL_PLACE_PACKET, PATTERN, 8, 0, 1));
    OK(change(graph, launch, JAL_PLACE_TENSOR(0), 0, 8, 1, 16));
    OK(change(graph, launch, JAL_PLACE_TENSOR(1), 0, 8, 1, 16));
    GIVES(JAL_ERROR_INVALID, jal_graph_replay(graph, rig.queue, limits, 2, &sequence));
    SAYS("not finished");
    OK(jal_graph_finish(graph, limits, 2));
    for (i = 0; i < 16; i++) floats[256 + i] = (float)i;
    for (i = 0; i < 4; i++) {
        values[0] = 7 * i;
        values[1] = i;
        OK(jal_graph_replay(graph, rig.queue, values, 2, &sequence));
        SAME(sequence, i + 1);
        OK(jal_wait(rig.queue, sequence, SOON));
        SAME(*token, 1000 + 7 * i);
    }
    for (i = 0; i < 16; i++) CHECK(floats[512 + i] == 2.0f * (float)i);
    /* The packet itself may go with others. */
    OK(jal_graph_get_packet(graph, values, 2, &both[0]));
    both[0].cookie = 5;
    both[1] = jal_packet_nop();
    OK(jal_submit(rig.queue, both, 2, sizeof both[0], &sequence));
    OK(jal_wait(rig.queue, sequence, SOON));
    OK(jal_graph_destroy(graph));
    GIVES(JAL_ERROR_HANDLE, jal_graph_replay(graph, rig.queue, values, 2, &sequence));
}

static void what_cannot_be_recorded_is_refused_and_the_rest_stays(void) {
    struct rig rig = rig_start(16, 0);
    struct memory m = pinned(rig.session);
    struct jalapeno_hw_packet fill = jal_packet_fill(m.info.address, 8, 7), bad = jal_packet_nop();
    struct jalapeno_hw_parameters none = {{0}};
    struct jalapeno_hw_tensor stray = row(m.info.address + 4090, 4);
    const uint32_t limits[7] = {511};
    uint32_t values[2] = {512, 0}, step;
    uint64_t sequence;
    jal_graph graph;
    GIVES(JAL_ERROR_INVALID, jal_graph_create(rig.session, NULL));
    OK(jal_graph_create(rig.session, &graph));
    bad.deadline = 1;
    GIVES(JAL_ERROR_INVALID, jal_graph_add(graph, &bad, NULL));
    SAYS("deadline");
    bad = jal_packet(JALAPENO_HW_OPCODE_MANAGE, 1);
    GIVES(JAL_ERROR_INVALID, jal_graph_add(graph, &bad, NULL));
    SAYS("MANAGE");
    GIVES(JAL_ERROR_INVALID, jal_graph_add(graph, NULL, NULL));
    GIVES(JAL_ERROR_INVALID, jal_graph_launch(graph, 9, NULL, &stray, 1, sizeof stray, NULL));
    GIVES(JAL_ERROR_INVALID, jal_graph_launch(graph, 9, &none, NULL, 1, sizeof stray, NULL));
    GIVES(JAL_ERROR_INVALID, jal_graph_launch(graph, 9, &none, &stray, 1, 63, NULL));
    GIVES(JAL_ERROR_INVALID, jal_graph_launch(graph, 9, &none, &stray, SIZE_MAX, sizeof stray, NULL));
    GIVES(JAL_ERROR_INVALID, jal_graph_finish(graph, NULL, 0));
    SAYS("without packets");
    OK(jal_graph_add(graph, &fill, &step));
    GIVES(JAL_ERROR_INVALID, jal_graph_patch(graph, NULL));
    GIVES(JAL_ERROR_INVALID, change(graph, 1, JAL_PLACE_PACKET, PATTERN, 8, 0, 1));
    GIVES(JAL_ERROR_INVALID, change(graph, step, JAL_PLACE_TENSOR(0), 0, 8, 0, 1));
    GIVES(JAL_ERROR_INVALID, change(graph, step, UINT32_MAX, 0, 8, 0, 1));
    GIVES(JAL_ERROR_INVALID, change(graph, step, JAL_PLACE_PACKET, 8, 8, 0, 1));
    GIVES(JAL_ERROR_INVALID, change(graph, step, JAL_PLACE_PACKET, PATTERN, 260, 0, 1));
    GIVES(JAL_ERROR_INVALID, change(graph, step, JAL_PLACE_PACKET, PATTERN, 8, 256, 1));
    OK(change(graph, step, JAL_PLACE_PACKET, offsetof(struct jalapeno_hw_packet, body[0]), 8, 0, 8));
    GIVES(JAL_ERROR_INVALID, jal_graph_finish(graph, NULL, 1));
    GIVES(JAL_ERROR_INVALID, jal_graph_finish(graph, limits, 7));
    GIVES(JAL_ERROR_INVALID, jal_graph_finish(graph, &values[0], 1)); /* at 512 it leaves the buffer */
    SAYS("step 0 (FILL)");
    OK(jal_graph_finish(graph, limits, 1));
    GIVES(JAL_ERROR_INVALID, jal_graph_finish(graph, limits, 1));
    GIVES(JAL_ERROR_INVALID, jal_graph_add(graph, &fill, NULL));
    SAYS("finished");
    GIVES(JAL_ERROR_INVALID, jal_graph_replay(graph, rig.queue, values, 1, &sequence));
    SAYS("512");
    GIVES(JAL_ERROR_INVALID, jal_graph_replay(graph, rig.queue, values, 2, &sequence));
    GIVES(JAL_ERROR_INVALID, jal_graph_replay(graph, rig.queue, NULL, 1, &sequence));
    GIVES(JAL_ERROR_INVALID, jal_graph_replay(graph, rig.queue, values, SIZE_MAX, &sequence));
    GIVES(JAL_ERROR_INVALID, jal_graph_replay(graph, rig.queue, values, 1, NULL));
    GIVES(JAL_ERROR_INVALID, jal_graph_get_packet(graph, limits, 1, NULL));
    OK(jal_graph_replay(graph, rig.queue, limits, 1, &sequence));
    SAME(sequence, 1); /* nothing else was submitted */
    OK(jal_wait(rig.queue, sequence, SOON));
    SAME(((uint64_t *)m.info.host)[511], 7);
    OK(jal_graph_create(rig.session, &graph));
    OK(jal_graph_launch(graph, JALAPENO_HW_KERNEL_ID_SCALE, &none, &stray, 1, sizeof stray, NULL));
    GIVES(JAL_ERROR_INVALID, jal_graph_finish(graph, NULL, 0));
    SAYS("LAUNCH SCALE), operand 0");
}

static void a_graph_ends_with_the_buffers_it_names(void) {
    struct rig rig = rig_start(16, 0);
    struct memory m = pinned(rig.session);
    struct jalapeno_hw_packet wait, fill = jal_packet_fill(m.info.address, 8, 9);
    uint64_t sequence, address;
    jal_fence fence;
    jal_graph graph;
    OK(jal_fence_create(rig.session, 0, &fence));
    OK(jal_fence_address(fence, &address));
    wait = jal_packet_wait(address, 1);
    OK(jal_graph_create(rig.session, &graph));
    OK(jal_graph_add(graph, &wait, NULL));
    OK(jal_graph_add(graph, &fill, NULL));
    OK(jal_graph_finish(graph, NULL, 0));
    OK(jal_graph_replay(graph, rig.queue, NULL, 0, &sequence));
    GIVES(JAL_ERROR_BUSY, jal_buffer_free(m.buffer));
    GIVES(JAL_ERROR_BUSY, jal_fence_destroy(fence));
    GIVES(JAL_ERROR_BUSY, jal_graph_destroy(graph));
    OK(jal_fence_signal(fence, 1));
    OK(jal_wait(rig.queue, sequence, SOON));
    SAME(*(uint64_t *)m.info.host, 9);
    OK(jal_buffer_free(m.buffer));
    GIVES(JAL_ERROR_HANDLE, jal_graph_replay(graph, rig.queue, NULL, 0, &sequence));
    SAYS("a buffer that the graph names was closed");
    OK(jal_graph_destroy(graph));
    /* A session takes the graphs with it that run. */
    OK(jal_graph_create(rig.session, &graph));
    wait = jal_packet_wait(address, 2);
    OK(jal_graph_add(graph, &wait, NULL));
    OK(jal_graph_finish(graph, NULL, 0));
    OK(jal_graph_replay(graph, rig.queue, NULL, 0, &sequence));
    OK(jal_session_destroy(rig.session));
    GIVES(JAL_ERROR_HANDLE, jal_graph_destroy(graph));
}

static void a_failure_names_the_packet_of_the_graph(void) {
    struct rig rig = rig_start(16, 0);
    struct memory m = pinned(rig.session);
    struct jalapeno_hw_packet nop = jal_packet_nop(), overlap = jal_packet_copy(m.info.address, m.info.address, 8);
    struct jalapeno_hw_fault_record fault;
    uint64_t sequence;
    jal_graph graph;
    OK(jal_graph_create(rig.session, &graph));
    OK(jal_graph_add(graph, &nop, NULL));
    OK(jal_graph_add(graph, &overlap, NULL));
    OK(jal_graph_finish(graph, NULL, 0));
    OK(jal_graph_replay(graph, rig.queue, NULL, 0, &sequence));
    GIVES(JAL_ERROR_FAULT, jal_wait(rig.queue, sequence, SOON));
    OK(jal_queue_fault(rig.queue, &fault));
    SAME(fault.code, JALAPENO_HW_FAULT_CODE_OVERLAP);
    SAME(fault.detail[3], 2);
    GIVES(JAL_ERROR_STOPPED, jal_graph_replay(graph, rig.queue, NULL, 0, &sequence));
    OK(jal_queue_resume(rig.queue));
}

const struct story graph_stories[] = {
    {"a_graph_runs_with_the_values_of_each_run", a_graph_runs_with_the_values_of_each_run},
    {"what_cannot_be_recorded_is_refused_and_the_rest_stays", what_cannot_be_recorded_is_refused_and_the_rest_stays},
    {"a_graph_ends_with_the_buffers_it_names", a_graph_ends_with_the_buffers_it_names},
    {"a_failure_names_the_packet_of_the_graph", a_failure_names_the_packet_of_the_graph},
    {NULL, NULL},
};
