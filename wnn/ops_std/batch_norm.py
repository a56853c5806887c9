"""y = post(x * w + bias), channel by channel: what batch normalization for inference is.

x: (..., C)    w, bias: (C,)    extras: what post-operations read (see `wnn.post`)    y: as x
ONNX's (x - mean) / sqrt(var + eps) * scale + shift becomes a product and a sum by constants. They
go into the weights of a convolution before them; where none is, they are one step.
Source: Ioffe and Szegedy 2015 (arXiv:1502.03167); ONNX BatchNormalization-15.
"""

import numpy as np

from .. import post as posts
from ..errors import ShapeError
from ..op import Op, Spec
from ..pattern import C, P, V
from ..rules import differ
from .binary import BY_NAME

op = Op("batch_norm", inputs="x w bias? *extras", posts=True)
op.fused_in = "batch norms"


@op.rule
def rule(x, w, bias=None, *extras, post):
    if x.rank < 1 or any(v is not None and v.shape != w.shape for v in (w, bias)):
        raise ShapeError(f"[batch_norm] found w {w}, bias {bias}; expected one shape; reshape one")
    if w.rank != 1 or differ(x.shape[-1], w.shape[0]):
        raise ShapeError(
            f"[batch_norm] found x {x} and w {w}; expected x (..., C) and w (C,); transpose x"
        )
    return Spec(x.shape, x.dtype)


@op.reference
def reference(x, w, bias=None, *extras, post):
    y = x * w
    return posts.apply(y if bias is None else y + bias, post, [x, w, bias, *extras])


@op.batch
def batch(axes, ins, outs, attrs):
    a = axes[0]
    if a is None or a == ins[0].rank - 1 or any(b is not None for b in axes[1:3]):
        return None
    return [a] if all(b == a for b, s in zip(axes[3:], ins[3:]) if s.rank > 1) else None


@op.kernel(
    "f32 f32",
    "batch_norm_f32",
    strides={"x": "rows", "extras": "rows", "y": "rows"},
    inplace="x",
)
def pack(post):
    return posts.pack(post)


FEWEST_CHANNELS = 8  # shorter rows are better taken by many at a time


def _of(g, m, bias):
    w, n = m.w, m.x.shape[-1] if m.x.spec.rank > 1 else 0
    if m.x.spec.dtype != "f32" or not isinstance(n, int) or n < FEWEST_CHANNELS:
        return None
    if any(
        v.spec.size != n or v.shape[-1] != n or v.spec.rank > m.x.spec.rank for v in (w, m.bias)
    ):
        return None
    return g.add(op, [m.x, *(g.const(a.reshape(-1)) for a in (w.array, bias(w.array)))])


@op.fuse(P.add(P.mul(V("x"), C("w")), C("bias")))
def from_product_and_sum(g, m):
    return _of(g, m, lambda w: m.bias.array)


@op.fuse(P.mul(P.add(V("x"), C("bias")), C("w")))
def from_sum_and_product(g, m):
    return _of(g, m, lambda w: m.bias.array.reshape(-1) * w.reshape(-1))


@BY_NAME["mul"].importer("BatchNormalization")
def from_onnx(g, node):
    x, *params = node.inputs
    if node.attr("training_mode", 0):
        return by_batch(g, node)
    shape = (-1,) + (1,) * (node.rank(0) - 2)
    eps = node.attr("epsilon", 1e-5)
    if all(p.const is not None for p in params):
        scale, shift, mean, var = (p.array.astype(np.float64) for p in params)
        gain = scale / np.sqrt(var + eps)
        rest = shift - mean * gain
        gain, rest = (g.const(v.astype(params[0].array.dtype).reshape(shape)) for v in (gain, rest))
    else:
        scale, shift, mean, var = (g.add("reshape", [p], to=shape) for p in params)
        root = g.add("sqrt", [g.add("add", [var, g.const(float(eps), var.spec.dtype)])])
        gain = g.add("div", [scale, root])
        rest = g.add("sub", [shift, g.add("mul", [mean, gain])])
    return g.add("add", [g.add("mul", [x, gain]), rest])


def by_batch(g, node):
    """y by the mean and variance of x itself; and what they make of the running ones."""
    x, scale, shift, mean, var = node.inputs
    axes = tuple(i for i in range(node.rank(0)) if i != 1)
    keep, shape = {"axes": axes, "keepdims": True}, (-1,) + (1,) * (node.rank(0) - 2)
    own = g.add("reduce_mean", [x], **keep)
    apart = g.add("sub", [x, own])
    spread = g.add("reduce_mean", [g.add("mul", [apart, apart])], **keep)
    eps = g.const(float(node.attr("epsilon", 1e-5)), x.spec.dtype)
    y = g.add("div", [apart, g.add("sqrt", [g.add("add", [spread, eps])])])
    scale, shift = (g.add("reshape", [p], to=shape) for p in (scale, shift))
    y = g.add("add", [g.add("mul", [y, scale]), shift])
    momentum = node.attr("momentum", 0.9)

    def running(old, new):
        old = g.add("mul", [old, g.const(momentum, old.spec.dtype)])
        new = g.add(
            "mul", [g.add("reshape", [new], to=(-1,)), g.const(1 - momentum, new.spec.dtype)]
        )
        return g.add("add", [old, new])

    return y, running(mean, own), running(var, spread)


@op.cases
def cases(rng):
    for shape in [(3, 8), (2, 5, 33), (1, 7, 6, 64), (0, 16), (4, 1), (257, 70)]:
        c = shape[-1]
        relu = (("relu", 0.0, 0.0, -1),)
        more = (("silu", 0.0, 0.0, -1), ("add", 0.0, 0.0, 3))
        yield dict(x=rng(*shape), w=rng(c))
        yield dict(x=rng(*shape), w=rng(c), bias=rng(c), post=relu)
        yield dict(x=rng(*shape), w=rng(c), bias=rng(c), extras=[rng(*shape)], post=more)


@op.benches
def benches(rng):
    yield dict(x=rng(1, 28, 28, 256), w=rng(256), bias=rng(256), post=(("relu", 0.0, 0.0, -1),))
