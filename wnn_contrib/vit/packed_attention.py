"""y = softmax(scale * q k^T + mask) v for every head; q, k and v are windows on rows of one tensor.

qkv: (B, T, N)    mask: broadcasts to (B, heads, T, T), added to the scores, may hold -inf
y: (B, T, heads * dim)
Head h of q lies at qkv[:, :, at[0] + h * step :][..., :dim], of k at at[1], of v at at[2]: (3,
heads, dim) is at=(0, heads * dim, 2 * heads * dim), step=dim; (heads, 3, dim) is at=(0, dim, 2 *
dim), step=3 * dim.
guarded: a query that sees nothing gives 0, not NaN.
Source: Vaswani et al. 2017 (arXiv:1706.03762); the packed projection as in Dosovitskiy et al. 2020
(arXiv:2010.11929).
"""

import struct

import numpy as np

from wnn.errors import ShapeError
from wnn.heads import WEIGHTS, guarded, only_feeds, packed_heads, scores_and_masks
from wnn.op import Op, Spec
from wnn.pattern import Decline, P, V
from wnn.rules import broadcast, may_be
from wnn.symbols import Sym
from wnn.windows import additive_mask, window

op = Op(
    "contrib.vit:packed_attention",
    inputs="qkv mask?",
    attrs={"heads": ..., "dim": ..., "scale": ..., "at": ..., "step": ..., "guarded": False},
    tol={"f32": (2e-5, 2e-6)},
)
op.nonfinite = lambda call: not call.attrs["guarded"]  # then 0 also where values are infinite


@op.rule
def rule(qkv, mask=None, *, heads, dim, scale, at, step, guarded):
    last = max(at) + (heads - 1) * step + dim
    if (
        qkv.rank != 3
        or (not isinstance(qkv.shape[2], Sym) and last > qkv.shape[2])
        or min(at) < 0
        or heads < 1
    ):
        raise ShapeError(
            f"[{op.name}] found qkv {qkv} with {heads} heads of {dim} at {at}, step {step}; "
            f"expected (B, T, N) with N >= {last}; correct the attributes"
        )
    B, T, _ = qkv.shape
    scores = (B, heads, T, T)
    if mask is not None and not may_be(broadcast(op.name, scores, mask.shape), scores):
        raise ShapeError(
            f"[{op.name}] found mask {mask}; expected one that broadcasts to {scores}; reshape it"
        )
    return Spec((B, T, heads * dim), qkv.dtype)


def parts(qkv, heads, dim, at, step):
    """q, k, v: (B, heads, T, dim)"""
    columns = np.arange(heads)[:, None] * step + np.arange(dim)
    return [np.moveaxis(qkv[:, :, a + columns], 1, 2) for a in at]


@op.reference
def reference(qkv, mask=None, *, heads, dim, scale, at, step, guarded):
    q, k, v = parts(qkv, heads, dim, at, step)
    s = scale * (q @ np.swapaxes(k, -1, -2)) + (0 if mask is None else mask)
    e = np.exp(s - s.max(-1, keepdims=True, initial=-np.inf))
    p = e / e.sum(-1, keepdims=True)
    y = (np.where(np.isnan(p), 0, p) if guarded else p) @ v
    return np.moveaxis(y, 1, 2).reshape(*qkv.shape[:2], heads * dim)


@op.batch
def batch(axes, ins, outs, attrs):
    if axes[0] != 0:
        return None
    mask = ins[1] if len(ins) > 1 else None
    along = mask is not None and mask.rank == 4 and mask.shape[0] != 1
    return [0] if (axes[1] == 0 if along else all(a is None for a in axes[1:])) else None


@op.kernel("f32", "packed_attention_f32", strides={"qkv": "last", "mask": "any", "y": "last"})
def pack(heads, dim, step, at, scale, guarded):
    return struct.pack("6qfi", heads, dim, step, *at, scale, guarded)


@op.flops
def flops(qkv, heads, dim):
    B, T, _ = qkv.shape
    return 4 * B * heads * T * T * dim


# -- the pattern -----------------------------------------------------------------------------------
@op.fuse(P.matmul(WEIGHTS, V("v")), name="contrib.vit: attention on one packed projection")
def attention(g, m):
    if m.root.attrs["post"] or m.v.spec.dtype != "f32" or m.weights.shape[-2:] != m.s.shape[-2:]:
        raise Decline(
            "the product has post-operations, is not float32, or its weights are reshaped"
        )
    scores, masks = scores_and_masks(g, m.s)
    q, k = scores.value.producer.inputs[:2]
    sources = [window(x).source for x in (q, k, m.v)]
    if sources[0] is not sources[2] and not only_feeds(g, sources, [scores.value.producer, m.root]):
        raise Decline("projections that are used elsewhere too are no part of a joined one")
    found = packed_heads(g, q, k, m.v)
    B, T = found.batch[0], found.rows[0]
    mask = additive_mask(g, masks, (B, found.heads, T, T), m.get("hidden"), m.get("seen"))
    attrs = {"scale": scores.scale * found.scale, "guarded": guarded(m), **found.attrs}
    y = g.add(op, [found.in_order(g), mask], **attrs)
    y = g.add("reshape", [y], to=(B, T, found.heads, found.dim))
    return g.add(
        "reshape", [g.add("transpose", [y], perm=(0, 2, 1, 3))], to=m.root.outputs[0].shape
    )


@op.cases
def cases(rng):
    def case(B, T, heads, dim, packed=True, mask=None):
        C = heads * dim
        at, step = ((0, C, 2 * C), dim) if packed else ((0, dim, 2 * dim), 3 * dim)
        return {
            "qkv": rng(B, T, 3 * C),
            "mask": mask,
            "heads": heads,
            "dim": dim,
            "scale": dim**-0.5,
            "at": at,
            "step": step,
        }

    yield case(2, 5, 2, 4)
    yield case(1, 49, 3, 32)
    yield case(2, 33, 1, 17, packed=False)
    yield case(1, 1, 1, 1)
    yield case(0, 7, 2, 8)
    yield case(2, 0, 2, 8)
    yield case(3, 26, 2, 16, mask=rng(3, 1, 1, 26))
    yield case(
        2,
        25,
        2,
        16,
        mask=np.where(np.arange(25) < 20, rng(1, 2, 25, 25), -np.inf).astype(np.float32),
    )
    yield case(1, 197, 3, 64)
    hidden = np.where(np.arange(9)[:, None] > 3, 0, -np.inf).astype(np.float32)
    yield case(1, 9, 2, 8, mask=hidden) | {"guarded": True}
