"""Narrow convolutions of one input, as a detector's heads have, are computed as one: a vector of
channels is then full, and the input is read once.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from .graph import Graph, Node, Value

if TYPE_CHECKING:
    from .passes import Context

PANEL = 16  # channels that a product computes at least
CONV = ("groups", "strassen")  # attributes that conv_depthwise does not have


def siblings(g: Graph, ctx: Context) -> bool:
    """Convolutions of one input that differ in their weights only become one, where that saves
    whole vectors of channels; then depthwise ones of adjoining channels.
    """
    changed = False
    families: dict[tuple, list[Node]] = {}
    for node in sorted(g.nodes, key=lambda n: n.rank):
        if node.op.name != "conv" or node.attrs["groups"] != 1 or not _alone(node):
            continue
        if _channels(node.outputs[0]) % PANEL:
            families.setdefault((id(node.inputs[0]), repr(node.attrs)), []).append(node)
    for nodes in families.values():
        widths = [_channels(n.outputs[0]) for n in nodes]
        if sum(-(-n // PANEL) for n in widths) > -(-sum(widths) // PANEL):
            weights = [n.inputs[1].array for n in nodes]
            _join(g, nodes, nodes[0].op.name, nodes[0].inputs[0], weights, nodes[0].attrs)
            changed = True
    for node in list(g.nodes):
        if node.op.name == "conv":
            changed |= _join_depthwise(g, node.outputs[0])
    return changed


def _alone(node: Node) -> bool:
    """Whether a node has constant weights, and post-operations that read nothing."""
    x, w, bias, *extras = (*node.inputs, None)[: max(3, len(node.inputs))]
    known = x.spec is not None and x.const is None and node.outputs[0].spec is not None
    plain = w.const is not None and w.spec.dtype == "f32" and not any(extras)
    return known and plain and (bias is None or bias.const is not None)


def _channels(v: Value) -> int:
    return v.spec.shape[-1]


def _join(g: Graph, nodes: list[Node], op: str, x: Value, weights: list, attrs: dict) -> None:
    """One node on x for several, whose outputs become windows on its output."""
    outs = [n.outputs[0] for n in nodes]
    biases = [n.inputs[2] if len(n.inputs) > 2 else None for n in nodes]
    bias = [b.array if b else np.zeros(_channels(v), np.float32) for v, b in zip(outs, biases)]
    g.stand_in_for(min(nodes, key=lambda n: n.rank))
    inputs = [x, g.const(np.concatenate(weights, -1)), g.const(np.concatenate(bias))]
    y = g.add(op, inputs, **attrs)
    at = 0
    for node, old in zip(nodes, outs):
        window = ((y.spec.rank - 1, at, at := at + _channels(old), 1),)
        g.replace(old, g.add("slice", [y], window=window))
        g.discard(node)


def _join_depthwise(g: Graph, v: Value) -> bool:
    """The same for depthwise convolutions of windows on adjoining channels of v."""
    found = []
    for cut in dict.fromkeys(v.users):
        window = cut.attrs["window"] if cut.op.name == "slice" else None
        if not window or len(window) > 1 or len(cut.outputs[0].users) != 1:
            continue
        (axis, start, end, step), node = window[0], cut.outputs[0].users[0]
        if (axis, step) != (v.spec.rank - 1, 1) or not 0 <= start < end <= _channels(v):
            continue
        name, on_it = node.op.name, node.inputs[0] is cut.outputs[0]
        one = name == "conv" and end - start == _channels(node.outputs[0]) == 1
        if on_it and (one or name == "conv_depthwise") and _alone(node):
            found.append((start, end, node))
    found.sort(key=lambda f: f[0])
    nodes = [node for *_, node in found]
    attrs = [{k: a for k, a in n.attrs.items() if k not in CONV} for n in nodes]
    adjoining = all(a[1] == b[0] for a, b in itertools.pairwise(found))
    if len(nodes) < 2 or not adjoining or any(a != attrs[0] for a in attrs):
        return False
    weights = [n.inputs[1].array.reshape(-1, b - a) for a, b, n in found]
    g.stand_in_for(min(nodes, key=lambda n: n.rank))
    x, start, end = v, found[0][0], found[-1][1]
    if end - start < _channels(v):
        x = g.add("slice", [v], window=((v.spec.rank - 1, start, end, 1),))
    _join(g, nodes, "conv_depthwise", x, weights, attrs[0])
    return True
