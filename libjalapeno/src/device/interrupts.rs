//! The device's interrupts: its vectors, and which of them a queue raises.

use std::sync::Arc;

use jalapeno_hw::regs::Feature;

use super::Device;
use crate::error::{Error, Result};
use crate::irq::{Vector, Vectors};

impl Device {
    /// Its interrupt vectors.
    ///
    /// # Errors
    /// As `dma`.
    pub fn vectors(&self) -> Result<&Vectors> {
        Ok(&self.owner()?.vectors)
    }

    /// Vector 0: raised when the fault log grows; read `fault_log` then. `None` where the device
    /// has no vectors.
    ///
    /// # Errors
    /// As `dma`.
    pub fn events(&self) -> Result<Option<Arc<Vector>>> {
        self.owner()?.vectors.get(0)
    }

    /// The vector that a queue raises: this one, or one of its own, shared where there are fewer. `None`
    /// where it raises none.
    pub(crate) fn vector_of(&self, wanted: Option<u32>, queue: u32) -> Result<Option<Arc<Vector>>> {
        let vectors = self.vectors()?;
        // Without ARM no queue interrupts: sleepers nap instead. Host interface 5.7.
        let arms = self.info.features & 1 << Feature::Arm.code() != 0;
        let Some(number) = wanted else {
            return if arms {
                vectors.for_queue(queue)
            } else {
                Ok(None)
            };
        };
        match vectors.get(number)? {
            Some(vector) => Ok(Some(vector).filter(|_| arms)),
            None => Err(Error::Invalid {
                what: format!("vector {number}: there are {}", vectors.count()),
            }),
        }
    }
}
