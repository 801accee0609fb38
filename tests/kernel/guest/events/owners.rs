//! Owners: one after another, two side by side, and who else is in the card's group.

use std::fs;
use std::time::{Duration, Instant};

use jalapeno::error::Error;
use jalapeno::hw::regs::ResetLevel;
use jalapeno::transport::opening::Backend;
use jalapeno::{Device, Role};

use crate::part::Part;
use crate::stage::{SOON, Stage, function, open, work};

fn part_of(backend: Backend) -> &'static str {
    match backend {
        Backend::Cdev => "hold-cdev",
        _ => "hold-group",
    }
}

pub fn killed_and_followed_at_once(stage: &Stage) -> String {
    let mut told = Vec::new();
    for &backend in stage.backends() {
        let mut first = Part::start(part_of(backend), stage.card());
        first.hear("held");
        first.kill();
        let begin = Instant::now();
        let next = Device::open_by(stage.card(), Role::Compute, backend);
        let took = begin.elapsed();
        let next = next.expect("the next owner's open is patient");
        work(&next, 7, 1);
        told.push(format!("{} {} ms", next.info().backend, took.as_millis()));
    }
    format!("open after kill -9: {}", told.join(", "))
}

pub fn one_that_stays_is_named(stage: &Stage) -> String {
    let mut told = Vec::new();
    for &backend in stage.backends() {
        let mut first = Part::start(part_of(backend), stage.card());
        first.hear("held");
        let patience = Duration::from_secs(1)..Duration::from_secs(4);
        let mut attempts = 0;
        // The host may stall, but not each time.
        let (error, took) = loop {
            attempts += 1;
            let begin = Instant::now();
            let error = Device::open_by(stage.card(), Role::Compute, backend).expect_err("in use");
            let took = begin.elapsed();
            let Error::Busy { holder, .. } = &error else {
                panic!("{error}");
            };
            assert_eq!(*holder, Some(first.pid()), "{error}");
            assert!(took >= patience.start, "patience of {took:?}");
            if patience.contains(&took) || attempts == 3 {
                break (error, took);
            }
        };
        assert!(patience.contains(&took), "patience of {took:?}");
        told.push(format!("{error}, after {} ms", took.as_millis()));
    }
    told.join("; ")
}

pub fn two_cards_at_once(stage: &Stage) -> String {
    let devices: Vec<_> = stage.cards.iter().map(|card| open(card)).collect();
    assert_ne!(devices[0].info().uuid, devices[1].info().uuid);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for (device, seed) in devices.iter().zip([0x11, 0x77]) {
            scope.spawn(move || work(device, seed, 100));
        }
    });
    let took = begin.elapsed().as_millis();
    format!("100 rounds on each of two cards in {took} ms")
}

/// The other function of a card's slot.
fn neighbour(card: &str) -> String {
    format!("{}1", &card[..card.len() - 1])
}

const SERIAL: &str = "/sys/bus/pci/drivers/serial";

fn release(address: &str) {
    fs::write(format!("{SERIAL}/unbind"), address).expect("the serial port is let go");
}

fn occupy(address: &str) {
    fs::write(format!("{SERIAL}/bind"), address).expect("the serial port is taken");
}

pub fn another_driver_in_the_group(stage: &Stage) -> String {
    let card = &stage.cards[1];
    let neighbour = neighbour(card);
    assert_eq!(function(card).group(), function(&neighbour).group());
    // Nobody has it but for this story.
    occupy(&neighbour);
    assert_eq!(function(&neighbour).driver().as_deref(), Some("serial"));
    let mut told = String::new();
    for &backend in stage.backends() {
        let error = Device::open_by(card, Role::Compute, backend).expect_err("not viable");
        told = error.to_string();
        assert!(
            told.contains(&format!("{neighbour} is bound to serial")),
            "{told}"
        );
    }
    release(&neighbour);
    let device = open(card);
    work(&device, 9, 1);
    // A reset of their bus would hit the neighbour as well: refused, with its address.
    let error = device.reset(ResetLevel::Bus, 0, SOON).expect_err("refused");
    let refused = error.to_string();
    assert!(
        refused.contains(&format!("would hit {neighbour}")),
        "{refused}"
    );
    work(&device, 10, 1);
    format!("{told}; {refused}")
}
