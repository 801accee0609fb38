/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Stories of buffers of each kind, and of fences. */
#define _GNU_SOURCE
#include "story.h"

/* Copies on the card and waits. */
static jal_status copy(jal_queue queue, uint64_t to, uint64_t from, uint64_t bytes) {
    struct jalapeno_hw_packet packet = jal_packet_copy(to, from, bytes);
    uint64_t sequence;
    jal_status status = jal_submit_one(queue, &packet, &sequence);
    return status != JAL_OK ? status : jal_wait(queue, sequence, SOON);
}

static void fill(uint8_t *at, size_t bytes, uint32_t seed) {
    size_t i;
    for (i = 0; i < bytes; i++) at[i] = (uint8_t)((i * 2654435761u + seed) >> 13);
}

static void host_memory_goes_to_the_card_and_home(void) {
    struct rig rig = rig_start(64, 0);
    jal_buffer host, device, back;
    jal_buffer_info h = {.struct_size = sizeof h}, d = {.struct_size = sizeof d}, b = {.struct_size = sizeof b};
    size_t i;
    OK(jal_host_alloc(rig.session, 1 << 20, 0, &host));
    OK(jal_host_alloc(rig.session, 1 << 20, JAL_MEMORY_HUGE, &back));
    OK(jal_device_alloc(rig.session, 1 << 20, &device));
    OK(jal_buffer_get_info(host, &h));
    OK(jal_buffer_get_info(back, &b));
    OK(jal_buffer_get_info(device, &d));
    SAME(h.kind, JAL_KIND_HOST);
    SAME(d.kind, JAL_KIND_DEVICE);
    CHECK(d.host == NULL && h.host != NULL && (uintptr_t)h.host % 4096 == 0);
    CHECK(d.address % 256 == 0 && h.bytes >= 1 << 20 && b.page_bytes >= 4096);
    for (i = 0; i < h.bytes; i++) CHECK(((uint8_t *)h.host)[i] == 0);
    fill(h.host, 1 << 20, 1);
    OK(copy(rig.queue, d.address, h.address, 1 << 20));
    OK(copy(rig.queue, b.address, d.address, 1 << 20));
    CHECK(memcmp(h.host, b.host, 1 << 20) == 0);
    OK(jal_buffer_free(host));
    GIVES(JAL_ERROR_HANDLE, jal_buffer_free(host));
    GIVES(JAL_ERROR_FAULT, copy(rig.queue, d.address, h.address, 64)); /* unmapped now */
}

static void bytes_are_written_and_read_at_any_offset(void) {
    static uint8_t from[3 << 20], into[3 << 20];
    static const size_t sizes[] = {1, 7, 4096, (1 << 20) + 1, (3 << 20) - 100};
    struct rig rig = rig_start(64, 0);
    jal_buffer buffers[2];
    size_t i, n;
    OK(jal_device_alloc(rig.session, 3 << 20, &buffers[0]));
    OK(jal_host_alloc(rig.session, 3 << 20, 0, &buffers[1]));
    for (i = 0; i < 2; i++) {
        for (n = 0; n < sizeof sizes / sizeof sizes[0]; n++) {
            fill(from, sizeof from, (uint32_t)n);
            memset(into, 0xEE, sizeof into);
            OK(jal_buffer_write(buffers[i], 33, from, sizes[n]));
            OK(jal_buffer_read(buffers[i], 33, into, sizes[n]));
            CHECK(memcmp(from, into, sizes[n]) == 0);
            SAME(into[sizes[n]], 0xEE);
        }
        OK(jal_buffer_write(buffers[i], 0, NULL, 0));
        GIVES(JAL_ERROR_INVALID, jal_buffer_write(buffers[i], 1, from, 3 << 20));
        GIVES(JAL_ERROR_INVALID, jal_buffer_read(buffers[i], UINT64_MAX, into, 2));
        GIVES(JAL_ERROR_INVALID, jal_buffer_read(buffers[i], 2, into, UINT64_MAX));
        GIVES(JAL_ERROR_INVALID, jal_buffer_write(buffers[i], 0, NULL, 8));
        GIVES(JAL_ERROR_INVALID, jal_buffer_read(buffers[i], 0, NULL, 8));
    }
}

