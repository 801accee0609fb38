//! Client memory: maps of every kind, good and bad, and transfers that follow them.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::driver::*;
use crate::peer::*;
use crate::program::Program;

const EACCES: u32 = 13;

fn file(bytes: u64) -> std::fs::File {
    memory(bytes).into()
}

#[test]
fn a_transfer_follows_regions_of_one_file_and_of_others_in_any_order() {
    let board = board();
    let mut driver = Driver::new(board.path());
    let (one, other) = (file(0x4000), file(0x2000));
    let shrinkable: std::fs::File = shrinkable(0x3000).into();
    // Pages of the address range, and where each is: file, page of it.
    let pages: [(&std::fs::File, u64); 6] = [
        (&one, 3),
        (&other, 1),
        (&shrinkable, 2),
        (&one, 0),
        (&shrinkable, 0),
        (&one, 1),
    ];
    let base = 0x40_0000;
    for (at, (file, page)) in (0u64..).zip(pages) {
        let body = map(3, page * 0x1000, base + at * 0x1000, 0x1000);
        driver.map(body, Some(file.as_raw_fd()));
    }
    let data = pattern(0x6000, 7);
    for ((file, page), piece) in pages.iter().zip(data.chunks(0x1000)) {
        file.write_all_at(piece, page * 0x1000).unwrap();
    }
    // Neither end is on a page.
    driver.run(copy(base + 0x123, HBM + 0x40, 0x5E00)).unwrap();
    assert_eq!(driver.peer.read(BAR4, 0x40, 0x5E00), data[0x123..0x5F23]);
    driver.run(copy(HBM + 0x40, base + 0x100, 0x5E00)).unwrap();
    let mut back = vec![0; 0x6000];
    for ((file, page), piece) in pages.iter().zip(back.chunks_mut(0x1000)) {
        file.read_exact_at(piece, page * 0x1000).unwrap();
    }
    assert_eq!(back[..0x100], data[..0x100]);
    assert_eq!(back[0x100..0x5F00], data[0x123..0x5F23]);
    assert_eq!(back[0x5F00..], data[0x5F00..]);
}

#[test]
fn what_a_region_forbids_or_nobody_mapped_is_a_fault_with_its_address() {
    let board = board();
    let mut driver = Driver::new(board.path());
    let file = memory(0x4000);
    driver.map_file(1, 0, 0x40_0000, 0x1000, &file);
    driver.map_file(2, 0x1000, 0x40_1000, 0x1000, &file);
    let failure = |code, address| Err(Failure { code, address });
    assert_eq!(driver.run(copy(0x40_0000, HBM, 0x1000)), Ok(()));
    let written = driver.run(copy(HBM, 0x40_0800, 0x100));
    assert_eq!(written, failure(READ_ONLY, 0x40_0800));
    assert_eq!(driver.run(copy(HBM, 0x40_1000, 0x1000)), Ok(()));
    let read = driver.run(copy(0x40_0800, HBM, 0x1000));
    assert_eq!(read, failure(UNMAPPED_READ, 0x40_1000), "write-only");
    let hole = driver.run(copy(HBM, 0x40_1800, 0x1000));
    assert_eq!(hole, failure(UNMAPPED_WRITE, 0x40_2000));
    let reply = driver.peer.ask(DMA_UNMAP, &unmap(0, 0x40_0000, 0x1000));
    assert_eq!(reply.errno(), 0);
    assert_eq!(
        reply.body,
        unmap(0, 0x40_0000, 0x1000),
        "the request is repeated"
    );
    let gone = driver.run(copy(0x40_0000, HBM, 8));
    assert_eq!(gone, failure(UNMAPPED_READ, 0x40_0000), "unmapped for good");
}

