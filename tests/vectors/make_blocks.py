"""Writes the vectors of weights in blocks: docs/kernels.md 1.8 and the kernels that take them.

Written from docs/kernels.md alone, as make_vectors.py, whose format and views it shares. The values of
blocks are computed here element by element, in binary64, from the places that the document names.

    python3 make_blocks.py [DIRECTORY]
"""

import struct
import sys
from pathlib import Path

import numpy as np

import make_vectors as v
from make_vectors import (
    BAD_ARGUMENTS, BAD_SHAPE, BAD_STRIDE, BAD_TYPE, BF16, COPY, F16, F32, GET_ROWS, I32, I64, INDEX_RANGE, LAYOUTS, MISALIGNED,
    MUL_MAT, NAMES, OVERLAP, SET_ROWS, U, encode, exact, near, refused, shape_name, tensor, view,
)

Q4_0, Q8_0, Q4_K, Q6_K = 2, 8, 12, 14
BLOCKS = (Q4_0, Q8_0, Q4_K, Q6_K)
ELEMENTS = {Q4_0: 32, Q8_0: 32, Q4_K: 256, Q6_K: 256}
BYTES = {Q4_0: 18, Q8_0: 34, Q4_K: 144, Q6_K: 210}
NAMES.update({Q4_0: "q4_0", Q8_0: "q8_0", Q4_K: "q4_k", Q6_K: "q6_k"})

rng = np.random.default_rng(20261124)
v.rng = rng


# Blocks ------------------------------------------------------------------------------------------

def half(block, at):
    return float(np.frombuffer(block[at : at + 2], "<f2")[0])


def lo(byte):
    return byte % 16


def hi(byte):
    return byte // 16


def signed(byte):
    return byte - 256 if byte > 127 else byte


