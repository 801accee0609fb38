//! Resets: prepare, done, verified. Host interface 8.2.

use std::time::{Duration, Instant};

use jalapeno_hw::regs::{
    Generation as GenerationRegister, Magic, Reset, ResetLevel, ResetPhase, ResetStatus,
};

use super::{Device, master};
use crate::error::{Error, Result};
use crate::mmio::until;
use crate::units::Generation;

/// What a reset did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetReport {
    /// The level.
    pub level: ResetLevel,
    /// How long it took, verification included.
    pub took: Duration,
    /// The generation after it.
    pub generation: Generation,
}

impl Device {
    /// Resets: level `Queue` (with its number), `Engines`, `Device`, `Function` or `Bus`. Returns
    /// when the device serves again and that was verified. `Device` and what is above it end the
    /// generation: every queue is gone, what was made before is stale, memory mappings stay.
    ///
    /// # Errors
    /// `Late` (go one level up), `NeedsReset` (the device says that it failed), `Unsupported`
    /// (a level this path has not, or an observer), `Invalid`, `Lost`, `Forked`. `Io` after the reset
    /// where the host has no interrupt any more: reset again once it has.
    pub fn reset(&self, level: ResetLevel, queue: u32, within: Duration) -> Result<ResetReport> {
        let owner = self.owner()?;
        self.check()?;
        let begin = Instant::now();
        let before = self.registers.read::<GenerationRegister>()?.0;
        log::info!("reset of {} at level {}", self.info.name, level.name());
        match level {
            ResetLevel::Queue | ResetLevel::Engines => {
                self.command_reset(level, queue, within)?;
            }
            ResetLevel::Device => {
                self.command_reset(level, queue, within)?;
                // A session that could not let go of it has turned that off.
                master(&self.transport, true)?;
            }
            ResetLevel::Function => {
                self.transport.reset()?;
                master(&self.transport, true)?;
            }
            ResetLevel::Bus => {
                self.transport.reset_bus()?;
                master(&self.transport, true)?;
            }
            ResetLevel::Client => {
                return Err(Error::Unsupported {
                    what: format!("a reset at level {} by this library", level.name()),
                });
            }
        }
        let left = || within.saturating_sub(begin.elapsed());
        let whole = matches!(level, ResetLevel::Function | ResetLevel::Bus);
        if whole || level == ResetLevel::Device {
            until("the device's new generation", left(), || {
                let there = self.registers.read::<Magic>()?.0 == jalapeno_hw::regs::MAGIC;
                Ok(there && self.registers.read::<GenerationRegister>()?.0 > before)
            })?;
            self.wait_ready()?;
            self.accept_features()?;
        }
        let renewed = match whole {
            true => owner.vectors.renew(),
            false => Ok(()),
        };
        // It may have been another reset: the kernel's, of a link that failed.
        self.check()?;
        // Also where vectors are missing: the reset was, and what was before it is over.
        let generation = self.registers.read::<GenerationRegister>()?.0;
        self.begin_generation(generation);
        renewed?;
        Ok(ResetReport {
            level,
            took: begin.elapsed(),
            generation: Generation(generation),
        })
    }

    /// By BAR0's RESET register.
    fn command_reset(&self, level: ResetLevel, queue: u32, within: Duration) -> Result<()> {
        let count = self.info.capabilities.queues.count;
        if level == ResetLevel::Queue && queue >= count {
            return Err(Error::Invalid {
                what: format!("queue {queue}: the device has 0 to {}", count - 1),
            });
        }
        let queue = if level == ResetLevel::Queue { queue } else { 0 };
        let phase = || -> Result<(Option<ResetPhase>, bool)> {
            let status = self.registers.read::<ResetStatus>()?;
            let ours = status.level() == level.code() && status.queue() == queue;
            Ok((ResetPhase::from_code(status.phase()), ours))
        };
        let begin = Instant::now();
        until("an earlier reset", within, || {
            Ok(phase()?.0 != Some(ResetPhase::Preparing))
        })?;
        self.registers
            .write(Reset::default().with_level(level.code()).with_queue(queue))?;
        let left = within.saturating_sub(begin.elapsed());
        until("the reset", left, || match phase()? {
            (Some(ResetPhase::Done), true) => Ok(true),
            (Some(ResetPhase::Failed), _) => Err(Error::NeedsReset {
                why: "a reset failed: reset one level up",
            }),
            _ => Ok(false),
        })
    }
}
