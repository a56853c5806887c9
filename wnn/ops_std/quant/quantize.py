"""y = saturate(round(x / scale) + zero), ties to even, in the dtype `dtype`.

x: any shape    scale, zero?: broadcast to x; zero has that dtype    y: as x
Source: ONNX QuantizeLinear-10 and later; blocks and axes of scales are written as broadcasts.
"""

import numpy as np

from ... import dtypes
from ...errors import UnsupportedError
from ...op import Op, Spec
from ...rules import batch_elementwise, broadcast, transpose_elementwise
from . import small

op = Op("quantize", inputs="x scale zero?", attrs={"dtype": ...})
op.fused_in = "integer kernels"
op.float64 = False  # the quotient is rounded twice, and first to the scale's precision
op.nonfinite = False
INTEGERS = ("u8", "i8", "u16", "i16")


@op.rule
def rule(x, scale, zero=None, *, dtype):
    broadcast("quantize", x.shape, scale.shape, x.shape if zero is None else zero.shape)
    return Spec(x.shape, dtype)


@op.reference
def reference(x, scale, zero=None, *, dtype):
    info = np.iinfo(dtypes.NUMPY[dtype])
    steps = np.rint(x.astype(scale.dtype) / scale).astype(np.float64)
    y = steps if zero is None else steps + zero
    return np.clip(np.nan_to_num(y, nan=info.min), info.min, info.max).astype(dtypes.NUMPY[dtype])


op.transpose(transpose_elementwise)
op.batch(batch_elementwise)


def _writes(wanted: str):
    return lambda dtype: dtype == wanted


for _dtype in INTEGERS:

    @op.kernel(
        f"f32 f32 {_dtype}",
        f"quantize_{_dtype}",
        strides={"x": "any", "scale": "any", "zero": "any"},
        accept=_writes(_dtype),
    )
    def pack():
        return b""


def spread(g, node, v, axis: int, block: int):
    """A scale or zero point of ONNX so that it broadcasts to input 0."""
    if v is None or v.spec is None or v.spec.rank == 0 or v.spec.size == 1 and v.spec.rank == 1:
        return (
            v if v is None or v.spec is None or v.spec.rank == 0 else g.add("reshape", [v], to=())
        )
    rank = node.rank(0)
    if not -rank <= axis < rank:
        raise UnsupportedError(
            f"[{node.op_type}] found axis {axis} of {node.spec(0)}; expected one of "
            "its axes; correct the attribute"
        )
    axis %= rank
    length = node.spec(0).shape[axis]
    if v.spec.rank == 1 and not block:
        return g.add("reshape", [v], to=tuple(v.shape[0] if i == axis else 1 for i in range(rank)))
    if v.spec.rank != rank or not isinstance(length, int) or not block:
        raise UnsupportedError(
            f"[{node.op_type}] found scales {v.spec} for {node.spec(0)} and block_size "
            f"{block}; expected a number, one per index of the axis, or one per block; export in "
            "one of these forms"
        )
    return g.add("gather", [v, g.const(np.arange(length) // block)], axis=axis)


def parameters(g, node):
    """(scale, zero) of a (De)QuantizeLinear node."""
    axis, block = node.attr("axis", 1), node.attr("block_size", 0)
    return (spread(g, node, node.input(i), axis, block) for i in (1, 2))


@op.importer("QuantizeLinear", takes="f16 bits")
def from_onnx(g, node):
    code = node.attr("output_dtype", 0)
    to = (
        node.spec(2).dtype
        if node.input(2) is not None
        else dtypes.NAME.get(code, "obj")
        if code
        else "u8"
    )
    if to in dtypes.SMALL:
        return small.quantize(g, node, to, *parameters(g, node))
    if to not in INTEGERS:
        raise UnsupportedError(
            f"[QuantizeLinear] found the type {to} of y; expected one of {INTEGERS}; "
            "quantise to one of these"
        )
    scale, zero = parameters(g, node)
    return g.add(op, [node.inputs[0], scale, zero], dtype=to)


@op.cases
def cases(rng):
    x = rng(3, 5, 33) * 40
    yield {"x": x, "scale": np.float32(0.3), "zero": np.uint8(128), "dtype": "u8"}
    yield {"x": x, "scale": np.float32(1.7), "zero": np.int8(-5), "dtype": "i8"}
    yield {"x": x, "scale": np.float32(0.5), "dtype": "u8"}
    yield {
        "x": x,
        "scale": np.abs(rng(33)) + np.float32(0.1),
        "zero": rng.integers(0, 255, 33).astype(np.uint8),
        "dtype": "u8",
    }
    yield {
        "x": x,
        "scale": np.abs(rng(1, 5, 1)) + np.float32(0.1),
        "dtype": "i8",
        "zero": np.zeros((1, 5, 1), np.int8),
    }
    yield {"x": x * 100, "scale": np.float32(0.3), "zero": np.uint16(3000), "dtype": "u16"}
    yield {"x": x * 100, "scale": np.float32(0.3), "zero": np.int16(-9), "dtype": "i16"}


@op.benches
def benches(rng):
    yield {"x": rng(1, 56, 56, 96), "scale": np.float32(0.1), "zero": np.uint8(9), "dtype": "u8"}
