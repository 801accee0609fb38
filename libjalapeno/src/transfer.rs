//! The transfer: bytes between the caller's memory and device memory, done when it returns.

use std::time::Duration;

use jalapeno_hw::packets::{Opcode, Packet, header};

use crate::buffer::HostBuffer;
use crate::dma::HostOptions;
use crate::error::{Error, Result};
use crate::queue::Queue;
use crate::session::{QueueOptions, Session};
use crate::units::{DeviceAddr, Seq};

/// Bytes of one half of the window: large enough that a packet's cost does not show, small enough
/// to stay in a core's cache.
const HALF: usize = 512 << 10;
/// Longest that one half may take: many times what a slow link needs.
const HALF_TIME: Duration = Duration::from_secs(10);
/// Longest that a queue reset may take. Host interface 7.
const CANCEL_TIME: Duration = Duration::from_secs(1);

/// Copies by way of a pinned window and a queue of its own: while the device copies one half, the
/// host fills or empties the other. For set-up and tests; what is copied again and again belongs
/// in a `HostBuffer`. One thread at a time (`&mut`).
#[derive(Debug)]
pub struct Transfer {
    // Dropped first: the device lets go of the window.
    queue: Queue,
    window: HostBuffer,
}

impl Transfer {
    /// A window of 1 MiB and a queue on a session.
    ///
    /// # Errors
    /// As `Session::host_memory` and `Session::queue`.
    pub fn new(session: &Session) -> Result<Self> {
        let window = session.host_memory(offset(2), HostOptions::default())?;
        let options = QueueOptions {
            depth: 16,
            ..QueueOptions::default()
        };
        let queue = session.queue(options)?;
        Ok(Self { queue, window })
    }

    /// Copies `from` to device memory (or any other memory that packets can name).
    ///
    /// # Errors
    /// `Fault` with the device's record, `Late`, `Lost`, `Stale`, `Protocol`, `Forked`. A part may
    /// have been written; nothing is written any more once it returned.
    pub fn write(&mut self, to: DeviceAddr, from: &[u8]) -> Result<()> {
        let mut flights = [None; 2];
        for (index, bytes) in from.chunks(HALF).enumerate() {
            let half = index % 2;
            self.land(flights[half].take())?;
            self.window.memory().write(offset(half), bytes)?;
            let window = self.window.address() + offset(half);
            flights[half] = Some(self.copy(window, to + (index * HALF) as u64, bytes.len())?);
        }
        flights.into_iter().try_for_each(|flight| self.land(flight))
    }

    /// Copies from device memory (or any other memory that packets can name).
    ///
    /// # Errors
    /// As `write`; a part of `into` may have been filled.
    pub fn read(&mut self, from: DeviceAddr, into: &mut [u8]) -> Result<()> {
        let mut flight = None;
        let mut chunks = into.chunks_mut(HALF).enumerate().peekable();
        while let Some((index, place)) = chunks.next() {
            if flight.is_none() {
                flight = Some(self.fetch(from, index, place.len())?);
            }
            let next = match chunks.peek() {
                Some((next, place)) => Some(self.fetch(from, *next, place.len())?),
                None => None,
            };
            self.land(flight)?;
            self.window.memory().read(offset(index % 2), place)?;
            flight = next;
        }
        Ok(())
    }

    /// Copies the chunk `index` into its half of the window.
    fn fetch(&mut self, from: DeviceAddr, index: usize, bytes: usize) -> Result<Seq> {
        let window = self.window.address() + offset(index % 2);
        self.copy(from + (index * HALF) as u64, window, bytes)
    }

    fn copy(&mut self, from: DeviceAddr, to: DeviceAddr, bytes: usize) -> Result<Seq> {
        let mut packet = Packet::ZERO;
        packet.header = header(Opcode::Copy, 0);
        packet.body[0] = from.0;
        packet.body[1] = to.0;
        packet.body[2] = bytes as u64;
        let submitted = self.queue.submit_one(&packet);
        submitted.map_err(|error| self.settle(error))
    }

    /// Waits for a copy.
    fn land(&mut self, flight: Option<Seq>) -> Result<()> {
        let Some(seq) = flight else { return Ok(()) };
        let landed = self.queue.completions().wait(seq, Some(HALF_TIME));
        landed.map_err(|error| self.settle(error))
    }

    /// After a failure nothing is in flight: the other half must not be written behind the caller's
    /// back. Gives the failure, which is the fault where the queue only says that it stopped.
    fn settle(&mut self, error: Error) -> Error {
        let fault = self.queue.completions().fault();
        if let Err(error) = self.queue.cancel(CANCEL_TIME) {
            log::warn!("cancel a transfer: {error}");
        }
        match (error, fault) {
            (Error::Stopped, Some(fault)) => Error::Fault(fault.into()),
            (error, _) => error,
        }
    }
}

fn offset(half: usize) -> u64 {
    (HALF * half) as u64
}
