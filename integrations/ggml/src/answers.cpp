/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Answers: nodes that the card runs, remembered. ggml asks for every node of a graph that is new, and most
 * of those it asked before: the graph of one token is built anew for the next, in the same place.
 */
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "operations.hpp"

namespace jal_ggml {

namespace {

/* Bytes of a tensor that say what it is: all before its place and its name. */
constexpr std::size_t KEY = offsetof(ggml_tensor, data);
static_assert(offsetof(ggml_tensor, type) < KEY && offsetof(ggml_tensor, nb) < KEY &&
              offsetof(ggml_tensor, op_params) < KEY && offsetof(ggml_tensor, src) < KEY &&
              offsetof(ggml_tensor, view_src) < KEY && offsetof(ggml_tensor, view_offs) < KEY);

/* As `view_or_none`, by one load. */
struct Operations {
    bool is[256];
};
static_assert(GGML_OP_COUNT <= 256, "a byte names an operation");

constexpr Operations idle_operations() noexcept {
    Operations idle{};
    for (int op = 0; op < GGML_OP_COUNT; op++) idle.is[op] = view_or_none(static_cast<ggml_op>(op));
    return idle;
}

constexpr Operations IDLE = idle_operations();

/* A tensor, as it was. */
struct Tensor {
    const ggml_tensor *place; /* null: the list ends */
    unsigned char key[KEY];
};

/* Sources of a node that is remembered, at most, with what it is written into. */
constexpr std::size_t SOURCES = 6;

/*
 * A node that the card runs, its sources, the end. Which it is says the node's place; zero, it is nobody's.
 * Aligned, so that any of its tensors leads back to the first.
 */
struct alignas(2048) Answer {
    Tensor list[1 + SOURCES + 1];
};
static_assert(sizeof(Answer) == 2048, "a shift instead of a product");
constexpr std::size_t COUNT = 1024;
Answer answers[COUNT];
std::atomic_flag taken = ATOMIC_FLAG_INIT;

inline Tensor *answer_to(const ggml_tensor *node) noexcept {
    return answers[reinterpret_cast<std::uintptr_t>(node) / 16 % COUNT].list;
}

inline const ggml_tensor *node_of(const Tensor *tensor) noexcept {
    return reinterpret_cast<const Tensor *>(reinterpret_cast<std::uintptr_t>(tensor) & -sizeof(Answer))->place;
}

__attribute__((noinline)) bool remember(const ggml_tensor *node) noexcept {
    Tensor *const answer = answer_to(node), *next = answer + 1;
    answer->place = nullptr;
    const bool yes = supported(node);
    const auto take = [&](const ggml_tensor *source) {
        if (source == nullptr) return true;
        if (next == answer + 1 + SOURCES) return false;
        next->place = source;
        std::memcpy((next++)->key, source, KEY);
        return true;
    };
    bool whole = yes && take(node->view_src);
    for (std::uint32_t left = sources_of(node); whole && left != 0; left &= left - 1)
        whole = take(node->src[__builtin_ctz(left)]);
    next->place = nullptr;
    std::memcpy(answer->key, node, KEY);
    if (whole) answer->place = node;
    taken.clear(std::memory_order_release);
    return yes;
}

} // namespace

bool device_supports(ggml_backend_dev_t, const ggml_tensor *node) {
    const bool idle = IDLE.is[static_cast<unsigned char>(node->op)];
    if (idle) return idle;
    if (taken.test_and_set(std::memory_order_acquire)) return supported(node);
    const Tensor *tensor = answer_to(node);
    if (tensor->place != node) return remember(node);
    /* The node's memory is there. Once it is known to be as it was, so are the sources that it names. */
    do {
        if (std::memcmp(tensor->place, tensor->key, KEY) != 0) return remember(node_of(tensor));
        tensor++;
    } while (tensor->place != nullptr);
    taken.clear(std::memory_order_release);
    return true;
}

} // namespace jal_ggml