static void memory_of_the_program_is_reached_where_it_can_be(void) {
    struct rig rig = rig_start(64, 0);
    int fd = memfd_create("shared", MFD_CLOEXEC);
    uint8_t *shared, *private;
    jal_buffer buffer, readonly;
    jal_buffer_info info = {.struct_size = sizeof info};
    uint64_t at;
    CHECK(fd >= 0 && ftruncate(fd, 65536) == 0);
    shared = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    private = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED && private != MAP_FAILED);
    OK(jal_host_register(rig.session, shared, 32768, 0, &buffer));
    OK(jal_buffer_get_info(buffer, &info));
    SAME(info.kind, JAL_KIND_REGISTERED);
    CHECK(info.host == shared);
    at = info.address;
    memcpy(shared, "peppers", 8);
    OK(copy(rig.queue, at + 100, at, 8));
    CHECK(memcmp(shared + 100, "peppers", 8) == 0);
    OK(jal_host_register(rig.session, shared + 32768, 32768, JAL_MEMORY_READ_ONLY, &readonly));
    OK(jal_buffer_get_info(readonly, &info));
    OK(copy(rig.queue, at + 200, info.address, 8));
    GIVES(JAL_ERROR_FAULT, copy(rig.queue, info.address, at, 8)); /* the card may not write */
    SAME(shared[32768], 0);
    OK(jal_queue_resume(rig.queue));
    if (on_stage()) { /* a kernel pins any memory; the emulator needs a file behind it */
        OK(jal_host_register(rig.session, private, 65536, 0, &buffer));
        OK(jal_buffer_free(buffer));
    } else {
        GIVES(JAL_ERROR_UNSUPPORTED, jal_host_register(rig.session, private, 65536, 0, &buffer));
        SAYS("shared");
    }
    GIVES(JAL_ERROR_INVALID, jal_host_register(rig.session, shared + 8, 4096, 0, &buffer));
    GIVES(JAL_ERROR_INVALID, jal_host_register(rig.session, shared, 100, 0, &buffer));
    GIVES(JAL_ERROR_INVALID, jal_host_register(rig.session, NULL, 4096, 0, &buffer));
    OK(jal_device_close(rig.device));
    munmap(shared, 65536);
    munmap(private, 65536);
    close(fd);
}

static void absurd_sizes_are_refused_and_leave_nothing(void) {
    struct rig rig = rig_start(64, 0);
    jal_buffer buffer;
    GIVES(JAL_ERROR_INVALID, jal_host_alloc(rig.session, 0, 0, &buffer));
    GIVES(JAL_ERROR_INVALID, jal_host_alloc(rig.session, 4096, 8, &buffer));
    GIVES(JAL_ERROR_INVALID, jal_device_alloc(rig.session, 0, &buffer));
    GIVES(JAL_ERROR_MEMORY, jal_device_alloc(rig.session, 65 << 20, &buffer));
    GIVES(JAL_ERROR_MEMORY, jal_device_alloc(rig.session, UINT64_MAX, &buffer));
    CHECK(jal_host_alloc(rig.session, UINT64_MAX, 0, &buffer) != JAL_OK);
    CHECK(jal_host_alloc(rig.session, UINT64_MAX - 4095, 0, &buffer) != JAL_OK);
    CHECK(jal_host_alloc(rig.session, UINT64_C(1) << 62, 0, &buffer) != JAL_OK);
    OK(jal_device_alloc(rig.session, 32 << 20, &buffer)); /* and half of it all is still there */
    OK(jal_host_alloc(rig.session, 4096, 0, &buffer));
}

static void memory_in_use_is_counted(void) {
    struct rig rig = rig_start(64, 0);
    jal_buffer buffers[3];
    jal_memory_use before = {.struct_size = sizeof before}, use = {.struct_size = sizeof use};
    struct { jal_memory_use use; uint64_t tail; } longer = {{.struct_size = sizeof longer}, 0};
    size_t i;
    OK(jal_session_get_memory_use(rig.session, &before));
    SAME(before.struct_size, sizeof before);
    CHECK(before.maps > 0 && before.maps < before.maps_limit && before.bytes >= 4096 * before.maps);
    OK(jal_host_alloc(rig.session, 1 << 20, 0, &buffers[0]));
    OK(jal_host_alloc(rig.session, 65536, JAL_MEMORY_GUARDED, &buffers[1]));
    OK(jal_device_alloc(rig.session, 1 << 20, &buffers[2])); /* is no host memory */
    OK(jal_session_get_memory_use(rig.session, &use));
    SAME(use.maps, before.maps + 2);
    SAME(use.bytes, before.bytes + (1 << 20) + 65536);
    SAME(use.maps_limit, before.maps_limit);
    CHECK(use.arenas == 0 && use.coalesced == 0 && use.spare == 0); /* there are mappings enough */
    OK(jal_session_get_memory_use(rig.session, &longer.use));
    SAME(longer.use.struct_size, sizeof longer);
    SAME(longer.use.bytes, use.bytes);
    longer.tail = 1;
    GIVES(JAL_ERROR_INVALID, jal_session_get_memory_use(rig.session, &longer.use));
    for (i = 0; i < 3; i++) OK(jal_buffer_free(buffers[i]));
    OK(jal_session_get_memory_use(rig.session, &use));
    SAME(memcmp(&use, &before, sizeof use), 0);
    use.struct_size = 8;
    GIVES(JAL_ERROR_INVALID, jal_session_get_memory_use(rig.session, &use));
    GIVES(JAL_ERROR_INVALID, jal_session_get_memory_use(rig.session, NULL));
}

