//! The scrub: nobody reads in HBM what another owner left there. Host interface 10.5.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::regs::{Feature, Scrub as Start, ScrubCount, ScrubPhase, ScrubStatus};

use super::Device;
use crate::error::{Error, Result};
use crate::mmio::until;

/// What a starved host gets on top of the device's own time.
const PATIENCE: Duration = Duration::from_secs(1);

/// How HBM was made fit for this owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scrub {
    /// The library had it scrubbed. SCRUB_COUNT before and after is the proof.
    Done {
        /// SCRUB_COUNT before it.
        before: u64,
        /// SCRUB_COUNT after it: larger.
        after: u64,
        /// How long it took.
        took: Duration,
    },
    /// The kernel module had it scrubbed before the device could be opened.
    ByKernelModule,
    /// The device cannot scrub: HBM may hold what its last owner left there.
    NotOffered,
}

/// How far the scrub of an open device is.
#[derive(Debug, Default)]
pub(super) struct Scrubbing {
    step: Mutex<Step>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
enum Step {
    /// HBM was not handed out yet.
    #[default]
    Due,
    /// A thread has it scrubbed; no lock is held meanwhile.
    Running,
    /// It may be handed out.
    Clean(Scrub),
}

impl Device {
    /// Has all of HBM scrubbed, unless that was done since the device was opened: what the first
    /// session and the first `hbm` do. An opening alone, as for a reset, does not wait for it.
    ///
    /// # Errors
    /// `NeedsReset` where the scrub failed: HBM is not handed out then; `Late` after the device's own
    /// time (TIME.scrub_us) and a second; `Protocol` where the count did not rise; `Unsupported` for
    /// an observer; `Lost`, `Forked`.
    pub fn scrub(&self) -> Result<Scrub> {
        self.owner()?;
        let mut step = self.scrubbing.step();
        loop {
            match *step {
                Step::Clean(how) => return Ok(how),
                Step::Due => break,
                Step::Running => step = self.wait_for_the_other(step)?,
            }
        }
        *step = Step::Running;
        drop(step);
        let outcome = self.make_clean();
        *self.scrubbing.step() = match &outcome {
            Ok(how) => Step::Clean(*how),
            Err(_) => Step::Due,
        };
        self.scrubbing.changed.notify_all();
        outcome
    }

    /// Waits while another thread has HBM scrubbed.
    fn wait_for_the_other<'a>(&self, step: MutexGuard<'a, Step>) -> Result<MutexGuard<'a, Step>>
    where
        Self: 'a,
    {
        let time = self.scrub_time() + PATIENCE;
        let running = |step: &mut Step| matches!(step, Step::Running);
        let (step, waited) = self
            .scrubbing
            .changed
            .wait_timeout_while(step, time, running)
            .unwrap_or_else(PoisonError::into_inner);
        match waited.timed_out() {
            true => Err(Error::Late {
                what: "the scrub of HBM by another thread",
                after: time,
            }),
            false => Ok(step),
        }
    }

    /// The device's own time for a scrub, and patience.
    fn scrub_time(&self) -> Duration {
        let time = self.info.capabilities.time.scrub_us;
        Duration::from_micros(u64::from(time)) + PATIENCE
    }

    fn make_clean(&self) -> Result<Scrub> {
        self.check()?;
        if self.transport.is_scrubbed() {
            return Ok(Scrub::ByKernelModule);
        }
        if self.info.features_offered & 1 << Feature::Scrub.code() == 0 {
            log::warn!(
                "{} cannot scrub: HBM may hold what its last owner left",
                self.info.name
            );
            return Ok(Scrub::NotOffered);
        }
        let begin = Instant::now();
        let phase = || -> Result<Option<ScrubPhase>> {
            Ok(ScrubPhase::from_code(
                self.registers.read::<ScrubStatus>()?.phase(),
            ))
        };
        let ended = || Ok(phase()? != Some(ScrubPhase::Running));
        // Another's, begun before this opening, proves nothing: after it memory may have been used.
        until("an earlier scrub of HBM", self.scrub_time(), ended)?;
        let before = self.registers.read::<ScrubCount>()?.0;
        self.registers.write(Start::default().with_start(1))?;
        until("the scrub of HBM", self.scrub_time(), ended)?;
        match phase()? {
            Some(ScrubPhase::Done) => {}
            Some(ScrubPhase::Idle) => {
                self.check()?;
                return Err(Error::NeedsReset {
                    why: "a reset came between while HBM was scrubbed",
                });
            }
            _ => {
                return Err(Error::NeedsReset {
                    why: "HBM could not be scrubbed, and may hold what its last owner left",
                });
            }
        }
        let after = self.registers.read::<ScrubCount>()?.0;
        if after <= before {
            return Err(Error::Protocol {
                code: FaultCode::BadDiscovery,
                what: format!("a scrub is done, and SCRUB_COUNT went from {before} to {after}"),
            });
        }
        let took = begin.elapsed();
        log::info!(
            "{}: HBM scrubbed in {took:?}, count {before} to {after}",
            self.info.name
        );
        Ok(Scrub::Done {
            before,
            after,
            took,
        })
    }
}

impl Scrubbing {
    fn step(&self) -> MutexGuard<'_, Step> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
