//! Mappings that break what they promise, and limits on them: refused, and the card serves on.

use jalapeno::dma::{HostMemory, Pages};
use jalapeno::error::{Code, Error};
use jalapeno::transport::Protection;
use jalapeno::units::Iova;
use jalapeno::{HostOptions, Session};
use jalapeno_hw::faults::FaultCode;
use jalapeno_tests::packet::{copy, fill, nop};
use jalapeno_tests::stage::by_sequence;
use jalapeno_tests::{SOON, Shared, Stage, alone, stage, story};
use nix::sys::resource::{Resource, setrlimit};

use crate::between::otherwise;

/// A job goes through.
fn works(session: &Session) {
    let mut queue = by_sequence(session, 4);
    let seq = queue.submit_one(&nop(1)).unwrap();
    queue.completions().wait(seq, Some(SOON)).unwrap();
}

#[test]
fn memory_that_the_client_shrinks_fails_its_own_job_and_the_card_serves_on() {
    let Some(stage) = Stage::that_counts(story!()) else {
        return;
    };
    let session = stage.session();
    let shared = Shared::new(0x4000);
    // SAFETY: the mapping outlives the buffer, and nobody here touches what is cut off.
    let mine = unsafe { session.register(shared.at, 0x4000, Protection::ReadWrite) }.unwrap();
    let hbm = session.device_memory(65_536).unwrap();
    let mut queue = by_sequence(&session, 4);
    let mut run = |packet| {
        let seq = queue.submit_one(&packet).unwrap();
        let outcome = queue.completions().wait(seq, Some(SOON));
        queue.resume().unwrap();
        outcome
    };
    run(copy(mine.address(), hbm.address(), 0x4000)).unwrap();
    shared.file.set_len(0x1000).unwrap();
    for packet in [
        copy(mine.address() + 0x800, hbm.address(), 0x1000),
        copy(hbm.address(), mine.address() + 0x2000, 0x1000),
    ] {
        let Err(Error::Fault(fault)) = run(packet) else {
            panic!("its memory is gone")
        };
        assert_eq!(fault.code, Ok(FaultCode::HostMemory), "{fault}");
    }
    run(copy(mine.address(), hbm.address(), 0x1000)).unwrap();
    drop((mine, queue));
    works(&session);
}

#[test]
fn wrong_mappings_are_refused_one_by_one_and_the_stream_stays_in_step() {
    let Some(stage) = Stage::that_counts(story!()) else {
        return;
    };
    let session = stage.session();
    let device = session.device();
    let transport = device.transport();
    let shared = Shared::new(0x4000);
    let top = transport.describe().iova_ranges.last().unwrap().1;
    let base = (top - 0x10_0000) & !0xFFF;
    let map = |iova: u64, offset: u64, bytes: u64| {
        let range = shared.range(offset, bytes);
        transport.map_dma(Iova(iova), range, Protection::ReadWrite)
    };
    let regions = stage.here().counters().regions;
    map(base, 0, 0x2000).unwrap();
    for (what, iova, offset, bytes) in [
        ("the same again", base, 0, 0x2000),
        ("overlapping its end", base + 0x1000, 0, 0x2000),
        ("overlapping its start", base - 0x1000, 0, 0x2000),
        ("inside", base + 0x1000, 0, 0x1000),
        ("around", base - 0x1000, 0, 0x4000),
        ("of nothing", base + 0x8000, 0, 0),
        ("that wraps", u64::MAX - 0xFFF, 0, 0x2000),
        (
            "whose offset wraps",
            base + 0x8000,
            u64::MAX - 0xFFF,
            0x2000,
        ),
        ("beyond the file", base + 0x8000, 0x4000, 0x1000),
        ("longer than the file", base + 0x8000, 0, 0x100_0000),
    ] {
        let error = map(iova, offset, bytes).expect_err(what);
        assert_ne!(error.code(), Code::Lost, "{what}: {error}");
        device
            .verify()
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(stage.here().counters().regions, regions + 1, "{what}");
    }
    for (what, iova, bytes) in [
        ("a part", base, 0x1000),
        ("of nothing", base, 0),
        ("that wraps", base, u64::MAX),
    ] {
        let error = transport.unmap_dma(Iova(iova), bytes).expect_err(what);
        assert_ne!(error.code(), Code::Lost, "{what}: {error}");
        assert_eq!(stage.here().counters().regions, regions + 1, "{what}");
    }
    // Two mappings side by side are one range to a packet that crosses from one to the other.
    map(base + 0x2000, 0x2000, 0x1000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&shared.file, b"across", 0x1FFD).unwrap();
    let home = session.host_memory(64, HostOptions::default()).unwrap();
    let mut queue = by_sequence(&session, 4);
    let across = jalapeno::DeviceAddr(base + 0x1FFD);
    let seq = queue.submit_one(&copy(across, home.address(), 6)).unwrap();
    queue.completions().wait(seq, Some(SOON)).unwrap();
    let mut bytes = [0; 6];
    home.memory().read(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"across");
    transport.unmap_dma(Iova(base), 0x2000).unwrap();
    transport.unmap_dma(Iova(base + 0x2000), 0x1000).unwrap();
    works(&session);
}

#[test]
fn more_mappings_than_the_way_to_the_device_permits_are_refused_by_count() {
    let stage = stage();
    let device = otherwise(&stage, |said| said.maps_limit = 10);
    let dma = device.dma().unwrap();
    let guarded = HostOptions {
        guarded: true,
        ..HostOptions::default()
    };
    let mut live = Vec::new();
    let error = loop {
        match HostMemory::allocate(dma, 4096, guarded) {
            Ok(memory) => live.push(memory),
            Err(error) => break error,
        }
        assert!(live.len() <= 10);
    };
    assert_eq!(live.len(), 10);
    assert_eq!(error.code(), Code::Memory, "{error}");
    assert!(error.to_string().contains("10"), "{error}");
    assert!(error.hint().is_some());
    drop(live.pop());
    live.push(HostMemory::allocate(dma, 4096, guarded).unwrap());
    drop(live);
    assert_eq!(dma.usage().maps, 0);
}

