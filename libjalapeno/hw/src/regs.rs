//! BAR0: the registers, and where its pages are.
//!
//! A register is accessed with aligned 4-byte accesses. A 64-bit register is two words: reading
//! the low word latches the high one, and a write takes effect word by word; commands are
//! separate registers. Host interface 3.

use crate::row::{codes, constants, registers};

constants! {
    /// Where BAR0's pages are, and the values of its identity registers.
    table PLACES;

    /// BAR0's size in bytes.
    BAR0_BYTES: u64 = 0x40000;
    /// Registers fill this page; beyond the last register it reads zero.
    REGISTERS_BYTES: u32 = 0x1000;
    /// The capability records' page.
    CAPS_OFFSET: u32 = 0x1000;
    /// Size of the capability records' page.
    CAPS_BYTES: u32 = 0x1000;
    /// The device's fault log: the last records, kept across resets.
    FAULT_LOG_OFFSET: u32 = 0x2000;
    /// Records in the fault log.
    FAULT_LOG_RECORDS: u32 = 16;
    /// The telemetry page, on pages of its own so that it can be mapped.
    TELEMETRY_OFFSET: u32 = 0x10000;
    /// Size of the telemetry page.
    TELEMETRY_BYTES: u32 = 0x4000;
    /// The card's profile ring: the last records of all queues.
    PROFILE_OFFSET: u32 = 0x18000;
    /// Records in the card's profile ring.
    PROFILE_RECORDS: u32 = 512;
    /// MSI-X table.
    MSIX_TABLE_OFFSET: u32 = 0x20000;
    /// MSI-X pending bit array.
    MSIX_PBA_OFFSET: u32 = 0x30000;
    /// The value of MAGIC: the bytes `JALP`.
    MAGIC: u32 = 0x504C_414A;
    /// The interface's major version: another one is refused.
    VERSION_MAJOR: u32 = 1;
    /// The interface's minor version: neighbours work together.
    VERSION_MINOR: u32 = 0;
}

