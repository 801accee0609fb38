//! A function on played machines: whole ones, odd ones, and files that are not there.

use super::played::Machine;
use super::*;

const OURS: (u16, u16) = (0xA1A0, 1);

#[test]
fn a_function_tells_its_ids_driver_group_node_link_and_holders() {
    let machine = Machine::new();
    let card = machine.function("0000:02:00.0", OURS, Some(7), Some("vfio-pci"));
    let folder = "sys/bus/pci/devices/0000:02:00.0";
    machine.write(format!("{folder}/numa_node"), "1\n");
    machine.write(format!("{folder}/current_link_speed"), "16.0 GT/s PCIe\n");
    machine.write(format!("{folder}/current_link_width"), "8\n");
    machine.write(format!("{folder}/max_link_speed"), "32.0 GT/s PCIe\n");
    machine.write(format!("{folder}/max_link_width"), "16\n");
    machine.write(format!("{folder}/vfio-dev/vfio3/dev"), "511:3\n");
    machine.write(
        format!("{folder}/resource"),
        "0x00000000fe000000 0x00000000fe01ffff 0x0000000000040200\n\
         0x0000000000000000 0x0000000000000000 0x0000000000000000\n",
    );
    machine.process(41, &machine.path.join("dev/vfio/7"));
    machine.process(9, &machine.path.join("dev/vfio/devices/vfio3"));
    machine.process(5, &machine.path.join("dev/vfio/8"));
    assert_eq!(card.ids(), Some(OURS));
    assert_eq!(card.driver().as_deref(), Some("vfio-pci"));
    assert!(card.is_there() && card.is_given_to_vfio());
    assert_eq!(card.group(), Some(7));
    assert_eq!(card.group_node(), Some(machine.path.join("dev/vfio/7")));
    let node = machine.path.join("dev/vfio/devices/vfio3");
    assert_eq!(card.device_node(), Some(node));
    assert_eq!(card.numa_node(), Some(1));
    assert_eq!(card.link().unwrap().width, 8);
    assert_eq!(card.link_max().unwrap().speed, "32.0 GT/s PCIe");
    assert_eq!(
        (card.bar_bytes(0), card.bar_bytes(1)),
        (Some(0x2_0000), Some(0))
    );
    assert_eq!(card.bar_bytes(2), None);
    assert_eq!(card.holders(), [9, 41]);
    assert_eq!(machine.root.functions(), [card]);
}

#[test]
fn another_member_of_the_group_in_the_way_is_named_with_its_driver() {
    let machine = Machine::new();
    let card = machine.function("0000:02:00.0", OURS, Some(7), Some("vfio-pci"));
    machine.function("0000:00:1c.0", (0x8086, 1), Some(7), Some("pcieport"));
    machine.function("0000:02:00.2", (0x8086, 2), Some(7), None);
    machine.function("0000:02:00.3", (0x8086, 2), Some(7), Some("vfio-pci"));
    assert_eq!(card.in_the_way(), []);
    machine.function("0000:02:00.1", (0x8086, 2), Some(7), Some("snd_hda_intel"));
    let expected = [("0000:02:00.1".to_owned(), "snd_hda_intel".to_owned())];
    assert_eq!(card.in_the_way(), expected);
    assert_eq!(card.group_members().len(), 5);
}

#[test]
fn files_that_vanish_or_hold_nonsense_are_no_answer() {
    let machine = Machine::new();
    let gone = machine.root.function("0000:09:00.0");
    assert!(!gone.is_there() && !gone.is_given_to_vfio());
    assert_eq!(gone.ids(), None);
    assert_eq!(
        (gone.driver(), gone.group(), gone.link()),
        (None, None, None)
    );
    assert_eq!(gone.group_node(), None);
    assert!(gone.holders().is_empty() && gone.in_the_way().is_empty());
    let folder = "sys/bus/pci/devices/0000:03:00.0";
    for nonsense in ["", "\n", "0x", "0x12345678901", "garbage", "-1", "\u{0}"] {
        for file in ["vendor", "device", "class", "numa_node", "resource"] {
            machine.write(format!("{folder}/{file}"), nonsense);
        }
        machine.write(format!("{folder}/current_link_speed"), "Unknown\n");
        machine.write(format!("{folder}/current_link_width"), nonsense);
        let odd = machine.root.function("0000:03:00.0");
        assert_eq!((odd.ids(), odd.numa_node(), odd.link()), (None, None, None));
        assert_eq!(odd.bar_bytes(0), None, "{nonsense:?}");
    }
}

