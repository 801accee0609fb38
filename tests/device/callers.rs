//! Callers that err: each is told what was wrong with what, and nobody else notices.

use std::sync::atomic::{AtomicU64, Ordering};

use jalapeno::error::{Code, Error};
use jalapeno::{HostOptions, Transfer};
use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::packets::{Command, Opcode, Packet};
use jalapeno_tests::invariants::conserved;
use jalapeno_tests::packet::{copy, fill, nop, packet, signal, wait};
use jalapeno_tests::stage::by_sequence;
use jalapeno_tests::{SOON, stage};

#[test]
fn a_wrong_packet_fails_with_its_code_and_touches_no_byte() {
    use FaultCode::{
        BadArguments, BadParameter, Misaligned, NotPermitted, Overlap, ReservedField,
        UnknownOpcode, UnmappedRead, UnmappedWrite,
    };
    let stage = stage();
    let session = stage.session();
    let mut queue = by_sequence(&session, 4);
    let memory = session.host_memory(8192, HostOptions::default()).unwrap();
    memory.memory().write(0, &[0x5A; 8192]).unwrap();
    let at = memory.address();
    let strided = |rows: u64, bytes: u64, from: u64, to: u64| {
        let shape = rows << 32 | bytes;
        packet(Opcode::CopyStrided, 0, [at.0, at.0 + 4096, shape, from, to])
    };
    let mut unknown = nop(1);
    unknown.header = 0x7F;
    let mut reserved = nop(1);
    reserved.body[4] = 1;
    let rows: &[(&str, Packet, &[FaultCode])] = &[
        ("M05 overlapping", copy(at, at + 100, 101), &[Overlap]),
        ("M05 onto itself", copy(at, at, 64), &[Overlap]),
        ("M06 fence", signal(at + 4, 1), &[Misaligned]),
        ("M06 wait", wait(at + 1, 0), &[Misaligned]),
        (
            "M06 launch",
            packet(Opcode::Launch, 7, [at.0 + 8, 256, 0, 0, 0]),
            &[Misaligned],
        ),
        (
            "M06 timestamp",
            packet(Opcode::Timestamp, 0, [at.0 + 4, 0, 0, 0, 0]),
            &[Misaligned],
        ),
        (
            "M07 source wraps",
            copy(at, jalapeno::DeviceAddr(u64::MAX - 10), 64),
            &[UnmappedWrite, BadParameter],
        ),
        (
            "M07 all there is",
            copy(at, at + 4096, u64::MAX),
            &[Overlap, UnmappedRead, BadParameter],
        ),
        (
            "M07 fill wraps",
            fill(at, u64::MAX, 0),
            &[UnmappedWrite, BadParameter],
        ),
        (
            "M08 rows x stride",
            strided(u64::from(u32::MAX), 8, u64::MAX / 2, 8),
            &[BadParameter],
        ),
        (
            "M08 rows x stride, written",
            strided(u64::from(u32::MAX), 8, 8, u64::MAX / 2),
            &[BadParameter],
        ),
        (
            "M08 stride below row",
            strided(2, 64, 64, 8),
            &[BadParameter],
        ),
        (
            "M08 operands x size",
            packet(Opcode::Launch, 7, [at.0, 0xFFFF_FFC0, 0, 0, 0]),
            &[BadArguments],
        ),
        ("no such opcode", unknown, &[UnknownOpcode]),
        ("reserved bytes", reserved, &[ReservedField]),
        (
            "management outside queue 0",
            packet(
                Opcode::Manage,
                Command::QueueDestroy as u32,
                [at.0, 0, 8, 0, 0],
            ),
            &[NotPermitted],
        ),
    ];
    for (what, packet, codes) in rows {
        let seq = queue.submit_one(packet).unwrap();
        let error = queue.completions().wait(seq, Some(SOON)).unwrap_err();
        let Error::Fault(fault) = &error else {
            panic!("{what}: {error}")
        };
        let code = fault.code.unwrap();
        assert!(codes.contains(&code), "{what}: {error}");
        assert_eq!(fault.record.sequence, seq.0, "{what}");
        assert!(error.hint().is_some(), "{what} has no hint");
        queue.resume().unwrap();
    }
    let counters = queue.completions().counters();
    conserved(&counters);
    assert_eq!(counters.failed, rows.len() as u64);
    let mut bytes = [0; 8192];
    memory.memory().read(0, &mut bytes).unwrap();
    assert!(
        bytes.iter().all(|&byte| byte == 0x5A),
        "no byte was touched"
    );
}

