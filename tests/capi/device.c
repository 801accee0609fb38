/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Stories of versions, words, finding, opening, asking and resetting devices. */
#define _GNU_SOURCE
#include "story.h"

static void versions_fit_or_are_refused(void) {
    SAME(jal_version(), JAL_VERSION);
    OK(jal_check_version(JAL_VERSION));
    OK(jal_check_version(JAL_VERSION + 1)); /* a patch */
    GIVES(JAL_ERROR_VERSION, jal_check_version(JAL_VERSION + (1u << 16)));
    SAYS("0.2.");
    GIVES(JAL_ERROR_VERSION, jal_check_version(JAL_VERSION + (1u << 24)));
    GIVES(JAL_ERROR_VERSION, jal_check_version(0));
}

static void every_status_has_words_of_its_own(void) {
    jal_status one, other;
    for (one = JAL_OK; one >= JAL_ERROR_WANTED; one--)
        for (other = JAL_OK; other > one; other--)
            CHECK(strcmp(jal_status_string(one), jal_status_string(other)) != 0);
    CHECK(strcmp(jal_status_string(JAL_ERROR_WANTED - 1), "unknown status") == 0);
    CHECK(strcmp(jal_status_string(1), "unknown status") == 0);
    CHECK(strcmp(jal_status_string(INT32_MIN), "unknown status") == 0);
}

static void *has_no_failure(void *unused) {
    (void)unused;
    CHECK(jal_error_detail()[0] == '\0');
    CHECK(jal_error_hint()[0] == '\0');
    return NULL;
}

static void a_failure_is_told_to_its_own_thread(void) {
    jal_device device;
    pthread_t other;
    GIVES(JAL_ERROR_NOT_FOUND, jal_device_open("vfio-user:/no/such/card", NULL, &device));
    SAYS("/no/such/card");
    CHECK(strstr(jal_error_hint(), "JALAPENO_DEVICES") != NULL);
    CHECK(pthread_create(&other, NULL, has_no_failure, NULL) == 0);
    CHECK(pthread_join(other, NULL) == 0);
    SAYS("/no/such/card");
}

static void devices_are_listed_dead_ones_with_their_problem(void) {
    struct card *one = card_start("--hbm", "64M", "--seed", "1", NULL);
    struct card *two = card_start("--hbm", "64M", "--seed", "2", NULL);
    jal_device_summary list[4];
    char environment[512];
    size_t count = 0, i;
    int usable = 0, broken = 0;
    snprintf(environment, sizeof environment, "%s,%s,vfio-user:/no/such/card", one->name, two->name);
    setenv("JALAPENO_DEVICES", environment, 1);
    OK(jal_device_list(NULL, 0, sizeof list[0], &count));
    SAME(count, 3);
    memset(list, 0xA5, sizeof list);
    OK(jal_device_list(list, 2, sizeof list[0], &count));
    SAME(count, 3);
    SAME(list[2].struct_size, 0xA5A5A5A5); /* beyond the capacity nothing is written */
    OK(jal_device_list(list, 4, sizeof list[0], &count));
    for (i = 0; i < count; i++) {
        SAME(list[i].struct_size, sizeof list[i]);
        if (list[i].usable) {
            usable++;
            CHECK(list[i].problem[0] == '\0');
            CHECK(strcmp(list[i].name, one->name) == 0 || strcmp(list[i].name, two->name) == 0);
        } else {
            broken++;
            CHECK(strstr(list[i].problem, "no such socket") != NULL);
        }
    }
    SAME(usable, 2);
    SAME(broken, 1);
    GIVES(JAL_ERROR_INVALID, jal_device_list(list, 4, sizeof list[0] - 8, &count));
    GIVES(JAL_ERROR_INVALID, jal_device_list(NULL, 4, sizeof list[0], &count));
    GIVES(JAL_ERROR_INVALID, jal_device_list(list, 4, sizeof list[0], NULL));
    GIVES(JAL_ERROR_INVALID, jal_device_list(list, SIZE_MAX, sizeof list[0], &count));
    setenv("JALAPENO_VISIBLE_DEVICES", two->uuid, 1);
    OK(jal_device_list(list, 4, sizeof list[0], &count));
    SAME(count, 1);
    CHECK(strcmp(list[0].name, two->name) == 0);
}

