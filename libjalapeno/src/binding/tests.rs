//! Bindings on played machines: there and back, refusals, and a failure at each step.

use std::cell::Cell;
use std::fs;
use std::rc::Rc;

use super::hands::Hands;
use super::played::{Kernel, Mishap};
use super::*;
use crate::pci::played::Machine;

const CARD: &str = "0000:02:00.0";
const OURS: (u16, u16) = (VENDOR, DEVICE);

fn bindings(machine: &Machine, mishap: Mishap) -> (Bindings, Rc<Cell<u32>>) {
    let calls = Rc::new(Cell::new(0));
    let hands = Kernel {
        path: machine.path.clone(),
        calls: Rc::clone(&calls),
        mishap,
        asked: Cell::new(false),
    };
    let root = machine.root.clone();
    let hands: Box<dyn Hands> = Box::new(hands);
    (Bindings { root, hands }, calls)
}

/// A machine with a card bound to `driver`, and vfio-pci to be had.
fn machine(driver: Option<&str>) -> (Machine, Function) {
    let machine = Machine::new();
    let card = machine.function(CARD, OURS, Some(7), driver);
    machine.write(
        format!("sys/bus/pci/devices/{CARD}/driver_override"),
        "(null)\n",
    );
    machine.write("sys/bus/pci/drivers_probe", "");
    machine.write("proc/sys/kernel/osrelease", "6.12.0\n");
    let modules = "kernel/drivers/vfio/pci/vfio-pci.ko.xz:\nupdates/jalapeno_vfio_pci.ko:\n";
    machine.write("lib/modules/6.12.0/modules.dep", modules);
    (machine, card)
}

/// All that binding may change.
fn state(card: &Function) -> (Option<String>, Option<String>, Vec<String>) {
    let record = |folder: &str| {
        let path = card.root().file(folder).join(&card.address);
        fs::read_to_string(path).ok()
    };
    let folders = ["run/jalapeno-bindings", "etc/jalapeno/bindings"];
    let records = folders.into_iter().filter_map(record).collect();
    (card.driver(), card.driver_override(), records)
}

fn lasting() -> Wish {
    Wish {
        persist: true,
        take: true,
        driver: None,
    }
}

#[test]
fn a_card_is_bound_and_goes_back_to_what_it_had() {
    for before in [None, Some("nvme"), Some("pci-stub")] {
        let (machine, card) = machine(before);
        if before == Some("pci-stub") {
            let file = format!("sys/bus/pci/devices/{CARD}/driver_override");
            machine.write(file, "pci-stub\n");
        }
        let was = state(&card);
        let (bindings, _) = bindings(&machine, Mishap::None);
        let plan = bindings.bind(CARD, &lasting()).unwrap();
        assert_eq!((plan.now.as_deref(), plan.persistent), (before, true));
        assert_eq!(card.driver().as_deref(), Some(VFIO_PCI));
        assert_eq!(card.driver_override().as_deref(), Some(VFIO_PCI));
        let again = bindings.bind(CARD, &lasting()).unwrap();
        assert!(again.steps.is_empty(), "twice is once: {:?}", again.steps);
        let recorded = bindings.recorded().unwrap();
        assert_eq!((&recorded[0].0[..], recorded.len()), (CARD, 1));
        let plan = bindings.unbind(CARD).unwrap();
        assert_eq!((plan.then.as_deref(), plan.persistent), (before, false));
        assert_eq!(state(&card), was, "from {before:?}");
        assert!(bindings.unbind(CARD).unwrap().steps.is_empty());
        assert!(bindings.recorded().unwrap().is_empty());
    }
}

