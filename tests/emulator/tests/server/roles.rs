//! One owner and any number of observers.

use std::time::{Duration, Instant};

use crate::peer::*;

/// Asks who is connected, and for nothing else.
const WHO: &str = r#"{"capabilities":{"jalapeno":{"role":"none"}}}"#;

fn owner_pid(peer: &mut Peer, json: &str) -> serde_json::Value {
    told(peer, json)["owner_pid"].clone()
}

/// What the server says of its clients.
fn told(peer: &mut Peer, json: &str) -> serde_json::Value {
    let reply = peer.ask(VERSION, &hello(0, 1, json));
    assert_eq!(reply.errno(), 0);
    let text = reply.body[4..].strip_suffix(&[0]).unwrap();
    let value: serde_json::Value = serde_json::from_slice(text).unwrap();
    value["capabilities"]["jalapeno"].clone()
}

#[test]
fn a_second_owner_is_busy_and_an_observer_learns_who_the_first_is() {
    let board = board();
    let mut owner = Peer::owner(board.path());
    for json in [HELLO, ALONE, ""] {
        let mut second = Peer::connect(board.path());
        assert_eq!(second.ask(VERSION, &hello(0, 1, json)).errno(), EBUSY);
        second.assert_dropped("a refused greeting ends the connection");
    }
    let mut observer = Peer::connect(board.path());
    assert_eq!(owner_pid(&mut observer, WATCH), std::process::id());
    owner.assert_in_step();
    drop(owner);
    let mut next = Peer::next_owner(board.path());
    next.assert_in_step();
    observer.assert_in_step();
}

#[test]
fn who_asks_is_told_of_each_observer_until_it_goes() {
    let board = board();
    let ask = || {
        let told = told(&mut Peer::connect(board.path()), WHO);
        told["observer_pids"].as_array().unwrap().clone()
    };
    assert_eq!(ask(), [0; 0]);
    let pid = std::process::id();
    let (first, _second) = (Peer::observer(board.path()), Peer::observer(board.path()));
    assert_eq!(ask(), [pid, pid]);
    drop(first);
    let end = Instant::now() + Duration::from_secs(60);
    while ask() != [pid] {
        assert!(Instant::now() < end, "{:?} are still counted", ask());
    }
}

#[test]
fn who_wants_to_be_alone_is_refused_while_somebody_watches_and_refuses_watchers() {
    let board = board();
    let observer = Peer::observer(board.path());
    let mut alone = Peer::connect(board.path());
    assert_eq!(alone.ask(VERSION, &hello(0, 1, ALONE)).errno(), EBUSY);
    drop(observer);
    let end = Instant::now() + Duration::from_secs(60);
    let mut alone = loop {
        let mut alone = Peer::connect(board.path());
        if alone.ask(VERSION, &hello(0, 1, ALONE)).errno() == 0 {
            break alone;
        }
        assert!(Instant::now() < end, "the observer is still counted");
    };
    let mut observer = Peer::connect(board.path());
    assert_eq!(observer.ask(VERSION, &hello(0, 1, WATCH)).errno(), EBUSY);
    alone.assert_in_step();
}

#[test]
fn an_observer_sees_the_owner_at_work_and_changes_nothing() {
    let board = board();
    let mut owner = Peer::owner(board.path());
    let mut observer = Peer::observer(board.path());
    owner.write(BAR4, 0x1000, b"the owner works");
    owner.write(CONFIG, 4, &[4, 0]);
    owner.write(BAR0, 0x100, &0x1234_5678_9000u64.to_le_bytes());
    assert_eq!(observer.read(CONFIG, 4, 2), [4, 0]);
    assert_eq!(
        observer.read(BAR0, 0x100, 8),
        0x1234_5678_9000u64.to_le_bytes()
    );
    assert_eq!(observer.read(BAR0, 0x1_0000, 4), b"JTEL");
    for region in [BAR2, BAR4] {
        let secret = observer.ask(REGION_READ, &access(region, 0x1000, 15));
        assert_eq!(secret.errno(), EPERM, "what the owner computes is its own");
    }
    let file = memory(4096);
    use std::os::fd::AsRawFd;
    let refused: [(u16, Vec<u8>, &[i32]); 6] = [
        (REGION_WRITE, store(BAR4, 0x1000, b"no"), &[]),
        (REGION_WRITE, store(CONFIG, 4, &[4, 0]), &[]),
        (DMA_MAP, map(3, 0, 0x10_0000, 4096), &[file.as_raw_fd()]),
        (DMA_UNMAP, unmap(2, 0, 0), &[]),
        (SET_IRQS, set_irqs(0x21, 0, 0, &[]), &[]),
        (RESET, Vec::new(), &[]),
    ];
    for (command, body, fds) in &refused {
        let reply = observer.ask_with(*command, body, fds);
        assert_eq!(reply.errno(), EPERM, "command {command}");
        observer.assert_in_step();
    }
    assert_eq!(owner.read(BAR4, 0x1000, 15), b"the owner works");
    assert_eq!(
        (board.counters().regions, board.counters().generation),
        (0, 1)
    );
}

