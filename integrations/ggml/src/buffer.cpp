/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * ggml's buffers in device memory. Their base is a device address, which the host cannot follow: all
 * access is by copies of the library. ggml's copies have no status: where one fails, the log says so.
 * What could not be read is NaN in every floating point type, and the next graph fails. What could not be
 * written is spoiled: every graph that reads it fails, until it is written anew or freed.
 */
#include <cinttypes>
#include <cstring>
#include <new>

#include "card.hpp"
#include "log.hpp"

namespace jal_ggml {

namespace {

constexpr std::size_t ALIGNMENT = 128;

Memory &memory_of(ggml_backend_buffer_t buffer) noexcept {
    return *static_cast<Memory *>(buffer->context);
}

/* The buffer that holds a tensor's data. */
Memory &memory_of(const ggml_tensor *tensor) noexcept {
    return memory_of(tensor->view_src != nullptr ? tensor->view_src->buffer : tensor->buffer);
}

/* Bytes from the start of its buffer to a tensor's byte `offset`. A tensor before its buffer gives a
 * number beyond every buffer, which the library refuses. */
std::uint64_t place(const Memory &memory, const ggml_tensor *tensor, std::size_t offset) noexcept {
    return reinterpret_cast<std::uintptr_t>(tensor->data) - memory.address + offset;
}

/* Does a copy, and once more where a fault of the card broke it: it may have been a passing one. */
template <typename Copy> jal_status twice(const Copy &copy) noexcept {
    const jal_status status = copy();
    if (status != JAL_ERROR_FAULT) return status;
    say(GGML_LOG_LEVEL_WARN, "a copy failed and is tried again: %s", jal_error_detail());
    return copy();
}

__attribute__((noinline)) bool outside(Memory &memory, std::uint64_t offset, std::uint64_t bytes) noexcept {
    say(GGML_LOG_LEVEL_ERROR, "bytes %llu to %llu of a buffer of %llu", static_cast<unsigned long long>(offset),
        static_cast<unsigned long long>(offset + bytes), static_cast<unsigned long long>(memory.bytes));
    memory.card->failed.store(true);
    return false;
}

/* Whether bytes lie in a buffer; if not, the log says so and the next graph fails. */
bool inside(Memory &memory, std::uint64_t offset, std::uint64_t bytes) noexcept {
    return (bytes <= memory.bytes && offset <= memory.bytes - bytes) || outside(memory, offset, bytes);
}

/* With the card's turn taken: whether bytes hold what ggml wrote. */
bool written(Memory &memory, std::uint64_t offset, std::uint64_t bytes) noexcept {
    const Card &card = *memory.card;
    if (!card.spoiled.any() || !card.spoiled.touches(memory.address + offset, bytes)) return true;
    say(GGML_LOG_LEVEL_ERROR, "read a tensor: a write to it was lost (see above)");
    return false;
}

/* With the card's turn taken: bytes were written, or a write to them was lost. */
void note(Memory &memory, std::uint64_t offset, std::uint64_t bytes, bool done) noexcept {
    Spoiled &spoiled = memory.card->spoiled;
    if (!done)
        spoiled.add(memory.address + offset, bytes);
    else if (spoiled.any())
        spoiled.heal(memory.address + offset, bytes);
}

void fill(Memory &memory, std::uint64_t offset, std::uint8_t value, std::uint64_t bytes) noexcept {
    if (!inside(memory, offset, bytes)) return;
    Card &card = *memory.card;
    std::lock_guard<std::mutex> turn(card.computing);
    const std::uint64_t pattern = value * UINT64_C(0x0101010101010101);
    const bool done = card.run("fill device memory", jal_packet_fill(memory.address + offset, bytes, pattern));
    note(memory, offset, bytes, done);
}

void buffer_free(ggml_backend_buffer_t buffer) {
    Memory &memory = memory_of(buffer);
    Card &card = *memory.card;
    std::lock_guard<std::mutex> turn(card.computing);
    card.flush();
    const jal_status status = jal_buffer_free(memory.handle);
    if (status != JAL_OK) say_failure("free device memory", status);
    if (card.spoiled.any()) card.spoiled.heal(memory.address, memory.bytes);
    card.taken.fetch_sub(memory.bytes);
    delete &memory;
}

void *buffer_base(ggml_backend_buffer_t buffer) {
    return reinterpret_cast<void *>(static_cast<std::uintptr_t>(memory_of(buffer).address));
}

void buffer_memset(ggml_backend_buffer_t, ggml_tensor *tensor, std::uint8_t value, std::size_t offset,
                   std::size_t size) {
    Memory &memory = memory_of(tensor);
    fill(memory, place(memory, tensor, offset), value, size);
}

__attribute__((noinline)) void set_large(Memory &memory, std::uint64_t at, const void *data, std::size_t size) {
    Card &card = *memory.card;
    std::lock_guard<std::mutex> turn(card.computing);
    card.flush();
    bool done = card.alive("write a tensor");
    if (done) {
        const jal_status status = twice([&] { return jal_buffer_write(memory.handle, at, data, size); });
        done = status == JAL_OK;
        if (!done) say_failure("write a tensor", status);
    }
    note(memory, at, size, done);
}

/* A small write goes along with the next graph; whatever could see the difference flushes first. */
void buffer_set(ggml_backend_buffer_t, ggml_tensor *tensor, const void *data, std::size_t offset,
                std::size_t size) {
    Memory &memory = memory_of(tensor);
    const std::uint64_t at = place(memory, tensor, offset);
    if (!inside(memory, at, size)) return;
    if (size > STAGED_MOST) return set_large(memory, at, data, size);
    std::lock_guard<std::mutex> turn(memory.card->computing);
    memory.card->stage(memory.address + at, data, size);
}

void buffer_get(ggml_backend_buffer_t, const ggml_tensor *tensor, void *data, std::size_t offset,
                std::size_t size) {
    Memory &memory = memory_of(tensor);
    Card &card = *memory.card;
    const std::uint64_t at = place(memory, tensor, offset);
    bool done = inside(memory, at, size);
    if (done) {
        std::lock_guard<std::mutex> turn(card.computing);
        card.flush();
        done = card.alive("read a tensor") && written(memory, at, size);
    }
    if (done) {
        const jal_status status = twice([&] { return jal_buffer_read(memory.handle, at, data, size); });
        if (status == JAL_OK) return;
        say_failure("read a tensor", status);
    }
    card.failed.store(true);
    std::memset(data, 0xff, size);
}

/* Between buffers of one card; ggml does the rest by way of the host. */
bool buffer_copy(ggml_backend_buffer_t buffer, const ggml_tensor *source, ggml_tensor *target) {
    const ggml_backend_buffer_t from = source->view_src != nullptr ? source->view_src->buffer : source->buffer;
    if (from == nullptr || from->buft != buffer->buft) return false;
    Memory &memory = memory_of(target);
    const std::uint64_t bytes = ggml_nbytes(source);
    if (!inside(memory, place(memory, target, 0), bytes)) return true;
    if (!inside(memory_of(source), place(memory_of(source), source, 0), bytes)) return true;
    const std::uint64_t to = reinterpret_cast<std::uintptr_t>(target->data);
    const std::uint64_t at = reinterpret_cast<std::uintptr_t>(source->data);
    Card &card = *memory.card;
    std::lock_guard<std::mutex> turn(card.computing);
    card.flush();
    const bool done = written(memory_of(source), at - memory_of(source).address, bytes) &&
                      card.run("copy a tensor", jal_packet_copy(to, at, bytes));
    note(memory, to - memory.address, bytes, done);
    return true;
}

void buffer_clear(ggml_backend_buffer_t buffer, std::uint8_t value) {
    fill(memory_of(buffer), 0, value, memory_of(buffer).bytes);
}

ggml_backend_buffer_i buffer_table() noexcept {
    ggml_backend_buffer_i table{};
    table.free_buffer = buffer_free;
    table.get_base = buffer_base;
    table.memset_tensor = buffer_memset;
    table.set_tensor = buffer_set;
    table.get_tensor = buffer_get;
    table.cpy_tensor = buffer_copy;
    table.clear = buffer_clear;
    return table;
}

Card &card_of(ggml_backend_buffer_type_t type) noexcept { return *static_cast<Card *>(type->context); }

const char *type_name(ggml_backend_buffer_type_t type) { return card_of(type).name; }

ggml_backend_buffer_t type_alloc(ggml_backend_buffer_type_t type, std::size_t size) {
    Card &card = card_of(type);
    if (!card.ready() || !card.alive("take device memory")) return nullptr;
    const std::uint64_t bytes = size != 0 ? size : ALIGNMENT;
    Memory *memory = new (std::nothrow) Memory{&card, {}, 0, bytes};
    if (memory == nullptr) return nullptr;
    jal_status status = jal_device_alloc(card.session, bytes, &memory->handle);
    if (status != JAL_OK) {
        say_failure("take device memory", status);
        say(GGML_LOG_LEVEL_ERROR, "%s has %" PRIu64 " KiB of memory, %" PRIu64 " KiB of it in use; %" PRIu64 " KiB more were asked for",
            card.name, card.hbm_bytes >> 10, card.taken.load() >> 10, (bytes + 1023) >> 10);
        delete memory;
        return nullptr;
    }
    jal_buffer_info info{};
    info.struct_size = sizeof info;
    status = jal_buffer_get_info(memory->handle, &info);
    if (status != JAL_OK) {
        say_failure("look at device memory", status);
        jal_buffer_free(memory->handle);
        delete memory;
        return nullptr;
    }
    memory->address = info.address;
    card.taken.fetch_add(bytes);
    return ggml_backend_buffer_init(type, buffer_table(), memory, size);
}

std::size_t type_alignment(ggml_backend_buffer_type_t) { return ALIGNMENT; }

} // namespace

ggml_backend_buffer_type_i buffer_type_table() noexcept {
    ggml_backend_buffer_type_i table{};
    table.get_name = type_name;
    table.alloc_buffer = type_alloc;
    table.get_alignment = type_alignment;
    return table;
}

} // namespace jal_ggml
