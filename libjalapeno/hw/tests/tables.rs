//! The tables hold together: nothing overlaps, nothing is numbered twice, everything is explained;
//! and the numbers that may never change are those written here by hand from the document.

use std::collections::BTreeSet;

use jalapeno_hw::caps::CAP_ID;
use jalapeno_hw::faults::{CATALOGUE, FAULT_CODE, FaultCode};
use jalapeno_hw::kernels::{DTYPE, DType, KERNEL_ID};
use jalapeno_hw::limits;
use jalapeno_hw::packets::{COMMAND, OPCODE, Opcode};
use jalapeno_hw::reg::{EnumRow, RegisterRow};
use jalapeno_hw::regs::{
    BAR0, BAR0_BYTES, CAPS_BYTES, CAPS_OFFSET, DOORBELL, FAULT_LOG_OFFSET, FAULT_LOG_RECORDS,
    MSIX_PBA_OFFSET, MSIX_TABLE_OFFSET, REGISTERS_BYTES, TELEMETRY_BYTES, TELEMETRY_OFFSET,
};
use jalapeno_hw::tables::{ENUMS, NUMBERS, SPACES, STRUCTS};

/// Bytes of a type as the tables spell it.
fn bytes(ty: &str) -> usize {
    if let Some(array) = ty.strip_prefix('[') {
        let (element, count) = array
            .trim_end_matches(']')
            .split_once("; ")
            .expect("an array");
        return bytes(element) * count.parse::<usize>().expect("a length");
    }
    match ty {
        "u8" => 1,
        "u16" => 2,
        "u32" => 4,
        "u64" => 8,
        name => {
            STRUCTS
                .iter()
                .find(|row| row.name == name)
                .expect("a structure")
                .bytes
        }
    }
}

#[test]
fn registers_are_aligned_in_order_and_do_not_overlap() {
    for space in SPACES {
        let mut end = 0;
        for row in space.registers {
            assert!(
                matches!(row.bytes, 4 | 8),
                "{}: {} bytes",
                row.name,
                row.bytes
            );
            assert_eq!(
                row.offset as usize % row.bytes,
                0,
                "{} is misaligned",
                row.name
            );
            assert!(
                row.offset as usize >= end,
                "{} overlaps the one before it",
                row.name
            );
            end = row.offset as usize + row.bytes;
        }
        assert!(end <= REGISTERS_BYTES as usize);
    }
}

#[test]
fn fields_lie_in_their_register_and_do_not_overlap() {
    for row in SPACES.iter().flat_map(|space| space.registers) {
        let mut next = 0;
        for field in row.fields {
            assert!(field.low <= field.high, "{}.{}", row.name, field.name);
            assert!(field.low >= next, "{}.{} overlaps", row.name, field.name);
            next = field.high + 1;
        }
        assert!(
            usize::from(next) <= row.bytes * 8,
            "{}: a field is outside",
            row.name
        );
    }
}

#[test]
fn structures_have_neither_gaps_nor_overlaps_and_add_up() {
    for row in STRUCTS {
        let mut at = 0;
        for member in row.members {
            assert_eq!(member.offset, at, "{}.{}", row.name, member.name);
            at += bytes(member.ty);
        }
        assert_eq!(at, row.bytes, "{}", row.name);
        assert_eq!(row.bytes % 8, 0, "{} does not end on a word", row.name);
    }
}

#[test]
fn every_number_and_name_of_an_enumeration_is_taken_once() {
    for row in ENUMS {
        let values: BTreeSet<_> = row.codes.iter().map(|code| code.value).collect();
        let names: BTreeSet<_> = row.codes.iter().map(|code| code.name).collect();
        assert_eq!(
            values.len(),
            row.codes.len(),
            "{}: a number twice",
            row.name
        );
        assert_eq!(names.len(), row.codes.len(), "{}: a name twice", row.name);
    }
}

#[test]
fn everything_is_explained() {
    let mut texts = Vec::new();
    for space in SPACES {
        texts.push((space.prefix, space.doc));
        for row in space.registers {
            texts.push((row.name, row.doc));
            texts.extend(row.fields.iter().map(|field| (field.name, field.doc)));
        }
    }
    for row in STRUCTS {
        texts.push((row.name, row.doc));
        texts.extend(row.members.iter().map(|member| (member.name, member.doc)));
    }
    for row in ENUMS {
        texts.push((row.name, row.doc));
        texts.extend(row.codes.iter().map(|code| (code.name, code.doc)));
    }
    for row in NUMBERS {
        texts.push((row.name, row.doc));
        texts.extend(row.constants.iter().map(|number| (number.name, number.doc)));
    }
    texts.extend(CATALOGUE.iter().map(|row| (row.code.name(), row.remedy)));
    for (name, text) in texts {
        let text = text.trim();
        assert!(text.len() >= 4, "{name} is not explained");
        assert!(!text.contains("*/"), "{name} would end a comment in C");
    }
}

