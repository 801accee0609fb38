"""Writes the vectors of MUL_MAT_ID, and of blocks that are made: docs/kernels.md 1.8, 3.2, 4.1 and 7.5.

Written from docs/kernels.md alone, as make_vectors.py, whose format and views it shares. Blocks are those of
make_blocks.py.

    python3 make_experts.py [DIRECTORY]
"""

import struct
import sys
from pathlib import Path

import numpy as np

import make_blocks as blocks
import make_vectors as v
from make_blocks import BYTES, ELEMENTS, Q4_0, Q4_K, Q6_K, Q8_0, blocks_tensor, blocks_view
from make_vectors import (
    BAD_ARGUMENTS, BAD_SHAPE, BAD_STRIDE, BAD_TYPE, BF16, COPY, F16, F32, I32, I64, INDEX_RANGE, LAYOUTS, NAMES, OVERLAP,
    RESERVED_FIELD, SET_ROWS, U, Operand, draw, encode, exact, near, refused, short, tensor, view,
)

MUL_MAT_ID = 15
MADE = (Q8_0, Q4_0)
PLAIN = ("dense",) * 4

rng = np.random.default_rng(20261127)
v.rng = rng
blocks.rng = rng


# MUL_MAT_ID --------------------------------------------------------------------------------------

def product(w, x, ids):
    """The formula in binary64, and the sums of magnitudes. w[e][m][k], x[t][u][k], ids[t][s]."""
    tokens, used = ids.shape
    y, s = np.zeros((1, tokens, used, w.shape[1])), np.zeros((1, tokens, used, w.shape[1]))
    for t in range(tokens):
        for slot in range(used):
            a, b = w[ids[t, slot]], x[t, slot % x.shape[1]]
            with np.errstate(invalid="ignore"):
                y[0, t, slot] = (a * b).sum(axis=1)
                s[0, t, slot] = np.abs(a * b).sum(axis=1)
    return y, s


