//! `docs/abi`: every file that the kernel module makes is described, and nothing else.

use std::collections::BTreeSet;

use crate::blessed::read;
use crate::tree::files_of;

const PATH: &str = "docs/abi/sysfs-driver-jalapeno_vfio_pci";

/// What stands between `before` and `after`, wherever it does.
fn between<'a>(text: &'a str, before: &str, after: char) -> Vec<&'a str> {
    let rest = text.split(before).skip(1);
    rest.filter_map(|rest| rest.split(after).next()).collect()
}

/// The names of files and events in the module's source.
fn made(source: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    names.extend(
        between(source, "\nJAL_SHOW(", ',')
            .into_iter()
            .map(str::to_owned),
    );
    names.extend(
        between(source, "BIN_ATTR_RO(", ',')
            .into_iter()
            .map(str::to_owned),
    );
    names.extend(
        between(source, "module_param(", ',')
            .into_iter()
            .map(str::to_owned),
    );
    names.extend(
        between(source, "jal_announce(jal, \"", '"')
            .into_iter()
            .map(str::to_owned),
    );
    for row in between(source, "\t{ hwmon_", '}') {
        let words: Vec<&str> = row
            .split([',', ' '])
            .filter(|word| !word.is_empty())
            .collect();
        let [kind, attribute, channel, ..] = words.as_slice() else {
            panic!("a sensor reads {row}")
        };
        let short = attribute.trim_start_matches(&format!("hwmon_{kind}_"));
        let number: u32 = channel.parse().expect("a channel is a number");
        names.insert(format!("{kind}{}_{short}", number + 1));
    }
    for channel in between(source, "STACK(", ')') {
        if let Ok(number) = channel.parse::<u32>() {
            names.insert(format!("temp{}_input", number + 1));
        }
    }
    names
}

/// The names of files and events in the description; labels go with their inputs.
fn described(text: &str) -> BTreeSet<String> {
    let files = text.lines().filter_map(|line| line.strip_prefix("What:"));
    let files =
        files.filter(|line| line.contains("jalapeno_vfio_pci") && !line.ends_with("_label"));
    let mut names: BTreeSet<String> = files
        .filter_map(|line| line.rsplit('/').next())
        .map(str::to_owned)
        .collect();
    let events = text.split("JALAPENO_EVENT=...").nth(1).unwrap_or_default();
    let events = events.split("\nWhat:").next().unwrap_or_default();
    names.extend(
        between(events, "\t\t\"", '"')
            .into_iter()
            .map(str::to_owned),
    );
    names
}

#[test]
fn every_file_and_event_of_the_kernel_module_is_described() {
    let source: String = files_of("kernel-shim/", ".c")
        .into_iter()
        .map(|file| file.text)
        .collect();
    let made = made(&source);
    assert!(made.len() > 20, "found only {made:?}");
    let described = described(&read(PATH));
    let differing: Vec<_> = made.symmetric_difference(&described).collect();
    assert!(
        differing.is_empty(),
        "made or described, not both: {differing:?}"
    );
}

#[test]
fn a_file_that_nobody_describes_is_noticed() {
    let source =
        "\nJAL_SHOW(secret, 0, \"%u\", 1);\n\t{ hwmon_temp, hwmon_temp_max, 2, FIELD, 1 },\n";
    assert_eq!(
        made(source),
        ["secret", "temp3_max"].map(str::to_owned).into()
    );
    assert!(!described(&read(PATH)).contains("secret"));
    let text = "What:\t\t/sys/x/jalapeno_vfio_pci/ghost\nDate:\n";
    assert_eq!(described(text), ["ghost"].map(str::to_owned).into());
}
