//! A host whose files are played: sys, proc, dev and etc in a folder of its own.
#![allow(dead_code, reason = "each test plays a part of it")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// See the file's head. The folder is removed when dropped.
#[derive(Debug)]
pub struct Played(PathBuf);

/// The card's address in these hosts.
pub const CARD: &str = "0000:01:00.0";

impl Played {
    /// A host with nothing in it.
    pub fn empty(name: &str) -> Self {
        let name = format!("jalapeno-host-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(path.join("proc")).expect("a folder");
        Self(path)
    }

    /// A host on which everything is as it should be: a card bound to the kernel module, a user in
    /// the group.
    pub fn good(name: &str) -> Self {
        let host = Self::empty(name);
        host.write("proc/sys/kernel/osrelease", "6.12.95+deb12-amd64\n");
        host.write("proc/cmdline", "root=/dev/sda1 intel_iommu=on\n");
        host.write(
            "proc/cpuinfo",
            "vendor_id\t: GenuineIntel\nflags\t\t: fpu vme\n",
        );
        host.write("proc/interrupts", "  1:  0  7  IR-IO-APIC  1-edge  i8042\n");
        host.write("proc/meminfo", "MemTotal:       65536000 kB\n");
        host.user(0, false);
        host.memlock("unlimited", "unlimited");
        host.write("etc/passwd", "alice:x:1000:1000::/:/bin/sh\n");
        host.write("sys/firmware/acpi/tables/DMAR", "");
        host.write("sys/class/iommu/dmar0/address", "");
        for module in ["vfio", "vfio_iommu_type1", "vfio_pci", "iommufd"] {
            host.write(format!("sys/module/{module}/refcnt"), "0\n");
        }
        let pages = "sys/kernel/mm/hugepages/hugepages-2048kB";
        host.write(format!("{pages}/nr_hugepages"), "512\n");
        host.write(format!("{pages}/free_hugepages"), "500\n");
        host.node("dev/vfio/vfio", 0o666);
        host.node("dev/iommu", 0o660);
        host.card(CARD, 7, Some("vfio-pci"));
        // Nodes are of the group that the test may give them to; it plays the part of jalapeno.
        let gid = fs::metadata(host.path("dev/iommu")).expect("a node").gid();
        host.write("etc/group", &format!("root:x:0:\njalapeno:x:{gid}:alice\n"));
        host.user(gid, false);
        host
    }

    pub fn path(&self, file: impl AsRef<Path>) -> PathBuf {
        self.0.join(file)
    }

    pub fn write(&self, file: impl AsRef<Path>, text: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, text).expect("a file");
    }

    pub fn remove(&self, file: &str) {
        let path = self.path(file);
        match fs::symlink_metadata(&path) {
            Ok(about) if about.is_dir() => fs::remove_dir_all(path).expect("removed"),
            _ => fs::remove_file(path).expect("removed"),
        }
    }

    /// Alice, who is in group `gid`; `root`: with every capability.
    pub fn user(&self, gid: u32, root: bool) {
        let capabilities = if root {
            "000001ffffffffff"
        } else {
            "0000000000000000"
        };
        self.write(
            "proc/self/status",
            &format!(
                "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t{gid}\n\
                 VmLck:\t       0 kB\nCapEff:\t{capabilities}\n"
            ),
        );
    }

    /// What the group's number is.
    pub fn gid(&self) -> u32 {
        fs::metadata(self.path("dev/iommu")).expect("a node").gid()
    }

    pub fn memlock(&self, soft: &str, hard: &str) {
        let line = format!("Max locked memory         {soft}   {hard}   bytes\n");
        self.write("proc/self/limits", &line);
    }

    /// A node of the group; not of root's own, which nobody is told to join.
    pub fn node(&self, file: &str, mode: u32) {
        self.write(file, "");
        let path = self.path(file);
        if fs::metadata(&path).expect("a node").gid() == 0 {
            std::os::unix::fs::chown(&path, None, Some(998)).expect("root gives files away");
        }
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("a mode");
    }

