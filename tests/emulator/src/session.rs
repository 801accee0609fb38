//! A session: what a client that has greeted may ask for, and what each command does.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jalapeno_wire as wire;
use nix::errno::Errno;

use crate::answer::{Answer, Answered, exactly, parse};
use crate::asking::Asking;
use crate::role::Seat;
use crate::server::{Page, Shared};

/// A client that has greeted.
#[derive(Debug)]
pub struct Session {
    // Fields drop in this order: no answer is waited for any more when the seat is given back.
    pub(crate) asking: OpenLine,
    seat: Seat,
    pub(crate) page: Arc<dyn Page>,
    pub(crate) shared: Arc<Shared>,
}

/// The line to a client; closed when it is dropped.
#[derive(Debug)]
pub(crate) struct OpenLine(pub(crate) Arc<Asking>);

impl Drop for OpenLine {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Session {
    /// A client in its seat.
    #[must_use]
    pub fn new(asking: Arc<Asking>, seat: Seat, page: Arc<dyn Page>, shared: Arc<Shared>) -> Self {
        if seat.role().owns() {
            shared.slot.ask(Some(asking.clone()));
        }
        Self {
            asking: OpenLine(asking),
            seat,
            page,
            shared,
        }
    }

    /// Whether it is the owner's.
    #[must_use]
    pub fn owns(&self) -> bool {
        self.seat.role().owns()
    }

    /// Carries out a command other than REGION_READ.
    ///
    /// # Errors
    /// EPERM for an observer that would change something, EOPNOTSUPP for what there is not, EINVAL
    /// for what makes no sense, otherwise as each command says.
    pub fn command(&self, command: u16, body: &[u8], fds: Vec<OwnedFd>) -> Answered {
        let changes = matches!(
            command,
            wire::command::DMA_MAP
                | wire::command::DMA_UNMAP
                | wire::command::DEVICE_SET_IRQS
                | wire::command::REGION_WRITE
                | wire::command::DEVICE_RESET
        );
        let takes_fds = [wire::command::DMA_MAP, wire::command::DEVICE_SET_IRQS];
        if changes && !self.owns() {
            return Err(Errno::EPERM);
        }
        let known = changes
            || matches!(
                command,
                wire::command::VERSION
                    | wire::command::DEVICE_GET_INFO
                    | wire::command::DEVICE_GET_REGION_INFO
                    | wire::command::DEVICE_GET_IRQ_INFO
            );
        if known && !fds.is_empty() && !takes_fds.contains(&command) {
            return Err(Errno::EINVAL);
        }
        match command {
            // Once is enough.
            wire::command::VERSION => Err(Errno::EINVAL),
            wire::command::DEVICE_GET_INFO => device_info(body),
            wire::command::DEVICE_GET_REGION_INFO => self.region_info(body),
            wire::command::DEVICE_GET_IRQ_INFO => self.irq_info(body),
            wire::command::DMA_MAP => self.map(body, fds),
            wire::command::DMA_UNMAP => self.unmap(body),
            wire::command::DEVICE_SET_IRQS => self.set_irqs(body, fds),
            wire::command::REGION_WRITE => self.write_region(body),
            wire::command::DEVICE_RESET if body.is_empty() => {
                self.reset();
                Ok(Answer::default())
            }
            wire::command::DEVICE_RESET => Err(Errno::EINVAL),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn map(&self, body: &[u8], mut fds: Vec<OwnedFd>) -> Answered {
        let map = exactly::<wire::DmaMap>(body)?;
        if map.argsz < 32
            || map.flags & !(wire::DMA_READABLE | wire::DMA_WRITABLE) != 0
            || fds.len() > 1
        {
            return Err(Errno::EINVAL);
        }
        let may = (
            map.flags & wire::DMA_READABLE != 0,
            map.flags & wire::DMA_WRITABLE != 0,
        );
        let file = fds.pop().map(|fd| (fd, map.offset));
        self.shared.slot.map(map.address, map.bytes, may, file)?;
        Ok(Answer::default())
    }

    fn unmap(&self, body: &[u8]) -> Answered {
        let (unmap, more) = parse::<wire::DmaUnmap>(body)?;
        if unmap.flags & wire::UNMAP_DIRTY_BITMAP != 0 {
            // There are no dirty bitmaps.
            return Err(Errno::EOPNOTSUPP);
        }
        if unmap.argsz < 24 || unmap.flags & !wire::UNMAP_ALL != 0 || !more.is_empty() {
            return Err(Errno::EINVAL);
        }
        let slot = &self.shared.slot;
        if unmap.flags & wire::UNMAP_ALL != 0 {
            if (unmap.address, unmap.bytes) != (0, 0) {
                return Err(Errno::EINVAL);
            }
            slot.unmap_all();
        } else {
            slot.unmap(unmap.address, unmap.bytes)?;
        }
        Ok(Answer::of(&unmap))
    }

    /// Function level reset, of the device and of its config space.
    pub(crate) fn reset(&self) {
        let function = &self.shared.function;
        self.shared.resets.fetch_add(1, Ordering::Relaxed);
        self.asking.0.while_silent(|| function.reset());
        self.shared.slot.reset_config();
    }
}

fn device_info(body: &[u8]) -> Answered {
    let (ask, _) = parse::<wire::DeviceInfo>(body)?;
    if ask.argsz < 16 {
        return Err(Errno::EINVAL);
    }
    let flags = wire::DEVICE_RESETTABLE | wire::DEVICE_PCI;
    Ok(Answer::of(&wire::DeviceInfo {
        argsz: 16,
        flags,
        regions: wire::PCI_REGIONS,
        irqs: wire::PCI_IRQS,
    }))
}
