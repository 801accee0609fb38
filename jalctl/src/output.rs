//! Output: one report in the form that was asked for. Nothing else in jalctl writes results.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::devices::Outcome;
use crate::exit::{Problem, clean};

/// Grows only by additions; a change that breaks a reader raises it.
pub const SCHEMA_VERSION: u32 = 1;

/// The form of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For eyes.
    #[default]
    Table,
    /// One document.
    Json,
    /// One line a device.
    Jsonl,
    /// One line a device, or one for each of its records.
    Csv,
}

/// What a command has to say about one device.
pub trait Report: Serialize + JsonSchema {
    /// Its key in a device's object.
    const KEY: &'static str;
}

/// Prints what was found out about devices; `table` draws those that answered.
pub fn devices<T: Report>(
    format: Format,
    outcomes: &[Outcome<T>],
    table: impl FnOnce(&[Outcome<T>]) -> String,
) -> Result<(), Problem> {
    print(&text(format, outcomes, table))?;
    if format == Format::Table {
        problems(outcomes);
    }
    Ok(())
}

/// The report that [`devices`] prints.
pub fn text<T: Report>(
    format: Format,
    outcomes: &[Outcome<T>],
    table: impl FnOnce(&[Outcome<T>]) -> String,
) -> String {
    match format {
        Format::Table => table(outcomes),
        Format::Json => pretty(&envelope(outcomes)) + "\n",
        Format::Jsonl => outcomes
            .iter()
            .map(|outcome| {
                let mut line = object(outcome);
                line["schema_version"] = SCHEMA_VERSION.into();
                format!("{line}\n")
            })
            .collect(),
        Format::Csv => csv(&outcomes.iter().map(object).collect::<Vec<_>>()),
    }
}

/// Says on standard error what kept devices from answering.
pub fn problems<T>(outcomes: &[Outcome<T>]) {
    for outcome in outcomes {
        if let Err(problem) = &outcome.result {
            problem.print();
        }
    }
}

/// A whole report.
pub fn envelope<T: Report>(outcomes: &[Outcome<T>]) -> Value {
    let devices: Vec<Value> = outcomes.iter().map(object).collect();
    json!({"schema_version": SCHEMA_VERSION, "devices": devices})
}

/// Prints the JSON Schema of a command's report.
pub fn schema<T: Report>() -> Result<(), Problem> {
    print(&(pretty(&schema_of::<T>()) + "\n"))
}

/// The JSON Schema of a command's report.
pub fn schema_of<T: Report>() -> Value {
    let mut generator = SchemaGenerator::default();
    let report = generator.subschema_for::<T>();
    let problem = generator.subschema_for::<Problem>();
    let mut device = json!({
        "type": "object",
        "required": ["name", "uuid", "problem", T::KEY],
        "properties": {
            "name": {"type": "string", "description": "What opens it."},
            "uuid": {"type": ["string", "null"], "description": "Null where it did not answer."},
            "problem": {"anyOf": [problem, {"type": "null"}], "description": "Why the rest is null."},
        },
    });
    device["properties"][T::KEY] = json!({"anyOf": [report, {"type": "null"}]});
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("jalctl {}", T::KEY),
        "type": "object",
        "required": ["schema_version", "devices"],
        "properties": {
            "schema_version": {"const": SCHEMA_VERSION},
            "devices": {"type": "array", "items": device},
        },
        "$defs": generator.take_definitions(true),
    })
}

/// A device's part of it.
pub fn object<T: Report>(outcome: &Outcome<T>) -> Value {
    let (report, problem) = match &outcome.result {
        Ok(report) => (
            serde_json::to_value(report).unwrap_or(Value::Null),
            Value::Null,
        ),
        Err(problem) => (Value::Null, json!(problem)),
    };
    let mut object = Map::new();
    object.insert("name".into(), outcome.name.clone().into());
    object.insert("uuid".into(), outcome.uuid.clone().into());
    object.insert("problem".into(), problem);
    object.insert(T::KEY.into(), report);
    Value::Object(object)
}

