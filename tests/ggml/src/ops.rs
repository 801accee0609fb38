//! ggml's own conformance suite, `test-backend-ops`, operation by operation.
//!
//! The program ends with 0 for a device that is not there and for cases that are not supported. So
//! its rows are read, by device and operation, and beside the cases that passed stand the LAUNCH
//! packets that the emulator counted meanwhile: at least as many of the operation's kernel.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::card::{Card, grown};
use crate::pinned::Pinned;
use crate::report::Report;
use crate::root::{Root, TESTS};

/// Operations of ggml, and the kernels any of which does them.
const OPERATIONS: &[(&str, &[&str])] = &[
    ("ADD", &["ADD"]),
    ("ARGMAX", &["ARGMAX"]),
    ("ARGSORT", &["ARGSORT"]),
    ("CLAMP", &["CLAMP"]),
    ("CONT", &["COPY"]),
    ("CPY", &["COPY"]),
    ("DIV", &["DIV"]),
    ("DUP", &["COPY"]),
    ("FLASH_ATTN_EXT", &["ATTENTION"]),
    ("GEGLU", &["GEGLU"]),
    ("GET_ROWS", &["GET_ROWS"]),
    ("MUL", &["MUL"]),
    ("MUL_MAT", &["MUL_MAT"]),
    ("MUL_MAT_ID", &["MUL_MAT_ID"]),
    ("REPEAT", &["COPY"]),
    ("RMS_NORM", &["RMS_NORM"]),
    ("ROPE", &["ROPE"]),
    ("SCALE", &["SCALE"]),
    ("SET_ROWS", &["SET_ROWS"]),
    ("SILU", &["SILU"]),
    ("SOFT_MAX", &["SOFT_MAX"]),
    ("SUB", &["SUB"]),
    ("SUM_ROWS", &["SUM_ROWS"]),
    ("SWIGLU", &["SWIGLU"]),
    ("TOP_K", &["TOP_K"]),
];

/// Those that take longest, by their cases' sizes: not part of `quick`.
pub const SLOW: &[&str] = &[
    "ADD",
    "CONT",
    "DIV",
    "FLASH_ATTN_EXT",
    "GET_ROWS",
    "MUL",
    "MUL_MAT",
    "MUL_MAT_ID",
    "ROPE",
    "SUB",
];

/// MUL_MAT takes minutes, most of them on the CPU that it is compared with.
const DEADLINE: Duration = Duration::from_secs(900);

/// What the rows of one operation say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rows {
    passed: u64,
    unsupported: u64,
    /// Parameters of the cases that did not pass, with the reason.
    failed: Vec<String>,
}

impl Rows {
    /// The rows of `device` and `operation`.
    fn read(csv: &str, device: &str, operation: &str) -> Result<Self, String> {
        // What a case says of itself stands on its row's line, before it: "[CPY] ERR = 1 > 0.5 ".
        let rows = csv.lines().filter(|line| line.contains("\",\""));
        let mut lines = rows.filter_map(|line| line.split_once('"'));
        let head = lines.next().ok_or("there are no rows at all")?;
        let head = fields(head.1);
        let column = |name: &str| {
            let at = head.iter().position(|field| *field == name);
            at.ok_or_else(|| format!("the rows have no {name}: {head:?}"))
        };
        let (backend, op, params) = (
            column("backend_name")?,
            column("op_name")?,
            column("op_params")?,
        );
        let (supported, error) = (column("supported")?, column("error_message")?);
        let mut rows = Self::default();
        for (words, line) in lines {
            let row = fields(line);
            if row.len() != head.len() {
                return Err(format!("a row of {} fields: {line}", row.len()));
            }
            if row[backend] != device || row[op] != operation {
                continue;
            }
            match (row[supported], row[error]) {
                ("1", "") => rows.passed += 1,
                ("1", why) => {
                    let why = format!("{words}{why}");
                    rows.failed.push(format!("{} ({why})", row[params]));
                }
                _ => rows.unsupported += 1,
            }
        }
        if rows.passed == 0 && rows.unsupported == 0 && rows.failed.is_empty() {
            return Err(format!("no row of {device} and {operation}"));
        }
        Ok(rows)
    }
}

/// The fields of a row, all of which are quoted, from behind its first quote.
fn fields(line: &str) -> Vec<&str> {
    let inner = line.trim_end();
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    inner.split("\",\"").collect()
}

