//! Splits: into how many pieces llama.cpp cuts a family's graph because the card does not run all of it.
//! Two are the least: the CPU looks the token's embedding up, the card does the rest.

use std::time::Duration;

use crate::card::Card;
use crate::decode::decode;
use crate::pinned::Pinned;
use crate::report::Report;
use crate::root::{Root, TESTS};

/// Families whose graphs are cut in two, at least of a dense model.
const FAMILIES: [&str; 10] = [
    "llama",
    "qwen2",
    "qwen3",
    "qwen3moe",
    "mistral3",
    "olmo2",
    "olmoe",
    "granite",
    "granitemoe",
    "smollm3",
];

const WITHIN: Duration = Duration::from_secs(120);

/// The number behind "splits = " in llama.cpp's line of its graph.
fn splits(said: &str) -> Option<u64> {
    let (_, rest) = said.split_once("splits = ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// The splits of every model that test-llama-archs makes of a family are those that are pinned.
pub fn run(root: &Root, card: &Card, pinned: &Pinned, found: &mut Pinned, report: &mut Report) {
    for family in FAMILIES {
        match models(root, family) {
            Ok(models) => {
                for model in models {
                    let key = format!("splits {model}");
                    let outcome = one(root, card, family, &model).and_then(|(count, words)| {
                        found.0.insert(key.clone(), count);
                        pinned.holds(&key, count).map(|()| words)
                    });
                    report.case(&key, outcome);
                }
            }
            Err(why) => report.case(&format!("splits of {family}"), Err(why)),
        }
    }
}

/// The files of a family's models, made here; at least one.
fn models(root: &Root, family: &str) -> Result<Vec<String>, String> {
    let folder = root.file(family);
    std::fs::create_dir_all(&folder).map_err(|why| format!("make {folder}: {why}"))?;
    let program = format!("{TESTS}/test-llama-archs");
    let words = [&*program, "-a", family, "-s", "42", "-o", &folder];
    let said = root.run(None, &words, WITHIN);
    said.map_err(|why| why.to_string())?.success()?;
    let files = std::fs::read_dir(&folder).map_err(|why| format!("read {folder}: {why}"))?;
    let mut names: Vec<String> = files
        .filter_map(|file| file.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".gguf"))
        .collect();
    names.sort();
    if names.is_empty() {
        return Err("test-llama-archs made no model".to_owned());
    }
    Ok(names)
}

fn one(root: &Root, card: &Card, family: &str, model: &str) -> Result<(u64, String), String> {
    let file = root.file(&format!("{family}/{model}"));
    let words = [&*file, "4", "prompt", "words", "context", "64"];
    let ours = decode(root, Some(card), &words)?;
    ours.success()?;
    let theirs = decode(root, None, &words)?;
    theirs
        .success()
        .map_err(|why| format!("on the CPU: {why}"))?;
    if ours.out != theirs.out || ours.out.is_empty() {
        return Err(format!("tokens {:?}, the CPU's {:?}", ours.out, theirs.out));
    }
    let count = splits(&ours.err).ok_or_else(|| format!("no splits: {:?}", ours.err))?;
    Ok((count, format!("{count}, and the CPU's tokens")))
}

#[cfg(test)]
mod tests {
    use super::splits;

    #[test]
    fn the_number_is_read_from_the_line() {
        let line = "words\nsched_reserve: graph: nodes = 159, splits = 14, input objects = 4\n";
        assert_eq!(splits(line), Some(14));
        assert_eq!(splits("sched_reserve: graph: nodes = 9"), None);
        assert_eq!(splits("splits = many"), None);
    }
}
