//! `jalctl bind` and `jalctl unbind`: gives cards to user space, and back to what they had before.

use clap::{Args, ValueEnum};
use jalapeno::binding::{Bindings, Plan, SHIM, VFIO_PCI, Wish};
use nix::sys::signal::{SigSet, Signal};
use schemars::JsonSchema;
use serde::Serialize;

use crate::command::Form;
use crate::devices::{self, Outcome};
use crate::exit::{Exit, Problem};
use crate::output::{self, Report};

/// Gives cards to user space: binds them to vfio-pci, or to the kernel module.
///
/// Refused while a process holds the card (exit code 5, the processes are named) and while other
/// members of its IOMMU group have drivers of their own. When a step fails, those before it are
/// undone. A binding ends with a reboot, and when the card is removed and found again, unless it is
/// made with --persist.
#[derive(Debug, Args)]
pub struct Bind {
    /// A card: PCI address, UUID or index; may be given several times. Default: the only one
    #[arg(short, long = "device", value_name = "DEVICE")]
    devices: Vec<String>,
    /// Which driver; default: the kernel module's where it is loaded, vfio-pci elsewhere
    #[arg(long, value_enum, conflicts_with = "recorded")]
    driver: Option<Driver>,
    /// Bind it again after each reboot and each rescan: records it in /etc/jalapeno/bindings, for
    /// the packaged udev rule
    #[arg(long, conflicts_with = "recorded")]
    persist: bool,
    /// Bind cards that are recorded, as they are recorded; default: all of those that are there.
    /// This is what the udev rule runs
    #[arg(long)]
    recorded: bool,
    /// Only say what would be done
    #[arg(long, visible_alias = "dry-run")]
    plan: bool,
    /// Take it away from another driver that has it
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    form: Form,
}

/// Gives cards back to the driver that they had before they were bound.
///
/// Where that is not recorded, the kernel chooses. What --persist recorded is forgotten. Refused
/// while a process holds the card: exit code 5, the processes are named.
#[derive(Debug, Args)]
pub struct Unbind {
    /// A card: PCI address, UUID or index; may be given several times. Default: the only one
    #[arg(short, long = "device", value_name = "DEVICE")]
    devices: Vec<String>,
    /// Only say what would be done
    #[arg(long, visible_alias = "dry-run")]
    plan: bool,
    #[command(flatten)]
    form: Form,
}

/// The drivers for user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Driver {
    /// The kernel's own.
    #[value(name = VFIO_PCI)]
    VfioPci,
    /// The kernel module of this project.
    #[value(name = SHIM)]
    Shim,
}

/// What was done with a card's driver, or would be.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Changed {
    /// False for a plan, and where all was as it should be.
    performed: bool,
    /// Its driver before; null: none.
    driver_before: Option<String>,
    /// Its driver afterwards; null: none, or, in a plan, the one that the kernel chooses.
    driver_after: Option<String>,
    /// Whether it is bound again after a reboot and after a rescan.
    persistent: bool,
    /// What was done, in order, as shell commands.
    steps: Vec<String>,
}

/// The report of `jalctl bind`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Bound(Changed);

/// The report of `jalctl unbind`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Unbound(Changed);

impl Report for Bound {
    const KEY: &'static str = "bind";
}

impl Report for Unbound {
    const KEY: &'static str = "unbind";
}

/// Runs `jalctl bind`.
pub fn bind(arguments: &Bind) -> Result<Exit, Problem> {
    if arguments.form.schema {
        return output::schema::<Bound>().map(|()| Exit::Ok);
    }
    let bindings = Bindings::default();
    let wishes: Vec<(String, Wish)> = if arguments.recorded {
        recorded(&bindings, &arguments.devices)?
    } else {
        let driver = arguments.driver.map(|driver| match driver {
            Driver::VfioPci => VFIO_PCI.to_owned(),
            Driver::Shim => SHIM.to_owned(),
        });
        let wish = Wish {
            driver,
            take: arguments.yes,
            persist: arguments.persist,
        };
        let names = devices::to_change(&arguments.devices)?;
        names.into_iter().map(|name| (name, wish.clone())).collect()
    };
    let outcomes: Vec<Outcome<Bound>> = each(wishes, |name, wish| {
        let plan = match arguments.plan {
            true => bindings.plan(name, wish),
            false => undisturbed(|| bindings.bind(name, wish)),
        };
        plan.map(|plan| Bound(changed(plan, arguments.plan)))
    });
    report(&arguments.form, &outcomes, |bound| &bound.0)
}

/// Runs `jalctl unbind`.
pub fn unbind(arguments: &Unbind) -> Result<Exit, Problem> {
    if arguments.form.schema {
        return output::schema::<Unbound>().map(|()| Exit::Ok);
    }
    let bindings = Bindings::default();
    let names = devices::to_change(&arguments.devices)?;
    let wishes = names.into_iter().map(|name| (name, ())).collect();
    let outcomes: Vec<Outcome<Unbound>> = each(wishes, |name, ()| {
        let plan = match arguments.plan {
            true => bindings.unplan(name),
            false => undisturbed(|| bindings.unbind(name)),
        };
        plan.map(|plan| Unbound(changed(plan, arguments.plan)))
    });
    report(&arguments.form, &outcomes, |unbound| &unbound.0)
}

