"""y = x where the condition holds, else z; all three broadcast. x and z share one dtype.

Source: ONNX Where-16.
"""

import numpy as np

from ..op import Op, Spec
from ..pattern import C, P, V
from ..rows import MOVES
from ..rules import batch_elementwise, broadcast, same_dtype, transpose_elementwise
from ..windows import hidden_by

op = Op("where", inputs="condition x z")
op.float64, op.symbolic = False, True


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


@op.importer("Where", takes="f16 bits")
def from_onnx(g, node):
    return g.add(op, node.inputs)


@op.fuse(P.where(V("condition"), V("x"), V("z")))
def chosen(g, m):
    """A condition that is the same throughout."""
    y = m.x if always(m.condition) else m.z
    same = y is m.x or m.condition.const is not None and not m.condition.array.any()
    return y if same and y.shape == m.root.outputs[0].shape else None


def always(condition) -> bool:
    """Whether it holds throughout, as range(n) >= 0 does: what transformers has for no mask."""
    held = _unshaped(condition)
    if held.const is not None:
        return bool(held.array.all())
    if held.producer is None or held.producer.op.name != "greater_equal":
        return False
    x, low = (_unshaped(v) for v in held.producer.inputs)
    if x.producer is None or x.producer.op.name != "range":
        return False
    numbers = [x.producer.inputs[0], x.producer.inputs[2], low]
    if any(v.const is None for v in numbers):
        return False
    first, step, low = (v.array for v in numbers)
    return bool((first >= low).all() and (step > 0).all())


def _unshaped(v):
    """What a value has elements of, each perhaps several times."""
    while v.producer is not None and v.producer.op.name in ("expand", "reshape", "unsqueeze"):
        v = v.producer.inputs[0]
    return v


@op.fuse(P.where(V("hidden"), C(value=0.0), V("y")))
def none_is_hidden(g, m):
    """Of ONNX's Attention, where its mask has a number for each query."""
    mask = hidden_by(m.hidden)
    if mask is None:
        return None
    seen = mask.const is not None and (mask.array.max(-1) > -np.inf).all()
    return m.y if seen or _finite(mask) else None


def _finite(v) -> bool:
    """Whether v is a product or a constant without -inf, or made of such by moves and factors."""
    if v.const is not None:
        return (v.array > -np.inf).all()
    made = v.producer
    if made is None or made.op.name in ("matmul", "linear"):
        return made is not None
    passes = made.op.keeps_order or made.op.name in (*MOVES, "mul", "div", "relative_shift")
    return passes and all(
        _finite(x) for x in made.inputs if x is not None and x.spec.dtype == v.spec.dtype
    )


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
