"""y: a copy of x in which updates are put, or combined by `reduction` (add, mul, min, max), where
indices say.

scatter_elements: y[indices[i, j, ...], j, ...] = updates[i, j, ...] for axis 0, and so on.
    indices, updates: one shape.
scatter_nd: y[indices[i..., :]] = updates[i...].
Indices count from the end where negative and must lie within their axis; of several at one place
the last one counts.
Source: ONNX ScatterElements-18, ScatterND-18.
"""

import struct

import numpy as np

from ..errors import ShapeError, UnsupportedError
from ..op import Op, Spec
from ..pattern import C, OneOf, P, V
from ..rules import axis_of, inverse, same_dtype
from ..symbols import Sym
from .gather import check_lengths, check_range

scatter_elements = Op(
    "scatter_elements", inputs="x indices updates", attrs={"axis": 0, "reduction": "none"}
)
scatter_nd = Op("scatter_nd", inputs="x indices updates", attrs={"reduction": "none"})
scatter_elements.float64 = scatter_nd.float64 = False
REDUCTIONS = {"none": None, "add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}


def _put(y, index, updates, reduction) -> None:
    if reduction == "none":
        for at in np.ndindex(index[0].shape):
            y[tuple(int(i[at]) for i in index)] = updates[at]
    else:
        REDUCTIONS[reduction].at(y, index, updates)


def _check(who: str, reduction: str, x: Spec, updates: Spec) -> None:
    same_dtype(who, x, updates)
    if reduction not in REDUCTIONS:
        raise UnsupportedError(
            f"[{who}] found reduction {reduction!r}; expected one of {list(REDUCTIONS)}; "
            "correct the attribute"
        )


@scatter_elements.rule
def scatter_elements_rule(x, indices, updates, axis, reduction):
    a = axis_of(axis, x.rank, "scatter_elements")
    _check("scatter_elements", reduction, x, updates)
    check_lengths("scatter_elements", x, indices, a)
    if indices.concrete and updates.concrete and indices.shape != updates.shape:
        raise ShapeError(
            f"[scatter_elements] found indices {indices} and updates {updates}; "
            "expected one shape; correct the model"
        )
    if indices.known:
        check_range("scatter_elements", indices.value, x.shape[a])
    return x.like()


@scatter_elements.reference
def scatter_elements_reference(x, indices, updates, axis, reduction):
    check_range("scatter_elements", indices, x.shape[axis])
    index = list(np.indices(indices.shape))
    index[axis] = indices
    y = x.copy()
    _put(y, tuple(index), updates, reduction)
    return y


@scatter_elements.batch
def scatter_elements_batch(axes, ins, outs, attrs):
    return (
        [axes[0]]
        if axes[0] == axes[1] == axes[2] and axes[0] != attrs["axis"] % ins[0].rank
        else None
    )


NATIVE = "f32 f64 i64 i32 bool u8 i8"


def _pack(axis, reduction, x):
    return struct.pack("qq", axis % x.rank, list(REDUCTIONS).index(reduction))


def _pack_nd(reduction):
    return struct.pack("q", list(REDUCTIONS).index(reduction))


for _dtype in NATIVE.split():
    for _index in ("i64", "i32"):
        scatter_elements.kernel(f"{_dtype} {_index} {_dtype}", "scatter_elements", inplace="x")(
            _pack
        )
        scatter_nd.kernel(f"{_dtype} {_index} {_dtype}", "scatter_nd", inplace="x")(_pack_nd)


@scatter_elements.importer("Scatter")
@scatter_elements.importer("ScatterElements")
def scatter_elements_from_onnx(g, node):
    return g.add(
        scatter_elements,
        node.inputs,
        axis=node.attr("axis", 0),
        reduction=node.attr("reduction", "none"),
    )


@scatter_elements.cases
def scatter_elements_cases(rng):
    yield dict(x=rng(3, 4), indices=np.array([[0, -1, 2, 0]]), updates=rng(1, 4))
    yield dict(
        x=rng(3, 4), indices=np.array([[0, -1], [1, 1]], np.int32), updates=rng(2, 2), axis=1
    )
    yield dict(x=rng(3, 2), indices=np.array([[1, 2], [2, 0], [0, 1]]), updates=rng(3, 2))
    for reduction in ("add", "mul", "min", "max"):
        yield dict(x=rng(5), indices=np.array([1, 1, -1]), updates=rng(3), reduction=reduction)


@scatter_nd.rule
def scatter_nd_rule(x, indices, updates, reduction):
    _check("scatter_nd", reduction, x, updates)
    n = indices.shape[-1] if indices.rank else None
    if isinstance(n, Sym):
        return x.like()
    if n is None or n > x.rank:
        raise ShapeError(
            f"[scatter_nd] found indices {indices} for {x}; "
            f"expected a last axis of at most {x.rank}; correct the indices"
        )
    want = Spec(indices.shape[:-1] + x.shape[n:], x.dtype)
    if (
        want.rank != updates.rank
        or want.concrete
        and updates.concrete
        and want.shape != updates.shape
    ):
        raise ShapeError(
            f"[scatter_nd] found updates {updates} for indices {indices} and {x}; "
            f"expected {want}; correct the updates"
        )
    for k in range(n if indices.known else 0):
        check_range("scatter_nd", indices.value[..., k], x.shape[k])
    return x.like()


@scatter_nd.reference
def scatter_nd_reference(x, indices, updates, reduction):
    n = indices.shape[-1]
    for k in range(n):
        check_range("scatter_nd", indices[..., k], x.shape[k])
    y = x.copy()
    rows = int(np.prod(indices.shape[:-1]))
    flat = updates.reshape(rows, *x.shape[n:])
    for at, row in zip(indices.reshape(rows, n).tolist(), flat):
        y[tuple(at)] = row if reduction == "none" else REDUCTIONS[reduction](y[tuple(at)], row)
    return y


@scatter_nd.importer("ScatterND")
def scatter_nd_from_onnx(g, node):
    return g.add(scatter_nd, node.inputs, reduction=node.attr("reduction", "none"))


def _box(at, shape):
    """(first, end) of the box that the positions (..., n) are, in order; or None."""
    at = np.where(at < 0, at + np.array(shape), at).reshape(-1, len(shape))
    if not len(at):
        return None
    first, end = at[0], at[-1] + 1
    if (end <= first).any() or np.prod(end - first) != len(at):
        return None
    places = np.indices(end - first).reshape(len(shape), -1).T + first
    return (first.tolist(), end.tolist()) if np.array_equal(at, places) else None


@scatter_nd.fuse(P.scatter_nd(V("x"), C("indices"), V("updates"), reduction="none"))
def assigned_window(g, m):
    """A window that is assigned to, as x[:, 1:] = updates is exported: joined with what of x lies
    around it.
    """
    x, at, y = m.x, m.indices.array, m.updates
    n = at.shape[-1]
    box = all(isinstance(d, int) for d in x.shape) and n and _box(at, x.shape[:n])
    if not box:
        return None
    first, end = box
    y = g.add("reshape", [y], to=(*(e - s for s, e in zip(first, end)), *x.shape[n:]))
    for k in reversed(range(n)):
        inside = tuple((a, first[a], end[a], 1) for a in range(k))
        around = ((0, first[k]), (end[k], x.shape[k]))
        before, after = (
            [g.add("slice", [x], window=(*inside, (k, s, e, 1)))] if s < e else []
            for s, e in around
        )
        if before or after:
            y = g.add("concat", [*before, y, *after], axis=k)
    return y


EXPANDED = OneOf(P.expand(V("rows")), P.expand(V("rows"), V()))  # to a known shape, or not


@scatter_elements.fuse(P.scatter_elements(V("x"), EXPANDED, V("updates"), axis=0))
def whole_rows(g, m):
    """Every element of a row has one index, as where PyTorch assigns to rows."""
    rows, indices = m.rows.shape, m.root.inputs[1].shape
    if rows != (indices[0], *(1 for _ in indices[1:])) or indices[1:] != m.x.shape[1:]:
        return None
    at = g.add("reshape", [m.rows], to=(-1, 1))
    return g.add(scatter_nd, [m.x, at, m.updates], reduction=m.root.attrs["reduction"])


@scatter_nd.cases
def scatter_nd_cases(rng):
    yield dict(x=rng(4, 3, 5), indices=np.array([[0, 1], [-1, 2]]), updates=rng(2, 5))
    yield dict(x=rng(8), indices=np.array([[4], [3], [1], [7]]), updates=rng(4))
    yield dict(x=rng(4, 3, 0), indices=np.array([[3], [1]]), updates=rng(2, 3, 0))
    yield dict(x=rng(4, 3), indices=np.array([[1], [2], [3], [0]]), updates=rng(4, 3))
    yield dict(x=rng(4, 4), indices=np.array([[0], [0]]), updates=rng(2, 4), reduction="add")


@scatter_nd.importer("TensorScatter", since=24)
def tensor_scatter_from_onnx(g, node):
    """updates written along an axis of a cache, each sample from its own place on; around its end
    if circular.
    """
    x, updates, starts = (*node.inputs, None)[:3]
    rank = node.rank(0)
    axis = axis_of(node.attr("axis", -2), rank, "TensorScatter")
    perm = (0, axis, *[k for k in range(1, rank) if k != axis])

    def count(v, k):
        return g.add(
            "range",
            [g.const(0), g.add("squeeze", [g.add("shape", [v], start=k, end=k + 1)]), g.const(1)],
        )

    steps, samples = (
        g.add("unsqueeze", [count(updates, axis)], axes=(0,)),
        g.add("unsqueeze", [count(x, 0)], axes=(1,)),
    )
    place = (
        g.add("add", [g.add("unsqueeze", [starts], axes=(1,)), steps])
        if starts is not None
        else g.add("add", [g.add("mul", [samples, g.const(0)]), steps])
    )
    if node.attr("mode", "linear") == "circular":
        place = g.add("mod", [place, g.add("shape", [x], start=axis, end=axis + 1)])
    rows = g.add("add", [samples, g.add("mul", [place, g.const(0)])])
    at = g.add("concat", [g.add("unsqueeze", [v], axes=(2,)) for v in (rows, place)], axis=2)
    y = g.add(
        scatter_nd,
        [g.add("transpose", [x], perm=perm), at, g.add("transpose", [updates], perm=perm)],
    )
    return g.add("transpose", [y], perm=inverse(perm))


@scatter_nd.benches
def scatter_nd_benches(rng):
    yield dict(x=rng(300, 4), indices=np.arange(300)[:, None], updates=rng(300, 4))
    yield dict(
        x=rng(1, 64, 128, 16), indices=np.zeros((1, 1), np.int64), updates=rng(1, 64, 128, 16)
    )
