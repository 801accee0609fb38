//! `jalctl health`: whether a device is well, from what it says of itself. Passive: takes
//! milliseconds, wakes nothing, disturbs no owner. A card on the PCI bus is not opened where the
//! kernel module reads its telemetry beside an owner.

use std::fmt::Display;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use jalapeno::hw::limits::HEARTBEAT_PERIOD;
use jalapeno::hw::regs::{DeviceState, Status};
use jalapeno::hw::telemetry::TelemetryField as Field;
use jalapeno::pci::{Function, Root, is_address};
use jalapeno::{Device, Error, Reading, Telemetry};
use schemars::JsonSchema;
use serde::Serialize;

use crate::command::Reporting;
use crate::devices::{self, Outcome};
use crate::exit::{Exit, Problem};
use crate::output::{self, Report};

/// Says whether devices are well: exit code 0, 6 (look at it) or 7 (it is broken).
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    reporting: Reporting,
}

/// How well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// Well.
    Ok,
    /// Nothing is known; see the reason.
    Unavailable,
    /// Look at it.
    Warning,
    /// Broken.
    Failure,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unavailable => "unavailable",
            Self::Warning => "WARNING",
            Self::Failure => "FAILURE",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Check {
    /// Stable.
    check: &'static str,
    verdict: Verdict,
    /// In the unit that `check` ends in, or a count; null where there is none.
    value: Option<i64>,
    /// What it is held against; null where there is nothing.
    limit: Option<i64>,
    /// In words; the reason where it is unavailable.
    message: String,
}

/// A device's health.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Health {
    /// The worst of the checks.
    verdict: Verdict,
    checks: Vec<Check>,
}