/// Runs those named, or all; when it is to be quick, those that are.
pub fn run(
    root: &Root,
    card: &Card,
    (only, quick): (&[String], bool),
    pinned: &Pinned,
    found: &mut Pinned,
    report: &mut Report,
) {
    let (mut passed, mut launches) = (0, 0);
    for (operation, kernels) in OPERATIONS {
        if !only.is_empty() && !only.iter().any(|name| name == operation) {
            continue;
        }
        if quick && SLOW.contains(operation) {
            report.skip(
                &format!("test-backend-ops {operation}"),
                "takes too long for make test; make test-ggml runs it",
            );
            continue;
        }
        let name = format!("test-backend-ops {operation}");
        let key = format!("op {operation}");
        match cases(root, card, operation, kernels) {
            Ok((rows, _)) if rows.passed == 0 && rows.failed.is_empty() => {
                match pinned.holds(&key, 0) {
                    Ok(()) => report.skip(
                        &name,
                        &format!("the plug-in supports none of {}", rows.unsupported),
                    ),
                    Err(why) => report.case(&name, Err(why)),
                }
            }
            Ok((rows, counted)) => {
                found.0.insert(key.clone(), rows.passed);
                let held =
                    held(&rows, counted, kernels).and_then(|()| pinned.holds(&key, rows.passed));
                passed += rows.passed;
                launches += counted;
                report.case(
                    &name,
                    held.map(|()| {
                        format!(
                            "{} cases passed, {} not supported; {counted} launches of {kernels:?}",
                            rows.passed, rows.unsupported
                        )
                    }),
                );
            }
            Err(why) => report.case(&name, Err(why)),
        }
    }
    println!(
        "test-backend-ops: {passed} cases passed, {launches} launches counted by the emulator"
    );
}

/// Runs one operation, counting launches of its kernels.
fn cases(
    root: &Root,
    card: &Card,
    operation: &str,
    kernels: &[&str],
) -> Result<(Rows, u64), String> {
    let program = format!("{TESTS}/test-backend-ops");
    let words = [
        &*program, "test", "-b", "JAL0", "-o", operation, "--output", "csv",
    ];
    let before = card.launches().map_err(|why| why.to_string())?;
    let said = root
        .run(Some(card), &words, DEADLINE)
        .map_err(|why| why.to_string())?;
    let now = card.launches().map_err(|why| why.to_string())?;
    let rows = Rows::read(&said.out, "JAL0", operation)
        .map_err(|why| format!("{why}; {:?}", said.success()))?;
    if rows.failed.is_empty() {
        said.success()?;
    }
    let grown: BTreeMap<String, u64> = grown(&before, &now);
    let counted = kernels.iter().filter_map(|kernel| grown.get(*kernel)).sum();
    Ok((rows, counted))
}

fn held(rows: &Rows, counted: u64, kernels: &[&str]) -> Result<(), String> {
    if !rows.failed.is_empty() {
        let shown = rows.failed.len().min(12);
        return Err(format!(
            "{} cases failed, {} passed: {:#?}",
            rows.failed.len(),
            rows.passed,
            &rows.failed[..shown]
        ));
    }
    if counted < rows.passed {
        return Err(format!(
            "{} cases passed, and the emulator counted {counted} launches of {kernels:?}",
            rows.passed
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Rows, held};

    const HEAD: &str = "\"backend_name\",\"op_name\",\"op_params\",\"test_mode\",\"supported\",\"error_message\",\"backend_reg_name\"\n";

    #[test]
    fn rows_of_other_devices_and_operations_do_not_count() {
        let csv = format!(
            "words\n{HEAD}\"JAL0\",\"ADD\",\"type=f32,ne=[1,2]\",\"test\",\"1\",\"\",\"\"\n\
             \"JAL0\",\"ADD\",\"type=f16\",\"test\",\"0\",\"not supported\",\"\"\n\
             \"CPU\",\"ADD\",\"a\",\"test\",\"1\",\"\",\"\"\n\"JAL0\",\"MUL\",\"a\",\"test\",\"1\",\"\",\"\"\n\
             \"JAL0\",\"ADD\",\"a=b\",\"test\",\"1\",\"compare failed\",\"\"\n\
             [ADD] ERR = 2 > 1 \"JAL0\",\"ADD\",\"c=d\",\"test\",\"1\",\"test failed\",\"\"\n"
        );
        let rows = Rows::read(&csv, "JAL0", "ADD").unwrap();
        assert_eq!((rows.passed, rows.unsupported), (1, 1));
        let failed = [
            "a=b (compare failed)",
            "c=d ([ADD] ERR = 2 > 1 test failed)",
        ];
        assert_eq!(rows.failed, failed);
        assert!(held(&rows, 9, &[]).is_err());
    }

    #[test]
    fn no_row_is_a_failure_and_so_are_fewer_launches_than_cases() {
        assert!(Rows::read("2/2 backends passed\nOK\n", "JAL0", "ADD").is_err());
        assert!(Rows::read(HEAD, "JAL0", "ADD").is_err());
        assert!(Rows::read("\"backend_name\"\n", "JAL0", "ADD").is_err());
        let rows = Rows {
            passed: 3,
            ..Rows::default()
        };
        assert!(held(&rows, 2, &["ADD"]).is_err());
        assert!(held(&rows, 3, &["ADD"]).is_ok());
    }
}
