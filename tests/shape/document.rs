//! `docs/host-interface.md`: its tables are the hardware's, its sections are those that code cites.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use jalapeno_hw::faults::CATALOGUE;
use jalapeno_hw::reg::{EnumRow, RegisterRow, StructRow};
use jalapeno_hw::tables::{ENUMS, NUMBERS, SPACES, STRUCTS};
use jalapeno_hw::telemetry::TelemetryField;

use crate::blessed::{check, read, root};

const PATH: &str = "docs/host-interface.md";

/// The document with every table between markers written anew.
fn rendered(text: &str, drawn: &mut BTreeSet<String>) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(name) = line
            .strip_prefix("<!-- table: ")
            .and_then(|l| l.strip_suffix(" -->"))
        {
            assert!(!inside, "{name}: the table before it has no end");
            assert!(drawn.insert(name.to_owned()), "{name} is drawn twice");
            inside = true;
            write!(out, "{line}\n\n{}\n", table(name)).expect("a string");
        } else if line == "<!-- end -->" {
            assert!(inside, "an end without a table");
            inside = false;
            out.push_str("<!-- end -->\n");
        } else if !inside {
            out.push_str(line);
            out.push('\n');
        }
    }
    assert!(!inside, "the last table has no end");
    out
}

fn table(name: &str) -> String {
    let (kind, which) = name.split_once(' ').unwrap_or((name, ""));
    match kind {
        "registers" => registers(
            SPACES
                .iter()
                .find(|space| space.prefix == which)
                .expect("a space")
                .registers,
        ),
        "struct" => structure(
            STRUCTS
                .iter()
                .find(|row| row.name == which)
                .expect("a structure"),
        ),
        "codes" => codes(
            ENUMS
                .iter()
                .find(|row| row.name == which)
                .expect("an enumeration"),
        ),
        "numbers" => numbers(which),
        "catalogue" => catalogue(),
        "units" => units(),
        _ => panic!("no table is called {name}"),
    }
}

fn words(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

fn registers(rows: &[RegisterRow]) -> String {
    let mut out = String::from(
        "| Offset | Register | Width | Access | Reset | Meaning |\n|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let reset = match row.varies {
            true => "varies".to_owned(),
            false => format!("{:#x}", row.reset),
        };
        let (bits, access, doc) = (row.bytes * 8, row.access.name(), words(row.doc));
        writeln!(
            out,
            "| {:#05x} | {} | {bits} | {access} | {reset} | {doc} |",
            row.offset, row.name
        )
        .expect("a string");
        for field in row.fields {
            let bits = match field.high == field.low {
                true => format!("{}", field.low),
                false => format!("{}:{}", field.high, field.low),
            };
            writeln!(
                out,
                "| | .{} | [{bits}] | | | {} |",
                field.name,
                words(field.doc)
            )
            .expect("a string");
        }
    }
    out
}

fn structure(row: &StructRow) -> String {
    let mut out = format!(
        "**{}**, {} bytes. {}\n\n| Offset | Field | Type | Meaning |\n|---|---|---|---|\n",
        row.name,
        row.bytes,
        words(row.doc)
    );
    for member in row.members {
        let doc = words(member.doc);
        writeln!(
            out,
            "| {:#04x} | {} | {} | {doc} |",
            member.offset, member.name, member.ty
        )
        .expect("a string");
    }
    out
}

fn codes(row: &EnumRow) -> String {
    let mut out = format!(
        "**{}.** {}\n\n| Value | Name | Meaning |\n|---|---|---|\n",
        row.name,
        words(row.doc)
    );
    for code in row.codes {
        let kept = if code.reserved { "RESERVED. " } else { "" };
        writeln!(
            out,
            "| {:#04x} | {} | {kept}{} |",
            code.value,
            code.name,
            words(code.doc)
        )
        .expect("a string");
    }
    out
}

