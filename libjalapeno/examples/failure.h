/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* How a program ends when something fails: one error, what to do, and the cards given back. */
#ifndef FAILURE_H
#define FAILURE_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <jalapeno.h>

#define CARDS_LIMIT 8u
static void (*at_failure)(const char *why); /* told before the program ends, if it is set */

/* The cards that are open. */
static jal_device devices[CARDS_LIMIT];
static uint32_t devices_open;

/* Says what failed and what to do, gives the cards back and ends the program. */
static void fail(int code, const char *hint, const char *format, ...) {
    void (*told)(const char *why) = at_failure;
    char why[2048];
    va_list list;
    fflush(stdout);
    va_start(list, format);
    vsnprintf(why, sizeof why, format, list);
    va_end(list);
    fprintf(stderr, "error: %s\n", why);
    if (hint != NULL && hint[0] != '\0') fprintf(stderr, "hint: %s\n", hint);
    at_failure = NULL;
    if (told != NULL) told(why);
    while (devices_open > 0) jal_device_close(devices[--devices_open]);
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

/* Opens `cards` cards: the one of that name, or the only one, or the first that answer. */
static void open_devices(uint32_t cards, const char *name) {
    jal_device_summary found[64];
    size_t count = 0, i;
    check(jal_check_version(JAL_VERSION), "check the library's version");
    if (cards == 1) {
        check(jal_device_open(name, NULL, &devices[0]), "open the card");
        devices_open = 1;
        return;
    }
    check(jal_device_list(found, sizeof found / sizeof found[0], sizeof found[0], &count), "look for cards");
    if (count > sizeof found / sizeof found[0]) count = sizeof found / sizeof found[0];
    for (i = 0; i < count && devices_open < cards; i++) {
        if (!found[i].usable) continue;
        check(jal_device_open(found[i].name, NULL, &devices[devices_open]), "open a card");
        devices_open++;
    }
    if (devices_open < cards)
        fail(3, "jalctl emulate --devices N -- COMMAND gives a command N cards; jalctl list shows them",
             "%" PRIu32 " cards are wanted, and %" PRIu32 " answer", cards, devices_open);
}

#endif
