//! The plan: which steps a host needs, and which it has taken already.

use std::path::{Path, PathBuf};

use jalapeno::host::{Host, Presence, group_named};

use super::act::Act;
use crate::command::doctor::machine::wanted_pages;
use crate::packaged::{self, Found, GROUP, Packaged};

/// Where a step stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was taken before.
    Done(String),
    /// It is to be taken.
    Todo,
    /// A file of another content is in its place, and is left as it is.
    Kept(PathBuf),
}

/// One step: a file, and what makes it count now.
#[derive(Clone, Debug)]
pub struct Step {
    /// Stable.
    pub name: &'static str,
    pub standing: Standing,
    /// The file and its text, where it writes one.
    pub file: Option<(PathBuf, String)>,
    /// What is run then; nothing below another root.
    pub acts: Vec<Act>,
    /// When it begins to count, where that is not at once.
    pub later: Option<&'static str>,
}

impl Step {
    /// Whether this is that step, and it is to be done.
    #[must_use]
    pub fn is_todo(&self, that: &Self) -> bool {
        self.name == that.name && self.standing == Standing::Todo
    }
}

/// What the caller wants beyond the usual.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    pub users: Vec<String>,
    pub services: Vec<String>,
    /// Huge pages; `None`: some, if there are none.
    pub hugepages: Option<u64>,
    /// Replace files that differ.
    pub replace: bool,
}

/// The steps, in the order they are taken.
pub fn steps(host: &Host, wishes: &Wishes) -> Vec<Step> {
    let root = host.root().file("");
    let here = root == Path::new("/");
    let file = |packaged: &Packaged, acts: Vec<Act>| from_file(&root, packaged, wishes, acts);
    let mut steps = vec![group(host, &root, here)];
    steps.push(modules(
        host,
        here,
        file(&packaged::MODULES_LOAD, Vec::new()),
    ));
    steps.push(file(&packaged::MODPROBE, Vec::new()));
    let rule = file(
        &packaged::UDEV,
        vec![
            Act::run(&["udevadm", "control", "--reload"]),
            Act::run(&[
                "udevadm",
                "trigger",
                "--action=change",
                "--settle",
                "--subsystem-match=vfio",
                "--subsystem-match=vfio-dev",
                "--subsystem-match=misc",
            ]),
        ],
    );
    // Where no udev runs, one that is started reads the rule by itself.
    let rule = match host.has("run/udev/control") {
        true => again(rule, here && has_shut_nodes(host)),
        false => Step {
            acts: Vec::new(),
            later: Some("once udev runs"),
            ..rule
        },
    };
    steps.push(rule);
    // Read by udev whenever a card appears.
    steps.push(file(&packaged::REBIND, Vec::new()));
    steps.push(Step {
        later: Some("at the next login"),
        ..file(&packaged::LIMITS, Vec::new())
    });
    let tmpfiles = packaged::TMPFILES.name;
    let sockets = file(
        &packaged::TMPFILES,
        vec![Act::run(&["systemd-tmpfiles", "--create", tmpfiles])],
    );
    steps.push(again(sockets, here && !host.has("run/jalapeno")));
    steps.extend(hugepages(host, &root, wishes));
    steps.extend(
        wishes
            .services
            .iter()
            .map(|name| service(&root, name, wishes)),
    );
    steps.extend(wishes.users.iter().map(|name| user(host, name)));
    if !here {
        for step in &mut steps {
            // The image's own first boot does the rest.
            step.acts
                .retain(|act| matches!(act, Act::Run(words) if words[0] == "systemd-sysusers"));
            step.later = None;
        }
    }
    steps
}

fn from_file(root: &Path, packaged: &Packaged, wishes: &Wishes, acts: Vec<Act>) -> Step {
    let path = packaged.place(root);
    let standing = match packaged.find(root) {
        Found::Same(path) => Standing::Done(shown(root, &path)),
        Found::Other(other) if !wishes.replace => Standing::Kept(other),
        Found::Other(_) | Found::Nothing => Standing::Todo,
    };
    Step {
        name: packaged.step,
        standing,
        file: Some((path, packaged.filled())),
        acts,
        later: None,
    }
}

