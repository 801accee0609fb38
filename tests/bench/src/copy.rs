//! COPY of 64 MiB to the device and back, beside memcpy.

use std::time::{Duration, Instant};

use jalapeno::HostOptions;
use jalapeno::hw::packets::Opcode;
use memmap2::MmapOptions;

use crate::bench::{Bench, Outcome};
use crate::cores::Cores;
use crate::emulator::Emulator;
use crate::figure::{Goal, Measured, Plan};
use crate::nop::{Open, of};

const OUT: &str = "COPY host to device, 64 MiB";
const BACK: &str = "COPY device to host, 64 MiB";
const PEER: Option<&str> = Some("memcpy");
const GOAL: Goal = Goal::RatioAtLeast(0.9);

/// What is measured here.
pub const PLANS: &[Plan] = &[
    Plan {
        name: OUT,
        unit: "GB/s",
        peer: PEER,
        goal: GOAL,
    },
    Plan {
        name: BACK,
        unit: "GB/s",
        peer: PEER,
        goal: GOAL,
    },
];

const BYTES: usize = 64 << 20;
const SAMPLES: usize = 21;
/// After this the engine sleeps for long.
const REST: Duration = Duration::from_millis(110);
const SOON: Duration = Duration::from_secs(20);

/// Measures it: memcpy runs on the client's core, where nothing else runs.
pub fn measure(bench: &Bench) -> Outcome {
    let emulator = Emulator::start(bench, bench.cores.device()?)?;
    Cores::pin(bench.cores.client)?;
    let mut open = Open::new(&emulator.name(), 1)?;
    let failed = |error: jalapeno::Error| format!("allocate {BYTES} bytes: {error}");
    let options = HostOptions::default();
    let host = open.session.host_memory(BYTES as u64, options);
    let host = host.map_err(failed)?;
    let card = open.session.device_memory(BYTES as u64).map_err(failed)?;
    let (host_at, card_at) = (host.address().0, card.address().0);

    let populated = || {
        let mut map = MmapOptions::new().len(BYTES).map_anon()?;
        map.fill(1);
        Ok(map)
    };
    let failed = |error: std::io::Error| format!("allocate {BYTES} bytes: {error}");
    let from = populated().map_err(failed)?;
    let mut to = populated().map_err(failed)?;

    let mut marker = [7u8; 16];
    let check = |error: jalapeno::Error| format!("check what was copied: {error}");
    let middle = BYTES as u64 / 2;
    host.memory().write(middle, &marker).map_err(check)?;
    let (mut out, mut back) = (Vec::new(), Vec::new());
    for sample in 0..=SAMPLES {
        let there = copy(&mut open, host_at, card_at)?;
        // Only what comes home from the device can bring the marker back.
        host.memory().write(middle, &[0; 16]).map_err(check)?;
        // By then the engine looks seldom: its frequent looks would take time from memcpy.
        std::thread::sleep(REST);
        let begin = Instant::now();
        to.copy_from_slice(&from);
        let peer = rate(begin);
        std::hint::black_box(&to);
        let home = copy(&mut open, card_at, host_at)?;
        // The first one populates the device's memory.
        if sample > 0 {
            out.push((there, peer));
            back.push((home, peer));
        }
    }
    host.memory().read(middle, &mut marker).map_err(check)?;
    bench.cores.unpin()?;
    if marker != [7; 16] {
        return Err("what came home is not what was sent".into());
    }
    let figures = [(OUT, out), (BACK, back)];
    let figures = figures.map(|(name, pairs)| (name, Ok(Measured::beside(&pairs))));
    Ok(figures.into())
}

fn copy(open: &mut Open, from: u64, to: u64) -> Result<f64, String> {
    let failed = |error: jalapeno::Error| format!("copy {BYTES} bytes: {error}");
    let queue = open.queue()?;
    // A card that rested looks at its doorbells each 1.75 ms, half as long as the copy takes.
    let awake = queue.submit_one(&of(Opcode::Nop, [0; 5])).map_err(failed)?;
    let done = queue.completions().wait(awake, Some(SOON));
    done.map_err(failed)?;
    let packet = of(Opcode::Copy, [from, to, BYTES as u64, 0, 0]);
    let begin = Instant::now();
    let seq = queue.submit_one(&packet).map_err(failed)?;
    // Sleeps: whoever polls takes the copier's time where two cores share an execution unit.
    queue.completions().wait(seq, Some(SOON)).map_err(failed)?;
    Ok(rate(begin))
}

fn rate(begin: Instant) -> f64 {
    BYTES as f64 / begin.elapsed().as_secs_f64() / 1e9
}
