"""y[..., j, ...] = on where j equals the index, else off; a new axis at `axis`.

indices: any shape and number dtype; a negative one counts from the end, one out of range gives off
everywhere.  depth: a scalar.  values: (2,), off and on; they give y's dtype.
Source: ONNX OneHot-11.
"""

import struct

import numpy as np

from ..errors import ShapeError
from ..op import Op, Spec, need
from ..rules import axis_of, bounded, ints_of, may_be
from ..symbols import Sym

op = Op("one_hot", inputs="indices depth values", attrs={"axis": -1})
op.float64 = False


@op.rule
def rule(indices, depth, values, axis):
    need(depth, 1)
    (n,) = ints_of(depth)
    if not isinstance(n, Sym) and n < 1 or not may_be(values.shape, (2,)):
        raise ShapeError(
            f"[one_hot] found depth {n} and values {values}; "
            "expected a positive depth and two values; correct the model"
        )
    a = axis_of(axis, indices.rank + 1, "one_hot")
    return bounded("one_hot", Spec((*indices.shape[:a], n, *indices.shape[a:]), values.dtype))


@op.outline
def outline(symbol, indices, depth, values, axis):
    a = axis_of(axis, indices.rank + 1, "one_hot")
    return Spec((*indices.shape[:a], symbol("depth"), *indices.shape[a:]), values.dtype)


@op.reference
def reference(indices, depth, values, axis):
    n = int(depth.reshape(-1)[0])
    at = np.asarray(indices).astype(np.int64)
    at = np.expand_dims(np.where(at < 0, at + n, at), axis)
    places = np.arange(n).reshape([-1 if k == axis % at.ndim else 1 for k in range(at.ndim)])
    return np.where(at == places, values[1], values[0])


@op.batch
def batch(axes, ins, outs, attrs):
    if axes[0] is None or any(a is not None for a in axes[1:]):
        return None
    return [axes[0] + (axes[0] >= attrs["axis"] % outs[0].rank)]


for _dtype in ("i64", "i32", "f32"):

    @op.kernel(f"{_dtype} * *", "one_hot")
    def pack(axis, out):
        return struct.pack("q", axis % out.rank)


@op.importer("OneHot", takes="f16 bits")
def from_onnx(g, node):
    return g.add(op, node.inputs, axis=node.attr("axis", -1))


@op.cases
def cases(rng):
    yield dict(indices=np.array([1, -1, 3, 9]), depth=np.array(4), values=np.float32([0.5, 2]))
    yield dict(
        indices=np.array([[1, 2], [0, -5]]), depth=np.array([5]), values=np.array([0, 1]), axis=0
    )
    yield dict(
        indices=np.float32([[1, 2], [0, 4]]),
        depth=np.array([5]),
        values=np.array([False, True]),
        axis=1,
    )


op.nonfinite = False
