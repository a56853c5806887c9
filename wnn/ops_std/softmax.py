"""softmax: y = exp(x - m) / sum exp(x - m) along an axis, m the maximum there.
log_softmax: its logarithm.

x, y: any shape, one dtype. A row that holds NaN or +inf, or nothing but -inf, gives NaN.
rounds: "bf16" where each step of softmax is rounded to that (x holds such numbers, as float32).
Kernels: softmax.cc for f32, along_axis.cc for the rest; attrs: int64 axis, dtype of the rounding.
Source: ONNX Softmax-13; before 13 the axes from `axis` on are one.
"""

import struct

import numpy as np

from ..dtypes import CODE, from_bf16, to_bf16
from ..op import Op
from ..rules import axis_of, batch_except, reshape_attrs, transpose_axis
from ..symbols import product

softmax = Op("softmax", attrs={"axis": -1, "rounds": None}, tol={"f32": (3e-6, 1e-7)})
log_softmax = Op("log_softmax", attrs={"axis": -1}, tol={"f32": (3e-6, 2e-6)})


def _shifted(x, axis):
    x = x - np.max(x, axis, keepdims=True, initial=-np.inf)
    return x, np.sum(np.exp(x), axis, keepdims=True)


@softmax.reference
def softmax_reference(x, axis, rounds=None):
    if rounds is None:
        x, total = _shifted(x, axis)
        return np.exp(x) / total
    step = lambda v: from_bf16(to_bf16(v))  # noqa: E731
    e = step(np.exp(step(x - np.max(x, axis, keepdims=True, initial=-np.inf))))
    total = np.zeros_like(e.sum(axis, keepdims=True))
    for i in range(x.shape[axis]):
        total = step(total + np.take(e, [i], axis))
    return step(e / total)


@log_softmax.reference
def log_softmax_reference(x, axis):
    x, total = _shifted(x, axis)
    return x - np.log(total)


def along_axis(op: Op, onnx_name: str, since: int, default: int):
    """An importer of opsets before 13: the axes from `axis` on are taken as one."""

    @op.importer(onnx_name)
    def flattening(g, node):
        (x,) = node.inputs
        axis = axis_of(node.attr("axis", 1), node.rank(0), onnx_name)
        if product(x.shape[axis + 1 :]) == 1:
            return g.add(op, [x], axis=axis)
        flat = (product(x.shape[:axis]), product(x.shape[axis:]))
        y = g.add(op, [g.add("reshape", [x], **reshape_attrs(flat, x.spec))], axis=-1)
        return g.add("reshape", [y], **reshape_attrs(x.shape, y.spec))

    @op.importer(onnx_name, since=since)
    def plain(g, node):
        (x,) = node.inputs
        axis = axis_of(node.attr("axis", default), node.rank(0), onnx_name)
        source = x.producer and x.producer.op.name == "cast" and x.producer.attrs["source"]
        return g.add(
            op, [x], axis=axis, **({"rounds": "bf16"} if source == "bf16" and op is softmax else {})
        )


def _rule(x, axis, rounds=None):
    axis_of(axis, x.rank, "softmax")
    return x.like()


def _pack(x, attrs):
    return struct.pack("qq", attrs["axis"] % x.rank, CODE["bf16"] if attrs.get("rounds") else 0)


def _unrounded(attrs):
    return attrs.get("rounds") is None


def _cases(rng):
    for shape, axis in [
        ((1,), 0), ((5, 17), -1), ((3, 7, 33), 1), ((2, 4, 5, 6), 0), ((3, 128), -1),
        ((2, 208), -1), ((37, 2), -1), ((2, 19, 5), -1),
        ((1, 3, 1025), 2), ((0, 4), -1), ((2, 21, 8), 1), ((2, 40, 100), 1), ((4, 1), -1),
        ((2, 50, 3), 1), ((3, 32, 4), 1), ((33, 2), 0), ((1, 197, 8), 1),
    ]:  # fmt: skip
        yield dict(x=rng(*shape) * 4, axis=axis)
    yield dict(x=rng(2, 7, 3).astype(np.float64), axis=1)
    yield dict(x=rng(2, 30).astype(np.float16), axis=-1)
    yield dict(x=np.where(np.tri(9, dtype=bool), rng(9, 9), -np.inf), axis=-1)


def _benches(rng):
    for shape, axis in [
        ((3, 197, 197), -1),
        ((4420, 2), -1),
        ((1, 21, 60, 80), 1),
        ((1, 6625), -1),
        ((196, 196, 4), 1),
    ]:
        yield dict(x=rng(*shape), axis=axis)


for _op, _name in ((softmax, "Softmax"), (log_softmax, "LogSoftmax")):
    _op.rule(_rule)
    _op.transpose(transpose_axis())
    _op.batch(batch_except("axis"))
    _op.kernel("f32", f"{_op.name}_f32", inplace="x", accept=_unrounded)(_pack)
    for _dtype in ("f64", "f16", "f32"):
        _op.kernel(_dtype, f"{_op.name}_any", inplace="x")(_pack)
    _op.cases(_cases)
    _op.benches(_benches)
    along_axis(_op, _name, 13, -1)
