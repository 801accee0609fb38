//! Refusals: cards that describe themselves wrongly, and readings that no sensor can have.

use std::fs;
use std::io;
use std::process::Command;

use crate::stage::{SOON, Stage, function, until};

/// What the kernel's log has of a card.
fn log_of(card: &str) -> Vec<String> {
    let log = Command::new("dmesg").output().expect("dmesg").stdout;
    let log = String::from_utf8_lossy(&log).into_owned();
    let lines = log.lines().filter(|line| line.contains(card));
    lines.map(str::to_owned).collect()
}

/// The driver is asked to take a card, says no in one line, and the kernel lives on.
fn refused(stage: &Stage, card: &str, words: &str) -> String {
    let function = function(card);
    let said = |lines: Vec<String>| {
        let mut lines = lines.into_iter().filter(|line| line.contains(words));
        (lines.next(), lines.count())
    };
    assert_eq!(said(log_of(card)), (None, 0), "not yet");
    fs::write(function.path().join("driver_override"), &stage.driver).expect("an override");
    // Whether the refusal is this write's error depends on the kernel.
    let _ = fs::write("/sys/bus/pci/drivers_probe", card);
    assert_eq!(function.driver(), None, "it is not taken");
    let (line, more) = said(log_of(card));
    let line = line.unwrap_or_else(|| panic!("no line has \"{words}\": {:?}", log_of(card)));
    assert_eq!(more, 0, "one line");
    line
}

pub fn absurd_clock(stage: &Stage) -> String {
    refused(stage, &stage.cards[0], "no usable TIME: 1 ticks/s")
}

pub fn short_bar(stage: &Stage) -> String {
    refused(stage, &stage.cards[1], "BAR0 is too short")
}

/// All ones, vouched for by the card.
pub fn garbage_is_no_data(stage: &Stage) -> String {
    let card = &stage.cards[3];
    stage.bind(card);
    let path = function(card).path().to_owned();
    let mut entries = fs::read_dir(path.join("hwmon")).expect("hwmon").flatten();
    let hwmon = entries.next().expect("one").path();
    let files: Vec<_> = fs::read_dir(&hwmon)
        .expect("its files")
        .flatten()
        .map(|entry| entry.path())
        .filter(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            ["_input", "_max", "_crit", "_cap"]
                .iter()
                .any(|end| name.ends_with(end))
        })
        .chain(["health", "scrubs"].map(|name| path.join("jalapeno").join(name)))
        .collect();
    assert!(files.len() >= 14, "{files:?}");
    let read = |file| match fs::read_to_string(file) {
        Ok(text) => Some(text),
        Err(why) => {
            assert_eq!(why.raw_os_error(), Some(libc::ENODATA), "{file:?}: {why}");
            None
        }
    };
    // The page turns to garbage at its next refresh.
    until("no sensor has a value", SOON, || {
        files.iter().all(|file| read(file).is_none())
    });
    for _ in 0..20 {
        for file in &files {
            assert_eq!(read(file), None, "{file:?}");
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let state = fs::read_to_string(path.join("jalapeno/hbm")).unwrap_or_else(|why: io::Error| {
        panic!("what the driver knows itself is there: {why}");
    });
    format!(
        "{} files say \"no data\"; HBM is {}",
        files.len(),
        state.trim()
    )
}
