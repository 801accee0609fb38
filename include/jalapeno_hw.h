/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The Jalapeño host interface, version 1, for C99, C11, C++11 and the Linux kernel.
 *
 * Generated from libjalapeno/hw; do not edit. What the rows mean: docs/host-interface.md.
 *
 * _MASK stays in place: field = (value & MASK) >> SHIFT. A FEATURE is a bit number. Codes and bits
 * marked RESERVED are refused by devices of version 1.0. Everything is little-endian.
 */
#ifndef JALAPENO_HW_H
#define JALAPENO_HW_H

#ifdef __KERNEL__
#include <linux/stddef.h>
#include <linux/types.h>
#else
#include <stddef.h>
#include <stdint.h>
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the host interface is little-endian and its structures are used in place"
#endif

#if defined(__cplusplus)
#define JALAPENO_HW_ASSERT(condition) static_assert(condition, #condition)
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define JALAPENO_HW_ASSERT(condition) _Static_assert(condition, #condition)
#else
#define JALAPENO_HW_ASSERT(condition) extern char jalapeno_hw_assert[(condition) ? 1 : -1]
#endif

/* ---- PCI identity: every figure is ASSUMED --------------------------------------------------- */
/* PCI vendor id. ASSUMED. */
#define JALAPENO_HW_PCI_VENDOR 0xa1a0U
/* PCI device id. ASSUMED. */
#define JALAPENO_HW_PCI_DEVICE 0x1U
/* PCI revision. ASSUMED. */
#define JALAPENO_HW_PCI_REVISION 0x1U
/* Class code: processing accelerator. */
#define JALAPENO_HW_PCI_CLASS 0x120000U
/* Link generation: 5 is 32 GT/s. ASSUMED. */
#define JALAPENO_HW_PCI_LINK_GENERATION 0x5U
/* Link lanes. ASSUMED. */
#define JALAPENO_HW_PCI_LINK_LANES 0x10U

/* ---- A card's memory: every figure is ASSUMED ------------------------------------------------ */
/* HBM of a card in bytes: 216 GB, in whole large pages. ASSUMED. */
#define JALAPENO_HW_CARD_HBM_BYTES 0x324a800000ULL
/* HBM stacks of a card. ASSUMED. */
#define JALAPENO_HW_CARD_HBM_STACKS 0x6U

/* ---- BARs ------------------------------------------------------------------------------------ */
/* BAR number of the registers. */
#define JALAPENO_HW_BAR_REGISTERS 0x0U
/* BAR number of the doorbells. */
#define JALAPENO_HW_BAR_DOORBELLS 0x2U
/* BAR number of the HBM window. */
#define JALAPENO_HW_BAR_WINDOW 0x4U

/* ---- Limits of version 1 --------------------------------------------------------------------- */
/* Most queues any device of version 1 has. */
#define JALAPENO_HW_QUEUES_MAX 0x400U
/* Greatest log2 of a ring's packets. */
#define JALAPENO_HW_DEPTH_LOG2_MAX 0x10U
/* Most operands of a LAUNCH. */
#define JALAPENO_HW_OPERANDS_MAX 0x8U
/* Largest management input or result in bytes. */
#define JALAPENO_HW_MANAGE_BYTES_MAX 0x1000U
/* Most packets of a graph. */
#define JALAPENO_HW_GRAPH_PACKETS_MAX 0x4000U
/* Most bytes of a graph's image. */
#define JALAPENO_HW_GRAPH_BYTES_MAX 0x400000U
/* Values that an INDIRECT packet carries for patches. */
#define JALAPENO_HW_GRAPH_VALUES 0x6U
/* Device address of HBM's first byte; IOVAs end below it. */
#define JALAPENO_HW_HBM_BASE 0x100000000000000ULL
/* Highest IOVA. */
#define JALAPENO_HW_IOVA_LAST 0xffffffffffffULL

/* ---- Worst-case times in microseconds -------------------------------------------------------- */
/* Longest a queue or engine reset may take. Host interface 8.2. */
#define JALAPENO_HW_RESET_QUEUE_US 10000U
/* Longest a device reset may take. Host interface 8.2. */
#define JALAPENO_HW_RESET_DEVICE_US 100000U
/* Longest from reset to READY. Host interface 8.2. */
#define JALAPENO_HW_BOOT_US 1000000U
/* Longest between two heartbeats. Host interface 8.3. */
#define JALAPENO_HW_HEARTBEAT_US 100000U
/* Longest from CONTROL.quiesce to STATUS.idle. Host interface 8.1. */
#define JALAPENO_HW_QUIESCE_US 100000U
/* Longest a change of Q0_CONTROL takes. Host interface 5.2. */
#define JALAPENO_HW_QUEUE_US 10000U
/* Longest that realtime packets run before another band has a piece of work. Host interface
 * 5.10. */
#define JALAPENO_HW_REALTIME_BURST_US 10000U

/* ---- Places in BAR0, and what identity registers hold ---------------------------------------- */
/* BAR0's size in bytes. */
#define JALAPENO_HW_BAR0_BYTES 0x40000ULL
/* Registers fill this page; beyond the last register it reads zero. */
#define JALAPENO_HW_REGISTERS_BYTES 0x1000U
/* The capability records' page. */
#define JALAPENO_HW_CAPS_OFFSET 0x1000U
/* Size of the capability records' page. */
#define JALAPENO_HW_CAPS_BYTES 0x1000U
/* The device's fault log: the last records, kept across resets. */
#define JALAPENO_HW_FAULT_LOG_OFFSET 0x2000U
/* Records in the fault log. */
#define JALAPENO_HW_FAULT_LOG_RECORDS 0x10U
/* The telemetry page, on pages of its own so that it can be mapped. */
#define JALAPENO_HW_TELEMETRY_OFFSET 0x10000U
/* Size of the telemetry page. */
#define JALAPENO_HW_TELEMETRY_BYTES 0x4000U
/* The card's profile ring: the last records of all queues. */
#define JALAPENO_HW_PROFILE_OFFSET 0x18000U
/* Records in the card's profile ring. */
#define JALAPENO_HW_PROFILE_RECORDS 0x200U
/* MSI-X table. */
#define JALAPENO_HW_MSIX_TABLE_OFFSET 0x20000U
/* MSI-X pending bit array. */
#define JALAPENO_HW_MSIX_PBA_OFFSET 0x30000U
/* The value of MAGIC: the bytes `JALP`. */
#define JALAPENO_HW_MAGIC 0x504c414aU
/* The interface's major version: another one is refused. */
#define JALAPENO_HW_VERSION_MAJOR 0x1U
/* The interface's minor version: neighbours work together. */
#define JALAPENO_HW_VERSION_MINOR 0x0U

/* ---- Capability records ---------------------------------------------------------------------- */
/* CapHeader.flags: a driver that does not know this record must refuse the device. */
#define JALAPENO_HW_CAP_REQUIRED 0x1U

/* ---- The completion word --------------------------------------------------------------------- */
/* Bit 63 of the completion word: the queue stopped after the sequence number in bits 62:0. */
#define JALAPENO_HW_COMPLETION_STOPPED 0x8000000000000000ULL
/* Size and alignment of a completion line; the device writes only its first 8 bytes. */
#define JALAPENO_HW_COMPLETION_LINE_BYTES 0x40U

/* ---- Packets --------------------------------------------------------------------------------- */
/* Bytes of a packet. */
#define JALAPENO_HW_PACKET_BYTES 0x40U
/* Header bit 8: validity. Set on the ring's first lap, clear on the second, and so on. */
#define JALAPENO_HW_HEADER_VALID 0x100ULL
/* Header bits 7:0: the opcode. */
#define JALAPENO_HW_HEADER_OPCODE 0xffULL
/* Header bits 31:9 must be zero. */
#define JALAPENO_HW_HEADER_RESERVED 0xfffffe00ULL
/* Header bits 63:32: the argument, per opcode. */
#define JALAPENO_HW_HEADER_ARGUMENT_SHIFT 0x20U

/* ---- Fault records --------------------------------------------------------------------------- */
/* FaultRecord.flags bit 0: phase. In a queue's error ring it is 1 on the first lap, 0 on the
 * second, and so on; in the fault log it is always 1. */
#define JALAPENO_HW_FAULT_PHASE 0x1U
/* Bytes of a fault record. */
#define JALAPENO_HW_FAULT_RECORD_BYTES 0x100U
/* FaultRecord.queue when no queue is concerned. */
#define JALAPENO_HW_NO_QUEUE 0xffffffffU

/* ---- The telemetry page ---------------------------------------------------------------------- */
/* The value of TelemetryHeader.magic: the bytes `JTEL`. */
#define JALAPENO_HW_TELEMETRY_MAGIC 0x4c45544aU
/* Entries the page has room for. */
#define JALAPENO_HW_TELEMETRY_ENTRIES_MAX 0x1feU

/* ---- Profile rings --------------------------------------------------------------------------- */
/* Bytes of a profile record. */
#define JALAPENO_HW_PROFILE_RECORD_BYTES 0x40U
/* Milliseconds for which the card's ring is written after a read of PROFILE_COUNT. */
#define JALAPENO_HW_PROFILE_LEASE_MS 0x3e8U

/* ---- Registers in BAR0 ----------------------------------------------------------------------- */

/* RO, 32 bits, reset 0x504c414a. Reads 0x504C414A, the bytes JALP; anything else is not this
 * device. */
#define JALAPENO_HW_REG_MAGIC 0x000U

/* RO, 32 bits, reset 0x10000. Interface version. */
#define JALAPENO_HW_REG_VERSION 0x004U
/* Minor version; additions only. */
#define JALAPENO_HW_REG_VERSION_MINOR_SHIFT 0
#define JALAPENO_HW_REG_VERSION_MINOR_MASK 0xffffU
/* Major version; drivers refuse another one. */
#define JALAPENO_HW_REG_VERSION_MAJOR_SHIFT 16
#define JALAPENO_HW_REG_VERSION_MAJOR_MASK 0xffff0000U

/* RO, 32 bits. What kind of device answers: a Platform code. */
#define JALAPENO_HW_REG_PLATFORM 0x008U

/* RO, 32 bits, reset 0x1000. Byte offset in BAR0 of the first capability record. */
#define JALAPENO_HW_REG_CAPS 0x00cU

/* RO, 64 bits. Device UUID, bytes 0 to 7 (RFC 9562 order); the same after every reset and
 * reboot. */
#define JALAPENO_HW_REG_UUID_LOW 0x010U

/* RO, 64 bits. Device UUID, bytes 8 to 15. */
#define JALAPENO_HW_REG_UUID_HIGH 0x018U

/* RO, 64 bits. Board serial number. */
#define JALAPENO_HW_REG_SERIAL 0x020U

/* RO, 64 bits. Counts device resets of every kind since manufacture; a change ends every queue. */
#define JALAPENO_HW_REG_GENERATION 0x028U

/* RO, 64 bits. Differs at every start of the firmware. */
#define JALAPENO_HW_REG_BOOT_ID 0x030U

/* RO, 64 bits. Device time in ticks of the TIME capability; never goes back, also not at a
 * reset. */
#define JALAPENO_HW_REG_TIME 0x038U

/* RO, 64 bits. Feature bits the device offers. */
#define JALAPENO_HW_REG_FEATURES_OFFERED 0x040U

/* RW, 64 bits, reset 0x0. Feature bits the driver takes: a subset of those offered; others stay
 * clear. */
#define JALAPENO_HW_REG_FEATURES_ACCEPTED 0x048U

/* RW, 32 bits, reset 0x0. What the driver wants of the whole device. */
#define JALAPENO_HW_REG_CONTROL 0x080U
/* Finish or put back running packets, then touch no host memory; STATUS.idle answers. */
#define JALAPENO_HW_REG_CONTROL_QUIESCE_SHIFT 0
#define JALAPENO_HW_REG_CONTROL_QUIESCE_MASK 0x1U

/* RO, 32 bits, reset 0x1. What the device is doing. */
#define JALAPENO_HW_REG_STATUS 0x084U
/* A DeviceState code. */
#define JALAPENO_HW_REG_STATUS_STATE_SHIFT 0
#define JALAPENO_HW_REG_STATUS_STATE_MASK 0xfU
/* Quiesced, or no queue exists: no host memory will be touched. */
#define JALAPENO_HW_REG_STATUS_IDLE_SHIFT 4
#define JALAPENO_HW_REG_STATUS_IDLE_MASK 0x10U
/* The fault log holds a record that nobody acknowledged. */
#define JALAPENO_HW_REG_STATUS_FAULT_SHIFT 5
#define JALAPENO_HW_REG_STATUS_FAULT_MASK 0x20U

/* WO, 32 bits, reset 0x0. Starts a reset; ignored while RESET_STATUS.phase is PREPARING. */
#define JALAPENO_HW_REG_RESET 0x088U
/* A ResetLevel code: QUEUE, ENGINES or DEVICE. */
#define JALAPENO_HW_REG_RESET_LEVEL_SHIFT 0
#define JALAPENO_HW_REG_RESET_LEVEL_MASK 0xffU
/* The queue, for level QUEUE. */
#define JALAPENO_HW_REG_RESET_QUEUE_SHIFT 16
#define JALAPENO_HW_REG_RESET_QUEUE_MASK 0xffff0000U

/* RO, 32 bits. How the last reset went. */
#define JALAPENO_HW_REG_RESET_STATUS 0x08cU
/* A ResetPhase code. */
#define JALAPENO_HW_REG_RESET_STATUS_PHASE_SHIFT 0
#define JALAPENO_HW_REG_RESET_STATUS_PHASE_MASK 0xfU
/* The level asked for. */
#define JALAPENO_HW_REG_RESET_STATUS_LEVEL_SHIFT 4
#define JALAPENO_HW_REG_RESET_STATUS_LEVEL_MASK 0xff0U
/* The queue asked for. */
#define JALAPENO_HW_REG_RESET_STATUS_QUEUE_SHIFT 16
#define JALAPENO_HW_REG_RESET_STATUS_QUEUE_MASK 0xffff0000U

/* WO, 32 bits, reset 0x0. Rings a queue's doorbell again: the device reads the queue's doorbell
 * words anew. */
#define JALAPENO_HW_REG_KICK 0x090U
/* Queue number. */
#define JALAPENO_HW_REG_KICK_QUEUE_SHIFT 0
#define JALAPENO_HW_REG_KICK_QUEUE_MASK 0xffffU

/* RO, 32 bits. Advances at least once each HEARTBEAT_PERIOD while the firmware lives. */
#define JALAPENO_HW_REG_HEARTBEAT 0x094U

/* WO, 32 bits, reset 0x0. Starts a scrub of all HBM (writes zeros); ignored while one runs. */
#define JALAPENO_HW_REG_SCRUB 0x0a0U
/* Write 1 to start; every queue must be destroyed or the device quiesced. */
#define JALAPENO_HW_REG_SCRUB_START_SHIFT 0
#define JALAPENO_HW_REG_SCRUB_START_MASK 0x1U

/* RO, 32 bits, reset 0x0. How the last scrub went. */
#define JALAPENO_HW_REG_SCRUB_STATUS 0x0a4U
/* A ScrubPhase code. */
#define JALAPENO_HW_REG_SCRUB_STATUS_PHASE_SHIFT 0
#define JALAPENO_HW_REG_SCRUB_STATUS_PHASE_MASK 0xfU

/* RO, 64 bits. Completed scrubs of all HBM since manufacture: the proof that one happened. */
#define JALAPENO_HW_REG_SCRUB_COUNT 0x0a8U

/* RO, 64 bits. Records written to the card's profile ring since manufacture; reading it asks for
 * records. */
#define JALAPENO_HW_REG_PROFILE_COUNT 0x0b0U

/* RW, 64 bits, reset 0x0. IOVA of queue 0's submission ring, aligned to its size or 4 KiB,
 * whichever is less. */
#define JALAPENO_HW_REG_Q0_RING 0x100U

/* RW, 64 bits, reset 0x0. IOVA of queue 0's completion line, 64-byte aligned. */
#define JALAPENO_HW_REG_Q0_COMPLETION 0x108U

/* RW, 64 bits, reset 0x0. IOVA of queue 0's error ring, 256-byte aligned. */
#define JALAPENO_HW_REG_Q0_ERRORS 0x110U

/* RW, 32 bits, reset 0x0. Queue 0's sizes. */
#define JALAPENO_HW_REG_Q0_SIZE 0x118U
/* log2 of the submission ring's packets. */
#define JALAPENO_HW_REG_Q0_SIZE_DEPTH_LOG2_SHIFT 0
#define JALAPENO_HW_REG_Q0_SIZE_DEPTH_LOG2_MASK 0xffU
/* log2 of the error ring's records. */
#define JALAPENO_HW_REG_Q0_SIZE_ERRORS_LOG2_SHIFT 8
#define JALAPENO_HW_REG_Q0_SIZE_ERRORS_LOG2_MASK 0xff00U
/* Interrupt vector. */
#define JALAPENO_HW_REG_Q0_SIZE_VECTOR_SHIFT 16
#define JALAPENO_HW_REG_Q0_SIZE_VECTOR_MASK 0xffff0000U

/* RW, 32 bits, reset 0x0. Creates (1) or destroys (0) queue 0 from the registers above. */
#define JALAPENO_HW_REG_Q0_CONTROL 0x11cU
/* 1: exists. */
#define JALAPENO_HW_REG_Q0_CONTROL_ENABLE_SHIFT 0
#define JALAPENO_HW_REG_Q0_CONTROL_ENABLE_MASK 0x1U

/* RO, 32 bits, reset 0x0. What became of Q0_CONTROL. */
#define JALAPENO_HW_REG_Q0_STATUS 0x120U
/* A QueueState code. */
#define JALAPENO_HW_REG_Q0_STATUS_STATE_SHIFT 0
#define JALAPENO_HW_REG_Q0_STATUS_STATE_MASK 0xfU
/* The FaultCode for which a creation was refused; 0: none. */
#define JALAPENO_HW_REG_Q0_STATUS_CODE_SHIFT 16
#define JALAPENO_HW_REG_Q0_STATUS_CODE_MASK 0xffff0000U

/* RO, 64 bits. Fault records written to the log since manufacture; the newest stands at (count -
 * 1) mod 16. */
#define JALAPENO_HW_REG_FAULT_COUNT 0x180U

/* RW, 64 bits. The driver has read the log up to this count; STATUS.fault clears when it equals
 * FAULT_COUNT. */
#define JALAPENO_HW_REG_FAULT_ACK 0x188U

/* RO, 32 bits, reset 0x0. RESERVED for the boot and recovery mailbox, to 0x2FF. */
#define JALAPENO_HW_REG_MAILBOX 0x200U

/* ---- A queue's doorbell page in BAR2, at queue x stride -------------------------------------- */

/* RW, 32 bits, reset 0x0. Low 32 bits of the last submitted sequence number. */
#define JALAPENO_HW_DOORBELL_TAIL 0x000U

/* RW, 64 bits, reset 0x0. Interrupt once when the queue has completed this sequence number or
 * stops; 0: never. */
#define JALAPENO_HW_DOORBELL_ARM 0x008U

/* RW, 64 bits, reset 0x0. A stopped queue runs again from this sequence number once it exceeds
 * the one it stopped at. */
#define JALAPENO_HW_DOORBELL_RESUME 0x010U

/* What kind of device answers. */
enum jalapeno_hw_platform {
    /* A chip. Nothing has run on one yet. */
    JALAPENO_HW_PLATFORM_SILICON = 0x1,
    /* The reference device in software. */
    JALAPENO_HW_PLATFORM_EMULATOR = 0x2,
};

/* Feature bits, by bit number. */
enum jalapeno_hw_feature {
    /* ARM words raise interrupts. */
    JALAPENO_HW_FEATURE_ARM = 0x0,
    /* SCRUB works. */
    JALAPENO_HW_FEATURE_SCRUB = 0x1,
    /* Queues may have profile rings. */
    JALAPENO_HW_FEATURE_PROFILE = 0x2,
    /* INDIRECT works. */
    JALAPENO_HW_FEATURE_GRAPH = 0x3,
    /* Queues may have a priority band. */
    JALAPENO_HW_FEATURE_PRIORITY = 0x4,
    /* RESERVED. Peer access between cards. */
    JALAPENO_HW_FEATURE_PEER = 0x5,
    /* RESERVED. Signed firmware slots. */
    JALAPENO_HW_FEATURE_FIRMWARE = 0x6,
    /* RESERVED. Attestation. */
    JALAPENO_HW_FEATURE_ATTEST = 0x7,
};

/* The device's life. Host interface 8. */
enum jalapeno_hw_device_state {
    /* Firmware is starting; no queue can exist. */
    JALAPENO_HW_DEVICE_STATE_BOOTING = 0x0,
    /* Serving. */
    JALAPENO_HW_DEVICE_STATE_READY = 0x1,
    /* Serving with less: a fault asks for attention. */
    JALAPENO_HW_DEVICE_STATE_DEGRADED = 0x2,
    /* CONTROL.quiesce is set. */
    JALAPENO_HW_DEVICE_STATE_QUIESCING = 0x3,
    /* A reset runs. */
    JALAPENO_HW_DEVICE_STATE_RESETTING = 0x4,
    /* Resets failed; only a bus reset or a replacement helps. */
    JALAPENO_HW_DEVICE_STATE_WEDGED = 0x5,
};

/* Reset levels, from the smallest. */
enum jalapeno_hw_reset_level {
    /* One queue: its packets are cancelled, it stops and can be resumed. */
    JALAPENO_HW_RESET_LEVEL_QUEUE = 0x1,
    /* RESERVED. All queues of one client. */
    JALAPENO_HW_RESET_LEVEL_CLIENT = 0x2,
    /* All queues of the device. */
    JALAPENO_HW_RESET_LEVEL_ENGINES = 0x3,
    /* The device: queues are gone, generation + 1. HBM keeps its content. */
    JALAPENO_HW_RESET_LEVEL_DEVICE = 0x4,
    /* PCIe function level reset, by config space: as DEVICE, and PCI state too. */
    JALAPENO_HW_RESET_LEVEL_FUNCTION = 0x5,
    /* The bus. */
    JALAPENO_HW_RESET_LEVEL_BUS = 0x6,
};

/* How far a reset is. */
enum jalapeno_hw_reset_phase {
    /* No reset since power-on. */
    JALAPENO_HW_RESET_PHASE_IDLE = 0x0,
    /* Running: packets are being let go. */
    JALAPENO_HW_RESET_PHASE_PREPARING = 0x1,
    /* Done. */
    JALAPENO_HW_RESET_PHASE_DONE = 0x2,
    /* Failed: go one level up. */
    JALAPENO_HW_RESET_PHASE_FAILED = 0x3,
};

/* How far a scrub is. */
enum jalapeno_hw_scrub_phase {
    /* None asked for since the last reset. */
    JALAPENO_HW_SCRUB_PHASE_IDLE = 0x0,
    /* Running. */
    JALAPENO_HW_SCRUB_PHASE_RUNNING = 0x1,
    /* Done; SCRUB_COUNT has risen. */
    JALAPENO_HW_SCRUB_PHASE_DONE = 0x2,
    /* Failed: HBM may hold old content. */
    JALAPENO_HW_SCRUB_PHASE_FAILED = 0x3,
};

/* A queue's life. Host interface 5. */
enum jalapeno_hw_queue_state {
    /* Does not exist. */
    JALAPENO_HW_QUEUE_STATE_ABSENT = 0x0,
    /* Takes packets. */
    JALAPENO_HW_QUEUE_STATE_RUNNING = 0x1,
    /* A packet failed or the queue was reset; waits for RESUME. */
    JALAPENO_HW_QUEUE_STATE_STOPPED = 0x2,
    /* Its creation was refused; the code says why. */
    JALAPENO_HW_QUEUE_STATE_REFUSED = 0x3,
};

/* Whose packets go first. Host interface 5.10. */
enum jalapeno_hw_priority_band {
    /* Share 4. */
    JALAPENO_HW_PRIORITY_BAND_NORMAL = 0x0,
    /* Share 1. */
    JALAPENO_HW_PRIORITY_BAND_LOW = 0x1,
    /* Share 8. */
    JALAPENO_HW_PRIORITY_BAND_HIGH = 0x2,
    /* Before all others: it interrupts their packets. */
    JALAPENO_HW_PRIORITY_BAND_REALTIME = 0x3,
};

/* Capability records. */
enum jalapeno_hw_cap_id {
    /* Ends the chain. */
    JALAPENO_HW_CAP_ID_END = 0x0,
    /* Queues and doorbells. */
    JALAPENO_HW_CAP_ID_QUEUES = 0x1,
    /* HBM and its window. */
    JALAPENO_HW_CAP_ID_MEMORY = 0x2,
    /* Host addresses the device can form. */
    JALAPENO_HW_CAP_ID_IOVA = 0x3,
    /* Clock and worst-case times. */
    JALAPENO_HW_CAP_ID_TIME = 0x4,
    /* The telemetry page. */
    JALAPENO_HW_CAP_ID_TELEMETRY = 0x5,
    /* The fault log. */
    JALAPENO_HW_CAP_ID_FAULTS = 0x6,
    /* The kernel library. */
    JALAPENO_HW_CAP_ID_KERNELS = 0x7,
    /* The product's name. */
    JALAPENO_HW_CAP_ID_PRODUCT = 0x8,
    /* RESERVED. Firmware slots. */
    JALAPENO_HW_CAP_ID_FIRMWARE = 0x20,
    /* The card's profile ring. */
    JALAPENO_HW_CAP_ID_PROFILE = 0x21,
    /* RESERVED. Recorded graphs. */
    JALAPENO_HW_CAP_ID_GRAPH = 0x22,
    /* RESERVED. Priority bands. */
    JALAPENO_HW_CAP_ID_PRIORITY = 0x23,
    /* RESERVED. Peer windows. */
    JALAPENO_HW_CAP_ID_PEER = 0x24,
    /* RESERVED. Attestation. */
    JALAPENO_HW_CAP_ID_ATTEST = 0x25,
};

/* What a packet asks for. */
enum jalapeno_hw_opcode {
    /* Nothing. */
    JALAPENO_HW_OPCODE_NOP = 0x1,
    /* Copy bytes. */
    JALAPENO_HW_OPCODE_COPY = 0x2,
    /* Copy rows of bytes. */
    JALAPENO_HW_OPCODE_COPY_STRIDED = 0x3,
    /* Fill memory with a pattern. */
    JALAPENO_HW_OPCODE_FILL = 0x4,
    /* Raise a timeline fence. */
    JALAPENO_HW_OPCODE_SIGNAL = 0x5,
    /* Wait for a timeline fence. */
    JALAPENO_HW_OPCODE_WAIT = 0x6,
    /* Store device time and energy. */
    JALAPENO_HW_OPCODE_TIMESTAMP = 0x7,
    /* Run a kernel. */
    JALAPENO_HW_OPCODE_LAUNCH = 0x8,
    /* Make everything written so far visible to all before what follows starts. */
    JALAPENO_HW_OPCODE_BARRIER = 0x9,
    /* Run a recorded graph. */
    JALAPENO_HW_OPCODE_INDIRECT = 0xa,
    /* RESERVED. Run a graph that the device keeps. */
    JALAPENO_HW_OPCODE_REPLAY = 0xb,
    /* A management command; queue 0 only. */
    JALAPENO_HW_OPCODE_MANAGE = 0x10,
};

/* How WAIT compares. */
enum jalapeno_hw_wait_op {
    /* The fence equals the value. */
    JALAPENO_HW_WAIT_OP_EQUAL = 0x0,
    /* The fence is at least the value. */
    JALAPENO_HW_WAIT_OP_AT_LEAST = 0x1,
};

/* Management commands. */
enum jalapeno_hw_command {
    /* Creates a queue. Input QueueCreate. */
    JALAPENO_HW_COMMAND_QUEUE_CREATE = 0x1,
    /* Destroys a queue: after completion the device never touches its memory. Input QueueName. */
    JALAPENO_HW_COMMAND_QUEUE_DESTROY = 0x2,
    /* Reports on a queue. Input QueueName, result QueueReport. */
    JALAPENO_HW_COMMAND_QUEUE_QUERY = 0x3,
    /* RESERVED. Telemetry refresh interval. */
    JALAPENO_HW_COMMAND_TELEMETRY_RATE = 0x10,
    /* RESERVED. Power limit. */
    JALAPENO_HW_COMMAND_POWER_CAP = 0x11,
    /* RESERVED. Clock limit. */
    JALAPENO_HW_COMMAND_CLOCK_LIMIT = 0x12,
    /* RESERVED. Firmware slots. */
    JALAPENO_HW_COMMAND_FIRMWARE_LIST = 0x20,
    /* RESERVED. Writes a firmware image. */
    JALAPENO_HW_COMMAND_FIRMWARE_WRITE = 0x21,
    /* RESERVED. Selects the slot of the next boot. */
    JALAPENO_HW_COMMAND_FIRMWARE_ACTIVATE = 0x22,
    /* RESERVED. Records a graph. */
    JALAPENO_HW_COMMAND_GRAPH_RECORD = 0x30,
    /* RESERVED. Forgets a graph. */
    JALAPENO_HW_COMMAND_GRAPH_FORGET = 0x31,
    /* RESERVED. Scrubs an HBM range. */
    JALAPENO_HW_COMMAND_SCRUB_RANGE = 0x40,
    /* RESERVED. Maps a peer's HBM. */
    JALAPENO_HW_COMMAND_PEER_MAP = 0x50,
    /* RESERVED. Attestation report. */
    JALAPENO_HW_COMMAND_ATTEST = 0x60,
};

/* Kernels that LAUNCH names. Operand 0 is the destination. */
enum jalapeno_hw_kernel_id {
    /* Rows of a table by index. */
    JALAPENO_HW_KERNEL_ID_GET_ROWS = 0x1,
    /* Stores rows at indices. */
    JALAPENO_HW_KERNEL_ID_SET_ROWS = 0x2,
    /* Matrix product, weights by activations, broadcast over grouped heads. */
    JALAPENO_HW_KERNEL_ID_MUL_MAT = 0x3,
    /* Root mean square normalisation of rows. */
    JALAPENO_HW_KERNEL_ID_RMS_NORM = 0x4,
    /* Rotary position embedding. */
    JALAPENO_HW_KERNEL_ID_ROPE = 0x5,
    /* Soft-max of rows, with scale and mask. */
    JALAPENO_HW_KERNEL_ID_SOFT_MAX = 0x6,
    /* Sum, broadcast. */
    JALAPENO_HW_KERNEL_ID_ADD = 0x7,
    /* Product, broadcast. */
    JALAPENO_HW_KERNEL_ID_MUL = 0x8,
    /* Scale and bias. */
    JALAPENO_HW_KERNEL_ID_SCALE = 0x9,
    /* x times its sigmoid. */
    JALAPENO_HW_KERNEL_ID_SILU = 0xa,
    /* SILU of one half (or operand) times the other. */
    JALAPENO_HW_KERNEL_ID_SWIGLU = 0xb,
    /* Copy with conversion between types, shapes and strides. */
    JALAPENO_HW_KERNEL_ID_COPY = 0xc,
    /* Index of each row's largest element. */
    JALAPENO_HW_KERNEL_ID_ARGMAX = 0xd,
    /* GELU-gated linear unit. */
    JALAPENO_HW_KERNEL_ID_GEGLU = 0xe,
    /* Matrix product with experts chosen by index. */
    JALAPENO_HW_KERNEL_ID_MUL_MAT_ID = 0xf,
    /* Indices that sort each row. */
    JALAPENO_HW_KERNEL_ID_ARGSORT = 0x10,
    /* Indices of each row's k largest. */
    JALAPENO_HW_KERNEL_ID_TOP_K = 0x11,
    /* Sum of each row. */
    JALAPENO_HW_KERNEL_ID_SUM_ROWS = 0x12,
    /* Quotient, broadcast. */
    JALAPENO_HW_KERNEL_ID_DIV = 0x13,
    /* Attention as one kernel. */
    JALAPENO_HW_KERNEL_ID_ATTENTION = 0x14,
    /* Difference, broadcast. */
    JALAPENO_HW_KERNEL_ID_SUB = 0x15,
    /* RESERVED. Sum over cards. */
    JALAPENO_HW_KERNEL_ID_ALL_REDUCE = 0x16,
    /* Draws a token from logits. */
    JALAPENO_HW_KERNEL_ID_SAMPLE = 0x17,
    /* Held between two bounds. */
    JALAPENO_HW_KERNEL_ID_CLAMP = 0x18,
};

/* Element types; the numbers are those of GGUF files. */
enum jalapeno_hw_dtype {
    /* IEEE 754 binary32. */
    JALAPENO_HW_DTYPE_F32 = 0x0,
    /* IEEE 754 binary16. */
    JALAPENO_HW_DTYPE_F16 = 0x1,
    /* Blocks of 32 in 4 bits. */
    JALAPENO_HW_DTYPE_Q4_0 = 0x2,
    /* Blocks of 32 in 8 bits. */
    JALAPENO_HW_DTYPE_Q8_0 = 0x8,
    /* Super-blocks of 256 in 4 bits. */
    JALAPENO_HW_DTYPE_Q4_K = 0xc,
    /* Super-blocks of 256 in 6 bits. */
    JALAPENO_HW_DTYPE_Q6_K = 0xe,
    /* 32-bit signed integers. */
    JALAPENO_HW_DTYPE_I32 = 0x1a,
    /* 64-bit signed integers. */
    JALAPENO_HW_DTYPE_I64 = 0x1b,
    /* bfloat16. */
    JALAPENO_HW_DTYPE_BF16 = 0x1e,
};

/* How bad. */
enum jalapeno_hw_severity {
    /* Worth knowing. */
    JALAPENO_HW_SEVERITY_INFO = 0x0,
    /* Corrected, or soon to matter. */
    JALAPENO_HW_SEVERITY_WARNING = 0x1,
    /* A job failed. */
    JALAPENO_HW_SEVERITY_ERROR = 0x2,
    /* The device stopped serving. */
    JALAPENO_HW_SEVERITY_FATAL = 0x3,
};

/* What is concerned. */
enum jalapeno_hw_scope {
    /* One packet. */
    JALAPENO_HW_SCOPE_JOB = 0x0,
    /* One queue. */
    JALAPENO_HW_SCOPE_QUEUE = 0x1,
    /* One client. */
    JALAPENO_HW_SCOPE_CLIENT = 0x2,
    /* The device. */
    JALAPENO_HW_SCOPE_DEVICE = 0x3,
    /* The host: link, memory, driver. */
    JALAPENO_HW_SCOPE_HOST = 0x4,
};

/* What to do. */
enum jalapeno_hw_action {
    /* Nothing. */
    JALAPENO_HW_ACTION_NONE = 0x0,
    /* Submit again. */
    JALAPENO_HW_ACTION_RETRY = 0x1,
    /* Mend the request, then resume the queue. */
    JALAPENO_HW_ACTION_RESTART_QUEUE = 0x2,
    /* Reset the device. */
    JALAPENO_HW_ACTION_RESET_DEVICE = 0x3,
    /* Unbind and bind the driver. */
    JALAPENO_HW_ACTION_REBIND = 0x4,
    /* Update the firmware. */
    JALAPENO_HW_ACTION_UPDATE_FIRMWARE = 0x5,
    /* Reboot the host. */
    JALAPENO_HW_ACTION_REBOOT = 0x6,
    /* Replace the card. */
    JALAPENO_HW_ACTION_REPLACE = 0x7,
};

/* Where faults come from; the high byte of a code. */
enum jalapeno_hw_fault_class {
    /* A packet that asks for what cannot be. */
    JALAPENO_HW_FAULT_CLASS_PACKET = 0x1,
    /* An access to memory. */
    JALAPENO_HW_FAULT_CLASS_MEMORY = 0x2,
    /* Time ran out. */
    JALAPENO_HW_FAULT_CLASS_TIME = 0x3,
    /* A queue's rings or doorbells. */
    JALAPENO_HW_FAULT_CLASS_QUEUE = 0x4,
    /* Heat and power. */
    JALAPENO_HW_FAULT_CLASS_POWER = 0x5,
    /* Firmware. */
    JALAPENO_HW_FAULT_CLASS_FIRMWARE = 0x6,
    /* PCIe link. */
    JALAPENO_HW_FAULT_CLASS_LINK = 0x7,
    /* The device as a whole. */
    JALAPENO_HW_FAULT_CLASS_DEVICE = 0x8,
    /* What the driver saw the device do against this specification. */
    JALAPENO_HW_FAULT_CLASS_PROTOCOL = 0xf,
};

/* Every fault, by stable number. */
enum jalapeno_hw_fault_code {
    /* The opcode is unknown or reserved. detail[0]: the header. */
    JALAPENO_HW_FAULT_CODE_UNKNOWN_OPCODE = 0x101,
    /* A field that must be zero is not. detail[0]: its byte offset; detail[2]: 0 in the packet,
     * 1 in its input or argument block. */
    JALAPENO_HW_FAULT_CODE_RESERVED_FIELD = 0x102,
    /* A parameter is outside its range. detail[0]: its byte offset; detail[1]: its value;
     * detail[2]: 0 in the packet, 1 in its input or argument block. */
    JALAPENO_HW_FAULT_CODE_BAD_PARAMETER = 0x103,
    /* A management packet on a queue other than 0, or what the device's state forbids now.
     * detail[0]: the DeviceState. Or a packet that no graph may hold. */
    JALAPENO_HW_FAULT_CODE_NOT_PERMITTED = 0x104,
    /* The kernel is unknown or reserved. */
    JALAPENO_HW_FAULT_CODE_UNKNOWN_KERNEL = 0x105,
    /* The argument block's length does not fit its kernel. detail[0]: operands found; detail[1]:
     * wanted. */
    JALAPENO_HW_FAULT_CODE_BAD_ARGUMENTS = 0x106,
    /* An operand's type does not fit the kernel. detail[0]: the type. */
    JALAPENO_HW_FAULT_CODE_BAD_TYPE = 0x107,
    /* Operands' shapes do not fit each other. detail[0]: the dimension; detail[1], [2]: the
     * sizes. */
    JALAPENO_HW_FAULT_CODE_BAD_SHAPE = 0x108,
    /* A stride is misaligned, too small, or leaves the address space. detail[0]: the dimension;
     * detail[1]: the stride. */
    JALAPENO_HW_FAULT_CODE_BAD_STRIDE = 0x109,
    /* A row index is outside its table. detail[0]: the index; detail[1]: the rows there are. */
    JALAPENO_HW_FAULT_CODE_INDEX_RANGE = 0x10a,
    /* Source and destination overlap where they must not. */
    JALAPENO_HW_FAULT_CODE_OVERLAP = 0x10b,
    /* The management command is unknown or reserved. detail[0]: the command. */
    JALAPENO_HW_FAULT_CODE_UNKNOWN_COMMAND = 0x10c,
    /* The result is longer than the room given; nothing was written. detail[0]: its length. */
    JALAPENO_HW_FAULT_CODE_RESULT_ROOM = 0x10d,
    /* The queue exists already, or does not exist. detail[0]: the queue. */
    JALAPENO_HW_FAULT_CODE_BAD_QUEUE = 0x10e,
    /* A read of an address that nobody mapped; address says which. */
    JALAPENO_HW_FAULT_CODE_UNMAPPED_READ = 0x201,
    /* A write to an address that nobody mapped; address says which. */
    JALAPENO_HW_FAULT_CODE_UNMAPPED_WRITE = 0x202,
    /* A write through a mapping that only permits reads. */
    JALAPENO_HW_FAULT_CODE_READ_ONLY = 0x203,
    /* An address is not aligned as the packet requires. detail[0]: the byte offset of its field. */
    JALAPENO_HW_FAULT_CODE_MISALIGNED = 0x204,
    /* HBM has no page left to back the write (emulator: its limit on resident memory). */
    JALAPENO_HW_FAULT_CODE_HBM_EXHAUSTED = 0x205,
    /* Bus mastering is off: the device may not touch host memory. */
    JALAPENO_HW_FAULT_CODE_BUS_MASTER_OFF = 0x206,
    /* The host took away or broke memory that is mapped. */
    JALAPENO_HW_FAULT_CODE_HOST_MEMORY = 0x207,
    /* An HBM error was corrected. detail[0]: stack; detail[1]: page. */
    JALAPENO_HW_FAULT_CODE_ECC_CORRECTED = 0x210,
    /* An HBM error could not be corrected; the job that read it failed. detail as above. */
    JALAPENO_HW_FAULT_CODE_ECC_UNCORRECTED = 0x211,
    /* An uncorrected error that could not be contained to a job. */
    JALAPENO_HW_FAULT_CODE_ECC_UNCONTAINED = 0x212,
    /* A page was retired or waits for it. detail[0]: page; detail[1]: 0 done, 1 pending. */
    JALAPENO_HW_FAULT_CODE_PAGE_RETIRED = 0x213,
    /* The packet's deadline passed before it was done. */
    JALAPENO_HW_FAULT_CODE_DEADLINE = 0x301,
    /* An engine stopped making progress. */
    JALAPENO_HW_FAULT_CODE_ENGINE_HANG = 0x302,
    /* The firmware's heartbeat stands still. */
    JALAPENO_HW_FAULT_CODE_HEARTBEAT_LOST = 0x303,
    /* TAIL lies further ahead than the ring is long. detail[0]: TAIL; detail[1]: completed. */
    JALAPENO_HW_FAULT_CODE_BAD_DOORBELL = 0x401,
    /* A packet below TAIL has the wrong validity bit. detail[0]: its header. */
    JALAPENO_HW_FAULT_CODE_BAD_VALIDITY = 0x402,
    /* A queue's sizes, alignment or vector are not possible. detail[0]: byte offset in
     * QueueCreate. */
    JALAPENO_HW_FAULT_CODE_BAD_QUEUE_SHAPE = 0x403,
    /* The queue was reset; its packets are cancelled. */
    JALAPENO_HW_FAULT_CODE_QUEUE_RESET = 0x404,
    /* Records' indices have a gap: some were overwritten unread. detail[0]: records lost. */
    JALAPENO_HW_FAULT_CODE_ERRORS_LOST = 0x405,
    /* Clocks were lowered because the device is hot. detail[0]: temperature in thousandths. */
    JALAPENO_HW_FAULT_CODE_THROTTLE_THERMAL = 0x501,
    /* The device shut its engines down because it is too hot. */
    JALAPENO_HW_FAULT_CODE_SHUTDOWN_THERMAL = 0x502,
    /* Input power sagged. */
    JALAPENO_HW_FAULT_CODE_BROWNOUT = 0x503,
    /* Clocks were lowered to hold the power limit. */
    JALAPENO_HW_FAULT_CODE_THROTTLE_POWER = 0x504,
    /* The firmware crashed. */
    JALAPENO_HW_FAULT_CODE_FIRMWARE_CRASH = 0x601,
    /* The firmware restarted by itself: BOOT_ID changed. */
    JALAPENO_HW_FAULT_CODE_FIRMWARE_RESTART = 0x602,
    /* The link runs slower or narrower than it could. detail[0]: speed; detail[1]: lanes. */
    JALAPENO_HW_FAULT_CODE_LINK_DEGRADED = 0x701,
    /* PCIe reported an error. detail[0]: AER status. */
    JALAPENO_HW_FAULT_CODE_LINK_ERROR = 0x702,
    /* The device was reset: every queue and mapping of the old generation is gone. */
    JALAPENO_HW_FAULT_CODE_DEVICE_RESET = 0x801,
    /* A reset failed or overran its time. */
    JALAPENO_HW_FAULT_CODE_RESET_FAILED = 0x802,
    /* The device no longer answers. */
    JALAPENO_HW_FAULT_CODE_DEVICE_LOST = 0x803,
    /* Resets keep failing. */
    JALAPENO_HW_FAULT_CODE_WEDGED = 0x804,
    /* A completion went backwards. detail[0]: seen; detail[1]: before. */
    JALAPENO_HW_FAULT_CODE_SEQUENCE_BACKWARDS = 0xf01,
    /* A completion lies beyond what was submitted. detail[0]: seen; detail[1]: submitted. */
    JALAPENO_HW_FAULT_CODE_SEQUENCE_BEYOND = 0xf02,
    /* An error record names a packet that was not in flight. detail[0]: its sequence. */
    JALAPENO_HW_FAULT_CODE_RECORD_STRAY = 0xf03,
    /* An error record belongs to an earlier lap or generation. */
    JALAPENO_HW_FAULT_CODE_RECORD_STALE = 0xf04,
    /* An error record's CRC or form is wrong. */
    JALAPENO_HW_FAULT_CODE_RECORD_CORRUPT = 0xf05,
    /* The queue stopped and no error record says why. */
    JALAPENO_HW_FAULT_CODE_RECORD_MISSING = 0xf06,
    /* A register or capability record holds what the specification rules out. */
    JALAPENO_HW_FAULT_CODE_BAD_DISCOVERY = 0xf07,
    /* An interrupt did not come; polling found the work done. */
    JALAPENO_HW_FAULT_CODE_INTERRUPT_MISSING = 0xf08,
    /* A doorbell was lost; ringing again helped. */
    JALAPENO_HW_FAULT_CODE_DOORBELL_LOST = 0xf09,
};

/* Whether an entry's value counts. */
enum jalapeno_hw_telemetry_status {
    /* It does. */
    JALAPENO_HW_TELEMETRY_STATUS_VALID = 0x0,
    /* This device has no such sensor. */
    JALAPENO_HW_TELEMETRY_STATUS_UNSUPPORTED = 0x1,
    /* There is none right now. */
    JALAPENO_HW_TELEMETRY_STATUS_NO_DATA = 0x2,
};

/* Units. */
enum jalapeno_hw_telemetry_unit {
    /* A plain count. */
    JALAPENO_HW_TELEMETRY_UNIT_COUNT = 0x0,
    /* Thousandths of a degree Celsius, signed. */
    JALAPENO_HW_TELEMETRY_UNIT_MILLI_CELSIUS = 0x1,
    /* Thousandths of a watt. */
    JALAPENO_HW_TELEMETRY_UNIT_MILLI_WATT = 0x2,
    /* Millionths of a joule; monotonic. */
    JALAPENO_HW_TELEMETRY_UNIT_MICRO_JOULE = 0x3,
    /* Kilohertz. */
    JALAPENO_HW_TELEMETRY_UNIT_KILO_HERTZ = 0x4,
    /* Bytes. */
    JALAPENO_HW_TELEMETRY_UNIT_BYTE = 0x5,
    /* Thousandths of the whole, 0 to 1000. */
    JALAPENO_HW_TELEMETRY_UNIT_PER_MILLE = 0x6,
    /* Nanoseconds. */
    JALAPENO_HW_TELEMETRY_UNIT_NANO_SECOND = 0x7,
    /* Megatransfers a second. */
    JALAPENO_HW_TELEMETRY_UNIT_MEGA_TRANSFER = 0x8,
    /* Bits to be looked at one by one. */
    JALAPENO_HW_TELEMETRY_UNIT_BITS = 0x9,
};

/* What can be measured. */
enum jalapeno_hw_telemetry_field {
    /* Temperature of the compute die. */
    JALAPENO_HW_TELEMETRY_FIELD_DIE_TEMPERATURE = 0x1,
    /* Temperature of an HBM stack. */
    JALAPENO_HW_TELEMETRY_FIELD_HBM_TEMPERATURE = 0x2,
    /* Temperature at which clocks are lowered. */
    JALAPENO_HW_TELEMETRY_FIELD_THROTTLE_TEMPERATURE = 0x3,
    /* Temperature at which the device shuts down. */
    JALAPENO_HW_TELEMETRY_FIELD_SHUTDOWN_TEMPERATURE = 0x4,
    /* Power now, averaged over the last refresh interval. */
    JALAPENO_HW_TELEMETRY_FIELD_POWER = 0x5,
    /* Power limit in force. */
    JALAPENO_HW_TELEMETRY_FIELD_POWER_LIMIT = 0x6,
    /* Energy since manufacture. */
    JALAPENO_HW_TELEMETRY_FIELD_ENERGY = 0x7,
    /* Compute clock now. */
    JALAPENO_HW_TELEMETRY_FIELD_COMPUTE_CLOCK = 0x8,
    /* Highest compute clock. */
    JALAPENO_HW_TELEMETRY_FIELD_COMPUTE_CLOCK_LIMIT = 0x9,
    /* HBM clock now. */
    JALAPENO_HW_TELEMETRY_FIELD_HBM_CLOCK = 0xa,
    /* Throttle events; instance: 0 thermal, 1 power, 2 external. */
    JALAPENO_HW_TELEMETRY_FIELD_THROTTLE_COUNT = 0xb,
    /* Time spent throttled; instance as above. */
    JALAPENO_HW_TELEMETRY_FIELD_THROTTLE_TIME = 0xc,
    /* Utilisation of an engine over the last refresh interval; instance: 0 compute, 1 copy. */
    JALAPENO_HW_TELEMETRY_FIELD_UTILISATION = 0xd,
    /* HBM used: resident bytes. */
    JALAPENO_HW_TELEMETRY_FIELD_HBM_USED = 0xe,
    /* HBM in all. */
    JALAPENO_HW_TELEMETRY_FIELD_HBM_TOTAL = 0xf,
    /* ECC errors corrected; instance: stack. */
    JALAPENO_HW_TELEMETRY_FIELD_ECC_CORRECTED = 0x10,
    /* ECC errors not corrected; instance: stack. */
    JALAPENO_HW_TELEMETRY_FIELD_ECC_UNCORRECTED = 0x11,
    /* Retired HBM pages. */
    JALAPENO_HW_TELEMETRY_FIELD_RETIRED_PAGES = 0x12,
    /* PCIe link speed. */
    JALAPENO_HW_TELEMETRY_FIELD_LINK_SPEED = 0x13,
    /* PCIe lanes. */
    JALAPENO_HW_TELEMETRY_FIELD_LINK_WIDTH = 0x14,
    /* PCIe replays. */
    JALAPENO_HW_TELEMETRY_FIELD_LINK_REPLAYS = 0x15,
    /* Packets completed since reset; instance: queue. */
    JALAPENO_HW_TELEMETRY_FIELD_QUEUE_COMPLETED = 0x16,
    /* Packets failed since reset; instance: queue. */
    JALAPENO_HW_TELEMETRY_FIELD_QUEUE_FAILED = 0x17,
    /* The heartbeat. */
    JALAPENO_HW_TELEMETRY_FIELD_HEARTBEAT = 0x18,
    /* A DeviceState code. */
    JALAPENO_HW_TELEMETRY_FIELD_STATE = 0x19,
    /* Kernel operations since manufacture (a multiply-add counts two). */
    JALAPENO_HW_TELEMETRY_FIELD_OPERATIONS = 0x1a,
    /* Bytes read and written by packets since manufacture. */
    JALAPENO_HW_TELEMETRY_FIELD_BYTES_MOVED = 0x1b,
    /* Fault records since manufacture. */
    JALAPENO_HW_TELEMETRY_FIELD_FAULTS = 0x1c,
    /* Scrubs of all HBM since manufacture. */
    JALAPENO_HW_TELEMETRY_FIELD_SCRUBS = 0x1d,
};

/* How a packet of a profile record ended. */
enum jalapeno_hw_profile_status {
    /* It is done. */
    JALAPENO_HW_PROFILE_STATUS_DONE = 0x0,
    /* It failed; the error ring says why. */
    JALAPENO_HW_PROFILE_STATUS_FAILED = 0x1,
};

/* What every record begins with. */
struct jalapeno_hw_cap_header {
    /* 0x00: A CapId; 0 ends the chain. */
    uint16_t id;
    /* 0x02: Version of the record; later versions only append. */
    uint16_t version;
    /* 0x04: Bytes of the record with this header; a multiple of 8, at least 8. */
    uint16_t bytes;
    /* 0x06: CAP_REQUIRED; other bits zero. */
    uint16_t flags;
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_cap_header) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_header, id) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_header, version) == 0x2);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_header, bytes) == 0x4);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_header, flags) == 0x6);

