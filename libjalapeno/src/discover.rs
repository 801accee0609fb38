//! Discovery: which devices there are, from the environment and from sysfs.
//!
//! `JALAPENO_DEVICES` (comma-separated `vfio-user:PATH` and PCI addresses) adds devices;
//! `JALAPENO_VISIBLE_DEVICES` (comma-separated UUIDs, PCI addresses or names) narrows what is seen;
//! `JALAPENO_BACKEND` (`auto`, `group`, `cdev`) says how PCI functions are opened. All are ignored in
//! a process that runs with privileges its caller does not have (AT_SECURE).

use std::fs;
use std::sync::Arc;

use jalapeno_hw::pci::{DEVICE, VENDOR};

use crate::device::{Device, Role};
use crate::error::{Error, Result};
use crate::pci::{Function, Link, Root, is_address};
use crate::transport::opening::{self, Backend};
use crate::units::Uuid;

/// The auxiliary vector's key of AT_SECURE.
const AT_SECURE: u64 = 23;

/// A device that is there.
#[derive(Debug)]
pub struct Found {
    /// What `Device::open` takes: `vfio-user:PATH`, or a PCI address.
    pub name: String,
    /// Its UUID, where it answered. A PCI function says it through the kernel module, or once it is
    /// open: it is not opened (and so reset) for a list.
    pub uuid: Option<Uuid>,
    /// The device, open as an observer, where it answered.
    pub device: Option<Arc<Device>>,
    /// The kernel driver bound to it; PCI functions only.
    pub driver: Option<String>,
    /// What sysfs says of it; PCI functions only.
    pub place: Option<Place>,
    /// Why it cannot be used, if so.
    pub problem: Option<Error>,
}

/// Where a PCI function is in its machine, and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its NUMA node, where the machine has such.
    pub numa_node: Option<u32>,
    /// Its IOMMU group.
    pub group: Option<u32>,
    /// Its link now.
    pub link: Option<Link>,
    /// The best link it could have.
    pub link_max: Option<Link>,
    /// The processes that have it open, as far as this one may see.
    pub holders: Vec<u32>,
}

/// Lists the devices there are. Disturbs no owner; a device that does not answer is listed with
/// its problem.
#[must_use]
pub fn list() -> Vec<Found> {
    list_in(&Root::default(), &Environment::of_process())
}

fn list_in(root: &Root, environment: &Environment) -> Vec<Found> {
    let (named, others): (Vec<&String>, Vec<&String>) = environment
        .devices
        .iter()
        .partition(|name| is_address(name));
    let mut found: Vec<Found> = others.into_iter().map(|name| look(name)).collect();
    found.extend(root.functions().iter().filter_map(|function| {
        let wanted = named.contains(&&function.address);
        (wanted || function.ids() == Some((VENDOR, DEVICE))).then(|| describe(function))
    }));
    found.extend(
        named
            .into_iter()
            .filter(|name| !root.function(name).is_there())
            .map(|name| Found {
                name: name.clone(),
                uuid: None,
                device: None,
                driver: None,
                place: None,
                problem: Some(absent(name)),
            }),
    );
    found.retain(|device| environment.shows(device));
    found
}

/// How PCI functions are to be opened, as the environment says.
///
/// # Errors
/// `Invalid` where it says nonsense.
pub(crate) fn backend() -> Result<Backend> {
    Environment::of_process().backend.parse()
}

fn absent(name: &str) -> Error {
    Error::NotFound {
        name: name.into(),
        why: "no PCI function has this address".into(),
    }
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// This device: `vfio-user:PATH`, or a PCI address.
    Named(String),
    /// One of these PCI functions, if any, which tell their UUIDs only when they are open. To open
    /// one is to reset it, so these are free, and each is opened once.
    OneOf {
        /// The addresses.
        addresses: Vec<String>,
        /// The UUID that was asked for.
        uuid: Uuid,
        /// How many devices are in sight.
        seen: usize,
    },
}

