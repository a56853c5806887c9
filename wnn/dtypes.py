"""Element types: wnn's short names, numpy's dtypes and ONNX's numbers, side by side.

What numpy has no dtype of its own for travels as its bits: bf16 as uint16, the types of 8 bits or
fewer as one byte per element. "str" and "obj" never reach a native kernel.
"""

from __future__ import annotations

import numpy as np

# name: (ONNX TensorProto.DataType, numpy dtype)
_TABLE = {
    "f32": (1, np.dtype(np.float32)),
    "u8": (2, np.dtype(np.uint8)),
    "i8": (3, np.dtype(np.int8)),
    "u16": (4, np.dtype(np.uint16)),
    "i16": (5, np.dtype(np.int16)),
    "i32": (6, np.dtype(np.int32)),
    "i64": (7, np.dtype(np.int64)),
    "str": (8, np.dtype(object)),
    "bool": (9, np.dtype(np.bool_)),
    "f16": (10, np.dtype(np.float16)),
    "f64": (11, np.dtype(np.float64)),
    "u32": (12, np.dtype(np.uint32)),
    "u64": (13, np.dtype(np.uint64)),
    "c64": (14, np.dtype(np.complex64)),
    "c128": (15, np.dtype(np.complex128)),
    "bf16": (16, np.dtype(np.uint16)),
    "f8e4m3fn": (17, np.dtype(np.uint8)),
    "f8e4m3fnuz": (18, np.dtype(np.uint8)),
    "f8e5m2": (19, np.dtype(np.uint8)),
    "f8e5m2fnuz": (20, np.dtype(np.uint8)),
    "u4": (21, np.dtype(np.uint8)),
    "i4": (22, np.dtype(np.int8)),
    "f4e2m1fn": (23, np.dtype(np.uint8)),
    "f8e8m0fnu": (24, np.dtype(np.uint8)),
    "u2": (25, np.dtype(np.uint8)),
    "i2": (26, np.dtype(np.int8)),
    "f6e2m3fn": (27, np.dtype(np.uint8)),
    "f6e3m2fn": (28, np.dtype(np.uint8)),
    "obj": (0, np.dtype(object)),
}
CODE = {name: code for name, (code, _) in _TABLE.items()}
NUMPY = {name: dtype for name, (_, dtype) in _TABLE.items()}
NAME = {code: name for name, code in CODE.items()}
ITEMSIZE = {name: dtype.itemsize for name, dtype in NUMPY.items()}
FLOATS = ("f32", "f64", "f16", "bf16")
INTS = ("i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64")
SMALL = {  # types of 8 bits or fewer: what they are computed in
    name: "i8" if name[0] == "i" else "u8" if name[0] == "u" else "f32"
    for name, (code, _) in _TABLE.items()
    if code > 16
}
BITS = ("bf16", *SMALL)  # travel as their bits
_FROM_NUMPY = {dtype: name for name, dtype in NUMPY.items() if name not in (*BITS, "obj", "str")}
_BY_NAME = {  # as the package ml_dtypes calls them
    "bfloat16": "bf16",
    **{
        f"float{n[1]}_{n[2:]}" if n[0] == "f" else f"{'u' * (n[0] == 'u')}int{n[1]}": n
        for n in SMALL
    },
}
STORED = {  # the number that kernels see
    name: CODE[SMALL[name]] if name in SMALL and name[0] != "f" else 2 if name in SMALL else code
    for name, code in CODE.items()
}


def name_of(dtype: np.dtype | type | str) -> str:
    """The short name of a numpy dtype: name_of(np.float32) == "f32"; "obj" for what has none."""
    d = np.dtype(dtype)
    d = d if d.isnative else d.newbyteorder("=")  # numpy's own strings have no byte order
    if d.kind in "SUTO":
        return "str"
    return _FROM_NUMPY.get(d) or _BY_NAME.get(d.name, "obj")


def bits_of(a: np.ndarray) -> np.ndarray:
    """An array as wnn keeps it: of a dtype that numpy lacks, its bits."""
    name = _BY_NAME.get(a.dtype.name)
    if name is None:
        return a
    return a.astype(NUMPY[name]) if name[0] in "iu" else a.view(NUMPY[name])


def to_bf16(x: np.ndarray) -> np.ndarray:
    """The 16 bits of each number as bf16."""
    x = np.asarray(x, np.float32)
    bits = x.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """The numbers of 16-bit bf16 patterns, as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
