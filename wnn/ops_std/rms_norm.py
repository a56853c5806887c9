"""y = x / sqrt(mean(x**2) + eps) * gamma, the mean over the last axis.

x, y: (..., C)    gamma: (C,), 1 where absent    eps: same units as x**2
Kernel: layer_norm.cc; attrs: float eps.
Source: Zhang and Sennrich 2019 (arXiv:1910.07467); ONNX RMSNormalization-23.
"""

import struct

import numpy as np

from ..errors import ShapeError
from ..op import Op
from ..pattern import C, OneOf, P, V
from ..rules import batch_leading, may_be
from .layer_norm import (
    again,
    flattened,
    keeps_last,
    normalization,
    reduced,
    rooted,
    square,
    through,
    vector_of,
)

op = Op("rms_norm", inputs="x gamma?", attrs={"eps": 1e-5})
op.batch(batch_leading(1))
op.transpose(keeps_last)


@op.rule
def rule(x, gamma=None, eps=1e-5):
    if gamma is not None and not may_be(gamma.shape, x.shape[-1:]):
        raise ShapeError(
            f"[rms_norm] found gamma {gamma} for x {x}; expected ({x.shape[-1]},), x's last axis; "
            "reshape one"
        )
    return x.like()


@op.reference
def reference(x, gamma=None, eps=1e-5):
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return y if gamma is None else y * gamma


@op.kernel("f32", "rms_norm_f32", inplace="x")
def pack(eps):
    return struct.pack("f", eps)


@op.importer("RMSNormalization", since=23)
@op.importer("SimplifiedLayerNormalization")
def from_onnx(g, node):
    return normalization(g, node, "rms_norm")


@op.importer("SkipSimplifiedLayerNormalization", domain="com.microsoft")
def skip_from_onnx(g, node):
    x, skip, gamma, bias = (*node.inputs, None)[:4]
    total = g.add("add", [x, skip])
    total = total if bias is None else g.add("add", [total, bias])
    return g.add(op, [total, gamma], eps=float(node.attr("epsilon", 1e-5))), None, None, total


_rrms, _rms = rooted(P.reduce_mean(square(V("x")), keepdims=True).named("mean"))


@op.fuse(OneOf(P.div(V("x"), _rms), P.mul(V("x"), _rrms)))
def from_parts(g, m):
    return flattened(g, "rms_norm", m.x, reduced(m.mean), eps=m.number("eps"))


@op.fuse(P.mul(through(P.rms_norm(V("x")).named("norm")), C("gamma")))
def with_gamma(g, m):
    gamma = vector_of(g, m, "gamma")
    if gamma is not None:
        return again(g, m, g.add(op, [m.x, gamma], eps=m.norm.producer.attrs["eps"]))


@op.cases
def cases(rng):
    for shape in [(1, 1), (5, 17), (2, 3, 33), (40, 768), (0, 4)]:
        yield dict(x=rng(*shape), gamma=rng(shape[-1]))
    yield dict(x=rng(7, 40), eps=1e-6)


@op.benches
def benches(rng):
    yield dict(x=rng(128, 2048), gamma=rng(2048))
