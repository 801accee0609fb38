//! The queue: the producer's side, one owner at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jalapeno_hw::packets::{Opcode, Packet, header};
use jalapeno_hw::queue::COMPLETION_STOPPED;

use crate::completions::Completions;
use crate::error::{Error, Result};
use crate::lane::{Lane, Way};
use crate::ledger::End;
use crate::ring::Stretch;
use crate::units::Seq;
use crate::waker::Waker;

/// Longest that a stopped queue may take to run again after RESUME. The device acts within
/// QUEUE_TIME; a starved host gets the rest.
const RESUME_TIME: Duration = Duration::from_secs(1);

/// An in-order queue: packets in, sequence numbers out. One thread submits at a time (`&mut`);
/// its `Completions` may be shared with any number of others. Dropped: what is unfinished is
/// cancelled, and the device forgets the queue before its memory goes.
#[derive(Debug)]
pub struct Queue {
    /// Free slots that were found before; `lane` keeps them.
    stretch: Stretch,
    lane: Way,
    /// The lane's, at hand.
    session: u64,
    completions: Completions,
    /// Lets the device forget the queue; runs after the lane ended.
    keeper: Option<Box<dyn Keeper>>,
}

/// Who can reset a queue and make the device forget it.
pub(crate) trait Keeper: Send + Sync + std::fmt::Debug {
    /// Resets the queue: its packets are let go.
    fn reset(&self, within: Duration) -> Result<()>;
    /// Returns when the device touches the lane's memory no more; otherwise keeps it for good.
    fn close(&self, lane: &Arc<Lane>);
}

impl Queue {
    pub(crate) fn new(lane: Arc<Lane>, waker: Arc<Waker>, keeper: Option<Box<dyn Keeper>>) -> Self {
        Self {
            // SAFETY: the first one, of an empty ring; `self` keeps the lane with its rings.
            stretch: unsafe { lane.rings().stretch(0, lane.rings().depth()) },
            completions: Completions::new(Arc::clone(&lane), waker),
            session: lane.identity().session,
            lane: Way::new(lane),
            keeper,
        }
    }

