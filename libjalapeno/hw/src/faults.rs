//! Faults: the record, and the one catalogue of codes. Host interface 7.
//!
//! The catalogue yields the C and Rust enumerations, the manual page, metric labels and
//! `jalctl explain`. A code's number never changes its meaning.

use crate::row::{codes, constants, layout};

constants! {
    /// A fault record's size and marks.
    table FAULT_BITS;

    /// FaultRecord.flags bit 0: phase. In a queue's error ring it is 1 on the first lap, 0 on the
    /// second, and so on; in the fault log it is always 1.
    FAULT_PHASE: u8 = 1;
    /// Bytes of a fault record.
    FAULT_RECORD_BYTES: usize = 256;
    /// FaultRecord.queue when no queue is concerned.
    NO_QUEUE: u32 = u32::MAX;
}

layout! {
    /// A fault record. The first 8 bytes are stored last. The CRC covers bytes 0x00 to 0xF7 with
    /// the phase bit taken as 0 (CRC-32/ISO-HDLC).
    FaultRecord, 256, row FAULT_RECORD {
        /// A FaultCode; codes a driver does not know are kept raw.
        0x00 code: u32,
        /// A Severity code.
        0x04 severity: u8,
        /// A Scope code.
        0x05 scope: u8,
        /// An Action code: what the device advises.
        0x06 action: u8,
        /// FAULT_PHASE; other bits zero.
        0x07 flags: u8,
        /// The packet's sequence number; 0: no packet.
        0x08 sequence: u64,
        /// The packet's cookie.
        0x10 cookie: u64,
        /// The faulting device address; 0: none.
        0x18 address: u64,
        /// Start of the mapping nearest to it; with mapping_bytes 0 there is none.
        0x20 mapping_start: u64,
        /// Bytes of that mapping.
        0x28 mapping_bytes: u64,
        /// Device time.
        0x30 device_time: u64,
        /// CLOCK_MONOTONIC_RAW of the host in nanoseconds, where the device knows it; else 0.
        0x38 host_time: u64,
        /// GENERATION.
        0x40 generation: u64,
        /// BOOT_ID.
        0x48 boot_id: u64,
        /// The queue; NO_QUEUE: none.
        0x50 queue: u32,
        /// The packet's opcode; 0: none.
        0x54 opcode: u32,
        /// The KernelId of a LAUNCH; 0: none.
        0x58 kernel: u32,
        /// The operand of a LAUNCH plus 1; 0: none.
        0x5C operand: u32,
        /// Counts the records of this ring or log from 0.
        0x60 index: u64,
        /// Per code, as the catalogue says.
        0x68 detail: [u64; 4],
        /// Zero.
        0x88 reserved: [u64; 14],
        /// CRC.
        0xF8 crc: u32,
        /// Zero.
        0xFC reserved2: u32,
    }
}

codes! {
    /// How bad.
    Severity, row SEVERITY {
        /// Worth knowing.
        Info "INFO" = 0,
        /// Corrected, or soon to matter.
        Warning "WARNING" = 1,
        /// A job failed.
        Error "ERROR" = 2,
        /// The device stopped serving.
        Fatal "FATAL" = 3,
    }
}

codes! {
    /// What is concerned.
    Scope, row SCOPE {
        /// One packet.
        Job "JOB" = 0,
        /// One queue.
        Queue "QUEUE" = 1,
        /// One client.
        Client "CLIENT" = 2,
        /// The device.
        Device "DEVICE" = 3,
        /// The host: link, memory, driver.
        Host "HOST" = 4,
    }
}

codes! {
    /// What to do.
    Action, row ACTION {
        /// Nothing.
        None "NONE" = 0,
        /// Submit again.
        Retry "RETRY" = 1,
        /// Mend the request, then resume the queue.
        RestartQueue "RESTART_QUEUE" = 2,
        /// Reset the device.
        ResetDevice "RESET_DEVICE" = 3,
        /// Unbind and bind the driver.
        Rebind "REBIND" = 4,
        /// Update the firmware.
        UpdateFirmware "UPDATE_FIRMWARE" = 5,
        /// Reboot the host.
        Reboot "REBOOT" = 6,
        /// Replace the card.
        Replace "REPLACE" = 7,
    }
}

codes! {
    /// Where faults come from; the high byte of a code.
    FaultClass, row FAULT_CLASS {
        /// A packet that asks for what cannot be.
        Packet "PACKET" = 0x01,
        /// An access to memory.
        Memory "MEMORY" = 0x02,
        /// Time ran out.
        Time "TIME" = 0x03,
        /// A queue's rings or doorbells.
        Queue "QUEUE" = 0x04,
        /// Heat and power.
        Power "POWER" = 0x05,
        /// Firmware.
        Firmware "FIRMWARE" = 0x06,
        /// PCIe link.
        Link "LINK" = 0x07,
        /// The device as a whole.
        Device "DEVICE" = 0x08,
        /// What the driver saw the device do against this specification.
        Protocol "PROTOCOL" = 0x0F,
    }
}

