//! The host around a card: limits, permissions, and the wish to have the card back.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use jalapeno::dma::HostMemory;
use jalapeno::hw::packets::{Opcode, Packet};
use jalapeno::pci::Root;
use jalapeno::{Device, DeviceAddr, HostOptions, QueueOptions, Role, Session};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use crate::{SOON, let_go, open, packet};

/// Nobody in particular.
const USER: u32 = 65_534;
/// What a user may lock in the story of the small memlock.
const MEMLOCK: u64 = 64 << 10;

/// In which the card is given back, and what a host that stalls gets on top.
const GIVE_BACK: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(4);

/// What an owner leaves in HBM.
pub const SECRET: u64 = 0x5EC2_E75E_C2E7_5EC2;
/// How much of it.
pub const SECRET_BYTES: u64 = 2 << 20;

/// Runs one packet.
fn run(session: &Session, packet: &Packet) {
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let seq = queue.submit_one(packet).expect("submitted");
    queue.completions().wait(seq, Some(SOON)).expect("done");
}

/// How many words of HBM, `SECRET_BYTES` from there on, are this one.
///
/// # Panics
/// Where they cannot be read.
pub fn words_that_are(session: &Session, from: DeviceAddr, word: u64) -> usize {
    let home = session
        .host_memory(SECRET_BYTES, HostOptions::default())
        .expect("memory");
    let copy = [from.0, home.address().0, SECRET_BYTES, 0, 0];
    run(session, &packet(Opcode::Copy, copy));
    let mut bytes = vec![0; usize::try_from(SECRET_BYTES).expect("it fits")];
    home.memory().read(0, &mut bytes).expect("it can be read");
    let words = bytes.as_chunks::<8>().0;
    words
        .iter()
        .filter(|found| **found == word.to_le_bytes())
        .count()
}

/// Starts this program once more, to play a part.
///
/// # Panics
/// Where it does not start.
pub fn part(name: &str, card: &str) -> Child {
    let_go(); // it opens the card itself
    Command::new("/proc/self/exe")
        .args([card, name])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the part starts")
}

/// Reads a line of a part's that begins with this word; gives the rest.
///
/// # Panics
/// Where it says something else.
pub fn hear(child: &mut Child, expected: &str) -> String {
    let mut line = String::new();
    let out = child.stdout.take().expect("it talks");
    BufReader::new(out)
        .read_line(&mut line)
        .expect("it says something");
    let told = line.trim().strip_prefix(expected);
    told.unwrap_or_else(|| panic!("{line}")).trim().to_owned()
}

fn heard(mut child: Child) -> String {
    let mut text = String::new();
    let mut out = child.stdout.take().expect("it talks");
    out.read_to_string(&mut text).expect("it says something");
    child.wait().expect("it ends");
    text.trim().to_owned()
}

