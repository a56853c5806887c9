"""What follows a product or convolution goes into it: scales into weights, the rest as epilogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .graph import Graph, Node, Value
from .post import MAX_POSTS

if TYPE_CHECKING:
    from .passes import Context


# -- scales into weights
def scales_into_weights(g: Graph, ctx: Context) -> bool:
    """A constant factor or summand per output channel (BatchNorm, a scale) goes into the weights
    and bias before it.
    """
    changed = False
    for node in list(g.nodes):
        while node is not None and node.op.posts and "w" in node.op.index:
            node, before = _scaled(g, node), node
            changed |= node is not None and node is not before
    return changed


def _scaled(g: Graph, node: Node) -> Node | None:
    """node with its only user, a product or sum with a constant per channel, in its weights; or
    None.
    """
    out = node.outputs[0]
    w = node.inputs[node.op.index["w"]]
    i = node.op.index["bias"]
    bias = node.inputs[i] if i < len(node.inputs) else None
    if (
        node.attrs["post"]
        or w.const is None
        or w.spec.dtype != "f32"
        or (bias is not None and bias.const is None)
        or out.spec is None
    ):
        return None
    if (
        len(out.users) != 1
        or g.is_output(out)
        or out.spec.dtype != "f32"
        or out.users[0].op.name not in ("add", "sub", "mul", "div")
    ):
        return None
    user = out.users[0]
    first = user.inputs[0] is out
    other = user.inputs[1 if first else 0]
    n = out.spec.shape[-1]
    if (
        other.const is None
        or user.outputs[0].spec.shape != out.spec.shape
        or other.spec.size not in (1, n)
    ):
        return None
    if (
        other.spec.size == n != 1
        and other.spec.shape[-1] != n
        or (user.op.name in ("sub", "div") and not first)
    ):
        return None
    c = np.broadcast_to(other.array.astype(np.float64).reshape(-1), (n,))
    old = bias.array.astype(np.float64) if bias is not None else np.zeros(n)
    weights, summed = w, old
    if user.op.name in ("add", "sub"):
        summed = old + (c if user.op.name == "add" else -c)
    else:
        c = c if user.op.name == "mul" else 1 / c
        groups = w.spec.shape[0] if w.spec.rank == 3 else 1
        scale = c.reshape(groups, 1, -1) if w.spec.rank == 3 else c
        weights = g.const((w.array.astype(np.float64) * scale).astype(np.float32))
        summed = old * c
    g.stand_in_for(node)
    inputs = [
        node.inputs[0],
        weights,
        g.const(summed.astype(np.float32)) if bias is not None or summed.any() else None,
    ]
    new = g.add(node.op, inputs, **node.attrs)
    g.replace(user.outputs[0], new)
    return new.producer


# -- epilogues
def epilogues(g: Graph, ctx: Context) -> bool:
    """Bias, activation and residual become post-operations of the GEMM or convolution before
    them.
    """
    changed = False
    rank = {id(n): i for i, n in enumerate(g.nodes)}
    for node in list(g.nodes):
        while node.op.posts and len(node.attrs["post"]) < MAX_POSTS:
            new = _absorb(g, node, rank)
            if new is None:
                break
            rank[id(new)] = rank[id(node)]
            node, changed = new, True
    return changed


def _absorb(g: Graph, node: Node, rank: dict[int, int]) -> Node | None:
    """node with its only user as a post-operation, or None."""
    out = node.outputs[0]
    if len(out.users) != 1 or g.is_output(out) or out.spec is None or out.spec.dtype != "f32":
        return None
    user = out.users[0]
    post, extra = None, None
    if (
        len(user.outputs) == 1
        and user.outputs[0].spec is not None
        and user.outputs[0].spec.shape == out.spec.shape
    ):
        if (
            user.op.as_post is not None
            and user.inputs[0] is out
            and all(v is None or v.const is not None for v in user.inputs[1:])
        ):
            post = user.op.as_post(user.attrs)
        elif user.op.name in ("add", "mul", "sub", "div") and len(user.inputs) == 2:
            post, extra = _binary_post(g, node, user, out, rank)
    if post is None:
        return None
    kind, a, b = post
    before = node.attrs["post"]
    if kind == "scale" and before and before[-1][0] == "scale":  # one for both
        a, b = before[-1][1] * a, before[-1][2] * a + b
        before = before[:-1]
    inputs = list(node.inputs)
    index = -1
    if extra is not None:
        inputs += [None] * (len(node.op.inputs) - (node.op.variadic is not None) - len(inputs))
        index = len(inputs)
        inputs.append(extra)
    g.stand_in_for(node)
    new = g.add(
        node.op,
        inputs,
        **{**node.attrs, "post": (*before, (kind, float(a), float(b), index))},
    )
    g.replace(user.outputs[0], new)
    g.discard(user)
    return new.producer


def _binary_post(g: Graph, node: Node, user: Node, out: Value, rank: dict[int, int]):
    first = user.inputs[0] is out
    other = user.inputs[1] if first else user.inputs[0]
    name = user.op.name
    if (
        other is out
        or other is None
        or other.spec is None
        or (name in ("sub", "div") and not first)
    ):
        return None, None
    if other.const is not None:
        c = other.array
        if name == "sub":
            c = -c
        if name == "div":
            c = (1.0 / c.astype(np.float64)).astype(np.float32)
        if c.size == 1:
            x = float(c.reshape(-1)[0])
            return (("scale", 1.0, x) if name in ("add", "sub") else ("scale", x, 0.0)), None
        if c.size == c.shape[-1] == out.spec.shape[-1]:
            return ("bias" if name in ("add", "sub") else "channel_mul", 0.0, 0.0), g.const(
                np.ascontiguousarray(c.reshape(-1), np.float32)
            )
        return None, None
    if (
        name in ("sub", "div")
        or other.spec.shape != out.spec.shape
        or other.spec.dtype != "f32"
        or _depends(other, node, rank)
        or _absorbs_later(g, other, node, rank)
    ):
        return None, None
    return (name, 0.0, 0.0), other


def _absorbs_later(g: Graph, v: Value, node: Node, rank: dict[int, int]) -> bool:
    """Whether v comes from a later product or convolution that can do its user's work itself: of a
    sum of many, each then adds to what is near, and none of them waits for the others.
    """
    p = v.producer
    return (
        p is not None
        and rank.get(id(p), 0) > rank[id(node)]
        and bool(p.op.posts)
        and len(p.attrs["post"]) < MAX_POSTS
        and len(v.users) == 1
        and not g.is_output(v)
    )


def _depends(v: Value, node: Node, rank: dict[int, int]) -> bool:
    """Whether v is computed from node's output."""
    low = rank.get(id(node), 0)
    todo, seen = [v], set()
    while todo:
        p = todo.pop().producer
        if p is None or id(p) in seen:
            continue
        if p is node:
            return True
        seen.add(id(p))
        if rank.get(id(p), 1 << 60) >= low:
            todo += [x for x in p.inputs if x is not None]
    return False
