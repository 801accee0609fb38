//! Rows and matrices larger than any block: the seams between strips, columns and threads.
//!
//! The vectors are small; here a plain loop in f64 is the reference.

use jalapeno_emulator::kernels::{
    DType, KernelError, KernelId, Operand, Pool, Pulse, Undisturbed, launch,
};

/// A dense tensor of f32 in memory of its own.
struct Dense {
    ne: [u32; 4],
    values: Vec<f32>,
}

impl Dense {
    fn new(ne: [u32; 4], of: impl Fn(usize) -> f32) -> Self {
        let count = ne.iter().map(|&n| n as usize).product();
        Self {
            ne,
            values: (0..count).map(of).collect(),
        }
    }

    fn operand(&mut self) -> Operand {
        let base: *mut u8 = self.values.as_mut_ptr().cast();
        let ne = self.ne.map(u64::from);
        Operand {
            base,
            address: base.addr() as u64,
            ty: DType::F32,
            ne: self.ne,
            nb: [4, 4 * ne[0], 4 * ne[0] * ne[1], 4 * ne[0] * ne[1] * ne[2]],
        }
    }
}

/// Numbers that look like none in particular, between -1 and 1.
fn noise(index: usize) -> f32 {
    let mixed = (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((mixed >> 40) as f32) / (1u64 << 23) as f32 - 1.0
}

fn run(
    kernel: KernelId,
    params: &[u32],
    tensors: &mut [&mut Dense],
    pool: &Pool,
    pulse: &dyn Pulse,
) -> Result<(), KernelError> {
    let mut words = [0; 16];
    words[..params.len()].copy_from_slice(params);
    let operands: Vec<Operand> = tensors.iter_mut().map(|t| t.operand()).collect();
    // SAFETY: every operand is a whole vector that lives and is not touched meanwhile.
    unsafe { launch(kernel, &words, &operands, pool, pulse) }.map(|_| ())
}

/// A product by plain loops, and the sum of magnitudes that its tolerance is made of.
fn product(w: &Dense, x: &Dense) -> Vec<(f64, f64)> {
    let [k, m, ..] = w.ne.map(|n| n as usize);
    let [_, n, b2, b3] = x.ne.map(|n| n as usize);
    let (r2, r3) = (b2 / w.ne[2] as usize, b3 / w.ne[3] as usize);
    let mut all = Vec::new();
    for h in 0..b3 {
        for g in 0..b2 {
            let heads = (h / r3) * w.ne[2] as usize + g / r2;
            for j in 0..n {
                let x = &x.values[((h * b2 + g) * n + j) * k..][..k];
                for i in 0..m {
                    let w = &w.values[(heads * m + i) * k..][..k];
                    let parts = w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
                    all.push(parts.fold((0.0, 0.0), |(y, s), p| (y + p, s + p.abs())));
                }
            }
        }
    }
    all
}

#[test]
fn a_product_is_right_across_every_seam_and_the_same_on_any_number_of_threads() {
    // k, m, n, b2, b3, and the heads that share weights.
    for (k, m, n, b2, b3, r2) in [
        (1500, 130, 70, 2, 1, 2), // blocks of weights and of k, one batch on its own
        (300, 67, 600, 1, 1, 1),  // more columns than are multiplied at a time
        (20, 70, 9, 6, 70, 3),    // many batches together
        (33_000, 65, 3, 4, 2, 2), // batches that are not held all at once
        (4_200_000, 2, 2, 1, 1, 1), // rows too long to be held
        (64, 4097, 1, 4, 1, 2),   // decoding
    ] {
        let mut w = Dense::new([k, m, b2 / r2, b3], noise);
        let mut x = Dense::new([k, n, b2, b3], |i| noise(i + 77_777_777));
        let mut results = Vec::new();
        for threads in [1, 2, 3] {
            let mut dst = Dense::new([m, n, b2, b3], |_| f32::NAN);
            let pool = Pool::new(threads);
            let operands = &mut [&mut dst, &mut w, &mut x];
            run(KernelId::MulMat, &[], operands, &pool, &Undisturbed).unwrap();
            results.push(dst.values);
        }
        assert!(results[0] == results[1], "{k} x {m} x {n}: two threads");
        assert!(results[0] == results[2], "{k} x {m} x {n}: three threads");
        for (index, (&got, (y, s))) in results[0].iter().zip(product(&w, &x)).enumerate() {
            let room = (f64::from(k) + 4.0) * 2f64.powi(-24) * s + 1e-30;
            let off = (f64::from(got) - y).abs();
            assert!(
                off <= room,
                "{k} x {m} x {n}, element {index}: {got}, not {y}"
            );
        }
    }
}

#[test]
fn long_rows_are_normalised_as_a_whole_also_in_place() {
    for n in [32_767u32, 32_768, 32_769, 100_003] {
        let pool = Pool::new(1);
        let mut src = Dense::new([n, 2, 1, 1], |i| 3.0 * noise(i));
        let mut dst = Dense::new([n, 2, 1, 1], |_| f32::NAN);
        let wanted: Vec<f64> = src
            .values
            .chunks(n as usize)
            .flat_map(|row| {
                let squares: f64 = row.iter().map(|&x| f64::from(x).powi(2)).sum();
                let scale = 1.0 / (squares / f64::from(n) + 1e-5f32 as f64).sqrt();
                row.iter().map(move |&x| f64::from(x) * scale)
            })
            .collect();
        let words = [1e-5f32.to_bits()];
        let operands = &mut [&mut dst, &mut src];
        run(KernelId::RmsNorm, &words, operands, &pool, &Undisturbed).unwrap();
        for (&got, y) in dst.values.iter().zip(&wanted) {
            assert!(
                (f64::from(got) - y).abs() <= 1e-6 * y.abs(),
                "{n}: {got}, not {y}"
            );
        }
        in_place(KernelId::RmsNorm, &words, &mut src, &dst);
    }
}

#[test]
fn long_rows_are_soft_maxed_as_a_whole_also_in_place() {
    for n in [32_768u32, 32_769, 70_001] {
        let pool = Pool::new(1);
        // The largest is in the last strip, and the mask hides its neighbour.
        let mut src = Dense::new([n, 2, 1, 1], |i| 8.0 * noise(i));
        src.values[n as usize - 1] = 20.0;
        src.values[n as usize - 2] = 90.0;
        let mut mask = Dense::new([n, 2, 1, 1], |i| {
            if i == n as usize - 2 {
                f32::NEG_INFINITY
            } else {
                0.0
            }
        });
        let mut dst = Dense::new([n, 2, 1, 1], |_| f32::NAN);
        let words = [0.5f32.to_bits(), 0];
        let operands = &mut [&mut dst, &mut src, &mut mask];
        run(KernelId::SoftMax, &words, operands, &pool, &Undisturbed).unwrap();
        for row in 0..2 {
            let at = row * n as usize..(row + 1) * n as usize;
            let z = src.values[at.clone()].iter().zip(&mask.values[at.clone()]);
            let z: Vec<f64> = z
                .map(|(&x, &m)| f64::from(x) * 0.5 + f64::from(m))
                .collect();
            let top = z.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
            let total: f64 = z.iter().map(|z| (z - top).exp()).sum();
            for (&got, z) in dst.values[at].iter().zip(&z) {
                let y = (z - top).exp() / total;
                assert!(
                    (f64::from(got) - y).abs() <= 1e-5 * y,
                    "{n}: {got}, not {y}"
                );
            }
        }
        assert_eq!(dst.values[n as usize - 2], 0.0, "masked");
        let mut plain = Dense::new([n, 2, 1, 1], |_| f32::NAN);
        let operands = &mut [&mut plain, &mut src];
        run(KernelId::SoftMax, &words, operands, &pool, &Undisturbed).unwrap();
        in_place(KernelId::SoftMax, &words, &mut src, &plain);
    }
}

/// Runs a kernel in place: what it wrote apart must come of it.
fn in_place(kernel: KernelId, words: &[u32], tensor: &mut Dense, wanted: &Dense) {
    let mut params = [0; 16];
    params[..words.len()].copy_from_slice(words);
    let both = [tensor.operand(); 2];
    // SAFETY: a whole vector that lives and is not touched meanwhile.
    unsafe { launch(kernel, &params, &both, &Pool::new(1), &Undisturbed) }.unwrap();
    assert!(tensor.values == wanted.values, "{kernel:?} in place");
}

#[test]
fn rows_longer_than_a_strip_are_turned_gated_and_copied_whole() {
    let pool = Pool::new(1);
    let n = 5_000u32;
    let mut a = Dense::new([n, 2, 1, 1], noise);
    let mut b = Dense::new([n, 2, 1, 1], |i| noise(i + 999));
    let mut dst = Dense::new([n, 2, 1, 1], |_| f32::NAN);
    let operands = &mut [&mut dst, &mut a, &mut b];
    run(KernelId::Swiglu, &[0], operands, &pool, &Undisturbed).unwrap();
    for ((&got, &a), &b) in dst.values.iter().zip(&a.values).zip(&b.values) {
        let y = f64::from(a) / (1.0 + (-f64::from(a)).exp()) * f64::from(b);
        assert!((f64::from(got) - y).abs() <= 1e-6 * y.abs().max(1e-9));
    }
    // A right side of 1250, then of 2500 elements: shorter and longer rows than a strip's.
    for part in [1_250u32, 2_500] {
        let mut right = Dense::new([part, 1, 1, 1], |i| noise(i + 5));
        let operands = &mut [&mut dst, &mut a, &mut right];
        run(KernelId::Add, &[], operands, &pool, &Undisturbed).unwrap();
        for (i, (&got, &a)) in dst.values.iter().zip(&a.values).enumerate() {
            let right = right.values[i % n as usize % part as usize];
            assert_eq!(got, a + right, "element {i} of {part}");
        }
    }
    // Two of 5000 elements are turned by a quarter; the rest stays.
    let mut positions = [1i32];
    let mut turned = Dense::new([n, 2, 1, 1], |_| f32::NAN);
    let mut params = [0; 16];
    let one = 1f32.to_bits();
    params[..7].copy_from_slice(&[
        4_000,
        2,
        0,
        one,
        std::f32::consts::FRAC_PI_2.to_bits(),
        0,
        one,
    ]);
    let place: *mut u8 = positions.as_mut_ptr().cast();
    let positions = Operand {
        base: place,
        address: place.addr() as u64,
        ty: DType::I32,
        ne: [1; 4],
        nb: [4; 4],
    };
    let operands = [turned.operand(), a.operand(), positions];
    // SAFETY: whole vectors that live and are not touched meanwhile.
    unsafe { launch(KernelId::Rope, &params, &operands, &pool, &Undisturbed) }.unwrap();
    for (row, before) in turned.values.chunks(5_000).zip(a.values.chunks(5_000)) {
        for i in 0..2_000 {
            assert!((row[i] + before[i + 2_000]).abs() < 1e-6, "element {i}");
            assert!((row[i + 2_000] - before[i]).abs() < 1e-6, "element {i}");
        }
        assert_eq!(row[4_000..], before[4_000..]);
    }
}

/// Stops a kernel after so many questions.
struct Impatient(std::cell::Cell<u32>);

impl Pulse for Impatient {
    fn goes_on(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left > 0
    }

    fn is_wanted(&self) -> bool {
        true
    }

    fn let_go(&self) -> bool {
        true
    }
}

#[test]
fn a_kernel_that_is_stopped_says_so_and_one_that_lets_go_often_is_right() {
    let mut w = Dense::new([512, 4096, 1, 1], noise);
    let mut x = Dense::new([512, 40, 1, 1], noise);
    for threads in [1, 2] {
        let pool = Pool::new(threads);
        let mut dst = Dense::new([4096, 40, 1, 1], |_| f32::NAN);
        let stopped = Impatient(0.into());
        let operands = &mut [&mut dst, &mut w, &mut x];
        let ran = run(KernelId::MulMat, &[], operands, &pool, &stopped);
        assert_eq!(ran, Err(KernelError::Stopped), "{threads} threads");
        let patient = Impatient(u32::MAX.into());
        let mut often = Dense::new([4096, 40, 1, 1], |_| f32::NAN);
        let operands = &mut [&mut often, &mut w, &mut x];
        run(KernelId::MulMat, &[], operands, &pool, &patient).unwrap();
        let operands = &mut [&mut dst, &mut w, &mut x];
        run(KernelId::MulMat, &[], operands, &pool, &Undisturbed).unwrap();
        assert!(often.values == dst.values, "{threads} threads");
    }
}

#[test]
fn the_largest_of_a_long_row_is_found_in_any_strip() {
    let n = 100_000u32;
    for at in [0usize, 32_767, 32_768, 65_536, 99_999] {
        let mut src = Dense::new([n, 1, 1, 1], |i| if i >= at { 1.0 } else { f32::NAN });
        let mut index = [-1i32];
        let place: *mut u8 = index.as_mut_ptr().cast();
        let dst = Operand {
            base: place,
            address: place.addr() as u64,
            ty: DType::I32,
            ne: [1; 4],
            nb: [4; 4],
        };
        let operands = [dst, src.operand()];
        let pool = Pool::new(1);
        // SAFETY: whole vectors that live and are not touched meanwhile.
        unsafe { launch(KernelId::Argmax, &[0; 16], &operands, &pool, &Undisturbed) }.unwrap();
        assert_eq!(usize::try_from(index[0]).unwrap(), at);
    }
}
