//! The page as the kernel module shows it beside an owner: the card is neither opened nor woken.

use std::fs::File;
use std::os::unix::fs::FileExt;

use jalapeno_hw::regs::TELEMETRY_BYTES;

use super::{Telemetry, garbage, parse, snapshot};
use crate::error::{Code, Error, Result};
use crate::pci::Function;

impl Telemetry {
    /// Of a PCI function that is bound to the kernel module; for any number of readers. How old a value
    /// is counts from the card's last refresh: where its firmware stands still, HEARTBEAT does too.
    ///
    /// # Errors
    /// `Unsupported` where it is not bound to the kernel module; `Io` with ENODATA while the card
    /// resets, sleeps or failed; `NotFound` where it was pulled; `Protocol`, `Late` as `telemetry`.
    pub fn of_function(function: &Function) -> Result<Self> {
        let address = &function.address;
        let path = function.path().join("jalapeno/telemetry");
        let refused = |source: std::io::Error| match source.raw_os_error() {
            Some(libc::ENOENT) if function.is_there() => Error::Binding {
                code: Code::Unsupported,
                what: format!(
                    "reading {address} beside its owner: it is not bound to the kernel module"
                ),
                hint: format!("sudo jalctl bind --driver jalapeno_vfio_pci --device {address}"),
            },
            Some(libc::ENOENT | libc::ENODEV) => Error::NotFound {
                name: address.clone(),
                why: "it is not on the PCI bus any more".into(),
            },
            _ => Error::Io {
                tried: "read the kernel module's telemetry of",
                on: address.clone(),
                source,
            },
        };
        let rate = function.text("jalapeno/ticks_per_second");
        let file = File::open(path).map_err(refused)?;
        let page = snapshot(TELEMETRY_BYTES as usize, |at, into| {
            file.read_exact_at(into, at as u64).map_err(refused)
        })?;
        let rate = rate.and_then(|text| text.parse().ok()).unwrap_or(0);
        if rate == 0 {
            return Err(garbage(format!(
                "the kernel module does not say how fast the clock of {address} is"
            )));
        }
        parse(&page, None, rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::played::Machine;
    use crate::telemetry::Reading;
    use crate::telemetry::tests::{entry, page};
    use jalapeno_hw::regs::DeviceState;
    use jalapeno_hw::telemetry::TelemetryField;

    const CARD: &str = "sys/bus/pci/devices/0000:02:00.0";

    fn card(machine: &Machine) -> Function {
        machine.function(
            "0000:02:00.0",
            (0xA1A0, 1),
            Some(7),
            Some("jalapeno_vfio_pci"),
        )
    }

    fn show(machine: &Machine, mut bytes: Vec<u8>) {
        bytes.resize(TELEMETRY_BYTES as usize, 0);
        let path = machine.path.join(CARD).join("jalapeno");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("telemetry"), bytes).unwrap();
    }

    #[test]
    fn the_page_is_read_as_the_module_shows_it_and_its_age_is_of_the_last_refresh() {
        let machine = Machine::new();
        let card = card(&machine);
        machine.write(format!("{CARD}/jalapeno/ticks_per_second"), "1000000\n");
        let mut bytes = page(2, entry(5, 2, 0, 75_000, 1_000_000, 500));
        bytes[16..24].copy_from_slice(&1_400_000_u64.to_le_bytes());
        show(&machine, bytes.clone());
        let told = Telemetry::of_function(&card).unwrap();
        assert_eq!(told.get(TelemetryField::Power, 0), Reading::Value(75_000));
        assert_eq!((told.ticks_per_second, told.now.0), (1_000_000, 1_400_000));
        bytes[16..24].copy_from_slice(&1_600_000_u64.to_le_bytes());
        show(&machine, bytes);
        let told = Telemetry::of_function(&card).unwrap();
        let stale = told.get(TelemetryField::Power, 0);
        assert!(matches!(stale, Reading::Stale { .. }), "{stale:?}");
    }

    #[test]
    fn what_keeps_the_page_from_being_read_is_said() {
        let machine = Machine::new();
        let gone = Telemetry::of_function(&machine.root.function("0000:09:00.0")).unwrap_err();
        assert_eq!(gone.code(), Code::NotFound);
        let card = card(&machine);
        let stock = Telemetry::of_function(&card).unwrap_err();
        assert_eq!(stock.code(), Code::Unsupported);
        assert!(stock.to_string().contains("not bound"), "{stock}");
        show(&machine, page(2, entry(5, 2, 0, 75_000, 1, 0)));
        let clock = Telemetry::of_function(&card).unwrap_err();
        assert_eq!(clock.code(), Code::Protocol, "{clock}");
        machine.write(format!("{CARD}/jalapeno/ticks_per_second"), "1000000\n");
        machine.write(format!("{CARD}/jalapeno/telemetry"), "short");
        let short = Telemetry::of_function(&card).unwrap_err();
        assert!(short.code() == Code::Io && !short.is_no_data(), "{short}");
    }

    #[test]
    fn the_state_is_known_raw_or_not_said() {
        let machine = Machine::new();
        let card = card(&machine);
        machine.write(format!("{CARD}/jalapeno/ticks_per_second"), "1000000\n");
        let told = |raw, status| {
            show(&machine, page(2, entry(0x19, 0, status, raw, 1, 0)));
            Telemetry::of_function(&card).unwrap().state()
        };
        assert_eq!(told(1, 0), Some(Ok(DeviceState::Ready)));
        assert_eq!(told(99, 0), Some(Err(99)));
        assert_eq!(told(1 << 32 | 1, 0), Some(Err(1 << 32 | 1)));
        assert_eq!(told(1, 2), None);
    }
}
