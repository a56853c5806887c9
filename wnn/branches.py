"""Sums of convolutions of one input become one convolution, as RepVGG and its descendants
(MobileOne, FastViT, RepGhost) are meant to run once trained.

Source: Ding et al. 2021 (arXiv:2101.03697), section 3.3; here for any kernels on one grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .epilogues import scales_into_weights
from .graph import Graph, Node, Value

if TYPE_CHECKING:
    from .passes import Context


class Branch(NamedTuple):
    """weights * x + bias, in float64. node: the convolution, with weights (groups, *kernel,
    channels, outputs) of each group; None where it is x by a factor (C,).
    """

    x: Value
    node: Node | None
    weights: np.ndarray
    bias: np.ndarray

    def times(self, sign: int) -> Branch:
        return self._replace(weights=self.weights * sign, bias=self.bias * sign)


def branches(g: Graph, ctx: Context) -> bool:
    """Sums and differences of convolutions of one x, and of x by a factor per channel, become one
    convolution where the kernel of one covers the others; what scales it follows.
    """
    changed, again = False, True
    while again:
        again = sum(_merge(g, n) for n in list(g.nodes) if n.op.name in ("add", "sub")) > 0
        if again:
            g.prune()
            scales_into_weights(g, ctx)
            g.prune()
        changed |= again
    return changed


def _merge(g: Graph, node: Node) -> bool:
    """Whether a sum became a convolution."""
    if len(node.inputs) != 2 or node.inputs[0] is node.inputs[1]:
        return False
    out = node.outputs[0]
    if any(v.spec is None for v in (out, *node.inputs)):
        return False
    if any(v.spec.shape != out.spec.shape for v in node.inputs):
        return False
    found = [_convolution(g, v) for v in node.inputs]
    known = found[0] or found[1]
    if known is None or any(n and n.inputs[0] is not known.inputs[0] for n in found):
        return False
    pair = [None if n else _multiple(g, v, known) for n, v in zip(found, node.inputs, strict=True)]
    if any(n is None and b is None for n, b in zip(found, pair, strict=True)):
        return False
    pair = [b or _branch(n) for n, b in zip(found, pair, strict=True)]
    if node.op.name == "sub":
        pair[1] = pair[1].times(-1)
    part, whole = sorted(pair, key=lambda b: b.weights.size if b.node else 0)
    place = _place(whole.node.attrs, part)
    if place is None or not _alike(whole, part):
        return False
    old, weights = whole.node, whole.weights.copy()
    weights[:, *place] += part.weights
    if old.op.name == "conv_depthwise":
        weights = weights.reshape(len(weights), -1).T
    g.stand_in_for(old)
    w = g.const(weights.reshape(old.inputs[1].spec.shape).astype(np.float32, order="C"))
    bias = g.const((whole.bias + part.bias).astype(np.float32))
    g.replace(out, g.add(old.op, [whole.x, w, bias], **old.attrs))
    g.discard(node)
    return True


def _private(g: Graph, v: Value) -> bool:
    return len(v.users) == 1 and not g.is_output(v) and v.spec is not None and v.spec.dtype == "f32"


def _convolution(g: Graph, v: Value) -> Node | None:
    """The convolution by constant weights that makes v, which nothing else uses; or None."""
    node = v.producer
    if node is None or node.op.name not in ("conv", "conv_depthwise") or not _private(g, v):
        return None
    _, w, bias = (*node.inputs, None)[:3]
    if node.attrs["post"] or node.attrs["auto_pad"] or w.const is None or w.spec.dtype != "f32":
        return None
    return node if bias is None or bias.const is not None else None


def _branch(node: Node) -> Branch:
    x, w, bias = (*node.inputs, None)[:3]
    n, kernel = node.outputs[0].spec.shape[-1], node.attrs["kernel"]
    weights = w.array.astype(np.float64)
    if node.op.name == "conv":
        groups, _, outputs = w.spec.shape
        weights = weights.reshape(groups, *kernel, -1, outputs)
    else:
        weights = weights.T.reshape(n, *kernel, 1, 1)
    return Branch(x, node, weights, np.zeros(n) if bias is None else bias.array.astype(np.float64))


def _multiple(g: Graph, v: Value, beside: Node) -> Branch | None:
    """v as the input of a convolution by a factor per channel, and a constant more; or None. The
    input itself is a post-operation of products; only depthwise convolutions gain by it.
    """
    x, n = beside.inputs[0], beside.outputs[0].spec.shape[-1]
    if x.spec.shape[-1] != n or (v is x and beside.op.name == "conv"):
        return None
    factor, bias = np.ones(n), np.zeros(n)
    while v is not x:
        node = v.producer
        if node is None or node.op.name not in ("mul", "add") or not _private(g, v):
            return None
        constants = [i for i, u in enumerate(node.inputs) if u.const is not None]
        if len(constants) != 1 or node.inputs[constants[0]].spec.size not in (1, n):
            return None
        c = node.inputs[constants[0]]
        if c.spec.size > 1 and c.spec.shape[-1] != n:
            return None
        c = c.array.astype(np.float64).reshape(-1)
        if node.op.name == "mul":
            factor = factor * c
        else:
            bias = bias + factor * c
        v = node.inputs[1 - constants[0]]
    groups = n if beside.op.name == "conv_depthwise" else beside.attrs["groups"]
    each = n // groups
    weights = np.zeros((groups, *(1,) * len(beside.attrs["kernel"]), each, each))
    weights[..., range(each), range(each)] = factor.reshape(groups, *weights.shape[1:-2], each)
    return Branch(x, None, weights, bias)


def _alike(a: Branch, b: Branch) -> bool:
    """Whether two branches have groups, channels and strides in common."""
    strides = (1,) * len(a.node.attrs["kernel"]) if b.node is None else b.node.attrs["strides"]
    ends = [(*w.shape[:1], *w.shape[-2:]) for w in (a.weights, b.weights)]
    same_op = b.node is None or a.node.op is b.node.op
    return same_op and ends[0] == ends[1] and a.node.attrs["strides"] == strides


def _place(whole: dict, part: Branch) -> tuple[slice, ...] | None:
    """Which taps of a kernel are those of the part, along each axis; None where some are not."""
    n = len(whole["kernel"])
    point = {"kernel": (1,) * n, "pads": (0,) * n, "dilations": (1,) * n}
    own = part.node.attrs if part.node else point
    place = []
    for axis in range(n):
        length, size = whole["kernel"][axis], own["kernel"][axis]
        unit = whole["dilations"][axis]
        first, rest = divmod(whole["pads"][axis] - own["pads"][axis], unit)
        step, uneven = divmod(own["dilations"][axis], unit) if size > 1 else (1, 0)
        last = first + (size - 1) * step
        if rest or uneven or first < 0 or last >= length:
            return None
        place.append(slice(first, last + 1, step))
    return tuple(place)
