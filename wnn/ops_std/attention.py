"""y = softmax(scale * q k^T + mask) v for every head.

q: (B, Tq, H, D)    k: (B, Tk, G, D)    v: (B, Tk, G, Dv)    y: (B, Tq, H, Dv)
mask: broadcasts to (B, H, Tq, Tk), is added to the scores and may hold -inf.
causal: key j is visible to query i when j <= i + Tk - Tq.
H is a multiple of G: head h of q sees head h * G // H of k and v.
A query that sees no key, and one with a NaN among its scores, gives NaN, as softmax does. Both give
0 where `guarded` is 1, the former alone where it is 2. Without keys (Tk = 0) y is 0, as the product
with no rows of v is.
Source: Vaswani et al. 2017 (arXiv:1706.03762); Ainslie et al. 2023 (arXiv:2305.13245) for groups.
"""

import struct

import numpy as np

from ..errors import ShapeError
from ..heads import WEIGHTS, guarded, scores_and_masks
from ..op import Op, Spec
from ..pattern import Decline, P, V
from ..rules import broadcast, may_be
from ..symbols import Sym, product
from ..windows import additive_mask, peeled
from .where import always

op = Op(
    "attention",
    inputs="q k v mask?",
    attrs={"scale": ..., "causal": False, "guarded": 0},
    tol={"f32": (2e-5, 2e-6)},
)
op.fused_in = "core attention"


@op.rule
def rule(q, k, v, mask=None, *, scale, causal, guarded):
    fits = q.rank == k.rank == v.rank == 4
    if fits:
        (B, Tq, H, D), (_, Tk, G, _), Dv = q.shape, k.shape, v.shape[3]
        fits = may_be(k.shape, (B, Tk, G, D)) and may_be(v.shape, (B, Tk, G, Dv))
        fits = fits and (
            isinstance(H, Sym) or isinstance(G, Sym) or (G > 0 and H % G == 0) or H == G
        )
    if not fits:
        raise ShapeError(
            f"[attention] found q {q}, k {k}, v {v}; expected (B, Tq, H, D), (B, Tk, G, D) and "
            "(B, Tk, G, Dv), H a multiple of G; transpose or reshape them"
        )
    scores = (B, H, Tq, Tk)
    if mask is not None and (
        mask.rank > 4 or not may_be(broadcast("attention", scores, mask.shape), scores)
    ):
        raise ShapeError(
            f"[attention] found mask {mask}; expected one that broadcasts to {scores}; reshape it"
        )
    return Spec((B, Tq, H, Dv), q.dtype)


@op.reference
def reference(q, k, v, mask=None, *, scale, causal, guarded):
    q, k, v = (np.moveaxis(x, 2, 1) for x in (q, k, v))
    group = q.shape[1] // max(k.shape[1], 1)
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    s = scale * (q @ np.swapaxes(k, -1, -2)) + (0 if mask is None else mask)
    if causal:
        later = np.arange(s.shape[-1]) > np.arange(s.shape[-2])[:, None] + s.shape[-1] - s.shape[-2]
        s = np.where(later, -np.inf, s)
    most = s.max(-1, keepdims=True, initial=-np.inf)
    e = np.exp(s - most)
    p = e / e.sum(-1, keepdims=True)
    if guarded:
        p = np.where(np.isnan(p) if guarded == 1 else most == -np.inf, 0, p)
    return np.moveaxis(p @ v, 1, 2)


@op.batch
def batch(axes, ins, outs, attrs):
    """Samples lie along B; or, where batch and heads are one axis, along H."""
    if axes[0] not in (0, 2) or not axes[0] == axes[1] == axes[2]:
        return None
    if axes[0] == 2 and ins[0].shape[2] != ins[1].shape[2]:
        return None
    mask = ins[3] if len(ins) > 3 else None
    if mask is not None:
        own = axes[0] // 2 + mask.rank - 4  # the mask's axis for B or H
        shared = own < 0 or mask.shape[own] == 1
        if axes[3] != (None if shared else own):
            return None
    return [axes[0]]


