//! Sensors: what the shim shows to everyone while the library owns and resets the card.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jalapeno::hw::regs::ResetLevel;

use crate::stage::{SOON, Stage, function, open, until};

/// Readings by what they were.
#[derive(Debug, Default)]
struct Count {
    good: u32,
    none: u32,
    wrong: Vec<String>,
}

impl Count {
    fn take(&mut self, file: &PathBuf, good: impl FnOnce(&str) -> bool) {
        match fs::read_to_string(file) {
            Ok(text) if good(text.trim()) => self.good += 1,
            Ok(text) => self.wrong.push(format!("{}: {text}", file.display())),
            // ENODATA, and nothing else, is "no data".
            Err(why) if why.raw_os_error() == Some(libc::ENODATA) => self.none += 1,
            Err(why) => self.wrong.push(format!("{}: {why}", file.display())),
        }
    }
}

/// A number that lies in a range.
fn within(range: std::ops::Range<u64>) -> impl Fn(&str) -> bool {
    move |text| text.parse().is_ok_and(|value: u64| range.contains(&value))
}

/// A number that does not become smaller.
fn rising(last: &mut u64, text: &str) -> bool {
    let Ok(value) = text.parse::<u64>() else {
        return false;
    };
    let good = value >= *last && value < 1 << 53;
    *last = value;
    good
}

#[derive(Debug)]
struct Files {
    hwmon: PathBuf,
    jalapeno: PathBuf,
}

impl Files {
    fn of(card: &str) -> Self {
        let path = function(card).path().to_owned();
        let mut entries = fs::read_dir(path.join("hwmon")).expect("hwmon").flatten();
        Self {
            hwmon: entries.next().expect("one").path(),
            jalapeno: path.join("jalapeno"),
        }
    }

    /// Reads each once.
    fn read(&self, count: &mut Count, energy: &mut u64, generation: &mut u64) {
        let hwmon = |name| self.hwmon.join(name);
        let ours = |name| self.jalapeno.join(name);
        count.take(&hwmon("energy1_input"), |text| rising(energy, text));
        count.take(&hwmon("temp1_input"), within(10_000..110_000)); // millidegrees
        count.take(&hwmon("temp2_input"), within(10_000..110_000));
        count.take(&hwmon("power1_input"), within(1_000_000..2_000_000_000)); // microwatts
        count.take(&ours("generation"), |text| rising(generation, text));
        count.take(&ours("health"), |text| {
            ["booting", "ready", "quiescing", "resetting"].contains(&text)
        });
    }
}

pub fn while_the_library_resets(stage: &Stage) -> String {
    const RESETS: u64 = 10;
    const READERS: usize = 4;
    let files = Files::of(stage.card());
    let device = open(stage.card());
    let before = device.generation().0;
    let (begin, over) = (Instant::now(), AtomicBool::new(false));
    let counts = std::thread::scope(|scope| {
        let resets = scope.spawn(|| {
            for number in 0..RESETS {
                let level = match number % 2 {
                    0 => ResetLevel::Function,
                    _ => ResetLevel::Device,
                };
                device.reset(level, 0, SOON).expect("a reset");
                std::thread::sleep(Duration::from_millis(30));
            }
        });
        // Each has its own last value of what only rises.
        let readers = [(); READERS].map(|()| {
            scope.spawn(|| {
                let (mut count, mut energy, mut generation) = (Count::default(), 0, 0);
                while !over.load(Ordering::Acquire) {
                    files.read(&mut count, &mut energy, &mut generation);
                }
                assert!(generation >= before, "the shim saw {generation}");
                count
            })
        });
        let reset = resets.join();
        over.store(true, Ordering::Release);
        reset.expect("the resets");
        readers.map(|reader| reader.join().expect("a reader"))
    });
    let took = begin.elapsed();
    let after = device.generation().0;
    assert!(after >= before + RESETS, "from {before} to {after}");
    for count in &counts {
        assert!(count.wrong.is_empty(), "{:?}", count.wrong);
        assert!(count.good > 0 && count.none > 0, "{count:?}");
    }
    println!("FIGURE resets-asked-events {}", RESETS / 2); // function level; no openings
    format!(
        "{RESETS} resets in {} ms, {READERS} readers: {} good, {} no data, 0 wrong",
        took.as_millis(),
        counts.iter().map(|count| count.good).sum::<u32>(),
        counts.iter().map(|count| count.none).sum::<u32>()
    )
}

pub fn after_errors(stage: &Stage) -> String {
    let files = Files::of(stage.card());
    let mut last = Count::default();
    until("every sensor answers again", SOON, || {
        last = Count::default();
        files.read(&mut last, &mut 0, &mut 0);
        last.none == 0
    });
    assert!(last.wrong.is_empty(), "{:?}", last.wrong);
    format!("{} sensors answer after errors of the link", last.good)
}
