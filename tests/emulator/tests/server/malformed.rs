//! Messages that break the protocol: each has its errno, or ends its connection; the server lives.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::peer::*;

/// What a message must get.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gets {
    /// A reply with this errno; 0: a good one.
    Errno(u32),
    /// The end of the connection, without a reply.
    Dropped,
    /// No reply; the connection goes on.
    Silence,
}
use Gets::{Dropped, Errno, Silence};

struct Row {
    name: String,
    bytes: Vec<u8>,
    files: usize,
    gets: Gets,
}

const ID: u16 = 0x5A5A;

fn row(name: &str, command: u16, body: &[u8], gets: Gets) -> Row {
    Row {
        name: format!("command {command}, {name}"),
        bytes: message(ID, command, 0, body),
        files: 0,
        gets,
    }
}

fn with_files(files: usize, row: Row) -> Row {
    Row {
        name: format!("{} with {files} descriptors", row.name),
        files,
        ..row
    }
}

fn with_flags(flags: u32, gets: Gets, mut row: Row) -> Row {
    row.bytes[8..12].copy_from_slice(&flags.to_le_bytes());
    Row {
        name: format!("{} with flags {flags:#x}", row.name),
        gets,
        ..row
    }
}

fn patched(name: &str, body: &[u8], at: usize, word: u32) -> (String, Vec<u8>) {
    let mut body = body.to_vec();
    body[at..at + 4].copy_from_slice(&word.to_le_bytes());
    (name.to_owned(), body)
}

/// Good bodies of every command that has one.
fn good() -> Vec<(u16, Vec<u8>, usize)> {
    vec![
        (DMA_MAP, map(3, 0, 0x10_0000, 0x1000), 1),
        (DMA_UNMAP, unmap(0, 0x4000_0000, 0x1000), 0),
        (GET_INFO, words(&[16, 0, 0, 0]), 0),
        (GET_REGION_INFO, region_info(32, 0), 0),
        (GET_IRQ_INFO, words(&[16, 0, 2, 0]), 0),
        (SET_IRQS, set_irqs(0x21, 0, 1, &[]), 0),
        (REGION_READ, access(CONFIG, 0, 4), 0),
        (REGION_WRITE, store(CONFIG, 0x3C, &[0, 0]), 0),
    ]
}

/// Queries may be followed by room for their answer, which some clients send along.
fn is_query(command: u16) -> bool {
    [GET_INFO, GET_REGION_INFO, GET_IRQ_INFO].contains(&command)
}

fn sizes() -> Vec<Row> {
    let mut rows = Vec::new();
    for (command, body, files) in good() {
        for short in [0, 1, body.len() / 2, body.len() - 1] {
            let row = row(
                &format!("{short} bytes"),
                command,
                &body[..short],
                Errno(EINVAL),
            );
            rows.push(with_files(files, row));
        }
        for more in [1, 8, 4096] {
            let long = [body.clone(), vec![0; more]].concat();
            let gets = Errno(if is_query(command) { 0 } else { EINVAL });
            let row = row(&format!("{more} bytes too many"), command, &long, gets);
            rows.push(with_files(files, row));
        }
    }
    rows.push(row("a payload", RESET, &[0], Errno(EINVAL)));
    for size in [0, 1, 15] {
        let mut short = row("", GET_INFO, &words(&[16, 0, 0, 0]), Dropped);
        short.bytes[4..8].copy_from_slice(&u32::to_le_bytes(size));
        short.name = format!("a message of {size} bytes");
        rows.push(short);
    }
    for size in [(1 << 20) + 4097, 0x7FFF_FFFF, u32::MAX] {
        rows.push(Row {
            name: format!("a message of {size} bytes"),
            bytes: sized(ID, REGION_WRITE, size, 0, &[]),
            files: 0,
            gets: Dropped,
        });
    }
    rows
}