/// A path as the machine itself names it.
pub fn shown(root: &Path, path: &Path) -> String {
    let inside = path.strip_prefix(root).unwrap_or(path);
    format!("/{}", inside.display())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn group(host: &Host, root: &Path, here: bool) -> Step {
    let path = packaged::SYSUSERS.place(root);
    let place = path.display().to_string();
    let act = match here {
        true => Act::Either(
            words(&["systemd-sysusers", &place]),
            words(&["groupadd", "--system", GROUP]),
        ),
        // Only where the image is far enough to have groups.
        false if host.has("etc/group") => {
            let root = root.display().to_string();
            let root = format!("--root={}", root.trim_end_matches('/'));
            Act::run(&["systemd-sysusers", &root, packaged::SYSUSERS.name])
        }
        false => Act::Run(Vec::new()),
    };
    Step {
        name: packaged::SYSUSERS.step,
        standing: match group_named(host.root(), GROUP) {
            Some(group) => Standing::Done(format!("{GROUP} has the number {}", group.id)),
            // An image without groups yet gets them at its first boot, this one among them.
            None if !here && !host.has("etc/group") => match packaged::SYSUSERS.find(root) {
                Found::Same(path) => Standing::Done(shown(root, &path)),
                _ => Standing::Todo,
            },
            None => Standing::Todo,
        },
        file: Some((path, packaged::SYSUSERS.text.to_owned())),
        acts: if act == Act::Run(Vec::new()) {
            Vec::new()
        } else {
            vec![act]
        },
        later: None,
    }
}

/// A step whose file is there, and does not count yet: then only its acts are to be done.
fn again(step: Step, is_needed: bool) -> Step {
    match (&step.standing, is_needed) {
        (Standing::Done(_), true) => Step {
            standing: Standing::Todo,
            file: None,
            ..step
        },
        _ => step,
    }
}

/// Whether a card's node is not the group's, though the rule would make it so: without an IOMMU it does not.
fn has_shut_nodes(host: &Host) -> bool {
    let cards = host.cards().into_iter();
    cards
        .filter(|card| !card.function.is_without_iommu())
        .flat_map(|card| [card.group_node, card.device_node])
        .flatten()
        .any(|node| node.group_name.as_deref() != Some(GROUP) || node.mode & 0o060 != 0o060)
}

/// The modules count as done only where they are loaded, too.
fn modules(host: &Host, here: bool, step: Step) -> Step {
    let lines = packaged::MODULES_LOAD.text.lines();
    let names: Vec<&str> = lines.filter(|line| !line.starts_with('#')).collect();
    let missing = |name: &&str| host.module(name) != Presence::Loaded;
    let is_needed = here && names.iter().any(missing);
    let mut load = vec!["modprobe", "-a"];
    load.extend(names);
    let acts = match is_needed {
        true => vec![Act::run(&load)],
        false => Vec::new(),
    };
    again(Step { acts, ..step }, is_needed)
}

fn hugepages(host: &Host, root: &Path, wishes: &Wishes) -> Option<Step> {
    let usual = host.hugepages.first();
    let total: u64 = host.hugepages.iter().map(|size| size.total).sum();
    let wanted = match (wishes.hugepages, usual) {
        (Some(0), _) => return None,
        (Some(wanted), _) => wanted,
        (None, Some(size)) => wanted_pages(host, size),
        // An image: its kernel is not running, so there is nothing to go by.
        (None, None) => return None,
    };
    let path = root.join("etc/sysctl.d/70-jalapeno.conf");
    let text = format!(
        "# Huge pages for buffers that cards reach. Written by jalctl setup.\n\
         vm.nr_hugepages = {wanted}\n"
    );
    let written = std::fs::read_to_string(&path).ok();
    let standing = match (&written, wishes.hugepages) {
        (_, None) if total > 0 => Standing::Done(format!("{total} are reserved")),
        (Some(same), _) if *same == text && (usual.is_none() || total >= wanted) => {
            Standing::Done(shown(root, &path))
        }
        (Some(other), None) if *other != text && !wishes.replace => Standing::Kept(path.clone()),
        _ => Standing::Todo,
    };
    Some(Step {
        name: "hugepages",
        standing,
        file: Some((path, text)),
        acts: vec![Act::Reserve(wanted)],
        later: None,
    })
}

fn service(root: &Path, name: &str, wishes: &Wishes) -> Step {
    let unit = match name.contains('.') {
        true => name.to_owned(),
        false => format!("{name}.service"),
    };
    let path = root
        .join("etc")
        .join(packaged::SERVICE.folder)
        .join(format!("{unit}.d"))
        .join(packaged::SERVICE.name);
    let standing = match std::fs::read_to_string(&path) {
        Ok(text) if text == packaged::SERVICE.text => Standing::Done(shown(root, &path)),
        Ok(_) if !wishes.replace => Standing::Kept(path.clone()),
        _ => Standing::Todo,
    };
    Step {
        name: packaged::SERVICE.step,
        standing,
        file: Some((path, packaged::SERVICE.text.to_owned())),
        acts: vec![Act::run(&["systemctl", "daemon-reload"])],
        later: Some("when the service is started again"),
    }
}

fn user(host: &Host, name: &str) -> Step {
    let group = group_named(host.root(), GROUP);
    let member = group.is_some_and(|group| group.members.iter().any(|member| member == name));
    Step {
        name: "user",
        standing: match member {
            true => Standing::Done(format!("{name} is in the group {GROUP}")),
            false => Standing::Todo,
        },
        file: None,
        acts: vec![Act::run(&["usermod", "-aG", GROUP, name])],
        later: Some("when the user logs in again"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use jalapeno::pci::Root;

    use super::*;

    #[test]
    fn a_node_that_is_roots_is_to_be_given_but_not_where_no_iommu_confines_the_card() {
        let root = std::env::temp_dir().join(format!("jalapeno-nodes-{}", std::process::id()));
        let card = root.join("sys/bus/pci/devices/0000:02:00.0");
        let group = root.join("sys/kernel/iommu_groups/5");
        let nodes = root.join("dev/vfio");
        for folder in [&card, &group, &nodes] {
            fs::create_dir_all(folder).expect("a folder");
        }
        fs::write(card.join("vendor"), "0xa1a0\n").expect("an id");
        fs::write(card.join("device"), "0x0001\n").expect("an id");
        symlink(&group, card.join("iommu_group")).expect("a group");
        let shut = || has_shut_nodes(&Host::look(&Root::at(&root)));
        assert!(!shut(), "there is no node");
        fs::write(nodes.join("5"), "").expect("a node");
        assert!(shut(), "it is root's");
        fs::rename(nodes.join("5"), nodes.join("noiommu-5")).expect("renamed");
        fs::write(group.join("name"), "vfio-noiommu\n").expect("a name");
        assert!(!shut(), "it stays root's");
        fs::remove_dir_all(&root).expect("removed");
    }
}