#[test]
fn the_device_reaches_buffers_that_share_a_mapping_each_by_its_own_address() {
    let stage = stage();
    let device = otherwise(&stage, |said| said.maps_limit = 16);
    let session = Session::new(&device).unwrap();
    let mut queue = by_sequence(&session, 4);
    let pattern = |number: u64| 0x0101_0101_0101_0101 * (number + 1);
    let buffers: Vec<_> = (0..100)
        .map(|_| session.host_memory(4096, HostOptions::default()).unwrap())
        .collect();
    let usage = device.dma().unwrap().usage();
    assert!(usage.arenas == 1 && usage.coalesced > 80, "{usage:?}");
    let mut run = |packet| {
        let seq = queue.submit_one(&packet).unwrap();
        queue.completions().wait(seq, Some(SOON)).unwrap();
    };
    for (number, buffer) in (0..).zip(&buffers) {
        run(fill(buffer.address(), 4096, pattern(number)));
    }
    // One to the next, the last one first, so that each moves by one.
    for pair in buffers.windows(2).rev() {
        run(copy(pair[0].address(), pair[1].address(), 4096));
    }
    for (number, buffer) in (0u64..).zip(&buffers) {
        let mut bytes = [0; 4096];
        buffer.memory().read(0, &mut bytes).unwrap();
        let wanted = pattern(number.saturating_sub(1)).to_le_bytes();
        assert!(bytes.chunks(8).all(|word| word == wanted), "{number}");
    }
    drop(buffers);
    let after = device.dma().unwrap().usage();
    assert_eq!((after.arenas, after.coalesced, after.spare), (0, 0, 0));
    works(&session);
}

/// Fewer mappings than VFIO's type1 permits by default (65,535): a board in this process maps each once more,
/// and Linux permits a process no more than that. Behind a kernel 400 MB of them would be pinned.
#[test]
fn a_hundred_thousand_small_buffers_fit_where_eight_thousand_mappings_are_permitted() {
    const BUFFERS: usize = 100_000;
    const PERMITTED: usize = 8192;
    let Some(stage) = Stage::that_counts(story!()) else {
        return;
    };
    let device = otherwise(&stage, |said| said.maps_limit = PERMITTED);
    let session = Session::new(&device).unwrap();
    let mut queue = by_sequence(&session, 4);
    let own = device.dma().unwrap().usage().maps;
    let options = HostOptions::default();
    let buffers: Vec<_> = (0..BUFFERS)
        .map(|_| session.host_memory(4096, options).unwrap())
        .collect();
    let usage = device.dma().unwrap().usage();
    println!("= {BUFFERS} buffers: {usage:?}");
    assert!(usage.maps < PERMITTED && usage.coalesced > 0, "{usage:?}");
    assert!(stage.here().counters().regions <= usage.maps + 1);
    for at in [0, PERMITTED / 2, PERMITTED, BUFFERS - 1] {
        let word = 0x0101_0101_0101_0101 * (at as u64 % 251);
        let to = fill(buffers[at].address(), 4096, word);
        let seq = queue.submit_one(&to).unwrap();
        queue.completions().wait(seq, Some(SOON)).unwrap();
        let mut bytes = [0; 4096];
        buffers[at].memory().read(0, &mut bytes).unwrap();
        assert!(bytes.chunks(8).all(|here| here == word.to_le_bytes()));
    }
    drop(buffers);
    assert_eq!(device.dma().unwrap().usage().maps, own);
}

/// Gives up the privilege to lock memory beyond the limit.
fn give_up_locking() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let none = [0u32; 6];
    // SAFETY: capset reads a header and two sets of three words, which these are.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_small_memlock_limit_says_what_is_needed_what_is_there_and_what_to_do() {
    alone!();
    let stage = stage();
    let device = otherwise(&stage, |said| said.pins = true);
    let session = Session::new(&device).unwrap();
    setrlimit(Resource::RLIMIT_MEMLOCK, 1 << 20, 1 << 20).unwrap();
    give_up_locking();
    let maps = device.dma().unwrap().usage().maps;
    let refused = session.host_memory(8 << 20, HostOptions::default());
    let error = refused.map(drop).unwrap_err();
    match &error {
        Error::Memory { needed, have, .. } => {
            assert_eq!(*needed, 8 << 20, "{error}");
            assert!(*have <= 1 << 20, "{error}");
        }
        other => panic!("{other}"),
    }
    assert!(error.to_string().contains("RLIMIT_MEMLOCK"), "{error}");
    assert!(error.hint().unwrap().contains("ulimit -l"), "{error}");
    assert_eq!(device.dma().unwrap().usage().maps, maps);
    let small = session
        .host_memory(4096, HostOptions::default())
        .expect("what fits is given");
    drop(small);
    works(&session);
}

#[test]
fn huge_pages_are_asked_for_and_never_required() {
    let stage = stage();
    let session = stage.session();
    let huge = HostOptions {
        huge: true,
        ..HostOptions::default()
    };
    for bytes in [1, 4096, 2 << 20, (2 << 20) + 1] {
        let buffer = session.host_memory(bytes, huge).unwrap();
        assert_eq!(buffer.bytes(), bytes);
        assert!(matches!(
            buffer.memory().pages(),
            Pages::Small | Pages::Huge
        ));
        buffer.memory().write(bytes - 1, &[7]).unwrap();
    }
}
