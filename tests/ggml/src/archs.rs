//! `test-llama-archs`: small random models of each family, their logits against the CPU's.

use std::time::Duration;

use crate::card::{Card, grown};
use crate::pinned::Pinned;
use crate::report::Report;
use crate::root::{Root, TESTS};

/// How the program's output ends, and how often it is run until it is seen.
const LAST_LINE: &str = "Summary: ";
const TRIES: u32 = 12;

const DEADLINE: Duration = Duration::from_secs(120);

/// How a row's checks ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Each is OK.
    Passed,
    /// One was skipped, and none is anything else.
    Skipped,
    Failed,
}

/// A row: family, configuration, and its checks.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    name: String,
    device: String,
    state: State,
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
                state: state(&checks),
                checks: checks.join(", "),
            })
        })
        .collect()
}

fn state(checks: &[&str]) -> State {
    let begin = |word: &str| {
        checks
            .iter()
            .filter(|check| check.starts_with(word))
            .count()
    };
    match (begin("OK"), begin("SKIP")) {
        (ok, _) if ok == checks.len() => State::Passed,
        (ok, skipped) if ok + skipped == checks.len() => State::Skipped,
        _ => State::Failed,
    }
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

/// Runs every family that the program knows on the card. What one needs beyond docs/kernels.md, such as a
/// state-space model's scans, ggml gives to the CPU.
pub fn run(root: &Root, card: &Card, pinned: &Pinned, found: &mut Pinned, report: &mut Report) {
    match on_card(root, card) {
        Ok((rows, launches)) => {
            for gone in missing(pinned, &rows) {
                report.case(&gone, Err("pinned, and there is no such row".to_owned()));
            }
            for row in rows {
                if row.state == State::Passed {
                    found.0.insert(format!("arch {}", row.name), 1);
                }
                tell(&row, launches, pinned, report);
            }
        }
        Err(why) => report.case("test-llama-archs", Err(why)),
    }
}

/// A row that failed is a failure, pinned or not; one that was skipped is a skip, unless it is pinned.
fn tell(row: &Row, launches: u64, pinned: &Pinned, report: &mut Report) {
    let name = format!("test-llama-archs {}", row.name);
    let held = pinned.holds(
        &format!("arch {}", row.name),
        u64::from(row.state == State::Passed),
    );
    match (row.state, held) {
        (State::Failed, _) => report.case(&name, Err(row.checks.clone())),
        (_, Err(why)) => report.case(&name, Err(format!("{}: {why}", row.checks))),
        (State::Skipped, Ok(())) => report.skip(&name, &format!("Debian's: {}", row.checks)),
        (State::Passed, Ok(())) => {
            let words = format!("{}; {launches} launches in all", row.checks);
            report.case(&name, Ok(words));
        }
    }
}

/// Pinned rows that were not printed.
fn missing(pinned: &Pinned, rows: &[Row]) -> Vec<String> {
    let names = pinned.0.keys().filter(|key| key.starts_with("arch "));
    names
        .filter(|key| {
            !rows
                .iter()
                .any(|row| key.strip_prefix("arch ") == Some(&row.name))
        })
        .cloned()
        .collect()
}

/// The card's rows; at least one, and launches behind them.
fn on_card(root: &Root, card: &Card) -> Result<(Vec<Row>, u64), String> {
    let program = format!("{TESTS}/test-llama-archs");
    let words = [&*program, "-s", "42", "-b", "JAL0"];
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
    if rows.iter().all(|row| row.state != State::Failed) {
        said.success()?;
    }
    Ok((rows, launches))
}

#[cfg(test)]
mod tests {
    use super::{State, missing, rows, state, tell};
    use crate::pinned::Pinned;
    use crate::report::Report;

    #[test]
    fn a_row_is_ok_when_each_check_is() {
        let table = "\u{1b}[1mwords\u{1b}[0m\n|  Model arch.|  Device|Config|NMSE|Roundtrip|Mixed|\n|---|---|---|---|---|---|\n\
            | llama|Jalapeno| Dense|  \u{1b}[1;32mOK\u{1b}[0m (0.00e+00)| \u{1b}[1;32mOK\u{1b}[0m| \u{1b}[1;32mOK\u{1b}[0m (2e-09)|\n\
            | llama|Meta| MoE|\u{1b}[1;33mSKIP\u{1b}[0m | \u{1b}[1;33mSKIP\u{1b}[0m|SKIP |\n";
        let rows = rows(table);
        assert_eq!(rows.len(), 2);
        assert_eq!(
            (&*rows[0].name, rows[0].state),
            ("llama Dense", State::Passed)
        );
        assert_eq!(
            (&*rows[1].name, rows[1].state),
            ("llama MoE", State::Skipped)
        );
        assert_eq!(rows[1].device, "Meta");
        let keys = ["arch llama Dense", "arch llama Both", "arch olmo2 Dense"];
        let pinned = Pinned(keys.map(|key| (key.to_owned(), 1)).into());
        assert_eq!(
            missing(&pinned, &rows),
            ["arch llama Both", "arch olmo2 Dense"]
        );
    }
    #[test]
    fn a_row_that_fails_is_a_failure_though_nobody_pinned_it() {
        assert_eq!(state(&["OK (0)", "SKIP", "OK"]), State::Skipped);
        assert_eq!(state(&["OK (0)", "FAIL (1)", "SKIP"]), State::Failed);
        assert_eq!(state(&["", "OK", "OK"]), State::Failed);
        let table =
            "| llama|Jalapeno|Dense|OK (0)|FAIL|OK|\n| llama|Jalapeno|MoE|SKIP|SKIP|SKIP|\n";
        let rows = rows(table);
        let closed = |row: usize, pinned: &Pinned| {
            let mut report = Report::default();
            tell(&rows[row], 1, pinned, &mut report);
            report.close()
        };
        let nothing = Pinned::default();
        assert!(!closed(0, &nothing));
        assert!(closed(1, &nothing));
        let both = ["arch llama Dense", "arch llama MoE"];
        let pinned = Pinned(both.map(|key| (key.to_owned(), 1)).into());
        assert!(!closed(0, &pinned) && !closed(1, &pinned));
    }
}
