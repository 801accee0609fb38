//! Transcripts: what jalctl prints, word by word, on a card of its own for each file.
//!
//! `tests/cli/*.md` are the transcripts; `TRYCMD=overwrite` writes what it prints today.
//! `tests/cli/schemas` are the schemas of the reports; `BLESS=1` rewrites them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use jalapeno::{Device, Role};
use jalapeno_emulator::board::Board;
use jalapeno_emulator::identity::Options;
use serde_json::Value;

fn board() -> Board {
    let options = Options {
        hbm_bytes: 64 << 20,
        resident_limit: 64 << 20,
        threads: 1,
        ..Options::default()
    };
    Board::start(options).expect("a board starts")
}

fn name(board: &Board) -> String {
    format!("vfio-user:{}", board.path().display())
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cli")
}

/// Runs jalctl; `devices` is what JALAPENO_DEVICES says.
fn jalctl(devices: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jalctl"))
        .args(arguments)
        .env("JALAPENO_DEVICES", devices)
        .env_remove("JALAPENO_VISIBLE_DEVICES")
        .env("NO_COLOR", "1")
        .output()
        .expect("jalctl runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit code, not a signal")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Leaves a record in the fault log.
fn fail_a_job(device: &str) {
    let owner = Device::open(device, Role::Compute).expect("a card");
    let session = jalapeno::Session::new(&owner).expect("a session");
    let options = jalapeno::QueueOptions::default();
    let mut queue = session.queue(options).expect("a queue");
    let mut bad = jalapeno_hw::packets::Packet::ZERO;
    bad.header = 0xEE;
    let seq = queue.submit_one(&bad).expect("room");
    assert!(queue.completions().wait(seq, None).is_err());
}

#[test]
fn transcripts() {
    let mut files = 0;
    for entry in std::fs::read_dir(folder()).expect("tests/cli") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "md") {
            files += 1;
            let board = board();
            let cases = trycmd::TestCases::new();
            cases
                .register_bin("jalctl", Path::new(env!("CARGO_BIN_EXE_jalctl")))
                .env("JALAPENO_DEVICES", name(&board))
                .env("NO_COLOR", "1")
                .env("COLUMNS", "100");
            cases
                .insert_var("[CARD]", name(&board))
                .expect("a variable");
            cases.case(&path);
            cases.run();
        }
    }
    assert!(files >= 8, "only {files} transcripts");
}

const REPORTS: [&[&str]; 12] = [
    &["list"],
    &["info"],
    &["topo"],
    &["ps"],
    &["top", "--count", "1", "--interval", "0.1"],
    &["health"],
    &["events"],
    &["explain"],
    &["regs"],
    &["reset", "--yes"],
    &["bench", "--duration", "0.01"],
    &["trace", "--time", "0.05", "/dev/null"],
];

/// What holds a command's reports against its committed schema, which is the one that it prints.
fn committed(command: &str) -> jsonschema::Validator {
    let schema = jalctl("", &[command, "--schema"]);
    assert_eq!(code(&schema), 0, "{command}");
    let path = folder().join("schemas").join(format!("{command}.json"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("schemas");
        std::fs::write(&path, &schema.stdout).expect("blessed");
    }
    let committed = std::fs::read_to_string(&path).expect("a committed schema");
    assert_eq!(
        text(&schema.stdout),
        committed,
        "{}: additions only, then BLESS=1",
        path.display()
    );
    let schema: Value = serde_json::from_str(&committed).expect("JSON");
    jsonschema::validator_for(&schema).expect("a schema")
}

#[test]
fn an_emulated_card_has_no_driver_to_be_bound_to() {
    let board = board();
    let device = name(&board);
    for command in ["bind", "unbind"] {
        let validator = committed(command);
        for more in [&["--plan"][..], &[]] {
            let output = jalctl(&device, &[&[command, "-o", "json"], more].concat());
            assert_eq!(code(&output), 12, "{}", text(&output.stderr));
            let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert!(validator.is_valid(&document), "{document}");
            let problem = &document["devices"][0]["problem"];
            assert!(problem["hint"].is_string(), "{problem}");
            let words = problem["message"].as_str().expect("words");
            assert!(words.contains("not on the PCI bus"), "{words}");
        }
    }
    assert_eq!(code(&jalctl(&device, &["bind", "--driver", "nvme"])), 2);
    let both = ["bind", "--recorded", "--persist"];
    assert_eq!(code(&jalctl(&device, &both)), 2);
}

#[test]
fn ps_names_owner_and_observer_and_is_none_of_them() {
    let board = board();
    let device = name(&board);
    let ask = || {
        let output = jalctl(&device, &["ps", "-o", "json"]);
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        report["devices"][0]["ps"].clone()
    };
    assert_eq!(ask()["holders"], serde_json::json!([]));
    // One who wants nobody to watch is named all the same.
    let owner = Device::open(&device, Role::Exclusive).expect("a card");
    let told = ask();
    let process = &told["holders"][0];
    assert_eq!(process["pid"], std::process::id());
    assert_eq!(process["way"], "owner");
    assert_eq!(told["hidden_processes"], 0);
    let begun = process["started_unix_seconds"].as_u64().expect("a time");
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).expect("a clock");
    assert!(begun <= now.as_secs() + 1 && begun + 3600 > now.as_secs());
    let line = process["command_line"].as_str().expect("a command line");
    assert!(line.contains("cli"), "{line}");
    drop(owner);
    let watcher = Device::open(&device, Role::Observe).expect("a card");
    let told = ask();
    assert_eq!(told["holders"][0]["way"], "observer");
    assert_eq!(told["holders"].as_array().expect("holders").len(), 1);
    drop(watcher);
}