fn each<W, T>(
    wishes: Vec<(String, W)>,
    deed: impl Fn(&str, &W) -> jalapeno::Result<T>,
) -> Vec<Outcome<T>> {
    wishes
        .into_iter()
        .map(|(name, wish)| Outcome {
            result: deed(&name, &wish).map_err(Problem::from),
            name,
            uuid: None,
        })
        .collect()
}

/// The cards that are recorded and there, or those that were named.
fn recorded(bindings: &Bindings, names: &[String]) -> Result<Vec<(String, Wish)>, Problem> {
    let all = bindings.recorded()?;
    let wish = |driver: &str| Wish {
        driver: Some(driver.to_owned()),
        take: true, // whoever recorded it has agreed
        persist: false,
    };
    if names.is_empty() {
        let there = all
            .iter()
            .filter(|(address, _)| Bindings::is_there(address));
        return Ok(there
            .map(|(address, record)| (address.clone(), wish(&record.driver)))
            .collect());
    }
    let find = |name: &String| {
        let found = all.iter().find(|(address, _)| address == name);
        found
            .map(|(address, record)| (address.clone(), wish(&record.driver)))
            .ok_or_else(|| Problem {
                code: "not-found".into(),
                message: format!("no binding of {name} is recorded in /etc/jalapeno/bindings"),
                hint: Some(format!("jalctl bind --persist --device {name}")),
                exit: Exit::NoDevice,
            })
    };
    names.iter().map(find).collect()
}

/// Runs with the signals kept back that would leave a card between two drivers.
fn undisturbed<T>(deed: impl FnOnce() -> T) -> T {
    let mut kept = SigSet::empty();
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGTSTP,
    ] {
        kept.add(signal);
    }
    // Where they cannot be kept back, the deed is undone by the next unbind.
    let before = kept.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK);
    let done = deed();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    done
}

fn changed(plan: Plan, planned: bool) -> Changed {
    let chosen = || Bindings::driver_of(&plan.address);
    Changed {
        performed: !planned && !plan.steps.is_empty(),
        driver_after: match (plan.chosen_by_kernel, planned) {
            (true, false) => chosen(),
            _ => plan.then.clone(),
        },
        driver_before: plan.now,
        persistent: plan.persistent,
        steps: plan.steps.iter().map(ToString::to_string).collect(),
    }
}

fn report<T: Report>(
    form: &Form,
    outcomes: &[Outcome<T>],
    inner: impl Fn(&T) -> &Changed,
) -> Result<Exit, Problem> {
    output::devices(form.output, outcomes, |outcomes| {
        let done = outcomes
            .iter()
            .filter_map(|outcome| Some((outcome, outcome.result.as_ref().ok()?)));
        done.map(|(outcome, report)| words(&outcome.name, inner(report)))
            .collect()
    })?;
    if outcomes.is_empty() {
        eprintln!("no card that is recorded in /etc/jalapeno/bindings is there");
    }
    Ok(devices::exit(outcomes))
}

/// For eyes.
fn words(name: &str, changed: &Changed) -> String {
    let driver = |driver: &Option<String>| match driver {
        Some(driver) => driver.clone(),
        None => "no driver".into(),
    };
    let (before, after) = (
        driver(&changed.driver_before),
        driver(&changed.driver_after),
    );
    let again = match changed.persistent {
        true => ", and is bound again after a reboot or rescan",
        false => "",
    };
    if changed.steps.is_empty() {
        return format!("{name} has {after} already{again}: nothing to do\n");
    }
    let moved = match before == after {
        true => format!("keeps {after}"),
        false => format!("{before} -> {after}"),
    };
    if changed.performed {
        return format!("{name}  {moved}{again}\n");
    }
    let steps: String = changed
        .steps
        .iter()
        .map(|step| format!("  {step}\n"))
        .collect();
    format!("{name} would change: {moved}{again}\n{steps}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_reads_well() {
        let mut changed = Changed {
            performed: true,
            driver_before: None,
            driver_after: Some("vfio-pci".into()),
            persistent: true,
            steps: vec!["echo a > b".into()],
        };
        let again = ", and is bound again after a reboot or rescan";
        let name = "0000:01:00.0";
        assert_eq!(
            words(name, &changed),
            format!("{name}  no driver -> vfio-pci{again}\n")
        );
        changed.performed = false;
        assert_eq!(
            words(name, &changed),
            format!("{name} would change: no driver -> vfio-pci{again}\n  echo a > b\n")
        );
        changed.persistent = false;
        changed.steps.clear();
        assert_eq!(
            words(name, &changed),
            format!("{name} has vfio-pci already: nothing to do\n")
        );
    }

    #[test]
    fn signals_wait_until_the_deed_is_done() {
        let blocked = || SigSet::thread_get_mask().unwrap().contains(Signal::SIGINT);
        assert!(!blocked());
        assert!(undisturbed(blocked));
        assert!(!blocked());
    }
}
