"""Self-attention with relative positions as exporters write it: what
`contrib.conformer:relative_attention` takes the place of.

The argument of the softmax is taken apart into addends: the product of queries and keys, the one
with positions, and masks. Positions come as scores by distance that are shifted (Transformer-XL:
padded or joined to, reshaped and cut; icefall: gathered), as vectors looked up by distance (Shaw),
or one for each key (WeNet).
"""

import numpy as np

from wnn.heads import WEIGHTS, guarded
from wnn.pattern import Decline, P, V
from wnn.rules import inverse
from wnn.symbols import Sym
from wnn.windows import additive_mask, number, peeled, terms, window

from .relative_attention import op


@op.fuse(P.matmul(WEIGHTS, V("v")), name="contrib.conformer: attention with relative positions")
def attention(g, m):
    shape = heads_apart(m.s)
    plain = m.v.spec.dtype == "f32" and m.v.spec.rank == m.s.spec.rank and shape is not None
    if m.root.attrs["post"] or not plain or m.weights.shape != m.s.shape:
        raise Decline("the product has post-operations, or is not of f32 tensors of several heads")
    products, shifted, masks = [], [], []
    for t in terms(g, m.s):
        found = None
        if not t.masked:
            found = shift(g, t) or by_index(g, t, shape) or by_distance(g, t, shape)
        if found is not None:
            shifted.append(found)
        elif is_product(g, t):
            products.append((*t.value.producer.inputs[:2], t.scale))
        else:
            masks.append(t)
    if len(products) + len(shifted) != 2 or not products:
        raise Decline(
            f"the scores hold {len(products)} matrix products and {len(shifted)} by distance; "
            "they are to hold two, one at least of the former"
        )
    if products[0][1].shape[0] == 1 or products[0][1].const is not None:
        products.reverse()
    content, position = (*products, *shifted)
    q, k, a, scale = factors(g, *content)
    q2, p, b, its_scale = factors(g, *position)
    if not same(q, q2):
        raise Decline("the two products have different queries")
    if not np.isclose(scale, its_scale, rtol=1e-5):
        p = g.add("mul", [p, g.const(np.float32(its_scale / scale))])
    B, H, Tq, Tk = shape
    v = m.v if m.v.spec.rank == 4 else g.add("reshape", [m.v], to=(B, H, *m.v.shape[1:]))
    if k.shape[:3] != (B, Tk, H) or v.shape[:3] != (B, H, Tk):
        raise Decline("keys or values are shared by samples or heads")
    p = g.add("transpose", [p], perm=(0, 2, 3, 1))
    v = g.add("transpose", [v], perm=(0, 2, 1, 3))
    mask = additive_mask(g, masks, (B, H, Tq, Tk), m.get("hidden"), m.get("seen"))
    attrs = {"scale": scale, "shifted": bool(shifted), "guarded": guarded(m)}
    y = g.add(op, [q, k, v, p, a, b, mask], **attrs)
    y = g.add("transpose", [y], perm=(0, 2, 1, 3))
    return y if m.v.spec.rank == 4 else g.add("reshape", [y], to=m.root.outputs[0].shape)


def heads_apart(s):
    """(B, H, Tq, Tk) of scores, in which the first two axes may have become one; or None."""
    if s.spec.rank == 3 and s.producer is not None and s.producer.op.name == "reshape":
        whole = s.producer.inputs[0].shape
        return whole if len(whole) == 4 and whole[2:] == s.shape[1:] else None
    return s.shape if s.spec.rank == 4 else None


def is_product(g, t):
    """Whether a term is a matrix product (B, H, Tq, Tk) that nothing else uses."""
    v = t.value
    return (
        not t.masked
        and v.spec.rank == 4
        and v.producer is not None
        and v.producer.op.name == "matmul"
        and not v.producer.attrs["post"]
        and only_one_needs(g, v)
    )


