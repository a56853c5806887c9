"""cumsum: y_i = x_0 + ... + x_i along an axis (without x_i if exclusive; from the end if reverse).
cumprod: the same with products.

axis: the value of the input `at`, or the attribute.
Source: ONNX CumSum-14, CumProd-26.
"""

import struct

import numpy as np

from ..op import Op, Permuted, need
from ..rules import axis_of, ints_of

_ATTRS = {"axis": None, "exclusive": False, "reverse": False}
cumsum = Op("cumsum", inputs="x at?", attrs=_ATTRS, tol={"f32": (1e-5, 1e-5)})
cumprod = Op("cumprod", inputs="x at?", attrs=_ATTRS, tol={"f32": (1e-5, 1e-5)})


def _axis(x, at, axis) -> int:
    if axis is None:
        need(at, 1)
        (axis,) = ints_of(at)
    return axis_of(axis, x.rank, "cumsum")


def _rule(x, at=None, axis=None, exclusive=False, reverse=False):
    _axis(x, at, axis)
    return x.like()


def _reference(running, start):
    def reference(x, at=None, axis=None, exclusive=False, reverse=False):
        axis = int(at.reshape(-1)[0]) if axis is None else axis
        x = np.flip(x, axis) if reverse else x
        if exclusive and x.shape[axis]:
            x = np.concatenate(
                [np.full_like(np.take(x, [0], axis), start), np.delete(x, -1, axis)], axis
            )
        y = running(x, axis, dtype=x.dtype)
        return np.flip(y, axis) if reverse else y

    return reference


def _transpose(perm, i, ins, attrs):
    if i or attrs["axis"] is None:
        return None
    return Permuted([perm], [perm], {**attrs, "axis": perm[attrs["axis"] % len(perm)]})


def _batch(axes, ins, outs, attrs):
    if axes[0] is None or any(a is not None for a in axes[1:]):
        return None
    return (
        None
        if axes[0] == _axis(ins[0], ins[1] if len(ins) > 1 else None, attrs["axis"])
        else [axes[0]]
    )


def _from_onnx(op):
    def from_onnx(g, node):
        x, at = node.inputs
        how = {
            "exclusive": bool(node.attr("exclusive", 0)),
            "reverse": bool(node.attr("reverse", 0)),
        }
        return (
            g.add(op, [x], axis=ints_of(at)[0], **how)
            if at.const is not None
            else g.add(op, [x, at], **how)
        )

    return from_onnx


def _cases(rng):
    yield dict(x=rng(3, 33), axis=1)
    yield dict(x=rng(3, 5, 4), axis=-2, exclusive=True)
    yield dict(x=rng(7), at=np.array(0), reverse=True)
    yield dict(x=np.arange(12).reshape(3, 4), axis=0, exclusive=True, reverse=True)


for _op, _running, _start, _name, _since in (
    (cumsum, np.cumsum, 0, "CumSum", 11),
    (cumprod, np.cumprod, 1, "CumProd", 26),
):
    _op.rule(_rule)
    _op.reference(_reference(_running, _start))
    _op.transpose(_transpose)
    _op.batch(_batch)
    _op.importer(_name, since=_since)(_from_onnx(_op))
    _op.cases(_cases)
    for _dtype in ("f32", "f64", "i64", "i32"):

        @_op.kernel(f"{_dtype} *", _op.name)
        def pack(x, at, axis, exclusive, reverse):
            return struct.pack("qqq", _axis(x, at, axis), exclusive, reverse)
