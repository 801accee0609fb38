//! Owners one after another: what one leaves in HBM the next never reads. Host interface 10.5.

use jalapeno::device::Scrub;
use jalapeno::{DeviceAddr, HostOptions, Session};
use jalapeno_tests::alone::{part, say};
use jalapeno_tests::packet::{copy, fill};
use jalapeno_tests::stage::by_sequence;
use jalapeno_tests::{Part, SOON, alone, stage};

/// What the first owner leaves behind.
const SECRET: u64 = 0x5EC2_E75E_C2E7_5EC2;
/// HBM that each owner takes: more than one large page.
const BYTES: u64 = 4 << 20;

/// The words of device memory that are not zero.
fn not_zero(session: &Session, from: DeviceAddr, bytes: u64) -> usize {
    let home = session.host_memory(bytes, HostOptions::default()).unwrap();
    home.memory().write(0, &[0xFF; 64]).unwrap();
    let mut queue = by_sequence(session, 4);
    let mut done = 0;
    while done < bytes {
        let part = (bytes - done).min(1 << 20);
        let seq = queue
            .submit_one(&copy(from + done, home.address() + done, part))
            .unwrap();
        queue.completions().wait(seq, Some(SOON)).unwrap();
        done += part;
    }
    let mut read = vec![0; usize::try_from(bytes).unwrap()];
    home.memory().read(0, &mut read).unwrap();
    let words = read.as_chunks::<8>().0;
    words.iter().filter(|word| **word != [0; 8]).count()
}

/// Writes its secret, says so, and lives until it is killed.
fn leave_a_secret(name: &str) {
    let device = jalapeno::Device::open(name, jalapeno::Role::Compute).unwrap();
    let session = Session::new(&device).unwrap();
    let hbm = session.device_memory(BYTES).unwrap();
    let mut queue = by_sequence(&session, 4);
    let seq = queue
        .submit_one(&fill(hbm.address(), BYTES, SECRET))
        .unwrap();
    queue.completions().wait(seq, Some(SOON)).unwrap();
    let found = not_zero(&session, hbm.address(), BYTES) as u64;
    assert_eq!(found, BYTES / 8, "the secret is there for its owner");
    say(&hbm.address().0.to_string());
    loop {
        std::thread::park();
    }
}

#[test]
fn the_next_owner_reads_zeros_where_a_killed_one_left_its_secret_and_the_count_proves_it() {
    alone!();
    if let Some((_, name)) = part() {
        return leave_a_secret(&name);
    }
    let stage = stage();
    let mut owner = Part::start("secret", stage.name());
    let place: u64 = owner.hear().parse().unwrap();
    owner.kill();
    let device = stage.open();
    let how = device.scrub().unwrap();
    match how {
        Scrub::Done { before, after, .. } => assert!(after > before, "{how:?}"),
        // The kernel module keeps its own count: its stories look at that.
        Scrub::ByKernelModule => assert!(stage.board().is_none()),
        Scrub::NotOffered => panic!("an emulated card scrubs"),
    }
    let session = Session::new(&device).unwrap();
    assert_eq!(device.scrub().unwrap(), how, "one scrub an owner");
    let hbm = session.device_memory(BYTES).unwrap();
    assert_eq!(hbm.address().0, place, "the very same memory");
    assert_eq!(not_zero(&session, hbm.address(), BYTES), 0);
    println!("= HBM between two owners: {how:?}");
}

#[test]
fn what_an_owner_wrote_stays_its_own_from_session_to_session_and_over_a_reset() {
    let stage = stage();
    let device = stage.device();
    let mut place = None;
    for round in 0..3 {
        let session = Session::new(&device).unwrap();
        let hbm = session.device_memory(BYTES).unwrap();
        let place = *place.get_or_insert(hbm.address());
        assert_eq!(hbm.address(), place);
        if round == 0 {
            let mut queue = by_sequence(&session, 4);
            let seq = queue
                .submit_one(&fill(hbm.address(), BYTES, SECRET))
                .unwrap();
            queue.completions().wait(seq, Some(SOON)).unwrap();
        } else {
            let found = not_zero(&session, hbm.address(), BYTES) as u64;
            assert_eq!(found, BYTES / 8, "round {round}");
        }
        drop((hbm, session));
        if round == 1 {
            let level = jalapeno_hw::regs::ResetLevel::Device;
            device.reset(level, 0, SOON).unwrap();
        }
    }
}

#[test]
fn threads_that_want_hbm_at_once_have_it_scrubbed_once() {
    let stage = stage();
    let device = stage.device();
    let all: Vec<Scrub> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| device.scrub().unwrap()))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{all:?}");
    if let Scrub::Done { before, after, .. } = all[0] {
        assert_eq!(after, before + 1);
    }
}
