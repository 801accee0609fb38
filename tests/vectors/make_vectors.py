"""Writes the kernel vectors: cases of every kernel of docs/kernels.md with references in binary64.

Written from docs/kernels.md alone. README.md beside this file has the format. Needs numpy; make
never runs this, the vectors are committed.

    python3 make_vectors.py [DIRECTORY]
"""

import struct
import sys
from pathlib import Path

import numpy as np

F32, F16, I32, I64, BF16 = 0, 1, 26, 27, 30
REAL = (F32, F16, BF16)
SIZE = {F32: 4, F16: 2, I32: 4, I64: 8, BF16: 2}
NAMES = {F32: "f32", F16: "f16", I32: "i32", I64: "i64", BF16: "bf16"}
U = 2.0**-24

GET_ROWS, SET_ROWS, MUL_MAT, RMS_NORM, ROPE, SOFT_MAX, ADD, MUL, SCALE, SILU, SWIGLU, COPY, ARGMAX = range(1, 14)
FILES = {
    GET_ROWS: "get_rows", SET_ROWS: "set_rows", MUL_MAT: "mul_mat", RMS_NORM: "rms_norm", ROPE: "rope",
    SOFT_MAX: "soft_max", ADD: "add", MUL: "mul", SCALE: "scale", SILU: "silu", SWIGLU: "swiglu",
    COPY: "copy", ARGMAX: "argmax",
}

TOLERANCE, EXACT, REFUSED = 0, 1, 2
LAUNCH_ONLY = 1

RESERVED_FIELD, BAD_PARAMETER, UNKNOWN_KERNEL, BAD_ARGUMENTS = 0x0102, 0x0103, 0x0105, 0x0106
BAD_TYPE, BAD_SHAPE, BAD_STRIDE, INDEX_RANGE, OVERLAP = 0x0107, 0x0108, 0x0109, 0x010A, 0x010B
UNMAPPED_READ, UNMAPPED_WRITE, MISALIGNED = 0x0201, 0x0202, 0x0204

rng = np.random.default_rng(20261123)


# Numbers -----------------------------------------------------------------------------------------

def bf16_bits(values):
    """binary32 to bfloat16, nearest, ties to even, by hand on the bits."""
    with np.errstate(over="ignore"):
        bits = np.asarray(values, dtype=np.float64).astype(np.float32).view(np.uint32).astype(np.uint64)
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    half, odd = 0x7FFF, (bits >> 16) & 1
    rounded = (bits + half + odd) >> 16
    return np.where(nan, (bits >> 16) | 0x40, rounded).astype(np.uint16)


def encode(values, dtype):
    """The bytes of values, an array, rounded to a type."""
    values = np.ascontiguousarray(values)
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == F32:
            return values.astype("<f4").tobytes()
        if dtype == F16:
            # Kernels round to binary32 first (Kernels 2.1).
            return values.astype("<f4").astype("<f2").tobytes()
        if dtype == BF16:
            return bf16_bits(values).astype("<u2").tobytes()
        if dtype == I32:
            return values.astype("<i4").tobytes()
        return values.astype("<i8").tobytes()


def decode(data, dtype):
    if dtype == F32:
        return np.frombuffer(data, "<f4").astype(np.float64)
    if dtype == F16:
        return np.frombuffer(data, "<f2").astype(np.float64)
    if dtype == BF16:
        wide = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).astype(np.float64)
    return np.frombuffer(data, "<i4" if dtype == I32 else "<i8")


def held(values, dtype):
    """Values as a type holds them, in binary64."""
    values = np.asarray(values)
    return decode(encode(values, dtype), dtype).reshape(values.shape)


def f32_bits(value):
    return struct.unpack("<I", struct.pack("<f", value))[0]


def f32(value):
    return float(np.float32(value))


def draw(ne, kind="normal", dtype=F32):
    """An array of a shape, given fastest first; axes are slowest first."""
    shape = tuple(reversed(ne))
    x = rng.standard_normal(shape)
    if kind == "large":
        # Sums and products stay in range; squares of binary32 would not.
        x *= {F32: 1e30, F16: 1e4, BF16: 1e30}[dtype]
    elif kind == "tiny":
        x *= {F32: 1e-40, F16: 1e-6, BF16: 1e-39}[dtype]
    elif kind == "mixed":
        x *= 10.0 ** rng.integers(-4, 4, shape)
    elif kind == "ties":
        x = rng.integers(-2, 3, shape).astype(np.float64)
    return held(x, dtype)


# Operands ----------------------------------------------------------------------------------------

class Operand:
    """A strided view of a buffer."""

    def __init__(self, dtype, ne, nb, buffer, offset=0):
        self.dtype, self.ne, self.nb, self.buffer, self.offset = dtype, list(ne), list(nb), buffer, offset

    def offsets(self):
        at = np.full(tuple(reversed(self.ne)), self.offset, dtype=np.int64)
        for d in range(4):
            index = np.arange(self.ne[d], dtype=np.int64) * self.nb[d]
            at = at + index.reshape([-1 if axis == 3 - d else 1 for axis in range(4)])
        return at

    def store(self, values):
        data = encode(values, self.dtype)
        size = SIZE[self.dtype]
        for n, at in enumerate(self.offsets().ravel()):
            self.buffer[at : at + size] = data[n * size : (n + 1) * size]

    def load(self):
        size = SIZE[self.dtype]
        data = b"".join(bytes(self.buffer[at : at + size]) for at in self.offsets().ravel())
        return decode(data, self.dtype).reshape(tuple(reversed(self.ne)))


class Pattern(int):
    """A buffer of so many bytes whose byte i is (37 i + 11) mod 256."""


def pattern(count):
    return bytes((37 * i + 11) & 0xFF for i in range(count))


LAYOUTS = {
    "dense": {},
    "padded": {"gap": (3, 2, 1, 0)},
    "stepped": {"step": 2},
    "permuted": {"order": (0, 2, 1, 3)},
    "turned": {"order": (1, 0, 2, 3)},
    "reversed": {"order": (3, 2, 1, 0), "gap": (1, 0, 2, 0), "offset": 5},
}


def strides(ne, dtype, layout):
    """nb and the bytes reached, for sizes ne. `repeat` gives dimensions stride 0."""
    size = SIZE[dtype]
    nb, now = [0] * 4, size * layout.get("step", 1)
    gap, repeat = layout.get("gap", (0,) * 4), layout.get("repeat", ())
    for d in layout.get("order", range(4)):
        if d in repeat:
            continue
        nb[d] = now
        now = nb[d] * max(ne[d], 1) + gap[d] * size
    return nb, layout.get("offset", 0) * size


def view(dtype, ne, layout="dense"):
    """An operand over a new buffer of the pattern."""
    layout = LAYOUTS[layout] if isinstance(layout, str) else layout
    ne = list(ne) + [1] * (4 - len(ne))
    nb, offset = strides(ne, dtype, layout)
    reach = 0 if 0 in ne else sum((n - 1) * s for n, s in zip(ne, nb)) + SIZE[dtype]
    # A few bytes behind it show stores that go too far.
    return Operand(dtype, ne, nb, bytearray(pattern(offset + reach + 13)), offset)


def tensor(values, dtype, layout="dense"):
    """An operand that holds values; repeated dimensions take the first."""
    values = np.asarray(values)
    ne = list(reversed(values.shape)) + [1] * (4 - values.ndim)
    operand = view(dtype, ne, layout)
    operand.store(values.reshape(tuple(reversed(ne))))
    return operand


# Cases -------------------------------------------------------------------------------------------

cases = {kernel: [] for kernel in FILES}
names = set()


def pad8(data):
    return data + bytes(-len(data) % 8)


def emit(kernel, name, params, operands, kind, expected, flags=0):
    assert len(name.encode()) <= 32, name
    assert (kernel, name) not in names, name
    names.add((kernel, name))
    buffers = []
    for operand in operands:
        if not any(operand.buffer is buffer for buffer in buffers):
            buffers.append(operand.buffer)
    count = len(operands[0].offsets().ravel()) if kind != REFUSED else 0
    body = struct.pack("<16I", *(list(params) + [0] * (16 - len(params))))
    for operand in operands:
        buffer = next(i for i, buffer in enumerate(buffers) if buffer is operand.buffer)
        body += struct.pack("<II4I4QQ", buffer, operand.dtype, *operand.ne, *operand.nb, operand.offset)
    for buffer in buffers:
        if bytes(buffer) == pattern(len(buffer)):
            body += struct.pack("<Q", len(buffer) | 1 << 63)
        else:
            body += struct.pack("<Q", len(buffer)) + pad8(bytes(buffer))
    body += pad8(expected)
    head = struct.pack(
        "<IIIIIIQ32s", 64 + len(body), kernel, len(operands), len(buffers), kind, flags, count, name.encode()
    )
    assert len(head) == 64
    cases[kernel].append(head + body)


