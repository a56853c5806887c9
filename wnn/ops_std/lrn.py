"""y = x / (bias + alpha / size * sum of x**2 over neighbouring channels)**beta, channels last.

x, y: (N, *spatial, C)
The neighbours of channel c are c - (size - 1) // 2 to c + size // 2, as far as they exist.
Source: Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural Networks",
3.3; ONNX LRN-13.
"""

import struct

import numpy as np

from ..op import Op
from ..rules import batch_leading
from .conv import geometry
from .layer_norm import keeps_last

op = Op(
    "lrn", attrs={"size": ..., "alpha": 1e-4, "beta": 0.75, "bias": 1.0}, tol={"f32": (1e-5, 1e-6)}
)
op.batch(batch_leading(1))
op.transpose(keeps_last)


@op.rule
def rule(x, size, alpha, beta, bias):
    return x.like()


@op.reference
def reference(x, size, alpha, beta, bias):
    padded = np.pad(x * x, [(0, 0)] * (x.ndim - 1) + [((size - 1) // 2, size // 2)])
    total = sum(padded[..., k : k + x.shape[-1]] for k in range(size))
    return x / (bias + alpha / size * total) ** beta


@op.kernel("f32", "lrn_f32")
def pack(size, alpha, beta, bias):
    return struct.pack("qfff", size, alpha, beta, bias)


@op.importer("LRN")
def from_onnx(g, node):
    (x,) = node.inputs
    rank = node.rank(0)
    attrs = {k: float(node.attr(k, op.attrs[k])) for k in ("alpha", "beta", "bias")}
    y = g.add(
        op, [g.add("transpose", [x], perm=geometry.to_last(rank))], size=node.attr("size"), **attrs
    )
    return g.add("transpose", [y], perm=geometry.to_first(rank))


@op.cases
def cases(rng):
    yield dict(x=rng(2, 3, 4, 17), size=5)
    yield dict(x=rng(1, 4, 4, 40), size=4, alpha=0.01, beta=0.5, bias=2.0)
    yield dict(x=rng(3, 2), size=7, alpha=1.0)
