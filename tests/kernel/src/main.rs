//! The kernel tests: stock Debian kernels in QEMU, vfio-pci under our cards, stories in the guest.

mod card;
mod cpio;
mod events;
mod hands;
mod kernel_log;
mod leg;
mod machine;
mod marks;
mod monitor;
mod program;
mod rate;
mod report;
mod tallies;
mod together;
mod waiting;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use card::Card;
use cpio::Archive;
use events::Beside;
use hands::Hands;
use leg::{LEGS, Leg, Unprepared};
use machine::Machine;
use report::{Case, Count, Outcome};
use tallies::Tallies;
use waiting::{Ask, Waiting};

/// One boot of a leg: what is in the machine and which stories run there.
#[derive(Debug)]
struct Boot {
    name: &'static str,
    /// QEMU's own devices, as `-device` arguments.
    stock: &'static [&'static str],
    /// How many of our cards.
    cards: usize,
    /// How many processors. Two that are emulated wait for each other wherever a kernel has one interrupt the
    /// other, and the host runs one of them: what our own kernel code does at once is worth that.
    processors: Processors,
    /// The driver the devices are given to.
    driver: Driver,
    /// `vendor:device` ids that are given to it.
    bind: &'static str,
    stories: &'static [&'static str],
    beside: Beside,
}

/// Who holds the devices for user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    /// The kernel's own.
    VfioPci,
    /// `kernel-shim`.
    Shim,
}

impl Driver {
    /// As the kernel knows it.
    fn name(self) -> &'static str {
        match self {
            Self::VfioPci => "vfio-pci",
            Self::Shim => "jalapeno_vfio_pci",
        }
    }
}

/// How many processors a boot's machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Processors {
    One,
    Two,
    /// Two on one leg, one on the others.
    TwoOnce,
}

impl Processors {
    fn on(self, leg: &Leg) -> usize {
        match self {
            Self::One => 1,
            Self::TwoOnce => 1 + usize::from(leg.name == "6.12-cdev"),
            Self::Two => 2,
        }
    }
}

/// Our card's ids, ASSUMED like everything in Host interface 2.
const CARD: &str = "a1a0:0001";

/// What the library, its C programs and a model do on a card.
const LIBRARY: [&str; 4] = ["library", "device", "c-programs", "generate"];

/// The longest first: what ends last is then short.
const BOOTS: [Boot; 3] = [
    Boot {
        name: "library",
        stock: &[],
        cards: 1,
        processors: Processors::TwoOnce,
        driver: Driver::VfioPci,
        bind: CARD,
        stories: &LIBRARY,
        beside: Beside::NOTHING,
    },
    Boot {
        name: "library-shim",
        stock: &[],
        cards: 1,
        processors: Processors::TwoOnce,
        driver: Driver::Shim,
        bind: CARD,
        stories: &LIBRARY,
        beside: Beside::NOTHING,
    },
    Boot {
        name: "shim",
        stock: &[],
        cards: 2,
        processors: Processors::Two,
        driver: Driver::Shim,
        bind: CARD,
        stories: &["card", "owners", "shim", "sensors", "doctor", "events"],
        beside: events::MANY,
    },
];

/// The longest boot takes a minute and a half; with both cores taken by others several times that.
const DEADLINE: Duration = Duration::from_secs(900);

