//! Details: all that is known of one card, and why the rest is not.

use std::time::Duration;

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::board::{Board, Card, Shown};
use super::figure;
use super::panel::{age, gone, title};
use super::sample::{Process, Top};
use super::screen::Theme;
use crate::exit::clean;

/// A figure in words; none: unavailable.
type Told = Option<String>;

/// A card's page.
pub fn lines(
    board: &Board,
    card: &Card,
    now: Duration,
    theme: Theme,
    area: Rect,
) -> Vec<Line<'static>> {
    let mut lines = vec![title(card, theme, area.width)];
    match card.shown(board, now) {
        Shown::Waiting => lines.push(Line::styled(" the first sample comes soon", theme.faint())),
        Shown::Gone(word, since, problem) => lines.extend(gone(word, since, problem, theme)),
        Shown::Sample(top) => {
            let all = figures(top);
            for (label, key, told) in &all {
                lines.push(line(label, key, told.as_ref(), top, theme));
            }
            let resets = match (top.resets, card.news) {
                (0, _) => "none since top began".into(),
                (resets, Some(super::board::News::Reset(at))) => {
                    format!("{resets}, the last {} ago", age(now.saturating_sub(at)))
                }
                (resets, _) => resets.to_string(),
            };
            lines.push(line("resets", "resets", Some(&resets), top, theme));
            lines.push(line("holders", "holders", Some(&holders(top)), top, theme));
            lines.push(Line::default());
            lines.extend(queues(top, theme));
        }
    }
    lines
}

fn line(label: &str, key: &str, told: Option<&String>, top: &Top, theme: Theme) -> Line<'static> {
    let label = Span::styled(format!(" {label:<19}"), theme.faint());
    let words = told.map(|words| clean(words));
    let Some(words) = words else {
        let why = top
            .why(key)
            .map_or("no reason was given", |why| &why.message);
        let why = Span::styled(format!("-  {}", clean(why)), theme.warn());
        return Line::from(vec![label, why]);
    };
    Line::from(vec![label, Span::raw(words)])
}

/// Label, key, and the figure in words.
fn figures(top: &Top) -> Vec<(&'static str, &'static str, Told)> {
    let watts = |value| format!("{} W", figure::watts(value));
    let unit = |unit: &'static str| move |value| figure::with_unit(value, unit);
    let throttled = top
        .throttle_count
        .map(|all| match top.throttle_count_interval {
            Some(now) => format!("{now} now, {all} since manufacture"),
            None => format!("{all} since manufacture"),
        });
    vec![
        ("product", "product", top.product.clone()),
        ("state", "state", top.state.clone()),
        (
            "generation",
            "generation",
            top.generation.map(|it| it.to_string()),
        ),
        (
            "interval",
            "interval_ns",
            top.interval_ns.map(figure::nanoseconds),
        ),
        (
            "busy",
            "busy_per_mille",
            top.busy_per_mille.map(figure::share),
        ),
        (
            "compute engine",
            "compute_per_mille",
            top.compute_per_mille.map(figure::share),
        ),
        (
            "copy engine",
            "copy_per_mille",
            top.copy_per_mille.map(figure::share),
        ),
        (
            "compute clock",
            "compute_clock_kilohertz",
            top.compute_clock_kilohertz
                .map(|khz| unit("Hz")(khz.saturating_mul(1000))),
        ),
        ("power", "power_milliwatts", top.power_milliwatts.map(watts)),
        (
            "power limit",
            "power_limit_milliwatts",
            top.power_limit_milliwatts.map(watts),
        ),
        (
            "die",
            "die_temperature_millicelsius",
            top.die_temperature_millicelsius.map(figure::celsius),
        ),
        (
            "hottest HBM stack",
            "hbm_temperature_millicelsius",
            top.hbm_temperature_millicelsius.map(figure::celsius),
        ),
        (
            "throttles at",
            "throttle_temperature_millicelsius",
            top.throttle_temperature_millicelsius.map(figure::celsius),
        ),
        ("throttled", "throttle_count", throttled),
        (
            "HBM",
            match top.hbm_used_bytes {
                None => "hbm_used_bytes",
                Some(_) => "hbm_total_bytes",
            },
            figure::bytes_of(top.hbm_used_bytes, top.hbm_total_bytes),
        ),
        (
            "energy in all",
            "energy_microjoules",
            top.energy_microjoules.map(figure::microjoules),
        ),
        (
            "energy so far",
            "energy_since_start_microjoules",
            top.energy_since_start_microjoules.map(figure::microjoules),
        ),
        (
            "jobs",
            "jobs_per_second",
            top.jobs_per_second.map(unit("jobs/s")),
        ),
        (
            "missed records",
            "missed_records",
            top.missed_records.map(figure::count),
        ),
        (
            "energy a job",
            "energy_per_job_nanojoules",
            top.energy_per_job_nanojoules.map(figure::nanojoules),
        ),
        (
            "operations",
            "operations_per_second",
            top.operations_per_second.map(unit("op/s")),
        ),
        (
            "bytes moved",
            "bytes_per_second",
            top.bytes_per_second.map(unit("B/s")),
        ),
    ]
}

/// The queues in which jobs finished.
pub fn queues(top: &Top, theme: Theme) -> Vec<Line<'static>> {
    if top.queues.is_empty() {
        let words = match (top.why("jobs"), top.jobs) {
            (Some(why), None) => format!(" no jobs are told: {}", clean(&why.message)),
            (_, Some(1..)) => " no job's record was read in time".into(),
            _ => " no job finished in the interval".into(),
        };
        return vec![Line::styled(words, theme.faint())];
    }
    let header = " QUEUE   JOBS/S     MEAN      P99     EACH   SHARE  FAILED";
    let mut lines = vec![Line::styled(header, theme.faint())];
    lines.extend(top.queues.iter().map(|queue| {
        let each = queue.energy_nanojoules.checked_div(queue.jobs).unwrap_or(0);
        let words = format!(
            " {:>5}  {:>7}  {:>7}  {:>7}  {:>7}  {:>6}",
            queue.queue,
            figure::count(queue.jobs_per_second),
            figure::nanoseconds(queue.mean_ns),
            figure::nanoseconds(queue.p99_ns),
            figure::nanojoules(each),
            figure::share(queue.energy_per_mille),
        );
        let style = match queue.failed {
            0 => theme.faint(),
            _ => theme.bad(),
        };
        let failed = Span::styled(format!("  {:>6}", figure::count(queue.failed)), style);
        Line::from(vec![Span::raw(words), failed])
    }));
    lines
}

/// Who has the card, in words.
pub fn holders(top: &Top) -> String {
    let Some(holders) = &top.holders else {
        return "-".into();
    };
    let one = |process: &Process| {
        let name = process.command.as_deref().unwrap_or("not visible");
        format!("{} ({})", clean(name), process.pid)
    };
    let (watchers, owners): (Vec<_>, Vec<_>) = holders
        .iter()
        .partition(|process| process.way == "observer");
    let list = |of: &[&Process]| of.iter().map(|it| one(it)).collect::<Vec<_>>().join(", ");
    let mut words = match owners.as_slice() {
        [] => "nobody owns it".to_owned(),
        owners => list(owners),
    };
    if !watchers.is_empty() {
        words += &format!("; watched by {}", list(&watchers));
    }
    words
}
