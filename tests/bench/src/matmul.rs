//! MUL_MAT by LAUNCH packets, beside OpenBLAS's sgemm of the same shapes with as many threads: one.

use std::time::{Duration, Instant};

use crate::bench::{Bench, Outcome};
use crate::child::Peer;
use crate::cores::Cores;
use crate::emulator::Emulator;
use crate::figure::{Goal, Measured, Plan};
use crate::launch::MulMat;
use crate::nop::Open;

const ONE: &str = "MUL_MAT f32 4096 x 4096, 1 column";
const EIGHT: &str = "MUL_MAT f32 4096 x 4096, 8 columns";
const MANY: &str = "MUL_MAT f32 4096 x 4096, 512 columns";

const fn plan(name: &'static str) -> Plan {
    Plan {
        name,
        unit: "GFLOP/s",
        peer: Some("OpenBLAS sgemm"),
        goal: Goal::RatioAtLeast(0.9),
    }
}

/// What is measured here.
pub const PLANS: &[Plan] = &[plan(ONE), plan(EIGHT), plan(MANY)];

/// Rows of weights, and products of a sum: 64 MiB, more than a cache holds.
const SIDE: usize = 4096;
const SAMPLES: usize = 9;
const SOON: Duration = Duration::from_secs(20);
/// By then the engine looks seldom: its frequent looks would take time from the peer.
const REST: Duration = Duration::from_millis(110);

/// Measures it: card and peer on the device's core, one thread each.
pub fn measure(bench: &Bench) -> Outcome {
    let arguments = ["--hbm", "1G", "--resident-limit", "1G", "--threads", "1"];
    let emulator = Emulator::start_with(bench, bench.cores.device()?, &arguments)?;
    Cores::pin(bench.cores.client)?;
    // Columns, and products of a sample.
    let shapes = [(ONE, 1, 8), (EIGHT, 8, 4), (MANY, 512, 1)];
    let figures = shapes.map(|(name, n, products)| (name, beside(bench, &emulator, n, products)));
    bench.cores.unpin()?;
    Ok(figures.into())
}

fn beside(
    bench: &Bench,
    emulator: &Emulator,
    n: usize,
    products: usize,
) -> Result<Measured, String> {
    let mut open = Open::new(&emulator.name(), 1)?;
    let product = MulMat::new(&open.session, [SIDE, n, SIDE])?;
    let [side, columns, times] = [SIDE, n, products].map(|number| number.to_string());
    let program = bench.program("sgemm")?;
    let core = bench.cores.device()?;
    let mut peer = Peer::start_with(bench, &program, core, &[&side, &columns, &side, &times])?;
    let mut pairs = Vec::with_capacity(SAMPLES);
    for sample in 0..=SAMPLES {
        let ours = product_rate(&mut open, &product, products)?;
        std::thread::sleep(REST);
        let theirs = peer.sample()?;
        if sample > 0 {
            pairs.push((ours, theirs));
        }
    }
    product.check(&open.session)?;
    Ok(Measured::beside(&pairs).noted("one thread each, on one core in turn".into()))
}

/// Sleeps meanwhile: whoever polls takes the card's time where two cores share a unit.
fn product_rate(open: &mut Open, product: &MulMat, times: usize) -> Result<f64, String> {
    let failed = |error: jalapeno::Error| format!("multiply: {error}");
    let packets = vec![product.packet(); times];
    let begin = Instant::now();
    let queue = open.queue()?;
    let seq = queue.submit(&packets).map_err(failed)?;
    queue.completions().wait(seq, Some(SOON)).map_err(failed)?;
    let each = begin.elapsed().as_secs_f64() / times as f64;
    Ok(product.operations() / each / 1e9)
}
