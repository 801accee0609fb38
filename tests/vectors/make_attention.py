"""Writes the vectors of ATTENTION: docs/kernels.md 8.

Written from docs/kernels.md alone, as make_vectors.py, whose format and views it shares. Blocks are those of
make_blocks.py.

    python3 make_attention.py [DIRECTORY]
"""

import struct
import sys
from pathlib import Path

import numpy as np

import make_blocks as blocks
import make_vectors as v
from make_vectors import (
    BAD_ARGUMENTS, BAD_PARAMETER, BAD_SHAPE, BAD_STRIDE, BAD_TYPE, BF16, EMPTY, F16, F32, I32, I64, INDEX_RANGE, LAYOUTS, NAMES, OVERLAP,
    REAL, RESERVED_FIELD, U, Operand, draw, f32, f32_bits, held, near, refused, shape_name, short, tensor, view,
)

ATTENTION = 20
INF, NAN = np.inf, np.nan

rng = np.random.default_rng(20261126)
v.rng = rng
blocks.rng = rng


def absent():
    """An operand that is left out before another one."""
    return Operand(F32, [0, 0, 0, 0], [0] * 4, bytearray(v.pattern(8)))


def slopes(bias, heads):
    if not bias:
        return np.ones(heads)
    p = 1 << (heads.bit_length() - 1)
    return np.array([2.0 ** (-bias * (g + 1) / p) if g < p else 2.0 ** (-bias * (2 * (g - p) + 1) / (2 * p)) for g in range(heads)])


