"""Window attention as exporters write it: what `contrib.swin:window_attention` takes the place of.

The rows that the projection into q, k and v reads are followed to the image, and the rows of the
last projection forth to it again, through any Reshape, Transpose, Slice, Concat and Pad: a table
says which row went where. What is added to the scores is computed and sorted into one bias for each
head and a few masks that windows have in common.
"""

from math import isqrt

import numpy as np

from wnn.heads import packed_heads
from wnn.pattern import C, Decline, Match, OneOf, P, V
from wnn.symbols import Sym, evaluate
from wnn.windows import MovedRows, moved_rows, moves_rows, number, terms, window

from .window_attention import op


def attends(y):
    """Whether y is attention, its heads side by side, whose projection's rows are not moved."""
    try:
        attended(y)
    except Decline:
        return False
    return not any(moves_rows(u) for v in y.users for o in v.outputs for u in o.users)


def projection(**of):
    return OneOf(P.linear(V("y", **of), C(), C()), P.linear(V("y", **of), C())).named("projected")


@op.fuse(
    OneOf(MovedRows(projection()), projection(where=attends)),
    name="contrib.swin: attention within windows",
)
def attention(g, m):
    out = m.root.outputs[0]
    product, softmax = attended(m.y)
    for node in (product, softmax):
        if len(node.outputs[0].users) > 1 or g.is_output(node.outputs[0]):
            raise Decline("the weights of the attention, or its result, are used elsewhere too")
    scores, scale, logit, added = scores_of(g, softmax.inputs[0])
    (q, q_eps), (k, k_eps) = (without_lengths(g, v) for v in scores.inputs[:2])
    if q_eps != k_eps:
        raise Decline(
            "only one of q and k is divided by its length, or they differ in the least length"
        )
    found = packed_heads(g, q, k, product.inputs[1])
    qkv = found.source.producer
    if (
        qkv is None
        or qkv.op.name != "linear"
        or qkv.inputs[1].const is None
        or qkv.attrs["post"]
        or isinstance(found.rows[0], Sym)
    ):
        raise Decline("q, k and v are no projection by constant weights of windows of known size")
    x, rows = windows(qkv.inputs[0], out, found)
    count, n = rows.shape
    bias, mask, kind = tables(added, product.outputs[0].shape[0], found.heads, count, n)
    if count == 1 and bias is None:
        raise Decline("there is one window, and no bias for its positions")
    if out.shape[:-1] != x.shape[:-1]:
        x = g.add("reshape", [x], to=(*out.shape[:-1], x.shape[-1]))
    weights = [t for node in (qkv, m.projected.producer) for t in (node.inputs[1], vector(g, node))]
    extra = [
        None if t is None else g.const(np.ascontiguousarray(t))
        for t in (rows, bias, mask, kind, logit)
    ]
    cosine = {} if q_eps is None else {"cosine": True, "eps": q_eps}
    return g.add(op, [x, *weights, *extra], scale=scale * found.scale, **found.attrs, **cosine)


def attended(y):
    """The nodes softmax(s) v and softmax of y = (..., n, heads * dim), heads side by side."""
    w = window(y)
    product = w.source.producer
    if (
        product is None
        or product.op.name != "matmul"
        or product.attrs["post"]
        or w.source.spec.rank != 4
    ):
        raise Decline("what the projection reads is no product of attention weights and values")
    _, H, n, D = w.source.shape
    want = [[(n, D)], [(H, n * D), (D, 1)]]
    if (
        w.offset != 0
        or w.scale != 1.0
        or [[f for f in a if f[0] != 1] for a in w.axes[-2:]]
        != [[f for f in a if f[0] != 1] for a in want]
    ):
        raise Decline("the heads do not lie side by side in the projection's rows")
    p = product.inputs[0].producer
    if (
        p is not None
        and p.op.name == "reshape"
        and p.inputs[0].shape[-2:] == product.inputs[0].shape[-2:]
    ):
        p = p.inputs[0].producer
    if (
        p is None
        or p.op.name != "softmax"
        or p.attrs["axis"] not in (-1, p.inputs[0].spec.rank - 1)
    ):
        raise Decline("what the projection reads is no attention")
    return product, p