fn headers() -> Vec<Row> {
    let mut rows = Vec::new();
    for (command, body, _) in good() {
        for kind in [2, 7, 15] {
            rows.push(with_flags(kind, Dropped, row("", command, &body, Dropped)));
        }
        // Nobody asked: what comes as a reply is passed over.
        for flags in [REPLY, REPLY | ERROR, REPLY | NO_REPLY] {
            rows.push(with_flags(flags, Silence, row("", command, &body, Silence)));
        }
        for flags in [ERROR, 0x40, 1 << 31] {
            rows.push(with_flags(
                flags,
                Errno(EINVAL),
                row("", command, &body, Silence),
            ));
        }
        let bad = row("cut short", command, &body[..body.len() - 1], Silence);
        rows.push(with_flags(NO_REPLY, Silence, bad));
    }
    let quiet = [
        row("", REGION_READ, &access(CONFIG, 0, 4), Silence),
        row("", GET_INFO, &words(&[16, 0, 0, 0]), Silence),
        row("", 99, &[], Silence),
    ];
    rows.extend(quiet.map(|row| with_flags(NO_REPLY, Silence, row)));
    for command in [
        0,
        DMA_READ,
        DMA_WRITE,
        14,
        15,
        16,
        17,
        18,
        19,
        20,
        999,
        u16::MAX,
    ] {
        for body in [0, 16, 200] {
            rows.push(row(
                "unknown here",
                command,
                &vec![0; body],
                Errno(EOPNOTSUPP),
            ));
        }
    }
    rows.push(row(
        "",
        GET_REGION_IO_FDS,
        &words(&[16, 0, 0, 0]),
        Errno(EOPNOTSUPP),
    ));
    rows.push(row(
        "a second greeting",
        VERSION,
        &hello(0, 1, HELLO),
        Errno(EINVAL),
    ));
    rows
}

fn descriptors() -> Vec<Row> {
    let mut rows = Vec::new();
    for (command, body, files) in good() {
        if files == 0 {
            for count in [1, 16] {
                rows.push(with_files(count, row("", command, &body, Errno(EINVAL))));
            }
        }
        rows.push(with_files(17, row("", command, &body, Dropped)));
        rows.push(with_files(100, row("", command, &body, Dropped)));
    }
    rows.push(with_files(1, row("", RESET, &[], Errno(EINVAL))));
    rows.push(with_files(1, row("", 77, &[], Errno(EOPNOTSUPP))));
    rows.push(with_files(
        2,
        row("", DMA_MAP, &map(3, 0, 0x10_0000, 0x1000), Errno(EINVAL)),
    ));
    rows
}

fn fields() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |command: u16, (name, body): (String, Vec<u8>), errno: u32| {
        rows.push(row(&name, command, &body, Errno(errno)));
    };
    // argsz, flags, index of the queries.
    for argsz in [0, 15] {
        add(
            GET_INFO,
            patched("argsz", &words(&[16, 0, 0, 0]), 0, argsz),
            EINVAL,
        );
        add(
            GET_IRQ_INFO,
            patched("argsz", &words(&[16, 0, 2, 0]), 0, argsz),
            EINVAL,
        );
    }
    for argsz in [0, 31] {
        add(
            GET_REGION_INFO,
            patched("argsz", &region_info(32, 0), 0, argsz),
            EINVAL,
        );
        add(
            DMA_MAP,
            patched("argsz", &map(3, 0, 0x10_0000, 0x1000), 0, argsz),
            EINVAL,
        );
    }
    add(
        GET_INFO,
        patched("argsz", &words(&[16, 0, 0, 0]), 0, u32::MAX),
        0,
    );
    add(
        GET_REGION_INFO,
        patched("argsz", &region_info(32, 0), 0, u32::MAX),
        0,
    );
    for index in [9, 10, 0x8000_0000, u32::MAX] {
        add(
            GET_REGION_INFO,
            patched("index", &region_info(64, 0), 8, index),
            EINVAL,
        );
        add(
            GET_IRQ_INFO,
            patched("index", &words(&[16, 0, 0, 0]), 8, index),
            EINVAL,
        );
    }
    for index in [1, 3, 5, 6, 8] {
        add(
            GET_REGION_INFO,
            patched("absent", &region_info(64, 0), 8, index),
            0,
        );
    }
    // Maps and unmaps.
    for (name, body) in [
        ("reserved flags", map(7, 0, 0x10_0000, 0x1000)),
        (
            "neither readable nor writable",
            map(0, 0, 0x10_0000, 0x1000),
        ),
        ("empty", map(3, 0, 0x10_0000, 0)),
        ("half a page", map(3, 0, 0x10_0000, 0x800)),
        ("misaligned", map(3, 0, 0x10_0800, 0x1000)),
        ("wrapping", map(3, 0, 0xFFFF_FFFF_FFFF_F000, 0x2000)),
        ("wrapping far", map(3, 0, 0x1000, 0xFFFF_FFFF_FFFF_F000)),
    ] {
        add(DMA_MAP, (name.to_owned(), body), EINVAL);
    }
    for (name, body, errno) in [
        ("reserved flags", unmap(4, 0x1000, 0x1000), EINVAL),
        ("dirty bitmap", unmap(1, 0x1000, 0x1000), EOPNOTSUPP),
        ("everything, but only here", unmap(2, 0x1000, 0), EINVAL),
        ("everything, but only so much", unmap(2, 0, 0x1000), EINVAL),
        ("empty", unmap(0, 0x1000, 0), EINVAL),
        ("wrapping", unmap(0, 0xFFFF_FFFF_FFFF_F000, 0x2000), EINVAL),
        ("never mapped", unmap(0, 0x7000_0000, 0x1000), 0),
    ] {
        add(DMA_UNMAP, (name.to_owned(), body), errno);
    }
    for argsz in [0, 23] {
        add(
            DMA_UNMAP,
            patched("argsz", &unmap(0, 0x1000, 0x1000), 0, argsz),
            EINVAL,
        );
    }
    rows
}

