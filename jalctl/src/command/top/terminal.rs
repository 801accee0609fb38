//! The terminal: taken for the screen, and given back as it was at every end: a key, an error, a signal,
//! a panic. Keys are read by ourselves: what reads them in crossterm never ends once a terminal is gone.

use std::io::{self, IsTerminal, stdin, stdout};
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;
use ratatui::{DefaultTerminal, Frame};

use super::keys::{self, Key};
use crate::exit::Problem;

/// See the file's head. Not dropped by ratatui, which prints where it fails, and that panics where the
/// terminal is gone.
#[derive(Debug)]
pub struct Terminal(ManuallyDrop<DefaultTerminal>);

/// There is a terminal, not taken yet.
#[derive(Debug)]
pub struct There(());

impl There {
    /// Takes it. A panic, in any thread, gives it back before its words are printed.
    pub fn take(self) -> Result<Terminal, Problem> {
        let taken = ratatui::try_init().map(ManuallyDrop::new).map(Terminal);
        taken.map_err(|error| {
            let _ = ratatui::try_restore(); // as far as it was taken
            Problem::failure(
                format!("take the terminal: {error}"),
                "jalctl top -o jsonl needs none",
            )
        })
    }
}

impl Terminal {
    /// Whether there is one.
    pub fn check() -> Result<There, Problem> {
        let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
        if !stdin().is_terminal() || !stdout().is_terminal() || dumb {
            return Err(Problem::usage(
                "top draws on a terminal, and there is none here",
                "jalctl top -o jsonl prints samples for scripts; --count N ends after N",
            ));
        }
        Ok(There(()))
    }

    /// Draws; where the size has changed, anew.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame)) -> io::Result<()> {
        self.0.draw(draw).map(|_| ())
    }

    /// The keys that are pressed within this time, or none; an error when the terminal is gone.
    pub fn keys(&self, patience: Duration) -> io::Result<Vec<Key>> {
        let stdin = stdin();
        let mut files = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        match poll(&mut files, patience) {
            Ok(0) | Err(Errno::EINTR) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut bytes = [0; 256];
        match read(&stdin, &mut bytes) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => Ok(keys::read(&bytes[..length])),
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(Vec::new()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that is gone wants nothing back.
        let _ = self.0.show_cursor();
        let _ = ratatui::try_restore();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::process::{Command, Stdio};

    use nix::pty::openpty;
    use nix::sys::termios::tcgetattr;

    /// Tells this test that it is the one that is to panic.
    const PANIC: &str = "JALCTL_TEST_PANICS";

    #[test]
    fn a_panic_in_any_thread_gives_the_terminal_back_and_its_words_are_read() {
        let name = "command::top::terminal::tests::a_panic_in_any_thread_gives_the_terminal_back_and_its_words_are_read";
        if let Some(place) = std::env::var_os(PANIC) {
            let terminal = Terminal::check().expect("a terminal").take();
            let mut terminal = terminal.expect("taken");
            terminal.draw(|_| {}).expect("drawn");
            if place == "watcher" {
                let watcher = std::thread::spawn(|| panic!("a mistake of ours"));
                assert!(watcher.join().is_err());
                std::process::exit(0); // as if nothing more could be done
            }
            panic!("a mistake of ours");
        }
        for place in ["screen", "watcher"] {
            let pty = openpty(None, None).expect("a pty");
            let before = tcgetattr(&pty.slave).expect("its settings");
            let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
            let mut child = Command::new(std::env::current_exe().expect("this test"))
                .args([name, "--exact", "--nocapture"])
                .env(PANIC, place)
                .env("TERM", "xterm")
                .stdin(end())
                .stdout(end())
                .stderr(end())
                .spawn()
                .expect("it runs");
            let mut master = File::from(pty.master);
            let reader = std::thread::spawn(move || {
                let mut seen = Vec::new();
                let _ = master.read_to_end(&mut seen); // ends with EIO
                String::from_utf8_lossy(&seen).into_owned()
            });
            child.wait().expect("it ends");
            assert_eq!(tcgetattr(&pty.slave).expect("settings"), before, "{place}");
            drop(pty.slave);
            let seen = reader.join().expect("read");
            let words = seen.find("a mistake of ours").expect("its words");
            let taken = seen.find("\u{1b}[?1049h").expect("the screen was taken");
            let given = seen
                .find("\u{1b}[?1049l")
                .expect("the screen was given back");
            assert!(taken < given && given < words, "{place}: {seen:?}");
        }
    }
}