#[test]
fn every_report_is_as_its_committed_schema_says() {
    let board = board();
    let device = name(&board);
    // A fault, so that there is an event.
    fail_a_job(&device);
    for report in REPORTS {
        let validator = committed(report[0]);
        let json = |form| [report, &["-o", form]].concat();
        let output = jalctl(&device, &json("json"));
        let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        if let Err(error) = validator.validate(&document) {
            panic!("{report:?}: {error}");
        }
        assert!(
            document["devices"][0][report[0]].is_object(),
            "{report:?}: {document}"
        );
        // The schema can refuse.
        let mut wrong = document.clone();
        wrong["devices"][0]["name"] = 7.into();
        assert!(!validator.is_valid(&wrong), "{report:?}");
        // One line a device, each a document.
        let lines = jalctl(&device, &json("jsonl"));
        for line in text(&lines.stdout).lines() {
            let value: Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(value["schema_version"], 1);
        }
        // As many cells in each line as there are columns.
        let csv = text(&jalctl(&device, &json("csv")).stdout);
        let columns = csv.lines().next().expect("a header").split(',').count();
        assert!(columns > 2 && csv.lines().count() > 1, "{report:?}: {csv}");
    }
}

#[test]
fn a_device_in_use_is_read_and_its_holder_named() {
    let board = board();
    let device = name(&board);
    let owner = Device::open(&device, Role::Compute).expect("a card");
    for report in [
        ["list"],
        ["info"],
        ["topo"],
        ["ps"],
        ["health"],
        ["events"],
        ["regs"],
    ] {
        assert_eq!(code(&jalctl(&device, &report)), 0, "{report:?}");
    }
    let pid = std::process::id().to_string();
    for command in [
        &["reset", "--yes"][..],
        &["bench", "--duration", "0.01"],
        &["events", "--acknowledge"],
    ] {
        let output = jalctl(&device, command);
        assert_eq!(code(&output), 5, "{command:?}");
        let words = text(&output.stderr);
        assert!(words.contains(&pid) && words.contains("hint: "), "{words}");
    }
    let plan = text(&jalctl(&device, &["reset", "--plan"]).stdout);
    assert!(plan.contains(&format!("process {pid}")), "{plan}");
    // Nothing was done to the owner.
    owner.verify().expect("not reset");
}

#[test]
fn a_reset_moves_the_generation_and_says_so() {
    let board = board();
    let device = name(&board);
    for level in ["device", "function"] {
        let output = jalctl(&device, &["reset", "--yes", "--level", level, "-o", "json"]);
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let done = &report["devices"][0]["reset"];
        assert!(done["generation_after"].as_u64() > done["generation_before"].as_u64());
        assert_eq!(done["performed"], true);
    }
}

#[test]
fn a_failed_reset_is_no_success() {
    let board = board();
    board.fault(jalapeno_emulator::faults::Fault::ResetFails);
    let output = jalctl(&name(&board), &["reset", "--yes"]);
    assert_eq!(code(&output), 8, "{}", text(&output.stderr));
    assert!(text(&output.stdout).is_empty());
}

#[test]
fn mistakes_have_their_own_exit_codes_and_a_hint() {
    let board = board();
    let device = name(&board);
    let gone = "vfio-user:/no/such/card";
    for (devices, arguments, wanted) in [
        (gone, &["info"][..], 3),
        (gone, &["list"], 3),
        (gone, &["ps"], 3),
        ("", &["topo"], 3),
        ("", &["bind"], 3),
        (&device, &["bind", "-d", "ffff:fe:1d.7"], 3),
        (&device, &["unbind", "-d", "ffff:fe:1d.7"], 3),
        (&device, &["bind", "-d", "no-such-name"], 3),
        (&device, &["bind", "--recorded", "-d", "ffff:fe:1d.7"], 3),
        (&device, &["topo", "-d", "ffff:fe:1d.7"], 3),
        ("", &["info"], 3),
        (&device, &["info", "-d", "7"], 3),
        (&device, &["info", "-d", "no-such-name"], 3),
        (&device, &["info", "-d", "vfio-user:/etc/passwd"], 3),
        (&device, &["info", "--colour"], 2),
        (&device, &["reset"], 2),
        (&device, &["reset", "--level", "bus"], 2),
        (&device, &["bench", "--duration", "-1"], 2),
        (&device, &["explain", "0xffff"], 2),
        (&device, &["regs", "nosuch"], 2),
        (&device, &["emulate", "--devices", "0"], 2),
        (&device, &["events", "--after", "-1"], 2),
    ] {
        let output = jalctl(devices, arguments);
        let words = text(&output.stderr);
        assert_eq!(code(&output), wanted, "{arguments:?}: {words}");
        assert!(words.contains("error: "), "{arguments:?}: {words}");
        if wanted != 2 {
            assert!(words.contains("hint: "), "{arguments:?}: {words}");
        }
    }
}

