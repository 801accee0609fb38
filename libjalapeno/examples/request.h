/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A request: a prompt that came as a line, the bytes drawn after it, and how its client hears of them. */
#ifndef REQUEST_H
#define REQUEST_H

#include "client.h"
#include "figures.h"
#include "paged.h"

#define CONTEXT_MAX 4096u /* longest context of a model file */

struct request {
    struct request *next;
    struct client *client;        /* null: nobody waits for it any more */
    uint64_t number, random;
    uint32_t prompt, limit;       /* bytes of the prompt, and the most that are drawn */
    uint32_t length, fed, taken;  /* bytes of the text; of those: on the card, in this step */
    uint32_t last_row, gaps;
    int over;                     /* 1: the text ended, 2: it has as many bytes as it may */
    double arrived, began, first, last, joules;
    uint8_t text[CONTEXT_MAX + 1];
    int32_t pages[CONTEXT_MAX];
    double gap[CONTEXT_MAX];      /* between two tokens */
};

/* Positions of the cache that it needs: the last byte is drawn and not read. */
static uint32_t positions(const struct request *r) { return r->prompt + r->limit - 1; }

static int hex(char c) {
    const char *digits = "0123456789abcdef", *at = strchr(digits, c | 32);
    return c != '\0' && at != NULL ? (int)(at - digits) : -1;
}

/* Takes a line, `[TOKENS<TAB>]PROMPT`, apart. Null, or what is wrong with it, in `why`. */
static const char *parse_request(struct request *r, const char *line, size_t bytes, uint32_t tokens,
                                 const struct paged *p, char why[160]) {
    const uint32_t context = p->model->context;
    const char *tab = memchr(line, '\t', bytes), *at = line, *const end = line + bytes;
    int asked = 0;
    if (tab != NULL && tab > line && tab - line <= 9) {
        uint32_t n = 0;
        while (at < tab && *at >= '0' && *at <= '9') n = n * 10 + (uint32_t)(*at++ - '0');
        asked = at == tab;
        at = asked ? tab + 1 : line;
        if (asked) tokens = n;
    }
    for (; at < end; at++) {
        char byte = *at;
        if (byte == '\\') {
            char which = end - at >= 2 ? at[1] : '\0';
            int high = which == 'x' && end - at >= 4 ? hex(at[2]) : -1, low = high >= 0 ? hex(at[3]) : -1;
            if (low >= 0) byte = (char)(high * 16 + low), at += 3;
            else if (which == 'n' || which == '\\') byte = which == 'n' ? '\n' : '\\', at++;
            else return "after a backslash comes n, xHH or another one";
        }
        if (byte == '\0') return "the prompt has a byte 0, which ends a text";
        if (r->prompt == context) {
            snprintf(why, 160, "the prompt is longer than the context of %" PRIu32 " bytes", context);
            return why;
        }
        r->text[r->prompt++] = (uint8_t)byte;
    }
    if (r->prompt == 0) return "the prompt is empty";
    if (!asked && tokens > context - r->prompt + 1) tokens = context - r->prompt + 1;
    if (tokens == 0 || tokens > context) {
        snprintf(why, 160, "%" PRIu32 " tokens: from 1 to %" PRIu32 " can be asked for", tokens, context);
        return why;
    }
    r->limit = tokens;
    r->length = r->prompt;
    if (positions(r) > context) {
        snprintf(why, 160, "%" PRIu32 " bytes and %" PRIu32 " tokens more pass the context of %" PRIu32,
                 r->prompt, tokens, context);
        return why;
    }
    if ((positions(r) + p->page - 1) / p->page > p->pages) {
        snprintf(why, 160, "it needs %" PRIu32 " pages and there are %" PRIu32 " in all",
                 (positions(r) + p->page - 1) / p->page, p->pages);
        return why;
    }
    return NULL;
}

