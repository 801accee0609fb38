"""Writes the vectors of what decoders need beside the first kernels: SUB, DIV, GEGLU, SUM_ROWS,
ARGSORT, TOP_K, SOFT_MAX with sinks, ROPE by sections.

Written from docs/kernels.md alone, as make_vectors.py, whose format and views it shares.

    python3 make_decode.py [DIRECTORY]
"""

import struct
import sys
from pathlib import Path

import numpy as np

import make_vectors as v
from make_vectors import (
    BAD_ARGUMENTS, BAD_PARAMETER, BAD_SHAPE, BAD_STRIDE, BAD_TYPE, BF16, EMPTY, F16, F32, I32, I64, KINDS, LAYOUTS, NAMES, OVERLAP,
    PAIRS, REAL, RESERVED_FIELD, SHAPES, U, Operand, draw, encode, exact, f32, f32_bits, held, near, refused, shape_name, short, tensor, view,
)

ROPE, SOFT_MAX = 5, 6
GEGLU, ARGSORT, TOP_K, SUM_ROWS, DIV, SUB = 14, 16, 17, 18, 19, 21

rng = np.random.default_rng(20261125)
v.rng = rng


# 7 Elements --------------------------------------------------------------------------------------

def gelu_of(x):
    """x (1 + tanh(t)) / 2 without the cancellation of its left end."""
    with np.errstate(over="ignore", invalid="ignore"):
        t = np.sqrt(2 / np.pi) * x * (1 + 0.044715 * x * x)
        return x / (1 + np.exp(-2 * t))


def geglu():
    def case(name, ne, types, layouts=("dense",) * 3, kind="normal", swapped=0, one=False, in_place=None, values=None):
        a, b = (draw(ne, kind, types[1]), draw(ne, kind, types[-1])) if values is None else values
        gate, other = (b, a) if swapped else (a, b)
        with np.errstate(invalid="ignore"):
            y = gelu_of(gate) * other
            e = 4 * U * np.abs(y) + 2.0**-120 * np.maximum(1, np.abs(other))
        if one:
            operands = [view(types[0], ne, layouts[0]), tensor(np.concatenate([a, b], axis=3), types[1], layouts[1])]
        else:
            first, second = tensor(a, types[1], layouts[1]), tensor(b, types[2], layouts[2])
            operands = [{None: None, 1: first, 2: second}[in_place] or view(types[0], ne, layouts[0]), first, second]
        near(GEGLU, name, [swapped], operands, y, e)

    for swapped in (0, 1):
        for types in [(F32, F32, F32), (F32, F16, BF16), (F32, BF16, F32), (F16, F16, F16), (BF16, F32, F32)]:
            case(f"two, swapped {swapped} {short(*types)}", (17, 2, 1, 1), types, swapped=swapped)
        for types in PAIRS[:6]:
            case(f"one, swapped {swapped} {short(*types)}", (17, 2, 1, 1), types, swapped=swapped, one=True)
    for ne in SHAPES:
        case(f"two {shape_name(ne)}", ne, (F32, F32, F32))
    for layout in LAYOUTS:
        case(f"dst {layout}", (5, 4, 3, 2), (F32, F16, F32), (layout, "dense", "dense"))
        case(f"second {layout}", (5, 4, 3, 2), (F32, F32, F32), ("dense", "dense", layout))
        case(f"one {layout}", (5, 4, 3, 2), (F32, F16), ("dense", layout), one=True)
    case("one, long row", (1100, 1, 1, 1), (F32, F16), one=True)
    for ne in EMPTY:
        case(f"empty {shape_name(ne)}", ne, (F32, F32, F32))
    for kind in KINDS:
        case(f"{kind}", (33, 2, 1, 1), (F32, BF16, F32), kind="mixed" if kind == "large" else kind)
    steps = np.linspace(-13, 13, 105).reshape(1, 1, 1, 105)
    case("from -13 to 13", (105, 1, 1, 1), (F32,) * 3, values=(held(steps, F32), np.ones_like(steps)))
    case("in place on the first", (9, 3, 1, 1), (F32,) * 3, in_place=1)
    case("in place on the second", (9, 3, 1, 1), (F32,) * 3, in_place=2, swapped=1)
    inf, nan = np.inf, np.nan
    special = np.array([[[[inf, -inf, nan, 1, 0.0]]]]), np.array([[[[1, 1, 1, nan, inf]]]])
    case("infinities and nan", (5, 1, 1, 1), (F32,) * 3, values=special)
    dst, a, b = view(F32, (4, 3)), tensor(draw((4, 3, 1, 1)), F32), tensor(draw((4, 3, 1, 1)), F32)
    refused(GEGLU, "swapped 2", [2], [dst, a, b], BAD_PARAMETER)
    refused(GEGLU, "one operand", [], [dst], BAD_ARGUMENTS)
    refused(GEGLU, "four operands", [], [dst, a, b, b], BAD_ARGUMENTS)
    refused(GEGLU, "halves too short", [], [dst, tensor(draw((7, 3, 1, 1)), F32)], BAD_SHAPE, 2)
    refused(GEGLU, "second differs", [], [dst, a, tensor(draw((4, 2, 1, 1)), F32)], BAD_SHAPE, 3)
    refused(GEGLU, "integer second", [], [dst, a, tensor(np.zeros((1, 1, 3, 4), np.int64), I32)], BAD_TYPE, 3)
    two = tensor(draw((8, 3, 1, 1)), F32)
    refused(GEGLU, "in place of a half", [], [Operand(F32, [4, 3, 1, 1], two.nb, two.buffer, 0), two], OVERLAP, 2)
    refused(GEGLU, "destination repeated", [], [view(F32, (4, 3), {"repeat": (1,)}), a, b], BAD_STRIDE, 1)
    refused(GEGLU, "a word too many", [0, 1], [dst, a, b], RESERVED_FIELD)


