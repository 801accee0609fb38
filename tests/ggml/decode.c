/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Greedy decoding by llama.cpp on one device, told token by token.
 *
 *   decode MODEL DEVICE TOKENS [prompt TEXT] [follow FILE] [logits FILE] [context N] [memory EVERY]
 *          [warm 1] [retry N]
 *
 * DEVICE is a name of ggml's; CPU means no device at all. One thread, no flash attention, keys and
 * values in f32. Prints each token chosen as a line "token N". With `follow` the tokens of an earlier
 * output are taken for the next position, whatever was chosen, so that two devices can be compared
 * place by place. `logits` writes the logits of each place, f32. When the context is full, its older
 * half goes. llama.cpp's lines with "splits = " are passed on. A model without a vocabulary takes the prompt's bytes as tokens. Every EVERY tokens a line
 * "memory TOKENS RESIDENT FREE" in bytes: of this process, and free on the device. `warm` decodes once
 * ahead and does not look at the result, as llama.cpp's own programs do. A decoding that fails is a line
 * "error: " and exit code 1; with `retry` a line "again", at most N times: the context is cleared and
 * decoding begins anew with the prompt. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ggml-backend.h>
#include <llama.h>

enum { PROMPT_MOST = 512 };

/* What was asked for. */
struct wish {
    const char *model, *device, *prompt, *follow, *logits;
    int tokens, context, every, warm, retry;
};

/* What decodes. */
struct run {
    ggml_backend_dev_t device; /* null: none */
    struct llama_model *model;
    struct llama_context *ctx;
    int words, used;
};

static void quiet(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    const int wanted = level == GGML_LOG_LEVEL_ERROR || level == GGML_LOG_LEVEL_WARN;
    if (wanted || strstr(text, "splits = ")) fputs(text, stderr);
}

static void fail(const char *what, const char *on) {
    fflush(stdout);
    fprintf(stderr, "error: %s: %s\n", what, on);
    exit(1);
}

static struct wish asked(int argc, char **argv) {
    struct wish w = {.prompt = "In the beginning", .context = 256};
    if (argc < 4 || argc % 2 != 0) {
        fprintf(stderr, "usage: decode MODEL DEVICE TOKENS [prompt TEXT] [follow FILE] [logits FILE] "
                        "[context N] [memory EVERY] [warm 1] [retry N]\n");
        exit(2);
    }
    w.model = argv[1];
    w.device = argv[2];
    w.tokens = atoi(argv[3]);
    for (int i = 4; i < argc; i += 2) {
        const char *word = argv[i], *value = argv[i + 1];
        if (!strcmp(word, "prompt")) w.prompt = value;
        else if (!strcmp(word, "follow")) w.follow = value;
        else if (!strcmp(word, "logits")) w.logits = value;
        else if (!strcmp(word, "context")) w.context = atoi(value);
        else if (!strcmp(word, "memory")) w.every = atoi(value);
        else if (!strcmp(word, "warm")) w.warm = atoi(value);
        else if (!strcmp(word, "retry")) w.retry = atoi(value);
        else fail("unknown word", word);
    }
    return w;
}

static struct run load(const struct wish *w) {
    struct run r = {0};
    ggml_backend_dev_t devices[2] = {NULL, NULL};
    llama_log_set(quiet, NULL);
    ggml_backend_load_all();
    if (strcmp(w->device, "CPU") && !(devices[0] = ggml_backend_dev_by_name(w->device)))
        fail("there is no device", w->device);
    r.device = devices[0];

    struct llama_model_params of_model = llama_model_default_params();
    of_model.devices = devices;
    of_model.n_gpu_layers = devices[0] ? 999 : 0;
    if (!(r.model = llama_model_load_from_file(w->model, of_model))) fail("load", w->model);
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = (uint32_t)w->context;
    params.n_threads = params.n_threads_batch = 1;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.type_k = params.type_v = GGML_TYPE_F32;
    if (!(r.ctx = llama_init_from_model(r.model, params))) fail("make a context on", w->device);
    r.words = llama_vocab_n_tokens(llama_model_get_vocab(r.model));
    return r;
}

