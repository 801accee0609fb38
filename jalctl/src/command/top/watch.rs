//! Watching: a thread of its own for each card, so that one that does not answer delays no other. It
//! reads as an observer, opens the card again when it was lost, and gives a sample an interval.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jalapeno::hw::regs::{DeviceState, Generation, Time};
use jalapeno::pci::Root;
use jalapeno::{Device, Profiler, Role, holders};

use super::bus;
use super::meter::Meter;
use super::sample::{Process, Queue, Top, Why};
use super::tally::{Jobs, Sum, Tally};
use crate::devices::Chosen;
use crate::exit::Problem;
use crate::output;

/// Pauses between two looks at the profile ring: as long as little is found, as short as much is.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// So many records in one look are much, so many are little; the ring has some hundreds.
const MUCH: u64 = 160;
const LITTLE: u64 = 64;
/// Pause between two looks whether somebody wants the card watched again.
const DOZE: Duration = Duration::from_millis(20);
/// Holders are asked for at most so often.
const HOLDERS: Duration = Duration::from_secs(1);

/// What all watchers are told.
#[derive(Debug)]
pub struct Orders {
    interval_ms: AtomicU64,
    paused: AtomicBool,
}

impl Orders {
    pub fn new(interval: Duration) -> Self {
        let orders = Self {
            interval_ms: AtomicU64::new(0),
            paused: AtomicBool::new(false),
        };
        orders.set_interval(interval);
        orders
    }

    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms.load(Ordering::Relaxed))
    }

    pub fn set_interval(&self, interval: Duration) {
        let ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        self.interval_ms.store(ms, Ordering::Relaxed);
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Paused, nothing is read, so the cards keep no records for us.
    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }
}

/// What a watcher gives.
#[derive(Clone, Debug)]
pub struct Look {
    /// Which of the watchers.
    pub watcher: usize,
    /// What opens the card.
    pub name: String,
    /// Its UUID, where it ever told it.
    pub uuid: Option<String>,
    pub result: Result<Top, Problem>,
}

/// A card, open.
struct Open {
    device: Arc<Device>,
    profile: Result<Profiler, Why>,
    tally: Tally,
    meter: Meter,
    pause: Duration,
}

/// Watches a card until nobody listens any more. The first interval is as long as `first`.
pub fn watch(watcher: usize, card: &Chosen, first: Duration, orders: &Orders, say: &Sender<Look>) {
    let mut watched = Watched::new(card);
    let mut begin = Instant::now();
    let mut first = Some(first);
    loop {
        let interval = || first.unwrap_or_else(|| orders.interval());
        while let Some(left) = interval().checked_sub(begin.elapsed()) {
            if orders.is_paused() {
                watched.rest();
                while orders.is_paused() {
                    sleep(DOZE);
                }
                watched.resume();
                begin = Instant::now();
            }
            sleep(watched.poll().min(left));
        }
        let look = Look {
            watcher,
            result: watched.sample(),
            name: card.name.clone(),
            uuid: watched.uuid.clone(),
        };
        if say.send(look).is_err() {
            return;
        }
        begin += interval();
        first = None;
        if begin.elapsed() > orders.interval() {
            begin = Instant::now(); // what was slow is not made up for
        }
    }
}

/// What is known of a card, open or not.
struct Watched {
    name: String,
    index: Option<usize>,
    uuid: Option<String>,
    open: Result<Open, Problem>,
    /// The meter of the last opening: what rose meanwhile counts.
    meter: Option<(String, Meter)>,
    /// Of a card on the PCI bus.
    seen: bus::Seen,
    generation: Option<u64>,
    resets: u64,
    holders: Option<Vec<Process>>,
    asked: Option<Instant>,
}

impl Watched {
    fn new(card: &Chosen) -> Self {
        let mut watched = Self {
            name: card.name.clone(),
            index: card.index,
            uuid: card.uuid.clone(),
            open: Err(Problem::failure("not open yet", "wait")),
            meter: None,
            seen: bus::Seen::default(),
            generation: None,
            resets: 0,
            holders: None,
            asked: None,
        };
        if !bus::is_on_it(&watched.name) {
            watched.open();
        }
        watched
    }

