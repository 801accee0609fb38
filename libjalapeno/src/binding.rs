//! Bindings: cards given to user space, by `driver_override`, and given back.
//!
//! A binding is the kernel's and ends with a reboot, or when the card is removed and found again. So
//! what a card had before is recorded in `/run`, which ends then too. A binding that shall be made
//! again is recorded in `/etc`; the packaged udev rule binds such a card whenever it appears.
//!
//! A step that fails undoes those before it. Only one process binds at a time.

use std::path::PathBuf;

use jalapeno_hw::pci::{DEVICE, VENDOR};

use crate::error::{Code, Error, Result};
use crate::host::{Host, Presence, Process};
use crate::pci::{Function, Root};

mod hands;
mod record;
mod step;

use hands::{Hands, Real};
pub use record::{Before, Record};
pub use step::Step;
use step::{Action, Failure};

/// The kernel's own driver for user space.
pub const VFIO_PCI: &str = "vfio-pci";
/// The driver of `kernel-shim`.
pub const SHIM: &str = "jalapeno_vfio_pci";

/// How a card is to be bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The driver; `None`: the kernel module's where it is loaded, vfio-pci elsewhere.
    pub driver: Option<String>,
    /// Whether it may be taken from a driver that is not for user space.
    pub take: bool,
    /// Whether it shall be bound again after a reboot and after a remove and rescan.
    pub persist: bool,
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The card's address.
    pub address: String,
    /// Its driver now.
    pub now: Option<String>,
    /// Its driver afterwards; `None`: none, or the kernel's choice.
    pub then: Option<String>,
    /// Whether the kernel chooses.
    pub chosen_by_kernel: bool,
    /// Whether it is bound again when it appears, afterwards.
    pub persistent: bool,
    /// Empty: all is as it should be.
    pub steps: Vec<Step>,
}

/// The bindings of a machine.
#[derive(Debug)]
pub struct Bindings {
    root: Root,
    hands: Box<dyn Hands>,
}

impl Default for Bindings {
    fn default() -> Self {
        Self {
            root: Root::default(),
            hands: Box::new(Real),
        }
    }
}

/// Looks at this machine.
impl Bindings {
    /// Whether there is a PCI function at an address.
    #[must_use]
    pub fn is_there(address: &str) -> bool {
        Root::default().function(address).is_there()
    }

    /// The driver that a PCI function has.
    #[must_use]
    pub fn driver_of(address: &str) -> Option<String> {
        Root::default().function(address).driver()
    }
}

/// An error in words, with what to do.
fn refused(code: Code, what: String, hint: impl Into<String>) -> Error {
    let hint = hint.into();
    Error::Binding { code, what, hint }
}

impl Bindings {
    /// What binding a card would do. Changes nothing and needs no privilege.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported`: no card of ours, no IOMMU group, another driver has it, other
    /// members of its group are in the way; `Busy`, with all holders named.
    pub fn plan(&self, address: &str, wish: &Wish) -> Result<Plan> {
        let function = self.card(address)?;
        let target = match &wish.driver {
            Some(driver) => known(driver)?,
            None if self.has_driver(SHIM) => SHIM,
            None => VFIO_PCI,
        };
        let now = function.driver();
        let lasting = record::for_ever(&self.root, address);
        let wanted = Record {
            driver: target.to_owned(),
            before: None,
        };
        let kept = Record::read(&lasting);
        let mut steps = Vec::new();
        if wish.persist && !matches!(&kept, Ok(Some(kept)) if *kept == wanted) {
            steps.push(Action::Save(lasting, wanted.text()));
        }
        if now.as_deref() != Some(target) {
            self.check_way(&function, wish.take)?;
            steps.extend(self.steps_to(&function, now.clone(), target)?);
        }
        Ok(Plan {
            address: address.to_owned(),
            now,
            then: Some(target.to_owned()),
            chosen_by_kernel: false,
            persistent: wish.persist || matches!(kept, Ok(Some(_))),
            steps: of(&function, steps),
        })
    }

