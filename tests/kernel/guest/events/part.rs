//! Parts: this program once more, as another process with a card, or as another user.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use jalapeno::transport::opening::Backend;
use jalapeno::{Device, Role};

use nix::time::{ClockId, clock_gettime};

use crate::stage::{open, work};
use crate::{dying, users};

/// Another process. Dropped: killed.
#[derive(Debug)]
pub struct Part {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Part {
    /// Starts it.
    pub fn start(name: &str, card: &str) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .args(["part", name, card])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the part starts");
        let out = BufReader::new(child.stdout.take().expect("it talks"));
        Self { child, out }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of it.
    ///
    /// # Panics
    /// When it says something else, or ends.
    pub fn hear(&mut self, expected: &str) {
        assert_eq!(self.line(), expected);
    }

    /// Its next line; empty when it has ended.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("it says something");
        line.trim().to_owned()
    }

    /// Waits for a piece of work that it ends from now on; a part that works says when.
    ///
    /// # Panics
    /// When it has ended.
    pub fn goes_on(&mut self) {
        let now = millis();
        loop {
            let line = self.line();
            let when = line.strip_prefix("worked at ");
            let when: u64 = when.and_then(|n| n.parse().ok()).expect("a time");
            if when > now {
                return;
            }
        }
    }

    /// All that it says up to its end.
    pub fn heard(mut self) -> String {
        let mut text = String::new();
        self.out
            .read_to_string(&mut text)
            .expect("it says something");
        text.trim().to_owned()
    }

    /// `kill -9`; does not wait for its end.
    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It may be gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same clock in every process.
fn millis() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
    u64::try_from(now.tv_sec() * 1000 + now.tv_nsec() / 1_000_000).expect("after boot")
}

/// How long an owner holds a card when nobody ends it.
const LONG: Duration = Duration::from_secs(60);

fn hold(card: &str, backend: Backend) {
    let device = Device::open_by(card, Role::Compute, backend).expect("the card opens");
    println!("held");
    std::thread::sleep(LONG);
    drop(device);
}

/// Plays a part.
pub fn play(name: &str, card: &str) -> ExitCode {
    match name {
        "hold" => hold(card, Backend::Auto),
        "hold-group" => hold(card, Backend::Group),
        "hold-cdev" => hold(card, Backend::Cdev),
        // Works on for as long as it is let, and never asks whether it is wanted back.
        "deaf" => {
            let device = open(card);
            work(&device, 1, 1);
            println!("held");
            loop {
                work(&device, 2, 1);
                println!("worked at {}", millis());
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        "dying" => dying::own(card),
        "outsider" => {
            users::become_one(&[]);
            println!("{}", said(card));
        }
        "member" => {
            users::become_one(&[users::GROUP]);
            println!("{}", said(card));
        }
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

fn said(card: &str) -> String {
    match Device::open(card, Role::Compute) {
        Ok(device) => {
            work(&device, 3, 2);
            "it works".into()
        }
        Err(error) => format!("{error}; hint: {}", error.hint().unwrap_or_default()),
    }
}