def near(kernel, name, params, operands, y, e):
    """A case whose result lies within e of y."""
    y = np.broadcast_to(np.asarray(y, np.float64), tuple(reversed(operands[0].ne)))
    e = np.broadcast_to(np.asarray(e, np.float64), y.shape)
    assert not np.isnan(e[np.isfinite(y)]).any()
    with np.errstate(over="ignore", invalid="ignore"):
        # Rounded up: a tolerance is never less than the document's.
        bound = np.nextafter(np.nan_to_num(e, nan=0, posinf=0).astype(np.float32), np.float32(np.inf))
    expected = np.ascontiguousarray(y, "<f8").tobytes() + bound.astype("<f4").tobytes()
    emit(kernel, name, params, operands, TOLERANCE, expected)


def exact(kernel, name, params, operands, data):
    """A case whose destination's elements, in logical order, have these bytes."""
    assert len(data) == operands[0].offsets().size * SIZE[operands[0].dtype]
    emit(kernel, name, params, operands, EXACT, data)


def refused(kernel, name, params, operands, code, operand=0, launch_only=False):
    """A case that is refused; operand counts from 1 as in a fault record, 0: none."""
    flags = LAUNCH_ONLY if launch_only else 0
    emit(kernel, name, params, operands, REFUSED, struct.pack("<II", code, operand), flags)


def short(*types):
    return "-".join(NAMES[t] for t in types)


SHAPES = [(1, 1, 1, 1), (3, 1, 1, 1), (17, 3, 1, 1), (33, 2, 2, 1), (255, 1, 1, 1), (4, 3, 2, 2), (1, 5, 3, 2)]
EMPTY = [(0, 2, 1, 1), (3, 0, 1, 1), (3, 2, 0, 1), (3, 2, 1, 0)]
PAIRS = [(F32, F32), (F32, F16), (F32, BF16), (F16, F32), (F16, F16), (BF16, F32), (BF16, BF16), (F16, BF16)]
KINDS = ["large", "tiny", "mixed"]


def shape_name(ne):
    return "x".join(str(n) for n in ne)


# 3 Rows by index ---------------------------------------------------------------------------------

def rows_at(values, which):
    """values[l, j, which[l, j, i], :]"""
    c, b, r = which.shape
    out = np.empty((c, b, r, values.shape[3]), values.dtype)
    for l in range(c):
        for j in range(b):
            out[l, j] = values[l, j][which[l, j]]
    return out


def get_rows():
    def case(name, ne, rows, types, layouts=("dense",) * 3, index=I32, kind="normal"):
        n, r, b, c = ne
        values = draw((n, rows, b, c), kind, types[1])
        which = rng.integers(0, rows, (1, c, b, r)) if rows else np.zeros((1, c, b, r), np.int64)
        table, indices = tensor(values, types[1], layouts[1]), tensor(which, index, layouts[2])
        data = encode(rows_at(values, which[0]), types[0])
        exact(GET_ROWS, name, [], [view(types[0], ne, layouts[0]), table, indices], data)

    for types in PAIRS:
        case(f"types {short(*types)}", (17, 5, 2, 1), 7, types, index=I64 if types[0] == F16 else I32)
    for ne in SHAPES:
        case(f"shape {shape_name(ne)}", ne, 4, (F32, BF16))
    for layout in LAYOUTS:
        case(f"dst {layout}", (5, 4, 3, 2), 6, (F32, F16), (layout, "dense", "dense"))
        case(f"table {layout}", (5, 4, 3, 2), 6, (F32, F32), ("dense", layout, "dense"))
        case(f"indices {layout}", (5, 4, 3, 2), 6, (F16, F32), ("dense", "dense", layout), I64)
    for ne in EMPTY:
        case(f"empty {shape_name(ne)}", ne, 3, (F32, F32))
    case("overflow to f16", (33, 3, 1, 1), 3, (F16, F32), kind="large")
    case("subnormal to f16", (33, 3, 1, 1), 3, (F16, BF16), kind="tiny")
    for index, bad in ((I32, -1), (I32, 5), (I64, 5), (I64, -1), (I64, 1 << 32), (I64, -(1 << 63)), (I32, -(1 << 31))):
        which = np.array([0, 4, bad, 2])
        operands = [view(F32, (3, 4)), tensor(draw((3, 5, 1, 1)), F32), tensor(which, index)]
        refused(GET_ROWS, f"index {bad} {NAMES[index]}", [], operands, INDEX_RANGE, 3)
    table, which = tensor(draw((3, 5, 2, 1)), F32), tensor(np.zeros((1, 2, 4), np.int64), I32)
    good = [view(F32, (3, 4, 2)), table, which]
    refused(GET_ROWS, "real indices", [], [good[0], table, tensor(np.zeros((1, 2, 4)), F32)], BAD_TYPE, 3)
    refused(GET_ROWS, "integer table", [], [good[0], tensor(np.zeros((1, 2, 5, 3), np.int64), I32), which], BAD_TYPE, 2)
    refused(GET_ROWS, "integer destination", [], [view(I32, (3, 4, 2)), table, which], BAD_TYPE, 1)
    refused(GET_ROWS, "row too short", [], [view(F32, (4, 4, 2)), table, which], BAD_SHAPE, 2)
    refused(GET_ROWS, "indices too few", [], [view(F32, (3, 5, 2)), table, which], BAD_SHAPE, 3)
    refused(GET_ROWS, "batches differ", [], [view(F32, (3, 4, 2, 2)), table, which], BAD_SHAPE)
    refused(GET_ROWS, "two operands", [], good[:2], BAD_ARGUMENTS)
    refused(GET_ROWS, "four operands", [], good + [which], BAD_ARGUMENTS)
    refused(GET_ROWS, "a word too many", [1], good, RESERVED_FIELD)


