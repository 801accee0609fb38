//! Discovery: which devices there are, from the environment and from sysfs.
//!
//! `JALAPENO_DEVICES` (comma-separated `vfio-user:PATH`) adds devices; `JALAPENO_VISIBLE_DEVICES`
//! (comma-separated UUIDs, PCI addresses or names) narrows what is seen. Both are ignored in a
//! process that runs with privileges its caller does not have (AT_SECURE).

use std::fs;
use std::path::Path;
use std::sync::Arc;

use jalapeno_hw::pci::{DEVICE, VENDOR};

use crate::device::{Device, Role};
use crate::error::{Error, Result};
use crate::units::Uuid;

/// Where the kernel lists PCI functions.
const SYSFS: &str = "/sys/bus/pci/devices";
/// The auxiliary vector's key of AT_SECURE.
const AT_SECURE: u64 = 23;

/// A device that is there.
#[derive(Debug)]
pub struct Found {
    /// What `Device::open` takes: `vfio-user:PATH`, or a PCI address.
    pub name: String,
    /// Its UUID, where it answered.
    pub uuid: Option<Uuid>,
    /// The device, open as an observer, where it answered.
    pub device: Option<Arc<Device>>,
    /// The kernel driver bound to it; PCI functions only.
    pub driver: Option<String>,
    /// Why it cannot be used, if so.
    pub problem: Option<Error>,
}

/// Lists the devices there are. Disturbs no owner; a device that does not answer is listed with
/// its problem.
#[must_use]
pub fn list() -> Vec<Found> {
    let environment = Environment::of_process();
    let mut found: Vec<Found> = environment.devices.iter().map(|name| look(name)).collect();
    found.extend(pci(Path::new(SYSFS)));
    found.retain(|device| environment.shows(device));
    found
}

/// What a name stands for: `vfio-user:PATH` and PCI addresses stand for themselves.
pub(crate) fn resolve(name: &str) -> Result<String> {
    if is_pci_address(name) {
        if Path::new(SYSFS).join(name).exists() {
            return Ok(name.into());
        }
        return Err(Error::NotFound {
            name: name.into(),
            why: "no PCI function has this address".into(),
        });
    }
    let Ok(uuid) = name.parse::<Uuid>() else {
        return Err(Error::NotFound {
            name: name.into(),
            why: "it is neither a UUID, nor a PCI address (0000:01:00.0), nor vfio-user:PATH"
                .into(),
        });
    };
    let seen = list();
    let count = seen.len();
    seen.into_iter()
        .find(|device| device.uuid == Some(uuid))
        .map(|device| device.name)
        .ok_or_else(|| Error::NotFound {
            name: name.into(),
            why: format!("none of the {count} devices in sight has this UUID"),
        })
}

/// The name of the only device there is.
///
/// # Errors
/// `NotFound` where there is none, or several.
pub fn only() -> Result<String> {
    let mut seen = list();
    match (seen.pop(), seen.len()) {
        (Some(device), 0) => Ok(device.name),
        (None, _) => Err(Error::NotFound {
            name: "at all".into(),
            why: "neither JALAPENO_DEVICES nor the PCI bus has one".into(),
        }),
        (Some(_), more) => Err(Error::NotFound {
            name: "chosen".into(),
            why: format!("there are {}: name one", more + 1),
        }),
    }
}

fn look(name: &str) -> Found {
    let opened = if name.starts_with("vfio-user:") {
        Device::open(name, Role::Observe)
    } else {
        Err(Error::Invalid {
            what: format!("JALAPENO_DEVICES has {name:?}: entries look like vfio-user:PATH"),
        })
    };
    let (device, problem) = match opened {
        Ok(device) => (Some(device), None),
        Err(error) => (None, Some(error)),
    };
    Found {
        name: name.into(),
        uuid: device.as_ref().map(|device| device.info().uuid),
        device,
        driver: None,
        problem,
    }
}

/// PCI functions with our ids. Files that vanish while being read are functions that left.
fn pci(root: &Path) -> Vec<Found> {
    let Ok(entries) = fs::read_dir(root) else {
        return Vec::new();
    };
    let id = |path: &Path, file: &str| -> Option<u16> {
        let text = fs::read_to_string(path.join(file)).ok()?;
        u16::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
    };
    let mut found: Vec<Found> = entries
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let ours = id(&path, "vendor")? == VENDOR && id(&path, "device")? == DEVICE;
            let name = entry.file_name().into_string().ok()?;
            let driver = fs::read_link(path.join("driver")).ok();
            ours.then(|| Found {
                problem: Some(Error::Unsupported {
                    what: format!("opening {name}: this version reaches devices by vfio-user only"),
                }),
                name,
                uuid: None,
                device: None,
                driver: driver
                    .and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned())),
            })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn is_pci_address(name: &str) -> bool {
    let shape = b"hhhh:hh:hh.h";
    name.len() == shape.len()
        && name.bytes().zip(shape).all(|(byte, &kind)| match kind {
            b'h' => byte.is_ascii_hexdigit(),
            other => byte == other,
        })
}