fn pretty(value: &Value) -> String {
    // A Value always serialises.
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Comma-separated values: nested objects become dotted columns, and an array of objects one line
/// for each of its elements.
fn csv(devices: &[Value]) -> String {
    let rows: Vec<Map<String, Value>> = devices.iter().flat_map(rows).collect();
    let mut columns: Vec<&String> = Vec::new();
    for key in rows.iter().flat_map(Map::keys) {
        if !columns.contains(&key) {
            columns.push(key);
        }
    }
    let mut text = line(&columns);
    for row in &rows {
        let cell = |key: &&String| match row.get(*key) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(words)) => words.clone(),
            Some(other) => other.to_string(),
        };
        text += &line(&columns.iter().map(cell).collect::<Vec<_>>());
    }
    text
}

/// A line of comma-separated values.
pub fn line(cells: &[impl AsRef<str>]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| quote(cell.as_ref())).collect();
    cells.join(",") + "\n"
}

fn rows(device: &Value) -> Vec<Map<String, Value>> {
    let mut flat = Map::new();
    let mut several = None;
    flatten("", device, &mut flat, &mut several);
    match several {
        None => vec![flat],
        Some((prefix, elements)) => elements
            .iter()
            .map(|element| {
                let mut row = flat.clone();
                flatten(&prefix, element, &mut row, &mut None);
                row
            })
            .collect(),
    }
}

/// A list of objects that was found, and its name.
type Several<'a> = Option<(String, &'a Vec<Value>)>;

/// Nested objects become dotted keys.
pub fn flatten<'a>(
    prefix: &str,
    value: &'a Value,
    into: &mut Map<String, Value>,
    several: &mut Several<'a>,
) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let name = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                flatten(&name, value, into, several);
            }
        }
        Value::Array(elements) if several.is_none() && elements.iter().any(Value::is_object) => {
            *several = Some((prefix.to_owned(), elements));
        }
        other => {
            into.insert(prefix.to_owned(), other.clone());
        }
    }
}

fn quote(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

/// Writes to standard output. A reader that has seen enough is no error.
pub fn print(text: &str) -> Result<(), Problem> {
    give(text).map(|_| ())
}

/// As [`print()`], and says whether somebody still reads.
pub fn give(text: &str) -> Result<bool, Problem> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Problem::failure(
            format!("write the report: {error}"),
            "look for room on the disk, or another place for the output",
        )),
    }
}

/// A table for eyes: a header, then rows; empty cells are dashes.
pub fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| {
            if cell.is_empty() {
                "-".into()
            } else {
                clean(&cell)
            }
        }));
    }
    trim(&table.to_string())
}

/// Names and values, one below the other.
pub fn pairs(rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    for (name, value) in rows {
        table.add_row([name.to_owned(), clean(&value)]);
    }
    trim(&table.to_string())
}

/// Without the blanks at both ends of each line.
fn trim(text: &str) -> String {
    text.lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned() + "\n")
        .collect()
}

/// A name of the host interface, as people and scripts write it: unmapped-read.
pub fn word(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// Bytes for eyes.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" {
        format!("{count} B")
    } else if value.fract() < 0.05 {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// A size on the command line: bytes, or with K, M, G or T for powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let shift = match text.chars().last().map(|c| c.to_ascii_uppercase()) {
        Some('K') => 10,
        Some('M') => 20,
        Some('G') => 30,
        Some('T') => 40,
        _ => 0,
    };
    let digits = if shift == 0 {
        text
    } else {
        &text[..text.len() - 1]
    };
    let number = digits.parse::<u64>().ok();
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "a size looks like 65536, 64M or 8G".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_well() {
        for (count, words) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (64 << 20, "64 MiB"),
            (216_000_000_000, "201.2 GiB"),
        ] {
            assert_eq!(bytes(count), words);
        }
    }

    #[test]
    fn sizes_are_read_and_nonsense_is_not() {
        assert_eq!(size("65536"), Ok(65536));
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("8g"), Ok(8 << 30));
        for nonsense in [
            "",
            "G",
            "-1",
            "1.5G",
            "18446744073709551615K",
            "8\u{e9}",
            "8 G",
        ] {
            assert!(size(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn csv_quotes_and_gives_each_record_a_line() {
        let device = json!({"name": "a,b", "uuid": null, "log": {"count": 2, "records": [
            {"code": 1, "why": "x \"y\""}, {"code": 2, "why": "z"}]}});
        assert_eq!(
            csv(&[device]),
            "name,uuid,log.count,log.records.code,log.records.why\n\
             \"a,b\",,2,1,\"x \"\"y\"\"\"\n\"a,b\",,2,2,z\n"
        );
    }
}
