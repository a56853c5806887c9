"""y = x where the condition holds, else z; all three broadcast. x and z share one dtype.

Source: ONNX Where-16.
"""

import numpy as np

from ..op import Op, Spec
from ..rules import batch_elementwise, broadcast, same_dtype, transpose_elementwise

op = Op("where", inputs="condition x z")
op.float64 = False


@op.rule
def rule(condition, x, z):
    return Spec(broadcast("where", condition.shape, x.shape, z.shape), same_dtype("where", x, z))


@op.reference
def reference(condition, x, z):
    return np.where(condition.astype(bool), x, z)


op.transpose(transpose_elementwise)
op.batch(batch_elementwise)


@op.kernel("bool * *", "where", strides={"condition": "any", "x": "any", "z": "any"})
def pack():
    return b""


@op.importer("Where")
def from_onnx(g, node):
    return g.add(op, node.inputs)


@op.cases
def cases(rng):
    yield dict(condition=rng(3, 1) > 0, x=rng(3, 33), z=rng(1, 33))
    yield dict(condition=rng(2, 1, 7, 7) > 0, x=np.float32(-np.inf), z=rng(2, 3, 7, 7))
    yield dict(condition=rng(5) > 0, x=np.arange(5), z=np.int64(-1))
    yield dict(condition=np.array(True), x=rng(4), z=rng(3, 1))


@op.benches
def benches(rng):
    yield dict(condition=rng(1, 1, 128, 128) > 0, x=np.float32(-np.inf), z=rng(4, 8, 128, 128))
    yield dict(condition=rng(200, 1000) > 0, x=rng(200, 1000), z=rng(200, 1000))
