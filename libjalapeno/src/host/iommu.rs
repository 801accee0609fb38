//! The IOMMU: whether one is at work, whether it remaps interrupts, and whether firmware tells of one.

use std::fs;

use super::file;
use crate::pci::Root;

/// Whether interrupts of devices are remapped. Without it a device could forge any interrupt, so the
/// kernel gives none away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remapping {
    /// They are.
    On,
    /// They are not.
    Off,
    /// Nothing says so.
    Unknown,
}

/// A table by which firmware tells of an IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Intel's.
    Dmar,
    /// AMD's.
    Ivrs,
    /// ARM's.
    Iort,
    /// That of virtual machines.
    Viot,
}

/// See the file's head.
#[derive(Clone, Debug)]
pub struct Iommu {
    /// The units at work, as the kernel names them (`dmar0`, `ivhd0`).
    pub units: Vec<String>,
    /// The groups that they make.
    pub groups: usize,
    /// Whether interrupts are remapped.
    pub remapping: Remapping,
    /// What firmware says; `None`: no IOMMU.
    pub table: Option<Table>,
    /// Whether firmware's tables can be seen from here at all.
    pub has_tables: bool,
}

const TABLES: &str = "sys/firmware/acpi/tables";

impl Iommu {
    pub(super) fn look(root: &Root) -> Self {
        let tables = file::names(&root.file(TABLES));
        let table = |name: &str, table| tables.iter().any(|file| file == name).then_some(table);
        let interrupts = file::text(&root.file("proc/interrupts")).unwrap_or_default();
        Self {
            units: file::names(&root.file("sys/class/iommu")),
            groups: groups(root),
            remapping: remapping(&interrupts),
            table: table("DMAR", Table::Dmar)
                .or_else(|| table("IVRS", Table::Ivrs))
                .or_else(|| table("IORT", Table::Iort))
                .or_else(|| table("VIOT", Table::Viot)),
            has_tables: !tables.is_empty(),
        }
    }

    /// Whether devices are behind one.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.groups > 0
    }
}

/// Groups of an IOMMU. VFIO makes some of its own where there is none, and names them.
fn groups(root: &Root) -> usize {
    let folder = root.file("sys/kernel/iommu_groups");
    let real = |name: &String| {
        let about = fs::read_to_string(folder.join(name).join("name")).unwrap_or_default();
        name.parse::<u32>().is_ok() && about.trim() != "vfio-noiommu"
    };
    file::names(&folder)
        .iter()
        .filter(|name| real(name))
        .count()
}

/// The kernel names the chip of each interrupt, and begins the names of those behind a remapping
/// unit by `IR-`. On ARM it is the ITS that tells devices apart.
fn remapping(interrupts: &str) -> Remapping {
    let mut chips = interrupts.split_ascii_whitespace();
    let has = |word: &str| {
        interrupts
            .split_ascii_whitespace()
            .any(|chip| chip.contains(word))
    };
    if chips.any(|chip| chip.starts_with("IR-")) || has("ITS-") {
        Remapping::On
    } else if has("IO-APIC") || has("PCI-MSI") {
        Remapping::Off
    } else {
        Remapping::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remapping_is_read_from_the_names_of_interrupt_chips() {
        let plain =
            "  4:  0  12  IO-APIC   4-edge  ttyS0\n 28: 0 0 PCI-MSIX-0000:00:01.0 0-edge x\n";
        assert_eq!(remapping(plain), Remapping::Off);
        let remapped = "  4:  0  12  IR-IO-APIC   4-edge  ttyS0\n 28: 0 0 PCI-MSI 1-edge x\n";
        assert_eq!(remapping(remapped), Remapping::On);
        assert_eq!(
            remapping("120: 7 IR-PCI-MSI-0000:00:02.0 0-edge"),
            Remapping::On
        );
        assert_eq!(
            remapping("14: 3 ITS-PCI-MSIX-0000:01:00.0 0 Edge"),
            Remapping::On
        );
        assert_eq!(remapping(""), Remapping::Unknown);
        assert_eq!(remapping("FIR-tree \u{fffd}"), Remapping::Unknown);
    }
}