/// The environment, as far as it may be believed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Environment {
    devices: Vec<String>,
    visible: Option<Vec<String>>,
}

impl Environment {
    fn of_process() -> Self {
        // Where /proc cannot be read, nothing says that the caller may be believed.
        let secure = fs::read("/proc/self/auxv").map_or(true, |auxv| is_secure(&auxv));
        let value = |key: &str| std::env::var(key).ok();
        Self::of(
            secure,
            value("JALAPENO_DEVICES"),
            value("JALAPENO_VISIBLE_DEVICES"),
        )
    }

    fn of(secure: bool, devices: Option<String>, visible: Option<String>) -> Self {
        if secure {
            return Self::default();
        }
        let split = |text: String| -> Vec<String> {
            text.split(',')
                .map(str::trim)
                .filter(|entry| !entry.is_empty())
                .map(String::from)
                .collect()
        };
        Self {
            devices: devices.map(split).unwrap_or_default(),
            visible: visible.map(split),
        }
    }

    fn shows(&self, device: &Found) -> bool {
        self.visible.as_ref().is_none_or(|names| {
            names.iter().any(|name| {
                *name == device.name || name.parse::<Uuid>().is_ok_and(|u| device.uuid == Some(u))
            })
        })
    }
}

fn is_secure(auxv: &[u8]) -> bool {
    let (words, _) = auxv.as_chunks::<8>();
    let mut pairs = words.chunks_exact(2);
    pairs
        .find(|pair| u64::from_ne_bytes(pair[0]) == AT_SECURE)
        .is_none_or(|pair| u64::from_ne_bytes(pair[1]) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, uuid: Option<Uuid>) -> Found {
        Found {
            device: None,
            name: name.into(),
            uuid,
            driver: None,
            problem: None,
        }
    }

    #[test]
    fn the_environment_adds_and_narrows() {
        let uuid = Uuid([7; 16]);
        let devices = Some("vfio-user:/a, ,vfio-user:/b,".into());
        let environment = Environment::of(false, devices, Some(uuid.to_string()));
        assert_eq!(environment.devices, ["vfio-user:/a", "vfio-user:/b"]);
        assert!(environment.shows(&found("vfio-user:/a", Some(uuid))));
        assert!(!environment.shows(&found("vfio-user:/b", None)));
        let named = Environment::of(false, None, Some("0000:01:00.0".into()));
        assert!(named.shows(&found("0000:01:00.0", None)));
        let none = Environment::of(false, None, Some(String::new()));
        assert!(
            !none.shows(&found("0000:01:00.0", None)),
            "set and empty: none"
        );
    }

    #[test]
    fn a_privileged_process_believes_no_environment() {
        let environment = Environment::of(true, Some("vfio-user:/evil".into()), Some("x".into()));
        assert_eq!(environment, Environment::default());
        let pair = |key: u64, value: u64| [key.to_ne_bytes(), value.to_ne_bytes()].concat();
        assert!(!is_secure(&[pair(6, 4096), pair(23, 0)].concat()));
        assert!(is_secure(&[pair(6, 4096), pair(23, 1)].concat()));
        assert!(is_secure(&pair(6, 4096)), "nothing said: not believed");
        assert!(is_secure(&[1, 2, 3]));
    }

    #[test]
    fn names_that_are_nothing_say_what_a_name_looks_like() {
        for name in ["", "0", "card", "0000:01:00", "0000:0g:00.0", "/dev/vfio/1"] {
            let error = resolve(name).unwrap_err();
            assert!(error.to_string().contains("vfio-user:PATH"), "{error}");
        }
        let error = resolve("ffff:fe:1d.7").unwrap_err();
        assert!(error.to_string().contains("no PCI function"), "{error}");
    }

    #[test]
    fn a_pci_function_is_found_by_its_ids_and_its_driver_is_named() {
        let root = std::env::temp_dir().join(format!("jalapeno-pci-{}", std::process::id()));
        let write = |bdf: &str, vendor: &str, device: &str| {
            let path = root.join(bdf);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("vendor"), vendor).unwrap();
            fs::write(path.join("device"), device).unwrap();
            path
        };
        let ours = format!("{VENDOR:#06x}\n");
        let card = write("0000:02:00.0", &ours, &format!("{DEVICE:#06x}\n"));
        std::os::unix::fs::symlink("/sys/bus/pci/drivers/vfio-pci", card.join("driver")).unwrap();
        write("0000:01:00.0", "0x8086\n", "0x0001\n");
        write("0000:03:00.0", &ours, "garbage");
        fs::create_dir_all(root.join("0000:04:00.0")).unwrap(); // its files have vanished
        let list = pci(&root);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(list.len(), 1);
        assert_eq!(list[0].name, "0000:02:00.0");
        assert_eq!(list[0].driver.as_deref(), Some("vfio-pci"));
        assert!(pci(&root).is_empty(), "no sysfs, no functions");
    }
}
