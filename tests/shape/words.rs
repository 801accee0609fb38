//! The documents: their programs are the examples, their links and commands lead somewhere.

use crate::blessed::read;
use crate::compiler::complaints;
use crate::tree::{File, expect_none, files, files_of};

/// Places on somebody's machine; in pieces, or this file would name them.
const MACHINES: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
];

/// The first fenced block of a language.
fn block<'a>(text: &'a str, language: &str) -> &'a str {
    let open = format!("```{language}\n");
    let rest = text.split_once(&open).map_or("", |(_, rest)| rest);
    rest.split_once("\n```").map_or("", |(block, _)| block)
}

/// The targets of a document's links, without those that lead out of the tree.
fn links(text: &str) -> Vec<&str> {
    let ends = text.split("](").skip(1);
    ends.filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .collect()
}

/// A heading as links name it.
fn slug(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let text: String = heading
        .trim_start_matches('#')
        .trim()
        .chars()
        .filter(kept)
        .collect();
    text.to_lowercase().replace(' ', "-")
}

fn dead_links(file: &File, all: &[File]) -> Vec<String> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut broken = Vec::new();
    for link in links(&file.text) {
        let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
        let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
        for part in path.split('/') {
            match part {
                ".." => drop(parts.pop()),
                "." | "" => {}
                part => parts.push(part),
            }
        }
        let target = if path.is_empty() {
            file.path.clone()
        } else {
            parts.join("/")
        };
        let below = format!("{target}/");
        let found = all.iter().find(|other| other.path == target);
        let there = found.is_some() || all.iter().any(|other| other.path.starts_with(&below));
        let headed = anchor.is_empty()
            || found.is_some_and(|other| {
                let mut headings = other.text.lines().filter(|line| line.starts_with('#'));
                headings.any(|line| slug(line) == anchor)
            });
        if !there || !headed {
            broken.push(format!("{}: nothing is at {link}", file.path));
        }
    }
    broken
}

/// What `make` is asked for in a document's blocks of shell commands.
fn made(text: &str) -> Vec<&str> {
    let blocks = text.split("```sh\n").skip(1);
    let lines = blocks
        .filter_map(|rest| rest.split("\n```").next())
        .flat_map(str::lines)
        .flat_map(|line| line.split("&&"));
    let words = lines.map(|line| line.split_whitespace().skip_while(|word| *word == "sudo"));
    words
        .filter_map(|mut words| (words.next() == Some("make")).then_some(words))
        .flat_map(|words| words.take_while(|word| !word.starts_with('#')))
        .filter(|word| !word.contains('='))
        .collect()
}

#[test]
fn the_readmes_programs_are_the_examples() {
    let readme = read("README.md");
    for (language, path) in [
        ("c", "libjalapeno/examples/copy.c"),
        ("rust", "libjalapeno/examples/copy.rs"),
    ] {
        let shown = block(&readme, language);
        assert!(shown.len() > 500, "README.md shows no {language} program");
        assert_eq!(
            shown.trim_end(),
            read(path).trim_end(),
            "README.md and {path} differ"
        );
    }
}

#[test]
fn the_readmes_c_program_compiles() {
    let shown = block(&read("README.md"), "c").to_owned() + "\n";
    let options = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
    for standard in ["c99", "c11", "c17"] {
        let said = complaints(&format!("readme-{standard}"), &shown, standard, &options);
        assert!(said.is_empty(), "{standard}:\n{said}");
    }
    let broken = shown.replace("jal_wait(queue", "jal_wait(card");
    let said = complaints("readme-broken", &broken, "c99", &options);
    assert!(
        said.contains("incompatible type"),
        "a wrong handle compiled:\n{said}"
    );
}

#[test]
fn links_lead_somewhere() {
    let all = files();
    let documents = files_of("", ".md");
    let broken: Vec<String> = documents
        .iter()
        .flat_map(|file| dead_links(file, &all))
        .collect();
    expect_none(&broken);
    let found: usize = documents.iter().map(|file| links(&file.text).len()).sum();
    assert!(found > 10, "only {found} links");
}

#[test]
fn targets_of_make_that_documents_name_exist() {
    let targets = read("Makefile");
    let mut broken = Vec::new();
    for file in files_of("", ".md") {
        for name in made(&file.text) {
            if !targets.contains(&format!("\n{name}:")) {
                broken.push(format!("{}: make {name}", file.path));
            }
        }
    }
    expect_none(&broken);
}

