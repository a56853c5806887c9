"""y = a * sigmoid(b), or tanh(a) * sigmoid(b), where a and b are the halves of x along an axis.

x: (..., 2C, ...)    y: (..., C, ...)
Source: Dauphin et al. 2017 (arXiv:1612.08083); with tanh van den Oord et al. 2016 (WaveNet,
arXiv:1609.03499).
"""

import struct

import numpy as np

from ..errors import ShapeError
from ..op import Op, Spec
from ..pattern import P, V
from ..rules import axis_of, batch_except, differ, transpose_axis

op = Op("glu", attrs={"axis": -1, "tanh": False}, tol={"f32": (1e-5, 1e-6)})
op.fused_in = "core attention"
op.transpose(transpose_axis())
op.batch(batch_except("axis"))


@op.rule
def rule(x, axis, tanh):
    axis = axis_of(axis, x.rank, "glu")
    n = x.shape[axis]
    if differ(n % 2, 0):
        raise ShapeError(
            f"[glu] found {n} elements along axis {axis} of {x}; expected an even number; pad it"
        )
    return Spec((*x.shape[:axis], n // 2, *x.shape[axis + 1 :]), x.dtype)


@op.reference
def reference(x, axis, tanh):
    a, b = np.split(x, 2, axis)
    e = np.exp(-np.abs(b))
    return (np.tanh(a) if tanh else a) * np.where(b >= 0, 1, e) / (1 + e)


@op.kernel("f32", "glu_f32")
def pack(x, axis, tanh):
    return struct.pack("qq", int(np.prod(x.shape[axis % x.rank :], dtype=np.int64)) // 2, tanh)


def _halves(a, b):
    """(x, axis) of which a and b are the halves, by a split or two slices; or None."""
    p, q = a.producer, b.producer
    if p is q and p.op.name == "split" and p.outputs == [a, b] and a.shape == b.shape:
        return p.inputs[0], p.attrs["axis"]
    if p.op.name != "slice" or q.op.name != "slice" or p.inputs != q.inputs:
        return None
    (first, *more), (second, *others) = p.attrs["window"], q.attrs["window"]
    axis, x = first[0], p.inputs[0]
    d = x.shape[axis]
    if more or others or second[0] != axis or not isinstance(d, int) or d % 2:
        return None
    places = [range(*slice(*w[1:]).indices(d)) for w in (first, second)]
    return (x, axis) if places == [range(d // 2), range(d // 2, d)] else None


@op.fuse(P.mul(V("a"), P.sigmoid(V("b"))))
def from_halves(g, m):
    tanh = m.a.producer is not None and m.a.producer.op.name == "tanh"
    a, b = m.a.producer.inputs[0] if tanh else m.a, m.b
    if any(v.producer is None or len(v.users) != 1 or g.is_output(v) for v in {m.a, a, b}):
        return None
    found = _halves(a, b)
    return g.add("glu", [found[0]], axis=found[1], tanh=tanh) if found else None


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
        yield dict(x=rng(*shape), axis=axis, tanh=True)