def only_one_needs(g, v):
    """Whether a value is used once, beside for its shape."""
    return sum(n.op.name != "shape" for n in v.users) == 1 and not g.is_output(v)


# -- queries and keys ------------------------------------------------------------------------------
def factors(g, x, y, scale):
    """q (B, Tq, H, D), k (B, Tk, H, D), bias (H, D) or None and scale of scale * (x y)."""
    x, perm, by = peeled(x)
    y, swapped, also = peeled(y)
    value, bias = without_bias(g, x, perm)
    q = g.add("transpose", [value], perm=tuple(perm[i] for i in (0, 2, 1, 3)))
    k = g.add("transpose", [y], perm=tuple(swapped[i] for i in (0, 3, 1, 2)))
    return q, k, bias, scale * by * also


def without_bias(g, x, perm):
    """y and bias (H, D) such that x = y + bias, whose axes perm brings in the order B, H, T, D."""
    node = x.producer
    if node is None or node.op.name != "add":
        return x, None
    value, bias = node.inputs if node.inputs[1].const is not None else reversed(node.inputs)
    if bias.const is None or value.shape != x.shape or bias.spec.rank > 4:
        return x, None
    each = bias.array.reshape((1,) * (4 - bias.spec.rank) + bias.shape).transpose(perm)
    heads, dim = x.shape[perm[1]], x.shape[perm[3]]
    if each.shape[0] != 1 or each.shape[2] != 1 or isinstance(heads, Sym) or isinstance(dim, Sym):
        return x, None
    each = np.broadcast_to(each.reshape(each.shape[1], each.shape[3]), (heads, dim))
    return value, g.const(np.ascontiguousarray(each, np.float32))


def same(x, y):
    """Whether two values are one, or the same window on one."""
    wx, wy = window(x), window(y)
    return (
        wx.source is wy.source
        and wx.offset == wy.offset
        and wx.axes == wy.axes
        and np.isclose(wx.scale, wy.scale, rtol=1e-5)
    )


# -- positions -------------------------------------------------------------------------------------
def shift(g, t):
    """x, y and scale where a term of the scores is the relative shift of scale * (x y); or None."""
    w = window(t.value)
    node = w.source.producer
    if node is None or len(w.axes) != 4:
        return None
    rank = w.source.spec.rank
    if node.op.name == "pad" and node.attrs["mode"] == "constant" and node.attrs["pads"]:
        pads = tuple(node.attrs["pads"])
        if pads != (*(0,) * (rank - 1), 1, *(0,) * rank):
            return None
        M = node.inputs[0]
    elif node.op.name == "concat" and node.attrs["axis"] in (-1, rank - 1):
        M = node.inputs[1]
        if len(node.inputs) != 2 or node.inputs[0].shape[-1] != 1:
            return None
    else:
        return None
    if M.spec.rank != 4 or M.producer is None or M.producer.op.name != "matmul":
        return None
    if not only_one_needs(g, M) or M.producer.attrs["post"]:
        return None
    _, H, Tq, columns = M.shape
    row = columns + 1  # in the padded copy; the shift makes rows one shorter
    expected = [H * Tq * row, Tq * row, columns, 1]
    strides = w.strides()
    if strides is None or w.offset != Tq:
        return None
    if any(s != e for s, e, d in zip(strides, expected, t.value.shape, strict=True) if d != 1):
        return None
    return *M.producer.inputs[:2], t.scale * w.scale


def by_index(g, t, shape):
    """The same where of row i of x y the columns from Tq - 1 - i on are gathered."""
    node = before_reshape(t.value).producer
    if node is None or node.op.name != "gather_elements":
        return None
    rows, indices = node.inputs
    M = before_reshape(rows)
    if node.attrs["axis"] not in (-1, rows.spec.rank - 1) or M.shape[:-1] != shape[:-1]:
        return None
    if M.shape[-1] != rows.shape[-1] or indices.shape[:-1] != rows.shape[:-1]:
        return None
    if M.producer is None or M.producer.op.name != "matmul" or M.producer.attrs["post"]:
        return None
    if (
        not only_one_needs(g, M)
        or not only_one_needs(g, rows)
        or not counts_back(indices, *shape[2:])
    ):
        return None
    return *M.producer.inputs[:2], t.scale


