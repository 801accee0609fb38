//! Sleeping: the module loaded with idle_d3=1, a card that nobody owns, and readers who leave it asleep.

use std::fs;
use std::process::Command;

use crate::scrubs::{becomes, health, look, shown};
use crate::stage::{SOON, Stage, function, until};
use jalapeno::Telemetry;

pub fn an_unowned_card_sleeps(stage: &Stage) -> String {
    let card = &stage.cards[2];
    let run = |words: &[&str]| {
        let done = Command::new(words[0]).args(&words[1..]).status();
        assert!(done.is_ok_and(|status| status.success()), "{words:?}");
    };
    run(&["rmmod", "jalapeno_vfio_pci"]);
    run(&["insmod", "/modules/jalapeno_vfio_pci.ko", "idle_d3=1"]);
    stage.bind(card);
    becomes(card, "clean");
    let path = function(card).path().to_owned();
    let power = |name: &str| {
        let text = fs::read_to_string(path.join("power").join(name)).expect("power");
        text.trim().to_owned()
    };
    let sleeps = || until("it sleeps", SOON, || power("runtime_status") == "suspended");
    sleeps();
    let active = power("runtime_active_time");
    let mut entries = fs::read_dir(path.join("hwmon")).expect("hwmon").flatten();
    let hwmon = entries.next().expect("one").path();
    let files = [
        hwmon.join("temp1_input"),
        hwmon.join("temp7_input"),
        hwmon.join("power1_input"),
        hwmon.join("energy1_input"),
        path.join("jalapeno/generation"),
        path.join("jalapeno/health"),
        path.join("jalapeno/telemetry"),
    ];
    for _ in 0..100 {
        for file in &files {
            let why = fs::read(file).expect_err("it sleeps").raw_os_error();
            assert_eq!(why, Some(libc::ENODATA), "{file:?}");
        }
    }
    assert_eq!(shown(card, "uuid").len(), 36, "known without the card");
    let told = Telemetry::of_function(&function(card));
    assert!(told.expect_err("it sleeps").is_no_data());
    let (code, said) = health(card);
    assert_eq!(code, Some(6), "{said}");
    assert!(said.contains("no data right now"), "{said}");
    assert_eq!(power("runtime_status"), "suspended");
    assert_eq!(power("runtime_active_time"), active, "nothing woke it");
    let found = look(card);
    assert_eq!(found, "ZERO", "an owner wakes it");
    becomes(card, "clean");
    sleeps();
    assert_ne!(power("runtime_active_time"), active);
    format!("{} reads of a sleeping card", 100 * files.len())
}
