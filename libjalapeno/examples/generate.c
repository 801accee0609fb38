/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Decodes text on a Jalapeño card, or on several: a llama-architecture model of bytes, from a GGUF file.
 *
 *     generate MODEL.gguf "In the beginning"          echo Selah | generate MODEL.gguf -
 *     jalctl emulate --devices 2 -- generate --cards 2 MODEL.gguf "In the beginning"
 *
 * Weights, cache and activations stand in HBM and the cards compute everything; the host reads the
 * file, records what a token takes once, runs that by one packet a token (and card) and draws a byte
 * from the logits that come home. Several cards have some of the heads and columns each (split.h) and
 * sum up what they have twice a layer (reduce.h).
 * Text goes to standard output, figures and errors to standard error.
 */
#define _POSIX_C_SOURCE 200809L
#include <unistd.h>

#include "llama.h"

/* A byte drawn from the logits; the most likely one at temperature 0. `state` is the generator's
 * (SplitMix64). */
static uint8_t draw(const float *logits, double temperature, uint64_t *state) {
    double weights[VOCABULARY], sum = 0, part;
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    uint32_t i, best = 0;
    for (i = 0; i < VOCABULARY; i++) {
        if (!isfinite(logits[i])) fail(1, "the card computed wrongly", "logit %" PRIu32 " is no number", i);
        if (logits[i] > logits[best]) best = i;
    }
    if (temperature == 0) return (uint8_t)best;
    for (i = 0; i < VOCABULARY; i++)
        sum += weights[i] = exp((double)(logits[i] - logits[best]) / temperature);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    part = (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0 * sum;
    for (i = 0; i < VOCABULARY - 1 && part >= weights[i]; i++) part -= weights[i];
    return (uint8_t)i;
}

static void figure(const char *what, double *seconds, uint32_t n) {
    qsort(seconds, n, sizeof *seconds, by_size);
    fprintf(stderr, "%s p50 %.1f us, p90 %.1f us, p99 %.1f us (of %" PRIu32 ")\n", what,
            but_one_in(seconds, n, 2) * 1e6, but_one_in(seconds, n, 10) * 1e6,
            but_one_in(seconds, n, 100) * 1e6, n);
}

/* What an empty packet takes there and back. */
static void idle_round_trips(struct card *c) {
    double times[1000];
    uint32_t i;
    for (i = 0; i < 1000; i++) {
        const double begin = now();
        push(&c->batch, jal_packet_nop());
        await(c, go(c), 1);
        c->batch.count = 0;
        times[i] = now() - begin;
    }
    figure("a packet ", times, 1000);
}

static const char usage[] =
    "usage: generate [--tokens N] [--temperature T] [--greedy] [--seed N] [--device NAME]\n"
    "                [--cards N] [--logits FILE] MODEL.gguf PROMPT\n"
    "PROMPT may be -, which reads standard input. Defaults: 400 tokens, temperature 0.7, seed 1611.\n";

static void print(uint8_t byte) { /* a model's control characters do not reach a terminal */
    putchar(byte >= 32 || byte == '\n' || byte == '\t' || !isatty(1) ? byte : '?');
    fflush(stdout);
}

int main(int argc, char **argv) {
    struct model m = {0};
    static struct card cards[CARDS_LIMIT];
    const char *name = NULL, *prompt = NULL, *dump = NULL;
    double temperature = 0.7, *times, reading, begin, seconds, joules = 0;
    uint64_t seed = 1611, tokens = 400, done = 0, wanted = 1;
    uint32_t length, at = 0, rows, steps = 0, count, i;
    jal_session sessions[CARDS_LIMIT];
    struct reduce *reduces[CARDS_LIMIT];
    static uint8_t text[65536];
    FILE *file = NULL;
    for (i = 1; i < (uint32_t)argc; i++) {
        const char *option = argv[i], *value = i + 1 < (uint32_t)argc ? argv[i + 1] : NULL;
        char *end = "";
        errno = 0;
        if (strcmp(option, "--greedy") == 0) { temperature = 0; continue; }
        if (strcmp(option, "--help") == 0) { fputs(usage, stdout); return 0; }
        if (strncmp(option, "--", 2) != 0) {
            if (prompt != NULL) fail(2, usage, "one argument too many: %s", option);
            if (m.path == NULL) m.path = option; else prompt = option;
            continue;
        }
        if (value == NULL) fail(2, usage, "%s: unknown, or without its value", option);
        if (strcmp(option, "--tokens") == 0) tokens = strtoull(value, &end, 10);
        else if (strcmp(option, "--seed") == 0) seed = strtoull(value, &end, 10);
        else if (strcmp(option, "--temperature") == 0) temperature = strtod(value, &end);
        else if (strcmp(option, "--device") == 0) name = value;
        else if (strcmp(option, "--cards") == 0) wanted = strtoull(value, &end, 10);
        else if (strcmp(option, "--logits") == 0) dump = value;
        else fail(2, usage, "unknown option %s", option);
        if (*end != '\0' || end == value || errno != 0 || tokens - 1 >= 1000000 ||
            wanted - 1 >= CARDS_LIMIT || !(temperature >= 0) || temperature > 100)
            fail(2, usage, "%s %s: not a number, or out of range", option, value);
        i++;
    }
    if (m.path == NULL) fail(2, usage, "no model");
    if (prompt == NULL) fail(2, usage, "no prompt");
    if (wanted > 1 && name != NULL) fail(2, usage, "--device names one card, and --cards wants %" PRIu64, wanted);
    length = 0;
    if (strcmp(prompt, "-") == 0) length = (uint32_t)fread(text, 1, sizeof text, stdin);
    else if (strlen(prompt) < sizeof text) memcpy(text, prompt, length = (uint32_t)strlen(prompt));
    else fail(2, NULL, "the prompt is longer than %zu bytes", sizeof text - 1);
    if (length == 0) fail(2, "generate MODEL.gguf 'In the beginning'", "the prompt is empty");
    if (dump != NULL && (file = fopen(dump, "wb")) == NULL)
        fail(1, "name a place that can be written", "open %s: %s", dump, strerror(errno));

    load_model(&m);
    count = (uint32_t)wanted;
    check_split(&m, count);
    open_devices(count, name);
    for (i = 0; i < count; i++) {
        open_card(&cards[i], &m, devices[i], count, i);
        sessions[i] = cards[i].session;
        reduces[i] = &cards[i].reduce;
        cards[i].reduce.cards = 1;
    }
    if (count > 1) reduce_open(reduces, sessions, count, (uint64_t)m.context * m.dim);
    times = calloc((size_t)tokens, sizeof *times);
    if (times == NULL) fail(1, "ask for fewer tokens", "no memory for their times");
    for (i = 0; i < count; i++) record_token(&cards[i], &m);
    idle_round_trips(&cards[0]);

    /* Of a prompt that fills the context, the end is read; the same when the text has filled it. */
    for (i = 0; i < length; i++) print(text[i]);
    rows = length < m.context ? length : m.context / 2;
    memmove(text, text + length - rows, rows);
    reading = step(cards, count, &m, text, rows, 0, 0);
    for (i = 0; i < count; i++) cards[i].joules -= cards[i].joules; /* what no number is stays none */
    begin = now();
    for (;;) {
        const float *logits = (const float *)(const void *)(cards[0].host + cards[0].logits);
        if (file != NULL && fwrite(logits, VOCABULARY * 4, rows, file) != rows)
            fail(1, "look for room on the disk", "write %s: %s", dump, strerror(errno));
        at += rows;
        text[at] = draw(logits + (size_t)(rows - 1) * VOCABULARY, temperature, &seed);
        if (text[at] == 0) break; /* how a text ends */
        print(text[at]);
        if (++done == tokens) break;
        rows = 1;
        if (at == m.context) {
            rows = m.context / 2;
            memmove(text, text + at + 1 - rows, rows);
            at = 0;
        }
        times[steps] = step(cards, count, &m, text + at, rows, at, steps + 1);
        steps++;
    }
    seconds = now() - begin;
    putchar('\n');
    if (file != NULL && fclose(file) != 0)
        fail(1, "look for room on the disk", "write %s: %s", dump, strerror(errno));
    fflush(stdout);
    fprintf(stderr, "prompt    %" PRIu32 " tokens in %.1f ms\n", length, reading * 1e3);
    for (i = 0; i < count; i++) joules += cards[i].joules;
    if (steps > 0) {
        fprintf(stderr, "decoding  %.1f tokens/s, %.2f mJ a token (modelled by %s)\n",
                (double)steps / seconds, joules * 1e3 / (double)steps, count > 1 ? "the cards" : "the card");
        figure("a token  ", times, steps);
    }
    free(times);
    for (i = 0; i < count; i++) {
        free(cards[i].batch.packets);
        free(cards[i].parts);
    }
    free(m.entries);
    free(m.bytes);
    while (devices_open > 0) check(jal_device_close(devices[--devices_open]), "close a card"); /* and all that was made from it */
    return 0;
}
