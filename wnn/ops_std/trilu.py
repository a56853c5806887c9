"""y: x with the elements above (upper: below) diagonal k of each matrix set to zero.

Source: ONNX Trilu-14.
"""

import struct

import numpy as np

from ..errors import ShapeError
from ..op import Op
from ..rules import batch_leading

op = Op("trilu", inputs="x k?", attrs={"upper": True})
op.float64 = False
op.batch(batch_leading(2))


@op.rule
def rule(x, k=None, upper=True):
    if x.rank < 2:
        raise ShapeError(f"[trilu] found {x}; expected at least 2 dimensions; correct the model")
    return x.like()


@op.reference
def reference(x, k=None, upper=True):
    k = 0 if k is None else int(np.clip(k.reshape(-1)[0], -(1 << 40), 1 << 40))
    rows, columns = np.indices(x.shape[-2:])
    keep = columns - rows >= k if upper else columns - rows <= k
    return np.where(keep, x, np.zeros((), x.dtype))


@op.kernel("* i64", "trilu")
def pack(upper):
    return struct.pack("q", upper)


@op.importer("Trilu")
def from_onnx(g, node):
    return g.add(op, node.inputs, upper=bool(node.attr("upper", 1)))


@op.cases
def cases(rng):
    yield dict(x=rng(4, 5))
    yield dict(x=rng(2, 5, 3), k=np.array(-1), upper=False)
    yield dict(x=np.arange(20).reshape(4, 5), k=np.array(2))
    yield dict(x=rng(3, 3), k=np.array(100))
