//! `jalctl doctor` on played hosts: each misconfiguration found, and mended by one command.

mod played_host;

use played_host::{CARD, HOST, Played, SLOT, check, finds};

#[test]
fn on_a_good_host_nothing_is_wrong() {
    let host = Played::good("good");
    let (exit, report) = host.doctor(&[]);
    assert_eq!(exit, 0, "{report:#}");
    for device in [HOST, SLOT] {
        let checks = report["devices"][device]["doctor"]["checks"]
            .as_array()
            .expect("checks");
        assert!(checks.len() >= 4);
        for check in checks {
            assert_eq!(check["code"], "ok", "{check}");
            assert!(check["fix"].is_null(), "{check}");
        }
    }
    assert_eq!(report["devices"][SLOT]["name"], CARD);
}

#[test]
fn no_iommu_is_found_by_who_left_it_out() {
    let off = |host: &Played| {
        host.remove("sys/kernel/iommu_groups/7");
        host.remove("sys/class/iommu");
    };
    let spoiled = |name: &str, more: &dyn Fn(&Played), code: &str, fix: &str| {
        finds(
            name,
            |host| {
                off(host);
                more(host);
            },
            (HOST, "iommu"),
            code,
            fix,
        );
    };
    spoiled(
        "no-table",
        &|host| host.remove("sys/firmware/acpi/tables/DMAR"),
        "iommu-absent",
        "--firmware-setup",
    );
    spoiled(
        "not-asked",
        &|host| host.write("proc/cmdline", "quiet\n"),
        "iommu-not-asked-for",
        "intel_iommu=on",
    );
    spoiled(
        "off",
        &|host| host.write("proc/cmdline", "intel_iommu=off\n"),
        "iommu-switched-off",
        "intel_iommu=off",
    );
    let guest = |host: &Played| {
        host.remove("sys/firmware/acpi/tables/DMAR");
        host.write(
            "proc/cpuinfo",
            "vendor_id : GenuineIntel\nflags : fpu hypervisor\n",
        );
    };
    spoiled(
        "guest",
        &guest,
        "iommu-absent",
        "-device intel-iommu,intremap=on",
    );
    let fedora = |host: &Played| {
        host.write("proc/cmdline", "quiet\n");
        host.write("usr/sbin/grubby", "");
    };
    spoiled(
        "grubby",
        &fedora,
        "iommu-not-asked-for",
        "grubby --update-kernel=ALL --args=intel_iommu=on",
    );
    // The card says the same, in its own words.
    let host = Played::good("no-iommu-card");
    off(&host);
    host.remove(&format!("sys/bus/pci/devices/{CARD}/iommu_group"));
    let (_, report) = host.doctor(&[]);
    assert_eq!(
        check(&report, SLOT, "iommu-group")["code"],
        "no-iommu-group"
    );
}

#[test]
fn an_iommu_without_interrupt_remapping_is_found() {
    let plain = |host: &Played| host.write("proc/interrupts", "1: 0 7 IO-APIC 1-edge i8042\n");
    let what = (HOST, "interrupt-remapping");
    finds("remap", plain, what, "remapping-off", "--firmware-setup");
    let word = |host: &Played| {
        plain(host);
        host.write("proc/cmdline", "intel_iommu=on intremap=off\n");
    };
    finds("remap-word", word, what, "remapping-off", "intremap=off");
    let unsafe_ = |host: &Played| {
        plain(host);
        host.write(
            "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
            "Y\n",
        );
    };
    finds(
        "remap-unsafe",
        unsafe_,
        what,
        "interrupts-forgeable",
        "--firmware-setup",
    );
}

#[test]
fn missing_modules_are_found_and_told_apart() {
    let what = (HOST, "vfio-modules");
    let unloaded = |host: &Played| host.remove("sys/module/vfio_pci");
    finds(
        "unseen",
        unloaded,
        what,
        "vfio-not-loaded",
        "sudo modprobe -a vfio-pci",
    );
    let modules = |list: &'static str| {
        move |host: &Played| {
            unloaded(host);
            host.write("lib/modules/6.12.95+deb12-amd64/modules.dep", list);
            host.write("lib/modules/6.12.95+deb12-amd64/modules.builtin", "");
        }
    };
    let there = "kernel/drivers/vfio/pci/vfio-pci.ko.xz: x\n";
    finds(
        "unloaded",
        modules(there),
        what,
        "vfio-not-loaded",
        "sudo modprobe -a vfio-pci",
    );
    finds(
        "not-built",
        modules("kernel/fs/ext4.ko:\n"),
        what,
        "vfio-not-in-kernel",
        "apt-get install linux-image",
    );
    // Another driver of the family will do.
    let host = Played::good("shim");
    unloaded(&host);
    host.write("sys/module/jalapeno_vfio_pci/refcnt", "0\n");
    assert_eq!(
        check(&host.doctor(&[]).1, HOST, "vfio-modules")["code"],
        "ok"
    );
}

