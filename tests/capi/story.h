/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the C stories share: cases by name, checks that name their line, and emulated cards. */
#ifndef STORY_H
#define STORY_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <jalapeno.h>

#define SECOND INT64_C(1000000000)
/* Long enough for anything that works, under valgrind too. */
#define SOON (20 * SECOND)

/* Says what does not hold and leaves the case. Of a helper thread: leaves the program. */
void story_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4), noreturn));

#define CHECK(condition) \
    do { if (!(condition)) story_fail(__FILE__, __LINE__, "%s", #condition); } while (0)
#define SAME(left, right) \
    do { \
        unsigned long long left_ = (unsigned long long)(left), right_ = (unsigned long long)(right); \
        if (left_ != right_) \
            story_fail(__FILE__, __LINE__, "%s is %#llx, and %s is %#llx", #left, left_, #right, right_); \
    } while (0)
/* The call gives this status; a failure has a detail. */
#define GIVES(wanted, call) \
    do { \
        jal_status status_ = (call); \
        if (status_ != (wanted)) \
            story_fail(__FILE__, __LINE__, "%s gives %d (%s: %s), not %s", #call, status_, \
                       jal_status_string(status_), jal_error_detail(), #wanted); \
        if (status_ != JAL_OK && jal_error_detail()[0] == '\0') \
            story_fail(__FILE__, __LINE__, "%s fails without a detail", #call); \
    } while (0)
#define OK(call) GIVES(JAL_OK, call)
/* The last failure's detail says this. */
#define SAYS(words) \
    do { if (strstr(jal_error_detail(), words) == NULL) \
        story_fail(__FILE__, __LINE__, "the detail is \"%s\", without \"%s\"", jal_error_detail(), words); \
    } while (0)

/* Leaves the case as one that cannot be played here, and says why; before it starts a thread. */
void story_skip(const char *why) __attribute__((noreturn));

/* A card: emulated, in a process of its own; or the one that JALAPENO_STAGE names ("ADDRESS UUID"),
 * which a real kernel holds and every case shares. */
struct card {
    pid_t pid;
    char socket[96];
    char name[112]; /* what jal_device_open() takes */
    char uuid[37];
};
/* Starts one; options end with null. All cards end with the case. On JALAPENO_STAGE's card a case
 * that wants a second one, or options beyond the size of its memory, is skipped. */
struct card *card_start(const char *option, ...);
/* Whether the card is JALAPENO_STAGE's. */
int on_stage(void);
/* SIGKILL; not JALAPENO_STAGE's card. */
void card_kill(struct card *card);

/* A card, opened, with a session and a queue. */
struct rig {
    struct card *card;
    jal_device device;
    jal_session session;
    jal_queue queue;
};
struct rig rig_start(uint32_t depth, uint32_t flags);

/* Seconds since some moment. */
double now(void);
/* Whether a descriptor is readable within this many milliseconds. */
int readable(int fd, int milliseconds);

struct story { const char *name; void (*run)(void); };
extern const struct story device_stories[], memory_stories[], queue_stories[],
    graph_stories[], peer_stories[], misuse_stories[];

#endif
