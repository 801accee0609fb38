//! From nothing to a first completion, and a whole `jalctl list`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::bench::{Bench, Outcome, failed};
use crate::emulator::Emulator;
use crate::figure::{Goal, Measured, Plan};
use crate::nop::{Open, packet, round_trip};

const OPEN: &str = "open to first completion";
const LIST: &str = "jalctl list, whole process";

/// What is measured here.
pub const PLANS: &[Plan] = &[
    Plan {
        name: OPEN,
        unit: "ms",
        peer: None,
        goal: Goal::AtMost(20.0),
    },
    Plan {
        name: LIST,
        unit: "ms",
        peer: Some("true"),
        goal: Goal::AtMost(5.0),
    },
];

const SAMPLES: usize = 31;

/// Measures it, on whichever cores the kernel chooses.
pub fn measure(bench: &Bench) -> Outcome {
    let emulator = Emulator::start(bench, bench.cores.device()?)?;
    Ok(vec![
        (OPEN, open(&emulator)),
        (LIST, list(bench, &emulator)),
    ])
}

/// Device, session, queue, one NOP.
fn open(emulator: &Emulator) -> Result<Measured, String> {
    let mut samples = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let begin = Instant::now();
        let mut open = Open::new(&emulator.name(), 1)?;
        round_trip(open.queue()?, &packet())?;
        samples.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Measured::alone(samples))
}

fn list(bench: &Bench, emulator: &Emulator) -> Result<Measured, String> {
    let jalctl = bench.program("jalctl")?;
    let devices = emulator.name();
    let mut pairs = Vec::with_capacity(SAMPLES);
    for sample in 0..=SAMPLES {
        let ours = process(&jalctl, &["list"], &devices)?;
        let pair = (ours, process(Path::new("/bin/true"), &[], &devices)?);
        if sample > 0 {
            pairs.push(pair);
        }
    }
    Ok(Measured::beside(&pairs))
}

/// Milliseconds from starting a program to its end.
fn process(program: &Path, arguments: &[&str], devices: &str) -> Result<f64, String> {
    let tried = format!("{} {}", program.display(), arguments.join(" "));
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("JALAPENO_DEVICES", devices)
        .env_remove("JALAPENO_VISIBLE_DEVICES")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let begin = Instant::now();
    let status = command.status().map_err(|error| failed(&tried)(&error))?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    if !status.success() {
        return Err(format!("{tried}: {status}"));
    }
    Ok(took)
}
