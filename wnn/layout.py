"""Channels-last: transposes move down through operators by their transpose rules, and cancel where
they meet.
"""

from __future__ import annotations

import numpy as np

from .graph import Graph, Node, Value
from .op import NeedValue
from .rules import inverse, reshape_attrs, transpose_elementwise
from .symbols import product


def simpler_transpose(g: Graph, node: Node) -> Value | None:
    """A transpose of a transpose as one, as its input where it moves nothing, as a Reshape where it
    moves axes of length 1 only.
    """
    x, perm = node.inputs[0], node.attrs["perm"]
    if perm == tuple(range(len(perm))):
        return x if not (g.is_output(node.outputs[0]) and any(x is v for v in g.inputs)) else None
    if x.producer is not None and x.producer.op.name == "transpose":
        inner = x.producer.attrs["perm"]
        return g.add("transpose", [x.producer.inputs[0]], perm=tuple(inner[p] for p in perm))
    if x.spec is not None and _is_free(x.spec.shape, perm):
        return _reshaped(g, x, tuple(x.spec.shape[p] for p in perm))
    return None


def _is_free(shape: tuple, perm: tuple[int, ...]) -> bool:
    moved = [p for p in perm if shape[p] != 1]
    return moved == sorted(moved)


def sink(g: Graph) -> bool:
    """Pushes transposes towards the outputs as long as that adds none elsewhere that costs more
    than it saves.
    """
    changed, again = False, True
    while again:
        again = False
        for node in list(g.nodes):
            if not any(v.users or g.is_output(v) for v in node.outputs):
                continue
            if node.op.name == "transpose":
                new = simpler_transpose(g, node)
                if new is not None:
                    g.replace(node.outputs[0], new)
                    g.discard(node)
                    again = changed = True
                continue
            if node.op._transpose is None or any(
                v is not None and v.spec is None for v in (*node.inputs, *node.outputs)
            ):
                continue
            for i, v in enumerate(node.inputs):
                if _perm_of(v) and _push(g, node, i):
                    again = changed = True
                    break
        if again:
            g.prune()
    return changed


def _perm_of(v: Value | None) -> tuple[int, ...] | None:
    if v is None or v.producer is None or v.producer.op.name != "transpose":
        return None
    return v.producer.attrs["perm"]


def _push(g: Graph, node: Node, i: int) -> bool:
    """Rewrites op(..., transpose(x), ...) to transpose(op'(..., x, ...)) where that is no loss."""
    perm = _perm_of(node.inputs[i])
    g.stand_in_for(node)
    inputs = list(node.inputs)
    if node.op._transpose is transpose_elementwise:
        inputs = [_full_rank(g, v, len(perm)) for v in inputs]
    specs = [None if v is None else v.spec for v in inputs]
    try:
        answer = node.op._transpose(perm, i, specs, node.attrs)
    except NeedValue:
        return False
    if answer is None:
        return False
    part = tuple(answer.inputs[i]) != perm
    better_before = part or node.op.any_layout and _grows(node)
    if better_before and not _meets(node.outputs[0], answer.outputs[0]):
        return False
    saved = cost = 0.0
    for v, p in zip(inputs, answer.inputs):
        if p is None or v is None or part:
            continue
        if _undoes(v, tuple(p)):
            saved += _cost(v)
        elif v.const is None and not _is_free(v.spec.shape, inverse(p)):
            cost += _cost(v)
    if cost and cost >= saved:
        return False
    taken = [
        v if p is None or v is None else _unpermuted(g, v, tuple(p))
        for v, p in zip(inputs, answer.inputs)
    ]
    taken += inputs[len(answer.inputs) :]
    results = g.add(node.op, taken, len(node.outputs), **answer.attrs)
    results = results if isinstance(results, tuple) else (results,)
    for old, new, p in zip(list(node.outputs), results, answer.outputs):
        g.replace(old, new if p is None else g.add("transpose", [new], perm=tuple(p)))
    g.discard(node)
    return True


def _grows(node: Node) -> bool:
    """Whether more is to be moved behind the node than before it."""
    read = sum(_cost(v) for v in node.inputs if v is not None and v.const is None)
    return sum(_cost(v) for v in node.outputs) > read


