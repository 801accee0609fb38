//! Management packets: queues are created, destroyed and asked about. Host interface 6.10.

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::limits::MANAGE_BYTES_MAX;
use jalapeno_hw::packets::{Command, HEADER_ARGUMENT_SHIFT, Manage};
use jalapeno_hw::queue::{QueueCreate, QueueName, QueueReport};
use jalapeno_hw::regs::QueueState;
use zerocopy::{FromBytes, IntoBytes};

use crate::engine::Engine;
use crate::faults::Fault;
use crate::memory::Intent;
use crate::trouble::Trouble;

/// What a command without a result must not name.
fn no_result(manage: &Manage) -> Result<(), Trouble> {
    match (manage.result, manage.result_bytes) {
        (0, 0) => Ok(()),
        (0, _) => Err(Trouble::reserved(0x2C)),
        _ => Err(Trouble::reserved(0x20)),
    }
}

/// An offset that counts from the input structure, not from the packet.
fn in_input(mut trouble: Trouble) -> Trouble {
    if matches!(
        trouble.code,
        FaultCode::ReservedField | FaultCode::BadParameter
    ) {
        trouble.detail[2] = 1;
    }
    trouble
}

impl Engine {
    /// Runs a management packet of queue 0. A result is written whole or not at all.
    ///
    /// # Errors
    /// The fault that its record will name.
    pub(crate) fn manage(&mut self, words: &[u64; 8]) -> Result<(), Trouble> {
        let [header, _, _, body @ ..] = *words;
        let manage: Manage = zerocopy::transmute!(body);
        let code = u32::try_from(header >> HEADER_ARGUMENT_SHIFT).unwrap_or_default();
        let unknown = Trouble::detail(FaultCode::UnknownCommand, code.into(), 0);
        let command = Command::from_code(code).ok_or(unknown)?;
        for (offset, address) in [(0x18, manage.input), (0x20, manage.result)] {
            if !address.is_multiple_of(8) {
                return Err(Trouble {
                    detail: [offset, 0, 0, 0],
                    ..Trouble::at(FaultCode::Misaligned, address)
                });
            }
        }
        for (offset, bytes) in [(0x28, manage.input_bytes), (0x2C, manage.result_bytes)] {
            if bytes > MANAGE_BYTES_MAX {
                return Err(Trouble::parameter(offset, bytes.into()));
            }
        }
        match command {
            Command::QueueCreate => {
                let shape: QueueCreate = self.input(&manage)?;
                if shape.queue == 0 {
                    return Err(Trouble::detail(FaultCode::BadQueue, 0, 0));
                }
                no_result(&manage)?;
                self.create_queue(shape).map_err(in_input)
            }
            Command::QueueDestroy => {
                no_result(&manage)?;
                let name = self.queue_name(&manage)?;
                // Queue 0 cannot end itself: its completion would have nowhere to go.
                if name == 0 {
                    return Err(Trouble::new(FaultCode::NotPermitted));
                }
                if !self.destroy_queue(name) {
                    return Err(Trouble::detail(FaultCode::BadQueue, name.into(), 0));
                }
                Ok(())
            }
            Command::QueueQuery => {
                let name = self.queue_name(&manage)?;
                let report = self.report_queue(name)?;
                self.result(&manage, report.as_bytes())
            }
            _ => Err(unknown),
        }
    }

    /// Copies a command's input once; what a later version appends must be zero.
    fn input<T: FromBytes + IntoBytes>(&self, manage: &Manage) -> Result<T, Trouble> {
        let given = manage.input_bytes as usize;
        let mut bytes = [0; MANAGE_BYTES_MAX as usize];
        let known = size_of::<T>();
        let (Some(copy), true) = (bytes.get_mut(..given), given >= known) else {
            return Err(Trouble::parameter(0x28, given as u64));
        };
        self.card.memory().read(manage.input, copy)?;
        if let Some(at) = copy.iter().skip(known).position(|byte| *byte != 0) {
            return Err(in_input(Trouble::reserved((known + at) as u64)));
        }
        let mut input = T::new_zeroed();
        input.as_mut_bytes().copy_from_slice(&bytes[..known]);
        Ok(input)
    }

    fn queue_name(&self, manage: &Manage) -> Result<u32, Trouble> {
        let name: QueueName = self.input(manage)?;
        if name.reserved != 0 {
            return Err(in_input(Trouble::reserved(4)));
        }
        if name.queue >= self.card.options.queues {
            return Err(Trouble::detail(FaultCode::BadQueue, name.queue.into(), 0));
        }
        Ok(name.queue)
    }

    fn report_queue(&mut self, number: u32) -> Result<QueueReport, Trouble> {
        let queue = u16::try_from(number).ok();
        let queue = queue.and_then(|number| self.home_of(number));
        let queue = queue.and_then(|(home, index)| home.queues.get(index));
        Ok(match queue {
            None => QueueReport {
                state: QueueState::Absent.code(),
                ..QueueReport::ZERO
            },
            Some(queue) => QueueReport {
                state: match queue.stop {
                    None => QueueState::Running.code(),
                    Some(_) => QueueState::Stopped.code(),
                },
                code: queue.stop.map_or(0, |stop| stop.code),
                completed: queue.completed,
                submitted: queue.submitted(),
                errors: queue.errors,
            },
        })
    }

    fn result(&self, manage: &Manage, result: &[u8]) -> Result<(), Trouble> {
        if result.len() > manage.result_bytes as usize {
            let bytes = result.len() as u64;
            return Err(Trouble::detail(FaultCode::ResultRoom, bytes, 0));
        }
        if manage.result == 0 {
            return Err(Trouble::parameter(0x20, 0));
        }
        let memory = self.card.memory();
        memory.write(manage.result, result)?;
        if self.card.injector.is_active(Fault::ResultOverruns) {
            let beyond = manage.result + u64::from(manage.result_bytes);
            // As far as memory reaches: a device that overruns does not ask.
            let mut pieces = Vec::new();
            if memory.find(beyond, 64, Intent::Write, &mut pieces).is_ok() {
                memory.write(beyond, &[0xA5; 64])?;
            }
        }
        Ok(())
    }
}
