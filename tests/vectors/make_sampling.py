"""Writes the vectors of what stands between logits and a token: CLAMP,
SAMPLE.

Written from docs/kernels.md alone, as make_vectors.py, whose format and views it shares.

    python3 make_sampling.py [DIRECTORY]
"""

import math
import struct
import sys
from pathlib import Path

import numpy as np

import make_vectors as v
from make_vectors import (
    BAD_ARGUMENTS, BAD_PARAMETER, BAD_SHAPE, BAD_STRIDE, BAD_TYPE, BF16, EMPTY, F16, F32, I32, I64, KINDS, LAYOUTS, NAMES, OVERLAP, REAL,
    RESERVED_FIELD, SHAPES, Operand, draw, encode, exact, f32, f32_bits, held, refused, shape_name, short, tensor, unary_cases, unary_operands,
    unary_refusals, view,
)

SAMPLE, CLAMP = 23, 24

rng = np.random.default_rng(20261128)
v.rng = rng

INF, NAN = np.inf, np.nan


# 7 Elements --------------------------------------------------------------------------------------

def clamp():
    def case(name, ne, types, layouts=("dense",) * 2, kind="normal", low=-0.7, high=0.4, in_place=False, values=None):
        values, operands = unary_operands(ne, types, layouts, kind, in_place, values)
        low, high = f32(low), f32(high)
        # Element by element: a NaN fails both comparisons and stays, and so does the sign of a zero.
        y = np.array([low if x < low else high if x > high else x for x in values.ravel()]).reshape(values.shape)
        exact(CLAMP, name, [f32_bits(low), f32_bits(high)], operands, encode(y, types[0]))

    unary_cases(CLAMP, case)
    for types in [(F32, F32), (F16, F16), (F16, F32), (BF16, BF16), (F32, BF16)]:
        name = short(*types)
        case(f"a third to a seventh {name}", (65, 2, 1, 1), types, low=-1 / 3, high=1 / 7)
        case(f"all below {name}", (9, 1, 1, 1), types, low=1e4 / 3, high=2e4)
        case(f"all above {name}", (9, 1, 1, 1), types, low=-INF, high=-1e4 / 3)
    special = np.array([[[[INF, -INF, NAN, 0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38]]]])
    for low, high in [(-INF, INF), (0.0, 0.0), (-0.0, 0.0), (0.0, -0.0), (-1.0, INF), (-INF, 1.0), (1e-45, 1e-45), (INF, INF), (-INF, -INF)]:
        case(f"special in {low} to {high}", (9, 1, 1, 1), (F32, F32), values=special, low=low, high=high)
    case("weights of experts", (1, 7, 1, 1), (F32, F32), values=np.abs(draw((1, 7, 1, 1), "tiny")), low=6.103515625e-5, high=INF)
    case("a bound beyond f16", (3, 1, 1, 1), (F16, F32), values=np.array([[[[-1e6, 1.0, 1e6]]]]), low=-70000.0, high=65504.0)
    case("subnormal bounds", (33, 1, 1, 1), (F32, F32), kind="tiny", low=-1e-41, high=2e-41)
    unary_refusals(CLAMP, [f32_bits(-1.0), f32_bits(1.0)])
    good = [view(F32, (3, 4)), tensor(draw((3, 4, 1, 1)), F32)]
    refused(CLAMP, "three operands", [], good + good[1:], BAD_ARGUMENTS)
    for low, high in [(1.0, 0.5), (NAN, 1.0), (-1.0, NAN), (NAN, NAN), (0.0, -1e-45), (INF, -INF)]:
        refused(CLAMP, f"{low} to {high}", [f32_bits(low), f32_bits(high)], good, BAD_PARAMETER)


# 5 Rows ------------------------------------------------------------------------------------------

def drawn(row, k, temperature, u):
    """The index that a row gives, and how far u is from where another one would be right."""
    real = sorted((i for i, x in enumerate(row) if not np.isnan(x)), key=lambda i: (-row[i], i))[:k]
    if not real:
        return 0, 1.0
    if temperature == 0:
        return real[0], 1.0
    top = row[real[0]]
    weights = [1.0 if row[i] == top else float(np.exp((row[i] - top) / temperature)) for i in real]
    whole, below, point = math.fsum(weights), 0.0, u / 2.0**32
    for place, i in enumerate(real):
        above = math.fsum(weights[:place + 1]) / whole
        if point < above:
            # The ends 0 and 1 are no borders to another one.
            return i, min(point - below if place else 1.0, above - point if above < 1 else 1.0)
        below = above
    raise AssertionError


