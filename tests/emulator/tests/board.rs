//! Stories of a whole board: telemetry that tells load from rest, and a program that ends well.

mod bench_top;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bench_top::{Bench, DATA, HBM, MIB, copy};
use jalapeno_emulator::board::Board;
use jalapeno_emulator::card::Card;
use jalapeno_emulator::identity::Options;
use jalapeno_emulator::server::{Function, Page};
use jalapeno_emulator::telemetry::Sensors;
use jalapeno_stopwatch::calmly;

fn small() -> Options {
    Options {
        hbm_bytes: 64 * MIB,
        ..Options::default()
    }
}

/// A page as its reader finds it: 64 bytes of header, then entries of 32.
struct Seen(Vec<u8>);

impl Seen {
    fn of(page: &dyn Page) -> Self {
        let mut bytes = vec![0; 0x4000];
        nix::sys::uio::pread(page.file(), &mut bytes, 0x1_0000).unwrap();
        Self(bytes)
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn value(&self, field: u16, instance: u16) -> Option<u64> {
        let count = u16::from_le_bytes([self.0[6], self.0[7]]);
        (0..usize::from(count))
            .map(|entry| 64 + 32 * entry)
            .find(|at| {
                let half = |o: usize| u16::from_le_bytes([self.0[at + o], self.0[at + o + 1]]);
                (half(0), half(2), self.0[at + 5]) == (field, instance, 0)
            })
            .map(|at| self.word(at + 8))
    }
}

fn refreshed(card: &Card, sensors: &mut Sensors, page: &dyn Page) -> Seen {
    sensors.refresh(card);
    Seen::of(page)
}

#[test]
fn load_draws_more_power_than_rest_and_the_energy_counter_tells() {
    calmly(|| {
        let bench = Bench::new();
        let page = Function::page(&*bench.card).unwrap();
        let mut sensors = Sensors::default();
        refreshed(&bench.card, &mut sensors, &*page);
        std::thread::sleep(Duration::from_millis(50));
        let rest = refreshed(&bench.card, &mut sensors, &*page);
        let mut zero = bench.queue_zero(6);
        for _ in 0..4 {
            bench.run(&mut zero, copy(DATA, HBM, 64 * MIB));
        }
        let load = refreshed(&bench.card, &mut sensors, &*page);
        let (power, energy, copying, moved) = (5, 7, (13, 1), 27);
        assert_eq!(
            rest.value(power, 0),
            Some(85_000),
            "an idle card draws its idle power"
        );
        assert!(load.value(power, 0) > rest.value(power, 0));
        assert!(load.value(energy, 0) > rest.value(energy, 0));
        assert!(load.value(copying.0, copying.1) > rest.value(copying.0, copying.1));
        assert_eq!(rest.value(moved, 0), Some(0));
        assert_eq!(load.value(moved, 0), Some(8 * 64 * MIB));
        assert_eq!(load.value(22, 0), Some(4), "packets of queue 0");
    });
}

#[test]
fn a_page_begins_with_its_magic_and_an_even_sequence_that_grows() {
    let bench = Bench::new();
    let page = Function::page(&*bench.card).unwrap();
    let mut sensors = Sensors::default();
    let first = refreshed(&bench.card, &mut sensors, &*page);
    let second = refreshed(&bench.card, &mut sensors, &*page);
    assert_eq!(first.0[..4], *b"JTEL");
    assert!(first.word(8).is_multiple_of(2) && second.word(8) > first.word(8));
    assert!(
        second.word(16) > first.word(16),
        "device time of the refresh"
    );
    assert_eq!(
        bench.read(0x1_0000).to_le_bytes(),
        *b"JTEL",
        "also without a mapping"
    );
}

#[test]
fn who_falsifies_its_copy_deceives_only_itself() {
    let bench = Bench::new();
    let mine = Function::page(&*bench.card).unwrap();
    let theirs = Function::page(&*bench.card).unwrap();
    let mut sensors = Sensors::default();
    sensors.refresh(&bench.card);
    nix::sys::uio::pwrite(mine.file(), &[0xFF; 0x4000], 0x1_0000).unwrap();
    assert_eq!(Seen::of(&*theirs).0[..4], *b"JTEL");
    let mended = refreshed(&bench.card, &mut sensors, &*mine);
    assert_eq!(mended.0[..4], *b"JTEL");
    assert!(mended.word(8).is_multiple_of(2));
}

#[test]
fn the_heart_beats_while_a_long_packet_runs() {
    let board = Board::start(small()).unwrap();
    let before = board
        .card()
        .heartbeat
        .load(std::sync::atomic::Ordering::Relaxed);
    let beats = || {
        let now = &board.card().heartbeat;
        now.load(std::sync::atomic::Ordering::Relaxed)
    };
    let begin = Instant::now();
    while beats() < before + 2 {
        assert!(begin.elapsed() < Duration::from_secs(60), "it beats");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_board_keeps_its_socket_private_and_leaves_nothing_behind() {
    let board = Board::start(small()).unwrap();
    let path = board.path().to_owned();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(board);
    assert!(!path.exists() && !path.parent().unwrap().exists());
}

#[test]
fn the_program_says_when_it_is_ready_and_ends_on_a_signal() {
    let folder = tempfile_path("program");
    let socket = folder.join("s");
    let mut child = Command::new(env!("CARGO_BIN_EXE_jalapeno-emulator"))
        .args([
            "--socket",
            socket.to_str().unwrap(),
            "--hbm",
            "64M",
            "--seed",
            "5",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(
        line.starts_with("serving ") && line.contains("/s"),
        "{line}"
    );
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!socket.exists());
    std::fs::remove_dir(&folder).unwrap();
}

#[test]
fn the_program_refuses_a_socket_that_is_served_and_a_fault_that_is_unknown() {
    let board = Board::start(small()).unwrap();
    let run = |arguments: &[&str]| {
        let program = env!("CARGO_BIN_EXE_jalapeno-emulator");
        Command::new(program).args(arguments).output().unwrap()
    };
    let taken = run(&["--socket", board.path().to_str().unwrap(), "--hbm", "64M"]);
    assert!(!taken.status.success());
    assert!(String::from_utf8_lossy(&taken.stderr).contains("serves this socket"));
    let unknown = run(&["--socket", "/nowhere", "--fault", "sneezes@3"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("--list-faults"));
    let listed = run(&["--list-faults"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("loses-doorbell"));
}

fn tempfile_path(name: &str) -> std::path::PathBuf {
    nix::unistd::mkdtemp(&std::env::temp_dir().join(format!("jalapeno-{name}-XXXXXX"))).unwrap()
}
