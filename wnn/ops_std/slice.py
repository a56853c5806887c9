"""y = x[..., start:end:step, ...] along some axes, with ONNX's clamping: no bounds reach outside x.

x: any shape and dtype.  The windows are either the attribute `window`, a tuple of (axis, start,
end, step), or the values of starts, ends, axes (all leading ones) and steps (1). A view wherever x
is.
Source: ONNX Slice-13, numpy's slices.
"""

import itertools
import struct

import numpy as np

from ..errors import ShapeError
from ..op import NeedValue, Op, Permuted, Spec, need
from ..pattern import P
from ..rules import axis_of, ints_of, settled
from ..symbols import Sym, maximum, minimum

op = Op("slice", inputs="x starts? ends? axes? steps?", attrs={"window": None})
op.float64, op.symbolic = False, True
FAR = 1 << 31  # from here on a bound means "to the end"


def windows(x, starts=None, ends=None, axes=None, steps=None, window=None) -> list[tuple]:
    """[(axis, start, end, step)], axes counted from 0."""
    if window is None:
        need(starts, 1), need(ends, 2)
        if axes is not None:
            need(axes, 3)
        if steps is not None:
            need(steps, 4)
        starts, ends = ints_of(starts), ints_of(ends)
        axes = range(len(starts)) if axes is None else ints_of(axes)
        steps = [1] * len(starts) if steps is None else ints_of(steps)
        if not len(starts) == len(ends) == len(axes) == len(steps):
            raise ShapeError(
                f"[slice] found {len(starts)} starts, {len(ends)} ends, {len(axes)} axes, "
                f"{len(steps)} steps; expected as many of each; correct the model"
            )
        window = zip(axes, starts, ends, steps)
    out = [(axis_of(a, x.rank, "slice"), s, e, k) for a, s, e, k in window]
    if any(k == 0 for *_, k in out):
        raise ShapeError(
            f"[slice] found step 0 for {x}; expected another integer; correct the steps"
        )
    if len({a for a, *_ in out}) != len(out):
        raise ShapeError(
            f"[slice] found axes {[a for a, *_ in out]}; expected each once; correct the axes"
        )
    return out


def _negative(d: Sym) -> bool:
    return all(v < 0 for v in d.terms.values())


def _length(d, start, end, step):
    """How many elements a window has. Symbolic bounds are taken to lie within the axis, which is
    not taken to be empty.
    """
    if not any(isinstance(v, Sym) for v in (d, start, end, step)):
        return len(range(*slice(start, end, step).indices(d)))
    if isinstance(step, Sym):
        raise NeedValue(4)
    if step < 0:
        first, last = _place_back(d, start), _place_back(d, end)
        count = (first - last - step - 1) // -step
        return count if last == -1 else maximum(count, 0)
    far = not isinstance(end, Sym) and end >= FAR
    known = not isinstance(start, Sym) and not isinstance(end, Sym)
    if known and not far and end <= start and (start < 0) == (end < 0):
        return 0
    count = ((d if far else _place(d, end)) - _place(d, start) + step - 1) // step
    return maximum(count, 0) if known and start < 0 <= end and not far else count


def _place(d, at):
    """A bound as a distance from the axis' start."""
    if isinstance(at, Sym):
        return d + at if _negative(at) else at
    if at < 0:
        return d - (1 if at == -1 else minimum(d, -at))
    return at if at <= 1 else minimum(d, at)


def _place_back(d, at):
    """The same for a window that is walked backwards: the last element, or -1 before the first."""
    if isinstance(at, Sym):
        return d + at if _negative(at) else at
    if at >= 0:
        return d - 1 if at >= FAR else minimum(d - 1, at) if at else 0
    return d - 1 if at == -1 else -1 if at <= -FAR else maximum(d + at, -1)


@op.rule
def rule(x, starts=None, ends=None, axes=None, steps=None, window=None):
    shape = list(x.shape)
    for a, s, e, k in windows(x, starts, ends, axes, steps, window):
        shape[a] = _length(shape[a], s, e, k)
    return Spec(shape, x.dtype)


