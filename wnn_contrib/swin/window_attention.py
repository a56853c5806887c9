"""y[r] = post(attention(x[rows[w]]) w_proj + b_proj)[i] where r = rows[w, i]: self-attention within each window of rows of x.

Within a window (n rows of x, zeros where rows is -1):
    qkv = x w_qkv + b_qkv;  s = scale * q k^T + bias[h] + mask[w];  y = softmax(s) v, heads side by side
x: (B, ..., C)    w_qkv: (C, M)    b_qkv: (M,)    w_proj: (heads * dim, E)    b_proj: (E,)    y: (B, ..., E)
rows: (windows, n) i32, rows of x counted over its middle axes, each exactly once; -1 is padding
bias: (heads, n, n)    mask: (windows, n, n)    extras: what post-operations read
Head h of q lies at columns at[0] + h * step of qkv, `dim` of them; of k at at[1], of v at at[2].
Source: Liu et al. 2021 (arXiv:2103.14030). Roll, padding, partition and their reverses are the table `rows`.
"""

import struct

import numpy as np

from wnn import post as posts
from wnn.errors import IndexOutOfRangeError, ShapeError
from wnn.heads import packed_heads, scores_and_masks
from wnn.op import Op, Spec
from wnn.pattern import C, Decline, OneOf, P, V
from wnn.symbols import Sym
from wnn.windows import MovedRows, moved_rows, window

op = Op(
    "contrib.swin:window_attention",
    inputs="x w_qkv b_qkv w_proj b_proj rows bias? mask? *extras",
    attrs={"heads": ..., "dim": ..., "scale": ..., "at": ..., "step": ...},
    posts=True,
    tol={"f32": (5e-5, 5e-5)},
)


@op.rule
def rule(x, w_qkv, b_qkv, w_proj, b_proj, rows, bias=None, mask=None, *extras, heads, dim, scale, at, step, post):
    ok = x.rank >= 3 and rows.rank == 2 and rows.dtype == "i32"
    if ok:
        count, n = rows.shape
        M, E = w_qkv.shape[1], w_proj.shape[1]
        ok = w_qkv.shape == (x.shape[-1], M) and b_qkv.shape == (M,) and w_proj.shape == (heads * dim, E) and b_proj.shape == (E,)
        ok = ok and min(at) >= 0 and max(at) + (heads - 1) * step + dim <= M
        ok = ok and (bias is None or bias.shape == (heads, n, n)) and (mask is None or mask.shape == (count, n, n))
    if not ok:
        raise ShapeError(
            f"[{op.name}] found x {x}, w_qkv {w_qkv}, b_qkv {b_qkv}, w_proj {w_proj}, b_proj {b_proj}, rows {rows}, bias {bias}, "
            f"mask {mask} with {heads} heads of {dim} at {at}, step {step}; expected shapes as its docstring says; correct them"
        )
    return Spec((*x.shape[:-1], E), x.dtype)


@op.reference
def reference(x, w_qkv, b_qkv, w_proj, b_proj, rows, bias=None, mask=None, *extras, heads, dim, scale, at, step, post):
    flat = x.reshape(len(x), int(np.prod(x.shape[1:-1])), x.shape[-1])
    own = np.sort(rows[rows >= 0])
    if not np.array_equal(own, np.arange(flat.shape[1])) or np.any(rows < -1):
        raise IndexOutOfRangeError(f"[{op.name}] found rows {rows}; expected each of 0..{flat.shape[1] - 1} once, and -1; correct them")
    padded = np.concatenate([flat, np.zeros_like(flat[:, :1])], 1) if flat.shape[1] else np.zeros((len(x), 1, x.shape[-1]))
    qkv = padded[:, rows] @ w_qkv + b_qkv
    columns = np.arange(heads)[:, None] * step + np.arange(dim)
    q, k, v = (np.moveaxis(qkv[..., a + columns], 2, 3) for a in at)
    s = scale * (q @ np.swapaxes(k, -1, -2)) + (0 if bias is None else bias) + (0 if mask is None else mask[:, None])
    e = np.exp(s - s.max(-1, keepdims=True, initial=-np.inf))
    y = np.moveaxis((e / e.sum(-1, keepdims=True)) @ v, 2, 3).reshape(*qkv.shape[:3], heads * dim) @ w_proj + b_proj
    out = np.zeros((*flat.shape[:2], w_proj.shape[1]))
    out[:, rows[rows >= 0]] = y[:, rows >= 0]
    inputs = [x, w_qkv, b_qkv, w_proj, b_proj, rows, bias, mask, *extras]
    return posts.apply(out.reshape(*x.shape[:-1], w_proj.shape[1]), post, inputs)


