//! A recorded graph: recorded and checked once, then run for each token by one packet with two values.

use std::time::Duration;

use jalapeno::hw::kernels::{DType, KernelId};
use jalapeno::hw::packets::{Parameters, Tensor};
use jalapeno::{
    Device, DeviceAddr, HostOptions, Place, QueueOptions, Result, Role, Session, discover,
};

/// Draws a token from `logits` for each of the `uniform` numbers, in units of 2^-32.
pub fn draw(device: &str, logits: &[f32], uniform: &[u32]) -> Result<Vec<i32>> {
    let device = Device::open(device, Role::Compute)?;
    let session = Session::new(&device)?;
    let mut queue = session.queue(QueueOptions::default())?;
    let (vocabulary, count) = (size(logits.len()), size(uniform.len()));
    let options = HostOptions::default;
    let source = session.host_memory(4 * u64::from(vocabulary.max(1)), options())?;
    let tokens = session.host_memory(4 * u64::from(count.max(1)), options())?;
    let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
    source.memory().write(0, &bytes)?;

    // SAMPLE: one of the 40 largest, at temperature 0.8, by the number in word 2.
    let mut parameters = Parameters::ZERO;
    parameters.word[..2].copy_from_slice(&[40, 0.8f32.to_bits()]);
    let to = row(tokens.address(), DType::I32, 1);
    let from = row(source.address(), DType::F32, vocabulary);
    let mut recorder = session.record()?;
    let step = recorder.launch(KernelId::Sample.code(), &parameters, &[to, from])?;
    // Value 0 moves the destination on by a token, value 1 is the number.
    recorder.patch(step, Place::Tensor(0), (0x00, 8), 0, 4)?;
    recorder.patch(step, Place::Parameters, (8, 4), 1, 1)?;
    // Here it is seen that no run can leave the buffers.
    let graph = recorder.finish(&[count.saturating_sub(1), u32::MAX])?;

    for (token, uniform) in (0..).zip(uniform) {
        let run = graph.replay(&mut queue, &[token, *uniform])?;
        queue
            .completions()
            .wait(run, Some(Duration::from_secs(5)))?;
    }
    let mut bytes = vec![0; 4 * uniform.len()];
    tokens.memory().read(0, &mut bytes)?;
    let (tokens, _) = bytes.as_chunks::<4>();
    Ok(tokens.iter().map(|it| i32::from_le_bytes(*it)).collect())
}

fn size(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// A tensor of one row.
fn row(at: DeviceAddr, dtype: DType, elements: u32) -> Tensor {
    let bytes = 4 * u64::from(elements);
    Tensor {
        address: at.0,
        dtype: dtype.code(),
        flags: 0,
        ne: [elements, 1, 1, 1],
        nb: [4, bytes, bytes, bytes],
    }
}

fn main() -> Result<()> {
    let logits = [1.0, 2.0, 0.5, 2.0, -1.0];
    let uniform = [0, 1 << 30, 2 << 30, 3 << 30, u32::MAX];
    println!("{:?}", draw(&discover::only()?, &logits, &uniform)?);
    Ok(())
}
