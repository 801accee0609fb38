//! `jalctl top` for scripts: samples are as the schema says, honest, and cost nothing once it has ended.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jalapeno::{Device, QueueOptions, Role, Session};
use jalapeno_emulator::board::Board;
use jalapeno_emulator::faults::Fault;
use jalapeno_emulator::identity::Options;
use jalapeno_hw::limits::HBM_BASE;
use jalapeno_hw::packets::{Opcode, Packet, header};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn options(seed: u64) -> Options {
    Options {
        hbm_bytes: 64 << 20,
        resident_limit: 64 << 20,
        threads: 1,
        seed,
        ..Options::default()
    }
}

fn board() -> Board {
    Board::start(options(1)).expect("a board starts")
}

fn name(board: &Board) -> String {
    format!("vfio-user:{}", board.path().display())
}

fn top(devices: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jalctl"));
    command
        .arg("top")
        .args(arguments)
        .env("JALAPENO_DEVICES", devices)
        .env_remove("JALAPENO_VISIBLE_DEVICES")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(devices: &str, arguments: &[&str]) -> Output {
    top(devices, arguments).output().expect("jalctl runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// The reports of a run in jsonl, each as the committed schema wants it.
fn samples(output: &Output) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cli/schemas/top.json");
    let schema = std::fs::read_to_string(path).expect("a committed schema");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let parse = |line: &str| -> Value {
        let sample = serde_json::from_str(line).expect("a document a line");
        if let Err(error) = validator.validate(&sample) {
            panic!("{error}: {sample}");
        }
        sample
    };
    text(&output.stdout).lines().map(parse).collect()
}

/// An owner that works until it is dropped, and counts its jobs.
struct Owner {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Owner {
    /// Batches of so many jobs of this many bytes, with a pause between.
    fn start(device: &str, batch: u64, bytes: u64, pause: Duration) -> Self {
        let owner = Device::open(device, Role::Compute).expect("a card");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        // The queue's making is a job too, of queue 0: it is done before anybody counts.
        let session = Session::new(&owner).expect("a session");
        let options = QueueOptions {
            depth: 4096,
            ..QueueOptions::default()
        };
        let mut queue = session.queue(options).expect("a queue");
        let work = move || {
            let mut fill = Packet::ZERO;
            fill.header = header(Opcode::Fill, 0);
            fill.body = [HBM_BASE, bytes, 3, 0, 0];
            let mut done = 0;
            // However soon it is told to stop, one batch is done.
            while done == 0 || !stopped.load(Ordering::Relaxed) {
                let mut last = None;
                for _ in 0..batch {
                    last = Some(queue.submit_one(&fill).expect("room"));
                }
                let last = last.expect("a batch has jobs");
                queue.completions().wait(last, None).expect("done");
                done += batch;
                std::thread::sleep(pause);
            }
            done
        };
        Self {
            stop,
            thread: Some(std::thread::spawn(work)),
        }
    }

    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it runs");
        thread.join().expect("it ends well")
    }
}

fn figure(sample: &Value, key: &str) -> u64 {
    let told = &sample["devices"][0]["top"][key];
    told.as_u64().unwrap_or_else(|| panic!("{key}: {sample}"))
}

#[test]
fn samples_tell_of_a_working_owner_and_of_nothing_else() {
    let board = board();
    let device = name(&board);
    let owner = Owner::start(&device, 1, 1 << 20, Duration::from_millis(5));
    let output = run(&device, &["-o", "jsonl", "-n", "4", "--interval", "0.5"]);
    let done = owner.end();
    assert!(output.status.success(), "{output:?}");
    let samples = samples(&output);
    assert_eq!(samples.len(), 4);
    let mut jobs = 0;
    for sample in &samples {
        let device = &sample["devices"][0];
        assert_eq!(device["uuid"], "c15c0289-ec2d-8a91-a7ec-8e65a18debbe");
        let top = &device["top"];
        assert_eq!((&top["state"], &top["index"]), (&"ready".into(), &0.into()));
        assert_eq!(top["missed_records"], 0);
        assert!(
            (1..=1000).contains(&figure(sample, "busy_per_mille")),
            "{top}"
        );
        assert!(figure(sample, "energy_per_job_nanojoules") > 0);
        assert!(figure(sample, "power_milliwatts") > 0);
        assert!(figure(sample, "bytes_per_second") > 1 << 20, "{top}");
        let interval = figure(sample, "interval_ns");
        assert!(interval > 300_000_000, "{interval}");
        let queues = top["queues"].as_array().expect("queues");
        let busiest = &queues[0];
        assert_eq!(busiest["energy_per_mille"], 1000);
        assert_eq!(busiest["failed"], 0);
        let (mean, p99) = (busiest["mean_ns"].as_u64(), busiest["p99_ns"].as_u64());
        assert!(mean > Some(0) && p99 >= mean, "{busiest}");
        assert_eq!(busiest["jobs"], top["jobs"]);
        let rate = figure(sample, "jobs") as f64 * 1e9 / interval as f64;
        assert!((rate - figure(sample, "jobs_per_second") as f64).abs() < 2.0);
        let holders = top["holders"].as_array().expect("holders");
        assert_eq!(holders[0]["pid"], std::process::id());
        assert_eq!(holders[0]["way"], "owner");
        jobs += figure(sample, "jobs");
    }
    assert!(jobs > 20 && jobs <= done, "{jobs} of {done}");
    let spent = |at: usize| figure(&samples[at], "energy_since_start_microjoules");
    assert!(spent(3) > spent(0));
}

#[test]
fn an_idle_card_is_idle_and_what_needs_a_job_is_null_with_its_reason() {
    let board = board();
    let output = run(&name(&board), &["-o", "jsonl", "-n", "2", "-i", "0.3"]);
    for sample in samples(&output) {
        let top = &sample["devices"][0]["top"];
        assert_eq!(
            (&top["busy_per_mille"], &top["jobs"]),
            (&0.into(), &0.into())
        );
        assert_eq!(top["queues"], serde_json::json!([]));
        assert_eq!(top["energy_per_job_nanojoules"], Value::Null);
        let reasons = top["unavailable"].as_array().expect("reasons");
        let mine = |why: &&Value| why["key"] == "energy_per_job_nanojoules";
        let why = reasons.iter().find(mine).expect("a reason");
        assert_eq!(why["code"], "no-jobs");
        // Every null figure has its reason, and nothing else has.
        let nulls = top.as_object().expect("an object").iter();
        let nulls: Vec<_> = nulls.filter(|(_, told)| told.is_null()).collect();
        assert_eq!(nulls.len(), reasons.len(), "{nulls:?} {reasons:?}");
    }
}

#[test]
fn records_that_came_too_fast_are_counted_as_missed() {
    let board = board();
    let device = name(&board);
    // Batches larger than the ring, of jobs that take next to nothing.
    let owner = Owner::start(&device, 3000, 64, Duration::from_millis(100));
    let output = run(&device, &["-o", "jsonl", "-n", "2", "-i", "1"]);
    let done = owner.end();
    let samples = samples(&output);
    let (mut jobs, mut missed, mut seen) = (0, 0, 0);
    for sample in &samples {
        jobs += figure(sample, "jobs");
        missed += figure(sample, "missed_records");
        let queues = sample["devices"][0]["top"]["queues"]
            .as_array()
            .expect("queues");
        seen += queues
            .iter()
            .filter_map(|queue| queue["jobs"].as_u64())
            .sum::<u64>();
    }
    assert!(missed > 0, "{samples:?}");
    assert_eq!(jobs, seen + missed);
    assert!(jobs > 3000 && jobs <= done, "{jobs} of {done}");
}

#[test]
fn once_it_has_ended_the_card_keeps_no_records() {
    let board = board();
    let device = name(&board);
    assert!(run(&device, &["-o", "json", "-i", "0.1"]).status.success());
    assert!(board.card().profile.is_asked());
    std::thread::sleep(Duration::from_millis(1100)); // its lease, host interface 9.3
    let owner = Owner::start(&device, 1, 64, Duration::ZERO);
    let until = Instant::now() + Duration::from_secs(20);
    while board.card().profile.is_asked() {
        assert!(Instant::now() < until, "the ring is still on");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(owner.end() > 0);
}

#[test]
fn telemetry_that_cannot_be_believed_is_null_in_every_form() {
    for (fault, code) in [
        (Fault::TelemetryTorn, "timeout"),
        (Fault::TelemetryGarbage, "no-data"),
        (Fault::TelemetryStale, "stale"),
    ] {
        let board = board();
        board.fault(fault);
        let output = run(&name(&board), &["-o", "jsonl", "-n", "5", "-i", "0.5"]);
        assert!(output.status.success(), "{fault:?}: {output:?}");
        let samples = samples(&output);
        let last = samples.last().expect("a sample");
        let top = &last["devices"][0]["top"];
        assert_eq!(top["power_milliwatts"], Value::Null, "{fault:?}: {top}");
        let reasons = top["unavailable"].as_array().expect("reasons");
        let why = reasons.iter().find(|why| why["key"] == "power_milliwatts");
        assert_eq!(why.expect("a reason")["code"], code, "{fault:?}");
        // What does not come from that page is told all the same.
        assert_eq!(top["busy_per_mille"], 0);
        assert_eq!(top["state"], "ready");
    }
}

#[test]
fn a_card_that_is_lost_is_null_and_comes_back_by_its_uuid() {
    let folder = std::env::temp_dir().join(format!("jalctl-top-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("card");
    let serve = |seed| Board::serve(options(seed), &path).expect("a board serves");
    let first = serve(1);
    let device = name(&first);
    let mut child = top(&device, &["-o", "jsonl", "-i", "0.2"])
        .spawn()
        .expect("jalctl runs");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut until = |wanted: &dyn Fn(&Value) -> bool| {
        let begin = Instant::now();
        loop {
            let line = lines.next().expect("a line").expect("UTF-8");
            let sample: Value = serde_json::from_str(&line).expect("JSON");
            if wanted(&sample["devices"][0]) {
                return sample["devices"][0].clone();
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{sample}");
        }
    };
    let whole = until(&|device| device["top"].is_object());
    first.kill();
    let lost = until(&|device| device["top"].is_null());
    assert_eq!(
        lost["uuid"], whole["uuid"],
        "it is still known whose place that is"
    );
    assert!(lost["problem"]["code"].is_string());
    let again = serve(1);
    let back = until(&|device| device["top"].is_object());
    assert_eq!(back["uuid"], whole["uuid"]);
    again.kill();
    // Another card in its place is never taken for it.
    let other = serve(2);
    let stranger = until(&|device| device["top"].is_object() && device["uuid"] != whole["uuid"]);
    assert_eq!(stranger["top"]["resets"], 0);
    interrupt(&mut child, Signal::SIGINT);
    other.kill();
    std::fs::remove_dir_all(&folder).expect("removed");
}

fn interrupt(child: &mut Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    kill(pid, signal).expect("it runs");
    assert_eq!(ended(child), Some(0), "{signal}");
}

/// Its exit code; within bounds.
fn ended(child: &mut Child) -> Option<i32> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = child.try_wait().expect("it is ours") {
            return status.code();
        }
        assert!(Instant::now() < until, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_reset_is_counted() {
    let board = board();
    let device = name(&board);
    let child = top(&device, &["-o", "jsonl", "-n", "20", "-i", "0.2"])
        .spawn()
        .expect("jalctl runs");
    std::thread::sleep(Duration::from_secs(1));
    let reset = Command::new(env!("CARGO_BIN_EXE_jalctl"))
        .args(["reset", "--yes", "--level", "device"])
        .env("JALAPENO_DEVICES", &device)
        .output()
        .expect("jalctl runs");
    assert!(
        reset.status.success(),
        "a watcher keeps nobody from resetting: {reset:?}"
    );
    let samples = samples(&child.wait_with_output().expect("it ends"));
    let last = samples.last().expect("samples");
    assert!(figure(last, "resets") >= 1, "{last}");
    assert_eq!(figure(&samples[0], "resets"), 0);
    assert_eq!(last["devices"][0]["top"]["state"], "ready");
}

#[test]
fn csv_has_one_header_and_the_same_columns_whatever_happens() {
    let board = board();
    let devices = format!("{},vfio-user:/no/such/card", name(&board));
    let owner = Owner::start(&name(&board), 1, 4096, Duration::from_millis(5));
    let output = run(&devices, &["-o", "csv", "-n", "3", "-i", "0.2"]);
    owner.end();
    assert_eq!(output.status.code(), Some(14));
    let csv = text(&output.stdout);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 1 + 3 * 2, "{csv}");
    let columns: Vec<&str> = lines[0].split(',').collect();
    for line in &lines {
        assert_eq!(line.split(',').count(), columns.len(), "{line}");
    }
    let at = |column: &str| columns.iter().position(|it| *it == column).expect(column);
    let cells: Vec<&str> = lines[1].split(',').collect();
    assert!(cells[at("top.power_milliwatts")].parse::<u64>().is_ok());
    let gone: Vec<&str> = lines[2].split(',').collect();
    assert_eq!(gone[at("problem.code")], "not-found");
    assert_eq!(gone[at("top.power_milliwatts")], "");
}

#[test]
fn it_ends_when_it_is_told_to_and_when_nobody_reads() {
    let board = board();
    let device = name(&board);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut child = top(&device, &["-o", "jsonl", "-i", "0.1"])
            .spawn()
            .expect("jalctl runs");
        let mut first = [0];
        let out = child.stdout.as_mut().expect("its output");
        out.read_exact(&mut first).expect("a sample");
        interrupt(&mut child, signal);
    }
    let mut child = top(&device, &["-o", "csv", "-i", "0.1"])
        .spawn()
        .expect("jalctl runs");
    drop(child.stdout.take());
    assert_eq!(ended(&mut child), Some(0));
}

#[test]
fn mistakes_are_named_and_a_pipe_is_no_terminal() {
    let board = board();
    let device = name(&board);
    for (devices, arguments, wanted, word) in [
        (&*device, &[][..], 2, "top -o jsonl"),
        ("", &["-n", "1"], 3, "hint: "),
        (&device, &["-n", "0"], 2, "error: "),
        (&device, &["-i", "0"], 2, "0.1 to 60"),
        (&device, &["-i", "NaN"], 2, "0.1 to 60"),
        (&device, &["-i", "1e9"], 2, "0.1 to 60"),
        (
            "vfio-user:/no/such/card",
            &["-n", "1", "-i", "0.1"],
            3,
            "hint: ",
        ),
    ] {
        let output = run(devices, arguments);
        let words = text(&output.stderr);
        assert_eq!(output.status.code(), Some(wanted), "{arguments:?}: {words}");
        assert!(words.contains("error: ") && words.contains(word), "{words}");
    }
}