#[test]
fn a_switch_from_one_driver_to_the_other_remembers_what_was_first() {
    let (machine, card) = machine(Some("nvme"));
    let (bindings, _) = bindings(&machine, Mishap::None);
    bindings.bind(CARD, &lasting()).unwrap();
    let shim = Wish {
        driver: Some(SHIM.into()),
        ..Wish::default()
    };
    bindings.bind(CARD, &shim).unwrap();
    assert_eq!(card.driver().as_deref(), Some(SHIM));
    // Loaded now, it is what an unspoken wish means.
    let plan = bindings.plan(CARD, &Wish::default()).unwrap();
    assert!(plan.steps.is_empty() && plan.then.as_deref() == Some(SHIM));
    bindings.unbind(CARD).unwrap();
    assert_eq!(card.driver().as_deref(), Some("nvme"));
}

#[test]
fn after_a_rescan_the_record_of_before_is_not_believed() {
    let (machine, card) = machine(Some("nvme"));
    let (bindings, _) = bindings(&machine, Mishap::None);
    bindings.bind(CARD, &lasting()).unwrap();
    // Removed and found again: no driver, no override; nvme is gone too.
    fs::remove_file(card.path().join("driver")).unwrap();
    let file = format!("sys/bus/pci/devices/{CARD}/driver_override");
    machine.write(file, "(null)\n");
    fs::remove_dir_all(machine.path.join("sys/bus/pci/drivers/nvme")).unwrap();
    bindings.bind(CARD, &Wish::default()).unwrap();
    assert_eq!(card.driver().as_deref(), Some(VFIO_PCI));
    assert_eq!(bindings.recorded().unwrap().len(), 1, "still");
    bindings.unbind(CARD).unwrap();
    assert_eq!(state(&card), (None, None, Vec::new()));
}

#[test]
fn without_a_record_the_kernel_chooses() {
    let (machine, card) = machine(Some(VFIO_PCI));
    fs::create_dir_all(machine.path.join("sys/bus/pci/drivers/nvme")).unwrap();
    let (bindings, _) = bindings(&machine, Mishap::None);
    let plan = bindings.unbind(CARD).unwrap();
    assert!(plan.chosen_by_kernel && plan.then.is_none());
    assert_eq!(card.driver().as_deref(), Some("nvme"));
    // And what is not for user space is left alone.
    assert!(bindings.unbind(CARD).unwrap().steps.is_empty());
}

#[test]
fn a_driver_that_is_no_longer_to_be_had_leaves_the_choice_to_the_kernel() {
    let (machine, card) = machine(Some("nvme"));
    let (bindings, _) = bindings(&machine, Mishap::None);
    bindings.bind(CARD, &lasting()).unwrap();
    fs::remove_dir_all(machine.path.join("sys/bus/pci/drivers/nvme")).unwrap();
    let plan = bindings.unbind(CARD).unwrap();
    assert!(plan.chosen_by_kernel);
    assert_eq!(state(&card), (None, None, Vec::new()));
}

#[test]
fn a_failure_at_each_step_leaves_all_as_it_was() {
    for before in [None, Some("nvme")] {
        let mut failed = 0;
        for n in 0.. {
            let (machine, card) = machine(before);
            let was = state(&card);
            let (bindings, calls) = bindings(&machine, Mishap::At(n));
            let Err(error) = bindings.bind(CARD, &lasting()) else {
                assert_eq!(calls.get(), n, "no call was left to fail");
                break;
            };
            failed += 1;
            let text = error.to_string();
            assert_eq!(error.code(), Code::Io, "{text}");
            assert!(text.contains("Invalid argument"), "{text}");
            assert!(
                text.contains("as it was") || text.contains("nothing was changed"),
                "{text}"
            );
            assert!(error.hint().is_some(), "{text}");
            assert_eq!(state(&card), was, "step {n}: {text}");
        }
        // Lasting record, module, record, driver where there was one, override, driver.
        assert_eq!(failed, if before.is_some() { 6 } else { 5 });
    }
}

