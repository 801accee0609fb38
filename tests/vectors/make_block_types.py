"""Writes the vectors of MUL_MAT with weights in blocks, for every type of activations and destination.

Written from docs/kernels.md alone, as make_blocks.py, whose blocks it shares.

    python3 make_block_types.py [DIRECTORY]
"""

import struct
import sys
from pathlib import Path

import numpy as np

import make_blocks as blocks
import make_vectors as v
from make_blocks import BLOCKS, ELEMENTS, blocks_tensor
from make_vectors import BF16, F16, F32, LAYOUTS, MUL_MAT, NAMES, REAL, U, near, short, tensor, view

rng = np.random.default_rng(20261129)
v.rng = blocks.rng = rng


def mul_mat():
    def case(name, dtype, k, m, n, types, layouts=("dense", "dense"), kind="normal", values=None):
        w, each = blocks_tensor(dtype, (k, m, 1, 1), "dense", "normal", None)
        x = v.draw((k, n, 1, 1), kind, types[1]) if values is None else v.held(values, types[1])
        with np.errstate(invalid="ignore"):
            y = x[0, 0] @ each[0, 0].T
            s = np.abs(x[0, 0]) @ np.abs(each[0, 0]).T
        operands = [view(types[0], (m, n), layouts[0]), w, tensor(x, types[1], layouts[1])]
        near(MUL_MAT, name, [], operands, y, (k + 4) * (U * s + 2.0**-149))

    for dtype in BLOCKS:
        q, one = NAMES[dtype], ELEMENTS[dtype]
        for types in [(to, x) for to in REAL for x in REAL]:
            for n in (1, 2, 9):
                case(f"{q} {short(*types)} n {n}", dtype, 2 * one, 3, n, types)
        for layout in LAYOUTS:
            case(f"{q} f16 {layout}", dtype, one, 5, 4, (F32, F16), ("dense", layout))
            case(f"{q} to bf16 {layout}", dtype, one, 5, 4, (BF16, F16), (layout, "dense"))
        # Sums beyond binary16, and activations in its subnormals.
        for n in (1, 9):
            case(f"{q} f16 overflows n {n}", dtype, one, 3, n, (F16, F16), kind="large")
            case(f"{q} f16 tiny n {n}", dtype, one, 3, n, (BF16, F16), kind="tiny")
            inf = np.zeros((1, 1, n, one))
            inf[0, 0, 0, 1], inf[0, 0, -1, 3] = np.inf, np.nan
            case(f"{q} infinite and nan n {n}", dtype, one, 3, n, (BF16, F16), values=inf)


def main():
    to = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    v.cases = {MUL_MAT: []}
    v.names.clear()
    mul_mat()
    cases = v.cases[MUL_MAT]
    data = struct.pack("<8sII", b"JALPKVEC", 1, len(cases)) + b"".join(cases)
    (to / "mul_mat_block_types.vec").write_bytes(data)
    print(f"mul_mat_block_types {len(cases):5} cases {len(data):8} bytes")


if __name__ == "__main__":
    main()
