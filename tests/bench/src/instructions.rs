//! Instructions a command inside the library's calls, counted by callgrind.

use std::process::Command;

use crate::bench::{Bench, Outcome, failed};
use crate::cores::Cores;
use crate::emulator::Emulator;
use crate::figure::{Goal, Measured, Plan};

const ONE: &str = "Rust, NOP by sequence, batch 1";
const MANY: &str = "Rust, NOP by sequence, batch 32";
const EACH: &str = "Rust, NOP each delivered, batch 32";
const C_ONE: &str = "C, one-shot calls, batch 1";
const C_MANY: &str = "C, batch calls, batch 32";

const fn plan(name: &'static str, peer: Option<&'static str>, most: f64) -> Plan {
    Plan {
        name,
        unit: "instructions",
        peer,
        goal: Goal::AtMost(most),
    }
}

/// What is measured here.
pub const PLANS: &[Plan] = &[
    plan(ONE, URING, 60.0),
    plan(MANY, URING, 30.0),
    plan(EACH, URING, 38.0),
    plan(C_ONE, URING, 100.0),
    plan(C_MANY, URING, 40.0),
];
const URING: Option<&str> = Some("liburing NOP, its kernel side not counted");

/// Measures it: Rust on a device that is played in memory, C on the emulator.
pub fn measure(bench: &Bench) -> Outcome {
    let uring = |batch| uring(bench, batch);
    let (one, many) = (uring(1), uring(32));
    let mut figures = vec![
        (C_ONE, abi(bench, "one").and_then(|ours| beside(ours, &one))),
        (
            C_MANY,
            abi(bench, "batch").and_then(|ours| beside(ours, &many)),
        ),
    ];
    match rust() {
        Ok(lines) => {
            let rows = [
                (ONE, "sequence-1", &one),
                (MANY, "sequence-32", &many),
                (EACH, "each-32", &many),
            ];
            for (name, shape, peer) in rows {
                let line = lines.iter().find(|(found, _)| found == shape);
                let ours = line.map(|(_, ours)| *ours);
                let ours = ours.ok_or_else(|| format!("tests/bench/commands gave no {shape}"));
                figures.push((name, ours.and_then(|ours| beside(ours, peer))));
            }
        }
        Err(said) => {
            figures.extend([ONE, MANY, EACH].map(|name| (name, Err(said.clone()))));
        }
    }
    Ok(figures)
}

/// Instructions and nanoseconds a command.
type Cost = (f64, f64);

fn beside(ours: Cost, peer: &Result<Cost, String>) -> Result<Measured, String> {
    let peer = peer.clone()?;
    let note = format!(
        "{:.1} ns a command; the peer with its kernel side {:.1} ns",
        ours.1, peer.1
    );
    Ok(Measured::beside(&[(ours.0, peer.0)]).noted(note))
}

/// The library's own measurement: caller's loop and device are left out.
fn rust() -> Result<Vec<(String, Cost)>, String> {
    let out = run(&mut Command::new("tests/bench/commands"))?;
    let line = |line: &str| -> Option<(String, Cost)> {
        let mut words = line.split_whitespace();
        let shape = words.next()?.to_owned();
        Some((
            shape,
            (words.next()?.parse().ok()?, words.next()?.parse().ok()?),
        ))
    };
    Ok(out.lines().filter_map(line).collect())
}

/// A C program on the emulator.
fn abi(bench: &Bench, shape: &str) -> Result<Cost, String> {
    let program = bench.program("abi")?;
    let emulator = Emulator::start(bench, bench.cores.device()?)?;
    Cores::pin(bench.cores.client)?;
    let counted = match shape {
        "one" => ["jal_submit_one", "jal_poll"],
        _ => ["jal_submit", "jal_reap"],
    };
    let name = emulator.name();
    let cost = counted_run(bench, &program, &[shape, &name], &counted);
    bench.cores.unpin()?;
    cost
}

fn uring(bench: &Bench, batch: u32) -> Result<Cost, String> {
    let program = bench.program("uring_nop")?;
    let batch = batch.to_string();
    counted_run(
        bench,
        &program,
        &[&batch],
        &["counted_submit", "counted_reap"],
    )
}

/// Runs a program twice: under callgrind for instructions, bare for nanoseconds. Its last line is
/// "COMMANDS NANOSECONDS".
pub fn counted_run(
    bench: &Bench,
    program: &std::path::Path,
    arguments: &[&str],
    counted: &[&str],
) -> Result<Cost, String> {
    let out = bench.programs.join("callgrind.out");
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "-q"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(arguments);
    let (commands, _) = last_line(&run(&mut command)?)?;
    // What each of them did with all that it called. (Collecting only inside them is not to be
    // trusted: a first call by way of the dynamic linker turns inside and outside round.)
    let mut annotate = Command::new("callgrind_annotate");
    annotate
        .args(["--inclusive=yes", "--threshold=100", "--auto=no"])
        .arg(&out);
    let text = run(&mut annotate)?;
    let mut total = 0.0;
    for name in counted {
        total += inclusive(&text, name).ok_or_else(|| format!("callgrind saw no {name}"))?;
    }
    let (bare, nanos) = last_line(&run(Command::new(program).args(arguments))?)?;
    Ok((total / commands, nanos / bare))
}

/// A function's instructions: `57,594 ( 6.46%)  file:name [object]`.
fn inclusive(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| {
        let (count, rest) = line.trim().split_once(" (")?;
        let function = rest.split_once(")  ")?.1.split(" [").next()?;
        let (_, function) = function.rsplit_once(':')?;
        (function == name).then(|| count.replace(',', "").parse().ok())?
    })
}

fn last_line(text: &str) -> Result<(f64, f64), String> {
    let words = text.lines().last().unwrap_or_default().split_whitespace();
    let numbers: Vec<f64> = words.filter_map(|word| word.parse().ok()).collect();
    match *numbers {
        [commands, nanos] if commands > 0.0 => Ok((commands, nanos)),
        _ => Err(format!("the program said {text:?}")),
    }
}

/// Runs a program; what it printed.
pub fn run(command: &mut Command) -> Result<String, String> {
    let tried = command.get_program().to_string_lossy().into_owned();
    let out = command.output().map_err(|error| failed(&tried)(&error))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        let last = said.lines().last().unwrap_or_default();
        return Err(format!("{tried}: {}: {last}", out.status));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_functions_own_line_is_found_and_not_one_of_a_longer_name() {
        let text = "80,284 ( 9.00%)  ???:jal_submit_one [/lib/libjalapeno.so.0]\n\
                    38,000 (100.0%)  peers/a.c:jal_submit [/bin/abi]\n";
        assert_eq!(inclusive(text, "jal_submit"), Some(38_000.0));
        assert_eq!(inclusive(text, "jal_submit_one"), Some(80_284.0));
        assert_eq!(inclusive(text, "jal_poll"), None);
    }
}
