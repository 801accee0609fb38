//! A kernel vector: operands, parameters and what must come of them. Format: tests/vectors/README.md.

use std::path::Path;

/// A strided view of a buffer.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub buffer: usize,
    pub dtype: u32,
    pub ne: [u32; 4],
    pub nb: [u64; 4],
    pub offset: u64,
}

impl View {
    /// Offsets of its elements (or blocks) in logical order.
    pub fn offsets(&self) -> Vec<u64> {
        let mut all = Vec::new();
        let [n0, n1, n2, n3] = self.ne.map(u64::from);
        let n0 = match self.dtype {
            2 | 8 => n0 / 32,
            12 | 14 => n0 / 256,
            _ => n0,
        };
        for i3 in 0..n3 {
            for i2 in 0..n2 {
                for i1 in 0..n1 {
                    for i0 in 0..n0 {
                        let steps = [i0, i1, i2, i3].into_iter().zip(self.nb);
                        all.push(self.offset + steps.map(|(i, nb)| i * nb).sum::<u64>());
                    }
                }
            }
        }
        all
    }

    pub fn element_bytes(&self) -> usize {
        match self.dtype {
            1 | 30 => 2,
            0 | 26 => 4,
            2 => 18,
            8 => 34,
            12 => 144,
            14 => 210,
            _ => 8,
        }
    }
}

/// What must come of a case.
#[derive(Clone, Debug)]
pub enum Expected {
    /// Each element within a distance of a value.
    Near(Vec<f64>, Vec<f32>),
    /// Each element these bytes.
    Exact(Vec<u8>),
    /// A fault code, and the operand plus 1 (0: not said).
    Refused(u32, u32),
}

#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub kernel: u32,
    pub launch_only: bool,
    pub params: [u32; 16],
    pub operands: Vec<View>,
    pub buffers: Vec<Vec<u8>>,
    pub expected: Expected,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        head
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }
}

/// All cases of a file.
pub fn read(file: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../vectors")
        .join(file);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = Reader(&bytes);
    assert_eq!(reader.take(8), b"JALPKVEC", "{file}");
    assert_eq!(reader.word(), 1, "{file}: the format's version");
    let count = reader.word();
    let cases: Vec<Case> = (0..count)
        .map(|_| {
            let length = u32::from_le_bytes(reader.0[..4].try_into().unwrap());
            one(reader.take(length as usize))
        })
        .collect();
    assert!(reader.0.is_empty(), "{file}: bytes behind the last case");
    cases
}

fn one(record: &[u8]) -> Case {
    let mut reader = Reader(record);
    let [_, kernel, operands, buffers, kind, flags] = std::array::from_fn(|_| reader.word());
    let elements = usize::try_from(reader.long()).unwrap();
    let name = String::from_utf8(reader.take(32).to_vec()).unwrap();
    let params = std::array::from_fn(|_| reader.word());
    let operands = (0..operands)
        .map(|_| View {
            buffer: reader.word() as usize,
            dtype: reader.word(),
            ne: std::array::from_fn(|_| reader.word()),
            nb: std::array::from_fn(|_| reader.long()),
            offset: reader.long(),
        })
        .collect();
    let buffers = (0..buffers)
        .map(|_| {
            let length = reader.long();
            let bytes = usize::try_from(length & !(1 << 63)).unwrap();
            if length >> 63 == 1 {
                (0..bytes).map(|i| (37 * i + 11).to_le_bytes()[0]).collect()
            } else {
                reader.take(bytes.next_multiple_of(8))[..bytes].to_vec()
            }
        })
        .collect();
    let expected = match kind {
        0 => Expected::Near(
            (0..elements)
                .map(|_| f64::from_bits(reader.long()))
                .collect(),
            (0..elements)
                .map(|_| f32::from_bits(reader.word()))
                .collect(),
        ),
        1 => Expected::Exact(reader.0.to_vec()),
        2 => Expected::Refused(reader.word(), reader.word()),
        _ => panic!("{name}: expectation {kind}"),
    };
    Case {
        name: name.trim_end_matches('\0').to_owned(),
        kernel,
        launch_only: flags & 1 != 0,
        params,
        operands,
        buffers,
        expected,
    }
}
