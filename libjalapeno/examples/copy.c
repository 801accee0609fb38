/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The smallest whole program: 4 KiB go to the card and come home. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jalapeno.h>

static void check(jal_status status, const char *what) {
    if (status == JAL_OK) return;
    fprintf(stderr, "error: %s: %s: %s\n", what, jal_status_string(status), jal_error_detail());
    fprintf(stderr, "hint: %s\n", jal_error_hint());
    exit(1);
}

int main(void) {
    jal_device device;
    jal_session session;
    jal_queue queue;
    jal_buffer host, card;
    jal_buffer_info at_host = {.struct_size = sizeof at_host};
    jal_buffer_info on_card = {.struct_size = sizeof on_card};
    struct jalapeno_hw_packet packets[2];
    uint64_t sequence;

    check(jal_check_version(JAL_VERSION), "check the library");
    check(jal_device_open(NULL, NULL, &device), "open the only card there is");
    check(jal_session_create(device, &session), "begin a session");
    check(jal_queue_create(session, NULL, &queue), "make a queue");
    check(jal_host_alloc(session, 8192, 0, &host), "take pinned host memory");
    check(jal_device_alloc(session, 4096, &card), "take device memory");
    check(jal_buffer_get_info(host, &at_host), "look at the host memory");
    check(jal_buffer_get_info(card, &on_card), "look at the device memory");

    /* Out to the card, and home into the second page: two packets, one doorbell. */
    strcpy(at_host.host, "hello, card");
    packets[0] = jal_packet_copy(on_card.address, at_host.address, 4096);
    packets[1] = jal_packet_copy(at_host.address + 4096, on_card.address, 4096);
    check(jal_submit(queue, packets, 2, sizeof packets[0], &sequence), "submit");
    check(jal_wait(queue, sequence, INT64_C(5000000000)), "wait");
    printf("%s\n", (const char *)at_host.host + 4096);

    check(jal_device_close(device), "close the card"); /* and all that was made from it */
    return 0;
}