#[test]
fn a_card_bound_to_another_driver_or_to_none_is_found() {
    let bind = |driver: Option<&'static str>| {
        move |host: &Played| {
            host.remove(&format!("sys/bus/pci/devices/{CARD}"));
            host.remove("sys/kernel/iommu_groups/7");
            host.card(CARD, 7, driver);
        }
    };
    let what = (SLOT, "driver");
    finds(
        "elsewhere",
        bind(Some("nvme")),
        what,
        "bound-elsewhere",
        "sudo jalctl bind --persist --device 0000:01:00.0 --yes",
    );
    let fix = "sudo jalctl bind --persist --device 0000:01:00.0";
    finds("unbound", bind(None), what, "unbound", fix);
}

#[test]
fn another_member_of_the_group_in_the_way_is_named() {
    let nic = |host: &Played| {
        host.function("0000:01:00.1", (0x8086, 0x10c9), 7, Some("igb"));
        host.function("0000:00:1c.0", (0x8086, 0x3420), 7, Some("pcieport"));
    };
    let unbind = "echo 0000:01:00.1 | sudo tee /sys/bus/pci/devices/0000:01:00.1/driver/unbind";
    finds("shared", nic, (SLOT, "iommu-group"), "group-shared", unbind);
    let host = Played::good("shared-words");
    nic(&host);
    let (_, report) = host.doctor(&[]);
    let words = check(&report, SLOT, "iommu-group")["message"].to_string();
    assert!(words.contains("0000:01:00.1 is bound to igb"), "{words}");
    assert!(
        !words.contains("pcieport"),
        "a bridge is not in the way: {words}"
    );
}

#[test]
fn nodes_that_may_not_be_opened_are_found_with_the_group_to_join() {
    let what = (SLOT, "permission");
    let stranger = |host: &Played| {
        let gid = host.gid();
        host.write("etc/group", &format!("jalapeno:x:{gid}:bob\n"));
        host.user(1000, false);
    };
    finds(
        "stranger",
        stranger,
        what,
        "not-permitted",
        "sudo usermod -aG jalapeno alice",
    );
    let other = |host: &Played| {
        let gid = host.gid();
        host.write("etc/group", &format!("kvm:x:{gid}:bob\njalapeno:x:77:\n"));
        host.user(77, false);
    };
    finds(
        "other-group",
        other,
        what,
        "not-permitted",
        "sudo usermod -aG kvm alice",
    );
    finds(
        "joined-late",
        |host| host.user(1000, false),
        what,
        "group-not-active",
        "newgrp jalapeno",
    );
    let rootish = |host: &Played| host.node("dev/vfio/devices/vfio0", 0o600);
    finds(
        "no-rule",
        rootish,
        what,
        "not-permitted",
        "sudo jalctl setup --apply",
    );
    let ruled = |host: &Played| {
        rootish(host);
        let rule = include_str!("../../packaging/udev/70-jalapeno.rules");
        host.write("usr/lib/udev/rules.d/70-jalapeno.rules", rule);
    };
    finds(
        "rule-not-applied",
        ruled,
        what,
        "not-permitted",
        "udevadm trigger",
    );
    // By the group where there is no node of its own; what is not looked at does not count.
    let grouped = |host: &Played| {
        host.remove("dev/iommu");
        host.node("dev/vfio/7", 0o600);
    };
    let host = Played::good("by-group");
    grouped(&host);
    let (exit, report) = host.doctor(&[]);
    assert_eq!(exit, 7);
    let words = check(&report, SLOT, "permission")["message"].to_string();
    assert!(words.contains("/dev/vfio/7"), "{words}");
    host.user(0, true);
    assert_eq!(host.doctor(&[]).0, 0, "root may");
}

#[test]
fn a_container_that_was_not_given_the_nodes_is_told_so() {
    let contained = |host: &Played| {
        host.write(".dockerenv", "");
        host.remove("dev/vfio");
        host.remove("dev/iommu");
    };
    finds(
        "contained",
        contained,
        (HOST, "vfio-node"),
        "node-missing",
        "docker run --device /dev/vfio/vfio",
    );
    finds(
        "contained-card",
        contained,
        (SLOT, "permission"),
        "node-missing",
        "--device /dev/vfio/7",
    );
}

#[test]
fn a_small_memlock_says_what_is_needed_and_what_is_there() {
    let what = (HOST, "memlock");
    let small = |host: &Played| host.memlock("8388608", "8388608");
    finds(
        "memlock",
        small,
        what,
        "memlock-small",
        "sudo jalctl setup --apply",
    );
    let soft = |host: &Played| host.memlock("8388608", "unlimited");
    finds(
        "memlock-soft",
        soft,
        what,
        "memlock-small",
        "ulimit -l 65536",
    );
    let dropped_in = |host: &Played| {
        small(host);
        let text = include_str!("../../packaging/limits.d/jalapeno.conf");
        host.write("etc/security/limits.d/jalapeno.conf", text);
    };
    finds(
        "memlock-login",
        dropped_in,
        what,
        "memlock-small",
        "sudo prlimit --pid $$",
    );
    let host = Played::good("memlock-figures");
    small(&host);
    let (_, report) = host.doctor(&["--pin", "1G"]);
    let found = check(&report, HOST, "memlock");
    assert_eq!(
        (&found["have"], &found["need"]),
        (&(8 << 20).into(), &(1 << 30).into())
    );
    assert_eq!(found["unit"], "bytes");
    assert_eq!(
        host.doctor(&["--pin", "8M"]).0,
        0,
        "enough for who needs less"
    );
    host.user(host.gid(), true);
    assert_eq!(host.doctor(&[]).0, 0, "CAP_IPC_LOCK");
}

