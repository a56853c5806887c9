"""y = a * sigmoid(b), where a and b are the halves of x along an axis.

x: (..., 2C, ...)    y: (..., C, ...)
Source: Dauphin et al. 2017 (arXiv:1612.08083).
"""

import struct

import numpy as np

from ..errors import ShapeError
from ..op import Op, Spec
from ..pattern import P, V
from ..rules import axis_of, batch_except, differ, transpose_axis

op = Op("glu", attrs={"axis": -1}, tol={"f32": (1e-5, 1e-6)})
op.transpose(transpose_axis())
op.batch(batch_except("axis"))


@op.rule
def rule(x, axis):
    axis = axis_of(axis, x.rank, "glu")
    n = x.shape[axis]
    if differ(n % 2, 0):
        raise ShapeError(
            f"[glu] found {n} elements along axis {axis} of {x}; expected an even number; pad it"
        )
    return Spec((*x.shape[:axis], n // 2, *x.shape[axis + 1 :]), x.dtype)


@op.reference
def reference(x, axis):
    a, b = np.split(x, 2, axis)
    e = np.exp(-np.abs(b))
    return a * np.where(b >= 0, 1, e) / (1 + e)


@op.kernel("f32", "glu_f32")
def pack(x, axis):
    return struct.pack("q", int(np.prod(x.shape[axis % x.rank :], dtype=np.int64)) // 2)


@op.fuse(
    P.mul(
        P.split(V("x"), out=0, shared=True).named("a"),
        P.sigmoid(P.split(V("x"), out=1, shared=True)),
    )
)
def from_split(g, m):
    split = m.a.producer
    if len(split.outputs) != 2 or split.outputs[0].shape != split.outputs[1].shape:
        return None
    if any(len(v.users) != 1 or g.is_output(v) for v in split.outputs):
        return None
    return g.add("glu", [m.x], axis=split.attrs["axis"])


@op.cases
def cases(rng):
    for shape, axis in [
        ((4, 6), -1),
        ((2, 5, 34), -1),
        ((2, 8, 7), 1),
        ((3, 128), -1),
        ((0, 4), 1),
    ]:
        yield dict(x=rng(*shape), axis=axis)
