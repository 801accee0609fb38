/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Tensors and parameters as a LAUNCH takes them: docs/host-interface.md 6.8, docs/kernels.md 1. */
#ifndef TENSORS_H
#define TENSORS_H

#include <string.h>

#include <jalapeno.h>

typedef struct jalapeno_hw_tensor tensor;
typedef struct jalapeno_hw_parameters parameters;

static inline uint64_t element_bytes(uint32_t type) {
    if (type == JALAPENO_HW_DTYPE_I64) return 8;
    if (type == JALAPENO_HW_DTYPE_F32 || type == JALAPENO_HW_DTYPE_I32) return 4;
    return type == JALAPENO_HW_DTYPE_F16 || type == JALAPENO_HW_DTYPE_BF16 ? 2 : 0;
}

/* Elements without gaps. */
static inline tensor dense(uint64_t address, uint32_t type, uint32_t ne0, uint32_t ne1,
                           uint32_t ne2) {
    tensor t = {address, type, 0, {ne0, ne1, ne2, 1}, {element_bytes(type), 0, 0, 0}};
    t.nb[1] = t.nb[0] * ne0;
    t.nb[2] = t.nb[1] * ne1;
    t.nb[3] = t.nb[2] * ne2;
    return t;
}

/* The same memory with the strides of dimensions 1 and 2 given. */
static inline tensor strided(tensor t, uint64_t nb1, uint64_t nb2) {
    t.nb[1] = nb1;
    t.nb[2] = nb2;
    t.nb[3] = nb2 * t.ne[2];
    return t;
}

static inline parameters none(void) { parameters p = {{0}}; return p; }
static inline uint32_t bits(float v) { uint32_t u; memcpy(&u, &v, 4); return u; }
static inline parameters real(float v) { parameters p = none(); p.word[0] = bits(v); return p; }

/* RoPE of `turned` elements: neighbours are a pair, positions and lengths as they are. */
static inline parameters turning(uint32_t turned, uint32_t context, float base) {
    parameters rope = none();
    rope.word[0] = turned;
    rope.word[2] = context;
    rope.word[3] = bits(base);
    rope.word[4] = bits(1.0f);
    rope.word[6] = bits(1.0f);
    return rope;
}

/* The next `bytes` of a growing block, aligned to 256. */
static inline uint64_t carve(uint64_t *end, uint64_t bytes) {
    uint64_t at = *end;
    *end = (at + bytes + 255) / 256 * 256;
    return at;
}

#endif
