//! A token as a recorded graph: what it costs the host, with few layers and with many.

use std::process::Command;

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
    Ok(Measured::alone(vec![ours]).noted(format!(
        "replay and wait, {nanos:.0} ns; polled: 1 packet, 1 doorbell, 0 system calls"
    )))
}