/* A byte of a text as it stands in a reply: printable, one line. */
static size_t escaped(uint8_t byte, char out[5]) {
    if (byte == '\n' || byte == '\\') return (size_t)snprintf(out, 5, "\\%c", byte == '\n' ? 'n' : '\\');
    return (size_t)snprintf(out, 5, byte < 32 || byte > 126 ? "\\x%02x" : "%c", byte);
}

/* Draws from the most likely bytes of a row at a temperature; takes the likeliest where only that is
 * known. The generator is SplitMix64. */
static uint8_t draw(const struct paged *p, struct request *r, double temperature) {
    const uint32_t each = p->drawn > 0 ? p->drawn : 1;
    const int32_t *best = (const int32_t *)(void *)(p->host + p->best) + (size_t)r->last_row * each;
    const float *logits = (const float *)(void *)(p->host + p->logits) + (size_t)r->last_row * VOCABULARY;
    double weights[WITHIN], sum = 0, part;
    int32_t byte[WITHIN];
    uint64_t z = r->random += UINT64_C(0x9E3779B97F4A7C15);
    uint32_t i;
    for (i = 0; i < each; i++) { /* copied once, then looked at */
        byte[i] = best[i];
        if (byte[i] < 0 || byte[i] >= (int32_t)VOCABULARY)
            fail(1, "the card computed wrongly", "byte %" PRId32 " is none", byte[i]);
    }
    if (p->drawn == 0) return (uint8_t)byte[0];
    for (i = 0; i < each; i++) {
        double logit = (double)logits[byte[i]] - (double)logits[byte[0]];
        if (!isfinite(logit)) fail(1, "the card computed wrongly", "logit %" PRId32 " is no number", byte[i]);
        sum += weights[i] = exp(logit / temperature);
    }
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    part = (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0 * sum;
    for (i = 0; i < each - 1 && part >= weights[i]; i++) part -= weights[i];
    return (uint8_t)byte[i];
}

/* ---- Replies -------------------------------------------------------------------------------- */

static void say(struct client *c, const char *format, ...) {
    char text[512];
    va_list list;
    int n;
    va_start(list, format);
    n = vsnprintf(text, sizeof text, format, list);
    va_end(list);
    client_say(c, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1);
}

/* One more byte, to a client that reads along. */
static void say_byte(struct request *r) {
    char text[5];
    if (r->client == NULL || r->client->counted) return;
    if (r->length == r->prompt + 1) client_say(r->client, ": ", 2);
    client_say(r->client, text, escaped(r->text[r->length - 1], text));
}

/* Tells a request's client that it will not be finished, and why. */
static void say_no(struct client *c, const struct request *r, const char *why) {
    if (c->counted) say(c, "%" PRIu64 "! %s\n", r->number, why);
    else say(c, "%s! %s\n", r->length > r->prompt ? "\n" : "", why);
}

/* Tells a request's client that it is finished. */
static void say_done(struct request *r) {
    struct client *c = r->client;
    const uint32_t n = r->length - r->prompt;
    char text[5];
    uint32_t i;
    if (c->counted) {
        say(c, "%" PRIu64 ": ", r->number);
        for (i = r->prompt; i < r->length; i++) client_say(c, text, escaped(r->text[i], text));
        client_say(c, "\n", 1);
        return;
    }
    say(c, "%s\n= tokens %" PRIu32 ", prompt %" PRIu32 ", waited %.1f ms, first token %.1f ms", n > 0 ? "" : ": ", n,
        r->prompt, (r->began - r->arrived) * 1e3, (r->first - r->arrived) * 1e3);
    if (r->gaps > 0) {
        qsort(r->gap, r->gaps, sizeof r->gap[0], by_size);
        say(c, ", between tokens p50 %.1f us p99 %.1f us", r->gap[r->gaps / 2] * 1e6,
            but_one_in(r->gap, r->gaps, 100) * 1e6);
    }
    say(c, ", %.2f mJ, %s\n", r->joules * 1e3, r->over == 1 ? "text ended" : "all tokens");
}

#endif
