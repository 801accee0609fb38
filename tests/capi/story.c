/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Runs the C stories: all of them, or those that are named. Prints "abi: N passed, N failed". */
#define _GNU_SOURCE
#include "story.h"

static jmp_buf leave;
static pthread_t main_thread;
static void start_anew(void);
static struct card cards[8];
static int card_count;
static jal_device opened[8];
static int opened_count;
/* JALAPENO_STAGE's card stays open from rig to rig: behind a kernel each opening is a reset. */
static jal_device kept;
static jal_session kept_session;
static char folder[] = "/tmp/jalapeno-abi-XXXXXX";

void story_fail(const char *file, int line, const char *format, ...) {
    va_list list;
    printf("  %s:%d: ", file, line);
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    putchar('\n');
    fflush(stdout);
    if (pthread_equal(pthread_self(), main_thread)) longjmp(leave, 1);
    start_anew();
    _exit(1);
}

double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

int readable(int fd, int milliseconds) {
    struct pollfd wanted = {.fd = fd, .events = POLLIN};
    return poll(&wanted, 1, milliseconds) == 1;
}

void story_skip(const char *why) {
    printf("  %s\n", why);
    longjmp(leave, 2);
}

int on_stage(void) { return getenv("JALAPENO_STAGE") != NULL; }

static struct card *card_on_stage(const char *option, const char *value, const char *more) {
    struct card *card = &cards[card_count];
    if (card_count > 0) story_skip("needs two cards of its own");
    if (option != NULL && (strcmp(option, "--hbm") != 0 || strcmp(value, "64M") != 0 || more != NULL))
        story_skip("needs a card with options");
    jal_device_close(kept); /* or nobody holds it: a rig takes it up again */
    CHECK(sscanf(getenv("JALAPENO_STAGE"), "%63s %36s", card->name, card->uuid) == 2);
    card->pid = 0;
    card_count++;
    return card;
}

struct card *card_start(const char *option, ...) {
    const char *emulator = getenv("JALAPENO_EMULATOR");
    const char *arguments[32];
    char line[256] = "";
    int count = 0, out[2];
    size_t length = 0;
    struct card *card = &cards[card_count];
    va_list list;
    if (on_stage()) {
        const char *value, *more;
        va_start(list, option);
        value = option == NULL ? NULL : va_arg(list, const char *);
        more = option == NULL ? NULL : va_arg(list, const char *);
        va_end(list);
        return card_on_stage(option, value, more);
    }
    CHECK(emulator != NULL);
    CHECK(card_count < (int)(sizeof cards / sizeof cards[0]));
    snprintf(card->socket, sizeof card->socket, "%s/card%d", folder, card_count);
    snprintf(card->name, sizeof card->name, "vfio-user:%s/card%d", folder, card_count);
    arguments[count++] = emulator;
    arguments[count++] = "--socket";
    arguments[count++] = card->socket;
    arguments[count++] = "--threads";
    arguments[count++] = "1";
    va_start(list, option);
    for (; option != NULL && count < 30; option = va_arg(list, const char *)) arguments[count++] = option;
    va_end(list);
    arguments[count] = NULL;
    CHECK(pipe2(out, O_CLOEXEC) == 0);
    fflush(stdout);
    card->pid = fork();
    CHECK(card->pid >= 0);
    if (card->pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        execv(emulator, (char *const *)(uintptr_t)arguments);
        _exit(127);
    }
    card_count++;
    close(out[1]);
    while (length + 1 < sizeof line && strchr(line, '\n') == NULL) {
        ssize_t got = read(out[0], line + length, sizeof line - 1 - length);
        if (got <= 0) break;
        length += (size_t)got;
        line[length] = '\0';
    }
    close(out[0]);
    CHECK(sscanf(line, "serving %36s", card->uuid) == 1);
    return card;
}

static void card_end(struct card *card) {
    if (card->pid <= 0) return;
    kill(card->pid, SIGKILL);
    waitpid(card->pid, NULL, 0);
    card->pid = 0;
}

