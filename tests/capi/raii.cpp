// SPDX-License-Identifier: MIT OR Apache-2.0
// jalapeno.hpp: ownership moves, failures throw, work is done.
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <vector>

#include <jalapeno.hpp>

static int failures = 0;
#define CHECK(condition) \
    do { if (!(condition)) { std::printf("  %s:%d: %s\n", __FILE__, __LINE__, #condition); failures++; } } while (0)

static_assert(!std::is_copy_constructible_v<jalapeno::queue> && std::is_nothrow_move_constructible_v<jalapeno::queue>);
static_assert(!std::is_copy_assignable_v<jalapeno::device> && std::is_nothrow_move_assignable_v<jalapeno::device>);

template <typename Call>
static jal_status thrown(Call call) {
    try {
        call();
    } catch (const jalapeno::error &failure) {
        CHECK(std::strlen(failure.what()) > 0);
        return failure.status();
    }
    return JAL_OK;
}

int main() {
    jalapeno::check_version();
    CHECK(thrown([] { jalapeno::device::open("vfio-user:/no/such/card"); }) == JAL_ERROR_NOT_FOUND);
    CHECK(jalapeno::device::list().size() == 1);

    auto device = jalapeno::device::open();
    CHECK(device.info().platform == JALAPENO_HW_PLATFORM_EMULATOR);
    CHECK(device.telemetry().size() > 10);
    CHECK(device.clock().device > 0);
    auto session = device.session();
    auto queue = session.queue(64, JAL_QUEUE_COMPLETIONS | JAL_QUEUE_PROFILE);
    auto host = session.host_memory(8192), home = session.host_memory(8192);
    auto there = session.device_memory(8192);
    CHECK(session.memory_use().maps >= 2 && session.memory_use().arenas == 0);
    auto fence = session.fence(0);

    std::memset(host.host(), 0x42, 8192);
    std::vector<jalapeno_hw_packet> packets = {
        jal_packet_copy(there.address(), host.address(), 8192),
        jal_packet_copy(home.address(), there.address(), 8192),
        jal_packet_signal(fence.address(), 7),
    };
    auto last = queue.submit(packets);
    queue.wait(last, 20000000000);
    fence.wait(7, 20000000000);
    CHECK(fence.value() == 7);
    CHECK(std::memcmp(host.host(), home.host(), 8192) == 0);
    CHECK(queue.poll() == last);
    jal_completion done[8];
    CHECK(queue.reap(done, 8) == 3 && done[2].sequence == last);
    CHECK(queue.counters().succeeded == 3);
    auto stats = queue.stats(last - 1);
    CHECK(stats.sequence == last - 1 && stats.bytes >= 8192 && stats.end > stats.start && stats.energy_nj > 0);
    CHECK(thrown([&] { queue.stats(last + 1); }) == JAL_ERROR_INVALID);
    CHECK(queue.event_fd() >= 0);
    queue.arm(last);

    char text[16] = "";
    there.write(100, "jalapeno", 9);
    there.read(100, text, 9);
    CHECK(std::strcmp(text, "jalapeno") == 0);

    // Of another card it would be; here it is the same one's.
    CHECK(thrown([&] { session.peer_memory(there); }) == JAL_ERROR_INVALID);

    // A failed job throws at the wait; the queue runs on once resumed.
    auto bad = queue.submit(jal_packet(0xEE, 0));
    CHECK(thrown([&] { queue.wait(bad, 20000000000); }) == JAL_ERROR_FAULT);
    CHECK(queue.fault().code == JALAPENO_HW_FAULT_CODE_UNKNOWN_OPCODE);
    queue.resume();
    queue.wait(queue.submit(jal_packet_nop()), 20000000000);

    // Handles move; what was moved from is empty.
    auto moved = std::move(queue);
    CHECK(!queue && moved);
    moved.wait(moved.submit(jal_packet_nop()), 20000000000);
    queue = std::move(moved);
    CHECK(queue && !moved);

    // What a job still uses is not given back, and stays owned.
    auto blocked = queue.submit(jal_packet_wait(fence.address(), 9));
    auto filled = queue.submit(jal_packet_fill(home.address(), 64, 1));
    CHECK(home.reset() == JAL_ERROR_BUSY && home);
    fence.signal(9);
    queue.wait(filled, 20000000000);
    (void)blocked;
    CHECK(home.reset() == JAL_OK && !home);
    CHECK(thrown([&] { home.address(); }) == JAL_ERROR_HANDLE);

    device.reset(JALAPENO_HW_RESET_LEVEL_DEVICE, 20000000000);
    CHECK(thrown([&] { queue.submit(jal_packet_nop()); }) == JAL_ERROR_STALE);

    std::printf("%s jalapeno.hpp owns, moves, throws and works\n", failures == 0 ? "ok" : "FAIL");
    return failures != 0;
}
