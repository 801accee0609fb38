//! A figure: what was measured, its peer, its goal and whether it was met; and the report of all.

use std::path::Path;

use serde::{Serialize, Serializer};

use crate::bench::Bench;
use crate::samples::{Summary, p50, summary};

/// Changes only when a key changes its meaning or goes; new keys come without it.
const SCHEMA_VERSION: u32 = 1;

/// What a figure has to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// At most this much.
    AtMost(f64),
    /// At most this many times its peer.
    RatioAtMost(f64),
    /// At least this many times its peer.
    RatioAtLeast(f64),
    /// It is only shown.
    Shown,
}

impl Goal {
    /// As people write it.
    pub fn text(self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {most}"),
            Self::RatioAtMost(most) => format!("<= {most} x peer"),
            Self::RatioAtLeast(least) => format!(">= {least} x peer"),
            Self::Shown => "shown".into(),
        }
    }
}

impl Serialize for Goal {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.text())
    }
}

/// A figure that is going to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Its name, which never changes.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// What stands beside it.
    pub peer: Option<&'static str>,
    /// What it has to reach.
    pub goal: Goal,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Ours.
    ours: Vec<f64>,
    /// The peer's; where there are as many as ours, each was taken right after ours.
    peer: Vec<f64>,
    note: Option<String>,
}

impl Measured {
    /// Ours alone.
    pub fn alone(ours: Vec<f64>) -> Self {
        Self {
            ours,
            peer: Vec::new(),
            note: None,
        }
    }

    /// Ours and a peer's in turn.
    pub fn beside(pairs: &[(f64, f64)]) -> Self {
        Self {
            ours: pairs.iter().map(|pair| pair.0).collect(),
            peer: pairs.iter().map(|pair| pair.1).collect(),
            note: None,
        }
    }

    /// With a word on it.
    pub fn noted(self, note: String) -> Self {
        Self {
            note: Some(note),
            ..self
        }
    }

    /// The median of the ratios of samples taken one after the other.
    fn ratio(&self) -> Option<f64> {
        let pairs = self.ours.iter().zip(&self.peer);
        let mut ratios: Vec<f64> = pairs
            .filter(|(_, peer)| **peer > 0.0)
            .map(|(ours, peer)| ours / peer)
            .collect();
        (!ratios.is_empty()).then(|| p50(&mut ratios))
    }
}

/// A line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Its name, which never changes.
    pub name: &'static str,
    /// Ours: the median; null where nothing was measured.
    pub value: Option<f64>,
    /// The unit of ours and the peer's.
    pub unit: &'static str,
    /// What the peer is.
    pub peer: Option<&'static str>,
    /// The peer's: the median.
    pub peer_value: Option<f64>,
    /// Ours / the peer's: the median over pairs of samples.
    pub ratio: Option<f64>,
    /// What it has to reach.
    pub goal: Goal,
    /// Whether it did; null where it is only shown.
    pub met: Option<bool>,
    /// Least, median, most of ours.
    pub spread: Option<Summary>,
    /// The same of the peer's.
    pub peer_spread: Option<Summary>,
    /// More about it.
    pub note: Option<String>,
    /// Why nothing was measured.
    pub error: Option<String>,
}

impl Figure {
    /// What became of a plan.
    pub fn new(plan: &Plan, outcome: Result<Measured, String>) -> Self {
        let mut figure = Self {
            name: plan.name,
            value: None,
            unit: plan.unit,
            peer: plan.peer,
            peer_value: None,
            ratio: None,
            goal: plan.goal,
            met: (plan.goal != Goal::Shown).then_some(false),
            spread: None,
            peer_spread: None,
            note: None,
            error: None,
        };
        let summed = outcome.and_then(|measured| Ok((summary(&measured.ours)?, measured)));
        let (ours, measured) = match summed {
            Ok(summed) => summed,
            Err(error) => {
                figure.error = Some(error);
                return figure;
            }
        };
        figure.value = Some(ours.median);
        figure.spread = Some(ours);
        figure.peer_spread = summary(&measured.peer).ok();
        figure.peer_value = figure.peer_spread.map(|peer| peer.median);
        figure.ratio = measured.ratio();
        figure.note = measured.note;
        figure.met = match (plan.goal, figure.ratio) {
            (Goal::Shown, _) => None,
            (Goal::AtMost(most), _) => Some(ours.median <= most),
            (Goal::RatioAtMost(most), Some(ratio)) => Some(ratio <= most),
            (Goal::RatioAtLeast(least), Some(ratio)) => Some(ratio >= least),
            (_, None) => {
                figure.error = Some("its peer was not measured".into());
                Some(false)
            }
        };
        figure
    }
}

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What the figures were measured on.
    pub device: &'static str,
    /// The processor, as the kernel names it.
    pub processor: String,
    /// The cores of client and device.
    pub cores: [Option<usize>; 2],
    /// Runnable threads when the run began, as the kernel averages them over a minute.
    pub load: Option<f64>,
    /// The figures.
    pub figures: Vec<Figure>,
}

impl Report {
    /// The report of a run.
    pub fn new(bench: &Bench, figures: Vec<Figure>) -> Self {
        let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpus
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or("unknown", |(_, name)| name.trim());
        Self {
            schema_version: SCHEMA_VERSION,
            device: "emulator, a process of its own",
            processor: processor.into(),
            cores: [Some(bench.cores.client), bench.cores.device().ok()],
            load: bench.load,
            figures,
        }
    }

    /// Figures without a measurement.
    pub fn unmeasured(&self) -> usize {
        let without = |figure: &&Figure| figure.error.is_some();
        self.figures.iter().filter(without).count()
    }

    /// Writes it.
    pub fn save(&self, to: &Path) -> std::io::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(to, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan {
        name: "nop",
        unit: "ns",
        peer: Some("ping-pong"),
        goal: Goal::RatioAtMost(1.5),
    };

    #[test]
    fn a_figure_says_whether_it_met_its_goal_by_the_median_of_ratios() {
        let pairs = [(10.0, 10.0), (14.0, 10.0), (90.0, 10.0)];
        let figure = Figure::new(&PLAN, Ok(Measured::beside(&pairs)));
        assert_eq!((figure.value, figure.peer_value), (Some(14.0), Some(10.0)));
        assert_eq!((figure.ratio, figure.met), (Some(1.4), Some(true)));
        let slow = Figure::new(&PLAN, Ok(Measured::beside(&[(16.0, 10.0)])));
        assert_eq!(slow.met, Some(false));
    }

    #[test]
    fn what_was_not_measured_is_an_error_and_never_met() {
        for outcome in [
            Err("the device is gone".into()),
            Ok(Measured::alone(Vec::new())),
            Ok(Measured::alone(vec![1.0])),
        ] {
            let figure = Figure::new(&PLAN, outcome);
            assert!(figure.error.is_some());
            assert_eq!(figure.met, Some(false));
        }
    }

    #[test]
    fn the_keys_that_readers_rely_on_are_there() {
        let figure = Figure::new(&PLAN, Ok(Measured::beside(&[(10.0, 10.0)])));
        let value = serde_json::to_value(&figure).unwrap();
        for key in [
            "name",
            "value",
            "unit",
            "peer",
            "peer_value",
            "ratio",
            "goal",
            "met",
        ] {
            assert!(
                value.get(key).is_some_and(|value| !value.is_null()),
                "{key}"
            );
        }
        assert_eq!(value["goal"], "<= 1.5 x peer");
    }
}
