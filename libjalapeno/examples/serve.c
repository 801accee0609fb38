/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Serves a model on a Jalapeño card to many at once: a llama-architecture model of bytes, from a GGUF
 * file (continuous batching over a cache in pages).
 *
 *     serve MODEL.gguf <prompts.txt                   serve MODEL.gguf --socket /run/user/1000/model
 *
 * Requests come at any time. A step reads the weights once and draws one byte for every sequence that is
 * active; a request joins at the next step, its prompt being read in chunks beside the others' bytes, and
 * one that is finished leaves at once. A request has all pages that it can need before it starts, or
 * waits for them, so that none fails half way; who came first goes first.
 *
 * A line asks, from standard input or from a client of the socket:
 *
 *     [TOKENS<TAB>]PROMPT       \n, \\ and \xHH stand for bytes; TOKENS: the most that are drawn
 *
 * From standard input all lines are served, and the reply to line N is, once it is whole,
 *
 *     N: TEXT                   what follows the prompt, in one line, escaped in the same way
 *     N! WHY                    it was refused, or cut off
 *
 * A client of the socket has one request at a time; a further line is read after the reply:
 *
 *     : TEXT                    as it is drawn
 *     = tokens 40, ...          how it went;  instead, or after a part of the text:  ! WHY
 *
 * SIGUSR1 prints figures to standard error. SIGINT and SIGTERM end it: no request is taken any more, those
 * that are active have 5 s. When the card is lost each client is told so. Exit codes are jalctl's.
 */
#define _GNU_SOURCE /* ppoll */
#include <poll.h>
#include <signal.h>

#include "request.h"

#define GRACE 5.0          /* seconds that active requests have once it was asked to end */
#define BATCH_MAX 64u
#define CLIENTS_MAX 1024u
#define SAMPLES 65536u     /* times between tokens that are kept for figures */

struct server {
    struct paged paged;
    struct request *active[BATCH_MAX], *waiting, **tail;
    uint32_t batch, chunk, count, tokens, places;
    struct client *clients;
    int listener, stopping, running; /* running: step follows step */
    double temperature, stop_by;
    uint64_t seed;
    /* figures */
    uint64_t lines, done, refused, cut, drawn, read, steps, rows, sequences, samples;
    double busy, busy_since, gap[SAMPLES];
};

static struct server server;
static const char *socket_path;
static volatile sig_atomic_t asked_to_stop, asked_for_figures;

static void on_signal(int which) {
    if (which == SIGUSR1) asked_for_figures = 1;
    else asked_to_stop = 1;
}

/* Lets a client go; its requests, if any, leave at the next step. */
static void let_go(struct server *s, struct client *c) {
    struct request *r;
    uint32_t i;
    for (r = s->waiting; r != NULL; r = r->next)
        if (r->client == c) r->client = NULL;
    for (i = 0; i < s->count; i++)
        if (s->active[i]->client == c) s->active[i]->client = NULL;
    client_close(c);
}

/* The card, or something else that all need, has failed: each client hears it. */
static void farewell(const char *why) {
    struct server *s = &server;
    struct request *r;
    uint32_t i;
    for (i = 0; i < s->count; i++)
        if (s->active[i]->client != NULL) say_no(s->active[i]->client, s->active[i], why);
    for (r = s->waiting; r != NULL; r = r->next)
        if (r->client != NULL) say_no(r->client, r, why);
    for (i = 0; s->clients != NULL && i < s->places; i++)
        if (s->clients[i].in >= 0) client_flush(&s->clients[i], now());
    if (socket_path != NULL) unlink(socket_path);
}

/* ---- Steps ---------------------------------------------------------------------------------- */

/* A request is over: its pages are given back, its place is the last one's. */
static void leave(struct server *s, uint32_t place) {
    struct request *r = s->active[place];
    if (r->client != NULL) r->client->requests--;
    give_pages(&s->paged, positions(r), r->pages);
    memmove(&s->active[place], &s->active[place + 1], (--s->count - place) * sizeof s->active[0]);
    free(r);
}

/* Takes the first waiting request out of its line. */
static struct request *first_waiting(struct server *s) {
    struct request *r = s->waiting;
    s->waiting = r->next;
    if (s->waiting == NULL) s->tail = &s->waiting;
    return r;
}

