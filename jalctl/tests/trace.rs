//! `jalctl trace`: a recording beside an owner is a file that Perfetto reads, and says what it lost.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use jalapeno::{Device, QueueOptions, Role, Session};
use jalapeno_emulator::board::Board;
use jalapeno_emulator::identity::Options;
use jalapeno_hw::limits::HBM_BASE;
use jalapeno_hw::packets::{Opcode, Packet, header};
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

fn jalctl(board: &Board, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jalctl"));
    command
        .args(arguments)
        .env(
            "JALAPENO_DEVICES",
            format!("vfio-user:{}", board.path().display()),
        )
        .env_remove("JALAPENO_VISIBLE_DEVICES")
        .env("NO_COLOR", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(board: &Board, arguments: &[&str]) -> Output {
    jalctl(board, arguments).output().expect("jalctl runs")
}

/// A file of this test's own.
fn place(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    folder.join(format!("{name}-{}.json", std::process::id()))
}

#[test]
fn jobs_of_an_owner_are_in_the_file_with_their_time_and_energy() {
    let board = board();
    let device = format!("vfio-user:{}", board.path().display());
    let owner = Device::open(&device, Role::Compute).expect("a card");
    let session = Session::new(&owner).expect("a session");
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let mut fill = Packet::ZERO;
    fill.header = header(Opcode::Fill, 0);
    fill.cookie = 7;
    fill.body = [HBM_BASE, 1 << 20, 3, 0, 0];
    let path = place("trace");
    let words = path.to_str().expect("UTF-8");
    let mut child = jalctl(&board, &["trace", "--time", "1", "-o", "json", words])
        .spawn()
        .expect("jalctl runs");
    while child.try_wait().expect("it is ours").is_none() {
        let seq = queue.submit_one(&fill).expect("room");
        queue.completions().wait(seq, None).expect("done");
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let told = &report["devices"][0]["trace"];
    let file = std::fs::read(&path).expect("the trace");
    std::fs::remove_file(&path).expect("removed");
    let events: Vec<Value> = serde_json::from_slice(&file).expect("one JSON array");
    // As Perfetto wants them: every event has a phase and a process, a complete one times.
    assert!(
        events
            .iter()
            .all(|event| event["ph"].is_string() && event["pid"] == 0)
    );
    let jobs: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
    assert!(jobs.len() > 20, "{} jobs", jobs.len());
    assert_eq!(told["jobs"], jobs.len());
    assert_eq!(told["lost"], 0);
    let mut sum = 0;
    for job in &jobs {
        assert_eq!(
            (&job["name"], &job["tid"]),
            (&"fill".into(), &queue.number().into())
        );
        assert_eq!(job["args"]["cookie"], 7);
        assert_eq!(job["args"]["bytes"], 1 << 20);
        assert!(job["dur"].as_f64() > Some(0.0) && job["ts"].as_f64() > Some(0.0));
        sum += job["args"]["energy_nj"].as_u64().expect("an energy");
    }
    assert_eq!(told["energy_nj"], sum);
    let named = events.iter().filter(|event| event["ph"] == "M").count();
    assert_eq!(named, 2, "the card and its queue have names");
}

#[test]
fn an_idle_card_gives_an_empty_trace_that_is_valid() {
    let board = board();
    let path = place("idle");
    let words = path.to_str().expect("UTF-8");
    assert!(
        run(&board, &["trace", "-t", "0.05", words])
            .status
            .success()
    );
    let file = std::fs::read(&path).expect("the trace");
    std::fs::remove_file(&path).expect("removed");
    let events: Vec<Value> = serde_json::from_slice(&file).expect("one JSON array");
    assert_eq!(events.len(), 1, "the card's name");
}

#[test]
fn mistakes_are_named() {
    let board = board();
    for (arguments, wanted) in [
        (&["trace"][..], 2),
        (&["trace", "-t", "0", "x.json"], 2),
        (&["trace", "-t", "-1", "x.json"], 2),
        (&["trace", "-t", "NaN", "x.json"], 2),
        (&["trace", "-t", "1e9", "x.json"], 2),
        (&["trace", "-t", "0.05", "/no/such/folder/x.json"], 1),
        (&["trace", "-t", "0.05", "/dev/full"], 1),
        (
            &["trace", "-t", "0.05", "-d", "no-such-card", "/dev/null"],
            3,
        ),
    ] {
        let output = run(&board, arguments);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(wanted), "{arguments:?}: {words}");
        assert!(words.contains("error: "), "{words}");
    }
}
