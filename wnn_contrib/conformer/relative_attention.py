"""y = softmax(scale * ((q + a) k^T + shift((q + b) p)) + mask) v for every head; shift(M)[i, j] = M[i, Tq - 1 - i + j].

q: (B, Tq, H, D)    k: (B, Tk, H, D)    v: (B, Tk, H, Dv)    y: (B, Tq, H, Dv)
p: (1 or B, H, D, P), the projected position encodings, column r for keys r - Tq + 1 steps after the query; P >= Tq + Tk - 1
a, b: (H, D)    mask: broadcasts to (B, H, Tq, Tk), may hold -inf
Source: Dai et al. 2019 (arXiv:1901.02860), appendix B, as in Gulati et al. 2020 (arXiv:2005.08100); here the shift is an
offset into rows, not a padded copy.
"""

import struct

import numpy as np

from wnn.errors import ShapeError
from wnn.op import Op, Spec
from wnn.pattern import Decline, P, V
from wnn.rules import broadcast
from wnn.symbols import Sym
from wnn.windows import additive_mask, terms, window

op = Op(
    "contrib.conformer:relative_attention",
    inputs="q k v p a b mask?",
    attrs={"scale": ...},
    tol={"f32": (3e-5, 3e-6)},
)
op.nonfinite = False  # the kernel adds q k and a k: infinities of opposite sign may meet


@op.rule
def rule(q, k, v, p, a, b, mask=None, *, scale):
    ok = q.rank == k.rank == v.rank == p.rank == 4 and a.shape == b.shape == q.shape[2:]
    if ok:
        (B, Tq, H, D), Tk = q.shape, k.shape[1]
        long = p.shape[3] - Tq - Tk + 1
        ok = k.shape == (B, Tk, H, D) and v.shape[:3] == (B, Tk, H) and p.shape[1:3] == (H, D)
        ok = ok and p.shape[0] in (1, B) and (isinstance(long, Sym) or long >= 0)
    if not ok:
        raise ShapeError(
            f"[{op.name}] found q {q}, k {k}, v {v}, p {p}, a {a}, b {b}; expected q (B, Tq, H, D), k (B, Tk, H, D), "
            "v (B, Tk, H, Dv), p (1 or B, H, D, at least Tq + Tk - 1), a and b (H, D); transpose or reshape them"
        )
    scores = (B, H, Tq, Tk)
    if mask is not None and broadcast(op.name, scores, mask.shape) != scores:
        raise ShapeError(f"[{op.name}] found mask {mask}; expected one that broadcasts to {scores}; reshape it")
    return Spec((B, Tq, H, v.shape[3]), q.dtype)


@op.reference
def reference(q, k, v, p, a, b, mask=None, *, scale):
    Tq, Tk = q.shape[1], k.shape[1]
    content = np.einsum("bihd,bjhd->bhij", q + a, k)
    at = Tq - 1 - np.arange(Tq)[:, None] + np.arange(Tk)
    position = np.take_along_axis(np.einsum("bihd,bhdr->bhir", q + b, np.broadcast_to(p, (len(q), *p.shape[1:]))), at[None, None], 3)
    s = scale * (content + position) + (0 if mask is None else mask)
    e = np.exp(s - s.max(-1, keepdims=True, initial=-np.inf))
    return np.einsum("bhij,bjhd->bihd", e / e.sum(-1, keepdims=True), v)


@op.batch
def batch(axes, ins, outs, attrs):
    mask = ins[6] if len(ins) > 6 else None
    want = [0, 0, 0, 0 if axes[3] == 0 or ins[3].shape[0] != 1 else None, None, None]
    if mask is not None:
        want.append(0 if mask.rank == 4 and mask.shape[0] != 1 else None)
    return [0] if list(axes) == want else None


@op.kernel(
    "f32 f32 f32 f32 f32 f32",
    "relative_attention_f32",
    strides={"q": "last", "k": "last", "v": "last", "p": "any", "mask": "any", "y": "last"},
    pack_weights={"p": 2},
)
def pack(scale):
    return struct.pack("f", scale)


@op.flops
def flops(q, k, v):
    (B, Tq, H, D), Tk = q.shape, k.shape[1]
    return 2 * B * H * Tq * Tk * (2 * D + v.shape[3])