/// The parts.
pub fn play_part(name: &str, card: &str) -> ExitCode {
    match name {
        // Leaves a secret in HBM, for the next owner not to find.
        "hold" => {
            let session = Session::new(&open(card)).expect("a session");
            let hbm = session.device_memory(SECRET_BYTES).expect("HBM");
            let fill = packet(Opcode::Fill, [hbm.address().0, SECRET_BYTES, SECRET, 0, 0]);
            run(&session, &fill);
            assert!(
                words_that_are(&session, hbm.address(), SECRET) > 0,
                "it is there"
            );
            println!("held {}", hbm.address().0);
            std::thread::sleep(Duration::from_secs(60));
            drop(session);
        }
        "user" => {
            become_nobody();
            println!("{}", said(Device::open(card, Role::Compute).map(drop)));
        }
        "memlock" => {
            setrlimit(Resource::RLIMIT_MEMLOCK, MEMLOCK, MEMLOCK).expect("a limit");
            become_nobody();
            let device = open(card);
            let dma = device.dma().expect("owned");
            let small = HostMemory::allocate(dma, 8192, HostOptions::default());
            assert!(small.is_ok(), "{small:?}");
            println!(
                "{}",
                said(HostMemory::allocate(dma, 1 << 20, HostOptions::default()).map(drop))
            );
        }
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

fn become_nobody() {
    setgroups(&[]).expect("no groups");
    setgid(Gid::from_raw(USER)).expect("a group");
    setuid(Uid::from_raw(USER)).expect("a user");
}

fn said(result: jalapeno::Result<()>) -> String {
    match result {
        Ok(()) => "it worked".into(),
        Err(error) => format!("{error}; hint: {}", error.hint().unwrap_or_default()),
    }
}

/// Lets everybody at the card's nodes, or only root.
fn permit(card: &str, mode: u32) {
    let function = Root::default().function(card);
    let nodes = function
        .group_node()
        .into_iter()
        .chain(function.device_node());
    for node in nodes
        .chain(["/dev/iommu".into()])
        .filter(|node| node.exists())
    {
        fs::set_permissions(&node, fs::Permissions::from_mode(mode)).expect("chmod");
    }
}

pub fn a_small_memlock_says_what_is_needed(card: &str) -> String {
    permit(card, 0o666);
    let text = heard(part("memlock", card));
    permit(card, 0o600);
    assert!(text.contains("needs 1048576 bytes"), "{text}");
    assert!(text.contains("ulimit -l"), "{text}");
    text
}

pub fn a_user_without_permission_is_told_what_to_do(card: &str) -> String {
    permit(card, 0o600);
    let text = heard(part("user", card));
    assert!(text.contains("permission denied"), "{text}");
    assert!(text.contains("sudo jalctl setup --apply"), "{text}");
    text
}

pub fn the_host_asks_for_the_device_back_and_gets_it(card: &str) -> String {
    let driver = std::env::var("DRIVER").expect("DRIVER");
    let device = open(card);
    let wanted = device.wanted_back_fd().expect("an fd");
    assert!(!device.is_wanted_back());
    let session = Session::new(&device).expect("a session");
    let gate = session.fence(0).expect("a fence");
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let never = packet(Opcode::Wait, [gate.address().0, 1, 0, 0, 0]);
    let seq = queue.submit_one(&never).expect("submitted");
    let completions = queue.completions().clone();
    let sleeping = completions.clone();
    let sleeper = std::thread::spawn(move || sleeping.wait(seq, None));
    std::thread::sleep(Duration::from_millis(50));
    let unbind = format!("/sys/bus/pci/drivers/{driver}/unbind");
    let address = card.to_owned();
    let host = std::thread::spawn(move || fs::write(unbind, address));
    // A sleeper is told, though it waits for a job that never ends.
    let told = sleeper
        .join()
        .expect("it wakes")
        .expect_err("the host asks");
    assert!(matches!(told, jalapeno::Error::Wanted), "{told}");
    let mut fds = [PollFd::new(wanted.as_fd(), PollFlags::POLLIN)];
    let asked = poll(&mut fds, PollTimeout::from(10_000u16)).expect("poll");
    assert_eq!(asked, 1, "the host asks");
    assert!(device.is_wanted_back());
    device.verify().expect("it works until it is let go");
    let begin = Instant::now();
    let returned = device.retire(GIVE_BACK).expect("it stops");
    drop((completions, queue, gate, session, device));
    returned.wait().expect("by the deadline");
    let let_go = begin.elapsed();
    assert!(let_go < GIVE_BACK + GRACE, "let go after {let_go:?}");
    host.join().expect("the host goes on").expect("unbound");
    let took = begin.elapsed();
    let function = Root::default().function(card);
    assert_eq!(function.driver(), None);
    let error = Device::open(card, Role::Compute).expect_err("it is unbound");
    assert!(error.to_string().contains("no driver is bound"), "{error}");
    fs::write("/sys/bus/pci/drivers_probe", card).expect("bound again");
    assert!(
        Path::new("/sys/bus/pci/drivers")
            .join(&driver)
            .join(card)
            .exists()
    );
    open(card).verify().expect("it answers");
    format!(
        "a sleeper was told; let go after {} ms of {}, unbound after {}",
        let_go.as_millis(),
        GIVE_BACK.as_millis(),
        took.as_millis()
    )
}