@op.outline
def outline(symbol, x, starts=None, ends=None, axes=None, steps=None, window=None):
    if window is not None:
        over = [a for a, *_ in window]
    elif axes is None and starts.concrete:
        over = range(starts.size)
    else:
        over = None if axes is None else ints_of(axes)
    over = range(x.rank) if over is None else [axis_of(a, x.rank, "slice") for a in over]
    return x.like([symbol("part") if i in over else d for i, d in enumerate(x.shape)])


@op.reference
def reference(x, starts=None, ends=None, axes=None, steps=None, window=None):
    given = [None if v is None else Spec.of(v) for v in (starts, ends, axes, steps)]
    index = [slice(None)] * x.ndim
    for a, s, e, k in windows(Spec.of(x), *given, window):
        index[a] = slice(s, e, k)
    return x[tuple(index)]


@op.view
def view(strides, x, outs, window):
    if window is None:
        return None
    offset, strides = 0, list(strides)
    for a, s, e, k in windows(x, window=window):
        if 0 not in outs[0].shape:
            offset += slice(s, e, k).indices(x.shape[a])[0] * strides[a]
        strides[a] *= k
    return [(offset, tuple(strides))]


@op.transpose
def transpose(perm, i, ins, attrs):
    if i or attrs["window"] is None:
        return None
    return Permuted(
        [perm],
        [perm],
        {"window": tuple((perm[a % len(perm)], s, e, k) for a, s, e, k in attrs["window"])},
    )


@op.batch
def batch(axes, ins, outs, attrs):
    if axes[0] is None or any(a is not None for a in axes[1:]):
        return None
    cut = {a for a, *_ in windows(*ins, *[None] * (5 - len(ins)), attrs["window"])}
    return None if axes[0] in cut else [axes[0]]


@op.fuse(P.slice())
def settle(g, m):
    """Bounds that are known have their place in `window`."""
    node = m.root
    if node.attrs["window"] is not None or any(
        v is not None and ints_of(v) is None for v in node.inputs[1:]
    ):
        return None
    window = tuple(windows(*node.specs()))
    return (
        g.add(op, [node.inputs[0]], window=window)
        if settled(g, *itertools.chain(*window))
        else None
    )


@op.kernel("*", "slice", strides={"x": "any"})
def pack(x, starts, ends, axes, steps, window):
    """Where a window starts and its step, for each axis of x."""
    rows = [(0, 1)] * x.rank
    for a, s, e, k in windows(x, starts, ends, axes, steps, window):
        rows[a] = (slice(s, e, k).indices(x.shape[a])[0], k)
    return struct.pack(f"{2 * x.rank}q", *itertools.chain(*rows))


@op.importer("Slice", takes="f16 bits")
def from_onnx_attributes(g, node):
    starts, ends = node.attr("starts"), node.attr("ends")
    axes = node.attr("axes") or range(len(starts))
    return g.add(
        op, [node.inputs[0]], window=tuple((a, s, e, 1) for a, s, e in zip(axes, starts, ends))
    )


@op.importer("Slice", since=10, takes="f16 bits")
def from_onnx(g, node):
    x, *bounds = node.inputs
    if x.spec is not None and all(v is None or v.const is not None for v in bounds):
        return g.add(
            op, [x], window=tuple(windows(x.spec, *[None if v is None else v.spec for v in bounds]))
        )
    return g.add(op, node.inputs)


@op.cases
def cases(rng):
    x = rng(5, 7, 33)
    yield dict(x=x, window=((0, 1, 4, 1), (2, 2, 1 << 62, 3)))
    yield dict(x=x, window=((1, -1, -(1 << 62), -2),))
    yield dict(x=x, window=((1, -100, 100, 1), (-1, 5, 2, 1)))
    yield dict(
        x=x,
        starts=np.array([4, -9]),
        ends=np.array([-100, 9]),
        axes=np.array([0, 2]),
        steps=np.array([-1, 4]),
    )
    yield dict(x=x, starts=np.array([1]), ends=np.array([-1]))


@op.benches
def benches(rng):
    yield dict(x=rng(1, 416, 416, 3), window=((1, 0, 1 << 62, 2), (2, 1, 1 << 62, 2)))
    yield dict(x=rng(1, 56, 56, 96), window=((1, 3, 1 << 62, 1),))
