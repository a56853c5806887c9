"""Reductions: y = f of all elements of x along some axes; one table of functions.

x: any shape, one dtype    at: the axes, i64, where they are data
axes: tuple, or None: those of `at`; where that is absent or empty all of them, or with noop none
Where nothing is reduced the function still applies.
keepdims: reduced axes stay, with length 1
Of no elements: sum, l1, l2, sum_square 0; prod 1; max the lowest value of the dtype, min the
highest; mean NaN; logs -inf.
Kernels are NAME_f32 (reduce.cc) and NAME_any (reduce_any.cc); attrs: int64, a bit for each reduced
axis.
Source: ONNX's operators of the same names (18); the sums of reduce.cc are blocked as in Higham
1993, "The Accuracy of Floating Point Summation".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..op import Op, Permuted, Spec, need
from ..pattern import P, V
from ..rules import axis_of, ints_of, relabel


def _lowest(dtype: np.dtype):
    return False if dtype.kind == "b" else np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf


def _highest(dtype: np.dtype):
    return True if dtype.kind == "b" else np.iinfo(dtype).max if dtype.kind in "iu" else np.inf


def _log_sum_exp(x: np.ndarray, **how) -> np.ndarray:
    m = np.max(x, axis=how["axis"], keepdims=True, initial=_lowest(x.dtype)).astype(np.float64)
    m = np.where(np.isfinite(m), m, 0)
    shift = m if how["keepdims"] else np.squeeze(m, how["axis"])
    return np.log(np.sum(np.exp(x - m), **how)) + shift


INTS = "i64 i32 i16 i8 u32 u16 u8"


@dataclass
class Row:
    """One function: its ONNX name, its formula, the dtypes with kernels."""

    onnx: str
    formula: Callable
    dtypes: str = f"f64 f16 {INTS} u64"  # with kernels, beside f32
    tol: tuple[float, float] = (2e-6, 2e-6)


ROWS: dict[str, Row] = {
    "reduce_sum": Row("ReduceSum", np.sum, tol=(2e-6, 1e-5)),
    "reduce_mean": Row("ReduceMean", np.mean),
    "reduce_max": Row(
        "ReduceMax",
        lambda x, **how: np.max(x, initial=_lowest(x.dtype), **how),
        f"f64 f16 {INTS} bool",
        (0, 0),
    ),
    "reduce_min": Row(
        "ReduceMin",
        lambda x, **how: np.min(x, initial=_highest(x.dtype), **how),
        f"f64 f16 {INTS} bool",
        (0, 0),
    ),
    "reduce_prod": Row("ReduceProd", np.prod, tol=(2e-5, 1e-6)),
    "reduce_l1": Row("ReduceL1", lambda x, **how: np.sum(np.abs(x), **how)),
    "reduce_l2": Row("ReduceL2", lambda x, **how: np.sqrt(np.sum(x * x, **how))),
    "reduce_sum_square": Row("ReduceSumSquare", lambda x, **how: np.sum(x * x, **how)),
    "reduce_log_sum": Row("ReduceLogSum", lambda x, **how: np.log(np.sum(x, **how))),
    "reduce_log_sum_exp": Row("ReduceLogSumExp", _log_sum_exp),
}


def _axes(x: Spec, at: Spec | None, axes: tuple | None, noop: bool, who: str) -> tuple[int, ...]:
    """The reduced axes, counted from 0 and in order."""
    if axes is None:
        axes = () if at is None else ints_of(Spec(at.shape, at.dtype, need(at, 1)))
        axes = axes or (() if noop else range(x.rank))
    return tuple(sorted({axis_of(a, x.rank, who) for a in axes}))


def _transpose(perm, i, ins, attrs):
    if i or attrs["axes"] is None:
        return None
    axes = {perm[a % len(perm)] for a in attrs["axes"]}
    out = perm
    if not attrs["keepdims"]:
        kept = [p for p in perm if p not in axes]
        out = relabel(kept, sorted(kept))
    return Permuted([perm], [out], {**attrs, "axes": tuple(sorted(axes))})


def _batch(axes, ins, outs, attrs):
    if axes[0] is None or len(ins) > 1:
        return None
    gone = _axes(ins[0], None, attrs["axes"], attrs["noop"], "reduce")
    shift = 0 if attrs["keepdims"] else sum(a < axes[0] for a in gone)
    return None if axes[0] in gone else [axes[0] - shift]


def _make(name: str, row: Row) -> Op:
    op = Op(
        name,
        inputs="x at?",
        attrs={"axes": None, "keepdims": True, "noop": False},
        tol={"f32": row.tol},
        doc=__doc__,
    )
    op.symbolic = name in ("reduce_prod", "reduce_sum")

    @op.rule
    def rule(x, at=None, axes=None, keepdims=True, noop=False):
        gone = _axes(x, at, axes, noop, name)
        if keepdims:
            return x.like([1 if k in gone else d for k, d in enumerate(x.shape)])
        return x.like([d for k, d in enumerate(x.shape) if k not in gone])

    @op.reference
    def reference(x, at=None, axes=None, keepdims=True, noop=False):
        gone = _axes(Spec(x.shape, "f32"), None if at is None else Spec.of(at), axes, noop, name)
        y = np.asarray(row.formula(x, axis=gone, keepdims=keepdims))
        return y.astype(x.dtype) if x.dtype.kind in "iu" else y

    op.transpose(_transpose)
    op.batch(_batch)
    for dtype in ("f32", *row.dtypes.split()):

        @op.kernel(f"{dtype} *", f"{name}_{'f32' if dtype == 'f32' else 'any'}")
        def pack(x, at, axes, noop):
            return struct.pack("q", sum(1 << a for a in _axes(x, at, axes, noop, name)))

    @op.importer(row.onnx)
    def from_onnx(g, node):
        x, at = (*node.inputs, None)[:2]
        how = {
            "keepdims": bool(node.attr("keepdims", 1)),
            "noop": bool(node.attr("noop_with_empty_axes", 0)),
        }
        axes = node.attr("axes") if at is None else ints_of(at)
        if at is not None and axes is None:
            return g.add(op, [x, at], **how)
        axes = tuple(axes) if axes else None
        if x.spec is not None:
            axes, how["noop"] = _axes(x.spec, None, axes, how["noop"], name), False
        return g.add(op, [x], axes=axes, **how)

    op.cases(lambda rng: _cases(rng, name, row))
    op.benches(_benches)
    return op


def _benches(rng):
    for shape, axes in [
        ((1, 56, 56, 144), (1, 2)),
        ((197, 768), (1,)),
        ((1, 80, 3000), (2,)),
        ((1, 80, 3000), (1,)),
    ]:
        yield dict(x=np.abs(rng(*shape)), axes=axes)


def _cases(rng, name: str, row: Row):
    for shape, axes in [
        ((1,), (0,)), ((5, 17), (-1,)), ((5, 17), (0,)), ((3, 7, 33), (1,)), ((2, 4, 5, 6), (1, 3)),
        ((2, 4, 5, 6), (0, 2)), ((2, 7, 7, 48), (1, 2)), ((3, 1, 130), (-1,)), ((4, 6), ()),
        ((0, 3), (1,)), ((2, 0, 3), (1,)), ((1, 300, 5), (1,)), ((2, 3, 1000), (2,)),
        ((3, 2500), (1,)), ((700, 40), (0,)),
    ]:  # fmt: skip
        x = rng(*shape)
        if name == "reduce_log_sum":
            x = np.abs(x)
        if name == "reduce_prod":
            x = 1 + x / 50
        if name == "reduce_mean" and 0 in shape:
            continue
        yield dict(x=x, axes=axes, keepdims=len(shape) != 3)
    yield dict(x=rng(2, 3, 5) + 4, at=np.array([-1, 0]), keepdims=False)
    yield dict(x=rng(2, 3, 5) + 4)
    yield dict(x=rng(2, 3, 5) + 4, at=np.zeros(0, np.int64), noop=True)
    x = rng(3, 9, 4) + 4
    for dtype in (np.float64, np.float16, np.int64, np.int32, np.uint8):
        yield dict(x=x.astype(dtype), axes=(1,))
    yield dict(x=x.astype(np.int64), axes=(0, 2))
    if "bool" in row.dtypes:
        yield dict(x=rng(3, 4) > 0, axes=(1,))
        yield dict(x=(rng(3, 40) * 50).astype(np.int8), axes=(0,))
        yield dict(x=np.zeros((2, 0), np.int32), axes=(1,))


ops = [_make(name, row) for name, row in ROWS.items()]
BY_NAME = {op.name: op for op in ops}


@BY_NAME["reduce_sum"].fuse(P.reduce_sum(V("x")))
def sum_of_two(g, m):
    """Two halves, whose rows are added as they lie (split attention, ResNeSt)."""
    axes = m.root.attrs["axes"] or ()
    if len(axes) != 1 or m.x.spec.dtype != "f32":
        return None
    axis = axis_of(axes[0], m.x.spec.rank, "reduce_sum")
    if m.x.shape[axis] != 2 or axis == m.x.spec.rank - 1:
        return None
    y = g.add("add", [g.add("slice", [m.x], window=((axis, i, i + 1, 1),)) for i in range(2)])
    return y if m.root.attrs["keepdims"] else g.add("squeeze", [y], axes=(axis,))