def mul_mat_id():
    def case(name, k, m, experts, u, used, tokens, types=(F32, F32, F32), layouts=PLAIN, index=I32, kind="normal", ids=None):
        if types[1] in blocks.BLOCKS:
            w, a = blocks_tensor(types[1], (k, m, experts), layouts[1], kind)
        else:
            a = draw((k, m, experts, 1), kind, types[1])
            w = tensor(a, types[1], layouts[1])
        x = draw((k, u, tokens, 1), "normal", types[2])
        if ids is None:
            ids = rng.integers(0, experts, (tokens, used))
        y, s = product(a[0], x[0], ids)
        operands = [
            view(types[0], (m, used, tokens), layouts[0]), w, tensor(x, types[2], layouts[2]), tensor(ids, index, layouts[3]),
        ]
        near(MUL_MAT_ID, name, [], operands, y, (k + 4) * (U * s + 2.0**-149))

    for tokens in (1, 5, 33):
        for u, used in ((1, 2), (2, 2), (1, 1), (2, 4)):
            case(f"{tokens} tokens, {u} of {used}", 17, 3, 4, u, used, tokens)
    for types in ((F32, F16, F32), (F32, BF16, F32), (F16, F32, F16), (BF16, F16, BF16), (F32, F32, F16)):
        for tokens in (1, 12):
            case(f"types {short(*types)}, {tokens}", 33, 3, 3, 1, 2, tokens, types)
    for dtype in blocks.BLOCKS:
        for tokens in (1, 12):
            case(f"{NAMES[dtype]}, {tokens} tokens", ELEMENTS[dtype], 2, 3, 2, 2, tokens, (F32, dtype, F32))
        case(f"{NAMES[dtype]} padded", ELEMENTS[dtype], 2, 2, 1, 2, 2, (F32, dtype, F32), ("dense", "padded", "dense", "dense"))
    for layout in LAYOUTS:
        for at, what in enumerate(("dst", "weights", "x", "ids")):
            layouts = ["dense"] * 4
            layouts[at] = layout
            case(f"{what} {layout}", 7, 3, 3, 2, 2, 4, layouts=layouts)
    case("ids of more experts than used", 9, 2, 6, 1, 2, 5, layouts=("dense", "dense", "dense", {"gap": (4, 0, 0, 0)}))
    case("ids of 64 bits", 9, 2, 6, 1, 2, 5, index=I64)
    case("one expert takes all", 65, 70, 3, 1, 2, 20, ids=np.full((20, 2), 1))
    case("an expert twice", 9, 2, 3, 2, 2, 3, ids=np.array([[2, 2], [0, 0], [2, 0]]))
    case("k 0", 0, 3, 2, 1, 2, 3)
    case("tiny", 33, 3, 2, 1, 2, 3, kind="tiny")
    case("mixed", 33, 3, 2, 1, 2, 9, kind="mixed")
    for m, used, tokens in ((0, 2, 3), (3, 0, 3), (3, 2, 0)):
        case(f"empty {m} {used} {tokens}", 5, m, 2, 1, used, tokens)

    def operands(**other):
        these = {
            "dst": view(F32, (3, 2, 4)),
            "w": tensor(draw((5, 3, 6, 1)), F32),
            "x": tensor(draw((5, 1, 4, 1)), F32),
            "ids": tensor(np.array([[0, 5], [1, 2], [3, 4], [5, 0]]), I32),
        }
        these.update(other)
        return list(these.values())

    def bad(name, code, operand=0, params=(), **other):
        refused(MUL_MAT_ID, name, list(params), operands(**other), code, operand)

    for value, index in ((-1, I32), (6, I32), (6, I64), (1 << 32, I64), (-(1 << 63), I64)):
        bad(f"expert {value} {NAMES[index]}", INDEX_RANGE, 4, ids=tensor(np.array([[0, 5], [1, 2], [3, 4], [5, value]]), index))
    bad("no experts", INDEX_RANGE, 4, w=tensor(np.zeros((1, 0, 3, 5)), F32))
    bad("real ids", BAD_TYPE, 4, ids=tensor(np.zeros((4, 2)), F32))
    bad("integer weights", BAD_TYPE, 2, w=tensor(np.zeros((1, 6, 3, 5), np.int64), I32))
    bad("integer activations", BAD_TYPE, 3, x=tensor(np.zeros((1, 4, 1, 5), np.int64), I32))
    bad("activations in blocks", BAD_TYPE, 3, x=blocks_view(Q8_0, (32, 1, 4)))
    bad("integer destination", BAD_TYPE, 1, dst=view(I32, (3, 2, 4)))
    bad("k differs", BAD_SHAPE, 3, x=tensor(draw((6, 1, 4, 1)), F32))
    bad("m differs", BAD_SHAPE, 1, dst=view(F32, (4, 2, 4)))
    bad("tokens differ", BAD_SHAPE, 3, x=tensor(draw((5, 1, 3, 1)), F32))
    bad("3 rows for 2 slots", BAD_SHAPE, 3, x=tensor(draw((5, 3, 4, 1)), F32))
    bad("no rows for 2 slots", BAD_SHAPE, 3, x=view(F32, (5, 0, 4)))
    bad("ids of 3 slots", BAD_SHAPE, 4, ids=tensor(np.zeros((4, 3), np.int64), I32))
    bad("ids of 5 tokens", BAD_SHAPE, 4, ids=tensor(np.zeros((5, 2), np.int64), I32))
    bad("ids of two batches", BAD_SHAPE, 4, ids=tensor(np.zeros((2, 4, 2), np.int64), I32))
    bad("weights of two batches", BAD_SHAPE, 2, w=tensor(draw((5, 3, 6, 2)), F32))
    bad("activations of two batches", BAD_SHAPE, 3, x=tensor(draw((5, 1, 4, 2)), F32))
    bad("a word that is not named", RESERVED_FIELD, 0, params=[1])
    bad("destination repeated", BAD_STRIDE, 1, dst=view(F32, (3, 2, 4), {"repeat": (1,)}))
    refused(MUL_MAT_ID, "3 operands", [], operands()[:3], BAD_ARGUMENTS)
    refused(MUL_MAT_ID, "5 operands", [], operands() + [tensor(draw((1, 1, 1, 1)), F32)], BAD_ARGUMENTS)
    for at, what in ((1, "weights"), (2, "activations"), (3, "ids")):
        these = operands()
        these[at].buffer.extend(bytes(256))
        over = Operand(F32, these[0].ne, these[0].nb, these[at].buffer, 0)
        refused(MUL_MAT_ID, f"destination in {what}", [], [over, *these[1:]], OVERLAP, at + 1)


# Blocks that are made ----------------------------------------------------------------------------

def f4(value):
    return np.float32(value)


def scale_bytes(d):
    with np.errstate(over="ignore"):
        return np.float16(d).astype("<f2").tobytes()


def made(dtype, values):
    """The block of 32 values, each step in binary32: Kernels 1.8."""
    x = [f4(value) for value in values]
    if not np.isfinite(np.array(x)).all():
        return bytes([0x00, 0x7E]) + bytes(BYTES[dtype] - 2)
    with np.errstate(over="ignore", divide="ignore", under="ignore"):
        if dtype == Q8_0:
            most = f4(max(abs(value) for value in x))
            d, inverse = most / f4(127), f4(127) / most
        else:
            top = f4(0)
            for value in x:
                if abs(value) > abs(top):
                    top = value
            d = top / f4(-8)
            inverse = f4(1) / d
        if not np.isfinite(inverse):
            inverse = f4(0)
        if dtype == Q8_0:
            q = [int(np.rint(value * inverse)) for value in x]
            assert all(-127 <= n <= 127 for n in q)
            return scale_bytes(d) + struct.pack("32b", *q)
        q = [min(15, int(f4(value * inverse) + f4(8.5))) for value in x]
    return scale_bytes(d) + bytes(q[i] + 16 * q[i + 16] for i in range(16))