/* QUEUES, version 1, REQUIRED. */
struct jalapeno_hw_cap_queues {
    /* 0x00: id 1. */
    struct jalapeno_hw_cap_header header;
    /* 0x08: Queues, queue 0 included. */
    uint32_t count;
    /* 0x0c: Bytes from one doorbell page to the next in BAR2: 4 KiB or 64 KiB. */
    uint32_t doorbell_stride;
    /* 0x10: Least log2 of a ring's packets. */
    uint8_t depth_log2_min;
    /* 0x11: Greatest log2 of a ring's packets. */
    uint8_t depth_log2_max;
    /* 0x12: Greatest log2 of an error ring's records; the least is 0. */
    uint8_t errors_log2_max;
    /* 0x13: Zero. */
    uint8_t reserved;
    /* 0x14: Interrupt vectors the device has. */
    uint32_t vectors;
    /* 0x18: Zero. */
    uint64_t reserved2;
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_cap_queues) == 0x20);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_queues, header) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_queues, count) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_queues, doorbell_stride) == 0xc);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_queues, depth_log2_min) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_queues, depth_log2_max) == 0x11);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_queues, errors_log2_max) == 0x12);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_queues, reserved) == 0x13);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_queues, vectors) == 0x14);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_queues, reserved2) == 0x18);