#[test]
fn anybody_may_ask_who_owns_the_card_even_when_the_owner_wants_to_be_alone() {
    let board = board();
    let ask = || {
        let mut asker = Peer::connect(board.path());
        let pid = owner_pid(&mut asker, WHO);
        asker.assert_dropped("it has its answer");
        pid
    };
    assert_eq!(ask(), serde_json::Value::Null);
    let mut owner = Peer::greeted(board.path(), ALONE);
    assert_eq!(ask(), std::process::id());
    owner.assert_in_step();
    assert_eq!(board.counters().connections, 1, "and costs nothing");
}

#[test]
fn an_observer_maps_its_own_telemetry_page_and_nothing_else() {
    let board = board();
    let mut observer = Peer::observer(board.path());
    for (region, files) in [(BAR0, 1), (BAR2, 0), (BAR4, 0), (CONFIG, 0)] {
        let info = observer.ask(GET_REGION_INFO, &region_info(64, region));
        assert_eq!(
            (info.errno(), info.fds.len()),
            (0, files),
            "region {region}"
        );
        let mappable = u32::from_le_bytes(info.body[4..8].try_into().unwrap()) & 4 != 0;
        assert_eq!(mappable, files > 0);
        let readable = u32::from_le_bytes(info.body[4..8].try_into().unwrap()) & 1 != 0;
        assert_eq!(readable, [BAR0, CONFIG].contains(&region));
    }
}

#[test]
fn fifty_observers_watch_at_a_time_and_leave_nothing_behind() {
    let board = board();
    let mut owner = Peer::owner(board.path());
    let mut watchers: Vec<_> = (0..50).map(|_| Peer::observer(board.path())).collect();
    for watcher in &mut watchers {
        watcher.assert_in_step();
    }
    assert_eq!(board.counters().connections, 51);
    drop(watchers);
    let end = Instant::now() + Duration::from_secs(60);
    while board.counters().connections > 1 {
        assert!(Instant::now() < end, "{:?}", board.counters());
        std::thread::sleep(Duration::from_millis(5));
    }
    owner.assert_in_step();
}

#[test]
fn a_vanished_owner_leaves_no_maps_no_interrupts_and_no_mastery_within_a_second() {
    use std::os::fd::AsRawFd;
    let board = board();
    let mut owner = Peer::owner(board.path());
    let file = memory(1 << 20);
    let eventfd = nix::sys::eventfd::EventFd::new().unwrap();
    use std::os::fd::AsFd;
    let mapped = owner.ask_with(DMA_MAP, &map(3, 0, 0x10_0000, 1 << 20), &[file.as_raw_fd()]);
    assert_eq!(mapped.errno(), 0);
    let set = set_irqs(0x24, 3, 1, &[]);
    assert_eq!(
        owner
            .ask_with(SET_IRQS, &set, &[eventfd.as_fd().as_raw_fd()])
            .errno(),
        0
    );
    owner.write(CONFIG, 4, &[4, 0]);
    let counters = board.counters();
    assert_eq!((counters.regions, counters.vectors), (1, 1));
    drop(owner);
    let mut next = Peer::next_owner(board.path());
    let counters = board.counters();
    assert_eq!((counters.regions, counters.vectors), (0, 0));
    assert!(counters.generation > 1, "it was reset");
    assert_eq!(next.read(CONFIG, 4, 2), [0, 0], "bus mastering is off");
}

#[test]
fn words_about_the_role_that_make_no_sense_are_refused() {
    let board = board();
    for json in [
        r#"{"capabilities":{"jalapeno":{"role":"king"}}}"#,
        r#"{"capabilities":{"jalapeno":{"role":7}}}"#,
        r#"{"capabilities":{"jalapeno":7}}"#,
        r#"{"capabilities":[]}"#,
        r#"{"capabilities":{"max_data_xfer_size":0}}"#,
        r#"{"capabilities":{"max_data_xfer_size":"much"}}"#,
        r#"[1]"#,
        "{",
        "{} {}",
        "\u{1}",
    ] {
        let mut peer = Peer::connect(board.path());
        assert_eq!(
            peer.ask(VERSION, &hello(0, 1, json)).errno(),
            EINVAL,
            "{json}"
        );
        peer.assert_dropped(json);
    }
    Peer::owner(board.path()).assert_in_step();
}
