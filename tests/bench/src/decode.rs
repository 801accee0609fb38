//! Decoding by llama.cpp on the emulated card, beside its own CPU backend: one thread each.

use crate::bench::{Bench, Outcome};
use crate::emulator::Emulator;
use crate::figure::{Goal, Measured, Plan};
use crate::llama::Llama;
use crate::model;

const F32: &str = "decode, llama.cpp, 395 M weights, f32";
const Q8: &str = "decode, llama.cpp, 395 M weights, q8_0";
const Q4: &str = "decode, llama.cpp, 395 M weights, q4_K";
const SMALL: &str = "decode, llama.cpp, the demo's model";

const fn plan(name: &'static str, goal: Goal) -> Plan {
    Plan {
        name,
        unit: "tokens/s",
        peer: Some("llama.cpp's CPU backend"),
        goal,
    }
}

/// What is measured here.
pub const PLANS: &[Plan] = &[
    plan(F32, Goal::RatioAtLeast(0.8)),
    plan(Q8, Goal::RatioAtLeast(0.6)),
    plan(Q4, Goal::RatioAtLeast(0.3)),
    plan(SMALL, Goal::Shown),
];

/// Runs of each in turn, and rates that each tells.
const TURNS: u32 = 3;
const TIMES: u32 = 2;
/// A thread that did less than this part of the work did none of it.
const SLIGHT: f64 = 0.1;

/// Measures it: card and CPU backend on the device's core, the card's client on the other.
pub fn measure(bench: &Bench) -> Outcome {
    let llama = Llama::prepare(bench)?;
    let large = |name, kind| {
        let rates = model::with(bench, &llama, kind);
        let rates = rates.and_then(|path| beside(bench, &llama, &path.display().to_string(), 12));
        (name, rates)
    };
    let mut figures = vec![large(F32, "f32"), large(Q8, "q8_0"), large(Q4, "q4_K")];
    let demo = std::path::absolute("libjalapeno/examples/model/kjv.gguf");
    let demo = demo.map_err(|error| format!("find the demo's model: {error}"))?;
    figures.push((
        SMALL,
        beside(bench, &llama, &demo.display().to_string(), 200),
    ));
    Ok(figures)
}

fn beside(bench: &Bench, llama: &Llama, model: &str, tokens: u32) -> Result<Measured, String> {
    let arguments = ["--hbm", "4G", "--resident-limit", "4G", "--threads", "1"];
    let core = bench.cores.device()?;
    let card = Emulator::start_in(bench, core, &arguments, &llama.cache)?;
    let wanted = (model, tokens, TIMES);
    let mut pairs = Vec::new();
    let before = card.threads()?;
    for _ in 0..TURNS {
        let ours = llama.decode(bench, bench.cores.client, Some(&card), wanted)?;
        let theirs = llama.decode(bench, core, None, wanted)?;
        pairs.extend(ours.into_iter().zip(theirs));
    }
    let spent = |(thread, nanos): &(String, u64)| {
        let earlier = before.iter().find(|(name, _)| name == thread);
        nanos.saturating_sub(earlier.map_or(0, |(_, nanos)| *nanos)) as f64
    };
    let spent: Vec<f64> = card.threads()?.iter().map(spent).collect();
    let all: f64 = spent.iter().sum();
    let workers = spent.iter().filter(|nanos| **nanos > SLIGHT * all).count();
    if workers != 1 {
        return Err(format!(
            "{workers} threads of the card worked, not one: {spent:?}"
        ));
    }
    let note = "the card's threads that worked: 1; the peer: -t 1, on the same core";
    Ok(Measured::beside(&pairs).noted(note.into()))
}
