//! The link: uncorrectable errors that the kernel's aer_inject puts into its own error handling.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use jalapeno::error::Code;
use jalapeno::hw::faults::FaultCode;
use jalapeno::hw::packets::{Opcode, WaitOp, header};
use jalapeno::{QueueOptions, Session};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use crate::leaving::turns_readable;
use crate::stage::{SOON, Stage, function, open, packet, until, work};

/// A poisoned TLP: not fatal by default.
const POISONED: u32 = 1 << 12;
/// A malformed TLP: fatal by default.
const MALFORMED: u32 = 1 << 18;
/// AER's register of which errors are fatal, in its capability.
const SEVERITY: u64 = 0x0C;

/// What `struct aer_error_inj` of the kernel wants: bus, device, function, padding, uncorrectable
/// and correctable bits, four words of header, domain.
fn inject(card: &str, bits: u32) {
    let number = |from: usize, to: usize| u8::from_str_radix(&card[from..to], 16).expect("hex");
    let mut bytes = vec![number(5, 7), number(8, 10), number(11, 12), 0];
    for word in [bits, 0, 0, 0, 0, 0, 0] {
        bytes.extend_from_slice(&u32::to_le_bytes(word));
    }
    fs::write("/dev/aer_inject", bytes).expect("the error is injected");
}

/// Where the AER capability stands in config space; has the card call these errors fatal.
fn call_fatal(card: &str, bits: u32) {
    use std::os::unix::fs::FileExt;
    let config = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(function(card).path().join("config"))
        .expect("config space");
    let word = |at: u64| {
        let mut bytes = [0; 4];
        config.read_exact_at(&mut bytes, at).expect("read");
        u32::from_le_bytes(bytes)
    };
    assert_eq!(word(0x100) & 0xFFFF, 1, "AER is the first");
    let before = word(0x100 + SEVERITY);
    config
        .write_all_at(&(before | bits).to_le_bytes(), 0x100 + SEVERITY)
        .expect("written");
    assert_eq!(word(0x100 + SEVERITY), before | bits, "it takes them");
}

/// The kernel's uevents from here on.
pub fn uevents() -> OwnedFd {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let events = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        flags,
        SockProtocol::NetlinkKObjectUEvent,
    )
    .expect("a socket");
    bind(events.as_raw_fd(), &NetlinkAddr::new(0, 1)).expect("listening");
    events
}

/// The values of JALAPENO_EVENT in the uevents that came.
pub fn announced(events: &OwnedFd) -> Vec<String> {
    let mut found = Vec::new();
    let mut bytes = vec![0; 8192];
    while let Ok(count) = recv(events.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
        let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
        found.extend(
            text.split('\0')
                .filter_map(|word| word.strip_prefix("JALAPENO_EVENT="))
                .map(str::to_owned),
        );
    }
    found
}

/// Has the card write a fault record that the shim has not seen.
fn fail_a_job(session: &Session) {
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let there = session.device_memory(4096).expect("device memory");
    let copy = packet(Opcode::Copy, [0x1000, there.address().0, 64, 0, 0]);
    let last = queue.submit_one(&copy).expect("submitted");
    let error = queue.completions().wait(last, Some(SOON));
    assert_eq!(error.expect_err("it fails").code(), Code::Fault);
    // The count of faults is read in the telemetry page.
    std::thread::sleep(Duration::from_millis(300));
}

/// What devcoredump keeps, by file.
fn dumps() -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir("/sys/class/devcoredump").into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path().join("data")))
        .filter(|data| data.exists())
        .collect()
}

/// Lets go of what earlier stories left.
fn clear_dumps() {
    for data in dumps() {
        fs::write(data, "1").expect("let go");
    }
    until("nothing is kept", SOON, || dumps().is_empty());
}

/// What made the shim keep the fault records that it kept; the newest is of the job that failed, on
/// this card. The offsets are those of docs/abi; a record begins with its code.
fn dumped(uuid: &[u8; 16]) -> String {
    until("a dump", SOON, || !dumps().is_empty());
    let bytes = fs::read(&dumps()[0]).expect("a dump");
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
    assert!(bytes.starts_with(b"JALFAULT"), "{:?}", &bytes[..8]);
    assert_eq!((word(8), word(12)), (1, 256), "version and record size");
    assert_eq!(bytes.len(), 64 + 16 * 256);
    assert_eq!(&bytes[24..40], uuid, "this card's");
    let newest = usize::try_from((long(16) - 1) % 16).expect("a number");
    let record = 64 + 256 * newest;
    let code = FaultCode::UnmappedRead.code();
    assert_eq!(word(record), code, "the job's failure");
    let event = String::from_utf8_lossy(&bytes[40..64]).into_owned();
    let event = event.trim_end_matches('\0');
    format!(
        "\"{event}\" with {} records, the newest {code:#06x}",
        long(16)
    )
}

