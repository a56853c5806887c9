"""Elements of x picked by indices, which count from the end where negative and must lie within
their axis.

gather: y[..., i..., ...] = x[..., indices[i...], ...] along `axis`.   indices of any shape take the
    place of the axis.
gather_elements: y[i, j, ...] = x[indices[i, j, ...], j, ...] for axis 0, and so on.   y: shape of
    indices.
gather_nd: y[b..., i...] = x[b..., indices[b..., i..., :]] after `batch_dims` shared axes.
Source: ONNX Gather-13, GatherElements-13, GatherND-13.
"""

import struct

import numpy as np

from ..errors import IndexOutOfRangeError, ShapeError
from ..op import NeedValue, Op, Permuted, Spec
from ..pattern import C, OneOf, P, V
from ..rules import axis_of, differ, inverse, relabel, reshape_attrs, settled
from ..symbols import Sym

gather = Op("gather", inputs="x indices", attrs={"axis": 0})
gather_elements = Op("gather_elements", inputs="x indices", attrs={"axis": 0})
gather_nd = Op("gather_nd", inputs="x indices", attrs={"batch_dims": 0})
for _op in (gather, gather_elements, gather_nd):
    _op.float64 = False
gather.symbolic = True


def check_range(who: str, indices: np.ndarray, length) -> None:
    """IndexOutOfRangeError unless -length <= index < length for all; unknown lengths and symbolic
    indices pass.
    """
    if isinstance(length, Sym) or indices.dtype == object:
        return
    bad = (indices < -length) | (indices >= length)
    if bad.any():
        at = np.unravel_index(int(bad.argmax()), bad.shape)
        place = f" at position {tuple(map(int, at))}" if at else ""
        raise IndexOutOfRangeError(
            f"[{who}] found index {indices[at]}{place}; "
            f"expected one in [{-length}, {length - 1}]; correct the indices"
        )


def check_lengths(who: str, x, indices, axis: int) -> None:
    """ShapeError unless indices have x's dimensions and are nowhere longer but along axis."""
    pairs = [(d, e) for k, (d, e) in enumerate(zip(indices.shape, x.shape)) if k != axis]
    if indices.rank != x.rank or any(
        isinstance(d, int) and isinstance(e, int) and d > e for d, e in pairs
    ):
        raise ShapeError(
            f"[{who}] found indices {indices} for {x}; expected as many dimensions, none longer "
            f"but axis {axis}; correct the indices"
        )


@gather.rule
def gather_rule(x, indices, axis):
    if x.rank == 0:
        raise ShapeError(
            f"[gather] found a scalar {x}; expected at least 1 dimension; correct the model"
        )
    a = axis_of(axis, x.rank, "gather")
    if indices.known:
        check_range("gather", indices.value, x.shape[a])
    return Spec(x.shape[:a] + indices.shape + x.shape[a + 1 :], x.dtype)


@gather.reference
def gather_reference(x, indices, axis):
    check_range("gather", indices, x.shape[axis])
    return (
        np.take(x, indices, axis)
        if x.size or not indices.size
        else x.reshape(gather_rule(Spec.of(x), Spec.of(indices), axis).shape)
    )


@gather.transpose
def gather_transpose(perm, i, ins, attrs):
    if i:
        return None
    a, new = attrs["axis"] % len(perm), perm[attrs["axis"] % len(perm)]
    picked = [("index", k) for k in range(ins[1].rank)]
    made = list(range(len(perm)))
    made[new : new + 1] = picked
    got = list(perm)
    got[a : a + 1] = picked
    return Permuted([perm, None], [relabel(got, made)], {"axis": new})


@gather.batch
def gather_batch(axes, ins, outs, attrs):
    a = attrs["axis"] % ins[0].rank
    if axes[0] is None:
        return [a + axes[1]]
    if axes[1] is not None or axes[0] == a:
        return None
    return [axes[0] if axes[0] < a else axes[0] + ins[1].rank - 1]


def pack_axis(axis, x):
    return struct.pack("q", axis % max(x.rank, 1))


for _dtype in ("i64", "i32"):
    gather.kernel(f"* {_dtype}", "gather")(pack_axis)
    gather_elements.kernel(f"* {_dtype}", "gather_elements")(pack_axis)


@gather.importer("Gather", takes="f16 bits")
def gather_from_onnx(g, node):
    x, indices = node.inputs
    return g.add(gather, [x, indices], axis=node.attr("axis", 0))


_equal = P.cast(P.equal(V("x"), C("classes")), to="f32")
_hot = OneOf(_equal, P.one_hot(V("x"), C("depth"), C("values"), axis=-1))