#[test]
fn overlapping_maps_are_refused_and_change_nothing() {
    let board = board();
    let mut owner = Peer::owner(board.path());
    let file = memory(0x10_0000);
    let mut try_map = |address: u64, bytes: u64| {
        let body = map(3, 0, address, bytes);
        owner.ask_with(DMA_MAP, &body, &[file.as_raw_fd()]).errno()
    };
    assert_eq!(try_map(0x1_0000, 0x1_0000), 0);
    for (address, bytes) in [
        (0x1_0000, 0x1_0000),
        (0x1_0000, 0x1000),
        (0x1_F000, 0x1000),
        (0x1_8000, 0x2_0000),
        (0xF000, 0x2000),
        (0, 0x10_0000),
    ] {
        assert_eq!(try_map(address, bytes), EEXIST, "{address:#x} {bytes:#x}");
    }
    assert_eq!(try_map(0x2_0000, 0x1000), 0, "just behind");
    assert_eq!(try_map(0xF000, 0x1000), 0, "just before");
    assert_eq!(board.counters().regions, 3);
    for (address, bytes) in [(0x1_1000, 0x1000), (0x1_0000, 0x8000), (0xF800, 0x1000)] {
        let reply = owner.ask(DMA_UNMAP, &unmap(0, address, bytes));
        assert_eq!(
            reply.errno(),
            EINVAL,
            "{address:#x} {bytes:#x} cuts a region"
        );
    }
    assert_eq!(owner.ask(DMA_UNMAP, &unmap(0, 0, 0x10_0000)).errno(), 0);
    assert_eq!(board.counters().regions, 0);
    assert_eq!(
        owner.ask(DMA_UNMAP, &unmap(2, 0, 0)).errno(),
        0,
        "nothing is left"
    );
}

#[test]
fn a_descriptor_that_is_no_memory_or_too_short_is_refused() {
    let board = board();
    let mut owner = Peer::owner(board.path());
    let (pipe, _writer) = nix::unistd::pipe().unwrap();
    let good = memory(0x4000);
    let sealed = memory(0x4000);
    let seal = nix::fcntl::SealFlag::F_SEAL_FUTURE_WRITE;
    nix::fcntl::fcntl(&sealed, nix::fcntl::FcntlArg::F_ADD_SEALS(seal)).unwrap();
    let here = std::env::temp_dir().join(format!("jalapeno-disk-{}", std::process::id()));
    std::fs::write(&here, [0; 0x2000]).unwrap();
    let disk = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&here)
        .unwrap();
    std::fs::remove_file(&here).unwrap();
    let read_only: OwnedFd = {
        let path = format!("/proc/self/fd/{}", good.as_raw_fd());
        std::fs::File::open(path).unwrap().into()
    };
    let shrinkable = shrinkable(0x4000);
    let shrinkable_read_only: OwnedFd = {
        let path = format!("/proc/self/fd/{}", shrinkable.as_raw_fd());
        std::fs::File::open(path).unwrap().into()
    };
    let open = |path: &str| OwnedFd::from(std::fs::File::open(path).unwrap());
    let eventfd = nix::sys::eventfd::EventFd::new().unwrap();
    let rows: Vec<(&str, OwnedFd, u64, u64, u32)> = vec![
        ("a pipe", pipe, 0, 0x1000, EINVAL),
        ("a folder", open("/"), 0, 0x1000, EINVAL),
        ("endless zeros", open("/dev/zero"), 0, 0x1000, EINVAL),
        (
            "a file of the kernel's",
            open("/proc/self/maps"),
            0,
            0x1000,
            EINVAL,
        ),
        (
            "an eventfd",
            eventfd.as_fd().try_clone_to_owned().unwrap(),
            0,
            0x1000,
            EINVAL,
        ),
        (
            "a socket",
            owner.stream.as_fd().try_clone_to_owned().unwrap(),
            0,
            0x1000,
            EINVAL,
        ),
        ("a file on a disk", disk.into(), 0, 0x1000, EINVAL),
        ("beyond its end", memory(0x4000), 0, 0x5000, EINVAL),
        (
            "offset beyond its end",
            memory(0x4000),
            0x4000,
            0x1000,
            EINVAL,
        ),
        ("offset off a page", memory(0x4000), 0x800, 0x1000, EINVAL),
        (
            "offset that wraps",
            memory(0x4000),
            u64::MAX - 0xFFF,
            0x2000,
            EINVAL,
        ),
        ("an empty file", memory(0), 0, 0x1000, EINVAL),
        ("sealed against writing", sealed, 0, 0x1000, EPERM),
        ("open for reading only", read_only, 0, 0x1000, EACCES),
        (
            "the same, not sealed",
            shrinkable_read_only,
            0,
            0x1000,
            EACCES,
        ),
    ];
    for (name, file, offset, bytes, errno) in rows {
        let body = map(3, offset, 0x10_0000, bytes);
        let reply = owner.ask_with(DMA_MAP, &body, &[file.as_raw_fd()]);
        // A disk whose file system is memory is memory.
        let on_memory = name == "a file on a disk" && reply.errno() == 0;
        if on_memory {
            assert_eq!(owner.ask(DMA_UNMAP, &unmap(2, 0, 0)).errno(), 0);
        } else {
            assert_eq!(reply.errno(), errno, "{name}");
        }
        owner.assert_in_step();
    }
    let read_only = map(1, 0, 0x10_0000, 0x1000);
    let path = format!("/proc/self/fd/{}", good.as_raw_fd());
    let file = std::fs::File::open(path).unwrap();
    assert_eq!(
        owner
            .ask_with(DMA_MAP, &read_only, &[file.as_raw_fd()])
            .errno(),
        0
    );
}

