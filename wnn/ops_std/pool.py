"""Pooling, channels last: y[n, i, c] is the maximum, or the mean, of x over the window at i.

x: (N, *spatial, C)    y: (N, *out, C)
out = (in + pads - dilation * (kernel - 1) - 1) // stride + 1; with ceil_mode the division rounds
up, as long as the last window starts within the input or the padding before it
kernel, strides, dilations: per spatial axis    pads: all befores, then all afters
auto_pad: "", or "same_upper", "same_lower": then out = ceil(in / stride) and pads are not used
count_include_pad: the mean divides by the positions inside input and pads, else inside the input
max_pool_indices has a second output, i64: the place of each maximum in x seen as (N, C, *spatial),
row-major, or with the spatial axes in column-major order.
Kernels: pool.cc, pool_any.cc; attrs: ConvAttrs of conv.h, then int32 after[3], count_include_pad or
column_major.
Source: ONNX MaxPool-12, AveragePool-19, LpPool-18.
"""

import struct

import numpy as np

from ..errors import UnsupportedError
from ..op import Op, Spec
from ..pattern import P, V
from ..symbols import Sym, minimum, product
from .conv import geometry

_ATTRS = {**geometry.ATTRS, "ceil_mode": False}
max_pool = Op("max_pool", attrs=_ATTRS, tol={"f32": (0, 0)})
average_pool = Op(
    "average_pool", attrs={**_ATTRS, "count_include_pad": False}, tol={"f32": (2e-6, 1e-6)}
)
max_pool_indices = Op(
    "max_pool_indices", outputs="y indices", attrs={**_ATTRS, "column_major": False}
)
max_pool_indices.float64 = max_pool.float64 = False
max_pool_indices.nonfinite = False  # the place of a NaN is open