/* MEMORY, version 1, REQUIRED. */
struct jalapeno_hw_cap_memory {
    /* 0x00: id 2. */
    struct jalapeno_hw_cap_header header;
    /* 0x08: Device address of HBM's first byte. */
    uint64_t hbm_base;
    /* 0x10: Bytes of HBM. */
    uint64_t hbm_bytes;
    /* 0x18: Offset in HBM of BAR4's first byte; the window's size is BAR4's. */
    uint64_t window_offset;
    /* 0x20: Bytes of a small page: 64 KiB. */
    uint32_t small_page;
    /* 0x24: Bytes of a large page: 2 MiB. */
    uint32_t large_page;
    /* 0x28: HBM stacks. */
    uint32_t stacks;
    /* 0x2c: Zero. */
    uint32_t reserved;
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_cap_memory) == 0x30);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_memory, header) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_memory, hbm_base) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_memory, hbm_bytes) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_memory, window_offset) == 0x18);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_memory, small_page) == 0x20);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_memory, large_page) == 0x24);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_memory, stacks) == 0x28);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_memory, reserved) == 0x2c);

/* IOVA, version 1, REQUIRED. */
struct jalapeno_hw_cap_iova {
    /* 0x00: id 3. */
    struct jalapeno_hw_cap_header header;
    /* 0x08: Highest IOVA the device can form. */
    uint64_t last;
    /* 0x10: Zero. */
    uint64_t reserved;
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_cap_iova) == 0x18);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_iova, header) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_iova, last) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_iova, reserved) == 0x10);