def before_reshape(x):
    reshaped = x.producer is not None and x.producer.op.name == "reshape"
    return x.producer.inputs[0] if reshaped else x


def counts_back(indices, Tq, Tk):
    """Whether rows of integers are Tq - 1 - i + j for i in [0, Tq), over and over."""
    if indices.const is not None:
        if isinstance(Tq, Sym) or indices.shape[-1] != Tk:
            return False
        want = np.arange(Tq)[::-1, None] + np.arange(Tk)
        return bool((indices.array.reshape(-1, Tq, Tk) == want).all())
    node = indices.producer
    if node is None or node.op.name != "add" or indices.spec.rank != 2:
        return False
    rows, columns = node.inputs if node.inputs[0].shape[-1] == 1 else reversed(node.inputs)
    if rows.shape != (indices.shape[0], 1):
        return False
    while rows.producer is not None and rows.producer.op.name in ("unsqueeze", "reshape", "tile"):
        rows = rows.producer.inputs[0]
    return counts(rows, Tq, backwards=True) and counts(columns, Tk)


def counts(x, n, backwards=False):
    """Whether x is 0, 1, ..., n - 1, or these backwards."""
    if x.shape != (n,):
        return False
    if x.const is not None:
        return np.array_equal(x.array[::-1] if backwards else x.array, np.arange(n))
    if x.producer is None or x.producer.op.name != "range":
        return False
    start, limit, step = (v.array.item() if v.const else None for v in x.producer.inputs)
    return (limit, step) == (-1, -1) if backwards else (start, step) == (0, 1)


def by_distance(g, t, shape):
    """x (B, H, Tq, D), y (1, 1, D, Tq + Tk - 1) and scale where a term of the scores of that shape
    is, for each query i and key j, scale * x[i] y[:, Tq - 1 - i + j]; or None.
    """
    x, moved, scale = t.value, [], t.scale
    last = shape[-1]
    while x.producer is not None and x.producer.op.name != "matmul":
        node = x.producer
        y, name = node.inputs[0], node.op.name
        c = number(node.inputs[1]) if name in ("mul", "div") else None
        if name == "transpose" and node.attrs["perm"][-1] == y.spec.rank - 1:
            moved.append(lambda v, perm=node.attrs["perm"]: g.add("transpose", [v], perm=perm))
        elif name in ("reshape", "squeeze", "unsqueeze") and y.shape[-1] == last:
            moved.append(lambda v, to=x.shape: g.add("reshape", [v], to=(*to[:-1], v.shape[-1])))
        elif c and y.shape == x.shape:
            scale *= c if name == "mul" else 1 / c
        else:
            return None
        x = y
    if (
        x.producer is None
        or x.producer.attrs["post"]
        or len(shape) != 4
        or not only_one_needs(g, x)
    ):
        return None
    q, e = x.producer.inputs[:2]
    table = distance_table(g, e, shape[2], last)
    if table is None or q.spec.rank < 3:
        return None
    times = q
    for move in reversed(moved):
        q = move(q)
    if q.shape != (*shape[:3], q.shape[-1]):
        q = g.add("reshape", [q], to=(*shape[:3], q.shape[-1]))
    if window(times).axes[-3] != window(q).axes[2]:
        return None
    vectors, factor = table
    return q, g.add("reshape", [vectors], to=(1, 1, *vectors.shape)), scale * factor


