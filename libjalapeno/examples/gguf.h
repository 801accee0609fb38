/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A model file: GGUF version 3, read with distrust. Whatever is wrong with it (absent, truncated,
 * another format, sizes that overflow, dimensions that do not fit) is one clear error, by fail().
 */
#ifndef GGUF_H
#define GGUF_H

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jalapeno_hw.h> /* its element types have GGUF's numbers */

#define VOCABULARY 256u /* tokens are bytes */
#define FILE_LIMIT (1u << 30)
#define TENSORS_LIMIT 4096u

/* Says what failed and what to do, and ends the program. The including file has it. */
static void fail(int code, const char *hint, const char *format, ...);

struct entry { char name[64]; uint32_t type, ne[2]; uint64_t offset; };

struct model {
    const char *path;
    uint8_t *bytes;        /* the file */
    uint64_t size, at;     /* its length, and how far it has been read */
    uint64_t data;         /* where the tensors begin */
    struct entry *entries;
    uint64_t count;
    uint32_t dim, layers, heads, kv_heads, ff, context, alignment, vocabulary, turned;
    float epsilon, base;
};

static void bad_model(const struct model *m, const char *why) {
    fail(1, "use the model in libjalapeno/examples/model, or export one with export.py there",
         "%s: %s (at byte %" PRIu64 " of %" PRIu64 ")", m->path, why, m->at, m->size);
}

static const void *take(struct model *m, uint64_t bytes) {
    const void *here = m->bytes + m->at;
    if (bytes > m->size - m->at) bad_model(m, "truncated");
    m->at += bytes;
    return here;
}

static uint32_t take32(struct model *m) { uint32_t v; memcpy(&v, take(m, 4), 4); return v; }
static uint64_t take64(struct model *m) { uint64_t v; memcpy(&v, take(m, 8), 8); return v; }

/* A string, cut to fit; GGUF's are not terminated. */
static void take_string(struct model *m, char *out, size_t capacity) {
    uint64_t length = take64(m);
    const void *from = take(m, length);
    size_t kept = length < capacity ? (size_t)length : capacity - 1;
    memcpy(out, from, kept);
    out[kept] = '\0';
}

enum { GGUF_U32 = 4, GGUF_F32 = 6, GGUF_STRING = 8, GGUF_ARRAY = 9 };

static void skip_value(struct model *m, uint32_t type) {
    static const uint8_t width[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == GGUF_STRING) {
        take(m, take64(m));
    } else if (type == GGUF_ARRAY) {
        uint32_t of = take32(m);
        uint64_t n = take64(m);
        if (of == GGUF_ARRAY || of > 12) bad_model(m, "an array of an unknown type");
        if (n > m->size) bad_model(m, "an array longer than the file");
        if (of != GGUF_STRING) take(m, n * width[of]);
        else while (n-- > 0) take(m, take64(m));
    } else if (type <= 12) {
        take(m, width[type]);
    } else {
        bad_model(m, "a value of an unknown type");
    }
}

static void take_pair(struct model *m) {
    const struct { const char *name; uint32_t type; void *into; } wanted[] = {
        {"general.alignment", GGUF_U32, &m->alignment},
        {"llama.embedding_length", GGUF_U32, &m->dim},
        {"llama.block_count", GGUF_U32, &m->layers},
        {"llama.attention.head_count", GGUF_U32, &m->heads},
        {"llama.attention.head_count_kv", GGUF_U32, &m->kv_heads},
        {"llama.feed_forward_length", GGUF_U32, &m->ff},
        {"llama.context_length", GGUF_U32, &m->context},
        {"llama.vocab_size", GGUF_U32, &m->vocabulary},
        {"llama.rope.dimension_count", GGUF_U32, &m->turned},
        {"llama.rope.freq_base", GGUF_F32, &m->base},
        {"llama.attention.layer_norm_rms_epsilon", GGUF_F32, &m->epsilon}};
    char name[64], text[16];
    uint32_t type;
    size_t i;
    take_string(m, name, sizeof name);
    type = take32(m);
    if (strcmp(name, "general.architecture") == 0) {
        if (type != GGUF_STRING) bad_model(m, "general.architecture is no string");
        take_string(m, text, sizeof text);
        if (strcmp(text, "llama") != 0) bad_model(m, "an architecture other than llama");
        return;
    }
    for (i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        if (strcmp(name, wanted[i].name) != 0) continue;
        if (type != wanted[i].type) bad_model(m, "a value of the wrong type");
        memcpy(wanted[i].into, take(m, 4), 4);
        return;
    }
    skip_value(m, type);
}

/* Of the types that weights have here; 0 for others. */
static uint64_t weight_bytes(uint32_t type) {
    if (type == JALAPENO_HW_DTYPE_F32) return 4;
    return type == JALAPENO_HW_DTYPE_F16 || type == JALAPENO_HW_DTYPE_BF16 ? 2 : 0;
}

static void read_file(struct model *m) {
    FILE *file = fopen(m->path, "rb");
    long size = -1;
    if (file != NULL && fseek(file, 0, SEEK_END) == 0) size = ftell(file);
    if (size < 0 || fseek(file, 0, SEEK_SET) != 0)
        fail(1, "name a model file first: generate MODEL.gguf PROMPT", "open model %s: %s", m->path,
             strerror(errno));
    m->size = (uint64_t)size;
    if (m->size > FILE_LIMIT) bad_model(m, "larger than 1 GiB, which this program does not load");
    m->bytes = malloc(m->size + 1);
    if (m->bytes == NULL) fail(1, "free some memory", "no memory for %ld bytes of model", size);
    if (fread(m->bytes, 1, m->size, file) != m->size)
        fail(1, NULL, "read model %s: %s", m->path, strerror(errno));
    fclose(file);
}

