//! Copying and computing: bytes go to the device, are worked on and come home as they should.

use jalapeno::error::{Code, Error};
use jalapeno::transport::Protection;
use jalapeno::{DeviceAddr, HostBuffer, HostOptions, Queue, Session, Transfer};
use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::kernels::{DType, KernelId};
use jalapeno_hw::limits::HBM_BASE;
use jalapeno_hw::packets::{Opcode, Packet};
use jalapeno_tests::packet::{copy, fill, packet};
use jalapeno_tests::stage::by_sequence;
use jalapeno_tests::{SOON, Shared, stage};

/// Bytes that look like nothing else.
fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..bytes).map(next).collect()
}

fn host(session: &Session, bytes: u64) -> HostBuffer {
    session.host_memory(bytes, HostOptions::default()).unwrap()
}

/// Runs packets to their end.
fn run(queue: &mut Queue, packets: &[Packet]) -> jalapeno::Result<()> {
    let last = queue.submit(packets)?;
    queue.completions().wait(last, Some(SOON))
}

#[test]
fn bytes_of_any_length_from_any_place_come_home_and_nothing_beside_them_changes() {
    const ROOM: u64 = 3 << 20;
    let stage = stage();
    let session = stage.session();
    let mut queue = by_sequence(&session, 8);
    let (from, home) = (host(&session, ROOM), host(&session, ROOM));
    let hbm = session.device_memory(ROOM).unwrap();
    let whole = pattern(1, usize::try_from(ROOM).unwrap());
    from.memory().write(0, &whole).unwrap();
    for (turn, bytes) in [
        0u64, 1, 3, 7, 8, 63, 64, 65, 4095, 4096, 4097, 65_537, 1_048_589, 2_097_151,
    ]
    .into_iter()
    .enumerate()
    {
        // Each offset odd in its own way: within words, lines and pages.
        let [a, b, c] = [
            1 + 8 * turn as u64,
            4095 + turn as u64,
            65_533 - turn as u64,
        ];
        let guard = 0xA5A5_A5A5_A5A5_A5A5;
        run(
            &mut queue,
            &[
                fill(home.address(), ROOM, guard),
                copy(from.address() + a, hbm.address() + b, bytes),
                copy(hbm.address() + b, home.address() + c, bytes),
            ],
        )
        .unwrap();
        let mut came = vec![0; usize::try_from(ROOM).unwrap()];
        home.memory().read(0, &mut came).unwrap();
        let [a, c, n] = [a, c, bytes].map(|value| usize::try_from(value).unwrap());
        assert_eq!(came[c..c + n], whole[a..a + n], "{bytes} bytes");
        let beside = came[..c].iter().chain(&came[c + n..]);
        assert!(beside.into_iter().all(|&byte| byte == 0xA5), "{bytes}");
    }
}

#[test]
fn a_transfer_takes_any_length_through_its_window() {
    let stage = stage();
    let session = stage.session();
    let mut transfer = Transfer::new(&session).unwrap();
    let hbm = session.device_memory(4 << 20).unwrap();
    for (turn, bytes) in [0, 1, 524_287, 524_288, 524_289, 1_048_577, 3_000_001]
        .into_iter()
        .enumerate()
    {
        let there = pattern(turn as u64 + 2, bytes);
        let at = hbm.address() + 3 * turn as u64;
        transfer.write(at, &there).unwrap();
        let mut back = vec![0; bytes];
        transfer.read(at, &mut back).unwrap();
        assert!(back == there, "{bytes} bytes");
    }
}

