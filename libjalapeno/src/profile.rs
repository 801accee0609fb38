//! Profiles: what packets took, by their queue's own ring and by the ring of the whole card.
//!
//! What the device writes is copied once and judged as a copy. Host interface 9.3.

use std::sync::Arc;
use std::time::Duration;

use jalapeno_hw::packets::Opcode;
use jalapeno_hw::profile::{PROFILE_RECORD_BYTES, ProfileRecord, ProfileStatus};
use jalapeno_hw::regs::ProfileCount;
use zerocopy::FromBytes;

use crate::completions::Completions;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::units::{Seq, Ticks};

/// What a packet took: one for a whole graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobStats {
    /// The queue's number on the device.
    pub queue: u32,
    /// The packet's sequence number.
    pub seq: Seq,
    /// The packet's cookie.
    pub cookie: u64,
    /// Device time when it came up.
    pub start: Ticks,
    /// Device time when it was finished.
    pub end: Ticks,
    /// What its work cost and the idle card meanwhile, in nanojoules.
    pub energy_nj: u64,
    /// Bytes read and written.
    pub bytes: u64,
    /// Kernel operations; a multiply-add counts two.
    pub operations: u64,
    /// What it was; the raw number where the library does not know it.
    pub opcode: std::result::Result<Opcode, u8>,
    /// Of a LAUNCH its kernel's number, of an INDIRECT the packets of its graph that were done.
    pub kernel: u32,
    /// Whether it failed.
    pub failed: bool,
}

impl JobStats {
    /// A record that makes sense; `None` for any other.
    fn read(record: &ProfileRecord) -> Option<Self> {
        let status = ProfileStatus::from_code(record.status.into())?;
        let opcode = Opcode::from_code(record.opcode.into()).ok_or(record.opcode);
        (record.sequence != 0 && record.start <= record.end).then_some(Self {
            queue: record.queue.into(),
            seq: Seq(record.sequence),
            cookie: record.cookie,
            start: Ticks(record.start),
            end: Ticks(record.end),
            energy_nj: record.energy_nj,
            bytes: record.bytes,
            operations: record.operations,
            opcode,
            kernel: record.kernel,
            failed: status == ProfileStatus::Failed,
        })
    }
}

impl Completions {
    /// What a finished job of this queue took; for queues made with `QueueOptions::profile`. The
    /// device keeps a job's figures until as many more have finished as the queue is deep. Makes no
    /// system call.
    ///
    /// # Errors
    /// `Unsupported` where the queue has no profile ring. `Invalid` for a job that is not finished,
    /// was cancelled, or whose figures were written over. `Forked`.
    pub fn stats(&self, seq: Seq) -> Result<JobStats> {
        let lane = self.lane();
        lane.check_fork()?;
        if !lane.rings().is_profiled() {
            return Err(Error::Unsupported {
                what: "job figures: make the queue with QueueOptions::profile".into(),
            });
        }
        let number = lane.identity().number;
        let none = |why: &str| Error::Invalid {
            what: format!("job {} of queue {number}: {why}", seq.0),
        };
        if seq.0 == 0 || seq > self.submitted() {
            return Err(none("it was never submitted"));
        }
        let Some(record) = lane.rings().profile(seq.0) else {
            // A finished one's record came before its completion.
            let _ = self.poll();
            return Err(none(if seq > self.completed() {
                "it is not finished"
            } else {
                "its figures were written over: ask before the ring has gone round"
            }));
        };
        JobStats::read(&record)
            .filter(|stats| stats.queue == number)
            .ok_or_else(|| none("the device wrote figures that make no sense"))
    }
}

/// What was read of the card's ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Jobs in the order in which they finished.
    pub jobs: Vec<JobStats>,
    /// Jobs that the device wrote over before they were read, or whose record made no sense.
    pub lost: u64,
}

/// Reads the card's profile ring, beside an owner and other readers. The device fills the ring only
/// while somebody reads: the first `read` asks, and each asks anew for `lease`.
#[derive(Debug)]
pub struct Profiler {
    device: Arc<Device>,
    seen: u64,
    offset: u64,
    records: u64,
    lease: Duration,
}

impl Profiler {
    /// Begins now: jobs that finished before are not told.
    ///
    /// # Errors
    /// `Unsupported` where the device has no such ring; `Lost`, `Forked`.
    pub fn new(device: &Arc<Device>) -> Result<Self> {
        device.check()?;
        let Some(cap) = device.info().capabilities.profile else {
            return Err(Error::Unsupported {
                what: format!("{} has no profile ring", device.info().name),
            });
        };
        Ok(Self {
            seen: device.registers().read::<ProfileCount>()?.0,
            device: Arc::clone(device),
            offset: cap.offset.into(),
            records: cap.records.into(),
            lease: Duration::from_millis(cap.lease_ms.into()),
        })
    }

    /// How long the device goes on after a `read`: read again before.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// What finished since the last call, and how much of it is lost.
    ///
    /// # Errors
    /// `Lost`, `Forked`, `Io`.
    pub fn read(&mut self) -> Result<Profile> {
        self.device.check()?;
        let registers = self.device.registers();
        let count = registers.read::<ProfileCount>()?.0;
        if count < self.seen {
            self.seen = 0; // another device stands there, or the same after a loss of power
        }
        let first = self.seen.max(count.saturating_sub(self.records - 1)) + 1;
        let mut bytes = Vec::new();
        let mut at = first;
        while at <= count {
            // Up to the ring's end in one piece.
            let slot = (at - 1) % self.records;
            let pieces = (count - at + 1).min(self.records - slot);
            let from = bytes.len();
            let length = usize::try_from(pieces).unwrap_or(0) * PROFILE_RECORD_BYTES;
            bytes.resize(from + length, 0);
            let place = self.offset + slot * PROFILE_RECORD_BYTES as u64;
            registers.copy(place, &mut bytes[from..])?;
            at += pieces;
        }
        let after = registers.read::<ProfileCount>()?.0;
        let jobs: Vec<_> = (first..=count)
            .zip(bytes.chunks_exact(PROFILE_RECORD_BYTES))
            .filter(|(number, _)| number + self.records > after.saturating_add(1))
            .filter_map(|(_, bytes)| ProfileRecord::read_from_bytes(bytes).ok())
            .filter_map(|record| JobStats::read(&record))
            .collect();
        let lost = (count - self.seen).saturating_sub(jobs.len() as u64);
        self.seen = count;
        Ok(Profile { jobs, lost })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_makes_no_sense_is_not_told() {
        let good = ProfileRecord {
            sequence: 3,
            start: 10,
            end: 20,
            opcode: 1,
            ..ProfileRecord::ZERO
        };
        let read = JobStats::read(&good).expect("it makes sense");
        assert_eq!((read.seq, read.opcode), (Seq(3), Ok(Opcode::Nop)));
        for bad in [
            ProfileRecord {
                sequence: 0,
                ..good
            },
            ProfileRecord { end: 9, ..good },
            ProfileRecord { status: 2, ..good },
        ] {
            assert_eq!(JobStats::read(&bad), None, "{bad:?}");
        }
        let unknown = ProfileRecord {
            opcode: 0xEE,
            ..good
        };
        assert_eq!(
            JobStats::read(&unknown).map(|it| it.opcode),
            Some(Err(0xEE))
        );
    }
}
