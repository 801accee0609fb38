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
        let due = Due::new(self.seen, count, self.records);
        let mut bytes = Vec::new();
        for (slot, records) in due.pieces() {
            let from = bytes.len();
            let length = usize::try_from(records).unwrap_or(0) * PROFILE_RECORD_BYTES;
            bytes.resize(from + length, 0);
            let place = self.offset + slot * PROFILE_RECORD_BYTES as u64;
            registers.copy(place, &mut bytes[from..])?;
        }
        let after = registers.read::<ProfileCount>()?.0;
        let jobs: Vec<_> = due
            .numbers()
            .zip(bytes.chunks_exact(PROFILE_RECORD_BYTES))
            .filter(|(number, _)| due.stands(*number, after))
            .filter_map(|(_, bytes)| ProfileRecord::read_from_bytes(bytes).ok())
            .filter_map(|record| JobStats::read(&record))
            .collect();
        let lost = (count - self.seen).saturating_sub(jobs.len() as u64);
        self.seen = count;
        Ok(Profile { jobs, lost })
    }
}

/// The records of the card's ring that are due, by what the device counted. No count is trusted.
#[derive(Clone, Copy, Debug)]
struct Due {
    /// The last one's number.
    last: u64,
    number: u64,
    /// Of the whole ring.
    records: u64,
}

impl Due {
    /// Those behind `seen` up to `count` that the ring still has.
    fn new(seen: u64, count: u64, records: u64) -> Self {
        Self {
            last: count,
            number: count.saturating_sub(seen).min(records.saturating_sub(1)),
            records: records.max(1),
        }
    }

    /// Their numbers.
    fn numbers(self) -> impl Iterator<Item = u64> {
        let before = self.last - self.number;
        (0..self.number).map(move |at| before + 1 + at)
    }

    /// Slot and length of the pieces of the ring that they stand in: one, or two around its end.
    fn pieces(self) -> impl Iterator<Item = (u64, u64)> {
        let slot = (self.last - self.number) % self.records;
        let first = self.number.min(self.records - slot);
        let pieces = [(slot, first), (0, self.number - first)];
        pieces.into_iter().filter(|(_, number)| *number > 0)
    }

    /// Whether a record was not being written over when the device had counted to `after`.
    fn stands(self, number: u64, after: u64) -> bool {
        number > after.saturating_add(1).saturating_sub(self.records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_found_for_any_count() {
        let told = |seen, count| {
            let due = Due::new(seen, count, 8);
            let numbers: Vec<_> = due.numbers().collect();
            (numbers, due.pieces().collect::<Vec<_>>())
        };
        assert_eq!(told(0, 0), (vec![], vec![]));
        assert_eq!(told(0, 3), (vec![1, 2, 3], vec![(0, 3)]));
        assert_eq!(told(6, 10), (vec![7, 8, 9, 10], vec![(6, 2), (0, 2)]));
        // One fewer than the ring has: the device may be writing over the oldest.
        assert_eq!(told(0, 20), ((14..=20).collect(), vec![(5, 3), (0, 4)]));
        let last = u64::MAX;
        assert_eq!(told(last - 1, last), (vec![last], vec![(6, 1)]));
        assert_eq!(told(0, last).1, [(0, 7)]);
        assert_eq!(told(last, last), (vec![], vec![]));
        assert_eq!(told(last, 3), (vec![], vec![]), "it went backwards");
        let due = Due::new(0, 20, 8);
        assert!(due.stands(14, 20) && !due.stands(13, 20) && !due.stands(14, 21));
        assert!(!due.stands(14, last) && due.stands(last, last));
        assert_eq!(Due::new(0, last, 0).pieces().count(), 0);
    }

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