registers! {
    /// BAR0's registers.
    table BAR0;

    /// Reads 0x504C414A, the bytes JALP; anything else is not this device.
    Magic "MAGIC" @ 0x000 Ro u32 = 0x504C_414A {}
    /// Interface version.
    Version "VERSION" @ 0x004 Ro u32 = 0x0001_0000 {
        /// Minor version; additions only.
        [15:0] minor with_minor,
        /// Major version; drivers refuse another one.
        [31:16] major with_major,
    }
    /// What kind of device answers: a Platform code.
    PlatformId "PLATFORM" @ 0x008 Ro u32 = 0 varies {}
    /// Byte offset in BAR0 of the first capability record.
    CapsPointer "CAPS" @ 0x00C Ro u32 = 0x1000 {}
    /// Device UUID, bytes 0 to 7 (RFC 9562 order); the same after every reset and reboot.
    UuidLow "UUID_LOW" @ 0x010 Ro u64 = 0 varies {}
    /// Device UUID, bytes 8 to 15.
    UuidHigh "UUID_HIGH" @ 0x018 Ro u64 = 0 varies {}
    /// Board serial number.
    Serial "SERIAL" @ 0x020 Ro u64 = 0 varies {}
    /// Counts device resets of every kind since manufacture; a change ends every queue.
    Generation "GENERATION" @ 0x028 Ro u64 = 0 varies {}
    /// Differs at every start of the firmware.
    BootId "BOOT_ID" @ 0x030 Ro u64 = 0 varies {}
    /// Device time in ticks of the TIME capability; never goes back, also not at a reset.
    Time "TIME" @ 0x038 Ro u64 = 0 varies {}
    /// Feature bits the device offers.
    FeaturesOffered "FEATURES_OFFERED" @ 0x040 Ro u64 = 0 varies {}
    /// Feature bits the driver takes: a subset of those offered; others stay clear.
    FeaturesAccepted "FEATURES_ACCEPTED" @ 0x048 Rw u64 = 0 {}

    /// What the driver wants of the whole device.
    Control "CONTROL" @ 0x080 Rw u32 = 0 {
        /// Finish or put back running packets, then touch no host memory; STATUS.idle answers.
        [0:0] quiesce with_quiesce,
    }
    /// What the device is doing.
    Status "STATUS" @ 0x084 Ro u32 = 1 {
        /// A DeviceState code.
        [3:0] state with_state,
        /// Quiesced, or no queue exists: no host memory will be touched.
        [4:4] idle with_idle,
        /// The fault log holds a record that nobody acknowledged.
        [5:5] fault with_fault,
    }
    /// Starts a reset; ignored while RESET_STATUS.phase is PREPARING.
    Reset "RESET" @ 0x088 Wo u32 = 0 {
        /// A ResetLevel code: QUEUE, ENGINES or DEVICE.
        [7:0] level with_level,
        /// The queue, for level QUEUE.
        [31:16] queue with_queue,
    }
    /// How the last reset went.
    ResetStatus "RESET_STATUS" @ 0x08C Ro u32 = 0 varies {
        /// A ResetPhase code.
        [3:0] phase with_phase,
        /// The level asked for.
        [11:4] level with_level,
        /// The queue asked for.
        [31:16] queue with_queue,
    }
    /// Rings a queue's doorbell again: the device reads the queue's doorbell words anew.
    Kick "KICK" @ 0x090 Wo u32 = 0 {
        /// Queue number.
        [15:0] queue with_queue,
    }
    /// Advances at least once each HEARTBEAT_PERIOD while the firmware lives.
    Heartbeat "HEARTBEAT" @ 0x094 Ro u32 = 0 varies {}

    /// Starts a scrub of all HBM (writes zeros); ignored while one runs.
    Scrub "SCRUB" @ 0x0A0 Wo u32 = 0 {
        /// Write 1 to start; every queue must be destroyed or the device quiesced.
        [0:0] start with_start,
    }
    /// How the last scrub went.
    ScrubStatus "SCRUB_STATUS" @ 0x0A4 Ro u32 = 0 {
        /// A ScrubPhase code.
        [3:0] phase with_phase,
    }
    /// Completed scrubs of all HBM since manufacture: the proof that one happened.
    ScrubCount "SCRUB_COUNT" @ 0x0A8 Ro u64 = 0 varies {}
    /// Records written to the card's profile ring since manufacture; reading it asks for records.
    ProfileCount "PROFILE_COUNT" @ 0x0B0 Ro u64 = 0 varies {}

    /// IOVA of queue 0's submission ring, aligned to its size or 4 KiB, whichever is less.
    Q0Ring "Q0_RING" @ 0x100 Rw u64 = 0 {}
    /// IOVA of queue 0's completion line, 64-byte aligned.
    Q0Completion "Q0_COMPLETION" @ 0x108 Rw u64 = 0 {}
    /// IOVA of queue 0's error ring, 256-byte aligned.
    Q0Errors "Q0_ERRORS" @ 0x110 Rw u64 = 0 {}
    /// Queue 0's sizes.
    Q0Size "Q0_SIZE" @ 0x118 Rw u32 = 0 {
        /// log2 of the submission ring's packets.
        [7:0] depth_log2 with_depth_log2,
        /// log2 of the error ring's records.
        [15:8] errors_log2 with_errors_log2,
        /// Interrupt vector.
        [31:16] vector with_vector,
    }
    /// Creates (1) or destroys (0) queue 0 from the registers above.
    Q0Control "Q0_CONTROL" @ 0x11C Rw u32 = 0 {
        /// 1: exists.
        [0:0] enable with_enable,
    }
    /// What became of Q0_CONTROL.
    Q0Status "Q0_STATUS" @ 0x120 Ro u32 = 0 {
        /// A QueueState code.
        [3:0] state with_state,
        /// The FaultCode for which a creation was refused; 0: none.
        [31:16] code with_code,
    }

    /// Fault records written to the log since manufacture; the newest stands at (count - 1) mod 16.
    FaultCount "FAULT_COUNT" @ 0x180 Ro u64 = 0 varies {}
    /// The driver has read the log up to this count; STATUS.fault clears when it equals FAULT_COUNT.
    FaultAck "FAULT_ACK" @ 0x188 Rw u64 = 0 varies {}

    /// RESERVED for the boot and recovery mailbox, to 0x2FF.
    Mailbox "MAILBOX" @ 0x200 Ro u32 = 0 {}
}

