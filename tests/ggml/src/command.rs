//! The documented command: the program and words of integrations/ggml/README.md, as they stand there.

use std::time::Duration;

use crate::card::Card;
use crate::decode::{MATRICES, TRAINED};
use crate::root::Root;

const WITHIN: Duration = Duration::from_secs(120);
const TOKENS: u32 = 24;
/// How often it is run until the end of its text is seen.
const TRIES: u32 = 12;

/// The words from `llama-completion` on of the README's command.
fn documented(readme: &str) -> Result<Vec<String>, String> {
    let joined = readme.replace("\\\n", " ");
    let line = joined
        .lines()
        .find(|line| line.starts_with("jalctl emulate -- "))
        .ok_or("the README has no line that begins with \"jalctl emulate -- \"")?;
    let (_, program) = line
        .split_once(" llama-")
        .ok_or_else(|| format!("no program of llama.cpp: {line}"))?;
    // Quoted words hold blanks.
    let pieces = format!("llama-{program}");
    let mut words = Vec::new();
    for (number, piece) in pieces.split('"').enumerate() {
        if number % 2 == 1 {
            words.push(piece.to_owned());
        } else {
            words.extend(piece.split_whitespace().map(str::to_owned));
        }
    }
    Ok(words)
}

/// Runs it with our model and a length; its text.
fn text(
    root: &Root,
    card: Option<&Card>,
    before: &[&str],
    words: &[String],
    device: &str,
) -> Result<String, String> {
    let mut words: Vec<String> = words.to_vec();
    for word in &mut words {
        match word.as_str() {
            "model.gguf" => *word = root.tree(TRAINED),
            "JAL0" => device.clone_into(word),
            _ => {}
        }
    }
    let length = TOKENS.to_string();
    let mut all: Vec<&str> = before.to_vec();
    all.extend(words.iter().map(String::as_str));
    all.extend(["-n", &*length, "--temp", "0", "-t", "1", "-fa", "off"]);
    // It ends without waiting for the thread that prints, and loses the end of its text at times.
    for _ in 0..TRIES {
        let said = root
            .run(card, &all, WITHIN)
            .map_err(|why| why.to_string())?;
        said.success()?;
        if said.out.ends_with('\n') {
            return Ok(said.out.trim().to_owned());
        }
    }
    Err(format!("{TRIES} runs whose end was never printed"))
}

/// The command's program on our card, by `jalctl emulate` on one of its own, and on the CPU.
pub fn run(root: &Root, card: &Card) -> Result<String, String> {
    let readme = root.tree("integrations/ggml/README.md");
    let readme = std::fs::read_to_string(&readme).map_err(|why| format!("read {readme}: {why}"))?;
    let words = documented(&readme)?;
    let before = card.launches_of("MUL_MAT")?;
    let on_card = text(root, Some(card), &[], &words, "JAL0")?;
    let launches = card.launches_of("MUL_MAT")? - before;
    if launches < MATRICES * u64::from(TOKENS) {
        return Err(format!(
            "{launches} launches of MUL_MAT; it said {on_card:?}"
        ));
    }
    let on_cpu = text(root, None, &[], &words, "none")?;
    if on_card != on_cpu || on_card.len() < TOKENS as usize / 2 {
        return Err(format!("{on_card:?} on the card, {on_cpu:?} on the CPU"));
    }
    let emulate = Card::tool().map_err(|why| why.to_string())?;
    let emulate = emulate.display().to_string();
    let plug_in = root.environment();
    let mut begin = vec![&*emulate, "emulate", "--", "env"];
    begin.extend(plug_in.iter().map(String::as_str));
    let emulated = text(root, None, &begin, &words, "JAL0")?;
    if emulated != on_card {
        return Err(format!(
            "by jalctl emulate {emulated:?}, otherwise {on_card:?}"
        ));
    }
    Ok(format!("{:?}; {launches} launches of MUL_MAT", on_card))
}

#[cfg(test)]
mod tests {
    use super::documented;

    #[test]
    fn the_words_are_those_of_the_readme() {
        let readme = "words\njalctl emulate -- env A=$PWD/x \\\n    llama-completion -m model.gguf -p \"And it\"\nmore\n";
        assert_eq!(
            documented(readme).unwrap(),
            ["llama-completion", "-m", "model.gguf", "-p", "And it"]
        );
        assert!(documented("jalctl emulate -- true\n").is_err());
        assert!(documented("llama-completion\n").is_err());
    }
}
