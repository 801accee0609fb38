//! Graphs: recorded and checked once, run again and again, and what ends them.

use std::time::Duration;

use jalapeno::error::{Code, Error};
use jalapeno::hw::faults::FaultCode;
use jalapeno::hw::kernels::{DType, KernelId};
use jalapeno::hw::packets::{Opcode, Packet, Parameters, Tensor};
use jalapeno::{DeviceAddr, HostOptions, Place, QueueOptions};
use jalapeno_tests::packet::{self, copy, packet, signal, wait};
use jalapeno_tests::stage::Stage;
use jalapeno_tests::{SOON, board, stage};

fn fill(to: DeviceAddr, pattern: u64) -> Packet {
    packet::fill(to, 8, pattern)
}

/// A row of floats.
fn row(at: DeviceAddr, floats: u32) -> Tensor {
    let bytes = 4 * u64::from(floats);
    Tensor {
        address: at.0,
        dtype: DType::F32.code(),
        flags: 0,
        ne: [floats, 1, 1, 1],
        nb: [4, bytes, bytes, bytes],
    }
}

fn word(buffer: &jalapeno::HostBuffer, index: u64) -> u64 {
    let mut bytes = [0; 8];
    buffer.memory().read(8 * index, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

#[test]
fn a_graph_is_recorded_once_and_each_run_has_its_values() {
    let stage = stage();
    let session = stage.session();
    let mut queue = session.queue(QueueOptions::default()).unwrap();
    let host = session.host_memory(4096, HostOptions::default()).unwrap();
    let mut recorder = session.record().unwrap();
    let token = recorder.add(&fill(host.address(), 1000)).unwrap();
    let mut doubled = Parameters::ZERO;
    doubled.word[0] = 2.0f32.to_bits();
    let from = row(host.address() + 1024, 4);
    let to = row(host.address() + 2048, 4);
    let scale = recorder
        .launch(KernelId::Scale.code(), &doubled, &[to, from])
        .unwrap();
    recorder
        .patch(token, Place::Packet, (0x28, 8), 0, 1)
        .unwrap();
    for operand in 0..2 {
        recorder
            .patch(scale, Place::Tensor(operand), (0, 8), 1, 16)
            .unwrap();
    }
    let graph = recorder.finish(&[u32::MAX, 3]).unwrap();
    assert_eq!((graph.packets(), graph.values()), (2, 2));
    for at in 0..16u8 {
        let float = f32::from(at).to_le_bytes();
        host.memory()
            .write(1024 + 4 * u64::from(at), &float)
            .unwrap();
    }
    for slot in 0..4u32 {
        let run = graph.replay(&mut queue, &[7 * slot, slot]).unwrap();
        queue.completions().wait(run, Some(SOON)).unwrap();
        assert_eq!(word(&host, 0), 1000 + 7 * u64::from(slot));
    }
    for at in 0..16u8 {
        let mut float = [0; 4];
        host.memory()
            .read(2048 + 4 * u64::from(at), &mut float)
            .unwrap();
        assert_eq!(f32::from_le_bytes(float), 2.0 * f32::from(at));
    }
    assert_eq!(
        queue.completions().counters().submitted,
        4,
        "one packet a run"
    );
}

#[test]
fn many_runs_may_be_in_flight_on_two_queues_that_wait_for_each_other() {
    let stage = stage();
    let session = stage.session();
    let mut queues = [(); 2].map(|()| session.queue(QueueOptions::default()).unwrap());
    let fences = [(); 2].map(|()| session.fence(0).unwrap());
    let graphs = [0usize, 1].map(|side| {
        let mut recorder = session.record().unwrap();
        let (mine, other) = (fences[side].address(), fences[1 - side].address());
        // Side 0 begins: it waits for what the round before raised.
        let before = side as u64;
        let hold = recorder.add(&wait(other, before)).unwrap();
        let raise = recorder.add(&signal(mine, 1)).unwrap();
        for step in [hold, raise] {
            recorder
                .patch(step, Place::Packet, (0x20, 8), 0, 1)
                .unwrap();
        }
        recorder.finish(&[1000]).unwrap()
    });
    let mut last = Vec::new();
    for (queue, graph) in queues.iter_mut().zip(&graphs).rev() {
        let runs = (0..100).map(|round| graph.replay(queue, &[round]).unwrap());
        last.push(runs.last().unwrap());
    }
    for (queue, run) in queues.iter().rev().zip(last) {
        queue.completions().wait(run, Some(SOON)).unwrap();
    }
    assert_eq!(fences.map(|fence| fence.value().unwrap()), [100, 100]);
}

#[test]
fn a_failure_inside_says_which_packet_and_the_queue_runs_again() {
    let stage = stage();
    let session = stage.session();
    let mut queue = session.queue(QueueOptions::default()).unwrap();
    let host = session.host_memory(4096, HostOptions::default()).unwrap();
    let mut recorder = session.record().unwrap();
    recorder.add(&fill(host.address(), 1)).unwrap();
    // Equal ranges overlap: only the device says so.
    recorder
        .add(&copy(host.address(), host.address(), 8))
        .unwrap();
    recorder.add(&fill(host.address() + 8, 2)).unwrap();
    let graph = recorder.finish(&[]).unwrap();
    let run = graph.replay(&mut queue, &[]).unwrap();
    let error = queue.completions().wait(run, Some(SOON)).unwrap_err();
    let Error::Fault(fault) = &error else {
        panic!("{error}");
    };
    assert_eq!(fault.code, Ok(FaultCode::Overlap));
    assert_eq!(fault.record.detail[3], 2);
    assert!(
        error.to_string().contains("packet 1 of its graph"),
        "{error}"
    );
    assert_eq!((word(&host, 0), word(&host, 1)), (1, 0));
    queue.resume().unwrap();
    let run = queue.submit_one(&fill(host.address(), 3)).unwrap();
    queue.completions().wait(run, Some(SOON)).unwrap();
}

#[test]
fn memory_that_is_freed_or_foreign_is_refused_when_recorded() {
    let stage = stage();
    let session = stage.session();
    let host = session.host_memory(4096, HostOptions::default()).unwrap();
    let maps = || session.device().dma().unwrap().usage().maps;
    let before = maps();
    let freed = session.device_memory(4096).unwrap();
    let gone = freed.address();
    drop(freed);
    let end = host.address() + 4096;
    for (packet, limits) in [
        (copy(host.address(), gone, 8), &[][..]),
        (copy(host.address(), end, 8), &[]),
        (copy(end + (u64::MAX - end.0 - 3), host.address(), 8), &[]),
        (fill(host.address() + 4089, 1), &[]),
        (packet(Opcode::Timestamp, 0, [16, 0, 0, 0, 0]), &[]),
        (wait(end, 1), &[]),
        (
            packet(
                Opcode::CopyStrided,
                0,
                [gone.0, host.address().0, 8 | 2 << 32, u64::MAX, 8],
            ),
            &[],
        ),
        // With value 0 at 511 it would pass the end by 8 bytes.
        (fill(host.address() + 8, 1), &[511]),
    ] {
        let mut recorder = session.record().unwrap();
        let step = recorder.add(&packet).unwrap();
        if !limits.is_empty() {
            recorder
                .patch(step, Place::Packet, (0x18, 8), 0, 8)
                .unwrap();
        }
        let error = recorder.finish(limits).unwrap_err();
        assert_eq!(error.code(), Code::Invalid, "{error}");
        assert!(error.to_string().contains("step 0"), "{error}");
    }
    // A tensor whose strides leave its buffer, and one that does with a value at its limit.
    for (stride, limit) in [(4096, 0), (16, 253)] {
        let mut recorder = session.record().unwrap();
        let mut wide = row(host.address(), 4);
        (wide.ne[1], wide.nb[1]) = (2, stride);
        let scale = KernelId::Scale.code();
        let dense = row(host.address() + 2048, 4);
        let step = recorder
            .launch(scale, &Parameters::ZERO, &[dense, wide])
            .unwrap();
        recorder
            .patch(step, Place::Tensor(1), (0x14, 4), 0, 1)
            .unwrap();
        recorder
            .patch(step, Place::Tensor(1), (0, 8), 0, 4)
            .unwrap();
        let error = recorder.finish(&[limit]).unwrap_err();
        assert!(error.to_string().contains("SCALE), operand 1"), "{error}");
    }
    let mut recorder = session.record().unwrap();
    recorder.add(&fill(host.address() + 8, 1)).unwrap();
    recorder.patch(0, Place::Packet, (0x18, 8), 0, 8).unwrap();
    recorder.finish(&[510]).unwrap();
    assert_eq!(
        maps(),
        before,
        "what was refused, or is over, left nothing behind"
    );
}

#[test]
fn what_no_graph_can_be_is_refused_with_its_reason() {
    let stage = stage();
    let session = stage.session();
    let host = session.host_memory(4096, HostOptions::default()).unwrap();
    let mut recorder = session.record().unwrap();
    let mut late = fill(host.address(), 1);
    late.deadline = 1;
    let mut odd = fill(host.address(), 1);
    odd.header |= 1 << 9;
    for bad in [
        packet(Opcode::Manage, 3, [0; 5]),
        packet(Opcode::Indirect, 1, [0; 5]),
        packet(Opcode::Replay, 1, [0; 5]),
        packet(Opcode::Launch, 1, [0; 5]),
        Packet::ZERO,
        late,
        odd,
    ] {
        let error = recorder.add(&bad).unwrap_err();
        assert_eq!(error.code(), Code::Invalid, "{error}");
    }
    let row = row(host.address(), 4);
    let mut strange = row;
    strange.dtype = 999;
    for operands in [&[][..], &[row; 9], &[strange]] {
        let error = recorder.launch(9, &Parameters::ZERO, operands).unwrap_err();
        assert_eq!(error.code(), Code::Invalid, "{error}");
    }
    let step = recorder.add(&fill(host.address(), 1)).unwrap();
    let launch = recorder.launch(9, &Parameters::ZERO, &[row, row]).unwrap();
    let at = host.address().0;
    let strided = packet(Opcode::CopyStrided, 0, [at, at + 64, 8 | 1 << 32, 8, 8]);
    let strided = recorder.add(&strided).unwrap();
    for (step, place, at, value) in [
        (9, Place::Packet, (0x18, 8), 0),
        (step, Place::Parameters, (0, 4), 0),
        (launch, Place::Packet, (0x18, 8), 0),
        (launch, Place::Tensor(2), (0, 8), 0),
        (launch, Place::Tensor(0), (64, 4), 0),
        (launch, Place::Tensor(0), (60, 8), 0),
        (step, Place::Packet, (0x10, 8), 0),
        (step, Place::Packet, (0x1C, 8), 0),
        (step, Place::Packet, (0x18, 2), 0),
        (step, Place::Packet, (u32::MAX - 7, 8), 0),
        (step, Place::Packet, (0x18, 8), 6),
        // What may shrink as it is added to: a type, flags, two fields of which one carries.
        (launch, Place::Tensor(0), (0x08, 4), 0),
        (launch, Place::Tensor(1), (0x0C, 4), 0),
        (launch, Place::Tensor(0), (0x08, 8), 0),
        (launch, Place::Tensor(0), (0x10, 8), 0),
        (launch, Place::Tensor(1), (0x18, 8), 0),
        (strided, Place::Packet, (0x28, 8), 0),
    ] {
        let error = recorder.patch(step, place, at, value, 1).unwrap_err();
        assert_eq!(error.code(), Code::Invalid, "{error}");
    }
    // Each field by itself, but not one word in two widths.
    for at in [0x28, 0x2C] {
        recorder
            .patch(strided, Place::Packet, (at, 4), 0, 0)
            .unwrap();
    }
    for (first, second) in [((0x20, 8), (0x24, 4)), ((0x3C, 4), (0x38, 8))] {
        let place = Place::Tensor(1);
        recorder.patch(launch, place, first, 0, 0).unwrap();
        let error = recorder.patch(launch, place, second, 0, 0).unwrap_err();
        assert!(error.to_string().contains("meet"), "{error}");
        recorder.patch(launch, place, first, 1, 0).unwrap();
    }
    assert_eq!(recorder.finish(&[0; 7]).unwrap_err().code(), Code::Invalid);
    let empty = session.record().unwrap().finish(&[]).unwrap_err();
    assert_eq!(empty.code(), Code::Invalid, "{empty}");
    for (width, scale) in [(4, 1 << 31), (8, 1 << 63)] {
        let mut recorder = session.record().unwrap();
        let step = recorder.add(&fill(host.address(), 1)).unwrap();
        recorder
            .patch(step, Place::Packet, (0x28, width), 0, scale)
            .unwrap();
        let error = recorder.finish(&[2]).unwrap_err();
        assert!(error.to_string().contains("leaves a word"), "{error}");
    }
    let mut recorder = session.record().unwrap();
    let step = recorder.add(&fill(host.address(), 1)).unwrap();
    recorder
        .patch(step, Place::Packet, (0x28, 8), 1, 1)
        .unwrap();
    let error = recorder.finish(&[2]).unwrap_err();
    assert!(error.to_string().contains("no limit"), "{error}");
}

#[test]
fn values_beyond_what_was_promised_never_reach_the_device() {
    let stage = stage();
    let session = stage.session();
    let mut queue = session.queue(QueueOptions::default()).unwrap();
    let host = session.host_memory(4096, HostOptions::default()).unwrap();
    let mut recorder = session.record().unwrap();
    let step = recorder.add(&fill(host.address(), 1)).unwrap();
    recorder
        .patch(step, Place::Packet, (0x18, 8), 0, 8)
        .unwrap();
    let graph = recorder.finish(&[511]).unwrap();
    for values in [&[512][..], &[], &[1, 2]] {
        let error = graph.replay(&mut queue, values).unwrap_err();
        assert_eq!(error.code(), Code::Invalid, "{error}");
    }
    // A graph of one session is nothing to a queue of another.
    let other = Stage::of(board()); // another card, wherever the first one is
    let mut foreign = other.session().queue(QueueOptions::default()).unwrap();
    let error = graph.replay(&mut foreign, &[1]).unwrap_err();
    assert!(error.to_string().contains("another session"), "{error}");
    assert_eq!(queue.completions().counters().submitted, 0);
    let run = graph.replay(&mut queue, &[511]).unwrap();
    queue.completions().wait(run, Some(SOON)).unwrap();
    assert_eq!(word(&host, 511), 1);
}

#[test]
fn a_graph_ends_with_a_buffer_that_it_names_and_says_so() {
    let stage = stage();
    let session = stage.session();
    let mut queue = session.queue(QueueOptions::default()).unwrap();
    let host = session.host_memory(4096, HostOptions::default()).unwrap();
    let hbm = session.device_memory(4096).unwrap();
    let gate = session.fence(0).unwrap();
    let mut recorder = session.record().unwrap();
    recorder.add(&wait(gate.address(), 1)).unwrap();
    recorder
        .add(&copy(host.address(), hbm.address(), 64))
        .unwrap();
    let graph = recorder.finish(&[]).unwrap();
    let run = graph.replay(&mut queue, &[]).unwrap();
    // While it runs, what it names cannot go, nor can the graph.
    let (host, error) = host.try_free().unwrap_err();
    assert_eq!(error.code(), Code::Busy, "{error}");
    let (hbm, error) = hbm.try_free().unwrap_err();
    assert_eq!(error.code(), Code::Busy, "{error}");
    let (graph, error) = graph.try_free().unwrap_err();
    assert_eq!(error.code(), Code::Busy, "{error}");
    assert!(graph.is_intact() && gate.try_free().map_err(|(gate, _)| gate.signal(1)).is_err());
    queue.completions().wait(run, Some(SOON)).unwrap();
    hbm.try_free().unwrap();
    let error = graph.replay(&mut queue, &[]).unwrap_err();
    assert_eq!(error.code(), Code::Handle, "{error}");
    assert!(
        error.to_string().contains("a buffer that the graph names"),
        "{error}"
    );
    assert!(!graph.is_intact());
    // The queue and what is left go on; what takes the freed place is not the graph's.
    let again = session.device_memory(4096).unwrap();
    assert!(graph.replay(&mut queue, &[]).is_err());
    let run = queue
        .submit_one(&copy(host.address(), again.address(), 64))
        .unwrap();
    queue.completions().wait(run, Some(SOON)).unwrap();
    graph.try_free().unwrap();
}

#[test]
fn what_is_dropped_while_a_graph_runs_stays_until_it_is_done() {
    let stage = stage();
    let session = stage.session();
    let mut queue = session.queue(QueueOptions::default()).unwrap();
    let host = session.host_memory(4096, HostOptions::default()).unwrap();
    let gate = session.fence(0).unwrap();
    let source = session.host_memory(4096, HostOptions::default()).unwrap();
    source.memory().write(0, b"still here").unwrap();
    let mut recorder = session.record().unwrap();
    recorder.add(&wait(gate.address(), 1)).unwrap();
    recorder
        .add(&copy(source.address(), host.address(), 10))
        .unwrap();
    let graph = recorder.finish(&[]).unwrap();
    let run = graph.replay(&mut queue, &[]).unwrap();
    drop(source);
    assert!(!graph.is_intact(), "it runs to its end, and then no more");
    drop(graph);
    std::thread::sleep(Duration::from_millis(5));
    gate.signal(1).unwrap();
    queue.completions().wait(run, Some(SOON)).unwrap();
    let mut bytes = [0; 10];
    host.memory().read(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"still here");
}

#[test]
fn a_cancelled_graph_runs_no_further_and_a_reset_ends_it() {
    let stage = stage();
    let session = stage.session();
    let mut queue = session.queue(QueueOptions::default()).unwrap();
    let host = session.host_memory(4096, HostOptions::default()).unwrap();
    let gate = session.fence(0).unwrap();
    let mut recorder = session.record().unwrap();
    recorder.add(&wait(gate.address(), 1)).unwrap();
    recorder.add(&fill(host.address(), 7)).unwrap();
    let graph = recorder.finish(&[]).unwrap();
    let run = graph.replay(&mut queue, &[]).unwrap();
    queue.cancel(SOON).unwrap();
    let error = queue.completions().wait(run, Some(SOON)).unwrap_err();
    assert_eq!(error.code(), Code::Cancelled, "{error}");
    gate.signal(1).unwrap();
    let run = graph.replay(&mut queue, &[]).unwrap();
    queue.completions().wait(run, Some(SOON)).unwrap();
    assert_eq!(word(&host, 0), 7);
    let level = jalapeno::hw::regs::ResetLevel::Device;
    session.device().reset(level, 0, SOON).unwrap();
    let error = graph.replay(&mut queue, &[]).unwrap_err();
    assert_eq!(error.code(), Code::Stale, "{error}");
}
