//! A card in the machine: an emulator on a socket, behind QEMU's `vfio-user-pci`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::machine::Held;

/// A running emulator.
#[derive(Debug)]
pub struct Card {
    socket: PathBuf,
    log: PathBuf,
    emulator: Held,
    killed: bool,
}

/// Long enough on a host that has stalled; it is there in milliseconds.
const UP_BY: Duration = Duration::from_secs(60);

impl Card {
    /// Starts an emulator whose socket and log are in `folder`, and waits until it listens.
    pub fn start(folder: &Path, number: usize, more: &[&str]) -> io::Result<Self> {
        let program = emulator()?;
        let socket = folder.join(format!("card{number}.sock"));
        let _ = std::fs::remove_file(&socket);
        let said = folder.join(format!("card{number}.log"));
        let log = File::create(&said)?;
        let mut arguments = vec!["--socket".to_owned(), socket.display().to_string()];
        arguments.push("--orders".to_owned());
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        let mut held = Held::start(
            &program,
            &arguments,
            [Stdio::piped(), log.try_clone()?.into(), Stdio::from(log)],
        )?;
        let started = Instant::now();
        while !socket.exists() {
            if let Some(status) = held.0.try_wait()? {
                return Err(io::Error::other(format!(
                    "the emulator ended at once with {status}"
                )));
            }
            if started.elapsed() > UP_BY {
                return Err(io::Error::other(format!(
                    "no {} after {UP_BY:?}",
                    socket.display()
                )));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(Self {
            socket,
            log: said,
            emulator: held,
            killed: false,
        })
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.emulator.0.id()
    }

    /// The socket messages that it took until now, by command.
    pub fn messages(&self) -> io::Result<BTreeMap<String, u64>> {
        Ok(serde_json::from_value(self.count()?["messages"].clone())?)
    }

    /// The function level resets that it was asked for until now.
    pub fn resets(&self) -> io::Result<u64> {
        Ok(serde_json::from_value(self.count()?["resets"].clone())?)
    }

    /// Orders it to do something (`fault NAME@N`, `calm`, `reset`), and waits until it is done.
    ///
    /// # Errors
    /// What it says against it.
    pub fn order(&mut self, order: &str) -> io::Result<()> {
        let answers = ["done ", "refused "];
        let before = self.said(&answers)?.len();
        let input = self.emulator.0.stdin.as_mut();
        let input = input.ok_or_else(|| io::Error::other("the emulator has no input"))?;
        input.write_all(format!("{order}\n").as_bytes())?;
        match self.answer(&answers, before)? {
            answer if answer == format!("done {order}") => Ok(()),
            answer => Err(io::Error::other(format!("{order}: {answer}"))),
        }
    }

    /// What it counted until now.
    fn count(&self) -> io::Result<Value> {
        let before = self.said(&["counted "])?.len();
        let pid = i32::try_from(self.emulator.0.id()).map_err(io::Error::other)?;
        kill(Pid::from_raw(pid), Signal::SIGUSR1)?;
        let line = self.answer(&["counted "], before)?;
        Ok(serde_json::from_str(line.trim_start_matches("counted "))?)
    }

    /// The next line that begins so, after the first `before` of them.
    fn answer(&self, heads: &[&str], before: usize) -> io::Result<String> {
        let started = Instant::now();
        while started.elapsed() < UP_BY {
            if let Some(line) = self.said(heads)?.into_iter().nth(before) {
                return Ok(line);
            }
            thread::sleep(Duration::from_millis(2));
        }
        let words = format!("the emulator says nothing that begins with {heads:?}");
        Err(io::Error::other(words))
    }

    /// The lines that it said until now that begin so.
    fn said(&self, heads: &[&str]) -> io::Result<Vec<String>> {
        let said = std::fs::read_to_string(&self.log)?;
        let whole = said
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        let own = whole.filter(|line| heads.iter().any(|head| line.starts_with(head)));
        Ok(own.map(|line| line.trim_end().to_owned()).collect())
    }

    /// The `-device` argument of a root port of its own.
    pub fn port(number: usize) -> String {
        let at = 10 + number;
        format!("pcie-root-port,id=card{number},chassis={at},slot={at}")
    }

    /// The card behind that port, as `-device` and `device_add` take it.
    pub fn device(&self, number: usize) -> Value {
        json!({
            "driver": "vfio-user-pci",
            "id": format!("jal{number}"),
            "bus": format!("card{number}"),
            "socket": { "path": self.socket, "type": "unix" },
        })
    }

    /// Ends the emulator at once, as the kernel ends a process that ran out of memory.
    ///
    /// # Errors
    /// What the system says.
    pub fn kill(&mut self) -> io::Result<()> {
        self.killed = true;
        self.emulator.0.kill()
    }

    /// Whether it was killed: it tells nothing any more.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.killed
    }
}

/// The emulator that was built with us.
pub fn emulator() -> io::Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("jalapeno-emulator");
    if beside.is_file() {
        Ok(beside)
    } else {
        Err(io::Error::other(format!(
            "{} is not built; run `cargo build`",
            beside.display()
        )))
    }
}