/* Lets go of requests that nobody waits for, and admits others while there is room; in their order. */
static void admit(struct server *s) {
    uint32_t i;
    for (i = s->count; i-- > 0;)
        if (s->active[i]->client == NULL) s->cut++, leave(s, i);
    while (s->waiting != NULL) {
        struct request *r = s->waiting;
        if (r->client == NULL) { s->cut++; free(first_waiting(s)); continue; }
        if (s->count == s->batch || !take_pages(&s->paged, positions(r), r->pages)) return;
        s->active[s->count++] = first_waiting(s);
        r->began = now();
    }
}

/* Writes the rows of a step: one of each sequence that draws, and of prompts one chunk in all. */
static uint32_t compose(struct server *s) {
    struct paged *p = &s->paged;
    uint32_t left = s->chunk, rows = 0, i, j;
    for (i = 0; i < s->count; i++) {
        struct request *r = s->active[i];
        uint32_t unread = r->length - r->fed;
        r->taken = unread == 1 ? 1 : unread < left ? unread : left;
        if (unread > 1) left -= r->taken;
        for (j = r->fed; j < r->fed + r->taken; j++) {
            struct row *row = row_at(p, rows);
            row->byte = r->text[j];
            row->position = (int32_t)j;
            row->seen = (int32_t)j + 1;
            row->place = r->pages[j / p->page] * (int32_t)p->page + (int32_t)(j % p->page);
            memcpy(row->pages, r->pages, p->most * sizeof row->pages[0]);
            r->last_row = rows++;
        }
    }
    return rows;
}

/* Takes what a step gave: a byte for each sequence that is read to its end. */
static void collect(struct server *s, uint32_t rows, double joules) {
    double when = now();
    uint32_t i;
    s->steps++;
    s->rows += rows;
    s->sequences += s->count;
    for (i = 0; i < s->count;) {
        struct request *r = s->active[i];
        r->fed += r->taken;
        r->joules += joules * r->taken / rows;
        if (r->taken > 0 && r->fed == r->length) {
            uint8_t byte = draw(&s->paged, r, s->temperature);
            if (r->length == r->prompt) r->first = when, s->read += r->prompt;
            else r->gap[r->gaps++] = s->gap[s->samples++ % SAMPLES] = when - r->last;
            r->last = when;
            s->drawn++;
            if (byte == 0) r->over = 1; /* how a text ends */
            else {
                r->text[r->length++] = byte;
                say_byte(r);
                if (r->length - r->prompt == r->limit) r->over = 2;
            }
            if (r->over != 0) {
                if (r->client != NULL) s->done++, say_done(r);
                else s->cut++;
                leave(s, i);
                continue;
            }
        }
        i++;
    }
}

/* ---- Clients -------------------------------------------------------------------------------- */

/* Reads a client's lines into requests, as many as it may have. */
static void take_lines(struct server *s, struct client *c) {
    const uint32_t most = c->counted ? 2 * s->batch : 1;
    while (c->requests < most && c->reply_room - c->reply_end >= c->reply_room / 2) {
        ssize_t bytes = client_line(c);
        struct request *r;
        const char *wrong;
        char why[160];
        if (bytes == -1) return;
        r = calloc(1, sizeof *r);
        if (r == NULL) fail(1, "free some memory", "no memory for a request");
        r->number = ++s->lines;
        r->random = s->seed + (r->number << 32);
        if (s->stopping) wrong = "the server ends";
        else if (bytes < 0) wrong = "the line is too long";
        else wrong = parse_request(r, c->line, (size_t)bytes, s->tokens, &s->paged, why);
        if (wrong != NULL) {
            s->refused++;
            r->length = r->prompt; /* it has no text */
            say_no(c, r, wrong);
            free(r);
            if (bytes < 0) { c->ended = 1; c->line_bytes = 0; return; }
        } else {
            r->client = c;
            r->arrived = now();
            *s->tail = r;
            s->tail = &r->next;
            c->requests++;
        }
        client_next(c, (size_t)bytes);
    }
}

