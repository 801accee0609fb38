//! Quiet: while one machine measures time, the others stand still. QEMU stops a machine's clocks with
//! it, so those that stood still know nothing of it. And the host's processors stay awake: what a guest asks of
//! its card goes from thread to thread, and to wake a processor first takes longer than the answer.
//!
//! `HOST quiet N` · `HOST loud N`, N any card's number, each answered by `SEEN`.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::machine::Held;
use crate::monitor::Monitor;

/// The machines that run now, each by the monitor through which it is halted.
#[derive(Debug, Default)]
pub struct Floor {
    machines: Mutex<BTreeSet<PathBuf>>,
}

/// Longest that a machine is asked to stand still: one whose card died answers nothing.
const PATIENCE: Duration = Duration::from_secs(2);

impl Floor {
    fn machines(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A machine is about to run; waits until nobody needs quiet. It leaves when this is dropped.
    #[must_use]
    pub fn enter(&self, folder: &Path) -> Place<'_> {
        let socket = folder.join("halt.sock");
        let _ = std::fs::remove_file(&socket); // of the run before
        self.machines().insert(socket.clone());
        Place {
            floor: self,
            socket,
        }
    }
}

/// A running machine's place.
#[derive(Debug)]
pub struct Place<'a> {
    floor: &'a Floor,
    socket: PathBuf,
}

impl<'a> Place<'a> {
    /// QEMU's arguments for the monitor through which it is halted.
    #[must_use]
    pub fn arguments(&self) -> [String; 2] {
        let place = format!("unix:{},server=on,wait=off", self.socket.display());
        ["-qmp".to_owned(), place]
    }

    /// Has every other machine stand still, and none start, until this is dropped.
    #[must_use]
    pub fn quiet(&self) -> Quiet<'a> {
        let machines = self.floor.machines();
        let others = machines.iter().filter(|socket| **socket != self.socket);
        let halted = others.filter_map(|socket| halt(socket).ok()).collect();
        Quiet {
            halted,
            _awake: awake(),
            _machines: machines,
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.floor.machines().remove(&self.socket);
    }
}

/// One that has just ended, or whose card died, does not disturb and does not answer.
fn halt(socket: &Path) -> io::Result<Monitor> {
    let mut monitor = Monitor::connect(socket, PATIENCE)?;
    monitor.execute("stop", &json!({}))?;
    Ok(monitor)
}

/// Keeps each processor awake, by a loop that gives way to whatever else there is to do.
fn awake() -> Vec<Held> {
    let words = ["--idle", "0", "sh", "-c", "while :; do :; done"].map(str::to_owned);
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let start = || Held::start(Path::new("chrt"), &words, [(); 3].map(|()| Stdio::null()));
    (0..processors).filter_map(|_| start().ok()).collect()
}

/// While it lasts.
#[derive(Debug)]
pub struct Quiet<'a> {
    halted: Vec<Monitor>,
    _awake: Vec<Held>,
    _machines: MutexGuard<'a, BTreeSet<PathBuf>>,
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        for monitor in &mut self.halted {
            if let Err(why) = monitor.execute("cont", &json!({})) {
                eprintln!("  a machine that stood still does not go on: {why}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Floor;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn the_others_stand_still_until_it_is_loud_and_none_starts() {
        let folder = std::env::temp_dir().join(format!("jalapeno-quiet-{}", std::process::id()));
        let [mine, other, ended, late] = ["mine", "other", "ended", "late"].map(|name| {
            let own = folder.join(name);
            std::fs::create_dir_all(&own).unwrap();
            own
        });
        let floor = Floor::default();
        let place = floor.enter(&mine);
        let _other = floor.enter(&other);
        drop(floor.enter(&ended));
        let listener = UnixListener::bind(other.join("halt.sock")).unwrap();
        let (told, tells) = channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                (&stream).write_all(b"{\"QMP\":{}}\n").unwrap();
                for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                    told.send(line).unwrap();
                    (&stream).write_all(b"{\"return\":{}}\n").unwrap();
                }
            });
            let quiet = place.quiet();
            assert_eq!(quiet.halted.len(), 1);
            let said: Vec<String> = tells.try_iter().collect();
            assert!(said.len() == 2 && said[1].contains("\"stop\""), "{said:?}");
            let (started, starts) = channel();
            let (floor, late) = (&floor, &late);
            scope.spawn(move || {
                let _late = floor.enter(late);
                started.send(()).unwrap();
            });
            assert!(starts.recv_timeout(Duration::from_millis(50)).is_err());
            drop(quiet);
            starts.recv().unwrap();
            assert!(tells.recv().unwrap().contains("\"cont\""));
        });
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
