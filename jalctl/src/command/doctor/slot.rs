//! What doctor finds about a card in its slot. The card itself is not asked: that would reset it.

use jalapeno::host::{Card, Host, Node, User, group_named};
use jalapeno::pci::Function;

use super::check::Check;
use super::machine::no_iommu;
use super::remedy;
use crate::output::bytes;
use crate::packaged::{Found, UDEV};

/// Every check of a card.
pub fn checks(host: &Host, card: &Card) -> Vec<Check> {
    let mut checks = vec![driver(&card.function), group(host, &card.function)];
    checks.extend(permission(host, card));
    checks.push(window(card));
    checks
}

/// Binds a card for good.
fn bind(address: &str) -> String {
    format!("sudo jalctl bind --persist --device {address}")
}

fn driver(function: &Function) -> Check {
    const NAME: &str = "driver";
    let address = &function.address;
    match function.driver() {
        Some(driver) if function.is_given_to_vfio() => Check::ok(NAME, driver),
        Some(driver) => Check::failure(
            NAME,
            "bound-elsewhere",
            format!("bound to {driver}, not to vfio-pci"),
        )
        .mended_by(format!("{} --yes", bind(address))),
        None => {
            Check::failure(NAME, "unbound", "no driver is bound to it").mended_by(bind(address))
        }
    }
}

fn group(host: &Host, function: &Function) -> Check {
    const NAME: &str = "iommu-group";
    let Some(number) = function.group() else {
        let (_, _, fix) = no_iommu(host);
        return match host.iommu.is_on() {
            true => Check::failure(
                NAME,
                "no-iommu-group",
                "in none, though an IOMMU is at work: this slot is not behind it",
            )
            .mended_by(remedy::FIRMWARE),
            false => Check::failure(
                NAME,
                "no-iommu-group",
                "in none: this host has no IOMMU at work",
            )
            .mended_by(fix),
        };
    };
    if function.is_without_iommu() {
        let (_, why, fix) = no_iommu(host);
        let message = format!("{number}, which is one without an IOMMU: {why}");
        return Check::failure(NAME, "noiommu-group", message).mended_by(fix);
    }
    let in_the_way = function.in_the_way();
    if in_the_way.is_empty() {
        let others = function.group_members().len().saturating_sub(1);
        let message = match others {
            0 => format!("{number}, alone"),
            1 => format!("{number}, with 1 other that is not in the way"),
            _ => format!("{number}, with {others} others that are not in the way"),
        };
        return Check::ok(NAME, message);
    }
    let words: Vec<String> = in_the_way
        .iter()
        .map(|(address, driver)| format!("{address} is bound to {driver}"))
        .collect();
    let unbind: Vec<String> = in_the_way
        .iter()
        .map(|(address, _)| {
            format!("echo {address} | sudo tee /sys/bus/pci/devices/{address}/driver/unbind")
        })
        .collect();
    let message = format!("{number} is shared, and {}", words.join(", "));
    Check::failure(NAME, "group-shared", message).mended_by(unbind.join(" && "))
}

/// Whether the nodes by which the library would open it can be opened.
fn permission(host: &Host, card: &Card) -> Option<Check> {
    const NAME: &str = "permission";
    if !card.function.is_given_to_vfio() {
        return None;
    }
    let nodes: Vec<&Node> = match (&card.device_node, &host.iommufd) {
        (Some(own), Some(iommufd)) => vec![own, iommufd],
        _ => match &card.group_node {
            Some(node) => vec![node],
            None => return node_missing(host, card),
        },
    };
    let Some(shut) = nodes.iter().find(|node| !node.is_open_to_us) else {
        let path = shown(host, nodes[0]);
        return Some(Check::ok(NAME, format!("{path} can be opened")));
    };
    let user = host.user.as_ref();
    Some(refused(host, shut, user))
}

/// A node's place, as this machine names it.
fn shown(host: &Host, node: &Node) -> String {
    let path = node
        .path
        .strip_prefix(host.root().file(""))
        .unwrap_or(&node.path);
    format!("/{}", path.display())
}

fn node_missing(host: &Host, card: &Card) -> Option<Check> {
    let number = card.function.group()?;
    if card.function.is_without_iommu() {
        return None; // said by the group's check
    }
    let message = format!("/dev/vfio/{number} is not there");
    Some(match remedy::is_contained(host) {
        true => Check::failure(
            "permission",
            "node-missing",
            format!("{message}: this container was not given it"),
        )
        .mended_by(format!(
            "docker run --device /dev/vfio/vfio --device /dev/vfio/{number} --ulimit memlock=-1 IMAGE"
        )),
        false => Check::failure("permission", "node-missing", message)
            .mended_by(format!(
                "sudo jalctl unbind --device {0} && {1}",
                card.function.address,
                bind(&card.function.address)
            )),
    })
}

fn refused(host: &Host, node: &Node, user: Option<&User>) -> Check {
    let (path, mode) = (shown(host, node), node.mode);
    let name = user.map_or_else(|| "$USER".into(), User::word);
    let failure = |message: String| Check::failure("permission", "not-permitted", message);
    let Some(group) = node.group_to_join() else {
        let owner = node
            .group_name
            .clone()
            .unwrap_or_else(|| node.group.to_string());
        let message = format!("{path} has mode {mode:04o} and belongs to {owner}");
        return match UDEV.find(&host.root().file("")) {
            Found::Same(_) => failure(format!("{message}: the udev rule was not applied"))
                .mended_by(remedy::TRIGGER),
            _ => failure(format!("{message}: no udev rule gives it to a group"))
                .mended_by(remedy::SETUP)
                .by_setup(),
        };
    };
    let members = group_named(host.root(), &group).map(|group| group.members);
    if members.is_some_and(|members| members.contains(&name)) {
        let message =
            format!("{path} is for {group}, which {name} joined after this session began");
        return Check::failure("permission", "group-not-active", message)
            .mended_by(format!("newgrp {group}"));
    }
    failure(format!(
        "{path} is for the group {group}; join it, then log in again"
    ))
    .mended_by(remedy::join(&group, &name))
}

/// The BAR that shows the card's memory.
fn window(card: &Card) -> Check {
    const NAME: &str = "bar";
    let address = &card.function.address;
    match (card.window.bytes, card.window.could_be()) {
        (None, _) => Check::note(NAME, "unknown", "sysfs does not say its size"),
        (Some(0), _) => Check::failure(
            NAME,
            "bar-unassigned",
            "the memory window has no address: switch on \"Above 4G decoding\" in the firmware's menu",
        )
        .mended_by(remedy::FIRMWARE),
        (Some(have), Some(could)) => {
            let message = format!(
                "the memory window shows {}, and could show {}",
                bytes(have),
                bytes(could)
            );
            let size = could.trailing_zeros().saturating_sub(20);
            // The kernel resizes only what no driver has. The override brings the driver back.
            let fix = format!(
                "sudo sh -c 'cd /sys/bus/pci/devices/{address} && \
                 {{ [ ! -e driver ] || echo {address} >driver/unbind; }} && \
                 echo {size} >resource4_resize; echo {address} >/sys/bus/pci/drivers_probe'"
            );
            Check::warning(NAME, "bar-not-resized", message)
                .mended_by(fix)
                .figures(have, Some(could), "bytes")
        }
        (Some(have), None) => {
            Check::ok(NAME, format!("the memory window shows {}", bytes(have)))
                .figures(have, None, "bytes")
        }
    }
}
