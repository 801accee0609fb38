/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Tensors and parameters as a LAUNCH takes them: docs/host-interface.md 6.8, docs/kernels.md 1. */
#ifndef TENSORS_H
#define TENSORS_H

#include "gguf.h"

typedef struct jalapeno_hw_tensor tensor;
typedef struct jalapeno_hw_parameters parameters;

/* Elements without gaps. */
static inline tensor dense(uint64_t address, uint32_t type, uint32_t ne0, uint32_t ne1,
                           uint32_t ne2) {
    uint64_t width = type == JALAPENO_HW_DTYPE_I64 ? 8
                     : type == JALAPENO_HW_DTYPE_I32 ? 4 : element_bytes(type);
    tensor t = {address, type, 0, {ne0, ne1, ne2, 1}, {width, 0, 0, 0}};
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

/* A weight by name; load_model() saw that it is there. */
static inline tensor weight(const struct model *m, uint32_t layer, const char *part) {
    const struct entry *e = find_weight(m, layer, part);
    return dense(m->address + e->offset, e->type, e->ne[0], e->ne[1], 1);
}

static inline parameters none(void) { parameters p = {{0}}; return p; }
static inline uint32_t bits(float v) { uint32_t u; memcpy(&u, &v, 4); return u; }
static inline parameters real(float v) { parameters p = none(); p.word[0] = bits(v); return p; }

/* RoPE as the model was trained with it: neighbours are a pair, positions as they are. */
static inline parameters turning(const struct model *m) {
    parameters rope = none();
    rope.word[0] = m->turned;
    rope.word[2] = m->context;
    rope.word[3] = bits(m->base);
    rope.word[4] = bits(1.0f);
    rope.word[6] = bits(1.0f); /* lengths stay */
    return rope;
}

/* The next `bytes` of a growing block, aligned to 256. */
static inline uint64_t carve(uint64_t *end, uint64_t bytes) {
    uint64_t at = *end;
    *end = (at + bytes + 255) / 256 * 256;
    return at;
}

#endif
