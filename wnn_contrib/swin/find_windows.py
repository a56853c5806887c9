"""Window attention as exporters write it: what `contrib.swin:window_attention` takes the place of.

The rows that the projection into q, k and v reads are followed to the image, and the rows of the
last projection forth to it again, through any Reshape, Transpose, Slice, Concat and Pad: a table
says which row went where. What is added to the scores is computed and sorted into one bias for each
head and a few masks that windows have in common.
"""

from math import isqrt

import numpy as np

from wnn.heads import only_feeds, packed_heads
from wnn.pattern import C, Decline, Match, OneOf, P, V
from wnn.rows import MovedRows, count, moved_rows, moves_rows
from wnn.symbols import Sym, evaluate
from wnn.symbols import product as product_of
from wnn.windows import number, terms, window

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
    size=12,  # the other projection, its heads and the attention between are found by following q
)
def attention(g, m):
    out = m.root.outputs[0]
    product, softmax = attended(m.y)
    for node in (product, softmax):
        if len(node.outputs[0].users) > 1 or g.is_output(node.outputs[0]):
            raise Decline("the weights of the attention, or its result, are used elsewhere too")
    scores, scale, logit, added = scores_of(g, softmax.inputs[0])
    sources = [window(v).source for v in (*scores.inputs[:2], product.inputs[1])]
    if not only_feeds(g, sources, [scores, product]):
        raise Decline("the projection into q, k and v is used elsewhere too")
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
    x, rows, shape = windows(g, qkv.inputs[0], out, found)
    bias, mask, kind = tables(g, added, found.heads, *shape)
    if shape[0] == 1 and bias is None:
        raise Decline("there is one window, and no bias for its positions")
    if out.shape[:-1] != x.shape[:-1]:
        x = g.add("reshape", [x], to=(*out.shape[:-1], x.shape[-1]))
    weights = [t for node in (qkv, m.projected.producer) for t in (node.inputs[1], vector(g, node))]
    logit = None if logit is None else g.const(logit)
    cosine = {} if q_eps is None else {"cosine": True, "eps": q_eps}
    return g.add(
        op,
        [x, *weights, rows, bias, mask, kind, logit],
        scale=scale * found.scale,
        **found.attrs,
        **cosine,
    )