#[test]
fn no_hugepages_is_a_warning() {
    let none = |host: &Played| {
        host.write(
            "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
            "0\n",
        );
    };
    finds(
        "hugepages",
        none,
        (HOST, "hugepages"),
        "hugepages-none",
        "sudo sysctl vm.nr_hugepages=512",
    );
    let small = |host: &Played| {
        none(host);
        host.write("proc/meminfo", "MemTotal: 1048576 kB\n");
    };
    finds(
        "hugepages-small",
        small,
        (HOST, "hugepages"),
        "hugepages-none",
        "nr_hugepages=64",
    );
}

#[test]
fn a_bar_that_was_not_resized_is_found() {
    let resource = |window: &'static str| {
        move |host: &Played| {
            let lines = ["0x0 0x0 0x0\n"; 4].concat() + window;
            host.write(format!("sys/bus/pci/devices/{CARD}/resource"), &lines);
        }
    };
    let small = resource("0x4000000000 0x400fffffff 0x14220c\n");
    finds(
        "bar",
        small,
        (SLOT, "bar"),
        "bar-not-resized",
        "echo 18 >resource4_resize",
    );
    let unset = resource("0x0 0x0fffffff 0x2014220c\n");
    finds(
        "bar-unset",
        unset,
        (SLOT, "bar"),
        "bar-unassigned",
        "--firmware-setup",
    );
    let nowhere = resource("0x0 0x0 0x0\n");
    finds(
        "bar-none",
        nowhere,
        (SLOT, "bar"),
        "bar-unassigned",
        "--firmware-setup",
    );
}

#[test]
fn a_kernel_without_iommufd_is_noted_and_is_no_fault() {
    let what = (HOST, "iommufd");
    let without = |host: &Played| {
        host.remove("dev/iommu");
        host.remove("sys/module/iommufd");
    };
    finds(
        "iommufd",
        without,
        what,
        "iommufd-not-in-kernel",
        "VFIO_DEVICE_CDEV",
    );
    let old = |host: &Played| {
        without(host);
        host.write("proc/sys/kernel/osrelease", "6.1.0-50-amd64\n");
    };
    finds("iommufd-6.1", old, what, "iommufd-not-in-kernel", "IOMMUFD");
    let unloaded = |host: &Played| {
        without(host);
        let list = "kernel/drivers/iommu/iommufd/iommufd.ko:\n";
        host.write("lib/modules/6.12.95+deb12-amd64/modules.dep", list);
    };
    finds(
        "iommufd-unloaded",
        unloaded,
        what,
        "iommufd-not-loaded",
        "modprobe -a iommufd",
    );
}

#[test]
fn the_mode_without_an_iommu_and_an_old_kernel_are_found() {
    let allowed = |host: &Played| {
        host.write(
            "sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
            "Y\n",
        );
    };
    finds(
        "noiommu",
        allowed,
        (HOST, "no-iommu-mode"),
        "noiommu-allowed",
        "echo N",
    );
    let grouped = |host: &Played| host.write("sys/kernel/iommu_groups/7/name", "vfio-noiommu\n");
    let host = Played::good("noiommu-group");
    grouped(&host);
    let (exit, report) = host.doctor(&[]);
    assert_eq!(exit, 7);
    assert_eq!(check(&report, SLOT, "iommu-group")["code"], "noiommu-group");
    assert_ne!(
        check(&report, HOST, "iommu")["code"],
        "ok",
        "such a group is no IOMMU's"
    );
    let old = |host: &Played| host.write("proc/sys/kernel/osrelease", "5.10.0-9-amd64\n");
    finds("old", old, (HOST, "kernel"), "kernel-old", "linux-image");
}

#[test]
fn a_user_who_is_in_no_group_is_told_how_to_join() {
    let what = (HOST, "access");
    let gone = |host: &Played| host.write("etc/group", "root:x:0:\n");
    finds(
        "no-group",
        gone,
        what,
        "no-group",
        "sudo jalctl setup --apply",
    );
    // Without a card, so that nothing else is to be said.
    let host = Played::good("no-card");
    host.remove("sys/bus/pci/devices");
    host.write("etc/group", "jalapeno:x:77:bob\n");
    let (exit, report) = host.doctor(&[]);
    assert_eq!(exit, 6, "{report:#}");
    assert_eq!(
        check(&report, HOST, "access")["fix"],
        "sudo usermod -aG jalapeno alice"
    );
    assert_eq!(check(&report, HOST, "cards")["code"], "no-card");
}
