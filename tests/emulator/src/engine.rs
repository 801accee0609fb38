//! The engine: the thread that runs the queues.
//!
//! A plain store of the client wakes nobody. So the engine spins for a millisecond after the last
//! work, then looks every 50 us, and after 100 ms every 1.75 ms (0.9 while a packet waits). Orders
//! from the registers wake it at once. While it may touch client memory it is inside the host's gate.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::packets::{HEADER_OPCODE, Opcode};
use jalapeno_hw::profile::ProfileStatus;
use jalapeno_hw::regs::{Feature, QueueState};

use crate::bands::Shares;
use crate::card::Card;
use crate::execute::{Clock, Failure, Outcome, Runner};
use crate::faults::{Fault, Unit};
use crate::kernels::Pool;
use crate::profile::Mark;
use crate::queue::{Block, Queue, Stop};
use crate::trouble::{Culprit, Trouble};
use crate::watch::Watch;

/// Packets run before the completion word is stored.
const BURST: u32 = 16;
/// Rounds over all queues between two looks at doorbells while everything is empty.
const ROUNDS_A_DOORBELL: u32 = 32;
/// Looks at a queue between two clock reads while everything is empty.
const LOOKS_A_CLOCK: u32 = 1024;
/// How long the engine spins after the last work.
const SPIN_NS: u64 = 1_000_000;
/// How long it looks often.
const OFTEN_NS: u64 = 100_000_000;
/// Its sleep while it looks often.
const OFTEN: Duration = Duration::from_micros(50);
/// Its sleep when nothing has happened for long: below the 2 ms of Host interface 5.4.
const SELDOM: Duration = Duration::from_micros(1750);
/// The same while a packet waits: a fence is noticed within 1 ms. Host interface 6.6.
const WAITING: Duration = Duration::from_micros(900);

/// The engine.
#[derive(Debug)]
pub struct Engine {
    pub(crate) card: Arc<Card>,
    pub(crate) queues: Vec<Queue>,
    /// One for each of them, while `watching`.
    pub(crate) watches: Vec<Watch>,
    /// Nothing about a queue changed since its watch was set.
    pub(crate) watching: bool,
    pub(crate) runner: Runner,
    pub(crate) shares: Shares,
    /// What kernels compute on.
    pub(crate) threads: usize,
    /// Where the next profile begins, if nothing comes between.
    pub(crate) mark: Mark,
    /// No packet runs (fault injection, quiesce).
    pub(crate) halted: bool,
    pub(crate) quiesced: bool,
    /// What [`Host::generation`](crate::host::Host::generation) was when pointers were found.
    pub(crate) located: u64,
    pub(crate) bus_master: bool,
    /// Of the realtime queues' engine: when it last made another packet stand still to ask the client.
    pub(crate) asked: u64,
}

/// Starts a card's engine; it ends when the card is ordered to stop.
///
/// # Errors
/// What the system said to a new thread.
pub fn start(card: &Arc<Card>) -> io::Result<JoinHandle<()>> {
    let threads = match card.options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let mut engine = Engine::new(Arc::clone(card), Pool::new(threads), threads);
    let thread = std::thread::Builder::new()
        .name("engine".into())
        .spawn(move || engine.run())?;
    card.enlist(thread.thread().clone());
    Ok(thread)
}

impl Engine {
    /// An engine without queues.
    pub(crate) fn new(card: Arc<Card>, pool: Pool, threads: usize) -> Self {
        Self {
            queues: Vec::new(),
            watches: Vec::new(),
            watching: false,
            runner: Runner::new(Arc::clone(&card), pool),
            card,
            shares: Shares::default(),
            threads,
            mark: Mark::default(),
            halted: false,
            quiesced: false,
            located: u64::MAX,
            bus_master: false,
            asked: 0,
        }
    }