/// An owner sleeps for a job when the link fails: it is told, lets go, and comes back.
fn told_of(stage: &Stage, bits: u32) -> String {
    let card = stage.card();
    let device = open(card);
    let uuid = device.info().uuid.0;
    let session = Session::new(&device).expect("a session");
    let gate = session.fence(0).expect("a fence");
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let mut wait = packet(Opcode::Wait, [gate.address().0, 1, 0, 0, 0]);
    wait.header = header(Opcode::Wait, WaitOp::AtLeast as u32);
    let last = queue.submit_one(&wait).expect("submitted");
    let completions = queue.completions().clone();
    let waiter = std::thread::spawn(move || completions.wait(last, Some(SOON)));
    std::thread::sleep(Duration::from_millis(50));
    let failed = device.transport().lost_fd().expect("an fd");
    if stage.has_shim() {
        clear_dumps();
        fail_a_job(&session);
    }
    let events = uevents();
    let begin = Instant::now();
    inject(card, bits);
    assert!(turns_readable(&failed), "the owner hears of it");
    let heard = begin.elapsed();
    let error = device.check().expect_err("it is as good as lost");
    assert_eq!(error.code(), Code::Lost, "{error}");
    let waited = waiter.join().expect("the waiter ends");
    let ended = begin.elapsed();
    assert_eq!(waited.expect_err("lost").code(), Code::Lost);
    assert!(ended < SOON / 2, "the waiter is not left to its deadline");
    drop((queue, gate, session, device));
    if stage.has_shim() {
        // The record is made once the card can be looked at: its owner may still be closing it.
        let mut said = announced(&events);
        for wanted in ["aer", "recovered", "fault"] {
            until(&format!("the shim says \"{wanted}\""), SOON, || {
                said.extend(announced(&events));
                said.iter().any(|event| event == wanted)
            });
        }
    }
    work(&open(card), 15, 2);
    let record = match stage.has_shim() {
        true => format!("; the shim kept {}", dumped(&uuid)),
        false => String::new(),
    };
    format!(
        "told after {} ms, the sleeper after {} ms: {error}; opened again it works{record}",
        heard.as_millis(),
        ended.as_millis()
    )
}

pub fn not_fatal(stage: &Stage) -> String {
    told_of(stage, POISONED)
}

pub fn fatal(stage: &Stage) -> String {
    call_fatal(stage.card(), MALFORMED);
    told_of(stage, MALFORMED)
}

/// The first word of each BAR, and the command register's memory decoding.
fn decoding(card: &str) -> ([u8; 24], bool) {
    let config = fs::read(function(card).path().join("config")).expect("config space");
    let bars = config[0x10..0x28].try_into().expect("six BARs");
    (bars, config[4] & 2 != 0)
}

/// After a fatal error the kernel resets the link, and config space with it; nobody has the card open
/// who would put it back.
pub fn fatal_while_nobody_owns_it(stage: &Stage) -> String {
    let card = stage.card();
    call_fatal(card, MALFORMED);
    let before = decoding(card);
    assert!(before.1, "it decodes while it is bound");
    let generation = function(card).path().join("jalapeno/generation");
    let read = || fs::read_to_string(&generation).ok();
    let was: u64 = read().and_then(|n| n.trim().parse().ok()).expect("a count");
    let events = uevents();
    let begin = Instant::now();
    inject(card, MALFORMED);
    let mut said = Vec::new();
    until("the shim says that it recovered", SOON, || {
        said.extend(announced(&events));
        said.iter().any(|event| event == "recovered")
    });
    let took = begin.elapsed();
    assert_eq!(decoding(card), before, "config space is as it was");
    let mut now = 0;
    until("its sensors answer", SOON, || {
        now = read().and_then(|n| n.trim().parse().ok()).unwrap_or(0);
        now > 0
    });
    work(&open(card), 21, 2);
    format!(
        "recovered after {} ms, generation {was} to {now}; opened it works",
        took.as_millis()
    )
}
