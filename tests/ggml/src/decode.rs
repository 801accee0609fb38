//! Greedy decoding on the card and on the CPU, over the same tokens: the same tokens chosen.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::card::{Card, grown};
use crate::logits::{Compared, compare, read};
use crate::root::{Root, Said, TESTS};

/// The model that was trained for the demo.
pub const TRAINED: &str = "libjalapeno/examples/model/kjv.gguf";
/// Words of the trained model, and of test-llama-archs' models.
pub const WORDS: usize = 256;
const WORDS_OF_RANDOM: usize = 128;

/// What greedy decoding begins with, 200 tokens each: the model's context is 256.
const PROMPTS: [&str; 5] = [
    "Ge1:1 In the beginning",
    "And it came to pass in those days",
    "The LORD is my shepherd",
    "Mat5:3 Blessed are",
    "Now king Solomon",
];
const TOKENS: u32 = 200;
/// What the prompts give together: the goal of the gate.
const PLACES: usize = 1000;

/// Launches of MUL_MAT a token takes at least: of the trained model, six layers of seven matrices.
pub const MATRICES: u64 = 42;
/// The same of test-llama-archs' llama.
const MATRICES_OF_RANDOM: u64 = 14;

/// Longer than the plug-in waits for a graph.
const DEADLINE: Duration = Duration::from_secs(300);

/// How far a logit may lie from the CPU's that computed with the dequantised weights. Weights are the
/// same numbers then, so that only the order of sums differs; the greatest logits are about 0.6.
const QUANTISED: f32 = 1e-4;

/// Weights' types by ggml's name, as llama-quantize takes it.
pub const TYPES: [&str; 5] = ["f16", "q8_0", "q4_0", "q4_K", "q6_K"];

/// `decode` with these words; on the CPU when there is no card.
pub fn decode(root: &Root, card: Option<&Card>, words: &[&str]) -> Result<Said, String> {
    let program = root.program("decode");
    let mut all = vec![
        &*program,
        words[0],
        if card.is_some() { "JAL0" } else { "CPU" },
    ];
    all.extend(&words[1..]);
    root.run(card, &all, DEADLINE)
        .map_err(|why| why.to_string())
}

/// Runs a reference on the CPU and the card along its tokens.
fn both(
    root: &Root,
    card: &Card,
    (reference, model): (&str, &str),
    prompt: &str,
    words: usize,
) -> Result<Compared, String> {
    let tokens = TOKENS.to_string();
    let (told, theirs, ours) = (
        root.file("tokens"),
        root.file("cpu"),
        root.file("card-logits"),
    );
    let said = decode(
        root,
        None,
        &[reference, &tokens, "prompt", prompt, "logits", &theirs],
    )?;
    said.success().map_err(|why| format!("on the CPU: {why}"))?;
    std::fs::write(&told, &said.out).map_err(|why| format!("write {told}: {why}"))?;
    let on_card = [
        model, &tokens, "prompt", prompt, "follow", &told, "logits", &ours,
    ];
    decode(root, Some(card), &on_card)?.success()?;
    compare(&read(&theirs)?, &read(&ours)?, words)
}

/// The trained model, 1,000 tokens. Its file has weights in bf16, and the CPU would round activations
/// to that; so the CPU's weights are the same numbers in f32, and the card has them both ways.
pub fn greedy(root: &Root, card: &Card, kind: &str) -> Result<String, String> {
    let (file, plain) = (root.tree(TRAINED), plain(root)?);
    let model = if kind == "f32" { &plain } else { &file };
    let before = card.launches().map_err(|why| why.to_string())?;
    let mut all = Compared::default();
    for prompt in PROMPTS {
        let one = both(root, card, (&plain, model), prompt, WORDS)?;
        one.held().map_err(|why| format!("\"{prompt}\": {why}"))?;
        all.places += one.places;
        all.near += one.near;
        all.furthest = all.furthest.max(one.furthest);
    }
    if all.places != PLACES {
        return Err(format!("{} places, not {PLACES}", all.places));
    }
    let now = card.launches().map_err(|why| why.to_string())?;
    let launches: BTreeMap<String, u64> = grown(&before, &now);
    let matrices = launches.get("MUL_MAT").copied().unwrap_or(0);
    let least = MATRICES * all.places as u64;
    if matrices < least {
        return Err(format!(
            "{matrices} launches of MUL_MAT, at least {least} were to be"
        ));
    }
    Ok(format!(
        "{} tokens, {} identical, {} where the CPU's two best are near; furthest logit {:.1e}; launches {launches:?}",
        all.places,
        all.places - all.near,
        all.near,
        all.furthest
    ))
}

/// The trained model with its weights in f32.
pub fn plain(root: &Root) -> Result<String, String> {
    let (file, plain) = (root.tree(TRAINED), root.file("trained.gguf"));
    if !Path::new(&plain).is_file() {
        make(
            root,
            &[
                "llama-quantize",
                "--allow-requantize",
                &file,
                &plain,
                "f32",
                "1",
            ],
        )?;
    }
    Ok(plain)
}

/// Runs one of Debian's programs, which is to succeed.
fn make(root: &Root, words: &[&str]) -> Result<(), String> {
    let said = root
        .run(None, words, DEADLINE)
        .map_err(|why| why.to_string())?;
    said.success().map_err(|why| format!("{}: {why}", words[0]))
}

/// A random model with weights of this type, against the CPU with the same weights dequantised.
pub fn quantised(root: &Root, card: &Card, kind: &str) -> Result<String, String> {
    let (random, model, plain) = (
        root.file("llama-dense.gguf"),
        root.file("quantised.gguf"),
        root.file("dequantised.gguf"),
    );
    if !Path::new(&random).is_file() {
        let program = format!("{TESTS}/test-llama-archs");
        let to = root.run.display().to_string();
        make(root, &[&program, "-a", "llama", "-s", "42", "-o", &to])?;
    }
    let before = card.launches_of("MUL_MAT")?;
    // 384 columns are no multiple of 256.
    let pure = ["llama-quantize", "--pure", "--tensor-type", "ffn_down=q8_0"];
    make(root, &[&pure[..], &[&random, &model, kind, "1"]].concat())?;
    make(
        root,
        &[
            "llama-quantize",
            "--allow-requantize",
            &model,
            &plain,
            "f32",
            "1",
        ],
    )?;
    let found = both(
        root,
        card,
        (&plain, &model),
        "any bytes do",
        WORDS_OF_RANDOM,
    )?;
    let launches = card.launches_of("MUL_MAT")? - before;
    let least = MATRICES_OF_RANDOM * found.places as u64;
    if launches < least {
        return Err(format!("{launches} launches of MUL_MAT, not {least}"));
    }
    let (cpu, on_cpu) = (read(&root.file("cpu"))?, root.file("cpu-quantised"));
    let (tokens, told) = (TOKENS.to_string(), root.file("tokens"));
    let words = [
        &*model,
        &tokens,
        "prompt",
        "any bytes do",
        "follow",
        &told,
        "logits",
        &on_cpu,
    ];
    decode(root, None, &words)?.success()?;
    let own = compare(&cpu, &read(&on_cpu)?, WORDS_OF_RANDOM)?;
    let told = format!(
        "furthest logit {:.1e} of {} places, at most {QUANTISED:.0e}; the CPU's own, which rounds activations: {:.1e}; {launches} launches of MUL_MAT",
        found.furthest, found.places, own.furthest
    );
    if found.furthest <= QUANTISED && found.differing.is_empty() {
        Ok(told)
    } else {
        Err(format!("{told}; other tokens at {:?}", found.differing))
    }
}