    fn run(&mut self) {
        // Otherwise a sleep of 50 us takes 100.
        let _ = nix::sys::prctl::set_timerslack(1000);
        let card = Arc::clone(&self.card);
        let gate = card.host.gate();
        gate.enter();
        let mut last_work = card.now();
        let mut looks = 0u32;
        let mut rounds = 0u32;
        loop {
            if card.has_orders() {
                while let Some(order) = card.take_order() {
                    let go_on = self.obey(order);
                    self.watching = false;
                    card.obeyed();
                    if !go_on {
                        gate.leave();
                        return;
                    }
                }
                last_work = card.now();
            }
            if gate.wanted() {
                gate.leave();
                gate.enter();
            }
            let mut worked = 0;
            if self.urgent().is_some() {
                self.agree();
                if !self.halted && !self.quiesced {
                    worked = self.runner.rush();
                }
            }
            if card.host.generation() != self.located {
                self.locate();
            }
            if !self.halted && !self.quiesced && self.bus_master {
                worked += self.round();
            }
            if worked > 0 {
                looks = 0;
                rounds += 1;
                last_work = 0;
                // Those that stopped or armed are not forgotten for those that are busy.
                if rounds >= ROUNDS_A_DOORBELL {
                    rounds = 0;
                    self.look_at_doorbells();
                }
                continue;
            }
            self.mark = Mark::default();
            let queues = u32::try_from(self.queues.len()).unwrap_or(1).max(1);
            looks += queues;
            rounds += 1;
            if rounds >= ROUNDS_A_DOORBELL {
                rounds = 0;
                self.look_at_doorbells();
            }
            if looks < LOOKS_A_CLOCK {
                std::hint::spin_loop();
                continue;
            }
            looks = 0;
            let now = card.now();
            if last_work == 0 {
                last_work = now;
            }
            let idle = now.saturating_sub(last_work);
            let empty = !self.any_queue(|_| true);
            if idle < SPIN_NS && !empty {
                // On one core the client must get its turn.
                std::thread::yield_now();
                continue;
            }
            self.look_at_doorbells();
            gate.leave();
            if empty || self.halted || self.quiesced {
                std::thread::park_timeout(Duration::from_millis(100));
            } else {
                let waits = self.waits();
                std::thread::park_timeout(match (idle < OFTEN_NS, waits) {
                    (true, _) => OFTEN,
                    (false, true) => WAITING,
                    (false, false) => SELDOM,
                });
            }
            gate.enter();
            // One look at everything, then sleep again.
            looks = LOOKS_A_CLOCK;
        }
    }

    /// Looks at every queue once and runs what is ready; how many packets.
    #[inline]
    pub(crate) fn round(&mut self) -> u32 {
        self.watch();
        if self.shares.contended {
            return self.round_fairly();
        }
        let (mut worked, mut contenders) = (0, 0);
        let located = self.located;
        for index in 0..self.watches.len() {
            if self.watches.get(index).is_some_and(Watch::is_ready) {
                let ran = self.serve(index);
                worked += ran;
                contenders += u32::from(ran > 0);
                if self.moved(located) {
                    break; // what the other watches look at may be gone
                }
            }
        }
        self.shares.contended = contenders > 1;
        worked
    }

