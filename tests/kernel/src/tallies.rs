//! The tallies: what every boot of every leg came to, told as it comes.

use std::collections::BTreeMap;

use crate::leg::Leg;
use crate::report::{Case, Count, Outcome};
use crate::together::Together;
use crate::{Boot, Ran};

/// Openings of a leg with one driver, at most: each costs two resets, which the specification gives
/// 100 ms each. Campaigns run on the emulator, and here a twentieth of them.
const OPENINGS: u64 = 120;

/// What has run until now.
#[derive(Debug, Default)]
pub struct Tallies {
    count: Count,
    /// By leg and driver.
    openings: BTreeMap<String, u64>,
    /// By leg.
    together: BTreeMap<&'static str, Together>,
}

impl Tallies {
    fn tell(&mut self, place: &str, cases: &[Case]) {
        self.count.add(cases);
        tell(place, cases);
    }

    /// A boot or a leg that did not run.
    pub fn book(&mut self, place: &str, outcome: Outcome, why: &str) {
        self.tell(place, &alone("boot", outcome, why.to_owned()));
    }

    /// A boot that ran.
    pub fn end(&mut self, leg: &Leg, boot: &Boot, run: &Ran) {
        self.tell(&format!("{}/{}", leg.name, boot.name), &run.cases);
        let place = format!("{}/{}", leg.name, boot.driver.name());
        *self.openings.entry(place).or_default() += run.openings;
        let together = self.together.entry(leg.name).or_default();
        together.add(boot.name, &run.figures);
    }

    /// What all boots show together, and the count; `least` openings of each leg and driver.
    #[must_use]
    pub fn close(mut self, least: u64) -> Count {
        for (place, openings) in std::mem::take(&mut self.openings) {
            let outcome = match (least..=OPENINGS).contains(&openings) {
                true => Outcome::Passed,
                false => Outcome::Failed,
            };
            let words = format!("{openings} of at most {OPENINGS}");
            self.tell(&place, &alone("openings", outcome, words));
        }
        for (leg, together) in std::mem::take(&mut self.together) {
            let shown = [together.same_card(), together.shims_share()];
            self.tell(leg, &shown.into_iter().flatten().collect::<Vec<_>>());
            for line in together.openings() {
                println!("     {leg}: {line}");
            }
        }
        self.count
    }
}

fn tell(place: &str, cases: &[Case]) {
    for Case {
        name,
        outcome,
        reason,
    } in cases
    {
        let word = match outcome {
            Outcome::Passed => "ok",
            Outcome::Failed => "FAIL",
            Outcome::Skipped => "skip",
        };
        let colon = if reason.is_empty() { "" } else { ": " };
        println!("{word} {place}/{name}{colon}{reason}");
    }
}

fn alone(name: &str, outcome: Outcome, reason: String) -> Vec<Case> {
    vec![Case {
        name: name.to_owned(),
        outcome,
        reason,
    }]
}
