//! Cards on the PCI bus: opening one would take it from its owner, or reset it, so they are watched
//! through what the kernel module tells, where it is bound to them.

use std::time::{Duration, Instant};

use jalapeno::Telemetry;
use jalapeno::pci::{Function, is_address};
use jalapeno::units::Ticks;

use super::meter::Meter;
use super::sample::{Top, Why};
use super::watch;
use crate::exit::{Exit, Problem};

/// A card refreshes its page at least each 100 ms; one that has not for so long stands still.
const SILENT: Duration = Duration::from_secs(1);
/// Keys that only the card's own registers and its profile ring tell.
const UNTOLD: [&str; 7] = [
    "product",
    "interval_ns",
    "busy_per_mille",
    "jobs",
    "jobs_per_second",
    "missed_records",
    "energy_per_job_nanojoules",
];

/// Whether a device is one of them.
pub fn is_on_it(name: &str) -> bool {
    is_address(name)
}

/// What is remembered of one from sample to sample.
#[derive(Debug, Default)]
pub struct Seen {
    meter: Meter,
    /// The last refresh, and when it was first seen.
    refreshed: Option<(Ticks, Instant)>,
}

impl Seen {
    /// Fills in what the kernel module tells.
    pub fn read(&mut self, function: &Function, top: &mut Top) -> Result<(), Problem> {
        if !function.is_there() {
            return Err(Problem {
                code: "lost".into(),
                message: format!("{} is not on the PCI bus any more", function.address),
                hint: Some("jalctl list shows the devices there are".into()),
                exit: Exit::Lost,
            });
        }
        let page = self.page(function);
        let state = page.as_ref().map_err(Clone::clone).and_then(|page| {
            let silent = || Why::new("no-data", "the card does not say it right now");
            watch::known(page.state().ok_or_else(silent)?)
        });
        top.state = top.note("state", state);
        let generation = page.as_ref().map(|page| page.generation.0);
        top.generation = top.note("generation", generation.map_err(Clone::clone));
        self.meter.read(page.as_ref().map_err(Clone::clone), top);
        for key in UNTOLD {
            let why = Why::new(
                "unopened",
                "only the card itself tells, and opening it would disturb it",
            );
            top.note::<()>(key, Err(why));
        }
        Ok(())
    }

    /// The page, where it is to be had and its card refreshes it.
    fn page(&mut self, function: &Function) -> Result<Telemetry, Why> {
        let page = Telemetry::of_function(function).map_err(|error| why(&error))?;
        match self.refreshed {
            Some((at, seen)) if at == page.updated && seen.elapsed() > SILENT => Err(Why::new(
                "stale",
                "the card does not refresh its telemetry any more: its firmware stands still",
            )),
            Some((at, _)) if at == page.updated => Ok(page),
            _ => {
                self.refreshed = Some((page.updated, Instant::now()));
                Ok(page)
            }
        }
    }
}