    /// Runs what a queue has ready; how many packets.
    #[inline]
    pub(crate) fn serve(&mut self, index: usize) -> u32 {
        let card = &*self.card;
        let memory = card.memory();
        let Some(queue) = self.queues.get_mut(index) else {
            return 0;
        };
        if queue.stop.is_some() || queue.deaf {
            return 0;
        }
        if queue.block.is_some() {
            let worked = self.unblock(index);
            self.watching &= worked == 0;
            return worked;
        }
        if queue.graph.is_some() {
            return self.go_on(index);
        }
        if card.injector.is_armed(Unit::Packet) || card.injector.is_any_active() {
            self.watching = false;
            return self.serve_crookedly(index);
        }
        if queue.shape.profile != 0 || card.profile.is_asked() {
            return self.serve_profiled(index);
        }
        let mut done = 0;
        let mut clock = Clock::default();
        let mut outcome = Ok(Outcome::Done);
        let mut failing = [0; 8];
        while done < BURST
            && let Some(words) = queue.fetch(&memory)
        {
            // Armed before the packet was stored, so it is due at this one: the next look runs it.
            if card.injector.is_armed(Unit::Packet) {
                break;
            }
            // The word shows what is finished before a packet that may run longer starts.
            let long = words[0] & HEADER_OPCODE != u64::from(Opcode::Nop.code());
            if done > 0 && long {
                break;
            }
            match self.runner.execute(queue.number, &words, &mut clock) {
                Ok(Outcome::Done) => {
                    queue.completed += 1;
                    done += 1;
                    // What ran longer may have let mappings change: the ring is found anew.
                    if long {
                        break;
                    }
                }
                other => {
                    (outcome, failing) = (other, words);
                    break;
                }
            }
        }
        if done > 0 {
            card.injector.count(Unit::Packet, done.into());
            card.meter.add_packets(done.into());
            self.publish(index);
            if let (Some(w), Some(q)) = (self.watches.get_mut(index), self.queues.get(index)) {
                *w = q.watch();
            }
        }
        if let Ok(Outcome::Done) = outcome {
            return done;
        }
        self.conclude(index, outcome, failing, done)
    }

    /// Deals with a packet that did not simply end; packets that count as work.
    pub(crate) fn conclude(
        &mut self,
        index: usize,
        outcome: Result<Outcome, Failure>,
        words: [u64; 8],
        done: u32,
    ) -> u32 {
        self.watching = false;
        match outcome {
            Ok(Outcome::Done) => done,
            Ok(Outcome::Blocked(block)) => {
                if let Some(queue) = self.queues.get_mut(index) {
                    queue.block = Some(match block {
                        Block::Fence(wait, _) => Block::Fence(wait, words),
                        other => other,
                    });
                }
                done
            }
            Ok(Outcome::Graph(graph)) => {
                if let Some(queue) = self.queues.get_mut(index) {
                    queue.graph = Some(graph);
                }
                done + 1
            }
            Ok(Outcome::Manage) => {
                match self.manage(&words) {
                    Ok(()) => self.advance(0),
                    Err(trouble) => self.fail(index, trouble, &words),
                }
                done + 1
            }
            Err(Failure::Trouble(trouble)) => {
                self.fail(index, trouble, &words);
                done + 1
            }
            // The order to reset is waiting: it is obeyed next.
            Err(Failure::Abandoned) => done,
        }
    }

    /// Counts the head of a queue, by number, as done and says so.
    pub(crate) fn advance(&mut self, number: u16) {
        self.watching = false;
        let index = self.queues.iter().position(|queue| queue.number == number);
        if let Some(index) = index {
            self.card.injector.count(Unit::Packet, 1);
            self.card.meter.add_packets(1);
            self.finish(index, ProfileStatus::Done);
            if let Some(queue) = self.queues.get_mut(index) {
                queue.block = None;
                if let Some(graph) = queue.graph.take() {
                    self.runner.spare = graph.into_memory();
                }
                queue.completed += 1;
            }
            self.publish(index);
        }
    }

    /// Stores a queue's completion word and sends its interrupt if that is due.
    pub(crate) fn publish(&mut self, index: usize) {
        // A packet that ran long let mappings change.
        if self.card.host.generation() != self.located {
            self.locate();
        }
        if !self.bus_master {
            self.lose(index, Trouble::new(FaultCode::BusMasterOff));
            return;
        }
        let card = &*self.card;
        let Some(queue) = self.queues.get_mut(index) else {
            return;
        };
        if let Some(figures) = card.queues.get(usize::from(queue.number)) {
            figures.completed.store(queue.completed, Ordering::Relaxed);
        }
        if let Err(trouble) = queue.publish(&card.memory()) {
            self.lose(index, trouble);
            return;
        }
        self.interrupt(index);
    }

