//! Leaving: the host takes a card back while somebody owns it.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jalapeno::{Device, Role};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::part::Part;
use crate::stage::{SOON, Stage, function, open, until, work};

/// Whether an fd turns readable soon.
pub fn turns_readable(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let time = PollTimeout::try_from(SOON).expect("a time");
    poll(&mut fds, time).is_ok_and(|ready| ready == 1)
}

/// Writes to a file of sysfs on a thread of its own: the kernel answers when the owner let go.
fn ask(file: PathBuf, words: &str) -> JoinHandle<std::io::Result<()>> {
    let words = words.to_owned();
    std::thread::spawn(move || fs::write(file, words))
}

/// Waits until the kernel has answered, and gives how long that took.
fn answered(host: JoinHandle<std::io::Result<()>>) -> Duration {
    let took = until("the host goes on", SOON, || host.is_finished());
    host.join().expect("no panic").expect("the kernel did it");
    took
}

pub fn an_owner_that_does_not_listen(stage: &Stage) -> String {
    let card = stage.card();
    let mut owner = Part::start("deaf", card);
    owner.hear("held");
    let host = ask(stage.unbind(), card);
    std::thread::sleep(Duration::from_secs(1));
    assert!(!host.is_finished(), "the kernel waits for the owner");
    let error = Device::open(card, Role::Compute).expect_err("it is on its way out");
    owner.goes_on();
    owner.kill();
    let took = answered(host);
    assert_eq!(function(card).driver(), None);
    stage.bind(card);
    work(&open(card), 4, 1);
    format!(
        "the host waits, a second owner hears \"{error}\"; {} ms after the owner's end it goes on",
        took.as_millis()
    )
}

/// Files of the shim, open and read once.
fn shown_of(card: &str) -> Vec<(String, fs::File)> {
    let path = function(card).path().to_owned();
    let mut entries = fs::read_dir(path.join("hwmon")).expect("hwmon").flatten();
    let hwmon = entries.next().expect("one").path();
    let files = [
        hwmon.join("temp1_input"),
        path.join("jalapeno/generation"),
        path.join("jalapeno/uuid"),
    ];
    let opened = files.into_iter().map(|file| {
        let name = file.display().to_string();
        until(&name, SOON, || {
            fs::read(&file).is_ok_and(|text| !text.is_empty())
        });
        (name, fs::File::open(file).expect("it opens"))
    });
    opened.collect()
}

pub fn removed_and_found_again(stage: &Stage) -> String {
    let card = stage.card();
    let device = open(card);
    let uuid = device.info().uuid;
    let mut shown = match stage.has_shim() {
        true => shown_of(card),
        false => Vec::new(),
    };
    let wanted = device.wanted_back_fd().expect("an fd");
    assert!(!device.is_wanted_back());
    let host = ask(function(card).path().join("remove"), "1");
    let begin = Instant::now();
    assert!(turns_readable(&wanted), "the host asks");
    let asked = begin.elapsed();
    assert!(device.is_wanted_back());
    work(&device, 8, 1); // until it is let go
    drop(device);
    let took = answered(host);
    assert!(!function(card).is_there(), "it is gone");
    for (name, file) in &mut shown {
        let read = file.read(&mut [0; 64]);
        let why = read.expect_err("no data any more").raw_os_error();
        assert_eq!(why, Some(libc::ENODEV), "{name}");
    }
    let error = Device::open(card, Role::Compute).expect_err("it is gone");
    assert!(
        error
            .to_string()
            .contains("no PCI function has this address"),
        "{error}"
    );
    fs::write("/sys/bus/pci/rescan", "1").expect("a rescan");
    let function = function(card);
    assert!(function.is_there(), "it is found again");
    let wish = function.text("driver_override").unwrap_or_default();
    assert!(matches!(wish.as_str(), "" | "(null)"), "forgotten: {wish}");
    assert_eq!(function.driver(), None);
    let error = Device::open(card, Role::Compute).expect_err("nobody bound it");
    assert!(error.to_string().contains("no driver is bound"), "{error}");
    stage.bind(card);
    let device = open(card);
    assert_eq!(device.info().uuid, uuid, "the same card");
    work(&device, 8, 1);
    format!(
        "asked for after {} ms, gone {} ms after it was let go; driver_override is empty after the \
         rescan",
        asked.as_millis(),
        took.as_millis()
    )
}
