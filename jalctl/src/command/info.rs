//! `jalctl info`: who a device is and what it can do. Disturbs no owner.

use clap::Args;
use jalapeno::hw::regs::{Feature, Platform};
use jalapeno::pci::{Root, is_address};
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

/// Identity and capabilities of a device.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Info {
    product: String,
    /// silicon or emulator; null where the device gives an unknown number.
    platform: Option<String>,
    firmware: String,
    serial: u64,
    /// vfio-user, vfio-group, vfio-cdev or unsafe-noiommu.
    backend: String,
    /// Of the host interface.
    interface_version: String,
    /// booting, ready, degraded, ...; null where the device gives an unknown number.
    state: Option<String>,
    /// Counts resets.
    generation: u64,
    /// Tells one start of the firmware from another.
    boot_id: u64,
    hbm_bytes: u64,
    queues: u32,
    depth_max: u64,
    vectors: u32,
    ticks_per_second: u64,
    features_offered: u64,
    /// Whether HBM is scrubbed before an owner gets any of it; false: the device cannot.
    scrubs: bool,
    /// Whether the kernel module has it, which gives sensors beside an owner, scrubs when an owner
    /// leaves and keeps fault records; null: not on the PCI bus.
    kernel_module: Option<bool>,
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
    let outcomes = devices::ask(&names, |device| {
        let info = device.info();
        let caps = &info.capabilities;
        Ok(Info {
            product: caps.product.clone(),
            platform: info.platform.ok().map(|platform| match platform {
                Platform::Silicon => "silicon".into(),
                Platform::Emulator => "emulator".into(),
            }),
            firmware: caps.firmware.clone(),
            serial: info.serial,
            backend: info.backend.into(),
            interface_version: format!("{}.{}", info.version.0, info.version.1),
            state: device.state()?.ok().map(|state| output::word(state.name())),
            generation: device.generation().0,
            boot_id: info.boot_id,
            hbm_bytes: caps.memory.hbm_bytes,
            queues: caps.queues.count,
            depth_max: 1 << caps.queues.depth_log2_max,
            vectors: caps.queues.vectors,
            ticks_per_second: caps.time.ticks_per_second,
            features_offered: info.features_offered,
            scrubs: info.features_offered & 1 << Feature::Scrub.code() != 0,
            kernel_module: is_address(&info.name)
                .then(|| Root::default().function(&info.name).has_kernel_module()),
        })
    });
    output::devices(reporting.form.output, &outcomes, table)?;
    Ok(devices::exit(&outcomes))
}

fn table(outcomes: &[Outcome<Info>]) -> String {
    let pages: Vec<String> = outcomes
        .iter()
        .filter_map(|outcome| Some((outcome, outcome.result.as_ref().ok()?)))
        .map(|(outcome, info)| {
            let mut rows = vec![
                ("Name", outcome.name.clone()),
                ("UUID", outcome.uuid.clone().unwrap_or_default()),
                ("Product", info.product.clone()),
                (
                    "Platform",
                    info.platform.clone().unwrap_or_else(|| "unknown".into()),
                ),
                ("Serial", info.serial.to_string()),
                ("Firmware", info.firmware.clone()),
                ("Interface", info.interface_version.clone()),
                ("Reached by", info.backend.clone()),
                (
                    "State",
                    info.state.clone().unwrap_or_else(|| "unknown".into()),
                ),
                ("Generation", info.generation.to_string()),
                ("HBM", output::bytes(info.hbm_bytes)),
                (
                    "Queues",
                    format!("{} of up to {} packets", info.queues, info.depth_max),
                ),
                ("Interrupts", format!("{} vectors", info.vectors)),
                (
                    "Clock",
                    format!("{} MHz", info.ticks_per_second / 1_000_000),
                ),
                ("Scrub", scrub(info).into()),
            ];
            if let Some(bound) = info.kernel_module {
                rows.push(("Kernel module", module(bound).into()));
            }
            output::pairs(rows)
        })
        .collect();
    pages.join("\n")
}

/// Who scrubs HBM between two owners.
fn scrub(info: &Info) -> &'static str {
    match (info.scrubs, info.kernel_module) {
        (false, _) => "not offered: HBM holds what its last owner left",
        (true, Some(true)) => "by the kernel module when an owner leaves",
        (true, _) => "by the library before an owner gets any HBM",
    }
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
    fn what_is_missing_without_the_kernel_module_is_said() {
        for (scrubs, kernel_module, words) in [
            (true, None, "by the library"),
            (true, Some(false), "by the library"),
            (true, Some(true), "by the kernel module"),
            (false, Some(true), "not offered"),
        ] {
            let info = Info {
                product: String::new(),
                platform: None,
                firmware: String::new(),
                serial: 0,
                backend: "vfio-group".into(),
                interface_version: "1.0".into(),
                state: None,
                generation: 1,
                boot_id: 0,
                hbm_bytes: 1 << 20,
                queues: 1,
                depth_max: 2,
                vectors: 1,
                ticks_per_second: 1_000_000,
                features_offered: 0,
                scrubs,
                kernel_module,
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