    /// Its number on the device.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.lane.identity().number
    }

    /// The mark of the session it belongs to.
    #[inline(always)]
    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    /// Packets that its ring holds.
    #[must_use]
    pub fn depth(&self) -> u64 {
        self.lane.rings().depth()
    }

    /// The consumer's side, to be cloned and shared.
    #[must_use]
    pub fn completions(&self) -> &Completions {
        &self.completions
    }

    /// Submits one packet and rings the doorbell; gives its sequence number. The packet's validity
    /// bit is the library's. Never blocks, makes no system call.
    ///
    /// # Errors
    /// `Full`; `Stopped` after a failure; `Closed`, `Lost`, `Stale`, `Protocol`, `Forked`.
    #[inline]
    pub fn submit_one(&mut self, packet: &Packet) -> Result<Seq> {
        match self.submit_one_quickly(packet) {
            Some(seq) => Ok(seq),
            None => self.submit_slowly(std::slice::from_ref(packet)),
        }
    }

    /// `submit_one` where nothing is unusual, without a call on its way; `None`: nothing was done,
    /// and `submit_one` does it or says why not.
    #[inline(always)]
    pub fn submit_one_quickly(&mut self, packet: &Packet) -> Option<Seq> {
        let traffic = self.lane.traffic();
        let tail = traffic.tail()?;
        let seq = self.stretch.put_one(packet, traffic.submitted())?;
        tail.store(seq);
        Some(Seq(seq))
    }

    /// Submits all of `packets`, or none, with one doorbell; gives the last one's sequence number
    /// (of an empty batch: the last one submitted).
    ///
    /// # Errors
    /// As `submit_one`; `Invalid` for more packets than the ring holds.
    #[inline]
    pub fn submit(&mut self, packets: &[Packet]) -> Result<Seq> {
        match self.submit_quickly(packets) {
            Some(seq) => Ok(seq),
            None => self.submit_slowly(packets),
        }
    }

    /// `submit` where nothing is unusual; `None` as in `submit_one_quickly`.
    #[inline(always)]
    pub fn submit_quickly(&mut self, packets: &[Packet]) -> Option<Seq> {
        let traffic = self.lane.traffic();
        let tail = traffic.tail()?;
        let seq = self.stretch.put_all(packets, traffic.submitted())?;
        tail.store(seq);
        Some(Seq(seq))
    }

    /// The slots that were found before are used up, or the lane does not run.
    #[cold]
    #[inline(never)]
    fn submit_slowly(&mut self, packets: &[Packet]) -> Result<Seq> {
        let last = self.stretch.last().saturating_add(packets.len() as u64);
        let looked = self.lane.look();
        if looked.is_err() || !self.lane.is_running() || last > self.lane.room() {
            return Err(self.refuse(packets.len()));
        }
        let mut rest = packets;
        loop {
            self.find_stretch();
            let fits = usize::try_from(self.stretch.left()).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(fits.min(rest.len()));
            self.stretch.put_all(now, self.lane.traffic().submitted());
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        self.ring();
        if self.stretch.left() == 0 {
            self.find_stretch();
        }
        Ok(Seq(self.stretch.last()))
    }

    /// The slots behind the last packet.
    fn find_stretch(&mut self) {
        let room = self.lane.room();
        // SAFETY: the old one is replaced; `self` keeps the lane with
        // its rings, and is the one producer.
        self.stretch = unsafe { self.lane.rings().stretch(self.stretch.last(), room) };
    }

    fn ring(&self) {
        #[expect(clippy::cast_possible_truncation, reason = "TAIL is the low half")]
        self.lane.doorbell().tail(self.stretch.last() as u32);
    }

    #[cold]
    fn refuse(&self, packets: usize) -> Error {
        let depth = self.depth();
        if packets as u64 > depth {
            return Error::Invalid {
                what: format!("{packets} packets do not fit a ring of {depth}"),
            };
        }
        self.lane.refusal()
    }

    /// Acknowledges a failure: the failed packet and those behind it are final, and the queue
    /// takes packets again. Does nothing if it is not stopped.
    ///
    /// # Errors
    /// `Late` when the device does not resume within a second: cancel the queue or reset the
    /// device. `Full` when a reset hit an idle queue whose completions nobody reaped. `Closed`,
    /// `Lost`, `Stale`, `Protocol`, `Forked`.
    pub fn resume(&mut self) -> Result<()> {
        match self.lane.look() {
            Ok(_) => return Ok(()),
            Err(Error::Stopped) => {}
            Err(error) => return Err(error),
        }
        if self.lane.is_stopped_idle() {
            self.fill_gap()?;
        }
        let Some((at, resume)) = self.lane.begin_resume() else {
            return Ok(());
        };
        self.lane.doorbell().resume(resume);
        self.await_resume(at, resume)?;
        self.lane.finish_resume(resume);
        self.completions.wake_all();
        Ok(())
    }

    /// A reset stopped the queue with nothing in flight, at a packet that does not exist yet.
    /// RESUME must lie beyond it, so a NOP takes its place and is cancelled.
    fn fill_gap(&mut self) -> Result<()> {
        self.find_stretch();
        let mut packet = Packet::ZERO;
        packet.header = header(Opcode::Nop, 0);
        let submitted = self.lane.traffic().submitted();
        if self.stretch.put_one(&packet, submitted).is_none() {
            return Err(Error::Full);
        }
        self.ring();
        Ok(())
    }

    fn await_resume(&self, at: u64, resume: u64) -> Result<()> {
        let begin = Instant::now();
        let stood = (at - 1) | COMPLETION_STOPPED;
        let mut kicked = begin;
        loop {
            let word = self.lane.word();
            if word & !COMPLETION_STOPPED == resume - 1 && word != stood {
                return Ok(());
            }
            if word != stood {
                self.lane.end(End::Quarantined((
                    jalapeno_hw::faults::FaultCode::SequenceBeyond,
                    format!(
                        "queue {} was resumed at {resume} from {at} and completed {word:#x}",
                        self.number()
                    ),
                )));
                return Err(self.lane.refusal());
            }
            self.lane.note_loss();
            if !self.lane.is_stopped() {
                return Err(self.lane.refusal());
            }
            if begin.elapsed() > RESUME_TIME {
                return Err(Error::Late {
                    what: "resuming the queue",
                    after: RESUME_TIME,
                });
            }
            if kicked.elapsed() > RESUME_TIME / 10 {
                kicked = Instant::now();
                self.lane.control().kick(self.number())?;
            }
            std::thread::sleep(Duration::from_micros(20));
        }
    }

    /// Cancels every unfinished job by a queue reset and takes packets again. When it returns
    /// without an error the device touches the jobs' memory no more. A stopped queue is resumed.
    ///
    /// # Errors
    /// `Late`, `NeedsReset`: go one level up and reset the device. Otherwise as `resume`.
    pub fn cancel(&mut self, timeout: Duration) -> Result<()> {
        match self.lane.look() {
            Ok(seen) if seen == self.stretch.last() => return Ok(()),
            Ok(_) => {}
            Err(Error::Stopped) => return self.resume(),
            Err(error) => return Err(error),
        }
        let begin = Instant::now();
        match &self.keeper {
            Some(keeper) => keeper.reset(timeout)?,
            None => return self.lane.control().check(),
        }
        loop {
            match self.lane.look() {
                Err(Error::Stopped) => return self.resume(),
                Err(error) => return Err(error),
                Ok(_) if begin.elapsed() > timeout => {
                    return Err(Error::Late {
                        what: "the queue's reset",
                        after: timeout,
                    });
                }
                Ok(_) => std::thread::sleep(Duration::from_micros(20)),
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if !self.lane.is_ours() {
            return; // a child of fork(): the queue is its parent's
        }
        self.completions.end();
        self.completions.finish();
        if let Some(keeper) = &self.keeper {
            keeper.close(self.lane.lane());
        }
    }
}
