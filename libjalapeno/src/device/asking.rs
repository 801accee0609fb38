//! Asking a device how it is: clock, state, heartbeat, registers. For observers too.

use jalapeno_hw::reg::{Access, RegisterRow};
use jalapeno_hw::regs::{BAR0, DeviceState, Heartbeat, Status};

use super::Device;
use crate::clock::Clock;
use crate::error::Result;

impl Device {
    /// One moment in device time and the host's clocks.
    ///
    /// # Errors
    /// `Forked`, `Lost`.
    pub fn clock(&self) -> Result<Clock> {
        self.check()?;
        let ticks = self.info.capabilities.time.ticks_per_second;
        Clock::read(&self.registers, ticks)
    }

    /// The device's state; the raw number where the library does not know it.
    ///
    /// # Errors
    /// `Forked`, `Lost`.
    pub fn state(&self) -> Result<std::result::Result<DeviceState, u32>> {
        self.check()?;
        let raw = self.registers.read::<Status>()?.state();
        Ok(DeviceState::from_code(raw).ok_or(raw))
    }

    /// The firmware's heartbeat: must differ after `limits::HEARTBEAT_PERIOD`.
    ///
    /// # Errors
    /// `Forked`, `Lost`.
    pub fn heartbeat(&self) -> Result<u32> {
        self.check()?;
        Ok(self.registers.read::<Heartbeat>()?.0)
    }

    /// Every register of BAR0 with its value; `None` where it is write-only.
    ///
    /// # Errors
    /// `Forked`, `Lost`.
    pub fn dump(&self) -> Result<Vec<(&'static RegisterRow, Option<u64>)>> {
        self.check()?;
        let value = |row: &'static RegisterRow| -> Result<Option<u64>> {
            if row.access == Access::Wo {
                return Ok(None);
            }
            let at = u64::from(row.offset);
            let low = u64::from(self.registers.word(at)?);
            Ok(Some(if row.bytes == 8 {
                low | u64::from(self.registers.word(at + 4)?) << 32
            } else {
                low
            }))
        };
        BAR0.iter().map(|row| Ok((row, value(row)?))).collect()
    }
}
