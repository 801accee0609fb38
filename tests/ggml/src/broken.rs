//! Cards that fail while llama.cpp decodes: an error, never a wrong token, and what is to work
//! afterwards does.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::card::Card;
use crate::decode::{MATRICES, decode, plain};
use crate::endurance::{looks, steady};
use crate::reference::{Judged, Reference};
use crate::report::Report;
use crate::root::{Root, Said};

/// Tokens of a run: past the end of a context of 256, several times.
const TOKENS: u32 = 600;
/// Tokens of the run under many faults, and between two looks at memory.
const MANY: u32 = 10_000;
const EVERY: u32 = 500;

/// Ways to fail in the middle of decoding, each by what the card does to one of its packets. The first
/// is soon over; the others take the plug-in's deadline, two minutes each.
const FAULTS: [&str; 5] = [
    "ecc-uncorrected",
    "hangs",
    "ecc-uncontained",
    "engine-stops",
    "firmware-crash",
];

const SLOW: &str = "takes minutes; make test-ggml runs it";

/// Longest that a card which is gone may keep a program.
const GONE_BY: Duration = Duration::from_secs(30);

/// Every way to fail; when it is to be quick, those that are, and the others are named.
pub fn run(root: &Root, quick: bool, report: &mut Report) {
    let reference = match Reference::make(root, TOKENS) {
        Ok(reference) => reference,
        Err(why) => return report.case("the reference of broken cards", Err(why)),
    };
    let name = "a lost write is done again, or whatever reads it fails";
    report.case(name, lost_writes(root, &reference, quick));
    let name = "the same process decodes on after a failed token";
    report.case(name, same_process(root, &reference, "ecc-uncorrected"));
    let name = "a card killed in the middle of a token is an error";
    report.case(name, killed(root, &reference));
    let name = "a card whose registers read all ones is an error";
    report.case(name, all_ones(root, &reference));
    let name = "a model larger than the card's memory is refused";
    report.case(name, too_large(root));
    for (number, fault) in FAULTS.iter().enumerate() {
        let name = format!("a card that fails by {fault} is an error, and the next run works");
        if quick && number > 0 {
            report.skip(&name, SLOW);
        } else {
            report.case(&name, broken(root, &reference, fault));
        }
    }
    let hangs = "the same process decodes on after a token that hung";
    let many = "10,000 tokens under faults, none of them wrong, in steady memory";
    if quick {
        report.skip(hangs, SLOW);
        report.skip(many, SLOW);
    } else {
        report.case(hangs, same_process(root, &reference, "hangs"));
        report.case(many, many_faults(root));
    }
}

fn started(root: &Root, faults: &[&str]) -> Result<Card, String> {
    Card::start(&root.run, faults).map_err(|why| why.to_string())
}

/// Follows the reference on the card, past it.
fn follow(root: &Root, card: &Card, reference: &Reference, more: &[&str]) -> Result<Said, String> {
    let (model, tokens) = (plain(root)?, TOKENS.to_string());
    let words = [&*model, &tokens, "follow", &reference.file];
    decode(root, Some(card), &[&words[..], more].concat())
}

/// The error that a run ended with, and the plug-in's first line; that it was an error and no crash.
fn error(said: &Said) -> Result<String, String> {
    if said.code != Some(1) {
        return Err(format!("not an error but {:?}", said.success()));
    }
    let error = said.err.lines().find(|line| line.starts_with("error: "));
    let error = error.ok_or("it failed without an error")?;
    // A host that is busy is late, and the library says so: not what is looked for.
    let late = |line: &str| line.contains("INTERRUPT_MISSING") || line.contains("DOORBELL_LOST");
    let mut lines = said.err.lines();
    let reason = lines.find(|line| line.starts_with("jalapeno: ") && !late(line));
    let reason = reason.ok_or_else(|| format!("\"{error}\", and no word of the plug-in"))?;
    Ok(format!("\"{error}\", \"{reason}\""))
}

/// Whether a run ended well, with every token.
fn whole(said: &Said, reference: &Reference) -> Result<Judged, String> {
    said.success()?;
    let judged = reference.judge(&said.out)?;
    if judged.tokens < TOKENS as usize {
        return Err(format!("{} tokens, not {TOKENS}", judged.tokens));
    }
    Ok(judged)
}

