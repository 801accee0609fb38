//! The ggml tests: llama.cpp as Debian builds it decodes on the emulated card, through our plug-in.

mod archs;
mod broken;
mod card;
mod command;
mod decode;
mod endurance;
mod logits;
mod ops;
mod pinned;
mod plug_in;
mod reference;
mod report;
mod root;
mod splits;

use std::process::ExitCode;

use card::Card;
use pinned::Pinned;
use report::Report;
use root::{Missing, Root};

const HELP: &str = "\
usage: ggml-tests [GATE...] [OPERATION...]
gates: ops archs splits greedy quantised bench plug-in command faults long; without any, all of them
quick: all of them but the slow operations and most faults
operations, as ggml names them (MUL_MAT): of the gate ops, these alone
BLESS=1 writes tests/ggml/pinned anew";

const GATES: [&str; 11] = [
    "quick",
    "ops",
    "archs",
    "splits",
    "greedy",
    "quantised",
    "bench",
    "plug-in",
    "command",
    "faults",
    "long",
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let capital = |word: &String| word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let (operations, gates): (Vec<String>, Vec<String>) = words.into_iter().partition(capital);
    if let Some(word) = gates.iter().find(|gate| !GATES.contains(&gate.as_str())) {
        println!("{HELP}");
        return ExitCode::from(if word == "--help" { 0 } else { 2 });
    }
    let mut report = Report::default();
    match Root::prepare() {
        Ok(root) => {
            if let Err(why) = run(&root, &gates, &operations, &mut report) {
                report.case("run", Err(why));
            }
        }
        Err(Missing::Skipped(why)) => report.skip("llama.cpp on the card", &why),
        Err(Missing::Failed(why)) => report.case("preparation", Err(why)),
    }
    ExitCode::from(u8::from(!report.close()))
}

fn run(
    root: &Root,
    gates: &[String],
    operations: &[String],
    report: &mut Report,
) -> Result<(), String> {
    let bless = std::env::var_os("BLESS").is_some();
    let pinned = Pinned::read()?;
    let whole = gates.is_empty() && operations.is_empty();
    let mut found = Pinned::default();
    let named = |gate: &str| gates.iter().any(|name| name == gate);
    let quick = named("quick");
    let wanted = |gate: &str| {
        let all = gates.is_empty() && (operations.is_empty() || gate == "ops");
        named(gate) || all || quick
    };
    let fresh = || Card::start(&root.run, &[]).map_err(|why| why.to_string());
    if wanted("ops") {
        ops::run(
            root,
            &fresh()?,
            (operations, quick),
            &pinned,
            &mut found,
            report,
        );
    }
    if wanted("archs") {
        archs::run(root, &fresh()?, &pinned, &mut found, report);
    }
    if wanted("splits") {
        splits::run(root, &fresh()?, &pinned, &mut found, report);
    }
    if wanted("greedy") {
        let card = fresh()?;
        for kind in ["f32", "bf16"] {
            let name = format!("1,000 greedy tokens of the trained model in {kind} are the CPU's");
            report.case(&name, decode::greedy(root, &card, kind));
        }
    }
    if wanted("quantised") {
        let card = fresh()?;
        for kind in decode::TYPES {
            let name = format!("weights in {kind} give what the same weights in f32 give");
            report.case(&name, decode::quantised(root, &card, kind));
        }
    }
    if wanted("bench") {
        report.case("llama-bench on the card", endurance::bench(root, &fresh()?));
    }
    if wanted("plug-in") {
        report.case("the plug-in computes nothing", plug_in::no_arithmetic(root));
        report.case("its ranges of spoiled memory", plug_in::spoiled(root));
        let name = "another version of ggml is refused";
        report.case(name, plug_in::other_version(root, &fresh()?));
    }
    if wanted("command") {
        let name = "the command of integrations/ggml/README.md";
        report.case(name, command::run(root, &fresh()?));
    }
    if wanted("faults") {
        broken::run(root, quick, report);
    }
    if wanted("long") {
        let name = "10,000 tokens with context shift in steady memory";
        report.case(name, endurance::long(root, &fresh()?));
    }
    if bless {
        // What a run did not look at keeps its number.
        let mut all = if whole {
            Pinned::default()
        } else {
            Pinned::read()?
        };
        all.0.extend(found.0);
        all.bless()?;
    }
    Ok(())
}
