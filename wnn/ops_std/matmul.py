"""y = post(a b), matrix products over broadcast leading axes, as numpy.matmul.

a: (..., M, K)    b: (..., K, N)    y: (..., M, N); a vector a gains a leading axis, a vector b a
trailing one, which y loses again.
extras: what post-operations read (see `wnn.post`)
Source: ONNX MatMul-13.
"""

import numpy as np

from .. import post as posts
from ..dtypes import INTS
from ..errors import ShapeError
from ..op import Op, Spec
from ..rules import broadcast, differ, same_dtype

op = Op("matmul", inputs="a b *extras", posts=True, tol={"f32": (2e-5, 2e-5)})


@op.rule
def rule(a, b, *extras, post):
    if a.rank < 1 or b.rank < 1 or differ(a.shape[-1], b.shape[-2 if b.rank > 1 else 0]):
        raise ShapeError(
            f"[matmul] found a {a} and b {b}; expected (..., M, K) and (..., K, N); transpose or "
            "reshape one"
        )
    lead = broadcast("matmul", a.shape[:-2], b.shape[:-2])
    return Spec(
        (*lead, *a.shape[-2:-1], *(b.shape[-1:] if b.rank > 1 else ())), same_dtype("matmul", a, b)
    )


@op.reference
def reference(a, b, *extras, post):
    if a.dtype == np.bool_:
        return a @ b
    return posts.apply(np.matmul(a, b), post, [a, b, *extras])


@op.batch
def batch(axes, ins, outs, attrs):
    rank = outs[0].rank
    if ins[0].rank < 2 or ins[1].rank < 2:
        return None
    a, b, *extras = [None if x is None else x + rank - s.rank for x, s in zip(axes, ins)]
    out = a if b is None else b
    if out is None or (b is not None and a is not None and a != b):
        return None
    if not (b is None and a == rank - 2):  # rows of a stay apart in any case
        if out >= rank - 2:
            return None
        for x, s in ((a, ins[0]), (b, ins[1])):
            own = out - rank + s.rank
            if x is None and own >= 0 and s.shape[own] != 1:
                return None
    return [out] if all(x == out for x, s in zip(extras, ins[2:]) if s.rank > 1) else None


@op.kernel(
    "f32 f32",
    "matmul_f32",
    strides={"a": "matrix", "b": "matrix", "extras": "rows", "y": "last"},
    accept=lambda a, b: a.rank >= 2 and b.rank >= 2,
)
def pack(post):
    return posts.pack(post)


for _dtype in ("f64", "f16", *INTS):

    @op.kernel(
        f"{_dtype} {_dtype}",
        "matmul_any",
        accept=lambda a, b, post: a.rank >= 2 and b.rank >= 2 and not post,
    )
    def pack_any():
        return b""


@op.flops
def flops(a, out):
    return 2 * out.size * a.shape[-1]


@op.importer("MatMul")
def from_onnx(g, node):
    a, b = node.inputs
    if a.spec is None or b.spec is None:
        return g.add(op, [a, b])
    ra, rb = node.rank(0), node.rank(1)
    if ra == rb == 1:
        a, b = g.add("unsqueeze", [a, g.const([0])]), g.add("unsqueeze", [b, g.const([1])])
        return g.add("reshape", [g.add(op, [a, b])], to=())
    if ra == 1 and rb >= 2:
        y = g.add(op, [g.add("unsqueeze", [a, g.const([0])]), b])
        return g.add("squeeze", [y, g.const([-2])])
    if rb == 1 and ra >= 2:
        y = g.add(op, [a, g.add("unsqueeze", [b, g.const([1])])])
        return g.add("squeeze", [y, g.const([-1])])
    return g.add(op, [a, b])


@op.cases
def cases(rng):
    yield dict(a=rng(5, 7), b=rng(7, 3))
    yield dict(a=rng(2, 3, 17, 33), b=rng(2, 3, 33, 18))
    yield dict(a=rng(4, 1, 9, 16), b=rng(3, 16, 50))
    yield dict(a=rng(1, 40), b=rng(40, 65))
    yield dict(a=rng(0, 4), b=rng(4, 5))
    yield dict(a=rng(3, 0), b=rng(0, 5))
    yield dict(a=rng(65, 130), b=rng(130, 100))
    post = (("add", 0.0, 0.0, 2), ("mul", 0.0, 0.0, 3))
    for a, b in (((2, 3, 17, 33), (2, 3, 33, 18)), ((5, 2, 2), (5, 2, 1)), ((6, 9, 16), (16, 20))):
        extras = [rng(*a[:-1], b[-1]) for _ in post]
        yield dict(a=rng(*a), b=rng(*b), extras=extras, post=post)
    for dtype in (np.float64, np.float16, np.int32, np.uint8):
        a, b = (rng(4, 1, 9, 130) * 3).astype(dtype), (rng(3, 130, 70) * 3).astype(dtype)
        yield dict(a=a, b=b)


@op.benches
def benches(rng):
    yield dict(a=rng(3, 197, 64), b=rng(3, 64, 197))
    yield dict(a=rng(4, 400, 64), b=rng(4, 64, 799))
    yield dict(a=rng(512, 512), b=rng(512, 512))
