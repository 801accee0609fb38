//! `jalctl info`: who a device is and what it can do. Disturbs no owner: of a card on the PCI bus that
//! another process has, it says what the kernel module tells.

use std::sync::Arc;

use clap::Args;
use jalapeno::hw::regs::{Feature, Platform};
use jalapeno::hw::telemetry::TelemetryField as Field;
use jalapeno::pci::{Function, Root, is_address};
use jalapeno::{Device, Telemetry};
use schemars::JsonSchema;
use serde::Serialize;

use crate::command::Reporting;
use crate::devices::{self, Outcome};
use crate::exit::{Exit, Problem};
use crate::output::{self, Report};

/// Says who a device is and what it can do.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    reporting: Reporting,
}

/// Identity and capabilities of a device. Where it was not opened, `unopened` says why, and what only
/// an open one tells is null.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Info {
    product: Option<String>,
    /// silicon or emulator; null where the device gives an unknown number.
    platform: Option<String>,
    firmware: Option<String>,
    serial: Option<u64>,
    /// vfio-user, vfio-group, vfio-cdev or unsafe-noiommu.
    backend: Option<String>,
    /// Of the host interface.
    interface_version: Option<String>,
    /// booting, ready, degraded, ...; null where the device gives an unknown number.
    state: Option<String>,
    /// Counts resets.
    generation: Option<u64>,
    /// Tells one start of the firmware from another.
    boot_id: Option<u64>,
    hbm_bytes: Option<u64>,
    queues: Option<u32>,
    depth_max: Option<u64>,
    vectors: Option<u32>,
    /// Mappings of host memory that the host permits its owner; null: as many as there is memory for.
    mappings: Option<u64>,
    ticks_per_second: Option<u64>,
    features_offered: Option<u64>,
    /// Whether HBM is scrubbed before an owner gets any of it; false: the device cannot.
    scrubs: Option<bool>,
    /// Whether the kernel module has it, which gives sensors beside an owner, scrubs when an owner
    /// leaves and keeps fault records; null: not on the PCI bus.
    kernel_module: Option<bool>,
    /// Why it was not opened; null: it was.
    unopened: Option<String>,
}

