"""Multi-head attention as patterns see it: which columns of one projection are each head's queries,
keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .graph import Graph, Node, Value
from .pattern import C, Decline, Match, OneOf, P, V
from .symbols import Sym, product
from .windows import Term, Window, terms, window

# The weights of attention: softmax(s), or that with 0 where a query sees nothing, or where it sees
# no key (`hidden`, or not `seen`), as the scores say too.
_softmax = P.softmax(V("s"), axis=-1)
WEIGHTS = OneOf(
    _softmax,
    P.reshape(_softmax),
    P.where(P.isnan(_softmax), C(value=0.0), _softmax),
    P.where(V("hidden"), C(value=0.0), _softmax),
    P.where(V("seen"), _softmax, C(value=0.0)),
).named("weights")


def guarded(m: Match) -> bool:
    """Whether a query that sees nothing gets 0 in a match of WEIGHTS."""
    return m.weights.producer.op.name == "where"


@dataclass
class Heads:
    """q, k and v of head h: rows of `source`, columns at[0], at[1], at[2] + h * step, `dim` of
    them.

    rows, batch: (length, stride in rows of the source).  scale: what q and k were multiplied by on
    the way.
    """

    source: Value
    at: tuple[int, int, int]
    step: int
    heads: int
    dim: int
    rows: tuple
    batch: tuple
    scale: float

    @property
    def attrs(self) -> dict[str, Any]:
        return {"heads": self.heads, "dim": self.dim, "at": self.at, "step": self.step}

    def in_order(self, g: Graph) -> Value:
        """The source as (B, T, N), whichever of batch and time comes first in it."""
        N = self.source.shape[-1]
        (T, t), (B, b) = self.rows, self.batch
        if product(self.source.shape) != B * T * N:
            raise Decline("the heads do not cover all rows of the tensor they lie in")
        if (T == 1 or t == 1) and (B == 1 or b == T):
            return g.add("reshape", [self.source], to=(B, T, N))
        if (B == 1 or b == 1) and (T == 1 or t == B):
            return g.add(
                "transpose", [g.add("reshape", [self.source], to=(T, B, N))], perm=(1, 0, 2)
            )
        raise Decline("batch and time do not lie in the order of rows")


def packed_heads(g: Graph, q: Value, k: Value, v: Value) -> Heads:
    """q (..., T, D), k (..., D, T), v (..., T, D) as columns of one projection; three projections
    of one tensor are joined.
    """
    q, k, v = window(q), window(k), window(v)
    k.axes[-2:] = k.axes[:-3:-1]
    found = [_head(w, what) for w, what in ((q, "q"), (k, "k"), (v, "v"))]
    if (
        len({f[1:] for f in found}) > 1
        or len({tuple(map(tuple, w.axes[-1])) for w in (q, k, v)}) > 1
    ):
        raise Decline("q, k and v differ in heads, rows or dimensions")
    if v.scale != 1.0:
        raise Decline("v is scaled")
    source, starts = _joined(g, [q.source, k.source, v.source])
    at = tuple(f[0] + start for f, start in zip(found, starts, strict=True))
    _, heads, step, rows, batch = found[0]
    dim = q.axes[-1][0][0] if q.axes[-1] else 1
    return Heads(source, at, step, heads, dim, rows, batch, q.scale * k.scale)


def only_feeds(g: Graph, values: list[Value], ends: list[Node]) -> bool:
    """Whether no product but these is made of any of the values, nor is an output."""
    todo, seen = list(values), {*map(id, ends)}
    while todo:
        v = todo.pop()
        if g.is_output(v):
            return False
        for node in v.users:
            if id(node) in seen or node.op.name == "shape":
                continue
            if node.op.name in ("matmul", "linear"):
                return False
            seen.add(id(node))
            todo += node.outputs
    return True


def _head(w: Window, what: str) -> tuple:
    """(offset in a row, heads, step, rows, batch) of a window with axes (..., T, D)."""
    *lead, _, columns = w.axes
    rows = w.joined(-2, -1)
    N = w.source.shape[-1]
    if (
        isinstance(N, Sym)
        or isinstance(w.offset, Sym)
        or len(rows) > 1
        or len(columns) > 1
        or any(s != 1 for _, s in columns)
    ):
        raise Decline(f"{what} is no window on rows of one tensor")
    lead = [f for axis in lead for f in axis]
    heads = (1, N)
    if (
        lead
        and not isinstance(lead[-1][1], Sym)
        and lead[-1][1] < N
        and not isinstance(lead[-1][0], Sym)
    ):
        heads = lead.pop()
    batch = (1, 0)
    for n, s in lead:
        batch = (n, s) if batch[0] == 1 else (batch[0] * n, s) if batch[1] == n * s else (0, 0)
    rows = rows[0] if rows else (1, 0)
    if (
        batch[0] == 0
        or w.offset >= N
        or batch[1] // N * N != batch[1]
        or rows[1] // N * N != rows[1]
    ):
        raise Decline(f"{what} is no window on rows of one tensor")
    return w.offset, *heads, (rows[0], rows[1] // N), (batch[0], batch[1] // N)


def _joined(g: Graph, sources: list[Value]) -> tuple[Value, tuple[int, int, int]]:
    """One linear in place of three on the same rows, its weights side by side, and where each one's
    columns start.
    """
    if sources[0] is sources[1] is sources[2]:
        return sources[0], (0, 0, 0)
    nodes = [v.producer for v in sources]
    if any(
        n is None or n.op.name != "linear" or n.attrs["post"] or n.inputs[1].const is None
        for n in nodes
    ):
        raise Decline("q, k and v come neither from one tensor nor from three projections")
    x = nodes[0].inputs[0]
    if any(n.inputs[0] is not x for n in nodes) or any(
        len(v.users) > 1 or g.is_output(v) for v in sources
    ):
        raise Decline("q, k and v are projections of different tensors, or used elsewhere too")
    weights = [n.inputs[1].array for n in nodes]
    biases = [
        n.inputs[2].array if len(n.inputs) > 2 else np.zeros(w.shape[1], w.dtype)
        for n, w in zip(nodes, weights, strict=True)
    ]
    y = g.add("linear", [x, g.const(np.concatenate(weights, 1)), g.const(np.concatenate(biases))])
    return y, (0, weights[0].shape[1], weights[0].shape[1] + weights[1].shape[1])


def scores_and_masks(g: Graph, s: Value) -> tuple[Term, list[Term]]:
    """The term q k^T of the softmax's argument, the first that can be, and the others."""
    found = terms(g, s)
    scores = next((t for t in found if _is_product(g, t)), None)
    if scores is None:
        raise Decline("no addend of the scores is a matrix product that nothing else uses")
    return scores, [t for t in found if t is not scores]


def _is_product(g: Graph, t: Term) -> bool:
    v, node = t.value, t.value.producer
    if t.masked or node is None or node.op.name != "matmul" or node.attrs["post"]:
        return False
    return len(v.users) == 1 and not g.is_output(v)
