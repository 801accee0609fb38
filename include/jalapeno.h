/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libjalapeno: userspace driver library for the Jalapeño LLM inference accelerator.
 *
 * RULES THAT HOLD FOR EVERY FUNCTION, unless it says otherwise
 *
 * Status    Every call returns JAL_OK (0) or a negative jal_status. On failure nothing was done,
 *           outputs are untouched, and jal_error_detail() says in this thread what was tried, on
 *           what and why; jal_error_hint() says what to do.
 * Handles   Small values, not pointers: looked up and checked at each call. A handle that is
 *           stale, closed, zero or of another kind gives JAL_ERROR_HANDLE. This guards against
 *           mistakes; it is not a security boundary.
 * Ownership The caller owns what it made and gives it back with the function named beside it.
 *           Closing a parent closes what was made from it; the children's handles turn stale.
 * Threads   Every function may be called from any thread at any time, also on one handle. Calls
 *           that submit to one queue take turns; a close ends other threads' waits with
 *           JAL_ERROR_HANDLE.
 * fork()    A child must not use handles of its parent: JAL_ERROR_FORKED. The parent is unharmed.
 * Signals   No function is async-signal-safe. Interrupted waits go on until their deadline.
 * Structs   Zero the struct, then set struct_size to its sizeof. A newer or older library copes.
 *           Unknown flags, and a non-zero tail that the library does not know, are INVALID.
 * Timeouts  Nanoseconds; 0 looks once; JAL_FOREVER never ends; negative values are INVALID.
 * Addresses in packets are device addresses (jal_buffer_info.address + offset).
 *
 * What the device's packets and structures mean: docs/host-interface.md, docs/kernels.md.
 */
#ifndef JALAPENO_H
#define JALAPENO_H

#include <stddef.h>
#include <stdint.h>

#include "jalapeno_hw.h"

