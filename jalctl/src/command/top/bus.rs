//! Cards on the PCI bus: opening one would take it from its owner, or reset it, so they are watched
//! through what the kernel tells: the kernel module's files and sensors, where it is bound to them.

use std::fs;

use jalapeno::pci::{Function, Root, is_address};

use super::sample::{Top, Why};
use crate::exit::{Exit, Problem};

/// HBM stacks in the kernel's sensors: temp2 and on.
const STACKS: std::ops::RangeInclusive<u32> = 2..=7;
/// Keys that only the card's own pages tell.
const UNTOLD: [&str; 16] = [
    "product",
    "interval_ns",
    "busy_per_mille",
    "compute_per_mille",
    "copy_per_mille",
    "compute_clock_kilohertz",
    "throttle_count",
    "throttle_count_interval",
    "hbm_used_bytes",
    "hbm_total_bytes",
    "operations_per_second",
    "bytes_per_second",
    "jobs",
    "jobs_per_second",
    "missed_records",
    "energy_per_job_nanojoules",
];

/// Whether a device is one of them.
pub fn is_on_it(name: &str) -> bool {
    is_address(name)
}

/// Its UUID, where the kernel module tells it.
pub fn uuid(name: &str) -> Option<String> {
    Root::default().function(name).text("jalapeno/uuid")
}

/// Fills in what the kernel tells.
pub fn read(name: &str, top: &mut Top) -> Result<(), Problem> {
    read_in(&Root::default(), name, top)
}

fn read_in(root: &Root, name: &str, top: &mut Top) -> Result<(), Problem> {
    let function = root.function(name);
    if !function.is_there() {
        return Err(Problem {
            code: "lost".into(),
            message: format!("{name} is not on the PCI bus any more"),
            hint: Some("jalctl list shows the devices there are".into()),
            exit: Exit::Lost,
        });
    }
    let bound = function.path().join("jalapeno").is_dir();
    let why = || match bound {
        true => Why::new(
            "no-data",
            "the card cannot be read now: it resets, sleeps, or failed",
        ),
        false => Why::new(
            "unopened",
            "opening the card would disturb it; jalctl bind --driver jalapeno_vfio_pci gives it \
             sensors in the kernel",
        ),
    };
    let told = |file: &str| function.text(&format!("jalapeno/{file}"));
    top.state = top.note("state", told("health").ok_or_else(why));
    let generation = told("generation").and_then(|text| text.parse().ok());
    top.generation = top.note("generation", generation.ok_or_else(why));
    let sensors = Sensors::of(&function);
    let milli = |micro: i64| u64::try_from(micro / 1000).ok();
    let mut sensor = |key: &str, file: &str| {
        let told = sensors.as_ref().and_then(|sensors| sensors.read(file));
        top.note(key, told.ok_or_else(why))
    };
    let power = sensor("power_milliwatts", "power1_input");
    let limit = sensor("power_limit_milliwatts", "power1_cap");
    let die = sensor("die_temperature_millicelsius", "temp1_input");
    let throttle = sensor("throttle_temperature_millicelsius", "temp1_max");
    let energy = sensor("energy_microjoules", "energy1_input");
    top.power_milliwatts = power.and_then(milli);
    top.power_limit_milliwatts = limit.and_then(milli);
    top.die_temperature_millicelsius = die;
    top.throttle_temperature_millicelsius = throttle;
    top.energy_microjoules = energy.and_then(|energy| u64::try_from(energy).ok());
    if energy.is_none() {
        top.note::<()>("energy_since_start_microjoules", Err(why()));
    }
    let stacks = sensors.as_ref().and_then(Sensors::hottest);
    top.hbm_temperature_millicelsius =
        top.note("hbm_temperature_millicelsius", stacks.ok_or_else(why));
    for key in UNTOLD {
        let why = Why::new(
            "unopened",
            "only the card itself tells, and opening it would disturb it",
        );
        top.note::<()>(key, Err(why));
    }
    Ok(())
}

/// The folder of a card's sensors.
struct Sensors(Function, String);

impl Sensors {
    fn of(function: &Function) -> Option<Self> {
        let mut folders = fs::read_dir(function.path().join("hwmon")).ok()?;
        let name = folders.next()?.ok()?.file_name();
        Some(Self(function.clone(), format!("hwmon/{}", name.to_str()?)))
    }

    fn read(&self, file: &str) -> Option<i64> {
        self.0.text(&format!("{}/{file}", self.1))?.parse().ok()
    }

    /// The hottest stack, where all that there are tell.
    fn hottest(&self) -> Option<i64> {
        let files = STACKS.map(|number| format!("temp{number}_input"));
        let there = files.filter(|file| self.0.path().join(&self.1).join(file).exists());
        let told: Option<Vec<i64>> = there.map(|file| self.read(&file)).collect();
        told?.into_iter().max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    const CARD: &str = "0000:02:00.0";

    struct Machine(PathBuf);

    impl Machine {
        fn new(name: &str) -> Self {
            let id = std::process::id();
            let folder = std::env::temp_dir().join(format!("jalctl-top-{name}-{id}"));
            Self(folder)
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.0.join("sys/bus/pci/devices").join(CARD).join(file);
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a folder");
            fs::write(path, text).expect("a file");
        }

        fn read(&self) -> Result<Top, Problem> {
            let mut top = Top::default();
            read_in(&Root::at(&self.0), CARD, &mut top).map(|()| top)
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_card_of_the_kernel_module_tells_its_sensors_and_nothing_is_invented() {
        let machine = Machine::new("module");
        machine.write("jalapeno/health", "ready\n");
        machine.write("jalapeno/generation", "4\n");
        for (file, value) in [
            ("power1_input", "75250000"),
            ("power1_cap", "700000000"),
            ("temp1_input", "61500"),
            ("temp2_input", "51000"),
            ("temp4_input", "58000"),
            ("energy1_input", "123456789"),
        ] {
            machine.write(&format!("hwmon/hwmon3/{file}"), value);
        }
        let top = machine.read().expect("it is there");
        assert_eq!(
            (top.state.as_deref(), top.generation),
            (Some("ready"), Some(4))
        );
        assert_eq!(top.power_milliwatts, Some(75_250));
        assert_eq!(top.power_limit_milliwatts, Some(700_000));
        assert_eq!(top.die_temperature_millicelsius, Some(61_500));
        assert_eq!(top.hbm_temperature_millicelsius, Some(58_000));
        assert_eq!(top.energy_microjoules, Some(123_456_789));
        assert_eq!(top.throttle_temperature_millicelsius, None);
        for (key, code) in [
            ("throttle_temperature_millicelsius", "no-data"),
            ("busy_per_mille", "unopened"),
        ] {
            assert_eq!(top.why(key).map(|why| &*why.code), Some(code), "{key}");
        }
    }

    #[test]
    fn stock_vfio_pci_tells_nothing_and_a_card_that_was_pulled_is_lost() {
        let machine = Machine::new("stock");
        let gone = machine.read().expect_err("not there yet");
        assert_eq!((&*gone.code, gone.exit), ("lost", Exit::Lost));
        machine.write("vendor", "0xa1a0\n");
        let top = machine.read().expect("it is there");
        assert_eq!((top.state.clone(), top.power_milliwatts), (None, None));
        let why = top.why("power_milliwatts").expect("a reason");
        assert!(
            why.code == "unopened" && why.message.contains("jalctl bind"),
            "{why:?}"
        );
    }
}
