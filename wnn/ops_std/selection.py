"""Which elements: the largest ones, and the places of extremes.

topk: the k largest (or smallest) elements along `axis`, sorted, ties by position, and their indices
    (i64). NaN counts as above all numbers, as in torch.
arg_max, arg_min: the position (i64) of the extreme along `axis`; of several the first, or the last.
    NaN counts as the extreme.
Source: ONNX TopK-11, ArgMax-13.
"""

import struct

import numpy as np

from ..errors import ShapeError
from ..op import Op, Permuted, Spec, need
from ..rules import axis_of, ints_of, relabel
from ..symbols import Sym

topk = Op("topk", inputs="x k", outputs="values indices", attrs={"axis": -1, "largest": True})
arg_max = Op("arg_max", attrs={"axis": 0, "keepdims": True, "last": False})
arg_min = Op("arg_min", attrs={"axis": 0, "keepdims": True, "last": False})
for _op in (topk, arg_max, arg_min):
    _op.float64 = False


# -- topk ------------------------------------------------------------------------------------------
@topk.rule
def topk_rule(x, k, axis, largest):
    need(k, 1)
    (n,) = ints_of(k)
    a = axis_of(axis, x.rank, "topk")
    d = x.shape[a]
    if not isinstance(n, Sym) and (n < 0 or not isinstance(d, Sym) and n > d):
        raise ShapeError(
            f"[topk] found k = {n} for axis {axis} of {x}; expected 0 to {d}; correct k"
        )
    shape = (*x.shape[:a], n, *x.shape[a + 1 :])
    return Spec(shape, x.dtype), Spec(shape, "i64")


@topk.outline
def topk_outline(symbol, x, k, axis, largest):
    a = axis_of(axis, x.rank, "topk")
    shape = (*x.shape[:a], symbol("k"), *x.shape[a + 1 :])
    return Spec(shape, x.dtype), Spec(shape, "i64")


@topk.reference
def topk_reference(x, k, axis, largest):
    n = int(k.reshape(-1)[0])
    keys = x.astype(np.int64) if x.dtype.kind in "bui" and x.dtype != np.uint64 else x
    if largest:  # by descending value, then ascending position
        order = (
            x.shape[axis] - 1 - np.flip(np.argsort(np.flip(keys, axis), axis, kind="stable"), axis)
        )
    else:
        order = np.argsort(keys, axis, kind="stable")
    order = np.take(order, np.arange(n), axis)
    return np.take_along_axis(x, order, axis), order.astype(np.int64)


@topk.batch
def topk_batch(axes, ins, outs, attrs):
    a = axes[0]
    return None if a is None or axes[1] is not None or a == attrs["axis"] % ins[0].rank else [a, a]


for _dtype in ("f32", "i64", "i32", "u8"):

    @topk.kernel(f"{_dtype} *", "topk")
    def topk_pack(axis, largest, x):
        return struct.pack("qq", axis % x.rank, largest)


@topk.importer("TopK")
def topk_from_onnx(g, node):
    x, k = node.inputs if len(node.inputs) == 2 else (node.inputs[0], g.const([node.attr("k")]))
    return g.add(topk, [x, k], axis=node.attr("axis", -1), largest=bool(node.attr("largest", 1)))


@topk.cases
def topk_cases(rng):
    yield dict(x=rng(5, 33), k=np.array([4]))
    yield dict(x=rng(4, 6, 5), k=np.array([6]), axis=1, largest=False)
    yield dict(x=rng.integers(0, 3, (3, 9)), k=np.array([5]))
    yield dict(x=rng(2000), k=np.array([100]), axis=0)


@topk.benches
def topk_benches(rng):
    yield dict(x=rng(1, 8400), k=np.array([300]))
    yield dict(x=rng(1, 1000), k=np.array([5]))
    yield dict(x=rng(400, 512), k=np.array([8]))


# -- arg_max, arg_min ------------------------------------------------------------------------------
def _arg_rule(x, axis, keepdims, last):
    a = axis_of(axis, x.rank, "arg_max")
    if x.shape[a] == 0:
        raise ShapeError(
            f"[arg_max] found an empty axis {axis} of {x}; expected at least one element; "
            "correct the model"
        )
    return Spec((*x.shape[:a], *([1] if keepdims else []), *x.shape[a + 1 :]), "i64")


def _arg(find):
    def reference(x, axis, keepdims, last):
        got = x.shape[axis] - 1 - find(np.flip(x, axis), axis) if last else find(x, axis)
        return np.expand_dims(got, axis) if keepdims else got

    return reference


def _arg_transpose(perm, i, ins, attrs):
    a = attrs["axis"] % len(perm)
    new = {**attrs, "axis": perm[a]}
    if attrs["keepdims"]:
        return Permuted([perm], [perm], new)
    got = [p for p in perm if p != perm[a]]
    return Permuted([perm], [relabel(got, sorted(got))], new)


def _arg_batch(axes, ins, outs, attrs):
    a = attrs["axis"] % ins[0].rank
    return None if axes[0] == a else [axes[0] - (axes[0] > a and not attrs["keepdims"])]


def _arg_cases(rng):
    yield dict(x=rng(3, 33), axis=1)
    yield dict(x=rng(3, 4, 5), axis=-2, keepdims=False)
    yield dict(x=rng.integers(0, 3, (4, 9)), axis=1, last=True)
    yield dict(x=rng.integers(0, 3, (4, 9)).astype(np.float32), axis=1)


def _arg_benches(rng):
    yield dict(x=rng(320, 6625), axis=1)
    yield dict(x=rng(1, 21, 120, 160), axis=1)


def _arg_from_onnx(op):
    def from_onnx(g, node):
        last = bool(node.attr("select_last_index", 0))
        return g.add(
            op,
            node.inputs,
            axis=node.attr("axis", 0),
            keepdims=bool(node.attr("keepdims", 1)),
            last=last,
        )

    return from_onnx


for _op, _find, _name in ((arg_max, np.argmax, "ArgMax"), (arg_min, np.argmin, "ArgMin")):
    _op.rule(_arg_rule)
    _op.reference(_arg(_find))
    _op.transpose(_arg_transpose)
    _op.batch(_arg_batch)
    _op.cases(_arg_cases)
    _op.benches(_arg_benches)
    _op.importer(_name)(_arg_from_onnx(_op))
    for _dtype in ("f32", "i64", "i32", "u8"):

        @_op.kernel(_dtype, _op.name)
        def arg_pack(axis, last, x):
            return struct.pack("qq", axis % x.rank, last)
