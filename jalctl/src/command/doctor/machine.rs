//! What doctor finds on the machine itself, cards or no cards.

use jalapeno::host::{Host, HugePages, Presence, Processor, Remapping, group_named};

use super::check::Check;
use super::remedy;
use crate::output::bytes;
use crate::packaged::{Found, GROUP, LIMITS, MODULES_LOAD};

/// The oldest kernel that this was run on.
const OLDEST: (u32, u32) = (6, 1);

/// Every check of the machine. `pin_bytes`: what programs are to pin.
pub fn checks(host: &Host, cards: usize, pin_bytes: u64) -> Vec<Check> {
    let mut checks = vec![kernel(host), iommu(host), interrupts(host), modules(host)];
    checks.extend(no_iommu_mode(host));
    checks.extend(container(host));
    checks.extend([
        iommufd(host),
        access(host),
        memlock(host, pin_bytes),
        hugepages(host),
    ]);
    checks.push(match cards {
        0 => Check::note(
            "cards",
            "no-card",
            "none on the PCI bus; for an emulated one: jalctl emulate -- COMMAND",
        ),
        1 => Check::ok("cards", "1 on the PCI bus"),
        more => Check::ok("cards", format!("{more} on the PCI bus")),
    });
    checks
}

fn kernel(host: &Host) -> Check {
    let kernel = &host.kernel;
    if kernel.version.is_none() {
        return Check::note("kernel", "unknown", "its version cannot be read");
    }
    let release = format!("Linux {}", kernel.release);
    if !kernel.is_at_least(OLDEST.0, OLDEST.1) {
        let (major, minor) = OLDEST;
        let message = format!("{release}: older than {major}.{minor}, the oldest this ran on");
        return Check::warning("kernel", "kernel-old", message)
            .mended_by(remedy::newer_kernel(host));
    }
    let vectors = match kernel.is_at_least(6, 5) {
        true => "adds interrupt vectors one at a time",
        false => "takes interrupt vectors all at once (from 6.5 on: one at a time)",
    };
    Check::ok("kernel", format!("{release}: {vectors}"))
}

/// Words on the kernel's command line by which somebody switched the IOMMU off.
const OFF: [&str; 3] = ["iommu=off", "intel_iommu=off", "amd_iommu=off"];

fn iommu(host: &Host) -> Check {
    let iommu = &host.iommu;
    if iommu.is_on() {
        let units = match iommu.units.is_empty() {
            true => "on".into(),
            false => iommu.units.join(", "),
        };
        return Check::ok("iommu", format!("{units}; groups: {}", iommu.groups));
    }
    let (code, message, fix) = no_iommu(host);
    Check::failure("iommu", code, message).mended_by(fix)
}

/// Why there is no IOMMU at work, and what turns it on.
pub fn no_iommu(host: &Host) -> (&'static str, String, String) {
    let (iommu, kernel) = (&host.iommu, &host.kernel);
    if let Some(word) = OFF.iter().find(|word| kernel.has_parameter(word)) {
        let message = format!("none at work: the kernel was started with {word}");
        return (
            "iommu-switched-off",
            message,
            remedy::remove_parameter(host, word),
        );
    }
    let wanted = remedy::iommu_word(host);
    if iommu.table.is_some() && !kernel.has_parameter(wanted) {
        let message = format!("none at work: firmware tells of one, the kernel needs {wanted}");
        return (
            "iommu-not-asked-for",
            message,
            remedy::add_parameter(host, wanted),
        );
    }
    if kernel.is_guest {
        let message = "none at work: this virtual machine was given none; on its host, start it \
                       with one (QEMU's words below)";
        return ("iommu-absent", message.into(), remedy::VIRTUAL.into());
    }
    let name = match kernel.processor {
        Processor::Intel => "VT-d",
        Processor::Amd => "AMD-Vi (IOMMU)",
        Processor::Other => "the IOMMU (SMMU)",
    };
    let message = match iommu.has_tables {
        true => format!("none at work: firmware tells of none: switch {name} on in its menu"),
        false => format!("none at work: look for {name} in the firmware's menu"),
    };
    ("iommu-absent", message, remedy::FIRMWARE.into())
}

