"""What a value is of others: a window on one, through Reshape, Transpose, Split, Slice, Gather,
Expand and scaling; a sum.

Attention is written in many ways (one QKV or three, any order of Reshape and Transpose, heads
merged into the batch and split again, scaled and masked here or there), yet its queries are always
the same window on the same tensor, and its scores the same sum. Patterns ask for these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .dtypes import FLOATS
from .graph import Graph, Node, Value
from .pattern import Decline
from .symbols import Sym, product

# (length, stride), each an int or a Sym, the stride in elements of the source
Factor = tuple[Any, Any]


@dataclass
class Window:
    """value == scale * (elements of `source`, which is contiguous, from `offset` on).

    axes: for each axis of the value the factors that it runs through, slowest first; those of
    length 1 are left out.
    """

    source: Value
    offset: Any
    axes: list[list[Factor]]
    scale: float = 1.0

    def strides(self) -> list | None:
        """Each axis' stride (0 where its length is 1), or None where an axis needs several."""
        merged = [_merged(f) for f in self.axes]
        return None if any(len(f) > 1 for f in merged) else [f[0][1] if f else 0 for f in merged]

    def joined(self, first: int, last: int) -> list[Factor]:
        """The factors that axes [first, last) run through, taken as one axis."""
        return _merged([f for a in self.axes[first:last] for f in a])


def window(v: Value) -> Window:
    """The window that v is, on the farthest value that it can be traced to; on v itself where
    nothing is to be seen through.
    """
    chain: list[Node] = []
    at = v
    while (
        at.producer is not None and (up := _source(at.producer)) is not None and up.spec is not None
    ):
        chain.append((at.producer, at))
        at = up
    w = _whole(at)
    for node, out in reversed(chain):
        w = _step(w, node, out) or _whole(out)
    return w


def _whole(v: Value) -> Window:
    axes, n = [], 1
    for d in reversed(v.shape):
        axes.append([(d, n)] if not _one(d) else [])
        n = n * d
    return Window(v, 0, axes[::-1])


def _one(d: Any) -> bool:
    return not isinstance(d, Sym) and d == 1


def number(v: Value | None) -> float | None:
    """The number that a constant of one element holds."""
    if v is None or v.const is None or v.spec.size != 1 or v.spec.dtype not in FLOATS[:3]:
        return None
    return float(v.array.reshape(-1)[0])


def is_contiguous(w: Window, shape: tuple) -> bool:
    """Whether the window is the whole source in its order, read as this shape."""
    n: Any = 1
    for d, s in zip(reversed(shape), reversed(w.strides() or [None] * len(shape)), strict=True):
        if not _one(d) and s != n:
            return False
        n = n * d
    return w.offset == 0 and w.source.spec.size == n


def peeled(v: Value) -> tuple[Value, tuple[int, ...], float]:
    """(x, perm, scale) such that v == scale * transpose(x, perm)."""
    perm, scale = tuple(range(v.spec.rank)), 1.0
    while v.producer is not None:
        name, ins = v.producer.op.name, v.producer.inputs
        if name == "transpose":
            perm = tuple(v.producer.attrs["perm"][i] for i in perm)
            v = ins[0]
        elif name == "mul" and number(ins[0]) is not None and ins[1].shape == v.shape:
            v, scale = ins[1], scale * number(ins[0])
        elif name in ("mul", "div") and number(ins[1]) and ins[0].shape == v.shape:
            v, scale = ins[0], scale * (number(ins[1]) if name == "mul" else 1 / number(ins[1]))
        else:
            break
    return v, perm, scale


@dataclass
class Term:
    """One addend of a sum: scale * value; for a masked sum (`where` put a number in its place)
    value is the `where`'s output.

    shape: that of the sum it is added in.
    """

    value: Value
    scale: float
    shape: tuple
    masked: bool = False


def terms(g: Graph, v: Value) -> list[Term]:
    """What v is the sum of, as far as nobody else uses what lies between."""
    found, todo = [], [(v, 1.0, v.shape)]
    while todo:
        v, scale, shape = todo.pop()
        node = v.producer
        if node is None or v.spec.dtype not in FLOATS or len(v.users) > 1 or g.is_output(v):
            found.append(Term(v, scale, shape))
            continue
        name, ins = node.op.name, node.inputs
        if name == "add":
            todo += [(x, scale, v.shape) for x in reversed(ins)]
        elif name == "mul" and (c := number(ins[0])) is not None:
            todo.append((ins[1], scale * c, shape))
        elif name in ("mul", "div") and (c := number(ins[1])):
            todo.append((ins[0], scale * c if name == "mul" else scale / c, shape))
        elif name == "reshape" and v.shape == shape and ins[0].shape[-2:] == shape[-2:]:
            todo.append((ins[0], scale, ins[0].shape))
        elif name == "where" and (number(ins[1]) is None) != (number(ins[2]) is None):
            found.append(Term(v, scale, v.shape, masked=True))
            todo.append((ins[1] if number(ins[1]) is None else ins[2], scale, v.shape))
        else:
            found.append(Term(v, scale, shape))
    return found


