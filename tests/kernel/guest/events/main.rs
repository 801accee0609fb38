//! What only a kernel can show: `events BOOT` plays that boot's stories and says how each went, in
//! the form the harness reads (`CASE name pass|fail words`).
//!
//! `BACKEND` (type1, cdev), `KERNEL` and `DRIVER` come from the leg.

mod bare;
mod dying;
mod leaving;
mod link;
mod owners;
mod part;
mod plugging;
mod refusals;
mod scrubs;
mod sensors;
mod sleeping;
mod stage;
mod users;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use stage::Stage;

/// Plays on the cards of the stage, gives what is worth telling, panics when it fails.
type Story = fn(&Stage) -> String;

const EVENTS: &[(&str, Story)] = &[
    ("user-outside-the-group", users::outside_the_group),
    ("user-in-the-group", users::in_the_group),
    ("killed-owner", owners::killed_and_followed_at_once),
    ("holder-that-stays", owners::one_that_stays_is_named),
    ("two-cards", owners::two_cards_at_once),
    ("group-in-the-way", owners::another_driver_in_the_group),
    ("deaf-owner", leaving::an_owner_that_does_not_listen),
    ("remove-and-rescan", leaving::removed_and_found_again),
    ("hot-plug", plugging::in_a_running_machine),
    ("unplug-owned", plugging::out_while_owned),
    ("plugged-again", plugging::again_and_asked_for),
    ("link-error", link::not_fatal),
    ("link-error-fatal", link::fatal),
    ("unplug-free", plugging::out_while_free),
];

const SHIM: &[(&str, Story)] = &[
    ("sensors-in-resets", sensors::while_the_library_resets),
    ("user-outside-the-group", users::outside_the_group),
    ("user-in-the-group", users::in_the_group),
    ("killed-owner", owners::killed_and_followed_at_once),
    ("holder-that-stays", owners::one_that_stays_is_named),
    ("two-cards", owners::two_cards_at_once),
    ("group-in-the-way", owners::another_driver_in_the_group),
    ("deaf-owner", leaving::an_owner_that_does_not_listen),
    ("remove-and-rescan", leaving::removed_and_found_again),
    ("hot-plug", plugging::in_a_running_machine),
    ("unplug-owned", plugging::out_while_owned),
    ("link-error", link::not_fatal),
    ("link-error-fatal", link::fatal),
    ("link-error-unowned", link::fatal_while_nobody_owns_it),
    ("sensors-after-errors", sensors::after_errors),
];

const TROUBLE: &[(&str, Story)] = &[
    ("absurd-clock", refusals::absurd_clock),
    ("short-bar", refusals::short_bar),
    ("garbage", refusals::garbage_is_no_data),
    ("scrub-slow", scrubs::an_open_waits),
    ("scrub-fails", scrubs::one_that_fails),
    ("scrub-overruns", scrubs::one_that_never_ends),
    ("scrub-again", scrubs::a_good_one_after_a_reset),
    ("idle-d3", sleeping::an_unowned_card_sleeps),
];

const BARE: &[(&str, Story)] = &[("no-iommu", bare::refused_with_the_reason)];

const DYING: &[(&str, Story)] = &[("emulator-killed", dying::told_by_the_deadline)];

/// Stories of a slot. Any plug has lockdep report the order of pciehp's own two locks in 6.12
/// (rescan_remove_lock, reset_lock), and after its first report it looks no more.
const SLOT: [&str; 4] = ["hot-plug", "unplug-owned", "plugged-again", "unplug-free"];

fn play(name: &str, story: Story, stage: &Stage) -> bool {
    if SLOT.contains(&name) && stage::variable("KERNEL") == "debug" {
        println!(
            "CASE {name} skip lockdep reports pciehp's own locks at any plug: other legs play it"
        );
        return true;
    }
    let begin = Instant::now();
    let told = catch_unwind(AssertUnwindSafe(|| story(stage)));
    let took = begin.elapsed().as_millis();
    match &told {
        Ok(words) => println!("CASE {name} pass {words} ({took} ms)"),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            let words = text.unwrap_or("it panicked").replace('\n', " ");
            println!("CASE {name} fail {words} ({took} ms)");
        }
    }
    told.is_ok()
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let stories = match words.as_slice() {
        ["part", name, card] => return part::play(name, card),
        ["events"] => EVENTS,
        ["shim"] => SHIM,
        ["trouble"] => TROUBLE,
        ["bare"] => BARE,
        ["dying"] => DYING,
        _ => {
            eprintln!("usage: events BOOT");
            return ExitCode::from(2);
        }
    };
    let stage = Stage::new();
    let failed = stories
        .iter()
        .filter(|(name, story)| !play(name, *story, &stage))
        .count();
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