/* TIME, version 1, REQUIRED. */
struct jalapeno_hw_cap_time {
    /* 0x00: id 4. */
    struct jalapeno_hw_cap_header header;
    /* 0x08: Ticks of device time a second. */
    uint64_t ticks_per_second;
    /* 0x10: Longest a reset of a queue or the engines takes, in microseconds. */
    uint32_t reset_queue_us;
    /* 0x14: Longest a device reset takes, in microseconds. */
    uint32_t reset_device_us;
    /* 0x18: Longest between two heartbeats, in microseconds. */
    uint32_t heartbeat_us;
    /* 0x1c: Longest a quiesce takes, in microseconds. */
    uint32_t quiesce_us;
    /* 0x20: Longest a full scrub takes, in microseconds. */
    uint32_t scrub_us;
    /* 0x24: Longest from power-on or reset to READY, in microseconds. */
    uint32_t boot_us;
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_cap_time) == 0x28);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_time, header) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_time, ticks_per_second) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_time, reset_queue_us) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_time, reset_device_us) == 0x14);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_time, heartbeat_us) == 0x18);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_time, quiesce_us) == 0x1c);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_time, scrub_us) == 0x20);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_time, boot_us) == 0x24);

/* TELEMETRY, version 1. */
struct jalapeno_hw_cap_telemetry {
    /* 0x00: id 5. */
    struct jalapeno_hw_cap_header header;
    /* 0x08: Offset in BAR0. */
    uint32_t offset;
    /* 0x0c: Bytes. */
    uint32_t bytes;
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_cap_telemetry) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_telemetry, header) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_telemetry, offset) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_telemetry, bytes) == 0xc);

