/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "card.hpp"

#include <algorithm>
#include <cstring>

#include "log.hpp"

namespace jal_ggml {

namespace {

/* Longest that one submission may take: an emulated card is slow, a dead one is found out sooner. */
constexpr std::int64_t SEND_TIME = INT64_C(120'000'000'000);
/* Longest that the cancelling of a queue may take. */
constexpr std::int64_t CANCEL_TIME = INT64_C(10'000'000'000);

bool well(const char *what, jal_status status) noexcept {
    if (status == JAL_OK) return true;
    say_failure(what, status);
    return false;
}

bool open_queue(Card &card, std::uint32_t depth_max) noexcept {
    jal_queue_options options{};
    options.struct_size = sizeof options;
    options.depth = depth_max < DEPTH ? depth_max : DEPTH;
    if (!well("make a queue", jal_queue_create(card.session, &options, &card.queue))) return false;
    card.depth = options.depth;
    card.packets.resize(options.depth);
    return true;
}

bool open_arena(Card &card) noexcept {
    if (!well("take pinned memory", jal_host_alloc(card.session, ARENA_BYTES + STAGE_BYTES, 0, &card.arena))) return false;
    jal_buffer_info info{};
    info.struct_size = sizeof info;
    if (!well("look at pinned memory", jal_buffer_get_info(card.arena, &info))) return false;
    card.arena_host = static_cast<unsigned char *>(info.host);
    card.arena_address = info.address;
    return true;
}

} // namespace

bool Card::ready() noexcept {
    if (open.load(std::memory_order_acquire)) return true;
    std::lock_guard<std::mutex> turn(opening);
    if (open.load(std::memory_order_relaxed)) return true;
    jal_device_info info{};
    info.struct_size = sizeof info;
    if (!well("open a card", jal_device_open(where, nullptr, &handle))) return false;
    if (well("ask a card who it is", jal_device_get_info(handle, &info)) &&
        well("begin a session", jal_session_create(handle, &session)) &&
        open_queue(*this, info.depth_max) && open_arena(*this)) {
        hbm_bytes = info.hbm_bytes;
        open.store(true, std::memory_order_release);
        return true;
    }
    jal_device_close(handle);
    return false;
}

bool Card::alive(const char *what) const noexcept {
    if (!dead.load(std::memory_order_relaxed)) return true;
    say(GGML_LOG_LEVEL_ERROR, "%s: %s was given up (see above): start this process anew", what, name);
    return false;
}

void Card::stage(std::uint64_t address, const void *data, std::uint64_t bytes) noexcept {
    if (stage_used + bytes > STAGE_BYTES || staged + 1 >= depth) flush();
    if (!alive("write a tensor")) return spoiled.add(address, bytes);
    if (spoiled.any()) spoiled.heal(address, bytes);
    const std::uint64_t place = ARENA_BYTES + stage_used;
    std::memcpy(arena_host + place, data, bytes);
    packets[staged++] = jal_packet_copy(address, arena_address + place, bytes);
    stage_used += (bytes + 63) & ~UINT64_C(63);
}

jal_status Card::send(std::uint32_t count) noexcept {
    sent = staged + count;
    sequence = 0;
    jal_status status = jal_submit(queue, packets.data(), sent, sizeof packets[0], &sequence);
    if (status == JAL_OK) status = jal_wait(queue, sequence, SEND_TIME);
    if (status != JAL_OK) return status;
    sequence = 0; /* nothing is left that could be looked for */
    staged = 0;
    stage_used = 0;
    return JAL_OK;
}

bool Card::run(const char *what, const jalapeno_hw_packet &packet) noexcept {
    for (int tries = 0; tries < 2 && alive(what); tries++) {
        packets[staged] = packet;
        const jal_status status = send(1);
        if (status == JAL_OK) return true;
        say_failure(what, status);
        settle(status);
        if (status == JAL_ERROR_TIMEOUT) break;
    }
    return false;
}

void Card::flush() noexcept {
    if (staged == 0) return;
    const jal_status status = send(0);
    if (status == JAL_OK) return;
    say_failure("write tensors", status);
    settle(status);
}

void Card::settle(jal_status status) noexcept {
    drop_done();
    bool back = resume(status);
    if (staged == 0) return;
    const std::uint32_t again = staged;
    if (back) {
        status = send(0);
        if (status == JAL_OK) {
            say(GGML_LOG_LEVEL_WARN, "%u writes to %s that were not done are done now", again, name);
            return;
        }
        say_failure("write tensors again", status);
        drop_done();
        resume(status);
    }
    for (std::uint32_t i = 0; i < staged; i++) spoiled.add(packets[i].body[1], packets[i].body[2]);
    say(GGML_LOG_LEVEL_ERROR, "%u writes to %s are lost: what reads that memory fails until it is written anew",
        staged, name);
    staged = 0;
    stage_used = 0;
}

bool Card::resume(jal_status status) noexcept {
    if (status != JAL_ERROR_TIMEOUT && jal_queue_resume(queue) == JAL_OK) return true;
    status = jal_queue_cancel(queue, CANCEL_TIME);
    if (status == JAL_OK) return true;
    dead.store(true);
    say_failure("take the queue back", status);
    say(GGML_LOG_LEVEL_ERROR, "%s is given up: start this process anew", name);
    return false;
}

void Card::drop_done() noexcept {
    std::uint64_t watermark = 0;
    const jal_status status = jal_poll(queue, &watermark);
    if (sequence == 0 || (status != JAL_OK && status != JAL_ERROR_STOPPED)) return;
    const std::uint64_t before = sequence - sent;
    if (watermark <= before) return;
    const auto done = static_cast<std::uint32_t>(std::min<std::uint64_t>(watermark - before, staged));
    std::copy(packets.begin() + done, packets.begin() + staged, packets.begin());
    staged -= done;
}

} // namespace jal_ggml
