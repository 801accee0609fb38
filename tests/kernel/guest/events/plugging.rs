//! Plugging: a card comes into a running machine, and goes while it is owned, or free.

use std::fs;
use std::time::Instant;

use jalapeno::{Device, Role};

use crate::leaving::turns_readable;
use crate::stage::{SOON, Stage, cards, function, open, until, work};

/// The card that was not there at boot.
fn plugged(stage: &Stage) -> Option<String> {
    cards().into_iter().find(|card| !stage.cards.contains(card))
}

fn plug(stage: &Stage) -> String {
    println!("HOST plug {}", stage.spare);
    until("a card comes", SOON, || plugged(stage).is_some());
    let card = plugged(stage).expect("there");
    // It is in sysfs before the kernel lets drivers have it: a probe before that does nothing.
    let function = function(&card);
    fs::write(function.path().join("driver_override"), &stage.driver).expect("an override");
    until("it is bound", SOON, || {
        fs::write("/sys/bus/pci/drivers_probe", &card).is_ok()
            && function.driver().as_deref() == Some(&*stage.driver)
    });
    // The driver's name is there before its probe has ended.
    until("it has its nodes", SOON, || {
        let nodes = [function.group_node(), function.device_node()];
        function.path().join("vfio-dev").is_dir()
            && nodes.into_iter().flatten().all(|node| node.exists())
    });
    card
}

pub fn in_a_running_machine(stage: &Stage) -> String {
    assert_eq!(plugged(stage), None);
    let begin = Instant::now();
    let card = plug(stage);
    let took = begin.elapsed();
    let device = open(&card);
    assert_eq!(device.info().vectors, 0, "it has no MSI-X");
    work(&device, 12, 20);
    format!(
        "{card} bound {} ms after it was plugged; no vector, polled",
        took.as_millis()
    )
}

pub fn out_while_owned(stage: &Stage) -> String {
    let card = plugged(stage).expect("plugged by the story before");
    let device = open(&card);
    let wanted = device.wanted_back_fd().expect("an fd");
    println!("HOST unplug {}", stage.spare);
    let begin = Instant::now();
    // The kernel gives five seconds to think better of it.
    assert!(turns_readable(&wanted), "the host asks");
    let asked = begin.elapsed();
    assert!(device.is_wanted_back());
    work(&device, 13, 1);
    assert!(function(&card).is_there(), "it stays while it is owned");
    drop(device);
    let took = until("it goes", SOON, || !function(&card).is_there());
    let error = Device::open(&card, Role::Compute).expect_err("it is gone");
    assert!(
        error
            .to_string()
            .contains("no PCI function has this address"),
        "{error}"
    );
    format!(
        "asked for after {} ms, gone {} ms after it was let go",
        asked.as_millis(),
        took.as_millis()
    )
}

/// Nobody has it; the kernel's patience is spent on the stories in between.
pub fn again_and_asked_for(stage: &Stage) -> String {
    assert_eq!(plugged(stage), None);
    let card = plug(stage);
    work(&open(&card), 14, 1);
    println!("HOST unplug {}", stage.spare);
    format!("{card} is back in its slot")
}

pub fn out_while_free(stage: &Stage) -> String {
    until("it goes", SOON, || plugged(stage).is_none());
    "nobody had it, and it went".into()
}
