/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Answers: which nodes the card runs, remembered. ggml asks for every node of a graph that is new, and most
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

/* Sources of a node that is remembered, at most. */
constexpr unsigned SOURCES = 5;

/* A tensor, as it was. */
struct Tensor {
    const ggml_tensor *place; /* null: the list ends, and the key's first byte is the answer */
    unsigned char key[KEY];
};

/* The node, its sources, the end. By the node's place; zero, it is nobody's. */
using Answer = Tensor[1 + SOURCES + 1];
constexpr std::size_t COUNT = 1024;
Answer answers[COUNT];
std::atomic_flag taken = ATOMIC_FLAG_INIT;

inline Tensor *answer_to(const ggml_tensor *node) noexcept {
    return answers[reinterpret_cast<std::uintptr_t>(node) / 16 % COUNT];
}

__attribute__((noinline)) bool remember(const ggml_tensor *node) noexcept {
    Tensor *const answer = answer_to(node), *next = answer + 1;
    answer->place = nullptr;
    const bool yes = supported(node);
    bool whole = true;
    for (std::uint32_t left = sources_of(node); left != 0; left &= left - 1) {
        const ggml_tensor *source = node->src[__builtin_ctz(left)];
        if (source == nullptr) continue;
        whole = next != answer + 1 + SOURCES;
        if (!whole) break;
        next->place = source;
        std::memcpy((next++)->key, source, KEY);
    }
    next->place = nullptr;
    next->key[0] = yes;
    std::memcpy(answer->key, node, KEY);
    if (whole) answer->place = node;
    taken.clear(std::memory_order_release);
    return yes;
}

} // namespace

bool device_supports(ggml_backend_dev_t, const ggml_tensor *node) {
    switch (node->op) { /* as `view_or_none`, with fewer instructions */
    case GGML_OP_NONE:
    case GGML_OP_RESHAPE:
    case GGML_OP_VIEW:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE: return true;
    default: break;
    }
    if (taken.test_and_set(std::memory_order_acquire)) return supported(node);
    const Tensor *tensor = answer_to(node);
    if (tensor->place != node) return remember(node);
    /* The node's memory is there. Once it is known to be as it was, so are the sources that it names. */
    do {
        if (std::memcmp(tensor->place, tensor->key, KEY) != 0) return remember(node);
        tensor++;
    } while (tensor->place != nullptr);
    const bool yes = tensor->key[0] != 0;
    taken.clear(std::memory_order_release);
    return yes;
}

} // namespace jal_ggml
