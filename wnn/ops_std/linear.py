"""y = post(x w + bias): rows of x times a matrix of weights.

x: (..., K)    w: (K, N)    bias: (N,)    y: (..., N)
extras: what post-operations read (see `wnn.post`)
Source: ONNX MatMul-13 and Gemm-13 with constant weights; Goto and van de Geijn 2008, "Anatomy of
High-Performance Matrix Multiplication", for the kernel.
"""

import numpy as np

from .. import post as posts
from .. import strassen as halves
from ..errors import ShapeError
from ..op import Op, Permuted, Spec
from ..pattern import C, P, V
from ..rules import differ

op = Op(
    "linear",
    inputs="x w bias? *extras",
    attrs={"strassen": 0},
    posts=True,
    tol={"f32": (2e-5, 2e-5)},
)


@op.rule
def rule(x, w, bias=None, *extras, post, strassen=0):
    if w.rank != 2 or x.rank < 1 or differ(x.shape[-1], w.shape[0]):
        raise ShapeError(
            f"[linear] found x {x} and w {w}; expected x (..., K) and w (K, N); transpose or "
            "reshape one"
        )
    if bias is not None and bias.shape != w.shape[1:]:
        raise ShapeError(
            f"[linear] found bias {bias}; expected ({w.shape[1]},), as many as w {w} has columns; "
            "reshape it"
        )
    return Spec((*x.shape[:-1], w.shape[1]), x.dtype)


@op.reference
def reference(x, w, bias=None, *extras, post, strassen=0):
    y = x @ w
    if bias is not None:
        y = y + bias
    return posts.apply(y, post, [x, w, bias, *extras])


@op.transpose
def transpose(perm, i, ins, attrs):
    if i != 0 or perm[-1] != len(perm) - 1 or attrs["post"]:
        return None
    return Permuted([perm], [perm], attrs)


@op.batch
def batch(axes, ins, outs, attrs):
    if axes[0] is None or axes[0] == ins[0].rank - 1 or any(a is not None for a in axes[1:3]):
        return None
    return [axes[0]] if all(a == axes[0] for a, s in zip(axes[3:], ins[3:]) if s.rank > 1) else None


op.kernel(
    "f32 f32",
    "strassen_f32",
    strides={"x": "rows", "extras": "rows", "y": "rows"},
    pack_weights={"w": 0},
    accept=halves.pays,
    derive=halves.derive,
)(lambda w, out, strassen, post: halves.pack(w, out, strassen, post, 1))


@op.kernel(
    "f32 f32",
    "linear_f32",
    strides={"x": "rows", "extras": "rows", "y": "rows", "w": "any"},
    pack_weights={"w": 0},
)
def pack(post):
    return posts.pack(post)


@op.flops
def flops(x, out):
    return 2 * out.size * x.shape[-1]


@op.fuse(
    P.matmul(V("x"), C("w")),
    where=lambda m: m.w.spec.rank >= 2 and m.w.spec.size == m.w.shape[-1] * m.w.shape[-2],
)
def from_matmul(g, m):
    if m.root.attrs["post"] or m.x.spec.dtype != "f32" or m.x.spec.rank < m.w.spec.rank:
        return None
    w = m.w if m.w.spec.rank == 2 else g.const(m.w.array.reshape(m.w.shape[-2:]))
    return g.add("linear", [m.x, w])


@op.fuse(P.add(P.linear(V("x"), V("w")), C("bias")))
def with_bias(g, m):
    n = m.w.shape[-1]
    if m.bias.spec.size != n or m.bias.shape[-1:] != (n,) or m.bias.spec.rank > m.x.spec.rank:
        return None
    return g.add("linear", [m.x, m.w, g.const(m.bias.array.reshape(-1))])


@op.importer("Gemm")
def from_gemm(g, node):
    a, b, c = (*node.inputs, None)[:3]
    if node.attr("transA", 0):
        a = g.add("transpose", [a], perm=(1, 0))
    if node.attr("transB", 0):
        b = g.add("transpose", [b], perm=(1, 0))
    y = g.add("matmul", [a, b])
    dtype = "f32" if y.spec is None else y.spec.dtype
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    if alpha != 1:
        y = g.add("mul", [y, g.const(alpha, dtype)])
    if c is not None and beta != 0:
        y = g.add("add", [y, c if beta == 1 else g.add("mul", [c, g.const(beta, dtype)])])
    return y


@op.cases
def cases(rng):
    for rows, k, n in [
        ((1,), 7, 5),
        ((3,), 33, 17),
        ((2, 6), 64, 64),
        ((197,), 192, 48),
        ((29,), 300, 130),
        ((0,), 4, 3),
        ((5,), 1, 1),
        ((28,), 16, 40),
    ]:
        yield dict(x=rng(*rows, k), w=rng(k, n), bias=rng(n))
    yield dict(x=rng(5, 8), w=rng(8, 24))
    chain = (("silu", 0.0, 0.0, -1), ("add", 0.0, 0.0, 3), ("channel_mul", 0.0, 0.0, 4))
    yield dict(x=rng(9, 40), w=rng(40, 33), bias=rng(33), extras=[rng(9, 33), rng(33)], post=chain)
    large = dict(w=rng(400, 213) * np.float32(0.125), strassen=halves.KEEP)
    yield dict(x=rng(2, 201, 400), **large)
    yield dict(x=rng(1, 421, 400), **large)
    yield dict(x=rng(1, 202, 400), bias=rng(213), **large, post=(("gelu", 0.0, 0.0, -1),))
    extras = [rng(1, 203, 213), rng(213)]
    yield dict(x=rng(1, 203, 400), bias=rng(213), **large, extras=extras, post=chain)


@op.benches
def benches(rng):
    for m, k, n in [
        (197, 192, 576),
        (197, 768, 192),
        (128, 1536, 384),
        (400, 256, 1024),
        (1, 1280, 1000),
    ]:
        yield dict(x=rng(m, k), w=rng(k, n), bias=rng(n))
    yield dict(x=rng(1, 400, 256), w=rng(256, 1024), bias=rng(1024), strassen=halves.MAKE)