def element(dtype, block, e):
    """The value of element e of a block: Kernels 1.8, in binary64."""
    if dtype == Q8_0:
        return half(block, 0) * signed(block[2 + e])
    if dtype == Q4_0:
        return half(block, 0) * ((lo(block[2 + e]) if e < 16 else hi(block[2 + e - 16])) - 8)
    if dtype == Q4_K:
        d, c, j, p = half(block, 0), half(block, 2), e // 32, block[4:16]
        byte = block[16 + 32 * (j // 2) + e % 32]
        q = lo(byte) if j % 2 == 0 else hi(byte)
        if j < 4:
            s, m = p[j] % 64, p[j + 4] % 64
        else:
            s, m = lo(p[j + 4]) + 16 * (p[j - 4] // 64), hi(p[j + 4]) + 16 * (p[j] // 64)
        return (d * s) * q - c * m
    h, g, i = e // 128, e // 32 % 4, e % 32
    byte = block[64 * h + 32 * (g % 2) + i]
    q = (lo(byte) if g < 2 else hi(byte)) + 16 * (block[128 + 32 * h + i] // 2 ** (2 * g) % 4)
    return half(block, 208) * signed(block[192 + e // 16]) * (q - 32)


def values_of(dtype, block):
    with np.errstate(invalid="ignore", over="ignore"):
        values = [element(dtype, block, e) for e in range(ELEMENTS[dtype])]
        return np.array(values, np.float64).astype(np.float32).astype(np.float64)


def scale_bits(kind):
    if kind == "tiny":
        value = rng.uniform(0, 6e-6)
    elif kind == "large":
        value = rng.uniform(100, 400)
    else:
        value = rng.uniform(0.001, 0.1) * rng.choice((-1.0, 1.0))
    return np.float16(value).tobytes()


def some_block(dtype, kind="normal"):
    """A block of random bits with sane scales: every field takes all of its values."""
    block = bytearray(rng.integers(0, 256, BYTES[dtype], dtype=np.uint8).tobytes())
    if dtype == Q6_K:
        block[208:210] = scale_bits(kind)
    else:
        block[0:2] = scale_bits(kind)
    if dtype == Q4_K:
        block[2:4] = scale_bits(kind)
    return bytes(block)


class Blocks(v.Operand):
    """A strided view of blocks: what the other functions take for elements are blocks."""

    def __init__(self, dtype, ne, nb, buffer, offset=0):
        super().__init__(dtype, ne, nb, buffer, offset)

    def offsets(self):
        whole = list(self.ne)
        self.ne[0] //= ELEMENTS[self.dtype]
        at = super().offsets()
        self.ne[0] = whole[0]
        return at

    def put(self, blocks):
        for data, at in zip(blocks, self.offsets().ravel()):
            self.buffer[at : at + len(data)] = data

    def take(self):
        size = BYTES[self.dtype]
        return [bytes(self.buffer[at : at + size]) for at in self.offsets().ravel()]


def blocks_view(dtype, ne, layout="dense"):
    """An operand of blocks over a new buffer of the pattern."""
    layout = LAYOUTS[layout] if isinstance(layout, str) else layout
    ne = list(ne) + [1] * (4 - len(ne))
    count = [ne[0] // ELEMENTS[dtype], *ne[1:]]
    v.SIZE[dtype] = BYTES[dtype]
    nb, offset = v.strides(count, dtype, layout)
    reach = 0 if 0 in ne else sum((n - 1) * s for n, s in zip(count, nb)) + BYTES[dtype]
    return Blocks(dtype, ne, nb, bytearray(v.pattern(offset + reach + 13)), offset)


def blocks_tensor(dtype, ne, layout="dense", kind="normal", blocks=None):
    """An operand of random blocks, and its values."""
    operand = blocks_view(dtype, ne, layout)
    count = operand.offsets().size
    blocks = blocks or [some_block(dtype, kind) for _ in range(count)]
    operand.put(blocks)
    values = np.array([values_of(dtype, block) for block in operand.take()]) if count else np.zeros(0)
    return operand, values.reshape(tuple(reversed(operand.ne)))


def kinds_of(dtype):
    """Rows of one block, and of an odd number of them."""
    return (ELEMENTS[dtype], 3 * ELEMENTS[dtype])


# The kernels -------------------------------------------------------------------------------------

def get_rows():
    def case(name, dtype, ne, rows, to=F32, layouts=("dense",) * 3, index=I32, kind="normal", blocks=None):
        n, r, b, c = ne
        table, values = blocks_tensor(dtype, (n, rows, b, c), layouts[1], kind, blocks)
        which = rng.integers(0, rows, (1, c, b, r)) if rows else np.zeros((1, c, b, r), np.int64)
        data = encode(v.rows_at(values, which[0]), to) if 0 not in ne else b""
        exact(GET_ROWS, name, [], [view(to, ne, layouts[0]), table, tensor(which, index, layouts[2])], data)

    for dtype in BLOCKS:
        q = NAMES[dtype]
        for n in kinds_of(dtype):
            case(f"{q} n {n}", dtype, (n, 3, 1, 1), 4)
        for to in (F16, BF16):
            case(f"{q} to {NAMES[to]}", dtype, (ELEMENTS[dtype], 2, 1, 1), 3, to)
        for layout in LAYOUTS:
            case(f"{q} table {layout}", dtype, (ELEMENTS[dtype], 2, 2, 1), 3, F32, ("dense", layout, "dense"), I64)
        case(f"{q} dst stepped", dtype, (ELEMENTS[dtype], 2, 1, 1), 3, F32, ("stepped", "dense", "dense"))
        for kind in ("tiny", "large"):
            case(f"{q} {kind}", dtype, (ELEMENTS[dtype], 1, 1, 1), 1, kind=kind)
        case(f"{q} empty rows", dtype, (0, 2, 1, 1), 3)
        odd = bytearray(some_block(dtype))
        for bits, name in ((0x7C00, "infinite"), (0x7E00, "nan")):
            at = 208 if dtype == Q6_K else 0
            odd[at : at + 2] = struct.pack("<H", bits)
            case(f"{q} {name} scale", dtype, (ELEMENTS[dtype], 1, 1, 1), 1, blocks=[bytes(odd)])
        n = ELEMENTS[dtype]
        table, _ = blocks_tensor(dtype, (n, 5, 1, 1))
        which = tensor(np.zeros((1, 1, 1, 2), np.int64), I32)
        good = view(F32, (n, 2))
        refused(GET_ROWS, f"{q} destination", [], [blocks_view(dtype, (n, 2)), table, which], BAD_TYPE, 1)
        refused(GET_ROWS, f"{q} indices", [], [good, table, blocks_view(dtype, (n, 1))], BAD_TYPE, 3)
        refused(GET_ROWS, f"{q} row too long", [], [view(F32, (n - 1, 2)), table, which], BAD_SHAPE, 2)
        refused(GET_ROWS, f"{q} index 5", [], [good, table, tensor(np.array([[[[4, 5]]]]), I32)], INDEX_RANGE, 3)
        broken = Blocks(dtype, [n + 1, 5, 1, 1], table.nb, table.buffer)
        refused(GET_ROWS, f"{q} part of a block", [], [view(F32, (n + 1, 2)), broken, which], BAD_SHAPE, 2, launch_only=True)
        odd = Blocks(dtype, [n, 5, 1, 1], table.nb, table.buffer, 1)
        refused(GET_ROWS, f"{q} odd address", [], [good, odd, which], MISALIGNED, 2, launch_only=True)
        odd = Blocks(dtype, [n, 4, 1, 1], [table.nb[0], table.nb[1] + 1, 0, 0], table.buffer)
        refused(GET_ROWS, f"{q} odd stride", [], [good, odd, which], BAD_STRIDE, 2, launch_only=True)
        away = Blocks(dtype, [n, 5, 1, 1], [table.nb[0], 1 << 58, 0, 0], table.buffer)
        refused(GET_ROWS, f"{q} stride leaves memory", [], [good, away, which], v.UNMAPPED_READ, 2, launch_only=True)
        over = v.Operand(F32, [n, 1, 1, 1], [4, 4 * n, 4 * n, 4 * n], table.buffer)
        table.buffer.extend(bytes(4 * n))
        refused(GET_ROWS, f"{q} overlap", [], [over, table, tensor(np.zeros((1, 1, 1, 1), np.int64), I32)], OVERLAP, 2)


def mul_mat():
    def case(name, dtype, k, m, n, batch=(1, 1), ratio=(1, 1), types=(F32, F32), layouts=("dense",) * 3, kind="normal", blocks=None):
        b, c = batch
        w, a = blocks_tensor(dtype, (k, m, b // ratio[0], c // ratio[1]), layouts[1], kind, blocks)
        x = v.draw((k, n, b, c), "normal", types[1])
        y, s = np.zeros((c, b, n, m)), np.zeros((c, b, n, m))
        for h in range(c):
            for g in range(b):
                each = a[h // ratio[1], g // ratio[0]]
                with np.errstate(invalid="ignore"):
                    y[h, g] = x[h, g] @ each.T
                    s[h, g] = np.abs(x[h, g]) @ np.abs(each).T
        operands = [view(types[0], (m, n, b, c), layouts[0]), w, tensor(x, types[1], layouts[2])]
        near(MUL_MAT, name, [], operands, y, (k + 4) * (U * s + 2.0**-149))

    for dtype in BLOCKS:
        q, one = NAMES[dtype], ELEMENTS[dtype]
        for n in (1, 3, 8):
            for k in kinds_of(dtype):
                case(f"{q} k {k} n {n}", dtype, k, 3, n)
            for layout in LAYOUTS if n != 3 else ():
                case(f"{q} {layout} n {n}", dtype, one, 2, n, (2, 1), (1, 1), layouts=("dense", layout, "dense"))
            case(f"{q} heads 3:2 n {n}", dtype, one, 2, n, (3, 2), (3, 2))
            case(f"{q} f16 by bf16 n {n}", dtype, one, 2, n, types=(F16, BF16), kind="tiny")
        case(f"{q} k 0", dtype, 0, 3, 2)
        case(f"{q} {67 if one == 32 else 9} rows, 8 columns", dtype, one, 67 if one == 32 else 9, 8)
        odd = bytearray(some_block(dtype))
        at = 208 if dtype == Q6_K else 0
        odd[at : at + 2] = struct.pack("<H", 0x7E00)
        for n in (1, 9):
            case(f"{q} nan scale n {n}", dtype, one, 2, n, blocks=[bytes(odd), some_block(dtype)])
        w, _ = blocks_tensor(dtype, (one, 4, 1, 1))
        x, good = tensor(v.draw((one, 2, 1, 1)), F32), view(F32, (4, 2))
        refused(MUL_MAT, f"{q} activations", [], [good, w, blocks_view(dtype, (one, 2))], BAD_TYPE, 3)
        refused(MUL_MAT, f"{q} destination", [], [blocks_view(dtype, (one, 2)), w, x], BAD_TYPE, 1)
        refused(MUL_MAT, f"{q} k differs", [], [good, w, tensor(v.draw((2 * one, 2, 1, 1)), F32)], BAD_SHAPE, 3)
        broken = Blocks(dtype, [one + 8, 4, 1, 1], w.nb, w.buffer)
        refused(MUL_MAT, f"{q} part of a block", [], [good, broken, tensor(v.draw((one + 8, 2, 1, 1)), F32)], BAD_SHAPE, 2, launch_only=True)
        far = Blocks(dtype, [one, 4, 1, 1], [w.nb[0], 1 << 62, 0, 0], w.buffer)
        refused(MUL_MAT, f"{q} stride 2^62", [], [good, far, x], BAD_STRIDE, 2, launch_only=True)


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
    assert total < 1 << 20, total


FILES = [("get_rows_blocks", GET_ROWS, get_rows), ("mul_mat_blocks", MUL_MAT, mul_mat)]

if __name__ == "__main__":
    main()