MASKED = -1e4  # a score that is replaced by at most this counts as minus infinity


def additive_mask(
    g: Graph,
    masks: list[Term],
    shape: tuple,
    hidden: Value | None = None,
    seen: Value | None = None,
) -> Value | None:
    """The sum of these terms as one tensor that broadcasts to scores of `shape`; None for no terms.

    hidden, seen: where weights are replaced by 0, by the same condition as one of the terms: that
    one is then -inf; or where one of them is -inf throughout. Declines terms of sums that are more
    than reshaped scores, and other conditions.
    """
    total = None
    unused = hidden or seen
    for t in masks:
        x = t.value
        if hidden is not None and hidden_by(hidden) is x:
            unused = None
        if t.masked:
            condition, kept, fill = x.producer.inputs
            below = number(fill)
            first = below is None
            if first:
                kept, below = fill, number(kept)
            if below > MASKED:
                raise Decline(f"scores are replaced by {below}")
            if _equal(condition, hidden if first else seen):
                below, unused = -np.inf, None
            zero, low = g.const(np.float32(0)), g.const(np.float32(below))
            pair = (low, zero) if first else (zero, low)
            x = _added(g, "where", condition, *pair)
        if t.scale != 1.0:
            x = _added(g, "mul", x, g.const(np.float32(t.scale)))
        x = _reshaped(g, x, t.shape, shape)
        total = x if total is None else _added(g, "add", total, x)
    if unused is not None:
        raise Decline("weights are replaced by 0 where scores are not by a large negative number")
    return total


def _added(g: Graph, name: str, *values: Value) -> Value:
    """An operator of values, computed at once where all are constant."""
    y = g.add(name, list(values))
    if any(v.const is None for v in values):
        return y
    op = y.producer.op
    return g.const(*op.run_reference([v.array for v in values], y.producer.attrs, (y.spec,)))


def _reshaped(g: Graph, x: Value, above: tuple, below: tuple) -> Value:
    """A mask of scores of shape `above` as one of shape `below`; they differ in leading axes."""
    if above == below:
        return x
    same = 0
    while same < min(len(above), len(below)) and above[-1 - same] == below[-1 - same]:
        same += 1
    cut = max(0, x.spec.rank - same)
    lead, tail = x.shape[:cut], (1,) * (same - x.spec.rank) + x.shape[cut:]
    if same >= 2 and all(map(_one, lead)):
        return g.add("reshape", [x], to=tail)
    if same < 2 or product(above) != product(below):
        raise Decline(f"the mask {x.spec} in scores {above} does not broadcast to {below}")
    whole = above[: len(above) - same]
    if (1,) * (len(whole) - len(lead)) + lead != whole:
        x = g.add("expand", [x], to=(*whole, *tail))
    return g.add("reshape", [x], to=(*below[: len(below) - same], *tail))


def hidden_by(condition: Value) -> Value | None:
    """The mask of which a condition tells the rows that are -inf throughout, as ONNX's Attention
    has it; or None.
    """
    equal = condition.producer
    if equal is None or equal.op.name != "equal" or number(equal.inputs[1]) != -np.inf:
        return None
    most = equal.inputs[0].producer
    last = most is not None and most.op.name == "reduce_max"
    if not last or most.attrs["axes"] not in ((-1,), (most.inputs[0].spec.rank - 1,)):
        return None
    return most.inputs[0]


def _equal(a: Value, b: Value | None) -> bool:
    """Whether two values are one, or equal constants."""
    if a is b or b is None or a.const is None or b.const is None:
        return a is b
    return np.array_equal(a.array, b.array)


def _source(node: Node) -> Value | None:
    """The input that the node's outputs are windows on."""
    name, ins = node.op.name, node.inputs
    if any(o.spec is None for o in node.outputs):
        return None
    if node.op.keeps_order or name in ("transpose", "split", "slice", "expand"):
        return ins[0]
    if name == "gather":
        return ins[0] if ins[1].const is not None and ins[1].spec.size == 1 else None
    if name == "div":
        return (
            ins[0] if number(ins[1]) is not None and ins[1].spec.rank <= ins[0].spec.rank else None
        )
    if name == "mul":
        for x, c in ((ins[0], ins[1]), (ins[1], ins[0])):
            if number(c) is not None and c.spec.rank <= x.spec.rank:
                return x
    return None