/// A card that fails in the middle: an error, no wrong token before it, and the next run works.
fn broken(root: &Root, reference: &Reference, fault: &str) -> Result<String, String> {
    // Far enough in that the model is loaded and some hundred tokens were told.
    let card = started(root, &[&format!("{fault}@2500")])?;
    let mut broken = None;
    for run in 0..8 {
        let before = card.launches_of("MUL_MAT").unwrap_or(0);
        let said = follow(root, &card, reference, &[])?;
        let judged = reference.judge(&said.out)?;
        if said.code == Some(0) {
            whole(&said, reference).map_err(|why| format!("run {run}: {why}"))?;
            let launches = card.launches_of("MUL_MAT")? - before;
            if launches < MATRICES * u64::from(TOKENS) {
                return Err(format!("run {run}: {launches} launches of MUL_MAT"));
            }
            if let Some(words) = broken {
                return Ok(words);
            }
        } else if broken.is_some() {
            return Err(format!("the next run failed too: {:?}", said.success()));
        } else {
            let (error, tokens) = (error(&said)?, judged.tokens);
            broken = Some(format!(
                "{error} after {tokens} right tokens; the next run works"
            ));
        }
    }
    Err("no run failed".to_owned())
}

/// Packets one or two of which fail: those by which a model is loaded and warmed up.
const EARLY: std::ops::RangeInclusive<u64> = 4..=60;

/// A write that fails once is done again; one that fails twice is missed by whatever reads it. Never is a
/// token wrong, and the next run works.
fn lost_writes(root: &Root, reference: &Reference, quick: bool) -> Result<String, String> {
    let (mut mended, mut refused) = (0, 0);
    for at in EARLY.step_by(if quick { 8 } else { 1 }) {
        for twice in [false, true] {
            let first = format!("ecc-uncorrected@{at}");
            let second = format!("ecc-uncorrected@{}", at + 1);
            let faults = [&*first, &*second];
            let card = started(root, &faults[..1 + usize::from(twice)])?;
            let model = plain(root)?;
            let words = [&*model, "12", "follow", &reference.file, "warm", "1"];
            let said = decode(root, Some(&card), &words)?;
            let name = format!("{at}, {}", if twice { "twice" } else { "once" });
            let wrong = |why| format!("packet {name}: {why}; it said {:?}", said.err);
            let judged = reference.judge(&said.out).map_err(wrong)?;
            match said.code {
                Some(0) if judged.tokens == 12 && said.err.contains("ECC_UNCORRECTED") => {
                    mended += 1
                }
                Some(1) => {
                    error(&said).map_err(wrong)?;
                    refused += 1;
                }
                _ => return Err(wrong(format!("{:?}", said.success()))),
            }
            let next = decode(root, Some(&card), &words)?;
            next.success()
                .map_err(|why| format!("the run after {name}: {why}"))?;
            if reference.judge(&next.out)?.tokens != 12 {
                return Err(format!("the run after {name} told fewer tokens"));
            }
        }
    }
    if mended == 0 || refused == 0 {
        return Err(format!(
            "{mended} runs went on, {refused} ended with an error"
        ));
    }
    Ok(format!(
        "{mended} runs went on with right tokens, {refused} ended with an error"
    ))
}

/// After a failed token the context is cleared, and the same process decodes.
fn same_process(root: &Root, reference: &Reference, fault: &str) -> Result<String, String> {
    let mut told = Vec::new();
    for at in [400, 1500, 2500] {
        let card = started(root, &[&format!("{fault}@{at}")])?;
        let said = follow(root, &card, reference, &["retry", "1"])?;
        let judged = whole(&said, reference)?;
        if judged.attempts == 2 {
            told.push(format!(
                "{} right tokens, a failure, {} more",
                judged.tokens - judged.last,
                judged.last
            ));
        }
    }
    if told.is_empty() {
        return Err("nothing failed".to_owned());
    }
    Ok(told.join("; "))
}

