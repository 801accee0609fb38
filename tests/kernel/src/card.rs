//! A card in the machine: an emulator on a socket, behind QEMU's `vfio-user-pci`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
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
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        let mut held = Held::start(
            &program,
            &arguments,
            [Stdio::null(), log.try_clone()?.into(), Stdio::from(log)],
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

    /// The socket messages that it took until now, by command.
    pub fn messages(&self) -> io::Result<BTreeMap<String, u64>> {
        Ok(serde_json::from_value(self.count()?["messages"].clone())?)
    }

    /// The function level resets that it was asked for until now.
    pub fn resets(&self) -> io::Result<u64> {
        Ok(serde_json::from_value(self.count()?["resets"].clone())?)
    }

    /// What it counted until now.
    fn count(&self) -> io::Result<Value> {
        let before = self.counted()?.len();
        let pid = i32::try_from(self.emulator.0.id()).map_err(io::Error::other)?;
        kill(Pid::from_raw(pid), Signal::SIGUSR1)?;
        let started = Instant::now();
        while started.elapsed() < UP_BY {
            if let Some(line) = self.counted()?.get(before) {
                return Ok(serde_json::from_str(line)?);
            }
            thread::sleep(Duration::from_millis(2));
        }
        Err(io::Error::other(
            "the emulator does not say what it counted",
        ))
    }

    /// What it said of its counters, each time it was asked.
    fn counted(&self) -> io::Result<Vec<String>> {
        let said = std::fs::read_to_string(&self.log)?;
        let whole = said
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        let counted = whole.filter_map(|line| line.strip_prefix("counted "));
        Ok(counted.map(|line| line.trim_end().to_owned()).collect())
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
