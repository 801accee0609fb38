//! How many NOPs a second go through a queue in batches, beside liburing's.

use std::time::Instant;

use crate::bench::{Bench, Outcome};
use crate::child::Peer;
use crate::cores::Cores;
use crate::emulator::Emulator;
use crate::figure::{Goal, Measured, Plan};
use crate::nop::{Open, packet, round_trip};

const NAME: &str = "NOP rate, batch 32";

/// What is measured here.
pub const PLANS: &[Plan] = &[Plan {
    name: NAME,
    unit: "M/s",
    peer: Some("liburing NOP"),
    goal: Goal::RatioAtLeast(1.0),
}];

const BATCH: usize = 32;
/// Batches of a sample: a millisecond or two; the peer takes as many.
const BATCHES: usize = 1000;
const SAMPLES: usize = 41;

/// Measures it.
pub fn measure(bench: &Bench) -> Outcome {
    let emulator = Emulator::start(bench, bench.cores.device()?)?;
    let mut peer = Peer::start(bench, &bench.program("uring_nop")?, bench.cores.client)?;
    Cores::pin(bench.cores.client)?;
    let mut open = Open::new(&emulator.name(), 1)?;
    let mut pairs = Vec::with_capacity(SAMPLES);
    for sample in 0..=SAMPLES {
        let pair = (ours(&mut open)?, peer.sample()?);
        if sample > 0 {
            pairs.push(pair);
        }
    }
    drop(open);
    bench.cores.unpin()?;
    Ok(vec![(NAME, Ok(Measured::beside(&pairs)))])
}

/// Keeps the ring full, batch by batch; millions a second.
fn ours(open: &mut Open) -> Result<f64, String> {
    let queue = open.queue()?;
    let failed = |error: jalapeno::Error| format!("submit and poll: {error}");
    round_trip(queue, &packet())?;
    let batch = [packet(); BATCH];
    let room = queue.depth() - BATCH as u64;
    let begin = Instant::now();
    let mut last = queue.completions().submitted();
    for _ in 0..BATCHES {
        while last.0 - queue.completions().poll().map_err(failed)?.0 > room {}
        last = queue.submit(&batch).map_err(failed)?;
    }
    while queue.completions().poll().map_err(failed)? < last {}
    Ok((BATCHES * BATCH) as f64 / begin.elapsed().as_secs_f64() / 1e6)
}
