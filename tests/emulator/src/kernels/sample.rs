//! SAMPLE: a token drawn from each row's largest logits.

use jalapeno_hw::kernels::DType;

use super::order::{Keys, MOST, Order, STRIP};
use super::pace::Pace;
use super::rules::{apart, count};
use super::tensor::Operand;
use super::{KernelError, Work};

/// dst = an index of each row: of the word 0 largest, at temperature word 1, by the number word 2.
pub fn run(params: &[u32; 16], operands: &[Operand], pace: &Pace<'_>) -> Result<Work, KernelError> {
    count(operands, 2..=2)?;
    let [dst, src] = [operands[0], operands[1]];
    if dst.ty != DType::I32 {
        return Err(KernelError::Type { operand: 0 });
    }
    src.real(1)?;
    let temperature = f64::from(f32::from_bits(params[1]));
    let wrong = [
        (0, params[0] == 0),
        (1, !temperature.is_finite() || temperature < 0.0),
    ];
    if let Some(&(word, _)) = wrong.iter().find(|(_, wrong)| *wrong) {
        return Err(KernelError::Parameter { word });
    }
    (0..3).try_for_each(|d| src.size(1, d + 1, dst.ne[d]))?;
    dst.size(0, 3, 1)?;
    if dst.is_empty() {
        return Ok(Work::default());
    }
    if src.ne[0] == 0 || src.ne[0] > MOST {
        return Err(src.shape(1, 0, MOST));
    }
    apart(operands, false)?;
    let most = params[0].min(src.ne[0]) as usize;
    let point = f64::from(params[2]) / 4_294_967_296.0;
    let mut keys = Keys::new(Order::Descending);
    let mut drawing = Drawing::default();
    for at in 0..src.rows() {
        let row = src.row(at);
        let first = if temperature == 0.0 { 1 } else { most };
        let logits = keys.sorted(&src, row, first, pace)?;
        let index = drawing.draw(logits, temperature, point, pace)?;
        dst.put_index([row[1], row[2], 0], row[0] as usize, index);
    }
    let steps = u64::from(src.ne[0].ilog2()) + 1;
    Ok(Work {
        operations: src.elements() * steps + 4 * (most * src.rows()) as u64,
        bytes_read: src.bytes(),
        bytes_written: dst.bytes(),
    })
}

/// The row that is drawn from: indices, and the sums of their weights so far.
#[derive(Default)]
struct Drawing {
    indices: Vec<u32>,
    sums: Vec<f64>,
}

impl Drawing {
    /// The index whose share of all weights has the point, 0 to 1, in it.
    fn draw(
        &mut self,
        logits: impl Iterator<Item = (u32, f32)>,
        temperature: f64,
        point: f64,
        pace: &Pace<'_>,
    ) -> Result<u32, KernelError> {
        self.indices.clear();
        self.sums.clear();
        let (mut top, mut sum) = (f32::NAN, 0.0);
        for (index, x) in logits {
            if self.indices.len().is_multiple_of(STRIP) {
                pace.spend(16 * STRIP as u64)?;
            }
            if self.indices.is_empty() {
                top = x;
            }
            // NaN come last. The greatest counts 1, also where it is infinite.
            if x.is_nan() {
                break;
            }
            sum += if x == top {
                1.0
            } else {
                ((f64::from(x) - f64::from(top)) / temperature).exp()
            };
            self.indices.push(index);
            self.sums.push(sum);
        }
        let place = self.sums.partition_point(|&below| below <= point * sum);
        Ok(self.indices.get(place).copied().unwrap_or(0))
    }
}