@op.kernel(
    "f32 f32 f32",
    "attention_f32",
    strides={"q": "last", "k": "last", "v": "last", "mask": "any", "y": "last"},
)
def pack(scale, causal, guarded):
    return struct.pack("fii", scale, causal, guarded)


@op.flops
def flops(q, k, v):
    return 2 * product(q.shape) * k.shape[1] + 2 * product(q.shape[:3]) * k.shape[1] * v.shape[3]


# -- softmax(q k^T) v as exporters write it --------------------------------------------------------
@op.fuse(P.matmul(WEIGHTS, V("v")), name="attention")
def fuse(g, m):
    out, v = m.root.outputs[0], m.v
    scores, masks = scores_and_masks(g, m.s)
    (q, k), shape = scores.value.producer.inputs[:2], scores.value.shape
    rank, lead = out.spec.rank, out.shape[:-2]
    if m.root.attrs["post"] or out.spec.dtype != "f32" or not 2 <= rank <= 4:
        raise Decline("the product is not one of f32 tensors with up to 4 axes")
    if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2] == shape[:-2] == lead:
        raise Decline("q, k and v differ in heads or batch")
    if shape != m.root.inputs[0].shape:
        raise Decline("scores are reshaped between product and softmax")
    hidden, seen = m.get("hidden"), m.get("seen")
    mask = additive_mask(g, masks, shape, hidden, seen)
    (q, by), (k, also) = _unscaled(g, q), _unscaled(g, k)
    y = g.add(
        op,
        [_heads(g, q), _heads(g, k, swapped=True), _heads(g, v), mask],
        scale=scores.scale * by * also,
        guarded=2 if hidden or seen else int(guarded(m)),
    )
    if rank == 4:
        return g.add("transpose", [y], perm=(0, 2, 1, 3))
    y = g.add("reshape", [y], to=(out.shape[-2], product(lead), out.shape[-1]))
    y = g.add("transpose", [y], perm=(1, 0, 2))
    return y if rank == 3 else g.add("reshape", [y], to=out.shape)


def _unscaled(g, x):
    """x without the products with numbers that it ends in, and their product."""
    x, perm, scale = peeled(x)
    return g.add("transpose", [x], perm=perm), scale


def _heads(g, x, swapped=False):
    """(..., T, D), or (..., D, T) if swapped, as (B, T, H, D); one leading axis alone is H."""
    if x.spec.rank == 4:
        return g.add("transpose", [x], perm=(0, 3, 1, 2) if swapped else (0, 2, 1, 3))
    if x.spec.rank == 2:
        x = g.add("reshape", [x], to=(1, *x.shape))
    x = g.add("transpose", [x], perm=(2, 0, 1) if swapped else (1, 0, 2))
    return g.add("reshape", [x], to=(1, *x.shape))


