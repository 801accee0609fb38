"""Computes what the demo must compute, independently: from the GGUF file, in double precision.

    python3 tests/model/reference.py MODEL.gguf tests/model/vectors.bin     writes the vectors
    python3 tests/model/reference.py MODEL.gguf                            only prints the figures

Needs numpy; the tests themselves need only vectors.bin. It shares no line with the exporter or the
demo and is written from the formulas: one token at a time, one head at a time, no cache, no batch.
README.md beside it says how the tolerance is derived from what this prints.
"""
import struct
import sys

import numpy as np

PROMPTS = [
    b"Ge1:1 In the beginning",
    b"And it came to pass, ",
    b"Blessed are the meek: for they ",
]
GENERATED = 200
PLACES = [0, 1, 31, 63, 127, 199]  # generated tokens whose logits are kept; and the prompt's first byte
TOLERANCE = 2.0**-8


class Gguf:
    """A reader for files one trusts."""

    SIMPLE = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

    def __init__(self, path):
        self.bytes = open(path, "rb").read()
        self.at = 0
        magic, version, tensors, pairs = self.take("4sIQQ")
        assert (magic, version) == (b"GGUF", 3)
        self.keys = {}
        for _ in range(pairs):
            name = self.string()
            self.keys[name] = self.value(self.take("I")[0])
        places = []
        for _ in range(tensors):
            name = self.string()
            shape = self.take(f"{self.take('I')[0]}Q")
            places.append((name, shape, *self.take("IQ")))
        align = self.keys.get("general.alignment", 32)
        data = (self.at + align - 1) // align * align
        self.tensors = {n: self.tensor(s, k, data + o) for n, s, k, o in places}

    def take(self, form):
        out = struct.unpack_from("<" + form, self.bytes, self.at)
        self.at += struct.calcsize("<" + form)
        return out

    def string(self):
        (n,) = self.take("Q")
        return self.take(f"{n}s")[0].decode()

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            of, n = self.take("IQ")
            return [self.value(of) for _ in range(n)]
        return self.take(self.SIMPLE[kind])[0]

    def tensor(self, shape, kind, at):
        n = int(np.prod(shape))
        if kind == 0:
            flat = np.frombuffer(self.bytes, "<f4", n, at)
        elif kind == 30:  # bf16: the upper half of a float
            flat = (np.frombuffer(self.bytes, "<u2", n, at).astype(np.uint32) << 16).view(np.float32)
        else:
            raise ValueError(f"tensor type {kind}")
        return flat.astype(np.float64).reshape(shape[::-1])