def reference(q, k, x, mask, sinks, scale, bias, cap, causal, lengths):
    """The formula, one query after the other, in binary64. k and x are those of each sequence: [c][b'][M][d]."""
    c, b, n, d = q.shape
    y, e = np.zeros((c, b, n, x[0].shape[-1])), np.zeros((c, b, n, x[0].shape[-1]))
    slope = slopes(bias, b)
    for h in range(c):
        for g in range(b):
            keys, values = k[h][g // (b // k[h].shape[0])], x[h][g // (b // x[h].shape[0])]
            for i in range(n):
                length = keys.shape[0] if lengths is None else lengths[h]
                seen = length - n + i + 1 if causal else length
                z, size, use = [], [], []
                for t in range(max(0, min(length, seen))):
                    m = 0.0 if mask is None else slope[g] * mask[h % mask.shape[0], g % mask.shape[1], i, t]
                    if m == -INF:
                        continue
                    with np.errstate(invalid="ignore"):
                        score = scale * float(np.dot(q[h, g, i], keys[t]))
                    if cap:
                        score = cap * np.tanh(score / cap)
                    z.append(score + m)
                    size.append((d + 8) * abs(scale) * float(np.abs(q[h, g, i]) @ np.abs(keys[t])) + 8 * abs(m))
                    use.append(t)
                z, used = np.array(z), values[use]
                sink = -INF if sinks is None else sinks[g]
                if np.isnan(z).any() or np.isnan(sink) or (z == INF).any() or sink == INF:
                    y[h, g, i] = NAN
                    continue
                top = max(z.max(initial=-INF), sink)
                if top == -INF:
                    continue
                p = np.exp(z - top)
                p /= p.sum() + np.exp(sink - top)
                y[h, g, i] = p @ used
                size = [s for s in size if np.isfinite(s)]
                a = max(size, default=0.0) + (8 * abs(sink) if np.isfinite(sink) else 0)
                w, whole = p @ np.abs(used), np.abs(used).sum(axis=0)
                e[h, g, i] = (2 * a + len(use) + 24) * U * w + 2.0**-140 * whole
    return y, np.where(np.isfinite(e), e, 0)


def case(name, d=16, dv=None, n=1, m=9, heads=2, kept=None, kept_v=None, c=1, kept_c=None, types=(F32, F32, F32, F32), layouts=("dense",) * 4,
         mask=None, mask_type=F16, mask_layout="dense", sinks=None, sinks_type=F32, scale=0.25, bias=0.0, cap=0.0, causal=0, lengths=None, pages=None,
         index=I32, plant=None, kinds=("normal",) * 3):
    dv, kept, kept_c = dv or d, kept or heads, kept_c or c
    kept_v = kept_v or kept
    q = draw((d, n, heads, c), kinds[0], types[1])
    size = pages["size"] if pages else 0
    rows, batches = (size * pages["pages"], 1) if pages else (m, kept_c)

    def cache(length, dtype, kind, layout, kept):
        ne = (length, rows, kept, batches)
        if dtype in blocks.BLOCKS:
            return blocks.blocks_tensor(dtype, ne, layout)
        values = draw(ne, kind, dtype)
        return tensor(values, dtype, layout), values

    keys, k = cache(d, types[2], kinds[1], layouts[2], kept)
    values, x = cache(dv, types[3], kinds[2], layouts[3], kept_v)
    if plant:
        plant(q, k, x)
        keys.store(k)
        values.store(x)
    operands = [view(types[0], (dv, n, heads, c), layouts[0]), tensor(q, types[1], layouts[1]), keys, values]
    table = None
    if pages:
        table = np.array(pages["table"]).reshape(c, -1)
        places = [[table[h][t // size] * size + t % size if 0 <= table[h][t // size] < pages["pages"] else 0 for t in range(m)] for h in range(c)]
        k, x = [k[0][:, places[h]] for h in range(c)], [x[0][:, places[h]] for h in range(c)]
    else:
        k, x = ([it[h // (c // kept_c)] for h in range(c)] for it in (k, x))
    if mask is not None:
        mask = held(mask, mask_type)
    extra = [
        absent() if mask is None else tensor(mask, mask_type, mask_layout),
        absent() if sinks is None else tensor(held(sinks, sinks_type), sinks_type),
        absent() if table is None else tensor(table, index),
        absent() if lengths is None else tensor(np.array(lengths), index),
    ]
    while extra and extra[-1].ne[0] == 0:
        extra.pop()
    held_sinks = None if sinks is None else held(sinks, sinks_type)
    y, e = reference(q, k, x, mask, held_sinks, f32(scale), f32(bias), f32(cap), causal, lengths)
    params = [f32_bits(scale), f32_bits(bias), f32_bits(cap), size, m if pages else 0, causal]
    near(ATTENTION, name, params, operands + extra, y, e)


def causal_mask(m, n):
    mask = np.zeros((1, 1, n, m))
    for i in range(n):
        mask[..., i, m - n + i + 1 :] = -INF
    return mask


def cases():
    for n in (1, 9):
        for types in [(F32, F32, k, x) for k in REAL for x in REAL][:: 1 if n == 1 else 2] + [(F16, F16, F16, F16), (BF16, F32, BF16, F16)]:
            case(f"n {n} {short(*types)}", n=n, types=types)
        for layout in LAYOUTS:
            case(f"n {n} keys {layout}", n=n, c=2, types=(F32, F32, F16, F16), layouts=("dense", "dense", layout, "dense"))
            case(f"n {n} values {layout}", n=n, c=2, types=(F32, F32, F16, BF16), layouts=("dense", "dense", "dense", layout))
            case(f"n {n} dst and q {layout}", d=5, n=n, c=2, layouts=(layout, layout, "dense", "dense"))
        for kept, kept_v in ((1, 1), (2, 2), (3, 3), (2, 6), (6, 1), (3, 2)):
            case(f"n {n}, 6 heads by {kept} and {kept_v}", d=8, n=n, heads=6, kept=kept, kept_v=kept_v, types=(F32, F32, F16, F32))
        case(f"n {n}, 4 sequences by 2", d=8, n=n, c=4, kept_c=2)
        case(f"n {n} values shorter", d=24, dv=8, n=n)
        case(f"n {n} values longer", d=3, dv=40, n=n)
        case(f"n {n} 300 keys", d=8, n=n, m=300, types=(F32, F32, F16, F16))
        case(f"n {n} 300 keys, 4 heads by 1", d=8, n=n, m=300, heads=4, kept=1, scale=2.0, sinks=[5.0, -5.0, 0.0, 1.0])
        case(f"n {n} no keys", n=n, m=0)
        case(f"n {n} softcap", n=n, m=33, cap=1.5, scale=1.0)
        case(f"n {n} softcap and mask", n=n, m=33, cap=30.0, mask=causal_mask(33, n))
        case(f"n {n} causal", n=n, m=33, causal=1)
        case(f"n {n} causal mask", n=n, m=140, d=8, mask=causal_mask(140, n))
        case(f"n {n} causal, fewer keys", n=n, m=max(1, n - 2), causal=1)
        for heads in (1, 3, 8):
            case(f"n {n} bias 8, {heads} heads", d=8, n=n, m=12, heads=heads, mask=-np.abs(draw((12, n, 1, 1))), bias=8.0)
        case(f"n {n} sinks", n=n, heads=3, sinks=[3.0, -1.0, 0.5])
        case(f"n {n} sinks and mask", n=n, heads=2, sinks=[-INF, 0.5], mask=causal_mask(9, n))
        case(f"n {n} infinite and nan sinks", n=n, heads=3, sinks=[INF, NAN, 0.0])
        case(f"n {n} scale 0", n=n, scale=0.0)
        case(f"n {n} one key wins", n=n, scale=300.0)
        one = {"size": 4, "pages": 7, "table": [[5, 0, 3]]}
        case(f"n {n} pages of 4", d=8, n=n, m=10, heads=4, kept=2, pages=one, types=(F32, F32, F16, F16))
        case(f"n {n} pages of 1, causal", d=8, n=n, m=9, pages={"size": 1, "pages": 9, "table": [[8, 0, 7, 1, 6, 2, 5, 3, 4]]}, causal=1)
        two = {"size": 16, "pages": 20, "table": [[19, 2, 2, 4, 5, 6, 7, 8, 9], [0, 1, 3, 10, 11, 12, 13, 14, 15]]}
        case(f"n {n} pages of 16, two sequences", d=8, n=n, m=140, c=2, pages=two, index=I64, lengths=[140, 77])
        beyond = {"size": 4, "pages": 7, "table": [[1, 2, -1], [3, 9999, 0]]}
        case(f"n {n} entries beyond are not read", d=8, n=n, m=11, c=2, pages=beyond, lengths=[8, 3], causal=1)
        case(f"n {n} lengths", d=8, n=n, m=9, c=3, lengths=[9, 0, 4])
        case(f"n {n} lengths, causal, mask", d=8, n=n, m=9, c=2, lengths=[9, 5], causal=1, mask=draw((9, n, 1, 2)))
        for dtype in blocks.BLOCKS:
            q = NAMES[dtype]
            case(f"n {n} {q}", d=blocks.ELEMENTS[dtype], n=n, m=3, types=(F32, F32, dtype, dtype), heads=2, kept=1, scale=0.02)

        def masked(q, k, x):
            k[..., 4, :], x[..., 4, :] = NAN, INF
            k[..., 6, :], x[..., 6, :] = INF, NAN
        mask = np.zeros((1, 1, n, 9))
        mask[..., 4], mask[..., 6] = -INF, -INF
        case(f"n {n} masked may be anything", n=n, mask=mask, plant=masked)

        def nan_query(q, k, x):
            q[0, 1, 0, 3] = NAN
        case(f"n {n} nan in a query", n=n, plant=nan_query)

        def nan_value(q, k, x):
            x[0, 0, 2, 1] = NAN
        case(f"n {n} nan in a value", n=n, plant=nan_value)
        if n > 1:
            some = np.zeros((1, 1, n, 9))
            some[..., 1, :] = -INF
            case(f"n {n} a query without keys", n=n, mask=some)
            partly = np.zeros((1, 1, n, 9))
            partly[..., 0, 2] = -INF
            case(f"n {n} nan for all but one", n=n, mask=partly, plant=nan_value)
    for dtype in REAL:
        case(f"mask {NAMES[dtype]}", n=3, mask=draw((9, 3, 1, 1)), mask_type=dtype)
        case(f"sinks {NAMES[dtype]}", n=3, sinks=[0.5, 1.25], sinks_type=dtype)
    for layout in ("padded", "permuted", "reversed"):
        case(f"mask {layout}", n=3, heads=4, c=2, mask=draw((9, 3, 2, 2)), mask_layout=layout)
    case("mask with more rows", n=3, mask=draw((9, 8, 1, 1)))
    case("mask cyclic over heads", n=2, heads=6, mask=draw((9, 2, 3, 1)))
    case("tiny values", n=2, kinds=("normal", "normal", "tiny"))
    case("70 queries", d=4, n=70, m=20, heads=2, kept=1)
    for ne in EMPTY[1:]:
        _, n, b, c = ne
        operands = [view(F32, (3, n, b, c)), view(F32, (4, n, b, c)), view(F32, (4, 2, b, c)), view(F32, (3, 2, b, c))]
        near(ATTENTION, f"empty {shape_name(ne)}", [f32_bits(1.0)], operands, 0.0, 0.0)


def refusals():
    def operands():
        shapes = ((6, 3, 4, 2), (8, 3, 4, 2), (8, 5, 2, 2), (6, 5, 2, 2))
        return [view(F32, shapes[0])] + [tensor(draw(ne), F32) for ne in shapes[1:]]

    one, none = f32_bits(1.0), f32_bits(0.0)
    good = operands()

    def bad(name, code, operand=0, params=(one,), **other):
        these = list(good)
        for at, it in other.items():
            at = int(at[1:])
            while len(these) <= at:
                these.append(absent())
            these[at] = it
        refused(ATTENTION, name, list(params), these, code, operand)

    refused(ATTENTION, "three operands", [one], good[:3], BAD_ARGUMENTS)
    for at, name in ((0, "destination"), (1, "queries")):
        bad(f"integer {name}", BAD_TYPE, at + 1, **{f"o{at}": view(I32, good[at].ne)})
        bad(f"{name} in blocks", BAD_TYPE, at + 1, **{f"o{at}": blocks.blocks_view(8, (32, *good[at].ne[1:]))})
    for at, name in ((2, "keys"), (3, "values")):
        bad(f"integer {name}", BAD_TYPE, at + 1, **{f"o{at}": view(I32, good[at].ne)})
        for d in (0, 1) if at == 3 else (0,):
            ne = list(good[at].ne)
            ne[d] += 1
            bad(f"{name}, dimension {d}", BAD_SHAPE, at + 1, **{f"o{at}": tensor(draw(ne), F32)})
        for heads in (3, 8):
            ne = list(good[at].ne)
            ne[2] = heads
            bad(f"{name} of {heads} heads for 4", BAD_SHAPE, at + 1, **{f"o{at}": tensor(draw(ne), F32)})
        bad(f"{name} without heads", BAD_SHAPE, at + 1, **{f"o{at}": view(F32, (good[at].ne[0], 5, 0, 2))})
        bad(f"{name} of 4 sequences for 2", BAD_SHAPE, at + 1, **{f"o{at}": tensor(draw((good[at].ne[0], 5, 2, 4)), F32)})
    for d in (1, 2, 3):
        ne = list(good[1].ne)
        ne[d] += 1
        bad(f"queries, dimension {d}", BAD_SHAPE, 2, o1=tensor(draw(ne), F32))
    bad("no elements to multiply", BAD_SHAPE, 3, o1=view(F32, (0, 3, 4, 2)), o2=view(F32, (0, 5, 2, 2)))
    long = (1 << 16) + 1
    far = {"repeat": (0, 1, 2, 3)}
    bad("keys longer than 65536", BAD_SHAPE, 3, o1=view(F32, (long, 3, 4, 2), far), o2=view(F32, (long, 5, 2, 2), far))
    some = tensor(draw((5, 3, 1, 1)), F16)
    bad("integer mask", BAD_TYPE, 5, o4=view(I32, (5, 3)))
    bad("mask too narrow", BAD_SHAPE, 5, o4=tensor(draw((4, 3, 1, 1)), F16))
    bad("mask with fewer rows", BAD_SHAPE, 5, o4=tensor(draw((5, 2, 1, 1)), F16))
    bad("mask of 3 heads for 4", BAD_SHAPE, 5, o4=tensor(draw((5, 3, 3, 1)), F16))
    bad("mask of 3 sequences for 2", BAD_SHAPE, 5, o4=tensor(draw((5, 3, 1, 3)), F16))
    bad("integer sinks", BAD_TYPE, 6, o5=view(I32, (4,)))
    bad("sinks too few", BAD_SHAPE, 6, o5=tensor(draw((3,)), F32))
    bad("sinks of two rows", BAD_SHAPE, 6, o5=tensor(draw((4, 2, 1, 1)), F32))
    for value in (NAN, INF):
        bad(f"scale {value}", BAD_PARAMETER, params=[f32_bits(value)])
    for value in (-1.0, NAN, INF):
        bad(f"bias {value}", BAD_PARAMETER, params=[one, f32_bits(value)], o4=some)
        bad(f"softcap {value}", BAD_PARAMETER, params=[one, none, f32_bits(value)])
    bad("bias without mask", BAD_PARAMETER, params=[one, one])
    bad("page size without pages", BAD_PARAMETER, params=[one, 0, 0, 4])
    bad("keys without pages", BAD_PARAMETER, params=[one, 0, 0, 0, 4])
    bad("causal 2", BAD_PARAMETER, params=[one, 0, 0, 0, 0, 2])
    bad("a word too many", RESERVED_FIELD, params=[one, 0, 0, 0, 0, 0, 1])
    for index, length in ((I32, 6), (I32, -1), (I64, 1 << 32)):
        bad(f"length {length} of 5", INDEX_RANGE, 8, o7=tensor(np.array([5, length]), index))
    bad("real lengths", BAD_TYPE, 8, o7=tensor(draw((2,)), F32))
    bad("lengths too few", BAD_SHAPE, 8, o7=tensor(np.array([5]), I32))
    bad("lengths of two rows", BAD_SHAPE, 8, o7=tensor(np.full((2, 2), 5), I32))
    # A cache of 6 pages of 4 rows, and two rows that are no page.
    good = [view(F32, (6, 3, 4, 2)), tensor(draw((8, 3, 4, 2)), F32), tensor(draw((8, 26, 2, 1)), F32), tensor(draw((6, 26, 2, 1)), F32)]
    paged = [one, 0, 0, 4, 9]
    right = [[0, 1, 5], [4, 3, 2]]
    for index, page in ((I32, 6), (I32, -1), (I64, 1 << 32), (I64, -(1 << 40)), (I32, (1 << 31) - 1)):
        bad(f"page {page} of 6, {NAMES[index]}", INDEX_RANGE, 7, params=paged, o6=tensor(np.array([[0, 1, 5], [4, 3, page]]), index))
    bad("real pages", BAD_TYPE, 7, params=paged, o6=tensor(np.array(right, np.float64), F32))
    bad("pages without a size", BAD_PARAMETER, params=[one, 0, 0, 0, 9], o6=tensor(np.array(right), I32))
    bad("more keys than pages", BAD_SHAPE, 7, params=[one, 0, 0, 4, 13], o6=tensor(np.array(right), I32))
    bad("pages of one sequence", BAD_SHAPE, 7, params=paged, o6=tensor(np.array(right[:1]), I32))
    bad("pages of two rows", BAD_SHAPE, 7, params=paged, o6=tensor(np.array([right, right]), I32))
    bad("paged keys of two batches", BAD_SHAPE, 3, params=paged, o2=tensor(draw((8, 26, 2, 2)), F32), o6=tensor(np.array(right), I32))
    bad("mask of the cache's rows", BAD_SHAPE, 5, params=paged, o4=tensor(draw((26, 3, 1, 1)), F32), o6=tensor(np.array(right), I32))
    good = operands()
    repeated = view(F32, (6, 3, 4, 2), {"repeat": (1,)})
    bad("destination repeated", BAD_STRIDE, 1, o0=repeated)
    for at, name in ((1, "queries"), (2, "keys"), (3, "values")):
        these = operands()
        these[at].buffer.extend(bytes(2048))
        over = Operand(F32, these[0].ne, these[0].nb, these[at].buffer, 0)
        refused(ATTENTION, f"destination in {name}", [one], [over, *these[1:]], OVERLAP, at + 1)


def attention():
    cases()
    refusals()


def main():
    to = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    v.cases = {ATTENTION: []}
    v.names.clear()
    attention()
    cases_ = v.cases[ATTENTION]
    data = struct.pack("<8sII", b"JALPKVEC", 1, len(cases_)) + b"".join(cases_)
    (to / "attention.vec").write_bytes(data)
    print(f"attention {len(cases_):5} cases {len(data):8} bytes")
    assert len(data) < 2 << 20


if __name__ == "__main__":
    main()
