//! `jalctl events`: the faults that a device has recorded, oldest first, and new ones as they come.

use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use jalapeno::error::Fault;
use jalapeno::hw::faults::{Action, Scope, Severity};
use jalapeno::hw::packets::Opcode;
use jalapeno::{Device, Role};
use schemars::JsonSchema;
use serde::Serialize;

use crate::command::Reporting;
use crate::devices::{self, Outcome};
use crate::exit::{Exit, Problem, clean};
use crate::output::{self, Format, Report};

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Shows the faults that devices have recorded, oldest first.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    reporting: Reporting,
    /// Go on with new ones as they come (of one device), one line each
    #[arg(short, long)]
    follow: bool,
    /// Then say that they were read, so that `health` is content; needs the device for itself
    #[arg(long, conflicts_with = "follow")]
    acknowledge: bool,
    /// Only those after the first N ever recorded (the `count` of an earlier report)
    #[arg(long, value_name = "N", default_value_t = 0)]
    after: u64,
}

/// What a device's fault log holds.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Events {
    /// Records since manufacture; pass it as --after next time.
    count: u64,
    /// Records overwritten before they could be read.
    missing: u64,
    events: Vec<Event>,
}

/// One record.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Event {
    /// Counts from 1 since manufacture.
    number: u64,
    code: u32,
    /// The catalogue's name; null for a code that this version does not know.
    fault: Option<String>,
    severity: Option<String>,
    scope: Option<String>,
    action: Option<String>,
    /// Device time in ticks.
    device_time: u64,
    generation: u64,
    boot_id: u64,
    /// Null: no queue.
    queue: Option<u32>,
    /// The packet's; null: no packet.
    sequence: Option<u64>,
    cookie: Option<u64>,
    opcode: Option<String>,
    /// Null: none.
    address: Option<u64>,
    detail: [u64; 4],
}

impl Report for Events {
    const KEY: &'static str = "events";
}

impl Event {
    fn new(fault: &Fault) -> Self {
        let record = &fault.record;
        let packet = record.sequence != 0;
        Self {
            number: record.index + 1,
            code: record.code,
            fault: fault.code.ok().map(|code| output::word(code.name())),
            severity: Severity::from_code(record.severity.into()).map(|s| output::word(s.name())),
            scope: Scope::from_code(record.scope.into()).map(|s| output::word(s.name())),
            action: Action::from_code(record.action.into()).map(|a| output::word(a.name())),
            device_time: record.device_time,
            generation: record.generation,
            boot_id: record.boot_id,
            queue: packet.then_some(record.queue),
            sequence: packet.then_some(record.sequence),
            cookie: packet.then_some(record.cookie),
            opcode: Opcode::from_code(record.opcode)
                .filter(|_| packet)
                .map(|opcode| output::word(opcode.name())),
            address: (record.address != 0).then_some(record.address),
            detail: record.detail,
        }
    }

    fn name(&self) -> String {
        match &self.fault {
            Some(fault) => fault.clone(),
            None => format!("{:#06x}", self.code),
        }
    }

    fn place(&self) -> String {
        match (self.queue, self.sequence) {
            (Some(queue), Some(sequence)) => format!("queue {queue}, packet {sequence}"),
            _ => String::new(),
        }
    }

    fn row(&self) -> [String; 5] {
        [
            self.number.to_string(),
            self.severity.clone().unwrap_or_default(),
            self.name(),
            self.place(),
            self.address.map_or(String::new(), |at| format!("{at:#x}")),
        ]
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Exit, Problem> {
    let reporting = &arguments.reporting;
    if reporting.form.schema {
        return output::schema::<Events>().map(|()| Exit::Ok);
    }
    if arguments.follow {
        return follow(arguments);
    }
    let names = devices::chosen(&reporting.devices)?;
    let outcomes = devices::ask(&names, |device| look(device, arguments.after));
    output::devices(reporting.form.output, &outcomes, table)?;
    if arguments.acknowledge {
        for outcome in &outcomes {
            if let Ok(log) = &outcome.result {
                Device::open(&outcome.name, Role::Compute)?.acknowledge_faults(log.count)?;
            }
        }
    }
    Ok(devices::exit(&outcomes))
}

fn look(device: &Device, after: u64) -> jalapeno::Result<Events> {
    let log = device.fault_log(after)?;
    Ok(Events {
        count: log.count,
        missing: log.missing,
        events: log.faults.iter().map(Event::new).collect(),
    })
}

/// One line each, until interrupted or the device is gone.
fn follow(arguments: &Arguments) -> Result<Exit, Problem> {
    let name = devices::only(&arguments.reporting.devices)?;
    let device = Device::open(&name, Role::Observe)?;
    let mut after = arguments.after;
    loop {
        let news = look(&device, after)?;
        if news.missing > 0 {
            eprintln!(
                "{} records were overwritten before they could be read",
                news.missing
            );
        }
        for event in &news.events {
            let line = match arguments.reporting.form.output {
                Format::Table => {
                    let [number, severity, fault, place, address] = event.row();
                    format!("{number}  {severity}  {fault}  {place}  {address}")
                        .trim_end()
                        .to_owned()
                }
                _ => serde_json::to_string(event).unwrap_or_default(),
            };
            output::print(&(line + "\n"))?;
        }
        after = news.count;
        sleep(LOOK);
    }
}

fn table(outcomes: &[Outcome<Events>]) -> String {
    let several = outcomes.len() > 1;
    outcomes
        .iter()
        .filter_map(|outcome| Some((outcome, outcome.result.as_ref().ok()?)))
        .map(|(outcome, log)| {
            let mut text = String::new();
            if several {
                text += &format!("{}:\n", clean(&outcome.name));
            }
            if log.missing > 0 {
                text += &format!("{} earlier records are overwritten\n", log.missing);
            }
            if log.events.is_empty() {
                text += "no events\n";
            } else {
                let header = ["NUMBER", "SEVERITY", "FAULT", "WHERE", "ADDRESS"];
                text += &output::table(header, log.events.iter().map(Event::row));
                text += "jalctl explain FAULT says what it means and what to do\n";
            }
            text
        })
        .collect()
}
