"""What the makers of integer kernels share: finding quantised inputs, weights and outputs."""

from __future__ import annotations

import numpy as np

from ...graph import Value
from ...pattern import OneOf, P, Pattern, V
from ..conv import geometry

LONGEST = 1 << 15  # rows of weights whose sums of products surely fit in 32 bits


def each(op: str, x: Pattern) -> Pattern:
    """quantize or dequantize of x, with or without a zero point."""
    made = P.of(op)
    return OneOf(made(x, V()), made(x, V(), V()))


def number(v: Value | None) -> np.generic | None:
    """The one element of a constant; None where there is none or more."""
    return (
        v.array.reshape(-1)[0]
        if v is not None and v.const is not None and v.spec.size == 1
        else None
    )


def dequantized(g, x: Value):
    """(u8 value, scale, zero) that x is the dequantised of, perhaps moved; None where it is not."""
    node = x.producer
    if node is not None and node.op.name in ("transpose", "reshape") and len(node.inputs) == 1:
        inner = dequantized(g, node.inputs[0])
        return inner and (g.add(node.op, [inner[0]], **node.attrs), *inner[1:])
    if node is None or node.op.name != "dequantize" or node.inputs[0].spec.dtype != "u8":
        return None
    scale, zero = number(node.inputs[1]), 0
    if len(node.inputs) > 2:
        zero = number(node.inputs[2])
    return None if scale is None or zero is None else (node.inputs[0], np.float32(scale), int(zero))


def centred(w: Value, view=lambda part: part):
    """(integers, scale per column) of dequantised weights (..., K, N), seen through `view`."""
    if w.const is None or w.const.quantized is None:
        return None
    q, scale = map(view, w.const.quantized)
    if q.size == 0 or not (scale == scale[..., :1, :]).all():
        return None
    return q, np.ascontiguousarray(scale[..., 0, :], np.float32).reshape(-1)


def eight_bits(w: Value, view=lambda part: part):
    """(i8 weights, scale per column, shift): weights + shift are the integers."""
    found = centred(w, view)
    fitted = found and shifted(found[0])
    return fitted and (fitted[0], found[1], fitted[1])


def shifted(q: np.ndarray) -> tuple[np.ndarray, int] | None:
    """(i8 weights, shift), their sum the integers; None where they span more than eight bits."""
    low, high = int(q.min(initial=0)), int(q.max(initial=0))
    if high - low > 255 or q.shape[-2] > LONGEST:
        return None
    shift = 0 if low >= -128 and high <= 127 else low + 128
    return np.ascontiguousarray(q - shift, np.int8), shift


def integer_sums(g, op, x: Value, w: np.ndarray, x_zero: Value | None, attrs: dict):
    """The sums of u8 x times constant integers, by a convolution; None where it cannot be."""
    fitted = shifted(w.astype(np.int32)) if w.ndim == 3 else (w, 0)
    if fitted is None or x.spec.dtype != "u8" or (x_zero is not None and x_zero.spec.size != 1):
        return None
    if x_zero is not None and x_zero.spec.rank:
        x_zero = g.add("reshape", [x_zero], to=())
    q, shift = fitted
    scale = g.const(np.ones(q.size // q.shape[-2], np.float32))
    return g.add(op, [x, g.const(q), scale, None, x_zero], **attrs, shift=shift, dtype="i32")


def arguments(g, node, given, w: np.ndarray, scale: np.ndarray, shift: int):
    """(inputs, attributes) of the quantised form of a convolution or product."""
    x, x_scale, x_zero = given
    bias, extras = (*node.inputs[2:3], None)[0], list(node.inputs[3:])
    total = x_scale * scale
    post = tuple((k, a, b, i + 3 if i >= 0 else i) for k, a, b, i in node.attrs["post"])
    integers = None
    if bias is not None:
        integers = _int32(bias, total)
        if integers is None:
            post = (("bias", 0.0, 0.0, 6 + len(extras)), *post)
            extras.append(bias)
    inputs = [
        x, g.const(w), g.const(total), None if integers is None else g.const(integers),
        g.const(np.uint8(x_zero)), None, *extras,
    ]  # fmt: skip
    attrs = {k: v for k, v in node.attrs.items() if k in (*geometry.ATTRS, "groups")}
    return inputs, {**attrs, "post": post, "shift": shift}


def _int32(bias: Value, total: np.ndarray) -> np.ndarray | None:
    if bias.const is None or bias.const.quantized is None:
        return None
    q, scale = bias.const.quantized
    return (
        np.ascontiguousarray(q, np.int32) if np.allclose(scale, total, rtol=1e-4, atol=0) else None
    )


def quantized_output(g, quantize):
    """What a quantize node reads, made to write the quantised; None where it cannot be."""
    node = quantize.inputs[0].producer
    scale, zero = number(quantize.inputs[1]), 0
    if len(quantize.inputs) > 2:
        zero = number(quantize.inputs[2])
    if (
        scale is None
        or zero is None
        or quantize.attrs["dtype"] != "u8"
        or node.attrs["dtype"] != "f32"
    ):
        return None
    attrs = {**node.attrs, "dtype": "u8", "y_scale": float(scale), "y_zero": int(zero)}
    inputs = list(node.inputs)
    if all(kind in ("relu", "clip") for kind, *_ in attrs["post"]) and inputs[5:6] in ([], [None]):
        inputs[2] = g.const((inputs[2].array / np.float32(scale)).astype(np.float32))
        attrs["y_scale"] = 1.0
        attrs["post"] = tuple((k, a / scale, b / scale, i) for k, a, b, i in attrs["post"])
    return g.add(node.op, inputs, **attrs)