fn interrupts(host: &Host) -> Check {
    const NAME: &str = "interrupt-remapping";
    match host.iommu.remapping {
        Remapping::On => Check::ok(NAME, "on"),
        _ if !host.iommu.is_on() => {
            Check::note(NAME, "no-iommu", "an IOMMU does it, and none is at work")
        }
        Remapping::Unknown => Check::note(NAME, "unknown", "the kernel does not say"),
        Remapping::Off => {
            let switched = ["intremap=off", "nointremap"];
            let word = switched.iter().find(|word| host.kernel.has_parameter(word));
            let (why, fix) = match word {
                Some(word) => (
                    format!("the kernel was started with {word}"),
                    remedy::remove_parameter(host, word),
                ),
                None if host.kernel.is_guest => (
                    "this virtual machine's IOMMU has none (QEMU's words below)".into(),
                    remedy::VIRTUAL.into(),
                ),
                None => (
                    "switch on interrupt remapping (or x2APIC) in the firmware's menu".into(),
                    remedy::FIRMWARE.into(),
                ),
            };
            let unsafe_ = host.parameter("vfio_iommu_type1", "allow_unsafe_interrupts");
            let check = match unsafe_.as_deref() {
                Some("Y" | "1") => Check::warning(
                    NAME,
                    "interrupts-forgeable",
                    format!(
                        "off, and VFIO was told to do without: a card can forge interrupts; {why}"
                    ),
                ),
                _ => Check::failure(
                    NAME,
                    "remapping-off",
                    format!("off, so VFIO gives no card away: {why}"),
                ),
            };
            check.mended_by(fix)
        }
    }
}

/// Modules that programs need, and what may stand in for one.
const MODULES: [(&str, &[&str]); 3] = [
    ("vfio", &[]),
    ("vfio_iommu_type1", &[]),
    ("vfio-pci", &["jalapeno_vfio_pci"]),
];

fn modules(host: &Host) -> Check {
    const NAME: &str = "vfio-modules";
    let loaded = |name: &str| host.module(name) == Presence::Loaded;
    let missing: Vec<&str> = MODULES
        .iter()
        .filter(|(name, others)| !loaded(name) && !others.iter().any(|other| loaded(other)))
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        let shim = match loaded("jalapeno_vfio_pci") {
            true => "jalapeno_vfio_pci is there too",
            false => "without jalapeno_vfio_pci: no sensors while a program has the card",
        };
        return Check::ok(NAME, format!("loaded; {shim}"));
    }
    let words = missing.join(", ");
    if missing
        .iter()
        .any(|name| host.module(name) == Presence::Absent)
    {
        let message = format!("this kernel was built without them: {words}");
        return Check::failure(NAME, "vfio-not-in-kernel", message)
            .mended_by(remedy::whole_kernel(host));
    }
    let seen = match missing
        .iter()
        .any(|name| host.module(name) == Presence::Unknown)
    {
        true => "; whether this kernel has them cannot be seen from here",
        false => "",
    };
    let check = Check::failure(
        NAME,
        "vfio-not-loaded",
        format!("not loaded: {words}{seen}"),
    )
    .mended_by(remedy::load(&missing));
    match MODULES_LOAD.find(&host.root().file("")) {
        // They are to be loaded at boot and are not: setup has nothing to add.
        Found::Same(_) => check,
        _ => check.by_setup(),
    }
}

fn no_iommu_mode(host: &Host) -> Option<Check> {
    let value = host.parameter("vfio", "enable_unsafe_noiommu_mode")?;
    matches!(value.as_str(), "Y" | "1").then(|| {
        Check::warning(
            "no-iommu-mode",
            "noiommu-allowed",
            "VFIO was told to give cards away without an IOMMU: such a card reaches all memory",
        )
        .mended_by("echo N | sudo tee /sys/module/vfio/parameters/enable_unsafe_noiommu_mode")
    })
}

/// `/dev/vfio/vfio`, where its module is loaded and it is amiss.
fn container(host: &Host) -> Option<Check> {
    const NAME: &str = "vfio-node";
    if host.module("vfio") != Presence::Loaded {
        return None;
    }
    Some(match &host.container {
        None if remedy::is_contained(host) => Check::failure(
            NAME,
            "node-missing",
            "/dev/vfio/vfio is not there: this container was not given it",
        )
        .mended_by(
            "docker run --device /dev/vfio/vfio --device /dev/vfio/GROUP --ulimit memlock=-1 IMAGE",
        ),
        None => Check::failure(NAME, "node-missing", "/dev/vfio/vfio is not there")
            .mended_by("sudo mkdir -p /dev/vfio && sudo mknod -m 666 /dev/vfio/vfio c 10 196"),
        Some(node) if !node.is_open_to_us => Check::failure(
            NAME,
            "not-permitted",
            format!(
                "/dev/vfio/vfio has mode {:04o}: it is everybody's by design",
                node.mode
            ),
        )
        .mended_by("sudo chmod 0666 /dev/vfio/vfio"),
        Some(_) => Check::ok(NAME, "/dev/vfio/vfio can be opened"),
    })
}