# 5 Rows ------------------------------------------------------------------------------------------

def sum_rows():
    def case(name, ne, types, layouts=("dense",) * 2, kind="normal", values=None):
        values = draw(ne, kind, types[1]) if values is None else held(values, types[1])
        with np.errstate(invalid="ignore"):
            y, s = values.sum(axis=3, keepdims=True), np.abs(values).sum(axis=3, keepdims=True)
        operands = [view(types[0], (1, *ne[1:]), layouts[0]), tensor(values, types[1], layouts[1])]
        near(SUM_ROWS, name, [], operands, y, ne[0] * 2.0**-50 * np.where(np.isfinite(s), s, 0))

    for types in PAIRS:
        case(f"types {short(*types)}", (33, 2, 1, 1), types)
    for ne in SHAPES:
        case(f"shape {shape_name(ne)}", ne, (F32, F32))
    for layout in LAYOUTS:
        case(f"dst {layout}", (5, 4, 3, 2), (F32, F16), (layout, "dense"))
        case(f"src {layout}", (5, 4, 3, 2), (F16, F32), ("dense", layout))
    for ne in EMPTY:
        case(f"{'a sum over nothing' if ne[0] == 0 else 'empty'} {shape_name(ne)}", ne, (F32, F32))
    for kind in KINDS:
        case(f"{kind} f32", (33, 2, 1, 1), (F32, F32), kind=kind)
        case(f"{kind} bf16", (33, 2, 1, 1), (BF16, BF16), kind=kind)
    case("long row", (70001, 1, 1, 1), (F32, F16))
    cancels = np.array([3e38, 1.0, 3e38, -3e38, 2.0**-140, -3e38]).reshape(1, 1, 1, 6)
    case("what cancels is not lost", (6, 1, 1, 1), (F32, F32), values=cancels)
    case("beyond the range", (3, 1, 1, 1), (F32, F32), values=np.full((1, 1, 1, 3), 3e38))
    inf, nan = np.inf, np.nan
    rows = np.array([[inf, 1, 2], [inf, -inf, 1], [nan, 1, 2], [-inf, 3, -inf]]).reshape(1, 1, 4, 3)
    case("infinities and nan", (3, 4, 1, 1), (F32, F32), values=rows)
    src = tensor(draw((3, 4, 2, 1)), F32)
    good = view(F32, (1, 4, 2))
    refused(SUM_ROWS, "one operand", [], [good], BAD_ARGUMENTS)
    refused(SUM_ROWS, "three operands", [], [good, src, src], BAD_ARGUMENTS)
    refused(SUM_ROWS, "two sums a row", [], [view(F32, (2, 4, 2)), src], BAD_SHAPE, 1)
    refused(SUM_ROWS, "rows differ", [], [view(F32, (1, 5, 2)), src], BAD_SHAPE, 1)
    refused(SUM_ROWS, "integer destination", [], [view(I32, (1, 4, 2)), src], BAD_TYPE, 1)
    refused(SUM_ROWS, "integer source", [], [good, tensor(np.zeros((1, 2, 4, 3), np.int64), I32)], BAD_TYPE, 2)
    refused(SUM_ROWS, "destination repeated", [], [view(F32, (1, 4, 2), {"repeat": (1,)}), src], BAD_STRIDE, 1)
    refused(SUM_ROWS, "destination in source", [], [Operand(F32, [1, 4, 2, 1], src.nb, src.buffer, 0), src], OVERLAP, 2)
    refused(SUM_ROWS, "a word too many", [1], [good, src], RESERVED_FIELD)


