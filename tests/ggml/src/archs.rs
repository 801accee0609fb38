//! `test-llama-archs`: small random models of each family, their logits against the CPU's.

use std::time::Duration;

use crate::card::{Card, grown};
use crate::pinned::Pinned;
use crate::report::Report;
use crate::root::{Root, TESTS};

/// Families whose operations the card has. The others are out of scope: state-space models,
/// encoders, latent attention, and whatever else needs operations beyond docs/kernels.md.
const FAMILIES: &[&str] = &[
    "llama",
    "qwen2",
    "qwen3",
    "qwen3moe",
    "mistral3",
    "olmo2",
    "olmoe",
    "granite",
    "granitemoe",
    "smollm3",
];

/// How the program's output ends, and how often it is run until it is seen.
const LAST_LINE: &str = "Summary: ";
const TRIES: u32 = 12;

const DEADLINE: Duration = Duration::from_secs(120);

/// A row: family, configuration, and whether each of its checks is OK.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    name: String,
    device: String,
    ok: bool,
    checks: String,
}

/// The table's rows, without its head.
fn rows(out: &str) -> Vec<Row> {
    let plain = without_colours(out);
    plain
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
            let [family, device, config, checks @ ..] = cells.as_slice() else {
                return None;
            };
            let checks: Vec<&str> = checks.iter().copied().filter(|c| !c.is_empty()).collect();
            let table =
                checks.len() == 3 && !family.starts_with("Model") && !family.starts_with('-');
            table.then(|| Row {
                name: format!("{family} {config}"),
                device: (*device).to_owned(),
                ok: checks.iter().all(|check| check.starts_with("OK")),
                checks: checks.join(", "),
            })
        })
        .collect()
}

fn without_colours(text: &str) -> String {
    let mut plain = String::new();
    let mut pieces = text.split('\u{1b}');
    plain.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        plain.push_str(piece.split_once('m').map_or("", |(_, rest)| rest));
    }
    plain
}

/// Runs every family on the card.
pub fn run(root: &Root, card: &Card, pinned: &Pinned, found: &mut Pinned, report: &mut Report) {
    for family in FAMILIES {
        let name = format!("test-llama-archs {family}");
        match on_card(root, card, family) {
            Ok((rows, launches)) => {
                for gone in missing(pinned, family, &rows) {
                    report.case(&gone, Err("pinned, and there is no such row".to_owned()));
                }
                for row in rows {
                    let key = format!("arch {}", row.name);
                    if row.ok {
                        found.0.insert(key.clone(), 1);
                    }
                    let name = format!("test-llama-archs {}", row.name);
                    let words = format!("{}; {launches} launches by the family", row.checks);
                    let held = pinned.holds(&key, u64::from(row.ok));
                    report.case(
                        &name,
                        held.map(|()| words)
                            .map_err(|why| format!("{}: {why}", row.checks)),
                    );
                }
            }
            Err(why) => report.case(&name, Err(why)),
        }
    }
}

/// Pinned rows of the family that were not printed.
fn missing(pinned: &Pinned, family: &str, rows: &[Row]) -> Vec<String> {
    let begin = format!("arch {family} ");
    let names = pinned.0.keys().filter(|key| key.starts_with(&begin));
    names
        .filter(|key| {
            !rows
                .iter()
                .any(|row| key.strip_prefix("arch ") == Some(&row.name))
        })
        .cloned()
        .collect()
}

/// The family's rows of the card; at least one, and launches behind them.
fn on_card(root: &Root, card: &Card, family: &str) -> Result<(Vec<Row>, u64), String> {
    let program = format!("{TESTS}/test-llama-archs");
    let words = [&*program, "-a", family, "-s", "42", "-b", "JAL0"];
    let before = card.launches().map_err(|why| why.to_string())?;
    let mut said = root
        .run(Some(card), &words, DEADLINE)
        .map_err(|why| why.to_string())?;
    // It ends without waiting for the thread that prints, and loses its last lines half the time.
    for _ in 1..TRIES {
        if said.code != Some(0) || said.out.contains(LAST_LINE) {
            break;
        }
        said = root
            .run(Some(card), &words, DEADLINE)
            .map_err(|why| why.to_string())?;
    }
    if said.code == Some(0) && !said.out.contains(LAST_LINE) {
        return Err(format!("{TRIES} runs whose end was never printed"));
    }
    let now = card.launches().map_err(|why| why.to_string())?;
    let launches = grown(&before, &now).values().sum();
    let mut rows = rows(&said.out);
    rows.retain(|row| row.device.starts_with("Jal"));
    if rows.is_empty() {
        return Err(format!("no row of the card; {:?}", said.success()));
    }
    if launches == 0 {
        return Err(format!(
            "{} rows, and the card launched nothing",
            rows.len()
        ));
    }
    if rows.iter().all(|row| row.ok) {
        said.success()?;
    }
    Ok((rows, launches))
}

#[cfg(test)]
mod tests {
    use super::{missing, rows};
    use crate::pinned::Pinned;

    #[test]
    fn a_row_is_ok_when_each_check_is() {
        let table = "\u{1b}[1mwords\u{1b}[0m\n|  Model arch.|  Device|Config|NMSE|Roundtrip|Mixed|\n|---|---|---|---|---|---|\n\
            | llama|Jalapeno| Dense|  \u{1b}[1;32mOK\u{1b}[0m (0.00e+00)| \u{1b}[1;32mOK\u{1b}[0m| \u{1b}[1;32mOK\u{1b}[0m (2e-09)|\n\
            | llama|Meta| MoE|\u{1b}[1;33mSKIP\u{1b}[0m | \u{1b}[1;33mSKIP\u{1b}[0m|SKIP |\n";
        let rows = rows(table);
        assert_eq!(rows.len(), 2);
        assert_eq!((&*rows[0].name, rows[0].ok), ("llama Dense", true));
        assert_eq!((&*rows[1].name, rows[1].ok), ("llama MoE", false));
        assert_eq!(rows[1].device, "Meta");
        let keys = ["arch llama Dense", "arch llama Both", "arch olmo2 Dense"];
        let pinned = Pinned(keys.map(|key| (key.to_owned(), 1)).into());
        assert_eq!(missing(&pinned, "llama", &rows), ["arch llama Both"]);
    }
}