def scores_of(g, s):
    """(the node q k^T in the sum s, its scale, factors of the heads or None, the other terms)."""
    found, added = [], []
    for t in terms(s):
        v, logit = t.value, None
        node = v.producer
        if node is not None and node.op.name == "mul" and len(v.users) == 1 and not t.masked:
            v, logit = by_head(node)
        node = v.producer
        if (
            node is None
            or node.op.name != "matmul"
            or t.masked
            or node.attrs["post"]
            or len(v.users) > 1
            or g.is_output(v)
        ):
            added.append(t)
        else:
            found.append((node, t.scale, logit))
    if len(found) != 1:
        raise Decline(f"the scores hold {len(found)} matrix products that nothing else uses")
    return *found[0], added


def by_head(node):
    """(x, factors) of x (..., heads, n, n) times constants for heads; or (the product, None)."""
    x, c = node.inputs if node.inputs[1].const is not None else reversed(node.inputs)
    heads = x.shape[-3] if x.spec.rank >= 3 else 0
    if c.const is None or c.shape[-3:] != (heads, 1, 1) or c.spec.size != heads:
        return node.outputs[0], None
    return x, c.array.reshape(-1).astype(np.float32)


# x divided by its length along the last axis
x, least = V("x"), V("least", where=lambda v: number(v) is not None)
length = OneOf(
    P.reduce_l2(x, axes=(-1,)),
    P.sqrt(P.reduce_sum(OneOf(P.mul(x, x), P.pow(x, C(value=2.0))), axes=(-1,))),
)
length = OneOf(P.clip(length).named("clipped"), P.max(length, least), length)
NORMALISED = OneOf(
    P.div(x, OneOf(P.expand(length), length)),
    P.mul(x, P.reciprocal(length)),
    P.lp_normalize(x, axis=-1, p=2),
)


def without_lengths(g, v):
    """(v before its vectors are divided by their lengths, the least length); or (v, None)."""
    node = v.producer
    for m in NORMALISED.match(v, Match()):
        clipped, least = m.get("clipped"), m.get("least")
        return m.x, clipped.producer.attrs["lo"] if clipped is not None else number(least) or 0.0
    if node is None or len(v.users) > 1:
        return v, None
    if (
        node.op.name in ("transpose", "reshape", "squeeze", "unsqueeze")
        or node.op.name == "mul"
        and number(node.inputs[1]) is not None
    ):
        inner, eps = without_lengths(g, node.inputs[0])
        if eps is not None:
            return g.add(node.op, [inner, *node.inputs[1:]], **node.attrs), eps
    return v, None


