/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What docs/kernels.md wants of every operand: types, sizes, strides, overlap. */
#ifndef JAL_GGML_OPERAND_HPP
#define JAL_GGML_OPERAND_HPP

#include <algorithm>
#include <cstdint>

#include <ggml.h>

namespace jal_ggml {

using Node = const ggml_tensor *;

/* ---- Types (Kernels 1.2) ---------------------------------------------------------------------- */

struct Type {
    std::uint16_t bytes;     /* of an element or block; 0: the card does not know the type */
    std::uint8_t shift;      /* log2 of a block's elements */
    std::uint8_t alignment;
};

/* Codes of ggml and of the card are those of GGUF. */
constexpr Type type_of(ggml_type type) noexcept {
    switch (type) {
    case GGML_TYPE_F32: return {4, 0, 4};
    case GGML_TYPE_F16: return {2, 0, 2};
    case GGML_TYPE_BF16: return {2, 0, 2};
    case GGML_TYPE_I32: return {4, 0, 4};
    case GGML_TYPE_I64: return {8, 0, 8};
    case GGML_TYPE_Q4_0: return {18, 5, 2};
    case GGML_TYPE_Q8_0: return {34, 5, 2};
    case GGML_TYPE_Q4_K: return {144, 8, 2};
    case GGML_TYPE_Q6_K: return {210, 8, 2};
    default: return {0, 0, 1};
    }
}

/* By ggml's number. */
struct Types {
    Type of[GGML_TYPE_COUNT];
};

constexpr Types all_types() noexcept {
    Types types{};
    for (int i = 0; i < GGML_TYPE_COUNT; i++) types.of[i] = type_of(static_cast<ggml_type>(i));
    return types;
}

inline constexpr Types TYPES = all_types();

inline bool real(Node t) noexcept {
    return t->type == GGML_TYPE_F32 || t->type == GGML_TYPE_F16 || t->type == GGML_TYPE_BF16;
}
inline bool block(Node t) noexcept { return TYPES.of[t->type].shift != 0; }
inline bool index(Node t) noexcept { return t->type == GGML_TYPE_I32 || t->type == GGML_TYPE_I64; }

/* ---- Shapes and strides (Kernels 1.1 to 1.5) -------------------------------------------------- */

inline bool empty(Node t) noexcept { return t->ne[0] == 0 || t->ne[1] == 0 || t->ne[2] == 0 || t->ne[3] == 0; }

inline bool same_shape(Node a, Node b) noexcept { return std::equal(a->ne, a->ne + 4, b->ne); }

/* Elements or blocks of a dimension. */
inline std::int64_t count(Node t, int d) noexcept { return d == 0 ? t->ne[0] >> TYPES.of[t->type].shift : t->ne[d]; }

/* Whether a tensor is laid out as ggml lays out one of its own: most are, and then little is left to ask. */
inline bool dense(Node t, Type type) noexcept {
    return t->nb[0] == type.bytes && t->nb[1] == type.bytes * static_cast<std::uint64_t>(t->ne[0] >> type.shift) &&
           t->nb[2] == t->nb[1] * static_cast<std::uint64_t>(t->ne[1]) &&
           t->nb[3] == t->nb[2] * static_cast<std::uint64_t>(t->ne[2]);
}

/* `extent` of a tensor that is not dense. */
__attribute__((noinline)) inline std::uint64_t extent_of_strides(Node t) noexcept {
    constexpr std::uint64_t MOST = UINT64_C(1) << 62;
    if (empty(t)) return 0;
    std::uint64_t bytes = TYPES.of[t->type].bytes;
    for (int d = 0; d < 4; d++) {
        std::uint64_t reach = 0;
        if (__builtin_mul_overflow(static_cast<std::uint64_t>(count(t, d) - 1), t->nb[d], &reach) ||
            __builtin_add_overflow(bytes, reach, &bytes) || bytes >= MOST)
            return MOST;
    }
    return bytes;
}

/* Bytes from a tensor's first to its last; at least 2^62 where that is the case. */
inline std::uint64_t extent(Node t) noexcept {
    return dense(t, TYPES.of[t->type]) ? t->nb[3] * static_cast<std::uint64_t>(t->ne[3]) : extent_of_strides(t);
}

/* The rules of an operand's sizes and strides, where it is not dense or very large. */
__attribute__((noinline)) inline bool strides_permitted(Node t, Type type) noexcept {
    std::uint64_t elements = 1;
    for (int d = 0; d < 4; d++) {
        if (t->ne[d] < 0 || t->ne[d] > UINT32_MAX) return false;
        if (__builtin_mul_overflow(elements, static_cast<std::uint64_t>(t->ne[d]), &elements)) return false;
    }
    if (elements > UINT64_C(1) << 40) return false;
    if (empty(t)) return true;
    for (int d = 0; d < 4; d++)
        if (count(t, d) > 1 && t->nb[d] % type.alignment != 0) return false;
    return extent(t) < UINT64_C(1) << 62;
}

/* What a tensor of any role must satisfy. */
inline bool operand_permitted(Node t) noexcept {
    if (static_cast<unsigned>(t->type) >= GGML_TYPE_COUNT) return false;
    const Type type = TYPES.of[t->type];
    if (type.bytes == 0 || (t->view_offs & (type.alignment - 1u)) != 0) return false;
    if ((t->ne[0] & ((1 << type.shift) - 1)) != 0) return false;
    constexpr std::uint64_t SMALL = UINT64_C(1) << 31; /* each size below it: no product of two overflows */
    const std::uint64_t sizes = static_cast<std::uint64_t>(t->ne[0] | t->ne[1] | t->ne[2] | t->ne[3]);
    if (sizes < SMALL && dense(t, type) && t->nb[3] < SMALL) return true;
    return strides_permitted(t, type);
}

/* Whether no two elements of a destination meet: each stride spans what lies before it. */
__attribute__((noinline)) inline bool strides_spread(Node t) noexcept {
    int order[4] = {0, 1, 2, 3};
    std::sort(order, order + 4, [t](int a, int b) { return t->nb[a] < t->nb[b]; });
    std::uint64_t reach = TYPES.of[t->type].bytes;
    for (int d : order) {
        if (count(t, d) <= 1) continue;
        if (t->nb[d] < reach) return false;
        reach += static_cast<std::uint64_t>(count(t, d) - 1) * t->nb[d];
    }
    return true;
}

inline bool spread(Node t) noexcept { return dense(t, TYPES.of[t->type]) || strides_spread(t); }

inline Node root(Node t) noexcept { return t->view_src != nullptr ? t->view_src : t; }

inline bool same_view(Node a, Node b) noexcept {
    return a->view_offs == b->view_offs && a->type == b->type && same_shape(a, b) &&
           std::equal(a->nb, a->nb + 4, b->nb);
}

/* Whether a destination is apart from a source, or the very same view where that is permitted. Views of
 * different tensors do not meet; what ggml's allocator puts in one place are equal views. */
inline bool apart(Node dst, Node src, bool in_place) noexcept {
    if (root(dst) != root(src) || empty(src) || empty(dst)) return true;
    if (in_place && same_view(dst, src)) return true;
    return dst->view_offs + extent(dst) <= src->view_offs || src->view_offs + extent(src) <= dst->view_offs;
}

} // namespace jal_ggml

#endif
