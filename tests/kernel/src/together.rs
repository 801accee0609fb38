//! What the boots of a leg show together: the card is the same after a reboot, and what the shim costs.
//!
//! A guest tells a figure by `FIGURE name value`; each name once a boot.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::report::{Case, Outcome};

/// What an opening may cost beside the kernel's reset, and the shim on top, in microseconds.
const OPENING: u64 = 20_000;
const SHIM: u64 = 5_000;

/// The figures of a leg's boots, by boot.
#[derive(Debug, Default)]
pub struct Together {
    boots: BTreeMap<String, BTreeMap<String, String>>,
}

impl Together {
    /// Takes what a boot told.
    pub fn add(&mut self, boot: &str, figures: &BTreeMap<String, String>) {
        if !figures.is_empty() {
            self.boots.insert(boot.to_owned(), figures.clone());
        }
    }

    /// Whether the first card was the same one in each boot that says which it was.
    #[must_use]
    pub fn same_card(&self) -> Option<Case> {
        let boots = self.boots.values();
        let uuids: Vec<&String> = boots.filter_map(|figures| figures.get("uuid")).collect();
        let (first, others) = uuids.split_first()?;
        if others.is_empty() {
            return None;
        }
        Some(Case {
            name: "uuid-after-a-reboot".to_owned(),
            outcome: match others.iter().all(|uuid| uuid == first) {
                true => Outcome::Passed,
                false => Outcome::Failed,
            },
            reason: format!("{uuids:?}"),
        })
    }

    /// The times of an opening, in words, each beside its goal.
    #[must_use]
    pub fn openings(&self) -> Vec<String> {
        let number = |boot: &str, name: &str| -> Option<u64> {
            self.boots.get(boot)?.get(name)?.parse().ok()
        };
        let mut lines = Vec::new();
        for boot in ["library", "library-shim"] {
            if let Some(rest) = number(boot, "opening-rest-us") {
                let reset = number(boot, "opening-reset-us").unwrap_or_default();
                lines.push(format!(
                    "{boot}: open to first completion {} beside {} of the kernel's reset",
                    beside(rest, OPENING),
                    millis(reset)
                ));
            }
        }
        if let Some(scrub) = number("library-shim", "scrub-us") {
            lines.push(format!(
                "the shim's scrub after a close took {}",
                millis(scrub)
            ));
        }
        let whole =
            |boot| Some(number(boot, "opening-rest-us")? + number(boot, "opening-reset-us")?);
        if let (Some(plain), Some(shim)) = (whole("library"), whole("library-shim")) {
            let added = shim.saturating_sub(plain);
            lines.push(format!(
                "the shim adds {} to an opening",
                beside(added, SHIM)
            ));
        }
        lines
    }
}

fn millis(micros: u64) -> String {
    format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
}

fn beside(micros: u64, goal: u64) -> String {
    let verdict = if micros <= goal { "within" } else { "beyond" };
    format!("{} ({verdict} {} ms)", millis(micros), goal / 1000)
}

/// Takes a line `FIGURE name value`; a name that was told already is a failure.
pub fn figure(figures: &mut BTreeMap<String, String>, rest: &str) -> Result<(), String> {
    let (name, value) = rest.split_once(' ').ok_or("a figure without a value")?;
    match figures.entry(name.to_owned()) {
        Entry::Vacant(place) => {
            place.insert(value.to_owned());
            Ok(())
        }
        Entry::Occupied(place) => Err(format!("{name} was {} before it was {value}", place.get())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn together(boots: [(&str, &[(&str, &str)]); 2]) -> Together {
        let mut together = Together::default();
        for (boot, figures) in boots {
            let pairs = figures
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
            together.add(boot, &pairs.collect());
        }
        together
    }

    #[test]
    fn another_card_after_a_reboot_is_a_failure() {
        let outcome = |one: &'static str, two: &'static str| {
            let both = together([("library", &[("uuid", one)]), ("shim", &[("uuid", two)])]);
            both.same_card().map(|case| case.outcome)
        };
        assert_eq!(outcome("a", "a"), Some(Outcome::Passed));
        assert_eq!(outcome("a", "b"), Some(Outcome::Failed));
        assert_eq!(
            together([("library", &[("uuid", "a")]), ("x", &[])])
                .same_card()
                .map(|c| c.outcome),
            None
        );
    }

    #[test]
    fn the_shims_share_is_what_an_opening_takes_longer() {
        let both = together([
            (
                "library",
                &[("opening-rest-us", "9000"), ("opening-reset-us", "101000")],
            ),
            (
                "library-shim",
                &[("opening-rest-us", "21000"), ("opening-reset-us", "102500")],
            ),
        ]);
        let said = both.openings().join("\n");
        assert!(
            said.contains(
                "library: open to first completion 9.0 ms (within 20 ms) beside 101.0 ms"
            ),
            "{said}"
        );
        assert!(
            said.contains("library-shim: open to first completion 21.0 ms (beyond 20 ms)"),
            "{said}"
        );
        assert!(
            said.contains("the shim adds 13.5 ms (beyond 5 ms)"),
            "{said}"
        );
    }

    #[test]
    fn a_figure_is_told_once_and_has_a_value() {
        let mut figures = BTreeMap::new();
        assert_eq!(figure(&mut figures, "a 1"), Ok(()));
        assert!(figure(&mut figures, "a 2").is_err());
        assert!(figure(&mut figures, "b").is_err());
    }
}
