//! The library on a card that a real kernel holds: `library BDF` plays each story and says how it
//! went, in the form the harness reads (`CASE name pass|fail words`).
//!
//! `BACKEND` (type1, cdev) and `KERNEL` come from the leg.

mod figures;
mod host;
mod ioctl;
mod jobs;
mod memory;
mod opening;
mod resets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jalapeno::hw::packets::{Opcode, Packet, header};
use jalapeno::{Device, Role, Session};

/// Long enough for anything that works, in a machine that is emulated on a host that stalls.
pub const SOON: Duration = Duration::from_secs(60);

/// One story: plays on the card at an address, gives what is worth telling, panics when it fails.
type Story = fn(&str) -> String;

const STORIES: &[(&str, Story)] = &[
    ("who", opening::who_it_is),
    (
        "discovery",
        opening::discovery_names_place_driver_and_holder,
    ),
    ("other-backend", opening::the_other_backend),
    (
        "second-owner",
        opening::a_second_owner_is_told_who_the_first_is,
    ),
    (
        "killed-owner",
        opening::the_next_owner_comes_after_a_killed_one,
    ),
    (
        "ioctls",
        opening::an_ioctl_that_fails_at_any_place_is_one_error_and_leaves_nothing,
    ),
    ("copy", jobs::a_copy_goes_to_the_card_and_home),
    ("polled", jobs::polled_jobs_come_home),
    ("interrupt", jobs::a_sleeper_is_woken_by_an_interrupt),
    (
        "vectors",
        jobs::a_vector_that_was_off_comes_back_without_stale_interrupts,
    ),
    (
        "masked",
        jobs::a_masked_interrupt_is_kept_until_it_is_unmasked,
    ),
    ("messages", figures::polled_commands_send_no_message),
    (
        "mask-writes",
        figures::sleepers_send_none_but_the_vectors_masks,
    ),
    ("one-map", figures::a_buffer_is_one_ioctl_whatever_its_pages),
    ("opening", figures::an_opening_is_quick_beside_its_reset),
    ("budget", memory::a_budget_is_told_before_the_first_mapping),
    ("ranges", memory::addresses_lie_in_what_the_kernel_permits),
    (
        "unmapped",
        memory::an_unmapped_address_is_a_fault_with_that_address,
    ),
    (
        "after-unmap",
        memory::memory_that_was_let_go_cannot_be_reached,
    ),
    ("read-only", memory::a_read_only_map_refuses_writes),
    (
        "registered",
        memory::private_memory_of_the_application_can_be_registered,
    ),
    ("function-reset", resets::a_function_level_reset),
    (
        "bus-reset",
        resets::a_bus_reset_or_the_names_of_who_it_would_hit,
    ),
    ("unasked-reset", resets::a_reset_that_nobody_here_asked_for),
    ("memlock", host::a_small_memlock_says_what_is_needed),
    (
        "permission",
        host::a_user_without_permission_is_told_what_to_do,
    ),
    (
        "wanted-back",
        host::the_host_asks_for_the_device_back_and_gets_it,
    ),
];

/// The card stays open from story to story: each opening and each closing is a reset.
static KEPT: Mutex<Option<Arc<Device>>> = Mutex::new(None);

/// Closes the card, where an earlier story left it open: for another process or way to it.
pub fn let_go() {
    *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// What `Device::open` gives for computing, now.
///
/// # Panics
/// Where it does not open.
#[must_use]
pub fn open(card: &str) -> Arc<Device> {
    let_go();
    Device::open(card, Role::Compute).expect("the card opens")
}

/// The card, open for computing, perhaps since an earlier story.
///
/// # Panics
/// Where it does not open.
#[must_use]
pub fn device(card: &str) -> Arc<Device> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let works = kept.take().filter(|device| device.verify().is_ok());
    let device =
        works.unwrap_or_else(|| Device::open(card, Role::Compute).expect("the card opens"));
    *kept = Some(Arc::clone(&device));
    device
}

/// A session on the card.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn session(card: &str) -> Session {
    Session::new(&device(card)).expect("a session")
}

/// A packet with a body.
#[must_use]
pub fn packet(opcode: Opcode, body: [u64; 5]) -> Packet {
    Packet {
        header: header(opcode, 0),
        cookie: 0,
        deadline: 0,
        body,
    }
}

fn play(name: &str, story: Story, card: &str) -> bool {
    let begin = Instant::now();
    let told = catch_unwind(AssertUnwindSafe(|| story(card)));
    let took = begin.elapsed().as_millis();
    let (verdict, words) = match &told {
        Ok(words) => ("pass", words.clone()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            ("fail", text.unwrap_or("it panicked").replace('\n', " "))
        }
    };
    println!("CASE {card}/{name} {verdict} {words} ({took} ms)");
    told.is_ok()
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (Some(card), part) = (words.next(), words.next()) else {
        eprintln!("usage: library BDF");
        return ExitCode::from(2);
    };
    if part.as_deref() == Some("uuid") {
        println!("{}", open(&card).info().uuid);
        return ExitCode::SUCCESS;
    }
    if let Some(part) = part {
        return host::play_part(&part, &card);
    }
    let mut failed = 0;
    for (name, story) in STORIES {
        failed += usize::from(!play(name, *story, &card));
    }
    let_go();
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
