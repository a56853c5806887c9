"""cast: y = x converted to dtype `to`. bit_cast: the bits of x read as `to`, of the same size.

Float to integer drops the fraction; anything but zero is true; integers wrap. bf16 and the types of
8 bits or fewer travel as their bits: `source` says that x is one; rounding to them is to nearest,
ties to even. What is too large for a small float becomes its largest number if `saturate`, else
infinity or NaN. f8e8m0fnu rounds "up", "down" or to "nearest".
Source: ONNX Cast-24, CastLike-24, BitCast-26, numpy's astype; Micikevicius et al. 2022
(arXiv:2209.05433).
"""

import struct
from functools import cache

import numpy as np

from .. import dtypes
from ..errors import DtypeError, UnsupportedError
from ..op import Op, Spec
from ..rules import batch_elementwise, transpose_elementwise

op = Op("cast", attrs={"to": ..., "source": None, "saturate": True, "round": "up"})
op.float64, op.symbolic = False, True
op.nonfinite = False  # as integers they are whatever the CPU makes of them
NATIVE = (*dtypes.FLOATS, *dtypes.INTS, "bool", *dtypes.SMALL)
ROUNDS = ("down", "nearest", "up")
# exponent bits, mantissa bits, bias, the largest code, those of infinity and NaN (-1: none)
FORMATS = {
    "f8e4m3fn": (4, 3, 7, 126, -1, 127),
    "f8e4m3fnuz": (4, 3, 8, 127, -1, 128),
    "f8e5m2": (5, 2, 15, 123, 124, 126),
    "f8e5m2fnuz": (5, 2, 16, 127, -1, 128),
    "f4e2m1fn": (2, 1, 1, 7, -1, -1),
    "f6e2m3fn": (2, 3, 1, 31, -1, -1),
    "f6e3m2fn": (3, 2, 3, 31, -1, -1),
}


@op.rule
def rule(x, to, source=None, saturate=True, round="up"):
    return x if x.dtype == to else Spec(x.shape, to)


@cache
def numbers(dtype: str) -> np.ndarray:
    """What each byte means in a small float dtype, as float32."""
    if dtype == "f8e8m0fnu":
        return np.append(np.ldexp(1.0, np.arange(255) - 127), np.nan).astype(np.float32)
    e, m, bias, most, inf, nan = FORMATS[dtype]
    code = np.arange(256) & ((1 << (e + m)) - 1)
    exponent, rest = code >> m, code & ((1 << m) - 1)
    x = np.ldexp(rest + np.where(exponent > 0, 1 << m, 0.0), np.maximum(exponent, 1) - bias - m)
    x[code > most] = np.nan
    x[code == inf] = np.inf
    x = np.where(np.arange(256) >> (e + m) & 1, -x, x)
    if nan >= 0:
        x[nan] = np.nan
    return x.astype(np.float32)


def to_small(x: np.ndarray, dtype: str, saturate: bool, how: str) -> np.ndarray:
    """The bits of each number in a small float dtype."""
    x = np.asarray(x, np.float64)
    if dtype == "f8e8m0fnu":
        bits = x.astype(np.float32).view(np.uint32)
        exponent, rest = bits >> 23 & 255, bits & 0x7FFFFF
        nearest = (rest > 0x400000) | (rest == 0x400000) & (exponent > 0)
        up = rest > 0 if how == "up" else nearest if how == "nearest" else np.False_
        return (exponent + (up & (exponent < (254 if saturate else 255)))).astype(np.uint8)
    e, m, bias, most, inf, nan = FORMATS[dtype]
    half, nuz = 1 << (e + m), nan == 128
    a = np.where(np.isfinite(x), np.minimum(np.abs(x), 2.0**20), 2.0**20)
    power = np.maximum(np.frexp(a)[1] - 1, 1 - bias)
    code = ((power + bias - 1) << m) + np.rint(np.ldexp(a, m - power)).astype(np.int64)
    code = np.where(a == 0, 0, code)
    large = most if saturate or nan < 0 else inf if inf >= 0 else nan
    sign = np.where(np.signbit(x), half, 0)
    bits = sign | np.where(code > most, large, code)
    if nuz:
        bits = np.where(code == 0, 0, np.where((code > most) & (not saturate), nan, bits))
    bits = np.where(np.isnan(x), 128 if nuz else half - sign if nan < 0 else sign | nan, bits)
    return bits.astype(np.uint8)


