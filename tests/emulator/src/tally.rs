//! The tally: counters with the names of what they count.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use jalapeno_hw::kernels::KernelId;
use jalapeno_wire::command;
use serde::Serialize;

/// How often each, by name; what never was is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Tally(pub BTreeMap<&'static str, u64>);

impl Tally {
    fn of(counters: &[AtomicU64], name: impl Fn(usize) -> &'static str) -> Self {
        let mut tally = BTreeMap::new();
        for (number, counter) in counters.iter().enumerate() {
            let count = counter.load(Ordering::Relaxed);
            if count > 0 {
                *tally.entry(name(number)).or_insert(0) += count;
            }
        }
        Self(tally)
    }

    /// Messages of a server, by command.
    #[must_use]
    pub fn of_messages(counters: &[AtomicU64]) -> Self {
        Self::of(counters, |number| {
            match u16::try_from(number).unwrap_or_default() {
                command::VERSION => "VERSION",
                command::DMA_MAP => "DMA_MAP",
                command::DMA_UNMAP => "DMA_UNMAP",
                command::DEVICE_GET_INFO => "DEVICE_GET_INFO",
                command::DEVICE_GET_REGION_INFO => "DEVICE_GET_REGION_INFO",
                command::DEVICE_GET_REGION_IO_FDS => "DEVICE_GET_REGION_IO_FDS",
                command::DEVICE_GET_IRQ_INFO => "DEVICE_GET_IRQ_INFO",
                command::DEVICE_SET_IRQS => "DEVICE_SET_IRQS",
                command::REGION_READ => "REGION_READ",
                command::REGION_WRITE => "REGION_WRITE",
                command::DMA_READ => "DMA_READ",
                command::DMA_WRITE => "DMA_WRITE",
                command::DEVICE_RESET => "DEVICE_RESET",
                command::REGION_WRITE_MULTI => "REGION_WRITE_MULTI",
                _ => "unknown",
            }
        })
    }

    /// Kernels, by name.
    #[must_use]
    pub fn of_launches(counters: &[AtomicU64]) -> Self {
        Self::of(counters, |number| {
            let id = u32::try_from(number).ok().and_then(KernelId::from_code);
            id.map_or("unknown", KernelId::name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn what_was_counted_has_its_name_and_what_was_not_is_left_out() {
        let counters: [AtomicU64; 5] = [0, 0, 7, 9, 0].map(AtomicU64::new);
        let messages = Tally::of_messages(&counters);
        assert_eq!(
            messages.0.into_iter().collect::<Vec<_>>(),
            [("DMA_MAP", 7), ("DMA_UNMAP", 9)]
        );
        let launches = Tally::of_launches(&counters);
        assert_eq!(
            launches.0.into_iter().collect::<Vec<_>>(),
            [("MUL_MAT", 9), ("SET_ROWS", 7)]
        );
    }
}
