//! Mischief: how a story has its card break the specification, wherever the card is.

use std::fs::OpenOptions;
use std::io::{Read, Write};

use jalapeno_emulator::board::Board;
use jalapeno_emulator::faults::Fault;
use jalapeno_emulator::orders;

use crate::stage::Stage;

/// Names the line (a serial port) at whose other end somebody passes orders on to the card's emulator:
/// `HOST tell 0 ORDER`, answered by `SEEN` once it is done.
const LINE: &str = "JALAPENO_MISCHIEF";

/// Whoever has the card misbehave.
#[derive(Debug)]
pub enum Mischief<'a> {
    /// Its board, in this process.
    Here(&'a Board),
    /// The host of the machine that this process is in, by the line with this name.
    Host(String),
}

impl<'a> Mischief<'a> {
    /// On the stage's card, where there is a way.
    #[must_use]
    pub fn on(stage: &'a Stage) -> Option<Self> {
        let line = || std::env::var(LINE).ok().filter(|line| !line.is_empty());
        let here = stage.board().map(Self::Here);
        here.or_else(|| line().map(Self::Host))
    }

    /// At the next event that the fault counts.
    pub fn fault(&self, fault: Fault) {
        self.fault_at(fault, 1);
    }

    /// At the `at`th event from now on; 1 is the next.
    pub fn fault_at(&self, fault: Fault, at: u64) {
        self.order(&format!("fault {}@{at}", fault.row().name));
    }

    /// No more, and what lasts ends.
    pub fn calm(&self) {
        self.order("calm");
    }

    /// Somebody else resets the device, now.
    pub fn reset(&self) {
        self.order("reset");
    }

    /// # Panics
    /// Where it is not done.
    fn order(&self, order: &str) {
        match self {
            Self::Here(board) => orders::obey(board.card(), order).expect(order),
            Self::Host(line) => {
                let port = OpenOptions::new().read(true).write(true).open(line);
                let mut port = port.expect("the line to the host");
                let words = format!("HOST tell 0 {order}\n");
                port.write_all(words.as_bytes()).expect("the host is asked");
                let mut answer = [0; 5];
                port.read_exact(&mut answer).expect("the host answers");
                assert_eq!(&answer, b"SEEN\n", "{order}");
            }
        }
    }
}