@op.reference
def reference(x, to, source=None, saturate=True, round="up"):
    if source == "bf16":
        x = dtypes.from_bf16(x)
    elif source in dtypes.SMALL and source[0] == "f":
        x = numbers(source)[x]
    if (
        x.dtype == object
        and to in dtypes.INTS + dtypes.FLOATS
        and not any(isinstance(v, (str, bytes)) for v in x.flat)
    ):
        return x  # symbolic lengths
    if to == "bf16":
        return dtypes.to_bf16(x)
    if to in dtypes.SMALL:
        if to[0] == "f":
            return to_small(x, to, saturate, round)
        spare = 8 - int(to[1])
        return x.astype(np.int64).astype(dtypes.NUMPY[to]) << spare >> spare
    if to == "str":
        return x.astype(str).astype(object)
    if x.dtype == object and dtypes.NUMPY[to].kind in "iu":
        return x.astype(np.float64).astype(dtypes.NUMPY[to])
    return x.astype(dtypes.NUMPY[to])


op.transpose(transpose_elementwise)
op.batch(batch_elementwise)


def _pair(*kinds: str):
    return lambda to, source: to in kinds and source is None


@op.kernel("f32", "cast_pairs", accept=_pair("f16", "bool", "u8", "i32", "i64"))
@op.kernel("i64", "cast_pairs", accept=_pair("f32", "i32"))
@op.kernel("i32", "cast_pairs", accept=_pair("f32", "i64"))
@op.kernel("f16", "cast_pairs", accept=_pair("f32"))
@op.kernel("u8", "cast_pairs", accept=_pair("f32"))
@op.kernel("bool", "cast_pairs", accept=_pair("f32"))
def pack_pair():
    return b""


@op.kernel("*", "cast", accept=lambda x, to: x.dtype in NATIVE and to in NATIVE)
def pack(x, to, source, saturate, round):
    source = x.dtype if x.dtype in dtypes.BITS else source  # also where the importer knew nothing
    code = {d: dtypes.CODE[d] if d in dtypes.BITS else 0 for d in (source, to)}
    return struct.pack("iiii", code[source], code[to], saturate, ROUNDS.index(round))


def convert(g, x, to: str, **how):
    """x as dtype `to`."""
    source = None if x.spec is None or x.spec.dtype not in dtypes.BITS else x.spec.dtype
    return (
        x
        if x.spec is not None and x.spec.dtype == to
        else g.add(op, [x], to=to, source=source, **how)
    )


def rounding(node) -> dict:
    """The attributes that say how a Cast node rounds."""
    return {"saturate": bool(node.attr("saturate", 1)), "round": node.attr("round_mode", "up")}


@op.importer("Cast", takes="f16 bits")
def from_onnx(g, node):
    if node.attr("to") not in dtypes.NAME:
        raise UnsupportedError(
            f"[cast] found the data type {node.attr('to')}; "
            f"expected one of {sorted(dtypes.CODE)}; export in one of these"
        )
    return convert(g, node.inputs[0], dtypes.NAME[node.attr("to")], **rounding(node))


@op.importer("CastLike", since=15, takes="f16 bits")
def like_from_onnx(g, node):
    return convert(g, node.inputs[0], node.spec(1).dtype, **rounding(node))


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
    yield dict(x=dtypes.to_bf16(x), to="f32", source="bf16")
    odd = np.append(odd, np.float32([449, 464, 465, -57344, 1e6, 1e-3, -2.5, 0.26]))
    for to in dtypes.SMALL:
        whole = to[0] != "f"
        bits = np.arange(256, dtype=np.uint8)
        if whole:
            bits = np.array([0, 1, 0 if to[0] == "u" else -1], dtypes.NUMPY[to])
        yield dict(x=np.arange(-9, 9) if whole else odd, to=to)
        yield dict(x=bits, to="f32", source=to)
        if not whole:
            yield dict(x=odd, to=to, saturate=False, round="nearest")


@op.benches
def benches(rng):
    x = rng(200_000) * 50
    for to in ("i64", "i32", "bool", "f16"):
        yield dict(x=x, to=to)
    for dtype in (np.int64, np.int32, np.uint8, np.bool_, np.float16):
        yield dict(x=x.astype(dtype), to="f32")
    yield dict(x=x.astype(np.int64), to="i32")


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


@bit_cast.importer("BitCast", since=26, takes="f16 bits")
def bits_from_onnx(g, node):
    if node.attr("to") not in dtypes.NAME:
        raise UnsupportedError(f"[bit_cast] found the data type {node.attr('to')}")
    return g.add(bit_cast, node.inputs, to=dtypes.NAME[node.attr("to")])


@bit_cast.cases
def bit_cast_cases(rng):
    yield dict(x=rng(3, 5), to="i32")
    yield dict(x=rng.integers(0, 99, (4,)), to="f64")
    yield dict(x=rng(2, 3).astype(np.float16), to="u16")