def out_lengths(x, kernel, strides, pads, dilations, auto_pad, ceil_mode) -> tuple:
    """Lengths of the output's spatial axes."""
    spatial, n = x.shape[1:-1], len(kernel)
    more = [s - 1 if ceil_mode and not auto_pad else 0 for s in strides]
    longer = (*pads[:n], *[p + m for p, m in zip(pads[n:], more)])
    out = geometry.output_shape("pool", spatial, kernel, strides, longer, dilations, auto_pad)
    if not any(more):
        return out
    last = [(d + p - 1) // s + 1 for d, p, s in zip(spatial, pads, strides)]
    return tuple(
        minimum(o, m) if isinstance(o, Sym) or isinstance(m, Sym) else min(o, m)
        for o, m in zip(out, last)
    )


def _shape(x, kernel, strides, pads, dilations, auto_pad, ceil_mode, **_):
    return Spec(
        (
            x.shape[0],
            *out_lengths(x, kernel, strides, pads, dilations, auto_pad, ceil_mode),
            x.shape[-1],
        ),
        x.dtype,
    )


def _windows(x, kernel, strides, pads, dilations, auto_pad, ceil_mode, fill):
    out = out_lengths(x, kernel, strides, pads, dilations, auto_pad, ceil_mode)
    pads = geometry.resolve_pads(x.shape[1:-1], kernel, strides, pads, dilations, auto_pad)
    return geometry.windows(x, out, kernel, strides, pads, dilations, fill)


def _lowest(x):
    return -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min


@max_pool.reference
def max_reference(x, **where):
    y = None
    for _, seen in _windows(x, **where, fill=_lowest(x)):
        y = seen.copy() if y is None else np.maximum(y, seen)
    return y


@average_pool.reference
def average_reference(x, count_include_pad, **where):
    counted = np.ones((1, *x.shape[1:-1], 1))
    if count_include_pad:
        n = len(where["kernel"])
        pads = geometry.resolve_pads(
            x.shape[1:-1],
            where["kernel"],
            where["strides"],
            where["pads"],
            where["dilations"],
            where["auto_pad"],
        )
        counted = np.pad(counted, [(0, 0), *zip(pads[:n], pads[n:]), (0, 0)], constant_values=1)
        out = out_lengths(x, **where)
        taps = geometry.windows(
            counted, out, where["kernel"], where["strides"], (0,) * 2 * n, where["dilations"]
        )
    else:
        taps = _windows(counted, **where, fill=0)
    return sum(seen for _, seen in _windows(x, **where, fill=0)) / sum(seen for _, seen in taps)


@max_pool_indices.reference
def indices_reference(x, column_major, **where):
    spatial = x.shape[1:-1]
    n, c = np.arange(x.shape[0]), np.arange(x.shape[-1])
    place = np.arange(product(spatial)).reshape(spatial, order="F" if column_major else "C")
    place = (
        place[None, ..., None]
        + (n.reshape(-1, *[1] * len(spatial), 1) * x.shape[-1] + c) * place.size
    )
    y = at = None
    for (_, seen), (_, where_seen) in zip(
        _windows(x, **where, fill=_lowest(x)), _windows(place, **where, fill=-1)
    ):
        if y is None:
            y, at = seen.copy(), where_seen.copy()
        else:
            better = (seen > y) | (at < 0) & (where_seen >= 0)
            y, at = np.where(better, seen, y), np.where(better, where_seen, at)
    return y, at


@max_pool_indices.rule
def indices_rule(x, **attrs):
    y = _shape(x, **attrs)
    return y, y.like(dtype="i64")


def _pack(x, kernel, strides, pads, dilations, auto_pad):
    n = len(kernel)
    pads = geometry.resolve_pads(x.shape[1:-1], kernel, strides, pads, dilations, auto_pad)
    head = geometry.pack(x, kernel, strides, pads, dilations, "", 1)
    return head + struct.pack("3i", *geometry.three(pads[n:], 0))


def at_most_3d(kernel):
    return len(kernel) <= 3


_ROWS = {"x": "rows", "y": "rows"}
for _dtype, _strides in (("f32", _ROWS), ("f64", {}), ("i8", {}), ("u8", {})):

    @max_pool.kernel(_dtype, f"max_pool_{_dtype}", strides=_strides, accept=at_most_3d)
    def max_pack(x, kernel, strides, pads, dilations, auto_pad):
        return _pack(x, kernel, strides, pads, dilations, auto_pad) + struct.pack("i", 0)


for _dtype in ("f32", "f64", "i8", "u8"):

    @max_pool_indices.kernel(_dtype, f"max_pool_indices_{_dtype}", accept=at_most_3d)
    def indices_pack(x, kernel, strides, pads, dilations, auto_pad, column_major):
        return _pack(x, kernel, strides, pads, dilations, auto_pad) + struct.pack("i", column_major)


@average_pool.kernel("f32", "average_pool_f32", strides=_ROWS, accept=at_most_3d)
def average_pack(x, kernel, strides, pads, dilations, auto_pad, count_include_pad):
    return _pack(x, kernel, strides, pads, dilations, auto_pad) + struct.pack(
        "i", count_include_pad
    )


def _attrs(node) -> dict:
    attrs = geometry.from_onnx(node, node.rank(0) - 2, None)
    return {**attrs, "ceil_mode": bool(node.attr("ceil_mode", 0))}


def _pooled(g, x, op, **attrs):
    """op on x (N, C, *spatial), its outputs likewise."""
    rank = x.spec.rank
    made = g.add(op, [g.add("transpose", [x], perm=geometry.to_last(rank))], **attrs)
    made = made if isinstance(made, tuple) else (made,)
    return tuple(g.add("transpose", [y], perm=geometry.to_first(rank)) for y in made)


@max_pool.importer("MaxPool")
def max_from_onnx(g, node):
    if node.wants(1):
        return _pooled(
            g,
            node.inputs[0],
            max_pool_indices,
            **_attrs(node),
            column_major=bool(node.attr("storage_order", 0)),
        )
    return _pooled(g, node.inputs[0], max_pool, **_attrs(node))


@average_pool.importer("AveragePool")
def average_from_onnx(g, node):
    return _pooled(
        g,
        node.inputs[0],
        average_pool,
        **_attrs(node),
        count_include_pad=bool(node.attr("count_include_pad", 0)),
    )


@average_pool.importer("LpPool")
def lp_from_onnx(g, node):
    """The p-th root of the sum of p-th powers, which is a depthwise convolution with ones."""
    (x,) = node.inputs
    attrs, p, channels = _attrs(node), float(node.attr("p", 2)), node.spec(0).shape[1]
    if attrs.pop("ceil_mode") or x.spec.dtype != "f32" or not isinstance(channels, int):
        raise UnsupportedError("[LpPool] found ceil_mode or free channels; expected neither")
    ones = g.const(np.ones((int(np.prod(attrs["kernel"])), channels), np.float32))
    power = g.add("mul", [x, x]) if p == 2 else g.add("pow", [g.add("abs", [x]), g.const(p)])
    rank = x.spec.rank
    power = g.add("transpose", [power], perm=geometry.to_last(rank))
    total = g.add("conv_depthwise", [power, ones], **attrs)
    total = g.add("transpose", [total], perm=geometry.to_first(rank))
    return g.add("sqrt", [total]) if p == 2 else g.add("pow", [total, g.const(1 / p)])


def _global(name):
    def from_onnx(g, node):
        return g.add(name, node.inputs, axes=tuple(range(2, node.rank(0))), keepdims=True)

    return from_onnx


max_pool.importer("GlobalMaxPool")(_global("reduce_max"))
average_pool.importer("GlobalAveragePool")(_global("reduce_mean"))


@average_pool.importer("GlobalLpPool")
def global_lp_from_onnx(g, node):
    (x,) = node.inputs
    p, axes = node.attr("p", 2), tuple(range(2, node.rank(0)))
    if p in (1, 2):
        return g.add(f"reduce_l{p}", [x], axes=axes)
    power = g.add("pow", [g.add("abs", [x]), g.const(float(p), x.spec.dtype)])
    return g.add("pow", [g.add("reduce_sum", [power], axes=axes), g.const(1.0 / p, x.spec.dtype)])


@max_pool.fuse(P.max_pool(V("x")))
def axis_by_axis(g, m):
    """A large window one axis after the other: the same maxima from fewer comparisons."""
    attrs = m.root.attrs
    n, taps = len(attrs["kernel"]), product(attrs["kernel"])
    if taps < 16 or sum(k > 1 for k in attrs["kernel"]) < 2:
        return None
    y = m.x
    for axis in reversed(range(n)):
        part = {
            k: tuple(v if i == axis else 1 for i, v in enumerate(attrs[k]))
            for k in ("kernel", "strides", "dilations")
        }
        pads = tuple(p if i % n == axis else 0 for i, p in enumerate(attrs["pads"]))
        y = g.add(max_pool, [y], **{**attrs, **part, "pads": pads})
    return y


def _cases(rng):
    for shape, kernel, stride, pad, more in [
        ((1, 8, 8, 16), (2, 2), 2, 0, {}), ((2, 9, 7, 33), (3, 3), 2, 1, {}),
        ((1, 13, 13, 40), (5, 5), 1, 2, {}), ((1, 9, 8, 5), (3, 2), 2, 0, {"ceil_mode": True}),
        ((1, 7, 7, 4), (3, 3), 2, 1, {"ceil_mode": True}),
        ((1, 11, 10, 4), (3, 3), 2, 0, {"auto_pad": "same_upper"}),
        ((1, 11, 10, 4), (2, 3), 2, 0, {"auto_pad": "same_lower"}),
        ((1, 12, 12, 8), (3, 3), 1, 1, {"dilations": (2, 2)}), ((2, 20, 6), (4,), 4, 0, {}),
        ((1, 30, 1), (5,), 3, 2, {}), ((1, 4, 6, 5, 7), (2, 2, 2), 2, 0, {}),
        ((0, 4, 4, 8), (2, 2), 2, 0, {}), ((1, 3, 40, 130), (1, 3), 1, 0, {}),
        ((1, 7, 12, 70), (3, 3), 1, 1, {}), ((1, 6, 13, 40), (2, 2), 2, 0, {}),
        ((1, 9, 23, 33), (3, 3), 2, 1, {}), ((1, 3, 8, 12, 17), (2, 3, 5), 1, 1, {}),
    ]:  # fmt: skip
        n = len(kernel)
        yield dict(
            x=rng(*shape),
            kernel=kernel,
            strides=(stride,) * n,
            pads=(pad,) * 2 * n,
            dilations=more.pop("dilations", (1,) * n),
            **more,
        )


@max_pool.cases
def max_cases(rng):
    yield from _cases(rng)
    x = rng(1, 6, 12, 70)
    x[0, 2, 5, ::9] = np.nan
    yield dict(x=x, kernel=(2, 2), strides=(2, 2), pads=(0,) * 4, dilations=(1, 1))
    yield dict(
        x=(rng(1, 9, 9, 70) * 50).astype(np.int8),
        kernel=(3, 3),
        strides=(2, 2),
        pads=(1, 1, 1, 1),
        dilations=(1, 1),
    )
    yield dict(
        x=(rng(1, 9, 9, 7) * 50 + 99).astype(np.uint8),
        kernel=(2, 2),
        strides=(2, 2),
        pads=(0,) * 4,
        dilations=(1, 1),
    )


@max_pool.benches
@average_pool.benches
def benches(rng):
    for shape, kernel, stride in [
        ((1, 112, 112, 64), 3, 2),
        ((1, 40, 40, 96), 2, 2),
        ((1, 13, 13, 256), 5, 1),
    ]:
        pad = (kernel - 1) // 2
        yield dict(
            x=rng(*shape),
            kernel=(kernel,) * 2,
            strides=(stride,) * 2,
            pads=(pad,) * 4,
            dilations=(1, 1),
        )


@average_pool.cases
def average_cases(rng):
    yield from _cases(rng)
    for case in _cases(rng):
        yield {**case, "count_include_pad": True}


@max_pool_indices.cases
def indices_cases(rng):
    yield from _cases(rng)
    yield dict(
        x=rng(2, 6, 5, 3),
        kernel=(2, 2),
        strides=(2, 2),
        pads=(0,) * 4,
        dilations=(1, 1),
        column_major=True,
    )


for _op in (max_pool, average_pool):
    _op.rule(_shape)
    _op.batch(geometry.batch_first)
max_pool_indices.batch(lambda axes, ins, outs, attrs: None)  # the places count through all samples