/// What a name stands for: `vfio-user:PATH` and PCI addresses stand for themselves. Nothing on the
/// PCI bus is opened: a card bound to the kernel module tells its UUID in sysfs.
pub(crate) fn resolve(name: &str) -> Result<Resolved> {
    if is_address(name) {
        return match Root::default().function(name).is_there() {
            true => Ok(Resolved::Named(name.into())),
            false => Err(absent(name)),
        };
    }
    let Ok(uuid) = name.parse::<Uuid>() else {
        return Err(Error::NotFound {
            name: name.into(),
            why: "it is neither a UUID, nor a PCI address (0000:01:00.0), nor vfio-user:PATH"
                .into(),
        });
    };
    Ok(candidates(&list(), uuid))
}

/// The device with this UUID among those seen, or those that could be it.
fn candidates(seen: &[Found], uuid: Uuid) -> Resolved {
    if let Some(device) = seen.iter().find(|device| device.uuid == Some(uuid)) {
        return Resolved::Named(device.name.clone());
    }
    let silent = seen
        .iter()
        .filter(|device| device.uuid.is_none() && device.is_free());
    Resolved::OneOf {
        addresses: silent.map(|device| device.name.clone()).collect(),
        uuid,
        seen: seen.len(),
    }
}

/// No device has the UUID that was asked for.
pub(crate) fn unseen(name: &str, seen: usize) -> Error {
    Error::NotFound {
        name: name.into(),
        why: format!("none of the {seen} devices in sight has this UUID"),
    }
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
            what: format!(
                "JALAPENO_DEVICES has {name:?}: entries look like vfio-user:PATH or 0000:01:00.0"
            ),
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
        place: None,
        problem,
    }
}

impl Found {
    /// Whether it is a PCI function that can be opened and that nobody seems to hold.
    fn is_free(&self) -> bool {
        let held = |place: &Place| !place.holders.is_empty();
        self.problem.is_none() && self.place.as_ref().is_some_and(|place| !held(place))
    }
}

/// A PCI function as sysfs and, where it is bound to the kernel module, the module tell of it.
fn describe(function: &Function) -> Found {
    Found {
        name: function.address.clone(),
        uuid: function
            .text("jalapeno/uuid")
            .and_then(|text| text.parse().ok()),
        device: None,
        driver: function.driver(),
        place: Some(Place {
            numa_node: function.numa_node(),
            group: function.group(),
            link: function.link(),
            link_max: function.link_max(),
            holders: function.holders(),
        }),
        problem: opening::survey(function, backend().unwrap_or_default()).err(),
    }
}

