//! A kernel that a test plays: what its files do when they are written, and what goes wrong.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::hands::{Hands, Real};
use crate::pci::Root;

/// What goes wrong, counted from the first call of the hands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mishap {
    None,
    /// Call n fails, and no other.
    At(u32),
    /// Call n and all after it fail.
    From(u32),
    /// The card is gone at call n.
    Gone(u32),
    /// The driver says yes and does not take the card.
    Idle,
    /// The first driver that is to take the card may not yet, with this error; `true`: the kernel then
    /// gives it to it.
    Early(i32, bool),
    /// A write never comes home.
    Stuck(u32),
}

/// Hands that do what the kernel does.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) path: PathBuf,
    pub(super) calls: Rc<Cell<u32>>,
    pub(super) mishap: Mishap,
    /// A driver was to take the card.
    pub(super) asked: Cell<bool>,
}

impl Kernel {
    fn count(&self) -> io::Result<()> {
        let call = self.calls.get();
        self.calls.set(call + 1);
        match self.mishap {
            Mishap::At(n) if call == n => Err(io::Error::from_raw_os_error(libc::EINVAL)),
            Mishap::From(n) if call >= n => Err(io::Error::from_raw_os_error(libc::EIO)),
            Mishap::Stuck(n) if call == n => Err(io::Error::from(io::ErrorKind::TimedOut)),
            Mishap::Gone(n) if call == n => {
                let card = self.path.join("sys/bus/pci/devices").join("0000:02:00.0");
                fs::remove_dir_all(card)
            }
            _ => Ok(()),
        }
    }
}

impl Hands for Kernel {
    fn write(&self, file: &Path, word: &str) -> io::Result<()> {
        self.count()?;
        let devices = self.path.join("sys/bus/pci/devices");
        let inside = file.strip_prefix(self.path.join("sys/bus/pci")).unwrap();
        let names: Vec<&str> = inside.iter().map(|name| name.to_str().unwrap()).collect();
        let none = || io::Error::from_raw_os_error(libc::ENODEV);
        let link = devices.join(word).join("driver");
        let chosen = |card: &str| Root::at(&self.path).function(card).driver_override();
        match names[..] {
            ["devices", card, "driver_override"] => {
                let file = devices.join(card).join("driver_override");
                fs::metadata(&file)?;
                fs::write(file, if word.is_empty() { "(null)\n" } else { word })
            }
            ["drivers", driver, "unbind"] => {
                let bound = fs::read_link(&link).map_err(|_| none())?;
                assert!(bound.ends_with(driver), "{driver} has it not");
                fs::remove_file(link)
            }
            ["drivers", driver, "bind"] => {
                let folder = self.path.join("sys/bus/pci/drivers").join(driver);
                fs::metadata(&folder)?;
                // nvme takes it by its ids, others by their name only.
                let matches = match chosen(word) {
                    Some(only) => only == driver,
                    None => driver == "nvme",
                };
                if !matches || link.exists() || !devices.join(word).exists() {
                    return Err(none());
                }
                match self.mishap {
                    Mishap::Early(why, given) if !self.asked.replace(true) => {
                        let not_yet = Err(io::Error::from_raw_os_error(why));
                        match given {
                            true => symlink(folder, link).and(not_yet),
                            false => not_yet,
                        }
                    }
                    Mishap::Idle if driver != "nvme" => Ok(()),
                    _ => symlink(folder, link),
                }
            }
            ["drivers_probe"] => match self.path.join("sys/bus/pci/drivers/nvme") {
                nvme if chosen(word).is_none() && nvme.exists() => symlink(nvme, link),
                _ => Ok(()),
            },
            _ => panic!("{} is written", file.display()),
        }
    }

    fn load(&self, module: &str) -> io::Result<()> {
        self.count()?;
        fs::create_dir_all(self.path.join("sys/bus/pci/drivers").join(module))
    }

    fn save(&self, file: &Path, text: Option<&str>) -> io::Result<()> {
        self.count()?;
        Real.save(file, text)
    }
}