fn accesses() -> Vec<Row> {
    let mut rows = Vec::new();
    let beyond = [
        ("unknown region", 9, 0, 4),
        ("unknown region, nothing", 9, 0, 0),
        ("no region at all", u32::MAX, 0, 0),
        ("absent region", 1, 0, 4),
        ("ROM", 6, 0, 4),
        ("VGA", 8, 0, 4),
        ("at the end", CONFIG, 4096, 1),
        ("over the end", CONFIG, 4094, 4),
        ("over the end of a BAR", BAR4, (64 << 20) - 2, 4),
        ("wrapping", BAR0, u64::MAX, 1),
        ("wrapping far", BAR0, u64::MAX - 3, 8),
        ("absurd count", BAR4, 0, (1 << 20) + 1),
        ("most absurd count", BAR4, 0, u32::MAX),
        ("absurd count and offset", BAR4, u64::MAX, u32::MAX),
    ];
    for (name, region, offset, count) in beyond {
        let head = access(region, offset, count);
        rows.push(row(name, REGION_READ, &head, Errno(EINVAL)));
        let data = vec![0; count.min(1 << 20) as usize];
        let body = [head, data].concat();
        rows.push(row(name, REGION_WRITE, &body, Errno(EINVAL)));
    }
    for (name, count, data) in [("more data", 4, 5), ("less data", 4, 3), ("no data", 4, 0)] {
        let body = [access(BAR4, 0, count), vec![0; data]].concat();
        rows.push(row(name, REGION_WRITE, &body, Errno(EINVAL)));
    }
    rows.push(row("nothing", REGION_READ, &access(BAR4, 0, 0), Errno(0)));
    rows.push(row("nothing", REGION_WRITE, &access(BAR4, 0, 0), Errno(0)));
    rows
}

fn interrupts() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |name: &str, body: Vec<u8>, errno: u32| {
        rows.push(row(name, SET_IRQS, &body, Errno(errno)));
    };
    add("no kind of data", set_irqs(0x20, 0, 1, &[]), EINVAL);
    add("two kinds of data", set_irqs(0x23, 0, 1, &[1]), EINVAL);
    add("no action", set_irqs(0x01, 0, 1, &[]), EINVAL);
    add("two actions", set_irqs(0x31, 0, 1, &[]), EINVAL);
    add("reserved flags", set_irqs(0x61, 0, 1, &[]), EINVAL);
    add("vector beyond", set_irqs(0x21, 65, 1, &[]), EINVAL);
    add("range beyond", set_irqs(0x21, 60, 6, &[]), EINVAL);
    add("range that wraps", set_irqs(0x21, u32::MAX, 2, &[]), EINVAL);
    add("absurd count", set_irqs(0x22, 0, u32::MAX, &[1]), EINVAL);
    add("too few booleans", set_irqs(0x22, 0, 3, &[1, 1]), EINVAL);
    add("too many booleans", set_irqs(0x22, 0, 1, &[1, 1]), EINVAL);
    add(
        "data where none belongs",
        set_irqs(0x21, 0, 1, &[1]),
        EINVAL,
    );
    add("masking by eventfd", set_irqs(0x0C, 0, 1, &[]), EOPNOTSUPP);
    add(
        "argsz too small",
        patched("", &set_irqs(0x21, 0, 1, &[]), 0, 19).1,
        EINVAL,
    );
    for index in [0, 1, 5, u32::MAX] {
        let body = patched("", &set_irqs(0x21, 0, 1, &[]), 8, index).1;
        add(&format!("index {index}"), body, EINVAL);
    }
    rows
}

fn table() -> Vec<Row> {
    [
        sizes(),
        headers(),
        descriptors(),
        fields(),
        accesses(),
        interrupts(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

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
