"""y = softmax(scale * ((q + a) k^T + shift((q + b) p)) + mask) v for every head.

shift(M)[i, j] = M[i, Tq - 1 - i + j] where `shifted`, else M: Transformer-XL and Shaw, or WeNet.
q: (B, Tq, H, D)    k: (B, Tk, H, D)    v: (B, Tk, H, Dv)    y: (B, Tq, H, Dv)
p: (1 or B, 1 or H, D, P), vectors of positions; column r is for keys r - Tq + 1 steps after the
query, P >= Tq + Tk - 1, or where not `shifted` for key r, P = Tk
a, b: (H, D), zeros where absent    mask: broadcasts to (B, H, Tq, Tk), may hold -inf
guarded: a query that sees nothing gives 0, not NaN.
Source: Dai et al. 2019 (arXiv:1901.02860), appendix B, as in Gulati et al. 2020 (arXiv:2005.08100);
Shaw et al. 2018 (arXiv:1803.02155); here the shift is an offset into rows, not a padded copy.
"""

import struct

import numpy as np

from wnn.errors import ShapeError
from wnn.op import Op, Spec
from wnn.rules import broadcast, may_be
from wnn.symbols import Sym

op = Op(
    "contrib.conformer:relative_attention",
    inputs="q k v p a? b? mask?",
    attrs={"scale": ..., "shifted": True, "guarded": False},
    tol={"f32": (3e-5, 3e-6)},
)
op.nonfinite = False  # the kernel adds q k and a k: infinities of opposite sign may meet


@op.rule
def rule(q, k, v, p, a=None, b=None, mask=None, *, scale, shifted, guarded):
    biases = [x.shape for x in (a, b) if x is not None]
    ok = q.rank == k.rank == v.rank == p.rank == 4 and all(may_be(x, q.shape[2:]) for x in biases)
    if ok:
        (B, Tq, H, D), Tk = q.shape, k.shape[1]
        long = p.shape[3] - Tk - (Tq - 1 if shifted else 0)
        ok = may_be(k.shape, (B, Tk, H, D)) and may_be(v.shape[:3], (B, Tk, H))
        ok = ok and may_be(p.shape[:3], (*(d if d == 1 else n for d, n in zip(p.shape, (B, H))), D))
        ok = ok and (isinstance(long, Sym) or (long >= 0 if shifted else long == 0))
    if not ok:
        raise ShapeError(
            f"[{op.name}] found q {q}, k {k}, v {v}, p {p}, a {a}, b {b}; expected q (B, Tq, H, "
            "D), k (B, Tk, H, D), v (B, Tk, H, Dv), p (1 or B, 1 or H, D, "
            f"{'at least Tq + Tk - 1' if shifted else 'Tk'}), a and b (H, D); transpose or reshape "
            "them"
        )
    scores = (B, H, Tq, Tk)
    if mask is not None and not may_be(broadcast(op.name, scores, mask.shape), scores):
        raise ShapeError(
            f"[{op.name}] found mask {mask}; expected one that broadcasts to {scores}; reshape it"
        )
    return Spec((B, Tq, H, v.shape[3]), q.dtype)


@op.reference
def reference(q, k, v, p, a=None, b=None, mask=None, *, scale, shifted, guarded):
    B, Tq, H, _ = q.shape
    content = np.einsum("bihd,bjhd->bhij", q if a is None else q + a, k)
    p = np.broadcast_to(p, (B, H, *p.shape[2:]))
    position = np.einsum("bihd,bhdr->bhir", q if b is None else q + b, p)
    if shifted:
        at = Tq - 1 - np.arange(Tq)[:, None] + np.arange(k.shape[1])
        position = np.take_along_axis(position, at[None, None], 3)
    s = scale * (content + position) + (0 if mask is None else mask)
    e = np.exp(s - s.max(-1, keepdims=True, initial=-np.inf))
    weights = e / e.sum(-1, keepdims=True)
    if guarded:
        weights = np.where(np.isnan(weights), 0, weights)
    return np.einsum("bhij,bjhd->bihd", weights, v)


@op.batch
def batch(axes, ins, outs, attrs):
    mask = ins[6] if len(ins) > 6 else None
    want = [0, 0, 0, 0 if axes[3] == 0 or ins[3].shape[0] != 1 else None, None, None]
    if mask is not None:
        want.append(0 if mask.rank == 4 and mask.shape[0] != 1 else None)
    return [0] if list(axes) == want[: len(axes)] else None


@op.kernel(
    "f32 f32 f32 f32",
    "relative_attention_f32",
    strides={"q": "last", "k": "last", "v": "last", "p": "any", "mask": "any", "y": "last"},
    pack_weights={"p": 2},
)
def pack(scale, shifted, guarded):
    return struct.pack("fii", scale, shifted, guarded)


@op.flops
def flops(q, k, v, shifted):
    (B, Tq, H, D), Tk = q.shape, k.shape[1]
    return 2 * B * H * Tq * Tk * ((2 if shifted else 1) * D + v.shape[3])


@op.cases
def cases(rng):
    def case(B, Tq, Tk, H, D, Dv=None, longer=0, mask=None, batched=False, heads=True, **attrs):
        count = max(Tq + Tk - 1, 0) + longer if attrs.get("shifted", True) else Tk
        p = rng(B if batched else 1, H if heads else 1, D, count)
        q, k, v = rng(B, Tq, H, D), rng(B, Tk, H, D), rng(B, Tk, H, Dv or D)
        bias = {"a": rng(H, D), "b": rng(H, D)} if heads else {}
        return {"q": q, "k": k, "v": v, "p": p, **bias, "mask": mask, "scale": D**-0.5, **attrs}

    def hidden(condition):
        return np.where(condition, -np.inf, rng(*condition.shape)).astype(np.float32)

    yield case(1, 5, 5, 2, 4)
    yield case(2, 33, 33, 3, 17)
    yield case(2, 7, 12, 2, 8, longer=3)
    yield case(1, 1, 1, 1, 1)
    yield case(2, 50, 50, 2, 16, Dv=5, batched=True)
    yield case(2, 24, 24, 2, 8, mask=hidden(np.arange(24)[None, None, None] >= 20))
    yield case(0, 6, 6, 2, 4)
    yield case(2, 6, 0, 2, 4)
    yield case(1, 9, 9, 2, 8, heads=False)
    yield case(2, 30, 41, 3, 16, heads=False)
    yield case(2, 17, 17, 3, 12, shifted=False)
    yield case(2, 6, 40, 2, 16, shifted=False, batched=True)
    yield case(1, 5, 19, 2, 8, shifted=False, heads=False)
    yield case(1, 9, 9, 2, 8, mask=hidden(np.arange(9)[:, None] < np.arange(9) + 3), guarded=True)
    yield case(1, 130, 130, 4, 64)
    yield case(1, 100, 100, 4, 64, shifted=False)