    /// Opens the card; another one that stands in its place now is counted anew.
    fn open(&mut self) {
        self.open = Open::new(&self.name).map_err(Problem::from);
        if let Ok(open) = &mut self.open {
            let uuid = open.device.info().uuid.to_string();
            if self.uuid.as_ref().is_some_and(|was| *was != uuid) {
                (self.generation, self.resets) = (None, 0);
            }
            if let Some((of, meter)) = self.meter.take()
                && of == uuid
            {
                open.meter = meter;
            }
            open.begin();
            self.uuid = Some(uuid);
        }
    }

    fn close(&mut self, problem: Problem) {
        if let Ok(open) = std::mem::replace(&mut self.open, Err(problem)) {
            self.meter = Some((open.device.info().uuid.to_string(), open.meter));
        }
    }

    /// Looks at the profile ring, and says when to look again.
    fn poll(&mut self) -> Duration {
        match &mut self.open {
            Ok(open) => open.poll(),
            Err(_) => PAUSES.1,
        }
    }

    fn rest(&mut self) {
        if let Ok(open) = &mut self.open {
            open.profile = Err(Why::new("not-refreshed", "paused"));
        }
    }

    fn resume(&mut self) {
        if let Ok(open) = &mut self.open {
            open.begin();
        }
    }

    fn sample(&mut self) -> Result<Top, Problem> {
        if self.asked.is_none_or(|asked| asked.elapsed() >= HOLDERS) {
            self.asked = Some(Instant::now());
            let asked = holders::of(&self.name).ok();
            self.holders = asked.map(|all| all.seen.into_iter().map(Process::from).collect());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut top = Top {
            index: self.index,
            time_unix_ms: now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(0)),
            holders: self.holders.clone(),
            ..Top::default()
        };
        if bus::is_on_it(&self.name) {
            let function = Root::default().function(&self.name);
            self.uuid = function.text("jalapeno/uuid").or(self.uuid.take());
            self.seen.read(&function, &mut top)?;
        } else {
            let open = match &mut self.open {
                Ok(open) => open,
                Err(problem) => {
                    // What it is this time stands in the next sample.
                    let problem = problem.clone();
                    self.open();
                    return Err(match &self.open {
                        Ok(_) => problem,
                        Err(newer) => newer.clone(),
                    });
                }
            };
            if let Err(error) = open.sample(&mut top) {
                let problem = Problem::from(error);
                self.close(problem.clone());
                return Err(problem);
            }
        }
        if let Some(now) = top.generation {
            let before = self.generation.replace(now).unwrap_or(now);
            self.resets += now.saturating_sub(before);
        }
        top.resets = self.resets;
        Ok(top)
    }
}

impl Open {
    fn new(name: &str) -> jalapeno::Result<Self> {
        Ok(Self {
            device: Device::open(name, Role::Observe)?,
            profile: Err(Why::new("not-refreshed", "not begun")),
            tally: Tally::new(0),
            meter: Meter::default(),
            pause: PAUSES.1,
        })
    }

    /// An interval begins: what was before is not told.
    fn begin(&mut self) {
        self.profile = Profiler::new(&self.device).map_err(|error| Why::from(&error));
        let now = self.device.registers().read::<Time>();
        self.tally = Tally::new(now.map_or(0, |now| now.0));
        if let Ok(page) = self.device.telemetry() {
            self.meter.begin(&page);
        }
    }

    fn poll(&mut self) -> Duration {
        let Ok(profiler) = &mut self.profile else {
            return PAUSES.1;
        };
        match profiler.read() {
            Ok(profile) => {
                self.tally.add(&profile.jobs, profile.lost);
                let found = profile.jobs.len() as u64 + profile.lost;
                if found >= MUCH {
                    self.pause = (self.pause / 2).max(PAUSES.0);
                } else if found < LITTLE {
                    self.pause = (self.pause * 2).min(PAUSES.1);
                }
            }
            // A card that is lost says so to the sample too.
            Err(error) => self.profile = Err(Why::from(&error)),
        }
        self.pause
    }

