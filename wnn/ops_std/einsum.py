"""Einsum as matrix products: operands are joined two at a time; labels that both share and the rest
does not need are summed by a MatMul.

Source: ONNX Einsum-12.
"""

from __future__ import annotations

from math import prod

import numpy as np

from ..errors import ModelError, UnsupportedError
from ..rules import reshape_attrs
from .matmul import op as matmul
from .reshape import reshape


@matmul.importer("Einsum", since=12)
def einsum_from_onnx(g, node):
    terms, out = labels_of(
        node.attr("equation"), [node.rank(i) for i in range(len(node.inputs))], node.name
    )
    work = list(zip(terms, node.inputs, strict=True))
    lengths = common_lengths(work, node.name)
    while len(work) > 1:
        (la, a), (lb, b), *rest = work
        needed = set(out).union(*(t for t, _ in rest))
        la, a = summed(node, la, a, set(lb) | needed)
        lb, b = summed(node, lb, b, set(la) | needed)
        work = [joined(g, node, la, a, lb, b, needed, lengths), *rest]
    labels, x = summed(node, *work[0], set(out))
    return permuted(g, x, [labels.index(c) for c in out])


def labels_of(equation: str, ranks: list[int], who: str) -> tuple[list[list[str]], list[str]]:
    """The labels of each operand and of the result; the axes of an ellipsis are labelled 0, 1, ...
    from the right.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = [expand(t, rank, who) for t, rank in zip(left.split(","), ranks, strict=True)]
    seen = [c for t in terms for c in t]
    dots = sorted({c for c in seen if c.isdigit()}, key=int, reverse=True)
    if arrow:
        before, ellipsis, after = right.partition("...")
        out = [*before, *(dots if ellipsis else []), *after]
    else:
        out = dots + sorted(c for c in set(seen) if seen.count(c) == 1 and not c.isdigit())
    if set(out) - set(seen) or len(set(out)) != len(out):
        raise ModelError(
            f"[{who}] found the equation {equation!r}; expected each label of the result once, "
            "and in an operand; correct it"
        )
    return terms, out


def expand(term: str, rank: int, who: str) -> list[str]:
    before, ellipsis, after = term.partition("...")
    free = rank - len(before) - len(after)
    if free < 0 or (free and not ellipsis):
        raise ModelError(
            f"[{who}] found the term {term!r} for {rank} dimensions; expected one label per "
            "axis; correct the equation"
        )
    labels = [*before, *(str(i) for i in reversed(range(free))), *after]
    if len(set(labels)) < len(labels):
        raise UnsupportedError(
            f"[{who}] found the diagonal {term!r}; expected each label once per operand; export "
            "without it"
        )
    return labels


def common_lengths(work: list, who: str) -> dict:
    lengths: dict = {}
    for labels, x in work:
        for c, d in zip(labels, x.shape, strict=True):
            if lengths.setdefault(c, d) != d and (lengths[c] == 1 or d == 1):
                raise UnsupportedError(
                    f"[{who}] found lengths {lengths[c]} and {d} of label {c!r}; expected equal "
                    "ones; expand one of them"
                )
    return lengths


def summed(node, labels: list[str], x, keep: set[str]):
    """x with the labels that nothing else needs summed out."""
    axes = [i for i, c in enumerate(labels) if c not in keep]
    if axes:
        x = node.call("ReduceSum", x, node.const(np.array(axes)), keepdims=0)
    return [c for c in labels if c in keep], x


def joined(g, node, la: list[str], a, lb: list[str], b, needed: set[str], lengths: dict):
    """Both operands as one: (labels, value)."""
    batch = [c for c in la if c in lb and c in needed]
    inner = [c for c in la if c in lb and c not in needed]
    rows = [c for c in la if c not in lb]
    columns = [c for c in lb if c not in la]
    a = permuted(g, a, [la.index(c) for c in batch + rows + inner])
    b = permuted(g, b, [lb.index(c) for c in batch + inner + columns])
    size = {
        k: prod((lengths[c] for c in group), start=1)
        for k, group in (("m", rows), ("k", inner), ("n", columns))
    }
    lead = [lengths[c] for c in batch]
    shape = [*lead, *(lengths[c] for c in rows + columns)]
    if not inner:
        if columns:
            a = reshaped(g, a, [*lead, *(lengths[c] for c in rows), *[1] * len(columns)])
        if rows:
            b = reshaped(g, b, [*lead, *[1] * len(rows), *(lengths[c] for c in columns)])
        return batch + rows + columns, node.call("Mul", a, b)
    if not len(rows) == len(inner) == 1:
        a = reshaped(g, a, [*lead, size["m"], size["k"]])
    if not len(columns) == len(inner) == 1:
        b = reshaped(g, b, [*lead, size["k"], size["n"]])
    y = node.call("MatMul", a, b)
    if not len(rows) == len(columns) == 1:
        y = reshaped(g, y, shape)
    return batch + rows + columns, y


def permuted(g, x, perm: list[int]):
    return x if perm == sorted(perm) else g.add("transpose", [x], perm=tuple(perm))


def reshaped(g, x, shape: list):
    return g.add(reshape, [x], **reshape_attrs(tuple(shape), x.spec))
