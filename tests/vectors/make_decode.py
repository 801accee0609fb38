"""Writes the vectors of what decoders need beside the first kernels: SUB, DIV, GEGLU, SUM_ROWS, ARGSORT, TOP_K.

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
    PAIRS, REAL, RESERVED_FIELD, SHAPES, U, Operand, draw, encode, exact, held, near, refused, shape_name, short, tensor, view,
)

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


def sub():
    v.binary(SUB, np.subtract)


def div():
    def op(a, b):
        with np.errstate(divide="ignore", invalid="ignore"):
            return a / b
    v.binary(DIV, op)


FILES = [
    ("geglu", GEGLU, geglu), ("sum_rows", SUM_ROWS, sum_rows), ("argsort", ARGSORT, argsort), ("top_k", TOP_K, top_k), ("sub", SUB, sub),
    ("div", DIV, div),
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
