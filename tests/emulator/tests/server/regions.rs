//! Regions: what is told of them, what is mapped, and accesses of every width.

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use jalapeno_emulator::board::Board;
use jalapeno_emulator::faults::Fault;
use jalapeno_emulator::identity::Options;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};

use crate::peer::*;

const READ: u32 = 1;
const WRITE: u32 = 2;
const MMAP: u32 = 4;
const CAPS: u32 = 8;

struct Info {
    argsz: u32,
    flags: u32,
    cap_offset: u32,
    bytes: u64,
    offset: u64,
    rest: Vec<u8>,
    files: Vec<OwnedFd>,
}

fn info(peer: &mut Peer, argsz: u32, index: u32) -> Info {
    let reply = peer.ask(GET_REGION_INFO, &region_info(argsz, index));
    assert_eq!(reply.errno(), 0);
    let word = |at: usize| u32::from_le_bytes(reply.body[at..at + 4].try_into().unwrap());
    let long = |at: usize| u64::from_le_bytes(reply.body[at..at + 8].try_into().unwrap());
    assert_eq!(word(8), index);
    Info {
        argsz: word(0),
        flags: word(4),
        cap_offset: word(12),
        bytes: long(16),
        offset: long(24),
        rest: reply.body[32..].to_vec(),
        files: reply.fds,
    }
}

#[test]
fn a_bar_that_is_too_short_ends_where_it_says() {
    let board = Board::start(Options {
        hbm_bytes: 64 << 20,
        bar0_bytes: 4096,
        ..Options::default()
    })
    .unwrap();
    let mut owner = Peer::owner(board.path());
    let bar = info(&mut owner, 32, 0);
    assert_eq!((bar.bytes, bar.flags), (4096, READ | WRITE));
    assert!(bar.files.is_empty(), "no telemetry page to map");
    let beyond = owner.ask(REGION_READ, &access(0, 4096, 4));
    assert_eq!(beyond.errno(), 22, "EINVAL");
}

#[test]
fn nine_regions_are_told_with_their_sizes() {
    let board = board();
    let mut owner = Peer::owner(board.path());
    let sizes: Vec<u64> = (0..9)
        .map(|index| info(&mut owner, 32, index).bytes)
        .collect();
    assert_eq!(
        sizes,
        [256 << 10, 0, 256 << 10, 0, 64 << 20, 0, 0, 4096, 0],
        "registers, doorbells, window and config space"
    );
    for (index, bytes) in (0..).zip(sizes) {
        let flags = info(&mut owner, 32, index).flags;
        let wanted = if bytes > 0 { READ | WRITE } else { 0 };
        assert_eq!(flags & (READ | WRITE), wanted, "region {index}");
    }
    let mut observer = Peer::observer(board.path());
    assert_eq!(
        info(&mut observer, 32, CONFIG).flags,
        READ,
        "observers write nowhere"
    );
}

/// The sparse mmap capability that names these areas.
fn areas(areas: &[(u32, u32)]) -> Vec<u8> {
    let mut bytes = [&1u16.to_le_bytes()[..], &1u16.to_le_bytes()].concat();
    bytes.extend(words(&[0, u32::try_from(areas.len()).unwrap(), 0]));
    for &(at, length) in areas {
        bytes.extend(words(&[at, 0, length, 0]));
    }
    bytes
}

#[test]
fn the_areas_that_can_be_mapped_are_told_once_there_is_room_for_them() {
    let board = board();
    let mut owner = Peer::owner(board.path());
    for argsz in [32, 33, 79] {
        let short = info(&mut owner, argsz, BAR0);
        assert_eq!((short.argsz, short.flags & CAPS), (80, CAPS));
        assert!(short.rest.is_empty(), "no capability is cut in two");
        assert_eq!(short.files.len(), 1);
    }
    for argsz in [80, 4096, u32::MAX] {
        let long = info(&mut owner, argsz, BAR0);
        assert_eq!((long.argsz, long.cap_offset), (80, 32));
        let wanted = areas(&[(0x1000, 0x1000), (0x1_0000, 0x4000)]);
        assert_eq!(long.rest, wanted, "capability records, telemetry page");
    }
}

#[test]
fn a_card_that_misbehaves_relays_its_capability_records() {
    let board = board();
    board.fault(Fault::CapsLoop);
    let mut owner = Peer::owner(board.path());
    let told = info(&mut owner, 80, BAR0);
    assert_eq!(told.rest, areas(&[(0x1_0000, 0x4000)]));
    assert_eq!(owner.read(BAR0, 0x1024, 2), [0, 0], "of its second record");
}

#[test]
fn the_capability_records_are_the_same_mapped_and_relayed() {
    let board = board();
    let mut owner = Peer::owner(board.path());
    let mut info = info(&mut owner, 80, BAR0);
    let file = std::fs::File::from(info.files.pop().unwrap());
    let mut mapped = [0; 4096];
    file.read_exact_at(&mut mapped, info.offset + 0x1000)
        .unwrap();
    let relayed: Vec<u8> = (0..4096 / 8)
        .flat_map(|at| owner.read(BAR0, 0x1000 + at * 8, 8))
        .collect();
    assert_eq!(mapped, *relayed);
    assert_ne!(mapped[..8], [0; 8]);
}

