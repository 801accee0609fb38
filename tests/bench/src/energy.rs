//! Energy: what jobs say they cost, summed, beside what the device's counter rose by meanwhile.

use std::time::Duration;

use jalapeno::hw::packets::Opcode;
use jalapeno::{HostOptions, QueueOptions, Seq, Session};

use crate::bench::{Bench, Outcome};
use crate::cores::Cores;
use crate::emulator::Emulator;
use crate::figure::{Goal, Measured, Plan};
use crate::launch::MulMat;
use crate::nop::{Open, of};

const NAME: &str = "energy, jobs' sum off the device's counter";

/// What is measured here.
pub const PLANS: &[Plan] = &[Plan {
    name: NAME,
    unit: "%",
    peer: None,
    goal: Goal::AtMost(1.0),
}];

const ROUNDS: usize = 21;
/// Jobs between two stamps.
const JOBS: usize = 24;
const BYTES: u64 = 4 << 20;
const SIDE: usize = 1024;
const SOON: Duration = Duration::from_secs(20);

/// Measures it: products, copies and fills between two TIMESTAMPs, all by one doorbell.
pub fn measure(bench: &Bench) -> Outcome {
    let emulator = Emulator::start(bench, bench.cores.device()?)?;
    Cores::pin(bench.cores.client)?;
    let open = Open::new(&emulator.name(), 0)?;
    let off = rounds(&open.session);
    bench.cores.unpin()?;
    let (off, joules) = off?;
    let note = format!("{JOBS} jobs a round, {:.2} mJ by the counter", joules * 1e3);
    Ok(vec![(NAME, Ok(Measured::alone(off).noted(note)))])
}

/// How far each round is off, and the counter's rise in the last one.
fn rounds(session: &Session) -> Result<(Vec<f64>, f64), String> {
    let failed = |error: jalapeno::Error| format!("sum up energies: {error}");
    let options = QueueOptions {
        profile: true,
        depth: 64,
        ..QueueOptions::default()
    };
    let mut queue = session.queue(options).map_err(failed)?;
    let host = session
        .host_memory(BYTES, HostOptions::default())
        .map_err(failed)?;
    let card = session.device_memory(BYTES).map_err(failed)?;
    let stamps = session
        .host_memory(4096, HostOptions::default())
        .map_err(failed)?;
    let product = MulMat::new(session, [SIDE, 1, SIDE])?;
    let (host_at, card_at, stamps_at) = (host.address().0, card.address().0, stamps.address().0);
    let jobs = [
        product.packet(),
        of(Opcode::Copy, [host_at, card_at, BYTES, 0, 0]),
        of(Opcode::Fill, [card_at, BYTES, 7, 0, 0]),
        of(Opcode::Nop, [0; 5]),
    ];
    let mut packets = vec![of(Opcode::Timestamp, [stamps_at, 0, 0, 0, 0])];
    packets.extend(jobs.iter().cycle().take(JOBS));
    packets.push(of(Opcode::Timestamp, [stamps_at + 64, 0, 0, 0, 0]));
    let counter = |at: u64| -> Result<f64, String> {
        let mut word = [0; 8];
        stamps.memory().read(at + 8, &mut word).map_err(failed)?;
        Ok(u64::from_le_bytes(word) as f64 * 1e-6)
    };
    let (mut off, mut counted) = (Vec::new(), 0.0);
    for round in 0..=ROUNDS {
        let last = queue.submit(&packets).map_err(failed)?;
        let completions = queue.completions();
        completions.wait(last, Some(SOON)).map_err(failed)?;
        let mut sum = 0.0;
        for back in 1..=JOBS as u64 {
            let stats = completions.stats(Seq(last.0 - back)).map_err(failed)?;
            sum += stats.energy_nj as f64 * 1e-9;
        }
        counted = counter(64)? - counter(0)?;
        // The first one makes memory resident.
        if round > 0 {
            off.push((sum - counted).abs() / counted * 100.0);
        }
    }
    Ok((off, counted))
}