    /// Binds a card.
    ///
    /// # Errors
    /// As [`Bindings::plan`]; `Permission`, `Io`, `Timeout`: a step failed, and those before it
    /// are undone, or the error says what is not.
    pub fn bind(&self, address: &str, wish: &Wish) -> Result<Plan> {
        self.planned(|| self.plan(address, wish))
    }

    /// What unbinding a card would do. Changes nothing and needs no privilege.
    ///
    /// # Errors
    /// `NotFound`, `Unsupported` (no card of ours), `Busy` (all holders named), `Io` (a record that
    /// cannot be read).
    pub fn unplan(&self, address: &str) -> Result<Plan> {
        let function = self.root.function(address);
        let lasting = record::for_ever(&self.root, address);
        let passing = record::of_this_boot(&self.root, address);
        let records = [lasting, passing.clone()];
        let records = records.into_iter().filter(|path| path.exists());
        let forget: Vec<Action> = records.map(Action::Forget).collect();
        // A card that is away can be forgotten all the same.
        let away = !function.is_there() && !forget.is_empty();
        let function = if away { function } else { self.card(address)? };
        let now = function.driver();
        let mut plan = Plan {
            address: address.to_owned(),
            then: now.clone(),
            now,
            chosen_by_kernel: false,
            persistent: false,
            steps: Vec::new(),
        };
        let mut steps = Vec::new();
        match plan.now.clone() {
            Some(driver) if function.is_given_to_vfio() => {
                self.check_free(&function)?;
                let record = read(&passing)?.filter(|record| record.driver == driver);
                steps.push(Action::Release(driver));
                plan.then = None;
                let before = record.and_then(|record| record.before);
                // A driver that is no longer to be had cannot have it back.
                let before = before.filter(|before| {
                    let driver = before.driver.as_ref();
                    driver.is_none_or(|driver| self.load(driver).is_ok())
                });
                match before {
                    None => {
                        plan.chosen_by_kernel = true;
                        steps.push(Action::Override(None));
                        steps.push(Action::Probe);
                    }
                    Some(before) => {
                        steps.push(Action::Override(before.driver_override));
                        if let Some(driver) = before.driver {
                            steps.extend(self.load(&driver)?);
                            steps.push(Action::Attach(driver.clone()));
                            plan.then = Some(driver);
                        }
                    }
                }
            }
            None if is_for_user_space(function.driver_override().as_deref()) => {
                steps.push(Action::Override(None));
            }
            _ => {}
        }
        steps.extend(forget);
        plan.steps = of(&function, steps);
        Ok(plan)
    }

    /// Gives a card back to what it had before it was bound; where that is not recorded, or no longer
    /// to be had, to the driver that the kernel chooses. It is no longer bound when it appears.
    ///
    /// # Errors
    /// As [`Bindings::unplan`] and [`Bindings::bind`].
    pub fn unbind(&self, address: &str) -> Result<Plan> {
        self.planned(|| self.unplan(address))
    }

