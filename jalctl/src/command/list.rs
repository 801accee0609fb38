//! `jalctl list`: the devices there are. Disturbs no owner.

use clap::Args;
use jalapeno::discover::{Found, Place};
use jalapeno::pci::Root;
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
    /// Null for a card on the PCI bus: it is not opened, and so reset, for a list.
    product: Option<String>,
    /// Null where only an open device tells it.
    firmware: Option<String>,
    /// vfio-user, vfio-group or vfio-cdev; null for a card that is not bound to VFIO.
    backend: Option<String>,
    /// Null where only an open device tells it.
    hbm_bytes: Option<u64>,
    /// booting, ready, degraded, ...; null where the device gives an unknown number, and where only
    /// an open device tells it.
    state: Option<String>,
    /// Whether it is emulated.
    emulated: bool,
    /// The kernel driver that has it; null: none, or not on the PCI bus.
    driver: Option<String>,
    /// Null: not on the PCI bus, or a machine without such nodes.
    numa_node: Option<u32>,
    /// Null: not on the PCI bus, or no IOMMU.
    iommu_group: Option<u32>,
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
        .map(|(index, found)| listed(index, found))
        .collect();
    output::devices(arguments.form.output, &outcomes, table)?;
    if outcomes.is_empty() {
        eprintln!("no device: without a card, jalctl emulate -- COMMAND");
    }
    Ok(devices::exit(&outcomes))
}

fn listed(index: usize, found: Found) -> Outcome<Listed> {
    Outcome {
        uuid: found.uuid.map(|uuid| uuid.to_string()),
        result: match (found.device, found.place, found.problem) {
            (_, _, Some(problem)) => Err(problem.into()),
            (Some(device), _, None) => look(index, &device),
            (None, Some(place), None) => Ok(unopened(index, &found.name, found.driver, &place)),
            (None, None, None) => Err(Problem::failure(
                format!("{} is neither open nor on the PCI bus", found.name),
                "report this",
            )),
        },
        name: found.name,
    }
}

/// A card on the PCI bus, as sysfs and, where it is bound to it, the kernel module tell of it.
fn unopened(index: usize, name: &str, driver: Option<String>, place: &Place) -> Listed {
    let function = Root::default().function(name);
    let told = |file: &str| function.text(&format!("jalapeno/{file}"));
    let by_node = function.device_node().is_some_and(|node| node.exists())
        && function.root().file("dev/iommu").exists();
    Listed {
        index,
        product: None,
        firmware: told("firmware"),
        backend: Some(if by_node { "vfio-cdev" } else { "vfio-group" }.into()),
        hbm_bytes: None,
        state: told("health").map(|state| output::word(&state)),
        emulated: false,
        driver,
        numa_node: place.numa_node,
        iommu_group: place.group,
    }
}

fn look(index: usize, device: &Device) -> Result<Listed, Problem> {
    let info = device.info();
    Ok(Listed {
        index,
        product: Some(info.capabilities.product.clone()),
        firmware: Some(info.capabilities.firmware.clone()),
        backend: Some(info.backend.into()),
        hbm_bytes: Some(info.capabilities.memory.hbm_bytes),
        state: device.state()?.ok().map(|state| output::word(state.name())),
        emulated: info.platform == Ok(jalapeno::hw::regs::Platform::Emulator),
        driver: None,
        numa_node: None,
        iommu_group: None,
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
                device.hbm_bytes.map(output::bytes).unwrap_or_default(),
                match (&device.product, device.emulated) {
                    (Some(product), true) => format!("{product} (emulated)"),
                    (Some(product), false) => product.clone(),
                    (None, _) => "Jalapeno card".into(),
                },
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
