//! Names of users and groups: by the system's own look-up, or from a tree's `etc`.

use super::file;
use crate::pci::Root;

/// A group of users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// The users that are listed as its members.
    pub members: Vec<String>,
}

/// The group of this name.
#[must_use]
pub fn group_named(root: &Root, name: &str) -> Option<Group> {
    if *root == Root::default() {
        return nix::unistd::Group::from_name(name)
            .ok()
            .flatten()
            .map(known);
    }
    groups(root).into_iter().find(|group| group.name == name)
}

/// The name of a group.
pub(super) fn of_group(root: &Root, id: u32) -> Option<String> {
    if *root == Root::default() {
        let found = nix::unistd::Group::from_gid(id.into()).ok().flatten();
        return found.map(|group| group.name);
    }
    let found = groups(root).into_iter().find(|group| group.id == id);
    found.map(|group| group.name)
}

/// The name of a user.
pub(super) fn of_user(root: &Root, id: u32) -> Option<String> {
    if *root == Root::default() {
        let found = nix::unistd::User::from_uid(id.into()).ok().flatten();
        return found.map(|user| user.name);
    }
    let text = file::text(&root.file("etc/passwd"))?;
    text.lines().find_map(|line| {
        let mut parts = line.split(':');
        let (name, _, number) = (parts.next()?, parts.next()?, parts.next()?);
        (number.parse() == Ok(id)).then(|| name.to_owned())
    })
}

fn known(group: nix::unistd::Group) -> Group {
    Group {
        id: group.gid.as_raw(),
        name: group.name,
        members: group.mem,
    }
}

fn groups(root: &Root) -> Vec<Group> {
    let text = file::text(&root.file("etc/group")).unwrap_or_default();
    let group = |line: &str| {
        let mut parts = line.split(':');
        let (name, _, id) = (parts.next()?, parts.next()?, parts.next()?);
        let members = parts.next().unwrap_or_default().split(',');
        Some(Group {
            id: id.parse().ok()?,
            name: name.to_owned(),
            members: members
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
        })
    };
    text.lines().filter_map(group).collect()
}
