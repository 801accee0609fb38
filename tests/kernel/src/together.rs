//! What the boots of a leg show together: the card is the same after a reboot, and what the shim costs.
//!
//! A guest tells a figure by `FIGURE name value`; each name once a boot.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::report::{Case, Outcome};

/// What the specification gives the reset of an opening, what the opening may cost beyond it, and the
/// shim on top, in microseconds.
const RESET: u64 = 100_000;
const OPENING: u64 = 20_000;
const SHIM: u64 = 5_000;
/// What the shim may add on a machine whose processors others want as well: more is a failure.
const SHIM_MOST: u64 = 100_000;

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
        let mut lines = Vec::new();
        for boot in ["library", "library-shim"] {
            if let Some(all) = self.number(boot, "opening-us") {
                let reset = self.number(boot, "opening-reset-us").unwrap_or_default();
                lines.push(format!(
                    "{boot}: open to first completion {} beyond the reset's 100 ms; beside the \
                     kernel's resetting call of {} it is {}",
                    beside(all.saturating_sub(RESET), OPENING),
                    millis(reset),
                    millis(all.saturating_sub(reset))
                ));
            }
        }
        if let Some(wake) = self.number("library", "wake-us") {
            lines.push(format!(
                "waking a card that vfio-pci had let sleep (D3hot) took {}, before it was opened",
                millis(wake)
            ));
        }
        if let Some(scrub) = self.number("library-shim", "scrub-us") {
            lines.push(format!(
                "the shim's scrub after a close took {}",
                millis(scrub)
            ));
        }
        lines
    }

    /// What the shim adds to an opening.
    #[must_use]
    pub fn shims_share(&self) -> Option<Case> {
        let [plain, shim] = ["library", "library-shim"].map(|boot| self.number(boot, "opening-us"));
        let (plain, shim) = (plain?, shim?);
        let words = match shim.checked_sub(plain) {
            Some(more) => format!("the shim adds {} to an opening", beside(more, SHIM)),
            None => format!("with the shim it was {} quicker", millis(plain - shim)),
        };
        Some(Case {
            name: "opening-by-the-shim".to_owned(),
            outcome: match shim.saturating_sub(plain) <= SHIM_MOST {
                true => Outcome::Passed,
                false => Outcome::Failed,
            },
            reason: words,
        })
    }

    fn number(&self, boot: &str, name: &str) -> Option<u64> {
        self.boots.get(boot)?.get(name)?.parse().ok()
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
        let both = |plain: &'static str, shim: &'static str| {
            together([
                (
                    "library",
                    &[("opening-us", plain), ("opening-reset-us", "113000")],
                ),
                (
                    "library-shim",
                    &[("opening-us", shim), ("opening-reset-us", "101000")],
                ),
            ])
        };
        let said = both("119000", "132500").openings().join("\n");
        assert!(
            said.contains("library: open to first completion 19.0 ms (within 20 ms) beyond")
                && said.contains("call of 113.0 ms it is 6.0 ms"),
            "{said}"
        );
        assert!(
            said.contains("library-shim: open to first completion 32.5 ms (beyond 20 ms)"),
            "{said}"
        );
        let share = |plain, shim| {
            let case = both(plain, shim).shims_share().unwrap();
            (case.outcome, case.reason)
        };
        let (outcome, words) = share("119000", "132500");
        assert_eq!(outcome, Outcome::Passed);
        assert!(words.contains("adds 13.5 ms (beyond 5 ms)"), "{words}");
        let (outcome, words) = share("132500", "119000");
        assert_eq!(outcome, Outcome::Passed);
        assert!(words.contains("13.5 ms quicker"), "{words}");
        assert_eq!(share("110000", "210001").0, Outcome::Failed);
    }

    #[test]
    fn a_figure_is_told_once_and_has_a_value() {
        let mut figures = BTreeMap::new();
        assert_eq!(figure(&mut figures, "a 1"), Ok(()));
        assert!(figure(&mut figures, "a 2").is_err());
        assert!(figure(&mut figures, "b").is_err());
    }
}