static void a_buffer_in_use_stays(void) {
    struct rig rig = rig_start(64, 0);
    jal_buffer buffer;
    jal_buffer_info info = {.struct_size = sizeof info};
    jal_fence fence;
    struct jalapeno_hw_packet packets[2];
    uint64_t address, sequence;
    OK(jal_host_alloc(rig.session, 4096, 0, &buffer));
    OK(jal_buffer_get_info(buffer, &info));
    OK(jal_fence_create(rig.session, 0, &fence));
    OK(jal_fence_address(fence, &address));
    packets[0] = jal_packet_wait(address, 1);
    packets[1] = jal_packet_fill(info.address, 4096, 0x11);
    OK(jal_submit(rig.queue, packets, 2, sizeof packets[0], &sequence));
    GIVES(JAL_ERROR_BUSY, jal_buffer_free(buffer));
    GIVES(JAL_ERROR_BUSY, jal_fence_destroy(fence));
    OK(jal_fence_signal(fence, 1));
    OK(jal_wait(rig.queue, sequence, SOON));
    SAME(*(uint8_t *)info.host, 0x11);
    OK(jal_buffer_free(buffer));
    OK(jal_fence_destroy(fence));
    GIVES(JAL_ERROR_HANDLE, jal_fence_destroy(fence));
}

static void *signal_soon(void *fence) {
    usleep(50000);
    OK(jal_fence_signal(*(jal_fence *)fence, 9));
    return NULL;
}

static void a_fence_rises_from_host_and_card(void) {
    struct rig rig = rig_start(64, 0);
    struct jalapeno_hw_packet packet;
    uint64_t address, value, sequence;
    jal_fence fence;
    pthread_t other;
    double begin;
    OK(jal_fence_create(rig.session, 5, &fence));
    OK(jal_fence_value(fence, &value));
    SAME(value, 5);
    OK(jal_fence_signal(fence, 4)); /* never falls */
    OK(jal_fence_value(fence, &value));
    SAME(value, 5);
    OK(jal_fence_address(fence, &address));
    packet = jal_packet_signal(address, 7);
    OK(jal_submit_one(rig.queue, &packet, &sequence));
    OK(jal_fence_wait(fence, 7, SOON));
    GIVES(JAL_ERROR_TIMEOUT, jal_fence_wait(fence, 8, 0));
    begin = now();
    GIVES(JAL_ERROR_TIMEOUT, jal_fence_wait(fence, 8, SECOND / 20));
    CHECK(now() - begin >= 0.05);
    GIVES(JAL_ERROR_INVALID, jal_fence_wait(fence, 8, -1));
    CHECK(pthread_create(&other, NULL, signal_soon, &fence) == 0);
    OK(jal_fence_wait(fence, 9, JAL_FOREVER));
    CHECK(pthread_join(other, NULL) == 0);
    OK(jal_wait(rig.queue, sequence, SOON));
    OK(jal_fence_destroy(fence));
}

static void queues_wait_for_each_other(void) {
    struct rig rig = rig_start(64, 0);
    struct jalapeno_hw_packet packets[2];
    jal_fence fence;
    jal_queue second;
    uint64_t address, first_last, second_last, seen;
    OK(jal_queue_create(rig.session, NULL, &second));
    OK(jal_fence_create(rig.session, 0, &fence));
    OK(jal_fence_address(fence, &address));
    packets[0] = jal_packet_wait(address, 1);
    packets[1] = jal_packet_signal(address, 2);
    OK(jal_submit(rig.queue, packets, 2, sizeof packets[0], &first_last));
    usleep(20000);
    OK(jal_poll(rig.queue, &seen));
    SAME(seen, 0);
    packets[0] = jal_packet_signal(address, 1);
    packets[1] = jal_packet_wait(address, 2);
    OK(jal_submit(second, packets, 2, sizeof packets[0], &second_last));
    OK(jal_wait(second, second_last, SOON));
    OK(jal_wait(rig.queue, first_last, SOON));
    OK(jal_queue_destroy(second));
}

const struct story memory_stories[] = {
    {"host_memory_goes_to_the_card_and_home", host_memory_goes_to_the_card_and_home},
    {"bytes_are_written_and_read_at_any_offset", bytes_are_written_and_read_at_any_offset},
    {"memory_of_the_program_is_reached_where_it_can_be", memory_of_the_program_is_reached_where_it_can_be},
    {"absurd_sizes_are_refused_and_leave_nothing", absurd_sizes_are_refused_and_leave_nothing},
    {"memory_in_use_is_counted", memory_in_use_is_counted},
    {"a_buffer_in_use_stays", a_buffer_in_use_stays},
    {"a_fence_rises_from_host_and_card", a_fence_rises_from_host_and_card},
    {"queues_wait_for_each_other", queues_wait_for_each_other},
    {NULL, NULL},
};
