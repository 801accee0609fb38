//! The figures of the host stack, each beside a peer measured in the same run.
//!
//! `tests/bench/run` builds what this needs and starts it. Arguments: words; a figure whose name
//! contains one of them is measured, without any all are.

use std::path::Path;
use std::process::ExitCode;

mod bench;
mod child;
mod copy;
mod cores;
mod decode;
mod emulator;
mod energy;
mod figure;
mod graph;
mod idle;
mod instructions;
mod launch;
mod llama;
mod matmul;
mod memory;
mod model;
mod nop;
mod opening;
mod ping_pong;
mod plugin;
mod rate;
mod readme;
mod register_read;
mod round_trip;
mod samples;
mod service;
mod table;
mod wake;

use bench::Bench;
use figure::{Figure, Report};

/// What measures: a name for what is going on, the figures it gives, and how.
type Room = (
    &'static str,
    &'static [figure::Plan],
    fn(&Bench) -> bench::Outcome,
);

const ROOMS: &[Room] = &[
    ("instructions", instructions::PLANS, instructions::measure),
    ("graphs", graph::PLANS, graph::measure),
    ("round trips", round_trip::PLANS, round_trip::measure),
    ("rate", rate::PLANS, rate::measure),
    ("copies", copy::PLANS, copy::measure),
    ("products", matmul::PLANS, matmul::measure),
    ("decoding", decode::PLANS, decode::measure),
    ("plug-in", plugin::PLANS, plugin::measure),
    ("energy", energy::PLANS, energy::measure),
    ("wake", wake::PLANS, wake::measure),
    ("idle", idle::PLANS, idle::measure),
    (
        "register read",
        register_read::PLANS,
        register_read::measure,
    ),
    ("memory", memory::PLANS, memory::measure),
    ("opening", opening::PLANS, opening::measure),
    ("service", service::PLANS, service::measure),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [word, rest @ ..] = words.as_slice()
        && word == register_read::ECHO
    {
        return register_read::echo(rest);
    }
    let bench = match Bench::new() {
        Ok(bench) => bench,
        Err(said) => {
            eprintln!("error: {said}");
            return ExitCode::FAILURE;
        }
    };
    if words == [readme::WORD] {
        return match readme::rewrite(&bench.out, Path::new("README.md")) {
            Ok(()) => ExitCode::SUCCESS,
            Err(said) => {
                eprintln!("error: {said}");
                ExitCode::FAILURE
            }
        };
    }
    let mut figures: Vec<Figure> = Vec::new();
    for (room, plans, measure) in ROOMS {
        let wanted = |plan: &figure::Plan| {
            words.is_empty() || words.iter().any(|word| plan.name.contains(word.as_str()))
        };
        if !plans.iter().any(wanted) {
            continue;
        }
        eprintln!("measuring: {room}");
        let measured = measure(&bench);
        figures.extend(plans.iter().filter(|plan| wanted(plan)).map(|plan| {
            let outcome = match &measured {
                Ok(list) => list
                    .iter()
                    .find(|(name, _)| *name == plan.name)
                    .map_or_else(
                        || Err("nothing was measured".into()),
                        |(_, value)| value.clone(),
                    ),
                Err(said) => Err(said.clone()),
            };
            Figure::new(plan, outcome)
        }));
    }
    let report = Report::new(&bench, figures);
    print!("{}", table::text(&report));
    if let Err(error) = report.save(&bench.out) {
        eprintln!("error: write {}: {error}", bench.out.display());
        return ExitCode::FAILURE;
    }
    println!("written to {}", bench.out.display());
    match report.unmeasured() {
        0 if !report.figures.is_empty() => ExitCode::SUCCESS,
        0 => {
            eprintln!("error: no figure is called so");
            ExitCode::FAILURE
        }
        count => {
            eprintln!("error: {count} figures have no measurement");
            ExitCode::FAILURE
        }
    }
}
