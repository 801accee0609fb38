//! Messages that break the protocol: each has its errno, or ends its connection; the server lives.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::bad_messages::Gets::{Dropped, Errno, Silence};
use crate::bad_messages::{ID, table};
use crate::peer::*;

#[test]
fn each_malformed_message_gets_its_errno_or_ends_its_connection_and_the_server_lives_on() {
    let board = board();
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut observer = Peer::observer(board.path());
    let mut owner = Peer::owner(board.path());
    for row in table() {
        let files: Vec<RawFd> = vec![null.as_raw_fd(); row.files];
        owner.send_with(&row.bytes, &files);
        let command = u16::from_le_bytes([row.bytes[2], row.bytes[3]]);
        match row.gets {
            Errno(errno) => {
                let reply = owner.reply(ID, command);
                assert_eq!(reply.errno(), errno, "{}", row.name);
            }
            Silence => {}
            Dropped => {
                owner.assert_dropped(&row.name);
                owner = Peer::next_owner(board.path());
            }
        }
        owner.assert_in_step();
        if row.gets == Dropped {
            observer.assert_in_step();
        }
    }
    assert_eq!(board.counters().regions, 0, "nothing of it took effect");
}

#[test]
fn before_the_greeting_nothing_is_answered_but_a_refusal() {
    let board = board();
    for row in table() {
        if row.files > 0 || row.gets == Dropped {
            continue;
        }
        let command = u16::from_le_bytes([row.bytes[2], row.bytes[3]]);
        let flags = u32::from_le_bytes(row.bytes[8..12].try_into().unwrap());
        if command == VERSION {
            continue;
        }
        let peer = Peer::connect(board.path());
        peer.try_send(&row.bytes);
        // Strangers are not listened to for long.
        if flags & (REPLY | NO_REPLY) == 0 && row.bytes.len() <= 64 << 10 {
            assert_eq!(peer.reply(ID, command).errno(), EINVAL, "{}", row.name);
        }
        peer.assert_dropped(&row.name);
    }
    Peer::owner(board.path()).assert_in_step();
}

#[test]
fn a_greeting_that_is_malformed_is_refused_and_ends_the_connection() {
    let board = board();
    let good = hello(0, 1, HELLO);
    let mut no_end = good.clone();
    no_end.pop();
    let bodies = [
        Vec::new(),
        good[..3].to_vec(),
        hello(1, 0, HELLO),
        hello(u16::MAX, 0, HELLO),
        no_end,
        [good.clone(), b"more\0".to_vec()].concat(),
        [&good[..4], b"{}\xFF\0"].concat(),
        hello(0, 1, &"[".repeat(5000)),
    ];
    for body in bodies {
        let mut peer = Peer::connect(board.path());
        assert_eq!(peer.ask(VERSION, &body).errno(), EINVAL, "{body:?}");
        peer.assert_dropped("a bad greeting");
    }
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut peer = Peer::connect(board.path());
    let reply = peer.ask_with(VERSION, &good, &[null.as_raw_fd()]);
    assert_eq!(reply.errno(), EINVAL, "a descriptor with the greeting");
    let peer = Peer::connect(board.path());
    peer.send(&message(1, VERSION, NO_REPLY, &good));
    peer.assert_dropped("a greeting that wants no answer");
    let peer = Peer::connect(board.path());
    peer.try_send(&message(1, VERSION, 0, &hello(0, 1, &" ".repeat(1 << 18))));
    peer.assert_dropped("an endless greeting");
}

#[test]
fn the_lowest_of_both_minor_versions_is_spoken() {
    let board = board();
    for (asked, spoken) in [(0, 0), (1, 1), (7, 1), (u16::MAX, 1)] {
        let mut peer = Peer::connect(board.path());
        let reply = peer.ask(VERSION, &hello(0, asked, WATCH));
        assert_eq!(reply.body[..4], hello(0, spoken, "")[..4]);
    }
    let mut bare = Peer::connect(board.path());
    assert_eq!(
        bare.ask(VERSION, &[0, 0, 0, 0]).errno(),
        0,
        "no capabilities"
    );
    bare.assert_in_step();
}

#[test]
fn message_ids_belong_to_the_client_and_pipelined_commands_are_answered_in_order() {
    let board = board();
    let mut owner = Peer::owner(board.path());
    let mut batch = Vec::new();
    for offset in 0..200u16 {
        let id = if offset % 3 == 0 { 7 } else { offset };
        batch.extend(message(
            id,
            REGION_READ,
            0,
            &access(CONFIG, offset.into(), 1),
        ));
        batch.extend(message(7, REGION_READ, 0, &access(9, 0, 1)));
    }
    owner.send(&batch);
    for offset in 0..200u16 {
        let id = if offset % 3 == 0 { 7 } else { offset };
        let good = owner.reply(id, REGION_READ);
        assert_eq!(good.body[..16], access(CONFIG, offset.into(), 1));
        assert_eq!(owner.reply(7, REGION_READ).errno(), EINVAL);
    }
    owner.assert_in_step();
}

#[test]
fn descriptors_sent_along_are_closed_whatever_becomes_of_the_message() {
    let program = crate::program::Program::start(&[]);
    let files: Vec<OwnedFd> = (0..100).map(|_| memory(4096)).collect();
    let raw: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let mut observer = Peer::observer(program.socket());
    observer.assert_in_step();
    let baseline = program.footprint();
    for count in [1, 2, 16, 17, 64, 100] {
        for bytes in [
            message(ID, GET_INFO, 0, &words(&[16, 0, 0, 0])),
            message(ID, DMA_MAP, 0, &map(3, 0, 0x1800, 0x1000)),
            message(
                ID,
                SET_IRQS,
                0,
                &set_irqs(0x24, 0, u32::try_from(count).unwrap(), &[]),
            ),
            message(ID, VERSION, 0, &hello(0, 1, "{")),
            sized(ID, GET_INFO, 8, 0, &[]),
            sized(ID, REGION_WRITE, 5000, 0, &[0; 100]),
        ] {
            let owner = Peer::next_owner(program.socket());
            owner.send_with(&bytes, &raw[..count]);
            drop(owner);
            let stranger = Peer::connect(program.socket());
            stranger.send_with(&bytes, &raw[..count]);
        }
    }
    program.until_back_at(&baseline);
    observer.assert_in_step();
}
