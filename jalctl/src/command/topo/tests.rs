//! Topology on played machines.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

/// A played sysfs, removed when dropped.
struct Machine(PathBuf);

impl Machine {
    fn new(name: &str) -> Self {
        let name = format!("jalctl-topo-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(path.join("sys/bus/pci/devices")).unwrap();
        Self(path)
    }

    fn root(&self) -> Root {
        Root::at(&self.0)
    }

    fn card(&self, place: &str, files: &[(&str, &str)]) {
        let folder = self.0.join("sys/devices/pci0000:00").join(place);
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in files {
            fs::write(folder.join(file), text).unwrap();
        }
        let name = folder.file_name().unwrap();
        symlink(&folder, self.0.join("sys/bus/pci/devices").join(name)).unwrap();
    }

    fn group(&self, number: u32, members: &[&str]) {
        let group = self.0.join(format!("sys/kernel/iommu_groups/{number}"));
        fs::create_dir_all(group.join("devices")).unwrap();
        for member in members {
            let device = self.0.join("sys/bus/pci/devices").join(member);
            symlink(&device, group.join("devices").join(member)).unwrap();
            symlink(&group, device.join("iommu_group")).unwrap();
        }
    }

    fn driver(&self, member: &str, driver: &str) {
        let folder = self.0.join("sys/bus/pci/drivers").join(driver);
        fs::create_dir_all(&folder).unwrap();
        let device = self.0.join("sys/bus/pci/devices").join(member);
        symlink(folder, device.join("driver")).unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn named(names: &[&str]) -> Vec<(String, Option<String>)> {
    names.iter().map(|name| ((*name).into(), None)).collect()
}

const FULL: &[(&str, &str)] = &[
    ("numa_node", "0\n"),
    ("current_link_speed", "32.0 GT/s PCIe\n"),
    ("max_link_speed", "32.0 GT/s PCIe\n"),
    ("current_link_width", "16\n"),
    ("max_link_width", "16\n"),
];

const REDUCED: &[(&str, &str)] = &[
    ("numa_node", "1\n"),
    ("current_link_speed", "2.5 GT/s PCIe\n"),
    ("max_link_speed", "32.0 GT/s PCIe\n"),
    ("current_link_width", "8\n"),
    ("max_link_width", "16\n"),
];

#[test]
fn four_cards_are_drawn_below_their_bridges_with_what_lies_between_them() {
    let machine = Machine::new("four");
    let switch = "0000:00:01.0/0000:01:00.0";
    machine.card(&format!("{switch}/0000:02:00.0/0000:03:00.0"), FULL);
    machine.card(&format!("{switch}/0000:02:01.0/0000:04:00.0"), FULL);
    machine.card("0000:00:02.0/0000:05:00.0", FULL);
    machine.card("0000:80:01.0/0000:81:00.0", REDUCED);
    machine.card("0000:80:01.0/0000:81:00.1", &[]);
    machine.card("0000:80:01.0/0000:81:00.2", &[]);
    machine.group(7, &["0000:81:00.0", "0000:81:00.1", "0000:81:00.2"]);
    machine.group(3, &["0000:03:00.0"]);
    machine.driver("0000:03:00.0", "vfio-pci");
    machine.driver("0000:81:00.1", "snd_hda_intel");
    let names = named(&[
        "0000:03:00.0",
        "0000:04:00.0",
        "0000:05:00.0",
        "0000:81:00.0",
        "vfio-user:/tmp/card",
    ]);
    let outcomes = look(&machine.root(), names);
    let expected = "\
NUMA node 0
├─ 0000:00:01.0  root port
│  └─ 0000:01:00.0  switch port
│     ├─ 0000:02:00.0  switch port
│     │  └─ [0] 0000:03:00.0  32.0 GT/s x16, IOMMU group 3, vfio-pci
│     └─ 0000:02:01.0  switch port
│        └─ [1] 0000:04:00.0  32.0 GT/s x16, no IOMMU group, no driver
└─ 0000:00:02.0  root port
   └─ [2] 0000:05:00.0  32.0 GT/s x16, no IOMMU group, no driver
NUMA node 1
└─ 0000:80:01.0  root port
   └─ [3] 0000:81:00.0  2.5 GT/s x8 (REDUCED: could be 32.0 GT/s x16), IOMMU group 7, no driver
         same IOMMU group: 0000:81:00.1, bound to snd_hda_intel: IN THE WAY of VFIO
         same IOMMU group: 0000:81:00.2, no driver
not on the PCI bus (emulated, behind a socket)
  [4] vfio-user:/tmp/card
traffic between cards passes
  [0] - [1]  a switch
  [0] - [2]  the host's fabric, within one NUMA node
  [0] - [3]  the connection between NUMA nodes
  [1] - [2]  the host's fabric, within one NUMA node
  [1] - [3]  the connection between NUMA nodes
  [2] - [3]  the connection between NUMA nodes
";
    assert_eq!(picture::draw(&outcomes), expected);
    let place = outcomes[3].result.as_ref().unwrap();
    assert_eq!(place.link_megatransfers_per_second, Some(2500));
    assert_eq!(place.link_reduced, Some(true));
    assert_eq!(place.peers[0].distance, "across-numa-nodes");
}

#[test]
fn cards_that_vanish_and_files_full_of_nonsense_are_no_panic() {
    let machine = Machine::new("odd");
    let odd = [
        ("numa_node", "-1\n"),
        ("current_link_speed", "Unknown\n"),
        ("current_link_width", "255\n"),
        ("max_link_speed", "garbage"),
        ("max_link_width", "16\n"),
    ];
    machine.card("0000:05:00.0", &odd);
    let names = named(&["0000:05:00.0", "0000:06:00.0", "card", "../../etc"]);
    let outcomes = look(&machine.root(), names);
    let place = outcomes[0].result.as_ref().unwrap();
    assert_eq!(place.link_megatransfers_per_second, None);
    assert_eq!(
        (place.link_max_megatransfers_per_second, place.link_reduced),
        (None, None)
    );
    for gone in &outcomes[1..] {
        assert_eq!(gone.result.as_ref().unwrap_err().exit, Exit::NoDevice);
    }
    let expected = "PCI bus\n└─ [0] 0000:05:00.0  no link known, no IOMMU group, no driver\n";
    assert_eq!(picture::draw(&outcomes), expected);
}

#[test]
fn speeds_are_numbers() {
    let of = |speed: &str| {
        megatransfers(&Link {
            speed: speed.into(),
            width: 1,
        })
    };
    assert_eq!(of("32.0 GT/s PCIe"), Some(32_000));
    assert_eq!(of("2.5 GT/s"), Some(2_500));
    assert_eq!(of("64 GT/s"), Some(64_000));
    for nonsense in ["", "fast", "1.", "1.ü", "99999999999999999999.0 GT/s"] {
        assert_eq!(of(nonsense), None, "{nonsense}");
    }
}