#ifdef __cplusplus
extern "C" {
#endif

#define JAL_VERSION_MAJOR 0
#define JAL_VERSION_MINOR 1
#define JAL_VERSION_PATCH 0
/* This header's version, as jal_version() gives the library's. */
#define JAL_VERSION \
    ((uint32_t)((JAL_VERSION_MAJOR << 24) | (JAL_VERSION_MINOR << 16) | JAL_VERSION_PATCH))

#define JAL_FOREVER INT64_MAX

/* ---- Status --------------------------------------------------------------------------------- */

/* The numbers never change their meaning; new ones may come. */
typedef int32_t jal_status;
#define JAL_OK 0
#define JAL_ERROR_INVALID (-1)      /* an argument is wrong */
#define JAL_ERROR_NOT_FOUND (-2)    /* no such device */
#define JAL_ERROR_PERMISSION (-3)   /* the process may not */
#define JAL_ERROR_BUSY (-4)         /* somebody else, or an unfinished job, uses it */
#define JAL_ERROR_AGAIN (-5)        /* the queue is full: reap, then try again */
#define JAL_ERROR_TIMEOUT (-6)      /* the time given ran out */
#define JAL_ERROR_LOST (-7)         /* the device is gone or stopped answering */
#define JAL_ERROR_STALE (-8)        /* the device was reset: open it again */
#define JAL_ERROR_FAULT (-9)        /* a job failed: jal_queue_fault() says why */
#define JAL_ERROR_CANCELLED (-10)   /* a job before it failed, or a reset */
#define JAL_ERROR_STOPPED (-11)     /* the queue stopped: jal_queue_resume() */
#define JAL_ERROR_MEMORY (-12)      /* memory, or a limit on it, does not suffice */
#define JAL_ERROR_VERSION (-13)     /* library and device, or header and library, do not fit */
#define JAL_ERROR_UNSUPPORTED (-14) /* this device or system cannot */
#define JAL_ERROR_PROTOCOL (-15)    /* the device broke its specification */
#define JAL_ERROR_FORKED (-16)      /* opened before fork() */
#define JAL_ERROR_IO (-17)          /* the operating system refused */
#define JAL_ERROR_NEEDS_RESET (-18) /* the device needs a reset */
#define JAL_ERROR_HANDLE (-19)      /* the handle is stale, closed or of another kind */
#define JAL_ERROR_INTERNAL (-20)    /* a fault inside the library */
#define JAL_ERROR_WANTED (-21)      /* the host wants the device back: jal_device_give_back() */

/* The library's version: major << 24 | minor << 16 | patch. Never fails. */
uint32_t jal_version(void);

/* VERSION if this library cannot serve programs built with header version `header`; call as
 * jal_check_version(JAL_VERSION). */
jal_status jal_check_version(uint32_t header);

/* A status in words, static; unknown numbers give "unknown status". Never null. */
const char *jal_status_string(jal_status status);

/* What the last failed call of this thread tried, on what, and why it failed; "" if none did.
 * Valid until this thread's next call into the library. Never null. */
const char *jal_error_detail(void);

/* What to do about it; "" where there is nothing to say. As jal_error_detail(). */
const char *jal_error_hint(void);

/* ---- Devices -------------------------------------------------------------------------------- */

typedef struct jal_device { uint64_t id; } jal_device;
typedef struct jal_session { uint64_t id; } jal_session;
typedef struct jal_buffer { uint64_t id; } jal_buffer;
typedef struct jal_queue { uint64_t id; } jal_queue;
typedef struct jal_fence { uint64_t id; } jal_fence;
typedef struct jal_graph { uint64_t id; } jal_graph;

typedef struct jal_device_summary {
    uint32_t struct_size;
    uint32_t usable;   /* 1: it answered; 0: `problem` says why not */
    uint8_t uuid[16];  /* RFC 9562 byte order; zero where unknown */
    char name[256];    /* what jal_device_open() takes: PCI address or vfio-user:PATH */
    char problem[256]; /* "" if usable */
} jal_device_summary;

/* Lists the devices there are: PCI functions, and those that JALAPENO_DEVICES names, narrowed by
 * JALAPENO_VISIBLE_DEVICES. Fills at most `capacity` elements of `element_size` bytes, which is
 * sizeof(jal_device_summary); `*count` becomes the number there are, which may be larger. `out` may
 * be null with capacity 0. Disturbs no owner. */
jal_status jal_device_list(jal_device_summary *out, size_t capacity, size_t element_size,
                           size_t *count);

#define JAL_ROLE_COMPUTE 0u   /* owns the card; observers may watch */
#define JAL_ROLE_OBSERVE 1u   /* reads identity, telemetry and faults beside an owner */
#define JAL_ROLE_EXCLUSIVE 2u /* owns the card; nobody watches */

typedef struct jal_open_options {
    uint32_t struct_size;
    uint32_t role;  /* JAL_ROLE_* */
    uint64_t flags; /* 0 */
} jal_open_options;

/* Opens a device by UUID, PCI address (0000:01:00.0) or vfio-user:PATH; null: the only device there
 * is. `options` may be null: compute. Errors: NOT_FOUND, PERMISSION, BUSY (the detail names the
 * holder; of a card in a slot after 1 s, or after 5 s where it is plain that no process holds it), VERSION,
 * LOST. Close with jal_device_close(). */
jal_status jal_device_open(const char *name, const jal_open_options *options, jal_device *out);

/* Closes a device and all that was made from it: sessions, queues, buffers, fences. Unfinished
 * jobs are cancelled; waits of other threads end. */
jal_status jal_device_close(jal_device device);

/* A descriptor for the caller's own loop that turns readable, and stays so, when the host wants the
 * device back (unbound, removed or unplugged): call jal_device_give_back() then. Whoever sleeps in
 * jal_wait() is told by WANTED, once: to wait anew is to wait on. `*fd` is the caller's: close() it. UNSUPPORTED where nobody can ask
 * (vfio-user). */
jal_status jal_device_wanted_fd(jal_device device, int *fd);

/* Gives the device back in order, and closes it and all that was made from it. For half of
 * `timeout_ns` its jobs may come to their ends; then nothing starts any more, waits of other threads
 * end with LOST, the device is cut off from host memory, and everything is closed, results that
 * nobody read with it. BUSY where something is in use at the deadline; the handle is closed then too.
 * UNSUPPORTED for an observer: close it. */
jal_status jal_device_give_back(jal_device device, int64_t timeout_ns);

typedef struct jal_device_info {
    uint32_t struct_size;
    uint32_t platform;         /* JALAPENO_HW_PLATFORM_* */
    uint8_t uuid[16];
    uint64_t serial;
    uint64_t generation;       /* counts resets */
    uint64_t features;         /* bits accepted */
    uint64_t hbm_bytes;
    uint64_t ticks_per_second; /* of device time */
    uint32_t version_major;    /* of the host interface */
    uint32_t version_minor;
    uint32_t queues;           /* queues the device has, queue 0 (management) included */
    uint32_t depth_max;        /* packets of the longest submission ring */
    uint32_t vectors;          /* most interrupt vectors: the host may have fewer; queues share then */
    uint32_t role;             /* JAL_ROLE_* */
    char name[256];
    char product[40];
    char firmware[40];
    char backend[16];          /* vfio-user, vfio-group, vfio-cdev, unsafe-noiommu */
} jal_device_info;

/* Who the device is; the generation is the one that the handle stands for. */
jal_status jal_device_get_info(jal_device device, jal_device_info *info);

#define JAL_TELEMETRY_STALE 256u

typedef struct jal_telemetry {
    uint32_t struct_size; /* set by the library */
    uint32_t status;      /* JALAPENO_HW_TELEMETRY_STATUS_* or JAL_TELEMETRY_STALE */
    uint32_t field;       /* JALAPENO_HW_TELEMETRY_FIELD_* */
    uint32_t instance;    /* which sensor, stack or queue */
    uint32_t unit;        /* JALAPENO_HW_TELEMETRY_UNIT_* */
    uint32_t reserved;
    uint64_t value;       /* counts only when status is VALID; else 0 */
    uint64_t taken;       /* device time */
} jal_telemetry;

/* Reads all telemetry at one moment; capacity, element size and count as in jal_device_list(). */
jal_status jal_device_telemetry(jal_device device, jal_telemetry *out, size_t capacity,
                                size_t element_size, size_t *count);

/* The device's last fault records, oldest first, kept across resets; capacity, element size
 * (sizeof(struct jalapeno_hw_fault_record)) and count as in jal_device_list(). */
jal_status jal_device_faults(jal_device device, struct jalapeno_hw_fault_record *out,
                             size_t capacity, size_t element_size, size_t *count);

typedef struct jal_clock {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t device;        /* device time in ticks */
    uint64_t monotonic_raw; /* CLOCK_MONOTONIC_RAW in nanoseconds at the same moment */
    uint64_t tsc;           /* time stamp counter; 0 where there is none */
    uint64_t uncertainty;   /* nanoseconds between the host readings around the device's */
} jal_clock;

/* Relates device time to the host's clocks. */
jal_status jal_device_clock(jal_device device, jal_clock *out);

/* Resets; `level` is JALAPENO_HW_RESET_LEVEL_ENGINES, _DEVICE or _FUNCTION. DEVICE and FUNCTION end
 * every session: handles made before give STALE. Returns after the device serves again, verified;
 * or NEEDS_RESET, TIMEOUT, LOST. Not for observers. */
jal_status jal_device_reset(jal_device device, uint32_t level, int64_t timeout_ns);

/* ---- Sessions and memory -------------------------------------------------------------------- */

/* A client's context on a device: memory, queues, fences. Destroy with jal_session_destroy(). */
jal_status jal_session_create(jal_device device, jal_session *out);
jal_status jal_session_destroy(jal_session session);

#define JAL_MEMORY_HUGE 1u      /* host: hugepages wanted; normal pages where there are none */
#define JAL_MEMORY_READ_ONLY 2u /* host: the device may only read it */
#define JAL_MEMORY_GUARDED 4u   /* host: a mapping of its own, always; see jal_host_alloc() */

#define JAL_KIND_HOST 1u
#define JAL_KIND_REGISTERED 2u
#define JAL_KIND_DEVICE 3u
#define JAL_KIND_PEER 4u /* device memory of another card */

typedef struct jal_buffer_info {
    uint32_t struct_size;
    uint32_t kind;       /* JAL_KIND_* */
    void *host;          /* null for device memory, of whichever card */
    uint64_t address;    /* as packets name it */
    uint64_t bytes;
    uint64_t page_bytes; /* of the pages behind it */
} jal_buffer_info;

/* Pinned host memory, zeroed, page-aligned. Free with jal_buffer_free(). A buffer is a mapping of its own
 * with a guard page behind it: a device that runs past it faults, and cannot reach it once it is freed.
 * Once half of the mappings that the host permits are in use, writable buffers of at most 2 MiB share
 * mappings of up to 64 MiB: no guard lies between them, and the device reaches all of a mapping until the
 * last buffer in it is freed. With JAL_MEMORY_GUARDED a buffer shares none; MEMORY where none is left. */
jal_status jal_host_alloc(jal_session session, uint64_t bytes, uint32_t flags, jal_buffer *out);

/* Registers memory of the caller's, page-aligned, which must outlive the buffer. On vfio-user it
 * must be a shared mapping of a file (memfd, shm); the detail says so otherwise. */
jal_status jal_host_register(jal_session session, void *memory, uint64_t bytes, uint32_t flags,
                             jal_buffer *out);

/* Device memory (HBM), at least 256-byte aligned; its content is undefined. */
jal_status jal_device_alloc(jal_session session, uint64_t bytes, jal_buffer *out);

/* Maps device memory of another card, `buffer`, for the jobs of `session`: packets name it at the
 * address that jal_buffer_get_info() gives of `out`, in COPY, FILL, SIGNAL, WAIT, operands and graphs
 * (docs/host-interface.md 10.6). Both cards are open in this process. `buffer` itself cannot be freed
 * before (BUSY); closing its session or device unmaps. A job of `session` that still names it keeps
 * the other card open until it is done. A reset of either device ends it: record graphs anew.
 * INVALID: of the same card, or no device memory. UNSUPPORTED: the other card's window (BAR4) does
 * not show it, or cannot be mapped for this card. Free with jal_buffer_free(). */
jal_status jal_peer_map(jal_session session, jal_buffer buffer, jal_buffer *out);

/* Where a buffer is, for the host and for packets, and what kind of memory it is. */
jal_status jal_buffer_get_info(jal_buffer buffer, jal_buffer_info *info);

typedef struct jal_memory_use {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t maps;       /* mappings in use, rings and shared ones included */
    uint64_t maps_limit; /* that the host permits; UINT64_MAX: as many as it has memory for */
    uint64_t bytes;      /* mapped, shared mappings as a whole */
    uint64_t arenas;     /* of the mappings, those that small buffers share */
    uint64_t coalesced;  /* buffers in these */
    uint64_t spare;      /* bytes of these that no buffer has */
} jal_memory_use;

/* How much host memory the session's device has mapped in this process, for all its sessions. */
jal_status jal_session_get_memory_use(jal_session session, jal_memory_use *use);

/* Frees a buffer. BUSY while an unfinished packet names it, or jal_peer_map() has mapped it: it stays
 * as it is. */
jal_status jal_buffer_free(jal_buffer buffer);

/* jal_buffer_write() and jal_buffer_read() copy between the caller's memory and a buffer of any
 * kind (through the session's device for device memory) and return when done. For set-up and tests. Ranges
 * beyond the buffer are INVALID. */
jal_status jal_buffer_write(jal_buffer buffer, uint64_t offset, const void *from, uint64_t bytes);
jal_status jal_buffer_read(jal_buffer buffer, uint64_t offset, void *into, uint64_t bytes);

/* ---- Queues --------------------------------------------------------------------------------- */

/* Completions are delivered one by one with jal_reap(), and a packet's slot is free once reaped.
 * Without it jal_poll() and jal_wait() follow the sequence number, which is cheaper. */
#define JAL_QUEUE_COMPLETIONS 1u

/* The device writes down what each job takes, for jal_job_stats(). UNSUPPORTED where it cannot. */
#define JAL_QUEUE_PROFILE 2u

/* Whose packets go first. REALTIME goes before all others and interrupts their packets; HIGH, NORMAL
 * and LOW share the device's time 8 : 4 : 1 while they compete. Host interface 5.10. UNSUPPORTED
 * where the device has no bands, INVALID for another number. */
#define JAL_PRIORITY_NORMAL 0u
#define JAL_PRIORITY_LOW 1u
#define JAL_PRIORITY_HIGH 2u
#define JAL_PRIORITY_REALTIME 3u

typedef struct jal_queue_options {
    uint32_t struct_size;
    uint32_t depth;  /* packets, a power of two; 0: 256 */
    uint32_t errors; /* error records kept, a power of two; 0: 8 */
    uint32_t flags;  /* JAL_QUEUE_COMPLETIONS, JAL_QUEUE_PROFILE */
    uint32_t priority; /* JAL_PRIORITY_*; a structure that ends before it means NORMAL */
} jal_queue_options;

/* An in-order queue. `options` may be null. jal_queue_destroy() cancels what is unfinished. */
jal_status jal_queue_create(jal_session session, const jal_queue_options *options, jal_queue *out);
jal_status jal_queue_destroy(jal_queue queue);

/* Submits one packet and gives its sequence number (the first is 1). The validity bit is the
 * library's. AGAIN: full. STOPPED: a job failed, see jal_queue_resume(). Never waits, makes no
 * system call. */
jal_status jal_submit_one(jal_queue queue, const struct jalapeno_hw_packet *packet,
                          uint64_t *sequence);

/* Submits `count` packets, all or none, with one doorbell; `*sequence` becomes the last one's.
 * element_size is sizeof(struct jalapeno_hw_packet). */
jal_status jal_submit(jal_queue queue, const struct jalapeno_hw_packet *packets, size_t count,
                      size_t element_size, uint64_t *sequence);

/* The last completed sequence number. STOPPED, with `*sequence` set all the same, after a failure.
 * Makes no system call. */
jal_status jal_poll(jal_queue queue, uint64_t *sequence);

typedef struct jal_completion {
    uint64_t sequence;
    uint64_t cookie; /* the packet's */
    int32_t status;  /* JAL_OK, or JAL_ERROR_FAULT, _CANCELLED, _LOST, _STALE, _PROTOCOL */
    uint32_t code;   /* JALAPENO_HW_FAULT_CODE_* for FAULT and PROTOCOL; else 0 */
} jal_completion;

/* Delivers completions in order, each once over all callers; `*count` becomes how many (0: none
 * right now). element_size is sizeof(jal_completion). INVALID on a queue without
 * JAL_QUEUE_COMPLETIONS. Makes no system call. */
jal_status jal_reap(jal_queue queue, jal_completion *out, size_t capacity, size_t element_size,
                    size_t *count);

/* Waits until `sequence` is done: polls briefly, unless the queue's last waits were long, then sleeps
 * until the interrupt. FAULT if that very job failed, CANCELLED if one before it did, TIMEOUT, LOST.
 * Several threads may wait at once. */
jal_status jal_wait(jal_queue queue, uint64_t sequence, int64_t timeout_ns);

/* An eventfd for the caller's epoll loop, readable after an interrupt of this queue. It stays the
 * library's: never close it. Read it (8 bytes, nonblocking), poll or reap, then arm anew. */
jal_status jal_queue_event_fd(jal_queue queue, int *fd);

/* Asks for an interrupt when `sequence` is done or the queue stops; at once if it is already. */
jal_status jal_queue_arm(jal_queue queue, uint64_t sequence);

/* The fault that stopped the queue. NOT_FOUND if it is not stopped. */
jal_status jal_queue_fault(jal_queue queue, struct jalapeno_hw_fault_record *out);

/* Acknowledges a failure: failed and cancelled jobs are final, the queue takes packets again. */
jal_status jal_queue_resume(jal_queue queue);

/* Cancels every unfinished job and resumes; when it returns OK the device touches their memory no
 * more. */
jal_status jal_queue_cancel(jal_queue queue, int64_t timeout_ns);

typedef struct jal_queue_counters {
    uint32_t struct_size;
    uint32_t number;               /* the queue's number on the device */
    uint64_t submitted;            /* = succeeded + failed + cancelled + unfinished */
    uint64_t succeeded;
    uint64_t failed;
    uint64_t cancelled;
    uint64_t doorbells_rung_again; /* doorbells that were lost */
    uint64_t interrupts_missed;    /* found done by the backstop instead */
} jal_queue_counters;

/* How the queue's jobs ended so far. Works on a stopped queue too. */
jal_status jal_queue_get_counters(jal_queue queue, jal_queue_counters *out);

typedef struct jal_stats {
    uint32_t struct_size;
    uint32_t opcode;     /* JALAPENO_HW_OPCODE_* */
    uint32_t kernel;     /* of a LAUNCH its kernel, of an INDIRECT the packets of its graph; else 0 */
    uint32_t failed;     /* 1: it failed; else 0 */
    uint64_t sequence;   /* the packet's */
    uint64_t cookie;     /* the packet's */
    uint64_t start;      /* device time in ticks when it came up */
    uint64_t end;        /* device time in ticks when it was finished */
    uint64_t energy_nj;  /* nanojoules: its work, and the idle card meanwhile */
    uint64_t bytes;      /* read and written */
    uint64_t operations; /* of kernels; a multiply-add counts two */
} jal_stats;

/* What a finished job took, for queues made with JAL_QUEUE_PROFILE: one packet, or a whole graph. The
 * figures stay until as many more jobs have finished as the queue is deep; then, and for a job that is
 * not finished or was cancelled, INVALID. UNSUPPORTED where the queue is not profiled. Makes no system
 * call. */
jal_status jal_job_stats(jal_queue queue, uint64_t sequence, jal_stats *out);

/* ---- Timeline fences ------------------------------------------------------------------------ */

/* A 64-bit value in host memory that only rises; SIGNAL and WAIT packets name its address. */
jal_status jal_fence_create(jal_session session, uint64_t initial, jal_fence *out);
/* BUSY while an unfinished packet names it: it stays as it is. Ends other threads' waits. */
jal_status jal_fence_destroy(jal_fence fence);
/* The fence's address, as SIGNAL and WAIT packets name it. */
jal_status jal_fence_address(jal_fence fence, uint64_t *address);
/* Its value now. */
jal_status jal_fence_value(jal_fence fence, uint64_t *value);
/* Raises it from the host; a lower value does nothing. */
jal_status jal_fence_signal(jal_fence fence, uint64_t value);
/* Waits until it is at least `value`. */
jal_status jal_fence_wait(jal_fence fence, uint64_t value, int64_t timeout_ns);

/* ---- Recorded graphs ------------------------------------------------------------------------ */

/* Packets that are recorded and checked once, then run again and again by one packet, in which up to
 * six values change (docs/host-interface.md 6.11). Starts to record; UNSUPPORTED where the device has
 * no graphs. */
jal_status jal_graph_create(jal_session session, jal_graph *out);
/* BUSY while a run of it is not done: it stays as it is. */
jal_status jal_graph_destroy(jal_graph graph);

/* Appends a packet; `*step` becomes its number, from 0, or `step` is null. No LAUNCH, MANAGE or
 * INDIRECT, and no deadline. */
jal_status jal_graph_add(jal_graph graph, const struct jalapeno_hw_packet *packet, uint32_t *step);
/* Appends a LAUNCH of `count` tensors, the destination first; its argument block is the graph's.
 * element_size is sizeof(struct jalapeno_hw_tensor). */
jal_status jal_graph_launch(jal_graph graph, uint32_t kernel,
                            const struct jalapeno_hw_parameters *parameters,
                            const struct jalapeno_hw_tensor *tensors, size_t count,
                            size_t element_size, uint32_t *step);

#define JAL_PLACE_PACKET 0u      /* bytes 0x18 to 0x3F of a packet that is no LAUNCH */
#define JAL_PLACE_PARAMETERS 1u  /* of a LAUNCH */
#define JAL_PLACE_TENSOR(i) (2u + (i))

typedef struct jal_patch {
    uint32_t struct_size;
    uint32_t step;   /* which packet */
    uint32_t place;  /* JAL_PLACE_*: what `offset` counts from */
    uint32_t offset; /* of the word that changes, a multiple of its width */
    uint32_t width;  /* 4 or 8 bytes */
    uint32_t value;  /* which of a run's values, 0 to 5 */
    uint64_t scale;  /* a run has there what was recorded + scale x value */
} jal_patch;

/* Lets a word change from run to run; several patches may change one word, all of one width. INVALID
 * besides for a tensor's type and flags, and for two 4-byte fields at once. */
jal_status jal_graph_patch(jal_graph graph, const jal_patch *patch);

/* Ends the recording and checks it for every value up to `limits`, one for each of `count` values.
 * INVALID names the step and operand that touch memory of no buffer of the session. */
jal_status jal_graph_finish(jal_graph graph, const uint32_t *limits, size_t count);

/* Runs a finished graph on a queue of its session: one packet, one doorbell, nothing allocated, no
 * lock, no system call. INVALID for values beyond the limits; HANDLE once a buffer that it names was
 * freed (record anew); otherwise as jal_submit_one(). A failure's record has the packet's number + 1
 * in detail[3]. */
jal_status jal_graph_replay(jal_graph graph, jal_queue queue, const uint32_t *values, size_t count,
                            uint64_t *sequence);
/* The packet that runs it, to be given a cookie or a deadline and submitted, with others too. */
jal_status jal_graph_get_packet(jal_graph graph, const uint32_t *values, size_t count,
                                struct jalapeno_hw_packet *out);

/* ---- Logging -------------------------------------------------------------------------------- */

#define JAL_LOG_ERROR 1
#define JAL_LOG_WARN 2
#define JAL_LOG_INFO 3
#define JAL_LOG_DEBUG 4

/* Called from whichever thread is in the library; must not call into the library. */
typedef void (*jal_log_callback)(int level, const char *message, void *user);

/* Where log lines up to `level` go; a null callback: nowhere (the default). `user` must outlive its
 * use; a call under way may still reach the former callback. */
jal_status jal_set_log(int level, jal_log_callback callback, void *user);

/* ---- Packets -------------------------------------------------------------------------------- */

/* Builders for the commonest packets; every field can be filled in by hand instead. */

static inline struct jalapeno_hw_packet jal_packet(uint32_t opcode, uint32_t argument) {
    struct jalapeno_hw_packet packet = {0, 0, 0, {0, 0, 0, 0, 0}};
    packet.header = (uint64_t)opcode | (uint64_t)argument << 32;
    return packet;
}

static inline struct jalapeno_hw_packet jal_packet_nop(void) {
    return jal_packet(JALAPENO_HW_OPCODE_NOP, 0);
}

static inline struct jalapeno_hw_packet jal_packet_copy(uint64_t destination, uint64_t source,
                                                        uint64_t bytes) {
    struct jalapeno_hw_packet packet = jal_packet(JALAPENO_HW_OPCODE_COPY, 0);
    packet.body[0] = source;
    packet.body[1] = destination;
    packet.body[2] = bytes;
    return packet;
}

static inline struct jalapeno_hw_packet jal_packet_fill(uint64_t destination, uint64_t bytes,
                                                        uint64_t pattern) {
    struct jalapeno_hw_packet packet = jal_packet(JALAPENO_HW_OPCODE_FILL, 0);
    packet.body[0] = destination;
    packet.body[1] = bytes;
    packet.body[2] = pattern;
    return packet;
}

static inline struct jalapeno_hw_packet jal_packet_signal(uint64_t fence, uint64_t value) {
    struct jalapeno_hw_packet packet = jal_packet(JALAPENO_HW_OPCODE_SIGNAL, 0);
    packet.body[0] = fence;
    packet.body[1] = value;
    return packet;
}

/* Waits until the fence is at least `value`. */
static inline struct jalapeno_hw_packet jal_packet_wait(uint64_t fence, uint64_t value) {
    struct jalapeno_hw_packet packet =
        jal_packet(JALAPENO_HW_OPCODE_WAIT, JALAPENO_HW_WAIT_OP_AT_LEAST);
    packet.body[0] = fence;
    packet.body[1] = value;
    return packet;
}

/* Runs a kernel on an argument block: parameters, then `operands` tensors, destination first. */
static inline struct jalapeno_hw_packet jal_packet_launch(uint32_t kernel, uint64_t arguments,
                                                          uint32_t operands) {
    struct jalapeno_hw_packet packet = jal_packet(JALAPENO_HW_OPCODE_LAUNCH, kernel);
    packet.body[0] = arguments;
    packet.body[1] = 64u * (1u + (uint64_t)operands);
    return packet;
}

#ifdef __cplusplus
}
#endif

#endif /* JALAPENO_H */