impl Report for Health {
    const KEY: &'static str = "health";
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Exit, Problem> {
    let reporting = &arguments.reporting;
    if reporting.form.schema {
        return output::schema::<Health>().map(|()| Exit::Ok);
    }
    let names = devices::chosen(&reporting.devices)?;
    let outcomes: Vec<_> = names.iter().map(|name| look(name)).collect();
    output::devices(reporting.form.output, &outcomes, table)?;
    let worst = outcomes
        .iter()
        .filter_map(|outcome| Some(outcome.result.as_ref().ok()?.verdict));
    Ok(match (devices::exit(&outcomes), worst.max()) {
        // A broken device is worse than one that did not answer.
        (_, Some(Verdict::Failure)) => Exit::HealthFailure,
        (Exit::Ok, Some(Verdict::Warning)) => Exit::HealthWarning,
        (exit, _) => exit,
    })
}

/// By the kernel module where it has the card, by opening it as an observer elsewhere.
fn look(name: &str) -> Outcome<Health> {
    let function = Root::default().function(name);
    if is_address(name) && function.has_kernel_module() {
        return Outcome {
            name: name.to_owned(),
            uuid: function.text("jalapeno/uuid"),
            result: examine_beside(&function).map_err(Problem::from),
        };
    }
    devices::ask_one(name, examine)
}

fn examine(device: &Arc<Device>) -> jalapeno::Result<Health> {
    let beat = || device.heartbeat().map(u64::from);
    let mut checks = vec![state(Some(device.state()?)), heartbeat(beat)?];
    checks.push(unread_faults(device)?);
    match device.telemetry() {
        Ok(telemetry) => checks.extend(sensors(&telemetry)),
        Err(error @ (Error::Lost { .. } | Error::Forked)) => return Err(error),
        Err(error) => checks.push(untold(error.to_string())),
    }
    Ok(Health::of(checks))
}

/// Of a card that the kernel module has: beside its owner.
fn examine_beside(function: &Function) -> jalapeno::Result<Health> {
    let mut checks = match told_beside(function) {
        Err(error) if error.is_no_data() => {
            vec![untold(
                "no data right now: the card resets, sleeps or failed".into(),
            )]
        }
        told => told?,
    };
    if function.text("jalapeno/hbm").as_deref() == Some("failed") {
        checks.push(Check {
            check: "scrub",
            verdict: Verdict::Failure,
            value: None,
            limit: None,
            message: "failed: nobody can open the card before a reset and a good scrub".into(),
        });
    }
    Ok(Health::of(checks))
}

fn told_beside(function: &Function) -> jalapeno::Result<Vec<Check>> {
    let page = Telemetry::of_function(function)?;
    // A refresh is as good as a beat: both come at least each HEARTBEAT_PERIOD.
    let refreshed = || Ok(Telemetry::of_function(function)?.updated.0);
    let mut checks = vec![
        state(page.state()),
        heartbeat(refreshed)?,
        faults_beside(&page),
    ];
    checks.extend(sensors(&page));
    Ok(checks)
}

/// The page counts records; which of them were acknowledged stands in a register.
fn faults_beside(page: &Telemetry) -> Check {
    let count = page.get(Field::Faults, 0).signed();
    Check {
        check: "faults",
        verdict: Verdict::Unavailable,
        value: count,
        limit: None,
        message: format!(
            "{} recorded since manufacture; whether acknowledged, only an open card tells",
            count.map_or("unknown how many".into(), |count| count.to_string())
        ),
    }
}

impl Health {
    fn of(checks: Vec<Check>) -> Self {
        let verdict = checks
            .iter()
            .map(|check| check.verdict)
            .filter(|&v| v != Verdict::Unavailable);
        Self {
            verdict: verdict.max().unwrap_or(Verdict::Unavailable),
            checks,
        }
    }
}

fn untold(message: String) -> Check {
    Check {
        check: "telemetry",
        verdict: Verdict::Warning,
        value: None,
        limit: None,
        message,
    }
}

fn state(told: Option<Result<DeviceState, impl Display>>) -> Check {
    let (verdict, message) = match told {
        None => (
            Verdict::Warning,
            "the card does not say it right now".into(),
        ),
        Some(Ok(state)) => {
            let verdict = match state {
                DeviceState::Ready => Verdict::Ok,
                DeviceState::Wedged => Verdict::Failure,
                _ => Verdict::Warning,
            };
            (verdict, output::word(state.name()))
        }
        Some(Err(raw)) => (Verdict::Failure, format!("unknown state {raw}")),
    };
    Check {
        check: "state",
        verdict,
        value: None,
        limit: None,
        message,
    }
}

/// Looks until the firmware was silent for three times as long as it may be.
fn heartbeat(beat: impl Fn() -> jalapeno::Result<u64>) -> jalapeno::Result<Check> {
    let first = beat()?;
    let begin = Instant::now();
    let mut beats = false;
    while !beats && begin.elapsed() < 3 * HEARTBEAT_PERIOD {
        sleep(Duration::from_millis(5));
        beats = beat()? != first;
    }
    Ok(Check {
        check: "heartbeat",
        verdict: if beats { Verdict::Ok } else { Verdict::Failure },
        value: None,
        limit: None,
        message: if beats {
            "the firmware runs".into()
        } else {
            "the firmware stands still: reset the device".into()
        },
    })
}

fn unread_faults(device: &Device) -> jalapeno::Result<Check> {
    let unread = device.registers().read::<Status>()?.fault() != 0;
    Ok(Check {
        check: "faults",
        verdict: if unread {
            Verdict::Warning
        } else {
            Verdict::Ok
        },
        value: None,
        limit: None,
        message: if unread {
            "records that nobody acknowledged: jalctl events --acknowledge".into()
        } else {
            "none that nobody acknowledged".into()
        },
    })
}

fn sensors(telemetry: &Telemetry) -> Vec<Check> {
    let limit = |field| telemetry.get(field, 0).signed();
    let throttle = limit(Field::ThrottleTemperature);
    let shutdown = limit(Field::ShutdownTemperature);
    let hot = |value: i64| match (throttle, shutdown) {
        (_, Some(shutdown)) if value >= shutdown => Verdict::Failure,
        (Some(throttle), _) if value >= throttle => Verdict::Warning,
        _ => Verdict::Ok,
    };
    let celsius = |value: i64| format!("{}.{} \u{b0}C", value / 1000, value % 1000 / 100);
    let some = |worst: Verdict| move |value: i64| if value == 0 { Verdict::Ok } else { worst };
    let count = |value: i64| value.to_string();
    let reading = |field| telemetry.get(field, 0);
    vec![
        check(
            "die_temperature_millicelsius",
            reading(Field::DieTemperature),
            throttle,
            hot,
            celsius,
        ),
        check(
            "hbm_temperature_millicelsius",
            reading(Field::HbmTemperature),
            throttle,
            hot,
            celsius,
        ),
        check(
            "power_milliwatts",
            reading(Field::Power),
            limit(Field::PowerLimit),
            |value| match limit(Field::PowerLimit) {
                Some(most) if value > most => Verdict::Warning,
                _ => Verdict::Ok,
            },
            |value| format!("{}.{} W", value / 1000, value % 1000 / 100),
        ),
        check(
            "throttle_count",
            reading(Field::ThrottleCount),
            None,
            some(Verdict::Warning),
            count,
        ),
        check(
            "ecc_uncorrected",
            reading(Field::EccUncorrected),
            None,
            some(Verdict::Warning),
            count,
        ),
        check(
            "retired_pages",
            reading(Field::RetiredPages),
            None,
            some(Verdict::Warning),
            count,
        ),
    ]
}

fn check(
    name: &'static str,
    reading: Reading,
    limit: Option<i64>,
    judge: impl Fn(i64) -> Verdict,
    words: impl Fn(i64) -> String,
) -> Check {
    let (verdict, message) = match reading {
        Reading::Value(_) => {
            let value = reading.signed().unwrap_or(0);
            (judge(value), words(value))
        }
        Reading::Unsupported => (
            Verdict::Unavailable,
            "this device has no such sensor".into(),
        ),
        // A sensor that should speak and does not is no sign of health.
        Reading::NoData => (Verdict::Warning, "no data right now".into()),
        // What is old must not pass for well.
        Reading::Stale { age } => (
            Verdict::Warning,
            format!("stale: {} ms old", age.as_millis()),
        ),
    };
    Check {
        check: name,
        verdict,
        value: reading.signed(),
        limit,
        message,
    }
}

fn table(outcomes: &[Outcome<Health>]) -> String {
    let pages: Vec<String> = outcomes
        .iter()
        .filter_map(|outcome| Some((outcome, outcome.result.as_ref().ok()?)))
        .map(|(outcome, health)| {
            let rows = health.checks.iter().map(|check| {
                [
                    check.check.to_owned(),
                    check.verdict.name().to_owned(),
                    check.message.clone(),
                ]
            });
            format!(
                "{}: {}\n{}",
                crate::exit::clean(&outcome.name),
                health.verdict.name(),
                output::table(["CHECK", "VERDICT", "SEEN"], rows)
            )
        })
        .collect();
    pages.join("\n")
}
