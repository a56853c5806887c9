"""y = x / |x|_p, the norm taken along an axis: |x|_1 = sum |x|, |x|_2 = sqrt(sum x**2); 0 where the
norm is 0.

x, y: any shape.  axis: counts from the end where negative.  p: 1 or 2.
Source: ONNX LpNormalization-22.
"""

import struct

import numpy as np

from ..errors import UnsupportedError
from ..op import Op
from ..rules import axis_of, batch_except, transpose_axis

op = Op("lp_normalize", attrs={"axis": -1, "p": 2})
op.transpose(transpose_axis())
op.batch(batch_except("axis"))
op.flops(lambda x: 3 * x.size)


@op.rule
def rule(x, axis, p):
    axis_of(axis, x.rank, "lp_normalize")
    if p not in (1, 2):
        raise UnsupportedError(
            f"[lp_normalize] found p={p}; expected 1 or 2; correct the attribute"
        )
    return x.like()


@op.reference
def reference(x, axis, p):
    norm = np.linalg.norm(x, p, axis, keepdims=True)
    return np.divide(x, norm, out=np.zeros_like(x), where=norm != 0)


@op.kernel("f64", "lp_norm_any", inplace="x")  # along_axis.cc
@op.kernel("f16", "lp_norm_any", inplace="x")
@op.kernel("f32", "lp_normalize_f32", inplace="x")
def pack(x, axis, p):
    return struct.pack("qq", axis % x.rank, p)


@op.importer("LpNormalization")
def from_onnx(g, node):
    return g.add(op, node.inputs, axis=node.attr("axis", -1), p=node.attr("p", 2))


@op.cases
def cases(rng):
    yield dict(x=rng(5, 17))
    yield dict(x=rng(2, 3, 33), p=1)
    yield dict(x=rng(2, 31, 7), axis=1)
    yield dict(x=rng(64, 40), axis=0, p=1)
    yield dict(x=np.zeros((3, 4), np.float32))