fn iommufd(host: &Host) -> Check {
    const NAME: &str = "iommufd";
    const GROUPS: &str = "Cards are reached by their groups, which is as good";
    if host.iommufd.is_some() {
        return Check::ok(NAME, "/dev/iommu is there");
    }
    let (code, why, fix) = match host.module("iommufd") {
        Presence::Available => (
            "iommufd-not-loaded",
            "not loaded",
            remedy::load(&["iommufd"]),
        ),
        Presence::Loaded => (
            "node-missing",
            "loaded, and /dev/iommu is not there",
            "docker run --device /dev/iommu IMAGE".into(),
        ),
        Presence::Absent | Presence::Unknown if host.kernel.is_at_least(6, 6) => (
            "iommufd-not-in-kernel",
            "not in this kernel; one built with the options below has it",
            remedy::IOMMUFD.into(),
        ),
        Presence::Absent | Presence::Unknown => (
            "iommufd-not-in-kernel",
            "not in this kernel; one from 6.6 on, built with the options below, has it",
            remedy::IOMMUFD.into(),
        ),
    };
    Check::note(NAME, code, format!("{why}. {GROUPS}")).mended_by(fix)
}

fn access(host: &Host) -> Check {
    const NAME: &str = "access";
    let Some(user) = &host.user else {
        return Check::note(NAME, "unknown", "procfs does not say who asks");
    };
    let group = group_named(host.root(), GROUP);
    let Some(group) = group else {
        let who = if user.may_all() {
            "; you may all the same"
        } else {
            ""
        };
        let message = format!("there is no group {GROUP} to give cards to{who}");
        return Check::warning(NAME, "no-group", message)
            .mended_by(remedy::SETUP)
            .by_setup();
    };
    if user.may_all() {
        return Check::ok(NAME, format!("{} may open every card", user.word()));
    }
    if user.groups.contains(&group.id) {
        return Check::ok(NAME, format!("{} is in the group {GROUP}", user.word()));
    }
    if group.members.contains(&user.word()) {
        let message = format!(
            "{} joined the group {GROUP} after this session began",
            user.word()
        );
        return Check::warning(NAME, "group-not-active", message)
            .mended_by(format!("newgrp {GROUP}"));
    }
    let message = format!(
        "{} is not in the group {GROUP}; join, then log in again",
        user.word()
    );
    Check::warning(NAME, "not-in-group", message).mended_by(remedy::join(GROUP, &user.word()))
}

fn memlock(host: &Host, need: u64) -> Check {
    const NAME: &str = "memlock";
    let memlock = host.memlock;
    let room = memlock.room();
    if room == u64::MAX {
        let why = match memlock.is_exempt {
            true => "no limit binds this process",
            false => "unlimited",
        };
        return Check::ok(NAME, why);
    }
    let (has, needs) = (bytes(room), bytes(need));
    if room >= need {
        let message = format!("{has} may be pinned; {needs} are needed at least");
        return Check::ok(NAME, message).figures(room, Some(need), "bytes");
    }
    let message = format!("{has} may be pinned, {needs} are needed at least");
    let check = Check::failure(NAME, "memlock-small", message).figures(room, Some(need), "bytes");
    let all = memlock.used.saturating_add(need);
    if all <= memlock.hard {
        return check.mended_by(format!("ulimit -l {}", all.div_ceil(1024)));
    }
    match LIMITS.find(&host.root().file("")) {
        // The next login has it; this shell can be given it at once.
        Found::Same(_) => check.mended_by("sudo prlimit --pid $$ --memlock=unlimited"),
        _ => check.mended_by(remedy::SETUP).by_setup(),
    }
}

fn hugepages(host: &Host) -> Check {
    const NAME: &str = "hugepages";
    let Some(usual) = host.hugepages.first() else {
        return Check::note(NAME, "hugepages-unsupported", "this kernel has none");
    };
    let reserved: Vec<&HugePages> = host
        .hugepages
        .iter()
        .filter(|size| size.total > 0)
        .collect();
    let total = reserved.iter().map(|size| size.total).sum();
    if reserved.is_empty() {
        let message = "none reserved: mapping large buffers takes longer";
        return Check::warning(NAME, "hugepages-none", message)
            .mended_by(format!(
                "sudo sysctl vm.nr_hugepages={}",
                wanted_pages(host, usual)
            ))
            .by_setup()
            .figures(0, Some(1), "pages");
    }
    let words: Vec<String> = reserved
        .iter()
        .map(|size| {
            let (total, free) = (size.total, size.free);
            format!("{total} of {}, {free} free", bytes(size.page_bytes))
        })
        .collect();
    let check = match reserved.iter().all(|size| size.free == 0) {
        true => Check::note(NAME, "hugepages-used-up", words.join("; ")),
        false => Check::ok(NAME, words.join("; ")),
    };
    check.figures(total, Some(1), "pages")
}

/// A gibibyte of huge pages, or an eighth of a small machine's memory.
pub fn wanted_pages(host: &Host, size: &HugePages) -> u64 {
    let page = size.page_bytes.max(1);
    let eighth = host.memory_bytes.unwrap_or(u64::MAX) / 8;
    (eighth.min(1 << 30) / page).max(1)
}
