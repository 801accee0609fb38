//! Round trips of one NOP at a time, polling, beside two cache lines between the same cores.

use std::time::{Duration, Instant};

use crate::bench::{Bench, Outcome};
use crate::cores::Cores;
use crate::emulator::Emulator;
use crate::figure::{Goal, Measured, Plan};
use crate::nop::{Open, nanos_each, packet, round_trip};
use crate::ping_pong::PingPong;
use crate::samples::p50;

const ONE: &str = "NOP round trip, 1 queue, p50";
const SIXTEEN: &str = "NOP round trip, 16 queues, p50";
const PEER: Option<&str> = Some("two cache lines");
const GOAL: Goal = Goal::RatioAtMost(1.35);

/// What is measured here.
pub const PLANS: &[Plan] = &[
    Plan {
        name: ONE,
        unit: "ns",
        peer: PEER,
        goal: GOAL,
    },
    Plan {
        name: SIXTEEN,
        unit: "ns",
        peer: PEER,
        goal: GOAL,
    },
];

/// Round trips between two readings of the clock, which then does not show.
const GROUP: usize = 16;
/// Groups of a sample: about a millisecond.
const GROUPS: usize = 200;
/// Samples of each.
const SAMPLES: usize = 41;
/// After this the engine sleeps, and the other side of the ping-pong has the core for itself.
const REST: Duration = Duration::from_millis(4);

/// Measures it.
pub fn measure(bench: &Bench) -> Outcome {
    let emulator = Emulator::start(bench, bench.cores.device()?)?;
    Cores::pin(bench.cores.client)?;
    let one = beside(bench, &emulator, 1);
    let sixteen = beside(bench, &emulator, 16);
    bench.cores.unpin()?;
    Ok(vec![(ONE, one), (SIXTEEN, sixteen)])
}

/// One packet in flight at a time; each queue has its turn.
fn beside(bench: &Bench, emulator: &Emulator, queues: usize) -> Result<Measured, String> {
    let mut open = Open::new(&emulator.name(), queues)?;
    let mut peer = PingPong::start(bench.cores.device()?)?;
    let nop = packet();
    let mut pairs = Vec::with_capacity(SAMPLES);
    for sample in 0..=SAMPLES {
        // The first ones wake the engine.
        for queue in &mut open.queues {
            round_trip(queue, &nop)?;
        }
        let mut ours = Vec::with_capacity(GROUPS);
        for group in 0..GROUPS {
            let queue = open.queues.get_mut(group % queues).ok_or("no queue")?;
            let begin = Instant::now();
            for _ in 0..GROUP {
                round_trip(queue, &nop)?;
            }
            ours.push(nanos_each(begin, GROUP));
        }
        std::thread::sleep(REST);
        let mut theirs = peer.sample(GROUPS, GROUP)?;
        if sample > 0 {
            pairs.push((p50(&mut ours), p50(&mut theirs)));
        }
    }
    Ok(Measured::beside(&pairs))
}
