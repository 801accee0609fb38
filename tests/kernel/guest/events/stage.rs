//! The stage: the guest's cards, how they are bound, and work that shows that one works.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jalapeno::error::Error;
use jalapeno::hw::packets::{Opcode, Packet, header};
use jalapeno::pci::{Function, Root};
use jalapeno::transport::opening::Backend;
use jalapeno::{Device, HostOptions, QueueOptions, Role, Session};

/// Long enough for anything that works, in a machine that is emulated on a busy host.
pub const SOON: Duration = Duration::from_secs(60);

/// See the file's head.
#[derive(Debug)]
pub struct Stage {
    /// The cards that were there at boot, by address.
    pub cards: Vec<String>,
    /// The driver that they are given to.
    pub driver: String,
    /// Where a spare card is plugged: its number, as the host counts.
    pub spare: usize,
}

impl Stage {
    /// Looks around.
    pub fn new() -> Self {
        let cards = cards();
        let stage = Self {
            spare: cards.len(),
            cards,
            driver: variable("DRIVER"),
        };
        stage.settle();
        stage
    }

    /// Gives every card that another driver has, after an earlier story, to this boot's.
    fn settle(&self) {
        for card in &self.cards {
            match function(card).driver() {
                Some(other) if other != self.driver => {
                    let unbind = Path::new("/sys/bus/pci/drivers").join(other).join("unbind");
                    fs::write(unbind, card).expect("unbound");
                    self.bind(card);
                }
                _ => {}
            }
        }
    }

    /// The first card.
    pub fn card(&self) -> &str {
        &self.cards[0]
    }

    /// Whether the shim has the cards.
    pub fn has_shim(&self) -> bool {
        self.driver != "vfio-pci"
    }

    /// The backends that this leg has, the one of its own choice first.
    pub fn backends(&self) -> &'static [Backend] {
        match variable("BACKEND").as_str() {
            "cdev" => &[Backend::Cdev, Backend::Group],
            _ => &[Backend::Group],
        }
    }

    /// Gives a card to the driver, as `driver_override` does it.
    pub fn bind(&self, card: &str) {
        let function = function(card);
        fs::write(function.path().join("driver_override"), &self.driver).expect("an override");
        fs::write("/sys/bus/pci/drivers_probe", card).expect("a probe");
        assert_eq!(function.driver().as_deref(), Some(self.driver.as_str()));
    }

    /// The file by which a card is taken from its driver.
    pub fn unbind(&self) -> PathBuf {
        Path::new("/sys/bus/pci/drivers")
            .join(&self.driver)
            .join("unbind")
    }
}

/// What the leg says.
pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// A card as sysfs has it.
pub fn function(card: &str) -> Function {
    Root::default().function(card)
}

/// The addresses of all cards that the kernel knows now.
pub fn cards() -> Vec<String> {
    let mut found: Vec<String> = fs::read_dir("/sys/bus/pci/devices")
        .expect("sysfs")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| function(name).ids() == Some((0xA1A0, 1)))
        .collect();
    found.sort();
    found
}

/// What `Device::open` gives for computing.
pub fn open(card: &str) -> Arc<Device> {
    Device::open(card, Role::Compute).expect("the card opens")
}

/// Waits for a condition.
///
/// # Panics
/// When it does not come.
pub fn until(what: &str, within: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < within, "{what}: not within {within:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    begin.elapsed()
}

/// A packet with a body.
pub fn packet(opcode: Opcode, body: [u64; 5]) -> Packet {
    Packet {
        header: header(opcode, 0),
        cookie: 0,
        deadline: 0,
        body,
    }
}

/// Sends a page of `seed`'s bytes to the card and back, `rounds` times.
///
/// # Panics
/// When another page comes home.
pub fn work(device: &Arc<Device>, seed: u8, rounds: u8) {
    let session = Session::new(device).expect("a session");
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let options = HostOptions::default();
    let host = session.host_memory(8192, options).expect("host memory");
    let there = session.device_memory(4096).expect("device memory");
    let [from, home] = [host.address().0, host.address().0 + 4096];
    for round in 0..rounds {
        let page: Vec<u8> = (0..4096u32)
            .map(|n| (n % 251).to_le_bytes()[0] ^ seed ^ round)
            .collect();
        host.memory().write(0, &page).expect("written");
        let packets = [
            packet(Opcode::Copy, [from, there.address().0, 4096, 0, 0]),
            packet(Opcode::Copy, [there.address().0, home, 4096, 0, 0]),
        ];
        let last = queue.submit(&packets).expect("submitted");
        // Told once that the host wants the card back; jobs come to their ends all the same.
        let wait = || queue.completions().wait(last, Some(SOON));
        let told = match wait() {
            Err(Error::Wanted) => wait(),
            told => told,
        };
        told.expect("done");
        let mut back = vec![0; page.len()];
        host.memory().read(4096, &mut back).expect("read");
        assert_eq!(back, page, "round {round}: what came home is what went out");
    }
}
