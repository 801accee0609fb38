//! Panels: what becomes of one card, with its history, in some lines below the table.

use std::time::Duration;

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::board::{Board, Card, Moment, News, Shown};
use super::sample::Top;
use super::screen::Theme;
use super::{details, figure};
use crate::exit::{Problem, clean};

/// A card in some lines.
pub fn panel(
    board: &Board,
    card: &Card,
    now: Duration,
    theme: Theme,
    width: u16,
) -> Vec<Line<'static>> {
    let mut lines = vec![title(card, theme, width)];
    match card.shown(board, now) {
        Shown::Waiting => lines.push(Line::styled(" the first sample comes soon", theme.faint())),
        Shown::Gone(word, since, problem) => {
            lines.extend(gone(word, since, problem, theme));
            lines.push(history(
                card,
                "busy",
                "-".into(),
                width,
                |it| it.busy,
                theme.good(),
            ));
        }
        Shown::Sample(top) => lines.extend(figures(card, top, now, theme, width)),
    }
    lines
}

/// Why nothing is shown of a card.
pub fn gone(
    word: &str,
    since: Duration,
    problem: Option<&Problem>,
    theme: Theme,
) -> Vec<Line<'static>> {
    let mut lines = vec![Line::from(vec![
        Span::raw(" "),
        Span::styled(clean(word), theme.bad()),
        Span::raw(format!(" for {}", age(since))),
    ])];
    match problem {
        Some(problem) => {
            lines.push(Line::raw(format!(" {}", clean(&problem.message))));
            if let Some(hint) = &problem.hint {
                lines.push(Line::raw(format!(" hint: {}", clean(hint))));
            }
            lines.push(Line::raw(" it is opened again when it answers"));
        }
        None => lines.push(Line::raw(" it does not answer; what was shown is too old")),
    }
    lines
}

/// The line above a card's figures: who it is.
pub fn title(card: &Card, theme: Theme, width: u16) -> Line<'static> {
    let uuid = card.uuid.clone().unwrap_or_else(|| "no UUID yet".into());
    let words = format!(" {} ", clean(&uuid));
    let name = format!(" {} ", clean(&card.name));
    let used = words.chars().count() + name.chars().count() + 4;
    let rule = |cells: usize| Span::styled("\u{2500}".repeat(cells), theme.faint());
    Line::from(vec![
        rule(2),
        Span::styled(words, theme.strong()),
        rule(1),
        Span::raw(name),
        rule(usize::from(width).saturating_sub(used).max(1)),
    ])
}

fn figures(card: &Card, top: &Top, now: Duration, theme: Theme, width: u16) -> Vec<Line<'static>> {
    let dash = || "-".to_owned();
    let share = |share: Option<u64>| share.map_or_else(dash, figure::share);
    let heat = |heat: Option<i64>| heat.map_or_else(dash, figure::celsius);
    let count = |unit: &'static str| move |value| figure::with_unit(value, unit);
    let watts = top.power_milliwatts.map(figure::watts);
    let power = watts.map_or_else(dash, |watts| format!("{watts} W"));
    let mut lines = vec![
        history(
            card,
            "busy",
            share(top.busy_per_mille),
            width,
            |it| it.busy,
            theme.good(),
        ),
        history(card, "power", power, width, |it| it.power, theme.accent()),
    ];
    let throttled = top.throttle_count_interval.map_or_else(dash, figure::count);
    let style = match top.throttle_count_interval {
        Some(1..) => theme.bad(),
        _ => Style::new(),
    };
    let (die, stacks) = (
        top.die_temperature_millicelsius,
        top.hbm_temperature_millicelsius,
    );
    let engines = [
        Span::raw(format!("compute {}", share(top.compute_per_mille))),
        Span::raw(format!("copy {}", share(top.copy_per_mille))),
    ];
    let warmth = [
        Span::styled(format!("die {}", heat(die)), theme.heat(top)),
        Span::styled(format!("HBM {}", heat(stacks)), theme.heat(top)),
        Span::styled(format!("throttled {throttled}"), style),
    ];
    let work = [
        top.jobs_per_second
            .map_or("- jobs/s".into(), count("jobs/s")),
        top.energy_per_job_nanojoules
            .map_or_else(dash, figure::nanojoules)
            + " a job",
        top.operations_per_second
            .map_or("- op/s".into(), count("op/s")),
        top.bytes_per_second.map_or("- B/s".into(), count("B/s")),
        top.energy_since_start_microjoules
            .map_or_else(dash, figure::microjoules)
            + " so far",
    ];
    lines.extend(several("engines", engines, width));
    lines.extend(several("heat", warmth, width));
    lines.extend(several("work", work.map(Span::raw), width));
    let missed = top.missed_records.unwrap_or(0);
    if missed > 0 {
        let words = format!(
            " missed   {} jobs came faster than their records could be read",
            figure::count(missed)
        );
        lines.push(Line::styled(words, theme.warn()));
    }
    lines.push(Line::raw(format!(" holders  {}", details::holders(top))));
    if let Some(News::Reset(at)) = card.news(now) {
        let words = format!(" news     reset {} ago", age(now.saturating_sub(at)));
        lines.push(Line::styled(words, theme.warn()));
    }
    lines.push(Line::default());
    lines.extend(details::queues(top, theme));
    lines
}

/// Several things of one kind, in as many lines as they take.
fn several<const N: usize>(
    what: &str,
    things: [Span<'static>; N],
    width: u16,
) -> Vec<Line<'static>> {
    let head = |what: &str| vec![Span::raw(format!(" {what:<8}"))];
    let mut lines = vec![head(what)];
    let mut used = 9;
    for thing in things {
        if used + thing.width() + 2 > usize::from(width) {
            lines.push(head(""));
            used = 9;
        }
        used += thing.width() + 2;
        if let Some(line) = lines.last_mut() {
            line.push(Span::raw(if line.len() > 1 { "  " } else { " " }));
            line.push(thing);
        }
    }
    lines.into_iter().map(Line::from).collect()
}

/// A figure with its history.
fn history(
    card: &Card,
    what: &str,
    figure: String,
    width: u16,
    of: impl Fn(&Moment) -> Option<u64>,
    style: Style,
) -> Line<'static> {
    let cells = usize::from(width).saturating_sub(20);
    let line = figure::sparkline(card.history.iter().map(of), cells);
    Line::from(vec![
        Span::raw(format!(" {what:<8} {figure:>6}  ")),
        Span::styled(line, style),
    ])
}

/// A time for eyes.
pub fn age(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
