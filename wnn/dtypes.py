"""Element types: wnn's short names, numpy's dtypes and ONNX's numbers, side by side.

bf16 has no numpy dtype of its own; its bits travel as uint16. "str" and "obj" never reach a native
kernel.
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
    "obj": (0, np.dtype(object)),
}
CODE = {name: code for name, (code, _) in _TABLE.items()}
NUMPY = {name: dtype for name, (_, dtype) in _TABLE.items()}
NAME = {code: name for name, code in CODE.items()}
ITEMSIZE = {name: dtype.itemsize for name, dtype in NUMPY.items()}
FLOATS = ("f32", "f64", "f16", "bf16")
INTS = ("i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64")
_FROM_NUMPY = {dtype: name for name, dtype in NUMPY.items() if name not in ("bf16", "obj", "str")}


def name_of(dtype: np.dtype | type | str) -> str:
    """The short name of a numpy dtype: name_of(np.float32) == "f32"; "obj" for what has none."""
    d = np.dtype(dtype).newbyteorder("=")
    if d.kind in "SUTO":
        return "str"
    return _FROM_NUMPY.get(d, "bf16" if d.name == "bfloat16" else "obj")
