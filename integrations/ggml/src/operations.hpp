/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The table of operations: which of ggml's nodes the card runs, and as which LAUNCH. */
#ifndef JAL_GGML_OPERATIONS_HPP
#define JAL_GGML_OPERATIONS_HPP

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "card.hpp"

namespace jal_ggml {

/* An argument block that is being written: Parameters, then tensors, the destination first. */
class Launch {
public:
    Launch(Card &card, unsigned char *block) noexcept : card_(card), block_(block) {}

    /* Begins: every word of Parameters is zero. */
    Launch &kernel(std::uint32_t id) noexcept {
        kernel_ = id;
        operands_ = 0;
        std::memset(block_, 0, sizeof(jalapeno_hw_parameters));
        return *this;
    }
    void word(unsigned index, std::int32_t value) noexcept {
        std::memcpy(block_ + 4 * index, &value, sizeof value);
    }
    /* Appends a tensor. False: it may not be an operand, see `why`. */
    bool operand(const ggml_tensor *tensor) noexcept;
    /* Appends an operand that is left out, where another follows it. */
    bool absent() noexcept {
        std::memset(block_ + 64 * (1 + operands_), 0, sizeof(jalapeno_hw_tensor));
        operands_++;
        return true;
    }
    /* Of the operand appended last only the first elements of each row, at most as many as it has. */
    void narrow(std::uint32_t elements) noexcept {
        std::memcpy(block_ + 64 * operands_ + offsetof(jalapeno_hw_tensor, ne), &elements, sizeof elements);
    }

    /* Exchanges dimensions 1 and 2 of the operand appended last. */
    void swap_rows() noexcept;
    /* Repeats the operand appended last to the shape of `tensor` where it has one element: a stride of 0. */
    void repeat_to(const ggml_tensor *tensor) noexcept;

    /* Why it cannot be written, after a `false`. */
    const char *why() const noexcept { return why_; }

    std::uint32_t id() const noexcept { return kernel_; }
    std::uint32_t operands() const noexcept { return operands_; }
    std::uint32_t bytes() const noexcept { return 64 * (1 + operands_); }

private:
    bool refuse(const char *why) noexcept {
        why_ = why;
        return false;
    }
    /* Whether a graph may use memory a write to which was lost: only to write it anew, whole. */
    bool intact(const ggml_tensor *tensor, std::uint64_t address, std::uint64_t bytes) noexcept;

    Card &card_;
    unsigned char *block_;
    std::uint32_t kernel_ = 0;
    std::uint32_t operands_ = 0;
    const char *why_ = "not an operation that the card runs";
};

/* Whether the card runs a node: types, shapes, strides, overlap and parameters as docs/kernels.md has
 * them. Addresses need not be known. */
bool supported(const ggml_tensor *node) noexcept;

/* Whether an operation is none that anybody runs: a view, or a tensor that is there. */
constexpr bool view_or_none(ggml_op op) noexcept {
    return op == GGML_OP_NONE || op == GGML_OP_RESHAPE || op == GGML_OP_VIEW || op == GGML_OP_PERMUTE ||
           op == GGML_OP_TRANSPOSE;
}

/* Which of a node's sources the card would read, a bit each. */
std::uint32_t sources_of(const ggml_tensor *node) noexcept;

/* `supported`, as ggml asks for it, with its answers remembered. */
bool device_supports(ggml_backend_dev_t device, const ggml_tensor *node);

/* Whether a node is nothing to be run: a view, an empty tensor, one that ggml does not want computed. */
bool nothing_to_run(const ggml_tensor *node) noexcept;

/* Writes a node's LAUNCH. False: the operation is not in the table, or an operand is not where it must
 * be. What else may be wrong with it the card finds, and refuses. */
bool compose(const ggml_tensor *node, Launch &launch) noexcept;

} // namespace jal_ggml

#endif
