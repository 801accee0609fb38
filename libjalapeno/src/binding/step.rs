//! One step of binding or unbinding a card, and the step that undoes it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::hands::Hands;
use crate::pci::Function;

/// Longest from a card's being told of to its being had, on a bus with much beside it.
const FOUND_TIME: Duration = Duration::from_secs(1);

/// See the file's head. Displayed as the shell command that does the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The card.
    pub(super) function: Function,
    /// What is done.
    pub(super) action: Action,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Loads a driver's module.
    Load(String),
    /// Takes the card from its driver.
    Release(String),
    /// Says which driver alone may have it; `None`: whichever matches.
    Override(Option<String>),
    /// Gives it to a driver.
    Attach(String),
    /// Lets the kernel choose a driver.
    Probe,
    /// Writes a record.
    Save(PathBuf, String),
    /// Removes a record.
    Forget(PathBuf),
}

/// Why a step failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) source: io::Error,
    pub(super) hint: String,
}

impl Step {
    fn driver_file(&self, driver: &str, file: &str) -> PathBuf {
        let drivers = self.function.root().file("sys/bus/pci/drivers");
        drivers.join(driver).join(file)
    }

    fn with(&self, action: Action) -> Self {
        Self {
            function: self.function.clone(),
            action,
        }
    }

    /// Does it, and gives the step that undoes it.
    pub(super) fn perform(&self, hands: &dyn Hands) -> Result<Option<Self>, Failure> {
        let address = &self.function.address;
        let done = match &self.action {
            Action::Load(module) => hands.load(module).map(|()| None),
            Action::Release(driver) => hands
                .write(&self.driver_file(driver, "unbind"), address)
                .map(|()| Some(Action::Attach(driver.clone()))),
            Action::Override(driver) => {
                let before = self.function.driver_override();
                let word = driver.as_deref().unwrap_or_default();
                hands
                    .write(&self.function.path().join("driver_override"), word)
                    .map(|()| Some(Action::Override(before)))
            }
            Action::Attach(driver) => self
                .attach(hands, driver)
                .and_then(|()| match self.function.driver() {
                    Some(bound) if bound == *driver => Ok(()),
                    Some(other) => Err(io::Error::other(format!("it is bound to {other} now"))),
                    None => Err(io::Error::other("no driver is bound to it all the same")),
                })
                .map(|()| Some(Action::Release(driver.clone()))),
            Action::Probe => hands
                .write(
                    &self.function.root().file("sys/bus/pci/drivers_probe"),
                    address,
                )
                .map(|()| self.function.driver().map(Action::Release)),
            Action::Save(path, text) => {
                let before = std::fs::read_to_string(path).ok();
                hands.save(path, Some(text)).map(|()| {
                    Some(match before {
                        Some(text) => Action::Save(path.clone(), text),
                        None => Action::Forget(path.clone()),
                    })
                })
            }
            Action::Forget(path) => {
                let before = std::fs::read_to_string(path).ok();
                let back = |text| Action::Save(path.clone(), text);
                hands.save(path, None).map(|()| before.map(back))
            }
        };
        match done {
            Ok(undo) => Ok(undo.map(|action| self.with(action))),
            Err(source) => Err(Failure {
                hint: self.hint(&source),
                source,
            }),
        }
    }

    /// Gives it to a driver. A card that was just found is told of before the kernel lets a driver have
    /// it (ENODEV), and then the kernel itself may be the one that gives it, to whom it was promised
    /// (EBUSY, if that is in the middle of our call).
    fn attach(&self, hands: &dyn Hands, driver: &str) -> io::Result<()> {
        let begin = Instant::now();
        loop {
            match hands.write(&self.driver_file(driver, "bind"), &self.function.address) {
                Err(why) if matches!(why.raw_os_error(), Some(libc::ENODEV | libc::EBUSY)) => {
                    if self.function.driver().is_some() {
                        return Ok(()); // which one is looked at next
                    }
                    // Busy without a driver is the driver's own word.
                    let asks_again = why.raw_os_error() == Some(libc::ENODEV);
                    let late = begin.elapsed() >= FOUND_TIME;
                    if !asks_again || late || !self.function.is_there() {
                        return Err(why);
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                written => return written,
            }
        }
    }

    /// What to do about a failure.
    fn hint(&self, source: &io::Error) -> String {
        let address = &self.function.address;
        if !self.function.is_there() {
            return format!("{address} is gone: jalctl list shows the cards there are");
        }
        let record = matches!(self.action, Action::Save(..) | Action::Forget(..));
        match (&self.action, source.raw_os_error()) {
            (_, Some(libc::EACCES)) => "only root may: run the same with sudo".into(),
            (_, Some(libc::EROFS)) if record => {
                "its file system is read-only: without --persist nothing is kept in /etc".into()
            }
            (_, Some(libc::EROFS)) => {
                "sysfs is read-only here, as in a container: bind the card on the host".into()
            }
            (_, Some(libc::ENOSPC)) => "make room on its file system".into(),
            (Action::Load(module), _) => format!(
                "this kernel's package has no {module}, or it was not built for it: \
                 sudo modprobe {module}"
            ),
            (_, None) if source.kind() == io::ErrorKind::TimedOut => format!(
                "somebody opened {address} meanwhile: jalctl ps shows who; the kernel goes on \
                 when he lets it go"
            ),
            (Action::Attach(driver), Some(libc::ENODEV)) => {
                format!("{driver} does not take this card: jalctl bind --driver vfio-pci")
            }
            (Action::Attach(_), _) => "sudo dmesg | tail says why the driver refused".into(),
            _ => "sudo dmesg | tail may say more".into(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = &self.function.address;
        match &self.action {
            Action::Load(module) => write!(f, "modprobe {module}"),
            Action::Release(driver) => {
                let file = self.driver_file(driver, "unbind");
                write!(f, "echo {address} > {}", file.display())
            }
            Action::Override(driver) => {
                let file = self.function.path().join("driver_override");
                let word = driver.as_deref().unwrap_or("''");
                write!(f, "echo {word} > {}", file.display())
            }
            Action::Attach(driver) => {
                let file = self.driver_file(driver, "bind");
                write!(f, "echo {address} > {}", file.display())
            }
            Action::Probe => {
                let file = self.function.root().file("sys/bus/pci/drivers_probe");
                write!(f, "echo {address} > {}", file.display())
            }
            Action::Save(path, _) => write!(f, "record it in {}", path.display()),
            Action::Forget(path) => write!(f, "rm -f {}", path.display()),
        }
    }
}