static void a_card_opens_by_name_by_uuid_and_as_the_only_one(void) {
    struct card *card = card_start("--hbm", "64M", NULL);
    jal_device device;
    setenv("JALAPENO_DEVICES", card->name, 1);
    OK(jal_device_open(card->name, NULL, &device));
    OK(jal_device_close(device));
    OK(jal_device_open(card->uuid, NULL, &device));
    OK(jal_device_close(device));
    OK(jal_device_open(NULL, NULL, &device));
    OK(jal_device_close(device));
    GIVES(JAL_ERROR_HANDLE, jal_device_close(device));
    GIVES(JAL_ERROR_NOT_FOUND, jal_device_open("no name at all", NULL, &device));
    GIVES(JAL_ERROR_NOT_FOUND, jal_device_open("", NULL, &device));
    GIVES(JAL_ERROR_INVALID, jal_device_open("\xff\xfe", NULL, &device));
    GIVES(JAL_ERROR_NOT_FOUND, jal_device_open("00000000-0000-0000-0000-000000000000", NULL, &device));
}

static void one_owner_and_any_number_of_observers(void) {
    struct card *card = card_start("--hbm", "64M", NULL);
    jal_open_options observe = {.struct_size = sizeof observe, .role = JAL_ROLE_OBSERVE};
    jal_open_options exclusive = {.struct_size = sizeof exclusive, .role = JAL_ROLE_EXCLUSIVE};
    jal_device owner, second, watchers[4];
    jal_device_info info = {.struct_size = sizeof info};
    jal_session session;
    char pid[16];
    int i;
    if (on_stage()) story_skip("a kernel gives a card to one process; observers are the emulator's");
    OK(jal_device_open(card->name, NULL, &owner));
    GIVES(JAL_ERROR_BUSY, jal_device_open(card->name, NULL, &second));
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    SAYS(pid); /* the holder is named */
    for (i = 0; i < 4; i++) OK(jal_device_open(card->name, &observe, &watchers[i]));
    OK(jal_device_get_info(watchers[0], &info));
    SAME(info.role, JAL_ROLE_OBSERVE);
    GIVES(JAL_ERROR_UNSUPPORTED, jal_session_create(watchers[0], &session));
    CHECK(jal_device_reset(watchers[0], JALAPENO_HW_RESET_LEVEL_DEVICE, SOON) != JAL_OK);
    OK(jal_session_create(owner, &session));
    GIVES(JAL_ERROR_BUSY, jal_session_create(owner, &session));
    OK(jal_device_close(owner));
    GIVES(JAL_ERROR_BUSY, jal_device_open(card->name, &exclusive, &second));
    for (i = 0; i < 4; i++) OK(jal_device_close(watchers[i]));
    OK(jal_device_open(card->name, &exclusive, &second));
    GIVES(JAL_ERROR_BUSY, jal_device_open(card->name, &observe, &watchers[0]));
    OK(jal_device_close(second));
}

