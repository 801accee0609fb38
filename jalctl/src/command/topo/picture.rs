//! The picture of `jalctl topo`: NUMA nodes, bridges and cards as a tree, and a table of distances.

use std::collections::BTreeMap;

use super::Place;
use crate::devices::Outcome;
use crate::exit::clean;

/// A bridge or a card, with what is below it, by address.
#[derive(Default)]
struct Branch<'a> {
    below: BTreeMap<&'a str, Branch<'a>>,
    card: Option<(usize, &'a Place)>,
}

/// Draws the devices that answered.
pub(super) fn draw(outcomes: &[Outcome<Place>]) -> String {
    let mut nodes: BTreeMap<Option<u32>, Branch<'_>> = BTreeMap::new();
    let mut text = String::new();
    let mut emulated = String::new();
    for (number, outcome) in outcomes.iter().enumerate() {
        let Ok(place) = &outcome.result else { continue };
        if !place.on_pci_bus {
            emulated += &format!("  [{number}] {}\n", clean(&outcome.name));
            continue;
        }
        let mut branch = nodes.entry(place.numa_node).or_default();
        for bridge in &place.upstream {
            branch = branch.below.entry(bridge).or_default();
        }
        branch.below.entry(&outcome.name).or_default().card = Some((number, place));
    }
    for (node, branch) in &nodes {
        text += &match node {
            Some(node) => format!("NUMA node {node}\n"),
            None => "PCI bus\n".into(),
        };
        grow(branch, "", 0, &mut text);
    }
    if !emulated.is_empty() {
        text += &format!("not on the PCI bus (emulated, behind a socket)\n{emulated}");
    }
    text + &distances(outcomes)
}

fn grow(branch: &Branch<'_>, margin: &str, depth: usize, text: &mut String) {
    let last = branch.below.len().saturating_sub(1);
    for (at, (address, below)) in branch.below.iter().enumerate() {
        let (elbow, rest) = match at == last {
            true => ("└─ ", "   "),
            false => ("├─ ", "│  "),
        };
        let what = match (below.card, depth) {
            (Some((number, place)), _) => format!("[{number}] {address}  {}", card(place)),
            (None, 0) => format!("{address}  root port"),
            (None, _) => format!("{address}  switch port"),
        };
        *text += &format!("{margin}{elbow}{what}\n");
        if let Some((_, place)) = below.card {
            for member in &place.group_members {
                let driver = match &member.driver {
                    Some(driver) => format!("bound to {}", clean(driver)),
                    None => "no driver".into(),
                };
                let way = match member.in_the_way {
                    true => ": IN THE WAY of VFIO",
                    false => "",
                };
                *text += &format!(
                    "{margin}{rest}   same IOMMU group: {}, {driver}{way}\n",
                    member.address
                );
            }
        }
        grow(below, &format!("{margin}{rest}"), depth + 1, text);
    }
}

/// A card's own line.
fn card(place: &Place) -> String {
    let rate = |megatransfers: Option<u64>, lanes: Option<u32>| {
        let (rate, lanes) = (megatransfers?, lanes?);
        let (whole, tenth) = (rate / 1000, rate / 100 % 10);
        Some(format!("{whole}.{tenth} GT/s x{lanes}"))
    };
    let now = rate(place.link_megatransfers_per_second, place.link_lanes);
    let best = rate(
        place.link_max_megatransfers_per_second,
        place.link_max_lanes,
    );
    let link = match (now, best, place.link_reduced) {
        (Some(now), Some(best), Some(true)) => format!("{now} (REDUCED: could be {best})"),
        (Some(now), _, _) => now,
        (None, _, _) => "no link known".into(),
    };
    let group = match place.iommu_group {
        Some(group) => format!("IOMMU group {group}"),
        None => "no IOMMU group".into(),
    };
    let driver = match &place.driver {
        Some(driver) => clean(driver),
        None => "no driver".into(),
    };
    format!("{link}, {group}, {driver}")
}

/// What traffic between two cards passes; nothing for one card alone.
fn distances(outcomes: &[Outcome<Place>]) -> String {
    let mut text = String::new();
    for (number, outcome) in outcomes.iter().enumerate() {
        let Ok(place) = &outcome.result else { continue };
        for peer in &place.peers {
            let other = outcomes
                .iter()
                .position(|outcome| outcome.name == peer.name);
            // Each pair once.
            if let Some(other) = other.filter(|other| *other > number) {
                text += &format!("  [{number}] - [{other}]  {}\n", words(&peer.distance));
            }
        }
    }
    match text.is_empty() {
        true => text,
        false => format!("traffic between cards passes\n{text}"),
    }
}

fn words(distance: &str) -> &'static str {
    match distance {
        "same-switch" => "a switch",
        "same-root-port" => "their root port",
        "same-numa-node" => "the host's fabric, within one NUMA node",
        _ => "the connection between NUMA nodes",
    }
}
