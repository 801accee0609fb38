//! Resets that only a kernel can do.

use jalapeno::error::Code;
use jalapeno::hw::regs::ResetLevel;
use jalapeno::{HostOptions, QueueOptions, Session};

use crate::{SOON, device, jobs};

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

pub fn a_function_level_reset(card: &str) -> String {
    reset(card, ResetLevel::Function)
}

pub fn a_bus_reset_or_the_names_of_who_it_would_hit(card: &str) -> String {
    reset(card, ResetLevel::Bus)
}