# -- the pattern -------------------------------------------------------------------------------------------------------
def shifted(g, t):
    """The product M (B, H, Tq, P) that a term of the scores is the relative shift of, and its scale; or None."""
    w = window(t.value)
    node = w.source.producer
    if node is None or len(w.axes) != 4:
        return None
    if node.op.name == "pad" and node.attrs["mode"] == "constant" and node.attrs["pads"] is not None:
        rank = w.source.spec.rank
        pads = tuple(node.attrs["pads"])
        if any(d for i, d in enumerate(pads) if i != rank - 1) or pads[rank - 1] != 1:
            return None
        M = node.inputs[0]
    elif node.op.name == "concat" and len(node.inputs) == 2 and node.attrs["axis"] in (-1, w.source.spec.rank - 1):
        M = node.inputs[1]
        if node.inputs[0].shape[-1] != 1:
            return None
    else:
        return None
    if M.spec.rank != 4 or M.producer is None or M.producer.op.name != "matmul" or len(M.users) > 1 or g.is_output(M):
        return None
    B, H, Tq, columns = M.shape
    row = columns + 1  # in the padded copy; the shift makes rows one shorter
    expected = [H * Tq * row, Tq * row, columns, 1]
    strides = w.strides()
    if strides is None or w.offset != Tq or any(s != e for s, e, d in zip(strides, expected, t.value.shape, strict=True) if d != 1):
        return None
    return M.producer, t.scale * w.scale


def without_bias(g, x):
    """(B, T, H, D) and bias (H, D) of x = (B, H, T, D) with a constant for each head and column added."""
    x, back = unswapped(x)
    node = x.producer
    if node is None or node.op.name != "add":
        raise Decline("the queries have no position bias")
    value, bias = node.inputs if node.inputs[1].const is not None else reversed(node.inputs)
    heads, dim = (x.shape[1], x.shape[3]) if back else x.shape[2:]
    inner = (1, heads, 1, dim) if back else (1, 1, heads, dim)
    if bias.const is None or value.shape != x.shape or isinstance(heads, Sym) or any(
        d not in (1, e) for d, e in zip(reversed(bias.shape), reversed(inner), strict=False)
    ):
        raise Decline("the queries' position bias is no constant of one row per head")
    bias = g.const(np.ascontiguousarray(np.broadcast_to(bias.array, inner).reshape(heads, dim)))
    return (g.add("transpose", [value], perm=(0, 2, 1, 3)) if back else value), bias


def unswapped(x):
    """What x is the transpose (0, 2, 1, 3) of and False; or x and True."""
    node = x.producer
    if node is not None and node.op.name == "transpose" and tuple(node.attrs["perm"]) == (0, 2, 1, 3):
        return node.inputs[0], False
    return x, True


@op.fuse(P.matmul(P.softmax(V("s"), axis=-1), V("v")), name="contrib.conformer: attention with relative positions")
def attention(g, m):
    if m.root.attrs["post"] or m.v.spec.dtype != "f32" or m.v.spec.rank != 4:
        raise Decline("the product has post-operations, or is not of f32 tensors with 4 axes")
    content = position = None
    masks = []
    for t in terms(m.s):
        node = t.value.producer
        if position is None and (found := shifted(g, t)) is not None:
            position = found
        elif content is None and node is not None and node.op.name == "matmul" and len(t.value.users) == 1 and not t.masked:
            content = (node, t.scale)
        else:
            masks.append(t)
    if content is None or position is None:
        raise Decline("the scores are no sum of a product and a shifted product")
    if not np.isclose(content[1], position[1], rtol=1e-5):
        raise Decline(f"the two products have different scales, {content[1]} and {position[1]}")
    (qa, k), (qb, p) = content[0].inputs[:2], position[0].inputs[:2]
    q, a = without_bias(g, qa)
    q2, b = without_bias(g, qb)
    if not same(q, q2):
        raise Decline("the two products have different queries")
    B, H, Tq, Tk = content[0].outputs[0].shape
    k, v = g.add("transpose", [k], perm=(0, 3, 1, 2)), g.add("transpose", [m.v], perm=(0, 2, 1, 3))
    y = g.add(op, [q, k, v, p, a, b, additive_mask(g, masks, (B, H, Tq, Tk))], scale=content[1])
    return g.add("transpose", [y], perm=(0, 2, 1, 3))


def same(x, y):
    """Whether two values are one, or the same window on one."""
    wx, wy = window(x), window(y)
    return wx.source is wy.source and (wx.offset, wx.axes, wx.scale) == (wy.offset, wy.axes, wy.scale)


@op.cases
def cases(rng):
    def case(B, Tq, Tk, H, D, Dv=None, longer=0, mask=None, batched=False):
        shape = (B if batched else 1, H, D, max(Tq + Tk - 1, 0) + longer)
        q, k, v = rng(B, Tq, H, D), rng(B, Tk, H, D), rng(B, Tk, H, Dv or D)
        return {"q": q, "k": k, "v": v, "p": rng(*shape), "a": rng(H, D), "b": rng(H, D), "mask": mask, "scale": D**-0.5}

    yield case(1, 5, 5, 2, 4)
    yield case(2, 33, 33, 3, 17)
    yield case(2, 7, 12, 2, 8, longer=3)
    yield case(1, 1, 1, 1, 1)
    yield case(2, 50, 50, 2, 16, Dv=5, batched=True)
    yield case(2, 24, 24, 2, 8, mask=np.where(np.arange(24) < 20, rng(2, 1, 1, 24), -np.inf).astype(np.float32))
    yield case(0, 6, 6, 2, 4)
    yield case(1, 130, 130, 4, 64)