#[test]
fn sizes_that_wrap_are_refused_before_anything_happens() {
    let stage = stage();
    let session = stage.session();
    let memory = session.host_memory(100, HostOptions::default()).unwrap();
    for (offset, bytes) in [
        (u64::MAX, 1),
        (u64::MAX - 3, 8),
        (1 << 63, 1),
        (100, 1),
        (93, 8),
    ] {
        let mut into = vec![0; bytes];
        let read = memory.memory().read(offset, &mut into).unwrap_err();
        let write = memory.memory().write(offset, &into).unwrap_err();
        assert_eq!(read.code(), Code::Invalid, "{offset:#x}: {read}");
        assert_eq!(write.code(), Code::Invalid, "{offset:#x}: {write}");
    }
    let maps = session.device().dma().unwrap().usage().maps;
    for bytes in [0, u64::MAX, u64::MAX - 4095, 1 << 63] {
        let error = session
            .host_memory(bytes, HostOptions::default())
            .unwrap_err();
        assert!(
            matches!(error.code(), Code::Invalid | Code::Memory),
            "{error}"
        );
    }
    assert_eq!(session.device().dma().unwrap().usage().maps, maps);
    let mut transfer = Transfer::new(&session).unwrap();
    let end = jalapeno::DeviceAddr(u64::MAX - 2);
    assert_eq!(
        transfer.write(end, &[0; 16]).unwrap_err().code(),
        Code::Fault
    );
}

#[test]
fn one_session_serves_many_threads_that_each_make_use_and_drop_what_they_need() {
    const THREADS: u64 = 6;
    let stage = stage();
    let session = stage.session();
    let device = session.device();
    let maps = device.dma().unwrap().usage().maps;
    let hbm = device.hbm().unwrap().used();
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (session, done) = (&session, &done);
            scope.spawn(move || {
                for round in 0..8 {
                    let bytes = 4200 + 100 * thread + round;
                    let here = session.host_memory(bytes, HostOptions::default()).unwrap();
                    let there = session.device_memory(bytes).unwrap();
                    let home = session.host_memory(bytes, HostOptions::default()).unwrap();
                    let mut queue = by_sequence(session, 4);
                    let sent = vec![u8::try_from(8 * thread + round).unwrap(); 4096];
                    here.memory().write(7, &sent).unwrap();
                    let seq = queue
                        .submit(&[
                            copy(here.address() + 7, there.address(), 4089),
                            copy(there.address(), home.address(), 4089),
                        ])
                        .unwrap();
                    queue.completions().wait(seq, Some(SOON)).unwrap();
                    let mut came = vec![0; 4089];
                    home.memory().read(0, &mut came).unwrap();
                    assert_eq!(came, sent[..4089]);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(done.into_inner(), 8 * THREADS);
    assert_eq!(device.dma().unwrap().usage().maps, maps);
    assert_eq!(device.hbm().unwrap().used(), hbm);
}

#[test]
fn one_device_handle_answers_many_threads_at_once() {
    let stage = stage();
    let device = stage.device();
    let rounds = stage.rounds(60);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..rounds {
                    device.verify().unwrap();
                    device.clock().unwrap();
                    device.telemetry().unwrap();
                    device.fault_log(0).unwrap();
                }
            });
        }
    });
}

#[test]
fn a_second_session_is_told_that_the_first_lives_and_the_next_one_is_let_in() {
    let stage = stage();
    let first = stage.session();
    let device = std::sync::Arc::clone(first.device());
    let error = jalapeno::Session::new(&device).unwrap_err();
    assert_eq!(error.code(), Code::Busy, "{error}");
    assert!(error.hint().is_some());
    let copy = first.clone();
    drop(first);
    assert!(jalapeno::Session::new(&device).is_err(), "a clone lives");
    drop(copy);
    drop(jalapeno::Session::new(&device).unwrap());
}