#[test]
fn the_file_of_a_region_shows_what_messages_show() {
    let board = board();
    let mut owner = Peer::owner(board.path());
    for index in [BAR0, BAR2, BAR4] {
        let mut info = info(&mut owner, 64, index);
        assert_eq!(info.flags & MMAP, MMAP);
        assert_eq!(info.flags & CAPS != 0, index == BAR0);
        let file = std::fs::File::from(info.files.pop().unwrap());
        let at = if index == BAR0 { 0x1_0000 } else { 0x100 };
        let mut mapped = [0; 8];
        file.read_exact_at(&mut mapped, info.offset + at).unwrap();
        assert_eq!(owner.read(index, at, 8), mapped, "region {index}");
        if index != BAR0 {
            file.write_all_at(b"by file!", info.offset + at).unwrap();
            assert_eq!(owner.read(index, at, 8), b"by file!");
            owner.write(index, at + 1, b"message");
            file.read_exact_at(&mut mapped, info.offset + at).unwrap();
            assert_eq!(&mapped, b"bmessage");
        }
    }
}

#[test]
fn nobody_can_shrink_grow_or_seal_what_the_card_shares() {
    let board = board();
    let mut owner = Peer::owner(board.path());
    for index in [BAR0, BAR2, BAR4] {
        let mut info = info(&mut owner, 64, index);
        let file = info.files.pop().unwrap();
        for bytes in [0, 4096, 1 << 40] {
            assert!(
                nix::unistd::ftruncate(&file, bytes).is_err(),
                "region {index}"
            );
        }
        for seal in [SealFlag::F_SEAL_FUTURE_WRITE, SealFlag::F_SEAL_WRITE] {
            let sealed = fcntl(&file, FcntlArg::F_ADD_SEALS(seal));
            assert!(sealed.is_err(), "region {index} was sealed with {seal:?}");
        }
    }
    owner.assert_in_step();
}

#[test]
fn memory_is_read_and_written_at_every_width_and_alignment() {
    let board = board();
    let mut owner = Peer::owner(board.path());
    let data: Vec<u8> = (0..=255).collect();
    for region in [BAR2, BAR4] {
        let mut wanted = vec![0; 512];
        for width in (1..=17).chain([31, 32, 33, 63, 64, 65, 100]) {
            for at in 0x100..0x100 + 9 {
                owner.write(region, at, &data[width..2 * width]);
                let begin = usize::try_from(at).unwrap();
                wanted[begin..begin + width].copy_from_slice(&data[width..2 * width]);
                assert_eq!(owner.read(region, at, width), data[width..2 * width]);
            }
        }
        assert_eq!(owner.read(region, 0, 512)[0x100..], wanted[0x100..]);
        if region == BAR2 {
            // Page 0 is a queue's that does not exist: put it back.
            owner.write(region, 0x100, &[0; 0x100]);
        }
    }
    let large: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
    owner.write(BAR4, 0x1234, &large);
    assert_eq!(owner.read(BAR4, 0x1234, large.len()), large);
    let end = (64 << 20) - 3;
    owner.write(BAR4, end, b"end");
    assert_eq!(owner.read(BAR4, end, 3), b"end");
}

#[test]
fn registers_and_config_space_take_every_width_without_harm() {
    let board = board();
    let mut owner = Peer::owner(board.path());
    // The identity, as words and in any pieces.
    let whole = owner.read(BAR0, 0, 16);
    for at in (0..16).step_by(4) {
        assert_eq!(
            owner.read(BAR0, at, 4),
            whole[usize::try_from(at).unwrap()..][..4]
        );
    }
    let config: Vec<u8> = owner.read(CONFIG, 0, 256);
    for width in [1, 2, 3, 4, 8, 16, 64] {
        for at in (0..256 - width).step_by(5) {
            let read = owner.read(CONFIG, at as u64, width);
            assert_eq!(read, config[at..at + width]);
        }
    }
    for width in [1, 2, 3, 5, 6, 7, 8, 12, 64, 1000] {
        for at in [0, 1, 2, 3, 0x3C, 0x11D, 0xFFF0] {
            assert_eq!(owner.read(BAR0, at, width).len(), width);
            owner.write(CONFIG, at % 0x100, &vec![0; width.min(16)]);
        }
    }
    owner.write(CONFIG, 0, &[0xFF; 4]);
    assert_eq!(
        owner.read(CONFIG, 0, 4),
        config[..4],
        "identity is read-only"
    );
}

#[test]
fn a_reset_raises_the_generation_and_forgets_config_space_but_not_interrupts() {
    use std::os::fd::{AsFd, AsRawFd};
    let board = board();
    let mut owner = Peer::owner(board.path());
    let bell = nix::sys::eventfd::EventFd::new().unwrap();
    let fds = [bell.as_fd().as_raw_fd()];
    assert_eq!(
        owner
            .ask_with(SET_IRQS, &set_irqs(0x24, 0, 1, &[]), &fds)
            .errno(),
        0
    );
    let file = memory(0x1000);
    let mapped = owner.ask_with(DMA_MAP, &map(3, 0, 0x1000, 0x1000), &[file.as_raw_fd()]);
    assert_eq!(mapped.errno(), 0);
    owner.write(CONFIG, 4, &[4, 0]);
    let before = board.counters().generation;
    let reply = owner.ask(RESET, &[]);
    assert_eq!((reply.errno(), reply.body.len()), (0, 0));
    let counters = board.counters();
    assert_eq!(counters.generation, before + 1);
    assert_eq!(owner.read(CONFIG, 4, 2), [0, 0]);
    assert_eq!(
        (counters.vectors, counters.regions),
        (1, 1),
        "those are the client's"
    );
    // And by config space, as a guest does it: bit 15 of device control.
    owner.write(CONFIG, 0x68, &[0x10, 0xA8]);
    assert_eq!(board.counters().generation, before + 2);
    owner.assert_in_step();
}