/* A tensor by the name it has in GGUF; the layer's number is m->layers for those of no layer. */
static const struct entry *find_weight(const struct model *m, uint32_t layer, const char *part) {
    char name[64], why[128];
    uint64_t i;
    if (layer < m->layers) snprintf(name, sizeof name, "blk.%" PRIu32 ".%s.weight", layer, part);
    else snprintf(name, sizeof name, "%s.weight", part);
    for (i = 0; i < m->count; i++)
        if (strcmp(name, m->entries[i].name) == 0) return &m->entries[i];
    snprintf(why, sizeof why, "no tensor %s", name);
    bad_model(m, why);
    return NULL; /* not reached */
}

/* Sees that every weight of a llama is there and has the shape that the dimensions say. */
static void check_weights(const struct model *m) {
    const uint32_t dim = m->dim, kv = dim / m->heads * m->kv_heads;
    const struct { const char *part; uint32_t of_layer, ne0, ne1; } wanted[] = {
        {"token_embd", 0, dim, VOCABULARY}, {"output_norm", 0, dim, 1},
        {"attn_norm", 1, dim, 1}, {"attn_q", 1, dim, dim}, {"attn_k", 1, dim, kv},
        {"attn_v", 1, dim, kv}, {"attn_output", 1, dim, dim}, {"ffn_norm", 1, dim, 1},
        {"ffn_gate", 1, dim, m->ff}, {"ffn_up", 1, dim, m->ff}, {"ffn_down", 1, m->ff, dim}};
    uint32_t layer;
    size_t i;
    for (i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        for (layer = 0; layer < (wanted[i].of_layer ? m->layers : 1); layer++) {
            const struct entry *e =
                find_weight(m, wanted[i].of_layer ? layer : m->layers, wanted[i].part);
            if (e->ne[0] != wanted[i].ne0 || e->ne[1] != wanted[i].ne1)
                bad_model(m, "a tensor whose shape does not fit the dimensions");
        }
}

static void load_model(struct model *m) {
    uint64_t pairs, i;
    uint32_t d;
    read_file(m);
    if (m->size < 24 || memcmp(m->bytes, "GGUF", 4) != 0) bad_model(m, "not a GGUF model");
    m->at = 4;
    if (take32(m) != 3) bad_model(m, "not GGUF version 3");
    m->count = take64(m);
    pairs = take64(m);
    if (m->count == 0 || m->count > TENSORS_LIMIT) bad_model(m, "an absurd number of tensors");
    m->alignment = 32;
    m->vocabulary = VOCABULARY;
    while (pairs-- > 0) take_pair(m); /* ends: each takes at least 12 bytes of the file */
    m->entries = calloc((size_t)m->count, sizeof *m->entries);
    if (m->entries == NULL) fail(1, "free some memory", "no memory for the tensor table");
    for (i = 0; i < m->count; i++) {
        struct entry *e = &m->entries[i];
        uint32_t dims;
        take_string(m, e->name, sizeof e->name);
        dims = take32(m);
        if (dims < 1 || dims > 2) bad_model(m, "a tensor that is neither vector nor matrix");
        e->ne[1] = 1;
        for (d = 0; d < dims; d++) {
            uint64_t n = take64(m);
            if (n == 0 || n > FILE_LIMIT) bad_model(m, "a tensor of absurd size");
            e->ne[d] = (uint32_t)n;
        }
        e->type = take32(m);
        e->offset = take64(m);
    }
    if (m->alignment < 8 || m->alignment > 65536 || m->alignment % 8 != 0)
        bad_model(m, "an absurd alignment");
    m->data = (m->at + m->alignment - 1) / m->alignment * m->alignment;
    for (i = 0; i < m->count; i++) { /* counts are below 2^30 each: no product overflows */
        const struct entry *e = &m->entries[i];
        uint64_t bytes = (uint64_t)e->ne[0] * e->ne[1] * weight_bytes(e->type);
        if (bytes == 0) bad_model(m, "a tensor whose type is not F32, F16 or BF16");
        if (m->data > m->size || e->offset > m->size - m->data ||
            bytes > m->size - m->data - e->offset)
            bad_model(m, "truncated: a tensor ends behind the file's end");
    }
    if (m->vocabulary != VOCABULARY) bad_model(m, "not a model of bytes: its vocabulary is not 256");
    if (m->dim - 1 >= 16384 || m->layers - 1 >= 512 || m->ff - 1 >= 65536 || m->context < 2 ||
        m->context > 4096 || m->heads - 1 >= m->dim || m->kv_heads - 1 >= m->heads ||
        m->dim % m->heads != 0 || m->heads % m->kv_heads != 0 || m->dim / m->heads % 2 != 0)
        bad_model(m, "dimensions missing, or that do not fit each other");
    if (m->turned == 0) m->turned = m->dim / m->heads;
    if (m->base == 0.0f) m->base = 10000.0f;
    if (m->turned > m->dim / m->heads || m->turned % 2 != 0 || !(m->base > 0.0f) ||
        !(m->epsilon > 0.0f))
        bad_model(m, "constants missing, or out of range");
    check_weights(m);
}

#endif /* GGUF_H */
