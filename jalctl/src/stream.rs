//! Streams: one report after another, each in the form that was asked for.

use serde_json::{Map, Value};

use crate::devices::Outcome;
use crate::exit::Problem;
use crate::output::{self, Format, Report};

/// A stream of reports. In CSV its columns are the same from the first line on, whatever a report
/// lacks; lists are left out, so that a device has one line a report.
#[derive(Debug)]
pub struct Stream {
    format: Format,
    columns: Vec<String>,
}

impl Stream {
    /// Begins one of reports like this.
    pub fn new<T: Report>(format: Format, example: T) -> Self {
        let none = Outcome {
            name: String::new(),
            uuid: None,
            result: Ok(example),
        };
        let mut columns: Vec<String> = {
            let cells = cells(&output::object(&none));
            cells.keys().cloned().collect()
        };
        if let Some(problem) = columns.iter_mut().find(|column| *column == "problem") {
            *problem = "problem.code".into();
        }
        Self { format, columns }
    }

    /// Prints what comes before all reports. False: nobody reads any more.
    pub fn begin(&self) -> Result<bool, Problem> {
        match self.format {
            Format::Csv => output::give(&output::line(&self.columns)),
            _ => Ok(true),
        }
    }

    /// Prints a report; `table` draws the devices that answered. False: nobody reads any more.
    pub fn give<T: Report>(
        &self,
        outcomes: &[Outcome<T>],
        table: impl FnOnce(&[Outcome<T>]) -> String,
    ) -> Result<bool, Problem> {
        let read = output::give(&match self.format {
            Format::Jsonl => format!("{}\n", output::envelope(outcomes)),
            Format::Csv => {
                let lines = outcomes
                    .iter()
                    .map(|outcome| self.line(&output::object(outcome)));
                lines.collect()
            }
            Format::Table | Format::Json => output::text(self.format, outcomes, table),
        })?;
        if self.format == Format::Table {
            output::problems(outcomes);
        }
        Ok(read)
    }

    fn line(&self, device: &Value) -> String {
        let cells = cells(device);
        let cell = |column: &String| match cells.get(column) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(words)) => words.clone(),
            Some(other) => other.to_string(),
        };
        output::line(&self.columns.iter().map(cell).collect::<Vec<_>>())
    }
}

/// The cells of a device's object, without its lists.
fn cells(device: &Value) -> Map<String, Value> {
    let mut cells = Map::new();
    output::flatten("", device, &mut cells, &mut None);
    cells.retain(|_, value| !value.is_array());
    cells
}