# -- ONNX's operator -------------------------------------------------------------------------------
@op.importer("Attention", since=23)
def from_onnx(g, node):
    """The plain form as a chain that patterns know; with a cache, groups of heads, a soft cap or
    more outputs it is ONNX's own function. Queries whose keys are all masked give 0.
    """
    q, k, v, mask = (node.input(i) for i in range(4))
    if len(node.inputs) > 4 or any(map(node.wants, (1, 2, 3))) or node.attr("softcap", 0.0):
        return None
    if max(node.attr(f"{side}_window_size", -1) for side in ("left", "right")) >= 0:
        return None
    if node.attr("softmax_precision", 1) != 1 or any(map(_rounds, (q, k, v))):
        return None
    flat = q.spec.rank == 3
    if flat:
        heads = [node.attr(f"{x}_num_heads") for x in ("q", "kv", "kv")]
        q, k, v = (_split(g, node, x, n) for x, n in zip((q, k, v), heads))
    (_, H, Tq, D), Tk = q.shape, k.shape[2]
    causal = node.attr("is_causal", 0)
    free = any(isinstance(d, Sym) for d in ((D, Tq, Tk) if causal else (D,)))
    if k.shape[1] != H or free or mask is not None and mask.shape[-1] != Tk:
        return None
    scale = node.attr("scale")
    s = g.add("matmul", [q, g.add("transpose", [k], perm=(0, 1, 3, 2))])
    s = g.add("mul", [s, g.const(np.float32(D**-0.5 if scale is None else scale))])
    if mask is not None and mask.spec.dtype == "bool":
        mask = None if always(mask) else mask
    if mask is not None and mask.spec.dtype == "bool":
        zero, least = g.const(np.float32(0)), g.const(np.float32(-np.inf))
        mask = g.add("where", [mask, zero, least])
    if causal:
        later = g.const(np.where(np.tri(Tq, Tk, dtype=bool), 0, -np.inf).astype(np.float32))
        mask = later if mask is None else g.add("add", [mask, later])
    if mask is not None:
        s = g.add("add", [s, mask])
    p = g.add("softmax", [s], axis=-1)
    if mask is not None:
        most = g.add("reduce_max", [mask], axes=(-1,), keepdims=True)
        none = g.add("equal", [most, g.const(np.float32(-np.inf))])
        p = g.add("where", [none, g.const(np.float32(0)), p])
    y = g.add("matmul", [p, v])
    if not flat:
        return y
    y = g.add("transpose", [y], perm=(0, 2, 1, 3))
    return node.call("Reshape", y, g.const(np.array([0, 0, -1])))


def _rounds(x) -> bool:
    """Whether a step of the function on it rounds to less than float32."""
    made = x.producer
    return x.spec.dtype != "f32" or made is not None and made.attrs.get("source") is not None


def _split(g, node, x, heads: int):
    """(B, T, heads * D) as (B, heads, T, D)."""
    x = node.call("Reshape", x, g.const(np.array([0, 0, heads, -1])))
    return g.add("transpose", [x], perm=(0, 2, 1, 3))


@op.cases
def cases(rng):
    def case(B, Tq, Tk, H, D, G=None, Dv=None, mask=None, **attrs):
        G, Dv = G or H, Dv or D
        m = None if mask is None else rng(*mask)
        if m is not None:
            m[m > 1.5] = -np.inf
        q, k, v = rng(B, Tq, H, D), rng(B, Tk, G, D), rng(B, Tk, G, Dv)
        return {"q": q, "k": k, "v": v, "mask": m, "scale": D**-0.5, **attrs}

    yield case(1, 1, 1, 1, 1)
    yield case(2, 17, 17, 3, 16, mask=(2, 3, 17, 17))
    yield case(2, 5, 33, 2, 8, Dv=5, mask=(33,))
    yield case(1, 49, 49, 3, 32, mask=(1, 3, 49, 49))
    yield case(3, 25, 25, 1, 24, causal=True, mask=(3, 1, 1, 25))
    yield case(1, 30, 70, 4, 20, G=2, causal=True)
    yield case(2, 9, 7, 6, 16, G=1, mask=(6, 9, 1), causal=True)
    yield case(1, 130, 65, 2, 64)
    for how in (1, 2):
        yield case(1, 9, 3, 2, 8, causal=True, guarded=how)
    lowest = np.full((1, 1, 40), np.finfo(np.float32).min)
    yield {**case(1, 40, 40, 2, 8), "mask": np.where(np.arange(40)[:, None] < 9, lowest, 0)}
    yield case(0, 4, 4, 2, 8)
    yield case(2, 5, 0, 2, 8)


@op.benches
def benches(rng):
    for b, t, h, d in [
        (1, 197, 3, 64),
        (1, 128, 12, 32),
        (64, 49, 3, 32),
        (1, 400, 4, 64),
        (1, 1, 8, 64),
    ]:
        yield {k: rng(b, t, h, d) for k in "qkv"} | {"scale": d**-0.5}