#[test]
fn some_devices_failing_is_partial_and_the_others_are_reported() {
    let board = board();
    let devices = format!("{},vfio-user:/no/such/card", name(&board));
    let output = jalctl(&devices, &["info", "-o", "json"]);
    assert_eq!(code(&output), 14);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(report["devices"][0]["info"].is_object());
    assert!(report["devices"][1]["info"].is_null());
    assert_eq!(report["devices"][1]["problem"]["code"], "not-found");
    assert!(report["devices"][1]["problem"]["hint"].is_string());
}

#[test]
fn other_versions_are_refused_by_name() {
    let board = board();
    board.fault(jalapeno_emulator::faults::Fault::VersionNew);
    let output = jalctl(&name(&board), &["info"]);
    assert_eq!(code(&output), 11);
    assert!(text(&output.stderr).contains("2.0"));
}

#[test]
fn stale_or_broken_telemetry_is_never_well() {
    for fault in [
        jalapeno_emulator::faults::Fault::TelemetryTorn,
        jalapeno_emulator::faults::Fault::TelemetryGarbage,
        jalapeno_emulator::faults::Fault::TelemetryStale,
    ] {
        let board = board();
        board.fault(fault);
        // Stale is what is older than its own limit.
        let mut exit = 0;
        for _ in 0..50 {
            let output = jalctl(&name(&board), &["health", "-o", "json"]);
            exit = code(&output);
            if exit != 0 {
                let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
                let checks = &report["devices"][0]["health"]["checks"];
                for check in checks.as_array().expect("checks") {
                    let power = check["check"] == "power_milliwatts";
                    assert!(!power || check["value"].is_null(), "{check}");
                }
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        assert_eq!(exit, 6, "{fault:?}");
    }
}

#[test]
fn names_cannot_speak_to_the_terminal() {
    let output = jalctl("vfio-user:/tmp/\u{1b}[2Jcard", &["list"]);
    assert!(
        !text(&output.stdout).contains('\u{1b}'),
        "{:?}",
        output.stdout
    );
    assert!(
        !text(&output.stderr).contains('\u{1b}'),
        "{:?}",
        output.stderr
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let board = board();
    let mut child = Command::new(env!("CARGO_BIN_EXE_jalctl"))
        .arg("regs")
        .env("JALAPENO_DEVICES", name(&board))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("jalctl runs");
    drop(child.stdout.take()); // long before anything is written
    let output = child.wait_with_output().expect("it ends");
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    assert_eq!(code(&output), 0);
    // A full disk is one.
    let full = std::fs::File::create("/dev/full").expect("a full disk");
    let output = Command::new(env!("CARGO_BIN_EXE_jalctl"))
        .arg("regs")
        .env("JALAPENO_DEVICES", name(&board))
        .stdout(full)
        .output()
        .expect("jalctl runs");
    assert_eq!(code(&output), 1);
    assert!(text(&output.stderr).contains("No space left"));
}

#[test]
fn followed_events_come_as_they_happen_and_end_with_the_device() {
    let board = board();
    let device = name(&board);
    let mut child = Command::new(env!("CARGO_BIN_EXE_jalctl"))
        .args(["events", "--follow", "-o", "jsonl"])
        .env("JALAPENO_DEVICES", &device)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("jalctl runs");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    for number in 1..=2 {
        fail_a_job(&device);
        let line = lines.next().expect("a line").expect("UTF-8");
        let event: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(event["number"], number);
        assert_eq!(event["fault"], "unknown-opcode");
    }
    board.kill();
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(code(&output), 9, "{}", text(&output.stderr));
}

#[test]
fn acknowledged_events_no_longer_worry_health() {
    let board = board();
    let device = name(&board);
    assert_eq!(code(&jalctl(&device, &["health"])), 0);
    fail_a_job(&device);
    assert_eq!(code(&jalctl(&device, &["health"])), 6);
    assert_eq!(code(&jalctl(&device, &["events", "--acknowledge"])), 0);
    assert_eq!(code(&jalctl(&device, &["health"])), 0);
}

#[test]
fn completions_and_the_manual_name_every_command() {
    let manual = text(&jalctl("", &["man"]).stdout);
    let script = text(&jalctl("", &["completions", "bash"]).stdout);
    for report in REPORTS {
        assert!(
            manual.contains(&format!("jalctl {}", report[0])),
            "{report:?}"
        );
        assert!(script.contains(report[0]), "{report:?}");
    }
    assert!(manual.contains("Exit codes"));
    for shell in ["zsh", "fish"] {
        assert!(jalctl("", &["completions", shell]).stdout.len() > 1000);
    }
}
