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


@quantize.fuse(fusion.each("quantize", P.reshape(fusion.each("dequantize", V("x")))))
def past_reshape(g, m):
    """A reshape between the two is one of the integers."""
    outer, reshape, inner = m.nodes
    if (
        any(v.spec.size != 1 for v in (*outer.inputs[1:], *inner.inputs[1:]))
        or len(reshape.inputs) > 1
    ):
        return None
    x = g.add("reshape", [m.x], **reshape.attrs)
    return g.add(
        "quantize", [g.add("dequantize", [x, *inner.inputs[1:]]), *outer.inputs[1:]], **outer.attrs
    )
