//! The transports to a real kernel, without one: VFIO is played in this process, with an emulated
//! card behind it, so that the kernel can refuse at any call and say anything.

mod calls;
mod card;
mod kernel;
mod machine;
mod owners;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jalapeno::error::{Code, Error, Result};
use jalapeno::transport::opening::Backend;
use jalapeno::{HostOptions, QueueOptions, Session};
use jalapeno_hw::regs::ResetLevel;
use jalapeno_tests::SOON;
use jalapeno_tests::packet::{copy, nop, wait};

use kernel::Manners;
use machine::Machine;

const BOTH: [Backend; 2] = [Backend::Group, Backend::Cdev];

/// All that a client does: opens, copies there and home by interrupt, resets, closes.
fn life(machine: &Machine, backend: Backend) -> Result<()> {
    let device = machine.open(backend)?;
    there_and_home(&Session::new(&device)?)?;
    device.reset(ResetLevel::Function, 0, SOON)?;
    device.verify()
}

/// A session's life: something goes there and home.
fn there_and_home(session: &Session) -> Result<()> {
    let home = session.host_memory(8192, HostOptions::default())?;
    let hbm = session.device_memory(4096)?;
    let mut queue = session.queue(QueueOptions::default())?;
    let text = b"there and home";
    home.memory().write(0, text)?;
    let seq = queue.submit(&[
        copy(home.address(), hbm.address(), 64),
        copy(hbm.address(), home.address() + 4096, 64),
    ])?;
    queue.completions().wait(seq, Some(SOON))?;
    let mut read = [0; 14];
    home.memory().read(4096, &mut read)?;
    assert_eq!(&read, text);
    Ok(())
}

/// A life with more buffers than a container has mappings.
fn crowded_life(machine: &Machine, backend: Backend) -> Result<()> {
    let device = machine.open(backend)?;
    let session = Session::new(&device)?;
    let mut queue = session.queue(QueueOptions::default())?;
    let small = (0..40).map(|_| 5000);
    let mut buffers = small
        .chain([2 << 20; 4])
        .map(|bytes| session.host_memory(bytes, HostOptions::default()))
        .collect::<Result<Vec<_>>>()?;
    let (usage, card) = (session.device().dma()?.usage(), kernel::current());
    assert!(usage.arenas == 2 && usage.coalesced > 40, "{usage:?}");
    assert_eq!(card.map(|card| card.mapped() as usize), Some(usage.maps));
    for (number, buffer) in (0u8..).zip(&buffers) {
        buffer.memory().write(0, &[number; 5000])?;
    }
    // From each to the next, the last one first.
    for pair in buffers.windows(2).rev() {
        let seq = queue.submit_one(&copy(pair[0].address(), pair[1].address(), 5000))?;
        queue.completions().wait(seq, Some(SOON))?;
    }
    for (number, buffer) in (0u8..).zip(&buffers) {
        let mut read = [0; 5000];
        buffer.memory().read(0, &mut read)?;
        assert_eq!(read, [number.saturating_sub(1); 5000], "buffer {number}");
    }
    while buffers.len() > 1 {
        drop(buffers.swap_remove(buffers.len() / 2));
    }
    Ok(())
}

/// A container that has few mappings, and says so.
fn few_entries() -> Manners {
    Manners {
        entries: Some(12),
        ..Manners::default()
    }
}

#[test]
fn a_whole_life_goes_by_either_backend() {
    let machine = Machine::begin(Manners::default());
    for (backend, name) in BOTH.into_iter().zip(["vfio-group", "vfio-cdev"]) {
        assert_eq!(machine.open(backend).unwrap().info().backend, name);
        life(&machine, backend).unwrap();
        machine.nothing_is_left(name);
    }
    let chosen = machine.open(Backend::Auto).unwrap();
    assert_eq!(chosen.info().backend, "vfio-cdev", "it can, so it does");
    assert!(chosen.info().vectors > 1);
}

#[test]
fn whichever_call_fails_is_one_error_and_leaves_nothing() {
    let machine = Machine::begin(Manners::default());
    for backend in BOTH {
        each_call_fails(&machine, backend, life);
    }
}