    pub fn card(&self, address: &str, group: u32, driver: Option<&str>) {
        self.function(address, (0xA1A0, 1), group, driver);
        let folder = format!("sys/bus/pci/devices/{address}");
        let empty = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
        let window = "0x0000004000000000 0x0000007fffffffff 0x000000000014220c\n";
        self.write(
            format!("{folder}/resource"),
            &[empty, empty, empty, empty, window].concat(),
        );
        self.write(format!("{folder}/resource4_resize"), "0000000000040100\n");
        if matches!(driver, Some("vfio-pci" | "jalapeno_vfio_pci")) {
            let number = group - 7;
            self.write(format!("{folder}/vfio-dev/vfio{number}/dev"), "511:0\n");
            self.node(&format!("dev/vfio/devices/vfio{number}"), 0o660);
            self.node(&format!("dev/vfio/{group}"), 0o660);
        }
    }

    /// Any PCI function, in a group, with or without a driver.
    pub fn function(&self, address: &str, ids: (u16, u16), group: u32, driver: Option<&str>) {
        let folder = format!("sys/bus/pci/devices/{address}");
        self.write(format!("{folder}/vendor"), &format!("{:#06x}\n", ids.0));
        self.write(format!("{folder}/device"), &format!("{:#06x}\n", ids.1));
        if let Some(driver) = driver {
            fs::create_dir_all(self.path(format!("sys/bus/pci/drivers/{driver}")))
                .expect("folders");
            let to = format!("../../drivers/{driver}");
            symlink(to, self.path(format!("{folder}/driver"))).expect("a link");
        }
        let members = format!("sys/kernel/iommu_groups/{group}/devices");
        fs::create_dir_all(self.path(&members)).expect("folders");
        let to = format!("../../../../bus/pci/devices/{address}");
        symlink(to, self.path(format!("{members}/{address}"))).expect("a link");
        let to = format!("../../../../kernel/iommu_groups/{group}");
        symlink(to, self.path(format!("{folder}/iommu_group"))).expect("a link");
    }

    /// Runs jalctl; `--root` of this host is added.
    pub fn jalctl(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_jalctl"))
            .args(arguments)
            .arg("--root")
            .arg(&self.0)
            .env_remove("JALAPENO_DEVICES")
            .env("NO_COLOR", "1")
            .output()
            .expect("jalctl runs")
    }

    /// What doctor says, and its exit code.
    pub fn doctor(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.jalctl(&[&["doctor", "-o", "json"], arguments].concat());
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|why| {
            panic!("{why}: {words}");
        });
        (output.status.code().expect("an exit code"), report)
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The check of a report's host (`device` 0) or card (1).
pub fn check<'a>(report: &'a Value, device: usize, name: &str) -> &'a Value {
    let checks = report["devices"][device]["doctor"]["checks"].as_array();
    let checks = checks.unwrap_or_else(|| panic!("no checks: {report}"));
    checks
        .iter()
        .find(|check| check["check"] == name)
        .unwrap_or_else(|| panic!("no check {name}: {report}"))
}

/// Spoils a good host; the one check must say so, with this code and a command with these words,
/// and every other check must stay as it was.
pub fn finds(
    name: &str,
    spoil: impl Fn(&Played),
    (device, what): (usize, &str),
    code: &str,
    fix: &str,
) {
    let host = Played::good(name);
    spoil(&host);
    let (exit, report) = host.doctor(&[]);
    let found = check(&report, device, what);
    assert_eq!(found["code"], code, "{name}: {found}");
    let command = found["fix"]
        .as_str()
        .unwrap_or_else(|| panic!("{name}: no fix: {found}"));
    assert!(command.contains(fix), "{name}: {command}");
    assert!(
        !command.contains('\n') && !command.is_empty(),
        "{name}: one command"
    );
    let wanted = match found["verdict"].as_str() {
        Some("failure") => 7,
        Some("warning") => 6,
        Some("note") => 0,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(exit, wanted, "{name}: {report:#}");
}

/// The host's place in a report.
pub const HOST: usize = 0;
/// The card's.
pub const SLOT: usize = 1;