/// The commands of jalctl that a text tells its reader to use: in backticks, strings and blocks.
fn told_to_run(text: &str) -> Vec<&str> {
    let before = ["`", "\"", "$ ", "-- ", "sudo ", ": ", "with ", "then "];
    let fenced = |before: &str| before.matches("```").count() % 2 == 1;
    let command = |at: usize| {
        let text = &text[..at];
        before.iter().any(|end| text.ends_with(end)) || (text.ends_with('\n') && fenced(text))
    };
    let found = text.match_indices("jalctl ").filter(|(at, _)| command(*at));
    let word = |c: char| !c.is_ascii_lowercase() && c != '-';
    let names = found.filter_map(|(at, all)| text[at + all.len()..].split(word).next());
    names
        .filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
        .collect()
}

/// What jalctl has, by its own list.
fn commands() -> Vec<String> {
    let list = read("jalctl/src/command.rs");
    let list = list.split("enum Command {").nth(1).unwrap_or_default();
    let rows = list
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with('}'));
    let variants = rows.filter_map(|line| line.split('(').next());
    variants
        .filter(|name| name.starts_with(char::is_uppercase))
        .map(str::to_lowercase)
        .collect()
}

#[test]
fn commands_of_jalctl_that_documents_and_hints_name_exist() {
    let commands = commands();
    assert!(commands.len() >= 5, "{commands:?}");
    let mut broken = Vec::new();
    for file in files() {
        let document = file.path.ends_with(".md") && !file.path.starts_with("tests/");
        let hint = ["libjalapeno/", "jalctl/src/"]
            .iter()
            .any(|place| file.path.starts_with(place));
        if !document && !hint {
            continue;
        }
        for name in told_to_run(&file.text) {
            if !commands.iter().any(|command| command == name) {
                broken.push(format!("{}: there is no `jalctl {name}`", file.path));
            }
        }
    }
    expect_none(&broken);
    assert_eq!(
        told_to_run("`jalctl cook` x\njalctl burns\n```sh\njalctl burn now\n```"),
        ["cook", "burn"]
    );
}

/// The bold error texts of the troubleshooting guide, those of other software left out.
fn errors_quoted(text: &str) -> Vec<&str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("**`"));
    lines
        .filter_map(|line| line.trim_end_matches(',').strip_suffix("`**"))
        .collect()
}

/// Source text as it reads once compiled: continued strings joined, places for values cut out.
fn spoken(source: &str) -> String {
    let mut out = String::new();
    let mut joining = false;
    for line in source.lines() {
        let line = if joining { line.trim_start() } else { line };
        joining = line.ends_with('\\');
        out.push_str(line.trim_end_matches('\\'));
        if !joining {
            out.push('\n');
        }
    }
    out
}

/// Pieces of a quoted error that no source says.
fn unsaid<'a>(quoted: &'a str, said: &str) -> Vec<&'a str> {
    let pieces = quoted
        .split(['…', ':'])
        .map(|piece| piece.trim_matches([' ', ',']));
    let long = pieces.filter(|piece| piece.len() > 3);
    long.filter(|piece| !said.contains(piece)).collect()
}

#[test]
fn errors_in_the_troubleshooting_guide_are_the_ones_that_users_see() {
    let guide = read("docs/troubleshooting.md");
    let speakers = [
        "libjalapeno/",
        "jalctl/",
        "tests/prepare",
        "packaging/install",
    ];
    let mut said = String::new();
    for file in files() {
        if speakers.iter().any(|place| file.path.starts_with(place)) {
            said.push_str(&spoken(&file.text));
        }
    }
    let quoted = errors_quoted(&guide);
    assert!(quoted.len() > 30, "only {} errors explained", quoted.len());
    let mut broken = Vec::new();
    for error in quoted {
        let pieces = unsaid(error, &said);
        broken.extend(
            pieces
                .iter()
                .map(|piece| format!("nobody says `{piece}` ({error})")),
        );
    }
    expect_none(&broken);
    let invented = "no device anywhere: we looked";
    assert_eq!(unsaid(invented, &said).len(), 2, "anything passes");
}

#[test]
fn every_status_is_in_the_troubleshooting_guide() {
    let guide = read("docs/troubleshooting.md");
    let header = read("include/jalapeno.h");
    let names = header.split("#define JAL_ERROR_").skip(1);
    let names: Vec<&str> = names.filter_map(|rest| rest.split(' ').next()).collect();
    assert!(names.len() >= 20, "{names:?}");
    for name in names {
        let row = format!(
            "| `JAL_ERROR_{name}` | {} |",
            name.to_lowercase().replace('_', "-")
        );
        assert!(guide.contains(&row), "no row for {name}");
    }
}