#[test]
fn a_failure_at_each_step_of_the_way_back_leaves_the_card_bound() {
    for before in [None, Some("nvme")] {
        let mut failed = 0;
        for n in 0.. {
            let (machine, card) = machine(before);
            let whole = bindings(&machine, Mishap::None).0;
            whole.bind(CARD, &lasting()).unwrap();
            let was = state(&card);
            let (bindings, _) = bindings(&machine, Mishap::At(n));
            let Err(error) = bindings.unbind(CARD) else {
                break;
            };
            failed += 1;
            assert_eq!(state(&card), was, "step {n}: {error}");
            assert!(error.hint().is_some());
        }
        assert_eq!(failed, if before.is_some() { 5 } else { 4 });
    }
}

#[test]
fn what_cannot_be_undone_is_said() {
    let (machine, _) = machine(Some("nvme"));
    // Records, module and release succeed; the override fails, and so does all that undoes.
    let (bindings, _) = bindings(&machine, Mishap::From(4));
    let text = bindings.bind(CARD, &lasting()).unwrap_err().to_string();
    assert!(
        text.contains("driver_override: Input/output error"),
        "{text}"
    );
    assert!(text.contains("NOT undone: echo 0000:02:00.0 > "), "{text}");
    assert!(
        text.contains("drivers/nvme/bind") && text.contains("rm -f"),
        "{text}"
    );
}

#[test]
fn a_card_that_vanishes_at_any_step_is_an_error_in_words() {
    for n in 0..6 {
        let (machine, card) = machine(Some("nvme"));
        let (bindings, _) = bindings(&machine, Mishap::Gone(n));
        let error = bindings.bind(CARD, &lasting()).unwrap_err();
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains("is gone"), "{n}: {error}: {hint}");
        assert!(!card.is_there());
    }
}

#[test]
fn a_driver_that_says_yes_and_takes_no_card_has_failed() {
    let (machine, card) = machine(Some("nvme"));
    let was = state(&card);
    let (bindings, _) = bindings(&machine, Mishap::Idle);
    let error = bindings.bind(CARD, &lasting()).unwrap_err();
    assert!(error.to_string().contains("no driver is bound"), "{error}");
    assert!(error.hint().unwrap().contains("dmesg"));
    assert_eq!(state(&card), was);
}

#[test]
fn a_card_that_no_driver_may_have_yet_is_bound_a_moment_later() {
    // By us, or by the kernel: before it looks for a driver, or while we ask.
    for early in [
        Mishap::Early(libc::ENODEV, false),
        Mishap::Early(libc::ENODEV, true),
        Mishap::Early(libc::EBUSY, true),
    ] {
        let (machine, card) = machine(None);
        let (bindings, _) = bindings(&machine, early);
        bindings.bind(CARD, &lasting()).unwrap();
        let (driver, only, records) = state(&card);
        assert_eq!(
            (driver.as_deref(), only.as_deref()),
            (Some(VFIO_PCI), Some(VFIO_PCI))
        );
        assert_eq!(records.len(), 2);
        bindings.unbind(CARD).unwrap();
        assert_eq!(state(&card), (None, None, Vec::new()));
    }
}

#[test]
fn a_driver_that_says_busy_is_not_asked_again() {
    let (machine, card) = machine(None);
    let was = state(&card);
    let (bindings, _) = bindings(&machine, Mishap::Early(libc::EBUSY, false));
    let error = bindings.bind(CARD, &lasting()).unwrap_err();
    assert!(error.to_string().contains("busy"), "{error}");
    assert_eq!(state(&card), was);
}