static void options_of_any_age_are_understood(void) {
    struct card *card = card_start("--hbm", "64M", NULL);
    struct { jal_open_options known; uint64_t later[4]; } options;
    jal_device device;
    memset(&options, 0, sizeof options);
    options.known.struct_size = sizeof options; /* of a newer header, nothing asked for */
    OK(jal_device_open(card->name, &options.known, &device));
    OK(jal_device_close(device));
    options.later[3] = 1; /* asks for something unknown */
    GIVES(JAL_ERROR_INVALID, jal_device_open(card->name, &options.known, &device));
    SAYS("offset 40");
    options.later[3] = 0;
    options.known.struct_size = 0;
    GIVES(JAL_ERROR_INVALID, jal_device_open(card->name, &options.known, &device));
    options.known.struct_size = 8;
    GIVES(JAL_ERROR_INVALID, jal_device_open(card->name, &options.known, &device));
    options.known.struct_size = UINT32_MAX;
    GIVES(JAL_ERROR_INVALID, jal_device_open(card->name, &options.known, &device));
    options.known.struct_size = sizeof options.known;
    options.known.flags = 1;
    GIVES(JAL_ERROR_INVALID, jal_device_open(card->name, &options.known, &device));
    options.known.flags = 0;
    options.known.role = 3;
    GIVES(JAL_ERROR_INVALID, jal_device_open(card->name, &options.known, &device));
    options.known.role = 0;
    GIVES(JAL_ERROR_INVALID, jal_device_open(card->name, &options.known, NULL));
    OK(jal_device_open(card->name, &options.known, &device)); /* no refusal left anything behind */
    OK(jal_device_close(device));
}

