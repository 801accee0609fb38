//! What a device with nothing to do costs, and how late it notices the first doorbell.

use std::time::{Duration, Instant};

use crate::bench::{Bench, Outcome};
use crate::cores::Cores;
use crate::emulator::Emulator;
use crate::figure::{Goal, Measured, Plan};
use crate::nop::{Open, nanos_each, packet, round_trip};

const NOBODY: &str = "idle emulator, nobody connected";
const ONE: &str = "idle emulator, 1 queue";
const SIXTEEN: &str = "idle emulator, 16 queues";
const FIRST: &str = "first doorbell after idle, p50";
const GOAL: Goal = Goal::AtMost(3.0);

const fn plan(name: &'static str) -> Plan {
    Plan {
        name,
        unit: "% of a core",
        peer: None,
        goal: GOAL,
    }
}

/// What is measured here.
pub const PLANS: &[Plan] = &[
    plan(NOBODY),
    plan(ONE),
    plan(SIXTEEN),
    Plan {
        name: FIRST,
        unit: "us",
        peer: None,
        goal: Goal::Shown,
    },
];

/// After this nothing of former work is left: the engine looks seldom.
const SETTLE: Duration = Duration::from_millis(250);
const WINDOW: Duration = Duration::from_secs(1);
const WINDOWS: usize = 3;
const DOORBELLS: u32 = 21;

/// Measures it.
pub fn measure(bench: &Bench) -> Outcome {
    let emulator = Emulator::start(bench, bench.cores.device()?)?;
    Cores::pin(bench.cores.client)?;
    let name = emulator.name();
    let mut figures = vec![(NOBODY, use_of(&emulator))];
    for (figure, queues) in [(ONE, 1), (SIXTEEN, 16)] {
        // The session's own queue 0 counts.
        let open = Open::new(&name, queues - 1)?;
        figures.push((figure, use_of(&emulator)));
        drop(open);
    }
    figures.push((FIRST, first_doorbell(&name)));
    bench.cores.unpin()?;
    Ok(figures)
}

/// Processor time of the whole process in percent of a core.
fn use_of(emulator: &Emulator) -> Result<Measured, String> {
    std::thread::sleep(SETTLE);
    let mut samples = Vec::with_capacity(WINDOWS);
    for _ in 0..WINDOWS {
        let (begin, before) = (Instant::now(), emulator.processor_time()?);
        std::thread::sleep(WINDOW);
        let used = emulator.processor_time()?.saturating_sub(before);
        samples.push(used as f64 / nanos_each(begin, 1) * 100.0);
    }
    Ok(Measured::alone(samples))
}

fn first_doorbell(name: &str) -> Result<Measured, String> {
    let mut open = Open::new(name, 1)?;
    let mut samples = Vec::new();
    for index in 0..DOORBELLS {
        // Not in step with the engine's own sleeps.
        std::thread::sleep(SETTLE / 2 + Duration::from_micros(u64::from(index) * 137));
        let begin = Instant::now();
        round_trip(open.queue()?, &packet())?;
        samples.push(nanos_each(begin, 1) / 1e3);
    }
    Ok(Measured::alone(samples))
}
