//! Mischief: how a story has its card break the specification, wherever the card is.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;

use jalapeno_emulator::board::Board;
use jalapeno_emulator::faults::Fault;
use jalapeno_emulator::orders;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::stage::{SOON, Stage};

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
                assert_eq!(answer(&mut port), "SEEN\n", "{order}");
            }
        }
    }
}

/// The host's answer; what of it came in time.
fn answer(port: &mut File) -> String {
    let mut said = Vec::new();
    let in_time = |port: &File| {
        let mut fds = [PollFd::new(port.as_fd(), PollFlags::POLLIN)];
        let time = PollTimeout::try_from(SOON).expect("a time");
        poll(&mut fds, time).is_ok_and(|ready| ready > 0)
    };
    while said.last() != Some(&b'\n') && in_time(port) {
        let mut byte = [0];
        port.read_exact(&mut byte).expect("the line to the host");
        said.extend(byte);
    }
    String::from_utf8_lossy(&said).into_owned()
}