    /// Sends a queue's interrupt if it is due.
    #[inline]
    fn interrupt(&mut self, index: usize) {
        let card = &*self.card;
        let Some(queue) = self.queues.get_mut(index) else {
            return;
        };
        if !card.has_feature(Feature::Arm) || !queue.take_interrupt() {
            return;
        }
        let vector = queue.shape.vector;
        match card.injector.due(Unit::Interrupt) {
            Some(fault @ Fault::InterruptLost) => card.injector.finish(fault),
            Some(fault) => {
                card.injector.finish(fault);
                card.host.fire((vector + 1) % card.options.vectors.max(1));
            }
            None => card.host.fire(vector),
        }
    }

    /// The head of a queue failed: record, word, interrupts; the queue stops. Host interface 7.
    pub(crate) fn fail(&mut self, index: usize, trouble: Trouble, words: &[u64; 8]) {
        let card = Arc::clone(&self.card);
        self.finish(index, ProfileStatus::Failed);
        let Some(queue) = self.queues.get_mut(index) else {
            return;
        };
        self.watching = false;
        let mut trouble = trouble;
        let mut culprit = queue.culprit(words);
        if let Some(graph) = queue.graph.take() {
            graph.accuse(&mut trouble, &mut culprit);
            self.runner.spare = graph.into_memory();
        }
        let record = card.report(&trouble, &culprit);
        queue.block = None;
        queue.failed += 1;
        queue.stop = Some(Stop {
            at: culprit.sequence,
            code: trouble.code.code(),
        });
        card.set_queue_state(queue.number, QueueState::Stopped);
        if let Some(figures) = card.queues.get(usize::from(queue.number)) {
            figures.failed.store(queue.failed, Ordering::Relaxed);
        }
        // What cannot be told through the client's memory is in the log.
        let told = queue.push_error(&card.memory(), record);
        if let Err(second) = told {
            card.report(
                &second,
                &Culprit {
                    cookie: 0,
                    ..culprit
                },
            );
        }
        self.publish(index);
        card.host.fire(0);
    }

    /// A queue's own memory is gone: it stops, and only the log can say so.
    pub(crate) fn lose(&mut self, index: usize, trouble: Trouble) {
        self.watching = false;
        let card = Arc::clone(&self.card);
        if let Some(queue) = self.queues.get_mut(index) {
            queue.graph = None;
            let culprit = queue.culprit(&[0; 8]);
            if queue.stop.is_none() {
                queue.stop = Some(Stop {
                    at: culprit.sequence,
                    code: trouble.code.code(),
                });
                queue.failed += 1;
                card.set_queue_state(queue.number, QueueState::Stopped);
                card.report(
                    &trouble,
                    &Culprit {
                        sequence: 0,
                        ..culprit
                    },
                );
                card.host.fire(0);
            }
        }
    }

    /// Doorbell words are levels: TAIL for its correctness, ARM, RESUME.
    pub(crate) fn look_at_doorbells(&mut self) {
        if self.halted || self.quiesced || !self.bus_master {
            return;
        }
        if let Some(urgent) = self.urgent() {
            urgent.look_at_doorbells();
        }
        for index in 0..self.queues.len() {
            self.look_at_doorbell(index);
        }
    }

    /// The same for one queue.
    pub(crate) fn look_at_doorbell(&mut self, index: usize) {
        let Some(queue) = self.queues.get_mut(index).filter(|it| !it.is_quiet()) else {
            return;
        };
        let card = Arc::clone(&self.card);
        if queue.try_resume() {
            self.watching = false;
            card.set_queue_state(queue.number, QueueState::Running);
            self.publish(index);
            return;
        }
        if queue.stop.is_none()
            && queue.block.is_none()
            && !queue.deaf
            && let Err(trouble) = queue.check_doorbell(&card.memory())
        {
            self.fail(index, trouble, &[0; 8]);
            return;
        }
        self.interrupt(index);
    }
}