/// Why the kernel module tells nothing.
fn why(error: &jalapeno::Error) -> Why {
    match error {
        error if error.is_no_data() => Why::new(
            "no-data",
            "the card cannot be read now: it resets, sleeps, or failed",
        ),
        jalapeno::Error::Binding { hint, .. } => Why::new(
            "unopened",
            format!("opening the card would disturb it; {hint} gives it sensors in the kernel"),
        ),
        other => Why::from(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jalapeno::pci::Root;
    use std::fs;
    use std::path::{Path, PathBuf};

    const CARD: &str = "0000:02:00.0";

    struct Machine(PathBuf);

    impl Machine {
        fn new(name: &str) -> Self {
            let id = std::process::id();
            let folder = std::env::temp_dir().join(format!("jalctl-top-{name}-{id}"));
            Self(folder)
        }

        fn write(&self, file: &str, bytes: &[u8]) {
            let path = self.0.join("sys/bus/pci/devices").join(CARD).join(file);
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a folder");
            fs::write(path, bytes).expect("a file");
        }

        /// A page of the card's: when it was refreshed, and (field, unit, value).
        fn show(&self, updated: u64, entries: &[(u16, u8, u64)]) {
            let mut page = b"JTEL\x01\0".to_vec();
            page.extend(u16::try_from(entries.len()).expect("few").to_le_bytes());
            page.extend([2, updated, 4, 0, 0, 0, 0].map(u64::to_le_bytes).concat());
            for (field, unit, value) in entries {
                page.extend(field.to_le_bytes());
                page.extend([0, 0, *unit, 0, 0, 0]);
                page.extend([*value, updated, 500].map(u64::to_le_bytes).concat());
            }
            page.resize(0x4000, 0);
            self.write("jalapeno/telemetry", &page);
            self.write("jalapeno/ticks_per_second", b"1000000\n");
        }

        fn read(&self, seen: &mut Seen) -> Result<Top, Problem> {
            let mut top = Top::default();
            let function = Root::at(&self.0).function(CARD);
            seen.read(&function, &mut top).map(|()| top)
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// READY, 75.25 W, 61.5 degrees, energy, and operations.
    fn entries(operations: u64) -> [(u16, u8, u64); 5] {
        [
            (0x19, 0, 1),
            (5, 2, 75_250),
            (1, 1, 61_500),
            (7, 3, 1000 + operations),
            (0x1a, 0, operations),
        ]
    }

    #[test]
    fn a_card_of_the_kernel_module_tells_its_telemetry_and_nothing_is_invented() {
        let machine = Machine::new("module");
        let mut seen = Seen::default();
        machine.show(1_000_000, &entries(500));
        let top = machine.read(&mut seen).expect("it is there");
        assert_eq!(
            (top.state.as_deref(), top.generation),
            (Some("ready"), Some(4))
        );
        assert_eq!(top.power_milliwatts, Some(75_250));
        assert_eq!(top.die_temperature_millicelsius, Some(61_500));
        assert_eq!(top.operations_per_second, None, "there is no rate yet");
        machine.show(1_500_000, &entries(700));
        let top = machine.read(&mut seen).expect("it is there");
        assert_eq!(top.operations_per_second, Some(400));
        assert_eq!(top.energy_microjoules, Some(1700));
        assert_eq!(top.energy_since_start_microjoules, Some(200));
        for (key, code) in [
            ("throttle_temperature_millicelsius", "unsupported"),
            ("busy_per_mille", "unopened"),
        ] {
            assert_eq!(top.why(key).map(|why| &*why.code), Some(code), "{key}");
        }
    }

    #[test]
    fn a_card_whose_firmware_stands_still_tells_no_numbers() {
        let machine = Machine::new("still");
        let mut seen = Seen::default();
        machine.show(1_000_000, &entries(500));
        assert!(machine.read(&mut seen).is_ok_and(|top| top.state.is_some()));
        std::thread::sleep(SILENT + Duration::from_millis(50));
        let top = machine.read(&mut seen).expect("it is there");
        assert_eq!((&top.state, top.power_milliwatts), (&None, None));
        assert!(
            top.why("power_milliwatts")
                .is_some_and(|why| why.code == "stale")
        );
        machine.show(1_000_001, &entries(500));
        let top = machine.read(&mut seen).expect("it is there");
        assert_eq!(top.power_milliwatts, Some(75_250));
    }

    #[test]
    fn stock_vfio_pci_tells_nothing_and_a_card_that_was_pulled_is_lost() {
        let machine = Machine::new("stock");
        let mut seen = Seen::default();
        let gone = machine.read(&mut seen).expect_err("not there yet");
        assert_eq!((&*gone.code, gone.exit), ("lost", Exit::Lost));
        machine.write("vendor", b"0xa1a0\n");
        let top = machine.read(&mut seen).expect("it is there");
        assert_eq!((top.state.clone(), top.power_milliwatts), (None, None));
        let why = top.why("power_milliwatts").expect("a reason");
        assert!(
            why.code == "unopened" && why.message.contains("jalctl bind"),
            "{why:?}"
        );
    }
}
