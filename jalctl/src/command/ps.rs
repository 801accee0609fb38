//! `jalctl ps`: who holds which device, how, and since when. Opens nothing, disturbs nobody.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use jalapeno::holders::{self, Holder};
use schemars::JsonSchema;
use serde::Serialize;

use crate::command::Reporting;
use crate::devices::{self, Outcome};
use crate::exit::{Exit, Problem};
use crate::output::{self, Report};

/// Shows the processes that hold devices.
///
/// Works without root; what it cannot see then, it says.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    reporting: Reporting,
}

/// Who holds a device.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Held {
    /// Processes of other users whose open files this process may not see: a holder may be among
    /// them. 0 for root, and for emulated devices.
    hidden_processes: usize,
    /// The processes that have it, owners first.
    holders: Vec<Process>,
}

/// A process that has a device.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Process {
    pid: u32,
    /// vfio-group: by the node of its IOMMU group; vfio-cdev: by the node of its own; owner and
    /// observer: of an emulated one.
    way: String,
    /// Its user's number; null where it is not visible.
    user_id: Option<u32>,
    /// Its user's name; null where the number has none.
    user: Option<String>,
    /// Its name; null where it is not visible, as a process of another container.
    command: Option<String>,
    /// Its command line; null where it is not visible.
    command_line: Option<String>,
    /// When the process was started, in seconds since 1970. It may have opened the device later.
    started_unix_seconds: Option<u64>,
}

impl Report for Held {
    const KEY: &'static str = "ps";
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Exit, Problem> {
    let reporting = &arguments.reporting;
    if reporting.form.schema {
        return output::schema::<Held>().map(|()| Exit::Ok);
    }
    let outcomes: Vec<Outcome<Held>> = devices::chosen_with_uuids(&reporting.devices)?
        .into_iter()
        .map(|(name, uuid)| Outcome {
            result: look(&name),
            name,
            uuid,
        })
        .collect();
    output::devices(reporting.form.output, &outcomes, table)?;
    let held = outcomes
        .iter()
        .filter_map(|outcome| outcome.result.as_ref().ok());
    if let Some(hidden) = held.map(|held| held.hidden_processes).max()
        && hidden > 0
    {
        eprintln!(
            "note: the open files of {hidden} processes of other users are not visible: sudo \
             jalctl ps sees them too"
        );
    }
    Ok(devices::exit(&outcomes))
}

fn look(name: &str) -> Result<Held, Problem> {
    let holders = holders::of(name)?;
    Ok(Held {
        hidden_processes: holders.hidden,
        holders: holders.seen.into_iter().map(process).collect(),
    })
}

fn process(holder: Holder) -> Process {
    let process = holder.process;
    Process {
        pid: process.pid,
        way: holder.way.name().into(),
        user_id: process.user_id,
        user: process.user,
        command: process.command,
        command_line: process.command_line,
        started_unix_seconds: process.started.and_then(|since| {
            let since = since.duration_since(UNIX_EPOCH).ok()?;
            Some(since.as_secs())
        }),
    }
}

/// Most characters of a command line that the table shows.
const SHOWN: usize = 48;

fn table(outcomes: &[Outcome<Held>]) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    let header = ["DEVICE", "HELD", "PID", "USER", "RUNS FOR", "COMMAND"];
    let rows = outcomes.iter().flat_map(|outcome| {
        let name = || outcome.name.clone();
        let holders = match &outcome.result {
            Err(problem) => return vec![[name(), problem.code.clone()].into_row()],
            Ok(held) if held.holders.is_empty() => {
                let word = match held.hidden_processes {
                    0 => "free",
                    _ => "free as far as visible",
                };
                return vec![[name(), word.into()].into_row()];
            }
            Ok(held) => &held.holders,
        };
        holders
            .iter()
            .map(|process| {
                [
                    name(),
                    process.way.clone(),
                    process.pid.to_string(),
                    user(process),
                    process
                        .started_unix_seconds
                        .map(|since| elapsed(now.saturating_sub(since)))
                        .unwrap_or_default(),
                    command(process),
                ]
            })
            .collect()
    });
    let rows: Vec<_> = rows.collect();
    match rows.is_empty() {
        true => String::new(),
        false => output::table(header, rows),
    }
}

/// A row with two cells filled.
trait IntoRow {
    fn into_row(self) -> [String; 6];
}

impl IntoRow for [String; 2] {
    fn into_row(self) -> [String; 6] {
        let [first, second] = self;
        let mut row: [String; 6] = Default::default();
        row[0] = first;
        row[1] = second;
        row
    }
}

fn user(process: &Process) -> String {
    let number = || process.user_id.map(|id| id.to_string());
    process.user.clone().or_else(number).unwrap_or_default()
}

fn command(process: &Process) -> String {
    let line = process.command_line.clone();
    let Some(line) = line.or_else(|| process.command.clone()) else {
        return "not visible from here".into();
    };
    match line.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}

/// A time for eyes.
fn elapsed(seconds: u64) -> String {
    match (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        for (seconds, words) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (7260, "2 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(elapsed(seconds), words);
        }
    }

    #[test]
    fn long_command_lines_are_cut_between_characters() {
        let mut process = Process {
            pid: 1,
            way: "owner".into(),
            user_id: None,
            user: None,
            command: Some("short".into()),
            command_line: Some("ü".repeat(100)),
            started_unix_seconds: None,
        };
        assert_eq!(command(&process), "ü".repeat(SHOWN) + "...");
        process.command_line = None;
        assert_eq!(command(&process), "short");
        process.command = None;
        assert_eq!(command(&process), "not visible from here");
        assert_eq!(user(&process), "");
    }
}
