//! Owners of a card in a slot: who comes while another has it, or has just been killed.

use std::time::{Duration, Instant};

use jalapeno::error::{Code, Error};
use jalapeno::transport::opening::Backend;

use crate::BOTH;
use crate::kernel::Manners;
use crate::machine::Machine;

#[test]
fn a_card_that_nobody_is_seen_to_hold_is_waited_for_longer_and_not_for_ever() {
    let machine = Machine::begin(Manners::default());
    let exit = Duration::from_secs(2); // with no process in sight
    for backend in BOTH {
        let first = machine.open(backend).unwrap();
        let begin = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(exit);
                drop(first);
            });
            machine.open(backend).unwrap().verify().unwrap();
        });
        assert!(begin.elapsed() >= exit, "{backend:?}");
    }
    let first = machine.open(Backend::Group).unwrap();
    let begin = Instant::now();
    match machine.open(Backend::Group).unwrap_err() {
        Error::Busy { holder, .. } => assert_eq!(holder, None),
        other => panic!("{other}"),
    }
    assert!(begin.elapsed() >= Duration::from_secs(5));
    first.verify().unwrap();
}

#[test]
fn a_second_owner_hears_of_the_first_and_an_iommufd_that_refuses_says_what_it_said() {
    let machine = Machine::begin(Manners::default());
    machine.is_held_by(77);
    for backend in BOTH {
        let first = machine.open(backend).unwrap();
        let begin = Instant::now();
        let error = machine.open(backend).unwrap_err();
        assert!(begin.elapsed() >= Duration::from_secs(1), "it is patient");
        match error {
            Error::Busy { holder, .. } => assert_eq!(holder, Some(77), "{backend:?}"),
            other => panic!("{backend:?}: {other}"),
        }
        first.verify().unwrap();
    }
    drop(machine);
    let machine = Machine::begin(Manners {
        bind_fails: Some(libc::EINVAL),
        ..Manners::default()
    });
    let error = machine.open(Backend::Cdev).unwrap_err();
    assert_eq!(error.code(), Code::Io, "nobody holds it: {error}");
    assert!(error.to_string().contains("0000:02:00.0"), "{error}");
    machine.open(Backend::Group).unwrap().verify().unwrap();
}
