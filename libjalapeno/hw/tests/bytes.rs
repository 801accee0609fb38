//! Packets, records and registers against bytes written by hand from docs/host-interface.md.
//!
//! No byte here was printed by the code: each line says which rule of the document made it. The
//! examples of appendix B stand here and there.

use jalapeno_hw::caps::{
    CAP_REQUIRED, CapFaults, CapHeader, CapIova, CapKernels, CapMemory, CapProduct, CapProfile,
    CapQueues, CapTelemetry, CapTime,
};
use jalapeno_hw::faults::FaultRecord;
use jalapeno_hw::packets::{
    Copy, CopyStrided, Fence, Fill, HEADER_VALID, Indirect, Launch, Manage, Opcode, Packet, Patch,
    Tensor, header,
};
use jalapeno_hw::profile::ProfileRecord;
use jalapeno_hw::queue::{QueueCreate, QueueReport};
use jalapeno_hw::regs::{Kick, Q0Size, Q0Status, Reset, ResetStatus, Status, Version};
use jalapeno_hw::telemetry::{TelemetryEntry, TelemetryHeader};
use zerocopy::{FromBytes, IntoBytes};

const DOCUMENT: &str = include_str!("../../../docs/host-interface.md");

/// Bytes from hex; what follows `;` on a line is the reason, and `.. n` stands for n zero bytes.
fn hex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in text.lines() {
        let mut words = line
            .split(';')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        while let Some(word) = words.next() {
            if word == ".." {
                let zeros: usize = words.next().expect("a count").parse().expect("a number");
                bytes.resize(bytes.len() + zeros, 0);
            } else {
                assert_eq!(word.len(), 2, "{word} is no byte");
                bytes.push(u8::from_str_radix(word, 16).expect("hex"));
            }
        }
    }
    bytes
}

#[track_caller]
fn same(found: &[u8], wanted: &str) {
    let wanted = hex(wanted);
    assert_eq!(found.len(), wanted.len(), "length");
    for (at, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        assert_eq!(
            found, wanted,
            "byte {at:#04x}: {found:#04x}, by hand {wanted:#04x}"
        );
    }
}

/// The lines of hex stand in the document's appendix B word for word.
#[track_caller]
fn documented(example: &str) {
    for line in example
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        assert!(
            DOCUMENT.contains(line),
            "appendix B lacks the line {line:?}"
        );
    }
}

fn packet(opcode: Opcode, argument: u32, valid: u64, body: [u64; 5]) -> Packet {
    Packet {
        header: header(opcode, argument) | valid,
        body,
        ..Packet::ZERO
    }
}

/// 7.1: reflected 0x04C11DB7 is 0xEDB88320; initial value and final XOR are all ones.
fn crc(bytes: &[u8]) -> u32 {
    let mut state = u32::MAX;
    for byte in bytes {
        state ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = state & 1 == 1;
            state = state >> 1 ^ if carry { 0xEDB8_8320 } else { 0 };
        }
    }
    !state
}

#[test]
fn a_nop_on_the_second_lap() {
    let example = "
        01 00 00 00 00 00 00 00 ; 0x00 opcode NOP; validity 0: (5 - 1) >> 2 is 1, odd
        88 77 66 55 44 33 22 11 ; 0x08 cookie 0x1122334455667788
        .. 48                   ; 0x10 no deadline, no body
    ";
    documented(example);
    let nop = Packet {
        cookie: 0x1122_3344_5566_7788,
        ..packet(Opcode::Nop, 0, 0, [0; 5])
    };
    same(nop.as_bytes(), example);
}

#[test]
fn a_copy_of_64_mib_from_host_to_hbm_with_a_deadline() {
    let example = "
        02 01 00 00 00 00 00 00 ; 0x00 opcode COPY; bit 8 set: (1 - 1) >> 2 is 0, even
        07 00 00 00 00 00 00 00 ; 0x08 cookie 7
        00 00 00 00 01 00 00 00 ; 0x10 deadline 0x100000000
        00 90 78 56 34 12 00 00 ; 0x18 source, an IOVA: 0x123456789000
        00 00 20 00 00 00 00 01 ; 0x20 destination: HBM base 2^56, and 2 MiB
        00 00 00 04 00 00 00 00 ; 0x28 bytes: 64 MiB = 0x4000000
        .. 16                   ; 0x30 zero
    ";
    documented(example);
    let copy = Copy {
        source: 0x1234_5678_9000,
        destination: 0x0100_0000_0020_0000,
        bytes: 64 << 20,
        ..Copy::ZERO
    };
    let copy = Packet {
        cookie: 7,
        deadline: 1 << 32,
        ..packet(Opcode::Copy, 0, HEADER_VALID, zerocopy::transmute!(copy))
    };
    same(copy.as_bytes(), example);
}

