//! `jalctl doctor`: what keeps this host from using its cards, and the command that mends each.
//!
//! Reads files only. It opens no card, so it wakes, resets and blocks none, and works for any user,
//! with no card at all, and beside a running owner.

use std::path::PathBuf;

use clap::Args;
use jalapeno::host::Host;
use jalapeno::pci::{Root, is_address};
use schemars::JsonSchema;
use serde::Serialize;

use crate::command::Form;
use crate::devices::Outcome;
use crate::exit::{Exit, Problem, clean};
use crate::output::{self, Report};

mod check;
pub(super) mod machine;
mod remedy;
mod slot;

use check::{Check, Verdict};

/// What a session pins for itself and its transfers, with room for a program's first buffers.
const PIN_LEAST: &str = "64M";

/// Says what keeps this host from using its cards, and prints the command that mends each.
///
/// Opens no card. Exit code 0: nothing is wrong; 6: it works and could be better; 7: it does not work.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A card, by PCI address, or by UUID where the kernel module tells it; may be given several
    /// times. Default: all there are
    #[arg(short, long = "device", value_name = "DEVICE")]
    devices: Vec<String>,
    /// How much host memory programs are to pin, such as 8G
    #[arg(long, value_name = "SIZE", value_parser = output::size, default_value = PIN_LEAST)]
    pin: u64,
    /// Look at the machine whose files (sys, proc, dev, etc, lib) are below this folder
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
}

/// What was found on the host, or about one card.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Diagnosis {
    /// The worst of the checks.
    verdict: Verdict,
    checks: Vec<Check>,
}

impl Report for Diagnosis {
    const KEY: &'static str = "doctor";
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Exit, Problem> {
    if arguments.form.schema {
        return output::schema::<Diagnosis>().map(|()| Exit::Ok);
    }
    let root = match &arguments.root {
        None => Root::default(),
        Some(path) if path.is_dir() => Root::at(path),
        Some(path) => {
            return Err(Problem::usage(
                format!("{} is no folder", path.display()),
                "--root takes a folder with sys, proc, dev and etc in it",
            ));
        }
    };
    let host = Host::look(&root);
    let mut cards = host.cards();
    for name in &arguments.devices {
        if is_address(name) && !cards.iter().any(|card| card.function.address == *name) {
            let function = root.function(name);
            if function.is_there() {
                cards.push(host.card(function));
            }
        }
    }
    let names = |name: &String, card: &jalapeno::host::Card| {
        card.function.address == *name
            || card
                .uuid
                .as_ref()
                .is_some_and(|uuid| uuid.eq_ignore_ascii_case(name))
    };
    for name in &arguments.devices {
        if !cards.iter().any(|card| names(name, card)) {
            return Err(absent(name));
        }
    }
    let number = cards.len();
    if !arguments.devices.is_empty() {
        cards.retain(|card| arguments.devices.iter().any(|name| names(name, card)));
    }
    let mut outcomes = vec![Outcome {
        name: "host".into(),
        uuid: None,
        result: Ok(diagnosis(machine::checks(&host, number, arguments.pin))),
    }];
    outcomes.extend(cards.iter().map(|card| Outcome {
        name: card.function.address.clone(),
        uuid: card.uuid.clone(),
        result: Ok(diagnosis(slot::checks(&host, card))),
    }));
    output::devices(arguments.form.output, &outcomes, page)?;
    let found = outcomes
        .iter()
        .filter_map(|outcome| outcome.result.as_ref().ok());
    Ok(match found.map(|diagnosis| diagnosis.verdict).max() {
        Some(Verdict::Failure) => Exit::HealthFailure,
        Some(Verdict::Warning) => Exit::HealthWarning,
        _ => Exit::Ok,
    })
}

fn absent(name: &str) -> Problem {
    Problem {
        code: "not-found".into(),
        message: format!("no device {name}: no PCI function has this address or UUID"),
        hint: Some("lspci -D -d a1a0:0001 shows the cards on the bus".into()),
        exit: Exit::NoDevice,
    }
}

fn diagnosis(checks: Vec<Check>) -> Diagnosis {
    let worst = checks.iter().map(|check| check.verdict).max();
    Diagnosis {
        verdict: worst.unwrap_or(Verdict::Ok),
        checks,
    }
}

/// One line a check, the command that mends it below.
fn page(outcomes: &[Outcome<Diagnosis>]) -> String {
    let found: Vec<(&str, &Diagnosis)> = outcomes
        .iter()
        .filter_map(|outcome| Some((outcome.name.as_str(), outcome.result.as_ref().ok()?)))
        .collect();
    let all = || found.iter().flat_map(|(_, diagnosis)| &diagnosis.checks);
    let width = all().map(|check| check.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, diagnosis) in &found {
        text += &format!("{}\n", clean(name));
        for check in &diagnosis.checks {
            let (word, colour) = match check.verdict {
                Verdict::Ok => ("ok", "32"),
                Verdict::Note => ("note", "36"),
                Verdict::Warning => ("WARNING", "33"),
                Verdict::Failure => ("FAILURE", "1;31"),
            };
            let (name, message) = (check.check, clean(&check.message));
            text += &format!("  \x1b[{colour}m{word:<7}\x1b[0m  {name:<width$}  {message}\n");
            if let Some(fix) = &check.fix {
                text += &format!("           fix: {}\n", clean(fix));
            }
        }
    }
    text + "\n" + &summary(all())
}

fn summary<'a>(checks: impl Iterator<Item = &'a Check> + Clone) -> String {
    let of = |verdict| {
        checks
            .clone()
            .filter(|check| check.verdict == verdict)
            .count()
    };
    let (failures, warnings) = (of(Verdict::Failure), of(Verdict::Warning));
    let plural = |count: usize, word: &str| match count {
        1 => format!("1 {word}"),
        _ => format!("{count} {word}s"),
    };
    let amiss = |check: &&Check| check.verdict >= Verdict::Warning;
    let by_setup = checks.filter(amiss).filter(|check| check.setup).count();
    let mut text = match (failures, warnings) {
        (0, 0) => "Nothing is wrong.\n".into(),
        _ => format!(
            "{}, {}.\n",
            plural(failures, "failure"),
            plural(warnings, "warning")
        ),
    };
    if by_setup > 0 {
        let what = match by_setup {
            1 => "one of them".into(),
            more => format!("{more} of them"),
        };
        text += &format!(
            "`{}` mends {what}; without --apply it shows what it would do.\n",
            remedy::SETUP
        );
    }
    text
}
