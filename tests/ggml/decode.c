/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Greedy decoding by llama.cpp on one device, told token by token.
 *
 *   decode MODEL DEVICE TOKENS [prompt TEXT] [follow FILE] [logits FILE] [context N] [memory EVERY]
 *
 * DEVICE is a name of ggml's; CPU means no device at all. One thread, no flash attention, keys and
 * values in f32. Prints each token chosen as a line "token N". With `follow` the tokens of an earlier
 * output are taken for the next position, whatever was chosen, so that two devices can be compared
 * place by place. `logits` writes the logits of each place, f32. When the context is full, its older
 * half goes. A model without a vocabulary takes the prompt's bytes as tokens. Every EVERY tokens a line "memory TOKENS RESIDENT FREE" in bytes: of this process, and
 * free on the device. A decoding that fails is a line "error: " and exit code 1. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ggml-backend.h>
#include <llama.h>

static void quiet(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR || level == GGML_LOG_LEVEL_WARN) fputs(text, stderr);
}

static void fail(const char *what, const char *on) {
    fflush(stdout);
    fprintf(stderr, "error: %s: %s\n", what, on);
    exit(1);
}

static size_t resident(void) {
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long all, pages = 0;
    if (!file || fscanf(file, "%lu %lu", &all, &pages) != 2) fail("read", "/proc/self/statm");
    fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* A read that failed is NaN (integrations/ggml/README.md): an error, never a token. */
static void check(const float *logits, int count, const char *device) {
    for (int i = 0; i < count; i++)
        if (!isfinite(logits[i])) fail("logits that are no numbers from", device);
}

static llama_token best(const float *logits, int count) {
    int at = 0;
    for (int i = 1; i < count; i++)
        if (logits[i] > logits[at]) at = i;
    return at;
}

int main(int argc, char **argv) {
    const char *prompt = "In the beginning", *follow = NULL, *logits_to = NULL;
    int context = 256, every = 0;
    if (argc < 4 || argc % 2 != 0) {
        fprintf(stderr, "usage: decode MODEL DEVICE TOKENS [prompt TEXT] [follow FILE] [logits FILE] "
                        "[context N] [memory EVERY]\n");
        return 2;
    }
    const char *device = argv[2];
    const int tokens = atoi(argv[3]);
    for (int i = 4; i < argc; i += 2) {
        if (!strcmp(argv[i], "prompt")) prompt = argv[i + 1];
        else if (!strcmp(argv[i], "follow")) follow = argv[i + 1];
        else if (!strcmp(argv[i], "logits")) logits_to = argv[i + 1];
        else if (!strcmp(argv[i], "context")) context = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "memory")) every = atoi(argv[i + 1]);
        else fail("unknown word", argv[i]);
    }
    llama_log_set(quiet, NULL);
    ggml_backend_load_all();
    ggml_backend_dev_t devices[2] = {NULL, NULL};
    if (strcmp(device, "CPU") && !(devices[0] = ggml_backend_dev_by_name(device)))
        fail("there is no device", device);

    struct llama_model_params of_model = llama_model_default_params();
    of_model.devices = devices;
    of_model.n_gpu_layers = devices[0] ? 999 : 0;
    struct llama_model *model = llama_model_load_from_file(argv[1], of_model);
    if (!model) fail("load", argv[1]);
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = (uint32_t)context;
    params.n_threads = params.n_threads_batch = 1;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.type_k = params.type_v = GGML_TYPE_F32;
    struct llama_context *ctx = llama_init_from_model(model, params);
    if (!ctx) fail("make a context on", device);

    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    const int words = llama_vocab_n_tokens(vocab);
    llama_token batch[512];
    int count = (int)strlen(prompt);
    if (llama_vocab_type(vocab) != LLAMA_VOCAB_TYPE_NONE)
        count = llama_tokenize(vocab, prompt, count, batch, 512, false, false);
    else
        for (int i = 0; i < count && i < 512; i++) batch[i] = (unsigned char)prompt[i] % words;
    if (count < 1 || count > 512 || count >= context) fail("a prompt of a wrong length", prompt);
    FILE *path = follow ? fopen(follow, "r") : NULL;
    FILE *logits = logits_to ? fopen(logits_to, "wb") : NULL;
    if ((follow && !path) || (logits_to && !logits)) fail("open", follow && !path ? follow : logits_to);

    int used = 0;
    for (int done = 0; done < tokens; done++) {
        if (used + count > (int)llama_n_ctx(ctx)) {
            llama_memory_t memory = llama_get_memory(ctx);
            const int half = (int)llama_n_ctx(ctx) / 2;
            if (!llama_memory_seq_rm(memory, 0, 0, half)) fail("shift", "the context");
            llama_memory_seq_add(memory, 0, half, -1, -half);
            used -= half;
        }
        if (llama_decode(ctx, llama_batch_get_one(batch, count)) != 0) fail("decode on", device);
        used += count;
        const float *at = llama_get_logits_ith(ctx, -1);
        if (!at) fail("logits of", device);
        check(at, words, device);
        if (logits && fwrite(at, sizeof *at, (size_t)words, logits) != (size_t)words) fail("write", logits_to);
        llama_token next = best(at, words);
        printf("token %d\n", next);
        if (path && fscanf(path, " token %d", &next) != 1) fail("no token in", follow);
        batch[0] = next;
        count = 1;
        if (every && (done + 1) % every == 0) {
            size_t free_bytes = 0, total = 0;
            if (devices[0]) ggml_backend_dev_memory(devices[0], &free_bytes, &total);
            printf("memory %d %zu %zu\n", done + 1, resident(), free_bytes);
            fflush(stdout);
        }
    }
    if (logits && fclose(logits) != 0) fail("write", logits_to);
    llama_free(ctx);
    llama_model_free(model);
    return 0;
}
