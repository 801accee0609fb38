//! `jalctl top` on a terminal: a pty that a user sits at. What it shows, what keys do, and that the
//! terminal is as it was, whatever ended it.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jalapeno::{Device, QueueOptions, Role, Session};
use jalapeno_emulator::board::Board;
use jalapeno_emulator::identity::Options;
use jalapeno_hw::limits::HBM_BASE;
use jalapeno_hw::packets::{Opcode, Packet, header};
use nix::fcntl::{OFlag, open};
use nix::pty::{Winsize, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;

/// Long enough on any machine.
const SOON: Duration = Duration::from_secs(60);

nix::ioctl_write_ptr_bad!(
    /// Sets a terminal's size.
    set_size,
    nix::libc::TIOCSWINSZ,
    Winsize
);

fn options(seed: u64) -> Options {
    Options {
        hbm_bytes: 64 << 20,
        resident_limit: 64 << 20,
        threads: 1,
        seed,
        ..Options::default()
    }
}

fn name(board: &Board) -> String {
    format!("vfio-user:{}", board.path().display())
}

fn cells(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("at least one")
}

/// Gives a terminal a size.
fn sized(master: &File, columns: u16, rows: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is a terminal's, and the structure is whole.
    unsafe { set_size(master.as_raw_fd(), &size) }.expect("a new size");
}

/// A terminal with `jalctl top` on it.
struct Seat {
    child: Child,
    master: File,
    /// Held open, so that the terminal can be asked afterwards.
    slave: OwnedFd,
    before: Termios,
    seen: Arc<Mutex<(vt100::Parser, Vec<u8>)>>,
    /// The thread that reads is to let go of the terminal.
    closed: Arc<AtomicBool>,
}

impl Seat {
    fn new(devices: &str, arguments: &[&str]) -> Self {
        Self::coloured(devices, arguments, true)
    }

    fn coloured(devices: &str, arguments: &[&str], colours: bool) -> Self {
        // Nobody else may inherit its other end, or it would never hang up.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags).expect("a pty");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let name = ptsname_r(&master).expect("its name");
        let slave = open(name.as_str(), flags, Mode::empty()).expect("its end");
        let master = File::from(OwnedFd::from(master));
        sized(&master, 100, 30);
        let before = tcgetattr(&slave).expect("its settings");
        let end = || Stdio::from(slave.try_clone().expect("a descriptor"));
        // Its controlling terminal, as a shell would give it.
        let child = Command::new("setsid")
            .args(["--ctty", env!("CARGO_BIN_EXE_jalctl"), "top"])
            .args(arguments)
            .env("JALAPENO_DEVICES", devices)
            .env_remove("JALAPENO_VISIBLE_DEVICES")
            .env("NO_COLOR", if colours { "" } else { "1" })
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("jalctl runs");
        let seen = Arc::new(Mutex::new((
            vt100::Parser::new(cells(30), cells(100), 0),
            Vec::new(),
        )));
        let (mut out, seeing) = (master.try_clone().expect("a descriptor"), Arc::clone(&seen));
        let closed = Arc::new(AtomicBool::new(false));
        let closing = Arc::clone(&closed);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = out.read(&mut bytes) {
                if closing.load(Ordering::Relaxed) {
                    return;
                }
                let mut seen = seeing.lock().unwrap_or_else(PoisonError::into_inner);
                seen.0.process(&bytes[..length]);
                seen.1.extend_from_slice(&bytes[..length]);
            }
        });
        Self {
            child,
            master,
            slave,
            before,
            seen,
            closed,
        }
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("it listens");
    }

    fn resize(&mut self, columns: u16, rows: u16) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.0.screen_mut().set_size(cells(rows), cells(columns));
        sized(&self.master, columns, rows);
    }

    fn screen(&self) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.0.screen().contents()
    }

    fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + SOON;
        loop {
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            assert!(Instant::now() < until, "never {what}:\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn shows(&self, words: &str) -> String {
        self.until(words, |screen| screen.contains(words))
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, signal).expect("it runs");
    }

    fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                return status;
            }
            assert!(
                Instant::now() < until,
                "it does not end:\n{}",
                self.screen()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// It ended so, and the terminal is as it was.
    fn ends(mut self, code: i32) {
        assert_eq!(self.wait().code(), Some(code));
        let after = tcgetattr(&self.slave).expect("its settings");
        assert_eq!(after, self.before, "the terminal's settings");
        assert!(
            after
                .local_flags
                .contains(LocalFlags::ICANON | LocalFlags::ECHO)
        );
        // What it said is read by a thread of its own.
        let until = Instant::now() + SOON;
        loop {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let entered = count(&seen.1, b"\x1b[?1049h");
            let screen = seen.0.screen();
            if !screen.alternate_screen() && !screen.hide_cursor() {
                assert!(entered >= 1, "there was a screen");
                return;
            }
            drop(seen);
            assert!(Instant::now() < until, "the screen was not given back");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn count(bytes: &[u8], part: &[u8]) -> usize {
    bytes.windows(part.len()).filter(|at| *at == part).count()
}

/// Jobs of an owner, for as long as `until` says.
fn work(device: &str, until: impl Fn() -> bool) {
    let owner = Device::open(device, Role::Compute).expect("a card");
    let session = Session::new(&owner).expect("a session");
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let mut fill = Packet::ZERO;
    fill.header = header(Opcode::Fill, 0);
    fill.body = [HBM_BASE, 1 << 20, 3, 0, 0];
    let begin = Instant::now();
    while !until() {
        assert!(begin.elapsed() < SOON, "it never showed the work");
        let seq = queue.submit_one(&fill).expect("room");
        queue.completions().wait(seq, None).expect("done");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_session_at_a_terminal() {
    let folder = std::env::temp_dir().join(format!("jalctl-screen-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("card1");
    let first = Board::start(options(1)).expect("a board");
    let second = Board::serve(options(2), &path).expect("a board");
    let devices = format!("{},{}", name(&first), name(&second));
    let mut seat = Seat::new(&devices, &["--interval", "0.2"]);

    let screen = seat.until("two cards", |screen| screen.matches("ready").count() == 2);
    assert!(
        screen.contains("2 cards") && screen.contains("c15c0289"),
        "{screen}"
    );
    let line = |screen: &str, word: &str| {
        let mut lines = screen.lines();
        lines
            .find(|line| line.contains(word))
            .unwrap_or_default()
            .to_owned()
    };
    assert!(line(&screen, "c15c0289").contains("free"), "{screen}");

    // An owner comes and works; it is named, and its queue has figures.
    work(&name(&first), || {
        let screen = seat.screen();
        let pid = format!("({})", std::process::id());
        screen.contains("100 %") && screen.contains(&pid) && screen.contains("MEAN")
    });

    // Arrows choose; Enter shows all; Escape leads back; help and pause.
    let chosen = |screen: &str| line(screen, " >");
    assert!(chosen(&seat.screen()).contains("c15c0289"));
    seat.press("\x1b[B");
    seat.until("the second card", |screen| {
        chosen(screen).contains("ready") && !chosen(screen).contains("c15c0289")
    });
    seat.press("\r");
    let details = seat.shows("hottest HBM stack");
    assert!(
        details.contains("no job finished in the interval"),
        "{details}"
    );
    seat.press("\x1b");
    seat.shows("IDX");
    seat.press("?");
    seat.shows("at work, from");
    seat.press("?p");
    seat.shows("PAUSED");
    seat.press("p");
    seat.until("no pause", |screen| !screen.contains("PAUSED"));
    seat.press("+");
    seat.shows("every 0.5 s");
    seat.press("--");
    seat.shows("every 0.1 s");

    // Sizes, among them none that could do.
    seat.resize(30, 5);
    seat.shows("too small");
    seat.resize(120, 40);
    seat.until("a large screen", |screen| {
        screen
            .lines()
            .nth(39)
            .is_some_and(|line| line.contains("q quit"))
    });

    // A card goes, and comes back.
    second.kill();
    seat.until("a lost card", |screen| {
        screen.contains("LOST") || screen.contains("NOT-FOUND")
    });
    let second = Board::serve(options(2), &path).expect("a board");
    seat.shows("is back");
    seat.press("q");
    seat.ends(0);
    second.kill();
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn signals_end_it_in_order() {
    let board = Board::start(options(1)).expect("a board");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let seat = Seat::new(&name(&board), &[]);
        seat.shows("ready");
        seat.signal(signal);
        seat.ends(0);
    }
    let mut seat = Seat::new(&name(&board), &[]);
    seat.shows("ready");
    seat.press("\x03");
    seat.ends(0);
}

#[test]
fn it_ends_with_its_terminal() {
    let board = Board::start(options(1)).expect("a board");
    let mut seat = Seat::new(&name(&board), &[]);
    seat.shows("ready");
    // The window is closed: nobody holds the other end any more.
    let closed = Arc::clone(&seat.closed);
    closed.store(true, Ordering::Relaxed);
    seat.master = File::open("/dev/null").expect("a file");
    assert_eq!(seat.wait().code(), Some(0));
}

#[test]
fn without_colours_there_are_none() {
    let board = Board::start(options(1)).expect("a board");
    for wanted in [true, false] {
        let seat = Seat::coloured(&name(&board), &[], wanted);
        seat.shows("ready");
        let seen = seat.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let cells = (0..30).flat_map(|row| (0..100).map(move |column| (row, column)));
        let screen = seen.0.screen();
        let mut cells = cells.filter_map(|(row, column)| screen.cell(row, column));
        let coloured = cells.any(|cell| cell.fgcolor() != vt100::Color::Default);
        assert_eq!(coloured, wanted);
        drop(seen);
        seat.signal(Signal::SIGTERM);
        seat.ends(0);
    }
}
