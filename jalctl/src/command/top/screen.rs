//! The screen: a board at a moment, drawn. A pure function of both, so that tests see what users do.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::board::{Board, View};
use super::panel::{age, panel};
use super::sample::Top;
use super::{details, row};

/// What the screen needs at least.
pub const LEAST: (u16, u16) = (44, 8);
/// Lines that the panel of the chosen card gets, if there are so many.
const PANEL: u16 = 12;

const HELP: [&str; 20] = [
    "jalctl top watches cards beside their owners and disturbs none.",
    "",
    "  up, down        choose a card             p       pause: cards keep no records then",
    "  Enter           its details, and why      + -     longer or shorter interval",
    "                  figures are missing       q       quit",
    "  Esc             back                      ?       this help",
    "",
    "  BUSY       share of the interval in which at least one job was at work, from",
    "             the records of the jobs that finished in it",
    "  TEMP       of the compute die",
    "  J/JOB      mean energy of a job; ENERGY is the whole card's since top began",
    "  MEAN, P99  duration of a queue's jobs; EACH is their energy, SHARE of all jobs'",
    "  missed     jobs that came faster than their records could be read: jobs/s counts",
    "             them; shares, durations and energies are those of the others",
    "",
    "  -          unavailable or too old; Enter says why. Never shown as 0",
    "  \u{b7}          a moment of which nothing is known",
    "  was reset  the card was reset within the last 10 s; is back: it was gone",
    "  silent     its watcher got no answer for more than two intervals",
    "",
];

/// How things look. Without colour nothing is lost: words say the same.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    pub colour: bool,
}

impl Theme {
    fn ink(self, colour: Color) -> Style {
        match self.colour {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }

    pub fn good(self) -> Style {
        self.ink(Color::Green)
    }

    pub fn warn(self) -> Style {
        self.ink(Color::Yellow)
    }

    pub fn bad(self) -> Style {
        self.ink(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub fn accent(self) -> Style {
        self.ink(Color::Cyan)
    }

    pub fn faint(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// How warm is too warm.
    pub fn heat(self, top: &Top) -> Style {
        let limit = top.throttle_temperature_millicelsius;
        let hottest = top
            .die_temperature_millicelsius
            .max(top.hbm_temperature_millicelsius);
        match (hottest, limit) {
            (Some(now), Some(limit)) if now >= limit => self.bad(),
            (Some(now), Some(limit)) if now >= limit - 5000 => self.warn(),
            _ => Style::new(),
        }
    }
}

/// Draws it all.
pub fn draw(frame: &mut Frame, board: &Board, now: Duration, theme: Theme) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let words = format!(
            "{}x{} is too small: {}x{}, q quits",
            area.width, area.height, LEAST.0, LEAST.1
        );
        frame.render_widget(Paragraph::new(words), area);
        return;
    }
    let [head, body, foot] = cut(area);
    frame.render_widget(Paragraph::new(header(board, now, theme, head.width)), head);
    let lines = match board.view {
        View::Help => HELP.map(|line| Line::raw(format!(" {line}"))).to_vec(),
        View::Details => board
            .chosen_card()
            .map(|card| details::lines(board, card, now, theme, body))
            .unwrap_or_default(),
        View::Cards => {
            let most = body.height.saturating_sub(PANEL).max(4).min(body.height);
            let mut lines = row::table(board, now, theme, body.width, most);
            if let Some(card) = board.chosen_card() {
                lines.push(Line::default());
                lines.extend(panel(board, card, now, theme, body.width));
            }
            lines
        }
    };
    frame.render_widget(Paragraph::new(fitting(lines, body.height, theme)), body);
    frame.render_widget(Paragraph::new(footer(board, theme)), foot);
}

fn cut(area: Rect) -> [Rect; 3] {
    let line = |y| Rect {
        y,
        height: 1,
        ..area
    };
    let body = Rect {
        y: area.y + 1,
        height: area.height - 2,
        ..area
    };
    [line(area.y), body, line(area.y + area.height - 1)]
}

/// As many lines as there is room for; what is left out is said.
fn fitting(mut lines: Vec<Line<'static>>, height: u16, theme: Theme) -> Vec<Line<'static>> {
    let height = usize::from(height);
    if lines.len() > height {
        let more = lines.len() + 1 - height;
        lines.truncate(height - 1);
        let words = format!(" {more} more lines: a taller terminal shows them");
        lines.push(Line::styled(words, theme.faint()));
    }
    lines
}

fn header(board: &Board, now: Duration, theme: Theme, width: u16) -> Line<'static> {
    let cards = match board.cards.len() {
        1 => "1 card".to_owned(),
        several => format!("{several} cards"),
    };
    let every = format!("every {} s", board.interval.as_secs_f64());
    let mut spans = vec![
        Span::styled(" jalctl top", theme.strong()),
        Span::raw(format!("   {cards}   {every}")),
    ];
    if let Some(since) = board.paused {
        let words = format!(" PAUSED {} ago ", age(now.saturating_sub(since)));
        spans.push(Span::raw("   "));
        let style = theme.warn().add_modifier(Modifier::REVERSED);
        spans.push(Span::styled(words, style));
    }
    let used: usize = spans.iter().map(Span::width).sum();
    let hint = "? help ";
    let gap = usize::from(width).saturating_sub(used + hint.len());
    spans.push(Span::raw(" ".repeat(gap)));
    spans.push(Span::styled(hint, theme.faint()));
    Line::from(spans)
}

fn footer(board: &Board, theme: Theme) -> Line<'static> {
    let words = match board.view {
        View::Cards => " q quit  Enter details  p pause  +- interval",
        View::Details => " q quit  Esc back  up/down card  p pause",
        View::Help => " q quit  Esc back",
    };
    Line::styled(words, theme.faint())
}
