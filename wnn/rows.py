"""Rows that are moved as wholes: rolls, padding, crops and partition into windows, as one table.

A value's rows are its last axis; which row of its source each one is, is the same for every sample.
Lengths may be free: the table is then known for any lengths given, and can be computed in the graph
by moving numbers of rows in place of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from .graph import Graph, Node, Value
from .pattern import Match, Pattern
from .symbols import Sym, evaluate, product
from .windows import number

MOVES = ("transpose", "slice", "split", "concat", "pad")  # beside operators that keep the order


@dataclass
class Moved:
    """A value made of whole rows of `source`, sample by sample.

    samples: how many, an int or a symbol.  steps: the values on the way, in order, and the nodes
    that make them.
    """

    value: Value
    source: Value
    samples: int | Sym
    steps: dict[Value, Node]

    def free(self) -> list[str]:
        """The symbols that lengths depend on, besides the number of samples."""
        shapes = [v.shape for v in (self.source, *self.steps)]
        found = {s for shape in shapes for d in shape if isinstance(d, Sym) for s in d.symbols()}
        return sorted(found - _symbols(self.samples))

    def table(self, lengths: Mapping[str, int] | None = None) -> np.ndarray | None:
        """Which row of the source row r of a sample is, rows counted over all axes but the last;
        -1 is a row of zeros. None where samples are mixed, or rows do not come out even.
        """
        lengths = {**(lengths or {}), **dict.fromkeys(_symbols(self.samples), 2)}
        samples, shape = evaluate(self.samples, lengths), _lengths(self.source, lengths)
        total = int(np.prod(shape))
        if samples < 1 or total % samples:
            return None
        tables = {self.source: np.arange(total, dtype=np.int32).reshape(shape)}
        try:
            for v, node in self.steps.items():
                tables[v] = _move(node, v, [tables.get(x) for x in node.inputs], lengths)
            table = tables[self.value].reshape(samples, -1)
        except (ValueError, ZeroDivisionError):
            return None
        step = np.where(table[0] < 0, 0, total // samples)
        expected = table[0] + step * np.arange(samples)[:, None]
        return table[0] if np.array_equal(table, expected) else None

    def in_graph(self, g: Graph) -> Value:
        """The table as an i32 value; of lengths that are free, with samples that are free or 1."""
        one = dict.fromkeys(_symbols(self.samples), 1)

        def shape(v: Value) -> tuple:
            return (*(evaluate(d, one) for d in v.shape[:-1]), 1)

        at = {
            self.source: g.add(
                "reshape", [count(g, product(shape(self.source)))], to=shape(self.source)
            )
        }
        for v, node in self.steps.items():
            xs = [at[x] for x in node.inputs if x in at]
            if node.op.keeps_order:
                at[v] = g.add("reshape", xs, to=shape(v))
            elif node.op.name == "split":
                axis, start, end = _part(node, v)
                at[v] = g.add("slice", xs, window=((axis, start, end, 1),))
            elif node.op.name == "pad":
                at[v] = g.add("pad", [*xs, None, g.const(np.int32(-1))], **node.attrs)
            else:
                at[v] = g.add(node.op, xs, **node.attrs)
        return at[self.value]


def count(g: Graph, n: int | Sym) -> Value:
    """0, 1, ... n - 1 as i32."""
    ones = g.add("expand", [g.const(np.ones(1, np.int32))], to=(n,))
    return g.add("cumsum", [ones], axis=0, exclusive=True)


def moved_rows(v: Value, samples: int | Sym) -> Moved | None:
    """What v is made of, as far as rows are moved only; None where that is several values.

    samples: how many there are.
    """
    if v.spec is None or not v.spec.rank:
        return None
    steps: dict[Value, Node] = {}
    sources: dict[Value, None] = {}
    todo = [v]
    while todo:
        u = todo[-1]
        node = u.producer
        if node is None or not _moves(node, u):
            sources[todo.pop()] = None
            continue
        above = node.inputs[: None if node.op.name == "concat" else 1]
        left = [x for x in above if x not in steps and x not in sources]
        if left:
            todo += left
        else:
            steps[todo.pop()] = node
    free = _symbols(samples)
    plain = not free or len(free) == 1 and samples == Sym(*free)
    return Moved(v, *sources, samples, steps) if len(sources) == 1 and plain else None


def moves_rows(node: Node) -> bool:
    """Whether a node does nothing but move rows."""
    return all(_moves(node, v) for v in node.outputs)


class MovedRows(Pattern):
    """Values made of moved rows of one that `inner` matches, where they are moved no further."""

    def __init__(self, inner: Pattern) -> None:
        self.inner = inner

    def node_count(self) -> int:
        return self.inner.node_count() + 3  # a partition is a Reshape, a Transpose and a Reshape

    def roots(self) -> set[str]:
        return {"reshape", "slice", "concat"}

    def match(self, v: Value, m: Match) -> Iterator[Match]:
        if v.users and all(moves_rows(u) for u in v.users):
            return
        end, names = v, self.inner.roots()
        while end.producer is not None and _moves(end.producer, end):
            end = end.producer.inputs[0]
        if end is v or end.producer is None or end.producer.op.name not in names:
            return
        found = moved_rows(v, v.shape[0])
        if found is not None:
            bound = m.copy()
            bound.nodes += reversed(found.steps.values())
            yield from self.inner.match(found.source, bound)


def _symbols(d: int | Sym) -> set[str]:
    return d.symbols() if isinstance(d, Sym) else set()


def _lengths(v: Value, lengths: Mapping[str, int]) -> list[int]:
    return [evaluate(d, lengths) for d in v.shape[:-1]]


def _moves(node: Node, out: Value) -> bool:
    """Whether a node only moves rows of its first input (all inputs of concat)."""
    name, attrs, x = node.op.name, node.attrs, node.inputs[0] if node.inputs else None
    if not (node.op.keeps_order or name in MOVES):
        return False
    if out.spec is None or x is None or x.spec is None:
        return False
    if not x.spec.rank or not out.spec.rank:
        return False
    last = x.spec.rank - 1
    if node.op.keeps_order:
        return x.shape[-1] == out.shape[-1]
    if name == "transpose":
        return attrs["perm"][last] == last
    if name in ("split", "concat"):
        return attrs["axis"] % (last + 1) != last
    if name == "slice":
        window = attrs["window"]
        return window is not None and all(a % (last + 1) != last for a, *_ in window)
    pads = attrs["pads"]
    zero = len(node.inputs) < 3 or node.inputs[2] is None or number(node.inputs[2]) == 0
    kept = pads is not None and pads[last] == pads[2 * last + 1] == 0
    return kept and zero and attrs["mode"] == "constant"


def _part(node: Node, out: Value) -> tuple:
    """(axis, start, end) of an output of split."""
    axis = node.attrs["axis"] % out.spec.rank
    start = 0
    for o in node.outputs[: next(i for i, o in enumerate(node.outputs) if o is out)]:
        start = start + o.shape[axis]
    return axis, start, start + out.shape[axis]


def _move(node: Node, out: Value, tables: list, lengths: Mapping[str, int]) -> np.ndarray:
    name, attrs, t = node.op.name, node.attrs, tables[0]
    if node.op.keeps_order:
        return t.reshape(_lengths(out, lengths))
    if name == "transpose":
        return t.transpose(attrs["perm"][:-1])
    if name == "concat":
        return np.concatenate(tables, attrs["axis"] % (t.ndim + 1))
    if name in ("slice", "split"):
        window = attrs["window"] if name == "slice" else [(*_part(node, out), 1)]
        cut = [slice(None)] * t.ndim
        for a, *bounds in window:
            cut[a % (t.ndim + 1)] = slice(*(evaluate(b, lengths) for b in bounds))
        return t[tuple(cut)]
    pads = [evaluate(p, lengths) for p in attrs["pads"]]
    pairs = [(pads[k], pads[k + t.ndim + 1]) for k in range(t.ndim)]
    t = t[tuple(slice(max(-b, 0), d - max(-a, 0)) for d, (b, a) in zip(t.shape, pairs))]
    return np.pad(t, [(max(b, 0), max(a, 0)) for b, a in pairs], constant_values=-1)
