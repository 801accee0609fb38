//! Users: who is not root, with and without the group that may have the cards.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::unistd::{Gid, Uid, chown, setgid, setgroups, setuid};

use crate::part::Part;
use crate::stage::{Stage, function};

/// The group of packaging's rule, as it came out on this machine.
pub const GROUP: u32 = 990;
/// Somebody.
const USER: u32 = 1000;

/// Becomes an ordinary user, in these groups beside the user's own.
pub fn become_one(groups: &[u32]) {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).expect("groups");
    setgid(Gid::from_raw(USER)).expect("a group");
    setuid(Uid::from_raw(USER)).expect("a user");
}

/// What packaging's udev rule does: the card's nodes for the group, 0660.
fn give_nodes_to_the_group(card: &str) {
    fs::create_dir_all("/etc").expect("/etc");
    fs::write("/etc/group", format!("root:x:0:\njalapeno:x:{GROUP}:\n")).expect("groups");
    let function = function(card);
    let nodes = function
        .group_node()
        .into_iter()
        .chain(function.device_node())
        .chain(["/dev/iommu".into()]);
    for node in nodes.filter(|node| node.exists()) {
        chown(&node, None, Some(Gid::from_raw(GROUP))).expect("chown");
        fs::set_permissions(&node, fs::Permissions::from_mode(0o660)).expect("chmod");
    }
}

pub fn outside_the_group(stage: &Stage) -> String {
    give_nodes_to_the_group(stage.card());
    let text = Part::start("outsider", stage.card()).heard();
    assert!(text.contains("permission denied"), "{text}");
    assert!(
        text.contains("sudo usermod -aG jalapeno $USER"),
        "the group is named: {text}"
    );
    text
}

pub fn in_the_group(stage: &Stage) -> String {
    give_nodes_to_the_group(stage.card());
    let text = Part::start("member", stage.card()).heard();
    assert_eq!(text, "it works");
    format!("uid {USER} with group {GROUP} ran jobs")
}