@op.batch
def batch(axes, ins, outs, attrs):
    return [0] if axes[0] == 0 and all(a is None for a in axes[1:]) else None


@op.kernel(
    "f32 f32 f32 f32 f32 i32",
    "window_attention_f32",
    strides={"x": "rows", "extras": "rows", "y": "rows"},
    pack_weights={"w_qkv": 0, "w_proj": 0},
)
def pack(heads, dim, step, at, scale, post):
    return struct.pack("6qf4x", heads, dim, step, *at, scale) + posts.pack(post)


@op.flops
def flops(x, w_qkv, w_proj, rows, heads, dim):
    tokens = x.shape[0] * rows.size
    return 2 * tokens * (x.shape[-1] * w_qkv.shape[1] + 2 * heads * dim * rows.shape[1] + w_proj.size)


# -- the pattern -------------------------------------------------------------------------------------------------------
@op.fuse(
    MovedRows(OneOf(P.linear(V("y"), C("w"), C("b")), P.linear(V("y"), C("w"))).named("projected")),
    name="contrib.swin: attention within windows",
)
def attention(g, m):
    out = m.root.outputs[0]
    product, softmax = attended(m.y)
    scores, masks = scores_and_masks(g, softmax.inputs[0])
    found = packed_heads(g, *scores.value.producer.inputs[:2], product.inputs[1])
    qkv = found.source.producer
    if qkv is None or qkv.op.name != "linear" or qkv.inputs[1].const is None or qkv.attrs["post"] or isinstance(found.rows[0], Sym):
        raise Decline("q, k and v are no projection by constant weights of windows of known size")
    x, rows = windows(qkv.inputs[0], out, found)
    bias, mask = tables(g, masks, found.heads, *rows.shape)
    if out.shape[:-1] != x.shape[:-1]:
        x = g.add("reshape", [x], to=(*out.shape[:-1], x.shape[-1]))
    weights = [t for node in (qkv, m.projected.producer) for t in (node.inputs[1], vector(g, node))]
    return g.add(op, [x, *weights, g.const(rows), bias, mask], scale=scores.scale * found.scale, **found.attrs)


def attended(y):
    """The nodes softmax(s) v and softmax of y = (..., n, heads * dim), heads side by side."""
    w = window(y)
    product = w.source.producer
    if product is None or product.op.name != "matmul" or product.attrs["post"] or w.source.spec.rank != 4:
        raise Decline("what the projection reads is no product of attention weights and values")
    _, H, n, D = w.source.shape
    want = [[(n, D)], [(H, n * D), (D, 1)]]
    if w.offset != 0 or w.scale != 1.0 or [[f for f in a if f[0] != 1] for a in w.axes[-2:]] != [[f for f in a if f[0] != 1] for a in want]:
        raise Decline("the heads do not lie side by side in the projection's rows")
    p = product.inputs[0].producer
    if p is not None and p.op.name == "reshape" and p.inputs[0].shape[-2:] == product.inputs[0].shape[-2:]:
        p = p.inputs[0].producer
    if p is None or p.op.name != "softmax" or p.attrs["axis"] not in (-1, p.inputs[0].spec.rank - 1):
        raise Decline("what the projection reads is no attention")
    return product, p


