//! Launches of any shape: whatever a descriptor says, nothing outside its destination is written.

mod bench_top;

use bench_top::{Bench, DATA, HBM, MIB, STOPPED, copy, packet};

/// The memory that operands lie in.
const BYTES: u64 = 32 << 10;
const STAGE: u64 = DATA + 16 * MIB;
const BACK: u64 = DATA + 17 * MIB;

/// The kernels that there are.
const KERNELS: [u64; 23] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24,
];

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

/// Elements and bytes of a type's block.
fn block(dtype: u32) -> (u32, u64) {
    match dtype {
        1 | 30 => (1, 2),
        2 => (32, 18),
        8 => (32, 34),
        12 => (256, 144),
        14 => (256, 210),
        27 => (1, 8),
        _ => (1, 4),
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
        let odd = dice.of(&[0, 1, 30, 26, 27, 8, 2, 12, 14, 31]);
        let dtype = if dice.roll(16) == 0 { odd } else { dtype };
        let (elements, size) = block(dtype);
        let mut ne = sizes;
        if dice.roll(12) == 0 {
            let at = usize::try_from(dice.roll(4)).unwrap();
            ne[at] = dice.of(&[0, 1, 2, 3, 8, 17, 32, u32::MAX]);
        }
        if dice.roll(40) == 0 {
            // Nothing, in sizes whose product has no room.
            ne = [u32::MAX; 4];
            ne[usize::try_from(dice.roll(4)).unwrap()] = 0;
        }
        let mut nb = [size; 4];
        for d in 1..4 {
            let count = ne[d - 1] / if d == 1 { elements } else { 1 };
            nb[d] = nb[d - 1] * u64::from(count).clamp(1, 256);
        }
        if dice.roll(12) == 0 {
            let at = usize::try_from(dice.roll(4)).unwrap();
            nb[at] = dice.of(&[0, 1, 2, 4, 6, 8, 64, 1 << 14, 1 << 40, 1 << 62, u64::MAX]);
        }
        if dice.roll(12) == 0 {
            nb.swap(0, 1);
        }
        let anywhere = dice.roll(BYTES);
        let offset = match dice.roll(14) {
            0 => anywhere,
            1 => anywhere & !7,
            // Sources may share a place.
            _ if place == 0 => 0,
            _ => (1 + (place - 1) % 4) * (BYTES / 5),
        };
        let base = if dice.roll(24) == 0 { 0 } else { HBM };
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

    /// Which bytes of the memory lie in an element. HBM goes on behind it, and so may a destination.
    fn bytes_of_elements(&self) -> Vec<bool> {
        let mut mine = vec![false; usize::try_from(BYTES).unwrap()];
        if self.ne.contains(&0) {
            return mine;
        }
        let (elements, size) = block(self.dtype);
        let [n0, n1, n2, n3] = self.ne.map(u64::from);
        let n0 = n0 / u64::from(elements);
        let starts = (0..n3).flat_map(|l| {
            (0..n2).flat_map(move |k| (0..n1).flat_map(move |j| (0..n0).map(move |i| [i, j, k, l])))
        });
        for at in starts {
            let start: u64 = at.iter().zip(self.nb).map(|(i, nb)| i * nb).sum();
            let start = usize::try_from(self.address - HBM + start).unwrap();
            let end = start + usize::try_from(size).unwrap();
            mine.iter_mut()
                .take(end)
                .skip(start)
                .for_each(|it| *it = true);
        }
        mine
    }
}

/// Types of real numbers, and those of weights.
const REAL: [u32; 4] = [0, 0, 1, 30];
const WEIGHTS: [u32; 8] = [0, 1, 30, 2, 8, 12, 14, 8];

/// Types and shapes that fit a kernel; the first is the destination's.
fn shapes(dice: &mut Dice, kernel: u64) -> Vec<(u32, [u32; 4])> {
    let [n, a, b, c] = std::array::from_fn(|_| dice.of(&[1, 1, 2, 3, 4, 8]));
    let small = [1, 1, 2, 3];
    let (some, few) = (dice.of(&small), dice.of(&small));
    let (real, other, third) = (dice.of(&REAL), dice.of(&REAL), dice.of(&REAL));
    let index = dice.of(&[26, 26, 27]);
    let weights = dice.of(&WEIGHTS);
    let whole = |dtype| if block(dtype).0 > 1 { 256 } else { n };
    let k = whole(weights);
    let same = [n, a, b, c];
    match kernel {
        1 => vec![
            (real, [k, some, few, 1]),
            (weights, [k, 3, few, 1]),
            (index, [some, few, 1, 1]),
        ],
        2 => {
            let dtype = dice.of(&[0, 1, 30, 8, 2]);
            let k = whole(dtype);
            vec![
                (dtype, [k, 3, few, 1]),
                (real, [k, some, few, 1]),
                (index, [some, few, 1, 1]),
            ]
        }
        3 => vec![
            (real, [a, some, few, 1]),
            (weights, [k, a, 1, 1]),
            (other, [k, some, few, 1]),
        ],
        5 => vec![(real, same), (other, same), (index, [b, 1, 1, 1])],
        6 => vec![
            (real, same),
            (other, same),
            (third, [n, a, 1, 1]),
            (0, [b, 1, 1, 1]),
        ],
        7 | 8 | 19 | 21 => vec![(real, same), (other, same), (third, [n, 1, b, 1])],
        11 | 14 => vec![(real, same), (other, same), (third, same)],
        12 => {
            let (from, to) =
                dice.of(&[(0, 8), (1, 2), (12, 0), (14, 1), (0, 26), (27, 27), (0, 30)]);
            let shape = [256, some, few, 1];
            vec![(to, shape), (from, shape)]
        }
        13 | 23 => vec![(26, [a, b, c, 1]), (real, same)],
        15 => vec![
            (real, [a, some, few, 1]),
            (weights, [k, a, 3, 1]),
            (other, [k, dice.of(&[1, some]), few, 1]),
            (index, [some, few, 1, 1]),
        ],
        16 => vec![(26, same), (real, same)],
        17 => vec![(26, [n.min(2), a, b, c]), (real, same)],
        18 => vec![(real, [1, a, b, c]), (other, same)],
        20 => {
            let (d, v) = (k, whole(third));
            let mut all = vec![
                (real, [v, some, 2, few]),
                (other, [d, some, 2, few]),
                (weights, [d, 6, 1, 1]),
                (third, [v, 6, 2, 1]),
                (other, [6, some, 1, 1]),
                (0, [2, 1, 1, 1]),
                (index, [3, few, 1, 1]),
                (index, [few, 1, 1, 1]),
            ];
            all.truncate(dice.of(&[4, 5, 6, 8]));
            all
        }
        _ => vec![(real, same), (other, same)],
    }
}

/// Operands that mostly fit a kernel.
fn operands(dice: &mut Dice, kernel: u64) -> Vec<View> {
    let shapes = shapes(dice, kernel);
    let last = shapes.last().map_or([1; 4], |it| it.1);
    let mut views: Vec<View> = (0..)
        .zip(shapes)
        .map(|(place, (dtype, shape))| View::new(dice, place, dtype, shape))
        .collect();
    match dice.roll(20) {
        0 => drop(views.pop()),
        1 => views.push(View::new(dice, 4, 0, last)),
        _ => {}
    }
    views
}

/// Parameters that mostly fit a kernel.
fn parameters(dice: &mut Dice, kernel: u64, operands: usize) -> [u32; 16] {
    let mut words = [0u32; 16];
    let one = 1f32.to_bits();
    match kernel {
        4 | 9 | 11 | 14 => words[0] = dice.of(&[0, 1, 2, 2, 4, one, u32::MAX]),
        5 => {
            words[0] = dice.of(&[2, 2, 2, 4, 0]);
            words[1] = dice.of(&[0, 0, 2, 2, 2, 1]);
            words[2] = dice.of(&[100, 100, 0]);
            let real: &[f32] = match dice.roll(3) {
                0 => &[1.0, 2.0, 0.0, -1.0, f32::NAN],
                _ => &[1.0, 2.0, 10_000.0],
            };
            words[3..9].fill_with(|| dice.of(real).to_bits());
        }
        6 => {
            words[0] = dice.of(&[one, one, 0, u32::MAX]);
            words[1] = dice.of(&[0, one, 0, u32::MAX]);
        }
        16 => words[0] = dice.of(&[0, 1, 1, 2]),
        20 => {
            words[0] = dice.of(&[one, one, one, one, u32::MAX]);
            words[1] = if operands > 4 { dice.of(&[0, one]) } else { 0 };
            words[2] = dice.of(&[0, 0, one]);
            if operands > 6 {
                words[3] = dice.of(&[2, 2, 2, 1, 0, u32::MAX]);
                words[4] = dice.of(&[6, 5, 2, 2, 0, u32::MAX]);
            }
            words[5] = dice.of(&[0, 1, 0, 1, 0, 1, 2]);
        }
        23 => {
            words[0] = dice.of(&[1, 2, 40, u32::MAX, 0]);
            words[1] = dice.of(&[0, one, one, 1, u32::MAX]);
            words[2] = dice.of(&[0, 1 << 31, u32::MAX]);
        }
        24 => {
            let bounds = [-1.0, 0.0, 0.5, f32::INFINITY, f32::NAN].map(f32::to_bits);
            words[..2].fill_with(|| dice.of(&bounds));
        }
        _ => {}
    }
    if dice.roll(60) == 0 {
        words[15] = 1;
    }
    words
}

#[test]
fn eight_thousand_launches_write_nothing_but_their_destinations() {
    let bench = Bench::new();
    let mut zero = bench.queue_zero(6);
    let mut dice = Dice(0x5EED_CAFE);
    // Indices and floats that are small: many launches must succeed.
    let image: Vec<u8> = (0..BYTES / 8).flat_map(|i| (i % 3).to_le_bytes()).collect();
    bench.put(STAGE, &image);
    let (mut done, mut refused) = ([0u32; KERNELS.len()], [0u32; KERNELS.len()]);
    for round in 0..8000 {
        bench.run(&mut zero, copy(STAGE, HBM, BYTES));
        let slot = usize::try_from(dice.roll(KERNELS.len() as u64)).unwrap();
        let kernel = KERNELS[slot];
        let views = operands(&mut dice, kernel);
        let words = parameters(&mut dice, kernel, views.len());
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
        let mine = (!failed).then(|| views[0].bytes_of_elements());
        for (at, (old, new)) in (0usize..).zip(image.iter().zip(&after)) {
            assert!(
                old == new || mine.as_ref().is_some_and(|mine| mine[at]),
                "{round}: kernel {kernel} wrote byte {at}, failed: {failed}"
            );
        }
    }
    let told = KERNELS.iter().zip(done.iter().zip(refused));
    for (kernel, (&done, refused)) in told {
        println!("kernel {kernel}: {done} done, {refused} refused");
        assert!(done > 20, "kernel {kernel}: only {done} ran");
        assert!(refused > 20, "kernel {kernel}: only {refused} were refused");
    }
}