static void welcome(struct server *s) {
    static const char full[] = "! as many clients as there may be are here: come again\n";
    const size_t line = 4 * (size_t)s->paged.model->context + 16, reply = 2 * line + 1024;
    uint32_t i;
    int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) return;
    for (i = 0; i < s->places && s->clients[i].in >= 0;) i++;
    if (i < s->places && client_open(&s->clients[i], fd, fd, line, reply, now())) return;
    if (i < s->places) client_close(&s->clients[i]);
    else send(fd, full, sizeof full - 1, MSG_DONTWAIT | MSG_NOSIGNAL), close(fd);
}

/* Whether anybody has a reply to take or may still ask. */
static int anybody(const struct server *s) {
    uint32_t i;
    for (i = 0; i < s->places; i++) {
        const struct client *c = &s->clients[i];
        if (c->in < 0) continue;
        if (c->reply_begin < c->reply_end || c->requests > 0 || (!s->stopping && !c->ended)) return 1;
    }
    return s->listener >= 0;
}

/* Reads and writes what can be at once; waits up to `wait_ms` where nobody is ready. 0: nobody was. */
static int attend(struct server *s, int wait_ms, const sigset_t *mask) {
    static struct pollfd polled[2 * CLIENTS_MAX + 1];
    struct timespec limit = {wait_ms / 1000, wait_ms % 1000 * 1000000L};
    nfds_t count = 0, at = 0;
    uint32_t i;
    int ready;
    for (i = 0; i < s->places; i++) {
        struct client *c = &s->clients[i];
        short in = client_listens(c) ? POLLIN : 0, out = c->reply_begin < c->reply_end ? POLLOUT : 0;
        polled[count++] = (struct pollfd){c->counted && in == 0 ? -1 : c->in, c->counted ? in : (short)(in | out), 0};
    }
    polled[count++] = (struct pollfd){s->listener, POLLIN, 0};
    ready = ppoll(polled, count, &limit, mask);
    if (ready < 0 && errno != EINTR) fail(1, NULL, "wait for clients: %s", strerror(errno));
    for (i = 0; i < s->places; i++, at++) {
        struct client *c = &s->clients[i];
        short said = ready > 0 ? polled[at].revents : 0;
        double when = now();
        if (c->in < 0) continue;
        if (!c->counted && (said & (POLLHUP | POLLERR)) != 0 && (said & POLLIN) == 0) { let_go(s, c); continue; }
        if (client_listens(c) && (said & (POLLIN | POLLHUP)) != 0 && !client_read(c, when)) { let_go(s, c); continue; }
        take_lines(s, c);
        if (!client_flush(c, when)) {
            if (c->counted) fail(1, NULL, "write a reply: %s", strerror(errno));
            let_go(s, c);
            continue;
        }
        if (c->line_bytes > 0 && c->requests == 0 && when - c->moved > CLIENT_LIMIT && !c->counted) let_go(s, c);
        else if (c->ended && c->requests == 0 && c->line_bytes == 0 && c->reply_begin == c->reply_end && !c->counted)
            client_close(c);
    }
    if (ready > 0 && (polled[at].revents & POLLIN) != 0) welcome(s);
    return ready > 0;
}

/* ---- The program ---------------------------------------------------------------------------- */

static void figures(struct server *s) {
    static double sorted[SAMPLES];
    uint32_t n = s->samples < SAMPLES ? (uint32_t)s->samples : SAMPLES;
    double busy = s->busy;
    const struct request *r;
    uint32_t waiting = 0;
    for (r = s->waiting; r != NULL; r = r->next) waiting++;
    fprintf(stderr, "requests  %" PRIu64 " done, %" PRIu64 " refused, %" PRIu64 " cut off, %" PRIu32 " active, %" PRIu32
            " waiting\n", s->done, s->refused, s->cut, s->count, waiting);
    if (s->drawn == 0) return;
    if (s->running) busy += now() - s->busy_since;
    fprintf(stderr, "tokens    %" PRIu64 " drawn, %" PRIu64 " of prompts read; %.1f tokens/s in %.2f s of work\n",
            s->drawn, s->read, (double)s->drawn / busy, busy);
    fprintf(stderr, "a step    %.2f of %" PRIu32 " sequences, %.2f rows, %.1f us (of %" PRIu64 ")\n",
            (double)s->sequences / (double)s->steps, s->batch, (double)s->rows / (double)s->steps,
            busy * 1e6 / (double)s->steps, s->steps);
    if (n > 0) {
        memcpy(sorted, s->gap, n * sizeof sorted[0]);
        qsort(sorted, n, sizeof sorted[0], by_size);
        fprintf(stderr, "a token   p50 %.1f us, p90 %.1f us, p99 %.1f us after the one before (of %" PRIu32 ")\n",
                sorted[n / 2] * 1e6, but_one_in(sorted, n, 10) * 1e6, but_one_in(sorted, n, 100) * 1e6, n);
    }
    fprintf(stderr, "energy    %.2f mJ a token, %.4f J in all by the steps' records, %.4f J by the card's counter\n",
            s->paged.joules * 1e3 / (double)s->drawn, s->paged.joules, s->paged.counted);
}