static int prompt(const struct wish *w, const struct run *r, llama_token *batch) {
    const struct llama_vocab *vocab = llama_model_get_vocab(r->model);
    int count = (int)strlen(w->prompt);
    if (llama_vocab_type(vocab) != LLAMA_VOCAB_TYPE_NONE)
        count = llama_tokenize(vocab, w->prompt, count, batch, PROMPT_MOST, false, false);
    else
        for (int i = 0; i < count && i < PROMPT_MOST; i++) batch[i] = (unsigned char)w->prompt[i] % r->words;
    if (count < 1 || count > PROMPT_MOST || count >= w->context) fail("a prompt of a wrong length", w->prompt);
    return count;
}

static void tell_memory(const struct run *r, int tokens) {
    unsigned long all, pages = 0;
    size_t free_bytes = 0, total = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%lu %lu", &all, &pages) != 2) fail("read", "/proc/self/statm");
    fclose(file);
    if (r->device) ggml_backend_dev_memory(r->device, &free_bytes, &total);
    printf("memory %d %zu %zu\n", tokens, pages * (size_t)sysconf(_SC_PAGESIZE), free_bytes);
    fflush(stdout);
}

/* Decodes a batch. Its last logits; null, with the reason, where they cannot be had: a read that failed is
 * NaN (integrations/ggml/README.md), an error, never a token. */
static const float *decode(struct run *r, llama_token *batch, int count, const char **why) {
    llama_memory_t memory = llama_get_memory(r->ctx);
    if (r->used + count > (int)llama_n_ctx(r->ctx)) {
        const int half = (int)llama_n_ctx(r->ctx) / 2;
        if (!llama_memory_seq_rm(memory, 0, 0, half)) fail("shift", "the context");
        llama_memory_seq_add(memory, 0, half, -1, -half);
        r->used -= half;
    }
    *why = "decode on";
    if (llama_decode(r->ctx, llama_batch_get_one(batch, count)) != 0) return NULL;
    r->used += count;
    const float *logits = llama_get_logits_ith(r->ctx, -1);
    *why = "logits of";
    if (!logits) return NULL;
    *why = "logits that are no numbers from";
    for (int i = 0; i < r->words; i++)
        if (!isfinite(logits[i])) return NULL;
    return logits;
}

static void begin_anew(struct run *r) {
    llama_memory_clear(llama_get_memory(r->ctx), true);
    r->used = 0;
}

static llama_token best(const float *logits, int count) {
    int at = 0;
    for (int i = 1; i < count; i++)
        if (logits[i] > logits[at]) at = i;
    return at;
}

int main(int argc, char **argv) {
    struct wish w = asked(argc, argv);
    struct run r = load(&w);
    llama_token batch[PROMPT_MOST];
    const char *why = NULL;
    int count = prompt(&w, &r, batch);
    FILE *path = w.follow ? fopen(w.follow, "r") : NULL;
    FILE *to = w.logits ? fopen(w.logits, "wb") : NULL;
    if ((w.follow && !path) || (w.logits && !to)) fail("open", w.follow && !path ? w.follow : w.logits);

    if (w.warm) {
        if (!decode(&r, batch, 1, &why)) fprintf(stderr, "warm-up: failed: %s %s\n", why, w.device);
        begin_anew(&r);
    }
    for (int done = 0; done < w.tokens;) {
        const float *logits = decode(&r, batch, count, &why);
        if (!logits && w.retry-- > 0) {
            printf("again\n");
            fflush(stdout);
            fprintf(stderr, "again: %s %s\n", why, w.device);
            begin_anew(&r);
            count = prompt(&w, &r, batch);
            if (path) rewind(path);
            continue;
        }
        if (!logits) fail(why, w.device);
        if (to && fwrite(logits, sizeof *logits, (size_t)r.words, to) != (size_t)r.words) fail("write", w.logits);
        llama_token next = best(logits, r.words);
        printf("token %d\n", next);
        if (path && fscanf(path, " token %d", &next) != 1) fail("no token in", w.follow);
        batch[0] = next;
        count = 1;
        done++;
        if (w.every && done % w.every == 0) tell_memory(&r, done);
    }
    if (to && fclose(to) != 0) fail("write", w.logits);
    llama_free(r.ctx);
    llama_model_free(r.model);
    return 0;
}
