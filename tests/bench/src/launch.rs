//! A MUL_MAT of f32 in device memory, as a LAUNCH: its operands, filled, and its packet.

use jalapeno::hw::kernels::{DType, KernelId};
use jalapeno::hw::packets::{Opcode, Packet, header};
use jalapeno::{DeviceBuffer, HostBuffer, HostOptions, Session, Transfer};

/// Bytes of Parameters and of each Tensor.
const LINE: usize = 64;

/// The operands of a product: m x k weights by k x n activations.
#[derive(Debug)]
pub struct MulMat {
    result: DeviceBuffer,
    /// They are named by the block.
    _sources: [DeviceBuffer; 2],
    block: HostBuffer,
    shape: [usize; 3],
    /// The activations, and one row of weights.
    known: [Vec<f32>; 2],
}

/// Small numbers from a seed, as peers make them.
pub fn numbers(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap_or(0)) / 65_536.0 - 0.5
    };
    std::iter::repeat_with(&mut next).take(count).collect()
}

impl MulMat {
    /// Makes and fills the operands.
    pub fn new(session: &Session, [m, n, k]: [usize; 3]) -> Result<Self, String> {
        let failed = |error: jalapeno::Error| format!("make operands: {error}");
        let mut transfer = Transfer::new(session).map_err(failed)?;
        let mut made = |seed, count: usize| {
            let values = numbers(seed, count);
            let bytes: Vec<u8> = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            let buffer = session.device_memory(bytes.len() as u64)?;
            transfer.write(buffer.address(), &bytes)?;
            Ok::<_, jalapeno::Error>((buffer, values))
        };
        let (weights, mut row) = made(1, m * k).map_err(failed)?;
        let (activations, known) = made(2, n * k).map_err(failed)?;
        row.truncate(k);
        let result = session.device_memory(4 * (m * n) as u64).map_err(failed)?;
        let options = HostOptions::default();
        let block = session
            .host_memory(4 * LINE as u64, options)
            .map_err(failed)?;
        let operands = [
            (&result, [m, n]),
            (&weights, [k, m]),
            (&activations, [k, n]),
        ];
        let mut bytes = vec![0; LINE];
        for (buffer, [columns, rows]) in operands {
            bytes.extend(buffer.address().0.to_le_bytes());
            bytes.extend(DType::F32.code().to_le_bytes());
            bytes.extend(0u32.to_le_bytes());
            for size in [columns, rows, 1, 1] {
                bytes.extend(
                    u32::try_from(size)
                        .map_err(|e| e.to_string())?
                        .to_le_bytes(),
                );
            }
            let (row, all) = (4 * columns as u64, 4 * (columns * rows) as u64);
            for stride in [4, row, all, all] {
                bytes.extend(stride.to_le_bytes());
            }
        }
        block.memory().write(0, &bytes).map_err(failed)?;
        Ok(Self {
            result,
            _sources: [weights, activations],
            block,
            shape: [m, n, k],
            known: [known, row],
        })
    }

    /// Its packet.
    pub fn packet(&self) -> Packet {
        Packet {
            header: header(Opcode::Launch, KernelId::MulMat.code()),
            cookie: 0,
            deadline: 0,
            body: [self.block.address().0, 4 * LINE as u64, 0, 0, 0],
        }
    }

    /// Floating point operations of a product.
    pub fn operations(&self) -> f64 {
        2.0 * self.shape.iter().map(|&size| size as f64).product::<f64>()
    }

    /// Whether the results of the first row of weights are right.
    pub fn check(&self, session: &Session) -> Result<(), String> {
        let [m, n, k] = self.shape;
        let failed = |error: jalapeno::Error| format!("read a product: {error}");
        let mut transfer = Transfer::new(session).map_err(failed)?;
        let mut bytes = vec![0; 4 * m * n];
        let from = self.result.address();
        transfer.read(from, &mut bytes).map_err(failed)?;
        let [x, row] = &self.known;
        for (column, x) in x.chunks_exact(k).enumerate() {
            let products = row
                .iter()
                .zip(x)
                .map(|(w, x)| f64::from(*w) * f64::from(*x));
            let (sum, all) = products.fold((0.0, 0.0), |(sum, all), it| (sum + it, all + it.abs()));
            let at = 4 * m * column;
            let found = bytes[at..]
                .first_chunk()
                .map_or(f32::NAN, |it| f32::from_le_bytes(*it));
            let room = k as f64 * f64::from(f32::EPSILON) * all;
            if (f64::from(found) - sum).abs() > room || found.is_nan() {
                return Err(format!("column {column}: {found}, and {sum} is right"));
            }
        }
        Ok(())
    }
}