#[test]
fn buffers_beyond_what_a_container_has_mappings_for_share_some_whichever_call_fails() {
    let machine = Machine::begin(few_entries());
    each_call_fails(&machine, Backend::Group, crowded_life);
}

#[test]
fn what_a_container_refuses_for_want_of_mappings_is_told_before_it_is_asked() {
    let machine = Machine::begin(few_entries());
    let device = machine.open(Backend::Group).unwrap();
    let dma = device.dma().unwrap();
    assert_eq!(dma.usage().maps_limit, 12);
    dma.fits(100, 64 << 10).unwrap();
    let error = dma.fits(13, 4 << 20).unwrap_err();
    assert!(
        error.to_string().contains("where 12 more can be"),
        "{error}"
    );
    let hint = error.hint().unwrap();
    assert!(hint.contains("dma_entry_limit=13"), "{hint}");
}

/// Every call of a life fails once; what is left is what there was, but memory that was not unmapped.
fn each_call_fails(machine: &Machine, backend: Backend, life: fn(&Machine, Backend) -> Result<()>) {
    kernel::fail(0);
    life(machine, backend).unwrap();
    let all = kernel::calls();
    assert!(all > 25, "{all} calls in a life by {backend:?}");
    machine.nothing_is_left("a good life");
    let mut settled = machine.held();
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(2));
        settled = settled.min(machine.held());
    }
    machine.holds_again(settled, "a good life");
    let (mut refused, mut unnoticed, mut kept) = (0, 0, 0);
    for number in 1..=all {
        let before = machine.held();
        kernel::fail(number);
        let outcome = life(machine, backend);
        let to_unmap = kernel::failed_to_unmap();
        kernel::fail(0);
        match outcome {
            // What only lets go, or is asked for information, may fail unnoticed.
            Ok(()) => unnoticed += 1,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert_ne!(error.code(), Code::Internal, "call {number}: {error}");
                refused += 1;
            }
        }
        machine.card_is_free(&format!("call {number} of {all} by {backend:?}"));
        let before = match to_unmap {
            // The device may still reach that memory: never given to anybody again.
            true => {
                kept += 1;
                (before.0, before.1 + 1)
            }
            false => before,
        };
        machine.holds_again(before, &format!("call {number} of {all} by {backend:?}"));
    }
    assert!(refused * 2 > all, "{refused} of {all} by {backend:?}");
    assert!(kept > 0, "no call unmapped memory");
    life(machine, backend).expect("after all that");
    println!(
        "= calls of a life by {backend:?}: {all}; made to fail one by one: {refused} errors, \
         {unnoticed} unnoticed, {kept} of them unmaps whose memory is kept"
    );
}

#[test]
fn fewer_vectors_than_asked_serve_and_so_does_one() {
    let hosts = [(5, true), (5, false), (1, true), (1, false)];
    let hosts = hosts.map(|host| [(host, true), (host, false)]);
    for ((to_be_had, says_how_many), cannot_add) in hosts.into_iter().flatten() {
        let machine = Machine::begin(Manners {
            to_be_had,
            says_how_many,
            cannot_add,
            ..Manners::default()
        });
        for backend in BOTH {
            let device = machine.open(backend).unwrap();
            let vectors = device.info().vectors;
            let known = cannot_add || to_be_had == 1;
            assert!((1..=to_be_had).contains(&vectors) == known, "{vectors}");
            if known && says_how_many {
                assert_eq!(vectors, to_be_had);
            }
            let session = Session::new(&device).unwrap();
            let options = QueueOptions::default;
            let mut queues: Vec<_> = (0..8).map(|_| session.queue(options()).unwrap()).collect();
            for number in 1..9 {
                let used = device
                    .vectors()
                    .unwrap()
                    .for_queue(number)
                    .unwrap()
                    .unwrap();
                assert!(used.number() < to_be_had, "{}", used.number());
            }
            let gate = session.fence(0).unwrap();
            for (value, queue) in (1..).zip(&mut queues) {
                let seq = queue.submit_one(&wait(gate.address(), value)).unwrap();
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        std::thread::sleep(Duration::from_millis(3));
                        gate.signal(value).unwrap();
                    });
                    queue.completions().wait(seq, Some(SOON)).unwrap();
                });
            }
            drop((queues, gate, session, device));
            life(&machine, backend).unwrap();
            machine.nothing_is_left("with few vectors");
        }
    }
}

