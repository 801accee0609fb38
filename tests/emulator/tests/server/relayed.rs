//! Memory without a file: the card asks, and the client answers, or does not, or lies.

use std::time::{Duration, Instant};

use crate::driver::*;
use crate::peer::*;
use jalapeno_stopwatch::{Stopwatch, calmly};

const BASE: u64 = 0x80_0000;
const BYTES: u64 = 0x40_0000;

/// A client's memory that is reached by questions only.
struct Relayed {
    bytes: Vec<u8>,
    asked: Vec<(u16, usize)>,
}

impl Relayed {
    fn new() -> Self {
        Self {
            bytes: pattern(usize::try_from(BYTES).unwrap(), 0),
            asked: Vec::new(),
        }
    }

    /// What a good client answers.
    fn answer(&mut self, question: &Message) -> Vec<u8> {
        assert_eq!((question.flags, question.error), (0, 0), "a command");
        let word = |at: usize| u64::from_le_bytes(question.body[at..at + 8].try_into().unwrap());
        let at = usize::try_from(word(0) - BASE).unwrap();
        let count = usize::try_from(word(8)).unwrap();
        self.asked.push((question.command, count));
        let mut reply = question.body[..16].to_vec();
        match question.command {
            DMA_READ => {
                assert_eq!(question.body.len(), 16);
                reply.extend_from_slice(&self.bytes[at..at + count]);
            }
            DMA_WRITE => {
                assert_eq!(question.body.len(), 16 + count);
                self.bytes[at..at + count].copy_from_slice(&question.body[16..]);
            }
            other => panic!("command {other}"),
        }
        reply
    }
}

fn relayed(json: &str, board: &jalapeno_emulator::board::Board) -> Driver {
    let mut driver = Driver::with(Peer::greeted(board.path(), json));
    driver.map(map(3, 0, BASE, BYTES), None);
    driver
}

fn run(driver: &mut Driver, memory: &mut Relayed, packet: [u64; 8]) -> Result<(), Failure> {
    let sequence = driver.submit(packet);
    driver.wait_answering(sequence, |peer, question| {
        let reply = memory.answer(&question);
        peer.send(&message(question.id, question.command, REPLY, &reply));
    })
}

#[test]
fn what_has_no_file_is_read_and_written_by_messages() {
    calmly(|| {
        let board = board();
        let mut driver = relayed(HELLO, &board);
        let mut memory = Relayed::new();
        run(&mut driver, &mut memory, copy(BASE + 5, HBM, 0x30_0003)).unwrap();
        let begin = driver.peer.read(BAR4, 0, 0x1000);
        let end = driver.peer.read(BAR4, 0x2F_F003, 0x1000);
        assert_eq!(begin, memory.bytes[5..0x1005]);
        assert_eq!(end, memory.bytes[0x2F_F008..0x30_0008]);
        let before = memory.bytes.clone();
        run(&mut driver, &mut memory, copy(HBM, BASE + 0x1000, 0x2000)).unwrap();
        assert_eq!(memory.bytes[0x1000..0x3000], before[5..0x2005]);
        assert_eq!(memory.bytes[..0x1000], before[..0x1000]);
        assert_eq!(memory.bytes[0x3000..], before[0x3000..]);
        driver.peer.assert_in_step();
    });
}

#[test]
fn no_question_is_larger_than_the_client_said_it_takes() {
    calmly(|| {
        let board = board();
        let json = r#"{"capabilities":{"max_data_xfer_size":4096}}"#;
        let mut driver = relayed(json, &board);
        let mut memory = Relayed::new();
        run(&mut driver, &mut memory, copy(BASE + 7, HBM, 0x1_0001)).unwrap();
        run(&mut driver, &mut memory, copy(HBM, BASE + 9, 0x1_0001)).unwrap();
        assert!(memory.asked.iter().all(|&(_, count)| count <= 4096));
        let asked = |command| -> usize {
            let of = memory.asked.iter().filter(|(which, _)| *which == command);
            of.map(|(_, count)| count).sum()
        };
        assert_eq!((asked(DMA_READ), asked(DMA_WRITE)), (0x1_0001, 0x1_0001));
    });
}

