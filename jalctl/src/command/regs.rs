//! `jalctl regs`: every register with its fields, decoded. Reads only, beside an owner.

use clap::Args;
use jalapeno::hw::reg::{Access, RegisterRow};
use schemars::JsonSchema;
use serde::Serialize;

use crate::command::Reporting;
use crate::devices::{self, Outcome};
use crate::exit::{Exit, Problem, clean};
use crate::output::{self, Report};

/// Shows the registers with their fields, decoded.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    reporting: Reporting,
    /// Only registers whose names contain this
    filter: Option<String>,
    /// Say what each register and field is
    #[arg(long)]
    explain: bool,
}

/// A device's registers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Registers {
    registers: Vec<Register>,
}

/// One register.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Register {
    register: &'static str,
    /// In BAR 0.
    offset: u32,
    bytes: usize,
    /// ro, rw, wo, ...
    access: String,
    /// Null where it cannot be read.
    value: Option<u64>,
    meaning: &'static str,
    fields: Vec<Field>,
}

/// Some of its bits.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Field {
    field: &'static str,
    high: u8,
    low: u8,
    /// Null where it cannot be read.
    value: Option<u64>,
    meaning: &'static str,
}

impl Report for Registers {
    const KEY: &'static str = "regs";
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Exit, Problem> {
    let reporting = &arguments.reporting;
    if reporting.form.schema {
        return output::schema::<Registers>().map(|()| Exit::Ok);
    }
    let filter = arguments
        .filter
        .as_deref()
        .unwrap_or("")
        .to_ascii_uppercase();
    let names = devices::chosen(&reporting.devices)?;
    let outcomes = devices::ask(&names, |device| {
        let dump = device.dump()?;
        let wanted = dump
            .into_iter()
            .filter(|(row, _)| row.name.contains(&filter));
        Ok(Registers {
            registers: wanted.map(|(row, value)| decode(row, value)).collect(),
        })
    });
    let nothing =
        |outcome: &Outcome<Registers>| matches!(&outcome.result, Ok(r) if r.registers.is_empty());
    if !filter.is_empty() && !outcomes.is_empty() && outcomes.iter().all(nothing) {
        return Err(Problem::usage(
            format!("no register has {filter} in its name"),
            "jalctl regs shows them all",
        ));
    }
    output::devices(reporting.form.output, &outcomes, |outcomes| {
        table(outcomes, arguments.explain)
    })?;
    Ok(devices::exit(&outcomes))
}

fn decode(row: &'static RegisterRow, value: Option<u64>) -> Register {
    Register {
        register: row.name,
        offset: row.offset,
        bytes: row.bytes,
        access: format!("{:?}", row.access).to_ascii_lowercase(),
        value,
        meaning: row.doc.trim(),
        fields: row
            .fields
            .iter()
            .map(|field| {
                let width = u32::from(field.high - field.low) + 1;
                let mask = u64::MAX >> (64 - width);
                Field {
                    field: field.name,
                    high: field.high,
                    low: field.low,
                    value: value.map(|value| value >> field.low & mask),
                    meaning: field.doc.trim(),
                }
            })
            .collect(),
    }
}

fn table(outcomes: &[Outcome<Registers>], explain: bool) -> String {
    let several = outcomes.len() > 1;
    outcomes
        .iter()
        .filter_map(|outcome| Some((outcome, outcome.result.as_ref().ok()?)))
        .map(|(outcome, dump)| {
            let title = if several {
                format!("{}:\n", clean(&outcome.name))
            } else {
                String::new()
            };
            title + &lines(&dump.registers, explain)
        })
        .collect()
}

fn lines(registers: &[Register], explain: bool) -> String {
    let mut rows = Vec::new();
    for register in registers {
        let digits = 2 * register.bytes;
        let write_only = register.access == format!("{:?}", Access::Wo).to_ascii_lowercase();
        rows.push([
            format!("{:#05x}", register.offset),
            register.register.to_owned(),
            match register.value {
                Some(value) => format!("{value:#0width$x}", width = digits + 2),
                None if write_only => "write-only".into(),
                None => "unreadable".into(),
            },
            if explain {
                register.meaning.into()
            } else {
                " ".into()
            },
        ]);
        for field in &register.fields {
            let bits = if field.high == field.low {
                field.low.to_string()
            } else {
                format!("{}:{}", field.high, field.low)
            };
            rows.push([
                String::from(" "),
                format!("  [{bits}] {}", field.field),
                field.value.map_or(" ".into(), |value| value.to_string()),
                if explain {
                    field.meaning.into()
                } else {
                    " ".into()
                },
            ]);
        }
    }
    output::table(
        [
            "OFFSET",
            "REGISTER",
            "VALUE",
            if explain { "MEANING" } else { "" },
        ],
        rows,
    )
}
