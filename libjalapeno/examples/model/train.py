"""Trains the demo's model: a llama-architecture byte model of at most 2 MiB in bf16.

    ./text > kjv.txt
    nice -n 5 python3 train.py kjv.txt kjv.npz --minutes 68
    python3 export.py kjv.npz kjv.gguf

Needs torch and numpy; nothing else of this project does. One seed, one thread. The learning rate
follows the wall clock, so that training always ends annealed however busy the machine is: two runs
see the same batches in the same order but a different number of them. Validation pieces are never
trained on. The loss reported is that of the weights as they are saved: the moving average, its
matrices rounded to bf16, over all of the validation text.
"""
import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F

CONFIG = dict(dim=128, layers=6, heads=4, kv_heads=2, ff=304, context=256, rope=10000.0, eps=1e-5)
SEED = 1611
PIECE, EVERY = 4096, 40  # every 40th piece of 4096 bytes is validation: 2.5 %
D = CONFIG["dim"]
HD = D // CONFIG["heads"]


def split(text):
    """Runs of text to train on, and the pieces between them that are held out."""
    data = np.frombuffer(text, dtype=np.uint8)
    pieces = [data[i : i + PIECE] for i in range(0, len(data), PIECE)]
    runs, run, held = [], [], []
    for i, piece in enumerate(pieces):
        if i % EVERY == EVERY // 2:
            held.append(piece)
            runs.append(np.concatenate(run))
            run = []
        else:
            run.append(piece)
    runs.append(np.concatenate(run))
    return runs, held


def rope_tables(length):
    freq = CONFIG["rope"] ** (-torch.arange(0, HD, 2).float() / HD)
    angle = torch.outer(torch.arange(length).float(), freq)
    return angle.cos(), angle.sin()


def rope(x, cos, sin):
    """Turns neighbouring pairs, as GGUF's llama architecture has it ("normal", not "neox")."""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class Model(torch.nn.Module):
    """Matrices are [out, in]; the embedding is also the output matrix."""

    def __init__(self):
        super().__init__()
        c = CONFIG
        kv = HD * c["kv_heads"]
        p = lambda *shape, std: torch.nn.Parameter(torch.randn(*shape) * std)
        self.embed = p(256, D, std=0.05)
        self.out_norm = torch.nn.Parameter(torch.ones(D))
        self.layers = torch.nn.ModuleList()
        for _ in range(c["layers"]):
            layer = torch.nn.Module()
            layer.norm1 = torch.nn.Parameter(torch.ones(D))
            layer.norm2 = torch.nn.Parameter(torch.ones(D))
            s = D**-0.5
            layer.q, layer.k, layer.v = p(D, D, std=s), p(kv, D, std=s), p(kv, D, std=s)
            layer.o = torch.nn.Parameter(torch.zeros(D, D))
            layer.gate, layer.up = p(c["ff"], D, std=s), p(c["ff"], D, std=s)
            layer.down = torch.nn.Parameter(torch.zeros(D, c["ff"]))
            self.layers.append(layer)
        self.cos, self.sin = rope_tables(c["context"])

    def forward(self, tokens):
        b, t = tokens.shape
        cos, sin = self.cos[:t], self.sin[:t]
        x = F.embedding(tokens, self.embed)
        norm = lambda v, w: F.rms_norm(v, (D,), w, CONFIG["eps"])
        for l in self.layers:
            h = norm(x, l.norm1)
            q = rope((h @ l.q.T).view(b, t, -1, HD).transpose(1, 2), cos, sin)
            k = rope((h @ l.k.T).view(b, t, -1, HD).transpose(1, 2), cos, sin)
            v = (h @ l.v.T).view(b, t, -1, HD).transpose(1, 2)
            g = CONFIG["heads"] // CONFIG["kv_heads"]
            k, v = k.repeat_interleave(g, 1), v.repeat_interleave(g, 1)
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + a.transpose(1, 2).reshape(b, t, D) @ l.o.T
            h = norm(x, l.norm2)
            x = x + (F.silu(h @ l.gate.T) * (h @ l.up.T)) @ l.down.T
        return norm(x, self.out_norm) @ self.embed.T


