"""Chains of quantize and dequantize made simpler, before integer kernels are sought."""

import numpy as np

from ...pattern import P, V
from . import fusion
from .quantize import op as quantize


@quantize.fuse(P.quantize())
def unsigned(g, m):
    """To u8 instead of i8, where all that reads it dequantises it."""
    node = m.root
    y = node.outputs[0]
    users = list(y.users)
    if (
        node.attrs["dtype"] != "i8"
        or g.is_output(y)
        or any(u.op.name != "dequantize" for u in users)
    ):
        return None
    zeros = [n.inputs[2] if len(n.inputs) > 2 else None for n in (node, *users)]
    if any(v is not None and v.const is None for v in zeros):
        return None
    zeros = [np.int16(0) if v is None else v.array.astype(np.int16) for v in zeros]
    own, *theirs = [g.const((z + 128).astype(np.uint8)) for z in zeros]
    new = g.add(node.op, [*node.inputs[:2], own], dtype="u8")
    for user, zero in zip(users, theirs, strict=True):
        g.replace(user.outputs[0], g.add(user.op, [new, user.inputs[1], zero]))
    return new


@quantize.fuse(fusion.each("quantize", fusion.each("dequantize", V("x"))))
def again(g, m):
    """Quantising what was dequantised by the same scale and zero point gives it back."""
    outer, inner = m.nodes
    if outer.attrs["dtype"] != m.x.spec.dtype or len(inner.inputs) != len(outer.inputs):
        return None
    pairs = zip(inner.inputs[1:], outer.inputs[1:], strict=True)
    same = all(a.const and b.const and np.array_equal(a.array, b.array) for a, b in pairs)
    return m.x if same else None


MOVES = ("concat", "reshape", "slice", "squeeze", "transpose", "unsqueeze")
SOURCES = ("dequantize", "conv_quantized", "conv_depthwise_quantized")


@quantize.fuse(P.quantize())
def before_moves(g, m):
    """What is only moved between a source of quantised numbers and here is quantised there."""
    outer = m.root
    node = outer.inputs[0].producer
    if not _moved(outer.inputs[0]) or any(fusion.number(v) is None for v in outer.inputs[1:]):
        return None
    data = _data(node)
    bytes_ = [g.add(quantize, [v, *outer.inputs[1:]], **outer.attrs) for v in data]
    return g.add(node.op, [*bytes_, *node.inputs[len(data) :]], **node.attrs)


def _data(node) -> list:
    return node.inputs if node.op.name == "concat" else node.inputs[:1]


def _moved(v) -> bool:
    """Whether v has one user and is what a move makes of sources."""
    node = v.producer
    if node is None or node.op.name not in MOVES or len(v.users) != 1:
        return False
    return all(
        x.producer is not None and (x.producer.op.name in SOURCES or _moved(x)) for x in _data(node)
    )