/* FAULTS, version 1. */
struct jalapeno_hw_cap_faults {
    /* 0x00: id 6. */
    struct jalapeno_hw_cap_header header;
    /* 0x08: Offset in BAR0 of the log. */
    uint32_t offset;
    /* 0x0c: Records in the log. */
    uint32_t records;
    /* 0x10: Bytes of a record. */
    uint32_t record_bytes;
    /* 0x14: Zero. */
    uint32_t reserved;
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_cap_faults) == 0x18);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_faults, header) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_faults, offset) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_faults, records) == 0xc);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_faults, record_bytes) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_faults, reserved) == 0x14);

/* KERNELS, version 1. */
struct jalapeno_hw_cap_kernels {
    /* 0x00: id 7. */
    struct jalapeno_hw_cap_header header;
    /* 0x08: Bit k: KernelId k runs. */
    uint64_t kernels[2];
    /* 0x18: Bit t: DType t is known. */
    uint64_t dtypes[2];
    /* 0x28: Most operands of a LAUNCH. */
    uint32_t operands_max;
    /* 0x2c: Zero. */
    uint32_t reserved;
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_cap_kernels) == 0x30);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_kernels, header) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_kernels, kernels) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_kernels, dtypes) == 0x18);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_kernels, operands_max) == 0x28);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_kernels, reserved) == 0x2c);

