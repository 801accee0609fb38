//! LAUNCH: finds a kernel's operands in memory and runs it. Host interface 6.8.

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::packets::Launch;

use crate::execute::{Failure, Runner, Running};
use crate::trouble::Trouble;

impl Runner {
    /// Runs a kernel of the library.
    ///
    /// # Errors
    /// The fault that its record will name.
    pub(crate) fn launch(
        &mut self,
        _running: Running,
        _kernel: u32,
        launch: &Launch,
    ) -> Result<(), Failure> {
        if launch.flags != 0 {
            return Err(Trouble::reserved(0x24).into());
        }
        Err(Trouble::new(FaultCode::UnknownKernel).into())
    }
}
