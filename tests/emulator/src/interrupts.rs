//! What a client asks of interrupts: how many there are, where they go, which are masked.

use std::os::fd::OwnedFd;

use jalapeno_wire as wire;
use nix::errno::Errno;

use crate::answer::{Answer, Answered, parse};
use crate::irq::Vectors;
use crate::session::Session;

const DATA: u32 = wire::SET_DATA_NONE | wire::SET_DATA_BOOL | wire::SET_DATA_EVENTFD;
const ACTIONS: u32 = wire::SET_ACTION_MASK | wire::SET_ACTION_UNMASK | wire::SET_ACTION_TRIGGER;

impl Session {
    fn vectors(&self, index: u32) -> Option<&Vectors> {
        let slot = &self.shared.slot;
        match index {
            wire::IRQ_MSIX => Some(&slot.msix),
            wire::IRQ_ERR => Some(&slot.err),
            wire::IRQ_REQ => Some(&slot.req),
            _ => None,
        }
    }

    /// DEVICE_GET_IRQ_INFO.
    pub(crate) fn irq_info(&self, body: &[u8]) -> Answered {
        let (ask, _) = parse::<wire::IrqInfo>(body)?;
        if ask.argsz < 16 || ask.index >= wire::PCI_IRQS {
            return Err(Errno::EINVAL);
        }
        let count = self.vectors(ask.index).map_or(0, Vectors::count);
        let flags = if count > 0 {
            wire::IRQ_EVENTFD | wire::IRQ_MASKABLE
        } else {
            0
        };
        Ok(Answer::of(&wire::IrqInfo {
            argsz: 16,
            flags,
            index: ask.index,
            count,
        }))
    }

    /// DEVICE_SET_IRQS. What is refused changes nothing.
    pub(crate) fn set_irqs(&self, body: &[u8], fds: Vec<OwnedFd>) -> Answered {
        let (set, data) = parse::<wire::SetIrqs>(body)?;
        let vectors = self.vectors(set.index).ok_or(Errno::EINVAL)?;
        let end = set
            .start
            .checked_add(set.count)
            .filter(|&end| end <= vectors.count())
            .ok_or(Errno::EINVAL)?;
        let (kind, action) = (set.flags & DATA, set.flags & ACTIONS);
        let wanted = match kind {
            wire::SET_DATA_BOOL => set.count as usize,
            _ => 0,
        };
        if set.flags != kind | action
            || !kind.is_power_of_two()
            || !action.is_power_of_two()
            || data.len() != wanted
            || set.argsz as usize != body.len()
            || !fds.is_empty() && kind != wire::SET_DATA_EVENTFD
        {
            return Err(Errno::EINVAL);
        }
        let range = set.start..end;
        match (kind, action) {
            (wire::SET_DATA_EVENTFD, wire::SET_ACTION_TRIGGER) => vectors.assign(range, fds)?,
            // Masking by eventfd is for interrupts that mask themselves: there are none.
            (wire::SET_DATA_EVENTFD, _) => return Err(Errno::EOPNOTSUPP),
            (wire::SET_DATA_NONE, wire::SET_ACTION_TRIGGER) if range == (0..0) => vectors.clear(),
            _ => {
                let chosen = range
                    .enumerate()
                    .filter(|(at, _)| data.get(*at).is_none_or(|&chosen| chosen != 0));
                for (_, vector) in chosen {
                    match action {
                        wire::SET_ACTION_TRIGGER => vectors.fire(vector),
                        action => vectors.mask(vector, action == wire::SET_ACTION_MASK)?,
                    }
                }
            }
        }
        Ok(Answer::default())
    }
}