/// Bends a good reply into a bad one: id, command, flags, body.
type Bend = fn(&mut (u16, u16, u32, Vec<u8>));

#[test]
fn a_malformed_answer_fails_the_packet_that_asked_and_the_next_one_works() {
    calmly(|| {
        let board = board();
        let mut driver = relayed(HELLO, &board);
        let mut memory = Relayed::new();
        let bends: [(&str, Bend); 12] = [
            ("no body", |reply| reply.3.clear()),
            ("half a head", |reply| reply.3.truncate(9)),
            ("one byte less", |reply| reply.3.truncate(reply.3.len() - 1)),
            ("one byte more", |reply| reply.3.push(0)),
            ("another address", |reply| reply.3[0] ^= 8),
            ("another count", |reply| reply.3[8] ^= 8),
            ("an absurd count", |reply| reply.3[15] = 0x80),
            ("a refusal", |reply| reply.2 |= ERROR),
            ("a refusal without a body", |reply| {
                reply.2 |= ERROR;
                reply.3.clear();
            }),
            // These answer another question, so this one stays open until its time is over.
            ("another id", |reply| reply.0 ^= 1),
            ("another command", |reply| reply.1 ^= 7),
            ("silence", |reply| reply.2 = u32::MAX),
        ];
        for (name, bend) in bends {
            for packet in [copy(BASE, HBM, 64), copy(HBM, BASE, 64)] {
                let watch = Stopwatch::start();
                let sequence = driver.submit(packet);
                let failed = driver.wait_answering(sequence, |peer, question| {
                    let body = memory.answer(&question);
                    let mut reply = (question.id, question.command, REPLY, body);
                    bend(&mut reply);
                    if reply.2 != u32::MAX {
                        peer.send(&message(reply.0, reply.1, reply.2, &reply.3));
                    }
                });
                assert_eq!(failed.unwrap_err().code, HOST_MEMORY, "{name}");
                assert!(watch.ours() < Duration::from_millis(1500), "{name}");
                driver.peer.assert_in_step();
            }
            run(&mut driver, &mut memory, copy(BASE, HBM + 64, 64)).unwrap();
        }
    });
}

#[test]
fn a_write_may_be_confirmed_with_a_short_or_a_long_count() {
    calmly(|| {
        let board = board();
        let mut driver = relayed(HELLO, &board);
        let mut memory = Relayed::new();
        for bytes in [12, 16] {
            let sequence = driver.submit(copy(HBM, BASE, 64));
            let done = driver.wait_answering(sequence, |peer, question| {
                let reply = memory.answer(&question);
                peer.send(&message(
                    question.id,
                    question.command,
                    REPLY,
                    &reply[..bytes],
                ));
            });
            assert_eq!(done, Ok(()), "{bytes}");
        }
    });
}

#[test]
fn an_answer_that_came_late_or_was_never_asked_for_is_passed_over() {
    calmly(|| {
        let board = board();
        let mut driver = relayed(HELLO, &board);
        let mut memory = Relayed::new();
        let mut late = Vec::new();
        let sequence = driver.submit(copy(BASE, HBM, 64));
        let failed = driver.wait_answering(sequence, |_, question| {
            let reply = memory.answer(&question);
            late = message(question.id, question.command, REPLY, &reply);
        });
        assert_eq!(failed.unwrap_err().code, HOST_MEMORY);
        driver.peer.send(&late);
        for id in 0..2000 {
            driver.peer.send(&message(id, DMA_READ, REPLY, &[7; 4096]));
        }
        run(&mut driver, &mut memory, copy(BASE, HBM, 64)).unwrap();
        driver.peer.assert_in_step();
    });
}

