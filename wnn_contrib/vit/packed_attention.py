"""y = softmax(scale * q k^T + mask) v for every head, where q, k and v are windows on the rows of one tensor.

qkv: (B, T, N)    mask: broadcasts to (B, heads, T, T), added to the scores, may hold -inf    y: (B, T, heads * dim)
Head h of q lies at qkv[:, :, at[0] + h * step :][..., :dim], of k at at[1], of v at at[2]: (3, heads, dim) is
at=(0, heads * dim, 2 * heads * dim), step=dim; (heads, 3, dim) is at=(0, dim, 2 * dim), step=3 * dim.
Source: Vaswani et al. 2017 (arXiv:1706.03762); the packed projection as in Dosovitskiy et al. 2020 (arXiv:2010.11929).
"""

import struct

import numpy as np

from wnn.errors import ShapeError
from wnn.op import Op, Spec
from wnn.pattern import Decline, OneOf, P, V
from wnn.rules import broadcast
from wnn.symbols import Sym, product
from wnn.windows import additive_mask, terms, window

op = Op(
    "contrib.vit:packed_attention",
    inputs="qkv mask?",
    attrs={"heads": ..., "dim": ..., "scale": ..., "at": ..., "step": ...},
    tol={"f32": (2e-5, 2e-6)},
)


@op.rule
def rule(qkv, mask=None, *, heads, dim, scale, at, step):
    last = max(at) + (heads - 1) * step + dim
    if qkv.rank != 3 or (not isinstance(qkv.shape[2], Sym) and last > qkv.shape[2]) or min(at) < 0 or heads < 1:
        raise ShapeError(
            f"[{op.name}] found qkv {qkv} with {heads} heads of {dim} at {at}, step {step}; "
            f"expected (B, T, N) with N >= {last}; correct the attributes"
        )
    B, T, _ = qkv.shape
    if mask is not None and broadcast(op.name, (B, heads, T, T), mask.shape) != (B, heads, T, T):
        raise ShapeError(f"[{op.name}] found mask {mask}; expected one that broadcasts to ({B}, {heads}, {T}, {T}); reshape it")
    return Spec((B, T, heads * dim), qkv.dtype)


def parts(qkv, heads, dim, at, step):
    """q, k, v: (B, heads, T, dim)"""
    columns = np.arange(heads)[:, None] * step + np.arange(dim)
    return [np.moveaxis(qkv[:, :, a + columns], 1, 2) for a in at]


@op.reference
def reference(qkv, mask=None, *, heads, dim, scale, at, step):
    q, k, v = parts(qkv, heads, dim, at, step)
    s = scale * (q @ np.swapaxes(k, -1, -2)) + (0 if mask is None else mask)
    e = np.exp(s - s.max(-1, keepdims=True, initial=-np.inf))
    y = (e / e.sum(-1, keepdims=True)) @ v
    return np.moveaxis(y, 1, 2).reshape(*qkv.shape[:2], heads * dim)


@op.batch
def batch(axes, ins, outs, attrs):
    if axes[0] != 0:
        return None
    mask = ins[1] if len(ins) > 1 else None
    along = mask is not None and mask.rank == 4 and mask.shape[0] != 1
    return [0] if (axes[1] == 0 if along else all(a is None for a in axes[1:])) else None


@op.kernel("f32", "packed_attention_f32", strides={"qkv": "last", "mask": "any", "y": "last"})
def pack(heads, dim, step, at, scale):
    return struct.pack("6qf", heads, dim, step, *at, scale)


@op.flops
def flops(qkv, heads, dim):
    B, T, _ = qkv.shape
    return 4 * B * heads * T * T * dim


