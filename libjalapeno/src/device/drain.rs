//! Draining: nothing touches host memory any more before the device is let go. Host interface 8.1.

use std::time::Duration;

use jalapeno_hw::regs::{Control, Status};

use super::{Device, master};
use crate::error::Result;
use crate::mmio::until;

/// What a starved host gets on top of the device's own time.
const PATIENCE: Duration = Duration::from_millis(400);

impl Device {
    /// Returns when the device is idle. Usually it is: every queue was destroyed before.
    ///
    /// # Errors
    /// `Late` when it does not become idle within its quiesce time; `Lost`.
    pub(super) fn drain(&self) -> Result<()> {
        let idle = || Ok(self.registers.read::<Status>()?.idle() != 0);
        if idle()? {
            return Ok(());
        }
        self.registers.write(Control::default().with_quiesce(1))?;
        let time = u64::from(self.info.capabilities.time.quiesce_us);
        until("quiescing", Duration::from_micros(time) + PATIENCE, idle)
    }

    /// Turns bus mastering off: the device reaches no memory any more, whatever it does.
    ///
    /// # Errors
    /// `Lost`.
    pub(crate) fn isolate(&self) -> Result<()> {
        master(&self.transport, false)
    }

    /// Lets queues run that an earlier owner quiesced and then left.
    pub(super) fn lift_quiesce(&self) -> Result<()> {
        if self.registers.read::<Control>()?.quiesce() != 0 {
            self.registers.write(Control::default())?;
        }
        Ok(())
    }
}