class Llama:
    """The formulas. `number` is the type computed in; `half` rounds keys and values to f16 as a
    cache in f16 does. `bug` names a deliberate mistake, to see how far it throws the logits."""

    def __init__(self, gguf, number=np.float64, half=True, bug=None):
        key = lambda name: gguf.keys["llama." + name]
        self.heads, self.kv_heads = key("attention.head_count"), key("attention.head_count_kv")
        self.layers, self.eps = key("block_count"), key("attention.layer_norm_rms_epsilon")
        self.size, self.base = key("embedding_length") // self.heads, key("rope.freq_base")
        assert key("rope.dimension_count") == self.size
        self.w = {n.removesuffix(".weight"): t.astype(number) for n, t in gguf.tensors.items()}
        self.number, self.half, self.bug = number, half, bug
        if bug == "rope base 5000":
            self.base = 5000.0
        if bug == "epsilon 1e-6":
            self.eps = 1e-6
        self.cache = [([], []) for _ in range(self.layers)]
        self.position = 0

    def norm(self, x, name):
        mean = (x * x).sum() / self.number(len(x))
        return x / np.sqrt(mean + self.number(self.eps)) * self.w[name]

    def turn(self, x):
        """RoPE on one head: neighbours are a pair."""
        out = x.copy()
        position = self.position + (1 if self.bug == "position + 1 for keys" and self.turning_key else 0)
        for i in range(self.size // 2):
            angle = position * self.base ** (-2.0 * i / self.size)
            c, s = self.number(np.cos(angle)), self.number(np.sin(angle))
            a, b = (i, i + self.size // 2) if self.bug == "pairs half a head apart" else (2 * i, 2 * i + 1)
            out[a], out[b] = x[a] * c - x[b] * s, x[a] * s + x[b] * c
        return out

    def stored(self, x):
        return x.astype(np.float16).astype(self.number) if self.half else x

    def step(self, token):
        """Logits after one more token."""
        x = self.w["token_embd"][token]
        for layer in range(self.layers):
            w = lambda name: self.w[f"blk.{layer}.{name}"]
            h = self.norm(x, f"blk.{layer}.attn_norm")
            split = lambda v: v.reshape(-1, self.size)
            self.turning_key = False
            queries = [self.turn(q) for q in split(w("attn_q") @ h)]
            self.turning_key = True
            keys, values = self.cache[layer]
            keys.append([self.stored(self.turn(k)) for k in split(w("attn_k") @ h)])
            values.append([self.stored(v) for v in split(w("attn_v") @ h)])
            mixed = []
            for n, q in enumerate(queries):
                g = n // (self.heads // self.kv_heads)
                if self.bug == "groups interleaved":
                    g = n % self.kv_heads
                scores = np.array([k[g] @ q for k in keys]) / np.sqrt(self.number(self.size))
                if self.bug == "oldest key masked" and len(scores) > 1:
                    scores[0] = -np.inf
                weight = np.exp(scores - scores.max())
                weight /= weight.sum()
                mixed.append(sum(p * v[g] for p, v in zip(weight, values)))
            x = x + w("attn_output") @ np.concatenate(mixed)
            h = self.norm(x, f"blk.{layer}.ffn_norm")
            gate = w("ffn_gate") @ h
            x = x + w("ffn_down") @ (gate / (1 + np.exp(-gate)) * (w("ffn_up") @ h))
        self.position += 1
        return self.w["token_embd"] @ self.norm(x, "output_norm")


def greedy(model, prompt, count):
    """Logits after every token, and the text that taking the largest each time gives."""
    logits, text = [model.step(b) for b in prompt], []
    for _ in range(count):
        text.append(int(np.argmax(logits[-1])))
        logits.append(model.step(text[-1]))
    return bytes(text), np.array(logits)


def replay(model, tokens):
    return np.array([model.step(b) for b in tokens])


def main(path, target=None):
    gguf = Gguf(path)
    cases, margin = [], np.inf
    for prompt in PROMPTS:
        text, logits = greedy(Llama(gguf), prompt, GENERATED)
        chosen = logits[len(prompt) - 1 : -1]
        best = np.sort(chosen, axis=1)
        margin = min(margin, (best[:, -1] - best[:, -2]).min())
        cases.append((prompt, text, logits))
        print(repr(prompt.decode()), "->", repr(text.decode(errors="replace")))
    print(f"smallest lead of a greedy choice over the next: {margin:.5f}; tolerance {TOLERANCE:.5f}")
    prompt, text, logits = cases[0]
    tokens = prompt + text
    off = lambda **how: np.abs(replay(Llama(gguf, **how), tokens) - logits).max()
    print(f"largest logit {np.abs(logits).max():.2f}")
    print(f"computed in f32 instead of f64: {off(number=np.float32):.2e}")
    print(f"keys and values not rounded to f16: {off(half=False):.2e}")
    bugs = ["rope base 5000", "pairs half a head apart", "groups interleaved", "oldest key masked"]
    bugs += ["position + 1 for keys", "epsilon 1e-6"]
    for bug in bugs:
        print(f"bug, {bug}: {off(bug=bug):.2e}")
    if target is None:
        return
    assert margin > 2 * TOLERANCE, "a greedy choice is too close to call: change a prompt"
    with open(target, "wb") as f:
        f.write(struct.pack("<8sIf", b"JALVEC01", len(cases), TOLERANCE))
        for prompt, text, logits in cases:
            places = [0] + [len(prompt) - 1 + p for p in PLACES]
            f.write(struct.pack("<III", len(prompt), len(text), len(places)) + prompt + text)
            for p in places:
                f.write(struct.pack("<I", p) + logits[p].astype("<f4").tobytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
