//! Resets that only a kernel can do.

use std::time::Instant;

use jalapeno::error::Code;
use jalapeno::hw::packets::{Opcode, WaitOp, header};
use jalapeno::hw::regs::ResetLevel;
use jalapeno::{HostOptions, QueueOptions, Session};

use crate::{SOON, device, jobs, packet};

fn reset(card: &str, level: ResetLevel) -> String {
    let device = device(card);
    let session = Session::new(&device).expect("a session");
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let memory = session
        .host_memory(4096, HostOptions::default())
        .expect("host memory");
    let before = device.generation();
    let report = match device.reset(level, 0, SOON) {
        Ok(report) => report,
        Err(error) => panic!("{error}"),
    };
    assert!(report.generation > before, "{report:?}");
    let stale = queue
        .submit(&[])
        .map(drop)
        .and(queue.completions().poll().map(drop));
    assert_eq!(stale.expect_err("it is stale").code(), Code::Stale);
    drop((queue, memory, session));
    device.verify().expect("it answers");
    // Who asked for it goes on at once, on the same device.
    jobs::a_copy_goes_to_the_card_and_home(card);
    format!(
        "generation {before:?} to {:?}, {} ms",
        report.generation,
        report.took.as_millis()
    )
}

/// The host resets the card under its owner, who sleeps: the kernel tells nobody.
pub fn a_reset_that_nobody_here_asked_for(card: &str) -> String {
    let device = device(card);
    let session = Session::new(&device).expect("a session");
    let gate = session.fence(0).expect("a fence");
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let mut wait = packet(Opcode::Wait, [gate.address().0, 1, 0, 0, 0]);
    wait.header = header(Opcode::Wait, WaitOp::AtLeast as u32);
    let last = queue.submit_one(&wait).expect("submitted");
    let completions = queue.completions().clone();
    let sleeper = std::thread::spawn(move || (completions.wait(last, Some(SOON)), Instant::now()));
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(!sleeper.is_finished(), "the gate is shut");
    std::fs::write(format!("/sys/bus/pci/devices/{card}/reset"), "1").expect("reset");
    println!("FIGURE resets-asked-unasked 1"); // by this story: no opening
    let done = Instant::now();
    let (told, at) = sleeper.join().expect("the sleeper ends");
    let told = told.expect_err("its job is gone");
    assert_eq!(told.code(), Code::Stale, "{told}");
    let stale = device.verify().expect_err("it was reset");
    assert_eq!(stale.code(), Code::Stale, "{stale}");
    let took = at.saturating_duration_since(done).as_millis();
    format!("the sleeper hears of it {took} ms after: {told}")
}

pub fn a_function_level_reset(card: &str) -> String {
    let told = reset(card, ResetLevel::Function);
    println!("FIGURE resets-asked-function 1"); // no opening
    told
}

pub fn a_bus_reset_or_the_names_of_who_it_would_hit(card: &str) -> String {
    reset(card, ResetLevel::Bus)
}
