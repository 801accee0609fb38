//! Running a queue while something is armed: one packet at a time, and not always by the book.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jalapeno_hw::faults::{FaultCode, FaultRecord};
use jalapeno_hw::profile::ProfileStatus;
use jalapeno_hw::queue::COMPLETION_STOPPED;
use jalapeno_hw::regs::{DeviceState, QueueState};
use zerocopy::IntoBytes;

use crate::engine::Engine;
use crate::execute::{Clock, Outcome};
use crate::faults::{Fault, Unit};
use crate::queue::{Block, Stop};
use crate::trouble::{Culprit, Trouble, crc, placed, record};

/// How far from its deadline a packet ends that ends just in time or just late, in ticks.
const JUST_NS: u64 = 300_000;

impl Engine {
    /// Runs at most one packet; what is due may happen to it.
    pub(crate) fn serve_crookedly(&mut self, index: usize) -> u32 {
        let card = Arc::clone(&self.card);
        let memory = card.memory();
        let Some(queue) = self.queues.get_mut(index) else {
            return 0;
        };
        let Some(words) = queue.fetch(&memory) else {
            return 0;
        };
        let number = queue.number;
        self.begin(index, &words);
        let Some(fault) = card.injector.due(Unit::Packet) else {
            return self.run_one(index, words);
        };
        let lasting = matches!(fault, Fault::EngineStops | Fault::FirmwareCrash);
        let worked = self.misbehave(index, number, fault, words);
        if !lasting {
            card.injector.finish(fault);
        }
        worked
    }

    /// Runs one packet by the book. It is already counted.
    fn run_one(&mut self, index: usize, words: [u64; 8]) -> u32 {
        let outcome = self.execute(index, &words);
        if let Ok(Outcome::Done) = outcome {
            self.card.meter.add_packets(1);
            self.finish(index, ProfileStatus::Done);
            if let Some(queue) = self.queues.get_mut(index) {
                queue.completed += 1;
            }
            self.publish(index);
            return 1;
        }
        self.conclude(index, outcome, words, 0)
    }

    fn misbehave(&mut self, index: usize, number: u16, fault: Fault, words: [u64; 8]) -> u32 {
        let card = Arc::clone(&self.card);
        let vector = self.queues.get(index).map_or(0, |queue| queue.shape.vector);
        match fault {
            Fault::EngineStops => self.halted = true,
            Fault::JustInTime => {
                self.delay(index, words, |deadline| deadline.saturating_sub(JUST_NS))
            }
            Fault::JustLate => {
                self.delay(index, words, |deadline| deadline.saturating_add(JUST_NS))
            }
            Fault::Hangs => self.block(index, Block::Forever),
            Fault::DoorbellLost => {
                if let Some(queue) = self.queues.get_mut(index) {
                    queue.deaf = true;
                }
            }
            Fault::DoorbellRepeated => {
                let ran = self.run_one(index, words);
                self.look_at_doorbell(index);
                self.look_at_doorbell(index);
                return ran;
            }
            Fault::SequenceRepeats | Fault::SequenceBackwards | Fault::SequenceBeyond => {
                return self.run_with_wrong_word(index, number, fault, words);
            }
            Fault::RecordStray
            | Fault::RecordStale
            | Fault::RecordEarlierLap
            | Fault::RecordTorn
            | Fault::RecordChanges
            | Fault::RecordsOverrun
            | Fault::RecordWrongQueue
            | Fault::RecordUnknown
            | Fault::SequencePasses => self.fail_crookedly(index, fault, &words),
            Fault::InterruptSpurious => card.host.fire(vector),
            Fault::InterruptStorm => (0..10_000).for_each(|_| card.host.fire(vector)),
            Fault::EccUncorrected => {
                card.ecc_uncorrected.fetch_add(1, Ordering::Relaxed);
                self.fail(index, Trouble::new(FaultCode::EccUncorrected), &words);
            }
            Fault::EccUncontained => self.break_down(FaultCode::EccUncontained),
            Fault::Overheats => self.break_down(FaultCode::ShutdownThermal),
            Fault::Brownout => self.break_down(FaultCode::Brownout),
            Fault::FirmwareCrash => self.break_down(FaultCode::FirmwareCrash),
            Fault::FirmwareRestart => {
                self.reset_device();
                card.reboot();
                self.announce(FaultCode::DeviceReset);
            }
            Fault::EccCorrected => self.announce(FaultCode::EccCorrected),
            Fault::Throttles => self.announce(FaultCode::ThrottleThermal),
            Fault::LinkDegraded => self.announce(FaultCode::LinkDegraded),
            // These are looked at where their packet is executed.
            _ => return self.run_one(index, words),
        }
        1
    }