# -- the pattern -------------------------------------------------------------------------------------------------------
def heads_of(w, what):
    """(offset in a row, heads, step, rows, batch) of a window with axes (..., T, D); `rows` and `batch` are (length, stride in rows)."""
    *lead, rows, columns = w.axes
    N = w.source.shape[-1]
    if isinstance(N, Sym) or isinstance(w.offset, Sym) or len(rows) > 1 or len(columns) > 1 or any(s != 1 for _, s in columns):
        raise Decline(f"{what} is no window on rows of one tensor")
    lead = [f for axis in lead for f in axis]
    heads = (1, N)
    if lead and not isinstance(lead[-1][1], Sym) and lead[-1][1] < N and not isinstance(lead[-1][0], Sym):
        heads = lead.pop()
    batch = (1, 0)
    for n, s in lead:
        batch = (n, s) if batch[0] == 1 else (batch[0] * n, s) if batch[1] == n * s else (0, 0)
    rows = rows[0] if rows else (1, 0)
    if batch[0] == 0 or w.offset >= N or batch[1] // N * N != batch[1] or rows[1] // N * N != rows[1]:
        raise Decline(f"{what} is no window on rows of one tensor")
    return w.offset, *heads, (rows[0], rows[1] // N), (batch[0], batch[1] // N)


def rows_of(g, source, rows, batch):
    """source as (B, T, N), whichever of batch and time comes first in it."""
    N = source.shape[-1]
    (T, t), (B, b) = rows, batch
    if product(source.shape) != B * T * N:
        raise Decline("the heads do not cover all rows of the tensor they lie in")
    if (T == 1 or t == 1) and (B == 1 or b == T):
        return g.add("reshape", [source], to=(B, T, N))
    if (B == 1 or b == 1) and (T == 1 or t == B):
        return g.add("transpose", [g.add("reshape", [source], to=(T, B, N))], perm=(1, 0, 2))
    raise Decline("batch and time do not lie in the order of rows")


def joined(g, sources):
    """One linear in place of three on the same rows, its weights side by side, and where each one's columns start."""
    if sources[0] is sources[1] is sources[2]:
        return sources[0], (0, 0, 0)
    nodes = [v.producer for v in sources]
    if any(n is None or n.op.name != "linear" or n.attrs["post"] or n.inputs[1].const is None for n in nodes):
        raise Decline("q, k and v come neither from one tensor nor from three projections")
    x = nodes[0].inputs[0]
    if any(n.inputs[0] is not x for n in nodes) or any(len(v.users) > 1 or g.is_output(v) for v in sources):
        raise Decline("q, k and v are projections of different tensors, or used elsewhere too")
    weights = [n.inputs[1].array for n in nodes]
    biases = [n.inputs[2].array if len(n.inputs) > 2 else np.zeros(w.shape[1], w.dtype) for n, w in zip(nodes, weights, strict=True)]
    y = g.add("linear", [x, g.const(np.concatenate(weights, 1)), g.const(np.concatenate(biases))])
    return y, (0, weights[0].shape[1], weights[0].shape[1] + weights[1].shape[1])


def scores_and_masks(g, s):
    """The term q k^T of the softmax's argument, and the others."""
    products, masks = [], []
    for t in terms(s):
        node = t.value.producer
        (products if node is not None and node.op.name == "matmul" and not t.masked else masks).append(t)
    if len(products) != 1:
        raise Decline(f"the scores hold {len(products)} matrix products that nothing else uses")
    if products[0].value.producer.attrs["post"] or len(products[0].value.users) > 1 or g.is_output(products[0].value):
        raise Decline("the scores are used elsewhere too")
    return products[0], masks


weights = P.softmax(V("s"), axis=-1)


@op.fuse(P.matmul(OneOf(weights, P.reshape(weights)).named("p"), V("v")), name="contrib.vit: attention on one packed projection")
def attention(g, m):
    if m.root.attrs["post"] or m.v.spec.dtype != "f32" or m.p.shape[-2:] != m.s.shape[-2:]:
        raise Decline("the product has post-operations, is not float32, or its weights are reshaped")
    scores, masks = scores_and_masks(g, m.s)
    q, k, v = (window(x) for x in (*scores.value.producer.inputs[:2], m.v))
    k.axes[-2:] = k.axes[:-3:-1]
    found = [heads_of(w, what) for w, what in ((q, "q"), (k, "k"), (v, "v"))]
    if len({f[1:] for f in found}) > 1 or len({tuple(map(tuple, w.axes[-1])) for w in (q, k, v)}) > 1:
        raise Decline("q, k and v differ in heads, rows or dimensions")
    if v.scale != 1.0:
        raise Decline("v is scaled")
    source, starts = joined(g, [q.source, k.source, v.source])
    at = tuple(f[0] + start for f, start in zip(found, starts, strict=True))
    _, heads, step, rows, batch = found[0]
    dim = q.axes[-1][0][0] if q.axes[-1] else 1
    qkv = rows_of(g, source, rows, batch)
    shape = (batch[0], heads, rows[0], rows[0])
    scale = scores.scale * q.scale * k.scale
    y = g.add(op, [qkv, additive_mask(g, masks, shape)], heads=heads, dim=dim, step=step, at=at, scale=scale)
    y = g.add("reshape", [y], to=(batch[0], rows[0], heads, dim))
    return g.add("reshape", [g.add("transpose", [y], perm=(0, 2, 1, 3))], to=m.root.outputs[0].shape)


@op.cases
def cases(rng):
    def case(B, T, heads, dim, packed=True, mask=None):
        C = heads * dim
        at, step = ((0, C, 2 * C), dim) if packed else ((0, dim, 2 * dim), 3 * dim)
        return {"qkv": rng(B, T, 3 * C), "mask": mask, "heads": heads, "dim": dim, "scale": dim**-0.5, "at": at, "step": step}

    yield case(2, 5, 2, 4)
    yield case(1, 49, 3, 32)
    yield case(2, 33, 1, 17, packed=False)
    yield case(1, 1, 1, 1)
    yield case(0, 7, 2, 8)
    yield case(2, 0, 2, 8)
    yield case(3, 26, 2, 16, mask=rng(3, 1, 1, 26))
    yield case(2, 25, 2, 16, mask=np.where(np.arange(25) < 20, rng(1, 2, 25, 25), -np.inf).astype(np.float32))
    yield case(1, 197, 3, 64)