def order_of(row, descending):
    """Indices in order: NaN last, ties by index."""
    nan = [i for i, x in enumerate(row) if np.isnan(x)]
    real = [i for i, x in enumerate(row) if not np.isnan(x)]
    return sorted(real, key=lambda i: ((-row[i] if descending else row[i]) + 0.0, i)) + nan


def orders(values, k, descending):
    out = np.zeros((*values.shape[:3], k), np.int64)
    for place in np.ndindex(values.shape[:3]):
        out[place] = order_of(values[place], descending)[:k]
    return out


INF, NAN = np.inf, np.nan
ODD = np.array([
    [NAN, 1, NAN, -1], [NAN, -INF, INF, NAN], [-0.0, 0.0, -0.0, 0.0], [0.0, -0.0, 1e-45, -1e-45], [INF, INF, -INF, -INF], [NAN] * 4, [2, 2, 1, 1],
]).reshape(1, 1, 7, 4)


def argsort():
    def case(name, ne, dtype, layouts=("dense",) * 2, kind="normal", down=0, values=None):
        values = draw(ne, kind, dtype) if values is None else held(values, dtype)
        operands = [view(I32, ne, layouts[0]), tensor(values, dtype, layouts[1])]
        exact(ARGSORT, name, [down], operands, encode(orders(values, ne[0], down), I32))

    for down, word in ((0, "up"), (1, "down")):
        for dtype in REAL:
            for kind in ("normal", "ties", *KINDS):
                case(f"{word} {kind} {NAMES[dtype]}", (33, 3, 1, 1), dtype, kind=kind, down=down)
        case(f"{word} nan, infinities, zeros", (4, 7, 1, 1), F32, values=ODD, down=down)
        case(f"{word} nan, infinities, zeros f16", (4, 7, 1, 1), F16, values=ODD, down=down)
    long = rng.permutation(33000).astype(np.float64).reshape(1, 1, 1, -1) // 3 - 5000
    case("33000 with ties", (33000, 1, 1, 1), F16, values=long, down=1)
    for ne in SHAPES:
        case(f"shape {shape_name(ne)}", ne, F32)
    for layout in LAYOUTS:
        case(f"dst {layout}", (5, 4, 3, 2), F32, (layout, "dense"))
        case(f"src {layout}", (5, 4, 3, 2), F16, ("dense", layout), down=1)
    for ne in EMPTY:
        case(f"empty {shape_name(ne)}", ne, F32)
    src, good = tensor(draw((3, 4, 2, 1)), F32), view(I32, (3, 4, 2))
    refused(ARGSORT, "order 2", [2], [good, src], BAD_PARAMETER)
    refused(ARGSORT, "one operand", [], [good], BAD_ARGUMENTS)
    refused(ARGSORT, "three operands", [], [good, src, src], BAD_ARGUMENTS)
    refused(ARGSORT, "real destination", [], [view(F32, (3, 4, 2)), src], BAD_TYPE, 1)
    refused(ARGSORT, "i64 destination", [], [view(I64, (3, 4, 2)), src], BAD_TYPE, 1)
    refused(ARGSORT, "integer source", [], [good, tensor(np.zeros((1, 2, 4, 3), np.int64), I32)], BAD_TYPE, 2)
    refused(ARGSORT, "fewer indices", [], [view(I32, (2, 4, 2)), src], BAD_SHAPE, 2)
    refused(ARGSORT, "other rows", [], [view(I32, (3, 4, 1)), src], BAD_SHAPE, 2)
    refused(ARGSORT, "destination repeated", [], [view(I32, (3, 4, 2), {"repeat": (1,)}), src], BAD_STRIDE, 1)
    refused(ARGSORT, "in place", [], [Operand(I32, src.ne, src.nb, src.buffer, 0), src], OVERLAP, 2)
    refused(ARGSORT, "a word too many", [1, 1], [good, src], RESERVED_FIELD)