#[test]
fn commands_are_answered_while_the_card_waits_for_one() {
    calmly(|| {
        let board = board();
        let mut driver = relayed(HELLO, &board);
        let mut observer = Peer::observer(board.path());
        let mut memory = Relayed::new();
        let sequence = driver.submit(copy(BASE, HBM, 64));
        let mut question = None;
        let watch = Stopwatch::start();
        while question.is_none() {
            question = driver.peer.receive();
        }
        driver.peer.assert_in_step();
        observer.assert_in_step();
        let question = question.unwrap();
        let reply = memory.answer(&question);
        driver
            .peer
            .send(&message(question.id, DMA_READ, REPLY, &reply));
        driver.wait(sequence).unwrap();
        assert!(watch.ours() < Duration::from_millis(900));
    });
}

#[test]
fn an_unmap_comes_before_an_answer_that_is_awaited() {
    calmly(|| {
        let board = board();
        let mut driver = relayed(HELLO, &board);
        let sequence = driver.submit(copy(BASE, HBM, 64));
        let question = driver.peer.receive().unwrap();
        assert_eq!(question.command, DMA_READ);
        let watch = Stopwatch::start();
        let reply = driver.peer.ask(DMA_UNMAP, &unmap(0, BASE, BYTES));
        assert_eq!(reply.errno(), 0);
        assert!(watch.ours() < Duration::from_millis(500));
        let failed = driver.wait(sequence).unwrap_err();
        assert!(
            [HOST_MEMORY, UNMAPPED_READ].contains(&failed.code),
            "{failed:?}"
        );
        driver.peer.assert_in_step();
    });
}

#[test]
fn an_owner_that_vanishes_while_it_is_asked_is_gone_within_a_second() {
    calmly(|| {
        let board = board();
        for _ in 0..3 {
            let mut driver = relayed(HELLO, &board);
            driver.submit(copy(BASE, HBM, 64));
            assert_eq!(driver.peer.receive().unwrap().command, DMA_READ);
            let watch = Stopwatch::start();
            drop(driver);
            let next = Peer::next_owner(board.path());
            assert!(
                watch.ours() < Duration::from_millis(500),
                "not the whole second"
            );
            drop(next);
            let end = Instant::now() + Duration::from_secs(1);
            while board.counters().connections > 0 {
                assert!(Instant::now() < end);
            }
        }
    });
}

#[test]
fn a_reset_does_not_wait_for_an_answer() {
    calmly(|| {
        let board = board();
        for by_config_space in [false, true] {
            let mut driver = relayed(HELLO, &board);
            driver.submit(copy(BASE, HBM, 64));
            assert_eq!(driver.peer.receive().unwrap().command, DMA_READ);
            let watch = Stopwatch::start();
            if by_config_space {
                driver.peer.write(CONFIG, 0x68, &[0x10, 0xA8]);
            } else {
                assert_eq!(driver.peer.ask(RESET, &[]).errno(), 0);
            }
            assert!(watch.ours() < Duration::from_millis(500));
            driver.peer.assert_in_step();
            drop(driver);
            drop(Peer::next_owner(board.path()));
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}

#[test]
fn a_flood_of_orders_while_the_card_is_held_up_is_bounded_and_forgotten() {
    calmly(|| {
        let board = board();
        let mut driver = relayed(HELLO, &board);
        let sequence = driver.submit(copy(BASE, HBM, 64));
        let question = driver.peer.receive().unwrap();
        assert_eq!(question.command, DMA_READ);
        for _ in 0..20_000 {
            let kick = store(BAR0, 0x090, &0u32.to_le_bytes());
            driver.peer.send(&message(0, REGION_WRITE, NO_REPLY, &kick));
        }
        driver.peer.assert_in_step();
        let waiting = board.card().waiting_orders();
        assert!((1000..=1024).contains(&waiting), "{waiting}");
        driver
            .peer
            .send(&message(question.id, DMA_READ, REPLY | ERROR, &[]));
        assert_eq!(driver.wait(sequence).unwrap_err().code, HOST_MEMORY);
        let mut memory = Relayed::new();
        run(&mut driver, &mut memory, copy(BASE, HBM, 64)).unwrap();
    });
}
