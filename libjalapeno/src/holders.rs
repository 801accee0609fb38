//! Holders: the processes that have a device, and how.

use std::path::Path;

use crate::error::{Error, Result};
use crate::host::Process;
use crate::pci::{self, Root, is_address};
use crate::transport::user;

/// How a process has a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the node of its IOMMU group, with all that is in the group.
    Group,
    /// By the node of its own.
    Device,
    /// As the owner of an emulated one.
    Owner,
    /// As one who only watches an emulated one.
    Observer,
}

impl Way {
    /// The name scripts may rely on.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Group => "vfio-group",
            Self::Device => "vfio-cdev",
            Self::Owner => "owner",
            Self::Observer => "observer",
        }
    }
}

/// A process that has a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub process: Process,
    /// How it has it.
    pub way: Way,
}

/// What is seen of a device's holders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// Those that are seen, owners first.
    pub seen: Vec<Holder>,
    /// Processes of others whose descriptors this process may not look at: a holder may be one of
    /// them. Always 0 for root, and for an emulated device, which says itself who is connected.
    pub hidden: usize,
}

/// Who has the device of this name: `vfio-user:PATH`, or a PCI address. Nothing is opened that could
/// wake or reset it; this process is not among them.
///
/// # Errors
/// `NotFound`, `Permission`; `Version` where another protocol is spoken.
pub fn of(name: &str) -> Result<Holders> {
    of_in(&Root::default(), name)
}

/// As [`of`], on the machine whose files are below `root`.
///
/// # Errors
/// As [`of`].
pub fn of_in(root: &Root, name: &str) -> Result<Holders> {
    let holder = |pid, way| Holder {
        process: Process::look(root, pid),
        way,
    };
    let absent = |why: &str| Error::NotFound {
        name: name.to_owned(),
        why: why.to_owned(),
    };
    if let Some(path) = name.strip_prefix("vfio-user:") {
        let clients = user::clients(Path::new(path))?;
        let owner = clients.owner.into_iter().map(|pid| (pid, Way::Owner));
        let observers = clients.observers.into_iter();
        let all = owner.chain(observers.map(|pid| (pid, Way::Observer)));
        let others = all.filter(|(pid, _)| *pid != std::process::id());
        return Ok(Holders {
            seen: others.map(|(pid, way)| holder(pid, way)).collect(),
            hidden: 0,
        });
    }
    if !is_address(name) {
        return Err(absent(
            "holders are known of PCI addresses (0000:01:00.0) and of vfio-user:PATH",
        ));
    }
    let function = root.function(name);
    if !function.is_there() {
        return Err(absent("no PCI function has this address"));
    }
    let nodes = function.nodes();
    if nodes.is_empty() {
        return Ok(Holders::default()); // nothing that could be open
    }
    let own = function.device_node();
    let seen = pci::look(root, &nodes);
    Ok(Holders {
        hidden: seen.hidden,
        seen: seen
            .holders
            .into_iter()
            .map(|(pid, open)| match &own {
                Some(node) if open.contains(node) => holder(pid, Way::Device),
                _ => holder(pid, Way::Group),
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::pci::played::Machine;

    #[test]
    fn a_card_on_the_bus_is_held_by_its_group_or_by_its_node() {
        let machine = Machine::new();
        let name = "0000:02:00.0";
        machine.function(name, (0xA1A0, 1), Some(7), Some("vfio-pci"));
        let folder = format!("sys/bus/pci/devices/{name}/vfio-dev/vfio3/dev");
        machine.write(folder, "511:3\n");
        machine.process(41, &machine.path.join("dev/vfio/7"));
        machine.process(9, &machine.path.join("dev/vfio/devices/vfio3"));
        machine.process(5, &machine.path.join("dev/vfio/8"));
        machine.write("proc/9/comm", "generate\n");
        let holders = of_in(&machine.root, name).unwrap();
        let ways: Vec<(u32, &str)> = holders
            .seen
            .iter()
            .map(|holder| (holder.process.pid, holder.way.name()))
            .collect();
        assert_eq!(ways, [(9, "vfio-cdev"), (41, "vfio-group")]);
        let command = holders.seen[0].process.command.as_deref();
        assert_eq!((command, holders.hidden), (Some("generate"), 0));
    }

    #[test]
    fn what_is_not_there_has_no_holders_but_an_error() {
        let machine = Machine::new();
        for name in ["0000:09:00.0", "card", "", "vfio-user:/no/such/card"] {
            let error = of_in(&machine.root, name).unwrap_err();
            assert_eq!(error.code(), Code::NotFound, "{name}: {error}");
        }
        // Without an IOMMU group there is no node, so nobody.
        machine.function("0000:03:00.0", (0xA1A0, 1), None, None);
        let none = of_in(&machine.root, "0000:03:00.0").unwrap();
        assert_eq!(none, Holders::default());
    }
}
