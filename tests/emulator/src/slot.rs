//! The slot a card sits in: config space, client memory and interrupts of its owner.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dma::{Dma, Way};
use crate::gate::Gate;
use crate::host::{Host, Refusal, Stretch};
use crate::irq::Vectors;
use crate::pci::{Config, Effect, Shape};

/// Answers for memory that the owner mapped without a file.
pub trait Asked: Send + Sync + std::fmt::Debug {
    /// Reads the client's memory.
    ///
    /// # Errors
    /// `Broken` when it does not answer in time, or refuses.
    fn read(&self, address: u64, into: &mut [u8], gate: &Gate) -> Result<(), Refusal>;
    /// Writes it.
    ///
    /// # Errors
    /// As `read`.
    fn write(&self, address: u64, from: &[u8], gate: &Gate) -> Result<(), Refusal>;
}

/// A slot.
#[derive(Debug)]
pub struct Slot {
    gate: Gate,
    generation: AtomicU64,
    master: AtomicBool,
    config: Mutex<Config>,
    dma: Dma,
    asked: Mutex<Option<Arc<dyn Asked>>>,
    /// MSI-X.
    pub msix: Vectors,
    /// Errors.
    pub err: Vectors,
    /// Requests to give the device back.
    pub req: Vectors,
}

impl Slot {
    /// An empty slot for a card of this shape.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self {
            gate: Gate::default(),
            generation: AtomicU64::new(1),
            master: AtomicBool::new(false),
            config: Mutex::new(Config::new(shape)),
            dma: Dma::default(),
            asked: Mutex::default(),
            msix: Vectors::new(shape.vectors),
            err: Vectors::new(1),
            req: Vectors::new(1),
        }
    }

    /// Maps client memory. Errors as `Dma::map`.
    ///
    /// # Errors
    /// As `Dma::map`.
    pub fn map(
        &self,
        address: u64,
        bytes: u64,
        (readable, writable): (bool, bool),
        file: Option<(std::os::fd::OwnedFd, u64)>,
    ) -> Result<(), nix::errno::Errno> {
        // What is added takes nothing away from the engine, so it may stay inside.
        self.dma.map(address, bytes, readable, writable, file)?;
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Unmaps client memory: after this the engine does not touch it.
    ///
    /// # Errors
    /// As `Dma::unmap`.
    pub fn unmap(&self, address: u64, bytes: u64) -> Result<u64, nix::errno::Errno> {
        let _out = self.gate.exclude();
        let freed = self.dma.unmap(address, bytes)?;
        self.generation.fetch_add(1, Ordering::Release);
        Ok(freed)
    }

    /// Unmaps everything.
    pub fn unmap_all(&self) {
        let _out = self.gate.exclude();
        self.dma.clear();
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Regions mapped now.
    #[must_use]
    pub fn regions(&self) -> usize {
        self.dma.regions()
    }

    /// Who answers for memory without a file.
    pub fn ask(&self, asked: Option<Arc<dyn Asked>>) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = asked;
    }

    /// Reads config space; whether the range is inside.
    #[must_use]
    pub fn read_config(&self, offset: usize, into: &mut [u8]) -> bool {
        self.config().read(offset, into)
    }

    /// Writes config space; what else is to be done.
    #[must_use]
    pub fn write_config(&self, offset: usize, from: &[u8]) -> Option<Effect> {
        let mut config = self.config();
        let effect = config.write(offset, from);
        let master = config.is_bus_master();
        drop(config);
        self.set_master(master);
        effect
    }

    /// Config space after a function level reset.
    pub fn reset_config(&self) {
        self.config().reset();
        self.set_master(false);
    }

    /// Frees whoever waits to send an interrupt to a client that does not want it. Called every
    /// now and then.
    pub fn relieve(&self) {
        for vectors in [&self.msix, &self.err, &self.req] {
            vectors.relieve();
        }
    }

    /// Nothing of the owner's is left: memory, interrupts, bus mastering.
    pub fn vacate(&self) {
        self.reset_config();
        self.ask(None);
        self.unmap_all();
        for vectors in [&self.msix, &self.err, &self.req] {
            vectors.clear();
        }
    }

    fn config(&self) -> MutexGuard<'_, Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_master(&self, master: bool) {
        if self.master.load(Ordering::Relaxed) != master {
            // Off means that no access is under way any more when the write is answered.
            let _out = self.gate.exclude();
            self.master.store(master, Ordering::Release);
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    fn client(&self) -> Result<Arc<dyn Asked>, Refusal> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or(Refusal::Broken)
    }
}

impl Host for Slot {
    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn is_bus_master(&self) -> bool {
        self.master.load(Ordering::Acquire)
    }

    fn stretch(&self, iova: u64, bytes: u64, write: bool) -> Result<Stretch, Refusal> {
        if !self.is_bus_master() {
            return Err(Refusal::BusMasterOff);
        }
        self.dma.stretch(iova, bytes, write)
    }

    fn read(&self, iova: u64, into: &mut [u8]) -> Result<(), Refusal> {
        let mut done = 0;
        while done < into.len() {
            let left = (into.len() - done) as u64;
            let at = iova.checked_add(done as u64).ok_or(Refusal::Unmapped)?;
            let (way, bytes) = self.dma.way(at, left, false)?;
            let end = done + usize::try_from(bytes).map_err(|_| Refusal::Broken)?;
            match way {
                Way::File(file, offset) => Way::read(&file, offset, &mut into[done..end])?,
                Way::Client => self.client()?.read(at, &mut into[done..end], &self.gate)?,
            }
            done = end;
        }
        Ok(())
    }

    fn write(&self, iova: u64, from: &[u8]) -> Result<(), Refusal> {
        let mut done = 0;
        while done < from.len() {
            let left = (from.len() - done) as u64;
            let at = iova.checked_add(done as u64).ok_or(Refusal::Unmapped)?;
            let (way, bytes) = self.dma.way(at, left, true)?;
            let end = done + usize::try_from(bytes).map_err(|_| Refusal::Broken)?;
            match way {
                Way::File(file, offset) => Way::write(&file, offset, &from[done..end])?,
                Way::Client => self.client()?.write(at, &from[done..end], &self.gate)?,
            }
            done = end;
        }
        Ok(())
    }

    fn nearest(&self, iova: u64) -> Option<(u64, u64)> {
        self.dma.nearest(iova)
    }

    fn fire(&self, vector: u16) {
        if self.is_bus_master() {
            self.msix.fire(u32::from(vector));
        }
    }
}
