//! The table of messages that break the protocol, and what each must get.

use crate::peer::*;

/// What a message must get.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gets {
    /// A reply with this errno; 0: a good one.
    Errno(u32),
    /// The end of the connection, without a reply.
    Dropped,
    /// No reply; the connection goes on.
    Silence,
}
use Gets::{Dropped, Errno, Silence};

/// One message.
pub struct Row {
    pub name: String,
    pub bytes: Vec<u8>,
    pub files: usize,
    pub gets: Gets,
}

/// The id of every message in it.
pub const ID: u16 = 0x5A5A;

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

/// All of them.
pub fn table() -> Vec<Row> {
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
