//! Opening a PCI function: which backend, what stands in the way, and patience with an owner that
//! is still exiting.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jalapeno_hw::pci::{DEVICE, VENDOR};

use super::{Transport, cdev, group, noiommu};
use crate::error::{Code, Error, Result};
use crate::pci::Function;

/// How a PCI function is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// By its device node where the kernel has one, by its group elsewhere.
    #[default]
    Auto,
    /// By its IOMMU group (type1).
    Group,
    /// By its device node (iommufd).
    Cdev,
    /// Without an IOMMU, for observers alone: where nothing confines a device it gets no memory,
    /// no interrupts and no bus mastering. The kernel wants `vfio.enable_unsafe_noiommu_mode`.
    UnsafeNoIommu,
}

impl std::str::FromStr for Backend {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "" | "auto" => Ok(Self::Auto),
            "group" => Ok(Self::Group),
            "cdev" => Ok(Self::Cdev),
            "unsafe-noiommu" => Ok(Self::UnsafeNoIommu),
            _ => Err(Error::Invalid {
                what: format!("JALAPENO_BACKEND is {text:?}: auto, group, cdev or unsafe-noiommu"),
            }),
        }
    }
}

/// Longest that one who is seen to hold the device may still take to let go of it.
const EXIT_TIME: Duration = Duration::from_secs(1);

/// The same where it is plain that no process holds it: a killed owner's descriptors leave /proc first, then
/// the kernel unpins its memory page by page, and resets the device.
const RELEASE_TIME: Duration = Duration::from_secs(5);

/// Longest that a reset of the kernel's own may take: of the link, after an error of it.
const RECOVERY_TIME: Duration = Duration::from_secs(3);

/// Opens `function`. `owns`: to run jobs.
///
/// # Errors
/// `NotFound`, `Permission`, `Busy` (after 1 s, with the holder where it can be seen; after 5 s where it is
/// plain that no process holds it), `Unsupported` (no IOMMU, a group that is not viable, another driver; each
/// in words), `NeedsReset` (the kernel module could not scrub it), `Io` (after 3 s, where the kernel itself
/// resets it all the time; after 5 s by an iommufd that refuses it for another reason).
pub fn open(function: &Function, backend: Backend, owns: bool) -> Result<Arc<dyn Transport>> {
    survey(function, backend)?;
    let begin = Instant::now();
    let mut recovers = None;
    loop {
        let opened = match backend {
            Backend::Group => group::open(function, owns),
            Backend::Cdev => cdev::open(function, owns),
            Backend::UnsafeNoIommu => noiommu::open(function, owns),
            Backend::Auto if cdev::is_possible(function) => cdev::open(function, owns),
            Backend::Auto => group::open(function, owns),
        };
        match opened {
            // A link that failed is being recovered, or somebody asked sysfs for a reset.
            Err(Error::Io { source, .. })
                if source.raw_os_error() == Some(libc::EAGAIN)
                    && recovers.get_or_insert_with(Instant::now).elapsed() < RECOVERY_TIME =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) if may_be_held(&error) => {
                let waited = begin.elapsed();
                if waited >= RELEASE_TIME || waited >= EXIT_TIME && may_be_seen(function) {
                    return Err(who_holds(function, error));
                }
                // All processes are looked through from then on, and one of them wants to exit.
                let nap = if waited < EXIT_TIME { 10 } else { 100 };
                std::thread::sleep(Duration::from_millis(nap));
            }
            Err(Error::Io { source, .. })
                if source.raw_os_error() == Some(libc::EIO) && function.is_unclean() =>
            {
                return Err(unclean(function));
            }
            other => return other,
        }
    }
}

/// The kernel module keeps everybody out until a reset and a good scrub.
fn unclean(function: &Function) -> Error {
    let address = &function.address;
    Error::Binding {
        code: Code::NeedsReset,
        what: format!(
            "opening {address}: its HBM may hold what its last owner left, for a scrub failed"
        ),
        hint: format!(
            "echo 1 | sudo tee /sys/bus/pci/devices/{address}/reset; the kernel module then scrubs \
             it anew"
        ),
    }
}