def windows(inside, out, found):
    """What is cut into windows, and the table of its rows; out: where the windows' rows come to lie again."""
    there, back = (moved_rows(v, out.shape[0]) for v in (inside, out))
    if there is None or not there.nodes or there.source.shape[0] != out.shape[0]:
        raise Decline("the projection's rows are no windows")
    x, R = there.source, len(back.table)
    once = np.count_nonzero(there.table >= 0) == R and np.all(back.table >= 0)
    if not once or np.max(back.table) >= len(there.table) or not np.array_equal(there.table[back.table], np.arange(R)):
        raise Decline("rows are not moved back to where they came from")
    n = found.rows[0]
    if found.rows[1] != 1 or len(there.table) % n or found.batch[0] != x.shape[0] * (len(there.table) // n):
        raise Decline("attention is not within the windows that rows are moved to")
    return x, np.ascontiguousarray(there.table.reshape(-1, n), np.int32)


def vector(g, node):
    """The bias of a linear, or zeros."""
    return node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] is not None else g.const(np.zeros(node.inputs[1].shape[1], np.float32))


def tables(g, masks, heads, count, n):
    """(bias (heads, n, n) or None, mask (count, n, n) or None): the sums of what is added for heads, and for windows."""
    sums = {"bias": None, "mask": None}
    for t in masks:
        if t.masked or t.value.const is None:
            raise Decline("what is added to the scores is not constant")
        a = t.value.array.astype(np.float32) * np.float32(t.scale)
        a = a.reshape((1,) * (len(t.shape) - a.ndim) + a.shape)
        if len(t.shape) == 4 and a.shape[0] == 1:
            kind, a = "bias", np.broadcast_to(a[0], (heads, n, n))
        elif len(t.shape) == 5 and a.shape[0] == 1 and a.shape[2] == 1:
            kind, a = "mask", np.broadcast_to(a[0, :, 0], (count, n, n))
        else:
            raise Decline(f"what is added to the scores, {t.value.spec} in {t.shape}, is neither one for heads nor one for windows")
        sums[kind] = a if sums[kind] is None else sums[kind] + a
    return [None if a is None else g.const(np.ascontiguousarray(a)) for a in sums.values()]


@op.cases
def cases(rng):
    def case(B, shape, C, heads, dim, rows, bias=True, mask=False, E=None, **more):
        M, count, n, E = 3 * heads * dim, *rows.shape, E or C
        given = {"x": rng(B, *shape, C), "w_qkv": rng(C, M) / C**0.5, "b_qkv": rng(M), "w_proj": rng(heads * dim, E) / C**0.5}
        given |= {"b_proj": rng(E), "rows": rows.astype(np.int32), "bias": rng(heads, n, n) if bias else None}
        given["mask"] = np.where(rng(count, n, n) < 1, np.float32(0), np.float32(-100)) if mask else None
        attrs = {"heads": heads, "dim": dim, "scale": dim**-0.5, "at": (0, heads * dim, 2 * heads * dim), "step": dim}
        return {**given, **attrs, **more}

    def cut(H, W, n, shift=0):
        """Windows of n x n of an H x W image, shifted; -1 where they stick out."""
        table = np.roll(np.arange(H * W).reshape(H, W), (-shift, -shift), (0, 1))
        table = np.pad(table, ((0, -H % n), (0, -W % n)), constant_values=-1)
        h, w = table.shape
        return table.reshape(h // n, n, w // n, n).swapaxes(1, 2).reshape(-1, n * n)

    yield case(1, (4, 4), 8, 2, 4, cut(4, 4, 2))
    yield case(2, (6, 9), 12, 3, 4, cut(6, 9, 3, 1), mask=True)
    yield case(1, (5, 7), 8, 1, 8, cut(5, 7, 3, 1), bias=False, E=20)
    yield case(2, (49,), 16, 2, 8, cut(7, 7, 7), mask=True)
    chain = (("add", 0.0, 0.0, 8), ("channel_mul", 0.0, 0.0, 9), ("silu", 0.0, 0.0, -1))
    yield case(2, (14, 14), 32, 2, 16, cut(14, 14, 7, 3), mask=True, extras=[rng(2, 14, 14, 32), rng(32)], post=chain)
    yield case(0, (4, 4), 8, 2, 4, cut(4, 4, 2))