def sample():
    def case(name, ne, dtype, k, temperature, u, layouts=("dense",) * 2, kind="normal", values=None, spread=3.0):
        values = held(draw(ne, kind, F32) * (spread if kind == "normal" else 1.0), dtype) if values is None else held(values, dtype)
        temperature = f32(temperature)
        out = np.zeros(values.shape[:3], np.int64)
        for place in np.ndindex(out.shape):
            out[place], margin = drawn(values[place], k, temperature, u)
            assert margin > 1e-7, (name, margin)
        operands = [view(I32, ne[1:], layouts[0]), tensor(values, dtype, layouts[1])]
        exact(SAMPLE, name, [k, f32_bits(temperature), u], operands, encode(out, I32))

    def uniform():
        return int(rng.integers(0, 1 << 32))

    for dtype in REAL:
        for k in (1, 2, 7, 33, 40):
            case(f"k {k} of 33 {NAMES[dtype]}", (33, 5, 1, 1), dtype, k, 0.8, uniform())
        for temperature in (0.0, 1e-3, 0.3, 1.0, 2.5, 100.0):
            case(f"temperature {temperature} {NAMES[dtype]}", (65, 4, 1, 1), dtype, 20, temperature, uniform())
    for u in (0, 1, 1 << 16, 1 << 30, 1 << 31, 3 << 30, 0xFFFF0000, 0xFFFFFFFF):
        case(f"u {u:#x}", (50, 6, 1, 1), F32, 50, 1.0, u, spread=1.0)
    # Four of equal weight: each has its quarter.
    flat = np.array([1.0, 1.0, 0.0, 1.0, 1.0]).reshape(1, 1, 1, 5)
    for quarter in range(4):
        for inside in (1 << 20, (1 << 30) - (1 << 20)):
            case(f"quarter {quarter} at {inside:#x}", (5, 1, 1, 1), F32, 4, 1.0, (quarter << 30) + inside, values=flat)
    case("ties by index", (33, 5, 1, 1), F32, 9, 0.7, uniform(), kind="ties")
    for kind in KINDS:
        case(f"{kind} f32", (33, 3, 1, 1), F32, 12, 0.9, uniform(), kind=kind)
    case("all, hot", (300, 3, 1, 1), F32, 1 << 24, 1e30, uniform())
    case("k beyond 32 bits' half", (9, 3, 1, 1), F32, 0xFFFFFFFF, 1.0, uniform())
    case("a vocabulary, k 40", (33000, 2, 1, 1), F16, 40, 0.8, uniform())
    case("a vocabulary, all", (33000, 1, 1, 1), F32, 33000, 0.6, uniform(), spread=2.0)
    inf, nan = INF, NAN
    rows = np.array([
        [nan, 1.0, nan, 1.0], [nan] * 4, [inf, 0.0, inf, nan], [-inf, -inf, -inf, -inf], [-inf, 2.0, -inf, 2.0], [0.0, -0.0, -inf, nan], [3e38, -3e38, nan, 3e38],
    ]).reshape(1, 1, 7, 4)
    for u in (1 << 29, 5 << 29):
        for temperature in (0.0, 1.0, 1e-45, 3e38):
            case(f"nan, infinities {temperature} {u:#x}", (4, 7, 1, 1), F32, 4, temperature, u, values=rows)
    case("k passes nan over", (4, 7, 1, 1), F32, 2, 1.0, 5 << 29, values=rows)
    for ne in SHAPES:
        case(f"shape {shape_name(ne)}", ne, F32, 5, 1.0, uniform())
    for layout in LAYOUTS:
        case(f"dst {layout}", (5, 4, 3, 2), F32, 4, 1.0, uniform(), (layout, "dense"))
        case(f"src {layout}", (5, 4, 3, 2), F16, 4, 1.0, uniform(), ("dense", layout))
    for ne in EMPTY[1:] + [(0, 0, 1, 1)]:
        operands = [view(I32, ne[1:]), view(F32, ne)]
        exact(SAMPLE, f"empty {shape_name(ne)}", [3, f32_bits(1.0), 7], operands, b"")
    src, good = tensor(draw((3, 4, 2, 1)), F32), view(I32, (4, 2, 1))
    words = [2, f32_bits(1.0), 1 << 31]
    refused(SAMPLE, "k 0", [0, *words[1:]], [good, src], BAD_PARAMETER)
    for value in (-1.0, -1e-45, NAN, INF):
        refused(SAMPLE, f"temperature {value}", [2, f32_bits(value), 0], [good, src], BAD_PARAMETER)
    refused(SAMPLE, "a row of nothing", words, [good, view(F32, (0, 4, 2))], BAD_SHAPE, 2)
    refused(SAMPLE, "one operand", words, [good], BAD_ARGUMENTS)
    refused(SAMPLE, "three operands", words, [good, src, src], BAD_ARGUMENTS)
    refused(SAMPLE, "real destination", words, [view(F32, (4, 2, 1)), src], BAD_TYPE, 1)
    refused(SAMPLE, "i64 destination", words, [view(I64, (4, 2, 1)), src], BAD_TYPE, 1)
    refused(SAMPLE, "integer source", words, [good, tensor(np.zeros((1, 2, 4, 3), np.int64), I32)], BAD_TYPE, 2)
    refused(SAMPLE, "other rows", words, [view(I32, (4, 3, 1)), src], BAD_SHAPE)
    refused(SAMPLE, "two a row", words, [view(I32, (4, 2, 1, 2)), src], BAD_SHAPE)
    refused(SAMPLE, "destination repeated", words, [view(I32, (4, 2, 1), {"repeat": (0,)}), src], BAD_STRIDE, 1)
    refused(SAMPLE, "in its source", words, [Operand(I32, [4, 2, 1, 1], [4, 16, 32, 32], src.buffer, 0), src], OVERLAP, 2)
    refused(SAMPLE, "a word too many", [*words, 1], [good, src], RESERVED_FIELD)


FILES = [("clamp", CLAMP, clamp), ("sample", SAMPLE, sample)]


def main():
    to = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    for name, kernel, make in FILES:
        v.cases = {kernel: []}
        v.names.clear()
        make()
        cases = v.cases[kernel]
        data = struct.pack("<8sII", b"JALPKVEC", 1, len(cases)) + b"".join(cases)
        (to / f"{name}.vec").write_bytes(data)
        print(f"{name:10} {len(cases):5} cases {len(data):8} bytes")


if __name__ == "__main__":
    main()