registers! {
    /// One queue's doorbell page in BAR2 (queue q at q x stride). Words are levels: the device acts
    /// on a value, never on the act of writing it.
    table DOORBELL;

    /// Low 32 bits of the last submitted sequence number.
    Tail "TAIL" @ 0x00 Rw u32 = 0 {}
    /// Interrupt once when the queue has completed this sequence number or stops; 0: never.
    Arm "ARM" @ 0x08 Rw u64 = 0 {}
    /// A stopped queue runs again from this sequence number once it exceeds the one it stopped at.
    Resume "RESUME" @ 0x10 Rw u64 = 0 {}
}

codes! {
    /// What kind of device answers.
    Platform, row PLATFORM {
        /// A chip. Nothing has run on one yet.
        Silicon "SILICON" = 1,
        /// The reference device in software.
        Emulator "EMULATOR" = 2,
    }
}

codes! {
    /// Feature bits, by bit number.
    Feature, row FEATURE {
        /// ARM words raise interrupts.
        Arm "ARM" = 0,
        /// SCRUB works.
        Scrub "SCRUB" = 1,
        /// Queues may have profile rings.
        Profile "PROFILE" = 2,
        /// INDIRECT works.
        Graph "GRAPH" = 3,
        /// Queues may have a priority band.
        Priority "PRIORITY" = 4,
        /// Peer access between cards.
        Peer "PEER" = 5 reserved,
        /// Signed firmware slots.
        Firmware "FIRMWARE" = 6 reserved,
        /// Attestation.
        Attest "ATTEST" = 7 reserved,
    }
}

codes! {
    /// The device's life. Host interface 8.
    DeviceState, row DEVICE_STATE {
        /// Firmware is starting; no queue can exist.
        Booting "BOOTING" = 0,
        /// Serving.
        Ready "READY" = 1,
        /// Serving with less: a fault asks for attention.
        Degraded "DEGRADED" = 2,
        /// CONTROL.quiesce is set.
        Quiescing "QUIESCING" = 3,
        /// A reset runs.
        Resetting "RESETTING" = 4,
        /// Resets failed; only a bus reset or a replacement helps.
        Wedged "WEDGED" = 5,
    }
}

codes! {
    /// Reset levels, from the smallest.
    ResetLevel, row RESET_LEVEL {
        /// One queue: its packets are cancelled, it stops and can be resumed.
        Queue "QUEUE" = 1,
        /// All queues of one client.
        Client "CLIENT" = 2 reserved,
        /// All queues of the device.
        Engines "ENGINES" = 3,
        /// The device: queues are gone, generation + 1. HBM keeps its content.
        Device "DEVICE" = 4,
        /// PCIe function level reset, by config space: as DEVICE, and PCI state too.
        Function "FUNCTION" = 5,
        /// The bus.
        Bus "BUS" = 6,
    }
}

codes! {
    /// How far a reset is.
    ResetPhase, row RESET_PHASE {
        /// No reset since power-on.
        Idle "IDLE" = 0,
        /// Running: packets are being let go.
        Preparing "PREPARING" = 1,
        /// Done.
        Done "DONE" = 2,
        /// Failed: go one level up.
        Failed "FAILED" = 3,
    }
}

codes! {
    /// How far a scrub is.
    ScrubPhase, row SCRUB_PHASE {
        /// None asked for since the last reset.
        Idle "IDLE" = 0,
        /// Running.
        Running "RUNNING" = 1,
        /// Done; SCRUB_COUNT has risen.
        Done "DONE" = 2,
        /// Failed: HBM may hold old content.
        Failed "FAILED" = 3,
    }
}

codes! {
    /// A queue's life. Host interface 5.
    QueueState, row QUEUE_STATE {
        /// Does not exist.
        Absent "ABSENT" = 0,
        /// Takes packets.
        Running "RUNNING" = 1,
        /// A packet failed or the queue was reset; waits for RESUME.
        Stopped "STOPPED" = 2,
        /// Its creation was refused; the code says why.
        Refused "REFUSED" = 3,
    }
}