#[test]
fn as_many_maps_as_a_guest_makes_are_taken_fast_and_cost_one_mapping_a_file() {
    const MAPS: u64 = 65_537;
    let program = Program::start(&[]);
    let mut owner = Peer::owner(program.socket());
    owner.assert_in_step();
    let baseline = program.footprint();
    let file = memory(MAPS * 0x1000);
    let begin = Instant::now();
    // With the last one's reply all are done: as QEMU does it.
    for index in 0..MAPS {
        // Backwards in the file, so that no two regions could be one.
        let body = map(3, (MAPS - 1 - index) * 0x1000, index * 0x1000, 0x1000);
        let quiet = if index + 1 < MAPS { NO_REPLY } else { 0 };
        owner.send_with(&message(9, DMA_MAP, quiet, &body), &[file.as_raw_fd()]);
    }
    assert_eq!(owner.reply(9, DMA_MAP).errno(), 0);
    let mapped = begin.elapsed();
    let full = program.footprint();
    assert_eq!(full.files, baseline.files, "no file stays open");
    assert_eq!(full.shared_maps, baseline.shared_maps + 1);
    let again = owner.ask_with(DMA_MAP, &map(3, 0, 0x5000, 0x1000), &[file.as_raw_fd()]);
    assert_eq!(again.errno(), EEXIST, "they are all there");
    let begin = Instant::now();
    for index in 0..MAPS {
        let quiet = if index + 1 < MAPS { NO_REPLY } else { 0 };
        owner.send(&message(
            9,
            DMA_UNMAP,
            quiet,
            &unmap(0, index * 0x1000, 0x1000),
        ));
    }
    assert_eq!(owner.reply(9, DMA_UNMAP).errno(), 0);
    println!(
        "{MAPS} maps in {mapped:?}, unmapped in {:?}",
        begin.elapsed()
    );
    assert!(mapped + begin.elapsed() < Duration::from_secs(60));
    program.until_back_at(&baseline);
    owner.assert_in_step();
}