/// Whether another opener may be why. By iommufd the kernel has one word, EINVAL, for that and for
/// what it does not understand.
fn may_be_held(error: &Error) -> bool {
    match error {
        Error::Busy { .. } => true,
        Error::Io { tried, source, .. } => {
            *tried == cdev::BIND && source.raw_os_error() == Some(libc::EINVAL)
        }
        _ => false,
    }
}

/// Names the holder of a function that stayed busy; where the kernel did not say that it is, and
/// nobody holds it, its error stands.
fn who_holds(function: &Function, error: Error) -> Error {
    let seen = crate::pci::look(function.root(), &function.nodes());
    let holder = seen.holders.first().map(|(pid, _)| *pid);
    let is_held = holder.is_some() || seen.hidden > 0;
    match error {
        error @ Error::Io { .. } if !is_held => error,
        _ => Error::Busy {
            on: function.address.clone(),
            holder,
        },
    }
}

/// Whether a process holds the function, or one may whose descriptors are not ours to see.
fn may_be_seen(function: &Function) -> bool {
    let seen = crate::pci::look(function.root(), &function.nodes());
    !seen.holders.is_empty() || seen.hidden > 0
}

/// What sysfs says before anything is opened.
pub(crate) fn survey(function: &Function, backend: Backend) -> Result<()> {
    let address = &function.address;
    if !function.is_there() {
        return Err(Error::NotFound {
            name: address.clone(),
            why: "no PCI function has this address".into(),
        });
    }
    // To open a function is to reset it, so another's card is not even looked into.
    if function.ids() != Some((VENDOR, DEVICE)) {
        return Err(another_device(address, function.ids()));
    }
    if function.is_given_to_vfio() {
        if function.is_without_iommu() && backend != Backend::UnsafeNoIommu {
            return Err(Error::Unsupported {
                what: format!(
                    "opening {address}: it is in VFIO's mode without an IOMMU, where the device \
                     could reach all of memory: turn the IOMMU on, or watch the card by \
                     JALAPENO_BACKEND=unsafe-noiommu"
                ),
            });
        }
        return Ok(());
    }
    // Without an IOMMU vfio-pci refuses a card; to bind it again would be no help.
    if function.group().is_none() {
        return Err(no_iommu(function));
    }
    let bound = match function.driver() {
        Some(driver) => format!("it is bound to {driver}"),
        None => "no driver is bound to it".into(),
    };
    Err(Error::Binding {
        code: Code::Unsupported,
        what: format!("opening {address}: {bound}, not to vfio-pci"),
        hint: format!("sudo jalctl bind --device {address}"),
    })
}

/// A function that is no Jalapeño by its vendor and device id.
pub(crate) fn another_device(name: &str, ids: Option<(u16, u16)>) -> Error {
    let is = match ids {
        Some((vendor, device)) => format!("its PCI ids are {vendor:04x}:{device:04x}"),
        None => "its PCI ids cannot be read".into(),
    };
    Error::NotFound {
        name: name.into(),
        why: format!("{is}, and those of a Jalapeño are {VENDOR:04x}:{DEVICE:04x}"),
    }
}

/// The function is in no group of an IOMMU.
pub(super) fn no_iommu(function: &Function) -> Error {
    Error::Unsupported {
        what: format!(
            "opening {}: it is in no IOMMU group: turn the IOMMU on in the firmware's setup and by \
             intel_iommu=on or amd_iommu=on on the kernel's command line",
            function.address
        ),
    }
}

/// Opens one of VFIO's nodes.
pub(super) fn node(function: &Function, path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|source| refused_node(function, path, source))
}

