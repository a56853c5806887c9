"""y = x / (sum |x|**p)**(1/p) along an axis; 0 where that sum is 0.

x, y: any shape    p: 1 or 2.  Kernel: along_axis.cc.  Source: ONNX LpNormalization-22.
"""

import struct

import numpy as np

from ..errors import UnsupportedError
from ..op import Op
from ..rules import axis_of, batch_except, transpose_axis

op = Op("lp_norm", attrs={"axis": -1, "p": 2})
op.transpose(transpose_axis())
op.batch(batch_except("axis"))


@op.rule
def rule(x, axis, p):
    axis_of(axis, x.rank, "lp_norm")
    return x.like()


@op.reference
def reference(x, axis, p):
    norm = np.sum(np.abs(x), axis, keepdims=True) if p == 1 else np.sqrt(np.sum(x * x, axis, keepdims=True))
    return np.where(norm == 0, 0, x / norm)


@op.importer("LpNormalization")
def from_onnx(g, node):
    axis, p = node.attr("axis", -1), node.attr("p", 2)
    if p not in (1, 2):
        raise UnsupportedError(f"[lp_norm] found p {p}; expected 1 or 2")
    return g.add(op, node.inputs, axis=axis, p=p)


for _dtype in ("f32", "f64", "f16"):

    @op.kernel(_dtype, "lp_norm_any", inplace="x")
    def pack(x, axis, p):
        return struct.pack("qq", axis % x.rank, p)


@op.cases
def cases(rng):
    yield dict(x=rng(3, 17))
    yield dict(x=rng(2, 5, 6), axis=1, p=1)
    yield dict(x=np.zeros((2, 3), np.float32))
    yield dict(x=rng(4, 200), axis=0)
