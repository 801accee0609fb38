//! `jalctl list`: the devices there are. Disturbs no owner.

use clap::Args;
use jalapeno::{Device, discover};
use schemars::JsonSchema;
use serde::Serialize;

use crate::command::Form;
use crate::devices::{self, Outcome};
use crate::exit::{Exit, Problem};
use crate::output::{self, Report};

/// Lists the devices there are.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    form: Form,
}

/// One device in brief.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Listed {
    /// Its place in this list; may change: store the UUID.
    index: usize,
    product: String,
    firmware: String,
    /// vfio-user, vfio-group or vfio-cdev.
    backend: String,
    hbm_bytes: u64,
    /// booting, ready, degraded, ...; null where the device gives an unknown number.
    state: Option<String>,
    /// Whether it is emulated.
    emulated: bool,
}

impl Report for Listed {
    const KEY: &'static str = "list";
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Exit, Problem> {
    if arguments.form.schema {
        return output::schema::<Listed>().map(|()| Exit::Ok);
    }
    let outcomes: Vec<Outcome<Listed>> = discover::list()
        .into_iter()
        .enumerate()
        .map(|(index, found)| Outcome {
            uuid: found.uuid.map(|uuid| uuid.to_string()),
            result: match (found.device, found.problem) {
                (_, Some(problem)) => Err(problem.into()),
                (Some(device), None) => look(index, &device),
                (None, None) => Err(unopened(&found.name)),
            },
            name: found.name,
        })
        .collect();
    output::devices(arguments.form.output, &outcomes, table)?;
    if outcomes.is_empty() {
        eprintln!("no device: without a card, jalctl emulate -- COMMAND");
    }
    Ok(devices::exit(&outcomes))
}

/// It is there, and this version of the library cannot look inside without becoming its owner.
fn unopened(name: &str) -> Problem {
    Problem {
        code: "unsupported".into(),
        message: format!("{name} cannot be looked at"),
        hint: None,
        exit: Exit::Unsupported,
    }
}

fn look(index: usize, device: &Device) -> Result<Listed, Problem> {
    let info = device.info();
    Ok(Listed {
        index,
        product: info.capabilities.product.clone(),
        firmware: info.capabilities.firmware.clone(),
        backend: info.backend.into(),
        hbm_bytes: info.capabilities.memory.hbm_bytes,
        state: device.state()?.ok().map(|state| output::word(state.name())),
        emulated: info.platform == Ok(jalapeno::hw::regs::Platform::Emulator),
    })
}

fn table(outcomes: &[Outcome<Listed>]) -> String {
    if outcomes.is_empty() {
        return String::new();
    }
    let header = ["INDEX", "UUID", "STATE", "HBM", "PRODUCT", "NAME"];
    let rows = outcomes.iter().enumerate().map(|(index, outcome)| {
        let uuid = outcome.uuid.clone().unwrap_or_default();
        match &outcome.result {
            Ok(device) => [
                index.to_string(),
                uuid,
                device.state.clone().unwrap_or_default(),
                output::bytes(device.hbm_bytes),
                format!(
                    "{}{}",
                    device.product,
                    if device.emulated { " (emulated)" } else { "" }
                ),
                outcome.name.clone(),
            ],
            Err(problem) => [
                index.to_string(),
                uuid,
                problem.code.clone(),
                String::new(),
                String::new(),
                outcome.name.clone(),
            ],
        }
    });
    output::table(header, rows)
}
