//! The stage: the card that a story plays on, and how it is reached.
//!
//! Where `JALAPENO_DEVICES` names a card the stories play on that one, one after another. Otherwise
//! each has a board of its own, in this process, which can misbehave on request.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jalapeno::device::{Device, Role};
use jalapeno::error::{Error, Result};
use jalapeno::pci::{Function, Root};
use jalapeno::session::{QueueOptions, Session};
use jalapeno::{Delivery, Queue};
use jalapeno_emulator::board::Board;
use jalapeno_emulator::identity::Options;
use jalapeno_stopwatch::Stopwatch;

use crate::mischief::Mischief;

/// Long enough for anything that works, on a machine with better things to do.
pub const SOON: Duration = Duration::from_secs(60);
/// An owner that left is let go of within this.
pub const LET_GO: Duration = Duration::from_secs(1);

/// The one card that there is, when there is one, belongs to one story at a time.
static TURN: Mutex<()> = Mutex::new(());
/// It stays open from story to story: behind a kernel each opening and each closing is a reset.
static OPENED: Mutex<Option<Arc<Device>>> = Mutex::new(None);

/// A small board: 64 MiB of HBM. It ends when it is dropped.
#[must_use]
pub fn board() -> Board {
    board_with(|_| {})
}

/// A small board with something changed.
#[must_use]
pub fn board_with(change: impl FnOnce(&mut Options)) -> Board {
    let mut options = Options {
        hbm_bytes: 64 << 20,
        resident_limit: 64 << 20,
        threads: 1,
        ..Options::default()
    };
    change(&mut options);
    Board::start(options).expect("a board starts")
}

/// What `Device::open` takes to reach it.
#[must_use]
pub fn name(board: &Board) -> String {
    format!("vfio-user:{}", board.path().display())
}

/// Opens it.
///
/// # Errors
/// As `Device::open`.
pub fn open(board: &Board, role: Role) -> Result<Arc<Device>> {
    Device::open(&name(board), role)
}

/// The card of one story.
#[derive(Debug)]
pub struct Stage {
    board: Option<Board>,
    name: String,
    _turn: Option<MutexGuard<'static, ()>>,
}

/// The card that the environment names.
fn named() -> Option<String> {
    let names = std::env::var("JALAPENO_DEVICES").ok()?;
    let mut names = names.split(',').map(str::trim);
    names.find(|name| !name.is_empty()).map(String::from)
}

/// Where the card that stays open is kept.
fn opened() -> MutexGuard<'static, Option<Arc<Device>>> {
    OPENED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets go of the card, where an earlier story left it open: for who counts what is held, and for
/// another process.
pub(crate) fn let_go() {
    *opened() = None;
}

