//! Opening: who the card is, who may have it, and what a name that leads nowhere says.

use std::time::{Duration, Instant};

use jalapeno::device::{Device, Role};
use jalapeno::error::{Code, Error};
use jalapeno_hw::reg::Access;
use jalapeno_hw::regs::{BAR0, Platform};
use jalapeno_tests::{SOON, board, board_with, name, open, stage};

/// Tries until it works: an owner that left is let go of within a second.
fn open_soon(board: &jalapeno_emulator::board::Board) -> std::sync::Arc<Device> {
    let begin = Instant::now();
    loop {
        match open(board, Role::Compute) {
            Err(Error::Busy { .. }) if begin.elapsed() < SOON => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other.unwrap(),
        }
    }
}

#[test]
fn an_opened_card_says_who_it_is() {
    let board = board_with(|options| options.uuid = Some([0xA5; 16]));
    let device = open(&board, Role::Compute).unwrap();
    let info = device.info();
    assert_eq!(info.name, name(&board));
    assert_eq!(info.backend, "vfio-user");
    assert_eq!(info.platform, Ok(Platform::Emulator));
    assert_eq!(info.uuid.0, [0xA5; 16]);
    assert_eq!(info.version, (1, 0));
    assert_eq!(info.capabilities.memory.hbm_bytes, 64 << 20);
    assert_eq!(info.features & 1, 1, "ARM was accepted");
    assert!(info.vectors > 1);
    device.verify().unwrap();
}

#[test]
fn a_second_owner_is_told_who_holds_the_card_and_the_next_one_gets_it() {
    let board = board();
    let first = open(&board, Role::Compute).unwrap();
    match open(&board, Role::Compute).unwrap_err() {
        Error::Busy { holder, .. } => assert_eq!(holder, Some(std::process::id())),
        other => panic!("{other}"),
    }
    drop(first);
    open_soon(&board).verify().unwrap();
}

#[test]
fn observers_watch_beside_an_owner_and_touch_nothing() {
    let board = board();
    let owner = open(&board, Role::Compute).unwrap();
    let watchers: Vec<_> = (0..3)
        .map(|_| open(&board, Role::Observe).unwrap())
        .collect();
    for watcher in &watchers {
        assert_eq!(watcher.info().uuid, owner.info().uuid);
        assert_eq!(watcher.dma().unwrap_err().code(), Code::Unsupported);
        assert_eq!(watcher.hbm().unwrap_err().code(), Code::Unsupported);
        assert_eq!(watcher.doorbell(0).unwrap_err().code(), Code::Unsupported);
        let reset = watcher.reset(jalapeno_hw::regs::ResetLevel::Device, 0, SOON);
        assert_eq!(reset.unwrap_err().code(), Code::Unsupported);
    }
    owner.verify().unwrap();
}

#[test]
fn an_exclusive_owner_is_alone() {
    let board = board();
    let _owner = open(&board, Role::Exclusive).unwrap();
    assert_eq!(open(&board, Role::Observe).unwrap_err().code(), Code::Busy);
}

#[test]
fn every_register_can_be_dumped_and_write_only_ones_have_no_value() {
    let dump = stage().observer().dump().unwrap();
    assert_eq!(dump.len(), BAR0.len());
    for (row, value) in &dump {
        assert_eq!(value.is_none(), row.access == Access::Wo, "{}", row.name);
    }
    assert_eq!(dump[0].1, Some(0x504C_414A));
}

#[test]
fn a_name_that_leads_nowhere_says_why_and_what_to_do() {
    for (name, text) in [
        ("vfio-user:/nonexistent/socket", "there is no such socket"),
        ("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", "has this UUID"),
        ("ffff:fe:1d.7", "no PCI function has this address"),
        ("card0", "neither a UUID"),
    ] {
        let error = Device::open(name, Role::Compute).unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{name}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.hint().unwrap().contains("jalctl list"));
    }
}

#[test]
fn a_card_that_dies_is_lost_to_all_who_have_it_open() {
    let board = board();
    let owner = open(&board, Role::Compute).unwrap();
    let watcher = open(&board, Role::Observe).unwrap();
    let gone = owner.transport().lost_fd().unwrap();
    let memory = jalapeno::dma::HostMemory::allocate(
        owner.dma().unwrap(),
        4096,
        jalapeno::dma::HostOptions::default(),
    )
    .unwrap();
    drop(board);
    let mut fds = [nix::poll::PollFd::new(
        std::os::fd::AsFd::as_fd(&gone),
        nix::poll::PollFlags::POLLIN,
    )];
    assert_eq!(
        nix::poll::poll(&mut fds, 5000_u16),
        Ok(1),
        "whoever sleeps wakes"
    );
    for device in [&owner, &watcher] {
        assert_eq!(device.check().unwrap_err().code(), Code::Lost);
        assert_eq!(device.verify().unwrap_err().code(), Code::Lost);
    }
    drop(memory); // nothing to unmap any more, nothing to wait for
}

#[test]
fn a_child_of_fork_is_refused_and_its_parent_unharmed() {
    let board = board();
    let device = open(&board, Role::Compute).unwrap();
    let memory = jalapeno::dma::HostMemory::allocate(
        device.dma().unwrap(),
        4096,
        jalapeno::dma::HostOptions::default(),
    )
    .unwrap();
    // SAFETY: the child calls the library, drops what it inherited, and leaves by _exit.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let forked = |code: jalapeno::Result<()>| matches!(code, Err(Error::Forked));
            let all = forked(device.check())
                && forked(device.clock().map(drop))
                && forked(device.dma().map(drop))
                && forked(memory.read(0, &mut [0; 8]))
                && forked(device.transport().reset());
            drop(memory);
            drop(device);
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(i32::from(!all)) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
        }
    }
    device.verify().unwrap();
    memory.write(0, &[7; 8]).unwrap();
    assert_eq!(board.counters().regions, 1, "the child unmapped nothing");
}

#[test]
fn opening_and_closing_leaves_nothing_behind() {
    let board = board();
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    // The board runs in this process and lets go a moment after the library did.
    let settled = || {
        let begin = Instant::now();
        while board.counters().connections > 0 && begin.elapsed() < SOON {
            std::thread::sleep(Duration::from_millis(1));
        }
        (board.counters().regions, board.counters().connections)
    };
    drop(open(&board, Role::Compute).unwrap());
    assert_eq!(settled(), (0, 0));
    let before = fds();
    for _ in 0..20 {
        drop(open_soon(&board));
    }
    assert_eq!(settled(), (0, 0));
    // Other tests of this process open descriptors meanwhile, but not 20 x 65 of them.
    assert!(
        fds() < before + 400,
        "{} descriptors, {before} before",
        fds()
    );
}