#[test]
fn a_reset_serves_with_the_vectors_that_are_left_and_says_so_where_none_is() {
    for cannot_add in [false, true] {
        let machine = Machine::begin(Manners {
            cannot_add,
            ..Manners::default()
        });
        for backend in BOTH {
            kernel::gives(33);
            let device = machine.open(backend).unwrap();
            let session = Session::new(&device).unwrap();
            let options = QueueOptions::default;
            let queues: Vec<_> = (0..4).map(|_| session.queue(options()).unwrap()).collect();
            let vectors = device.vectors().unwrap();
            assert_eq!(vectors.for_queue(4).unwrap().unwrap().number(), 5);
            drop((queues, session));
            kernel::gives(2);
            device.reset(ResetLevel::Function, 0, SOON).unwrap();
            let used = |queue| vectors.for_queue(queue).unwrap().unwrap().number();
            assert_eq!([0, 1, 2, 3, 4].map(used), [1; 5]);
            there_and_home(&Session::new(&device).unwrap()).unwrap();
            kernel::gives(0);
            let before = device.generation();
            let error = device.reset(ResetLevel::Function, 0, SOON).unwrap_err();
            assert_eq!(error.code(), Code::Io, "{error}");
            assert!(error.hint().unwrap().contains("/proc/interrupts"));
            assert!(device.generation() > before, "what was before is over");
            kernel::gives(33);
            device.reset(ResetLevel::Function, 0, SOON).unwrap();
            assert!(device.events().unwrap().is_some());
            there_and_home(&Session::new(&device).unwrap()).unwrap();
            drop(device);
            machine.nothing_is_left("resets with few vectors");
        }
    }
}

#[test]
fn a_host_without_one_interrupt_is_told_what_to_do() {
    let hosts = [(0, 33, false), (33, 0, true), (33, 0, false)];
    for (to_be_had, to_be_given, says_how_many) in hosts {
        for cannot_add in [false, true] {
            let machine = Machine::begin(Manners {
                to_be_had,
                to_be_given,
                says_how_many,
                cannot_add,
                ..Manners::default()
            });
            for backend in BOTH {
                let error = machine.open(backend).unwrap_err();
                assert_eq!(error.code(), Code::Io, "{error}");
                let hint = error.hint().unwrap_or_default();
                assert!(hint.contains("/proc/interrupts"), "{error}: {hint}");
                machine.nothing_is_left("no vectors");
            }
        }
    }
}

#[test]
fn a_kernel_that_cannot_add_vectors_is_asked_for_all_at_once() {
    let machine = Machine::begin(Manners {
        cannot_add: true,
        ..Manners::default()
    });
    for backend in BOTH {
        let device = machine.open(backend).unwrap();
        let vectors = device.vectors().unwrap();
        assert!(vectors.count() > 1);
        for number in (0..vectors.count()).rev() {
            vectors.get(number).unwrap();
        }
        drop(device);
        life(&machine, backend).unwrap();
    }
}

#[test]
fn a_card_that_is_not_what_it_should_be_is_refused_in_words_by_either_backend() {
    let short = Manners {
        bar0: 4096,
        ..Manners::default()
    };
    let absent = Manners {
        bar0: 0,
        ..Manners::default()
    };
    let loops = Manners {
        loops: true,
        ..Manners::default()
    };
    let foreign = Manners {
        ids: Some([0x86, 0x80, 1, 0]),
        ..Manners::default()
    };
    for (manners, words) in [
        (short, "BAR0 has 4096 bytes"),
        (absent, "BAR0 has 0 bytes"),
        (loops, "capabilities that loop"),
        (foreign, "its PCI ids are 8086:0001"),
    ] {
        let machine = Machine::begin(manners);
        for backend in BOTH {
            let error = machine.open(backend).unwrap_err().to_string();
            assert!(error.contains(words), "{backend:?}: {error}");
            machine.nothing_is_left(words);
        }
    }
}

