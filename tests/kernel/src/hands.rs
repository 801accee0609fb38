//! The hands at a running machine: what the guest asks of its host by `HOST` lines.
//!
//! `HOST plug N` · `HOST unplug N` · `HOST kill N`, N the number of a card. `HOST tell N ORDER` passes
//! an order on to the card's emulator (`fault NAME@K`, `calm`, `reset`), `HOST quiet N` has the other
//! machines stand still until `HOST loud N`; these are answered by `SEEN`, or `REFUSED`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::card::Card;
use crate::monitor::Monitor;
use crate::quiet::{Place, Quiet};
use crate::report::{Case, Outcome};

/// What stands ready beside a machine.
#[derive(Debug)]
pub struct Hands<'a> {
    cards: Vec<Card>,
    socket: PathBuf,
    monitor: Option<Monitor>,
    /// The devices that were unplugged, in order.
    unplugged: Vec<String>,
    // Dropped in this order.
    quiet: Option<Quiet<'a>>,
    place: Place<'a>,
}

/// QEMU answers at once; a busy host may take its time.
const ANSWER: Duration = Duration::from_secs(60);

impl<'a> Hands<'a> {
    /// What a guest that waits is told where its wish was not carried out.
    pub const REFUSED: &'static [u8] = b"REFUSED\n";

    /// At these cards, and at QEMU's monitor in `folder`; the machine's place among those that run.
    #[must_use]
    pub fn new(cards: Vec<Card>, folder: &Path, place: Place<'a>) -> Self {
        let socket = folder.join("monitor.sock");
        let _ = std::fs::remove_file(&socket); // of the run before
        Self {
            cards,
            socket,
            monitor: None,
            unplugged: Vec::new(),
            quiet: None,
            place,
        }
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

    /// QEMU's arguments for the monitors.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let place = format!("unix:{},server=on,wait=off", self.socket.display());
        let own = ["-qmp".to_owned(), place];
        own.into_iter().chain(self.place.arguments()).collect()
    }

    /// Whether the guest waits for the answer to these words.
    #[must_use]
    pub fn answers(words: &str) -> bool {
        let verb = words.split(' ').next();
        verb.is_some_and(|verb| ["tell", "quiet", "loud"].contains(&verb))
    }

    /// Does what the guest asks.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn obey(&mut self, words: &str) -> io::Result<()> {
        let unknown =
            || io::Error::other("plug, unplug, kill, tell, quiet or loud, and a card's number");
        let (verb, rest) = words.split_once(' ').ok_or_else(unknown)?;
        let (number, order) = rest.split_once(' ').unwrap_or((rest, ""));
        let number: usize = number.parse().map_err(|_| unknown())?;
        let card = self.cards.get_mut(number).ok_or_else(unknown)?;
        match verb {
            "plug" => {
                let device = card.device(number);
                // The guest is done with a card a moment before QEMU is.
                let id = format!("jal{number}");
                let before = self.unplugged.iter().filter(|gone| **gone == id).count();
                let monitor = self.monitor()?;
                monitor.await_deleted(&id, before)?;
                monitor.execute("device_add", &device)
            }
            "unplug" => {
                let id = format!("jal{number}");
                let before = self.unplugged.iter().filter(|gone| **gone == id).count();
                self.monitor()?.unplug(&id, before)?;
                self.unplugged.push(id);
                Ok(())
            }
            "kill" => card.kill(),
            "tell" => card.order(order),
            "quiet" => {
                self.quiet = None; // what this machine has, it does not wait for
                self.quiet = Some(self.place.quiet());
                Ok(())
            }
            "loud" => {
                self.quiet = None;
                Ok(())
            }
            _ => Err(unknown()),
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
            self.monitor = Some(Monitor::connect(&self.socket, ANSWER)?);
        }
        self.monitor
            .as_mut()
            .ok_or_else(|| io::Error::other("no monitor"))
    }
}
