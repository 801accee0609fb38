/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * One row an operation: whether docs/kernels.md permits the node, and how its LAUNCH is written. Rules
 * that hold for every operand stand in operand.hpp, the kernel's own in its `fits`.
 */
#include "operations.hpp"

#include <cmath>
#include <utility>

#include "operand.hpp"

namespace jal_ggml {

namespace {

float real_parameter(Node n, int i) noexcept {
    float value;
    std::memcpy(&value, n->op_params + i, sizeof value);
    return value;
}

/* ---- Rules of single kernels ------------------------------------------------------------------ */

/* Whether each size of `b` divides that of `a`. */
bool repeats(Node b, Node a) noexcept {
    for (int d = 0; d < 4; d++)
        if (b->ne[d] == 0 || a->ne[d] % b->ne[d] != 0) return false;
    return true;
}

bool elements(Node n) noexcept { return real(n) && real(n->src[0]) && same_shape(n, n->src[0]); }

bool binary(Node n) noexcept { return elements(n) && real(n->src[1]) && repeats(n->src[1], n); }

bool get_rows(Node n) noexcept {
    return real(n) && (real(n->src[0]) || block(n->src[0])) && index(n->src[1]) &&
           ggml_nelements(n->src[1]) <= 1 << 24;
}

/* Types that the card makes of real numbers. */
bool made(Node t) noexcept { return real(t) || t->type == GGML_TYPE_Q8_0 || t->type == GGML_TYPE_Q4_0; }

bool set_rows(Node n) noexcept {
    return made(n) && real(n->src[0]) && index(n->src[1]) && ggml_nelements(n->src[1]) <= 1 << 24;
}

bool mul_mat(Node n) noexcept {
    return real(n) && (real(n->src[0]) || block(n->src[0])) && real(n->src[1]) && !empty(n->src[0]);
}

bool mul_mat_id(Node n) noexcept {
    return mul_mat(n) && index(n->src[2]) && ggml_nelements(n->src[2]) <= 1 << 24;
}

bool rms_norm(Node n) noexcept {
    const float epsilon = real_parameter(n, 0);
    return elements(n) && std::isfinite(epsilon) && epsilon >= 0;
}

bool soft_max(Node n) noexcept {
    const float scale = real_parameter(n, 0), bias = real_parameter(n, 1);
    const Node mask = n->src[1], sinks = n->src[2];
    if (!elements(n) || (mask != nullptr && (!real(mask) || empty(mask)))) return false;
    if (sinks != nullptr && (!real(sinks) || sinks->ne[0] != n->ne[2] || ggml_nrows(sinks) != 1)) return false;
    return std::isfinite(scale) && std::isfinite(bias) && bias >= 0;
}

/* Whether `b` is a mask for rows of `keys`, for `queries` rows, heads and sequences of `q`. */
bool masks(Node b, std::int64_t keys, Node q) noexcept {
    return real(b) && !empty(b) && b->ne[0] == keys && b->ne[1] >= q->ne[1] && q->ne[2] % b->ne[2] == 0 &&
           q->ne[3] % b->ne[3] == 0;
}

/* Whether heads and sequences of keys or values are those of the queries, or shared by groups of them. */
bool grouped(Node kv, Node q) noexcept {
    return (real(kv) || block(kv)) && !empty(kv) && q->ne[2] % kv->ne[2] == 0 && q->ne[3] % kv->ne[3] == 0;
}

bool attention(Node n) noexcept {
    constexpr std::int64_t MOST = 65536;
    const Node q = n->src[0], k = n->src[1], v = n->src[2], mask = n->src[3], sinks = n->src[4];
    const float scale = real_parameter(n, 0), bias = real_parameter(n, 1), cap = real_parameter(n, 2);
    if (!real(n) || !real(q) || !grouped(k, q) || !grouped(v, q)) return false;
    if (q->ne[0] != k->ne[0] || k->ne[1] != v->ne[1] || q->ne[0] > MOST || v->ne[0] > MOST) return false;
    if (n->ne[0] != v->ne[0] || n->ne[1] != q->ne[2] || n->ne[2] != q->ne[1] || n->ne[3] != q->ne[3]) return false;
    if (mask != nullptr && !masks(mask, k->ne[1], q)) return false;
    if (sinks != nullptr && (!real(sinks) || sinks->ne[0] != q->ne[2] || ggml_nrows(sinks) != 1)) return false;
    return std::isfinite(scale) && std::isfinite(bias) && bias >= 0 && (bias == 0 || mask != nullptr) &&
           std::isfinite(cap) && cap >= 0;
}

bool argmax(Node n) noexcept {
    return n->type == GGML_TYPE_I32 && real(n->src[0]) && n->src[0]->ne[0] <= INT32_MAX;
}

/* Longest row that is sorted. */
constexpr std::int64_t SORTED_MOST = 1 << 24;

bool sum_rows(Node n) noexcept { return real(n) && real(n->src[0]); }

bool argsort(Node n) noexcept {
    const std::int32_t order = n->op_params[0];
    return n->type == GGML_TYPE_I32 && real(n->src[0]) && n->ne[0] <= SORTED_MOST &&
           (order == GGML_SORT_ORDER_ASC || order == GGML_SORT_ORDER_DESC);
}

bool top_k(Node n) noexcept {
    return n->type == GGML_TYPE_I32 && real(n->src[0]) && n->src[0]->ne[0] <= SORTED_MOST;
}

/* Places of ROPE's parameters in op_params. */
enum {
    ROPE_DIMS = 1,
    ROPE_MODE = 2,
    ROPE_CONTEXT = 4,
    ROPE_BASE,
    ROPE_SCALE,
    ROPE_EXTRA,
    ROPE_MAGNITUDE,
    ROPE_FAST,
    ROPE_SLOW,
    ROPE_SECTIONS,
    ROPE_OFFSET = 15
};

bool by_sections(Node n) noexcept { return (n->op_params[ROPE_MODE] & GGML_ROPE_TYPE_MROPE) != 0; }

bool rope_mode(Node n) noexcept {
    switch (n->op_params[ROPE_MODE]) {
    case GGML_ROPE_TYPE_NORMAL:
    case GGML_ROPE_TYPE_NEOX:
    case GGML_ROPE_TYPE_MROPE:
    case GGML_ROPE_TYPE_VISION:
    case GGML_ROPE_TYPE_IMROPE: return true;
    default: return false;
    }
}

/* Sections: none below 0, one of the first three above, all within a row. For vision ggml begins a
 * section's frequencies anew only where no empty one stands before it. */
bool rope_sections(Node n) noexcept {
    const std::int32_t *s = n->op_params + ROPE_SECTIONS;
    std::int64_t sum = 0;
    for (int i = 0; i < 4; i++) {
        if (s[i] < 0) return false;
        if (n->op_params[ROPE_MODE] == GGML_ROPE_TYPE_VISION && i > 0 && s[i] > 0 && s[i - 1] == 0) return false;
        sum += s[i];
    }
    return s[0] + s[1] + s[2] > 0 && sum <= n->ne[0];
}

bool rope_numbers(Node n) noexcept {
    for (int i = ROPE_BASE; i <= ROPE_SLOW; i++)
        if (!std::isfinite(real_parameter(n, i))) return false;
    if (real_parameter(n, ROPE_BASE) <= 0) return false;
    if (real_parameter(n, ROPE_EXTRA) == 0) return true;
    const float slower = std::min(real_parameter(n, ROPE_FAST), real_parameter(n, ROPE_SLOW));
    if (n->op_params[ROPE_CONTEXT] == 0) return real_parameter(n, ROPE_BASE) > 1 && slower >= 1 && real_parameter(n, ROPE_SCALE) > 0;
    return n->op_params[ROPE_CONTEXT] > 0 && real_parameter(n, ROPE_BASE) != 1 &&
           real_parameter(n, ROPE_SCALE) > 0 && slower > 0;
}

bool rope(Node n) noexcept {
    const std::int64_t dims = n->op_params[ROPE_DIMS], offset = n->op_params[ROPE_OFFSET];
    const bool vision = n->op_params[ROPE_MODE] == GGML_ROPE_TYPE_VISION;
    const std::int64_t turned = vision ? 2 * dims : dims;
    if (!elements(n) || !index(n->src[1]) || !rope_mode(n)) return false;
    if (n->src[1]->ne[0] != (by_sections(n) ? 4 : 1) * n->ne[2] || ggml_nrows(n->src[1]) != 1) return false;
    if (dims < 2 || dims % 2 != 0 || dims > 65536 || offset < 0 || offset % 2 != 0) return false;
    if (vision ? turned != n->ne[0] || offset != 0 : offset + turned > n->ne[0]) return false;
    if (by_sections(n) && !rope_sections(n)) return false;
    const Node factors = n->src[2];
    if (factors != nullptr && (!real(factors) || factors->ne[0] < turned / 2 || ggml_nrows(factors) != 1)) return false;
    return rope_numbers(n);
}

bool clamp(Node n) noexcept {
    return elements(n) && real_parameter(n, 0) <= real_parameter(n, 1); /* neither is NaN then */
}

bool unary(Node n) noexcept { return ggml_get_unary_op(n) == GGML_UNARY_OP_SILU && elements(n); }

/* The kernel of a gated unit; 0: the card has none. */
std::uint32_t gate_of(Node n) noexcept {
    switch (n->op_params[0]) {
    case GGML_GLU_OP_SWIGLU: return JALAPENO_HW_KERNEL_ID_SWIGLU;
    case GGML_GLU_OP_GEGLU: return JALAPENO_HW_KERNEL_ID_GEGLU;
    default: return 0;
    }
}

bool gated(Node n) noexcept {
    return gate_of(n) != 0 && real(n) && real(n->src[0]) && (n->src[1] == nullptr || real(n->src[1]));
}

bool copy(Node n) noexcept {
    const Node from = n->src[0];
    return n->type == from->type || (real(from) && made(n)) || (block(from) && real(n)) ||
           (n->type == GGML_TYPE_I32 && from->type == GGML_TYPE_F32) ||
           (n->type == GGML_TYPE_F32 && from->type == GGML_TYPE_I32);
}

/* The card repeats by a stride of 0, so only what is one element long in that dimension. */
bool repeat(Node n) noexcept {
    const Node from = n->src[0];
    if (n->type != from->type || (!real(n) && !index(n))) return false;
    for (int d = 0; d < 4; d++)
        if (from->ne[d] != 1 && from->ne[d] != n->ne[d]) return false;
    return true;
}

/* ---- How a LAUNCH is written ------------------------------------------------------------------ */

bool write_1(Node n, std::uint32_t kernel, Launch &l) noexcept {
    l.kernel(kernel);
    return l.operand(n) && l.operand(n->src[0]);
}

bool write_2(Node n, std::uint32_t kernel, Launch &l) noexcept {
    return write_1(n, kernel, l) && l.operand(n->src[1]);
}

bool write_repeat(Node n, std::uint32_t kernel, Launch &l) noexcept {
    if (!write_1(n, kernel, l)) return false;
    l.repeat_to(n);
    return true;
}

bool write_3(Node n, std::uint32_t kernel, Launch &l) noexcept {
    return write_2(n, kernel, l) && l.operand(n->src[2]);
}

/* As write_1, with op_params 0 as word 0. */
bool write_word(Node n, std::uint32_t kernel, Launch &l) noexcept {
    l.kernel(kernel).word(0, n->op_params[0]);
    return l.operand(n) && l.operand(n->src[0]);
}

/* As write_word, with op_params 1 as word 1. */
bool write_words(Node n, std::uint32_t kernel, Launch &l) noexcept {
    l.kernel(kernel).word(0, n->op_params[0]);
    l.word(1, n->op_params[1]);
    return l.operand(n) && l.operand(n->src[0]);
}

bool write_soft_max(Node n, std::uint32_t kernel, Launch &l) noexcept {
    const Node mask = n->src[1], sinks = n->src[2];
    l.kernel(kernel).word(0, n->op_params[0]);
    if (mask != nullptr) l.word(1, n->op_params[1]);
    if (!l.operand(n) || !l.operand(n->src[0])) return false;
    if (mask != nullptr ? !l.operand(mask) : sinks != nullptr && !l.absent()) return false;
    return sinks == nullptr || l.operand(sinks);
}

/* ggml has the heads of the result before its rows; the card has them behind, as those of the queries. */
bool write_attention(Node n, std::uint32_t kernel, Launch &l) noexcept {
    const Node mask = n->src[3], sinks = n->src[4];
    l.kernel(kernel);
    for (unsigned i = 0; i < 3; i++) l.word(i, n->op_params[i]);
    if (!l.operand(n)) return false;
    l.swap_rows();
    for (int i = 0; i < 3; i++)
        if (!l.operand(n->src[i])) return false;
    if (mask != nullptr ? !l.operand(mask) : sinks != nullptr && !l.absent()) return false;
    return sinks == nullptr || l.operand(sinks);
}

bool write_rope(Node n, std::uint32_t kernel, Launch &l) noexcept {
    l.kernel(kernel).word(0, n->op_params[ROPE_DIMS]);
    l.word(1, n->op_params[ROPE_MODE]);
    for (int i = ROPE_CONTEXT; i <= ROPE_SLOW; i++) l.word(static_cast<unsigned>(i) - 2, n->op_params[i]);
    /* Of no context at all and of one position YaRN makes the same: every correction is below 0. */
    if (n->op_params[ROPE_CONTEXT] == 0 && real_parameter(n, ROPE_EXTRA) != 0) l.word(2, 1);
    if (by_sections(n))
        for (unsigned i = 0; i < 4; i++) l.word(9 + i, n->op_params[ROPE_SECTIONS + i]);
    l.word(13, n->op_params[ROPE_OFFSET]);
    return l.operand(n) && l.operand(n->src[0]) && l.operand(n->src[1]) &&
           (n->src[2] == nullptr || l.operand(n->src[2]));
}

bool write_unary(Node n, std::uint32_t, Launch &l) noexcept {
    return n->op_params[0] == GGML_UNARY_OP_SILU && write_1(n, JALAPENO_HW_KERNEL_ID_SILU, l);
}

bool write_gated(Node n, std::uint32_t, Launch &l) noexcept {
    const std::uint32_t kernel = gate_of(n);
    if (kernel == 0) return false;
    l.kernel(kernel).word(0, n->op_params[1]);
    if (!l.operand(n) || !l.operand(n->src[0])) return false;
    if (n->src[1] != nullptr) return l.operand(n->src[1]);
    l.narrow(static_cast<std::uint32_t>(2 * n->ne[0])); /* ggml leaves the last of an odd row out */
    return true;
}

/* ---- The table -------------------------------------------------------------------------------- */

/* What of a node's sources the card reads (a bit each), and whether it may write over one. */
struct Row {
    bool (*fits)(Node);
    bool (*write)(Node, std::uint32_t kernel, Launch &);
    std::uint32_t kernel;
    std::uint32_t sources;
    bool in_place;
};

struct Table {
    Row of[GGML_OP_COUNT];
};

constexpr Table all_rows() noexcept {
    Table table{};
    table.of[GGML_OP_GET_ROWS] = {get_rows, write_2, JALAPENO_HW_KERNEL_ID_GET_ROWS, 0b11, false};
    table.of[GGML_OP_SET_ROWS] = {set_rows, write_2, JALAPENO_HW_KERNEL_ID_SET_ROWS, 0b11, false};
    table.of[GGML_OP_MUL_MAT] = {mul_mat, write_2, JALAPENO_HW_KERNEL_ID_MUL_MAT, 0b11, false};
    table.of[GGML_OP_MUL_MAT_ID] = {mul_mat_id, write_3, JALAPENO_HW_KERNEL_ID_MUL_MAT_ID, 0b111, false};
    table.of[GGML_OP_RMS_NORM] = {rms_norm, write_word, JALAPENO_HW_KERNEL_ID_RMS_NORM, 0b1, true};
    table.of[GGML_OP_SOFT_MAX] = {soft_max, write_soft_max, JALAPENO_HW_KERNEL_ID_SOFT_MAX, 0b111, true};
    table.of[GGML_OP_FLASH_ATTN_EXT] = {attention, write_attention, JALAPENO_HW_KERNEL_ID_ATTENTION, 0b11111, false};
    table.of[GGML_OP_ARGMAX] = {argmax, write_1, JALAPENO_HW_KERNEL_ID_ARGMAX, 0b1, false};
    table.of[GGML_OP_ROPE] = {rope, write_rope, JALAPENO_HW_KERNEL_ID_ROPE, 0b111, true};
    table.of[GGML_OP_ADD] = {binary, write_2, JALAPENO_HW_KERNEL_ID_ADD, 0b11, true};
    table.of[GGML_OP_MUL] = {binary, write_2, JALAPENO_HW_KERNEL_ID_MUL, 0b11, true};
    table.of[GGML_OP_SUB] = {binary, write_2, JALAPENO_HW_KERNEL_ID_SUB, 0b11, true};
    table.of[GGML_OP_DIV] = {binary, write_2, JALAPENO_HW_KERNEL_ID_DIV, 0b11, true};
    table.of[GGML_OP_SUM_ROWS] = {sum_rows, write_1, JALAPENO_HW_KERNEL_ID_SUM_ROWS, 0b1, false};
    table.of[GGML_OP_ARGSORT] = {argsort, write_word, JALAPENO_HW_KERNEL_ID_ARGSORT, 0b1, false};
    table.of[GGML_OP_TOP_K] = {top_k, write_1, JALAPENO_HW_KERNEL_ID_TOP_K, 0b1, false};
    table.of[GGML_OP_SCALE] = {elements, write_words, JALAPENO_HW_KERNEL_ID_SCALE, 0b1, true};
    table.of[GGML_OP_CLAMP] = {clamp, write_words, JALAPENO_HW_KERNEL_ID_CLAMP, 0b1, true};
    table.of[GGML_OP_UNARY] = {unary, write_unary, JALAPENO_HW_KERNEL_ID_SILU, 0b1, true};
    table.of[GGML_OP_GLU] = {gated, write_gated, JALAPENO_HW_KERNEL_ID_SWIGLU, 0b11, true};
    table.of[GGML_OP_REPEAT] = {repeat, write_repeat, JALAPENO_HW_KERNEL_ID_COPY, 0b1, false};
    table.of[GGML_OP_CPY] = {copy, write_1, JALAPENO_HW_KERNEL_ID_COPY, 0b1, true};
    table.of[GGML_OP_CONT] = {copy, write_1, JALAPENO_HW_KERNEL_ID_COPY, 0b1, true};
    table.of[GGML_OP_DUP] = {copy, write_1, JALAPENO_HW_KERNEL_ID_COPY, 0b1, true};
    return table;
}

constexpr Table TABLE = all_rows();

/* The rules that hold for all operands of a node. */
bool permitted(Node n, const Row &row) noexcept {
    if (!operand_permitted(n) || !spread(n)) return false;
    for (std::uint32_t left = row.sources; left != 0; left &= left - 1) {
        const Node source = n->src[__builtin_ctz(left)];
        if (source == nullptr) continue;
        if (!operand_permitted(source) || !apart(n, source, row.in_place)) return false;
    }
    return true;
}

} // namespace

bool Launch::intact(Node t, std::uint64_t address, std::uint64_t bytes) noexcept {
    if (!card_.spoiled.touches(address, bytes)) return true;
    /* A destination without gaps is written whole, but for the rows that SET_ROWS is not given. */
    if (operands_ != 0 || kernel_ == JALAPENO_HW_KERNEL_ID_SET_ROWS || !dense(t, TYPES.of[t->type])) return false;
    card_.spoiled.heal(address, bytes);
    return true;
}

bool Launch::operand(const ggml_tensor *t) noexcept {
    const ggml_backend_buffer_t buffer = t->buffer;
    if (operands_ >= JALAPENO_HW_OPERANDS_MAX) return refuse("more operands than a LAUNCH has");
    if (buffer == nullptr || buffer->buft != &card_.buffers) return refuse("an operand is not in memory of this card");
    if (((t->ne[0] | t->ne[1] | t->ne[2] | t->ne[3]) >> 32) != 0) return refuse("an operand has a size of 2^32 or more");
    const Memory &memory = *static_cast<const Memory *>(buffer->context);
    const std::uint64_t address = reinterpret_cast<std::uintptr_t>(t->data);
    const std::uint64_t bytes = extent(t), before = address - memory.address;
    if (bytes > memory.bytes || before > memory.bytes - bytes) return refuse("an operand reaches beyond its buffer");
    if (card_.spoiled.any() && !intact(t, address, bytes)) return refuse("a write to an operand was lost (see above)");
    auto *tensor = reinterpret_cast<jalapeno_hw_tensor *>(block_ + 64 * (1 + operands_));
    tensor->address = address;
    tensor->dtype = static_cast<std::uint32_t>(t->type);
    tensor->flags = 0;
    for (int d = 0; d < 4; d++) tensor->ne[d] = static_cast<std::uint32_t>(t->ne[d]);
    std::memcpy(tensor->nb, t->nb, sizeof tensor->nb);
    operands_++;
    return true;
}

void Launch::swap_rows() noexcept {
    jalapeno_hw_tensor tensor;
    std::memcpy(&tensor, block_ + 64 * operands_, sizeof tensor);
    std::swap(tensor.ne[1], tensor.ne[2]);
    std::swap(tensor.nb[1], tensor.nb[2]);
    std::memcpy(block_ + 64 * operands_, &tensor, sizeof tensor);
}

void Launch::repeat_to(const ggml_tensor *t) noexcept {
    jalapeno_hw_tensor tensor;
    std::memcpy(&tensor, block_ + 64 * operands_, sizeof tensor);
    for (int d = 0; d < 4; d++) {
        if (tensor.ne[d] == static_cast<std::uint32_t>(t->ne[d])) continue;
        tensor.ne[d] = static_cast<std::uint32_t>(t->ne[d]);
        tensor.nb[d] = 0;
    }
    std::memcpy(block_ + 64 * operands_, &tensor, sizeof tensor);
}

bool nothing_to_run(const ggml_tensor *node) noexcept {
    return view_or_none(node->op) || (node->flags & GGML_TENSOR_FLAG_COMPUTE) == 0 || empty(node);
}

bool supported(const ggml_tensor *node) noexcept {
    if (view_or_none(node->op)) return true;
    if (node->op < 0 || node->op >= GGML_OP_COUNT) return false;
    const Row &row = TABLE.of[node->op];
    if (row.fits == nullptr || node->src[0] == nullptr || !permitted(node, row) || !row.fits(node)) return false;
    /* What is written into another node's result lies where that one ran, whatever ggml makes of the two. */
    return node->view_src == nullptr || supported(node->view_src);
}

std::uint32_t sources_of(const ggml_tensor *node) noexcept {
    return node->op < 0 || node->op >= GGML_OP_COUNT ? 0 : TABLE.of[node->op].sources;
}

bool compose(const ggml_tensor *node, Launch &launch) noexcept {
    if (node->op < 0 || node->op >= GGML_OP_COUNT) return false;
    const Row &row = TABLE.of[node->op];
    return row.write != nullptr && row.write(node, row.kernel, launch);
}

} // namespace jal_ggml
