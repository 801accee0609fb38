//! Random messages, grown from good ones: whatever comes, the server lives on.
//!
//! Two seconds in a test run. JALAPENO_FUZZ_SECONDS lets it run longer, JALAPENO_FUZZ_SEED makes
//! other messages; both are printed.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use crate::driver::{Driver, HBM, fill};
use crate::peer::*;
use crate::program::Program;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.throw() % end as u64).unwrap()
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Good messages of every command, several where one has several forms.
fn corpus() -> Vec<Vec<u8>> {
    let bodies: Vec<(u16, Vec<u8>)> = vec![
        (VERSION, hello(0, 1, HELLO)),
        (VERSION, hello(0, 1, WATCH)),
        (VERSION, hello(0, 1, ALONE)),
        (DMA_MAP, map(3, 0, 0x10_0000, 0x4000)),
        (DMA_MAP, map(1, 0x1000, 0x20_0000, 0x1000)),
        (DMA_UNMAP, unmap(0, 0x10_0000, 0x4000)),
        (DMA_UNMAP, unmap(2, 0, 0)),
        (GET_INFO, words(&[16, 0, 0, 0])),
        (GET_REGION_INFO, region_info(32, 0)),
        (GET_REGION_INFO, region_info(64, 4)),
        (GET_REGION_IO_FDS, words(&[16, 0, 0, 0])),
        (GET_IRQ_INFO, words(&[16, 0, 2, 0])),
        (SET_IRQS, set_irqs(0x24, 0, 1, &[])),
        (SET_IRQS, set_irqs(0x21, 0, 0, &[])),
        (SET_IRQS, set_irqs(0x22, 0, 4, &[1, 0, 1, 0])),
        (SET_IRQS, set_irqs(0x09, 0, 8, &[])),
        (REGION_READ, access(CONFIG, 0, 4)),
        (REGION_READ, access(BAR0, 0x1_0000, 64)),
        (REGION_WRITE, store(CONFIG, 4, &[4, 0])),
        (REGION_WRITE, store(BAR0, 0x048, &3u64.to_le_bytes())),
        (
            REGION_WRITE,
            store(BAR0, 0x100, &0x10_0000u64.to_le_bytes()),
        ),
        (REGION_WRITE, store(BAR0, 0x118, &0x1_0204u32.to_le_bytes())),
        (REGION_WRITE, store(BAR0, 0x11C, &1u32.to_le_bytes())),
        (REGION_WRITE, store(BAR2, 0, &5u32.to_le_bytes())),
        (REGION_WRITE, store(BAR4, 0, &pattern(200, 3))),
        (DMA_READ, access(0, 0x10_0000, 0)),
        (RESET, Vec::new()),
    ];
    let message = |(command, body): (u16, Vec<u8>)| message(3, command, 0, &body);
    bodies.into_iter().map(message).collect()
}

/// Words on which comparisons turn.
const EDGES: [u64; 14] = [
    0,
    1,
    2,
    15,
    16,
    0xFFF,
    0x1000,
    0x10_0000,
    0x10_0001,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    0x7FFF_FFFF_FFFF_F000,
    u64::MAX,
];

fn mutate(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = dice.pick(corpus).clone();
    for _ in 0..dice.below(4) {
        let at = dice.below(bytes.len().max(1));
        match dice.below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 if at < bytes.len() => bytes[at] = dice.throw().to_le_bytes()[0],
            // A field of 2, 4 or 8 bytes.
            2..=4 => {
                let width = *dice.pick(&[2, 4, 4, 8]);
                let word = dice.pick(&EDGES).to_le_bytes();
                let at = at / width * width;
                if let Some(field) = bytes.get_mut(at..at + width) {
                    field.copy_from_slice(&word[..width]);
                }
            }
            5 => bytes.truncate(at),
            6 => bytes.extend(pattern(dice.below(300), at)),
            7 => {
                let other = dice.pick(corpus);
                let keep = at.min(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[keep..]);
            }
            // A reply, an error, no reply wanted.
            _ => {
                let flags = *dice.pick(&[1u32, 0x10, 0x20, 0x21, 0x11]);
                if let Some(field) = bytes.get_mut(8..12) {
                    field.copy_from_slice(&flags.to_le_bytes());
                }
            }
        }
    }
    // Mostly the size is right, so that what is behind the header is looked at.
    if bytes.len() >= 16 && !dice.one_in(8) {
        let size = u32::try_from(bytes.len()).unwrap();
        bytes[4..8].copy_from_slice(&size.to_le_bytes());
    }
    bytes
}

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => otherwise,
    }
}

#[test]
fn random_messages_never_end_the_server_nor_leave_anything_behind() {
    let seconds = number("JALAPENO_FUZZ_SECONDS", 2);
    let seed = number("JALAPENO_FUZZ_SEED", 20_261_123);
    println!("JALAPENO_FUZZ_SECONDS={seconds} JALAPENO_FUZZ_SEED={seed}");
    let mut program = Program::start(&["--resident-limit", "16M"]);
    drop(Peer::owner(program.socket()));
    drop(Peer::next_owner(program.socket()));
    std::thread::sleep(Duration::from_millis(100));
    let baseline = program.footprint();
    let (corpus, mut dice) = (corpus(), Dice(seed));
    let bell = nix::sys::eventfd::EventFd::new().unwrap();
    let files: Vec<OwnedFd> = vec![
        memory(0x4000),
        shrinkable(0x4000),
        bell.as_fd().try_clone_to_owned().unwrap(),
        std::fs::File::open("/dev/null").unwrap().into(),
    ];
    let (mut sessions, mut messages) = (0u64, 0u64);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let peer = Peer::connect(program.socket());
        peer.stream.set_nonblocking(true).unwrap();
        if !dice.one_in(8) {
            let json = *dice.pick(&[HELLO, HELLO, HELLO, WATCH, ALONE]);
            let _ = (&peer.stream).write(&message(1, VERSION, 0, &hello(0, 1, json)));
        }
        for _ in 0..=dice.below(40) {
            let bytes = mutate(&mut dice, &corpus);
            let wishes_file = bytes
                .get(2)
                .is_some_and(|&command| [2, 8].contains(&command));
            let count = match dice.below(12) {
                0 => dice.below(20),
                1..=8 if wishes_file => 1,
                _ => 0,
            };
            let fds: Vec<RawFd> = (0..count).map(|_| dice.pick(&files).as_raw_fd()).collect();
            if !peer.offer(&bytes, &fds) {
                break;
            }
            messages += 1;
            if dice.one_in(3) {
                let _ = (&peer.stream).read(&mut [0; 4096]);
            }
        }
        drop(peer);
        sessions += 1;
        if sessions.is_multiple_of(50) {
            assert_alive(&mut program, seed, sessions);
        }
    }
    assert_alive(&mut program, seed, sessions);
    program.until_back_at(&baseline);
    // And the card still works.
    Driver::with(Peer::next_owner(program.socket()))
        .run(fill(HBM, 4096, 5))
        .unwrap();
    println!("{messages} messages in {sessions} sessions");
    assert!(messages > 100 && sessions > 10, "hardly anything was sent");
}

fn assert_alive(program: &mut Program, seed: u64, sessions: u64) {
    let ended = program.child.try_wait().unwrap();
    assert!(
        ended.is_none(),
        "ended ({ended:?}) with seed {seed}, session {sessions}"
    );
    Peer::next_owner(program.socket()).assert_in_step();
}
