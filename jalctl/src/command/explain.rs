//! `jalctl explain`: what a fault code means and what to do about it. Needs no device.

use clap::Args;
use jalapeno::hw::faults::{CATALOGUE, FaultRow};
use schemars::JsonSchema;
use serde::Serialize;

use crate::command::Form;
use crate::devices::Outcome;
use crate::exit::{Exit, Problem};
use crate::output::{self, Report};

/// Says what a fault code means and what to do about it.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The code, by number (0x201) or name (unmapped-read); none: all of them
    code: Option<String>,
    #[command(flatten)]
    form: Form,
}

/// The catalogue's row.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Explained {
    code: u32,
    /// Stable.
    fault: String,
    /// Where it comes from.
    class: String,
    severity: String,
    /// What is concerned.
    scope: String,
    /// What the library or an operator does.
    action: String,
    meaning: String,
    remedy: String,
}

impl Report for Explained {
    const KEY: &'static str = "explain";
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Exit, Problem> {
    if arguments.form.schema {
        return output::schema::<Explained>().map(|()| Exit::Ok);
    }
    let rows: Vec<&FaultRow> = match &arguments.code {
        None => CATALOGUE.iter().collect(),
        Some(wanted) => vec![find(wanted)?],
    };
    let one = arguments.code.is_some();
    let outcomes: Vec<_> = rows.into_iter().map(outcome).collect();
    output::devices(arguments.form.output, &outcomes, |outcomes| {
        let rows = outcomes
            .iter()
            .filter_map(|outcome| outcome.result.as_ref().ok());
        if one {
            rows.map(page).collect()
        } else {
            overview(rows)
        }
    })?;
    Ok(Exit::Ok)
}

fn find(wanted: &str) -> Result<&'static FaultRow, Problem> {
    let digits = wanted
        .strip_prefix("0x")
        .or_else(|| wanted.strip_prefix("0X"));
    let number = match digits {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => wanted.parse().ok(),
    };
    let name = wanted.to_ascii_lowercase().replace('_', "-");
    CATALOGUE
        .iter()
        .find(|row| Some(row.code.code()) == number || output::word(row.code.name()) == name)
        .ok_or_else(|| {
            Problem::usage(
                format!("no fault has the code {wanted}"),
                "jalctl explain shows them all",
            )
        })
}

fn outcome(row: &FaultRow) -> Outcome<Explained> {
    Outcome {
        name: output::word(row.code.name()),
        uuid: None,
        result: Ok(Explained {
            code: row.code.code(),
            fault: output::word(row.code.name()),
            class: output::word(row.class.name()),
            severity: output::word(row.severity.name()),
            scope: output::word(row.scope.name()),
            action: output::word(row.action.name()),
            meaning: row.meaning.trim().into(),
            remedy: row.remedy.into(),
        }),
    }
}

fn page(row: &Explained) -> String {
    output::pairs([
        ("Fault", format!("{} ({:#06x})", row.fault, row.code)),
        ("Meaning", row.meaning.clone()),
        ("Class", row.class.clone()),
        ("Severity", row.severity.clone()),
        ("Scope", row.scope.clone()),
        ("Action", row.action.clone()),
        ("Remedy", row.remedy.clone()),
    ])
}

fn overview<'a>(rows: impl Iterator<Item = &'a Explained>) -> String {
    output::table(
        ["CODE", "FAULT", "SEVERITY", "SCOPE", "ACTION"],
        rows.map(|row| {
            [
                format!("{:#06x}", row.code),
                row.fault.clone(),
                row.severity.clone(),
                row.scope.clone(),
                row.action.clone(),
            ]
        }),
    )
}
