/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "card.hpp"

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

jal_status Card::stage(std::uint64_t address, const void *data, std::uint64_t bytes) noexcept {
    if (stage_used + bytes > STAGE_BYTES || staged + 1 >= depth) {
        const jal_status status = flush();
        if (status != JAL_OK) return status;
    }
    const std::uint64_t place = ARENA_BYTES + stage_used;
    std::memcpy(arena_host + place, data, bytes);
    packets[staged++] = jal_packet_copy(address, arena_address + place, bytes);
    stage_used += (bytes + 63) & ~UINT64_C(63);
    return JAL_OK;
}

jal_status Card::send(std::uint32_t count) noexcept {
    const std::uint32_t all = staged + count;
    staged = 0;
    stage_used = 0;
    std::uint64_t sequence = 0;
    const jal_status status = jal_submit(queue, packets.data(), all, sizeof packets[0], &sequence);
    return status == JAL_OK ? jal_wait(queue, sequence, SEND_TIME) : status;
}

jal_status Card::run(const jalapeno_hw_packet &packet) noexcept {
    packets[staged] = packet;
    return settle(send(1));
}

jal_status Card::settle(jal_status status) noexcept {
    if (status == JAL_OK) return status;
    if (status != JAL_ERROR_TIMEOUT)
        jal_queue_resume(queue);
    else
        jal_queue_cancel(queue, CANCEL_TIME);
    return status;
}

} // namespace jal_ggml