#[test]
fn a_driver_that_does_not_take_the_card_is_asked_for_a_second_and_then_named() {
    let (machine, card) = machine(None);
    let was = state(&card);
    let (bindings, _) = bindings(&machine, Mishap::None);
    machine.write("sys/bus/pci/drivers/vfio-pci/x", "");
    // The played kernel gives no card away that is bound, or whose override names another.
    let step = step::Step {
        function: card.clone(),
        action: step::Action::Attach("vfio-pci".into()),
    };
    let begin = std::time::Instant::now();
    let failure = step.perform(bindings.hands.as_ref()).unwrap_err();
    assert_eq!(failure.source.raw_os_error(), Some(libc::ENODEV));
    assert!(
        failure.hint.contains("does not take this card"),
        "{}",
        failure.hint
    );
    let took = begin.elapsed();
    assert!((1..10).contains(&took.as_secs()), "{took:?}");
    assert_eq!(state(&card), was);
}

#[test]
fn a_write_that_never_comes_home_is_a_timeout_and_nothing_is_piled_on_it() {
    let (machine, _) = machine(Some(VFIO_PCI));
    let (bindings, calls) = bindings(&machine, Mishap::Stuck(0));
    let error = bindings.unbind(CARD).unwrap_err();
    assert_eq!(error.code(), Code::Timeout);
    assert!(error.hint().unwrap().contains("jalctl ps"), "{error}");
    assert_eq!(calls.get(), 1);
}

#[test]
fn who_holds_the_card_is_named_and_keeps_it() {
    let (machine, card) = machine(Some(VFIO_PCI));
    machine.process(41, &machine.path.join("dev/vfio/7"));
    machine.process(9, &machine.path.join("dev/vfio/7"));
    machine.write("proc/41/comm", "generate\n");
    let (bindings, calls) = bindings(&machine, Mishap::None);
    let shim = Wish {
        driver: Some(SHIM.into()),
        ..Wish::default()
    };
    for error in [
        bindings.unbind(CARD).unwrap_err(),
        bindings.bind(CARD, &shim).unwrap_err(),
    ] {
        assert_eq!(error.code(), Code::Busy);
        let text = error.to_string();
        assert!(text.ends_with("process 9, process 41 (generate)"), "{text}");
    }
    assert_eq!((calls.get(), card.driver().as_deref()), (0, Some(VFIO_PCI)));
}