def orthogonal(g, steps=5):
    """The Newton-Schulz iteration of the Muon optimiser: nearest orthogonal matrix, roughly."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm() + 1e-7)
    if flip := g.shape[0] > g.shape[1]:
        x = x.T
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if flip else x


@torch.no_grad()
def validate(model, held):
    """Nats a byte over all validation bytes but each piece's first. Windows of the context's length
    overlap by half: every byte but a piece's first 128 is predicted from at least 128 before it."""
    total, count, context = 0.0, 0, CONFIG["context"]
    for piece in held:
        x = torch.from_numpy(piece.astype(np.int64))
        width = min(context, len(x) - 1)
        starts = range(0, max(1, len(x) - 1 - context // 2), context // 2)
        starts = [min(s, len(x) - 1 - width) for s in starts]
        inputs = torch.stack([x[s : s + width] for s in starts])
        targets = torch.stack([x[s + 1 : s + 1 + width] for s in starts])
        loss = F.cross_entropy(model(inputs).flatten(0, 1).float(), targets.flatten(), reduction="none")
        done = 0
        for s, row in zip(starts, loss.view(len(starts), width)):
            fresh = row[done - s :] if done > s else row
            total, count = total + fresh.sum().item(), count + len(fresh)
            done = s + width
    return total / count


def save(model, path):
    np.savez(path, **{n: p.detach().numpy() for n, p in model.named_parameters()})


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("text"), ap.add_argument("out")
    ap.add_argument("--minutes", type=float, default=68)
    ap.add_argument("--batch", type=int, default=24)
    ap.add_argument("--lr", type=float, default=0.02, help="of the matrices; the others' is 0.003")
    ap.add_argument("--steps", type=int, default=0, help="stop early, to measure speed")
    arg = ap.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    rng = np.random.default_rng(SEED)
    runs, held = split(open(arg.text, "rb").read())
    context = CONFIG["context"]
    weights = np.array([max(0, len(r) - context) for r in runs], dtype=np.float64)
    weights /= weights.sum()
    model, average = Model(), Model()
    average.load_state_dict(model.state_dict())
    print("parameters", sum(p.numel() for p in model.parameters()), "validation bytes", sum(map(len, held)), flush=True)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and n != "embed"]
    others = [p for n, p in model.named_parameters() if p.ndim == 1 or n == "embed"]
    momentum = [torch.zeros_like(p) for p in matrices]
    adam = torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.99), weight_decay=0.0)
    begin, step, mean = time.monotonic(), 0, 0.0
    while True:
        part = (time.monotonic() - begin) / (60 * arg.minutes)
        if part >= 1 or (arg.steps and step >= arg.steps):
            break
        factor = min(1, (step + 1) / 100) * min(1.0, (1 - part) / 0.6)
        rows = []
        for r in rng.choice(len(runs), arg.batch, p=weights):
            at = rng.integers(len(runs[r]) - context)
            rows.append(runs[r][at : at + context + 1])
        x = torch.from_numpy(np.stack(rows).astype(np.int64))
        loss = F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
        model.zero_grad(set_to_none=True)
        loss.backward()
        with torch.no_grad():
            rate = arg.lr * factor
            for p, m in zip(matrices, momentum):
                m.mul_(0.95).add_(p.grad)
                update = orthogonal(p.grad.add(m, alpha=0.95))
                p.mul_(1 - rate * 0.1).add_(update, alpha=-rate * max(1, p.shape[0] / p.shape[1]) ** 0.5)
            for group in adam.param_groups:
                group["lr"] = 3e-3 * factor
            adam.step()
            keep = min(0.995, step / (step + 10))
            for a, p in zip(average.parameters(), model.parameters()):
                a.lerp_(p, 1 - keep)
        step += 1
        mean = loss.item() if step == 1 else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step} minutes {(time.monotonic() - begin) / 60:.2f} train {mean:.4f}", flush=True)
        if step % 1000 == 0:
            print(f"  validation {validate(average, held[::4]):.4f}", flush=True)
            save(average, arg.out)
    rounded = Model()
    with torch.no_grad():
        for r, a in zip(rounded.parameters(), average.parameters()):
            r.copy_(a.bfloat16().float() if r.ndim == 2 else a)
    save(rounded, arg.out)
    print(f"steps {step}, validation of the saved weights {validate(rounded, held):.4f} nats a byte")


if __name__ == "__main__":
    main()
