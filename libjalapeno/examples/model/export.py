"""Writes a trained model as a GGUF file, version 3, that llama.cpp loads unchanged.

    python3 export.py kjv.npz kjv.gguf

Needs numpy. Architecture "llama"; matrices in bf16 (rounded to nearest even), norms in f32; no
output matrix, so readers use the embedding for it. One token a byte, and token n is byte n: the
tokenizer is GPT-2's byte alphabet with no merges. Tensors stand in one data block, each aligned to
64 bytes, as LAUNCH operands like them.
"""
import struct
import sys

import numpy as np

ALIGNMENT = 64
F32, BF16 = 0, 30  # GGUF's tensor types
U32, FLOAT32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5  # and its value types
NORMAL, CONTROL = 1, 3  # token types

NAMES = {
    "norm1": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "norm2": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def string(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


def value(kind, v):
    if kind == STRING:
        return string(v)
    if kind == ARRAY:
        of, items = v
        return struct.pack("<IQ", of, len(items)) + b"".join(value(of, i) for i in items)
    return struct.pack({U32: "<I", I32: "<i", FLOAT32: "<f", BOOL: "<B"}[kind], v)


def bf16(x):
    """Rounded to nearest, ties to even, as 16-bit integers. Finite numbers only."""
    assert np.isfinite(x).all()
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def alphabet():
    """GPT-2's: printable bytes stand for themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def main(source, target):
    saved = dict(np.load(source))
    layers = 1 + max(int(n.split(".")[1]) for n in saved if n.startswith("layers."))
    dim = saved["embed"].shape[1]
    heads, context = 4, 256  # as in train.py; shapes do not tell
    kv_heads = saved["layers.0.k"].shape[0] * heads // dim
    tensors = [("token_embd.weight", saved["embed"]), ("output_norm.weight", saved["out_norm"])]
    for i in range(layers):
        tensors += [(f"blk.{i}.{name}.weight", saved[f"layers.{i}.{n}"]) for n, name in NAMES.items()]
    assert len(tensors) == len(saved)

    keys = [
        ("general.architecture", STRING, "llama"),
        ("general.name", STRING, "King James bytes"),
        ("general.description", STRING, "A byte model of the King James Bible, trained for the Jalapeno demo"),
        ("general.license", STRING, "MIT OR Apache-2.0"),
        ("general.alignment", U32, ALIGNMENT),
        ("general.file_type", U32, 32),
        ("llama.vocab_size", U32, 256),
        ("llama.context_length", U32, context),
        ("llama.embedding_length", U32, dim),
        ("llama.block_count", U32, layers),
        ("llama.feed_forward_length", U32, saved["layers.0.gate"].shape[0]),
        ("llama.attention.head_count", U32, heads),
        ("llama.attention.head_count_kv", U32, kv_heads),
        ("llama.rope.dimension_count", U32, dim // heads),
        ("llama.rope.freq_base", FLOAT32, 10000.0),
        ("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "gpt-2"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, alphabet())),
        ("tokenizer.ggml.token_type", ARRAY, (I32, [CONTROL] + [NORMAL] * 255)),
        ("tokenizer.ggml.merges", ARRAY, (STRING, [])),
        ("tokenizer.ggml.bos_token_id", U32, 0),
        ("tokenizer.ggml.eos_token_id", U32, 0),
        ("tokenizer.ggml.add_bos_token", BOOL, False),
        ("tokenizer.ggml.add_eos_token", BOOL, False),
        ("tokenizer.ggml.add_space_prefix", BOOL, False),
    ]
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    for name, kind, v in keys:
        head += string(name) + struct.pack("<I", kind) + value(kind, v)
    data = b""
    pad = lambda b: b + bytes(-len(b) % ALIGNMENT)
    for name, t in tensors:
        kind = BF16 if t.ndim == 2 else F32
        shape = t.shape[::-1]  # GGUF names the fastest dimension first
        head += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        data = pad(data + (bf16(t) if kind == BF16 else t.astype("<f4")).tobytes())
    with open(target, "wb") as f:
        f.write(pad(head) + data)
    print(sum(t.size for _, t in tensors), "parameters,", len(pad(head)) + len(data), "bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