def distance_table(g, e, Tq, Tk):
    """(y (D, Tq + Tk - 1), scale) where e (Tq, D, Tk) is, for each i and j, scale * y[:, Tq - 1 -
    i + j]; or None.
    """
    e, perm, scale = peeled(e)
    if e.spec.rank != 3 or perm[0] == 2 or [e.shape[i] for i in (perm[0], perm[2])] != [Tq, Tk]:
        return None
    node, order = e.producer, inverse(perm)
    if e.const is not None:
        vectors = by_difference(e.array.transpose(perm[0], perm[2], perm[1]))
        vectors = None if vectors is None else g.const(vectors)
    elif node is not None and node.op.name == "gather" and order[:2] == (0, 2):
        if node.attrs["axis"] not in (0, -2) or node.inputs[0].spec.rank != 2:
            return None
        indices = differences(g, node.inputs[1], Tq, Tk)
        vectors = indices and g.add("gather", [node.inputs[0], indices], axis=0)
    else:
        return None
    return None if vectors is None else (g.add("transpose", [vectors], perm=(1, 0)), scale)


def by_difference(a):
    """a (Tq, Tk, ...) as (Tq + Tk - 1, ...), entry r being a[i, j] where j - i is r - Tq + 1; or
    None where it depends on more than j - i.
    """
    if not np.array_equal(a[1:, 1:], a[:-1, :-1]):
        return None
    return np.ascontiguousarray(np.concatenate([a[::-1, 0], a[0, 1:]]))


ELEMENTWISE = ("add", "sub", "mul", "neg", "abs", "min", "max", "clip", "cast")


def differences(g, indices, Tq, Tk):
    """Integers (Tq, Tk) that depend on the difference of their places alone, as (Tq + Tk - 1,)."""
    if indices.const is not None:
        vector = by_difference(indices.array) if indices.spec.rank == 2 else None
        return None if vector is None else g.const(vector)
    applied = []
    x = indices
    while x.producer is not None and x.producer.op.name in ELEMENTWISE:
        node = x.producer
        free = [i for i, v in enumerate(node.inputs) if v is not None and v.const is None]
        if len(free) != 1 or any(v.spec.size != 1 for v in node.inputs if v and v.const):
            break
        applied.append((node, free[0]))
        x = node.inputs[free[0]]
    node = x.producer
    if node is None or node.op.name != "sub" or x.shape != (Tq, Tk):
        return None
    counted = [count(v) for v in node.inputs]
    if None in counted:
        return None
    (first, axis), (second, other) = counted
    if (axis, other) == (1, 0):
        keys, queries = first, second
    elif (axis, other) == (0, 1):
        keys, queries = second, first
    else:
        return None
    far = (1 << 63) - 1
    backwards = g.add("slice", [queries], window=((0, -1, -far, -1),))
    before = g.add("sub", [g.add("slice", [keys], window=((0, 0, 1, 1),)), backwards])
    first_query = g.add("slice", [queries], window=((0, 0, 1, 1),))
    after = g.add("sub", [g.add("slice", [keys], window=((0, 1, far, 1),)), first_query])
    y = g.add("concat", [before, after], axis=0)
    if axis == 0:
        y = g.add("neg", [y])
    for node, i in reversed(applied):
        ins = list(node.inputs)
        ins[i] = y
        y = g.add(node.op, ins, **node.attrs)
    return g.add("reshape", [y], to=(Tq + Tk - 1,))


def count(x):
    """(v, axis) where x (Tq, Tk), or what broadcasts to it, counts by ones along that axis: v (n,)
    from its start; or None.
    """
    axis = None
    if x.spec.rank == 1 or x.spec.rank == 2 and x.shape[0] == 1:
        axis = 1
    elif x.spec.rank == 2 and x.shape[1] == 1:
        axis = 0
    n = x.spec.size
    while x.producer is not None and x.producer.op.name in ("reshape", "unsqueeze", "squeeze"):
        x = x.producer.inputs[0]
    node = x.producer
    if axis is None or node is None or node.op.name != "range" or x.spec.size != n:
        return None
    step = node.inputs[2]
    if step.const is None or step.array.reshape(-1)[0] != 1:
        return None
    return x, axis
