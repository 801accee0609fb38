//! A board: a card in a slot behind a socket, running. What tests and the program start.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;

use crate::card::{Card, Order};
use crate::doorbells::Doorbells;
use crate::engine;
use crate::faults::{self, Fault};
use crate::identity::{Identity, Options};
use crate::pci::Shape;
use crate::server::{Backing, Function, Page, Server};
use crate::slot::Slot;
use crate::tally::Tally;
use crate::telemetry::{REFRESH, Sensors};

/// What a board did and has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets completed since the last device reset, over all queues.
    pub completed: u64,
    /// Packets failed since the last device reset, over all queues.
    pub failed: u64,
    /// Fault records since power-on.
    pub faults: u64,
    /// Resets of the device since power-on, plus 1.
    pub generation: u64,
    /// The energy counter in microjoules.
    pub energy_uj: u64,
    /// Bytes of HBM resident.
    pub resident: u64,
    /// DMA regions that the owner mapped.
    pub regions: usize,
    /// Interrupt vectors that the owner enabled.
    pub vectors: usize,
    /// Telemetry copies: one a connection.
    pub connections: usize,
}

/// A running board. Dropping it disconnects everyone and ends its threads.
#[derive(Debug)]
pub struct Board {
    // The server goes first: it lets the card finish with its owner.
    server: Option<Server>,
    path: PathBuf,
    card: Arc<Card>,
    slot: Arc<Slot>,
    engine: Option<JoinHandle<()>>,
    sensors: Option<(Sender<()>, JoinHandle<()>)>,
    folder: Option<PathBuf>,
}

impl Board {
    /// A board on a socket in a folder of its own, removed when the board goes.
    ///
    /// # Errors
    /// What the system said to memory, threads or the socket.
    pub fn start(options: Options) -> io::Result<Self> {
        let pattern = std::env::temp_dir().join("jalapeno-XXXXXX");
        let folder = nix::unistd::mkdtemp(&pattern)?;
        let mut board = Self::serve(options, &folder.join("card.sock"));
        match &mut board {
            Ok(board) => board.folder = Some(folder),
            Err(_) => drop(std::fs::remove_dir(folder)),
        }
        board
    }

    /// A board on a socket at a path.
    ///
    /// # Errors
    /// What the system said to memory, threads or the socket.
    pub fn serve(options: Options, path: &Path) -> io::Result<Self> {
        let queues = options.queues.clamp(1, crate::identity::QUEUES_MOST);
        let window = crate::hbm::size(options.hbm_bytes).next_power_of_two();
        let shape = Shape {
            bars: [
                options.bar0_bytes,
                0,
                Doorbells::size(queues) as u64,
                0,
                window,
                0,
            ],
            vectors: if options.msix { options.vectors } else { 0 },
            serial: Identity::new(&options).serial,
        };
        let slot = Arc::new(Slot::new(shape));
        let card = Arc::new(Card::new(options, Arc::clone(&slot) as Arc<_>)?);
        let mut sensors = Sensors::default();
        sensors.refresh(&card);
        let server = Server::start(path, Arc::clone(&slot), Arc::clone(&card) as Arc<_>)?;
        let mut board = Self {
            server: Some(server),
            path: path.to_owned(),
            card,
            slot,
            engine: None,
            sensors: None,
            folder: None,
        };
        board.engine = Some(engine::start(&board.card)?);
        board.sensors = Some(watch(&board, sensors)?);
        Ok(board)
    }

    /// Its socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its card, for those who look inside.
    #[must_use]
    pub fn card(&self) -> &Arc<Card> {
        &self.card
    }

    /// Its slot, for those who look inside.
    #[must_use]
    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// Misbehaves so at the next event that the fault counts.
    pub fn fault(&self, fault: Fault) {
        self.fault_at(fault, 1);
    }

    /// Misbehaves so at the `at`th event from now on; 1 is the next.
    pub fn fault_at(&self, fault: Fault, at: u64) {
        self.card.injector.arm(faults::Order { fault, at });
    }

    /// Forgets every fault that is armed or lasts.
    pub fn calm(&self) {
        self.card.injector.calm();
    }

