//! The hands at a running machine: what the guest asks of its host by `HOST` lines.
//!
//! `HOST plug N` · `HOST unplug N` · `HOST kill N`, N the number of a card. `HOST tell N ORDER` passes
//! an order on to the card's emulator (`fault NAME@K`, `calm`, `reset`), `HOST first N` has the host run this
//! machine and its cards before all others until `HOST fair N`; these are answered by `SEEN`, or `REFUSED`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::card::Card;
use crate::machine::Held;
use crate::monitor::Monitor;
use crate::report::{Case, Outcome};

/// What stands ready beside a machine.
#[derive(Debug)]
pub struct Hands {
    cards: Vec<Card>,
    socket: PathBuf,
    monitor: Option<Monitor>,
    /// The devices that were unplugged, in order.
    unplugged: Vec<String>,
    /// QEMU's process.
    machine: Option<u32>,
    /// Loops that keep the host's processors awake.
    awake: Vec<Held>,
}

/// Keeps each processor awake, by a loop that gives way to whatever else there is to do: each access to a card
/// passes three threads, and to wake a processor takes longer than to answer.
fn awake() -> Vec<Held> {
    let words = ["--idle", "0", "sh", "-c", "while :; do :; done"].map(str::to_owned);
    let start = || Held::start(Path::new("chrt"), &words, [(); 3].map(|()| Stdio::null()));
    let processors = thread::available_parallelism().map_or(1, usize::from);
    (0..processors).filter_map(|_| start().ok()).collect()
}

impl Hands {
    /// What a guest that waits is told where its wish was not carried out.
    pub const REFUSED: &[u8] = b"REFUSED\n";

    /// At these cards, and at QEMU's monitor in `folder`.
    #[must_use]
    pub fn new(cards: Vec<Card>, folder: &Path) -> Self {
        let socket = folder.join("monitor.sock");
        let _ = std::fs::remove_file(&socket); // of the run before
        Self {
            cards,
            socket,
            monitor: None,
            unplugged: Vec::new(),
            machine: None,
            awake: Vec::new(),
        }
    }

    /// The machine runs, as this process.
    pub fn runs(&mut self, machine: u32) {
        self.machine = Some(machine);
    }

    /// The machine's cards, those among them that are not plugged in yet.
    #[must_use]
    pub fn cards(&self) -> &[Card] {
        &self.cards
    }

    /// The openings that the machine's cards saw until now, beside so many resets that stories asked
    /// for. A kernel resets a card when it is opened and when it is closed; a card that was killed tells
    /// nothing.
    ///
    /// # Errors
    /// A card that lives and does not say.
    pub fn openings(&self, asked: u64) -> io::Result<u64> {
        let living = self.cards.iter().filter(|card| !card.is_killed());
        let resets = living.map(Card::resets).sum::<io::Result<u64>>()?;
        Ok(resets.saturating_sub(asked) / 2)
    }

    /// QEMU's arguments for the monitor.
    #[must_use]
    pub fn arguments(&self) -> [String; 2] {
        let place = format!("unix:{},server=on,wait=off", self.socket.display());
        ["-qmp".to_owned(), place]
    }

    /// Whether the guest waits for the answer to these words.
    #[must_use]
    pub fn answers(words: &str) -> bool {
        let verb = words.split(' ').next();
        verb.is_some_and(|verb| ["tell", "first", "fair"].contains(&verb))
    }

    /// Does what the guest asks.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn obey(&mut self, words: &str) -> io::Result<()> {
        let unknown =
            || io::Error::other("plug, unplug, kill, tell, first or fair, and a card's number");
        let (verb, rest) = words.split_once(' ').ok_or_else(unknown)?;
        let (number, order) = rest.split_once(' ').unwrap_or((rest, ""));
        let number: usize = number.parse().map_err(|_| unknown())?;
        let card = self.cards.get_mut(number).ok_or_else(unknown)?;
        match verb {
            "plug" => {
                let device = card.device(number);
                // The guest is done with a card a moment before QEMU is.
                let id = format!("jal{number}");
                let before = self.unplugs(&id);
                let monitor = self.monitor()?;
                monitor.await_deleted(&id, before)?;
                monitor.plug(&device)
            }
            "unplug" => {
                let id = format!("jal{number}");
                let before = self.unplugs(&id);
                self.monitor()?.unplug(&id, before)?;
                self.unplugged.push(id);
                Ok(())
            }
            "kill" => card.kill(),
            "tell" => card.order(order),
            "first" => {
                self.schedule("--rr", "1");
                self.awake = awake();
                Ok(())
            }
            "fair" => {
                self.schedule("--other", "0");
                self.awake.clear();
                Ok(())
            }
            _ => Err(unknown()),
        }
    }

    fn unplugs(&self, id: &str) -> usize {
        self.unplugged.iter().filter(|gone| *gone == id).count()
    }

    /// How the host's processors come to the machine and its cards. Where that may not be asked for, what is
    /// timed is timed beside whatever else runs.
    fn schedule(&self, policy: &str, priority: &str) {
        let cards = self.cards.iter().map(Card::process);
        for process in self.machine.into_iter().chain(cards) {
            let told = Command::new("chrt")
                .args(["--all-tasks", policy, "--pid", priority])
                .arg(process.to_string())
                .stderr(Stdio::null())
                .status();
            if !told.is_ok_and(|status| status.success()) {
                eprintln!(
                    "  chrt {policy} is refused: this opening is timed beside other machines"
                );
            }
        }
    }

    /// After the machine's end: whether QEMU let go of what was unplugged.
    #[must_use]
    pub fn close(self) -> Option<Case> {
        if self.unplugged.is_empty() {
            return None;
        }
        let deleted = self.monitor.map(Monitor::close).unwrap_or_default();
        let outcome = match deleted == self.unplugged {
            true => Outcome::Passed,
            false => Outcome::Failed,
        };
        Some(Case {
            name: "host/device-deleted".to_owned(),
            outcome,
            reason: format!("unplugged {:?}, deleted {deleted:?}", self.unplugged),
        })
    }

    fn monitor(&mut self) -> io::Result<&mut Monitor> {
        if self.monitor.is_none() {
            self.monitor = Some(Monitor::connect(&self.socket)?);
        }
        self.monitor
            .as_mut()
            .ok_or_else(|| io::Error::other("no monitor"))
    }
}