def top_k():
    def case(name, ne, k, dtype, layouts=("dense",) * 2, kind="normal", values=None):
        values = draw(ne, kind, dtype) if values is None else held(values, dtype)
        operands = [view(I32, (k, *ne[1:]), layouts[0]), tensor(values, dtype, layouts[1])]
        exact(TOP_K, name, [], operands, encode(orders(values, k, True), I32))

    for dtype in REAL:
        for kind in ("normal", "ties", *KINDS):
            case(f"{kind} {NAMES[dtype]}", (33, 3, 1, 1), 7, dtype, kind=kind)
        case(f"8 of 128 experts {NAMES[dtype]}", (128, 4, 1, 1), 8, dtype)
    for k in (1, 2, 3, 4):
        case(f"{k} of nan, infinities, zeros", (4, 7, 1, 1), k, F32, values=ODD)
    long = rng.permutation(33000).astype(np.float64).reshape(1, 1, 1, -1) // 3
    case("40 of 33000", (33000, 1, 1, 1), 40, F16, values=long)
    case("40 of 32768", (32768, 1, 1, 1), 40, BF16)
    for ne in SHAPES:
        case(f"shape {shape_name(ne)}", ne, (ne[0] + 1) // 2, F32)
    for layout in LAYOUTS:
        case(f"dst {layout}", (5, 4, 3, 2), 3, F32, (layout, "dense"))
        case(f"src {layout}", (5, 4, 3, 2), 2, F16, ("dense", layout))
    for ne in EMPTY:
        case(f"empty {shape_name(ne)}", ne, min(ne[0], 2), F32)
    case("none of each row", (4, 3, 1, 1), 0, F32)
    src, good = tensor(draw((3, 4, 2, 1)), F32), view(I32, (2, 4, 2))
    refused(TOP_K, "4 of 3", [], [view(I32, (4, 4, 2)), src], BAD_SHAPE, 1)
    refused(TOP_K, "one operand", [], [good], BAD_ARGUMENTS)
    refused(TOP_K, "three operands", [], [good, src, src], BAD_ARGUMENTS)
    refused(TOP_K, "real destination", [], [view(F32, (2, 4, 2)), src], BAD_TYPE, 1)
    refused(TOP_K, "integer source", [], [good, tensor(np.zeros((1, 2, 4, 3), np.int64), I32)], BAD_TYPE, 2)
    refused(TOP_K, "other rows", [], [view(I32, (2, 3, 2)), src], BAD_SHAPE, 2)
    refused(TOP_K, "destination repeated", [], [view(I32, (2, 4, 2), {"repeat": (1,)}), src], BAD_STRIDE, 1)
    refused(TOP_K, "destination in source", [], [Operand(I32, [2, 4, 2, 1], src.nb, src.buffer, 0), src], OVERLAP, 2)
    refused(TOP_K, "a word too many", [1], [good, src], RESERVED_FIELD)
    huge = view(F32, ((1 << 24) + 1,), {"repeat": (0,)})
    refused(TOP_K, "a row beyond 2^24", [], [view(I32, (2,)), huge], BAD_SHAPE, 2)


def slopes(bias, heads):
    """ALiBi's slope of each head; 1 without bias."""
    if not bias:
        return np.ones(heads)
    p = 1 << (heads.bit_length() - 1)
    return np.array([2.0 ** (-bias * (g + 1) / p) if g < p else 2.0 ** (-bias * (2 * (g - p) + 1) / (2 * p)) for g in range(heads)])


def absent():
    """An operand that is left out before another one."""
    return Operand(F32, [0, 0, 0, 0], [0] * 4, bytearray(v.pattern(8)))


def sinks():
    def case(name, ne, types=(F32, F32, F32), scale=1.0, bias=0.0, mask=None, sink=None, layout="dense", values=None, in_place=False):
        x = draw(ne, "normal", types[1]) if values is None else held(values, types[1])
        sink = draw((ne[2],), "normal", types[2]) if sink is None else held(sink, types[2])
        src = tensor(x, types[1])
        operands = [src if in_place else view(types[0], ne), src, absent(), tensor(sink, types[2], layout)]
        z, size = x * f32(scale), np.abs(x * f32(scale))
        if mask is not None:
            operands[2] = tensor(mask, F16)
            part = slopes(f32(bias), ne[2]).reshape(1, -1, 1, 1) * mask[:, :, : ne[1]]
            z, size = z + part, size + np.abs(part)
        each = sink.reshape(1, -1, 1, 1)
        with np.errstate(invalid="ignore"):
            top = np.fmax(z.max(axis=3, keepdims=True), each)
            power = np.exp(z - top)
            y = power / (power.sum(axis=3, keepdims=True) + np.exp(each - top))
        y = np.where(np.broadcast_to(top == -INF, y.shape), 0.0, y)
        a = np.where(np.isfinite(size), size, 0).max(axis=3, keepdims=True) + np.where(np.isfinite(each), np.abs(each), 0)
        near(SOFT_MAX, name, [f32_bits(scale), f32_bits(bias)], operands, y, (16 + 8 * a) * U * np.abs(y) + 2.0**-140)

    for types in PAIRS:
        case(f"types {short(*types)}", (17, 3, 2, 1), (*types, types[1]))
    for dtype in REAL:
        case(f"sinks {NAMES[dtype]}", (9, 2, 5, 2), (F32, F32, dtype), scale=0.3)
    for layout in ("padded", "stepped"):
        case(f"sinks {layout}", (9, 2, 5, 1), layout=layout)
    for ne in ((1, 1, 1, 1), (33, 2, 12, 1), (1300, 1, 2, 1)):
        case(f"shape {shape_name(ne)}", ne)
    mask = np.zeros((1, 1, 4, 6))
    mask[..., 1, 3:], mask[..., 2, :] = -INF, -INF
    for bias in (0.0, 8.0):
        case(f"mask, bias {bias}", (6, 4, 3, 1), mask=mask - 1.0, bias=bias, scale=0.5)
    case("in place", (9, 3, 4, 1), in_place=True)
    case("a great sink takes all", (5, 2, 2, 1), sink=[200.0, -200.0])
    case("sinks of minus infinity", (5, 2, 2, 1), sink=[-INF, 0.0])
    case("nothing but a sink", (3, 1, 2, 1), values=np.full((1, 2, 1, 3), -INF), sink=[1.0, -INF])
    case("infinite and nan sinks", (3, 1, 3, 1), sink=[INF, NAN, 0.0])
    src, good, one = tensor(draw((3, 4, 2, 1)), F32), view(F32, (3, 4, 2)), [f32_bits(1.0)]
    for name, operand in (
        ("three sinks for two heads", tensor(draw((3,)), F32)), ("one sink for two heads", tensor(draw((1,)), F32)),
        ("sinks of two rows", tensor(draw((2, 2, 1, 1)), F32)), ("sinks without rows", view(F32, (2, 0, 1, 1))),
    ):
        refused(SOFT_MAX, name, one, [good, src, absent(), operand], BAD_SHAPE, 4)
    refused(SOFT_MAX, "integer sinks", one, [good, src, absent(), tensor(np.zeros(2, np.int64), I32)], BAD_TYPE, 4)
    refused(SOFT_MAX, "bias, its mask absent", one + one, [good, src, absent(), tensor(draw((2,)), F32)], BAD_PARAMETER)
    refused(SOFT_MAX, "five operands", one, [good, src] + [absent()] * 3, BAD_ARGUMENTS)
    over = Operand(F32, [2, 1, 1, 1], [4, 8, 8, 8], good.buffer, 8)
    refused(SOFT_MAX, "sinks in destination", one, [good, src, absent(), over], OVERLAP, 4)


def sections():
    def which(mode, at, s):
        """The section of a pair and where it begins, by the table of Kernels 6."""
        if mode == 40:
            return (at % 3 if at < 3 * s[at % 3] else 3), 0
        ends = np.cumsum(s)
        section = int(np.searchsorted(ends[:3], at, side="right"))
        return section, int(ends[section] - s[section])

    def case(name, ne, mode, s, types=(F32, F32), dims=None, first=0, x=0.0, scale=1.0, factors=False, index=I32, at=None, layouts=("dense",) * 2,
             in_place=False):
        n, heads, tokens, c = ne
        dims = dims or (n // 2 if mode == 24 else n)
        turned = 2 * dims if mode == 24 else dims
        values, src = draw(ne, "normal", types[1]), None
        src = tensor(values, types[1], layouts[1])
        several = mode >= 8
        at = rng.integers(-50, 4000, 4 * tokens if several else tokens) if at is None else np.array(at)
        operands = [src if in_place else view(types[0], ne, layouts[0]), src, tensor(at, index)]
        f = np.ones(turned // 2)
        if factors:
            f = held(1 + rng.random(turned // 2) * 7, F32)
            operands.append(tensor(f, F32))
        base, m = 10000.0, 1.0
        y, e = values.copy(), np.zeros(values.shape)
        low = high = 0.0
        if x:
            def correction(beta):
                return dims * np.log(2048 / (2 * np.pi * beta)) / (2 * np.log(base))
            low, high = max(0.0, np.floor(correction(32.0))), min(dims - 1.0, np.ceil(correction(1.0)))
            m = 1 + 0.1 * np.log(1 / f32(scale))
        for token in range(tokens):
            for pair in range(turned // 2):
                section, place = 0, pair
                if several:
                    in_all = pair % sum(s)
                    section, begin = which(mode, in_all, s)
                    place = in_all - begin if mode == 24 else pair
                t = float(at[section * tokens + token]) * base ** (-2.0 * place / dims) / f[pair]
                w = f32(x) * (1 - np.clip((pair - low) / max(high - low, 0.001), 0, 1))
                angle = f32(scale) * t * (1 - w) + t * w if x else f32(scale) * t
                a, b = (first + 2 * pair, first + 2 * pair + 1) if mode == 0 else (first + pair, first + pair + turned // 2)
                p, q = values[:, token, :, a], values[:, token, :, b]
                y[:, token, :, a] = p * m * np.cos(angle) - q * m * np.sin(angle)
                y[:, token, :, b] = p * m * np.sin(angle) + q * m * np.cos(angle)
                e[:, token, :, a] = e[:, token, :, b] = 8 * U * abs(m) * (np.abs(p) + np.abs(q))
        near(ROPE, name, words(dims, mode, s, first, x, scale), operands, y, e)

    def words(dims, mode, s=(0, 0, 0, 0), first=0, x=0.0, scale=1.0):
        return [dims, mode, 2048, *map(f32_bits, (10000.0, scale, x, 1.0, 32.0, 1.0)), *s, first]

    for mode, name, s, n in ((8, "sections", (8, 12, 12, 0), 64), (24, "vision", (16, 16, 0, 0), 64), (40, "interleaved", (12, 10, 10, 0), 64)):
        for types in PAIRS[:5]:
            case(f"{name} {short(*types)}", (n, 2, 3, 1), mode, s, types)
        for other in ((3, 3, 3, 0), (4, 2, 1, 3), (0, 5, 2, 2), (21, 21, 21, 0), (1, 0, 0, 0)):
            case(f"{name} {'-'.join(map(str, other))}", (n, 1, 2, 1), mode, other)
        case(f"{name} 64-bit", (n, 2, 2, 1), mode, s, index=I64)
        case(f"{name} factors", (n, 2, 2, 1), mode, s, factors=True)
        case(f"{name} yarn", (n, 2, 2, 1), mode, s, x=1.0, scale=0.25)
        case(f"{name} yarn and factors", (n, 2, 2, 2), mode, s, x=0.75, scale=0.5, factors=True)
        for layout in ("permuted", "reversed"):
            case(f"{name} {layout}", (n, 3, 2, 2), mode, s, layouts=("dense", layout))
        case(f"{name} in place", (n, 2, 3, 1), mode, s, in_place=True)
    for mode, s in ((0, (0,) * 4), (2, (0,) * 4), (8, (4, 2, 2, 0)), (40, (3, 3, 2, 0))):
        case(f"mode {mode}, 16 from 8 on", (40, 2, 2, 1), mode, s, dims=16, first=8)
        case(f"mode {mode}, 16 from 24 on in place", (40, 2, 2, 1), mode, s, dims=16, first=24, in_place=True)
    src, at = tensor(draw((8, 2, 3, 1)), F32), tensor(np.arange(12), I32)
    good = [view(F32, (8, 2, 3)), src, at]
    refused(ROPE, "no sections", words(8, 8), good, BAD_PARAMETER)
    refused(ROPE, "only the fourth section", words(8, 40, (0, 0, 0, 4)), good, BAD_PARAMETER)
    refused(ROPE, "sections beyond the row", words(8, 8, (4, 4, 1, 0)), good, BAD_PARAMETER)
    refused(ROPE, "sections that wrap", words(8, 8, (0xFFFFFFFF, 1, 4, 0)), good, BAD_PARAMETER)
    refused(ROPE, "sections with one position", words(8, 2, (4, 0, 0, 0)), good[:2] + [tensor(np.arange(3), I32)], RESERVED_FIELD)
    refused(ROPE, "vision of less than a row", words(2, 24, (1, 1, 0, 0)), good, BAD_PARAMETER)
    refused(ROPE, "vision of more than a row", words(8, 24, (2, 2, 0, 0)), good, BAD_PARAMETER)
    refused(ROPE, "vision from 2 on", words(4, 24, (2, 2, 0, 0), 2), good, BAD_PARAMETER)
    refused(ROPE, "first is odd", words(4, 8, (2, 0, 0, 0), 1), good, BAD_PARAMETER)
    refused(ROPE, "beyond the row's end", words(4, 8, (2, 0, 0, 0), 6), good, BAD_PARAMETER)
    refused(ROPE, "first wraps", words(4, 8, (2, 0, 0, 0), 0xFFFFFFFE), good, BAD_PARAMETER)
    refused(ROPE, "mode 9", words(8, 9, (2, 1, 1, 0)), good, BAD_PARAMETER)
    refused(ROPE, "one position a token", words(8, 8, (2, 1, 1, 0)), good[:2] + [tensor(np.arange(3), I32)], BAD_SHAPE, 3)
    refused(ROPE, "vision, factors too few", words(4, 24, (2, 2, 0, 0)), good + [tensor(np.ones(3), F32)], BAD_SHAPE, 4)
    refused(ROPE, "word 14", words(8, 8, (2, 1, 1, 0)) + [1], good, RESERVED_FIELD)


def sub():
    v.binary(SUB, np.subtract)


def div():
    def op(a, b):
        with np.errstate(divide="ignore", invalid="ignore"):
            return a / b
    v.binary(DIV, op)


FILES = [
    ("geglu", GEGLU, geglu), ("sum_rows", SUM_ROWS, sum_rows), ("argsort", ARGSORT, argsort), ("top_k", TOP_K, top_k), ("sub", SUB, sub),
    ("div", DIV, div), ("soft_max_sinks", SOFT_MAX, sinks), ("rope_sections", ROPE, sections),
]


def main():
    to = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    total = 0
    for name, kernel, make in FILES:
        v.cases = {kernel: []}
        v.names.clear()
        make()
        cases = v.cases[kernel]
        data = struct.pack("<8sII", b"JALPKVEC", 1, len(cases)) + b"".join(cases)
        (to / f"{name}.vec").write_bytes(data)
        total += len(data)
        print(f"{name:16} {len(cases):5} cases {len(data):8} bytes")
    assert total < 2 << 20, total


if __name__ == "__main__":
    main()
