//! What a guest said: its cases, counted, and everything that makes a run no proof.

use std::collections::BTreeMap;
use std::fmt;

use crate::together;

/// How one case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ran and held.
    Passed,
    /// It ran and did not hold.
    Failed,
    /// It could not run; the reason stands beside it.
    Skipped,
}

/// One case of one story.
#[derive(Clone, Debug)]
pub struct Case {
    /// `story/case`.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What the guest said about it.
    pub reason: String,
}

/// How much of a story's talk is kept, and how much of it is said beside a failed case.
const TALK_LINES: usize = 2000;
const LAST_WORDS: usize = 1000;

/// The lines of the report port, read one at a time.
///
/// `BEGIN story` · `CASE name pass|fail|skip reason` · `END story status` · `DONE uptime`, and
/// `FIGURE name value`.
/// Between BEGIN and END the lines of Rust's test harness count too: `test name ... ok`.
#[derive(Debug, Default)]
pub struct Report {
    cases: Vec<Case>,
    story: Option<(String, usize)>,
    /// What the story's programs said beside their cases.
    talk: Vec<String>,
    figures: BTreeMap<String, String>,
    done: bool,
}

impl Report {
    /// Takes one line; what is not of the protocol is the programs' own talk.
    pub fn line(&mut self, line: &str) {
        let line = line.trim_end_matches('\r');
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "BEGIN" => {
                self.unfinished();
                self.story = Some((rest.to_owned(), self.cases.len()));
                self.talk.clear();
            }
            "CASE" => self.case(rest),
            "FIGURE" => {
                if let Err(why) = together::figure(&mut self.figures, rest) {
                    self.push("figure", Outcome::Failed, why);
                }
            }
            "test" => self.rust_test(rest),
            "END" => self.end(rest),
            "DONE" => {
                self.unfinished();
                self.done = true;
            }
            _ if self.talk.len() < TALK_LINES => self.talk.push(line.to_owned()),
            _ => {}
        }
    }

    /// The figures that were told.
    #[must_use]
    pub fn figures(&self) -> &BTreeMap<String, String> {
        &self.figures
    }

    /// Closes the report. A guest that never came to its end and a guest without a single case
    /// are failures.
    pub fn close(mut self, ending: &str) -> Vec<Case> {
        self.unfinished();
        if !self.done {
            self.push(
                "boot",
                Outcome::Failed,
                format!("the guest did not come to its end: {ending}"),
            );
        }
        if !self
            .cases
            .iter()
            .any(|case| case.outcome != Outcome::Skipped)
        {
            self.push("boot", Outcome::Failed, "not a single case ran".to_owned());
        }
        self.cases
    }

    fn push(&mut self, name: &str, outcome: Outcome, reason: String) {
        let story = self
            .story
            .as_ref()
            .map_or("guest", |(story, _)| story.as_str());
        self.cases.push(Case {
            name: format!("{story}/{name}"),
            outcome,
            reason,
        });
    }

    fn case(&mut self, rest: &str) {
        let mut words = rest.splitn(3, ' ');
        let name = words.next().unwrap_or_default();
        let verdict = words.next().unwrap_or_default();
        let reason = words.next().unwrap_or_default().to_owned();
        match verdict {
            "pass" => self.push(name, Outcome::Passed, reason),
            "fail" => self.push(name, Outcome::Failed, reason),
            "skip" if reason.is_empty() => {
                self.push(name, Outcome::Failed, "skipped without a reason".to_owned());
            }
            "skip" => self.push(name, Outcome::Skipped, reason),
            _ => self.push(
                name,
                Outcome::Failed,
                format!("no verdict in \"CASE {rest}\""),
            ),
        }
    }

    fn rust_test(&mut self, rest: &str) {
        let Some((name, verdict)) = rest.split_once(" ... ") else {
            return;
        };
        match verdict
            .split_once(", ")
            .map_or((verdict, ""), |(verdict, reason)| (verdict, reason))
        {
            ("ok", _) => self.push(name, Outcome::Passed, String::new()),
            ("ignored", "") => {
                self.push(name, Outcome::Failed, "ignored without a reason".to_owned())
            }
            ("ignored", reason) => self.push(name, Outcome::Skipped, reason.to_owned()),
            _ => self.push(name, Outcome::Failed, verdict.to_owned()),
        }
    }

    /// A story's exit status counts, unless it already said what failed; so does its silence.
    fn end(&mut self, rest: &str) {
        let (story, status) = rest.rsplit_once(' ').unwrap_or((rest, "unknown"));
        let Some((begun, first)) = self.story.clone().filter(|(begun, _)| begun == story) else {
            return self.push(story, Outcome::Failed, "END without its BEGIN".to_owned());
        };
        let own = &self.cases[first..];
        if status != "0" && !own.iter().any(|case| case.outcome == Outcome::Failed) {
            self.push(
                "exit",
                Outcome::Failed,
                format!("{begun} ended with status {status}"),
            );
        } else if own.iter().all(|case| case.outcome == Outcome::Skipped) && begun != "setup" {
            self.push("cases", Outcome::Failed, format!("{begun} ran no case"));
        }
        self.explain(first);
        self.story = None;
    }

    /// Puts the panic of each failed Rust test beside its case, as the harness repeats it at the end:
    /// `---- NAME stdout ----` and lines up to the next such.
    fn explain(&mut self, first: usize) {
        for case in &mut self.cases[first..] {
            let name = case.name.split_once('/').map_or("", |(_, name)| name);
            let head = format!("---- {name} stdout ----");
            let Some(at) = self.talk.iter().position(|line| line.trim() == head) else {
                continue;
            };
            let words: Vec<&str> = self.talk[at + 1..]
                .iter()
                .map(|line| line.trim())
                .take_while(|line| !line.starts_with("---- ") && *line != "failures:")
                .filter(|line| !line.is_empty() && !line.starts_with("note: "))
                .collect();
            let words = words
                .join(" | ")
                .chars()
                .take(LAST_WORDS)
                .collect::<String>();
            case.reason = format!("{}: {words}", case.reason);
        }
    }

    fn unfinished(&mut self) {
        if let Some((story, first)) = self.story.take() {
            self.explain(first);
            self.push(&story, Outcome::Failed, "begun and never ended".to_owned());
        }
    }
}

