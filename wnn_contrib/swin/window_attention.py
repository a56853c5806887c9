"""y[r] = post(attention(x[rows[w]]) w_proj + b_proj)[i] where r = rows[w, i]: self-attention within
each window of rows of x.

Within a window, n rows of x, and rows of zeros where `rows` is -1:
    qkv = x w_qkv + b_qkv
    s = scale * logit[h] * q k^T + bias[h] + mask[kind[w]]
    y = softmax(s) v, heads side by side
x: (B, ..., C)    w_qkv: (C, M)    b_qkv: (M,)    w_proj: (heads * dim, E)    b_proj: (E,)
y: (B, ..., E)    logit: (heads,)    extras: what post-operations read
rows: (windows, n) i32, rows of x counted over its middle axes, each exactly once; -1 is padding
bias: (heads, n, n) and mask: (kinds, 1 or heads, n, n), both indexed (key, query)
kind: (windows,) i32, which mask; -1 is none
Head h of q lies at columns at[0] + h * step of qkv, `dim` of them; of k at at[1], of v at at[2].
cosine: q and k are divided by their lengths, by at least eps.
Roll, padding, partition and their reverses are the table `rows`.
Source: Liu et al. 2021 (arXiv:2103.14030), and 2022 (arXiv:2111.09883) for cosine.
"""

import struct

import numpy as np

from wnn import post as posts
from wnn.errors import IndexOutOfRangeError, ShapeError
from wnn.op import Op, Spec
from wnn.rules import may_be

op = Op(
    "contrib.swin:window_attention",
    inputs="x w_qkv b_qkv w_proj b_proj rows bias? mask? kind? logit? *extras",
    attrs={
        "heads": ...,
        "dim": ...,
        "scale": ...,
        "at": ...,
        "step": ...,
        "cosine": False,
        "eps": 1e-12,
    },
    posts=True,
    tol={"f32": (5e-5, 5e-5)},
)


def _projects(x, w_qkv, b_qkv, w_proj, b_proj, heads, dim, at, step) -> bool:
    """Whether x and all heads have the products they need."""
    if x.rank < 3 or not w_qkv.rank == w_proj.rank == 2 or heads <= 0 or dim <= 0:
        return False
    M, E = w_qkv.shape[1], w_proj.shape[1]
    return (
        may_be(w_qkv.shape, (x.shape[-1], M))
        and b_qkv.shape == (M,)
        and w_proj.shape == (heads * dim, E)
        and b_proj.shape == (E,)
        and min(at) >= 0
        and step >= 0
        and max(at) + (heads - 1) * step + dim <= M
    )


def _indexed_by(rows, bias, mask, kind, logit, heads) -> bool:
    """Whether what scores take has the windows, rows and heads that there are."""
    if rows.rank != 2 or rows.dtype != "i32" or (mask is None) != (kind is None):
        return False
    count, n = rows.shape
    masked = mask is None or (
        mask.rank == 4
        and mask.shape[1] in (1, heads)
        and mask.shape[2:] == (n, n)
        and kind.shape == (count,)
        and kind.dtype == "i32"
    )
    biased = bias is None or bias.shape == (heads, n, n)
    return masked and biased and (logit is None or logit.shape == (heads,))


@op.rule
def rule(
    x,
    w_qkv,
    b_qkv,
    w_proj,
    b_proj,
    rows,
    bias=None,
    mask=None,
    kind=None,
    logit=None,
    *extras,
    heads,
    dim,
    scale,
    at,
    step,
    cosine,
    eps,
    post,
):
    if not (
        _projects(x, w_qkv, b_qkv, w_proj, b_proj, heads, dim, at, step)
        and _indexed_by(rows, bias, mask, kind, logit, heads)
    ):
        raise ShapeError(
            f"[{op.name}] found x {x}, w_qkv {w_qkv}, b_qkv {b_qkv}, w_proj {w_proj}, "
            f"b_proj {b_proj}, rows {rows}, bias {bias}, mask {mask}, kind {kind}, logit {logit} "
            f"with {heads} heads of {dim} at {at}, step {step}; "
            "expected shapes as its docstring says; correct them"
        )
    return Spec((*x.shape[:-1], w_proj.shape[1]), x.dtype)