    /// The cards that are bound again when they appear, with their drivers, by address.
    ///
    /// # Errors
    /// `Io`: a record cannot be read.
    pub fn recorded(&self) -> Result<Vec<(String, Record)>> {
        let folder = self.root.file(record::FOR_EVER);
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| crate::pci::is_address(name)).collect();
        names.sort_unstable();
        let mut found = Vec::new();
        for address in names {
            if let Some(record) = read(&folder.join(&address))? {
                found.push((address, record));
            }
        }
        Ok(found)
    }

    /// Looks for a card of ours that has what it takes to be bound.
    fn card(&self, address: &str) -> Result<Function> {
        let function = self.root.function(address);
        let absent = |why: &str| Error::NotFound {
            name: address.to_owned(),
            why: why.to_owned(),
        };
        if !crate::pci::is_address(address) {
            return Err(refused(
                Code::Unsupported,
                format!("{address} is not on the PCI bus: there is no driver to bind it to"),
                "jalctl list shows the cards there are",
            ));
        }
        if !function.is_there() {
            return Err(absent("no PCI function has this address"));
        }
        let ids = function.ids();
        let ids = ids.ok_or_else(|| absent("its ids cannot be read: it may be going away"))?;
        if ids != (VENDOR, DEVICE) {
            return Err(refused(
                Code::Unsupported,
                format!(
                    "{address} is no Jalapeño card: its ids are {:04x}:{:04x}, not \
                     {VENDOR:04x}:{DEVICE:04x}",
                    ids.0, ids.1
                ),
                "jalctl list shows the cards there are",
            ));
        }
        Ok(function)
    }

    /// Whether anything keeps a card from being bound.
    fn check_way(&self, function: &Function, take: bool) -> Result<()> {
        let address = &function.address;
        if function.group().is_none() {
            return Err(refused(
                Code::Unsupported,
                format!("{address} is in no IOMMU group: VFIO needs an IOMMU"),
                "turn it on in the firmware's setup, and by intel_iommu=on or amd_iommu=on on the \
                 kernel's command line",
            ));
        }
        match function.driver() {
            Some(_) if function.is_given_to_vfio() => self.check_free(function)?,
            Some(driver) if driver != "pci-stub" && !take => {
                return Err(refused(
                    Code::Unsupported,
                    format!("{address} is bound to {driver}, whose users would lose it"),
                    "look with --plan --yes, then take it away from its driver with --yes",
                ));
            }
            _ => {}
        }
        let others: Vec<String> = function
            .in_the_way()
            .into_iter()
            .map(|(member, driver)| format!("{member} (bound to {driver})"))
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        Err(refused(
            Code::Unsupported,
            format!(
                "{address} shares IOMMU group {} with {}: VFIO gives away whole groups",
                function.group().unwrap_or_default(),
                others.join(", ")
            ),
            "unbind them or give them to vfio-pci too; another slot, or ACS in the firmware's \
             setup, gives the card a group of its own",
        ))
    }

    /// Whether nobody holds a card.
    fn check_free(&self, function: &Function) -> Result<()> {
        let pids = function.holders();
        if pids.is_empty() {
            return Ok(());
        }
        let name = |pid: &u32| match Process::look(&self.root, *pid).command {
            Some(command) => format!("process {pid} ({command})"),
            None => format!("process {pid}"),
        };
        let names: Vec<String> = pids.iter().map(name).collect();
        let what = format!("{} is in use by {}", function.address, names.join(", "));
        let hint = "jalctl ps tells more of them; end them, then try again";
        Err(refused(Code::Busy, what, hint))
    }

    /// From one driver to another.
    fn steps_to(
        &self,
        function: &Function,
        now: Option<String>,
        target: &str,
    ) -> Result<Vec<Action>> {
        let passing = record::of_this_boot(&self.root, &function.address);
        // Bound by us already, to the other driver: what was before that is what was before.
        let earlier = read(&passing)?.filter(|record| Some(&record.driver) == now.as_ref());
        let before = earlier.and_then(|record| record.before).unwrap_or(Before {
            driver: now.clone(),
            driver_override: function.driver_override(),
        });
        let record = Record {
            driver: target.to_owned(),
            before: Some(before),
        };
        let mut steps: Vec<Action> = self.load(target)?.into_iter().collect();
        steps.push(Action::Save(passing, record.text()));
        steps.extend(now.map(Action::Release));
        steps.push(Action::Override(Some(target.to_owned())));
        steps.push(Action::Attach(target.to_owned()));
        Ok(steps)
    }

    fn has_driver(&self, driver: &str) -> bool {
        let drivers = self.root.file("sys/bus/pci/drivers");
        drivers.join(driver).is_dir()
    }

    /// The step that loads a driver, where it is not there.
    fn load(&self, driver: &str) -> Result<Option<Action>> {
        if self.has_driver(driver) {
            return Ok(None);
        }
        if Host::look(&self.root).module(driver) == Presence::Absent {
            let how = match driver {
                SHIM => {
                    "docs/install.md says how to build the kernel module; \
                         --driver vfio-pci does without it"
                }
                _ => "install the whole package of this kernel: it has a smaller one without it",
            };
            return Err(refused(
                Code::Unsupported,
                format!("this kernel has no driver {driver}"),
                how,
            ));
        }
        Ok(Some(Action::Load(driver.to_owned())))
    }

    /// Plans and performs while no other process does.
    fn planned(&self, plan: impl Fn() -> Result<Plan>) -> Result<Plan> {
        // Most mistakes are told without any privilege, and what is done already needs none.
        let looked = plan()?;
        if looked.steps.is_empty() {
            return Ok(looked);
        }
        let folder = self.root.file(record::OF_THIS_BOOT);
        let _lock = hands::lock(&folder).map_err(|source| match source.raw_os_error() {
            Some(libc::EWOULDBLOCK) => refused(
                Code::Busy,
                format!(
                    "another process binds or unbinds a card: {} is locked",
                    folder.join(".lock").display()
                ),
                "wait for it, then try again",
            ),
            _ => told(
                format!("use {}", folder.display()),
                &source,
                "only root may: run the same with sudo".into(),
                "nothing was done",
            ),
        })?;
        let plan = plan()?;
        self.perform(&plan)?;
        Ok(plan)
    }

    fn perform(&self, plan: &Plan) -> Result<()> {
        let mut undo = Vec::new();
        for step in &plan.steps {
            match step.perform(&*self.hands) {
                Ok(back) => undo.extend(back),
                Err(Failure { source, hint }) => {
                    let after = match source.kind() {
                        // The kernel is still at it, and would make every other write wait too.
                        std::io::ErrorKind::TimedOut => {
                            "the kernel is still at it; nothing was undone".into()
                        }
                        _ => self.undo(undo),
                    };
                    return Err(told(step.to_string(), &source, hint, &after));
                }
            }
        }
        Ok(())
    }

    /// Undoes steps, the last first; says how that went.
    fn undo(&self, steps: Vec<Step>) -> String {
        if steps.is_empty() {
            return "nothing was changed".into();
        }
        let mut left = Vec::new();
        for step in steps.into_iter().rev() {
            if let Err(failure) = step.perform(&*self.hands) {
                left.push(format!("{step}: {}", failure.source));
            }
        }
        match left.is_empty() {
            true => "all is as it was before".into(),
            false => format!("NOT undone: {}", left.join("; ")),
        }
    }
}