def windows(inside, out, found):
    """What is cut into windows, and the table of its rows, which `out` is to undo."""
    there, back = (moved_rows(v, out.shape[0]) for v in (inside, out))
    if there is None or back is None or there.source.shape[0] != out.shape[0]:
        raise Decline("the projection's rows are no windows")
    x, R = there.source, len(back.table)
    once = np.count_nonzero(there.table >= 0) == R and np.all(back.table >= 0)
    if (
        not once
        or np.max(back.table) >= len(there.table)
        or not np.array_equal(there.table[back.table], np.arange(R))
    ):
        raise Decline("rows are not moved back to where they came from")
    n = found.rows[0]
    if (
        found.rows[1] != 1
        or len(there.table) % n
        or found.batch[0] != x.shape[0] * (len(there.table) // n)
    ):
        raise Decline("attention is not within the windows that rows are moved to")
    if len(there.table) == n and isqrt(n) ** 2 != n:
        raise Decline("there is one window, and it is no square")
    return x, np.ascontiguousarray(there.table.reshape(-1, n), np.int32)


def vector(g, node):
    """The bias of a linear, or zeros."""
    return (
        node.inputs[2]
        if len(node.inputs) > 2 and node.inputs[2] is not None
        else g.const(np.zeros(node.inputs[1].shape[1], np.float32))
    )


# -- what is added to the scores -------------------------------------------------------------------
def known(v):
    """What a value is that depends on constants and the number of samples only; be there two."""
    if v is None or v.const is not None:
        return None if v is None else v.array
    node = v.producer
    if node is None or len(node.outputs) > 1 or node.op._reference is None:
        raise Decline("what is added to the scores is not constant")
    if node.op.name in ("reshape", "expand"):
        x, shape = known(node.inputs[0]), concrete(v.shape)
        return x.reshape(shape) if node.op.name == "reshape" else np.broadcast_to(x, shape)
    try:
        return np.asarray(node.op._reference(*map(known, node.inputs), **node.attrs))
    except (TypeError, ValueError) as e:
        raise Decline(f"what is added to the scores is not constant: {e}") from None


def concrete(shape):
    return tuple(
        evaluate(d, dict.fromkeys(d.symbols(), 2)) if isinstance(d, Sym) else d for d in shape
    )


def addend(t, all_windows, heads, count, n):
    """A term of the scores as (1 or count, 1 or heads, n, n)."""
    if t.masked:
        condition, kept, fill = t.value.producer.inputs
        low, zero = number(fill), np.float32(0)
        a = (
            np.where(known(condition), zero, low)
            if low is not None
            else np.where(known(condition), np.float32(number(kept)), zero)
        )
    else:
        a = known(t.value)
    a, shape = (a * t.scale).astype(np.float32), concrete(t.shape)
    a = a.reshape((1,) * (len(shape) - a.ndim) + a.shape)
    if len(shape) < 4 or shape[-2:] != (n, n) or shape[-3] not in (1, heads):
        raise Decline(
            f"what is added to the scores, {t.value.spec} in {t.shape}, is neither for "
            "heads nor for windows"
        )
    a = np.broadcast_to(a, (*a.shape[:-2], n, n))
    if all(d == 1 for d in a.shape[:-3]):
        return a.reshape(1, *a.shape[-3:])
    a = np.broadcast_to(a, (*shape[:-3], *a.shape[-3:])).reshape(-1, *a.shape[-3:])
    (total,) = concrete([all_windows])
    samples = a.reshape(-1, count, *a.shape[1:])
    if len(a) != total or any(not np.array_equal(s, samples[0]) for s in samples[1:]):
        raise Decline("what is added to the scores differs from sample to sample")
    return samples[0]


def tables(added, all_windows, heads, count, n):
    """What is added to the scores: bias (heads, n, n), mask (kinds, 1 or heads, n, n) and kind
    (count,), the first two by (key, query); None for what is not there.
    """
    bias = np.zeros((1, 1, n, n), np.float32)  # the same for all windows
    mask = bias  # not the same
    for t in added:
        a = addend(t, all_windows, heads, count, n)
        bias, mask = (bias + a, mask) if len(a) == 1 else (bias, mask + a)
    plain = mask[np.argmax(mask.sum((1, 2, 3)))]  # of the window with the least masked
    if np.isfinite(plain).all():
        over = np.where(mask == plain, np.float32(0), mask - plain)
        # heads have the mask in common up to what adding it to a bias in float32 has lost
        if np.allclose(over, over[:, :1], rtol=1e-6, atol=2e-5):
            bias, mask = bias + plain, over[:, :1]
    kinds = {np.zeros_like(mask[0]).tobytes(): -1}
    kind = np.int32([kinds.setdefault(a.tobytes(), len(kinds) - 1) for a in mask])
    bias = np.broadcast_to(bias[0], (heads, n, n)) if bias.any() else None
    first = [np.argmax(kind == i) for i in range(len(kinds) - 1)]
    bias, mask = (None if a is None else a.swapaxes(-1, -2) for a in (bias, mask[first]))
    return bias, mask if first else None, kind if first else None