#[test]
fn doorbells_of_pages_that_cannot_be_mapped_are_written_by_the_kernel() {
    let machine = Machine::begin(Manners {
        sparse: true,
        ..Manners::default()
    });
    for backend in BOTH {
        let device = machine.open(backend).unwrap();
        let card = kernel::current().unwrap();
        let areas = &device.transport().describe().mappable[2];
        let areas: Vec<_> = areas.iter().map(|area| (area.offset, area.bytes)).collect();
        assert_eq!(areas, [(0, 4096), (8192, 4096)]);
        let session = Session::new(&device).unwrap();
        let mut queues = [(); 3].map(|()| session.queue(QueueOptions::default()).unwrap());
        for queue in &mut queues {
            let before = card.relayed();
            let seq = queue.submit_one(&nop(1)).unwrap();
            queue.completions().wait(seq, Some(SOON)).unwrap();
            // Queue n rings and arms in page n: pages 0 and 2 are mapped.
            let number = queue.number();
            assert_eq!(card.relayed() > before, number != 2, "queue {number}");
        }
        drop((queues, session, card, device));
        machine.nothing_is_left("a sparse BAR");
    }
}

#[test]
fn ids_that_sysfs_has_wrong_stop_before_any_call() {
    let machine = Machine::begin(Manners::default());
    machine.write("sys/bus/pci/devices/0000:02:00.0/device", "0x1539\n");
    for backend in BOTH {
        kernel::fail(0);
        let error = machine.open(backend).unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{error}");
        assert!(error.to_string().contains("a1a0:1539"), "{error}");
        assert_eq!(
            kernel::calls(),
            0,
            "nothing was opened, so nothing was reset"
        );
    }
}

#[test]
fn a_bus_reset_waits_for_readers_and_not_for_ever() {
    let machine = Machine::begin(Manners {
        busy_resets: 5,
        ..Manners::default()
    });
    let device = machine.open(Backend::Group).unwrap();
    device.reset(ResetLevel::Bus, 0, SOON).unwrap();
    device.verify().unwrap();
    drop(device);
    drop(machine);
    let machine = Machine::begin(Manners {
        busy_resets: u32::MAX,
        ..Manners::default()
    });
    let device = machine.open(Backend::Group).unwrap();
    let begin = Instant::now();
    let error = device.reset(ResetLevel::Bus, 0, SOON).unwrap_err();
    assert_eq!(error.code(), Code::Io, "{error}");
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(1) && took < SOON, "{took:?}");
}

#[test]
fn a_host_that_wants_the_card_back_wakes_sleepers_and_gets_it_by_the_deadline() {
    let machine = Machine::begin(Manners::default());
    for backend in BOTH {
        let device = machine.open(backend).unwrap();
        let session = Session::new(&device).unwrap();
        let gate = session.fence(0).unwrap();
        let mut queue = session.queue(QueueOptions::default()).unwrap();
        let seq = queue.submit_one(&wait(gate.address(), 1)).unwrap();
        let completions = queue.completions().clone();
        let card = kernel::current().expect("it is open");
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| completions.wait(seq, None));
            std::thread::sleep(Duration::from_millis(50));
            card.tell(4);
            let error = sleeper.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Wanted), "{error}");
        });
        drop(card);
        assert!(device.is_wanted_back());
        let begin = Instant::now();
        let returned = device.retire(Duration::from_secs(1)).unwrap();
        drop((completions, queue, gate, session, device));
        returned.wait().unwrap();
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        machine.nothing_is_left("given back");
    }
}

#[test]
fn an_error_of_the_link_loses_the_card_and_keeps_bus_mastering_from_it() {
    let machine = Machine::begin(Manners::default());
    let device = machine.open(Backend::Group).unwrap();
    let transport = Arc::clone(device.transport());
    let card = kernel::current().expect("it is open");
    card.tell(3);
    assert_eq!(device.check().unwrap_err().code(), Code::Lost);
    drop(device);
    let mut command = [0; 2];
    transport
        .read(jalapeno::transport::CONFIG_REGION, 4, &mut command)
        .unwrap();
    assert_eq!(command[0] & 4, 0, "the card is there, and masters no bus");
}
