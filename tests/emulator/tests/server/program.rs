//! The program itself, as a process whose descriptors and mappings can be counted.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::peer::*;
use jalapeno_stopwatch::calmly;

/// A running emulator in a folder of its own.
pub struct Program {
    pub child: Child,
    pub line: String,
    folder: PathBuf,
    socket: PathBuf,
}

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub struct Footprint {
    pub files: usize,
    pub shared_maps: usize,
    pub threads: usize,
}

fn folder() -> PathBuf {
    nix::unistd::mkdtemp(&std::env::temp_dir().join("jalapeno-program-XXXXXX")).unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jalapeno-emulator"));
    command.args(arguments);
    command
}

/// Runs it to its end, which it must reach by itself in five seconds.
fn run(arguments: &[&str]) -> Output {
    let mut child = command(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it serves with {arguments:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.wait_with_output().unwrap()
}

impl Program {
    pub fn start(arguments: &[&str]) -> Self {
        let folder = folder();
        let socket = folder.join("card.sock");
        Self::at(folder, socket, arguments)
    }

    fn at(folder: PathBuf, socket: PathBuf, arguments: &[&str]) -> Self {
        let hbm: &[&str] = if arguments.contains(&"--hbm") {
            &[]
        } else {
            &["--hbm", "64M"]
        };
        let mut child = command(hbm)
            .args(["--threads", "1", "--socket"])
            .arg(&socket)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        Self {
            child,
            line,
            folder,
            socket,
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, signal).unwrap();
    }

    pub fn footprint(&self) -> Footprint {
        let about = |what: &str| format!("/proc/{}/{what}", self.child.id());
        let entries = |what: &str| std::fs::read_dir(about(what)).unwrap().count();
        let maps = std::fs::read_to_string(about("maps")).unwrap();
        Footprint {
            files: entries("fd"),
            // A thread's stack or an allocator's arena may stay for the next: files may not.
            shared_maps: maps.lines().filter(|line| line.contains("memfd:")).count(),
            threads: entries("task"),
        }
    }

    /// Waits until it holds no more than before.
    pub fn until_back_at(&self, baseline: &Footprint) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let now = self.footprint();
            let back = now.files <= baseline.files
                && now.shared_maps <= baseline.shared_maps
                && now.threads <= baseline.threads;
            if back {
                return;
            }
            assert!(Instant::now() < end, "{baseline:?} has become {now:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Bytes resident, of files shared with others too.
    pub fn resident(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS"));
        let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
        kilobytes.parse::<u64>().unwrap() << 10
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> std::process::ExitStatus {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
        let _ = std::fs::remove_dir(&self.folder);
    }
}

#[test]
fn it_says_when_it_is_ready_and_ends_on_either_signal_with_its_socket_gone() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut program = Program::start(&["--seed", "5"]);
        let path = program.socket().display().to_string();
        assert!(program.line.starts_with("serving "), "{}", program.line);
        assert!(program.line.trim_end().ends_with(&path), "{}", program.line);
        // Also while somebody is connected and in the middle of a message.
        let mut owner = Peer::owner(program.socket());
        owner.assert_in_step();
        owner.send(&[1, 2, 3]);
        program.signal(signal);
        assert!(program.ended().success());
        owner.assert_dropped("the card is gone");
        assert!(!program.socket().exists());
    }
}

#[test]
fn its_socket_is_private_from_the_first_moment() {
    let program = Program::start(&[]);
    let there = std::fs::symlink_metadata(program.socket()).unwrap();
    assert!(there.file_type().is_socket());
    assert_eq!(there.permissions().mode() & 0o777, 0o600);
    let beside = std::fs::read_dir(program.socket().parent().unwrap()).unwrap();
    assert_eq!(beside.count(), 1, "nothing else is left in the folder");
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_or_a_file_is_left_alone() {
    let mut killed = Program::start(&[]);
    let owner = Peer::owner(killed.socket());
    killed.signal(Signal::SIGKILL);
    assert!(!killed.ended().success());
    owner.assert_dropped("the emulator was killed");
    assert!(killed.socket().exists(), "nobody could remove it");
    let (folder, socket) = (folder(), killed.socket().to_owned());
    let next = Program::at(folder, socket.clone(), &[]);
    Peer::owner(next.socket()).assert_in_step();

    let path = socket.to_str().unwrap();
    let refused = run(&["--socket", path, "--hbm", "64M"]);
    assert_one_error(&refused, 1, "another emulator serves this socket");
    Peer::next_owner(next.socket()).assert_in_step();

    let file = next.folder.join("file");
    std::fs::write(&file, "precious").unwrap();
    let refused = run(&["--socket", file.to_str().unwrap(), "--hbm", "64M"]);
    assert_one_error(&refused, 1, "no socket");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn a_server_that_hangs_counts_as_live() {
    calmly(|| {
        let folder = folder();
        let socket = folder.join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        // Its queue is full, and nobody accepts.
        let waiting = UnixStream::connect(&socket).unwrap();
        let begin = Instant::now();
        let refused = run(&["--socket", socket.to_str().unwrap(), "--hbm", "64M"]);
        assert_one_error(&refused, 1, "another emulator serves this socket");
        assert!(begin.elapsed() < Duration::from_secs(2));
        drop((waiting, listener));
        std::fs::remove_dir_all(folder).unwrap();
    });
}

#[test]
fn a_socket_that_somebody_else_put_there_is_not_removed_at_the_end() {
    let mut program = Program::start(&[]);
    std::fs::remove_file(program.socket()).unwrap();
    let other = UnixListener::bind(program.socket()).unwrap();
    program.signal(Signal::SIGTERM);
    assert!(program.ended().success());
    assert!(program.socket().exists());
    drop(other);
}

/// One line that says `error:` and what, on stderr; nothing on stdout; this exit code.
fn assert_one_error(output: &Output, code: i32, what: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(output.stdout.is_empty());
    assert!(said.contains(what), "{said}");
    assert_eq!(said.matches("error:").count(), 1, "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn each_bad_option_gets_one_clear_error_and_a_failure() {
    let bad: [(&[&str], &str); 16] = [
        (&[], "--socket"),
        (&["--socket"], "--socket"),
        (&["--socket", "/nowhere/s", "--hbm", "0"], "--hbm"),
        (&["--socket", "/nowhere/s", "--hbm", "many"], "--hbm"),
        (&["--socket", "/nowhere/s", "--hbm", "9999999T"], "--hbm"),
        (
            &["--socket", "/nowhere/s", "--resident-limit", "1X"],
            "--resident-limit",
        ),
        (&["--socket", "/nowhere/s", "--queues", "0"], "--queues"),
        (&["--socket", "/nowhere/s", "--queues", "65"], "--queues"),
        (&["--socket", "/nowhere/s", "--seed=-1"], "--seed"),
        (&["--socket", "/nowhere/s", "--uuid", "12"], "--uuid"),
        (&["--socket", "/nowhere/s", "--threads", "x"], "--threads"),
        (
            &["--socket", "/nowhere/s", "--fault", "sneezes@1"],
            "--list-faults",
        ),
        (
            &["--socket", "/nowhere/s", "--fault", "loses-doorbell@0"],
            "--fault",
        ),
        (
            &["--socket", "/nowhere/s", "--fault", "loses-doorbell@"],
            "--fault",
        ),
        (&["--socket", "/nowhere/s", "--nonsense"], "--nonsense"),
        (&["--socket", "/nowhere/s", "more"], "more"),
    ];
    for (arguments, what) in bad {
        assert_one_error(&run(arguments), 2, what);
    }
    let long = format!("/tmp/{}", "long".repeat(40));
    assert_one_error(
        &run(&["--hbm", "64M", "--socket", &long]),
        1,
        "serve on /tmp/long",
    );
    let nowhere = ["--hbm", "64M", "--socket", "/nowhere/at/all/s"];
    assert_one_error(&run(&nowhere), 1, "serve on /nowhere");
    let stranger = [
        "--hbm",
        "64M",
        "--socket",
        "/tmp/never",
        "--parent-pid",
        "1",
    ];
    assert_one_error(&run(&stranger), 1, "parent");
    assert!(!Path::new("/tmp/never").exists());
}

#[test]
fn it_lists_its_faults_and_tells_its_version_and_usage() {
    let listed = run(&["--list-faults"]);
    assert!(listed.status.success() && listed.stderr.is_empty());
    let text = String::from_utf8(listed.stdout).unwrap();
    assert!(text.lines().count() > 20, "{text}");
    for line in text.lines() {
        let name = line.split_whitespace().next().unwrap();
        // Each name that is listed is taken.
        let mut program = Program::start(&["--fault", &format!("{name}@1000000")]);
        assert!(program.line.starts_with("serving "), "{line}");
        program.signal(Signal::SIGTERM);
        assert!(program.ended().success());
    }
    assert!(run(&["--version"]).status.success());
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    assert!(help.contains("--resident-limit"));
}

#[test]
fn a_reader_who_closed_its_end_does_not_stop_it() {
    let folder = folder();
    let socket = folder.join("s");
    let mut child = command(&["--hbm", "64M", "--verbose", "--socket"])
        .arg(&socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    drop(child.stderr.take());
    // What it logs about this one has nowhere to go.
    let peer = Peer::connect(&socket);
    peer.send(&sized(1, 1, 3, 0, &[]));
    peer.assert_dropped("malformed");
    Peer::owner(&socket).assert_in_step();
    kill(
        Pid::from_raw(i32::try_from(child.id()).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    assert!(child.wait().unwrap().success());
    std::fs::remove_dir(folder).unwrap();
}

#[test]
fn it_ends_when_its_parent_does() {
    let folder = folder();
    let socket = folder.join("s");
    let script = format!(
        "{} --hbm 64M --socket {} --parent-pid $$ > {} & \
         while ! grep -q serving {}; do sleep 0.01; done",
        env!("CARGO_BIN_EXE_jalapeno-emulator"),
        socket.display(),
        folder.join("out").display(),
        folder.join("out").display(),
    );
    let status = Command::new("sh").arg("-c").arg(script).status().unwrap();
    assert!(status.success());
    let end = Instant::now() + Duration::from_secs(60);
    while socket.exists() {
        assert!(Instant::now() < end, "it outlived its parent");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_fill_of_all_memory_is_refused_before_it_costs_the_host_any() {
    use crate::driver::{Driver, Failure, HBM, HBM_EXHAUSTED, copy, fill};
    const MIB: u64 = 1 << 20;
    let program = Program::start(&["--hbm", "64G", "--resident-limit", "32M"]);
    let mut driver = Driver::new(program.socket());
    let before = program.resident();
    for packet in [
        fill(HBM, 64 << 30, 0x0101_0101),
        fill(HBM + 4096, 33 * MIB, 7),
        copy(HBM, HBM + (32 << 30), 32 << 30),
    ] {
        let refused = driver.run(packet).unwrap_err();
        assert_eq!(refused.code, HBM_EXHAUSTED, "{refused:?}");
        assert!((HBM..HBM + (64 << 30)).contains(&refused.address));
    }
    assert!(
        program.resident() < before + 16 * MIB,
        "it was refused beforehand"
    );
    // Up to the limit, and wherever; then not one chunk more, by messages neither.
    for at in [0, 17, 63] {
        driver.run(fill(HBM + (at << 30), 10 * MIB, 3)).unwrap();
    }
    let failure = driver.run(fill(HBM + (40 << 30), 3 * MIB, 3));
    assert!(matches!(
        failure,
        Err(Failure {
            code: HBM_EXHAUSTED,
            ..
        })
    ));
    for gibibytes in 20..60 {
        driver.peer.write(BAR4, gibibytes << 30, &vec![9; 1 << 20]);
    }
    assert!(
        program.resident() < before + 48 * MIB,
        "{}",
        program.resident()
    );
    driver.run(copy(HBM, HBM + (17 << 30), 10 * MIB)).unwrap();
    driver.peer.assert_in_step();
}
