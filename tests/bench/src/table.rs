//! The table that people read.

use std::fmt::Write as _;

use crate::figure::{Figure, Report};
use crate::samples::Summary;

const HEAD: [&str; 6] = [
    "figure",
    "ours",
    "peer of the same run",
    "ratio",
    "goal",
    "",
];

/// The report as a table.
pub fn text(report: &Report) -> String {
    let rows: Vec<[String; 6]> = std::iter::once(HEAD.map(String::from))
        .chain(report.figures.iter().map(row))
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = format!(
        "\nDevice: {}. Processor: {}. Median (least .. most).\n\n",
        report.device, report.processor
    );
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        let _ = writeln!(text, "{}", line.join("  ").trim_end());
    }
    for figure in &report.figures {
        if let Some(note) = figure.note.as_ref().or(figure.error.as_ref()) {
            let _ = writeln!(text, "  {}: {note}", figure.name);
        }
    }
    let met = report
        .figures
        .iter()
        .filter(|f| f.met == Some(true))
        .count();
    let due = report.figures.iter().filter(|f| f.met.is_some()).count();
    let _ = writeln!(text, "\n{met} of {due} goals met");
    text
}

fn row(figure: &Figure) -> [String; 6] {
    let spread =
        |spread: Option<Summary>| spread.map_or("-".into(), |it| written(&it, figure.unit));
    let peer = match (figure.peer, figure.peer_spread) {
        (Some(name), Some(_)) => format!("{}: {}", name, spread(figure.peer_spread)),
        _ => "-".into(),
    };
    [
        figure.name.into(),
        spread(figure.spread),
        peer,
        figure
            .ratio
            .map_or("-".into(), |ratio| format!("{ratio:.2}")),
        figure.goal.text(),
        match (&figure.error, figure.met) {
            (Some(_), _) => "ERROR",
            (None, Some(true)) => "met",
            (None, Some(false)) => "missed",
            (None, None) => "",
        }
        .into(),
    ]
}

fn written(it: &Summary, unit: &str) -> String {
    let number = |value: f64| match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    if it.count == 1 {
        return format!("{} {unit}", number(it.median));
    }
    let (least, median, most) = (number(it.min), number(it.median), number(it.max));
    format!("{median} {unit} ({least} .. {most})")
}