static const char usage[] =
    "usage: serve [--socket PATH] [--batch N] [--chunk N] [--pages N] [--page N] [--tokens N] [--clients N]\n"
    "             [--temperature T] [--top-k N] [--seed N] [--device NAME] MODEL.gguf\n"
    "Without a socket, prompts come from standard input, one a line. Defaults: 8 sequences at once, prompts read\n"
    "in chunks of 16, pages of 16 positions and as many as all sequences can need, 100 tokens, the likeliest.\n";

/* An option's value, from `least` to `most`. */
static uint64_t number(const char *option, const char *value, uint64_t least, uint64_t most) {
    char *end;
    unsigned long long n;
    errno = 0;
    n = strtoull(value, &end, 10);
    if (*end != '\0' || end == value || *value == '-' || errno != 0 || n < least || n > most)
        fail(2, usage, "%s %s: not a number from %" PRIu64 " to %" PRIu64, option, value, least, most);
    return n;
}

/* Stops taking requests; those that wait are told. */
static void stop(struct server *s) {
    s->stopping = 1;
    s->stop_by = now() + GRACE;
    if (s->listener >= 0) close(s->listener);
    s->listener = -1;
    while (s->waiting != NULL) {
        struct request *r = first_waiting(s);
        if (r->client != NULL) say_no(r->client, r, "the server ends"), r->client->requests--;
        s->cut++;
        free(r);
    }
}

/* Steps, and clients between them, until all is done or it was asked to end. */
static void serve(struct server *s, const sigset_t *ours, const sigset_t *mask) {
    const struct timespec at_once = {0, 0};
    double drained = 0;
    for (;;) {
        uint32_t rows;
        int which;
        admit(s);
        rows = compose(s);
        if (rows > 0) {
            if (!s->running) s->busy_since = now();
            s->running = 1;
            begin_step(&s->paged, rows);
            attend(s, 0, mask); /* while the card works */
            collect(s, rows, finish_step(&s->paged));
        } else {
            if (s->running) s->busy += now() - s->busy_since;
            s->running = 0;
            if (s->stopping && drained == 0) drained = now() + 1; /* to take what was said */
            if (!anybody(s) || (s->stopping && now() > drained)) break;
            if (!attend(s, s->stopping ? 50 : 1000, mask)) set_clock(&s->paged); /* is the card there? */
        }
        while ((which = sigtimedwait(ours, NULL, &at_once)) > 0) on_signal(which); /* where clients were ready */
        if (asked_for_figures) asked_for_figures = 0, figures(s);
        if (asked_to_stop && s->stopping) s->stop_by = 0; /* asked twice */
        if (asked_to_stop && !s->stopping) stop(s);
        asked_to_stop = 0;
        while (s->stopping && s->count > 0 && now() > s->stop_by) {
            struct request *r = s->active[0];
            if (r->client != NULL) say_no(r->client, r, "cut off: the server ends");
            s->cut++;
            leave(s, 0);
        }
    }
}

