//! `jalctl top`: what cards are doing, as they do it. Reads beside a running owner and disturbs it in
//! nothing.
//!
//! On a terminal it draws a screen: arrows choose a card, Enter shows all of it and why figures are
//! missing, p pauses, + and - change the interval, ? explains, q quits. With `--count`, or with another
//! form than a table, it prints samples for scripts and draws nothing. In jsonl a line is one report of
//! all cards, a sample; in csv a card has a line a sample, without its queues and holders.
//!
//! Utilisation, durations and energy of jobs come from the card's profile records, which it writes
//! only while somebody asks; some hundred milliseconds after `top` ends, or is paused, it stops. What came
//! too fast to be read is counted as missed. The rest is telemetry. A figure that is stale or absent is
//! "-", in scripts null, with its reason. Cards are known by their UUID; one that is lost is opened again
//! when it answers. Cards on the PCI bus are not opened, since that would take them from their owners:
//! of them the telemetry is shown that the kernel module reads beside the owner.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Args;

use crate::command::Reporting;
use crate::devices::{self, Chosen, Outcome};
use crate::exit::{Exit, Problem};
use crate::output::{self, Format};
use crate::signals;
use crate::stream::Stream;

mod board;
mod bus;
mod details;
mod figure;
mod keys;
mod meter;
mod panel;
mod row;
mod sample;
mod screen;
mod tally;
mod terminal;
mod watch;

#[cfg(test)]
mod tests;

use board::{Board, Order};
use sample::Top;
use terminal::Terminal;
use watch::{Look, Orders};

/// Longest that a key or a signal waits.
const TICK: Duration = Duration::from_millis(100);
/// The screen's first interval: soon there is something to see.
const FIRST: Duration = Duration::from_millis(300);
/// A card that gives no sample for so much longer than an interval has a problem.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shows what cards are doing: utilisation, power, queues, holders; disturbs no owner.
///
/// Draws on a terminal (? shows the keys). With --count, or in another form than a table, it prints
/// samples: in jsonl a line is a report of all cards, in csv a card has a line a sample. A figure that
/// is unavailable or too old is "-", in JSON null with its reason, and never 0.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    reporting: Reporting,
    /// Seconds from sample to sample
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
    /// End after so many samples. Default: on a terminal none, in jsonl and csv none, in json 1
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=60.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("give seconds from 0.1 to 60".into()),
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Exit, Problem> {
    let Reporting { devices, form } = &arguments.reporting;
    if form.schema {
        return output::schema::<Top>().map(|()| Exit::Ok);
    }
    if form.output == Format::Table && arguments.count.is_none() {
        let terminal = Terminal::check()?;
        let cards = devices::chosen_in_full(devices)?;
        signals::listen()?;
        return watch_on(terminal, &cards, arguments.interval);
    }
    let cards = devices::chosen_in_full(devices)?;
    signals::listen()?;
    let count = match form.output {
        Format::Json => arguments.count.or(Some(1)),
        _ => arguments.count,
    };
    print(form.output, &cards, arguments.interval, count)
}

/// Those who watch, a thread a card, and what they tell.
struct Watchers {
    orders: Arc<Orders>,
    hear: Receiver<Look>,
    threads: Vec<JoinHandle<()>>,
}

impl Watchers {
    fn start(cards: &[Chosen], first: Duration, interval: Duration) -> Self {
        let orders = Arc::new(Orders::new(interval));
        let (say, hear) = mpsc::channel();
        let start = |(watcher, card): (usize, &Chosen)| {
            let (card, orders, say) = (card.clone(), Arc::clone(&orders), say.clone());
            std::thread::spawn(move || watch::watch(watcher, &card, first, &orders, &say))
        };
        let threads = cards.iter().enumerate().map(start).collect();
        Self {
            orders,
            hear,
            threads,
        }
    }

    /// They end only with us; one that did not has found a mistake of ours.
    fn are_well(&self) -> Result<(), Problem> {
        match self.threads.iter().any(JoinHandle::is_finished) {
            false => Ok(()),
            true => Err(Problem::failure("a card's watcher ended", "report this")),
        }
    }
}