/// Kills a process when this many lines were written to a file.
fn kill_at(lines: usize, file: &str, pid: u32, ended: &AtomicBool) -> Result<bool, String> {
    let pid = i32::try_from(pid).map_err(|why| why.to_string())?;
    while !ended.load(Ordering::Relaxed) {
        let written = fs::read_to_string(file).unwrap_or_default();
        if written
            .lines()
            .filter(|line| line.starts_with("token "))
            .count()
            >= lines
        {
            kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|why| why.to_string())?;
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(false)
}

/// A card that goes away in the middle.
fn killed(root: &Root, reference: &Reference) -> Result<String, String> {
    let card = started(root, &[])?;
    let (out, pid, ended) = (root.file("out"), card.pid(), AtomicBool::new(false));
    let _ = fs::remove_file(&out); // an earlier run's
    let begin = Instant::now();
    let (said, killed) = thread::scope(|scope| {
        let killer = scope.spawn(|| kill_at(100, &out, pid, &ended));
        // Every tenth token what was told is written out.
        let said = follow(root, &card, reference, &["memory", "10", "retry", "3"]);
        ended.store(true, Ordering::Relaxed);
        (said, killer.join())
    });
    let said = said?;
    if !matches!(killed, Ok(Ok(true))) {
        return Err(format!(
            "it was not killed: {killed:?}; {:?}",
            said.success()
        ));
    }
    let judged = reference.judge(&said.out)?;
    if judged.attempts != 4 || judged.last != 0 {
        return Err(format!("it went on without a card: {judged:?}"));
    }
    if begin.elapsed() > GONE_BY {
        return Err(format!("it took {:?}", begin.elapsed()));
    }
    let error = error(&said)?;
    drop(card);
    let fresh = started(root, &[])?;
    whole(&follow(root, &fresh, reference, &[])?, reference)?;
    Ok(format!(
        "{error} after {} right tokens, {:.1} s; a new process on a new card works",
        judged.tokens,
        begin.elapsed().as_secs_f64()
    ))
}

/// A card that answers nothing any more: while it is opened, and in the middle of a token, when a
/// packet that does not end makes the library look.
fn all_ones(root: &Root, reference: &Reference) -> Result<String, String> {
    for at in ["all-ones@50", "all-ones@200"] {
        let card = started(root, &[at])?;
        let said = follow(root, &card, reference, &[])?;
        error(&said).map_err(|why| format!("{at}: {why}"))?;
        if reference.judge(&said.out)?.tokens != 0 {
            return Err(format!("{at}: there are tokens"));
        }
    }
    let card = started(root, &["all-ones@320", "hangs@1500"])?;
    let begin = Instant::now();
    let said = follow(root, &card, reference, &["retry", "3"])?;
    let judged = reference.judge(&said.out)?;
    let error = error(&said)?;
    if judged.attempts != 4 || judged.last != 0 || judged.tokens == 0 {
        return Err(format!("{error}, and {judged:?}"));
    }
    if begin.elapsed() > GONE_BY {
        return Err(format!("it took {:?}", begin.elapsed()));
    }
    Ok(format!("{error} after {} right tokens", judged.tokens))
}

/// A card too small for the model, and one too small for its context: a line says so. The latter serves
/// a smaller one afterwards.
fn too_large(root: &Root) -> Result<String, String> {
    let model = plain(root)?;
    let mut told = Vec::new();
    for (hbm, context) in [("2M", "256"), ("16M", "8192")] {
        let card = Card::with(&root.run, &["--hbm", hbm]).map_err(|why| why.to_string())?;
        let said = decode(root, Some(&card), &[&model, "1", "context", context])?;
        error(&said)?;
        let mut lines = said.err.lines();
        let line = lines.find(|line| line.contains("more were asked for"));
        told.push(
            line.ok_or_else(|| format!("no word of memory: {:?}", said.err))?
                .to_owned(),
        );
        if context == "8192" {
            decode(root, Some(&card), &[&model, "1"])?.success()?;
        }
    }
    Ok(format!("{told:?}; a smaller context is served"))
}

/// Faults at every so many packets, from the loading on.
fn many_faults(root: &Root) -> Result<String, String> {
    let reference = Reference::make(root, MANY)?;
    let faults: Vec<String> = (0..24)
        .map(|number| format!("ecc-uncorrected@{}", 20 + 1237 * number))
        .collect();
    let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
    let card = started(root, &faults)?;
    let (model, tokens, every) = (plain(root)?, MANY.to_string(), EVERY.to_string());
    let words = [
        &*model,
        &tokens,
        "follow",
        &reference.file,
        "memory",
        &every,
        "retry",
        "24",
    ];
    let said = decode(root, Some(&card), &words)?;
    said.success()?;
    let judged = reference.judge(&said.out)?;
    if judged.tokens != MANY as usize || judged.attempts < 8 {
        return Err(format!("not 10,000 tokens of eight attempts: {judged:?}"));
    }
    let words = steady(&looks(&said.out))?;
    Ok(format!(
        "{} attempts, {} tokens, {} of them near; {words}",
        judged.attempts, judged.tokens, judged.near
    ))
}