def attended(y):
    """The nodes softmax(s) v and softmax of y = (..., n, heads * dim), heads side by side."""
    w = window(y)
    product = w.source.producer
    if (
        product is None
        or product.op.name != "matmul"
        or product.attrs["post"]
        or w.source.spec.rank < 4
    ):
        raise Decline("what the projection reads is no product of attention weights and values")
    H, n, D = w.source.shape[-3:]
    first = len(w.axes) - 2
    while first > 0 and product_of(y.shape[first:-1]) != n:  # MaxViT: windows of 7 x 7 rows
        first -= 1
    want = [[(n, D)], [(H, n * D), (D, 1)]]
    if (
        w.offset != 0
        or w.scale != 1.0
        or [w.joined(first, -1), w.axes[-1]] != [[f for f in a if f[0] != 1] for a in want]
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
    for t in terms(g, s):
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


# heights and widths that tables are compared at where sizes are free: windows of 7, 8 and 12 tokens
# of 4 x 4 pixels cut them evenly, four times halved, but for the first
SIZES = ((500, 612), (448, 672), (512, 768), (384, 1152), (672, 896), (768, 1024))


def windows(g, inside, out, found):
    """What is cut into windows, the table of its rows, which `out` is to undo, and its shape."""
    there, back = (moved_rows(v, out.shape[0]) for v in (inside, out))
    if there is None or back is None or there.source.shape[0] != out.shape[0]:
        raise Decline("the projection's rows are no windows")
    x, n, free = there.source, found.rows[0], sorted({*there.free(), *back.free()})
    if found.rows[1] != 1 or found.batch[0] != 1 and found.batch[1] != n:
        raise Decline("attention is not within the windows that rows are moved to")
    fitting = 0
    for size in SIZES if free else [()]:
        lengths = {s: size[i % 2] for i, s in enumerate(free)}
        cut, joined = there.table(lengths), back.table(lengths)
        if cut is None or joined is None or free and np.count_nonzero(cut >= 0) != len(joined):
            continue
        fitting += 1
        undone = len(cut) % n == 0 and np.all(joined >= 0) and np.max(joined) < len(cut)
        if not undone or not np.array_equal(cut[joined], np.arange(len(joined))):
            raise Decline("rows are not moved back to where they came from")
        if np.count_nonzero(cut >= 0) != len(joined):
            raise Decline("windows overlap, or do not cover all rows")
        if fitting == 2:
            break
    if not fitting:
        raise Decline("the projection's rows are no windows")
    if not free:
        if len(cut) == n and isqrt(n) ** 2 != n:
            raise Decline("there is one window, and it is no square")
        rows = g.const(np.ascontiguousarray(cut.reshape(-1, n), np.int32))
        return x, rows, rows.shape
    if not isinstance(there.samples, Sym) and there.samples != 1:
        raise Decline("there are several samples of free size")
    one = dict.fromkeys(there.samples.symbols(), 1) if isinstance(there.samples, Sym) else {}
    shape = (evaluate(found.batch[0], one), n)
    return x, g.add("reshape", [there.in_graph(g)], to=shape), shape


def vector(g, node):
    """The bias of a linear, or zeros."""
    return (
        node.inputs[2]
        if len(node.inputs) > 2 and node.inputs[2] is not None
        else g.const(np.zeros(node.inputs[1].shape[1], np.float32))
    )


# -- what is added to the scores -------------------------------------------------------------------
class NotConstant(Decline):
    """What is added to the scores depends on more than constants and the number of samples."""


def known(v):
    """What a value is that depends on constants and the number of samples only; be there two."""
    if v is None or v.const is not None:
        return None if v is None else v.array
    node = v.producer
    if node is None or len(node.outputs) > 1 or node.op._reference is None:
        raise NotConstant
    if node.op.name in ("reshape", "expand"):
        x, shape = known(node.inputs[0]), concrete(v.shape)
        return x.reshape(shape) if node.op.name == "reshape" else np.broadcast_to(x, shape)
    try:
        return np.asarray(node.op._reference(*map(known, node.inputs), **node.attrs))
    except (TypeError, ValueError):
        raise NotConstant from None


def concrete(shape):
    return tuple(
        evaluate(d, dict.fromkeys(d.symbols(), 2)) if isinstance(d, Sym) else d for d in shape
    )


def addend(t, heads, count, n):
    """A term of the scores that is constant, as (1 or count, 1 or heads, n, n)."""
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
    a = (a * t.scale).astype(np.float32)
    a = a.reshape((1,) * (len(t.shape) - a.ndim) + a.shape)
    a = np.broadcast_to(a, (*a.shape[:-2], n, n))
    if all(d == 1 for d in a.shape[:-3]):
        return a.reshape(1, *a.shape[-3:])
    a = np.broadcast_to(a, (*concrete(t.shape)[:-3], *a.shape[-3:])).reshape(-1, *a.shape[-3:])
    if isinstance(count, Sym) or len(a) % count:
        raise Decline(f"{t.value.spec} in {t.shape} is added to the scores of {count} windows")
    samples = a.reshape(-1, count, *a.shape[1:])
    if any(not np.array_equal(s, samples[0]) for s in samples[1:]):
        raise Decline("what is added to the scores differs from sample to sample")
    return samples[0]


def computed(g, t, heads, count, n):
    """A term of the scores that is no constant, as (count, 1 or heads, n, n)."""
    v = t.value
    while v.producer is not None and v.producer.op.name == "expand":
        v = v.producer.inputs[0]
    if t.masked or v.spec.rank < 3 or v.shape[-2:] != (n, n) or product_of(v.shape[:-3]) != count:
        raise Decline(f"{t.value.spec} in {t.shape} is added to the scores, and no constant")
    v = g.add("reshape", [v], to=(count, v.shape[-3], n, n))
    return v if t.scale == 1.0 else g.add("mul", [v, g.const(np.float32(t.scale))])


def tables(g, added, heads, windows, n):
    """What is added to the scores: bias (heads, n, n), mask (kinds, 1 or heads, n, n) and kind
    (windows,), the first two by (key, query); None for what is not there.
    """
    bias = np.zeros((1, 1, n, n), np.float32)  # the same for all windows
    mask = bias  # not the same
    rest = None
    for t in added:
        if len(t.shape) < 4 or t.shape[-2:] != (n, n) or t.shape[-3] not in (1, heads):
            raise Decline(f"{t.value.spec} in {t.shape} is added to the scores of {heads} heads")
        try:
            a = addend(t, heads, windows, n)
            bias, mask = (bias + a, mask) if len(a) == 1 else (bias, mask + a)
        except NotConstant:
            a = computed(g, t, heads, windows, n)
            rest = a if rest is None else g.add("add", [rest, a])
    plain = mask[np.argmax(mask.sum((1, 2, 3)))]  # of the window with the least masked
    if np.isfinite(plain).all():
        over = np.where(mask == plain, np.float32(0), mask - plain)
        # heads have the mask in common up to what adding it to a bias in float32 has lost
        if np.allclose(over, over[:, :1], rtol=1e-6, atol=2e-5):
            bias, mask = bias + plain, over[:, :1]
    kinds = {np.zeros_like(mask[0]).tobytes(): -1}
    kind = np.int32([kinds.setdefault(a.tobytes(), len(kinds) - 1) for a in mask])
    bias = np.broadcast_to(bias[0], (heads, n, n)).swapaxes(1, 2)
    bias = g.const(np.ascontiguousarray(bias)) if bias.any() else None
    if rest is not None:
        rest = g.add("add", [rest, g.const(mask)]) if mask.any() else rest
        return bias, g.add("transpose", [rest], perm=(0, 1, 3, 2)), count(g, windows)
    if len(kinds) == 1:
        return bias, None, None
    first = [np.argmax(kind == i) for i in range(len(kinds) - 1)]
    return bias, g.const(np.ascontiguousarray(mask[first].swapaxes(2, 3))), g.const(kind)