#[test]
fn a_group_without_an_iommu_is_known_by_its_name() {
    let machine = Machine::new();
    let card = machine.function("0000:02:00.0", OURS, Some(0), Some("vfio-pci"));
    machine.write("sys/kernel/iommu_groups/0/name", "vfio-noiommu\n");
    assert!(card.is_without_iommu());
    let node = machine.path.join("dev/vfio/noiommu-0");
    assert_eq!(card.group_node(), Some(node));
}

#[test]
fn a_vfio_without_device_nodes_has_none() {
    let machine = Machine::new();
    let card = machine.function("0000:02:00.0", OURS, Some(7), Some("vfio-pci"));
    let folder = "sys/bus/pci/devices/0000:02:00.0/vfio-dev/vfio0";
    fs::create_dir_all(machine.path.join(folder)).unwrap();
    assert_eq!(card.device_node(), None);
}

#[test]
fn only_an_address_looks_like_one() {
    assert!(is_address("0000:01:00.0") && is_address("ffff:fe:1d.7"));
    for name in [
        "",
        "0000:01:00",
        "0000:01:00.8",
        "0000-01:00.0",
        "../../etc/pa",
    ] {
        assert!(!is_address(name), "{name}");
    }
}

#[test]
fn bridges_above_a_function_tell_how_far_two_are_apart() {
    let machine = Machine::new();
    let card = |address: &str, bridges: &[&str], node: &str| {
        let card = machine.function(address, OURS, None, None);
        machine.write(format!("sys/bus/pci/devices/{address}/numa_node"), node);
        machine.behind(&card, bridges)
    };
    let switch = ["0000:00:01.0", "0000:01:00.0"];
    let one = card(
        "0000:03:00.0",
        &[&switch[..], &["0000:02:00.0"]].concat(),
        "0",
    );
    let near = card(
        "0000:04:00.0",
        &[&switch[..], &["0000:02:01.0"]].concat(),
        "0",
    );
    let port = card("0000:01:00.1", &["0000:00:01.0"], "0");
    let node = card("0000:05:00.0", &["0000:00:02.0"], "0");
    let far = card("0000:81:00.0", &["0000:80:01.0"], "1");
    let whole = machine.function("0000:00:05.0", OURS, None, None);
    let names = |function: &Function| -> Vec<String> {
        let bridges = function.upstream().into_iter();
        bridges.map(|bridge| bridge.address).collect()
    };
    assert_eq!(
        names(&one),
        ["0000:00:01.0", "0000:01:00.0", "0000:02:00.0"]
    );
    assert!(names(&whole).is_empty() && machine.root.function("gone").upstream().is_empty());
    for (other, distance) in [
        (&one, Distance::Itself),
        (&near, Distance::Switch),
        (&port, Distance::RootPort),
        (&node, Distance::NumaNode),
        (&far, Distance::Across),
        (&whole, Distance::Across),
    ] {
        assert_eq!(
            Distance::between(&one, other),
            distance,
            "{}",
            other.address
        );
        assert_eq!(
            Distance::between(other, &one),
            distance,
            "{}",
            other.address
        );
    }
}

#[test]
fn who_has_which_node_open_is_told_apart() {
    let machine = Machine::new();
    let (group, node) = (
        machine.path.join("dev/vfio/7"),
        machine.path.join("dev/vfio/devices/vfio3"),
    );
    machine.process(41, &group);
    machine.process(9, &node);
    std::os::unix::fs::symlink(&group, machine.path.join("proc/9/fd/8")).unwrap();
    std::os::unix::fs::symlink(&group, machine.path.join("proc/9/fd/9")).unwrap();
    machine.write("proc/77/comm", "it has ended and has no descriptors\n");
    let seen = look(&machine.root, &[group.clone(), node.clone()]);
    let expected = [(9, vec![group.clone(), node]), (41, vec![group])];
    assert_eq!((&seen.holders[..], seen.hidden), (&expected[..], 0));
}
