//! `jalctl topo`: where the cards are in the machine, and how far apart. Opens nothing.

use clap::Args;
use jalapeno::pci::{Distance, Function, Link, Root};
use schemars::JsonSchema;
use serde::Serialize;

use crate::command::Reporting;
use crate::devices::{self, Outcome};
use crate::exit::{Exit, Problem};
use crate::output::{self, Report};

mod picture;

/// Shows where the cards are in the machine, and how far apart.
///
/// NUMA node, link, the bridges above each card, its IOMMU group with the other members of it, and
/// what traffic between two cards passes: a switch, their root port, the host's fabric within a NUMA
/// node, or the connection between nodes.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    reporting: Reporting,
}

/// Where a card is.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Place {
    /// False for an emulated device behind a socket: then all the rest is null or empty.
    on_pci_bus: bool,
    /// Its NUMA node; null where the machine has no such notion.
    numa_node: Option<u32>,
    /// The driver that has it; null: none.
    driver: Option<String>,
    /// Its link now, in millions of transfers a second; null where it has none.
    link_megatransfers_per_second: Option<u64>,
    link_lanes: Option<u32>,
    /// The best link that it could have.
    link_max_megatransfers_per_second: Option<u64>,
    link_max_lanes: Option<u32>,
    /// Whether its link is slower or narrower than it could be; null where that is not known.
    link_reduced: Option<bool>,
    /// Null: it is in none, as without an IOMMU.
    iommu_group: Option<u32>,
    /// The bridges above it, the root port first, by address.
    upstream: Vec<String>,
    /// The other members of its IOMMU group, which VFIO gives away with it.
    group_members: Vec<Member>,
    /// The other cards on the bus, and what traffic to each passes.
    peers: Vec<Peer>,
}

/// Another card.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Peer {
    name: String,
    /// same-switch, same-root-port, same-numa-node or across-numa-nodes.
    distance: String,
}

/// Another member of a card's IOMMU group.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Member {
    address: String,
    /// Null: none.
    driver: Option<String>,
    /// Whether it keeps the card from user space.
    in_the_way: bool,
}

impl Report for Place {
    const KEY: &'static str = "topo";
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Exit, Problem> {
    let reporting = &arguments.reporting;
    if reporting.form.schema {
        return output::schema::<Place>().map(|()| Exit::Ok);
    }
    let named = devices::chosen_with_uuids(&reporting.devices)?;
    let outcomes = look(&Root::default(), named);
    output::devices(reporting.form.output, &outcomes, picture::draw)?;
    Ok(devices::exit(&outcomes))
}

fn look(root: &Root, named: Vec<(String, Option<String>)>) -> Vec<Outcome<Place>> {
    let functions: Vec<Option<Function>> = named
        .iter()
        .map(|(name, _)| jalapeno::pci::is_address(name).then(|| root.function(name)))
        .collect();
    let places: Vec<_> = functions
        .iter()
        .zip(&named)
        .map(|(function, (name, _))| match function {
            Some(function) if function.is_there() => Ok(place(function, &functions)),
            None if name.starts_with("vfio-user:") => Ok(nowhere()),
            _ => Err(Problem {
                code: "not-found".into(),
                message: format!("no device {name} is in sight"),
                hint: Some("jalctl list shows the devices there are".into()),
                exit: Exit::NoDevice,
            }),
        })
        .collect();
    let all = named.into_iter().zip(places);
    all.map(|((name, uuid), result)| Outcome { name, uuid, result })
        .collect()
}

/// An emulated device is behind a socket.
fn nowhere() -> Place {
    Place {
        on_pci_bus: false,
        numa_node: None,
        driver: None,
        link_megatransfers_per_second: None,
        link_lanes: None,
        link_max_megatransfers_per_second: None,
        link_max_lanes: None,
        link_reduced: None,
        iommu_group: None,
        upstream: Vec::new(),
        group_members: Vec::new(),
        peers: Vec::new(),
    }
}

fn place(function: &Function, cards: &[Option<Function>]) -> Place {
    let (now, best) = (function.link(), function.link_max());
    let in_the_way = function.in_the_way();
    let others = function.group_members().into_iter();
    let others = others.filter(|member| member.address != function.address);
    let cards = cards
        .iter()
        .flatten()
        .filter(|card| card.address != function.address && card.is_there());
    let rate = |link: &Option<Link>| link.as_ref().and_then(megatransfers);
    Place {
        on_pci_bus: true,
        numa_node: function.numa_node(),
        driver: function.driver(),
        link_megatransfers_per_second: rate(&now),
        link_lanes: now.as_ref().map(|link| link.width),
        link_max_megatransfers_per_second: rate(&best),
        link_max_lanes: best.as_ref().map(|link| link.width),
        link_reduced: match (&now, &best) {
            (Some(now), Some(best)) => {
                Some(now.width < best.width || megatransfers(now) < megatransfers(best))
            }
            _ => None,
        },
        iommu_group: function.group(),
        upstream: function
            .upstream()
            .into_iter()
            .map(|bridge| bridge.address)
            .collect(),
        group_members: others
            .map(|member| Member {
                in_the_way: in_the_way.iter().any(|(way, _)| *way == member.address),
                driver: member.driver(),
                address: member.address,
            })
            .collect(),
        peers: cards
            .map(|card| Peer {
                distance: Distance::between(function, card).name().into(),
                name: card.address.clone(),
            })
            .collect(),
    }
}

/// `16.0 GT/s PCIe`, `2.5 GT/s`: millions of transfers a second.
fn megatransfers(link: &Link) -> Option<u64> {
    let number = link.speed.split_ascii_whitespace().next()?;
    let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().ok()?;
    let tenth: u64 = tenth.get(..1)?.parse().ok()?;
    whole.checked_mul(1000)?.checked_add(tenth * 100)
}

#[cfg(test)]
mod tests;