def _undoes(v: Value, perm: tuple[int, ...]) -> bool:
    """Whether v is a transpose by perm, axes of length 1 aside."""
    own = _perm_of(v)
    if own is None:
        return False
    return own == perm or _is_free(
        v.producer.inputs[0].spec.shape, tuple(own[b] for b in inverse(perm))
    )


def _meets(v: Value, perm: tuple[int, ...] | None, depth: int = 8) -> bool:
    """Whether a transpose by perm, put behind v, would sink into one that undoes it."""
    if perm is None or not depth:
        return False
    back = inverse(perm)
    for user in v.users:
        if user.op.name == "transpose":
            if user.attrs["perm"] == back:
                return True
        elif (
            user.op._transpose is not None
            and user.outputs[0].spec is not None
            and user.outputs[0].spec.rank == len(perm)
        ) and any(_meets(o, perm, depth - 1) for o in user.outputs):
            return True
    return False


def _cost(v: Value) -> float:
    n = 1.0
    for d in v.spec.shape:
        n *= d if isinstance(d, int) else 64.0
    return n


def _full_rank(g: Graph, v: Value | None, rank: int) -> Value | None:
    """v with leading axes of length 1 up to the rank; numbers stay as they are."""
    if v is None or v.spec.rank in (0, rank) or v.spec.rank > rank:
        return v
    shape = (1,) * (rank - v.spec.rank) + tuple(v.spec.shape)
    if v.const is not None:
        return g.const(v.array.reshape(shape), dtype=v.spec.dtype)
    return _reshaped(g, v, shape)


def _reshaped(g: Graph, v: Value, shape: tuple) -> Value:
    return g.add("reshape", [v], **reshape_attrs(shape, v.spec))


def _unpermuted(g: Graph, v: Value, perm: tuple[int, ...]) -> Value:
    """The value that transposed by perm gives v."""
    if v.spec.rank == 0:
        return v
    if _perm_of(v) == perm:
        return v.producer.inputs[0]
    back = inverse(perm)
    if v.const is not None:
        return g.const(np.ascontiguousarray(np.transpose(v.array, back)), dtype=v.spec.dtype)
    return g.add("transpose", [v], perm=back)


def split_before_merge(g: Graph) -> bool:
    """Splits the outer of two merged axes instead of the merged one, so that a shuffle moves only
    what each part needs: split(reshape(x)) becomes reshape(split(x)).
    """
    changed = False
    for node in list(g.nodes):
        merge = node.inputs[0].producer if node.op.name == "split" and node.inputs else None
        if merge is None or merge.op.name != "reshape" or len(merge.outputs[0].users) != 1:
            continue
        found = _outer_axis(merge, node)
        if found is None or g.is_output(merge.outputs[0]):
            continue
        axis, sizes = found
        g.stand_in_for(node)
        parts = g.add("split", [merge.inputs[0]], len(sizes), axis=axis, sizes=sizes)
        for old, part in zip(list(node.outputs), parts):
            g.replace(old, _reshaped(g, part, tuple(old.shape)))
        g.discard(node)
        changed = True
    return changed


def _outer_axis(merge: Node, split: Node) -> tuple[int, tuple[int, ...]] | None:
    """(axis, sizes) by which merge's input can be split instead, or None."""
    x, y = merge.inputs[0], merge.outputs[0]
    if x.spec is None or any(v.spec is None for v in split.outputs) or len(split.outputs) < 2:
        return None
    a = split.attrs["axis"] % y.spec.rank
    sizes = [v.shape[a] for v in split.outputs]
    for j in reversed(range(x.spec.rank)):
        inner = product(x.shape[j + 1 :])
        rest = product(y.shape[a + 1 :])
        if (
            product(x.shape[:j]) != product(y.shape[:a])
            or x.shape[j] == 1
            or x.shape[j] == y.shape[a]
        ):
            continue
        if not (isinstance(inner, int) and isinstance(rest, int) and rest and inner % rest == 0):
            return None
        inner //= rest
        if inner > 1 and all(isinstance(s, int) and s % inner == 0 for s in sizes):
            return j, tuple(s // inner for s in sizes)
    return None
