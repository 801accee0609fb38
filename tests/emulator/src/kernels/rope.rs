//! ROPE: rotary position embedding, normal and neox, with frequency factors and YaRN.

use super::tensor::{Operand, apart, scratch};
use super::{KernelError, Work, count};

const NORMAL: u32 = 0;
const NEOX: u32 = 2;

/// The parameter line.
struct Turn {
    dims: usize,
    mode: u32,
    original: f32,
    base: f32,
    scale: f32,
    extrapolation: f32,
    magnitude: f32,
    fast: f32,
    slow: f32,
}

impl Turn {
    #[expect(clippy::cast_precision_loss, reason = "a context's length")]
    fn parse(params: &[u32; 16], row: u32) -> Result<Self, KernelError> {
        let real = |word: usize| f32::from_bits(params[word]);
        let turn = Self {
            dims: params[0] as usize,
            mode: params[1],
            original: params[2] as f32,
            base: real(3),
            scale: real(4),
            extrapolation: real(5),
            magnitude: real(6),
            fast: real(7),
            slow: real(8),
        };
        if !params[0].is_multiple_of(2) || params[0] > row {
            return Err(KernelError::Parameter { word: 0 });
        }
        if turn.mode != NORMAL && turn.mode != NEOX {
            return Err(KernelError::Parameter { word: 1 });
        }
        if turn.base.is_nan() || turn.base <= 0.0 || turn.base.is_infinite() {
            return Err(KernelError::Parameter { word: 3 });
        }
        if let Some(word) = (4..9).find(|&word| !real(word).is_finite()) {
            return Err(KernelError::Parameter { word });
        }
        Ok(turn)
    }

    /// The dimension at which so many rotations fill the original context.
    #[expect(clippy::cast_precision_loss, reason = "a head's size")]
    fn correction(&self, rotations: f32) -> f32 {
        let dims = self.dims as f32;
        dims * (self.original / (rotations * 2.0 * std::f32::consts::PI)).ln()
            / (2.0 * self.base.ln())
    }

    /// Cosines and sines of one position, pair by pair.
    #[expect(
        clippy::cast_precision_loss,
        reason = "positions and pairs are far below 2^24"
    )]
    fn angles(&self, position: i64, factors: Option<&[f32]>, into: &mut [f32]) {
        let step = self.base.powf(-2.0 / self.dims as f32);
        let last = (self.dims - 1) as f32;
        let (low, high) = if self.extrapolation == 0.0 {
            (0.0, 0.0)
        } else {
            (
                self.correction(self.fast).floor().max(0.0),
                self.correction(self.slow).ceil().min(last),
            )
        };
        for (pair, out) in into.chunks_exact_mut(2).enumerate() {
            let factor = factors.map_or(1.0, |f| f[pair]);
            // Each angle from its own power: a product taken step by step would drift.
            let theta =
                position as f32 * step.powi(i32::try_from(pair).unwrap_or(i32::MAX)) / factor;
            let interpolated = self.scale * theta;
            let (mut angle, mut magnitude) = (interpolated, self.magnitude);
            if self.extrapolation != 0.0 {
                let ramp = 1.0 - ((pair as f32 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                let mix = ramp * self.extrapolation;
                angle = interpolated * (1.0 - mix) + theta * mix;
                magnitude *= 1.0 + 0.1 * (1.0 / self.scale).ln();
            }
            out[0] = angle.cos() * magnitude;
            out[1] = angle.sin() * magnitude;
        }
    }
}

/// dst[d, h, t, b] = src turned by positions[t].
pub fn run(params: &[u32; 16], operands: &[Operand]) -> Result<Work, KernelError> {
    count(operands, 3..=4)?;
    let [dst, src, positions] = [operands[0], operands[1], operands[2]];
    dst.real(0)?;
    src.real(1)?;
    positions.indices(2)?;
    src.like(1, &dst)?;
    positions.size(2, 0, src.ne[2])?;
    let turn = Turn::parse(params, src.ne[0])?;
    if let Some(factors) = operands.get(3) {
        factors.real(3)?;
        if (factors.ne[0] as usize) < turn.dims / 2 {
            return Err(KernelError::Shape {
                operand: 3,
                dimension: 0,
                found: factors.ne[0],
                wanted: params[0] / 2,
            });
        }
    }
    if dst.is_empty() {
        return Ok(Work::default());
    }
    apart(operands, true)?;
    let length = src.ne[0] as usize;
    let half = turn.dims / 2;
    scratch(length + 2 * turn.dims, |rows| {
        let (line, rest) = rows.split_at_mut(length);
        let (angles, factors) = rest.split_at_mut(turn.dims);
        let factors = &mut factors[..half];
        if let Some(operand) = operands.get(3) {
            operand.load([0; 3], factors);
        }
        for token in 0..src.ne[2] {
            let position = positions.index([0; 3], token);
            turn.angles(position, operands.get(3).map(|_| &*factors), angles);
            for batch in 0..src.ne[3] {
                for head in 0..src.ne[1] {
                    let row = [head, token, batch];
                    src.load(row, line);
                    for (pair, turned) in angles.chunks_exact(2).enumerate() {
                        let (a, b) = if turn.mode == NEOX {
                            (pair, pair + half)
                        } else {
                            (2 * pair, 2 * pair + 1)
                        };
                        let (x, y) = (line[a], line[b]);
                        line[a] = x * turned[0] - y * turned[1];
                        line[b] = x * turned[1] + y * turned[0];
                    }
                    dst.store(row, line);
                }
            }
        }
    });
    Ok(Work {
        operations: 3 * dst.elements(),
        bytes_read: operands[1..].iter().map(Operand::bytes).sum(),
        bytes_written: dst.bytes(),
    })
}
