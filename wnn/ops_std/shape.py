"""shape: the lengths of x's axes start..end-1, as i64 (n,).  size: the number of x's elements, an
i64 scalar.

x: any shape and dtype. Values are known as soon as the shape is.
Source: ONNX Shape-19, Size-19.
"""

import numpy as np

from ..op import Op, Spec
from ..symbols import Sym

shape = Op("shape", attrs={"start": 0, "end": None})
size = Op("size")
shape.float64 = size.float64 = False


def _lengths(dims) -> np.ndarray:
    symbolic = any(isinstance(d, Sym) for d in dims)
    out = np.empty(len(dims), object if symbolic else np.int64)
    for i, d in enumerate(dims):
        out[i] = d
    return out


@shape.rule
def shape_rule(x, start=0, end=None):
    value = _lengths(x.shape[slice(start, end)])
    return Spec(value.shape, "i64", value)


@shape.reference
def shape_reference(x, start=0, end=None):
    return np.array(x.shape[slice(start, end)], np.int64)


@shape.importer("Shape", takes="f16 bits")
def shape_from_onnx(g, node):
    return g.add(shape, node.inputs, start=node.attr("start", 0), end=node.attr("end"))


@shape.cases
def shape_cases(rng):
    yield dict(x=rng(2, 3, 4))
    yield dict(x=rng(2, 3, 4), start=-2)
    yield dict(x=rng(2, 3, 4), start=1, end=-1)
    yield dict(x=rng(2, 3, 4), start=2, end=1)


@size.rule
def size_rule(x):
    return Spec((), "i64", _lengths([x.size]).reshape(()))


@size.reference
def size_reference(x):
    return np.int64(x.size)


@size.importer("Size", takes="f16 bits")
def size_from_onnx(g, node):
    return g.add(size, node.inputs)


@size.cases
def size_cases(rng):
    yield dict(x=rng(2, 3, 4))
    yield dict(x=rng(0, 3))
