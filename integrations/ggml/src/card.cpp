/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "card.hpp"

#include "log.hpp"

namespace jal_ggml {

namespace {

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
    if (!well("take pinned memory", jal_host_alloc(card.session, ARENA_BYTES, 0, &card.arena))) return false;
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

} // namespace jal_ggml