#[test]
fn a_launch_of_a_matrix_product_of_three_operands() {
    let example = "
        08 01 00 00 03 00 00 00 ; 0x00 opcode LAUNCH, valid; argument: kernel 3, MUL_MAT
        .. 16                   ; 0x08 no cookie, no deadline
        40 00 00 10 00 00 00 00 ; 0x18 argument block at 0x10000040, 64-byte aligned
        00 01 00 00             ; 0x20 its length: 64 x (1 + 3) = 256
        00 00 00 00             ; 0x24 flags
        .. 24                   ; 0x28 zero
    ";
    documented(example);
    let launch = Launch {
        arguments: 0x1000_0040,
        argument_bytes: 256,
        ..Launch::ZERO
    };
    let launch = packet(
        Opcode::Launch,
        3,
        HEADER_VALID,
        zerocopy::transmute!(launch),
    );
    same(launch.as_bytes(), example);

    let tensor = Tensor {
        address: 0x0100_0000_0000_0000,
        dtype: 30,
        flags: 0,
        ne: [64, 32, 1, 1],
        nb: [2, 128, 4096, 4096],
    };
    same(
        tensor.as_bytes(),
        "00 00 00 00 00 00 00 01 ; 0x00 address 2^56
         1E 00 00 00 00 00 00 00 ; 0x08 type 30 is BF16; flags
         40 00 00 00 20 00 00 00 ; 0x10 ne 64, 32
         01 00 00 00 01 00 00 00 ; 0x18 ne 1, 1
         02 00 00 00 00 00 00 00 ; 0x20 nb: 2 bytes an element
         80 00 00 00 00 00 00 00 ; 0x28 128 bytes a row
         00 10 00 00 00 00 00 00 ; 0x30 4096 bytes a plane
         00 10 00 00 00 00 00 00 ; 0x38",
    );
}

#[test]
fn the_other_bodies_have_their_fields_where_the_document_has_them() {
    let strided = CopyStrided {
        source: 1,
        destination: 2,
        row_bytes: 3,
        rows: 4,
        source_stride: 5,
        destination_stride: 6,
    };
    let eight = "01 .. 7 02 .. 7 03 00 00 00 04 00 00 00 05 .. 7 06 .. 7";
    same(strided.as_bytes(), eight);
    let fill = Fill {
        destination: 1,
        bytes: 2,
        pattern: 0x0807_0605_0403_0201,
        ..Fill::ZERO
    };
    // The pattern's lowest byte is stored first (6.5).
    same(
        fill.as_bytes(),
        "01 .. 7 02 .. 7 01 02 03 04 05 06 07 08 .. 16",
    );
    let fence = Fence {
        address: 0x18,
        value: 9,
        ..Fence::ZERO
    };
    let wait = packet(Opcode::Wait, 1, HEADER_VALID, zerocopy::transmute!(fence));
    // WAIT is 0x06; AT_LEAST, 1, is the argument in bits 63:32.
    same(
        wait.as_bytes(),
        "06 01 00 00 01 00 00 00 .. 16 18 .. 7 09 .. 7 .. 24",
    );
    let manage = Manage {
        input: 1,
        result: 2,
        input_bytes: 3,
        result_bytes: 4,
        ..Manage::ZERO
    };
    same(
        manage.as_bytes(),
        "01 .. 7 02 .. 7 03 00 00 00 04 00 00 00 .. 16",
    );
}

#[test]
fn a_graph_of_two_packets_and_one_patch() {
    let indirect = Indirect {
        image: 0x1000_0040,
        image_bytes: 256,
        patches: 1,
        value: [7, 511, 0, 0, 0, 9],
    };
    // 6.11: INDIRECT is 0x0A; the number of packets is the argument in bits 63:32.
    let bytes = "
        0A 01 00 00 02 00 00 00 ; 0x00 opcode INDIRECT, valid; argument: two packets
        .. 16                   ; 0x08 no cookie, no deadline
        40 00 00 10 00 00 00 00 ; 0x18 image at 0x10000040, 64-byte aligned
        00 01 00 00 01 00 00 00 ; 0x20 256 bytes, one patch
        07 00 00 00 FF 01 00 00 ; 0x28 values 0 and 1: token 7, position 511
        .. 12 09 00 00 00       ; 0x30 values 2 to 5";
    let found = packet(
        Opcode::Indirect,
        2,
        HEADER_VALID,
        zerocopy::transmute!(indirect),
    );
    same(found.as_bytes(), bytes);
    documented(bytes);
    let patch = Patch {
        offset: 0x94,
        width: 4,
        value: 1,
        reserved: 0,
        scale: 1,
    };
    let bytes = "
        94 00 00 00             ; 0x00 offset 0x94: behind two packets, in a third line
        04 01 00 00             ; 0x04 4 bytes wide, value 1, zero
        01 00 00 00 00 00 00 00 ; 0x08 once the value";
    same(patch.as_bytes(), bytes);
    documented(bytes);
}

