//! Figures: what the path costs where a kernel stands in it.

use std::time::{Duration, Instant};

use jalapeno::dma::{HostMemory, HostOptions, Pages};
use jalapeno::hw::packets::{Opcode, Packet, WaitOp, header};
use jalapeno::{Device, QueueOptions, Role, Session};

use crate::{SOON, device, ioctl, let_go, open, packet, session};

/// What the specification gives a function level reset, and an opening beyond it at most, in a machine
/// where every instruction is emulated.
const RESET: Duration = Duration::from_millis(100);
const OPENING: Duration = Duration::from_millis(20);

fn nop() -> Packet {
    Packet {
        header: header(Opcode::Nop, 0),
        ..Packet::ZERO
    }
}

/// Asks the harness for something, and waits until it is done.
fn ask(line: &str) {
    println!("{line}");
    let mut answer = String::new();
    let heard = std::io::stdin().read_line(&mut answer);
    heard.expect("the harness answers");
    assert_eq!(answer.trim(), "SEEN", "{line}");
}

/// The host runs this machine and its card before all others until it is dropped.
struct First;

impl First {
    fn begin() -> Self {
        ask("HOST first 0");
        Self
    }
}

impl Drop for First {
    fn drop(&mut self) {
        println!("HOST fair 0");
        // A story that failed is told of; that the answer did not come adds nothing.
        let _ = std::io::stdin().read_line(&mut String::new());
    }
}

/// Tells the harness to look at the card's counters, and waits until it has.
fn mark(line: &str) {
    ask(&format!("MARK {line}"));
}

pub fn polled_commands_send_no_message(card: &str) -> String {
    const JOBS: u64 = 10_000;
    let session = session(card);
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let nops = [nop(); 20];
    mark("polled begin");
    for _ in 0..JOBS / 20 {
        let last = queue.submit(&nops).expect("submitted");
        let begin = Instant::now();
        while queue.completions().poll().expect("polled") < last {
            assert!(begin.elapsed() < SOON, "they come home");
            std::thread::yield_now();
        }
    }
    mark(&format!("polled end 0 {JOBS} commands"));
    format!("{JOBS} commands between two marks")
}

pub fn sleepers_send_none_but_the_vectors_masks(card: &str) -> String {
    const WAITS: u64 = 20;
    let session = session(card);
    let gate = session.fence(0).expect("a fence");
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let vectors = session.device().vectors().expect("vectors");
    let vector = vectors.for_queue(queue.number());
    let vector = vector.expect("delivered").expect("a vector");
    // Nobody polls until the interrupt has come.
    let mut sleep_for = |value: u64| {
        let mut wait = packet(Opcode::Wait, [gate.address().0, value, 0, 0, 0]);
        wait.header = header(Opcode::Wait, WaitOp::AtLeast as u32);
        let seq = queue.submit_one(&wait).expect("submitted");
        queue.completions().arm(seq).expect("armed");
        gate.signal(value).expect("signalled");
        assert!(vector.sleep(None, SOON), "wait {value}: no interrupt");
        assert_eq!(vector.take(), 1, "wait {value}: interrupts");
        queue.completions().wait(seq, Some(SOON)).expect("done");
    };
    sleep_for(1);
    mark("sleepers begin");
    (2..WAITS + 2).for_each(&mut sleep_for);
    // Masked and unmasked once each.
    mark(&format!(
        "sleepers end {} {WAITS} waits, each ended by an interrupt",
        2 * WAITS
    ));
    format!("{WAITS} interrupts between two marks")
}

/// 64 MiB in small pages, and in huge ones.
pub fn a_buffer_is_one_ioctl_whatever_its_pages(card: &str) -> String {
    const BYTES: u64 = 64 << 20;
    let device = device(card);
    let dma = device.dma().expect("owned");
    for (pages, name, reserved) in [(Pages::Small, "small", "0"), (Pages::Huge, "huge", "32")] {
        std::fs::write("/proc/sys/vm/nr_hugepages", reserved).expect("pages are reserved");
        mark(&format!("{name}-pages begin"));
        let before = ioctl::maps();
        let memory = HostMemory::allocate(dma, BYTES, HostOptions::default()).expect("64 MiB");
        assert_eq!(ioctl::maps() - before, 1, "{name} pages");
        mark(&format!(
            "{name}-pages end any for information: 64 MiB by 1 ioctl"
        ));
        assert_eq!(memory.pages(), pages, "what there was");
    }
    std::fs::write("/proc/sys/vm/nr_hugepages", "0").expect("none are reserved");
    "64 MiB: 1 ioctl with small pages and with huge ones".into()
}

