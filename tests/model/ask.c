/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A client of `serve`: sends standard input to its socket, and prints what comes back.
 *
 *     ask SOCKET               until the server closes
 *     ask SOCKET leave BYTES   goes away, without a word, after so many bytes
 *     ask SOCKET deaf MS       reads nothing for so long, then goes away
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int fail(const char *what) {
    perror(what);
    return 1;
}

int main(int argc, char **argv) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    const char *how = argc == 4 ? argv[2] : "";
    long left = argc == 4 ? atol(argv[3]) : 0;
    char bytes[65536];
    ssize_t got;
    int s;
    if (argc < 2 || strlen(argv[1]) >= sizeof at.sun_path) {
        fprintf(stderr, "usage: ask SOCKET [leave BYTES | deaf MS]\n");
        return 2;
    }
    strcpy(at.sun_path, argv[1]);
    s = socket(AF_UNIX, SOCK_STREAM, 0);
    if (s < 0 || connect(s, (struct sockaddr *)&at, sizeof at) < 0) return fail("connect");
    while ((got = read(0, bytes, sizeof bytes)) > 0)
        if (send(s, bytes, (size_t)got, MSG_NOSIGNAL) != got) break; /* it does not listen; it may have said why */
    if (strcmp(how, "deaf") == 0) {
        struct timespec pause = {left / 1000, left % 1000 * 1000000};
        nanosleep(&pause, NULL);
        return 0;
    }
    if (strcmp(how, "leave") != 0) shutdown(s, SHUT_WR);
    while ((got = read(s, bytes, strcmp(how, "leave") == 0 ? 1 : sizeof bytes)) > 0) {
        fwrite(bytes, 1, (size_t)got, stdout);
        fflush(stdout);
        if (strcmp(how, "leave") == 0 && --left <= 0) return 0;
    }
    return got < 0 ? fail("read") : 0;
}
