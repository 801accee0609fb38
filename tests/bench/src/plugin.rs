//! The ggml plug-in: instructions of its own and libjalapeno's functions in Debian's llama-bench.

use std::process::Command;

use crate::bench::{Bench, Outcome};
use crate::emulator::Emulator;
use crate::figure::{Goal, Measured, Plan};
use crate::instructions::run;
use crate::llama::Llama;

const NEW: &str = "plug-in, a node of a new graph";
const REUSED: &str = "plug-in, a token with its graph reused";
const DOORBELLS: &str = "plug-in, doorbells a token";

const fn plan(name: &'static str, unit: &'static str, goal: Goal) -> Plan {
    Plan {
        name,
        unit,
        peer: None,
        goal,
    }
}

/// What is measured here.
pub const PLANS: &[Plan] = &[
    plan(NEW, "instructions", Goal::AtMost(60.0)),
    plan(REUSED, "instructions", Goal::AtMost(5000.0)),
    plan(DOORBELLS, "doorbells", Goal::Shown),
];

/// Tokens of a short and of a long run: what lies between is decoding alone.
const TOKENS: [u32; 2] = [20, 120];
const OBJECTS: [&str; 2] = ["/libggml-jalapeno.so", "/libjalapeno.so"];

const CARD: [&str; 2] = ["--hbm", "1G"];

/// Measures it with the demo's model on an emulator.
pub fn measure(bench: &Bench) -> Outcome {
    let llama = Llama::prepare(bench)?;
    let valgrind = llama.valgrind()?;
    let core = bench.cores.device()?;
    let emulator = Emulator::start_in(bench, core, &CARD, &llama.cache)?;
    let token = |setting| token(bench, &llama, &valgrind, &emulator, setting);
    let reused = token(None);
    let new = token(Some("LLAMA_GRAPH_REUSE_DISABLE=1"));
    let new = new.map(|(token, nodes)| {
        let note = format!("{nodes} nodes, {token:.0} instructions a token, waits included");
        Measured::alone(vec![token / nodes]).noted(note)
    });
    let reused = reused.map(|(token, nodes)| {
        Measured::alone(vec![token]).noted(format!("{nodes} nodes, waits included"))
    });
    Ok(vec![
        (NEW, new),
        (REUSED, reused),
        (DOORBELLS, doorbells(bench, &llama)),
    ])
}

fn words(model: &str, tokens: u32) -> Vec<String> {
    let words = format!("llama-bench -v -m {model} -p 0 -t 1 -dev JAL0 -ngl 99 -r 1 -n {tokens}");
    words.split(' ').map(String::from).collect()
}

fn demo() -> Result<String, String> {
    let path = std::path::absolute("libjalapeno/examples/model/kjv.gguf");
    let path = path.map_err(|error| format!("find the demo's model: {error}"))?;
    Ok(path.display().to_string())
}

/// Instructions a token, and nodes of a graph.
fn token(
    bench: &Bench,
    llama: &Llama,
    valgrind: &[String],
    emulator: &Emulator,
    setting: Option<&str>,
) -> Result<(f64, f64), String> {
    let model = demo()?;
    let out = llama.cache.join("callgrind.out");
    let mut counted = [0.0; 2];
    let mut nodes = 0.0;
    for (counted, tokens) in counted.iter_mut().zip(TOKENS) {
        let mut all = vec![String::from("env")];
        all.extend(setting.map(String::from));
        all.extend(valgrind.iter().cloned());
        all.push("--tool=callgrind".into());
        all.push(format!("--callgrind-out-file={}", out.display()));
        all.extend(words(&model, tokens));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let said = llama.run(bench, bench.cores.client, Some(emulator), &all)?;
        nodes = nodes_of(&said.err).ok_or("llama.cpp did not tell the nodes of a graph")?;
        let mut annotate = Command::new("callgrind_annotate");
        annotate.args(["--threshold=100", "--auto=no"]).arg(&out);
        *counted = exclusive(&run(&mut annotate)?)?;
    }
    Ok((
        (counted[1] - counted[0]) / f64::from(TOKENS[1] - TOKENS[0]),
        nodes,
    ))
}

/// The line `...: graph: nodes = 195, splits = 2, ...`.
fn nodes_of(said: &str) -> Option<f64> {
    let (_, rest) = said.split_once("graph: nodes = ")?;
    rest.split([',', '\n']).next()?.trim().parse().ok()
}

/// Instructions of the functions of both objects: `57,594 ( 6.46%)  file:name [object]`.
fn exclusive(text: &str) -> Result<f64, String> {
    let mut found = [0.0; 2];
    for line in text.lines() {
        let Some((count, rest)) = line.trim().split_once(" (") else {
            continue;
        };
        let Some(object) = OBJECTS.iter().position(|object| rest.contains(object)) else {
            continue;
        };
        found[object] += count.replace(',', "").parse().unwrap_or(0.0);
    }
    if found.contains(&0.0) {
        return Err(format!(
            "callgrind saw nothing of one of {OBJECTS:?}: {found:?}"
        ));
    }
    Ok(found.iter().sum())
}

/// Doorbells a token with its graph reused, as a card counts them that is sent each as a message.
fn doorbells(bench: &Bench, llama: &Llama) -> Result<Measured, String> {
    let arguments = [&CARD[..], &["--doorbells-by-message"]].concat();
    let core = bench.cores.device()?;
    let mut emulator = Emulator::start_in(bench, core, &arguments, &llama.cache)?;
    let mut rung = [0.0; 2];
    for (rung, tokens) in rung.iter_mut().zip(TOKENS) {
        let before = rings(&mut emulator)?;
        let all = words(&demo()?, tokens);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        llama.run(bench, bench.cores.client, Some(&emulator), &all)?;
        *rung = rings(&mut emulator)? - before;
    }
    let each = (rung[1] - rung[0]) / f64::from(TOKENS[1] - TOKENS[0]);
    Ok(Measured::alone(vec![each]).noted("counted by the emulator".into()))
}

fn rings(emulator: &mut Emulator) -> Result<f64, String> {
    let counted = emulator.counted()?;
    let count = counted["doorbells"].as_f64();
    count.ok_or_else(|| format!("the emulator counted {counted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_objects_are_counted_and_both_must_be_there() {
        let text = "80 ( 9.00%)  ???:compute [/b/libggml-jalapeno.so]\n\
                    1,000 (100.0%)  ???:ggml_graph [/b/libggml-base.so.0]\n\
                    20 ( 9.00%)  ???:jal_submit [/b/libjalapeno.so.0.1.0]\n";
        assert_eq!(exclusive(text), Ok(100.0));
        assert!(exclusive("80 ( 9.00%)  ???:compute [/b/libggml-jalapeno.so]\n").is_err());
    }

    #[test]
    fn nodes_are_read_from_llamas_own_line() {
        let said = "max_nodes = 1024\nsched_reserve: graph: nodes = 195, splits = 2, inputs\n";
        assert_eq!(nodes_of(said), Some(195.0));
        assert_eq!(nodes_of("nothing"), None);
    }
}
