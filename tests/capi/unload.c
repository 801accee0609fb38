/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* dlopen, work, dlclose with open handles, and an exit from another thread. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jalapeno.h>

static void *ends_the_program(void *unused) {
    (void)unused;
    exit(0); /* while the main thread sits in a wait */
}

int main(int argc, char **argv) {
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    jal_status (*open_device)(const char *, const jal_open_options *, jal_device *);
    jal_status (*create_session)(jal_device, jal_session *);
    jal_status (*create_queue)(jal_session, const jal_queue_options *, jal_queue *);
    jal_status (*create_fence)(jal_session, uint64_t, jal_fence *);
    jal_status (*wait_fence)(jal_fence, uint64_t, int64_t);
    jal_device device;
    jal_session session;
    jal_queue queue;
    jal_fence fence;
    pthread_t thread;
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    *(void **)&open_device = dlsym(library, "jal_device_open");
    *(void **)&create_session = dlsym(library, "jal_session_create");
    *(void **)&create_queue = dlsym(library, "jal_queue_create");
    *(void **)&create_fence = dlsym(library, "jal_fence_create");
    *(void **)&wait_fence = dlsym(library, "jal_fence_wait");
    if (open_device(NULL, NULL, &device) != JAL_OK || create_session(device, &session) != JAL_OK ||
        create_queue(session, NULL, &queue) != JAL_OK || create_fence(session, 0, &fence) != JAL_OK)
        return 1;
    if (strcmp(argv[2], "dlclose") == 0) {
        if (dlclose(library) != 0) return 1;
        /* The library stays (-z nodelete): its threads and thread-local storage may still be used. */
        return create_queue(session, NULL, &queue) == JAL_OK ? 0 : 1;
    }
    if (pthread_create(&thread, NULL, ends_the_program, NULL) != 0) return 1;
    wait_fence(fence, 1, JAL_FOREVER);
    return 1;
}