static void a_card_says_what_it_is(void) {
    struct card *card = card_start("--hbm", "96M", "--queues", "8", NULL);
    struct { jal_device_info known; uint64_t later[2]; } info;
    jal_device device;
    char uuid[37];
    int at = 0, i;
    OK(jal_device_open(card->name, NULL, &device));
    memset(&info, 0, sizeof info);
    info.known.struct_size = sizeof info;
    OK(jal_device_get_info(device, &info.known));
    SAME(info.known.struct_size, sizeof info);
    SAME(info.known.platform, JALAPENO_HW_PLATFORM_EMULATOR);
    SAME(info.known.hbm_bytes, 96u << 20);
    SAME(info.known.queues, 8);
    SAME(info.known.role, JAL_ROLE_COMPUTE);
    CHECK(info.known.serial != 0 && info.known.ticks_per_second != 0 && info.known.depth_max >= 256);
    CHECK(info.known.version_major >= 1 && info.known.vectors >= 1);
    CHECK(strcmp(info.known.name, card->name) == 0);
    CHECK(strcmp(info.known.backend, "vfio-user") == 0);
    CHECK(strstr(info.known.product, "Jalapeno") != NULL && info.known.firmware[0] != '\0');
    for (i = 0; i < 16; i++)
        at += sprintf(uuid + at, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", info.known.uuid[i]);
    CHECK(strcmp(uuid, card->uuid) == 0);
    info.known.struct_size = 4;
    GIVES(JAL_ERROR_INVALID, jal_device_get_info(device, &info.known));
    info.known.struct_size = sizeof info;
    info.later[1] = 7;
    GIVES(JAL_ERROR_INVALID, jal_device_get_info(device, &info.known));
    GIVES(JAL_ERROR_INVALID, jal_device_get_info(device, NULL));
    OK(jal_device_close(device));
}

static uint64_t telemetry(jal_device device, uint32_t field) {
    jal_telemetry entries[256];
    size_t count = 0, i;
    OK(jal_device_telemetry(device, entries, 256, sizeof entries[0], &count));
    CHECK(count > 10 && count <= 256);
    for (i = 0; i < count; i++) {
        SAME(entries[i].struct_size, sizeof entries[i]);
        if (entries[i].field == field && entries[i].instance == 0) {
            SAME(entries[i].status, JALAPENO_HW_TELEMETRY_STATUS_VALID);
            return entries[i].value;
        }
    }
    story_fail(__FILE__, __LINE__, "no field %#x among %zu", field, count);
}

static void telemetry_follows_the_work_done(void) {
    struct rig rig = rig_start(64, 0);
    uint64_t energy = telemetry(rig.device, JALAPENO_HW_TELEMETRY_FIELD_ENERGY);
    uint64_t moved = telemetry(rig.device, JALAPENO_HW_TELEMETRY_FIELD_BYTES_MOVED);
    struct jalapeno_hw_packet packet;
    jal_buffer_info info = {.struct_size = sizeof info};
    jal_buffer buffer;
    jal_telemetry entry;
    uint64_t sequence;
    size_t count = 0;
    double begin;
    SAME(telemetry(rig.device, JALAPENO_HW_TELEMETRY_FIELD_HBM_TOTAL), 64u << 20);
    OK(jal_device_alloc(rig.session, 1 << 20, &buffer));
    OK(jal_buffer_get_info(buffer, &info));
    packet = jal_packet_fill(info.address, info.bytes, 0x5A);
    OK(jal_submit_one(rig.queue, &packet, &sequence));
    OK(jal_wait(rig.queue, sequence, SOON));
    begin = now(); /* the page is refreshed by and by */
    while (telemetry(rig.device, JALAPENO_HW_TELEMETRY_FIELD_BYTES_MOVED) < moved + (1 << 20)) {
        CHECK(now() - begin < 10);
        usleep(10000);
    }
    CHECK(telemetry(rig.device, JALAPENO_HW_TELEMETRY_FIELD_ENERGY) > energy);
    OK(jal_device_telemetry(rig.device, NULL, 0, sizeof entry, &count));
    CHECK(count > 10);
    GIVES(JAL_ERROR_INVALID, jal_device_telemetry(rig.device, &entry, 1, sizeof entry + 8, &count));
}

static void faults_are_kept_with_code_and_cookie(void) {
    struct rig rig = rig_start(64, 0);
    struct jalapeno_hw_fault_record records[64];
    struct jalapeno_hw_packet packet = jal_packet(0xEE, 0);
    uint64_t sequence;
    size_t count = 0, i, found = 0;
    OK(jal_device_faults(rig.device, records, 64, sizeof records[0], &count));
    SAME(count, 0);
    packet.cookie = 0xC00C1E;
    OK(jal_submit_one(rig.queue, &packet, &sequence));
    GIVES(JAL_ERROR_FAULT, jal_wait(rig.queue, sequence, SOON));
    OK(jal_device_faults(rig.device, records, 64, sizeof records[0], &count));
    for (i = 0; i < count; i++)
        found += records[i].code == JALAPENO_HW_FAULT_CODE_UNKNOWN_OPCODE && records[i].cookie == 0xC00C1E;
    SAME(found, 1);
    GIVES(JAL_ERROR_INVALID, jal_device_faults(rig.device, records, 64, 128, &count));
}

static uint64_t raw_now(void) {
    struct timespec time;
    CHECK(clock_gettime(CLOCK_MONOTONIC_RAW, &time) == 0);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* A reading, which lies within the time that it took. */
static jal_clock clock_of(jal_device device) {
    jal_clock clock = {.struct_size = sizeof clock};
    uint64_t before = raw_now(), after;
    OK(jal_device_clock(device, &clock));
    after = raw_now();
    CHECK(clock.monotonic_raw >= before && clock.monotonic_raw <= after);
    CHECK(clock.uncertainty <= after - before);
    return clock;
}

static void clocks_go_together(void) {
    struct card *card = card_start("--hbm", "64M", NULL);
    jal_clock one, two;
    jal_device_info info = {.struct_size = sizeof info};
    jal_device device;
    double host, ticks;
    OK(jal_device_open(card->name, NULL, &device));
    OK(jal_device_get_info(device, &info));
    one = clock_of(device);
    usleep(50000);
    two = clock_of(device);
    host = (double)(two.monotonic_raw - one.monotonic_raw) * 1e-9;
    ticks = (double)(two.device - one.device) / (double)info.ticks_per_second;
    CHECK(ticks > host * 0.9 - 0.01 && ticks < host * 1.1 + 0.01);
    one.struct_size = 8;
    GIVES(JAL_ERROR_INVALID, jal_device_clock(device, &one));
    GIVES(JAL_ERROR_INVALID, jal_device_clock(device, NULL));
    OK(jal_device_close(device));
}

static void a_device_reset_ends_every_session(void) {
    struct rig rig = rig_start(64, 0);
    jal_device_info info = {.struct_size = sizeof info};
    struct jalapeno_hw_packet packet = jal_packet_nop();
    uint64_t sequence, generation;
    jal_session session;
    jal_queue queue;
    OK(jal_device_get_info(rig.device, &info));
    generation = info.generation;
    GIVES(JAL_ERROR_INVALID, jal_device_reset(rig.device, JALAPENO_HW_RESET_LEVEL_QUEUE, SOON));
    GIVES(JAL_ERROR_INVALID, jal_device_reset(rig.device, 99, SOON));
    GIVES(JAL_ERROR_INVALID, jal_device_reset(rig.device, JALAPENO_HW_RESET_LEVEL_DEVICE, -1));
    OK(jal_submit_one(rig.queue, &packet, &sequence));
    OK(jal_wait(rig.queue, sequence, SOON));
    OK(jal_device_reset(rig.device, JALAPENO_HW_RESET_LEVEL_DEVICE, SOON));
    OK(jal_device_get_info(rig.device, &info));
    CHECK(info.generation > generation);
    GIVES(JAL_ERROR_STALE, jal_submit_one(rig.queue, &packet, &sequence));
    OK(jal_session_destroy(rig.session));
    OK(jal_session_create(rig.device, &session));
    OK(jal_queue_create(session, NULL, &queue));
    OK(jal_submit_one(queue, &packet, &sequence));
    OK(jal_wait(queue, sequence, SOON));
    OK(jal_session_destroy(session));
}

static void closing_a_device_closes_what_was_made_from_it(void) {
    struct rig rig = rig_start(64, 0);
    jal_buffer_info info = {.struct_size = sizeof info};
    jal_buffer buffer;
    jal_fence fence;
    uint64_t value;
    OK(jal_host_alloc(rig.session, 4096, 0, &buffer));
    OK(jal_fence_create(rig.session, 3, &fence));
    OK(jal_device_close(rig.device));
    GIVES(JAL_ERROR_HANDLE, jal_buffer_get_info(buffer, &info));
    GIVES(JAL_ERROR_HANDLE, jal_fence_value(fence, &value));
    GIVES(JAL_ERROR_HANDLE, jal_poll(rig.queue, &value));
    GIVES(JAL_ERROR_HANDLE, jal_session_destroy(rig.session));
    GIVES(JAL_ERROR_HANDLE, jal_device_close(rig.device));
    OK(jal_device_open(rig.card->name, NULL, &rig.device)); /* free for the next owner */
    OK(jal_device_close(rig.device));
}

static int lines;
static void on_line(int level, const char *message, void *user) {
    CHECK(level >= JAL_LOG_ERROR && level <= JAL_LOG_DEBUG);
    CHECK(message[0] != '\0');
    ++*(int *)user;
}

static void log_lines_reach_the_callback(void) {
    struct rig rig;
    int before;
    lines = 0;
    OK(jal_set_log(JAL_LOG_DEBUG, on_line, &lines));
    rig = rig_start(64, 0);
    OK(jal_device_reset(rig.device, JALAPENO_HW_RESET_LEVEL_DEVICE, SOON));
    CHECK(lines > 0);
    GIVES(JAL_ERROR_INVALID, jal_set_log(0, on_line, &lines));
    GIVES(JAL_ERROR_INVALID, jal_set_log(5, on_line, &lines));
    OK(jal_set_log(JAL_LOG_ERROR, NULL, NULL));
    before = lines;
    OK(jal_device_reset(rig.device, JALAPENO_HW_RESET_LEVEL_DEVICE, SOON));
    SAME(lines, before);
}

struct sleeper { jal_queue queue; uint64_t sequence; jal_status status; };
static void *sleep_for_ever(void *argument) {
    struct sleeper *sleeper = argument;
    sleeper->status = jal_wait(sleeper->queue, sleeper->sequence, JAL_FOREVER);
    return NULL;
}

static void a_device_given_back_ends_sleepers_by_its_deadline_and_closes_all(void) {
    struct rig rig = rig_start(16, 0);
    jal_open_options observe = {.struct_size = sizeof observe, .role = JAL_ROLE_OBSERVE};
    struct jalapeno_hw_packet never;
    struct sleeper sleeper = {rig.queue, 0, JAL_OK};
    jal_device other;
    jal_buffer buffer;
    jal_fence fence;
    uint64_t address;
    pthread_t thread;
    double begin;
    int fd = -1;
    GIVES(JAL_ERROR_INVALID, jal_device_wanted_fd(rig.device, NULL));
    if (on_stage()) {
        OK(jal_device_wanted_fd(rig.device, &fd));
        CHECK(!readable(fd, 0)); /* nobody asked */
        CHECK(close(fd) == 0);
    } else {
        GIVES(JAL_ERROR_UNSUPPORTED, jal_device_wanted_fd(rig.device, &fd));
        OK(jal_device_open(rig.card->name, &observe, &other));
        GIVES(JAL_ERROR_UNSUPPORTED, jal_device_give_back(other, SECOND));
        OK(jal_device_close(other));
    }
    GIVES(JAL_ERROR_INVALID, jal_device_give_back(rig.device, -1));
    OK(jal_host_alloc(rig.session, 4096, 0, &buffer));
    OK(jal_fence_create(rig.session, 0, &fence));
    OK(jal_fence_address(fence, &address));
    never = jal_packet_wait(address, 1);
    OK(jal_submit_one(rig.queue, &never, &sleeper.sequence));
    CHECK(pthread_create(&thread, NULL, sleep_for_ever, &sleeper) == 0);
    usleep(50000);
    begin = now();
    OK(jal_device_give_back(rig.device, SECOND));
    CHECK(now() - begin >= 0.5); /* the job had half of it to end in */
    CHECK(now() - begin < 6);
    CHECK(pthread_join(thread, NULL) == 0);
    SAME(sleeper.status, JAL_ERROR_LOST);
    GIVES(JAL_ERROR_HANDLE, jal_device_give_back(rig.device, SECOND));
    GIVES(JAL_ERROR_HANDLE, jal_submit_one(rig.queue, &never, &sleeper.sequence));
    GIVES(JAL_ERROR_HANDLE, jal_buffer_free(buffer));
    /* The next owner gets it. */
    for (begin = now(); jal_device_open(rig.card->name, NULL, &other) != JAL_OK && now() - begin < 5;)
        usleep(1000);
    OK(jal_device_close(other));
}

const struct story device_stories[] = {
    {"versions_fit_or_are_refused", versions_fit_or_are_refused},
    {"every_status_has_words_of_its_own", every_status_has_words_of_its_own},
    {"a_failure_is_told_to_its_own_thread", a_failure_is_told_to_its_own_thread},
    {"devices_are_listed_dead_ones_with_their_problem", devices_are_listed_dead_ones_with_their_problem},
    {"a_card_opens_by_name_by_uuid_and_as_the_only_one", a_card_opens_by_name_by_uuid_and_as_the_only_one},
    {"one_owner_and_any_number_of_observers", one_owner_and_any_number_of_observers},
    {"options_of_any_age_are_understood", options_of_any_age_are_understood},
    {"a_card_says_what_it_is", a_card_says_what_it_is},
    {"telemetry_follows_the_work_done", telemetry_follows_the_work_done},
    {"faults_are_kept_with_code_and_cookie", faults_are_kept_with_code_and_cookie},
    {"clocks_go_together", clocks_go_together},
    {"a_device_reset_ends_every_session", a_device_reset_ends_every_session},
    {"closing_a_device_closes_what_was_made_from_it", closing_a_device_closes_what_was_made_from_it},
    {"log_lines_reach_the_callback", log_lines_reach_the_callback},
    {"a_device_given_back_ends_sleepers_by_its_deadline_and_closes_all", a_device_given_back_ends_sleepers_by_its_deadline_and_closes_all},
    {NULL, NULL},
};
