//! Alone: a story in a process of its own, because it sets limits, forks or dies, or with nothing beside it in
//! its process, because it counts what that holds; and the parts that further processes play in it.
//!
//! The process is this test program once more, told to play that one story.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Which story this process plays.
const STORY: &str = "JALAPENO_STORY";
/// Which part of it.
const PART: &str = "JALAPENO_PART";
/// What it was given to play with.
const PROP: &str = "JALAPENO_PROP";
/// A file that is to have the names of such stories, a full stop behind each, which are then played later, all
/// together: between them nobody holds the one card that there is, and behind a kernel an opening is a reset.
const LATER: &str = "JALAPENO_LATER";
/// Set where stories play one after another on the one card that there is: one that only counts what is held
/// then plays in this process, on the card as the story before left it.
const ONE_BY_ONE: &str = "JALAPENO_ONE_BY_ONE";
/// Longest that a story may take.
const LONGEST: Duration = Duration::from_secs(100);

/// Whether this process plays the story. Otherwise another did, and played it well.
///
/// # Panics
/// Where the story failed.
#[must_use]
pub fn is_alone(story: &str) -> bool {
    if std::env::var(STORY).is_ok_and(|playing| playing == story) {
        return true;
    }
    if let Some(path) = std::env::var_os(LATER) {
        crate::stage::note(&path, &format!("{story}."));
        return false;
    }
    let _turn = crate::stage::turn();
    crate::stage::let_go();
    let child = play(story, "", "");
    let output = child.finish();
    let text = String::from_utf8_lossy(&output.stdout);
    // Its figures; the first may stand behind its name.
    for line in text.lines() {
        if let Some((_, figure)) = format!(" {line}").split_once(" = ") {
            println!("= {figure}");
        }
    }
    let told = output.status.success() && text.contains("1 passed");
    assert!(
        told,
        "{story}, in a process of its own: {}\n{}\n{}",
        output.status,
        text.replace("test result", "its result"),
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

/// Whether this process plays a story beside which nothing else may play, because it counts what the process
/// holds. Otherwise another did, and played it well.
///
/// # Panics
/// Where the story failed.
#[must_use]
pub fn is_undisturbed(story: &str) -> bool {
    std::env::var_os(ONE_BY_ONE).is_some() || is_alone(story)
}

/// The part that this process plays, and what it was given; `None`: the story itself.
#[must_use]
pub fn part() -> Option<(String, String)> {
    let part = std::env::var(PART).ok().filter(|part| !part.is_empty())?;
    Some((part, std::env::var(PROP).unwrap_or_default()))
}

/// Says a line to whoever started this part.
pub fn say(line: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // Whoever listened may have gone.
    let _ = writeln!(out, "\n> {line}").and_then(|()| out.flush());
}

fn play(story: &str, part: &str, prop: &str) -> Part {
    let program = std::env::current_exe().expect("a program");
    let mut command = Command::new(program);
    command
        .args([story, "--exact", "--nocapture", "--test-threads=1"])
        .env(STORY, story)
        .env(PART, part)
        .env(PROP, prop)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("a process");
    let out = child.stdout.take().map(BufReader::new);
    Part { child, out }
}

/// A process that plays a part. Killed and reaped when dropped.
#[derive(Debug)]
pub struct Part {
    child: Child,
    out: Option<BufReader<ChildStdout>>,
}

impl Part {
    /// Starts a process that plays `part` of this story, with something to play with.
    ///
    /// # Panics
    /// Where this process plays no story alone.
    #[must_use]
    pub fn start(part: &str, prop: &str) -> Self {
        let story = std::env::var(STORY).expect("a story that plays alone");
        play(&story, part, prop)
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it says.
    ///
    /// # Panics
    /// Where it says nothing more.
    pub fn hear(&mut self) -> String {
        let out = self.out.as_mut().expect("its output");
        let mut line = String::new();
        loop {
            line.clear();
            let read = out.read_line(&mut line).expect("its output");
            assert!(read > 0, "the part ended without a word");
            if let Some(said) = line.strip_prefix("> ") {
                return said.trim_end().to_owned();
            }
        }
    }

    /// Kills it, as `kill -9` does, and waits until it is gone.
    ///
    /// # Panics
    /// Where it ended by itself before.
    pub fn kill(mut self) {
        self.child.kill().expect("it is ours");
        let status = self.child.wait().expect("it is ours");
        assert_eq!(status.signal(), Some(libc::SIGKILL), "it lived until now");
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// Where it takes too long.
    #[must_use]
    pub fn finish(mut self) -> Output {
        let mut stderr = self.child.stderr.take();
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            // What was read until an error is what there is.
            let _ = stderr.as_mut().map(|stderr| stderr.read_to_end(&mut text));
            text
        });
        let mut out = self.out.take();
        let said = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = out.as_mut().map(|out| out.read_to_end(&mut text));
            text
        });
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                break status;
            }
            if begin.elapsed() > LONGEST {
                self.child.kill().expect("it is ours");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        Output {
            status,
            stdout: said.join().expect("a reader"),
            stderr: errors.join().expect("a reader"),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It may end at this moment.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The name of the story that stands around it, as the test program knows it.
#[macro_export]
macro_rules! story {
    () => {{
        fn here() {}
        let path = std::any::type_name_of_val(&here);
        let path = path.split_once("::").map_or(path, |(_, rest)| rest);
        let path = path.strip_suffix("::here").unwrap_or(path);
        path.trim_end_matches("::{{closure}}")
    }};
}

/// Plays the story around it with nothing beside it in its process.
#[macro_export]
macro_rules! undisturbed {
    () => {
        if !$crate::alone::is_undisturbed($crate::story!()) {
            return;
        }
    };
}

/// Plays the story around it in a process of its own.
#[macro_export]
macro_rules! alone {
    () => {
        if !$crate::alone::is_alone($crate::story!()) {
            return;
        }
    };
}