/* PRODUCT, version 1. */
struct jalapeno_hw_cap_product {
    /* 0x00: id 8. */
    struct jalapeno_hw_cap_header header;
    /* 0x08: Product name, ASCII, zero-padded. */
    uint8_t name[32];
    /* 0x28: Firmware version, ASCII, zero-padded. */
    uint8_t firmware[32];
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_cap_product) == 0x48);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_product, header) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_product, name) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_product, firmware) == 0x28);

/* PROFILE, version 1. */
struct jalapeno_hw_cap_profile {
    /* 0x00: id 0x21. */
    struct jalapeno_hw_cap_header header;
    /* 0x08: Offset in BAR0 of the ring. */
    uint32_t offset;
    /* 0x0c: Records in the ring; a power of two. */
    uint32_t records;
    /* 0x10: Bytes of a record. */
    uint32_t record_bytes;
    /* 0x14: How long the ring is written after a read of PROFILE_COUNT, in milliseconds. */
    uint32_t lease_ms;
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_cap_profile) == 0x18);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_profile, header) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_profile, offset) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_profile, records) == 0xc);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_profile, record_bytes) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_cap_profile, lease_ms) == 0x14);

/* Input of QUEUE_CREATE. Rings must be mapped: submission readable, the others writable. */
struct jalapeno_hw_queue_create {
    /* 0x00: Number, 1 to the capability's count - 1; must not exist. */
    uint32_t queue;
    /* 0x04: log2 of the submission ring's packets. */
    uint8_t depth_log2;
    /* 0x05: log2 of the error ring's records. */
    uint8_t errors_log2;
    /* 0x06: Interrupt vector; vector 0 is for faults and events. */
    uint16_t vector;
    /* 0x08: IOVA of the submission ring, aligned to its size or 4 KiB, whichever is less. */
    uint64_t ring;
    /* 0x10: IOVA of the completion line, 64-byte aligned. */
    uint64_t completion;
    /* 0x18: IOVA of the error ring, 256-byte aligned. */
    uint64_t errors;
    /* 0x20: IOVA of the profile ring, 64-byte aligned, as many records as packets; 0: none. */
    uint64_t profile;
    /* 0x28: A PriorityBand code; 0 without feature PRIORITY. */
    uint32_t priority;
    /* 0x2c: Zero. */
    uint32_t flags;
    /* 0x30: Zero. */
    uint64_t reserved[2];
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_queue_create) == 0x40);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_create, queue) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_create, depth_log2) == 0x4);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_create, errors_log2) == 0x5);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_create, vector) == 0x6);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_create, ring) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_create, completion) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_create, errors) == 0x18);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_create, profile) == 0x20);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_create, priority) == 0x28);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_create, flags) == 0x2c);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_create, reserved) == 0x30);