#[test]
fn files_by_the_thousand_are_refused_before_they_can_starve_the_server() {
    let program = Program::start(&[]);
    let mut owner = Peer::owner(program.socket());
    let mut observer = Peer::observer(program.socket());
    let baseline = program.footprint();
    let mut taken = 0;
    let errno = loop {
        let file = shrinkable(0x1000);
        let body = map(3, 0, taken * 0x1000, 0x1000);
        match owner.ask_with(DMA_MAP, &body, &[file.as_raw_fd()]).errno() {
            0 => taken += 1,
            errno => break errno,
        }
        assert!(taken < 10_000);
    };
    const ENOSPC: u32 = 28;
    assert_eq!((taken, errno), (512, ENOSPC), "files that stay open");
    observer.assert_in_step();
    Peer::observer(program.socket()).assert_in_step();
    assert_eq!(owner.ask(DMA_UNMAP, &unmap(2, 0, 0)).errno(), 0);
    program.until_back_at(&baseline);
}

#[test]
fn a_file_that_shrinks_under_the_card_is_a_fault_and_never_kills_the_server() {
    let board = board();
    let mut driver = Driver::new(board.path());
    let file = shrinkable(0x10_0000);
    driver.map_file(3, 0, 0x40_0000, 0x10_0000, &file);
    driver.run(copy(0x40_0000, HBM, 0x10_0000)).unwrap();
    nix::unistd::ftruncate(&file, 0x8000).unwrap();
    driver.run(copy(0x40_0000, HBM, 0x8000)).unwrap();
    for packet in [copy(0x40_0000, HBM, 0x10_0000), copy(HBM, 0x40_8000, 8)] {
        let failure = driver.run(packet).unwrap_err();
        assert_eq!(failure.code, HOST_MEMORY, "{failure:?}");
    }
    assert_eq!(
        nix::sys::stat::fstat(&file).unwrap().st_size,
        0x8000,
        "not made longer"
    );
    nix::unistd::ftruncate(&file, 0x10_0000).unwrap();
    driver.run(copy(HBM, 0x40_0000, 0x10_0000)).unwrap();

    // While transfers run.
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                nix::unistd::ftruncate(&file, 0).unwrap();
                nix::unistd::ftruncate(&file, 0x10_0000).unwrap();
            }
        });
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            for packet in [
                copy(0x40_0000, HBM, 0x10_0000),
                copy(HBM, 0x40_0000, 0x10_0000),
            ] {
                match driver.run(packet) {
                    Ok(()) => {}
                    Err(failure) => assert_eq!(failure.code, HOST_MEMORY),
                }
            }
        }
        end.store(true, Ordering::Relaxed);
    });
    driver.peer.assert_in_step();
}

#[test]
fn a_ring_in_a_file_that_shrinks_stops_its_queue_and_nothing_else() {
    use nix::unistd::ftruncate;
    let board = board();
    let mut owner = Peer::owner(board.path());
    let file = shrinkable(0x4000);
    let body = map(3, 0, 0x10_0000, 0x4000);
    assert_eq!(
        owner.ask_with(DMA_MAP, &body, &[file.as_raw_fd()]).errno(),
        0
    );
    owner.write(CONFIG, 4, &[4, 0]);
    owner.write(BAR0, 0x048, &3u64.to_le_bytes());
    for (at, offset) in [(0x100, 0), (0x108, 0x1000), (0x110, 0x2000)] {
        owner.write(BAR0, at, &u64::to_le_bytes(0x10_0000 + offset));
    }
    owner.write(BAR0, 0x118, &u32::to_le_bytes(4 | 2 << 8 | 1 << 16));
    owner.write(BAR0, 0x11C, &1u32.to_le_bytes());
    let end = Instant::now() + Duration::from_secs(60);
    // Taken or refused: the specification leaves rings in relayed memory to the device.
    while owner.read(BAR0, 0x120, 4)[0] & 0xF == 0 {
        assert!(Instant::now() < end);
    }
    ftruncate(&file, 0).unwrap();
    owner.write(BAR2, 0, &3u32.to_le_bytes());
    std::thread::sleep(Duration::from_millis(50));
    owner.assert_in_step();
    drop(owner);
    Driver::with(Peer::next_owner(board.path()))
        .run(fill(HBM, 64, 1))
        .unwrap();
}