fn main() -> ExitCode {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    let only = wanted.iter().position(|word| word == "--only").map(|at| {
        let words: Vec<String> = wanted.drain(at..(at + 2).min(wanted.len())).collect();
        words.last().cloned().unwrap_or_default()
    });
    let boots: Vec<&Boot> = BOOTS
        .iter()
        .chain(&events::BOOTS)
        .filter(|boot| only.as_ref().is_none_or(|only| only == boot.name))
        .collect();
    if wanted.iter().any(|word| word == "--help") {
        println!(
            "usage: test-kernel [LEG...] [--only BOOT]\nlegs: {}; all where none is named\nboots: {}",
            LEGS.map(|leg| leg.name).join(", "),
            boots
                .iter()
                .map(|boot| boot.name)
                .collect::<Vec<_>>()
                .join(", ")
        );
        return ExitCode::SUCCESS;
    }
    let meant = |leg: &&Leg| wanted.is_empty() || wanted.iter().any(|name| leg.is_meant_by(name));
    let legs: Vec<&Leg> = LEGS.iter().filter(meant).collect();
    if boots.is_empty() {
        eprintln!(
            "error: no boot is called {}\nhint: --help lists them",
            only.unwrap_or_default()
        );
        return ExitCode::from(2);
    }
    if let Some(unknown) = wanted
        .iter()
        .find(|name| !LEGS.iter().any(|leg| leg.is_meant_by(name)))
    {
        eprintln!("error: no leg is called {unknown}\nhint: --help lists them");
        return ExitCode::from(2);
    }
    let count = run_legs(&legs, &boots);
    println!("kernel: {count}");
    if count.failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Machines that run at once. Half of a story's time is a wait, for resets above all, so two more than there
/// are cores keep them busy.
fn machines() -> usize {
    thread::available_parallelism().map_or(2, |cores| cores.get().min(4) + 2)
}

/// Runs every boot of every leg, a few at a time, and tells of each when it is over. What a later
/// leg needs is fetched and built meanwhile.
fn run_legs(legs: &[&Leg], boots: &[&Boot]) -> Count {
    let begun = Instant::now();
    let tallies = Mutex::new(Tallies::default());
    let open = || tallies.lock().unwrap_or_else(PoisonError::into_inner);
    let waiting = Waiting::new();
    thread::scope(|scope| {
        let (waiting, open) = (&waiting, &open);
        for number in 0..machines() {
            let ask = match number % 4 {
                3 => Ask::Shortest,
                _ => Ask::Longest,
            };
            scope.spawn(move || {
                while let Some((leg, boot, cache)) = waiting.next(ask) {
                    let (leg, boot): (&Leg, &Boot) = (leg, boot);
                    let cache: PathBuf = cache;
                    let started = Instant::now();
                    let name = format!("{}/{}", leg.name, boot.name);
                    match run_boot(leg, boot, &cache) {
                        Ok(Run::Booted(ending)) => {
                            open().end(leg, boot, &ending);
                            let took = started.elapsed().as_secs_f64();
                            println!("     {name} took {took:.1} s, {} openings", ending.openings);
                        }
                        Ok(Run::Absent(why)) => open().book(&name, Outcome::Skipped, why),
                        Err(why) => open().book(&name, Outcome::Failed, &why.to_string()),
                    }
                }
            });
        }
        for leg in legs {
            match leg.prepare().and_then(|()| leg::cache()) {
                Ok(cache) => {
                    // The longest boots first, and of those the slowest kernel's, the last leg's.
                    for (place, boot) in boots.iter().enumerate() {
                        let rank = (place + 1) * LEGS.len() - leg.turn();
                        waiting.add(rank, (*leg, *boot, cache.clone()));
                    }
                }
                Err(Unprepared::Skipped(why)) => {
                    open().book(leg.name, Outcome::Skipped, &why);
                }
                Err(Unprepared::Failed(why)) => {
                    open().book(leg.name, Outcome::Failed, &why);
                }
            }
        }
        waiting.close();
    });
    println!("     all took {:.1} s", begun.elapsed().as_secs_f64());
    // Where a card is given to its driver it is opened: none were, or nobody counted.
    let some = boots
        .iter()
        .any(|boot| boot.cards > 0 && !boot.bind.is_empty());
    let tallies = tallies.into_inner();
    tallies
        .unwrap_or_else(PoisonError::into_inner)
        .close(u64::from(some))
}

/// What became of a boot.
enum Run {
    /// It ran.
    Booted(Ran),
    /// It is not of this leg, for this reason.
    Absent(&'static str),
}

/// What a boot came to.
#[derive(Debug)]
struct Ran {
    cases: Vec<Case>,
    /// How often its cards were opened.
    openings: u64,
    figures: BTreeMap<String, String>,
}

fn run_boot(leg: &Leg, boot: &Boot, cache: &Path) -> io::Result<Run> {
    if let Some(why) = boot.beside.absent_from(leg.name) {
        return Ok(Run::Absent(why));
    }
    let folder = cache
        .join("runs")
        .join(format!("{}-{}", leg.name, boot.name));
    fs::create_dir_all(&folder)?;
    let initramfs = folder.join("initramfs.cpio");
    fs::write(&initramfs, userland(leg, boot, cache)?)?;
    let cards: Vec<Card> = (0..boot.cards + boot.beside.spares)
        .map(|number| {
            // As much as the stories' own cards have; a seed of its own gives each card its UUID.
            let seed = (number + 1).to_string();
            let mut more = vec!["--hbm", "64M", "--seed", &seed];
            if number >= boot.cards {
                more.push("--no-msix");
            }
            let own = boot.beside.options.get(number).copied();
            more.extend(own.unwrap_or_default());
            Card::start(&folder, number, &more)
        })
        .collect::<Result<_, _>>()?;
    let devices = devices(boot, &cards);
    let mut hands = Hands::new(cards, &folder);
    let machine = Machine {
        qemu: leg::home().join("qemu"),
        kernel: cache.join(leg.kernel).join("vmlinux"),
        initramfs,
        processors: boot.processors.on(leg),
        folder: &folder,
        devices,
        more: hands.arguments().to_vec(),
        append: format!("intel_iommu=on {}", boot.beside.append),
    };
    let ending = machine.run(DEADLINE, &mut hands, boot.beside.hangs)?;
    let took = ending.took.as_secs_f64();
    let figures = ending.report.figures().clone();
    let asked = figures
        .iter()
        .filter(|(name, _)| name.starts_with("resets-asked-"))
        .map(|(_, count)| count.parse::<u64>().map_err(io::Error::other))
        .sum::<io::Result<u64>>()?;
    let openings = hands.openings(asked)?;
    let mut cases = ending.report.close(&ending.words);
    cases.extend(hands.close());
    cases.push(judge_log(&ending.log, took, &folder));
    Ok(Run::Booted(Ran {
        cases,
        openings,
        figures,
    }))
}

/// QEMU's devices: an IOMMU, stock ones, a root port a card, and the cards that are plugged in
/// from the start.
fn devices(boot: &Boot, cards: &[Card]) -> Vec<String> {
    let mut devices = Vec::new();
    if boot.beside.iommu {
        devices.push("intel-iommu,intremap=on,caching-mode=on".to_owned());
    }
    devices.extend(boot.stock.iter().map(|device| (*device).to_owned()));
    devices.extend((0..cards.len()).map(Card::port));
    for (number, card) in cards.iter().enumerate().take(boot.cards) {
        let mut device = card.device(number);
        if boot.beside.company && number + 1 == boot.cards {
            device["multifunction"] = true.into();
            devices.push(format!("pci-serial,bus=card{number},addr=0.1"));
        }
        devices.push(device.to_string());
    }
    devices
}

/// The kernel's log is a case of its own: there, and without a complaint.
fn judge_log(log: &str, took: f64, folder: &Path) -> Case {
    let complaints = kernel_log::complaints(log);
    let (outcome, reason) = match complaints.first() {
        Some(first) => (
            Outcome::Failed,
            format!(
                "{} complaints, the first: {first} ({}/console.log)",
                complaints.len(),
                folder.display()
            ),
        ),
        None if !log.contains("Linux version") => {
            (Outcome::Failed, "the kernel's log is not whole".to_owned())
        }
        None => (
            Outcome::Passed,
            format!(
                "{} lines, no complaint; off after {took:.1} s",
                log.lines().count()
            ),
        ),
    };
    Case {
        name: "kernel-log".to_owned(),
        outcome,
        reason,
    }
}

/// The initramfs of one boot: busybox, modules, the init, the stories and what they start.
fn userland(leg: &Leg, boot: &Boot, cache: &Path) -> io::Result<Vec<u8>> {
    let guest = leg::home().join("guest");
    let mut archive = Archive::default();
    archive.folder("dev")?;
    archive.device("dev/console", 5, 1)?;
    archive.copy("init", &guest.join("init"))?;
    for name in ["cards", "start-udev"] {
        archive.copy(&format!("bin/{name}"), &guest.join(name))?;
    }
    archive.copy("bin/busybox", &cache.join("busybox/usr/bin/busybox"))?;
    for program in ["probe", "card", "owner"] {
        archive.copy(
            &format!("bin/{program}"),
            &cache.join("guest").join(program),
        )?;
    }
    for story in boot.stories {
        program::enter_for(&mut archive, story)?;
        if ["binding", "setup"].contains(story) {
            program::enter_debian(&mut archive, &cache.join("tools-bookworm"))?;
            program::enter_rule(&mut archive)?;
        }
    }
    // A kernel without modules has all of them inside.
    let beside: &[&str] = match leg.modules {
        [] => &[],
        _ => boot.beside.modules,
    };
    for module in leg.modules.iter().chain(beside) {
        let file = format!("{module}.ko");
        archive.copy(
            &format!("modules/{file}"),
            &cache.join(leg.modules_in).join(&file),
        )?;
    }
    if boot.driver == Driver::Shim {
        archive.copy(
            "modules/jalapeno_vfio_pci.ko",
            &cache.join(leg.shim).join("jalapeno_vfio_pci.ko"),
        )?;
    }
    for story in boot.stories {
        archive.copy(
            &format!("stories/{story}"),
            &guest.join("stories").join(story),
        )?;
    }
    let release = fs::read_to_string(cache.join(leg.kernel).join("release"))?;
    let driver = boot.driver.name();
    let last_module = match boot.driver {
        Driver::VfioPci => "",
        Driver::Shim => " jalapeno_vfio_pci",
    };
    let settings = format!(
        "KERNEL={}\nBOOT={}\nBACKEND={}\nDRIVER={driver}\nBIND='{}'\nCARD={CARD}\nCARDS={}\n\
         TURN={}\nMODULES='{}{last_module} {}'\nEXPECT_RELEASE={}\n",
        leg.family,
        boot.name,
        leg.backend,
        boot.bind,
        boot.cards,
        leg.turn() + usize::from(boot.driver == Driver::Shim) * LEGS.len(),
        leg.modules.join(" "),
        beside.join(" "),
        release.trim(),
    );
    archive.file("leg", settings.as_bytes())?;
    archive.finish()
}
