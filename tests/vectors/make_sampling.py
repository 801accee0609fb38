"""Writes the vectors of what stands between logits and a token: CLAMP.

Written from docs/kernels.md alone, as make_vectors.py, whose format and views it shares.

    python3 make_sampling.py [DIRECTORY]
"""

import struct
import sys
from pathlib import Path

import numpy as np

import make_vectors as v
from make_vectors import (
    BAD_ARGUMENTS, BAD_PARAMETER, F16, F32, BF16, NAMES, encode, exact, f32, f32_bits, refused, short, tensor, draw, unary_cases,
    unary_operands, unary_refusals, view,
)

CLAMP = 24

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


FILES = [("clamp", CLAMP, clamp)]


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
