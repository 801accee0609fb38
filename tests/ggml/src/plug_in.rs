//! The plug-in itself: that it computes nothing, and which ggml it takes.

use std::time::Duration;

use crate::card::Card;
use crate::decode::TRAINED;
use crate::root::Root;

const WITHIN: Duration = Duration::from_secs(60);

/// An x86 instruction that does floating point arithmetic, or multiplies or averages packed integers.
/// Moves, comparisons (`minss` is one) and the bits of an `isfinite` are none.
fn computes(mnemonic: &str) -> bool {
    let plain = mnemonic.strip_prefix('v').unwrap_or(mnemonic);
    let done = [
        "add", "sub", "mul", "div", "fma", "fms", "fnma", "fnms", "sqrt", "rsqrt", "rcp", "hadd",
        "hsub", "dp", "round",
    ];
    let kinds = ["ss", "sd", "ps", "pd", "sh", "ph"];
    let real = done.iter().any(|done| plain.starts_with(done))
        && kinds.iter().any(|kind| plain.ends_with(kind));
    let packed = ["pmadd", "pmul", "pdp", "pavg", "psad"];
    let coprocessor = [
        "fadd", "fsub", "fmul", "fdiv", "fiadd", "fisub", "fimul", "fidiv", "fsqrt",
    ];
    real || packed.iter().any(|begin| plain.starts_with(begin))
        || coprocessor.iter().any(|begin| mnemonic.starts_with(begin))
}

/// Instructions of a listing by objdump, and those of them that compute.
fn computing(listing: &str) -> (usize, Vec<&str>) {
    let instruction = |line: &&str| line.split_once(":\t").is_some();
    let mnemonic = |line: &str| {
        let words = line.split_once(":\t").map_or("", |(_, words)| words);
        computes(words.split_whitespace().next().unwrap_or_default())
    };
    let all: Vec<&str> = listing.lines().filter(instruction).collect();
    let found = all.iter().copied().filter(|line| mnemonic(line)).collect();
    (all.len(), found)
}

/// Every sum and product is the card's: the plug-in's code has no instruction for one.
pub fn no_arithmetic(root: &Root) -> Result<String, String> {
    let words = [
        "objdump",
        "-d",
        "--no-show-raw-insn",
        &root.program("libggml-jalapeno.so"),
    ];
    let said = root
        .run(None, &words, WITHIN)
        .map_err(|why| why.to_string())?;
    said.success()?;
    let (count, found) = computing(&said.out);
    if count < 1000 {
        return Err(format!("objdump lists {count} instructions"));
    }
    if !found.is_empty() {
        return Err(format!("{} instructions compute: {found:?}", found.len()));
    }
    Ok(format!(
        "{count} instructions, none of them arithmetic of tensors"
    ))
}

/// The ranges of memory that lost writes leave behind.
pub fn spoiled(root: &Root) -> Result<String, String> {
    let said = root
        .run(None, &[&root.program("spoiled")], WITHIN)
        .map_err(|why| why.to_string())?;
    said.success()
        .map_err(|why| format!("{why}: {}", said.out))?;
    if said.out != "all held\n" {
        return Err(format!("it said {:?}", said.out));
    }
    Ok("as tests/ggml/spoiled.cpp wants them".to_owned())
}

/// Another ggml gets a line, and no device.
pub fn other_version(root: &Root, card: &Card) -> Result<String, String> {
    let model = root.tree(TRAINED);
    let (decode, other) = (root.program("decode"), root.program("libother.so"));
    let preload = format!("LD_PRELOAD={other}");
    let right = root
        .run(Some(card), &[&decode, &model, "JAL0", "1"], WITHIN)
        .map_err(|why| why.to_string())?;
    right.success()?;
    let said = root
        .run(
            Some(card),
            &[&preload, &decode, &model, "JAL0", "1"],
            WITHIN,
        )
        .map_err(|why| why.to_string())?;
    let ours: Vec<&str> = said
        .err
        .lines()
        .filter(|line| line.starts_with("jalapeno: "))
        .collect();
    match (said.code, &ours[..]) {
        (Some(1), [line])
            if line.contains("0.28.0")
                && line.contains("refused")
                && said.err.contains("there is no device: JAL0") =>
        {
            Ok(format!("\"{line}\", and no JAL0"))
        }
        _ => Err(format!("{:?}: {:?}", said.code, said.err)),
    }
}

#[cfg(test)]
mod tests {
    use super::{computes, computing};

    #[test]
    fn arithmetic_of_every_kind_is_seen() {
        for mnemonic in [
            "mulsd",
            "vaddps",
            "vfmadd231ps",
            "divss",
            "sqrtsd",
            "vhaddps",
            "dpps",
            "pmaddwd",
            "vpmulld",
            "vpdpbusd",
            "fmulp",
            "faddp",
            "subpd",
            "vmulph",
        ] {
            assert!(computes(mnemonic), "{mnemonic}");
        }
    }

    #[test]
    fn moves_comparisons_and_addresses_are_none() {
        for mnemonic in [
            "mov",
            "imul",
            "add",
            "sub",
            "lea",
            "movss",
            "movaps",
            "ucomiss",
            "comiss",
            "andps",
            "pxor",
            "paddq",
            "movdqu",
            "cvttss2si",
            "mul",
            "div",
            "call",
            "vzeroupper",
            "adds",
            "movsd",
            "minss",
        ] {
            assert!(!computes(mnemonic), "{mnemonic}");
        }
    }

    #[test]
    fn the_instructions_of_a_listing_are_counted() {
        let listing =
            "0000000000001000 <f>:\n    1000:\tpush   %rbx\n    1001:\tmulss  %xmm0,%xmm1\n\n";
        assert_eq!(
            computing(listing),
            (2, vec!["    1001:\tmulss  %xmm0,%xmm1"])
        );
        assert_eq!(computing("words"), (0, vec![]));
    }
}