    /// What it did and has.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let sum = |what: fn(&crate::card::QueueFigures) -> u64| {
            self.card.queues.iter().map(what).sum::<u64>()
        };
        Counters {
            completed: sum(|queue| queue.completed.load(Ordering::Relaxed)),
            failed: sum(|queue| queue.failed.load(Ordering::Relaxed)),
            faults: self.card.log.count(),
            generation: self.card.generation.load(Ordering::Relaxed),
            energy_uj: self.card.energy_uj(),
            resident: self.card.hbm.used(),
            regions: self.slot.regions(),
            vectors: self.slot.msix.enabled(),
            connections: self.card.telemetry.copies(),
        }
    }

    /// Messages taken, by command, function level resets that clients asked for, doorbells that came
    /// as messages, and kernels that ran, by name, as JSON: for who measures.
    #[must_use]
    pub fn counted(&self) -> serde_json::Value {
        let taken = |server: &Server| Tally::of_messages(&server.shared().messages);
        serde_json::json!({
            "messages": self.server.as_ref().map(taken),
            "resets": self.server.as_ref().map(|server| server.shared().resets.load(Ordering::Relaxed)),
            "doorbells": self.card.doorbells_rung.load(Ordering::Relaxed),
            "launches": Tally::of_launches(&self.card.launches),
        })
    }

    /// Dies as a process does that is killed: no packet ends any more, then the socket is gone.
    pub fn kill(mut self) {
        self.stop_engine();
    }

    fn stop_engine(&mut self) {
        if let Some(engine) = self.engine.take() {
            self.card.order(Order::Stop);
            if engine.join().is_err() {
                log::error!("the engine ended by a panic");
            }
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.server = None;
        self.stop_engine();
        if let Some((stop, thread)) = self.sensors.take() {
            drop(stop);
            if thread.join().is_err() {
                log::error!("the telemetry thread ended by a panic");
            }
        }
        if let Some(folder) = self.folder.take() {
            // Empty unless somebody else put something there: then it is not ours to remove.
            drop(std::fs::remove_dir(folder));
        }
    }
}

/// Refreshes telemetry on a thread of its own, so that no packet can hold it up; and frees whoever
/// a client holds up.
fn watch(board: &Board, mut sensors: Sensors) -> io::Result<(Sender<()>, JoinHandle<()>)> {
    let (stop, stopped) = channel();
    let (card, slot) = (Arc::clone(&board.card), Arc::clone(&board.slot));
    let thread = std::thread::Builder::new()
        .name("telemetry".into())
        .spawn(move || {
            while stopped.recv_timeout(REFRESH) == Err(RecvTimeoutError::Timeout) {
                sensors.refresh(&card);
                slot.relieve();
            }
        })?;
    Ok((stop, thread))
}

impl Function for Card {
    fn bars(&self) -> [u64; 6] {
        let window = self.hbm.bytes().next_power_of_two();
        let registers = self.options.bar0_bytes;
        [registers, 0, self.doorbells.bytes() as u64, 0, window, 0]
    }

    fn read(&self, bar: u32, offset: u64, into: &mut [u8]) {
        into.fill(0);
        match bar {
            0 => self.read_registers(offset, into),
            2 => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                self.doorbells.span().read(offset, into);
            }
            _ if offset < self.hbm.bytes() => {
                let inside = (self.hbm.bytes() - offset).min(into.len() as u64);
                let inside = usize::try_from(inside).unwrap_or_default();
                if let Some(into) = into.get_mut(..inside)
                    && self.hbm.read_sparse(offset, into).is_err()
                {
                    into.fill(0xFF);
                }
            }
            _ => {}
        }
    }

    fn write(&self, bar: u32, offset: u64, from: &[u8]) {
        match bar {
            0 => self.write_registers(offset, from),
            2 => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                self.doorbells.write(offset, from);
                if Doorbells::is_tail(offset) {
                    self.doorbells_rung.fetch_add(1, Ordering::Relaxed);
                }
                self.wake();
            }
            _ => {
                let bytes = from.len() as u64;
                let inside = offset
                    .checked_add(bytes)
                    .is_some_and(|end| end <= self.hbm.bytes());
                // A store that has nowhere to go is dropped, as a posted write is.
                if inside && self.hbm.reserve(offset, bytes).is_ok() {
                    self.hbm.span(offset, bytes).write(0, from);
                }
            }
        }
    }

    fn backing(&self, bar: u32) -> Option<Backing<'_>> {
        let (file, bytes) = match bar {
            2 if self.options.doorbells_mapped => {
                (self.doorbells.file(), self.doorbells.bytes() as u64)
            }
            4 => (self.hbm.file(), self.hbm.bytes()),
            _ => return None,
        };
        Some(Backing {
            file,
            offset: 0,
            area: (0, bytes),
        })
    }

    fn page(&self) -> io::Result<Arc<dyn Page>> {
        // A card that misbehaves relays its records, so that each read of them may go wrong.
        let records = self.injector.is_calm().then_some(&*self.capabilities);
        Ok(self.telemetry.copy(records)?)
    }

    fn reset(&self) {
        if !self.reset_function() {
            log::warn!("a function level reset was not done in its time");
        }
    }
}
