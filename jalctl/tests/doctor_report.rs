//! The report of `jalctl doctor`: with any input, for any card, passive, and as its schema says.

use std::os::unix::fs::symlink;

use serde_json::Value;

mod played_host;

use played_host::{CARD, Played};

#[test]
fn a_host_whose_files_are_missing_or_garbage_is_looked_at_all_the_same() {
    let host = Played::empty("nothing");
    let (exit, report) = host.doctor(&[]);
    assert_eq!(exit, 7);
    assert_eq!(report["devices"].as_array().expect("devices").len(), 1);
    let host = Played::good("garbage");
    let card = format!("sys/bus/pci/devices/{CARD}");
    for file in [
        "proc/sys/kernel/osrelease",
        "proc/cmdline",
        "proc/cpuinfo",
        "proc/interrupts",
        "proc/meminfo",
        "proc/self/status",
        "proc/self/limits",
        "etc/group",
        "etc/passwd",
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        &format!("{card}/resource"),
        &format!("{card}/resource4_resize"),
        &format!("{card}/numa_node"),
    ] {
        for text in [
            "",
            "\u{1b}[2J::::\n",
            "99999999999999999999999\n",
            "0x0 0x0\n\n\n\n0xg\n",
        ] {
            host.write(file, text);
            let (exit, report) = host.doctor(&[]);
            assert!([0, 6, 7].contains(&exit), "{file}: {exit}");
            assert!(report["devices"][0]["doctor"].is_object());
        }
        let table = host.jalctl(&["doctor"]);
        assert!(
            !String::from_utf8_lossy(&table.stdout).contains('\u{1b}'),
            "{file}"
        );
        host.remove(file);
        assert!([0, 6, 7].contains(&host.doctor(&[]).0), "{file} vanished");
    }
    // Folders where files should be, files where folders should be, links that turn round.
    host.remove("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    host.write(
        "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages/x",
        "",
    );
    host.remove("sys/kernel/iommu_groups");
    host.write("sys/kernel/iommu_groups", "");
    host.remove("sys/bus/pci/drivers");
    symlink("drivers", host.path("sys/bus/pci/drivers")).expect("a link");
    assert_eq!(host.doctor(&[]).0, 7);
}

#[test]
fn names_that_are_no_card_are_refused() {
    let host = Played::good("names");
    for name in [
        "0000:09:00.0",
        "7",
        "../../..",
        "",
        "c15c0289-ec2d-8a91-a7ec-8e65a18debbe",
    ] {
        let output = host.jalctl(&["doctor", "-d", name]);
        assert_eq!(output.status.code(), Some(3), "{name}");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(
            words.contains("error: ") && words.contains("hint: "),
            "{words}"
        );
    }
    assert_eq!(
        host.jalctl(&["doctor", "--pin", "much"]).status.code(),
        Some(2)
    );
    let uuid = "c15c0289-ec2d-8a91-a7ec-8e65a18debbe";
    host.write(
        format!("sys/bus/pci/devices/{CARD}/jalapeno/uuid"),
        &format!("{uuid}\n"),
    );
    let (_, report) = host.doctor(&["-d", uuid]);
    assert_eq!(report["devices"][1]["name"], CARD);
    assert_eq!(report["devices"][1]["uuid"], uuid);
}

#[test]
fn doctor_opens_no_node_and_asks_no_socket() {
    let host = Played::good("passive");
    for node in [
        "dev/vfio/7",
        "dev/vfio/devices/vfio0",
        "dev/iommu",
        "dev/vfio/vfio",
    ] {
        host.remove(node);
        // Whoever opens a FIFO waits.
        let path = host.path(node);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::empty()).expect("a FIFO");
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(path, everybody).expect("a mode");
    }
    let (exit, _) = host.doctor(&[]);
    assert_eq!(exit, 0);
}

#[test]
fn the_report_is_as_its_committed_schema_says() {
    let host = Played::good("schema");
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/cli/schemas/doctor.json"
    );
    let schema = host.jalctl(&["doctor", "--schema"]).stdout;
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &schema).expect("blessed");
    }
    let committed = std::fs::read(path).expect("a committed schema");
    assert_eq!(schema, committed, "additions only, then BLESS=1");
    let schema: Value = serde_json::from_slice(&committed).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let (_, mut report) = host.doctor(&[]);
    assert!(validator.is_valid(&report));
    let (_, empty) = Played::empty("schema-empty").doctor(&[]);
    assert!(validator.is_valid(&empty));
    report["devices"][0]["doctor"]["verdict"] = "fine".into();
    assert!(!validator.is_valid(&report));
    for line in String::from_utf8_lossy(&host.jalctl(&["doctor", "-o", "jsonl"]).stdout).lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(line["schema_version"], 1);
    }
    let csv = host.jalctl(&["doctor", "-o", "csv"]).stdout;
    assert!(String::from_utf8_lossy(&csv).lines().count() > 10);
}
