"""QuantizeLinear and DequantizeLinear of types of 8 bits or fewer: quotients, casts and products.

Source: ONNX QuantizeLinear-25, DequantizeLinear-25.
"""

from ... import dtypes
from ..cast import convert


def quantize(g, node, to: str, scale, zero):
    """y = x / scale + zero, rounded to what the type `to` holds."""
    x = g.add("div", [convert(g, node.inputs[0], "f32"), convert(g, scale, "f32")])
    if to[0] == "f":
        return convert(g, x, to, saturate=bool(node.attr("saturate", 1)))
    x = g.add("round", [x])
    if zero is not None:
        x = g.add("add", [x, convert(g, zero, "f32")])
    half = 1 << int(to[1]) - 1
    lo, hi = (-half, half - 1) if to[0] == "i" else (0, 2 * half - 1)
    return convert(g, g.add("clip", [x], lo=float(lo), hi=float(hi)), to)


def dequantize(g, node, scale, zero):
    """y = (x - zero) * scale, of a small float x."""
    x = convert(g, node.inputs[0], "f32")
    if zero is not None:
        x = g.add("sub", [x, convert(g, zero, "f32")])
    y = g.add("mul", [x, convert(g, scale, "f32")])
    return convert(g, y, dtypes.NAME.get(node.attr("output_dtype", 0) or -1, scale.spec.dtype))