#[test]
fn exit_codes_in_the_troubleshooting_guide_are_those_of_jalctl() {
    let guide = read("docs/troubleshooting.md");
    let source = read("jalctl/src/exit.rs");
    let words = source.split("pub const ALL").nth(1).unwrap_or_default();
    let mut codes = 0;
    for line in source
        .lines()
        .take_while(|line| !line.contains("pub const ALL"))
    {
        let Some((name, code)) = line.trim().trim_end_matches(',').split_once(" = ") else {
            continue;
        };
        let said = words
            .split(&format!("Exit::{name},"))
            .nth(1)
            .unwrap_or_default();
        let said = said.split('"').nth(1).unwrap_or_default();
        assert!(
            guide.contains(&format!("| {code} | {said} |\n")),
            "exit code {code}: {said}"
        );
        codes += 1;
    }
    assert!(codes >= 15, "only {codes} exit codes found");
}

#[test]
fn every_variable_of_the_environment_is_described() {
    let guide = read("docs/install.md");
    let mut found = 0;
    for place in ["libjalapeno/src/", "jalctl/src/"] {
        for file in files_of(place, ".rs") {
            for rest in file.text.split("(\"JALAPENO_").skip(1) {
                let name = rest.split('"').next().unwrap_or_default();
                if name.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
                    assert!(
                        guide.contains(&format!("`JALAPENO_{name}`")),
                        "JALAPENO_{name}"
                    );
                    found += 1;
                }
            }
        }
    }
    assert!(found >= 3, "only {found} places read the environment");
}

/// Names of stories in a document: several words in backticks, joined by underscores.
fn stories_named(text: &str) -> Vec<&str> {
    let story = |name: &&str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        name.matches('_').count() >= 3 && name.chars().all(plain)
    };
    text.split('`').skip(1).step_by(2).filter(story).collect()
}

#[test]
fn stories_that_documents_call_as_witnesses_exist() {
    let sources: String = ["rs", "c"]
        .into_iter()
        .flat_map(|end| files_of("", end))
        .map(|file| file.text)
        .collect();
    let told = |name: &str| {
        sources.contains(&format!("fn {name}()")) || sources.contains(&format!("{{\"{name}\","))
    };
    let text = read("SECURITY.md");
    let named = stories_named(&text);
    assert!(named.len() > 30, "only {} stories named", named.len());
    for name in named {
        assert!(told(name), "SECURITY.md calls {name}, which is no test");
    }
    assert!(!told("a_claim_that_nothing_shows"));
}

#[test]
fn no_text_names_somebodys_machine() {
    expect_none(&files().iter().flat_map(machines).collect::<Vec<_>>());
}

fn machines(file: &File) -> Vec<String> {
    let named = |(_, line): &(usize, &str)| MACHINES.iter().any(|place| line.contains(place));
    let lines = file.text.lines().enumerate().filter(named);
    lines
        .map(|(at, line)| format!("{}:{}: {line}", file.path, at + 1))
        .collect()
}

#[test]
fn bad_documents_are_noticed() {
    let file = |path: &str, text: &str| File {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    let all = [
        file("README.md", "# Top\n## What it is\n"),
        file("docs/a.md", ""),
    ];
    for (path, text) in [
        ("README.md", "[a](docs/b.md)"),
        ("docs/a.md", "[a](README.md)"),
        ("docs/a.md", "[a](../README.md#what-it-was)"),
        ("README.md", "[a](#nowhere)"),
    ] {
        assert!(
            !dead_links(&file(path, text), &all).is_empty(),
            "{path}: {text}"
        );
    }
    for (path, text) in [
        (
            "README.md",
            "[a](docs/a.md) [b](docs) [c](https://example.com/x)",
        ),
        ("docs/a.md", "[a](../README.md#what-it-is)"),
        ("README.md", "# Top\n[a](#top)"),
    ] {
        assert_eq!(dead_links(&file(path, text), &all), Vec::<String>::new());
    }
    for place in MACHINES {
        assert_eq!(
            machines(&file("a.md", &format!("see {place}main"))).len(),
            1
        );
    }
    assert!(machines(&file("a.md", "the work/rest balance")).is_empty());
    assert_eq!(
        block("x\n```c\nint a;\n```\n```c\nint b;\n```", "c"),
        "int a;"
    );
    assert_eq!(block("```cpp\nint a;\n```", "c"), "");
    let shell = "```sh\nmake all && sudo make demo LEG=6.1 # make x\necho make y\n```\nmake z";
    assert_eq!(made(shell), ["all", "demo"]);
}