def _step(w: Window, node: Node, out: Value) -> Window | None:
    name, attrs = node.op.name, node.attrs
    if node.op.keeps_order:
        factors = [f for a in w.axes for f in a]
        axes = _refactored(factors, out.shape) or _refactored(_merged(factors), out.shape)
        return None if axes is None else replace(w, axes=axes)
    if name == "transpose":
        return replace(w, axes=[w.axes[p] for p in attrs["perm"]])
    if name in ("mul", "div"):
        c = number(node.inputs[1])
        if name == "div":
            return replace(w, scale=w.scale / c) if c else None
        return replace(w, scale=w.scale * (number(node.inputs[0]) if c is None else c))
    if name == "split":
        axis = attrs["axis"] % len(w.axes)
        before = node.outputs[: next(i for i, o in enumerate(node.outputs) if o is out)]
        return _cut(w, axis, sum((o.shape[axis] for o in before), 0), out.shape[axis])
    if name == "slice":
        return _sliced(w, node, out)
    if name == "gather":
        axis = attrs["axis"] % len(w.axes)
        i = int(node.inputs[1].array.reshape(-1)[0])
        if i < 0:
            i = i + node.inputs[0].shape[axis]
        cut = _cut(w, axis, i, 1)
        if cut is None:
            return None
        return replace(
            cut, axes=[*w.axes[:axis], *([[]] * node.inputs[1].spec.rank), *w.axes[axis + 1 :]]
        )
    lead = out.spec.rank - len(w.axes)  # expand
    axes = []
    for d, a in zip(out.shape, [[]] * lead + w.axes, strict=True):
        axes.append(a if a or _one(d) else [(d, 0)])
    return replace(w, axes=axes)


def _sliced(w: Window, node: Node, out: Value) -> Window | None:
    if node.attrs["window"] is None:
        return None
    for axis, start, end, step in node.attrs["window"]:
        axis %= len(w.axes)
        length = node.inputs[0].shape[axis]
        if not any(isinstance(d, Sym) for d in (length, start, end)):
            start, end, step = slice(start, end, step).indices(length)
        else:
            negative = (
                start < 0 if isinstance(start, int) else all(c < 0 for c in start.terms.values())
            )
            start = length + start if negative else start
        if step != 1 or (w := _cut(w, axis, start, out.shape[axis])) is None:
            return None
    return w


def _cut(w: Window, axis: int, start: Any, length: Any) -> Window | None:
    """The part of one axis from `start` on."""
    factors = _merged(w.axes[axis])
    if len(factors) > 1:  # start and length must be whole steps of the slowest factor
        inner = 1
        for n, _ in factors[1:]:
            inner = inner * n
        q, first = _exact(length, inner), _exact(start, inner)
        if q is None or first is None:
            return None
        n, s = factors[0]
        new = ([(q, s)] if not _one(q) else []) + factors[1:]
        return replace(
            w, offset=w.offset + first * s, axes=[*w.axes[:axis], new, *w.axes[axis + 1 :]]
        )
    s = factors[0][1] if factors else 0
    new = [(length, s)] if not _one(length) else []
    return replace(w, offset=w.offset + start * s, axes=[*w.axes[:axis], new, *w.axes[axis + 1 :]])


def _merged(factors: list[Factor]) -> list[Factor]:
    """Neighbouring factors that are one run of equal strides become one."""
    out: list[Factor] = []
    for n, s in factors:
        if out and out[-1][1] == n * s:
            out[-1] = (out[-1][0] * n, s)
        else:
            out.append((n, s))
    return out


def _exact(a: Any, b: Any) -> Any:
    """a / b where it is whole, else None."""
    if not isinstance(a, Sym) and not isinstance(b, Sym):
        return a // b if b and a % b == 0 else None
    q = a // b
    return q if q * b == a else None


def _refactored(factors: list[Factor], shape: tuple) -> list[list[Factor]] | None:
    """The factors, split where need be, dealt out to axes of these lengths; None where they do not
    come out even.
    """
    rest = list(factors)
    axes = []
    for d in shape:
        axis: list[Factor] = []
        have: Any = 1
        while have != d:
            if not rest:
                return None
            n, s = rest[0]
            if _exact(d, have * n) is not None:
                rest.pop(0)
                axis.append((n, s))
                have = have * n
                continue
            need = _exact(d, have)
            inner = None if need is None else _exact(n, need)
            if inner is None:
                return None
            axis.append((need, s * inner))
            rest[0] = (inner, s)
            have = d
        axes.append(axis)
    return axes if not rest else None
