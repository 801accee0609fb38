//! A token as a recorded graph: what it costs the host, with few layers and with many.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use crate::bench::{Bench, Outcome};
use crate::cores::Cores;
use crate::emulator::Emulator;
use crate::figure::{Goal, Measured, Plan};
use crate::instructions::{counted_run, run};

const FEW: &str = "C, a token as a graph, 2 layers";
const MANY: &str = "C, a token as a graph, 32 layers";

const fn plan(name: &'static str) -> Plan {
    Plan {
        name,
        unit: "instructions",
        peer: None,
        goal: Goal::AtMost(2000.0),
    }
}

/// What is measured here.
pub const PLANS: &[Plan] = &[plan(FEW), plan(MANY)];

/// Measures it on the emulator.
pub fn measure(bench: &Bench) -> Outcome {
    let emulator = Emulator::start(bench, bench.cores.device()?)?;
    Cores::pin(bench.cores.client)?;
    let figures = [(FEW, "2"), (MANY, "32")]
        .map(|(name, layers)| (name, token(bench, layers, &emulator.name())));
    bench.cores.unpin()?;
    Ok(figures.into())
}

/// Doorbells a token, as a card counts them that is sent each as a message.
fn doorbells(bench: &Bench, layers: &str) -> Result<f64, String> {
    let arguments = ["--hbm", "1G", "--doorbells-by-message"];
    let mut emulator = Emulator::start_with(bench, bench.cores.device()?, &arguments)?;
    let program = bench.program("graph")?;
    let failed = |error: std::io::Error| format!("{}: {error}", program.display());
    let mut child = Command::new(&program)
        .args([layers, "doorbells", &emulator.name()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut counted = || {
        let counted = emulator.counted()?;
        let count = counted["doorbells"].as_f64();
        count.ok_or_else(|| format!("the emulator counted {counted}"))
    };
    let mut talk = || -> Result<f64, String> {
        let to = child.stdin.as_mut().ok_or("the program has no input")?;
        let from = child.stdout.as_mut().ok_or("the program has no output")?;
        let mut from = BufReader::new(from);
        let mut line = String::new();
        from.read_line(&mut line).map_err(failed)?;
        let before = counted()?;
        to.write_all(b"\n").map_err(failed)?;
        line.clear();
        from.read_line(&mut line).map_err(failed)?;
        let rung = counted()? - before;
        to.write_all(b"\n").map_err(failed)?;
        let tokens = line.split_whitespace().next();
        let tokens: f64 = tokens
            .and_then(|word| word.parse().ok())
            .ok_or_else(|| format!("the program said {line:?}"))?;
        Ok(rung / tokens)
    };
    let rung = talk();
    // It has nothing more to say, or something went wrong that was said already.
    let _ = child.kill();
    let _ = child.wait();
    rung
}

/// Replay and wait, the wait finding the token done; packets and system calls are counted apart.
fn token(bench: &Bench, layers: &str, device: &str) -> Result<Measured, String> {
    let program = bench.program("graph")?;
    let counted = ["jal_graph_replay", "jal_wait"];
    let (ours, nanos) = counted_run(bench, &program, &[layers, "count", device], &counted)?;
    let said = run(Command::new(&program).args([layers, "calls", device]))?;
    let numbers: Vec<f64> = said
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [tokens, packets, calls] = *numbers else {
        return Err(format!("the program said {said:?}"));
    };
    if tokens != packets || calls != 0.0 {
        return Err(format!(
            "{tokens} tokens took {packets} packets and {calls} system calls"
        ));
    }
    let rung = doorbells(bench, layers)?;
    if rung != 1.0 {
        return Err(format!("{rung} doorbells a token"));
    }
    Ok(Measured::alone(vec![ours]).noted(format!(
        "replay and wait, {nanos:.0} ns; polled: 1 packet, 1 doorbell, 0 system calls"
    )))
}