@op.reference
def reference(
    x,
    w_qkv,
    b_qkv,
    w_proj,
    b_proj,
    rows,
    bias=None,
    mask=None,
    kind=None,
    logit=None,
    *extras,
    heads,
    dim,
    scale,
    at,
    step,
    cosine,
    eps,
    post,
):
    flat = x.reshape(len(x), int(np.prod(x.shape[1:-1])), x.shape[-1])
    own = np.sort(rows[rows >= 0])
    if not np.array_equal(own, np.arange(flat.shape[1])) or np.any(rows < -1):
        raise IndexOutOfRangeError(
            f"[{op.name}] found rows {rows}; expected each of "
            f"0..{flat.shape[1] - 1} once, and -1; correct them"
        )
    padded = (
        np.concatenate([flat, np.zeros_like(flat[:, :1])], 1)
        if flat.shape[1]
        else np.zeros((len(x), 1, x.shape[-1]))
    )
    qkv = padded[:, rows] @ w_qkv + b_qkv
    columns = np.arange(heads)[:, None] * step + np.arange(dim)
    q, k, v = (np.moveaxis(qkv[..., a + columns], 2, 3) for a in at)
    if cosine:
        q, k = (z / np.maximum(np.sqrt((z * z).sum(-1, keepdims=True)), eps) for z in (q, k))
    s = scale * (q @ np.swapaxes(k, -1, -2)) * (1 if logit is None else logit[:, None, None])
    s = s if bias is None else s + np.swapaxes(bias, 1, 2)
    if mask is not None:
        s = s + np.concatenate([mask, np.zeros_like(mask[:1])]).swapaxes(2, 3)[kind]
    e = np.exp(s - s.max(-1, keepdims=True, initial=-np.inf))
    y = (
        np.moveaxis((e / e.sum(-1, keepdims=True)) @ v, 2, 3).reshape(*qkv.shape[:3], heads * dim)
        @ w_proj
        + b_proj
    )
    out = np.zeros((*flat.shape[:2], w_proj.shape[1]))
    out[:, rows[rows >= 0]] = y[:, rows >= 0]
    inputs = [x, w_qkv, b_qkv, w_proj, b_proj, rows, bias, mask, kind, logit, *extras]
    return posts.apply(out.reshape(*x.shape[:-1], w_proj.shape[1]), post, inputs)


@op.batch
def batch(axes, ins, outs, attrs):
    return [0] if axes[0] == 0 and all(a is None for a in axes[1:]) else None


@op.kernel(
    "f32 f32 f32 f32 f32 i32 f32 f32 i32 f32",
    "window_attention_f32",
    strides={"x": "rows", "extras": "rows", "y": "rows"},
    pack_weights={"w_qkv": 0, "w_proj": 0},
)
def pack(heads, dim, step, at, scale, cosine, eps, post):
    return struct.pack("6q2fi4x", heads, dim, step, *at, scale, eps, cosine) + posts.pack(post)


@op.flops
def flops(x, w_qkv, w_proj, rows, heads, dim):
    tokens = x.shape[0] * rows.size
    return (
        2 * tokens * (x.shape[-1] * w_qkv.shape[1] + 2 * heads * dim * rows.shape[1] + w_proj.size)
    )


def _case(
    rng,
    B,
    shape,
    C,
    heads,
    dim,
    rows,
    bias=True,
    kinds=0,
    masks=1,
    logit=False,
    E=None,
    packed=True,
    **more,
):
    M, count, n, E = 3 * heads * dim, *rows.shape, E or C
    given = {
        "x": rng(B, *shape, C),
        "w_qkv": rng(C, M) / C**0.5,
        "b_qkv": rng(M),
        "w_proj": rng(heads * dim, E) / C**0.5,
    }
    given |= {
        "b_proj": rng(E),
        "rows": rows.astype(np.int32),
        "bias": rng(heads, n, n) if bias else None,
    }
    if kinds:
        given["mask"] = np.where(rng(kinds, masks, n, n) < 1, np.float32(0), np.float32(-30))
        given["kind"] = (np.arange(count) % (kinds + 1) - 1).astype(np.int32)
    given["logit"] = np.abs(rng(heads)) + 1 if logit else None
    at, step = ((0, heads * dim, 2 * heads * dim), dim) if packed else ((0, dim, 2 * dim), 3 * dim)
    attrs = {
        "heads": heads,
        "dim": dim,
        "scale": 1.0 if logit else dim**-0.5,
        "at": at,
        "step": step,
        "cosine": logit,
    }
    return {**given, **attrs, **more}


def _windows(H, W, n, shift=0):
    """The table of windows of n x n of an H x W image, shifted; -1 where they stick out."""
    table = np.roll(np.arange(H * W).reshape(H, W), (-shift, -shift), (0, 1))
    table = np.pad(table, ((0, -H % n), (0, -W % n)), constant_values=-1)
    h, w = table.shape
    return table.reshape(h // n, n, w // n, n).swapaxes(1, 2).reshape(-1, n * n)


@op.cases
def cases(rng):
    yield _case(rng, 1, (4, 4), 8, 2, 4, _windows(4, 4, 2))
    yield _case(rng, 2, (6, 9), 12, 3, 4, _windows(6, 9, 3, 1), kinds=2)
    yield _case(rng, 1, (5, 7), 8, 1, 8, _windows(5, 7, 3, 1), bias=False, E=20)
    yield _case(rng, 2, (49,), 16, 2, 8, _windows(7, 7, 7), kinds=1, packed=False)
    yield _case(rng, 1, (8, 12), 40, 2, 20, _windows(8, 12, 4, 2), kinds=2, masks=2, logit=True)
    yield _case(rng, 1, (12, 12), 33, 1, 33, _windows(12, 12, 12), logit=True)
    chain = (("add", 0.0, 0.0, 10), ("channel_mul", 0.0, 0.0, 11), ("silu", 0.0, 0.0, -1))
    yield _case(
        rng,
        2,
        (14, 14),
        32,
        2,
        16,
        _windows(14, 14, 7, 3),
        kinds=3,
        extras=[rng(2, 14, 14, 32), rng(32)],
        post=chain,
    )
    yield _case(rng, 0, (4, 4), 8, 2, 4, _windows(4, 4, 2))
