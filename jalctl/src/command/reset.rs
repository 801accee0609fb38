//! `jalctl reset`: names who is affected, resets, and verifies that the device serves again.

use std::time::Duration;

use clap::{Args, ValueEnum};
use jalapeno::hw::regs::ResetLevel;
use jalapeno::{Device, Role};
use schemars::JsonSchema;
use serde::Serialize;

use crate::command::Form;
use crate::devices::{self, Outcome};
use crate::exit::{Exit, Problem};
use crate::output::{self, Report};

/// Resets a device and verifies that it serves again.
///
/// Refused with exit code 5 while a process owns the device: the process is named.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The device: UUID, PCI address, vfio-user:PATH or index
    #[arg(short, long = "device", value_name = "DEVICE")]
    device: Vec<String>,
    /// What is reset
    #[arg(long, value_enum, default_value_t)]
    level: Level,
    /// Only say what would be done, and to whom
    #[arg(long, visible_alias = "dry-run")]
    plan: bool,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
    /// Longest that it may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    #[command(flatten)]
    form: Form,
}

/// How deep the reset goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Level {
    /// The engines: jobs end, queues and memory stay.
    Engines,
    /// The whole device except its PCI function.
    #[default]
    Device,
    /// The PCI function (FLR).
    Function,
}

/// What was done, or would be.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Done {
    level: String,
    /// False for a plan.
    performed: bool,
    /// The process that owns the device; null: none.
    owner_pid: Option<u32>,
    /// How long it took, verification included; null for a plan.
    took_us: Option<u64>,
    generation_before: u64,
    /// Null for a plan.
    generation_after: Option<u64>,
    /// ready, degraded, ...; null where the device gives an unknown number.
    state: Option<String>,
}

impl Report for Done {
    const KEY: &'static str = "reset";
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Exit, Problem> {
    if arguments.form.schema {
        return output::schema::<Done>().map(|()| Exit::Ok);
    }
    let name = devices::only(&arguments.device)?;
    if !arguments.plan && !arguments.yes {
        return Err(Problem::usage(
            format!("a reset ends the work of whoever uses {name}"),
            "look with --plan, then do it with --yes",
        ));
    }
    let (uuid, result) = attempt(arguments, &name);
    let outcomes = [Outcome { name, uuid, result }];
    output::devices(arguments.form.output, &outcomes, table)?;
    Ok(devices::exit(&outcomes))
}

fn attempt(arguments: &Arguments, name: &str) -> (Option<String>, Result<Done, Problem>) {
    let level = match arguments.level {
        Level::Engines => ResetLevel::Engines,
        Level::Device => ResetLevel::Device,
        Level::Function => ResetLevel::Function,
    };
    let role = if arguments.plan {
        Role::Observe
    } else {
        Role::Compute
    };
    let device = match Device::open(name, role) {
        Ok(device) => device,
        Err(error) => return (None, Err(error.into())),
    };
    let uuid = Some(device.info().uuid.to_string());
    let mut done = Done {
        level: output::word(level.name()),
        performed: false,
        owner_pid: device.info().owner_pid,
        took_us: None,
        generation_before: device.generation().0,
        generation_after: None,
        state: None,
    };
    if !arguments.plan {
        let report = match device.reset(level, 0, Duration::from_secs(arguments.timeout)) {
            Ok(report) => report,
            Err(error) => return (uuid, Err(error.into())),
        };
        done.performed = true;
        done.took_us = u64::try_from(report.took.as_micros()).ok();
        done.generation_after = Some(report.generation.0);
        if level != ResetLevel::Engines && report.generation.0 <= done.generation_before {
            let what = format!("{name} was reset and its generation did not move");
            return (uuid, Err(unverified(what)));
        }
    }
    match device.state() {
        Ok(state) => done.state = state.ok().map(|state| output::word(state.name())),
        Err(error) => return (uuid, Err(error.into())),
    }
    let serves = matches!(done.state.as_deref(), Some("ready" | "degraded"));
    if done.performed && !serves {
        let state = done.state.as_deref().unwrap_or("unknown");
        return (
            uuid,
            Err(unverified(format!("{name} was reset and is {state}"))),
        );
    }
    (uuid, Ok(done))
}

fn unverified(message: String) -> Problem {
    Problem {
        code: "verification".into(),
        message,
        hint: Some("reset one level up: --level function".into()),
        exit: Exit::Verification,
    }
}

fn table(outcomes: &[Outcome<Done>]) -> String {
    let done = outcomes
        .iter()
        .filter_map(|outcome| Some((outcome, outcome.result.as_ref().ok()?)));
    done.map(|(outcome, done)| {
        let owner = match done.owner_pid {
            Some(pid) => format!("process {pid} ({})", process(pid)),
            None => "nobody".into(),
        };
        if !done.performed {
            return output::pairs([
                (
                    "Would reset",
                    format!("{}, level {}", outcome.name, done.level),
                ),
                ("In use by", owner),
                (
                    "State",
                    done.state.clone().unwrap_or_else(|| "unknown".into()),
                ),
                ("Then", consequence(&done.level).into()),
            ]);
        }
        let took = done.took_us.unwrap_or(0);
        output::pairs([
            ("Reset", format!("{}, level {}", outcome.name, done.level)),
            ("Took", format!("{}.{:03} ms", took / 1000, took % 1000)),
            (
                "Generation",
                format!(
                    "{} -> {}",
                    done.generation_before,
                    done.generation_after.unwrap_or(0)
                ),
            ),
            (
                "State",
                done.state.clone().unwrap_or_else(|| "unknown".into()),
            ),
        ])
    })
    .collect()
}

/// Host interface 8.2.
fn consequence(level: &str) -> &'static str {
    match level {
        "engines" => "unfinished jobs fail; queues, sessions and device memory stay",
        _ => "queues and sessions are gone; device memory keeps its content",
    }
}

/// A process's name.
fn process(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).map_or_else(
        |_| "not visible from here".into(),
        |name| name.trim().into(),
    )
}
