/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A client: lines come in, replies go out, both through buffers that are bounded. Nobody waits for a
 * client: what it does not take stays in its buffer, and the buffer has room for one whole reply.
 */
#ifndef CLIENT_H
#define CLIENT_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CLIENT_LIMIT 30.0 /* seconds in which a client takes something of its reply, or is let go */

struct client {
    int in, out;          /* -1: nobody */
    int ended;            /* no more lines come */
    int counted;          /* replies have numbers; nothing but whole ones */
    uint32_t requests;    /* that were read and not answered */
    char *line, *reply;
    size_t line_room, line_bytes, reply_room, reply_begin, reply_end;
    double moved;         /* when it last took or gave something */
};

static int client_open(struct client *c, int in, int out, size_t line, size_t reply, double when) {
    memset(c, 0, sizeof *c);
    c->in = in;
    c->out = out;
    c->line_room = line;
    c->reply_room = reply;
    c->moved = when;
    c->line = malloc(line);
    c->reply = malloc(reply);
    return c->line != NULL && c->reply != NULL;
}

static void client_close(struct client *c) {
    if (c->in >= 0) close(c->in);
    if (c->out >= 0 && c->out != c->in) close(c->out);
    free(c->line);
    free(c->reply);
    memset(c, 0, sizeof *c);
    c->in = c->out = -1;
}

/* Appends to its reply; without room it has the reply's beginning only. */
static void client_say(struct client *c, const char *text, size_t bytes) {
    size_t room = c->reply_room - c->reply_end;
    if (bytes > room) bytes = room;
    memcpy(c->reply + c->reply_end, text, bytes);
    c->reply_end += bytes;
}

/* Sends what it takes now. 0: it is gone. */
static int client_flush(struct client *c, double when) {
    while (c->reply_begin < c->reply_end) {
        const char *from = c->reply + c->reply_begin;
        size_t bytes = c->reply_end - c->reply_begin;
        ssize_t sent = c->in == c->out ? send(c->out, from, bytes, MSG_DONTWAIT | MSG_NOSIGNAL)
                                       : write(c->out, from, bytes);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return when - c->moved < CLIENT_LIMIT;
        if (sent <= 0) return 0;
        c->reply_begin += (size_t)sent;
        c->moved = when;
    }
    c->reply_begin = c->reply_end = 0;
    return 1;
}

/* Reads what there is; called when there is something. 0: it is gone. */
static int client_read(struct client *c, double when) {
    ssize_t got = c->in == c->out
                      ? recv(c->in, c->line + c->line_bytes, c->line_room - c->line_bytes, MSG_DONTWAIT)
                      : read(c->in, c->line + c->line_bytes, c->line_room - c->line_bytes);
    if (got < 0) return errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK;
    if (got == 0) c->ended = 1;
    c->line_bytes += (size_t)got;
    c->moved = when;
    return 1;
}

/* Whether it has room for more of a line. */
static int client_listens(const struct client *c) { return !c->ended && c->line_bytes < c->line_room; }

/* The bytes of its next line, the newline not counted; -1: it is not whole, -2: it is too long. */
static ssize_t client_line(const struct client *c) {
    const char *end = memchr(c->line, '\n', c->line_bytes);
    if (end != NULL) return end - c->line;
    if (c->line_bytes == c->line_room) return -2;
    return c->ended && c->line_bytes > 0 ? (ssize_t)c->line_bytes : -1;
}

/* Forgets a line that was dealt with. */
static void client_next(struct client *c, size_t line) {
    size_t used = line < c->line_bytes ? line + 1 : line;
    memmove(c->line, c->line + used, c->line_bytes - used);
    c->line_bytes -= used;
}

/* ---- The place where clients come to -------------------------------------------------------- */

/* Listens at `path`, for this user only. A socket that nobody listens at any more is replaced; -1, with
 * errno, if it cannot. */
static int listen_at(const char *path) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), old, bound;
    struct stat found;
    mode_t mask;
    if (s < 0) return -1;
    if (strlen(path) >= sizeof at.sun_path) { close(s); errno = ENAMETOOLONG; return -1; }
    strcpy(at.sun_path, path);
    old = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (old >= 0 && lstat(path, &found) == 0 && S_ISSOCK(found.st_mode) &&
        connect(old, (struct sockaddr *)&at, sizeof at) < 0 && errno == ECONNREFUSED)
        unlink(path);
    if (old >= 0) close(old);
    mask = umask(0177);
    bound = bind(s, (struct sockaddr *)&at, sizeof at);
    umask(mask);
    if (bound < 0 || listen(s, 64) < 0) { int why = errno; close(s); errno = why; return -1; }
    return s;
}

#endif