/* Input of QUEUE_DESTROY and QUEUE_QUERY. */
struct jalapeno_hw_queue_name {
    /* 0x00: Queue number. */
    uint32_t queue;
    /* 0x04: Zero. */
    uint32_t reserved;
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_queue_name) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_name, queue) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_name, reserved) == 0x4);

/* Result of QUEUE_QUERY. */
struct jalapeno_hw_queue_report {
    /* 0x00: A QueueState code. */
    uint32_t state;
    /* 0x04: The FaultCode it stopped for; 0: none. */
    uint32_t code;
    /* 0x08: Last completed sequence number. */
    uint64_t completed;
    /* 0x10: Last sequence number the device has seen submitted. */
    uint64_t submitted;
    /* 0x18: Error records written. */
    uint64_t errors;
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_queue_report) == 0x20);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_report, state) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_report, code) == 0x4);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_report, completed) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_report, submitted) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_queue_report, errors) == 0x18);

/* Any packet: what all share, and 40 bytes per opcode. */
struct jalapeno_hw_packet {
    /* 0x00: Opcode, validity bit and argument; stored last. */
    uint64_t header;
    /* 0x08: The client's own; comes back in fault records. */
    uint64_t cookie;
    /* 0x10: Device time after which the packet fails with DEADLINE; 0: none. */
    uint64_t deadline;
    /* 0x18: Per opcode; what an opcode does not name is zero. */
    uint64_t body[5];
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_packet) == 0x40);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_packet, header) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_packet, cookie) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_packet, deadline) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_packet, body) == 0x18);

/* COPY: bytes from one address to another; overlapping ranges are refused. */
struct jalapeno_hw_copy {
    /* 0x00: Source address. */
    uint64_t source;
    /* 0x08: Destination address. */
    uint64_t destination;
    /* 0x10: Bytes; 0 does nothing. */
    uint64_t bytes;
    /* 0x18: Zero. */
    uint64_t reserved[2];
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_copy) == 0x28);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_copy, source) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_copy, destination) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_copy, bytes) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_copy, reserved) == 0x18);

/* COPY_STRIDED: rows of bytes, each at its stride. */
struct jalapeno_hw_copy_strided {
    /* 0x00: Source address of the first row. */
    uint64_t source;
    /* 0x08: Destination address of the first row. */
    uint64_t destination;
    /* 0x10: Bytes of a row. */
    uint32_t row_bytes;
    /* 0x14: Rows; 0 does nothing. */
    uint32_t rows;
    /* 0x18: Bytes from one source row to the next. */
    uint64_t source_stride;
    /* 0x20: Bytes from one destination row to the next; at least row_bytes. */
    uint64_t destination_stride;
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_copy_strided) == 0x28);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_copy_strided, source) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_copy_strided, destination) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_copy_strided, row_bytes) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_copy_strided, rows) == 0x14);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_copy_strided, source_stride) == 0x18);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_copy_strided, destination_stride) == 0x20);

/* FILL: an 8-byte pattern repeated from the destination on. */
struct jalapeno_hw_fill {
    /* 0x00: Destination address. */
    uint64_t destination;
    /* 0x08: Bytes; 0 does nothing; need not be a multiple of 8. */
    uint64_t bytes;
    /* 0x10: Pattern, lowest byte first. */
    uint64_t pattern;
    /* 0x18: Zero. */
    uint64_t reserved[2];
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_fill) == 0x28);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fill, destination) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fill, bytes) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fill, pattern) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fill, reserved) == 0x18);

/* SIGNAL and WAIT: a 64-bit timeline fence, 8-byte aligned, in host memory or HBM. WAIT's header
 * argument is a WaitOp. */
struct jalapeno_hw_fence {
    /* 0x00: The fence's address. */
    uint64_t address;
    /* 0x08: Value stored (SIGNAL, never lowering it) or compared with (WAIT). */
    uint64_t value;
    /* 0x10: Zero. */
    uint64_t reserved[3];
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_fence) == 0x28);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fence, address) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fence, value) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fence, reserved) == 0x10);

/* TIMESTAMP: stores a Stamp when every earlier packet of the queue is done. */
struct jalapeno_hw_timestamp {
    /* 0x00: Where to, 8-byte aligned. */
    uint64_t address;
    /* 0x08: Zero. */
    uint64_t reserved[4];
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_timestamp) == 0x28);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_timestamp, address) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_timestamp, reserved) == 0x8);

/* What TIMESTAMP stores. */
struct jalapeno_hw_stamp {
    /* 0x00: Device time. */
    uint64_t time;
    /* 0x08: The device's energy counter in microjoules. */
    uint64_t energy_uj;
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_stamp) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_stamp, time) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_stamp, energy_uj) == 0x8);

/* LAUNCH: runs a kernel of the firmware's library; the header argument is the KernelId. */
struct jalapeno_hw_launch {
    /* 0x00: Address of the argument block, 64-byte aligned: Parameters, then tensor descriptors. */
    uint64_t arguments;
    /* 0x08: Its length: 64 x (1 + operands). */
    uint32_t argument_bytes;
    /* 0x0c: Zero. */
    uint32_t flags;
    /* 0x10: Zero. */
    uint64_t reserved[3];
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_launch) == 0x28);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_launch, arguments) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_launch, argument_bytes) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_launch, flags) == 0xc);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_launch, reserved) == 0x10);