/// The environment, as far as it may be believed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Environment {
    devices: Vec<String>,
    visible: Option<Vec<String>>,
    backend: String,
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
            value("JALAPENO_BACKEND"),
        )
    }

    fn of(
        secure: bool,
        devices: Option<String>,
        visible: Option<String>,
        backend: Option<String>,
    ) -> Self {
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
            backend: backend.unwrap_or_default(),
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
    use crate::pci::played::Machine;

    fn found(name: &str, uuid: Option<Uuid>) -> Found {
        Found {
            device: None,
            name: name.into(),
            uuid,
            driver: None,
            place: None,
            problem: None,
        }
    }

    #[test]
    fn the_environment_adds_and_narrows() {
        let uuid = Uuid([7; 16]);
        let devices = Some("vfio-user:/a, ,vfio-user:/b,".into());
        let environment = Environment::of(false, devices, Some(uuid.to_string()), None);
        assert_eq!(environment.devices, ["vfio-user:/a", "vfio-user:/b"]);
        assert!(environment.shows(&found("vfio-user:/a", Some(uuid))));
        assert!(!environment.shows(&found("vfio-user:/b", None)));
        let named = Environment::of(false, None, Some("0000:01:00.0".into()), None);
        assert!(named.shows(&found("0000:01:00.0", None)));
        let none = Environment::of(false, None, Some(String::new()), None);
        assert!(
            !none.shows(&found("0000:01:00.0", None)),
            "set and empty: none"
        );
    }

    #[test]
    fn a_card_that_vanishes_between_two_looks_is_listed_or_not_and_never_a_panic() {
        let machine = Machine::new();
        let card = "0000:02:00.0";
        machine.function(card, (VENDOR, DEVICE), Some(4), Some("vfio-pci"));
        let folder = machine.path.join("sys/bus/pci/devices").join(card);
        let away = machine.path.join("away");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    fs::rename(&folder, &away).unwrap();
                    std::thread::yield_now();
                    fs::rename(&away, &folder).unwrap();
                }
            });
            let (mut seen, mut unseen) = (0, 0);
            let begin = std::time::Instant::now();
            while (seen == 0 || unseen == 0) && begin.elapsed().as_secs() < 60 {
                let list = list_in(&machine.root, &Environment::default());
                assert!(list.len() <= 1);
                for found in &list {
                    assert_eq!((found.name.as_str(), found.uuid), (card, None));
                }
                seen += list.len();
                unseen += 1 - list.len();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(seen > 0 && unseen > 0, "{seen} and {unseen}");
        });
    }

    #[test]
    fn a_privileged_process_believes_no_environment() {
        let environment = Environment::of(
            true,
            Some("vfio-user:/evil".into()),
            Some("x".into()),
            Some("group".into()),
        );
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
    fn cards_are_found_by_their_ids_and_say_where_they_are_and_what_keeps_them() {
        let machine = Machine::new();
        let ours = (VENDOR, DEVICE);
        machine.function("0000:02:00.0", ours, Some(4), Some("vfio-pci"));
        machine.function("0000:03:00.0", ours, Some(5), Some("jalapeno_vfio_pci"));
        machine.function("0000:05:00.0", ours, Some(6), Some("nvme"));
        machine.function("0000:01:00.0", (0x8086, 1), Some(1), Some("e1000e"));
        machine.function("0000:06:00.0", (0x8086, 1), Some(8), Some("vfio-pci"));
        machine.write("sys/bus/pci/devices/0000:04:00.0/vendor", "garbage");
        let uuid = Uuid([7; 16]);
        let shim = "sys/bus/pci/devices/0000:03:00.0/jalapeno/uuid";
        machine.write(shim, &format!("{uuid}\n"));
        machine.process(41, &machine.path.join("dev/vfio/4"));
        let named = Some("0000:06:00.0,0000:07:00.0".into());
        let list = list_in(&machine.root, &Environment::of(false, named, None, None));
        let names: Vec<&str> = list.iter().map(|found| found.name.as_str()).collect();
        let expected = [
            "0000:02:00.0",
            "0000:03:00.0",
            "0000:05:00.0",
            "0000:06:00.0",
            "0000:07:00.0",
        ];
        assert_eq!(names, expected);
        assert_eq!(list[0].driver.as_deref(), Some("vfio-pci"));
        let place = list[0].place.as_ref().unwrap();
        assert_eq!((place.group, &place.holders[..]), (Some(4), &[41][..]));
        assert!(!list[0].is_free() && list[1].is_free());
        assert_eq!(list[1].uuid, Some(uuid));
        // Of what tells its UUID nothing need be opened.
        let named = Resolved::Named("0000:03:00.0".into());
        assert_eq!(candidates(&list, uuid), named);
        // And what is held, foreign, or elsewhere bound is never opened to ask for it.
        machine.function("0000:08:00.0", ours, Some(11), Some("vfio-pci"));
        let more = list_in(&machine.root, &Environment::default());
        let other = Uuid([8; 16]);
        let asked = Resolved::OneOf {
            addresses: vec!["0000:08:00.0".into()],
            uuid: other,
            seen: 4,
        };
        assert_eq!(candidates(&more, other), asked);
        let foreign = list[3].problem.as_ref().unwrap().to_string();
        assert!(foreign.contains("its PCI ids are 8086:0001"), "{foreign}");
        let problem = list[2].problem.as_ref().unwrap().to_string();
        assert!(problem.contains("bound to nvme"), "{problem}");
        assert!(list[4].problem.is_some() && list[4].place.is_none());
        let only = Some(uuid.to_string());
        let narrowed = list_in(&machine.root, &Environment::of(false, None, only, None));
        assert_eq!(narrowed.len(), 1);
    }
}