#[test]
fn what_keeps_a_card_from_user_space_is_said_before_anything_is_done() {
    let why = |bindings: &Bindings, wish: &Wish| {
        let error = bindings.bind(CARD, wish).unwrap_err();
        (
            error.code(),
            format!("{error} | {}", error.hint().unwrap_or_default()),
        )
    };
    let (played, card) = machine(None);
    let (desk, calls) = bindings(&played, Mishap::None);
    // Another member of the group.
    let other = (0x8086, 2);
    played.function("0000:02:00.1", other, Some(7), Some("snd_hda_intel"));
    played.function("0000:02:00.2", other, Some(7), Some("e1000e"));
    let (code, text) = why(&desk, &lasting());
    assert_eq!(code, Code::Unsupported);
    assert!(text.contains("IOMMU group 7 with 0000:02:00.1 (bound to snd_hda_intel), 0000:02:00.2 (bound to e1000e)"), "{text}");
    assert_eq!(state(&card), (None, None, Vec::new()));
    // Not ours, not there, no address, no ids.
    for (address, code, words) in [
        (
            "0000:02:00.1",
            Code::Unsupported,
            "is no Jalapeño card: its ids are 8086:0002, not a1a0:0001",
        ),
        (
            "0000:09:00.0",
            Code::NotFound,
            "no PCI function has this address",
        ),
        (
            "vfio-user:/tmp/card",
            Code::Unsupported,
            "is not on the PCI bus",
        ),
        ("../../etc", Code::Unsupported, "is not on the PCI bus"),
    ] {
        for error in [
            desk.bind(address, &lasting()).unwrap_err(),
            desk.unbind(address).unwrap_err(),
        ] {
            assert_eq!(error.code(), code, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }
    // Another driver has it, and may have it for a reason.
    let (played, _) = machine(Some("nvme"));
    let (desk, _) = bindings(&played, Mishap::None);
    let (_, text) = why(&desk, &Wish::default());
    assert!(
        text.contains("is bound to nvme") && text.contains("--yes"),
        "{text}"
    );
    // No IOMMU.
    let played = Machine::new();
    played.function(CARD, OURS, None, None);
    let (desk, _) = bindings(&played, Mishap::None);
    let (_, text) = why(&desk, &Wish::default());
    assert!(
        text.contains("no IOMMU group") && text.contains("intel_iommu=on"),
        "{text}"
    );
    // No such driver, in the kernel or at all.
    let (played, _) = machine(None);
    played.write("lib/modules/6.12.0/modules.dep", "kernel/fs/ext4.ko:\n");
    let (desk, _) = bindings(&played, Mishap::None);
    let (code, text) = why(&desk, &Wish::default());
    assert_eq!(code, Code::Unsupported);
    assert!(
        text.contains("this kernel has no driver vfio-pci"),
        "{text}"
    );
    let wish = Wish {
        driver: Some("nvme".into()),
        ..Wish::default()
    };
    assert_eq!(why(&desk, &wish).0, Code::Invalid);
    assert_eq!(calls.get(), 0);
}

#[test]
fn a_card_that_vanishes_while_it_is_looked_at_is_no_panic() {
    let (machine, card) = machine(Some(VFIO_PCI));
    let (desk, _) = bindings(&machine, Mishap::None);
    fs::remove_file(card.path().join("vendor")).unwrap();
    let error = desk.bind(CARD, &lasting()).unwrap_err();
    assert!(error.to_string().contains("may be going away"), "{error}");
    assert_eq!(error.code(), Code::NotFound);
}

#[test]
fn records_that_are_no_records_and_cards_that_are_away() {
    let (machine, card) = machine(None);
    let (desk, _) = bindings(&machine, Mishap::None);
    desk.bind(CARD, &lasting()).unwrap();
    let lasting_file = machine.path.join("etc/jalapeno/bindings").join(CARD);
    let passing = machine.path.join("run/jalapeno-bindings").join(CARD);
    machine.write(
        "etc/jalapeno/bindings/README",
        "not an address, not a record",
    );
    machine.write("etc/jalapeno/bindings/0000:05:00.0", "driver=../x\n");
    let error = desk.recorded().unwrap_err();
    assert!(error.to_string().contains("it is no record"), "{error}");
    assert!(error.hint().unwrap().contains("0000:05:00.0"));
    // What it had before cannot be known: said, not guessed.
    fs::write(&passing, "nonsense").unwrap();
    assert_eq!(desk.unbind(CARD).unwrap_err().code(), Code::Io);
    assert_eq!(card.driver().as_deref(), Some(VFIO_PCI));
    // A card that is away is forgotten.
    fs::remove_dir_all(card.path()).unwrap();
    desk.unbind(CARD).unwrap();
    assert!(!lasting_file.exists() && !passing.exists());
    assert_eq!(desk.unbind(CARD).unwrap_err().code(), Code::NotFound);
}

#[test]
fn a_plan_reads_as_the_commands_that_do_the_same() {
    let (machine, card) = machine(Some("nvme"));
    let was = state(&card);
    let (desk, calls) = bindings(&machine, Mishap::None);
    let plan = desk.plan(CARD, &lasting()).unwrap();
    let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
    let here = machine.path.display();
    assert_eq!(
        steps,
        [
            format!("record it in {here}/etc/jalapeno/bindings/{CARD}"),
            "modprobe vfio-pci".to_owned(),
            format!("record it in {here}/run/jalapeno-bindings/{CARD}"),
            format!("echo {CARD} > {here}/sys/bus/pci/drivers/nvme/unbind"),
            format!("echo vfio-pci > {here}/sys/bus/pci/devices/{CARD}/driver_override"),
            format!("echo {CARD} > {here}/sys/bus/pci/drivers/vfio-pci/bind"),
        ]
    );
    assert_eq!((state(&card), calls.get()), (was, 0));
}