/* The first line of a LAUNCH argument block. Floats stand as their bits. */
struct jalapeno_hw_parameters {
    /* 0x00: Per kernel; what a kernel does not name is zero. */
    uint32_t word[16];
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_parameters) == 0x40);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_parameters, word) == 0x0);

/* A tensor operand: a strided view of memory. */
struct jalapeno_hw_tensor {
    /* 0x00: Device address of element 0. */
    uint64_t address;
    /* 0x08: A DType code. */
    uint32_t dtype;
    /* 0x0c: Zero. */
    uint32_t flags;
    /* 0x10: Elements in each dimension, the fastest first. */
    uint32_t ne[4];
    /* 0x20: Bytes from one element (of dimension 0: block) to the next in each dimension. */
    uint64_t nb[4];
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_tensor) == 0x40);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_tensor, address) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_tensor, dtype) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_tensor, flags) == 0xc);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_tensor, ne) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_tensor, nb) == 0x20);

/* MANAGE, on queue 0 only; the header argument is a Command. */
struct jalapeno_hw_manage {
    /* 0x00: Address of the command's input structure, 8-byte aligned; 0: none. */
    uint64_t input;
    /* 0x08: Where its result structure goes, 8-byte aligned; 0: none. */
    uint64_t result;
    /* 0x10: Bytes of the input. */
    uint32_t input_bytes;
    /* 0x14: Room for the result; a longer result fails the packet and writes nothing. */
    uint32_t result_bytes;
    /* 0x18: Zero. */
    uint64_t reserved[2];
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_manage) == 0x28);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_manage, input) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_manage, result) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_manage, input_bytes) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_manage, result_bytes) == 0x14);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_manage, reserved) == 0x18);

/* INDIRECT: runs a recorded graph; the header argument counts its packets. */
struct jalapeno_hw_indirect {
    /* 0x00: Address of the image, 64-byte aligned: packets, argument blocks, patches. */
    uint64_t image;
    /* 0x08: The image's length, a multiple of 64. */
    uint32_t image_bytes;
    /* 0x0c: Patches at the image's end. */
    uint32_t patches;
    /* 0x10: What the patches add, a multiple of it each. */
    uint32_t value[6];
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_indirect) == 0x28);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_indirect, image) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_indirect, image_bytes) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_indirect, patches) == 0xc);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_indirect, value) == 0x10);

/* A patch of a graph: adds value x scale to a word of the device's copy of the image. */
struct jalapeno_hw_patch {
    /* 0x00: Byte offset of the word in the image, a multiple of its width. */
    uint32_t offset;
    /* 0x04: Bytes of the word: 4 or 8. */
    uint8_t width;
    /* 0x05: Which value of the INDIRECT packet: 0 to 5. */
    uint8_t value;
    /* 0x06: Zero. */
    uint16_t reserved;
    /* 0x08: What the value is multiplied with, modulo the word's width. */
    uint64_t scale;
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_patch) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_patch, offset) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_patch, width) == 0x4);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_patch, value) == 0x5);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_patch, reserved) == 0x6);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_patch, scale) == 0x8);

/* A fault record. The first 8 bytes are stored last. The CRC covers bytes 0x00 to 0xF7 with the
 * phase bit taken as 0 (CRC-32/ISO-HDLC). */
struct jalapeno_hw_fault_record {
    /* 0x00: A FaultCode; codes a driver does not know are kept raw. */
    uint32_t code;
    /* 0x04: A Severity code. */
    uint8_t severity;
    /* 0x05: A Scope code. */
    uint8_t scope;
    /* 0x06: An Action code: what the device advises. */
    uint8_t action;
    /* 0x07: FAULT_PHASE; other bits zero. */
    uint8_t flags;
    /* 0x08: The packet's sequence number; 0: no packet. */
    uint64_t sequence;
    /* 0x10: The packet's cookie. */
    uint64_t cookie;
    /* 0x18: The faulting device address; 0: none. */
    uint64_t address;
    /* 0x20: Start of the mapping nearest to it; with mapping_bytes 0 there is none. */
    uint64_t mapping_start;
    /* 0x28: Bytes of that mapping. */
    uint64_t mapping_bytes;
    /* 0x30: Device time. */
    uint64_t device_time;
    /* 0x38: CLOCK_MONOTONIC_RAW of the host in nanoseconds, where the device knows it; else 0. */
    uint64_t host_time;
    /* 0x40: GENERATION. */
    uint64_t generation;
    /* 0x48: BOOT_ID. */
    uint64_t boot_id;
    /* 0x50: The queue; NO_QUEUE: none. */
    uint32_t queue;
    /* 0x54: The packet's opcode; 0: none. */
    uint32_t opcode;
    /* 0x58: The KernelId of a LAUNCH; 0: none. */
    uint32_t kernel;
    /* 0x5c: The operand of a LAUNCH plus 1; 0: none. */
    uint32_t operand;
    /* 0x60: Counts the records of this ring or log from 0. */
    uint64_t index;
    /* 0x68: Per code, as the catalogue says. */
    uint64_t detail[4];
    /* 0x88: Zero. */
    uint64_t reserved[14];
    /* 0xf8: CRC. */
    uint32_t crc;
    /* 0xfc: Zero. */
    uint32_t reserved2;
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_fault_record) == 0x100);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, code) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, severity) == 0x4);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, scope) == 0x5);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, action) == 0x6);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, flags) == 0x7);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, sequence) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, cookie) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, address) == 0x18);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, mapping_start) == 0x20);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, mapping_bytes) == 0x28);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, device_time) == 0x30);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, host_time) == 0x38);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, generation) == 0x40);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, boot_id) == 0x48);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, queue) == 0x50);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, opcode) == 0x54);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, kernel) == 0x58);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, operand) == 0x5c);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, index) == 0x60);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, detail) == 0x68);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, reserved) == 0x88);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, crc) == 0xf8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_fault_record, reserved2) == 0xfc);

/* The page's first 64 bytes. */
struct jalapeno_hw_telemetry_header {
    /* 0x00: TELEMETRY_MAGIC. */
    uint32_t magic;
    /* 0x04: Version of the page: 1. */
    uint16_t version;
    /* 0x06: Entries that follow. */
    uint16_t count;
    /* 0x08: Sequence lock: odd while the page is being written. */
    uint64_t sequence;
    /* 0x10: Device time of the last refresh. */
    uint64_t updated;
    /* 0x18: GENERATION at the last refresh. */
    uint64_t generation;
    /* 0x20: Zero. */
    uint64_t reserved[4];
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_telemetry_header) == 0x40);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_telemetry_header, magic) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_telemetry_header, version) == 0x4);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_telemetry_header, count) == 0x6);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_telemetry_header, sequence) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_telemetry_header, updated) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_telemetry_header, generation) == 0x18);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_telemetry_header, reserved) == 0x20);

/* One entry. */
struct jalapeno_hw_telemetry_entry {
    /* 0x00: A TelemetryField code; unknown ones are skipped. */
    uint16_t field;
    /* 0x02: Which one of several: sensor, stack, queue, reason. */
    uint16_t instance;
    /* 0x04: A TelemetryUnit code. */
    uint8_t unit;
    /* 0x05: A TelemetryStatus code: the value counts only when VALID. */
    uint8_t status;
    /* 0x06: Zero. */
    uint16_t reserved;
    /* 0x08: The value; two's complement where the unit is signed. */
    uint64_t value;
    /* 0x10: Device time it was taken at. */
    uint64_t taken;
    /* 0x18: Milliseconds after which it is stale; 0: never. */
    uint32_t stale_after_ms;
    /* 0x1c: Zero. */
    uint32_t reserved2;
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_telemetry_entry) == 0x20);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_telemetry_entry, field) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_telemetry_entry, instance) == 0x2);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_telemetry_entry, unit) == 0x4);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_telemetry_entry, status) == 0x5);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_telemetry_entry, reserved) == 0x6);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_telemetry_entry, value) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_telemetry_entry, taken) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_telemetry_entry, stale_after_ms) == 0x18);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_telemetry_entry, reserved2) == 0x1c);

/* What a packet of a queue took; one for a whole graph. */
struct jalapeno_hw_profile_record {
    /* 0x00: The packet's sequence number; written last. */
    uint64_t sequence;
    /* 0x08: The packet's cookie. */
    uint64_t cookie;
    /* 0x10: Device time when it came up. */
    uint64_t start;
    /* 0x18: Device time when it was finished. */
    uint64_t end;
    /* 0x20: Energy in nanojoules. */
    uint64_t energy_nj;
    /* 0x28: Bytes read and written. */
    uint64_t bytes;
    /* 0x30: Kernel operations (a multiply-add counts two). */
    uint64_t operations;
    /* 0x38: Its queue. */
    uint16_t queue;
    /* 0x3a: An Opcode. */
    uint8_t opcode;
    /* 0x3b: A ProfileStatus. */
    uint8_t status;
    /* 0x3c: Of a LAUNCH its kernel, of an INDIRECT the packets of its graph that are done; else
     * 0. */
    uint32_t kernel;
};
JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_profile_record) == 0x40);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_profile_record, sequence) == 0x0);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_profile_record, cookie) == 0x8);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_profile_record, start) == 0x10);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_profile_record, end) == 0x18);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_profile_record, energy_nj) == 0x20);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_profile_record, bytes) == 0x28);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_profile_record, operations) == 0x30);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_profile_record, queue) == 0x38);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_profile_record, opcode) == 0x3a);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_profile_record, status) == 0x3b);
JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_profile_record, kernel) == 0x3c);

#undef JALAPENO_HW_ASSERT

#endif