/// One row of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct FaultRow {
    /// The code.
    pub code: FaultCode,
    /// Where it comes from.
    pub class: FaultClass,
    /// How bad.
    pub severity: Severity,
    /// What is concerned.
    pub scope: Scope,
    /// What to do.
    pub action: Action,
    /// What it means.
    pub meaning: &'static str,
    /// What a person does about it.
    pub remedy: &'static str,
}

macro_rules! catalogue {
    ($($(#[doc = $doc:literal])+ $variant:ident $text:literal = $value:literal
        $class:ident $severity:ident $scope:ident $action:ident $remedy:literal;)+) => {
        codes! {
            /// Every fault, by stable number.
            FaultCode, row FAULT_CODE {
                $($(#[doc = $doc])+ $variant $text = $value,)+
            }
        }

        /// The catalogue, by code.
        pub const CATALOGUE: &[FaultRow] = &[$(FaultRow {
            code: FaultCode::$variant,
            class: FaultClass::$class,
            severity: Severity::$severity,
            scope: Scope::$scope,
            action: Action::$action,
            meaning: concat!($($doc),+),
            remedy: $remedy,
        },)+];

        impl FaultCode {
            /// Its row in the catalogue.
            #[must_use]
            pub const fn row(self) -> &'static FaultRow {
                &CATALOGUE[self.position()]
            }

            const fn position(self) -> usize {
                let mut at = 0;
                while at < CATALOGUE.len() {
                    if CATALOGUE[at].code as u32 == self as u32 {
                        return at;
                    }
                    at += 1;
                }
                at
            }
        }

        const _: () = {$(
            assert!($value >> 8 == FaultClass::$class as u32, "the high byte is the class");
        )+};
    };
}

catalogue! {
    /// The opcode is unknown or reserved. detail[0]: the header.
    UnknownOpcode "UNKNOWN_OPCODE" = 0x0101 Packet Error Queue RestartQueue
        "Check that library and firmware speak the same interface version.";
    /// A field that must be zero is not. detail[0]: its byte offset; detail[2]: 0 in the packet,
    /// 1 in its input or argument block.
    ReservedField "RESERVED_FIELD" = 0x0102 Packet Error Queue RestartQueue
        "Clear the field; structures start as all zeros.";
    /// A parameter is outside its range. detail[0]: its byte offset; detail[1]: its value;
    /// detail[2]: 0 in the packet, 1 in its input or argument block.
    BadParameter "BAD_PARAMETER" = 0x0103 Packet Error Queue RestartQueue
        "Correct the parameter named in the record.";
    /// A management packet on a queue other than 0, or what the device's state forbids now.
    /// detail[0]: the DeviceState. Or a packet that no graph may hold.
    NotPermitted "NOT_PERMITTED" = 0x0104 Packet Error Queue RestartQueue
        "Send management packets to queue 0; create queues while the device is READY.";
    /// The kernel is unknown or reserved.
    UnknownKernel "UNKNOWN_KERNEL" = 0x0105 Packet Error Queue RestartQueue
        "Ask the KERNELS capability what the firmware has.";
    /// The argument block's length does not fit its kernel. detail[0]: operands found; detail[1]: wanted.
    BadArguments "BAD_ARGUMENTS" = 0x0106 Packet Error Queue RestartQueue
        "Give the kernel the operands that docs/kernels.md lists.";
    /// An operand's type does not fit the kernel. detail[0]: the type.
    BadType "BAD_TYPE" = 0x0107 Packet Error Queue RestartQueue
        "Convert the operand with COPY, or use a type that the kernel takes.";
    /// Operands' shapes do not fit each other. detail[0]: the dimension; detail[1], [2]: the sizes.
    BadShape "BAD_SHAPE" = 0x0108 Packet Error Queue RestartQueue
        "Correct the shapes; docs/kernels.md says what each kernel broadcasts.";
    /// A stride is misaligned, too small, or leaves the address space. detail[0]: the dimension; detail[1]: the stride.
    BadStride "BAD_STRIDE" = 0x0109 Packet Error Queue RestartQueue
        "Correct the stride, or make the operand contiguous with COPY.";
    /// A row index is outside its table. detail[0]: the index; detail[1]: the rows there are.
    IndexRange "INDEX_RANGE" = 0x010A Packet Error Queue RestartQueue
        "Check the indices before submitting.";
    /// Source and destination overlap where they must not.
    Overlap "OVERLAP" = 0x010B Packet Error Queue RestartQueue
        "Use separate buffers.";
    /// The management command is unknown or reserved. detail[0]: the command.
    UnknownCommand "UNKNOWN_COMMAND" = 0x010C Packet Error Queue RestartQueue
        "Update the firmware, or do without.";
    /// The result is longer than the room given; nothing was written. detail[0]: its length.
    ResultRoom "RESULT_ROOM" = 0x010D Packet Error Queue RestartQueue
        "Give a larger result buffer.";
    /// The queue exists already, or does not exist. detail[0]: the queue.
    BadQueue "BAD_QUEUE" = 0x010E Packet Error Queue RestartQueue
        "Create each queue once; destroy only what exists.";

    /// A read of an address that nobody mapped; address says which.
    UnmappedRead "UNMAPPED_READ" = 0x0201 Memory Error Queue RestartQueue
        "Keep the buffer mapped until its jobs are done; check offset and length.";
    /// A write to an address that nobody mapped; address says which.
    UnmappedWrite "UNMAPPED_WRITE" = 0x0202 Memory Error Queue RestartQueue
        "Keep the buffer mapped until its jobs are done; check offset and length.";
    /// A write through a mapping that only permits reads.
    ReadOnly "READ_ONLY" = 0x0203 Memory Error Queue RestartQueue
        "Register the memory as writable, or write elsewhere.";
    /// An address is not aligned as the packet requires. detail[0]: the byte offset of its field.
    Misaligned "MISALIGNED" = 0x0204 Memory Error Queue RestartQueue
        "Align the address as docs/host-interface.md says.";
    /// HBM has no page left to back the write (emulator: its limit on resident memory).
    HbmExhausted "HBM_EXHAUSTED" = 0x0205 Memory Error Queue RestartQueue
        "Free device memory, or start the emulator with a larger --resident-limit.";
    /// Bus mastering is off: the device may not touch host memory.
    BusMasterOff "BUS_MASTER_OFF" = 0x0206 Memory Error Device ResetDevice
        "Reopen the device; something turned bus mastering off.";
    /// The host took away or broke memory that is mapped.
    HostMemory "HOST_MEMORY" = 0x0207 Memory Error Queue RestartQueue
        "Do not shrink or unmap memory that the device uses.";
    /// An HBM error was corrected. detail[0]: stack; detail[1]: page.
    EccCorrected "ECC_CORRECTED" = 0x0210 Memory Warning Device None
        "Nothing; watch the rate in the telemetry.";
    /// An HBM error could not be corrected; the job that read it failed. detail as above.
    EccUncorrected "ECC_UNCORRECTED" = 0x0211 Memory Error Job Retry
        "Run the job again; the page will be retired.";
    /// An uncorrected error that could not be contained to a job.
    EccUncontained "ECC_UNCONTAINED" = 0x0212 Memory Fatal Device ResetDevice
        "Reset the device; replace the card if it comes back.";
    /// A page was retired or waits for it. detail[0]: page; detail[1]: 0 done, 1 pending.
    PageRetired "PAGE_RETIRED" = 0x0213 Memory Warning Device None
        "Reset the device when convenient if the retirement is pending.";

    /// The packet's deadline passed before it was done.
    Deadline "DEADLINE" = 0x0301 Time Error Job RestartQueue
        "Give more time, or find what the packet waited for.";
    /// An engine stopped making progress.
    EngineHang "ENGINE_HANG" = 0x0302 Time Error Device ResetDevice
        "Reset the device.";
    /// The firmware's heartbeat stands still.
    HeartbeatLost "HEARTBEAT_LOST" = 0x0303 Time Fatal Device ResetDevice
        "Reset the device.";

    /// TAIL lies further ahead than the ring is long. detail[0]: TAIL; detail[1]: completed.
    BadDoorbell "BAD_DOORBELL" = 0x0401 Queue Error Queue RestartQueue
        "A driver fault: report it with its record.";
    /// A packet below TAIL has the wrong validity bit. detail[0]: its header.
    BadValidity "BAD_VALIDITY" = 0x0402 Queue Error Queue RestartQueue
        "A driver fault: report it with its record.";
    /// A queue's sizes, alignment or vector are not possible. detail[0]: byte offset in QueueCreate.
    BadQueueShape "BAD_QUEUE_SHAPE" = 0x0403 Queue Error Queue RestartQueue
        "Ask the QUEUES capability what the device has.";
    /// The queue was reset; its packets are cancelled.
    QueueReset "QUEUE_RESET" = 0x0404 Queue Error Queue Retry
        "Resume the queue and submit again.";
    /// Records' indices have a gap: some were overwritten unread. detail[0]: records lost.
    ErrorsLost "ERRORS_LOST" = 0x0405 Queue Warning Queue None
        "Read errors sooner or give the queue a larger error ring.";

    /// Clocks were lowered because the device is hot. detail[0]: temperature in thousandths.
    ThrottleThermal "THROTTLE_THERMAL" = 0x0501 Power Warning Device None
        "Check airflow and inlet temperature.";
    /// The device shut its engines down because it is too hot.
    ShutdownThermal "SHUTDOWN_THERMAL" = 0x0502 Power Fatal Device ResetDevice
        "Mend the cooling, then reset the device.";
    /// Input power sagged.
    Brownout "BROWNOUT" = 0x0503 Power Fatal Device ResetDevice
        "Check the auxiliary power, then reset the device.";
    /// Clocks were lowered to hold the power limit.
    ThrottlePower "THROTTLE_POWER" = 0x0504 Power Info Device None
        "Nothing, or raise the limit.";

    /// The firmware crashed.
    FirmwareCrash "FIRMWARE_CRASH" = 0x0601 Firmware Fatal Device ResetDevice
        "Reset the device; update the firmware if it comes back.";
    /// The firmware restarted by itself: BOOT_ID changed.
    FirmwareRestart "FIRMWARE_RESTART" = 0x0602 Firmware Error Device ResetDevice
        "Reopen the device.";

    /// The link runs slower or narrower than it could. detail[0]: speed; detail[1]: lanes.
    LinkDegraded "LINK_DEGRADED" = 0x0701 Link Warning Host None
        "Reseat the card; check the slot.";
    /// PCIe reported an error. detail[0]: AER status.
    LinkError "LINK_ERROR" = 0x0702 Link Error Host ResetDevice
        "Reset the device; check the slot if it comes back.";

    /// The device was reset: every queue and mapping of the old generation is gone.
    DeviceReset "DEVICE_RESET" = 0x0801 Device Error Device Retry
        "Reopen the device and submit again.";
    /// A reset failed or overran its time.
    ResetFailed "RESET_FAILED" = 0x0802 Device Fatal Device Rebind
        "Reset one level up: jalctl reset --level function.";
    /// The device no longer answers.
    DeviceLost "DEVICE_LOST" = 0x0803 Device Fatal Device Rebind
        "Check that the card (or its emulator) is there, then reopen it.";
    /// Resets keep failing.
    Wedged "WEDGED" = 0x0804 Device Fatal Device Replace
        "Power-cycle the host; replace the card if it comes back.";

    /// A completion went backwards. detail[0]: seen; detail[1]: before.
    SequenceBackwards "SEQUENCE_BACKWARDS" = 0x0F01 Protocol Error Queue ResetDevice
        "Reset the device; report it with its record.";
    /// A completion lies beyond what was submitted. detail[0]: seen; detail[1]: submitted.
    SequenceBeyond "SEQUENCE_BEYOND" = 0x0F02 Protocol Error Queue ResetDevice
        "Reset the device; report it with its record.";
    /// An error record names a packet that was not in flight. detail[0]: its sequence.
    RecordStray "RECORD_STRAY" = 0x0F03 Protocol Error Queue ResetDevice
        "Reset the device; report it with its record.";
    /// An error record belongs to an earlier lap or generation.
    RecordStale "RECORD_STALE" = 0x0F04 Protocol Error Queue ResetDevice
        "Reset the device; report it with its record.";
    /// An error record's CRC or form is wrong.
    RecordCorrupt "RECORD_CORRUPT" = 0x0F05 Protocol Error Queue ResetDevice
        "Reset the device; report it with its record.";
    /// The queue stopped and no error record says why.
    RecordMissing "RECORD_MISSING" = 0x0F06 Protocol Error Queue ResetDevice
        "Reset the device; report it with its record.";
    /// A register or capability record holds what the specification rules out.
    BadDiscovery "BAD_DISCOVERY" = 0x0F07 Protocol Fatal Device UpdateFirmware
        "Update the firmware or the library.";
    /// An interrupt did not come; polling found the work done.
    InterruptMissing "INTERRUPT_MISSING" = 0x0F08 Protocol Warning Device None
        "Check that the host remaps interrupts: the kernel says so at boot.";
    /// A doorbell was lost; ringing again helped.
    DoorbellLost "DOORBELL_LOST" = 0x0F09 Protocol Warning Queue None
        "Nothing; report it if it is frequent.";
}
