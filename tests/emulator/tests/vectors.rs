//! Every kernel against references computed in binary64 by another program. Kernels 2.2.
//!
//! tests/vectors/README.md says how the vectors were made. Each case runs on the kernels directly,
//! with every instruction set that this processor has, and by LAUNCH packets on a card.

mod bench_top;
#[path = "vectors/case.rs"]
mod case;
#[path = "vectors/direct.rs"]
mod direct;
#[path = "vectors/launched.rs"]
mod launched;
#[path = "vectors/verdict.rs"]
mod verdict;

use case::{Case, Expected};
use jalapeno_emulator::kernels::{KernelId, Level, Pool};

/// Runs all cases of a file; fails with every one that is wrong, or when there are too few.
fn all(file: &str, least: usize, mut run: impl FnMut(&Case, usize) -> Option<Result<f64, String>>) {
    let cases = case::read(file);
    let (mut ran, mut wrong) = (0, Vec::new());
    let mut worst = (0.0, "");
    for (turn, case) in cases.iter().enumerate() {
        match run(case, turn) {
            None => continue,
            Some(Ok(share)) if share > worst.0 => worst = (share, &case.name),
            Some(Ok(_)) => {}
            Some(Err(why)) => wrong.push(format!("{file}: {}: {why}", case.name)),
        }
        ran += 1;
    }
    assert!(
        wrong.is_empty(),
        "{} of {ran} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(ran >= least, "{file}: only {ran} cases ran, not {least}");
    println!(
        "{file}: {ran} cases, worst error {:.3} of the tolerance ({})",
        worst.0, worst.1
    );
}

fn directly(file: &str, least: usize) {
    for level in [Level::Plain, Level::Avx2, Level::Avx512] {
        let pool = Pool::new(1).with_level(level);
        all(file, least, |case, _| {
            (!case.launch_only).then(|| direct::run(case, &pool))
        });
    }
}

fn by_launch(file: &str, least: usize) {
    let mut card = launched::Card::new();
    all(file, least, |case, turn| Some(card.run(case, turn)));
}

/// Two tests a kernel, with the least number of cases that must run: directly, and in all.
macro_rules! kernels {
    ($($name:ident, $direct:literal, $launched:literal;)*) => {$(
        mod $name {
            #[test]
            fn on_the_kernels() {
                super::directly(concat!(stringify!($name), ".vec"), $direct);
            }

            #[test]
            fn on_a_card() {
                super::by_launch(concat!(stringify!($name), ".vec"), $launched);
            }
        }
    )*};
}

kernels! {
    get_rows, 55, 55;
    set_rows, 53, 53;
    mul_mat, 123, 123;
    rms_norm, 63, 63;
    rope, 94, 94;
    soft_max, 93, 93;
    add, 92, 135;
    mul, 91, 91;
    scale, 60, 60;
    silu, 55, 55;
    swiglu, 102, 102;
    copy, 119, 119;
    argmax, 46, 46;
    geglu, 68, 68;
    sum_rows, 50, 50;
    argsort, 69, 69;
    top_k, 58, 58;
    sub, 91, 91;
    div, 91, 91;
    soft_max_sinks, 31, 31;
    rope_sections, 74, 74;
    attention, 214, 214;
    get_rows_blocks, 84, 100;
    mul_mat_blocks, 124, 132;
    mul_mat_block_types, 180, 180;
    mul_mat_id, 96, 96;
    set_rows_blocks, 72, 72;
    copy_blocks, 130, 130;
    clamp, 86, 86;
    sample, 105, 105;
}

#[test]
fn every_kernel_that_is_not_reserved_has_vectors() {
    for kernel in KernelId::ALL.iter().filter(|kernel| !kernel.is_reserved()) {
        let file = format!("{}.vec", kernel.name().to_lowercase());
        let cases = case::read(&file);
        let mine = cases.iter().filter(|case| case.kernel == kernel.code());
        assert!(mine.count() > 40, "{file}");
    }
}

/// Whether the comparison finds fault with a case whose expectation was changed.
fn notices(case: &Case) -> bool {
    direct::run(case, &Pool::new(1)).is_err()
}

#[test]
fn a_value_beyond_its_tolerance_is_noticed_in_every_kernel() {
    let mut noticed = 0;
    for file in [
        "mul_mat",
        "rms_norm",
        "rope",
        "soft_max",
        "add",
        "mul",
        "scale",
        "silu",
        "swiglu",
        "geglu",
        "sum_rows",
        "sub",
        "div",
        "attention",
        "mul_mat_id",
    ] {
        for mut case in case::read(&format!("{file}.vec")) {
            let dtype = case.operands[0].dtype;
            let Expected::Near(values, room) = &mut case.expected else {
                continue;
            };
            let Some(at) = values.iter().position(|y| y.abs() < 1e4) else {
                continue;
            };
            values[at] += 2.01 * (f64::from(room[at]) + verdict::ulp(dtype, values[at]));
            assert!(notices(&case), "{file}: {}", case.name);
            noticed += 1;
        }
    }
    assert!(noticed > 400, "only {noticed}");
}

#[test]
fn a_wrong_bit_index_code_or_stray_byte_is_noticed() {
    let mut noticed = [0; 4];
    for file in [
        "get_rows",
        "set_rows",
        "copy",
        "argmax",
        "argsort",
        "top_k",
        "clamp",
        "sample",
        "add",
        "set_rows_blocks",
    ] {
        for case in case::read(&format!("{file}.vec")) {
            if case.launch_only {
                continue;
            }
            let mut other = case.clone();
            match &mut other.expected {
                Expected::Exact(bytes) if !bytes.is_empty() => {
                    bytes[0] ^= 1;
                    // A NaN with another payload is still a NaN.
                    if case.name.contains("nan") && file == "copy" {
                        continue;
                    }
                    noticed[0] += 1;
                }
                Expected::Refused(code, _) => {
                    *code ^= 1;
                    noticed[1] += 1;
                }
                Expected::Near(values, _) if !values.is_empty() => {
                    values[0] = f64::NAN;
                    noticed[2] += 1;
                }
                _ => continue,
            }
            if matches!(case.expected, Expected::Near(ref y, _) if y[0].is_nan()) {
                continue;
            }
            assert!(notices(&other), "{file}: {}", case.name);
        }
    }
    // A store between the rows of a destination.
    let cases = case::read("add.vec");
    let padded = cases.iter().find(|case| case.name == "dst padded").unwrap();
    let mut stray = padded.clone();
    let view = &mut stray.operands[0];
    view.nb[0] *= 2;
    noticed[3] += usize::from(verdict::judge(&stray, &padded.buffers).is_err());
    assert!(noticed.iter().all(|&count| count > 0), "{noticed:?}");
}
