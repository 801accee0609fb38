//! Jobs: polled ones, ones that are slept for, and what a vector that was off delivers.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use jalapeno::hw::packets::{Opcode, Packet, WaitOp, header};
use jalapeno::{HostOptions, QueueOptions, Session};

use crate::{SOON, device, packet, session};

pub fn a_copy_goes_to_the_card_and_home(card: &str) -> String {
    let session = session(card);
    let begin = Instant::now();
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let host = session
        .host_memory(8192, HostOptions::default())
        .expect("host memory");
    let there = session.device_memory(4096).expect("device memory");
    let text: Vec<u8> = (0..4096u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    host.memory().write(0, &text).expect("written");
    let [from, home] = [host.address().0, host.address().0 + 4096];
    let packets = [
        packet(Opcode::Copy, [from, there.address().0, 4096, 0, 0]),
        packet(Opcode::Copy, [there.address().0, home, 4096, 0, 0]),
    ];
    let last = queue.submit(&packets).expect("submitted");
    queue.completions().wait(last, Some(SOON)).expect("done");
    let all = begin.elapsed();
    let mut back = vec![0; text.len()];
    host.memory().read(4096, &mut back).expect("read");
    assert_eq!(back, text, "what came home is what went out");
    format!("there and home in {} ms", all.as_millis())
}

pub fn polled_jobs_come_home(card: &str) -> String {
    const JOBS: u64 = 20_000;
    let session = session(card);
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let nops = [Packet {
        header: header(Opcode::Nop, 0),
        ..Packet::ZERO
    }; 32];
    let begin = Instant::now();
    for _ in 0..JOBS / 32 {
        let last = queue.submit(&nops).expect("submitted");
        while queue.completions().poll().expect("polled") < last {
            assert!(begin.elapsed() < SOON * 3, "they come home");
            std::thread::yield_now();
        }
    }
    let nanos = begin.elapsed().as_nanos() / u128::from(JOBS);
    format!("{JOBS} jobs in batches of 32, {nanos} ns each")
}

/// Waits until a thread sleeps and goes on sleeping: it has polled, armed and looked once more.
fn fall_asleep(thread: nix::unistd::Pid) {
    let stat = format!("/proc/self/task/{thread}/stat");
    let (begin, mut asleep) = (Instant::now(), 0);
    while asleep < 4 {
        std::thread::sleep(Duration::from_millis(5));
        let stat = std::fs::read_to_string(&stat).expect("it lives");
        let state = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next());
        asleep = if state == Some('S') { asleep + 1 } else { 0 };
        assert!(begin.elapsed() < SOON, "it never sleeps: {stat}");
    }
}

pub fn a_sleeper_is_woken_by_an_interrupt(card: &str) -> String {
    let session = session(card);
    let gate = session.fence(0).expect("a fence");
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let vectors = session.device().vectors().expect("vectors");
    let vector = vectors.for_queue(queue.number());
    let vector = vector.expect("delivered").expect("a vector");
    let mut slowest = Duration::ZERO;
    for value in 1..=20 {
        vector.take();
        let mut wait = packet(Opcode::Wait, [gate.address().0, value, 0, 0, 0]);
        wait.header = header(Opcode::Wait, WaitOp::AtLeast as u32);
        let last = queue.submit_one(&wait).expect("submitted");
        let completions = queue.completions().clone();
        let (tell, told) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid()).expect("heard");
            let done = completions.wait(last, Some(SOON));
            (done, Instant::now())
        });
        fall_asleep(told.recv().expect("the waiter lives"));
        assert!(!waiter.is_finished(), "the gate is shut");
        let begin = Instant::now();
        gate.signal(value).expect("signalled");
        let (done, at) = waiter.join().expect("the waiter ends");
        done.expect("done");
        slowest = slowest.max(at.saturating_duration_since(begin));
        // The waiter's own look may come first; the interrupt comes all the same.
        assert!(vector.sleep(None, SOON), "wait {value}: no interrupt");
    }
    format!(
        "20 waits, each with an interrupt, slowest {} us",
        slowest.as_micros()
    )
}