void card_kill(struct card *card) {
    CHECK(!on_stage());
    card_end(card);
}

struct rig rig_start(uint32_t depth, uint32_t flags) {
    struct rig rig;
    jal_queue_options options = {.struct_size = sizeof options, .depth = depth, .flags = flags};
    jal_device_info info = {.struct_size = sizeof info};
    memset(&rig, 0, sizeof rig);
    if (on_stage() && jal_device_get_info(kept, &info) == JAL_OK) {
        rig.card = &cards[card_count++];
        rig.device = kept;
    } else {
        rig.card = card_start("--hbm", "64M", NULL);
        OK(jal_device_open(rig.card->name, NULL, &rig.device));
        if (on_stage()) kept = rig.device;
        else opened[opened_count++] = rig.device;
    }
    OK(jal_session_create(rig.device, &rig.session));
    if (on_stage()) kept_session = rig.session;
    OK(jal_queue_create(rig.session, &options, &rig.queue));
    return rig;
}

static int passed, failed, skipped;

#define MOST 128
static const char *names[MOST + 2]; /* a program's arguments: its own, the cases, null */
static const struct story *wanted[MOST];
static int playing; /* the case's number from 1 on, which is its place in `names` */

/* The case has failed. It may have left the one card of the stage open, and threads at work: a new program,
 * which plays the others and counts on, is rid of them. Returns where there is no need for that. */
static void start_anew(void) {
    char counted[64];
    failed++;
    printf("FAIL %s\n", names[playing]);
    fflush(stdout);
    if (!on_stage() || names[playing + 1] == NULL) return;
    snprintf(counted, sizeof counted, "%d %d %d", passed, failed, skipped);
    setenv("JALAPENO_COUNTED", counted, 1);
    rmdir(folder);
    names[playing] = names[0];
    execv("/proc/self/exe", (char *const *)(uintptr_t)(names + playing));
}

static void run(const struct story *story) {
    double begin = now();
    unsetenv("JALAPENO_DEVICES");
    unsetenv("JALAPENO_VISIBLE_DEVICES");
    switch (setjmp(leave)) {
    case 0:
        story->run();
        passed++;
        printf("ok %s (%.2f s)\n", story->name, now() - begin);
        break;
    case 2:
        skipped++;
        printf("skip %s\n", story->name);
        break;
    default:
        start_anew();
    }
    jal_session_destroy(kept_session); /* with what was made from it; or the story did */
    while (opened_count > 0) jal_device_close(opened[--opened_count]); /* or the story did */
    while (card_count > 0) {
        card_count--;
        card_end(&cards[card_count]);
        if (!on_stage()) unlink(cards[card_count].socket);
    }
    fflush(stdout);
}

static int choose(int argc, char **argv) {
    const struct story *rooms[] = {device_stories, memory_stories, queue_stories, graph_stories,
                                   peer_stories, misuse_stories};
    const struct story *story;
    size_t room;
    int count = 0, i;
    for (room = 0; room < sizeof rooms / sizeof rooms[0]; room++)
        for (story = rooms[room]; story->name != NULL; story++) {
            int named = argc < 2;
            for (i = 1; i < argc; i++) named |= strcmp(argv[i], story->name) == 0;
            if (!named) continue;
            if (count == MOST) exit(1);
            wanted[count] = story;
            names[++count] = story->name;
        }
    return count;
}

int main(int argc, char **argv) {
    const char *counted = getenv("JALAPENO_COUNTED");
    int count = choose(argc, argv);
    main_thread = pthread_self();
    if (counted != NULL && sscanf(counted, "%d %d %d", &passed, &failed, &skipped) != 3) return 1;
    if (mkdtemp(folder) == NULL) return 1;
    names[0] = argv[0];
    for (playing = 1; playing <= count; playing++) run(wanted[playing - 1]);
    jal_device_close(kept);
    rmdir(folder);
    if (skipped > 0) printf("abi: %d passed, %d failed, %d skipped\n", passed, failed, skipped);
    else printf("abi: %d passed, %d failed\n", passed, failed);
    return failed != 0 || passed == 0;
}
