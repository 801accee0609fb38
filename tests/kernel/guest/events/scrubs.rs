//! Scrubs: HBM between two owners when the scrub is slow, fails, or never ends.
//!
//! The card's scrub takes a second; the fourth and fifth fail, the sixth does not end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jalapeno::{Code, Device, Role};

use crate::link::{announced, uevents};
use crate::stage::{SOON, Stage, function, until, variable};

/// The owner's program, which knows nothing of the library, and so of no scrub but the kernel's.
fn owner(verb: &str, card: &str) -> Command {
    let way = match variable("BACKEND").as_str() {
        "cdev" => "cdev",
        _ => "group",
    };
    let mut command = Command::new("/bin/owner");
    command.args([verb, way, card]).stdout(Stdio::piped());
    command
}

/// Owns the card, writes a pattern to its HBM, and is killed.
fn own_and_die(card: &str) {
    let mut held: Child = owner("hold", card).spawn().expect("an owner");
    let out = BufReader::new(held.stdout.take().expect("it talks"));
    let said: Vec<String> = out
        .lines()
        .map_while(Result::ok)
        .take_while(|line| line != "HELD")
        .collect();
    assert!(
        held.try_wait().expect("a child").is_none(),
        "it could not hold the card: {said:?}"
    );
    held.kill().expect("killed");
    held.wait().expect("dead");
}

/// What the next owner finds in HBM, or why it is not let in.
pub fn look(card: &str) -> String {
    let out = owner("look", card).output().expect("a look").stdout;
    let said = String::from_utf8_lossy(&out);
    said.lines().last().unwrap_or_default().to_owned()
}

/// A file of the shim.
pub fn shown(card: &str, name: &str) -> String {
    let file = function(card).path().join("jalapeno").join(name);
    let mut text = String::new();
    until(name, SOON, || match fs::read_to_string(&file) {
        Ok(read) => {
            text = read.trim().to_owned();
            true
        }
        // Now and then there is no data.
        Err(why) => why.raw_os_error() != Some(libc::ENODATA),
    });
    text
}

/// How `jalctl health` of the card ends, and what it says.
pub fn health(card: &str) -> (Option<i32>, String) {
    let out = Command::new("/bin/jalctl")
        .args(["health", "-d", card])
        .output()
        .expect("jalctl");
    let said = [out.stdout, out.stderr].concat();
    (out.status.code(), String::from_utf8_lossy(&said).into())
}

pub fn becomes(card: &str, state: &str) -> Duration {
    until(&format!("hbm is {state}"), SOON, || {
        shown(card, "hbm") == state
    })
}

/// Resets the card, which `story` asks for: no opening.
fn reset(card: &str, story: &str) {
    fs::write(function(card).path().join("reset"), "1").expect("a reset");
    println!("FIGURE resets-asked-{story} 1");
}

/// Waits for an event of the shim; those that came with it.
fn hears(events: &OwnedFd, wanted: &str) -> Vec<String> {
    let mut said = Vec::new();
    until(wanted, SOON, || {
        said.extend(announced(events));
        said.iter().any(|event| event == wanted)
    });
    said
}

pub fn an_open_waits(stage: &Stage) -> String {
    let card = &stage.cards[2];
    stage.bind(card);
    becomes(card, "clean");
    let before: u64 = shown(card, "scrubs").parse().expect("a count");
    own_and_die(card);
    let begin = Instant::now();
    becomes(card, "scrubbing");
    // VFIO says EBUSY for as long as the killed owner's other files are being closed.
    let (mut found, mut was) = (String::new(), String::new());
    until("the next owner is let in", SOON, || {
        was = shown(card, "hbm");
        found = look(card);
        !found.contains("busy")
    });
    let took = begin.elapsed();
    assert_eq!(found, "ZERO");
    assert_eq!(was, "scrubbing", "it came before the scrub's end");
    becomes(card, "clean");
    let mut after = 0;
    until("two scrubs are counted", SOON, || {
        after = shown(card, "scrubs").parse().expect("a count");
        after >= before + 2
    });
    format!(
        "the next owner had its answer {} ms after kill -9: {found}; scrubs went from {before} to {after}",
        took.as_millis()
    )
}

pub fn one_that_fails(stage: &Stage) -> String {
    let card = &stage.cards[2];
    let events = uevents();
    own_and_die(card);
    becomes(card, "failed");
    hears(&events, "scrub-failed");
    let begin = Instant::now();
    let found = look(card);
    let took = begin.elapsed();
    assert!(found.contains("Input/output error"), "{found}");
    let error = Device::open(card, Role::Compute).expect_err("old content");
    assert_eq!(error.code(), Code::NeedsReset, "{error}");
    let hint = error.hint().expect("what to do");
    let file = function(card).path().join("reset");
    assert!(hint.contains(file.to_str().expect("a path")), "{hint}");
    assert_eq!(shown(card, "hbm"), "failed");
    let (code, said) = health(card);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("scrub  "), "{said}");
    format!(
        "an open gets EIO after {} ms; by the library: {error}",
        took.as_millis()
    )
}

pub fn one_that_never_ends(stage: &Stage) -> String {
    let card = &stage.cards[2];
    let events = uevents();
    reset(card, "overrun");
    becomes(card, "scrubbing");
    let begin = Instant::now();
    let found = look(card);
    let took = begin.elapsed();
    assert!(found.contains("Input/output error"), "{found}");
    assert_eq!(shown(card, "hbm"), "failed");
    let said = hears(&events, "scrub-failed");
    assert!(said.iter().any(|event| event == "reset"), "{said:?}");
    // The card says 2 s, the shim gives it 2 more.
    assert!(took > Duration::from_secs(2), "{took:?}");
    format!("an open waited {} ms and got EIO", took.as_millis())
}

pub fn a_good_one_after_a_reset(stage: &Stage) -> String {
    let card = &stage.cards[2];
    reset(card, "again");
    let took = becomes(card, "clean");
    let found = look(card);
    assert_eq!(found, "ZERO");
    format!(
        "clean {} ms after the reset; the next owner finds {found}",
        took.as_millis()
    )
}
