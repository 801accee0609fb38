//! The smallest whole program: 4 KiB go to the card and come home.

use std::time::Duration;

use jalapeno::hw::packets::{Opcode, Packet, header};
use jalapeno::{Device, HostOptions, QueueOptions, Result, Role, Session, discover};

/// Sends `text` to the card and reads it back from there.
pub fn round_trip(device: &str, text: &str) -> Result<String> {
    let device = Device::open(device, Role::Compute)?;
    let session = Session::new(&device)?;
    let mut queue = session.queue(QueueOptions::default())?;
    let host = session.host_memory(8192, HostOptions::default())?;
    let card = session.device_memory(4096)?;

    // Out to the card, and home into the second page: two packets, one doorbell.
    host.memory().write(0, text.as_bytes())?;
    let home = host.address().0 + 4096;
    let packets = [
        copy(card.address().0, host.address().0),
        copy(home, card.address().0),
    ];
    let last = queue.submit(&packets)?;
    queue
        .completions()
        .wait(last, Some(Duration::from_secs(5)))?;

    let mut bytes = vec![0; text.len()];
    host.memory().read(4096, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn copy(destination: u64, source: u64) -> Packet {
    Packet {
        header: header(Opcode::Copy, 0),
        cookie: 0,
        deadline: 0,
        body: [source, destination, 4096, 0, 0],
    }
}

fn main() -> Result<()> {
    println!("{}", round_trip(&discover::only()?, "hello, card")?);
    Ok(())
}
