/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* How the decoder ends when something fails: one error, what to do, and the card given back. */
#ifndef FAILURE_H
#define FAILURE_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <jalapeno.h>

static jal_device device;

/* Says what failed and what to do, gives the card back and ends the program. */
static void fail(int code, const char *hint, const char *format, ...) {
    va_list list;
    fflush(stdout);
    fputs("error: ", stderr);
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
    if (hint != NULL && hint[0] != '\0') fprintf(stderr, "hint: %s\n", hint);
    jal_device_close(device);
    exit(code);
}

/* Ends the program if a call into the library failed. Exit codes are jalctl's. */
static void check(jal_status status, const char *what) {
    static const struct { jal_status status; int code; } codes[] = {
        {JAL_ERROR_NOT_FOUND, 3}, {JAL_ERROR_PERMISSION, 4}, {JAL_ERROR_BUSY, 5},
        {JAL_ERROR_NEEDS_RESET, 8}, {JAL_ERROR_LOST, 9}, {JAL_ERROR_TIMEOUT, 10},
        {JAL_ERROR_VERSION, 11}, {JAL_ERROR_UNSUPPORTED, 12}};
    char detail[512], hint[512];
    int code = 1;
    size_t i;
    if (status == JAL_OK) return;
    for (i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (codes[i].status == status) code = codes[i].code;
    snprintf(detail, sizeof detail, "%s", jal_error_detail());
    snprintf(hint, sizeof hint, "%s", jal_error_hint());
    fail(code, hint, "%s: %s: %s", what, jal_status_string(status), detail);
}

#endif