    /// A record in the log, and nothing else.
    fn announce(&self, code: FaultCode) {
        let counter = match code {
            FaultCode::EccCorrected => Some(&self.card.ecc_corrected),
            FaultCode::EccUncontained => Some(&self.card.ecc_uncorrected),
            FaultCode::ThrottleThermal => Some(&self.card.throttles),
            _ => None,
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.card.report(&Trouble::new(code), &Culprit::default());
        self.card.host.fire(0);
    }

    /// The engines stop until a reset.
    fn break_down(&mut self, code: FaultCode) {
        self.halted = true;
        self.card.set_state(DeviceState::Degraded);
        self.announce(code);
    }

    fn block(&mut self, index: usize, block: Block) {
        if let Some(queue) = self.queues.get_mut(index) {
            queue.block = Some(block);
        }
    }

    /// Puts a packet off until a time made of its deadline; one without runs at once.
    fn delay(&mut self, index: usize, words: [u64; 8], time: impl Fn(u64) -> u64) {
        match words[2] {
            0 => {
                self.run_one(index, words);
            }
            deadline => self.block(index, Block::Until(time(deadline), words)),
        }
    }

    fn run_with_wrong_word(
        &mut self,
        index: usize,
        number: u16,
        fault: Fault,
        words: [u64; 8],
    ) -> u32 {
        let card = Arc::clone(&self.card);
        let outcome = self.runner.execute(number, &words, &mut Clock::default());
        let Ok(Outcome::Done) = outcome else {
            return self.conclude(index, outcome, words, 0);
        };
        let Some(queue) = self.queues.get_mut(index) else {
            return 1;
        };
        let before = queue.completed;
        queue.completed += 1;
        let wrong = match fault {
            Fault::SequenceRepeats => before,
            Fault::SequenceBackwards => before.saturating_sub(1),
            _ => before + 2 * queue.depth() + 1,
        };
        let memory = card.memory();
        if fault == Fault::SequenceBackwards {
            // First the truth, long enough to be seen.
            let _ = queue.publish(&memory);
            self.sleep(Duration::from_millis(2));
        }
        // A word that cannot be stored is not worth a second fault.
        if let Some(queue) = self.queues.get(index) {
            let _ = queue.store_word(&memory, wrong);
        }
        1
    }

    /// Fails a packet with ECC_UNCORRECTED and a record that is wrong in one way.
    fn fail_crookedly(&mut self, index: usize, fault: Fault, words: &[u64; 8]) {
        let card = Arc::clone(&self.card);
        let memory = card.memory();
        let Some(queue) = self.queues.get_mut(index) else {
            return;
        };
        let trouble = Trouble::new(FaultCode::EccUncorrected);
        let culprit = queue.culprit(words);
        let right = record(&trouble, &culprit, &card.moment());
        let place = queue.errors;
        let phase = (place >> queue.shape.errors_log2) & 1 == 0;
        let mut wrong = right;
        match fault {
            Fault::RecordStray => wrong.sequence += 2 * queue.depth() + 1,
            Fault::RecordStale => wrong.generation = wrong.generation.saturating_sub(1),
            Fault::RecordWrongQueue => wrong.queue += 1,
            Fault::RecordUnknown => {
                wrong.code = 0x7777;
                wrong.reserved = [u64::MAX; 14];
            }
            _ => {}
        }
        let mut wrong = placed(wrong, place, phase ^ (fault == Fault::RecordEarlierLap));
        let records = if fault == Fault::RecordsOverrun {
            (1 << queue.shape.errors_log2) + 1
        } else {
            1
        };
        queue.errors += records;
        if fault == Fault::RecordTorn {
            let first = FaultRecord {
                crc: 0,
                sequence: 0,
                ..wrong
            };
            wrong = FaultRecord {
                code: first.code,
                severity: first.severity,
                scope: first.scope,
                action: first.action,
                flags: first.flags,
                ..FaultRecord::ZERO
            };
        }
        for extra in 0..records {
            let at = place + extra;
            let lap = (at >> queue.shape.errors_log2) & 1 == 0;
            let written = if records > 1 {
                placed(right, at, lap)
            } else {
                wrong
            };
            // Memory that cannot be written is the client's to lose here.
            let _ = queue.write_error(&memory, at, &written);
        }
        queue.failed += 1;
        let at = culprit.sequence;
        if fault == Fault::SequencePasses {
            queue.completed += 1;
            self.publish(index);
            card.host.fire(0);
            return;
        }
        queue.stop = Some(Stop {
            at,
            code: trouble.code.code(),
        });
        card.set_queue_state(queue.number, QueueState::Stopped);
        if let Some(figures) = card.queues.get(usize::from(queue.number)) {
            figures.failed.store(queue.failed, Ordering::Relaxed);
        }
        let _ = queue.store_word(&memory, queue.completed | COMPLETION_STOPPED);
        if fault == Fault::RecordChanges {
            let mut later = placed(right, place, phase);
            later.sequence += 1;
            later.cookie = !later.cookie;
            later.crc = crc(&later);
            let address = queue.error_address(place);
            let _ = memory.write(address, later.as_bytes());
        }
        card.report(&trouble, &culprit);
        self.publish(index);
        card.host.fire(0);
    }
}
