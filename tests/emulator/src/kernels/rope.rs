//! ROPE: rotary position embedding, normal and neox, with frequency factors and YaRN.

use super::pace::Pace;
use super::rules::{apart, count};
use super::tensor::{Operand, strips};
use super::{KernelError, Work};

const NORMAL: u32 = 0;
const NEOX: u32 = 2;
/// Most elements of a row that are turned.
const DIMS_MOST: u32 = 1 << 16;
/// Elements behind them handled at a time.
const STRIP: usize = 1024;

/// The parameter line. Angles are computed in f64: at far positions f32 would lose them.
struct Turn {
    dims: usize,
    mode: u32,
    original: f64,
    base: f64,
    scale: f64,
    extrapolation: f64,
    magnitude: f64,
    fast: f64,
    slow: f64,
}

impl Turn {
    fn parse(params: &[u32; 16], row: u32) -> Result<Self, KernelError> {
        let real = |word: usize| f64::from(f32::from_bits(params[word]));
        let turn = Self {
            dims: params[0] as usize,
            mode: params[1],
            original: f64::from(params[2]),
            base: real(3),
            scale: real(4),
            extrapolation: real(5),
            magnitude: real(6),
            fast: real(7),
            slow: real(8),
        };
        let even = params[0].is_multiple_of(2);
        let yarn = turn.extrapolation != 0.0;
        let wrong = [
            (0, !even || params[0] == 0 || params[0] > row.min(DIMS_MOST)),
            (1, turn.mode != NORMAL && turn.mode != NEOX),
            (2, yarn && params[2] == 0),
            (3, turn.base <= 0.0 || yarn && turn.base == 1.0),
            (4, yarn && turn.scale <= 0.0),
            (7, yarn && turn.fast <= 0.0),
            (8, yarn && turn.slow <= 0.0),
        ];
        let infinite = (3..9).find(|&word| !real(word).is_finite());
        match infinite.or_else(|| {
            wrong
                .iter()
                .find(|(_, wrong)| *wrong)
                .map(|(word, _)| *word)
        }) {
            Some(word) => Err(KernelError::Parameter { word }),
            None => Ok(turn),
        }
    }

    /// The dimension at which so many rotations fill the original context.
    fn correction(&self, rotations: f64) -> f64 {
        let dims = count_of(self.dims);
        dims * (self.original / (rotations * 2.0 * std::f64::consts::PI)).ln()
            / (2.0 * self.base.ln())
    }

    /// Of each pair: its turn per position, and what YaRN leaves of it unscaled.
    fn pairs(&self, factors: Option<&[f32]>) -> Vec<(f64, f64)> {
        let last = count_of(self.dims - 1);
        let (low, high) = if self.extrapolation == 0.0 {
            (0.0, 0.0)
        } else {
            (
                self.correction(self.fast).floor().max(0.0),
                self.correction(self.slow).ceil().min(last),
            )
        };
        let pair = |pair: usize| {
            let exponent = -2.0 * count_of(pair) / count_of(self.dims);
            let factor = factors.map_or(1.0, |factors| f64::from(factors[pair]));
            let ramp = 1.0 - ((count_of(pair) - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            (self.base.powf(exponent) / factor, ramp * self.extrapolation)
        };
        (0..self.dims / 2).map(pair).collect()
    }

    /// Cosines and sines of one position, pair by pair.
    #[expect(
        clippy::cast_precision_loss,
        reason = "positions beyond 2^53 have no meaning"
    )]
    #[expect(clippy::cast_possible_truncation, reason = "rounding is meant")]
    fn angles(&self, position: i64, pairs: &[(f64, f64)], into: &mut [f32]) {
        let mut magnitude = self.magnitude;
        if self.extrapolation != 0.0 {
            magnitude *= 1.0 + 0.1 * (1.0 / self.scale).ln();
        }
        for (&(step, mix), out) in pairs.iter().zip(into.chunks_exact_mut(2)) {
            let theta = position as f64 * step;
            let mut angle = self.scale * theta;
            if self.extrapolation != 0.0 {
                angle = angle * (1.0 - mix) + theta * mix;
            }
            let (sine, cosine) = angle.sin_cos();
            out[0] = (cosine * magnitude) as f32;
            out[1] = (sine * magnitude) as f32;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "at most 2^16")]
fn count_of(dims: usize) -> f64 {
    dims as f64
}

/// dst[d, h, t, b] = src turned by positions[t].
pub fn run(params: &[u32; 16], operands: &[Operand], pace: &Pace<'_>) -> Result<Work, KernelError> {
    count(operands, 3..=4)?;
    let [dst, src, positions] = [operands[0], operands[1], operands[2]];
    dst.real(0)?;
    src.real(1)?;
    positions.indices(2)?;
    src.like(1, &dst)?;
    positions.size(2, 0, src.ne[2])?;
    (1..4).try_for_each(|d| positions.size(2, d, 1))?;
    let turn = Turn::parse(params, src.ne[0])?;
    let half = turn.dims / 2;
    let factors = operands.get(3);
    if let Some(factors) = factors {
        factors.real(3)?;
        if factors.length() < half {
            return Err(factors.shape(3, 0, params[0] / 2));
        }
        (1..4).try_for_each(|d| factors.size(3, d, 1))?;
    }
    if dst.is_empty() {
        return Ok(Work::default());
    }
    apart(operands, true)?;
    let mut line = vec![0.0; turn.dims.max(STRIP)];
    let pairs = match factors {
        None => turn.pairs(None),
        Some(factors) => {
            factors.load([0; 3], 0, &mut line[..half]);
            turn.pairs(Some(&line[..half]))
        }
    };
    let mut angles = vec![0.0; turn.dims];
    for token in 0..src.ne[2] {
        let position = positions.index([0; 3], token as usize);
        pace.spend(32 * half as u64)?;
        turn.angles(position, &pairs, &mut angles);
        for batch in 0..src.ne[3] {
            for head in 0..src.ne[1] {
                let row = [head, token, batch];
                pace.spend(16 + 2 * turn.dims as u64)?;
                src.load(row, 0, &mut line[..turn.dims]);
                rotate(&mut line[..turn.dims], &angles, turn.mode == NEOX);
                dst.store(row, 0, &line[..turn.dims]);
                strips(src.length() - turn.dims, STRIP, |first, length| {
                    pace.spend(16 + 2 * length as u64)?;
                    src.load(row, turn.dims + first, &mut line[..length]);
                    dst.store(row, turn.dims + first, &line[..length]);
                    Ok(())
                })?;
            }
        }
    }
    Ok(Work {
        operations: 3 * dst.elements(),
        bytes_read: operands[1..].iter().map(Operand::bytes).sum(),
        bytes_written: dst.bytes(),
    })
}

fn rotate(line: &mut [f32], angles: &[f32], neox: bool) {
    let half = line.len() / 2;
    for (pair, turned) in angles.chunks_exact(2).enumerate() {
        let (a, b) = if neox {
            (pair, pair + half)
        } else {
            (2 * pair, 2 * pair + 1)
        };
        let (x, y) = (line[a], line[b]);
        line[a] = x * turned[0] - y * turned[1];
        line[b] = x * turned[1] + y * turned[0];
    }
}