def all_made(dtype, values):
    return [made(dtype, row) for row in np.asarray(values).reshape(-1, 32)]


def odd_values(name):
    x = draw((32, 1, 1, 1)).reshape(32)
    if name == "zeros":
        x = np.zeros(32)
    elif name == "minus zeros":
        x = -np.zeros(32)
    elif name == "halves":
        x = np.arange(32) / 2 - 8.0
        x[31] = 127
    elif name == "equal magnitudes":
        x = np.where(np.arange(32) % 2 == 0, 3.0, -3.0)
    elif name == "minus first":
        x = np.where(np.arange(32) % 2 == 0, -3.0, 3.0)
    elif name == "infinity":
        x[7] = np.inf
    elif name == "nan":
        x[31] = np.nan
    elif name == "scale beyond f16":
        x *= 1e30
    elif name == "greatest":
        x[3] = np.finfo(np.float32).max
    elif name == "subnormal":
        x *= 1e-42
    elif name == "scale subnormal in f16":
        x *= 1e-5
    return v.held(x, F32)


ODD = (
    "zeros", "minus zeros", "halves", "equal magnitudes", "minus first", "infinity", "nan", "scale beyond f16", "greatest",
    "subnormal", "scale subnormal in f16",
)


def set_rows():
    def case(name, dtype, n, rows, r, batch=(1, 1), other=(1, 1), source=F32, layouts=PLAIN, index=I64, values=None, which=None):
        b, c = batch
        x = draw((n, r, b, c), "mixed", source) if values is None else np.asarray(values).reshape(c, b, r, n)
        if which is None:
            which = np.array([[rng.permutation(rows)[:r] for _ in range(b // other[0])] for _ in range(c // other[1])])
        dst = blocks_view(dtype, (n, rows, b, c), layouts[0])
        count = n // 32
        result = dst.take()
        for l in range(c):
            for j in range(b):
                for i in range(r):
                    row = which[l % which.shape[0], j % which.shape[1], i]
                    at = ((l * b + j) * rows + row) * count
                    result[at : at + count] = all_made(dtype, x[l, j, i])
        exact(SET_ROWS, name, [], [dst, tensor(x, source, layouts[1]), tensor(which, index, layouts[2])], b"".join(result))

    for dtype in MADE:
        q = NAMES[dtype]
        for n in (32, 96, 1056):
            case(f"{q} n {n}", dtype, n, 5, 2)
        for source in (F32, F16, BF16):
            case(f"{q} of {NAMES[source]}", dtype, 64, 3, 2, source=source, index=I32)
        for layout in LAYOUTS:
            case(f"{q} dst {layout}", dtype, 64, 3, 2, (2, 1), layouts=(layout, "dense", "dense"))
            case(f"{q} source {layout}", dtype, 64, 3, 2, (2, 1), layouts=("dense", layout, "dense"))
        case(f"{q} indices repeated", dtype, 32, 4, 3, (4, 2), (2, 2))
        case(f"{q} the last of equal stays", dtype, 32, 2, 3, which=np.array([[[1, 0, 1]]]))
        for odd in ODD:
            case(f"{q} {odd}", dtype, 32, 2, 1, values=odd_values(odd))
        x, which = tensor(draw((32, 2, 1, 1)), F32), tensor(np.array([[[0, 3]]]), I64)
        refused(SET_ROWS, f"{q} row 3 of 3", [], [blocks_view(dtype, (32, 3)), x, which], INDEX_RANGE, 3)
        refused(SET_ROWS, f"{q} source", [], [view(F32, (32, 4)), blocks_tensor(dtype, (32, 2))[0], which], BAD_TYPE, 2)
        refused(SET_ROWS, f"{q} length differs", [], [blocks_view(dtype, (64, 4)), x, which], BAD_SHAPE, 2)
        folded = blocks_view(dtype, (64, 4))
        folded.nb[0] -= 2
        x = tensor(draw((64, 2, 1, 1)), F32)
        refused(SET_ROWS, f"{q} blocks that meet", [], [folded, x, which], BAD_STRIDE, 1)
    for dtype in (Q4_K, Q6_K):
        x, which = tensor(draw((256, 2, 1, 1)), F32), tensor(np.array([[[0, 3]]]), I64)
        refused(SET_ROWS, f"{NAMES[dtype]} is not made", [], [blocks_view(dtype, (256, 4)), x, which], BAD_TYPE, 1)


def copy():
    def make(name, dtype, to, of, source=F32, layouts=PLAIN, values=None):
        x = draw(of, "mixed", source) if values is None else np.asarray(values).reshape(tuple(reversed(of)))
        operands = [blocks_view(dtype, to, layouts[0]), tensor(x, source, layouts[1])]
        exact(COPY, name, [], operands, b"".join(all_made(dtype, x)))

    def undo(name, dtype, to, of, target=F32, layouts=PLAIN):
        src, values = blocks_tensor(dtype, of, layouts[1])
        exact(COPY, name, [], [view(target, to, layouts[0]), src], encode(values, target))

    for dtype in MADE:
        q = NAMES[dtype]
        for source in (F32, F16, BF16):
            make(f"{NAMES[source]} to {q}", dtype, (64, 3, 2, 1), (64, 3, 2, 1), source)
        for layout in LAYOUTS:
            make(f"f32 to {q} {layout}", dtype, (64, 2, 2, 1), (64, 2, 2, 1), layouts=(layout, "dense"))
            make(f"f32 {layout} to {q}", dtype, (64, 2, 2, 1), (64, 2, 2, 1), layouts=("dense", layout))
        make(f"{q} of shorter rows", dtype, (96, 2, 1, 1), (3, 8, 8, 1))
        make(f"{q} of longer rows", dtype, (32, 3, 35, 1), (3360, 1, 1, 1))
        for odd in ODD:
            make(f"{q} {odd}", dtype, (32, 1, 1, 1), (32, 1, 1, 1), values=odd_values(odd))
        # Half of the greatest is 63.5 or beside it, by how 127 / a was rounded; ties are ODD's "halves".
        halves = draw((32, 64, 1, 1), "normal", F16)
        halves[..., 1::2] = np.abs(halves).max(axis=-1, keepdims=True) / 2
        make(f"{q} halves of the greatest", dtype, (32, 64, 1, 1), (32, 64, 1, 1), values=halves)
        make(f"{q} empty", dtype, (0, 3, 1, 1), (0, 3, 1, 1))
    for dtype in blocks.BLOCKS:
        q, n = NAMES[dtype], ELEMENTS[dtype]
        for target in (F32, F16, BF16):
            undo(f"{q} to {NAMES[target]}", dtype, (n, 3, 1, 1), (n, 3, 1, 1), target)
        undo(f"{q} to rows of 8", dtype, (8, n // 2, 1, 1), (2 * n, 2, 1, 1), layouts=("turned", "padded"))
        undo(f"{q} to one long row", dtype, (n * 15, 1, 1, 1), (n * 3, 5, 1, 1))
        for layout in LAYOUTS:
            src, _ = blocks_tensor(dtype, (2 * n, 2, 2), layout)
            exact(COPY, f"{q} {layout} to itself", [], [blocks_view(dtype, (4 * n, 2), "padded"), src], b"".join(src.take()))
        src, _ = blocks_tensor(dtype, (2 * n, 2))
        exact(COPY, f"{q} in place", [], [src, src], b"".join(src.take()))
        refused(COPY, f"{q} to i32", [], [view(I32, (2 * n, 2)), src], BAD_TYPE, 2)
        refused(COPY, f"{q}: sizes differ", [], [view(F32, (2 * n, 3)), src], BAD_SHAPE, 2)
        other = Q4_0 if dtype == Q8_0 else Q8_0
        refused(COPY, f"{q} to {NAMES[other]}", [], [blocks_view(other, (2 * n, 2)), src], BAD_TYPE, 2)
        whole = tensor(np.zeros((2, 2 * n), np.int64), I32)
        refused(COPY, f"i32 to {q}", [], [blocks_view(dtype, (2 * n, 2)), whole], BAD_TYPE, 2)
        src.buffer.extend(bytes(16 * n))
        over = Operand(F32, [2 * n, 2, 1, 1], [4, 8 * n, 16 * n, 16 * n], src.buffer, 0)
        refused(COPY, f"{q} overlap", [], [over, src], OVERLAP, 2)
    for dtype in (Q4_K, Q6_K):
        refused(COPY, f"{NAMES[dtype]} is not made", [], [blocks_view(dtype, (256, 2)), tensor(draw((256, 2, 1, 1)), F32)], BAD_TYPE, 2)


FILES = [("mul_mat_id", MUL_MAT_ID, mul_mat_id), ("set_rows_blocks", SET_ROWS, set_rows), ("copy_blocks", COPY, copy)]


def main():
    to = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    for name, kernel, make in FILES:
        v.cases = {kernel: []}
        v.names.clear()
        make()
        cases = v.cases[kernel]
        data = struct.pack("<8sII", b"JALPKVEC", 1, len(cases)) + b"".join(cases)
        (to / f"{name}.vec").write_bytes(data)
        print(f"{name:16} {len(cases):5} cases {len(data):8} bytes")
        assert len(data) < 1 << 20, name


if __name__ == "__main__":
    main()