/// Why a node, or the device behind it, could not be had.
pub(super) fn refused_node(function: &Function, path: &Path, source: io::Error) -> Error {
    let on = path.display().to_string();
    match source.raw_os_error() {
        Some(libc::EBUSY) => Error::Busy {
            on: function.address.clone(),
            holder: None,
        },
        Some(libc::EACCES) => Error::Permission {
            tried: "open",
            hint: permission_hint(path),
            on,
        },
        Some(libc::EAGAIN) => Error::Io {
            tried: "wait for the kernel's own reset of",
            on: function.address.clone(),
            source,
        },
        Some(libc::ENOENT | libc::ENXIO) => Error::NotFound {
            name: function.address.clone(),
            why: format!("{on} is not there: sudo modprobe vfio-pci"),
        },
        _ => Error::Io {
            tried: "open",
            on: format!("{} by {on}", function.address),
            source,
        },
    }
}

const RULE: &str = "sudo jalctl setup --apply gives cards to the group jalapeno: join it";

/// The command that gives this user the node: its group where one may read and write it.
fn permission_hint(path: &Path) -> String {
    let Ok(about) = std::fs::metadata(path) else {
        return RULE.into();
    };
    let name = nix::unistd::Group::from_gid(about.gid().into())
        .ok()
        .flatten()
        .map_or_else(|| about.gid().to_string(), |group| group.name);
    if about.mode() & 0o060 == 0o060 && about.gid() != 0 {
        format!("sudo usermod -aG {name} $USER, then log in anew")
    } else {
        RULE.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::played::Machine;

    const OURS: (u16, u16) = (0xA1A0, 1);

    fn why(function: &Function, backend: Backend) -> String {
        open(function, backend, true).unwrap_err().to_string()
    }

    #[test]
    fn what_stands_in_the_way_is_said_before_anything_is_opened() {
        let machine = Machine::new();
        let absent = machine.root.function("0000:09:00.0");
        let error = open(&absent, Backend::Auto, true).unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
        for (at, ids) in [("0000:0a:00.0", (0xA1A0, 2)), ("0000:0b:00.0", (0x8086, 1))] {
            let foreign = machine.function(at, ids, Some(9), Some("vfio-pci"));
            let error = open(&foreign, Backend::Auto, true).unwrap_err();
            assert_eq!(error.code(), Code::NotFound);
            let told = format!("its PCI ids are {:04x}:{:04x}", ids.0, ids.1);
            assert!(error.to_string().contains(&told), "{error}");
        }
        let half = machine.function("0000:0c:00.0", OURS, Some(9), Some("vfio-pci"));
        machine.write("sys/bus/pci/devices/0000:0c:00.0/device", "garbage");
        let text = why(&half, Backend::UnsafeNoIommu);
        assert!(text.contains("ids cannot be read"), "{text}");
        let elsewhere = machine.function("0000:02:00.0", OURS, Some(1), Some("nvme"));
        let text = why(&elsewhere, Backend::Auto);
        assert!(text.contains("bound to nvme, not to vfio-pci"), "{text}");
        let unbound = machine.function("0000:03:00.0", OURS, Some(2), None);
        assert!(why(&unbound, Backend::Auto).contains("no driver is bound"));
        let bare = machine.function("0000:04:00.0", OURS, None, Some("vfio-pci"));
        assert!(why(&bare, Backend::Auto).contains("no IOMMU group"));
        let refused = machine.function("0000:06:00.0", OURS, None, None);
        assert!(why(&refused, Backend::Auto).contains("no IOMMU group"));
        let unsafe_ = machine.function("0000:05:00.0", OURS, Some(5), Some("vfio-pci"));
        machine.write("sys/kernel/iommu_groups/5/name", "vfio-noiommu\n");
        assert!(why(&unsafe_, Backend::Auto).contains("without an IOMMU"));
    }

    #[test]
    fn a_device_that_nothing_confines_is_watched_by_name_and_never_used() {
        let machine = Machine::new();
        let confined = machine.function("0000:02:00.0", OURS, Some(7), Some("vfio-pci"));
        assert!(why(&confined, Backend::UnsafeNoIommu).contains("an IOMMU confines it"));
        let free = machine.function("0000:05:00.0", OURS, Some(5), Some("vfio-pci"));
        machine.write("sys/kernel/iommu_groups/5/name", "vfio-noiommu\n");
        let text = why(&free, Backend::UnsafeNoIommu);
        assert!(text.contains("watched and not used"), "{text}");
        let watched = open(&free, Backend::UnsafeNoIommu, false).unwrap_err();
        let text = watched.to_string();
        assert!(text.contains("dev/vfio/noiommu-5 is not there"), "{text}");
    }

    #[test]
    fn a_node_that_is_missing_or_no_vfio_is_an_error_in_words() {
        let machine = Machine::new();
        let card = machine.function("0000:02:00.0", OURS, Some(7), Some("vfio-pci"));
        let text = why(&card, Backend::Group);
        assert!(text.contains("dev/vfio/7 is not there"), "{text}");
        assert!(why(&card, Backend::Cdev).contains("JALAPENO_BACKEND=group"));
        machine.write("dev/vfio/7", "");
        assert!(why(&card, Backend::Group).contains("dev/vfio/vfio is not there"));
        machine.write("dev/vfio/vfio", "");
        let error = open(&card, Backend::Group, true).unwrap_err();
        assert_eq!(error.code(), Code::Io, "{error}");
    }

    #[test]
    fn the_device_node_is_chosen_where_the_kernel_has_it_all() {
        let machine = Machine::new();
        let card = machine.function("0000:02:00.0", OURS, Some(7), Some("vfio-pci"));
        let folder = "sys/bus/pci/devices/0000:02:00.0/vfio-dev/vfio0";
        machine.write(format!("{folder}/dev"), "511:0\n");
        assert!(!cdev::is_possible(&card), "no node, no /dev/iommu");
        machine.write("dev/vfio/devices/vfio0", "");
        assert!(!cdev::is_possible(&card), "no /dev/iommu");
        machine.write("dev/iommu", "");
        assert!(cdev::is_possible(&card));
        let text = why(&card, Backend::Auto);
        assert!(text.contains("devices/vfio0"), "{text}");
    }

    #[test]
    fn a_busy_device_is_waited_for_and_then_its_holder_named() {
        let machine = Machine::new();
        let card = machine.function("0000:02:00.0", OURS, Some(7), Some("vfio-pci"));
        machine.process(77, &machine.path.join("dev/vfio/7"));
        let busy = io::Error::from_raw_os_error(libc::EBUSY);
        let error = refused_node(&card, Path::new("/dev/vfio/7"), busy);
        let resets = io::Error::from_raw_os_error(libc::EAGAIN);
        let text = refused_node(&card, Path::new("/dev/vfio/7"), resets).to_string();
        assert!(
            text.contains("the kernel's own reset of 0000:02:00.0"),
            "{text}"
        );
        assert!(matches!(error, Error::Busy { .. }));
        assert_eq!(card.holders(), [77]);
    }

    #[test]
    fn an_iommufd_that_refuses_is_busy_only_where_somebody_may_hold_the_device() {
        let machine = Machine::new();
        let card = machine.function("0000:02:00.0", OURS, Some(7), Some("vfio-pci"));
        let refused = |code| Error::Io {
            tried: cdev::BIND,
            on: card.address.clone(),
            source: io::Error::from_raw_os_error(code),
        };
        assert!(may_be_held(&refused(libc::EINVAL)) && !may_be_held(&refused(libc::EFAULT)));
        let nobody = who_holds(&card, refused(libc::EINVAL)).to_string();
        assert!(
            nobody.contains("take with an iommufd 0000:02:00.0"),
            "{nobody}"
        );
        machine.process(77, &machine.path.join("dev/vfio/7"));
        match who_holds(&card, refused(libc::EINVAL)) {
            Error::Busy { holder, .. } => assert_eq!(holder, Some(77)),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn backends_have_names() {
        assert_eq!("cdev".parse::<Backend>().unwrap(), Backend::Cdev);
        assert_eq!("".parse::<Backend>().unwrap(), Backend::Auto);
        assert_eq!(
            "unsafe-noiommu".parse::<Backend>().unwrap(),
            Backend::UnsafeNoIommu
        );
        assert!(
            "noiommu"
                .parse::<Backend>()
                .unwrap_err()
                .to_string()
                .contains("auto, group, cdev or unsafe-noiommu")
        );
    }
}