#[test]
fn a_queue_create_input_and_a_report() {
    let create = QueueCreate {
        queue: 3,
        depth_log2: 8,
        errors_log2: 2,
        vector: 4,
        ring: 0x7000_0000_0000,
        completion: 0x7000_0001_0040,
        errors: 0x7000_0001_0100,
        ..QueueCreate::ZERO
    };
    let example = "
        03 00 00 00             ; 0x00 queue 3
        08 02                   ; 0x04 256 packets, 4 error records
        04 00                   ; 0x06 vector 4
        00 00 00 00 00 70 00 00 ; 0x08 ring, aligned to 4 KiB
        40 00 01 00 00 70 00 00 ; 0x10 completion line, aligned to 64
        00 01 01 00 00 70 00 00 ; 0x18 error ring, aligned to 256
        .. 32                   ; 0x20 profile, priority, flags, zero
    ";
    documented(example);
    same(create.as_bytes(), example);
    let report = QueueReport {
        state: 2,
        code: 0x0201,
        completed: 8,
        submitted: 10,
        errors: 1,
    };
    // STOPPED for UNMAPPED_READ.
    same(
        report.as_bytes(),
        "02 00 00 00 01 02 00 00 08 .. 7 0A .. 7 01 .. 7",
    );
}

#[test]
fn a_fault_record_with_its_crc() {
    // Queue 3 has four records: index 1 is on the first lap, so the phase is 1. The CRC was worked
    // out by another program over bytes 0x00 to 0xF7 with flags 0.
    let example = "
        01 02 00 00             ; 0x00 code 0x0201, UNMAPPED_READ
        02 01 02                ; 0x04 severity ERROR, scope QUEUE, action RESTART_QUEUE
        01                      ; 0x07 flags: phase 1
        09 00 00 00 00 00 00 00 ; 0x08 sequence 9
        EE FF C0 00 00 00 00 00 ; 0x10 cookie 0xC0FFEE
        00 20 00 10 00 00 00 00 ; 0x18 address 0x10002000: the first byte behind the mapping
        00 00 00 10 00 00 00 00 ; 0x20 the mapping begins at 0x10000000
        00 20 00 00 00 00 00 00 ; 0x28 and has 0x2000 bytes
        AB 89 67 45 23 01 00 00 ; 0x30 device time 0x0123456789AB
        00 00 00 00 00 00 00 00 ; 0x38 host time not known
        01 00 00 00 00 00 00 00 ; 0x40 generation 1
        10 32 54 76 98 BA DC FE ; 0x48 boot id 0xFEDCBA9876543210
        03 00 00 00 02 00 00 00 ; 0x50 queue 3, opcode COPY
        .. 8                    ; 0x58 no kernel, no operand
        01 00 00 00 00 00 00 00 ; 0x60 index 1
        .. 144                  ; 0x68 no detail, zero
        5E 3F B8 02 00 00 00 00 ; 0xF8 CRC 0x02B83F5E
    ";
    documented(example);
    let record = FaultRecord {
        code: 0x0201,
        severity: 2,
        scope: 1,
        action: 2,
        flags: 1,
        sequence: 9,
        cookie: 0xC0_FFEE,
        address: 0x1000_2000,
        mapping_start: 0x1000_0000,
        mapping_bytes: 0x2000,
        device_time: 0x0123_4567_89AB,
        generation: 1,
        boot_id: 0xFEDC_BA98_7654_3210,
        queue: 3,
        opcode: 2,
        index: 1,
        crc: 0x02B8_3F5E,
        ..FaultRecord::ZERO
    };
    same(record.as_bytes(), example);

    assert_eq!(crc(b"123456789"), 0xCBF4_3926, "the check value of 7.1");
    let mut covered = hex(example);
    covered.truncate(0xF8);
    covered[7] = 0;
    assert_eq!(crc(&covered), 0x02B8_3F5E, "with the phase bit taken as 0");
    covered[0x18] ^= 1;
    assert_ne!(crc(&covered), 0x02B8_3F5E, "one wrong bit shows");
}

