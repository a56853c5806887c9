"""y = (x - zero) * scale, in the scale's dtype.

x: any shape, integers    scale, zero?: broadcast to x    y: as x
Source: ONNX DequantizeLinear-10 and later; blocks and axes of scales are written as broadcasts.
"""

import numpy as np

from ... import dtypes
from ...errors import UnsupportedError
from ...op import Op, Spec
from ...rules import batch_elementwise, broadcast, transpose_elementwise
from ..cast import convert
from . import small
from .quantize import parameters

op = Op("dequantize", inputs="x scale zero?", tol={"f32": (1e-6, 0)})


@op.rule
def rule(x, scale, zero=None):
    broadcast("dequantize", x.shape, scale.shape, x.shape if zero is None else zero.shape)
    return Spec(x.shape, scale.dtype)


@op.reference
def reference(x, scale, zero=None):
    y = x.astype(np.float64)
    return (y if zero is None else y - zero) * scale


op.transpose(transpose_elementwise)
op.batch(batch_elementwise)


for _dtype in ("u8", "i8", "u16", "i16", "i32"):

    @op.kernel(
        f"{_dtype} f32 {_dtype}",
        f"dequantize_{_dtype}",
        strides={"x": "any", "scale": "any", "zero": "any"},
    )
    def pack():
        return b""


@op.importer("DequantizeLinear", takes="f16 bits")
def from_onnx(g, node):
    scale, zero = parameters(g, node)
    x, kind = node.inputs[0], node.spec(0).dtype
    if kind in dtypes.SMALL:
        if kind[0] == "f":
            return small.dequantize(g, node, scale, zero)
        x, zero = (v and convert(g, v, dtypes.SMALL[kind]) for v in (x, zero))
    to = dtypes.NAME.get(node.attr("output_dtype", 0))
    if x.spec.dtype not in dtypes.INTS or to not in (None, "obj", scale.spec.dtype):
        raise UnsupportedError(
            f"[DequantizeLinear] found {node.spec(0)} to {to}; expected integers to the "
            "scale's type; export so"
        )
    if zero is not None and zero.const is not None and not zero.array.any():
        zero = None
    return g.add(op, [x, scale, zero])


@op.cases
def cases(rng):
    for dtype in (np.uint8, np.int8, np.uint16, np.int16):
        info = np.iinfo(dtype)
        x = rng.integers(info.min, info.max, (3, 5, 33), dtype)
        yield {"x": x, "scale": np.float32(0.3), "zero": dtype(7)}
        yield {"x": x, "scale": np.abs(rng(33)) + np.float32(0.1), "zero": x[0, 0]}
    yield {"x": x, "scale": np.float32(0.3)}
    yield {"x": rng.integers(-(1 << 20), 1 << 20, (4, 3, 2), np.int32), "scale": np.abs(rng(3, 1))}
