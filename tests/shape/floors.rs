//! The floors: a file uses what lies on its own floor or below, never what lies above.

use crate::tree::{File, code, expect_none, files_of};

/// A crate's floors from the ground up; ARCHITECTURE.md says what each is for.
struct House {
    folder: &'static str,
    floors: &'static [&'static [&'static str]],
    /// What exists in tests only, and may use everything.
    tests: &'static [&'static str],
}

const LIBRARY: House = House {
    folder: "libjalapeno/src/",
    floors: &[
        &["error", "units", "order", "fork", "pci", "host", "binding"],
        &["transport"],
        &["mmio", "dma", "hbm", "irq", "clock", "capabilities"],
        &[
            "ring",
            "error_ring",
            "ledger",
            "lane",
            "waker",
            "completion",
            "completions",
            "queue",
        ],
        &["device", "discover", "holders", "profile", "telemetry"],
        &[
            "management",
            "buffer",
            "fence",
            "graph",
            "named",
            "peer",
            "session",
            "transfer",
        ],
    ],
    tests: &["played", "queue_cost", "queue_stories"],
};

const C_ABI: House = House {
    folder: "libjalapeno/capi/src/",
    floors: &[
        &["status", "guard"],
        &["handle", "sized", "turns"],
        &["registries"],
        &[
            "buffer", "device", "graph", "log", "profile", "queue", "session",
        ],
    ],
    tests: &[],
};

impl House {
    fn floor(&self, room: &str) -> Option<usize> {
        self.floors.iter().position(|floor| floor.contains(&room))
    }

    /// What in a file climbs.
    fn climbs(&self, file: &File) -> Vec<String> {
        let Some(inside) = file.path.strip_prefix(self.folder) else {
            return vec![format!("{} is not in {}", file.path, self.folder)];
        };
        let inside = inside.trim_end_matches(".rs");
        let room = inside.split('/').next().unwrap_or_default();
        let tests = inside.ends_with("/tests") || inside.contains("/tests/");
        if inside == "lib" || self.tests.contains(&room) || tests {
            return Vec::new();
        }
        let Some(own) = self.floor(room) else {
            return vec![format!(
                "{}: `{room}` has no floor: give it one in tests/shape/floors.rs",
                file.path
            )];
        };
        let text = code(&file.text).collect::<Vec<_>>().join("\n");
        let mut broken = Vec::new();
        for used in rooms_used(&text) {
            match self.floor(&used) {
                _ if used == room => {}
                Some(floor) if floor <= own => {}
                Some(floor) => broken.push(format!(
                    "{}: floor {} climbs to `{used}` on floor {}",
                    file.path,
                    own + 1,
                    floor + 1
                )),
                None => broken.push(format!(
                    "{}: `crate::{used}` is no room: name it by where it lives",
                    file.path
                )),
            }
        }
        let depth = inside.matches('/').count();
        if text.contains(&format!("super::{}", "super::".repeat(depth))) {
            broken.push(format!("{}: leaves its room by `super::`", file.path));
        }
        broken
    }
}

/// The first name of each path that starts at the crate's root, in groups too.
fn rooms_used(text: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        let end = |c: char| !c.is_alphanumeric() && c != '_';
        text.split(end).next().unwrap_or_default().to_owned()
    };
    let mut found = Vec::new();
    for rest in text.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let (mut depth, mut start) = (0, true);
        for (at, c) in group.char_indices() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => start = depth == 0,
                c if start && !c.is_whitespace() => {
                    found.push(word(&group[at..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn nothing_in_the_library_climbs_a_floor() {
    check(&LIBRARY);
}

#[test]
fn nothing_in_the_c_abi_climbs_a_floor() {
    check(&C_ABI);
}

fn check(house: &House) {
    let files = files_of(house.folder, ".rs");
    let broken: Vec<String> = files.iter().flat_map(|file| house.climbs(file)).collect();
    expect_none(&broken);
    for room in house.floors.iter().copied().flatten() {
        let (file, folder) = (
            format!("{}{room}.rs", house.folder),
            format!("{}{room}/", house.folder),
        );
        assert!(
            files
                .iter()
                .any(|f| f.path == file || f.path.starts_with(&folder)),
            "`{room}` has a floor and no file"
        );
    }
}

/// The floors that ARCHITECTURE.md draws: a number, rooms up to the first `|`, and lines without
/// a number that go on.
fn drawn(text: &str) -> Vec<Vec<&str>> {
    let picture = text.split("```text\n").nth(1).unwrap_or_default();
    let picture = picture.split("\n```").next().unwrap_or_default();
    let mut floors: Vec<Vec<&str>> = Vec::new();
    for line in picture
        .lines()
        .skip_while(|line| !line.contains(LIBRARY.folder.trim_end_matches('/')))
        .skip(1)
    {
        let mut words = line
            .split('|')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .peekable();
        match words.peek().map(|word| word.parse::<usize>()) {
            Some(Ok(0)) => break,
            Some(Ok(_)) => floors.push(words.skip(1).collect()),
            Some(Err(_)) => {
                if let Some(floor) = floors.last_mut() {
                    floor.extend(words.filter(|word| *word != "v"));
                }
            }
            None => {}
        }
    }
    for floor in &mut floors {
        floor.sort_unstable();
    }
    floors.reverse();
    floors
}

#[test]
fn the_picture_in_architecture_md_shows_these_floors() {
    let mut floors: Vec<Vec<&str>> = LIBRARY.floors.iter().map(|floor| floor.to_vec()).collect();
    floors.iter_mut().for_each(|floor| floor.sort_unstable());
    assert_eq!(drawn(&crate::blessed::read("ARCHITECTURE.md")), floors);
    let other = "```text\n libjalapeno/src |\n 2 b c |\n   d |\n 1 a |\n 0 hw\n```";
    assert_eq!(drawn(other), [vec!["a"], vec!["b", "c", "d"]]);
}

#[test]
fn a_climb_is_noticed_however_it_is_written() {
    let climbs = |path: &str, text: &str| {
        !LIBRARY
            .climbs(&File {
                path: format!("libjalapeno/src/{path}"),
                text: text.to_owned(),
            })
            .is_empty()
    };
    for (path, line) in [
        ("ring.rs", "use crate::device::Device;"),
        ("error.rs", "use crate::transport::{self, Transport};"),
        (
            "lane/trouble.rs",
            "use crate::{\n    dma::{A, B},\n    session,\n};",
        ),
        (
            "transport/user/socket.rs",
            "fn f() { crate::dma::HostMemory::allocate() }",
        ),
        ("mmio.rs", "use super::queue::Queue;"),
        ("lane/way.rs", "use super::super::device::Device;"),
        ("queue.rs", "use crate::Session;"),
        ("cloud.rs", "use crate::error::Error;"),
    ] {
        assert!(climbs(path, line), "{path}: {line}");
    }
    for (path, line) in [
        ("session.rs", "use crate::device::Device;"),
        ("lane/way.rs", "use super::{Lane, Traffic};"),
        ("lane/trouble.rs", "use crate::{error::Error, ring};"),
        (
            "fork.rs",
            "use crate::error::Result;\n#[cfg(test)]\nmod tests {\n use crate::device::Device;\n}",
        ),
        ("error.rs", "// crate::device says why"),
        ("queue_stories/waits.rs", "use crate::session::Session;"),
    ] {
        assert!(!climbs(path, line), "{path}: {line}");
    }
}