fn numbers(which: &str) -> String {
    let group = NUMBERS
        .iter()
        .find(|group| group.name == which)
        .expect("a group of numbers");
    let mut out = String::from("| Name | Value | Meaning |\n|---|---|---|\n");
    for row in group.constants {
        let value = match row.name.ends_with("_US") {
            true => format!("{} us", row.value),
            false if row.value < 10 => format!("{}", row.value),
            false => format!("{:#x} ({})", row.value, row.value),
        };
        writeln!(out, "| {} | {value} | {} |", row.name, words(row.doc)).expect("a string");
    }
    out
}

fn catalogue() -> String {
    let mut out = String::from(
        "| Code | Name | Severity | Scope | Action | Meaning | What to do |\n|---|---|---|---|---|---|---|\n",
    );
    for row in CATALOGUE {
        let (code, name) = (row.code.code(), row.code.name());
        let (severity, scope, action) = (row.severity.name(), row.scope.name(), row.action.name());
        let (meaning, remedy) = (words(row.meaning), words(row.remedy));
        writeln!(
            out,
            "| {code:#06x} | {name} | {severity} | {scope} | {action} | {meaning} | {remedy} |"
        )
        .expect("a string");
    }
    out
}

fn units() -> String {
    let mut out = String::from("| Value | Field | Unit | Meaning |\n|---|---|---|---|\n");
    for field in TelemetryField::ALL {
        let row = jalapeno_hw::telemetry::TELEMETRY_FIELD.codes.iter();
        let doc = row
            .clone()
            .find(|row| row.value == field.code())
            .map_or("", |row| row.doc);
        let (code, name, unit) = (field.code(), field.name(), field.unit().name());
        writeln!(out, "| {code:#04x} | {name} | {unit} | {} |", words(doc)).expect("a string");
    }
    out
}

#[test]
fn the_tables_of_the_specification_are_those_of_the_hardware() {
    let text = read(PATH);
    check(PATH, &rendered(&text, &mut BTreeSet::new()));
}

#[test]
fn the_specification_draws_every_table_once() {
    let mut drawn = BTreeSet::new();
    rendered(&read(PATH), &mut drawn);
    let mut wanted: BTreeSet<String> = ["catalogue", "units"].map(str::to_owned).into();
    wanted.extend(
        SPACES
            .iter()
            .map(|space| format!("registers {}", space.prefix)),
    );
    wanted.extend(STRUCTS.iter().map(|row| format!("struct {}", row.name)));
    wanted.extend(
        NUMBERS
            .iter()
            .map(|group| format!("numbers {}", group.name)),
    );
    // Two have their own tables: with the units, and as the catalogue.
    let own = ["TelemetryField", "FaultCode"];
    let enums = ENUMS.iter().filter(|row| !own.contains(&row.name));
    wanted.extend(enums.map(|row| format!("codes {}", row.name)));
    let missing: Vec<_> = wanted.symmetric_difference(&drawn).collect();
    assert!(missing.is_empty(), "not drawn, or unknown: {missing:?}");
}

/// Every source file of ours below a folder.
fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("read a folder of the tree") {
        let path = entry.expect("read an entry").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if [".rs", ".c", ".h"]
            .iter()
            .any(|suffix| name.ends_with(suffix))
        {
            found.push(fs::read_to_string(&path).expect("read a source file"));
        }
    }
}

#[test]
fn every_section_that_code_cites_exists() {
    let text = read(PATH);
    let headings: BTreeSet<&str> = text
        .lines()
        .filter(|line| line.starts_with("##"))
        .filter_map(|line| line.trim_start_matches('#').split_whitespace().next())
        .collect();
    let mut files = Vec::new();
    for folder in ["libjalapeno", "jalctl", "tests", "include"] {
        sources(&root().join(folder), &mut files);
    }
    let mut cited = BTreeSet::new();
    for file in &files {
        for rest in file.split(concat!("Host interface", " ")).skip(1) {
            let digits = |c: char| !c.is_ascii_digit() && c != '.';
            let number = rest
                .split(digits)
                .next()
                .unwrap_or_default()
                .trim_end_matches('.');
            if !number.is_empty() {
                cited.insert(number.to_owned());
            }
        }
    }
    assert!(cited.len() >= 5, "found only {cited:?}");
    for number in cited {
        assert!(
            headings.contains(number.as_str()),
            "section {number} is cited and does not exist"
        );
    }
}
