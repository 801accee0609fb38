//! Long runs: tokens that stay right, memory that does not grow.

use std::time::Duration;

use crate::card::Card;
use crate::decode::{MATRICES, TRAINED, decode};
use crate::reference::Reference;
use crate::root::Root;

/// Tokens of the long run, and between two looks at memory.
const TOKENS: u32 = 10_000;
const EVERY: u32 = 500;
/// What memory may grow by after the first look.
const GROWTH: u64 = 1 << 20;
const BENCH: Duration = Duration::from_secs(120);

/// One look at a process: its resident memory, and what is free on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    tokens: u32,
    resident: u64,
    free: u64,
}

/// The looks that a run took.
pub fn looks(out: &str) -> Vec<Look> {
    let lines = out.lines().filter_map(|line| line.strip_prefix("memory "));
    lines
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some(Look {
                tokens: words.next()?.parse().ok()?,
                resident: words.next()?.parse().ok()?,
                free: words.next()?.parse().ok()?,
            })
        })
        .collect()
}

/// Whether memory stood still from the second look to the last.
pub fn steady(looks: &[Look]) -> Result<String, String> {
    let wanted = (TOKENS / EVERY) as usize;
    let [_, first, .., last] = looks else {
        return Err(format!("{} looks at memory, not {wanted}", looks.len()));
    };
    if looks.len() != wanted || last.tokens != TOKENS {
        return Err(format!("{} looks at memory, not {wanted}", looks.len()));
    }
    let most = looks[1..]
        .iter()
        .map(|look| look.resident)
        .max()
        .unwrap_or(0);
    let told = format!(
        "resident {} KiB after {} tokens, at most {} KiB; free on the card {} and {} bytes",
        first.resident / 1024,
        first.tokens,
        most / 1024,
        first.free,
        last.free
    );
    if first.free == 0 || looks[1..].iter().any(|look| look.free != first.free) {
        return Err(format!("device memory did not stand still: {told}"));
    }
    if most > first.resident + GROWTH {
        return Err(format!("memory grew: {told}"));
    }
    Ok(told)
}

/// 10,000 tokens in a context of 256, whose older half goes each time it is full.
pub fn long(root: &Root, card: &Card) -> Result<String, String> {
    let model = root.tree(TRAINED);
    let reference = Reference::make(root, TOKENS)?;
    let (tokens, every) = (TOKENS.to_string(), EVERY.to_string());
    // The emulator's memory is taken for good when first touched: one short run goes ahead.
    decode(root, Some(card), &[&model, "300"])?.success()?;
    let before = card.resident().map_err(|why| why.to_string())?;
    let matrices = card.launches_of("MUL_MAT")?;
    let words = [
        &*model,
        &tokens,
        "follow",
        &reference.file,
        "memory",
        &every,
    ];
    let said = decode(root, Some(card), &words)?;
    said.success()?;
    let after = card.resident().map_err(|why| why.to_string())?;
    let launches = card.launches_of("MUL_MAT")? - matrices;
    if launches < u64::from(TOKENS) * MATRICES {
        return Err(format!("{launches} launches for {TOKENS} tokens"));
    }
    let judged = reference.judge(&said.out)?;
    if judged.tokens != TOKENS as usize {
        return Err(format!("{} tokens", judged.tokens));
    }
    let words = steady(&looks(&said.out))?;
    if after > before + 8 * GROWTH {
        return Err(format!(
            "the emulator grew from {before} to {after} bytes; {words}"
        ));
    }
    Ok(format!(
        "the CPU's tokens but for {} near ones; {words}; emulator {} and {} KiB",
        judged.near,
        before / 1024,
        after / 1024
    ))
}

/// llama-bench on the card: rates, and that it was the card.
pub fn bench(root: &Root, card: &Card) -> Result<String, String> {
    let model = root.tree(TRAINED);
    let mut words = vec!["llama-bench", "-m", &*model];
    words.extend("-dev JAL0 -ngl 99 -fa off -t 1 -p 64 -n 64 -r 2 -o json".split(' '));
    let before = card.launches().map_err(|why| why.to_string())?;
    let said = root
        .run(Some(card), &words, BENCH)
        .map_err(|why| why.to_string())?;
    said.success()?;
    let now = card.launches().map_err(|why| why.to_string())?;
    let all: serde_json::Value =
        serde_json::from_str(&said.out).map_err(|why| format!("{why}: {}", said.out))?;
    let runs = all.as_array().ok_or("no list")?;
    let mut told = Vec::new();
    for run in runs {
        let (prompt, generated) = (&run["n_prompt"], &run["n_gen"]);
        let rate = run["avg_ts"].as_f64().unwrap_or(0.0);
        if rate <= 0.0 || run["devices"] != "JAL0" {
            return Err(format!("a row without rate or card: {run}"));
        }
        told.push(format!("{prompt} in, {generated} out: {rate:.0} tokens/s"));
    }
    if told.len() != 2 {
        return Err(format!("{} rows, not 2", told.len()));
    }
    let launches: u64 = crate::card::grown(&before, &now).values().sum();
    if launches < 64 * MATRICES {
        return Err(format!("{launches} launches"));
    }
    Ok(format!(
        "{told:?}, {launches} launches; the emulator's rates"
    ))
}

#[cfg(test)]
mod tests {
    use super::{EVERY, Look, TOKENS, looks, steady};

    fn run(resident: impl Fn(u32) -> u64, free: impl Fn(u32) -> u64) -> Vec<Look> {
        (1..=TOKENS / EVERY)
            .map(|look| Look {
                tokens: look * EVERY,
                resident: resident(look),
                free: free(look),
            })
            .collect()
    }

    #[test]
    fn memory_that_grows_is_noticed_on_the_host_and_on_the_card() {
        assert!(steady(&run(|_| 1 << 24, |_| 1 << 30)).is_ok());
        assert!(steady(&run(|look| u64::from(look) << 20, |_| 1 << 30)).is_err());
        assert!(steady(&run(|_| 1 << 24, |look| (1 << 30) - u64::from(look))).is_err());
        assert!(steady(&run(|_| 1 << 24, |_| 0)).is_err());
    }

    #[test]
    fn a_run_that_nobody_looked_at_is_no_steady_one() {
        assert!(steady(&[]).is_err());
        assert!(steady(&run(|_| 1, |_| 1)[..5]).is_err());
        let read = looks("token 5\nmemory 500 4096 77\nmemory x 1 2\n");
        assert_eq!(
            read,
            [Look {
                tokens: 500,
                resident: 4096,
                free: 77
            }]
        );
    }
}
