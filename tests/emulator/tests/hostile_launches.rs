//! Launches of any shape: whatever a descriptor says, nothing outside its destination is written.

mod bench_top;

use bench_top::{Bench, DATA, HBM, MIB, STOPPED, copy, packet};

/// The memory that operands lie in.
const BYTES: u64 = 32 << 10;
const STAGE: u64 = DATA + 16 * MIB;
const BACK: u64 = DATA + 17 * MIB;

/// Numbers that look like none in particular, the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.roll(all.len() as u64)).unwrap()]
    }
}

/// A descriptor: mostly sensible, sometimes not.
struct View {
    address: u64,
    dtype: u32,
    ne: [u32; 4],
    nb: [u64; 4],
}

impl View {
    fn new(dice: &mut Dice, place: u64, dtype: u32, sizes: [u32; 4]) -> Self {
        let odd = dice.of(&[0, 1, 30, 26, 27, 8]);
        let dtype = if dice.roll(12) == 0 { odd } else { dtype };
        let size = match dtype {
            1 | 30 => 2,
            27 => 8,
            _ => 4,
        };
        let mut ne = sizes;
        if dice.roll(12) == 0 {
            let at = usize::try_from(dice.roll(4)).unwrap();
            ne[at] = dice.of(&[0, 1, 2, 3, 8, 17, u32::MAX]);
        }
        let mut nb = [size; 4];
        for d in 1..4 {
            nb[d] = nb[d - 1] * u64::from(ne[d - 1]).clamp(1, 64);
        }
        if dice.roll(10) == 0 {
            let at = usize::try_from(dice.roll(4)).unwrap();
            nb[at] = dice.of(&[0, 1, 2, 4, 6, 8, 64, 1 << 14, 1 << 40, 1 << 62, u64::MAX]);
        }
        if dice.roll(10) == 0 {
            nb.swap(0, 1);
        }
        let anywhere = dice.roll(BYTES);
        let offset = match dice.roll(12) {
            0 => anywhere,
            1 => anywhere & !7,
            _ => place * (BYTES / 5),
        };
        let base = if dice.roll(20) == 0 { 0 } else { HBM };
        let address = base + (offset & !7 | offset & u64::from(dice.roll(40) == 0));
        Self {
            address,
            dtype,
            ne,
            nb,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.address.to_le_bytes().to_vec();
        bytes.extend(self.dtype.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.ne.iter().flat_map(|n| n.to_le_bytes()));
        bytes.extend(self.nb.iter().flat_map(|n| n.to_le_bytes()));
        bytes
    }

    /// Whether a byte of the memory lies in an element.
    fn has(&self, offset: u64) -> bool {
        let size = if matches!(self.dtype, 1 | 30) { 2 } else { 4 };
        let [n0, n1, n2, n3] = self.ne.map(u64::from);
        let starts = (0..n3).flat_map(|l| {
            (0..n2).flat_map(move |k| (0..n1).flat_map(move |j| (0..n0).map(move |i| [i, j, k, l])))
        });
        starts
            .map(|at| at.iter().zip(self.nb).map(|(i, nb)| i * nb).sum::<u64>())
            .map(|start| self.address - HBM + start)
            .any(|start| (start..start + size).contains(&offset))
    }
}

/// Operands that mostly fit a kernel.
fn operands(dice: &mut Dice, kernel: u64, sizes: [u32; 4]) -> Vec<View> {
    let [n, a, b, c] = sizes;
    let shapes = match kernel {
        1 | 2 => vec![sizes, sizes, [a, b, c, 1]],
        3 => vec![[a, b, c, 1], [n, a, 1, 1], [n, b, c, 1]],
        5 => vec![sizes, sizes, [b, 1, 1, 1]],
        7 | 8 | 11 => vec![sizes, sizes, sizes],
        13 => vec![[a, b, c, 1], sizes],
        _ => vec![sizes, sizes],
    };
    let mut views: Vec<View> = (0..)
        .zip(shapes)
        .map(|(place, shape)| {
            let index = (place == 2 && matches!(kernel, 1 | 2 | 5)) || (place == 0 && kernel == 13);
            let dtype = if index { 26 } else { dice.of(&[0, 0, 1, 30]) };
            View::new(dice, place, dtype, shape)
        })
        .collect();
    match dice.roll(20) {
        0 => drop(views.pop()),
        1 => views.push(View::new(dice, 4, 0, sizes)),
        _ => {}
    }
    views
}

#[test]
fn four_thousand_launches_write_nothing_but_their_destinations() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    let mut dice = Dice(0x5EED_CAFE);
    // Indices and floats that are small: many launches must succeed.
    let image: Vec<u8> = (0..BYTES / 8).flat_map(|i| (i % 3).to_le_bytes()).collect();
    bench.put(STAGE, &image);
    let (mut done, mut refused) = ([0u32; 14], [0u32; 14]);
    for round in 0..4000 {
        bench.run(&mut zero, copy(STAGE, HBM, BYTES));
        let kernel = 1 + dice.roll(13);
        let sizes = std::array::from_fn(|_| dice.of(&[1, 1, 2, 3, 4, 8]));
        let views = operands(&mut dice, kernel, sizes);
        let mut words = [0u32; 16];
        if matches!(kernel, 4 | 5 | 6 | 9 | 11) {
            words[0] = dice.of(&[0, 1, 2, 2, 4, 1f32.to_bits(), u32::MAX]);
        }
        if kernel == 5 {
            words[0] = dice.of(&[2, 2, 2, 4, 0]);
            words[1] = dice.of(&[0, 0, 2, 2, 2, 1]);
            words[2] = dice.of(&[100, 100, 0]);
            let real: &[f32] = match dice.roll(3) {
                0 => &[1.0, 2.0, 0.0, -1.0, f32::NAN],
                _ => &[1.0, 2.0, 10_000.0],
            };
            words[3..9].fill_with(|| dice.of(real).to_bits());
        }
        let mut block: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        views.iter().for_each(|view| block.extend(view.bytes()));
        bench.put(DATA, &block);
        let mut launch = packet(8, kernel, [DATA, block.len() as u64, 0, 0, 0]);
        launch[2] = bench.read64(0x038) + 100_000_000;
        let sequence = bench.submit(&mut zero, launch);
        bench.until("the launch ends", || {
            let seen = bench.completion(&zero);
            seen == sequence || seen & STOPPED != 0
        });
        let mut failed = bench.completion(&zero) != sequence;
        let slot = usize::try_from(kernel).unwrap();
        if failed {
            let records = (0..4).map(|slot| bench.record(&zero, slot));
            let record = records.max_by_key(|record| record.sequence).unwrap();
            let class = record.code >> 8;
            assert!(matches!(class, 1..=3), "{round}: {record:#x?}");
            assert_ne!(record.code, 0x0302, "{round}: the emulator's own fault");
            bench.resume(&zero, sequence + 1);
            bench.wait(&zero, sequence);
            refused[slot] += 1;
            // One that ran too long has begun to write.
            failed = record.code != 0x0301;
        } else {
            done[slot] += 1;
        }
        bench.run(&mut zero, copy(HBM, BACK, BYTES));
        let after = bench.bytes(BACK, image.len());
        for (at, (old, new)) in (0u64..).zip(image.iter().zip(&after)) {
            let mine = old == new || !failed && views[0].has(at);
            assert!(
                mine,
                "{round}: kernel {kernel} wrote byte {at}, failed: {failed}"
            );
        }
    }
    println!("done {done:?}, refused {refused:?}");
    assert!(done[1..].iter().all(|&count| count > 15), "{done:?}");
    assert!(refused[1..].iter().all(|&count| count > 20), "{refused:?}");
}