#[test]
fn areas_of_bar0_do_not_overlap_and_fit() {
    let areas = [
        (0, REGISTERS_BYTES),
        (CAPS_OFFSET, CAPS_BYTES),
        (FAULT_LOG_OFFSET, FAULT_LOG_RECORDS * 256),
        (TELEMETRY_OFFSET, TELEMETRY_BYTES),
        (MSIX_TABLE_OFFSET, 2048 * 16),
        (MSIX_PBA_OFFSET, 2048 / 8),
    ];
    let mut end = 0;
    for (offset, bytes) in areas {
        assert!(
            offset >= end,
            "the area at {offset:#x} overlaps the one before it"
        );
        end = offset + bytes;
    }
    assert!(u64::from(end) <= BAR0_BYTES);
    // On pages of their own, also where pages have 64 KiB (2.2).
    for offset in [TELEMETRY_OFFSET, MSIX_TABLE_OFFSET, MSIX_PBA_OFFSET] {
        assert_eq!(offset % 0x1_0000, 0);
    }
}

#[test]
fn hbm_begins_above_every_iova_and_times_are_those_of_the_document() {
    const { assert!(limits::HBM_BASE > limits::IOVA_LAST) };
    assert_eq!(limits::IOVA_LAST, 0xFFFF_FFFF_FFFF);
    let times = [
        (limits::RESET_QUEUE_TIME, 10),
        (limits::RESET_DEVICE_TIME, 100),
        (limits::BOOT_TIME, 1000),
        (limits::HEARTBEAT_PERIOD, 100),
        (limits::QUIESCE_TIME, 100),
        (limits::QUEUE_TIME, 10),
        (limits::REALTIME_BURST, 10),
    ];
    for (time, milliseconds) in times {
        assert_eq!(time.as_millis(), milliseconds);
    }
}

#[track_caller]
fn registers_are(rows: &[RegisterRow], wanted: &[(u32, &str, usize, &str)]) {
    let found: Vec<_> = rows
        .iter()
        .map(|row| (row.offset, row.name, row.bytes * 8, row.access.name()))
        .collect();
    assert_eq!(found, wanted);
}

#[test]
fn registers_stand_where_the_document_has_them() {
    registers_are(
        BAR0,
        &[
            (0x000, "MAGIC", 32, "RO"),
            (0x004, "VERSION", 32, "RO"),
            (0x008, "PLATFORM", 32, "RO"),
            (0x00C, "CAPS", 32, "RO"),
            (0x010, "UUID_LOW", 64, "RO"),
            (0x018, "UUID_HIGH", 64, "RO"),
            (0x020, "SERIAL", 64, "RO"),
            (0x028, "GENERATION", 64, "RO"),
            (0x030, "BOOT_ID", 64, "RO"),
            (0x038, "TIME", 64, "RO"),
            (0x040, "FEATURES_OFFERED", 64, "RO"),
            (0x048, "FEATURES_ACCEPTED", 64, "RW"),
            (0x080, "CONTROL", 32, "RW"),
            (0x084, "STATUS", 32, "RO"),
            (0x088, "RESET", 32, "WO"),
            (0x08C, "RESET_STATUS", 32, "RO"),
            (0x090, "KICK", 32, "WO"),
            (0x094, "HEARTBEAT", 32, "RO"),
            (0x0A0, "SCRUB", 32, "WO"),
            (0x0A4, "SCRUB_STATUS", 32, "RO"),
            (0x0A8, "SCRUB_COUNT", 64, "RO"),
            (0x0B0, "PROFILE_COUNT", 64, "RO"),
            (0x100, "Q0_RING", 64, "RW"),
            (0x108, "Q0_COMPLETION", 64, "RW"),
            (0x110, "Q0_ERRORS", 64, "RW"),
            (0x118, "Q0_SIZE", 32, "RW"),
            (0x11C, "Q0_CONTROL", 32, "RW"),
            (0x120, "Q0_STATUS", 32, "RO"),
            (0x180, "FAULT_COUNT", 64, "RO"),
            (0x188, "FAULT_ACK", 64, "RW"),
            (0x200, "MAILBOX", 32, "RO"),
        ],
    );
    let page = [
        (0x00, "TAIL", 32, "RW"),
        (0x08, "ARM", 64, "RW"),
        (0x10, "RESUME", 64, "RW"),
    ];
    registers_are(DOORBELL, &page);
}

#[track_caller]
fn built_are(row: &EnumRow, wanted: &[(u32, &str)]) {
    let built = row.codes.iter().filter(|code| !code.reserved);
    let found: Vec<_> = built.map(|code| (code.value, code.name)).collect();
    assert_eq!(found, wanted, "{}", row.name);
}

