"""Tensors from numbers: fill (one number in every element), range, eye_like.

constant_of_shape: y of the shape that the i64 input `shape` holds, every element `value`, of dtype
    `dtype`.
range: y_i = start + i * delta for i < ceil((limit - start) / delta); scalars of one dtype.
eye_like: y of x's shape (rows, columns), 1 on diagonal k (above the main one if positive), else 0.
Source: ONNX ConstantOfShape-9, Range-11, EyeLike-9.
"""

import numpy as np

from .. import dtypes
from ..errors import ShapeError
from ..op import NeedValue, Op, Spec, need
from ..rules import bounded, ints_of, same_dtype
from ..symbols import Sym

fill = Op("constant_of_shape", inputs="shape", attrs={"value": 0.0, "dtype": "f32"})
range_ = Op("range", inputs="start limit delta")
eye_like = Op("eye_like", attrs={"k": 0, "dtype": None})
fill.float64 = range_.float64 = eye_like.float64 = False
range_.nonfinite = False  # refused


@fill.rule
def fill_rule(shape, value, dtype):
    dims = ints_of(Spec(shape.shape, shape.dtype, need(shape, 0)))
    if any(not isinstance(d, Sym) and d < 0 for d in dims):
        raise ShapeError(
            f"[constant_of_shape] found shape {dims}; expected non-negative lengths; "
            "correct the shape"
        )
    return bounded("constant_of_shape", Spec(dims, dtype))


@fill.outline
def fill_outline(symbol, shape, value, dtype):
    if not shape.concrete:
        raise NeedValue(0)
    return Spec([symbol("length") for _ in range(shape.size)], dtype)


@fill.reference
def fill_reference(shape, value, dtype):
    return np.full(tuple(shape.tolist()), value, dtypes.NUMPY[dtype])


@fill.kernel("*", "constant_of_shape", strides={"shape": "any"})
def fill_pack(value, dtype):
    return np.asarray(value, dtypes.NUMPY[dtype]).tobytes().ljust(8, b"\0")


@fill.importer("ConstantOfShape")
def fill_from_onnx(g, node):
    value = node.attr("value")
    value = np.zeros(1, np.float32) if value is None else np.asarray(value)
    return g.add(
        fill, node.inputs, value=value.reshape(-1)[0].item(), dtype=dtypes.name_of(value.dtype)
    )


@fill.cases
def fill_cases(rng):
    yield dict(shape=np.array([2, 3]), value=1.5)
    yield dict(shape=np.array([70, 70]), value=-7, dtype="i64")
    yield dict(shape=np.array([0, 4]), value=True, dtype="bool")
    yield dict(shape=np.zeros(0, np.int64), value=2.0)


@range_.rule
def range_rule(start, limit, delta):
    dtype = same_dtype("range", start, limit, delta)
    a, b, d = values = [need(s, i).reshape(-1)[0] for i, s in enumerate((start, limit, delta))]
    if isinstance(d, Sym):
        raise NeedValue(2)
    if d == 0:
        raise ShapeError(
            f"[range] found delta 0 from {a} to {b}; expected another number; correct the model"
        )
    if isinstance(a, Sym) or isinstance(b, Sym):
        if any(not isinstance(v, Sym) and v != np.rint(v) for v in values):
            raise NeedValue(0 if isinstance(a, Sym) else 1)
        a, b = (v if isinstance(v, Sym) else int(v) for v in (a, b))
        n = (b - a) // int(d) if d == 1 else -((a - b) // int(d))
        return Spec((n,), dtype)
    if dtype in dtypes.INTS:
        n = max(0, -((int(a) - int(b)) // int(d)))
    else:
        n = np.ceil((np.float64(b) - np.float64(a)) / np.float64(d))
        if not np.isfinite(n):
            raise ShapeError(
                f"[range] found {a} to {b} by {d}; expected finite numbers; correct the model"
            )
        n = max(0, int(n))
    return bounded("range", Spec((n,), dtype))


@range_.outline
def range_outline(symbol, start, limit, delta):
    return start.like([symbol("count")])


@range_.reference
def range_reference(start, limit, delta):
    a, d = start.reshape(-1)[0], delta.reshape(-1)[0]
    (n,) = range_rule(Spec.of(start), Spec.of(limit), Spec.of(delta)).shape
    return (a + np.arange(n).astype(start.dtype) * d).astype(start.dtype)


@range_.kernel("i64", "range")
@range_.kernel("i32", "range")
@range_.kernel("i16", "range")
@range_.kernel("f32", "range")
@range_.kernel("f64", "range")
def range_pack():
    return b""


@range_.importer("Range")
def range_from_onnx(g, node):
    return g.add(range_, node.inputs)


@range_.cases
def range_cases(rng):
    for start, limit, delta in [(0, 10, 1), (10, 3, -2), (5, 5, 1), (0, 5000, 1)]:
        yield dict(zip(("start", "limit", "delta"), map(np.int64, (start, limit, delta))))
    yield dict(start=np.float32(1.0), limit=np.float32(5.0), delta=np.float32(0.75))


@eye_like.rule
def eye_like_rule(x, k, dtype):
    if x.rank != 2:
        raise ShapeError(f"[eye_like] found {x}; expected 2 dimensions; correct the model")
    y = bounded("eye_like", x.like(dtype=dtype))
    if y.concrete:
        y.value = np.eye(*y.shape, k=k, dtype=dtypes.NUMPY[y.dtype])
    return y


@eye_like.reference
def eye_like_reference(x, k, dtype):
    return np.eye(*x.shape, k=k, dtype=x.dtype if dtype is None else dtypes.NUMPY[dtype])


@eye_like.importer("EyeLike")
def eye_like_from_onnx(g, node):
    dtype = node.attr("dtype")
    return g.add(
        eye_like,
        node.inputs,
        k=node.attr("k", 0),
        dtype=None if dtype is None else dtypes.NAME[dtype],
    )


@eye_like.cases
def eye_like_cases(rng):
    yield dict(x=rng(3, 4))
    yield dict(x=rng(4, 3), k=-1, dtype="i32")
