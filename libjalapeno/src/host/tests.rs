//! Machines that are played, and what a look at them gives.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::pci::played::Machine;

const OURS: (u16, u16) = (VENDOR, DEVICE);
const ALICE: &str = "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t27 998 \n\
                     VmLck:\t 16 kB\nCapEff:\t0000000000000000\n";

#[test]
fn a_machine_without_any_file_is_looked_at_and_has_nothing() {
    let machine = Machine::new();
    let host = Host::look(&machine.root);
    assert_eq!(host.kernel.version, None);
    assert!(!host.kernel.is_at_least(0, 0));
    assert!(!host.iommu.is_on() && !host.iommu.has_tables);
    assert_eq!(host.iommu.remapping, Remapping::Unknown);
    assert_eq!(host.user, None);
    assert_eq!(host.memlock.room(), 0);
    assert!(host.hugepages.is_empty() && host.cards().is_empty());
    assert_eq!(host.module("vfio-pci"), Presence::Unknown);
    assert_eq!((host.container, host.iommufd), (None, None));
}

#[test]
fn a_good_machine_says_what_it_has() {
    let machine = Machine::new();
    machine.write("proc/sys/kernel/osrelease", "6.12.95-amd64\n");
    machine.write("proc/cmdline", "quiet intel_iommu=on\n");
    machine.write(
        "proc/cpuinfo",
        "vendor_id\t: GenuineIntel\nflags\t\t: fpu vme hypervisor\n",
    );
    machine.write("proc/interrupts", "1: 0 IR-IO-APIC 1-edge i8042\n");
    machine.write("sys/firmware/acpi/tables/DMAR", "");
    machine.write("sys/class/iommu/dmar0/x", "");
    machine.write("proc/self/status", ALICE);
    machine.write("proc/meminfo", "MemTotal:  16384 kB\nMemFree: x\n");
    machine.write("proc/self/limits", "Max locked memory 65536 131072 bytes\n");
    machine.write(
        "etc/passwd",
        "root:x:0:0::/:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n",
    );
    machine.write("etc/group", "root:x:0:\njalapeno:x:998:alice,bob\nbad\n");
    let pages = "sys/kernel/mm/hugepages/hugepages-2048kB";
    machine.write(format!("{pages}/nr_hugepages"), "512\n");
    machine.write(format!("{pages}/free_hugepages"), "500\n");
    machine.write(
        "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages",
        "many\n",
    );
    machine.write(
        "sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
        "N\n",
    );
    machine.write(
        "lib/modules/6.12.95-amd64/modules.dep",
        "kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/drivers/vfio/vfio.ko.xz\n",
    );
    machine.write(
        "lib/modules/6.12.95-amd64/modules.builtin",
        "kernel/x/iommufd.ko\n",
    );
    machine.function("0000:01:00.0", OURS, Some(7), Some("vfio-pci"));
    machine.write(
        "sys/bus/pci/devices/0000:01:00.0/resource4_resize",
        "0000000000000300\n",
    );
    machine.write("sys/bus/pci/devices/0000:01:00.0/resource", "0x1 0x1 0x0\n");
    let host = Host::look(&machine.root);
    assert!(host.kernel.is_at_least(6, 12) && !host.kernel.is_at_least(6, 13));
    assert!(host.kernel.is_guest && host.kernel.has_parameter("intel_iommu=on"));
    assert_eq!(host.kernel.processor, Processor::Intel);
    assert_eq!(
        (host.iommu.groups, host.iommu.remapping),
        (1, Remapping::On)
    );
    assert_eq!(host.iommu.table, Some(Table::Dmar));
    let user = host.user.as_ref().unwrap();
    assert_eq!((user.word().as_str(), user.may_all()), ("alice", false));
    assert_eq!(user.groups, [1000, 27, 998]);
    assert_eq!(host.memory_bytes, Some(16 << 20));
    assert_eq!(host.memlock.room(), (64 - 16) << 10);
    let [pages] = host.hugepages[..] else {
        panic!("{:?}", host.hugepages)
    };
    assert_eq!(
        (pages.page_bytes, pages.total, pages.free),
        (2 << 20, 512, 500)
    );
    assert_eq!(host.module("vfio"), Presence::Loaded);
    assert_eq!(host.module("vfio-pci"), Presence::Available);
    assert_eq!(host.module("iommufd"), Presence::Loaded);
    assert_eq!(host.module("jalapeno_vfio_pci"), Presence::Absent);
    assert_eq!(
        host.parameter("vfio", "enable_unsafe_noiommu_mode")
            .as_deref(),
        Some("N")
    );
    let group = group_named(&machine.root, "jalapeno").unwrap();
    assert_eq!((group.id, group.members.len()), (998, 2));
    let [card] = &host.cards()[..] else {
        panic!("{:?}", host.cards())
    };
    assert_eq!(card.window.bytes, None, "no such line");
    assert_eq!(card.window.sizes, [256 << 20, 512 << 20]);
    assert_eq!(card.group_node, None, "no such node");
}

#[test]
fn a_node_is_open_to_whom_its_mode_says() {
    let machine = Machine::new();
    machine.write("dev/vfio/7", "");
    let path = machine.path.join("dev/vfio/7");
    let gid = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(&path).unwrap());
    let look = |mode: u32, status: &str| {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        machine.write("proc/self/status", status);
        let user = User::look(&machine.root);
        Node::look(&machine.root, &path, user.as_ref()).unwrap()
    };
    let stranger = "Uid:\t7\t65534\t7\t7\nGid:\t7\t65534\t7\t7\nCapEff:\t0\n";
    let member = format!("{stranger}Groups:\t5 {gid}\n");
    assert!(!look(0o660, stranger).is_open_to_us);
    assert!(!look(0o664, stranger).is_open_to_us);
    assert!(look(0o666, stranger).is_open_to_us);
    assert!(look(0o660, &member).is_open_to_us);
    assert!(!look(0o640, &member).is_open_to_us);
    assert!(
        !look(0o606, &member).is_open_to_us,
        "the group's bits bind its members"
    );
    assert!(look(0o600, &stranger.replace("CapEff:\t0", "CapEff:\t2")).is_open_to_us);
    assert_eq!(look(0o600, stranger).group_to_join(), None);
    for nonsense in ["", "Uid:\t1\n", "Uid:\tx y\nGid:\t1 1\n", "Uid 1 1\n"] {
        assert!(!look(0o606, nonsense).is_open_to_us, "{nonsense:?}");
    }
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let machine = Machine::new();
    for name in ["proc/self/status", "proc/cmdline", "proc/interrupts"] {
        let path = machine.path.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    std::os::unix::fs::symlink("/dev/zero", machine.path.join("proc/cpuinfo")).unwrap();
    std::os::unix::fs::symlink("self", machine.path.join("proc/self/limits")).unwrap();
    std::os::unix::fs::symlink("limits", machine.path.join("proc/self/self")).unwrap();
    let host = Host::look(&machine.root);
    assert_eq!((host.user, host.memlock.room()), (None, 0));
    assert!(host.kernel.parameters.is_empty());
}