/// Masks all vectors of a function or none, past VFIO, by its MSI-X capability.
fn mask_function(card: &str, masked: bool) {
    const CAPABILITIES: u64 = 0x34;
    const MSI_X: u8 = 0x11;
    const FUNCTION_MASK: u8 = 1 << 6; // of the control word's upper byte
    let path = format!("/sys/bus/pci/devices/{card}/config");
    let config = OpenOptions::new().read(true).write(true).open(path);
    let config = config.expect("root may");
    let byte = |at: u64| -> u8 {
        let mut byte = [0];
        config.read_exact_at(&mut byte, at).expect("read");
        byte[0]
    };
    let mut at = byte(CAPABILITIES);
    while byte(at.into()) != MSI_X {
        at = byte(u64::from(at) + 1);
        assert_ne!(at, 0, "it has vectors");
    }
    let control = u64::from(at) + 3;
    let other = byte(control) & !FUNCTION_MASK;
    let mask = if masked { FUNCTION_MASK } else { 0 };
    config
        .write_all_at(&[other | mask], control)
        .expect("written");
    assert_eq!(byte(control), other | mask, "the function took it");
}

pub fn a_masked_interrupt_is_kept_until_it_is_unmasked(card: &str) -> String {
    const QUIET: Duration = Duration::from_millis(200);
    let session = session(card);
    let gate = session.fence(0).expect("a fence");
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let completions = queue.completions().clone();
    let vectors = session.device().vectors().expect("vectors");
    let vector = vectors.for_queue(queue.number());
    let vector = vector.expect("delivered").expect("a vector");
    for (value, masked) in [(1, false), (2, true), (3, false)] {
        mask_function(card, masked);
        let mut wait = packet(Opcode::Wait, [gate.address().0, value, 0, 0, 0]);
        wait.header = header(Opcode::Wait, WaitOp::AtLeast as u32);
        let last = queue.submit_one(&wait).expect("submitted");
        completions.arm(last).expect("armed");
        gate.signal(value).expect("signalled");
        let begin = Instant::now();
        while completions.poll().expect("polled") < last {
            assert!(begin.elapsed() < SOON, "it comes home");
            std::thread::yield_now();
        }
        if masked {
            let told = vector.sleep(None, QUIET);
            mask_function(card, false); // before anything can fail
            assert!(!told, "an interrupt of a function whose vectors are masked");
        }
        assert!(vector.sleep(None, SOON), "job {value}: no interrupt");
        vector.take();
    }
    format!(
        "one was kept for {} ms and came once unmasked",
        QUIET.as_millis()
    )
}

/// A job that fails raises vector 0.
fn fail_a_job(session: &Session) {
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let there = session.device_memory(4096).expect("device memory");
    let last = queue
        .submit_one(&packet(Opcode::Copy, [0x1000, there.address().0, 64, 0, 0]))
        .expect("submitted");
    let error = queue.completions().wait(last, Some(SOON));
    assert_eq!(error.expect_err("it fails").code(), jalapeno::Code::Fault);
}

pub fn a_vector_that_was_off_comes_back_without_stale_interrupts(card: &str) -> String {
    let device = device(card);
    let session = Session::new(&device).expect("a session");
    let event = device.events().expect("owned").expect("a vector");
    fail_a_job(&session);
    assert!(event.sleep(None, SOON), "vector 0 works");
    device.acknowledge_faults(u64::MAX).ok();
    event.take();

    let transport = device.transport();
    transport.set_vectors(0, &[None]).expect("off");
    fail_a_job(&session);
    let quiet = Duration::from_millis(300);
    assert!(
        !event.sleep(None, quiet),
        "an interrupt of a vector that is off"
    );
    transport.set_vectors(0, &[Some(event.fd())]).expect("on");
    std::thread::sleep(quiet);
    let late = event.take();
    assert!(
        late <= 1,
        "{late} interrupts that were due while it was off"
    );
    fail_a_job(&session);
    assert!(event.sleep(None, SOON), "vector 0 works again");

    // The rest, one at a time, backwards.
    let vectors = device.vectors().expect("vectors");
    for number in (1..vectors.count()).rev() {
        transport.set_vectors(number, &[None]).expect("one off");
        let vector = vectors.get(number).expect("delivered").expect("there");
        transport
            .set_vectors(number, &[Some(vector.fd())])
            .expect("one on");
    }
    let beyond = transport.describe().vectors;
    let error = transport.set_vectors(beyond, &[Some(event.fd())]);
    let error = error.expect_err("there is none").to_string();
    format!("{late} kept while off; {error}")
}