#[test]
fn a_transfer_that_fails_says_why_leaves_nothing_in_flight_and_works_again() {
    let stage = stage();
    let session = stage.session();
    let mut transfer = Transfer::new(&session).unwrap();
    let hbm = session.device_memory(4 << 20).unwrap();
    let nowhere = hbm.address() + (1 << 40);
    // One chunk, two at a time, and more than fly at once.
    for bytes in [10, 1 << 20, 3 << 20] {
        for turn in 0..40 {
            if turn % 3 == 0 {
                // Another place in the ring: where it laps, a submission looks at the queue.
                transfer.write(hbm.address(), &[1; 10]).unwrap();
            }
            let error = transfer.write(nowhere, &vec![1; bytes]).unwrap_err();
            assert_eq!(error.code(), Code::Fault, "write {bytes}, {turn}: {error}");
            let error = transfer.read(nowhere, &mut vec![0; bytes]).unwrap_err();
            assert_eq!(error.code(), Code::Fault, "read {bytes}, {turn}: {error}");
        }
        let there = pattern(7, bytes);
        transfer.write(hbm.address(), &there).unwrap();
        let mut back = vec![0; bytes];
        transfer.read(hbm.address(), &mut back).unwrap();
        assert!(back == there, "{bytes} bytes");
    }
}

#[test]
fn the_page_behind_a_buffer_belongs_to_nobody_and_the_record_names_it() {
    let stage = stage();
    let session = stage.session();
    let mut queue = by_sequence(&session, 8);
    let small = host(&session, 4096);
    let hbm = session.device_memory(65_536).unwrap();
    for (packet, code) in [
        (
            copy(small.address() + 4000, hbm.address(), 97),
            FaultCode::UnmappedRead,
        ),
        (
            copy(hbm.address(), small.address() + 4000, 97),
            FaultCode::UnmappedWrite,
        ),
    ] {
        let Err(Error::Fault(fault)) = run(&mut queue, &[packet]) else {
            panic!("{code:?} expected")
        };
        assert_eq!(fault.code, Ok(code));
        assert_eq!(fault.record.address, small.address().0 + 4096);
        let near = fault.record.mapping_start;
        assert_eq!(near, small.address().0, "the mapping it fell near");
        queue.resume().unwrap();
    }
}

/// Registers all of it. It must be dropped after the session.
fn register(shared: &Shared, bytes: u64, session: &Session, how: Protection) -> HostBuffer {
    // SAFETY: the mapping outlives the buffer.
    unsafe { session.register(shared.at, bytes, how) }.unwrap()
}

#[test]
fn the_callers_own_memory_is_copied_from_any_byte_of_it() {
    let shared = Shared::new(0x3000);
    let bytes = pattern(9, 5001);
    std::os::unix::fs::FileExt::write_all_at(&shared.file, &bytes, 4095).unwrap();
    let stage = stage();
    let session = stage.session();
    let mut queue = by_sequence(&session, 8);
    let hbm = session.device_memory(65_536).unwrap();
    let home = host(&session, 8192);
    let mine = register(&shared, 0x3000, &session, Protection::ReadWrite);
    run(
        &mut queue,
        &[
            copy(mine.address() + 4095, hbm.address() + 3, 5001),
            copy(hbm.address() + 3, home.address() + 1, 5001),
        ],
    )
    .unwrap();
    let mut back = vec![0; 5001];
    home.memory().read(1, &mut back).unwrap();
    assert_eq!(back, bytes);
    mine.try_free().map_err(|(_, error)| error).unwrap();
}

#[test]
fn memory_registered_for_reading_is_never_written_by_the_device() {
    let shared = Shared::new(0x1000);
    let stage = stage();
    let session = stage.session();
    let mut queue = by_sequence(&session, 8);
    let mine = register(&shared, 0x1000, &session, Protection::Read);
    let Err(Error::Fault(fault)) = run(&mut queue, &[fill(mine.address(), 64, u64::MAX)]) else {
        panic!("refused")
    };
    assert_eq!(fault.code, Ok(FaultCode::ReadOnly));
    assert_eq!(fault.record.address, mine.address().0);
    let mut bytes = [1; 64];
    mine.memory().read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 64]);
    drop((queue, mine, session));
}