    fn sample(&mut self, top: &mut Top) -> jalapeno::Result<()> {
        self.poll();
        let registers = self.device.registers();
        let state = self.device.state()?;
        let generation = registers.read::<Generation>()?.0;
        let now = registers.read::<Time>()?.0;
        let info = self.device.info();
        let caps = &info.capabilities;
        top.product = Some(caps.product.clone());
        top.generation = Some(generation);
        top.state = top.note("state", known(state));
        let page = self.device.telemetry().map_err(|error| Why::from(&error));
        let page = page.and_then(|page| {
            if page.generation.0 == generation {
                return Ok(page);
            }
            Err(Why::new(
                "reset",
                "the telemetry is of before a reset of the card",
            ))
        });
        let rate = caps.time.ticks_per_second.max(1);
        self.meter.read(page.as_ref().map_err(Clone::clone), top);
        let sum = self.tally.close(now);
        top.interval_ns = Some(nanos(sum.length, rate));
        let sum = self.profile.as_ref().map(|_| sum).map_err(Clone::clone);
        jobs(&sum, rate, top);
        if sum.is_err_and(|why| why.code != "unsupported") {
            self.begin();
        }
        Ok(())
    }
}

/// A state's word, or that it has none.
pub fn known(state: Result<DeviceState, impl Display>) -> Result<String, Why> {
    let unknown = |raw| Why::new("unknown", format!("the card says {raw}: no state we know"));
    let word = |state: DeviceState| output::word(state.name());
    state.map(word).map_err(unknown)
}

/// What the jobs of an interval come to.
fn jobs(sum: &Result<Sum, Why>, rate: u64, top: &mut Top) {
    let sum = sum.as_ref().map_err(Clone::clone);
    let none = || Why::new("no-jobs", "no job finished in the interval");
    let blind = || {
        Why::new(
            "all-missed",
            "all records were written over before they were read",
        )
    };
    top.missed_records = top.note("missed_records", sum.clone().map(|sum| sum.missed));
    top.jobs = top.note("jobs", sum.clone().map(|sum| sum.seen() + sum.missed));
    let each = sum
        .clone()
        .map(|sum| per_second(sum.seen() + sum.missed, sum.length, rate));
    top.jobs_per_second = top.note("jobs_per_second", each);
    let busy = sum
        .clone()
        .and_then(|sum| share(sum.busy, sum.known).ok_or_else(blind));
    top.busy_per_mille = top.note("busy_per_mille", busy);
    let energy = sum.clone().and_then(|sum| {
        let why = if sum.missed > 0 { blind() } else { none() };
        sum.energy_nj().checked_div(sum.seen()).ok_or(why)
    });
    top.energy_per_job_nanojoules = top.note("energy_per_job_nanojoules", energy);
    if let Ok(sum) = sum {
        let queue = |(number, jobs)| queue(number, jobs, sum, rate);
        top.queues = sum.queues.iter().map(queue).collect();
        let most = |queue: &Queue| (std::cmp::Reverse(queue.energy_nanojoules), queue.queue);
        top.queues.sort_by_key(most);
    }
}

fn queue(number: &u32, jobs: &Jobs, sum: &Sum, rate: u64) -> Queue {
    let ns = |ticks: Option<u64>| nanos(ticks.unwrap_or(0), rate);
    Queue {
        queue: *number,
        jobs: jobs.seen,
        failed: jobs.failed,
        jobs_per_second: per_second(jobs.seen, sum.known, rate),
        mean_ns: ns(jobs.durations.mean()),
        p99_ns: ns(jobs.durations.quantile(990)),
        energy_nanojoules: jobs.energy_nj,
        energy_per_mille: share(jobs.energy_nj, sum.energy_nj()).unwrap_or(0),
    }
}

/// `part` of `whole`, in thousandths.
fn share(part: u64, whole: u64) -> Option<u64> {
    let share = (u128::from(part) * 1000).checked_div(whole.into())?;
    u64::try_from(share).ok()
}

/// Rounded, so that little is not nothing where it rounds to something.
fn per_second(count: u64, ticks: u64, rate: u64) -> u64 {
    let all = u128::from(count) * u128::from(rate) + u128::from(ticks / 2);
    u64::try_from(all.checked_div(ticks.into()).unwrap_or(0)).unwrap_or(u64::MAX)
}

fn nanos(ticks: u64, rate: u64) -> u64 {
    u64::try_from(u128::from(ticks) * 1_000_000_000 / u128::from(rate)).unwrap_or(u64::MAX)
}