/// Messages of an opening, at most, where a relayed access is one: 145 are the kernel's own looks at
/// configuration space, some 70 the registers that are read.
const OPENING_MESSAGES: u32 = 600;
/// What it costs on a machine with better things to do, at most.
const STARVED: Duration = Duration::from_millis(500);

/// What an opening sends to the card.
fn messages_of_an_opening(card: &str) {
    let_go();
    mark("opening begin");
    let device = open(card);
    mark(&format!("opening end {OPENING_MESSAGES} one opening"));
    drop(device);
}

/// How long the kernel module scrubs HBM, from now on: the card was just closed. `None` on plain vfio-pci.
fn scrub(card: &str) -> Option<Duration> {
    let begin = Instant::now();
    let file = format!("/sys/bus/pci/devices/{card}/jalapeno/hbm");
    while std::fs::read_to_string(&file).ok()?.trim() == "scrubbing" {
        assert!(begin.elapsed() < SOON, "the scrub ends");
        std::thread::yield_now();
    }
    Some(begin.elapsed())
}

/// A card kept in D0 until this is dropped, and how long waking it took: vfio-pci lets a card sleep in D3hot
/// that nobody has open, and PCI wants 10 ms after it. The kernel module keeps it awake.
struct Awake {
    control: String,
    took: Duration,
}

impl Awake {
    fn keep(card: &str) -> Self {
        let device = format!("/sys/bus/pci/devices/{card}");
        let is = |state: &str| {
            let said = std::fs::read_to_string(format!("{device}/power_state"));
            said.expect("a power state").trim() == state
        };
        let sleeps = std::env::var("DRIVER").as_deref() == Ok("vfio-pci");
        let begin = Instant::now();
        while sleeps && !is("D3hot") {
            assert!(
                begin.elapsed() < SOON,
                "nobody has it open: it falls asleep"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        let control = format!("{device}/power/control");
        let begin = Instant::now();
        std::fs::write(&control, "on").expect("kept awake");
        let took = begin.elapsed();
        assert!(is("D0"), "awake");
        Self { control, took }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        let told = std::fs::write(&self.control, "auto");
        assert!(told.is_ok() || std::thread::panicking(), "{told:?}");
    }
}

/// The kernel's own part is measured beside it: what it takes to get the device by hand.
pub fn an_opening_is_quick_beside_its_reset(card: &str) -> String {
    messages_of_an_opening(card);
    let mut best = (Duration::MAX, Duration::ZERO, Duration::ZERO);
    let verdict = |time: Duration| match time <= OPENING {
        true => "within",
        false => "beyond",
    };
    let first = First::begin();
    let awake = Awake::keep(card);
    for attempt in 0..12 {
        if attempt >= 4 && best.0 < RESET + STARVED {
            break;
        }
        let _ = ioctl::longest();
        let begin = Instant::now();
        let device = Device::open(card, Role::Compute).expect("it opens");
        let resets = ioctl::longest();
        let session = Session::new(&device).expect("a session");
        let mut queue = session.queue(QueueOptions::default()).expect("a queue");
        let seq = queue.submit_one(&nop()).expect("submitted");
        queue.completions().wait(seq, Some(SOON)).expect("done");
        let all = begin.elapsed();
        if all < best.0 {
            best = (all, all.saturating_sub(resets), resets);
        }
    }
    let scrub = scrub(card);
    drop(first);
    let woken = awake.took;
    drop(awake);
    let (all, rest, resets) = best;
    assert!(rest < STARVED, "{rest:?} beside the kernel's reset");
    let beyond = all.saturating_sub(RESET);
    println!("FIGURE opening-us {}", all.as_micros());
    println!("FIGURE opening-reset-us {}", resets.as_micros());
    println!("FIGURE wake-us {}", woken.as_micros());
    if let Some(took) = scrub {
        println!("FIGURE scrub-us {}", took.as_micros());
    }
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    format!(
        "{:.1} ms beyond the reset's {}, {} {}; of these {:.1} are not the kernel's call that resets it",
        millis(beyond),
        RESET.as_millis(),
        verdict(beyond),
        OPENING.as_millis(),
        millis(rest),
    )
}
