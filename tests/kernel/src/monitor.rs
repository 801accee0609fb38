//! QEMU's monitor: devices plugged and unplugged while the machine runs, by QMP.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A QMP connection. QEMU answers each command in turn and tells of events between the answers.
#[derive(Debug)]
pub struct Monitor {
    lines: BufReader<UnixStream>,
    deleted: Vec<String>,
}

/// QEMU answers at once; a busy host may take its time.
const ANSWER: Duration = Duration::from_secs(60);

/// Longest that a guest is about a slot: it gives whoever pressed the button five seconds to think better of it.
const BUSY: Duration = Duration::from_secs(20);

impl Monitor {
    /// Connects to the socket that QEMU serves.
    ///
    /// # Errors
    /// What the system says, or QEMU's refusal.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let begin = Instant::now();
        let stream = loop {
            match UnixStream::connect(socket) {
                Err(_) if begin.elapsed() < ANSWER => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => break other?,
            }
        };
        stream.set_read_timeout(Some(ANSWER))?;
        let mut monitor = Self {
            lines: BufReader::new(stream),
            deleted: Vec::new(),
        };
        monitor.message()?; // the greeting
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Runs one command to its answer.
    ///
    /// # Errors
    /// What the system says, or QEMU's refusal in its own words.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> io::Result<()> {
        let words = json!({ "execute": command, "arguments": arguments });
        writeln!(self.lines.get_mut(), "{words}")?;
        loop {
            let said = self.message()?;
            if let Some(why) = said.get("error") {
                return Err(io::Error::other(format!("{command}: {}", why["desc"])));
            }
            if said.get("return").is_some() {
                return Ok(());
            }
            self.event(&said);
        }
    }

    /// Waits until QEMU has told of so many deletions of a device.
    ///
    /// # Errors
    /// When it tells nothing for too long.
    pub fn await_deleted(&mut self, id: &str, times: usize) -> io::Result<()> {
        while self.deletions(id) < times {
            let said = self.message()?;
            self.event(&said);
        }
        Ok(())
    }

    /// Plugs a device. A card that hears of its last owner's end a moment after QEMU told of it is asked again.
    ///
    /// # Errors
    /// What the system says, or QEMU's refusal in its own words.
    pub fn plug(&mut self, device: &Value) -> io::Result<()> {
        self.insist("device_add", device, "Device or resource busy")
    }

    /// Asks the guest to let go of a device that was deleted so many times before. A guest that is still about
    /// the slot is asked again: it may not be done with what was plugged, or be taking it out already, which a slow
    /// one was seen to do by itself.
    ///
    /// # Errors
    /// What the system says, or QEMU's refusal in its own words.
    pub fn unplug(&mut self, id: &str, times: usize) -> io::Result<()> {
        match self.insist("device_del", &json!({ "id": id }), "guest is busy") {
            Err(_) if self.deletions(id) > times => Ok(()),
            other => other,
        }
    }

    /// Executes a command, again and again for some time where it is refused with these words.
    fn insist(&mut self, command: &str, arguments: &Value, busy: &str) -> io::Result<()> {
        let begin = Instant::now();
        loop {
            match self.execute(command, arguments) {
                Err(why) if why.to_string().contains(busy) && begin.elapsed() < BUSY => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                other => return other,
            }
        }
    }

    fn deletions(&self, id: &str) -> usize {
        self.deleted.iter().filter(|deleted| *deleted == id).count()
    }

    /// The ids of the devices that QEMU told it deleted, up to its end.
    #[must_use]
    pub fn close(mut self) -> Vec<String> {
        while let Ok(said) = self.message() {
            self.event(&said);
        }
        self.deleted
    }

    fn event(&mut self, said: &Value) {
        if said["event"] == "DEVICE_DELETED"
            && let Some(id) = said["data"]["device"].as_str()
        {
            self.deleted.push(id.to_owned());
        }
    }

    fn message(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&line).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// Connects a monitor to a peer that has said these lines.
    fn monitor(name: &str, lines: &'static str) -> io::Result<(Monitor, UnixStream)> {
        let path = std::env::temp_dir().join(format!("monitor-{name}-{}", std::process::id()));
        let listener = UnixListener::bind(&path)?;
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.write_all(lines.as_bytes()).expect("written");
            stream
        });
        let connected = Monitor::connect(&path);
        let stream = peer.join().expect("a peer");
        std::fs::remove_file(&path)?;
        Ok((connected?, stream))
    }

    #[test]
    fn events_between_answers_are_kept() {
        let lines = "{\"QMP\":{}}\n{\"return\":{}}\n\
            {\"event\":\"DEVICE_DELETED\",\"data\":{\"path\":\"/a\"}}\n\
            {\"event\":\"DEVICE_DELETED\",\"data\":{\"device\":\"jal2\"}}\n\
            {\"event\":\"SHUTDOWN\"}\n";
        let (monitor, peer) = monitor("events", lines).unwrap();
        drop(peer);
        assert_eq!(monitor.close(), ["jal2"]);
    }

    #[test]
    fn a_guest_that_is_busy_is_asked_again_and_one_that_took_it_out_already_is_done() {
        let busy = "{\"QMP\":{}}\n{\"return\":{}}\n{\"error\":{\"desc\":\"Hot-unplug failed: guest is busy\"}}\n";
        let gone = "{\"event\":\"DEVICE_DELETED\",\"data\":{\"device\":\"jal2\"}}\n";
        let absent = "{\"error\":{\"desc\":\"Device 'jal2' not found\"}}\n";
        let after = |name: &str, more: String, times| {
            let lines: &'static str = format!("{busy}{more}").leak();
            let (mut monitor, _peer) = monitor(name, lines).unwrap();
            monitor.unplug("jal2", times)
        };
        assert!(after("again", "{\"return\":{}}\n".into(), 0).is_ok());
        assert!(after("gone", format!("{gone}{absent}"), 0).is_ok());
        let before = after("before", format!("{gone}{absent}"), 1).unwrap_err();
        assert!(before.to_string().contains("not found"), "{before}");
    }

    #[test]
    fn a_card_that_is_still_anothers_is_plugged_again_and_any_other_refusal_is_told() {
        let after = |name: &str, last: &str| {
            let lines: &'static str = format!(
                "{{\"QMP\":{{}}}}\n{{\"return\":{{}}}}\n\
                 {{\"error\":{{\"desc\":\"version reply: Device or resource busy\"}}}}\n{last}\n"
            )
            .leak();
            let (mut monitor, _peer) = monitor(name, lines).unwrap();
            monitor.plug(&json!({ "id": "jal2" }))
        };
        assert!(after("plugged", "{\"return\":{}}").is_ok());
        let other = after("refused", "{\"error\":{\"desc\":\"no such bus\"}}").unwrap_err();
        assert!(other.to_string().contains("no such bus"), "{other}");
    }

    #[test]
    fn a_refusal_is_told_in_qemus_words() {
        let lines = "{\"QMP\":{}}\n{\"error\":{\"desc\":\"no such bus\"}}\n";
        let said = monitor("refusal", lines).unwrap_err().to_string();
        assert!(said.contains("no such bus"), "{said}");
    }
}