#[test]
fn each_capability_record() {
    let header = |id, bytes, flags| CapHeader {
        id,
        version: 1,
        bytes,
        flags,
    };
    let queues = CapQueues {
        header: header(1, 32, CAP_REQUIRED),
        count: 64,
        doorbell_stride: 4096,
        depth_log2_min: 0,
        depth_log2_max: 16,
        errors_log2_max: 8,
        vectors: 65,
        ..CapQueues::ZERO
    };
    // id, version 1, length 32, REQUIRED; 64 queues; stride 0x1000; 2^0 to 2^16; 2^8; 65 vectors.
    let wanted = "01 00 01 00 20 00 01 00 40 00 00 00 00 10 00 00 00 10 08 00 41 00 00 00 .. 8";
    same(queues.as_bytes(), wanted);
    let memory = CapMemory {
        header: header(2, 48, CAP_REQUIRED),
        hbm_base: 1 << 56,
        hbm_bytes: 0x32_4A80_0000,
        window_offset: 0x20_0000,
        small_page: 0x1_0000,
        large_page: 0x20_0000,
        stacks: 6,
        ..CapMemory::ZERO
    };
    // 216 GB in whole pages of 2 MiB is 102996 x 2097152 = 0x324A800000.
    let wanted = "02 00 01 00 30 00 01 00 00 00 00 00 00 00 00 01 00 00 80 4A 32 00 00 00
         00 00 20 00 00 00 00 00 00 00 01 00 00 00 20 00 06 00 00 00 .. 4";
    same(memory.as_bytes(), wanted);
    let iova = CapIova {
        header: header(3, 24, CAP_REQUIRED),
        last: (1 << 48) - 1,
        ..CapIova::ZERO
    };
    same(
        iova.as_bytes(),
        "03 00 01 00 18 00 01 00 FF FF FF FF FF FF 00 00 .. 8",
    );
    let time = CapTime {
        header: header(4, 40, CAP_REQUIRED),
        ticks_per_second: 1_000_000_000,
        reset_queue_us: 10_000,
        reset_device_us: 100_000,
        heartbeat_us: 100_000,
        quiesce_us: 100_000,
        scrub_us: 30_000_000,
        boot_us: 1_000_000,
    };
    // 10^9 = 0x3B9ACA00; 10^4 = 0x2710; 10^5 = 0x186A0; 3 x 10^7 = 0x1C9C380; 10^6 = 0xF4240.
    let wanted = "04 00 01 00 28 00 01 00 00 CA 9A 3B 00 00 00 00 10 27 00 00 A0 86 01 00
         A0 86 01 00 A0 86 01 00 80 C3 C9 01 40 42 0F 00";
    same(time.as_bytes(), wanted);
    let telemetry = CapTelemetry {
        header: header(5, 16, 0),
        offset: 0x1_0000,
        bytes: 0x4000,
    };
    same(
        telemetry.as_bytes(),
        "05 00 01 00 10 00 00 00 00 00 01 00 00 40 00 00",
    );
    let faults = CapFaults {
        header: header(6, 24, 0),
        offset: 0x2000,
        records: 16,
        record_bytes: 256,
        reserved: 0,
    };
    let wanted = "06 00 01 00 18 00 00 00 00 20 00 00 10 00 00 00 00 01 00 00 .. 4";
    same(faults.as_bytes(), wanted);
    let kernels = CapKernels {
        header: header(7, 48, 0),
        // Kernels 1 to 13 and 24, CLAMP: bits 13:1 and 24. Types 0, 1, 26, 27, 30.
        kernels: [0x0100_3FFE, 0],
        dtypes: [0x4C00_0003, 0],
        operands_max: 8,
        reserved: 0,
    };
    let wanted = "07 00 01 00 30 00 00 00 FE 3F 00 01 .. 12 03 00 00 4C .. 12 08 00 00 00 .. 4";
    same(kernels.as_bytes(), wanted);
    let mut product = CapProduct {
        header: header(8, 72, 0),
        ..CapProduct::ZERO
    };
    product.name[..2].copy_from_slice(b"Ja");
    product.firmware[..3].copy_from_slice(b"1.0");
    // ASCII, zero-padded to 32 each.
    same(
        product.as_bytes(),
        "08 00 01 00 48 00 00 00 4A 61 .. 30 31 2E 30 .. 29",
    );
}