#[test]
fn device_memory_that_runs_out_says_how_much_is_left_and_comes_back() {
    let stage = stage();
    let session = stage.session();
    let device = session.device();
    let all = device.hbm().unwrap().bytes();
    let before = device.hbm().unwrap().used();
    let piece = all / 8;
    let mut pieces = Vec::new();
    let error = loop {
        match session.device_memory(piece) {
            Ok(buffer) => pieces.push(buffer),
            Err(error) => break error,
        }
        assert!(pieces.len() <= 8);
    };
    let left = all - device.hbm().unwrap().used();
    match &error {
        Error::Memory { needed, have, .. } => assert_eq!((*needed, *have), (piece, left)),
        other => panic!("{other}"),
    }
    assert!(error.to_string().contains("device memory"), "{error}");
    assert!(error.hint().unwrap().contains("free device memory"));
    // None lies over another.
    let mut places: Vec<_> = pieces.iter().map(|b| b.address().0).collect();
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[0] + piece <= pair[1]));
    drop(pieces.pop());
    pieces.push(session.device_memory(piece).unwrap());
    for (bytes, code) in [
        (0, Code::Invalid),
        (u64::MAX, Code::Memory),
        (all + 1, Code::Memory),
    ] {
        assert_eq!(session.device_memory(bytes).unwrap_err().code(), code);
    }
    drop(pieces);
    assert_eq!(device.hbm().unwrap().used(), before);
}

/// A LAUNCH argument block: no parameters, vectors of f32.
fn arguments(vectors: &[DeviceAddr], count: u32) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    for vector in vectors {
        bytes.extend(vector.0.to_le_bytes());
        for word in [DType::F32 as u32, 0, count, 1, 1, 1] {
            bytes.extend(word.to_le_bytes());
        }
        let row = 4 * u64::from(count);
        for stride in [4, row, row, row] {
            bytes.extend(stride.to_le_bytes());
        }
    }
    bytes
}

#[test]
fn a_kernel_adds_what_was_copied_and_the_sum_comes_home() {
    const COUNT: u32 = 1000;
    let stage = stage();
    let session = stage.session();
    let mut transfer = Transfer::new(&session).unwrap();
    let mut queue = by_sequence(&session, 8);
    let hbm = session.device_memory(3 * 4096).unwrap();
    let [sum, a, b] = [0, 4096, 8192].map(|offset| hbm.address() + offset);
    let floats =
        |of: fn(u32) -> f32| -> Vec<u8> { (0..COUNT).flat_map(|i| of(i).to_le_bytes()).collect() };
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    transfer.write(a, &floats(|i| i as f32)).unwrap();
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    transfer
        .write(b, &floats(|i| 0.5 - 2.0 * i as f32))
        .unwrap();
    let block = host(&session, 4096);
    let bytes = arguments(&[sum, a, b], COUNT);
    block.memory().write(0, &bytes).unwrap();
    let launch = |kernel: u32, length: u64| {
        packet(Opcode::Launch, kernel, [block.address().0, length, 0, 0, 0])
    };
    let length = bytes.len() as u64;
    run(&mut queue, &[launch(KernelId::Add as u32, length)]).unwrap();
    let mut back = vec![0; 4 * COUNT as usize];
    transfer.read(sum, &mut back).unwrap();
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let expected = floats(|i| 0.5 - i as f32);
    assert_eq!(back, expected);

    // A kernel that there is not, and operands that are not there.
    let nowhere = arguments(&[sum, a, DeviceAddr(HBM_BASE - 4096)], COUNT);
    for (kernel, bytes, code) in [
        (9999, &bytes, FaultCode::UnknownKernel),
        (KernelId::Add as u32, &nowhere, FaultCode::UnmappedRead),
    ] {
        block.memory().write(0, bytes).unwrap();
        let Err(Error::Fault(fault)) = run(&mut queue, &[launch(kernel, length)]) else {
            panic!("{code:?} expected")
        };
        assert_eq!((fault.code, fault.record.kernel), (Ok(code), kernel));
        assert!(!fault.to_string().is_empty());
        queue.resume().unwrap();
    }
}
