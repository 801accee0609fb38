//! The README's table of figures: the last report, between its two marks.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// The argument that asks for it.
pub const WORD: &str = "--readme";
const BEGIN: &str = "<!-- figures: begin -->\n";
const END: &str = "<!-- figures: end -->";

/// Writes the figures of `report` into `readme`.
pub fn rewrite(report: &Path, readme: &Path) -> Result<(), String> {
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))
    };
    let report: Value = serde_json::from_str(&read(report)?)
        .map_err(|error| format!("{} is no report: {error}", report.display()))?;
    let text = placed(&read(readme)?, &table(&report)?)?;
    fs::write(readme, text).map_err(|error| format!("write {}: {error}", readme.display()))
}

fn placed(text: &str, table: &str) -> Result<String, String> {
    let (before, rest) = text
        .split_once(BEGIN)
        .ok_or("no mark where figures begin")?;
    let (_, after) = rest.split_once(END).ok_or("no mark where figures end")?;
    Ok(format!("{before}{BEGIN}{table}{END}{after}"))
}

fn table(report: &Value) -> Result<String, String> {
    let word = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
    let figures = report["figures"]
        .as_array()
        .ok_or("the report has no figures")?;
    let mut out = format!(
        "\nDevice: {}. Processor: {}, {} cores, load {}.\n\n\
         | figure | ours | peer of the same run | ratio | goal | met |\n|---|---|---|---|---|---|\n",
        word(report, "device"),
        word(report, "processor"),
        report["cores"].as_array().map_or(0, Vec::len),
        report["load"],
    );
    for figure in figures {
        let unit = word(figure, "unit");
        let value = |key: &str| {
            figure[key]
                .as_f64()
                .map(|value| format!("{} {unit}", short(value)))
        };
        let peer = value("peer_value").map(|value| format!("{}: {value}", word(figure, "peer")));
        let ratio = figure["ratio"].as_f64().map(short);
        let met = match figure["met"].as_bool() {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        let cells = [
            word(figure, "name"),
            value("value").unwrap_or_else(|| "not measured".into()),
            peer.unwrap_or_default(),
            ratio.unwrap_or_default(),
            word(figure, "goal")
                .replace("<=", "at most")
                .replace(">=", "at least"),
            met.into(),
        ];
        out.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    out.push('\n');
    Ok(out)
}

fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_between_the_marks_and_a_text_without_marks_is_left() {
        let text = format!("a\n{BEGIN}old\n{END}\nb\n");
        assert_eq!(
            placed(&text, "new\n").unwrap(),
            format!("a\n{BEGIN}new\n{END}\nb\n")
        );
        assert!(placed("a\n", "new\n").is_err());
    }

    #[test]
    fn a_missed_goal_is_said_and_a_report_without_figures_is_none() {
        let report = serde_json::json!({"device": "emulator", "cores": [0, 1], "load": 0.5, "figures": [
            {"name": "wake", "value": 12.5, "unit": "us", "peer": "eventfd", "peer_value": 4.0,
             "ratio": 3.125, "goal": "<= 1.3 x peer", "met": false}]});
        let row = "| wake | 12.5 us | eventfd: 4.00 us | 3.12 | at most 1.3 x peer | **no** |\n";
        assert!(
            table(&report).unwrap().contains(row),
            "{}",
            table(&report).unwrap()
        );
        assert!(table(&serde_json::json!({})).is_err());
    }
}
