"""cast: y = x converted to dtype `to`. bit_cast: the bits of x read as `to`, of the same size.

Float to integer drops the fraction; anything but zero is true; integers wrap. bf16 travels as its
16 bits: `source` says that x is one, and rounding to it is to nearest, ties to even.
Source: ONNX Cast-19, CastLike-15, BitCast-26, numpy's astype.
"""

import struct

import numpy as np

from .. import dtypes
from ..errors import DtypeError, UnsupportedError
from ..op import Op, Spec
from ..rules import batch_elementwise, transpose_elementwise

op = Op("cast", attrs={"to": ..., "source": None})
op.float64 = False
op.nonfinite = False  # as integers they are whatever the CPU makes of them
NATIVE = ("f32", "f64", "f16", "bf16", "bool", "i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64")


@op.rule
def rule(x, to, source=None):
    return x if x.dtype == to else Spec(x.shape, to)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """The 16 bits of each number as bf16."""
    x = np.asarray(x, np.float32)
    bits = x.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """The numbers of 16-bit bf16 patterns, as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


@op.reference
def reference(x, to, source=None):
    if source == "bf16":
        x = from_bf16(x)
    if (
        x.dtype == object
        and to in dtypes.INTS + dtypes.FLOATS
        and not any(isinstance(v, (str, bytes)) for v in x.flat)
    ):
        return x  # symbolic lengths
    if to == "bf16":
        return to_bf16(x)
    if to == "str":
        return x.astype(str).astype(object)
    if x.dtype == object and dtypes.NUMPY[to].kind in "iu":
        return x.astype(np.float64).astype(dtypes.NUMPY[to])
    return x.astype(dtypes.NUMPY[to])


op.transpose(transpose_elementwise)
op.batch(batch_elementwise)


@op.kernel("*", "cast", accept=lambda x, to: x.dtype in NATIVE and to in NATIVE)
def pack(source):
    return struct.pack("q", source == "bf16")


def convert(g, x, to: str):
    """x as dtype `to`."""
    if x.spec is not None and x.spec.dtype == to:
        return x
    return g.add(
        op, [x], to=to, source="bf16" if x.spec is not None and x.spec.dtype == "bf16" else None
    )


@op.importer("Cast")
def from_onnx(g, node):
    if node.attr("to") not in dtypes.NAME:
        raise UnsupportedError(
            f"[cast] found the data type {node.attr('to')}; "
            f"expected one of {sorted(dtypes.CODE)}; export in one of these"
        )
    return convert(g, node.inputs[0], dtypes.NAME[node.attr("to")])


@op.importer("CastLike", since=15)
def like_from_onnx(g, node):
    return convert(g, node.inputs[0], node.spec(1).dtype)


op.nonfinite = False  # integers of NaN and infinities are whatever the hardware makes of them


@op.cases
def cases(rng):
    x = rng(3, 33) * 50
    for to in ("i32", "i64", "f16", "f64", "bool", "i8", "bf16"):
        yield dict(x=x, to=to)
    for dtype in (np.int64, np.int32, np.float16, np.float64):
        yield dict(x=x.astype(dtype), to="f32")
    odd = np.float32([np.nan, np.inf, -np.inf, -0.0, 1e-40, 70000.0])
    for to in ("f16", "f64", "bf16", "bool"):
        yield dict(x=odd, to=to)
    yield dict(x=x > 0, to="f32")
    yield dict(x=np.arange(7), to="i32")
    yield dict(x=to_bf16(x), to="f32", source="bf16")


# -- the same bits
bit_cast = Op("bit_cast", attrs={"to": ...})
bit_cast.float64 = False
bit_cast.transpose(transpose_elementwise)
bit_cast.batch(batch_elementwise)


@bit_cast.rule
def bit_cast_rule(x, to):
    if dtypes.ITEMSIZE[x.dtype] != dtypes.ITEMSIZE[to]:
        raise DtypeError(
            f"[bit_cast] found x {x} for {to}; expected {dtypes.ITEMSIZE[x.dtype]} bytes; "
            "correct the attribute"
        )
    return Spec(x.shape, to)


@bit_cast.reference
def bit_cast_reference(x, to):
    return x.view(dtypes.NUMPY[to])


@bit_cast.kernel("*", "copy", accept=lambda x, to: x.dtype in NATIVE and to in NATIVE)
def bit_cast_pack():
    return b""


@bit_cast.importer("BitCast", since=26)
def bits_from_onnx(g, node):
    if node.attr("to") not in dtypes.NAME:
        raise UnsupportedError(f"[bit_cast] found the data type {node.attr('to')}")
    return g.add(bit_cast, node.inputs, to=dtypes.NAME[node.attr("to")])


@bit_cast.cases
def bit_cast_cases(rng):
    yield dict(x=rng(3, 5), to="i32")
    yield dict(x=rng.integers(0, 99, (4,)), to="f64")
    yield dict(x=rng(2, 3).astype(np.float16), to="u16")
