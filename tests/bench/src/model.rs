//! A model to decode with: a llama's shape, random weights from a seed, as GGUF.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::bench::{Bench, failed};
use crate::llama::Llama;

const LAYERS: u32 = 6;
const WIDTH: u64 = 2048;
const HEADS: u32 = 32;
const KEY_HEADS: u32 = 4;
const KEYS: u64 = WIDTH / HEADS as u64 * KEY_HEADS as u64;
const INNER: u64 = 5632;
const WORDS: u64 = 32_000;
const CONTEXT: u32 = 2048;
/// GGUF's default.
const ALIGNMENT: usize = 32;
/// Bytes of a file at least.
const LEAST: u64 = 200 << 20;

/// A tensor's name and sizes, the row first.
struct Tensor {
    name: String,
    sizes: Vec<u64>,
}

fn tensors() -> Vec<Tensor> {
    let tensor = |name: &str, sizes: &[u64]| Tensor {
        name: format!("{name}.weight"),
        sizes: sizes.into(),
    };
    let mut all = vec![
        tensor("token_embd", &[WIDTH, WORDS]),
        tensor("output_norm", &[WIDTH]),
        tensor("output", &[WIDTH, WORDS]),
    ];
    for layer in 0..LAYERS {
        let mut add = |name: &str, sizes: &[u64]| {
            all.push(tensor(&format!("blk.{layer}.{name}"), sizes));
        };
        add("attn_norm", &[WIDTH]);
        add("attn_q", &[WIDTH, WIDTH]);
        add("attn_k", &[WIDTH, KEYS]);
        add("attn_v", &[WIDTH, KEYS]);
        add("attn_output", &[WIDTH, WIDTH]);
        add("ffn_norm", &[WIDTH]);
        add("ffn_gate", &[WIDTH, INNER]);
        add("ffn_up", &[WIDTH, INNER]);
        add("ffn_down", &[INNER, WIDTH]);
    }
    all
}

fn text(into: &mut Vec<u8>, text: &str) {
    into.extend((text.len() as u64).to_le_bytes());
    into.extend(text.as_bytes());
}

/// Everything before the weights.
fn head(tensors: &[Tensor]) -> Vec<u8> {
    let numbers = [
        ("llama.context_length", CONTEXT),
        ("llama.embedding_length", u32::try_from(WIDTH).unwrap_or(0)),
        ("llama.block_count", LAYERS),
        (
            "llama.feed_forward_length",
            u32::try_from(INNER).unwrap_or(0),
        ),
        ("llama.attention.head_count", HEADS),
        ("llama.attention.head_count_kv", KEY_HEADS),
        ("llama.vocab_size", u32::try_from(WORDS).unwrap_or(0)),
    ];
    let words = [
        ("general.architecture", "llama"),
        ("general.name", "random weights"),
        ("tokenizer.ggml.model", "no_vocab"),
    ];
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((numbers.len() as u64 + words.len() as u64 + 1).to_le_bytes());
    for (key, word) in words {
        text(&mut out, key);
        out.extend(8u32.to_le_bytes());
        text(&mut out, word);
    }
    for (key, number) in numbers {
        text(&mut out, key);
        out.extend(4u32.to_le_bytes());
        out.extend(number.to_le_bytes());
    }
    text(&mut out, "llama.attention.layer_norm_rms_epsilon");
    out.extend(6u32.to_le_bytes());
    out.extend(1e-5f32.to_le_bytes());
    let mut offset = 0u64;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        out.extend(u32::try_from(tensor.sizes.len()).unwrap_or(0).to_le_bytes());
        tensor
            .sizes
            .iter()
            .for_each(|size| out.extend(size.to_le_bytes()));
        out.extend(0u32.to_le_bytes());
        out.extend(offset.to_le_bytes());
        let bytes = 4 * tensor.sizes.iter().product::<u64>();
        offset += bytes.next_multiple_of(ALIGNMENT as u64);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

/// Writes the weights: norms about 1, all others so that sums stay about as large as what they sum.
fn write(path: &Path) -> std::io::Result<()> {
    let tensors = tensors();
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&head(&tensors))?;
    let mut state = 42u32;
    for tensor in &tensors {
        let row = tensor.sizes.first().copied().unwrap_or(1);
        let (about, reach) = match tensor.sizes.len() {
            1 => (1.0, 0.1),
            _ => (0.0, (12.0 / row as f32).sqrt()),
        };
        for _ in 0..tensor.sizes.iter().product::<u64>() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let unit = f32::from_bits(0x3F80_0000 | state >> 9) - 1.5;
            file.write_all(&(about + reach * unit).to_le_bytes())?;
        }
    }
    file.flush()
}

/// The model with weights of that type, as llama-quantize names it; made when it is not there.
pub fn with(bench: &Bench, llama: &Llama, kind: &str) -> Result<PathBuf, String> {
    let folder = llama.cache.join("models");
    std::fs::create_dir_all(&folder).map_err(|error| failed("make a folder")(&error))?;
    // The name says what is in it: another shape is another file.
    let name = |kind: &str| format!("random-{LAYERS}x{WIDTH}-{kind}.gguf");
    let path = folder.join(name(kind));
    if !path.is_file() {
        let new = folder.join(format!("{}.new", name(kind)));
        if kind == "f32" {
            write(&new).map_err(|error| failed("write a model")(&error))?;
        } else {
            let plain = with(bench, llama, "f32")?.display().to_string();
            let words = [
                "llama-quantize",
                "--pure",
                &plain,
                &new.display().to_string(),
                kind,
                "2",
            ];
            llama.run(bench, bench.cores.client, None, &words)?;
        }
        std::fs::rename(&new, &path).map_err(|error| failed("keep a model")(&error))?;
    }
    let bytes = std::fs::metadata(&path)
        .map_err(|error| failed("look at a model")(&error))?
        .len();
    if bytes < LEAST {
        return Err(format!(
            "{} has {bytes} bytes, less than 200 MiB",
            path.display()
        ));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_follow_the_head_where_it_says() {
        let tensors = tensors();
        let head = head(&tensors);
        assert_eq!(&head[..4], b"GGUF");
        assert!(head.len().is_multiple_of(32));
        assert_eq!(head[8..16], (tensors.len() as u64).to_le_bytes());
        // Rows are whole blocks of 256, and no tensor needs padding.
        for tensor in tensors {
            assert!(tensor.sizes[0].is_multiple_of(256), "{}", tensor.name);
        }
    }
}