impl Report for Info {
    const KEY: &'static str = "info";
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Exit, Problem> {
    let reporting = &arguments.reporting;
    if reporting.form.schema {
        return output::schema::<Info>().map(|()| Exit::Ok);
    }
    let names = devices::chosen(&reporting.devices)?;
    let outcomes: Vec<_> = names.iter().map(|name| look(name)).collect();
    output::devices(reporting.form.output, &outcomes, table)?;
    Ok(devices::exit(&outcomes))
}

/// By opening it as an observer; by the kernel module where another process has it.
fn look(name: &str) -> Outcome<Info> {
    let mut outcome = devices::ask_one(name, open);
    let function = Root::default().function(name);
    if let Err(problem) = &outcome.result
        && problem.exit == Exit::Busy
        && is_address(name)
        && function.has_kernel_module()
    {
        outcome.uuid = function.text("jalapeno/uuid");
        outcome.result = Ok(beside(&function, problem.message.clone()));
    }
    outcome
}

fn open(device: &Arc<Device>) -> jalapeno::Result<Info> {
    let info = device.info();
    let caps = &info.capabilities;
    Ok(Info {
        product: Some(caps.product.clone()),
        platform: info.platform.ok().map(|platform| match platform {
            Platform::Silicon => "silicon".into(),
            Platform::Emulator => "emulator".into(),
        }),
        firmware: Some(caps.firmware.clone()),
        serial: Some(info.serial),
        backend: Some(info.backend.into()),
        interface_version: Some(format!("{}.{}", info.version.0, info.version.1)),
        state: device.state()?.ok().map(|state| output::word(state.name())),
        generation: Some(device.generation().0),
        boot_id: Some(info.boot_id),
        hbm_bytes: Some(caps.memory.hbm_bytes),
        queues: Some(caps.queues.count),
        depth_max: Some(1 << caps.queues.depth_log2_max),
        vectors: Some(caps.queues.vectors),
        mappings: mappings(device.transport().describe().maps_limit),
        ticks_per_second: Some(caps.time.ticks_per_second),
        features_offered: Some(info.features_offered),
        scrubs: Some(info.features_offered & 1 << Feature::Scrub.code() != 0),
        kernel_module: is_address(&info.name)
            .then(|| Root::default().function(&info.name).has_kernel_module()),
        unopened: None,
    })
}

/// What the kernel module tells beside an owner.
fn beside(function: &Function, unopened: String) -> Info {
    let told = |file: &str| function.text(&format!("jalapeno/{file}"));
    let page = Telemetry::of_function(function).ok();
    let page = page.as_ref();
    let state = page.and_then(|page| page.state()?.ok());
    Info {
        firmware: told("firmware"),
        serial: told("serial").and_then(|text| text.parse().ok()),
        state: state.map(|state| output::word(state.name())),
        generation: page.map(|page| page.generation.0),
        hbm_bytes: page.and_then(|page| page.get(Field::HbmTotal, 0).value()),
        ticks_per_second: page.map(|page| page.ticks_per_second),
        kernel_module: Some(true),
        unopened: Some(unopened),
        ..Info::default()
    }
}

fn table(outcomes: &[Outcome<Info>]) -> String {
    let pages: Vec<String> = outcomes
        .iter()
        .filter_map(|outcome| Some((outcome, outcome.result.as_ref().ok()?)))
        .map(|(outcome, info)| {
            let rows = [
                ("Name", Some(outcome.name.clone())),
                ("UUID", outcome.uuid.clone()),
                ("Product", info.product.clone()),
                ("Platform", info.platform.clone().or_else(|| unknown(info))),
                ("Serial", info.serial.map(|serial| serial.to_string())),
                ("Firmware", info.firmware.clone()),
                ("Interface", info.interface_version.clone()),
                ("Reached by", info.backend.clone()),
                ("State", info.state.clone().or_else(|| unknown(info))),
                ("Generation", info.generation.map(|count| count.to_string())),
                ("HBM", info.hbm_bytes.map(output::bytes)),
                ("Queues", queues(info)),
                (
                    "Interrupts",
                    info.vectors.map(|vectors| format!("{vectors} vectors")),
                ),
                (
                    "Mappings",
                    info.mappings.map(|count| format!("{count} of host memory")),
                ),
                (
                    "Clock",
                    info.ticks_per_second
                        .map(|rate| format!("{} MHz", rate / 1_000_000)),
                ),
                ("Scrub", scrub(info).map(String::from)),
                (
                    "Kernel module",
                    info.kernel_module.map(|bound| module(bound).into()),
                ),
                ("Not opened", info.unopened.clone()),
            ];
            let rows = rows
                .into_iter()
                .filter_map(|(key, value)| Some((key, value?)));
            output::pairs(rows)
        })
        .collect();
    pages.join("\n")
}

/// What an open device has, and says in a way that is not known.
fn unknown(info: &Info) -> Option<String> {
    info.unopened.is_none().then(|| "unknown".into())
}

fn queues(info: &Info) -> Option<String> {
    let (queues, depth) = (info.queues?, info.depth_max?);
    Some(format!("{queues} of up to {depth} packets"))
}

/// A limit, where there is one: an iommufd has none.
fn mappings(limit: usize) -> Option<u64> {
    (limit != usize::MAX).then_some(limit as u64)
}

/// Who scrubs HBM between two owners.
fn scrub(info: &Info) -> Option<&'static str> {
    Some(match (info.scrubs?, info.kernel_module) {
        (false, _) => "not offered: HBM holds what its last owner left",
        (true, Some(true)) => "by the kernel module when an owner leaves",
        (true, _) => "by the library before an owner gets any HBM",
    })
}

/// What is missing without the kernel module.
fn module(bound: bool) -> &'static str {
    match bound {
        true => "bound",
        false => {
            "not bound: no sensors beside an owner, no scrub when one leaves, no fault records in the \
             kernel"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_limits_no_mappings_is_not_said_to() {
        let told = |limit| {
            let info = Info {
                mappings: mappings(limit),
                ..Info::default()
            };
            table(&[Outcome {
                name: "0000:02:00.0".into(),
                uuid: None,
                result: Ok(info),
            }])
        };
        assert!(told(65_535).contains("65535 of host memory"));
        assert!(!told(usize::MAX).contains("Mappings"));
    }

    #[test]
    fn what_is_missing_without_the_kernel_module_is_said() {
        for (scrubs, kernel_module, words) in [
            (true, None, "by the library"),
            (true, Some(false), "by the library"),
            (true, Some(true), "by the kernel module"),
            (false, Some(true), "not offered"),
        ] {
            let info = Info {
                scrubs: Some(scrubs),
                kernel_module,
                ..Info::default()
            };
            let told = table(&[Outcome {
                name: "0000:02:00.0".into(),
                uuid: None,
                result: Ok(info),
            }]);
            assert!(told.contains(words), "{told}");
            let missing = told.contains("no sensors beside an owner");
            assert_eq!(missing, kernel_module == Some(false), "{told}");
        }
    }
}
