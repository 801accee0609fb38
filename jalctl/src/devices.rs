//! Which devices a command speaks to, and what became of each.

use std::sync::Arc;

use jalapeno::discover::{self, Found};
use jalapeno::pci::is_address;
use jalapeno::{Device, Role};

use crate::exit::{Exit, Problem};

/// A device with what a command found out about it, or why it could not.
#[derive(Debug)]
pub struct Outcome<T> {
    /// What opens it.
    pub name: String,
    /// Its UUID, where it is known.
    pub uuid: Option<String>,
    /// The command's own part.
    pub result: Result<T, Problem>,
}

/// The devices that were named, or all there are.
pub fn chosen(names: &[String]) -> Result<Vec<String>, Problem> {
    let found = discover::list();
    if names.is_empty() {
        if found.is_empty() {
            return Err(none());
        }
        return Ok(found.into_iter().map(|device| device.name).collect());
    }
    names.iter().map(|name| resolve(name, &found)).collect()
}

/// A device that was chosen, with what the list tells of it.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// What opens it.
    pub name: String,
    /// Its UUID, where it told it.
    pub uuid: Option<String>,
    /// Its place in `jalctl list`; none: it is not in sight.
    pub index: Option<usize>,
}

/// As [`chosen`], with the UUIDs of those that told theirs.
pub fn chosen_with_uuids(names: &[String]) -> Result<Vec<(String, Option<String>)>, Problem> {
    let chosen = chosen_in_full(names)?.into_iter();
    Ok(chosen.map(|chosen| (chosen.name, chosen.uuid)).collect())
}

/// As [`chosen`], with UUIDs and places.
pub fn chosen_in_full(names: &[String]) -> Result<Vec<Chosen>, Problem> {
    let found = discover::list();
    let names: Vec<String> = match names {
        [] if found.is_empty() => return Err(none()),
        [] => found.iter().map(|device| device.name.clone()).collect(),
        names => names
            .iter()
            .map(|name| resolve(name, &found))
            .collect::<Result<_, _>>()?,
    };
    let chosen = |name: String| {
        let index = found.iter().position(|device| device.name == name);
        let uuid = index.and_then(|index| found.get(index)?.uuid);
        Chosen {
            name,
            uuid: uuid.map(|uuid| uuid.to_string()),
            index,
        }
    };
    Ok(names.into_iter().map(chosen).collect())
}

/// The devices that were named, or the only one there is: for commands that change something.
pub fn to_change(names: &[String]) -> Result<Vec<String>, Problem> {
    match names {
        [] => only(names).map(|name| vec![name]),
        names => chosen(names)?.into_iter().map(reachable).collect(),
    }
}

/// Refuses a name that is still no address and no socket: nothing in sight has it.
fn reachable(name: String) -> Result<String, Problem> {
    if is_address(&name) || name.starts_with("vfio-user:") {
        return Ok(name);
    }
    Err(Problem {
        code: "not-found".into(),
        message: format!("no device in sight is called {name}"),
        hint: Some(
            "jalctl list shows the devices there are; name a card that tells no UUID by its \
             PCI address"
                .into(),
        ),
        exit: Exit::NoDevice,
    })
}

/// The one device that was named, or the only one there is.
pub fn only(names: &[String]) -> Result<String, Problem> {
    match names {
        [] => match chosen(names)?.as_slice() {
            [one] => Ok(one.clone()),
            several => Err(Problem::usage(
                format!("there are {} devices: name one", several.len()),
                "jalctl list shows them; choose with --device UUID",
            )),
        },
        [name] => resolve(name, &discover::list()),
        _ => Err(Problem::usage(
            "this command takes one device",
            "give --device once",
        )),
    }
}

/// An index counts the devices of `jalctl list`; everything else the library resolves.
fn resolve(name: &str, found: &[Found]) -> Result<String, Problem> {
    if let Ok(index) = name.parse::<usize>() {
        return match found.get(index) {
            Some(device) => Ok(device.name.clone()),
            None if found.is_empty() => Err(none()),
            None => Err(Problem {
                code: "not-found".into(),
                message: format!("no device has index {index}: there are {}", found.len()),
                hint: Some("jalctl list shows the devices there are".into()),
                exit: Exit::NoDevice,
            }),
        };
    }
    let uuid = name.to_ascii_lowercase();
    let by_uuid = found
        .iter()
        .find(|device| device.uuid.is_some_and(|id| id.to_string() == uuid));
    Ok(by_uuid.map_or_else(|| name.to_owned(), |device| device.name.clone()))
}

/// There is no device at all.
fn none() -> Problem {
    Problem {
        code: "not-found".into(),
        message: "no device: neither JALAPENO_DEVICES nor the PCI bus has one".into(),
        hint: Some("without a card: jalctl emulate -- COMMAND".into()),
        exit: Exit::NoDevice,
    }
}

/// Opens each device as an observer, which disturbs no owner, and asks it.
pub fn ask<T>(
    names: &[String],
    question: impl Fn(&Arc<Device>) -> jalapeno::Result<T>,
) -> Vec<Outcome<T>> {
    names.iter().map(|name| ask_one(name, &question)).collect()
}

/// As [`ask`], of one device.
pub fn ask_one<T>(
    name: &str,
    question: impl Fn(&Arc<Device>) -> jalapeno::Result<T>,
) -> Outcome<T> {
    match Device::open(name, Role::Observe) {
        Ok(device) => Outcome {
            name: device.info().name.clone(),
            uuid: Some(device.info().uuid.to_string()),
            result: question(&device).map_err(Problem::from),
        },
        Err(error) => Outcome {
            name: name.into(),
            uuid: None,
            result: Err(error.into()),
        },
    }
}

/// How a command ends that asked several devices.
pub fn exit<T>(outcomes: &[Outcome<T>]) -> Exit {
    let failed: Vec<Exit> = outcomes
        .iter()
        .filter_map(|outcome| outcome.result.as_ref().err().map(|problem| problem.exit))
        .collect();
    match failed.first() {
        None => Exit::Ok,
        Some(_) if failed.len() < outcomes.len() => Exit::Partial,
        Some(first) => *first,
    }
}