@gather.fuse(OneOf(P.matmul(_hot, C("w")), P.linear(_hot, C("w")), P.linear(_hot, C("w"), C("b"))))
def rows_of_weights(g, m):
    """A product with one-hot rows: rows of the weights, and of zeros for what is no class."""
    x, k = m.x, m.w.shape[0]

    def number(n):
        return g.const(n, x.spec.dtype)

    if m.root.attrs["post"] or m.w.spec.rank != 2 or x.spec.dtype not in ("i32", "i64"):
        return None
    if (classes := m.get("classes")) is not None:
        if x.spec.rank < classes.spec.rank or x.shape[-1] != 1:
            return None
        if classes.spec.size != k or (classes.array.reshape(-1) != np.arange(k)).any():
            return None
        x, scale = g.add("squeeze", [x], axes=(x.spec.rank - 1,)), 1
    else:
        off, scale = m.values["values"].array
        if off != 0 or m.values["values"].spec.dtype != "f32":
            return None
        negative = g.add("less", [x, number(0)])
        x = g.add("where", [negative, g.add("add", [x, number(k)]), x])
    table = np.pad(m.w.array * np.float32(scale), [(0, 1), (0, 0)])  # the last for -1 and k
    if m.get("b") is not None:
        table = table + m.b.array
    x = g.add("min", [g.add("max", [x, number(-1)]), number(k)])
    return g.add(gather, [g.const(table), x])


_rows = P.gather(C("table"), V("indices"), axis=0)
_UNARY = "relu leaky_relu sigmoid tanh silu gelu gelu_tanh hard_swish hard_sigmoid erf exp".split()
MOST = 1 << 18  # elements of a table


@gather.fuse(OneOf(P.add(_rows, C("c")), P.mul(_rows, C("c")), *(P.of(n)(_rows) for n in _UNARY)))
def into_table(g, m):
    """What is done to each row of a small constant table is done to the table."""
    root, table, c = m.root, m.table, m.get("c")
    shape = (1,) if c is None else c.shape
    if table.spec.size > MOST or table.spec.dtype != "f32" or table.spec.rank != 2:
        return None
    if c is not None and c.spec.size != 1 and c.spec.size != shape[-1]:
        return None
    ins = [table.array] if c is None else [table.array, c.array.reshape(shape[-1:])]
    (new,) = root.op.run_reference(ins, root.attrs, (table.spec,))
    if new.shape != table.shape or len(shape) > root.outputs[0].spec.rank:
        return None
    return g.add(gather, [g.const(new), m.indices])


@gather.fuse(P.gather(V("x"), C("indices")))
def window_of_known(g, m):
    """Known indices, each as far behind the last, are a window."""
    x, out = m.x, m.root.outputs[0].spec.shape
    axis = axis_of(m.root.attrs["axis"], x.spec.rank, "gather")
    d, at = x.shape[axis], m.indices.array.astype(np.int64).reshape(-1)
    if isinstance(d, Sym) or not at.size or (at < -d).any() or (at >= d).any():
        return None
    at = at % d
    steps = set(np.diff(at).tolist()) or {1}
    rank = m.indices.spec.rank
    if len(steps) > 1 or min(steps) < 1 or rank > 1 and not settled(g, *out):
        return None
    window = (axis, int(at[0]), int(at[-1]) + 1, steps.pop())
    y = g.add("slice", [x], window=(window,))
    if rank == 0:
        return g.add("squeeze", [y], axes=(axis,))
    return y if rank == 1 else g.add("reshape", [y], **reshape_attrs(out, y.spec))


@gather.cases
def gather_cases(rng):
    yield dict(x=rng(7, 33), indices=np.array([[0, -1, 3], [6, -7, 2]]))
    yield dict(x=rng(2, 5, 3), indices=np.array([4, 0]), axis=1)
    yield dict(x=rng(2, 5, 3), indices=np.array(-2, np.int32), axis=2)
    yield dict(x=np.arange(5), indices=np.array([1, 1, 4]))
    yield dict(x=rng(2, 3), indices=np.zeros((0,), np.int64), axis=1)
    yield dict(x=rng(101, 64), indices=rng.integers(-101, 101, (3, 128)))
    yield dict(x=rng(3, 40), indices=rng.integers(-40, 40, (5, 999)), axis=1)  # more than one part


@gather.benches
def gather_benches(rng):
    yield dict(x=rng(30522, 384), indices=rng.integers(0, 30522, (1, 128)))
    yield dict(x=rng(1, 56, 56, 96), indices=np.arange(96)[::-1].copy(), axis=3)
    yield dict(x=rng(1, 8400, 85), indices=rng.integers(0, 8400, 300), axis=1)


@gather_elements.benches
def gather_elements_benches(rng):
    yield dict(x=rng(1, 8400, 80), indices=rng.integers(0, 8400, (1, 300, 80)), axis=1)
    yield dict(x=rng(300, 8, 256), indices=rng.integers(0, 256, (300, 8, 256)), axis=2)


@gather_elements.rule
def gather_elements_rule(x, indices, axis):
    a = axis_of(axis, x.rank, "gather_elements")
    check_lengths("gather_elements", x, indices, a)
    if indices.known:
        check_range("gather_elements", indices.value, x.shape[a])
    return x.like(indices.shape)


@gather_elements.reference
def gather_elements_reference(x, indices, axis):
    check_range("gather_elements", indices, x.shape[axis])
    window = tuple(
        slice(None) if k == axis % x.ndim else slice(n) for k, n in enumerate(indices.shape)
    )
    return np.take_along_axis(x[window], indices, axis)


