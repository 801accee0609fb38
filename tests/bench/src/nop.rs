//! NOP: a session on a device with queues, and round trips of the packet that does nothing.

use std::time::{Duration, Instant};

use jalapeno::hw::packets::{Opcode, Packet, header};
use jalapeno::{Device, Queue, QueueOptions, Role, Session};

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// An open device with queues.
#[derive(Debug)]
pub struct Open {
    /// The queues.
    pub queues: Vec<Queue>,
    /// Their session.
    pub session: Session,
}

/// The packet.
pub fn packet() -> Packet {
    of(Opcode::Nop, [0; 5])
}

/// A packet with a body.
pub fn of(opcode: Opcode, body: [u64; 5]) -> Packet {
    Packet {
        header: header(opcode, 0),
        cookie: 0,
        deadline: 0,
        body,
    }
}

impl Open {
    /// Opens a device and makes queues.
    pub fn new(name: &str, queues: usize) -> Result<Self, String> {
        let failed = |error: jalapeno::Error| format!("open {name}: {error}");
        let device = Device::open(name, Role::Compute).map_err(failed)?;
        let session = Session::new(&device).map_err(failed)?;
        let queues = (0..queues)
            .map(|_| session.queue(QueueOptions::default()))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        Ok(Self { queues, session })
    }

    /// The first queue.
    pub fn queue(&mut self) -> Result<&mut Queue, String> {
        self.queues.first_mut().ok_or_else(|| "no queue".into())
    }
}

/// Submits a packet and polls until it is done.
pub fn round_trip(queue: &mut Queue, packet: &Packet) -> Result<(), String> {
    let submitted = queue.submit_one(packet);
    let seq = submitted.map_err(|error| format!("submit: {error}"))?;
    let mut looks = 0u32;
    let mut begin = None;
    loop {
        let done = queue.completions().poll();
        if done.map_err(|error| format!("poll: {error}"))? >= seq {
            return Ok(());
        }
        looks += 1;
        // A clock is read only where the device is slow anyway.
        if looks.is_multiple_of(1 << 16)
            && begin.get_or_insert_with(Instant::now).elapsed() > PATIENCE
        {
            return Err(format!("a packet was not done after {PATIENCE:?}"));
        }
    }
}

/// Nanoseconds since an instant, for one of several things done meanwhile.
pub fn nanos_each(begin: Instant, count: usize) -> f64 {
    begin.elapsed().as_secs_f64() * 1e9 / count as f64
}
