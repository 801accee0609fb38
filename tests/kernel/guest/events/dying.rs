//! Dying: the card stops to exist under its owner, and says nothing.

use std::time::{Duration, Instant};

use jalapeno::error::Code;
use jalapeno::hw::packets::{Opcode, WaitOp, header};
use jalapeno::{QueueOptions, Session};

use crate::part::Part;
use crate::stage::{Stage, open, packet, work};

/// What the owner gives its job.
const DEADLINE: Duration = Duration::from_secs(5);

/// The owner, a process of its own: once the card is dead, the kernel holds whoever closes it for a
/// minute.
pub fn own(card: &str) {
    let device = open(card);
    work(&device, 16, 1);
    let session = Session::new(&device).expect("a session");
    let gate = session.fence(0).expect("a fence");
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let mut wait = packet(Opcode::Wait, [gate.address().0, 1, 0, 0, 0]);
    wait.header = header(Opcode::Wait, WaitOp::AtLeast as u32);
    let last = queue.submit_one(&wait).expect("submitted");
    println!("waits");
    let begin = Instant::now();
    let waited = queue
        .completions()
        .wait(last, Some(DEADLINE))
        .expect_err("dead");
    let took = begin.elapsed();
    let asked = device.verify().expect_err("dead");
    let submitted = queue.submit_one(&wait).expect_err("dead");
    assert_eq!(waited.code(), Code::Lost, "{waited}");
    assert_eq!(asked.code(), Code::Lost, "{asked}");
    assert_eq!(submitted.code(), Code::Lost, "{submitted}");
    println!("{waited}; heard after {} ms", took.as_millis());
}

pub fn told_by_the_deadline(stage: &Stage) -> String {
    let mut owner = Part::start("dying", stage.card());
    owner.hear("waits");
    println!("HOST kill 0");
    let begin = Instant::now();
    let words = owner.line();
    let took = begin.elapsed();
    assert!(words.starts_with("device lost: "), "{words}");
    assert!(took < DEADLINE * 2, "{took:?}");
    // The kernel goes on living beside it; its log is read to the end of the machine.
    std::thread::sleep(Duration::from_secs(3));
    std::mem::forget(owner); // nobody waits for the close
    format!("{words}; the minute that the kernel takes to give the card up is not sat through")
}