/// The turn on the card that the environment names, where it names one.
pub(crate) fn turn() -> Option<MutexGuard<'static, ()>> {
    named().map(|_| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The card that the environment names, or a small board.
#[must_use]
pub fn stage() -> Stage {
    match named() {
        Some(name) => Stage {
            board: None,
            name,
            _turn: turn(),
        },
        None => Stage::of(board()),
    }
}

impl Stage {
    /// A board of the story's own.
    #[must_use]
    pub fn of(board: Board) -> Self {
        Self {
            name: name(&board),
            board: Some(board),
            _turn: None,
        }
    }

    /// A card that misbehaves on request; `None` where the stories play on one that is there already
    /// and obeys nobody here, and then the skip is noted.
    #[must_use]
    pub fn that_misbehaves(story: &str) -> Option<Self> {
        let stage = stage();
        if Mischief::on(&stage).is_none() {
            skip(story, "needs a card that misbehaves on request");
            return None;
        }
        Some(stage)
    }

    /// A board that tells what it counts; `None` where the stories play on a card that is there
    /// already, and then the skip is noted.
    #[must_use]
    pub fn that_counts(story: &str) -> Option<Self> {
        let stage = stage();
        if stage.board.is_none() {
            skip(story, "needs a board whose regions are counted");
            return None;
        }
        Some(stage)
    }

    /// Two boards of the story's own, for cards that reach each other; `None` where the stories play
    /// on a card that is there already, and then the skip is noted.
    #[must_use]
    pub fn pair(story: &str) -> Option<[Self; 2]> {
        if named().is_some() {
            skip(story, "needs two boards of its own");
            return None;
        }
        Some([(); 2].map(|()| Self::of(board())))
    }

    /// What `Device::open` takes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The board, where it is in this process.
    #[must_use]
    pub fn board(&self) -> Option<&Board> {
        self.board.as_ref()
    }

    /// Whether the card sees this many of the host's regions; only a board here can say no.
    #[must_use]
    pub fn has_regions(&self, count: usize) -> bool {
        let board = self.board.as_ref();
        board.is_none_or(|board| board.counters().regions == count)
    }

    /// How often to do what takes an opening each: a kernel resets the card every time, which the
    /// specification gives 100 ms.
    #[must_use]
    pub fn rounds(&self, emulated: u32) -> u32 {
        match self.board {
            Some(_) => emulated,
            None => emulated.div_ceil(20),
        }
    }

    /// The board of a stage that counts.
    #[must_use]
    pub fn here(&self) -> &Board {
        self.board.as_ref().expect("this stage has a board")
    }

    /// What has a card that misbehaves do so.
    #[must_use]
    pub fn mischief(&self) -> Mischief<'_> {
        Mischief::on(self).expect("this stage's card misbehaves on request")
    }

    /// Which part of a campaign to play, where it is played in parts: elsewhere others are.
    #[must_use]
    pub fn turn(&self) -> usize {
        let turn = std::env::var("JALAPENO_TURN").unwrap_or_default();
        turn.parse().unwrap_or(0)
    }

    /// A time that the card and the host are given for what is not to come, or for what is to be over
    /// before: where both are emulated on a busy machine ten times what does on a board.
    #[must_use]
    pub fn time(&self, on_a_board: Duration) -> Duration {
        match self.board {
            Some(_) => on_a_board,
            None => 10 * on_a_board,
        }
    }

    /// Kills the board, as `kill -9` would.
    pub fn kill(mut self) {
        if let Some(board) = self.board.take() {
            board.kill();
        }
    }

    /// The card, open for computing. One that the environment names may have been open already, in
    /// an earlier story, and stays so.
    #[must_use]
    pub fn device(&self) -> Arc<Device> {
        if self.board.is_some() {
            return self.open();
        }
        if let Some(device) = opened().as_ref().filter(|device| device.verify().is_ok()) {
            return Arc::clone(device);
        }
        let device = self.open();
        *opened() = Some(Arc::clone(&device));
        device
    }

    /// Opens the card for computing, now. An owner that just left may still be let go of.
    #[must_use]
    pub fn open(&self) -> Arc<Device> {
        if self.board.is_none() {
            let_go();
        }
        let (begin, watch) = (Instant::now(), Stopwatch::start());
        let device = loop {
            match Device::open(&self.name, Role::Compute) {
                Err(Error::Busy { .. }) if begin.elapsed() < SOON => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => break other.expect("the card opens"),
            }
        };
        let ours = watch.ours();
        // Behind a kernel an opening has resets in it.
        assert!(
            ours < LET_GO || self.board.is_none(),
            "let go of only after {ours:?}"
        );
        device
    }

    /// The card as an observer has it; behind a kernel, which gives it to one process, as `device`.
    #[must_use]
    pub fn observer(&self) -> Arc<Device> {
        match self.board {
            Some(_) => Device::open(&self.name, Role::Observe).expect("the card opens"),
            None => self.device(),
        }
    }

    /// A session on it, as `device` gives it.
    #[must_use]
    pub fn session(&self) -> Session {
        Session::new(&self.device()).expect("a session")
    }

    /// The card as sysfs has it.
    fn function(&self) -> Function {
        Root::default().function(&self.name)
    }

    /// Whether the kernel module has the card.
    #[must_use]
    pub fn has_kernel_module(&self) -> bool {
        self.function().has_kernel_module()
    }

    /// Lets go of the card, where an earlier story left it open, and waits until the kernel module has scrubbed
    /// it, where that does.
    pub fn close(&self) {
        let_go();
        let begin = Instant::now();
        while self.function().text("jalapeno/hbm").as_deref() == Some("scrubbing") {
            assert!(begin.elapsed() < SOON, "the scrub ends");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Makes what is only ever made once, before anything is counted. Behind a kernel, where an opening
    /// is a reset, what is counted allows for it.
    pub fn warm_up(&self) {
        if self.board.is_some() {
            drop(self.owner());
        }
    }

    /// A session of an owner that comes now, and that leaves with the session.
    #[must_use]
    pub fn owner(&self) -> Session {
        Session::new(&self.open()).expect("a session")
    }
}

/// A queue of a depth whose completions are delivered one by one.
///
/// # Panics
/// Where the device gives none.
#[must_use]
pub fn delivering(session: &Session, depth: u32) -> Queue {
    try_delivering(session, depth).expect("a queue")
}

/// A queue as of [`delivering`], or why there is none.
///
/// # Errors
/// As `Session::queue`.
pub fn try_delivering(session: &Session, depth: u32) -> Result<Queue> {
    session.queue(QueueOptions {
        depth,
        delivery: Delivery::Each,
        ..QueueOptions::default()
    })
}

/// A queue of a depth that is waited for by sequence.
///
/// # Panics
/// Where the device gives none.
#[must_use]
pub fn by_sequence(session: &Session, depth: u32) -> Queue {
    let options = QueueOptions {
        depth,
        ..QueueOptions::default()
    };
    session.queue(options).expect("a queue")
}

/// Notes that a story does not play here, and why.
pub fn skip(story: &str, reason: &str) {
    let line = format!("{story}: {reason}");
    println!("skip {line}");
    if let Some(path) = std::env::var_os("JALAPENO_SKIPS") {
        note(&path, &line);
    }
}

/// Appends a line to a file.
pub(crate) fn note(path: &OsStr, line: &str) {
    let file = OpenOptions::new().append(true).create(true).open(path);
    let noted = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    noted.expect("it is noted");
}
