//! ROPE: rotary position embedding by one position or by sections, with frequency factors and YaRN.

use super::pace::Pace;
use super::rules::{apart, count, present};
use super::tensor::{Operand, strips};
use super::{KernelError, Work};

const NORMAL: u32 = 0;
const NEOX: u32 = 2;
const SECTIONS: u32 = 8;
const VISION: u32 = 24;
const INTERLEAVED: u32 = 40;
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
    sections: [usize; 4],
    first: usize,
}

/// What a pair is turned by.
struct Pair {
    /// Angle for each position.
    step: f64,
    /// What YaRN leaves of it unscaled.
    mix: f64,
    /// Which of a token's positions.
    position: usize,
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
            sections: std::array::from_fn(|i| params[9 + i] as usize),
            first: params[13] as usize,
        };
        if turn.positions() == 1
            && let Some(word) = (9..13).find(|&word| params[word] != 0)
        {
            return Err(KernelError::Reserved { word });
        }
        let (row, whole) = (row as usize, turn.sections.iter().sum::<usize>());
        let sections = turn.positions() > 1 && (whole == turn.sections[3] || whole > row);
        let vision = turn.mode == VISION;
        let even = params[0].is_multiple_of(2);
        let yarn = turn.extrapolation != 0.0;
        let wrong = [
            (0, !even || params[0] == 0 || params[0] > DIMS_MOST),
            (0, turn.turned() > row || vision && turn.turned() < row),
            (
                1,
                ![NORMAL, NEOX, SECTIONS, VISION, INTERLEAVED].contains(&turn.mode),
            ),
            (2, yarn && params[2] == 0),
            (3, turn.base <= 0.0 || yarn && turn.base == 1.0),
            (4, yarn && turn.scale <= 0.0),
            (7, yarn && turn.fast <= 0.0),
            (8, yarn && turn.slow <= 0.0),
            (9, sections),
            (
                13,
                !turn.first.is_multiple_of(2) || turn.first + turn.turned() > row,
            ),
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

    /// Positions of a token.
    fn positions(&self) -> usize {
        if self.mode == NORMAL || self.mode == NEOX {
            1
        } else {
            4
        }
    }

    /// Elements of a row that are turned.
    fn turned(&self) -> usize {
        if self.mode == VISION {
            2 * self.dims
        } else {
            self.dims
        }
    }

    /// Which of a token's positions a pair takes, and its place in that one's frequencies.
    fn place(&self, pair: usize) -> (usize, usize) {
        if self.positions() == 1 {
            return (0, pair);
        }
        let [a, b, c, d] = self.sections;
        let at = pair % (a + b + c + d);
        if self.mode == INTERLEAVED {
            let turn = at % 3;
            return (
                if at < 3 * self.sections[turn] {
                    turn
                } else {
                    3
                },
                pair,
            );
        }
        let (position, begin) = if at < a {
            (0, 0)
        } else if at < a + b {
            (1, a)
        } else if at < a + b + c {
            (2, a + b)
        } else {
            (3, a + b + c)
        };
        (
            position,
            if self.mode == VISION {
                at - begin
            } else {
                pair
            },
        )
    }

    /// The dimension at which so many rotations fill the original context.
    fn correction(&self, rotations: f64) -> f64 {
        let dims = count_of(self.dims);
        dims * (self.original / (rotations * 2.0 * std::f64::consts::PI)).ln()
            / (2.0 * self.base.ln())
    }

    /// What each pair is turned by.
    fn pairs(&self, factors: Option<&[f32]>) -> Vec<Pair> {
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
            let (position, place) = self.place(pair);
            let exponent = -2.0 * count_of(place) / count_of(self.dims);
            let factor = factors.map_or(1.0, |factors| f64::from(factors[pair]));
            let ramp = 1.0 - ((count_of(pair) - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            Pair {
                step: self.base.powf(exponent) / factor,
                mix: ramp * self.extrapolation,
                position,
            }
        };
        (0..self.turned() / 2).map(pair).collect()
    }

    /// Cosines and sines of a token's positions, pair by pair.
    #[expect(
        clippy::cast_precision_loss,
        reason = "positions beyond 2^53 have no meaning"
    )]
    #[expect(clippy::cast_possible_truncation, reason = "rounding is meant")]
    fn angles(&self, positions: [i64; 4], pairs: &[Pair], into: &mut [f32]) {
        let mut magnitude = self.magnitude;
        if self.extrapolation != 0.0 {
            magnitude *= 1.0 + 0.1 * (1.0 / self.scale).ln();
        }
        for (pair, out) in pairs.iter().zip(into.chunks_exact_mut(2)) {
            let theta = positions[pair.position] as f64 * pair.step;
            let mut angle = self.scale * theta;
            if self.extrapolation != 0.0 {
                angle = angle * (1.0 - pair.mix) + theta * pair.mix;
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
    let turn = Turn::parse(params, src.ne[0])?;
    let all = src.ne[2].checked_mul(if turn.positions() == 1 { 1 } else { 4 });
    positions.size(2, 0, all.ok_or(src.shape(1, 2, u32::MAX / 4))?)?;
    (1..4).try_for_each(|d| positions.size(2, d, 1))?;
    let (turned, half) = (turn.turned(), turn.turned() / 2);
    if let Some(factors) = operands.get(3) {
        factors.real(3)?;
    }
    let factors = present(operands, 3);
    if let Some(factors) = factors {
        if factors.length() < half {
            let wanted = u32::try_from(half).unwrap_or(u32::MAX);
            return Err(factors.shape(3, 0, wanted));
        }
        (1..4).try_for_each(|d| factors.size(3, d, 1))?;
    }
    if dst.is_empty() {
        return Ok(Work::default());
    }
    apart(operands, true)?;
    let mut line = vec![0.0; turned.max(STRIP)];
    let pairs = match factors {
        None => turn.pairs(None),
        Some(factors) => {
            factors.load([0; 3], 0, &mut line[..half]);
            turn.pairs(Some(&line[..half]))
        }
    };
    let mut angles = vec![0.0; turned];
    for token in 0..src.ne[2] {
        let mut at = [0; 4];
        for (which, at) in at[..turn.positions()].iter_mut().enumerate() {
            let element = which * src.ne[2] as usize + token as usize;
            *at = positions.index([0; 3], element);
        }
        pace.spend(32 * half as u64)?;
        turn.angles(at, &pairs, &mut angles);
        for batch in 0..src.ne[3] {
            for head in 0..src.ne[1] {
                let row = [head, token, batch];
                pace.spend(16 + 2 * turned as u64)?;
                let piece = &mut line[..turned];
                src.load(row, turn.first, piece);
                rotate(piece, &angles, turn.mode != NORMAL);
                dst.store(row, turn.first, piece);
                let behind = turn.first + turned;
                for unturned in [0..turn.first, behind..src.length()] {
                    strips(unturned.len(), STRIP, |at, length| {
                        pace.spend(16 + 2 * length as u64)?;
                        src.load(row, unturned.start + at, &mut line[..length]);
                        dst.store(row, unturned.start + at, &line[..length]);
                        Ok(())
                    })?;
                }
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
