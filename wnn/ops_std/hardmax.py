"""y = 1 at the first place of the maximum along an axis, 0 elsewhere. NaN counts as the maximum.

x, y: any shape, one float dtype.  Kernel: along_axis.cc.
Source: ONNX Hardmax-13; before 13 the axes from `axis` on are one.
"""

import struct

import numpy as np

from ..op import Op
from ..rules import axis_of, batch_except, transpose_axis
from .softmax import along_axis

op = Op("hardmax", attrs={"axis": -1})
op.transpose(transpose_axis())
op.batch(batch_except("axis"))
along_axis(op, "Hardmax", 13, -1)


@op.rule
def rule(x, axis):
    axis_of(axis, x.rank, "hardmax")
    return x.like()


@op.reference
def reference(x, axis):
    y = np.zeros_like(x)
    if x.size:
        np.put_along_axis(y, np.expand_dims(np.argmax(x, axis), axis), 1, axis)
    return y


for _dtype in ("f32", "f64", "f16"):

    @op.kernel(_dtype, "hardmax_any", inplace="x")
    def pack(x, axis):
        return struct.pack("qq", axis % x.rank, 0)


@op.cases
def cases(rng):
    yield dict(x=rng(3, 7))
    yield dict(x=rng(2, 5, 4), axis=1)
    yield dict(x=np.round(rng(4, 9)))