/// Draws until it is told to end.
fn watch_on(
    terminal: terminal::There,
    cards: &[Chosen],
    interval: Duration,
) -> Result<Exit, Problem> {
    let begin = Instant::now();
    let watchers = Watchers::start(cards, FIRST.min(interval), interval);
    let mut board = Board::new(interval);
    for (watcher, card) in cards.iter().enumerate() {
        board.expect(watcher, &card.name, card.uuid.as_deref(), card.index);
    }
    let theme = screen::Theme {
        colour: std::env::var_os("NO_COLOR").is_none_or(|words| words.is_empty()),
    };
    let mut terminal = terminal.take()?;
    while signals::asked() == 0 {
        for look in watchers.hear.try_iter() {
            board.hear(look, begin.elapsed());
        }
        watchers.are_well()?;
        let draw = |frame: &mut ratatui::Frame| screen::draw(frame, &board, begin.elapsed(), theme);
        // A terminal that is gone ends the command; nobody is left to be told.
        let Ok(keys) = terminal.draw(draw).and_then(|()| terminal.keys(TICK)) else {
            break;
        };
        for key in keys {
            match board.press(key, begin.elapsed()) {
                Order::Nothing => {}
                Order::Quit => return Ok(Exit::Ok),
                Order::Pause(paused) => watchers.orders.set_paused(paused),
                Order::Interval(interval) => watchers.orders.set_interval(interval),
            }
        }
    }
    Ok(Exit::Ok)
}

/// Prints so many samples, or until it is told to end or nobody reads any more. Ends as the last did.
fn print(
    format: Format,
    cards: &[Chosen],
    interval: Duration,
    count: Option<u64>,
) -> Result<Exit, Problem> {
    let example = Top {
        holders: Some(Vec::new()),
        ..Top::default()
    };
    let stream = Stream::new(format, example);
    let watchers = Watchers::start(cards, interval, interval);
    let mut heard: Vec<VecDeque<Look>> = cards.iter().map(|_| VecDeque::new()).collect();
    let mut exit = Exit::Ok;
    let mut given = 0;
    let mut read = stream.begin()?;
    while read && count.is_none_or(|count| given < count) {
        let Some(outcomes) = collect(&watchers, cards, &mut heard, interval + PATIENCE)? else {
            break;
        };
        read = stream.give(&outcomes, table)?;
        exit = devices::exit(&outcomes);
        given += 1;
    }
    Ok(exit)
}

/// A sample of each card; none: a signal asked to end.
fn collect(
    watchers: &Watchers,
    cards: &[Chosen],
    heard: &mut [VecDeque<Look>],
    patience: Duration,
) -> Result<Option<Vec<Outcome<Top>>>, Problem> {
    let until = Instant::now() + patience;
    while heard.iter().any(VecDeque::is_empty) && Instant::now() < until {
        if signals::asked() != 0 {
            return Ok(None);
        }
        match watchers.hear.recv_timeout(TICK) {
            Ok(look) => {
                if let Some(heard) = heard.get_mut(look.watcher) {
                    heard.push_back(look);
                }
            }
            Err(RecvTimeoutError::Timeout) => watchers.are_well()?,
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let outcome = |(card, heard): (&Chosen, &mut VecDeque<Look>)| match heard.pop_front() {
        Some(look) => Outcome {
            name: look.name,
            uuid: look.uuid,
            result: look.result,
        },
        None => Outcome {
            name: card.name.clone(),
            uuid: card.uuid.clone(),
            result: Err(Problem {
                code: "timeout".into(),
                message: format!("{} gave no sample for {patience:?}", card.name),
                hint: Some("jalctl health says whether it still answers".into()),
                exit: Exit::Timeout,
            }),
        },
    };
    Ok(Some(cards.iter().zip(heard).map(outcome).collect()))
}

fn table(outcomes: &[Outcome<Top>]) -> String {
    let header = [
        "INDEX", "UUID", "STATE", "BUSY", "POWER", "TEMP", "HBM", "JOBS/S", "J/JOB", "MISSED",
        "ENERGY",
    ];
    let rows = outcomes.iter().filter_map(|outcome| {
        let top = outcome.result.as_ref().ok()?;
        let watts = |power| format!("{} W", figure::watts(power));
        Some([
            top.index.map(|index| index.to_string()),
            outcome.uuid.clone(),
            top.state.clone(),
            top.busy_per_mille.map(figure::share),
            top.power_milliwatts.map(watts),
            top.die_temperature_millicelsius.map(figure::celsius),
            figure::bytes_of(top.hbm_used_bytes, top.hbm_total_bytes),
            top.jobs_per_second.map(figure::count),
            top.energy_per_job_nanojoules.map(figure::nanojoules),
            top.missed_records.map(figure::count),
            top.energy_since_start_microjoules.map(figure::microjoules),
        ])
    });
    output::table(header, rows.map(|row| row.map(Option::unwrap_or_default)))
}
