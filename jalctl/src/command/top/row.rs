//! Rows: a line a card. Where the terminal is narrow, the columns that matter least are left out; the
//! panel below has their figures too.

use std::time::Duration;

use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::board::{Board, Card, News, Shown};
use super::figure;
use super::sample::Top;
use super::screen::Theme;
use crate::exit::clean;

/// What a column shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Index,
    Uuid,
    State,
    Busy,
    Bar,
    Power,
    Heat,
    Memory,
    Jobs,
    EachJob,
    Operations,
    Bytes,
    Energy,
    Owner,
}

use Column as C;

/// Column, title, cells, and which go first where there is no room: the highest.
const COLUMNS: [(Column, &str, usize, u8); 14] = [
    (C::Index, "IDX", 3, 0),
    (C::Uuid, "UUID", 8, 0),
    (C::State, "STATE", 9, 0),
    (C::Busy, "BUSY", 5, 0),
    (C::Bar, "", 10, 7),
    (C::Power, "POWER", 11, 1),
    (C::Heat, "TEMP", 6, 2),
    (C::Memory, "HBM", 17, 4),
    (C::Jobs, "JOBS/S", 7, 3),
    (C::EachJob, "J/JOB", 7, 6),
    (C::Operations, "OP/S", 7, 9),
    (C::Bytes, "BYTES/S", 7, 8),
    (C::Energy, "ENERGY", 7, 10),
    (C::Owner, "OWNER", 15, 5),
];

/// The header and as many cards as fit, among them the one that is chosen.
pub fn table(
    board: &Board,
    now: Duration,
    theme: Theme,
    width: u16,
    most: u16,
) -> Vec<Line<'static>> {
    let columns = fitting(usize::from(width));
    let title = |&(column, title, cells, _): &(Column, &str, usize, u8)| {
        format!("  {}", padded(column, title, cells))
    };
    let header: String = columns.iter().map(title).collect();
    let mut lines = vec![Line::styled(header, theme.faint())];
    let room = usize::from(most).saturating_sub(1).max(1);
    let all = board.cards.len();
    let chosen = board.chosen();
    // One line says how many are not shown.
    let room = if all > room {
        room.saturating_sub(1).max(1)
    } else {
        room
    };
    let first = (chosen + 1).saturating_sub(room);
    for (at, card) in board.cards.iter().enumerate().skip(first).take(room) {
        lines.push(row(board, card, at == chosen, &columns, now, theme));
    }
    if all > room {
        let words = format!("  {} more cards: up and down", all - room);
        lines.push(Line::styled(words, theme.faint()));
    }
    lines
}

type Shape = (Column, &'static str, usize, u8);

fn fitting(width: usize) -> Vec<Shape> {
    let mut columns = COLUMNS.to_vec();
    let wide = |columns: &[Shape]| columns.iter().map(|column| column.2 + 2).sum::<usize>();
    while wide(&columns) > width {
        let Some(last) = (0..columns.len()).max_by_key(|&at| columns[at].3) else {
            break;
        };
        if columns[last].3 == 0 {
            break;
        }
        columns.remove(last);
    }
    columns
}

/// Words stand on the left, figures on the right.
fn padded(column: Column, words: &str, cells: usize) -> String {
    let words: String = clean(words).chars().take(cells).collect();
    match column {
        C::Uuid | C::State | C::Bar | C::Owner => format!("{words:<cells$}"),
        _ => format!("{words:>cells$}"),
    }
}

fn row(
    board: &Board,
    card: &Card,
    chosen: bool,
    columns: &[Shape],
    now: Duration,
    theme: Theme,
) -> Line<'static> {
    let mut spans = vec![Span::raw(if chosen { " >" } else { "  " })];
    for (at, &(column, _, cells, _)) in columns.iter().enumerate() {
        let (words, style) = cell(board, card, column, now, theme);
        if at > 0 {
            spans.push(Span::raw("  "));
        }
        let style = match (chosen, column) {
            (true, C::Index | C::Uuid) => style.add_modifier(Modifier::BOLD),
            _ => style,
        };
        spans.push(Span::styled(padded(column, &words, cells), style));
    }
    Line::from(spans)
}

/// What a cell says, and how it looks.
fn cell(
    board: &Board,
    card: &Card,
    column: Column,
    now: Duration,
    theme: Theme,
) -> (String, Style) {
    let plain = |words: String| (words, Style::new());
    match (column, card.shown(board, now)) {
        (C::Index, _) => plain(card.index.map_or("-".into(), |index| index.to_string())),
        (C::Uuid, _) => plain(match &card.uuid {
            Some(uuid) => uuid.clone(),
            None => card.name.trim_start_matches("0000:").to_owned(),
        }),
        (C::State, Shown::Waiting) => ("...".into(), theme.faint()),
        (C::State, Shown::Gone(word, ..)) => (word.to_ascii_uppercase(), theme.bad()),
        (C::State, Shown::Sample(top)) => state(card, top, now, theme),
        (C::Bar, Shown::Waiting | Shown::Gone(..)) => plain(String::new()),
        (_, Shown::Waiting | Shown::Gone(..)) => ("-".into(), theme.faint()),
        (_, Shown::Sample(top)) => {
            let style = match column {
                C::Heat => theme.heat(top),
                C::Busy | C::Bar => theme.good(),
                _ => Style::new(),
            };
            match told(column, top) {
                Some(words) => (words, style),
                None => ("-".into(), theme.faint()),
            }
        }
    }
}

fn state(card: &Card, top: &Top, now: Duration, theme: Theme) -> (String, Style) {
    match (top.state.as_deref(), card.news(now)) {
        (Some("ready"), Some(News::Reset(_))) => ("was reset".into(), theme.warn()),
        (Some("ready"), Some(News::Back(_))) => ("is back".into(), theme.warn()),
        (Some("ready"), None) => ("ready".into(), theme.good()),
        (Some(word @ "wedged"), _) => (word.to_ascii_uppercase(), theme.bad()),
        (Some(word), _) => (word.into(), theme.warn()),
        (None, _) => ("-".into(), theme.faint()),
    }
}

/// A figure in words; none: unavailable.
fn told(column: Column, top: &Top) -> Option<String> {
    let prefixed = |value: u64| figure::count(value);
    match column {
        C::Index | C::Uuid | C::State => None,
        C::Busy => top.busy_per_mille.map(figure::share),
        C::Bar => Some(figure::bar(top.busy_per_mille.unwrap_or(0), 10)),
        C::Power => {
            let power = figure::watts(top.power_milliwatts?);
            Some(match top.power_limit_milliwatts {
                Some(limit) => format!("{power}/{} W", figure::watts(limit)),
                None => format!("{power} W"),
            })
        }
        C::Heat => top.die_temperature_millicelsius.map(figure::celsius),
        C::Memory => figure::bytes_of(top.hbm_used_bytes, top.hbm_total_bytes),
        C::Jobs => top.jobs_per_second.map(prefixed),
        C::EachJob => top.energy_per_job_nanojoules.map(figure::nanojoules),
        C::Operations => top.operations_per_second.map(prefixed),
        C::Bytes => top.bytes_per_second.map(prefixed),
        C::Energy => top.energy_since_start_microjoules.map(figure::microjoules),
        C::Owner => Some(match (top.owner(), &top.holders) {
            (Some(owner), _) => owner
                .command
                .clone()
                .unwrap_or_else(|| owner.pid.to_string()),
            (None, Some(_)) => "free".into(),
            (None, None) => return None,
        }),
    }
}
