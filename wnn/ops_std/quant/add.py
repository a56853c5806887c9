"""y = saturate(round(((a - a_zero) a_scale op (b - b_zero) b_scale) / y_scale) + y_zero), all u8.

a, b: broadcast to y    kind: "add" or "mul"    low: the least real value y may have, -inf or 0
Source: com.microsoft QLinearAdd-1 and QLinearMul-1.
"""

import struct

import numpy as np

from ...op import Op, Spec
from ...pattern import OneOf, P
from ...rules import batch_elementwise, broadcast, transpose_elementwise
from . import fusion

op = Op(
    "add_quantized",
    inputs="a b",
    attrs={
        "kind": "add", "a_scale": ..., "a_zero": 0, "b_scale": ..., "b_zero": 0,
        "y_scale": ..., "y_zero": 0, "low": -np.inf,
    },
)  # fmt: skip
op.fused_in = "integer kernels"
op.float64 = False


@op.rule
def rule(a, b, **attrs):
    return Spec(broadcast("add_quantized", a.shape, b.shape), "u8")


@op.reference
def reference(a, b, *, kind, a_scale, a_zero, b_scale, b_zero, y_scale, y_zero, low):
    a = (a.astype(np.float32) - a_zero) * np.float32(a_scale)
    b = (b.astype(np.float32) - b_zero) * np.float32(b_scale)
    y = np.maximum(a + b if kind == "add" else a * b, np.float32(low)) / np.float32(y_scale)
    return np.clip(np.rint(y) + y_zero, 0, 255).astype(np.uint8)


op.transpose(transpose_elementwise)
op.batch(batch_elementwise)


@op.kernel("u8 u8", "add_quantized", strides={"a": "any", "b": "any"}, inplace="a b")
def pack(kind, a_scale, a_zero, b_scale, b_zero, y_scale, y_zero, low):
    numbers = (a_scale, a_zero, b_scale, b_zero, y_scale, y_zero, max(low, -3e38))
    return struct.pack("i7f", kind == "mul", *numbers)


_either = OneOf(P.add(), P.mul())


@op.fuse(fusion.each("quantize", OneOf(_either, P.relu(_either))))
def from_real(g, m):
    quantize, inner = m.root, m.nodes[-1]
    a, b = (fusion.dequantized(g, v) for v in inner.inputs[:2])
    scale, zero = (fusion.number(v) for v in (*quantize.inputs[1:], None, None)[:2])
    if a is None or b is None or scale is None or quantize.attrs["dtype"] != "u8":
        return None
    if zero is None and len(quantize.inputs) > 2 or inner.attrs.get("post"):
        return None
    return g.add(
        op, [a[0], b[0]], kind=inner.op.name, a_scale=float(a[1]), a_zero=a[2], b_scale=float(b[1]),
        b_zero=b[2], y_scale=float(scale), y_zero=int(zero or 0),
        low=0.0 if len(m.nodes) == 3 else -np.inf,
    )  # fmt: skip


@op.cases
def cases(rng):
    def u8(*shape):
        return rng.integers(0, 256, shape).astype(np.uint8)

    given = {
        "a_scale": 0.03,
        "a_zero": 12,
        "b_scale": 0.021,
        "b_zero": 200,
        "y_scale": 0.04,
        "y_zero": 99,
    }
    yield {"a": u8(2, 5, 33), "b": u8(2, 5, 33), **given}
    yield {"a": u8(2, 5, 33), "b": u8(33), **given, "kind": "mul", "y_scale": 0.01}
    yield {"a": u8(2, 1, 33), "b": u8(5, 1), **given, "low": 0.0}
    yield {"a": u8(3, 1000), "b": u8(3, 1000), **given}