/// A step's failure in words.
fn told(tried: String, source: &std::io::Error, hint: String, after: &str) -> Error {
    let code = match source.kind() {
        std::io::ErrorKind::PermissionDenied if source.raw_os_error() == Some(libc::EACCES) => {
            Code::Permission
        }
        std::io::ErrorKind::TimedOut => Code::Timeout,
        _ => Code::Io,
    };
    refused(code, format!("{tried}: {source}; {after}"), hint)
}

/// The driver of this name, if it is one for user space.
fn known(driver: &str) -> Result<&'static str> {
    let drivers = [VFIO_PCI, SHIM];
    let found = drivers.into_iter().find(|known| *known == driver);
    found.ok_or_else(|| Error::Invalid {
        what: format!("{driver:?} is no driver for user space: {VFIO_PCI} or {SHIM}"),
    })
}

fn is_for_user_space(driver: Option<&str>) -> bool {
    matches!(driver, Some(VFIO_PCI | SHIM))
}

fn of(function: &Function, actions: Vec<Action>) -> Vec<Step> {
    let step = |action| Step {
        function: function.clone(),
        action,
    };
    actions.into_iter().map(step).collect()
}

fn read(path: &PathBuf) -> Result<Option<Record>> {
    Record::read(path).map_err(|source| {
        refused(
            Code::Io,
            format!("read {}: {source}", path.display()),
            format!("look at it; sudo rm {} forgets it", path.display()),
        )
    })
}

#[cfg(test)]
mod played;
#[cfg(test)]
mod tests;