def set_rows():
    def case(name, ne, rows, types, layouts=("dense",) * 3, index=I64, broadcast=(1, 1), kind="normal", same=False):
        n, r, b, c = ne
        before, values = draw((n, rows, b, c), "normal", types[0]), draw(ne, kind, types[1])
        shape = (1, c // broadcast[1] if c else 0, b // broadcast[0] if b else 0, r)
        which = rng.integers(0, max(rows, 1), shape)
        if not same and r <= rows:
            for place in np.ndindex(shape[:3]):
                which[place] = rng.permutation(rows)[:r]
        dst = tensor(before, types[0], layouts[0])
        after = held(before, types[0])
        for l in range(c):
            for j in range(b):
                for i in range(r):
                    row = which[0, l % shape[1], j % shape[2], i]
                    after[l, j, row] = held(values[l, j, i], types[0])
        operands = [dst, tensor(values, types[1], layouts[1]), tensor(which, index, layouts[2])]
        exact(SET_ROWS, name, [], operands, encode(after, types[0]))

    for types in PAIRS:
        case(f"types {short(*types)}", (17, 3, 2, 1), 7, types, index=I32 if types[0] == F16 else I64)
    for ne in SHAPES:
        case(f"shape {shape_name(ne)}", ne, 6, (F16, F32))
    for layout in LAYOUTS:
        case(f"dst {layout}", (5, 2, 3, 2), 4, (F16, F32), (layout, "dense", "dense"))
        case(f"src {layout}", (5, 2, 3, 2), 4, (F32, F32), ("dense", layout, "dense"))
        case(f"indices {layout}", (5, 2, 3, 2), 4, (BF16, F32), ("dense", "dense", layout))
    case("broadcast 3", (4, 3, 6, 2), 5, (F16, F32), broadcast=(3, 1))
    case("broadcast 2 and 4", (4, 3, 2, 4), 5, (F32, F32), broadcast=(2, 4))
    case("broadcast cyclic", (2, 2, 6, 4), 5, (F32, F32), broadcast=(2, 2))
    case("equal indices, the last stays", (3, 9, 2, 1), 2, (F32, F32), same=True)
    for ne in EMPTY[1:]:
        n, r, b, c = ne
        dst = tensor(draw((n, 3, b, c)), F32) if b and c else view(F32, (n, 3, b, c))
        indices = view(I64, (r, b, c, 1))
        exact(SET_ROWS, f"empty {shape_name(ne)}", [], [dst, view(F32, ne), indices], encode(dst.load(), F32))
    case("overflow to f16", (33, 2, 1, 1), 3, (F16, F32), kind="large")
    for index, bad in ((I32, -1), (I32, 5), (I64, 5), (I64, 1 << 33)):
        operands = [view(F32, (3, 5)), tensor(draw((3, 4, 1, 1)), F32), tensor(np.array([0, 4, bad, 2]), index)]
        refused(SET_ROWS, f"index {bad} {NAMES[index]}", [], operands, INDEX_RANGE, 3)
    dst, src, which = view(F32, (3, 5, 4)), tensor(draw((3, 2, 4, 1)), F32), tensor(np.zeros((1, 4, 2), np.int64), I64)
    refused(SET_ROWS, "indices of 3 for 4", [], [dst, src, tensor(np.zeros((1, 3, 2), np.int64), I64)], BAD_SHAPE, 3)
    refused(SET_ROWS, "row too long", [], [view(F32, (2, 5, 4)), src, which], BAD_SHAPE, 2)
    refused(SET_ROWS, "batches differ", [], [view(F32, (3, 5, 3)), src, which], BAD_SHAPE, 2)
    refused(SET_ROWS, "indices missing", [], [dst, src, tensor(np.zeros((1, 4, 1), np.int64), I64)], BAD_SHAPE, 3)
    refused(SET_ROWS, "real indices", [], [dst, src, tensor(np.zeros((1, 4, 2)), F32)], BAD_TYPE, 3)
    refused(SET_ROWS, "integer source", [], [dst, tensor(np.zeros((1, 4, 2, 3), np.int64), I32), which], BAD_TYPE, 2)
    repeated = view(F32, (3, 5, 4), {"repeat": (2,)})
    refused(SET_ROWS, "destination repeated", [], [repeated, src, which], BAD_STRIDE, 1)
    over = Operand(F32, [3, 2, 4, 1], dst.nb, dst.buffer, dst.offset)
    refused(SET_ROWS, "source in destination", [], [dst, over, which], OVERLAP, 2)


# 4 MUL_MAT ---------------------------------------------------------------------------------------

def mul_mat():
    def case(name, k, m, n, batch=(1, 1), ratio=(1, 1), types=(F32, F32, F32), layouts=("dense",) * 3, kinds=("normal",) * 2, plant=None):
        b, c = batch
        w = draw((k, m, b // ratio[0], c // ratio[1]), kinds[0], types[1])
        x = draw((k, n, b, c), kinds[1], types[2])
        if plant:
            plant(w, x)
        y, s = np.zeros((c, b, n, m)), np.zeros((c, b, n, m))
        for h in range(c):
            for g in range(b):
                a = w[h // ratio[1], g // ratio[0]]
                with np.errstate(invalid="ignore"):
                    y[h, g] = x[h, g] @ a.T
                    s[h, g] = np.abs(x[h, g]) @ np.abs(a).T
        operands = [view(types[0], (m, n, b, c), layouts[0]), tensor(w, types[1], layouts[1]), tensor(x, types[2], layouts[2])]
        near(MUL_MAT, name, [], operands, y, (k + 4) * (U * s + 2.0**-149))

    for types in [(F32, w, x) for w in REAL for x in REAL] + [(F16, F16, F32), (BF16, BF16, F32), (F16, F32, F16), (BF16, BF16, BF16)]:
        case(f"one row {short(*types)}", 70, 5, 1, types=types)
        case(f"many rows {short(*types)}", 35, 6, 9, types=types)
    for k in (1, 3, 17, 33, 64, 129, 255):
        case(f"k {k}", k, 3, 2, types=(F32, F16, F32))
        case(f"k {k}, 8 columns", k, 3, 8, types=(F32, BF16, F32))
    for m, n in ((1, 1), (3, 1), (17, 1), (255, 1), (1, 17), (33, 17), (65, 8), (64, 7), (129, 9)):
        case(f"m {m} n {n}", 5, m, n, types=(F32, F32, F32))
    for ratio in ((2, 1), (4, 1), (1, 2), (3, 2)):
        for n in (1, 9):
            case(f"heads {ratio[0]}:{ratio[1]} n {n}", 8, 3, n, (6 if ratio[0] == 3 else 4, 2), ratio, (F32, F16, F32))
    for layout in LAYOUTS:
        for n in (2, 9):
            case(f"dst {layout} n {n}", 6, 5, n, (2, 2), layouts=(layout, "dense", "dense"))
            case(f"weights {layout} n {n}", 6, 5, n, (2, 2), (2, 1), (F32, F16, F32), ("dense", layout, "dense"))
            case(f"activations {layout} n {n}", 6, 5, n, (2, 2), layouts=("dense", "dense", layout))
    for n in (1, 9):
        case(f"k 0 n {n}", 0, 4, n)
        case(f"large n {n}", 20, 4, n, types=(F32, BF16, F32), kinds=("large", "normal"))
        case(f"tiny n {n}", 20, 4, n, types=(F32, F32, F32), kinds=("tiny", "normal"))
        case(f"mixed n {n}", 40, 4, n, types=(F32, BF16, F32), kinds=("mixed", "mixed"))
        case(f"f16 overflows n {n}", 40, 4, n, types=(F16, F16, F32), kinds=("large", "large"))

        def infinite(w, x):
            w[0, 0, 1, 2] = np.inf
            x[0, 0, 0, 2] = 1.0
        def nan(w, x):
            x[0, 0, 0, 1] = np.nan
        case(f"infinite weight n {n}", 5, 3, n, types=(F32, F16, F32), plant=infinite)
        case(f"nan activation n {n}", 5, 3, n, plant=nan)
    for dims in ((0, 3, 2, 1), (4, 0, 2, 1), (4, 3, 0, 1), (4, 3, 2, 0)):
        m, n, b, c = dims
        operands = [view(F32, dims), view(F32, (5, m, 1, 1)), view(F32, (5, n, b, c))]
        near(MUL_MAT, f"empty {shape_name(dims)}", [], operands, 0.0, 0.0)
    d, w, x = view(F32, (4, 3, 4, 1)), tensor(draw((5, 4, 2, 1)), F32), tensor(draw((5, 3, 4, 1)), F32)
    refused(MUL_MAT, "k differs", [], [d, tensor(draw((6, 4, 2, 1)), F32), x], BAD_SHAPE)
    refused(MUL_MAT, "m differs", [], [view(F32, (5, 3, 4, 1)), w, x], BAD_SHAPE)
    refused(MUL_MAT, "n differs", [], [view(F32, (4, 2, 4, 1)), w, x], BAD_SHAPE)
    refused(MUL_MAT, "3 heads for 4", [], [d, tensor(draw((5, 4, 3, 1)), F32), x], BAD_SHAPE, 2)
    refused(MUL_MAT, "more weights than heads", [], [d, tensor(draw((5, 4, 8, 1)), F32), x], BAD_SHAPE, 2)
    refused(MUL_MAT, "no weight heads", [], [d, view(F32, (5, 4, 0, 1)), x], BAD_SHAPE, 2)
    refused(MUL_MAT, "integer weights", [], [d, tensor(np.zeros((1, 2, 4, 5), np.int64), I32), x], BAD_TYPE, 2)
    refused(MUL_MAT, "integer destination", [], [view(I32, (4, 3, 4, 1)), w, x], BAD_TYPE, 1)
    refused(MUL_MAT, "two operands", [], [d, w], BAD_ARGUMENTS)
    refused(MUL_MAT, "a word too many", [0] * 15 + [1], [d, w, x], RESERVED_FIELD)
    over = Operand(F32, d.ne, d.nb, x.buffer, 0)
    x.buffer.extend(bytes(64))
    refused(MUL_MAT, "destination in activations", [], [over, w, x], OVERLAP, 3)
    refused(MUL_MAT, "destination repeated", [], [view(F32, (4, 3, 4, 1), {"repeat": (1,)}), w, x], BAD_STRIDE, 1)


# 5 Rows ------------------------------------------------------------------------------------------

def unary_cases(kernel, case):
    """Types, shapes, strides, sizes and empties of a kernel with one source of the same shape."""
    for types in PAIRS:
        case(f"types {short(*types)}", (33, 2, 1, 1), types)
    for ne in SHAPES:
        case(f"shape {shape_name(ne)}", ne, (F32, F32))
    for layout in LAYOUTS:
        case(f"dst {layout}", (5, 4, 3, 2), (F32, F16), (layout, "dense"))
        case(f"src {layout}", (5, 4, 3, 2), (F16, F32), ("dense", layout))
    case("src repeated", (5, 4, 3, 1), (F32, F32), ("dense", {"repeat": (1,)}))
    case("long row", (1300, 1, 1, 1), (F32, F16))
    for ne in EMPTY:
        case(f"empty {shape_name(ne)}", ne, (F32, F32))
    for kind in KINDS:
        for types in ((F32, F32), (BF16, BF16)):
            case(f"{kind} {short(*types)}", (33, 2, 1, 1), types, kind=kind)
    case("in place", (17, 3, 1, 1), (F32, F32), in_place=True)
    case("in place, strided", (17, 3, 2, 1), (F16, F16), ("reversed",) * 2, in_place=True)


def unary_operands(ne, types, layouts, kind, in_place=False, values=None):
    values = draw(ne, kind, types[1]) if values is None else held(values, types[1])
    layout = layouts[1]
    if isinstance(layout, dict):
        for d in layout["repeat"]:
            values = np.repeat(np.take(values, [0], 3 - d), ne[d], 3 - d)
    src = tensor(values, types[1], layout)
    return values, [src if in_place else view(types[0], ne, layouts[0]), src]


def unary_refusals(kernel, params):
    src = tensor(draw((3, 4, 2, 1)), F32)
    dst = view(F32, (3, 4, 2, 1))
    refused(kernel, "one operand", params, [dst], BAD_ARGUMENTS)
    refused(kernel, "integer source", params, [dst, tensor(np.zeros((1, 2, 4, 3), np.int64), I32)], BAD_TYPE, 2)
    refused(kernel, "integer destination", params, [view(I32, (3, 4, 2, 1)), src], BAD_TYPE, 1)
    for d in range(4):
        ne = [3, 4, 2, 1]
        ne[d] += 1
        refused(kernel, f"dimension {d} differs", params, [view(F32, ne), src], BAD_SHAPE, 2)
    refused(kernel, "destination repeated", params, [view(F32, (3, 4, 2, 1), {"repeat": (1,)}), src], BAD_STRIDE, 1)
    folded = Operand(F32, [3, 4, 2, 1], [4, 8, 48, 96], bytearray(256), 0)
    refused(kernel, "destination folds over itself", params, [folded, src], BAD_STRIDE, 1)
    shifted = Operand(F32, src.ne, src.nb, src.buffer, 4)
    src.buffer.extend(bytes(8))
    refused(kernel, "shifted by an element", params, [shifted, src], OVERLAP, 2)
    refused(kernel, "a word too many", [0] * 11 + [7], [dst, src], RESERVED_FIELD)


def rms_norm():
    def case(name, ne, types, layouts=("dense",) * 2, kind="normal", epsilon=1e-5, in_place=False, values=None):
        values, operands = unary_operands(ne, types, layouts, kind, in_place, values)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.mean(values**2, axis=3, keepdims=True) if ne[0] else 1.0
            y = values / np.sqrt(mean + f32(epsilon))
        near(RMS_NORM, name, [f32_bits(epsilon)], operands, y, 8 * U * np.abs(y))

    unary_cases(RMS_NORM, case)
    case("epsilon 0", (9, 2, 1, 1), (F32, F32), epsilon=0.0)
    case("epsilon 10", (9, 2, 1, 1), (F32, F32), epsilon=10.0)
    case("the largest f32", (7, 1, 1, 1), (F32, F32), values=np.full((1, 1, 1, 7), 3.4e38))
    case("the smallest f32, epsilon 0", (7, 1, 1, 1), (F32, F32), epsilon=0.0, values=np.full((1, 1, 1, 7), 2.0**-149))
    case("zeros", (4, 1, 1, 1), (F32, F32), values=np.zeros((1, 1, 1, 4)))
    case("zeros, epsilon 0", (4, 1, 1, 1), (F32, F32), epsilon=0.0, values=np.zeros((1, 1, 1, 4)))
    case("nan in one row", (4, 2, 1, 1), (F32, F32), values=np.array([[[[1, np.nan, 2, 3], [1, 2, 3, 4]]]]))
    case("infinity in one row", (4, 2, 1, 1), (F32, F32), values=np.array([[[[1, np.inf, 2, 3], [1, 2, 3, 4]]]]))
    unary_refusals(RMS_NORM, [f32_bits(1e-5)])
    good = [view(F32, (3, 4)), tensor(draw((3, 4, 1, 1)), F32)]
    for value in (-1.0, float("nan"), float("inf")):
        refused(RMS_NORM, f"epsilon {value}", [f32_bits(value)], good, BAD_PARAMETER)


def soft_max():
    def case(name, ne, types, layouts=("dense",) * 2, kind="normal", scale=1.0, mask=None, bias=0.0, in_place=False, values=None):
        values, operands = unary_operands(ne, types, layouts, kind, in_place, values)
        z = values * f32(scale)
        size = np.abs(z)
        if mask is not None:
            m, dtype, layout = mask
            held_mask = held(m, dtype)
            operands.append(tensor(held_mask, dtype, layout))
            heads = ne[2]
            power = 1 << (heads.bit_length() - 1)
            for l in range(ne[3]):
                for g in range(heads):
                    slope = 1.0
                    if bias:
                        b = f32(bias)
                        slope = 2 ** (-b * (g + 1) / power) if g < power else 2 ** (-b * (2 * (g - power) + 1) / (2 * power))
                    part = slope * held_mask[l % m.shape[0], g % m.shape[1], : ne[1]]
                    z[l, g] += part
                    size[l, g] += np.abs(part)
        if ne[0]:
            with np.errstate(invalid="ignore"):
                top = z.max(axis=3, keepdims=True)
                power_of = np.exp(z - top)
                y = power_of / power_of.sum(axis=3, keepdims=True)
            y = np.where(np.broadcast_to(top == -np.inf, y.shape), 0.0, y)
            a = np.where(np.isfinite(size), size, 0).max(axis=3, keepdims=True)
        else:
            y, a = z, 0.0
        near(SOFT_MAX, name, [f32_bits(scale), f32_bits(bias)], operands, y, (16 + 8 * a) * U * np.abs(y) + 2.0**-140)

    def masked(case_name, ne, types, layouts=("dense",) * 2, kind="normal", **more):
        case(case_name, ne, types, layouts, "normal" if kind == "large" and types[1] != F16 else kind, **more)

    unary_cases(SOFT_MAX, masked)
    case("large: one wins", (33, 2, 1, 1), (F32, F32), kind="large")
    case("scale 0.125", (33, 2, 1, 1), (F32, F32), scale=0.125)
    case("scale -3", (17, 2, 1, 1), (F32, F16), scale=-3.0)
    case("scale 0", (17, 2, 1, 1), (F32, F32), scale=0.0)

    def causal(n, rows, b=1, c=1):
        m = np.zeros((c, b, rows, n))
        for row in range(rows):
            m[:, :, row, max(1, n - rows + row + 1) :] = -np.inf
        return m

    for dtype in REAL:
        case(f"causal mask {NAMES[dtype]}", (17, 5, 3, 1), (F32, F32), scale=0.3, mask=(causal(17, 5), dtype, "dense"))
    for layout in LAYOUTS:
        case(f"mask {layout}", (9, 4, 4, 2), (F32, F32), mask=(draw((9, 4, 2, 2)), F16, layout))
    case("mask with more rows", (9, 4, 2, 1), (F32, F32), mask=(draw((9, 7, 1, 1)), F32, "dense"))
    case("mask cyclic over heads", (5, 2, 6, 4), (F32, F32), mask=(draw((5, 2, 3, 2)), F32, "dense"))
    for heads in (1, 2, 3, 8, 12):
        case(f"bias 8, {heads} heads", (6, 2, heads, 1), (F32, F32), mask=(-np.abs(draw((6, 2, 1, 1), "mixed")) , F32, "dense"), bias=8.0)
    case("bias and minus infinity", (7, 7, 3, 1), (F32, F32), mask=(causal(7, 7), F16, "dense"), bias=4.0)
    case("a row masked away", (5, 2, 1, 1), (F32, F32), mask=(np.array([[[[0] * 5, [-np.inf] * 5]]]), F32, "dense"))
    case("all minus infinity", (5, 1, 1, 1), (F16, F32), values=np.full((1, 1, 1, 5), -np.inf))
    case("plus infinity", (5, 2, 1, 1), (F32, F32), values=np.array([[[[1, 2, np.inf, 0, 1], [1, 2, 3, 4, 5]]]]))
    case("nan in one row", (5, 2, 1, 1), (F32, F32), values=np.array([[[[1, 2, np.nan, 0, 1], [1, 2, 3, 4, 5]]]]))
    case("nan and minus infinity", (3, 1, 1, 1), (F32, F32), values=np.array([[[[-np.inf, np.nan, -np.inf]]]]))
    case("results vanish", (8, 1, 1, 1), (F32, F32), values=-np.arange(8).reshape(1, 1, 1, 8) * 17.0)
    case("ties", (9, 3, 1, 1), (F32, F32), kind="ties")
    case("long row masked", (1300, 1, 1, 1), (F32, F32), mask=(causal(1300, 1), F16, "dense"))
    unary_refusals(SOFT_MAX, [f32_bits(1.0)])
    good = [view(F32, (3, 4, 4)), tensor(draw((3, 4, 4, 1)), F32)]
    some_mask = tensor(draw((3, 4, 1, 1)), F32)
    for value in (float("nan"), float("inf")):
        refused(SOFT_MAX, f"scale {value}", [f32_bits(value)], good, BAD_PARAMETER)
    for value in (-1.0, float("nan"), float("inf")):
        refused(SOFT_MAX, f"bias {value}", [f32_bits(1.0), f32_bits(value)], good + [some_mask], BAD_PARAMETER)
    refused(SOFT_MAX, "bias without mask", [f32_bits(1.0), f32_bits(2.0)], good, BAD_PARAMETER)
    refused(SOFT_MAX, "mask too narrow", [f32_bits(1.0)], good + [tensor(draw((2, 4, 1, 1)), F32)], BAD_SHAPE, 3)
    refused(SOFT_MAX, "mask with fewer rows", [f32_bits(1.0)], good + [tensor(draw((3, 3, 1, 1)), F32)], BAD_SHAPE, 3)
    refused(SOFT_MAX, "mask of 3 heads for 4", [f32_bits(1.0)], good + [tensor(draw((3, 4, 3, 1)), F32)], BAD_SHAPE, 3)
    refused(SOFT_MAX, "mask without heads", [f32_bits(1.0)], good + [view(F32, (3, 4, 0, 1))], BAD_SHAPE, 3)
    refused(SOFT_MAX, "integer mask", [f32_bits(1.0)], good + [tensor(np.zeros((1, 1, 4, 3), np.int64), I32)], BAD_TYPE, 3)
    refused(SOFT_MAX, "five operands", [f32_bits(1.0)], good + [some_mask] * 3, BAD_ARGUMENTS)


def argmax():
    def case(name, ne, dtype, layouts=("dense",) * 2, kind="normal", values=None):
        values = draw(ne, kind, dtype) if values is None else held(values, dtype)
        best = np.zeros(values.shape[:3], np.int64)
        for place in np.ndindex(best.shape):
            row = values[place]
            real = np.flatnonzero(~np.isnan(row))
            if len(real):
                best[place] = real[np.flatnonzero(row[real] == row[real].max())[0]]
        operands = [view(I32, ne[1:], layouts[0]), tensor(values, dtype, layouts[1])]
        exact(ARGMAX, name, [], operands, encode(best, I32))

    for dtype in REAL:
        case(f"types {NAMES[dtype]}", (33, 5, 1, 1), dtype)
        case(f"ties {NAMES[dtype]}", (33, 5, 1, 1), dtype, kind="ties")
        case(f"tiny {NAMES[dtype]}", (33, 3, 1, 1), dtype, kind="tiny")
        case(f"large {NAMES[dtype]}", (33, 3, 1, 1), dtype, kind="large")
    for ne in SHAPES:
        case(f"shape {shape_name(ne)}", ne, F32)
    for layout in LAYOUTS:
        case(f"dst {layout}", (5, 4, 3, 2), F32, (layout, "dense"))
        case(f"src {layout}", (5, 4, 3, 2), F16, ("dense", layout))
    for ne in EMPTY[1:]:
        case(f"empty {shape_name(ne)}", ne, F32)
    inf, nan = np.inf, np.nan
    rows = [[nan, nan, nan], [nan, -inf, nan], [-inf, -inf, -inf], [nan, 1, 2], [2, nan, 2], [-0.0, 0.0, -1], [0.0, -0.0, 0.0],
            [inf, inf, nan], [-inf, -3, -inf]]
    case("nan, infinities, zeros", (3, len(rows), 1, 1), F32, values=np.array(rows).reshape(1, 1, -1, 3))
    case("nan, infinities, zeros f16", (3, len(rows), 1, 1), F16, values=np.array(rows).reshape(1, 1, -1, 3))
    long = np.zeros((1, 1, 1, 5000))
    long[..., 4999] = 1.0
    case("the last of a long row", (5000, 1, 1, 1), F16, values=long)
    src = tensor(draw((3, 4, 2, 1)), F32)
    refused(ARGMAX, "real destination", [], [view(F32, (4, 2)), src], BAD_TYPE, 1)
    refused(ARGMAX, "i64 destination", [], [view(I64, (4, 2)), src], BAD_TYPE, 1)
    refused(ARGMAX, "integer source", [], [view(I32, (4, 2)), tensor(np.zeros((1, 2, 4, 3), np.int64), I32)], BAD_TYPE, 2)
    refused(ARGMAX, "rows differ", [], [view(I32, (5, 2)), src], BAD_SHAPE, 1)
    refused(ARGMAX, "last dimension", [], [view(I32, (4, 2, 1, 2)), src], BAD_SHAPE, 1)
    refused(ARGMAX, "largest of nothing", [], [view(I32, (4, 2)), view(F32, (0, 4, 2))], BAD_SHAPE, 2)
    refused(ARGMAX, "destination repeated", [], [view(I32, (4, 2), {"repeat": (0,)}), src], BAD_STRIDE, 1)
    refused(ARGMAX, "one operand", [], [view(I32, (4, 2))], BAD_ARGUMENTS)
    over = Operand(I32, [4, 2, 1, 1], [4, 16, 32, 32], src.buffer, 0)
    refused(ARGMAX, "destination in source", [], [over, src], OVERLAP, 2)


# 6 ROPE ------------------------------------------------------------------------------------------

def rope():
    def case(name, ne, types=(F32, F32), dims=None, mode=0, base=10000.0, scale=1.0, x=0.0, magnitude=1.0, fast=32.0, slow=1.0,
             original=2048, factors=None, positions=None, index=I32, layouts=("dense",) * 2, kind="normal", in_place=False):
        values, operands = unary_operands(ne, types, layouts, kind, in_place)
        dims = ne[0] if dims is None else dims
        n, heads, tokens, c = ne
        positions = rng.integers(0, 4000, tokens) if positions is None else np.array(positions)
        operands.append(tensor(positions, index))
        f = np.ones(dims // 2)
        if factors is not None:
            f = held(factors, F32)[: dims // 2]
            operands.append(tensor(factors, F32))
        base_, scale_, x_, magnitude_, fast_, slow_ = (f32(v) for v in (base, scale, x, magnitude, fast, slow))
        pair = np.arange(dims // 2)
        y, e = values.copy(), np.zeros(values.shape)
        for token in range(tokens):
            t = float(positions[token]) * base_ ** (-2.0 * pair / dims) / f
            angle, m = scale_ * t, magnitude_
            if x_ != 0:
                def correction(beta):
                    return dims * np.log(original / (2 * np.pi * beta)) / (2 * np.log(base_))
                low, high = max(0.0, np.floor(correction(fast_))), min(dims - 1.0, np.ceil(correction(slow_)))
                w = x_ * (1 - np.clip((pair - low) / max(high - low, 0.001), 0, 1))
                angle = scale_ * t * (1 - w) + t * w
                m = magnitude_ * (1 + 0.1 * np.log(1 / scale_))
            a, b = (pair, pair + dims // 2) if mode == 2 else (2 * pair, 2 * pair + 1)
            p, q = values[:, token, :, a], values[:, token, :, b]
            cos, sin = (np.cos(angle) * m).reshape(-1, 1, 1), (np.sin(angle) * m).reshape(-1, 1, 1)
            y[:, token, :, a], y[:, token, :, b] = p * cos - q * sin, p * sin + q * cos
            bound = 8 * U * abs(m) * (np.abs(p) + np.abs(q))
            e[:, token, :, a], e[:, token, :, b] = bound, bound
        params = [dims, mode, original, f32_bits(base), f32_bits(scale), f32_bits(x), f32_bits(magnitude), f32_bits(fast), f32_bits(slow)]
        near(ROPE, name, params, operands, y, e)

    for mode, word in ((0, "normal"), (2, "neox")):
        for types in PAIRS:
            case(f"{word} {short(*types)}", (8, 2, 3, 1), types, mode=mode)
        for n, dims in ((2, 2), (6, 4), (64, 64), (33, 32), (255, 18), (128, 2)):
            case(f"{word} {dims} of {n}", (n, 2, 2, 1), mode=mode, dims=dims)
        case(f"{word} far", (16, 1, 4, 1), mode=mode, positions=[0, 100000, 1 << 20, (1 << 31) - 1])
        case(f"{word} 64-bit and negative", (16, 1, 4, 1), mode=mode, positions=[-1, -5000, 1 << 33, 7], index=I64)
        case(f"{word} factors", (16, 2, 3, 1), mode=mode, factors=1 + rng.random(8) * 7)
        case(f"{word} more factors than pairs", (16, 2, 3, 1), mode=mode, dims=8, factors=1 + rng.random(11))
        case(f"{word} scale", (16, 2, 3, 1), mode=mode, scale=0.25, magnitude=1.5)
        case(f"{word} yarn", (64, 2, 3, 1), mode=mode, scale=0.25, x=1.0, original=4096)
        case(f"{word} yarn half, factors", (64, 1, 2, 1), mode=mode, scale=0.125, x=0.5, factors=1 + rng.random(32), base=500000.0)
    for layout in LAYOUTS:
        case(f"dst {layout}", (6, 3, 4, 2), (F32, F16), layouts=(layout, "dense"))
        case(f"src {layout}", (6, 3, 4, 2), (F16, F32), layouts=("dense", layout), mode=2)
    for ne in EMPTY[1:]:
        case(f"empty {shape_name(ne)}", ne, dims=2)
    for kind in KINDS:
        case(f"{kind}", (10, 2, 2, 1), kind=kind)
    case("in place", (10, 3, 2, 1), in_place=True, mode=2)
    case("in place, strided", (10, 3, 2, 2), (F16, F16), in_place=True, layouts=("reversed",) * 2)

    def words(**over):
        value = {"dims": 4, "mode": 0, "original": 2048, "base": 10000.0, "scale": 1.0, "x": 0.0, "magnitude": 1.0, "fast": 32.0, "slow": 1.0}
        value.update(over)
        reals = [value[key] for key in ("base", "scale", "x", "magnitude", "fast", "slow")]
        return [value["dims"], value["mode"], value["original"]] + [f32_bits(v) for v in reals]

    src, at = tensor(draw((6, 2, 3, 1)), F32), tensor(np.arange(3), I32)
    good = [view(F32, (6, 2, 3)), src, at]
    for over in ({"dims": 0}, {"dims": 3}, {"dims": 8}, {"dims": 0xFFFFFFFE}, {"mode": 1}, {"mode": 8}, {"base": 0.0}, {"base": -1.0},
                 {"base": float("inf")}, {"base": float("nan")}, {"scale": float("nan")}, {"x": float("inf")}, {"magnitude": float("nan")},
                 {"fast": float("inf")}, {"slow": float("nan")}):
        key, value = next(iter(over.items()))
        refused(ROPE, f"{key} {value}", words(**over), good, BAD_PARAMETER)
    for over in ({"original": 0}, {"base": 1.0}, {"scale": 0.0}, {"scale": -1.0}, {"fast": 0.0}, {"slow": -1.0}):
        key, value = next(iter(over.items()))
        refused(ROPE, f"yarn, {key} {value}", words(x=1.0, **over), good, BAD_PARAMETER)
    refused(ROPE, "positions too few", words(), good[:2] + [tensor(np.arange(2), I32)], BAD_SHAPE, 3)
    refused(ROPE, "positions of two rows", words(), good[:2] + [tensor(np.zeros((2, 3), np.int64), I32)], BAD_SHAPE, 3)
    refused(ROPE, "positions without rows", words(), good[:2] + [view(I32, (3, 0, 1, 1))], BAD_SHAPE, 3)
    refused(ROPE, "real positions", words(), good[:2] + [tensor(np.zeros(3), F32)], BAD_TYPE, 3)
    refused(ROPE, "factors too few", words(), good + [tensor(np.ones(1), F32)], BAD_SHAPE, 4)
    refused(ROPE, "factors without rows", words(), good + [view(F32, (2, 1, 0, 1))], BAD_SHAPE, 4)
    refused(ROPE, "integer factors", words(), good + [tensor(np.ones(2, np.int64), I32)], BAD_TYPE, 4)
    refused(ROPE, "shapes differ", words(), [view(F32, (6, 2, 4)), src, at], BAD_SHAPE, 2)
    refused(ROPE, "two operands", words(), good[:2], BAD_ARGUMENTS)
    refused(ROPE, "destination repeated", words(), [view(F32, (6, 2, 3), {"repeat": (2,)}), src, at], BAD_STRIDE, 1)
    refused(ROPE, "a word too many", words() + [1], good, RESERVED_FIELD)


# 7 Elements --------------------------------------------------------------------------------------

def binary(kernel, op):
    def case(name, ne, right, types, layouts=("dense",) * 3, kinds=("normal",) * 2, in_place=None):
        a, b = draw(ne, kinds[0], types[1]), draw(right, kinds[1], types[2])
        index = np.ix_(*[np.arange(ne[d]) % max(right[d], 1) for d in (3, 2, 1, 0)])
        with np.errstate(invalid="ignore"):
            y = op(a, b[index]) if 0 not in ne else a
        left, other = tensor(a, types[1], layouts[1]), tensor(b, types[2], layouts[2])
        dst = {None: None, 1: left, 2: other}[in_place] or view(types[0], ne, layouts[0])
        near(kernel, name, [], [dst, left, other], y, 0.0)

    for types in [(d, a, b) for d in REAL for a in REAL for b in REAL]:
        case(f"types {short(*types)}", (33, 2, 1, 1), (33, 1, 1, 1), types)
    for ne in SHAPES:
        case(f"shape {shape_name(ne)}", ne, ne, (F32, F32, F32))
    for right in ((1, 1, 1, 1), (6, 1, 1, 1), (1, 4, 1, 1), (1, 1, 3, 1), (1, 1, 1, 2), (3, 2, 1, 2), (2, 4, 3, 1), (6, 2, 3, 2)):
        case(f"right {shape_name(right)}", (6, 4, 3, 2), right, (F32, F16, F32))
    case("right of 3 in a long row", (1302, 1, 1, 1), (3, 1, 1, 1), (F32, F16, F32))
    case("right of 651 in a long row", (1302, 1, 1, 1), (651, 1, 1, 1), (F32, F16, F16))
    for layout in LAYOUTS:
        case(f"dst {layout}", (5, 4, 3, 2), (5, 1, 1, 1), (F32, F32, F32), (layout, "dense", "dense"))
        case(f"left {layout}", (5, 4, 3, 2), (5, 4, 1, 1), (F16, F32, F32), ("dense", layout, "dense"))
        case(f"right {layout}", (5, 4, 3, 2), (5, 4, 3, 2), (F32, F32, F16), ("dense", "dense", layout))
    for ne in EMPTY:
        case(f"empty {shape_name(ne)}", ne, (1, 1, 1, 1), (F32, F32, F32))
    for kind in KINDS:
        case(f"{kind} f32", (33, 2, 1, 1), (33, 2, 1, 1), (F32, F32, F32), kinds=(kind, kind if op is np.add else "normal"))
        case(f"{kind} bf16", (33, 2, 1, 1), (33, 2, 1, 1), (BF16, BF16, BF16), kinds=(kind, kind))
        case(f"{kind} f16", (33, 2, 1, 1), (33, 2, 1, 1), (F16, F16, F32), kinds=(kind, "normal"))
    case("in place", (17, 3, 1, 1), (17, 1, 1, 1), (F32,) * 3, in_place=1)
    case("in place on the right", (17, 3, 1, 1), (17, 3, 1, 1), (F32,) * 3, in_place=2)
    inf, nan = np.inf, np.nan
    a = np.array([[[[inf, -inf, inf, nan, 0.0, -inf, 1, -0.0]]]])
    b = np.array([[[[1, 1, -inf, 1, inf, 0.0, nan, 5]]]])
    with np.errstate(invalid="ignore"):
        near(kernel, "infinities and nan", [], [view(F32, (8,)), tensor(a, F32), tensor(b, F32)], op(a, b), 0.0)
    left, right, dst = tensor(draw((4, 6, 2, 1)), F32), tensor(draw((4, 6, 2, 1)), F32), view(F32, (4, 6, 2, 1))
    refused(kernel, "two operands", [], [dst, left], BAD_ARGUMENTS)
    refused(kernel, "four operands", [], [dst, left, right, right], BAD_ARGUMENTS)
    refused(kernel, "left is smaller", [], [dst, tensor(draw((4, 3, 2, 1)), F32), right], BAD_SHAPE, 2)
    for ne in ((3, 6, 2, 1), (4, 4, 2, 1), (4, 12, 2, 1), (4, 6, 2, 2)):
        refused(kernel, f"right {shape_name(ne)} for 4x6x2x1", [], [dst, left, tensor(draw(ne), F32)], BAD_SHAPE, 3)
    refused(kernel, "right is empty", [], [dst, left, view(F32, (4, 0, 2, 1))], BAD_SHAPE, 3)
    refused(kernel, "integer right", [], [dst, left, tensor(np.zeros((1, 2, 6, 4), np.int64), I32)], BAD_TYPE, 3)
    refused(kernel, "destination repeated", [], [view(F32, (4, 6, 2, 1), {"repeat": (0,)}), left, right], BAD_STRIDE, 1)
    shifted = Operand(F32, left.ne, left.nb, left.buffer, 16)
    left.buffer.extend(bytes(32))
    refused(kernel, "shifted by a row", [], [shifted, left, right], OVERLAP, 2)
    whole = view(F32, (4, 6, 2, 1))
    row = Operand(F32, [4, 1, 1, 1], whole.nb, whole.buffer, 0)
    refused(kernel, "right is a row of destination", [], [whole, right, row], OVERLAP, 3)
    refused(kernel, "a word too many", [1], [dst, left, right], RESERVED_FIELD)


def scale():
    def case(name, ne, types, layouts=("dense",) * 2, kind="normal", s=1.7, b=0.0, in_place=False, values=None):
        values, operands = unary_operands(ne, types, layouts, kind, in_place, values)
        with np.errstate(invalid="ignore"):
            product = values * f32(s)
            y = product + f32(b)
        near(SCALE, name, [f32_bits(s), f32_bits(b)], operands, y, 2 * U * (np.abs(product) + abs(f32(b))))

    unary_cases(SCALE, case)
    case("bias", (33, 2, 1, 1), (F32, F32), b=0.75)
    case("bias cancels", (33, 2, 1, 1), (F32, F32), s=-2.0, b=1.0)
    case("zero", (9, 1, 1, 1), (F32, F32), s=0.0, b=-3.5)
    case("overflow", (9, 1, 1, 1), (F32, F32), kind="large", s=1e30)
    specials = np.array([[[[np.inf, -np.inf, np.nan, 0.0]]]])
    case("infinities and nan", (4, 1, 1, 1), (F32, F32), values=specials, b=1.0)
    case("infinite factor", (4, 1, 1, 1), (F32, F32), values=specials, s=np.inf)
    case("nan bias", (4, 1, 1, 1), (F32, F32), values=specials, b=np.nan)
    unary_refusals(SCALE, [f32_bits(2.0)])
    good = [view(F32, (3, 4)), tensor(draw((3, 4, 1, 1)), F32)]
    refused(SCALE, "three operands", [], good + good[1:], BAD_ARGUMENTS)


def silu_of(x):
    with np.errstate(over="ignore", invalid="ignore"):
        return x / (1 + np.exp(-x))


def silu():
    def case(name, ne, types, layouts=("dense",) * 2, kind="normal", in_place=False, values=None):
        values, operands = unary_operands(ne, types, layouts, kind, in_place, values)
        y = silu_of(values)
        near(SILU, name, [], operands, y, 8 * U * np.abs(y) + 2.0**-120)

    unary_cases(SILU, case)
    steps = np.linspace(-110, 110, 89).reshape(1, 1, 1, 89)
    case("from -110 to 110", (89, 1, 1, 1), (F32, F32), values=steps)
    case("from -110 to 110 f16", (89, 1, 1, 1), (F16, F16), values=steps)
    case("infinities and nan", (4, 1, 1, 1), (F32, F32), values=np.array([[[[np.inf, -np.inf, np.nan, -0.0]]]]))
    unary_refusals(SILU, [])


def swiglu():
    def case(name, ne, types, layouts=("dense",) * 3, kind="normal", swapped=0, one=False, in_place=None, values=None):
        n = ne[0]
        a, b = (draw(ne, kind, types[1]), draw(ne, kind, types[-1])) if values is None else values
        gate, other = (b, a) if swapped else (a, b)
        with np.errstate(invalid="ignore"):
            y = silu_of(gate) * other
            e = 12 * U * np.abs(y) + 2.0**-120 * np.maximum(1, np.abs(other))
        if one:
            operands = [view(types[0], ne, layouts[0]), tensor(np.concatenate([a, b], axis=3), types[1], layouts[1])]
        else:
            first, second = tensor(a, types[1], layouts[1]), tensor(b, types[2], layouts[2])
            operands = [{None: None, 1: first, 2: second}[in_place] or view(types[0], ne, layouts[0]), first, second]
        near(SWIGLU, name, [swapped], operands, y, e)

    for swapped in (0, 1):
        for types in [(F32, a, b) for a in REAL for b in REAL] + [(F16, F16, F16), (BF16, F32, F32)]:
            case(f"two, swapped {swapped} {short(*types)}", (17, 2, 1, 1), types, swapped=swapped)
        for types in PAIRS:
            case(f"one, swapped {swapped} {short(*types)}", (17, 2, 1, 1), types, swapped=swapped, one=True)
    for ne in SHAPES:
        case(f"two {shape_name(ne)}", ne, (F32, F32, F32))
        case(f"one {shape_name(ne)}", ne, (F32, F32), one=True)
    for layout in LAYOUTS:
        case(f"dst {layout}", (5, 4, 3, 2), (F32, F16, F32), (layout, "dense", "dense"))
        case(f"first {layout}", (5, 4, 3, 2), (F16, F32, F16), ("dense", layout, "dense"))
        case(f"second {layout}", (5, 4, 3, 2), (F32, F32, F32), ("dense", "dense", layout))
        case(f"one {layout}", (5, 4, 3, 2), (F32, F16), ("dense", layout), one=True)
    case("long row", (1100, 1, 1, 1), (F32, F16, F16))
    case("one, long row", (1100, 1, 1, 1), (F32, F16), one=True)
    for ne in EMPTY:
        case(f"empty {shape_name(ne)}", ne, (F32, F32, F32))
        case(f"one, empty {shape_name(ne)}", ne, (F32, F32), one=True)
    for kind in KINDS:
        case(f"{kind}", (33, 2, 1, 1), (F32, BF16, F32), kind="mixed" if kind == "large" else kind)
    case("in place on the first", (9, 3, 1, 1), (F32,) * 3, in_place=1)
    case("in place on the second", (9, 3, 1, 1), (F32,) * 3, in_place=2, swapped=1)
    inf, nan = np.inf, np.nan
    special = np.array([[[[inf, -inf, nan, 1, 0.0]]]]), np.array([[[[1, 1, 1, nan, inf]]]])
    case("infinities and nan", (5, 1, 1, 1), (F32,) * 3, values=special)
    dst, a, b = view(F32, (4, 3)), tensor(draw((4, 3, 1, 1)), F32), tensor(draw((4, 3, 1, 1)), F32)
    two = tensor(draw((8, 3, 1, 1)), F32)
    refused(SWIGLU, "swapped 2", [2], [dst, a, b], BAD_PARAMETER)
    refused(SWIGLU, "one operand", [], [dst], BAD_ARGUMENTS)
    refused(SWIGLU, "four operands", [], [dst, a, b, b], BAD_ARGUMENTS)
    refused(SWIGLU, "halves too short", [], [dst, tensor(draw((7, 3, 1, 1)), F32)], BAD_SHAPE, 2)
    refused(SWIGLU, "halves of other rows", [], [dst, tensor(draw((8, 2, 1, 1)), F32)], BAD_SHAPE, 2)
    refused(SWIGLU, "second differs", [], [dst, a, tensor(draw((4, 2, 1, 1)), F32)], BAD_SHAPE, 3)
    refused(SWIGLU, "integer second", [], [dst, a, tensor(np.zeros((1, 1, 3, 4), np.int64), I32)], BAD_TYPE, 3)
    half = Operand(F32, [4, 3, 1, 1], two.nb, two.buffer, 0)
    refused(SWIGLU, "in place of a half", [], [half, two], OVERLAP, 2)
    refused(SWIGLU, "destination repeated", [], [view(F32, (4, 3), {"repeat": (1,)}), a, b], BAD_STRIDE, 1)
    refused(SWIGLU, "a word too many", [0, 1], [dst, a, b], RESERVED_FIELD)


def copy():
    def convert(values, types):
        to, source = types
        if to == source:
            return encode(values, to)
        if to == I32:
            whole = np.trunc(np.nan_to_num(values, nan=0.0, posinf=2.0**40, neginf=-(2.0**40)))
            return encode(np.clip(whole, -(2.0**31), 2.0**31 - 1), I32)
        return encode(np.asarray(values, np.float64), to)

    def case(name, ne, types, layouts=("dense",) * 2, kind="normal", to=None, values=None):
        if values is None:
            values = draw(ne, kind, types[1]) if types[1] in REAL else rng.integers(-(2**31), 2**31, tuple(reversed(ne)))
        elif types[1] in REAL:
            values = held(values, types[1])
        operands = [view(types[0], to or ne, layouts[0]), tensor(values, types[1], layouts[1])]
        exact(COPY, name, [], operands, convert(values, types))

    for types in [(a, b) for a in REAL for b in REAL] + [(I32, I32), (I64, I64), (I32, F32), (F32, I32)]:
        case(f"types {short(*types)}", (33, 2, 1, 1), types)
        case(f"turned {short(*types)}", (7, 5, 3, 1), types, ("dense", "turned"))
        case(f"to turned {short(*types)}", (7, 5, 1, 2), types, ("turned", "dense"))
    for ne in SHAPES:
        case(f"shape {shape_name(ne)}", ne, (F32, F16))
    for layout in LAYOUTS:
        for other in LAYOUTS:
            case(f"{layout} from {other}", (5, 4, 3, 2), (F16, F32) if layout < other else (F32, F32), (layout, other))
    for ne, to in (((6, 4, 1, 1), (24, 1, 1, 1)), ((24, 1, 1, 1), (3, 2, 2, 2)), ((5, 3, 2, 1), (2, 3, 5, 1)), ((1, 1, 1, 30), (5, 6, 1, 1)),
                   ((1300, 2, 1, 1), (650, 4, 1, 1))):
        case(f"{shape_name(ne)} to {shape_name(to)}", ne, (F16, F32), to=to)
        case(f"{shape_name(ne)} to {shape_name(to)} b", ne, (F16, F16), ("padded", "dense"), to=to)
    for ne in EMPTY:
        case(f"empty {shape_name(ne)}", ne, (F32, F16))
    case("empty to empty of another shape", (0, 2, 1, 1), (F32, F16), to=(5, 0, 1, 1))
    # Halfway cases: 11 bits and a half for binary16, 8 and a half for bfloat16, both parities.
    halves = [1 + (2 * i + 1) * 2.0**-11 for i in range(9)] + [1 + i * 2.0**-8 + 2.0**-9 * (1 + 2.0**-12 * j) for i in range(4) for j in (-1, 0, 1)]
    edges = [65504, 65519, 65519.996, 65520, 65536, 2.0**-24, 2.0**-25, 2.0**-25 * 1.0001, 3 * 2.0**-25, 2.0**-14, 2.0**-14 - 2.0**-25, 2.0**-149,
             2.0**-134, 2.0**-133, 2.0**-126, 3.3895e38, 3.39615e38, 3.4e38, np.inf, 0.0, np.nan]
    row = np.array(halves + [-h for h in halves] + edges + [-e for e in edges]).reshape(1, 1, 1, -1)
    for to in REAL:
        case(f"halfway and edges {NAMES[to]}", (row.size, 1, 1, 1), (to, F32), values=row)
    all_f16 = np.arange(0, 65536, 7, dtype=np.uint16).view(np.float16).astype(np.float64).reshape(1, 1, 1, -1)
    case("each 7th binary16 to f32", (all_f16.size, 1, 1, 1), (F32, F16), values=all_f16)
    whole = [0.5, 1.5, -0.5, -1.5, 2147483520.0, 2147483648.0, -2147483648.0, -2147483904.0, np.inf, -np.inf, np.nan, 3e38, 1e-40]
    case("edges f32 to i32", (len(whole), 1, 1, 1), (I32, F32), values=np.array(whole).reshape(1, 1, 1, -1))
    ints = [16777216, 16777217, 16777219, -16777217, 2**31 - 1, -(2**31), 2**30 + 64, 2**30 + 63, 2**30 + 65]
    case("edges i32 to f32", (len(ints), 1, 1, 1), (F32, I32), values=np.array(ints).reshape(1, 1, 1, -1))
    wide = np.array([2**63 - 1, -(2**63), 0, -1, 2**53 + 1]).reshape(1, 1, 1, -1)
    case("edges i64", (5, 1, 1, 1), (I64, I64), ("stepped", "padded"), values=wide)
    repeated = draw((4, 1, 1, 1))
    src = view(F32, (4, 5, 1, 1), {"repeat": (1,)})
    src.store(np.repeat(repeated, 5, axis=2))
    exact(COPY, "a row repeated", [], [view(F16, (4, 5)), src], encode(np.repeat(repeated, 5, axis=2), F16))
    one = tensor(draw((5, 3, 1, 1)), F32)
    exact(COPY, "onto itself", [], [one, one], encode(one.load(), F32))
    dst, src = view(F32, (4, 3)), tensor(draw((4, 3, 1, 1)), F32)
    ints32, ints64 = tensor(np.zeros((1, 1, 3, 4), np.int64), I32), tensor(np.zeros((1, 1, 3, 4), np.int64), I64)
    for name, to, source in (("i32 to f16", F16, ints32), ("i64 to f32", F32, ints64), ("i64 to i32", I32, ints64), ("i32 to i64", I64, ints32),
                             ("f32 to i64", I64, src)):
        refused(COPY, name, [], [view(to, (4, 3)), source], BAD_TYPE, 2)
    refused(COPY, "fewer elements", [], [view(F32, (4, 2)), src], BAD_SHAPE, 2)
    refused(COPY, "more elements", [], [view(F32, (4, 4)), src], BAD_SHAPE, 2)
    refused(COPY, "three operands", [], [dst, src, src], BAD_ARGUMENTS)
    refused(COPY, "destination repeated", [], [view(F32, (4, 3), {"repeat": (1,)}), src], BAD_STRIDE, 1)
    refused(COPY, "rows that meet", [], [Operand(F32, [4, 3, 1, 1], [4, 12, 48, 48], bytearray(64), 0), src], BAD_STRIDE, 1)
    shifted = Operand(F32, src.ne, src.nb, src.buffer, 4)
    src.buffer.extend(bytes(8))
    refused(COPY, "shifted by an element", [], [shifted, src], OVERLAP, 2)
    turned = Operand(F32, [3, 4, 1, 1], [16, 4, 48, 48], src.buffer, 0)
    refused(COPY, "turned in its own place", [], [turned, Operand(F32, [3, 4, 1, 1], [4, 12, 48, 48], src.buffer, 0)], OVERLAP, 2)
    refused(COPY, "a word too many", [1], [dst, src], RESERVED_FIELD)


# Descriptors that no kernel takes ------------------------------------------------------------------

def descriptors():
    """Refusals that concern addresses, strides and codes: the same for all, tried on ADD."""
    def operands():
        return [view(F32, (4, 3)), tensor(draw((4, 3, 1, 1)), F32), tensor(draw((4, 3, 1, 1)), F32)]

    def bad(name, code, operand, change, params=()):
        for at in ((operand,) if operand else (0,)):
            these = operands()
            if at:
                change(these[at - 1])
            refused(ADD, name, params, these, code, at, launch_only=True)

    def put(**fields):
        def change(operand):
            for key, value in fields.items():
                setattr(operand, key, value)
        return change

    for at, word in ((1, "dst"), (2, "left"), (3, "right")):
        bad(f"{word}: type 77", BAD_TYPE, at, put(dtype=77))
        bad(f"{word}: q8_0 is not taken", BAD_TYPE, at, put(dtype=8, ne=[32, 3, 1, 1], nb=[34, 34, 102, 102]))
        bad(f"{word}: q4_k is not taken", BAD_TYPE, at, put(dtype=12, ne=[256, 3, 1, 1], nb=[144, 144, 432, 432]))
        bad(f"{word}: address off by 2", MISALIGNED, at, put(offset=2))
        bad(f"{word}: address off by 1", MISALIGNED, at, put(offset=1))
        bad(f"{word}: stride 6", BAD_STRIDE, at, put(nb=[6, 32, 96, 96]))
        bad(f"{word}: stride 18", BAD_STRIDE, at, put(nb=[4, 18, 96, 96]))
        bad(f"{word}: stride 2^62", BAD_STRIDE, at, put(nb=[4, 1 << 62, 0, 0]))
        bad(f"{word}: stride 2^64 - 4", BAD_STRIDE, at, put(nb=[4, (1 << 64) - 4, 0, 0]))
        bad(f"{word}: strides that wrap to 0", BAD_STRIDE, at, put(nb=[1 << 62, 1 << 63, 0, 0]))
        bad(f"{word}: 2^41 elements", BAD_SHAPE, at, put(ne=[1 << 31, 1 << 10, 1, 1], nb=[0, 0, 0, 0]))
        bad(f"{word}: 2^128 elements", BAD_SHAPE, at, put(ne=[0xFFFFFFFF] * 4, nb=[0, 0, 0, 0]))
        out = UNMAPPED_WRITE if at == 1 else UNMAPPED_READ
        bad(f"{word}: a stride leaves memory", out, at, put(nb=[4, 1 << 58, 0, 0]))
        bad(f"{word}: an address far away", out, at, put(offset=(1 << 59)))
    refused(22, "ALL_REDUCE is reserved", [], operands(), UNKNOWN_KERNEL)
    refused(200, "no kernel has number 200", [], operands(), UNKNOWN_KERNEL, launch_only=True)


def main():
    to = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    cases[22], cases[200] = [], []
    get_rows()
    set_rows()
    mul_mat()
    rms_norm()
    soft_max()
    argmax()
    rope()
    binary(ADD, np.add)
    binary(MUL, np.multiply)
    scale()
    silu()
    swiglu()
    copy()
    descriptors()
    cases[ADD] += cases.pop(22) + cases.pop(200)
    total = 0
    for kernel, name in FILES.items():
        data = struct.pack("<8sII", b"JALPKVEC", 1, len(cases[kernel])) + b"".join(cases[kernel])
        (to / f"{name}.vec").write_bytes(data)
        total += len(data)
        print(f"{name:10} {len(cases[kernel]):5} cases {len(data):8} bytes")
    count = sum(len(c) for c in cases.values())
    print(f"{'total':10} {count:5} cases {total:8} bytes")
    assert total < 2 << 20


if __name__ == "__main__":
    main()