int main(int argc, char **argv) {
    struct server *s = &server;
    struct paged *p = &s->paged;
    struct model m = {0};
    struct sigaction action = {.sa_handler = on_signal};
    const char *name = NULL;
    uint64_t pages = 0, top = 40;
    sigset_t ours, before;
    uint32_t i;
    s->batch = 8, s->chunk = 16, s->tokens = 100, s->places = 64, s->seed = 1611, p->page = 16;
    s->listener = -1, s->tail = &s->waiting;
    for (i = 1; i < (uint32_t)argc; i++) {
        const char *option = argv[i], *value = i + 1 < (uint32_t)argc ? argv[i + 1] : NULL;
        if (strcmp(option, "--help") == 0) { fputs(usage, stdout); return 0; }
        if (strncmp(option, "--", 2) != 0) {
            if (m.path != NULL) fail(2, usage, "one argument too many: %s", option);
            m.path = option;
            continue;
        }
        if (value == NULL) fail(2, usage, "%s: unknown, or without its value", option);
        if (strcmp(option, "--socket") == 0) socket_path = value;
        else if (strcmp(option, "--device") == 0) name = value;
        else if (strcmp(option, "--batch") == 0) s->batch = (uint32_t)number(option, value, 1, BATCH_MAX);
        else if (strcmp(option, "--chunk") == 0) s->chunk = (uint32_t)number(option, value, 2, 64);
        else if (strcmp(option, "--page") == 0) p->page = (uint32_t)number(option, value, 1, CONTEXT_MAX);
        else if (strcmp(option, "--pages") == 0) pages = number(option, value, 1, 1000000);
        else if (strcmp(option, "--tokens") == 0) s->tokens = (uint32_t)number(option, value, 1, CONTEXT_MAX);
        else if (strcmp(option, "--clients") == 0) s->places = (uint32_t)number(option, value, 1, CLIENTS_MAX);
        else if (strcmp(option, "--top-k") == 0) top = number(option, value, 1, WITHIN);
        else if (strcmp(option, "--seed") == 0) s->seed = number(option, value, 0, UINT64_MAX);
        else if (strcmp(option, "--temperature") == 0) {
            char *end;
            s->temperature = strtod(value, &end);
            if (*end != '\0' || end == value || !(s->temperature >= 0 && s->temperature <= 100))
                fail(2, usage, "%s %s: not a number from 0 to 100", option, value);
        }
        else fail(2, usage, "unknown option %s", option);
        i++;
    }
    if (m.path == NULL) fail(2, usage, "no model");
    load_model(&m);
    p->most = (m.context + p->page - 1) / p->page;
    p->pages = pages != 0 ? (uint32_t)pages : s->batch * p->most;
    p->rows = s->batch + s->chunk;
    p->drawn = s->temperature > 0 ? (uint32_t)top : 0;

    /* Signals come while it waits for clients and nowhere else, nor to threads of the library. */
    sigemptyset(&ours);
    for (i = 0; i < 3; i++) {
        const int which[] = {SIGINT, SIGTERM, SIGUSR1};
        sigaddset(&ours, which[i]);
        sigaction(which[i], &action, NULL);
    }
    sigprocmask(SIG_BLOCK, &ours, &before);
    signal(SIGPIPE, SIG_IGN);
    open_paged(p, &m, name);

    if (socket_path == NULL) s->places = 1;
    s->clients = calloc(s->places, sizeof *s->clients);
    if (s->clients == NULL) fail(1, "take fewer --clients", "no memory for them");
    for (i = 0; i < s->places; i++) s->clients[i].in = s->clients[i].out = -1;
    if (socket_path != NULL) {
        const char *path = socket_path;
        socket_path = NULL; /* not ours yet */
        s->listener = listen_at(path);
        if (s->listener < 0)
            fail(1, "name a place that can be written and where no other server listens", "listen at %s: %s", path,
                 strerror(errno));
        socket_path = path;
        fprintf(stderr, "serving   at %s\n", path);
    } else {
        const size_t line = 4 * (size_t)m.context + 16;
        if (!client_open(&s->clients[0], 0, 1, line, 2 * (s->batch + 1) * (line + 64), now()))
            fail(1, "free some memory", "no memory for standard input");
        s->clients[0].counted = 1;
    }
    at_failure = farewell;
    serve(s, &ours, &before);
    figures(s);
    for (i = 0; i < s->places; i++)
        if (s->clients[i].in >= 0) client_close(&s->clients[i]);
    if (socket_path != NULL) unlink(socket_path);
    free(s->clients);
    close_paged(p);
    at_failure = NULL;
    devices_open = 0;
    check(jal_device_close(devices[0]), "close the card"); /* and all that was made from it */
    return 0;
}