#[test]
fn a_telemetry_page_with_one_entry() {
    let page = hex("4A 54 45 4C             ; 0x00 the bytes JTEL
         01 00 01 00             ; 0x04 version 1, one entry
         06 00 00 00 00 00 00 00 ; 0x08 sequence 6: even, nobody writes
         E8 03 00 00 00 00 00 00 ; 0x10 updated at tick 1000
         02 00 00 00 00 00 00 00 ; 0x18 generation 2
         .. 32                   ; 0x20 zero
         01 00 00 00             ; 0x40 DIE_TEMPERATURE, instance 0
         01 00 00 00             ; 0x44 MILLI_CELSIUS, VALID
         0C FE FF FF FF FF FF FF ; 0x48 -500: half a degree below zero
         E7 03 00 00 00 00 00 00 ; 0x50 taken at tick 999
         2C 01 00 00 00 00 00 00 ; 0x58 stale after 300 ms");
    let (header, rest) = TelemetryHeader::read_from_prefix(&page).expect("a header");
    assert_eq!(
        (header.magic, header.version, header.count),
        (0x4C45_544A, 1, 1)
    );
    assert_eq!(
        (header.sequence, header.updated, header.generation),
        (6, 1000, 2)
    );
    let entry = TelemetryEntry::read_from_bytes(rest).expect("one entry");
    assert_eq!(
        (entry.field, entry.instance, entry.unit, entry.status),
        (1, 0, 1, 0)
    );
    assert_eq!((entry.value.cast_signed(), entry.taken), (-500, 999));
    assert_eq!(entry.stale_after_ms, 300);
}

#[test]
fn a_profile_record_and_the_capability_that_says_where_they_are() {
    let record = hex("09 00 00 00 00 00 00 00 ; 0x00 sequence 9
         EE FF C0 00 00 00 00 00 ; 0x08 cookie 0xC0FFEE
         E8 03 00 00 00 00 00 00 ; 0x10 from tick 1000
         D0 07 00 00 00 00 00 00 ; 0x18 to tick 2000
         40 E2 01 00 00 00 00 00 ; 0x20 123,456 nJ
         00 10 00 00 00 00 00 00 ; 0x28 4096 bytes
         00 02 00 00 00 00 00 00 ; 0x30 512 operations
         03 00 08 01             ; 0x38 queue 3, LAUNCH, FAILED
         03 00 00 00             ; 0x3C kernel 3");
    let record = ProfileRecord::read_from_bytes(&record).expect("64 bytes");
    assert_eq!((record.sequence, record.cookie), (9, 0xC0_FFEE));
    assert_eq!((record.start, record.end), (1000, 2000));
    assert_eq!(
        (record.energy_nj, record.bytes, record.operations),
        (123_456, 4096, 512)
    );
    assert_eq!(
        (record.queue, record.opcode, record.status, record.kernel),
        (3, 8, 1, 3)
    );
    let cap = CapProfile {
        header: CapHeader {
            id: 0x21,
            version: 1,
            bytes: 24,
            flags: 0,
        },
        offset: 0x18000,
        records: 512,
        record_bytes: 64,
        lease_ms: 1000,
    };
    // BAR0 0x18000, 512 records of 64 bytes, 1000 ms.
    same(
        cap.as_bytes(),
        "21 00 01 00 18 00 00 00 00 80 01 00 00 02 00 00 40 00 00 00 E8 03 00 00",
    );
}

#[test]
fn fields_of_registers_stand_at_their_bits() {
    assert_eq!(
        (Version(0x0001_0002).major(), Version(0x0001_0002).minor()),
        (1, 2)
    );
    // READY is 1, idle bit 4, fault bit 5.
    let status = Status(0).with_state(1).with_idle(1).with_fault(1);
    assert_eq!(status.0, 0x31);
    assert_eq!(Status(0x15).state(), 5, "WEDGED and idle");
    // Level QUEUE, queue 3.
    assert_eq!(Reset(0).with_level(1).with_queue(3).0, 0x0003_0001);
    let done = ResetStatus(0x0000_0042);
    assert_eq!(
        (done.phase(), done.level(), done.queue()),
        (2, 4, 0),
        "DEVICE is DONE"
    );
    // 2^10 packets, 2^4 records, vector 1.
    let size = Q0Size(0)
        .with_depth_log2(10)
        .with_errors_log2(4)
        .with_vector(1);
    assert_eq!(size.0, 0x0001_040A);
    let refused = Q0Status(0x0403_0003);
    assert_eq!(
        (refused.state(), refused.code()),
        (3, 0x0403),
        "REFUSED, BAD_QUEUE_SHAPE"
    );
    assert_eq!(
        Kick(0).with_queue(0x1_0005).0,
        5,
        "bits beyond a field are dropped"
    );
}
