"""What a value shows of another: chains of Reshape, Transpose, Split, Slice, Gather, Expand and scaling as one window.

Attention is written in many ways (one QKV or three, any order of Reshape and Transpose, heads merged into the batch and
split again), yet its queries are always the same window on the same tensor. Patterns ask for that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .dtypes import FLOATS
from .graph import Node, Value
from .symbols import Sym

Factor = tuple[Any, Any]  # (length, stride), each an int or a Sym, the stride in elements of the source


@dataclass
class Window:
    """value == scale * (elements of `source`, which is contiguous, from `offset` on).

    axes: for each axis of the value the factors that it runs through, slowest first; those of length 1 are left out.
    """

    source: Value
    offset: Any
    axes: list[list[Factor]]
    scale: float = 1.0

    def strides(self) -> list | None:
        """The stride of each axis (0 where its length is 1), or None where an axis needs several."""
        merged = [_merged(f) for f in self.axes]
        return None if any(len(f) > 1 for f in merged) else [f[0][1] if f else 0 for f in merged]


def window(v: Value) -> Window:
    """The window that v is, on the farthest value that it can be traced to; on v itself where nothing is to be seen through."""
    chain: list[Node] = []
    at = v
    while at.producer is not None and (up := _source(at.producer)) is not None and up.spec is not None:
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


_SHAPED = ("reshape", "squeeze", "unsqueeze", "identity")


def _source(node: Node) -> Value | None:
    """The input that the node's outputs are windows on."""
    name, ins = node.op.name, node.inputs
    if any(o.spec is None for o in node.outputs):
        return None
    if name in _SHAPED or name in ("transpose", "split", "slice", "expand"):
        return ins[0]
    if name == "gather":
        return ins[0] if ins[1].const is not None and ins[1].spec.size == 1 else None
    if name == "div":
        return ins[0] if number(ins[1]) is not None and ins[1].spec.rank <= ins[0].spec.rank else None
    if name == "mul":
        for x, c in ((ins[0], ins[1]), (ins[1], ins[0])):
            if number(c) is not None and c.spec.rank <= x.spec.rank:
                return x
    return None


def _step(w: Window, node: Node, out: Value) -> Window | None:
    name, attrs = node.op.name, node.attrs
    if name in _SHAPED:
        axes = _refactored([f for a in w.axes for f in a], out.shape)
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
        return replace(cut, axes=[*w.axes[:axis], *([[]] * node.inputs[1].spec.rank), *w.axes[axis + 1 :]])
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
        if not isinstance(length, Sym):
            start, end, step = slice(start, end, step).indices(length)
        elif start < 0:
            start = length + start
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
        return replace(w, offset=w.offset + first * s, axes=[*w.axes[:axis], new, *w.axes[axis + 1 :]])
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
    """The factors, split where need be, dealt out to axes of these lengths; None where they do not come out even."""
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
