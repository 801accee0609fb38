//! Allocating, mapping and unmapping host memory, beside populating as much.

use std::time::Instant;

use jalapeno::HostOptions;
use memmap2::{Advice, MmapOptions};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::bench::{Bench, Outcome, failed};
use crate::cores::Cores;
use crate::emulator::Emulator;
use crate::figure::{Goal, Measured, Plan};
use crate::nop::Open;

const NAME: &str = "allocate, map, unmap 1 GiB";

/// What is measured here.
pub const PLANS: &[Plan] = &[Plan {
    name: NAME,
    unit: "ms",
    peer: Some("populate a memfd"),
    goal: Goal::RatioAtMost(1.15),
}];

const BYTES: usize = 1 << 30;
const SAMPLES: usize = 7;

/// Measures it.
pub fn measure(bench: &Bench) -> Outcome {
    let emulator = Emulator::start(bench, bench.cores.device()?)?;
    Cores::pin(bench.cores.client)?;
    let open = Open::new(&emulator.name(), 0)?;
    let mut pairs = Vec::with_capacity(SAMPLES);
    for sample in 0..=SAMPLES {
        let pair = (ours(&open)?, populate()?);
        if sample > 0 {
            pairs.push(pair);
        }
    }
    drop(open);
    bench.cores.unpin()?;
    Ok(vec![(NAME, Ok(Measured::beside(&pairs)))])
}

fn ours(open: &Open) -> Result<f64, String> {
    let begin = Instant::now();
    let memory = open
        .session
        .host_memory(BYTES as u64, HostOptions::default());
    drop(memory.map_err(|error| failed("allocate 1 GiB")(&error))?);
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}

/// The same memory without a device: made, populated, let go.
fn populate() -> Result<f64, String> {
    let begin = Instant::now();
    let file = memfd_create(c"bench", MFdFlags::MFD_CLOEXEC)
        .map_err(|error| failed("make a memfd")(&error))?;
    let file = std::fs::File::from(file);
    let map = file
        .set_len(BYTES as u64)
        .and_then(|()| MmapOptions::new().len(BYTES).map_raw(&file))
        .and_then(|map| map.advise(Advice::PopulateWrite).map(|()| map))
        .map_err(|error| failed("populate 1 GiB")(&error))?;
    drop(map);
    drop(file);
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}