@gather_elements.batch
def gather_elements_batch(axes, ins, outs, attrs):
    return [axes[0]] if axes[0] == axes[1] and axes[0] != attrs["axis"] % ins[0].rank else None


@gather_elements.importer("GatherElements", takes="f16 bits")
def gather_elements_from_onnx(g, node):
    return g.add(gather_elements, node.inputs, axis=node.attr("axis", 0))


@gather_elements.cases
def gather_elements_cases(rng):
    yield dict(x=rng(3, 4), indices=rng.integers(-3, 3, (5, 4)))
    yield dict(x=rng(2, 7, 5), indices=rng.integers(-7, 7, (2, 3, 4)), axis=1)
    yield dict(x=rng(6), indices=np.array([0, -6, 5], np.int32), axis=-1)


@gather_nd.rule
def gather_nd_rule(x, indices, batch_dims):
    n = indices.shape[-1] if indices.rank else None
    if isinstance(n, Sym):
        raise NeedValue(1)
    if n is None or not 0 <= batch_dims < min(x.rank, indices.rank) or batch_dims + n > x.rank:
        raise ShapeError(
            f"[gather_nd] found indices {indices} for {x}, batch_dims {batch_dims}; "
            f"expected a last axis of at most {x.rank - batch_dims}; correct the indices"
        )
    if any(map(differ, x.shape[:batch_dims], indices.shape)):
        raise ShapeError(
            f"[gather_nd] found indices {indices} for {x}; expected the same first {batch_dims} "
            "lengths; correct the indices"
        )
    for k in range(n if indices.known else 0):
        check_range("gather_nd", indices.value[..., k], x.shape[batch_dims + k])
    return x.like(indices.shape[:-1] + x.shape[batch_dims + n :])


@gather_nd.reference
def gather_nd_reference(x, indices, batch_dims):
    n = indices.shape[-1]
    for k in range(n):
        check_range("gather_nd", indices[..., k], x.shape[batch_dims + k])
    shared = np.ix_(*[range(d) for d in indices.shape[:batch_dims]]) if batch_dims else ()
    shared = tuple(s.reshape(s.shape + (1,) * (indices.ndim - 1 - batch_dims)) for s in shared)
    return x[shared + tuple(np.moveaxis(indices, -1, 0))]


@gather_nd.batch
def gather_nd_batch(axes, ins, outs, attrs):
    if axes[0] is None:
        return [axes[1]] if attrs["batch_dims"] <= axes[1] < ins[1].rank - 1 else None
    return [axes[0]] if axes[0] == axes[1] is not None and axes[0] < attrs["batch_dims"] else None


@gather_nd.kernel("* i64", "gather_nd")
@gather_nd.kernel("* i32", "gather_nd")
def gather_nd_pack(batch_dims):
    return struct.pack("q", batch_dims)


@gather_nd.importer("GatherND", takes="f16 bits")
def gather_nd_from_onnx(g, node):
    return g.add(gather_nd, node.inputs, batch_dims=node.attr("batch_dims", 0))


@gather_nd.fuse(P.gather_nd(V("x"), V("indices"), batch_dims=0))
def by_one_index(g, m):
    """Positions of one axis, as in what boolean masks are exported to."""
    if m.indices.shape[-1] != 1:
        return None
    at = g.add("squeeze", [m.indices], axes=(m.indices.spec.rank - 1,))
    return g.add(gather, [m.x, at], axis=0)


@gather_nd.cases
def gather_nd_cases(rng):
    yield dict(x=rng(3, 4, 5), indices=np.array([[0, -1], [2, 3]]))
    yield dict(
        x=rng(3, 4, 5), indices=np.array([[[0], [-1]], [[2], [1]], [[3], [3]]]), batch_dims=1
    )
    yield dict(x=rng(3, 4), indices=rng.integers(0, 3, (2, 6, 2)))


@gather_nd.importer("ReverseSequence", since=10)
def reverse_sequence_from_onnx(g, node):
    """The first lengths[b] steps of each sample backwards: step t comes from lengths[b] - 1 - t
    where that is not negative.
    """
    x, lengths = node.inputs
    samples, time = node.attr("batch_axis", 1), node.attr("time_axis", 0)
    perm = (samples, time, *[k for k in range(node.rank(0)) if k not in (samples, time)])
    one = g.const(1)
    t = g.add(
        "range",
        [g.const(0), g.add("squeeze", [g.add("shape", [x], start=time, end=time + 1)]), one],
    )
    back = g.add("sub", [g.add("unsqueeze", [lengths], axes=(1,)), g.add("add", [t, one])])
    at = g.add(
        "where", [g.add("less", [back, g.const(0)]), g.add("unsqueeze", [t], axes=(0,)), back]
    )
    y = g.add(
        gather_nd,
        [g.add("transpose", [x], perm=perm), g.add("unsqueeze", [at], axes=(2,))],
        batch_dims=1,
    )
    return g.add("transpose", [y], perm=inverse(perm))