#[test]
fn codes_that_are_built_have_the_numbers_of_the_document() {
    built_are(
        &OPCODE,
        &[
            (1, "NOP"),
            (2, "COPY"),
            (3, "COPY_STRIDED"),
            (4, "FILL"),
            (5, "SIGNAL"),
            (6, "WAIT"),
            (7, "TIMESTAMP"),
            (8, "LAUNCH"),
            (9, "BARRIER"),
            (10, "INDIRECT"),
            (0x10, "MANAGE"),
        ],
    );
    built_are(
        &COMMAND,
        &[
            (1, "QUEUE_CREATE"),
            (2, "QUEUE_DESTROY"),
            (3, "QUEUE_QUERY"),
        ],
    );
    built_are(
        &CAP_ID,
        &[
            (0, "END"),
            (1, "QUEUES"),
            (2, "MEMORY"),
            (3, "IOVA"),
            (4, "TIME"),
            (5, "TELEMETRY"),
            (6, "FAULTS"),
            (7, "KERNELS"),
            (8, "PRODUCT"),
            (0x21, "PROFILE"),
        ],
    );
    built_are(
        &KERNEL_ID,
        &[
            (1, "GET_ROWS"),
            (2, "SET_ROWS"),
            (3, "MUL_MAT"),
            (4, "RMS_NORM"),
            (5, "ROPE"),
            (6, "SOFT_MAX"),
            (7, "ADD"),
            (8, "MUL"),
            (9, "SCALE"),
            (10, "SILU"),
            (11, "SWIGLU"),
            (12, "COPY"),
            (13, "ARGMAX"),
            (14, "GEGLU"),
            (15, "MUL_MAT_ID"),
            (16, "ARGSORT"),
            (17, "TOP_K"),
            (18, "SUM_ROWS"),
            (19, "DIV"),
            (20, "ATTENTION"),
            (21, "SUB"),
            (23, "SAMPLE"),
            (24, "CLAMP"),
        ],
    );
    let types = [
        (0, "F32"),
        (1, "F16"),
        (2, "Q4_0"),
        (8, "Q8_0"),
        (12, "Q4_K"),
        (14, "Q6_K"),
        (26, "I32"),
        (27, "I64"),
        (30, "BF16"),
    ];
    built_are(&DTYPE, &types);
}

#[test]
fn unknown_numbers_have_no_name_and_reserved_ones_say_so() {
    for code in [0, 0x0C, 0x0F, 0x11, 0xFF, u32::MAX] {
        assert_eq!(Opcode::from_code(code), None, "{code:#x}");
    }
    assert!(Opcode::Replay.is_reserved() && !Opcode::Indirect.is_reserved());
    assert!(!Opcode::Manage.is_reserved());
    assert_eq!(DType::from_code(3), None, "Q4_1");
    assert_eq!(FaultCode::from_code(0), None, "0 is no fault");
}

#[test]
fn the_catalogue_has_one_row_a_code_and_says_what_to_do() {
    assert_eq!(CATALOGUE.len(), FAULT_CODE.codes.len());
    for (row, code) in CATALOGUE.iter().zip(FAULT_CODE.codes) {
        assert_eq!(row.code.code(), code.value);
        assert_eq!(row.code.row().code, row.code);
        assert_eq!(row.class.code(), row.code.code() >> 8, "{}", code.name);
        assert!(row.remedy.ends_with('.'), "{}: {:?}", code.name, row.remedy);
    }
}

#[test]
fn fault_codes_have_the_numbers_of_the_document() {
    let wanted = [
        (0x0101, FaultCode::UnknownOpcode),
        (0x0102, FaultCode::ReservedField),
        (0x0103, FaultCode::BadParameter),
        (0x0104, FaultCode::NotPermitted),
        (0x010B, FaultCode::Overlap),
        (0x010E, FaultCode::BadQueue),
        (0x0201, FaultCode::UnmappedRead),
        (0x0202, FaultCode::UnmappedWrite),
        (0x0203, FaultCode::ReadOnly),
        (0x0206, FaultCode::BusMasterOff),
        (0x0211, FaultCode::EccUncorrected),
        (0x0301, FaultCode::Deadline),
        (0x0401, FaultCode::BadDoorbell),
        (0x0402, FaultCode::BadValidity),
        (0x0403, FaultCode::BadQueueShape),
        (0x0404, FaultCode::QueueReset),
        (0x0502, FaultCode::ShutdownThermal),
        (0x0601, FaultCode::FirmwareCrash),
        (0x0702, FaultCode::LinkError),
        (0x0801, FaultCode::DeviceReset),
        (0x0804, FaultCode::Wedged),
        (0x0F01, FaultCode::SequenceBackwards),
        (0x0F09, FaultCode::DoorbellLost),
    ];
    for (number, code) in wanted {
        assert_eq!(FaultCode::from_code(number), Some(code), "{number:#06x}");
    }
}