/// Cases added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Cases that held.
    pub passed: usize,
    /// Cases that did not.
    pub failed: usize,
    /// Cases that could not run.
    pub skipped: usize,
}

impl Count {
    /// Adds cases to the count.
    pub fn add(&mut self, cases: &[Case]) {
        for case in cases {
            match case.outcome {
                Outcome::Passed => self.passed += 1,
                Outcome::Failed => self.failed += 1,
                Outcome::Skipped => self.skipped += 1,
            }
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Count {
        let mut report = Report::default();
        text.lines().for_each(|line| report.line(line));
        let mut count = Count::default();
        count.add(&report.close("power off"));
        count
    }

    fn count(passed: usize, failed: usize, skipped: usize) -> Count {
        Count {
            passed,
            failed,
            skipped,
        }
    }

    #[test]
    fn each_case_is_counted_once() {
        let text =
            "noise\r\nBEGIN a\nCASE one pass\r\nCASE two skip no such thing\nEND a 0\nDONE 3.1\n";
        assert_eq!(read(text), count(1, 0, 1));
    }

    #[test]
    fn a_silent_guest_fails() {
        assert_eq!(read("BEGIN setup\nEND setup 0\nDONE 1"), count(0, 1, 0));
        assert_eq!(read(""), count(0, 1, 0));
        assert_eq!(
            read("BEGIN a\nCASE x skip why\nEND a 0\nDONE 1"),
            count(0, 1, 1)
        );
    }

    #[test]
    fn a_story_that_only_skips_fails_though_others_run() {
        let text = "BEGIN a\nCASE x pass\nEND a 0\nBEGIN b\nCASE y skip why\nEND b 0\nDONE 1";
        assert_eq!(read(text), count(1, 1, 1));
    }

    #[test]
    fn a_story_that_says_nothing_fails_though_others_speak() {
        assert_eq!(
            read("BEGIN a\nCASE x pass\nEND a 0\nBEGIN b\nEND b 0\nDONE 1"),
            count(1, 1, 0)
        );
    }

    #[test]
    fn a_guest_that_stops_half_way_fails() {
        assert_eq!(read("BEGIN a\nCASE x pass\n"), count(1, 2, 0));
    }

    #[test]
    fn a_bad_exit_status_fails_once() {
        assert_eq!(
            read("BEGIN a\nCASE x pass\nEND a 139\nDONE 1"),
            count(1, 1, 0)
        );
        assert_eq!(
            read("BEGIN a\nCASE x fail\nEND a 1\nDONE 1"),
            count(0, 1, 0)
        );
    }

    #[test]
    fn rusts_own_test_lines_count() {
        let text = "BEGIN r\nrunning 3 tests\ntest a::b ... ok\ntest c ... FAILED\n\
                    test d ... ignored, needs a card\nEND r 101\nDONE 1";
        assert_eq!(read(text), count(1, 1, 1));
    }

    #[test]
    fn a_failed_test_says_why() {
        let mut report = Report::default();
        let text = "BEGIN r\ntest a::b ... FAILED\ntest c ... ok\nfailures:\n\n---- a::b stdout ----\n\n\
                    thread 'a::b' panicked at x.rs:1:2:\n7 is too many\n\nfailures:\n    a::b\nEND r 101\nDONE 1";
        text.lines().for_each(|line| report.line(line));
        let reasons: Vec<_> = report
            .close("")
            .into_iter()
            .map(|case| case.reason)
            .collect();
        let said = "FAILED: thread 'a::b' panicked at x.rs:1:2: | 7 is too many";
        assert_eq!(reasons, [said, ""]);
    }

    #[test]
    fn a_skip_needs_a_reason_and_a_case_a_verdict() {
        assert_eq!(
            read("BEGIN a\nCASE x skip\nCASE y maybe\nCASE z pass\nEND a 0\nDONE 1"),
            count(1, 2, 0)
        );
    }
}
