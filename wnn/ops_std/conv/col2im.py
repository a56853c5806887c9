"""y = post(sum over windows + bias): what windows hold, added up where they overlap, channels last:
y[n, i s - p + t d, m] sums x[n, i, t, m] over i and taps t.

x: (N, *spatial, taps * M), taps before channels    bias: (M,)    y: (N, *out, M), out and the
attributes as for conv_transpose
Source: ONNX Col2Im-18. A transposed convolution of few channels is a product and this: all columns
of the product are then used, where the phases of transposed.cc each fill M of 16.
"""

import itertools

import numpy as np

from ... import post as posts
from ...errors import ShapeError, UnsupportedError
from ...op import Op, Spec
from ...pattern import C, OneOf, P, V
from ...rules import differ, ints_of, reshape_attrs
from ...symbols import Sym
from . import geometry
from .transposed import placement

op = Op(
    "col2im",
    inputs="x bias? *extras",
    attrs={**geometry.ATTRS, "output_padding": ..., "output_size": None},
    posts=True,
    tol={"f32": (1e-5, 1e-5)},
)
op.batch(geometry.batch_first)


@op.rule
def rule(x, bias=None, *extras, kernel, post, **geometry):
    taps = int(np.prod(kernel))
    if x.rank != len(kernel) + 2 or (isinstance(x.shape[-1], int) and x.shape[-1] % taps):
        raise ShapeError(
            f"[col2im] found x {x}, kernel {kernel}; expected (N, *spatial, M * {taps}); check x"
        )
    m = x.shape[-1] // taps
    if bias is not None and (bias.rank != 1 or differ(bias.shape[0], m)):
        raise ShapeError(f"[col2im] found bias {bias}; expected ({m},); reshape it")
    out, _ = placement(x.shape[1:-1], kernel, **geometry)
    return Spec((x.shape[0], *out, m), x.dtype)


@op.reference
def reference(x, bias=None, *extras, kernel, post, strides, dilations, **geometry):
    size, m = x.shape[1:-1], x.shape[-1] // int(np.prod(kernel))
    out, before = placement(size, kernel, strides=strides, dilations=dilations, **geometry)
    y = np.zeros((x.shape[0], *out, m), x.dtype)
    for t, tap in enumerate(itertools.product(*map(range, kernel))):
        at = [
            np.arange(d) * s + k * dil - b
            for d, s, k, dil, b in zip(size, strides, tap, dilations, before)
        ]
        kept = [np.flatnonzero((a >= 0) & (a < o)) for a, o in zip(at, out)]
        to = np.ix_(range(len(x)), *[a[k] for a, k in zip(at, kept)], range(m))
        y[to] += x[np.ix_(range(len(x)), *kept, range(t * m, (t + 1) * m))]
    return posts.apply(y if bias is None else y + bias, post, [x, bias, *extras])


@op.kernel(
    "f32",
    "col2im_f32",
    strides={"x": "rows", "extras": "rows"},
    accept=lambda kernel: len(kernel) <= 3,
)
def pack(x, kernel, strides, pads, dilations, auto_pad, output_padding, output_size, post):
    _, before = placement(
        x.shape[1:-1], kernel, strides, pads, dilations, auto_pad, output_padding, output_size
    )
    return geometry.pack(x, kernel, strides, (*before, *before), dilations, "", 1) + posts.pack(
        post
    )


PANEL = 16  # columns that a product computes at once


@op.fuse(
    OneOf(
        P.conv_transpose(V("x"), C("w"), V("bias")),
        P.conv_transpose(V("x"), C("w")),
    )
)
def few_channels(g, m):
    """Transposed convolutions of so few channels that products of phases would be narrow."""
    attrs = {**m.root.attrs}
    _, rows, channels = m.w.shape
    taps = int(np.prod(attrs["kernel"]))
    side_by_side = attrs["kernel"] == attrs["strides"]  # transposed.cc has products for these
    if attrs.pop("groups") != 1 or side_by_side or attrs["post"] or channels > PANEL:
        return None
    w = m.w.array.reshape(taps, rows // taps, channels).swapaxes(0, 1)
    columns = g.add("linear", [m.x, g.const(np.ascontiguousarray(w.reshape(rows // taps, -1)))])
    return g.add(op, [columns, *m.root.inputs[2:]], **attrs)


@op.importer("Col2Im", since=18)
def from_onnx(g, node):
    x, image, block = node.inputs
    image, block = ints_of(image), ints_of(block)
    if image is None or block is None or any(isinstance(d, Sym) for d in (*image, *block)):
        raise UnsupportedError("[Col2Im] found sizes that are data; expected known ones")
    n, taps = len(block), int(np.prod(block))
    attrs = geometry.from_onnx(node, n, block)
    strides, pads, dilations = attrs["strides"], attrs["pads"], attrs["dilations"]
    reach = [(k - 1) * d + 1 for k, d in zip(block, dilations)]
    room = [i + b + a - r for i, b, a, r in zip(image, pads[:n], pads[n:], reach)]
    blocks = [r // s + 1 for r, s in zip(room, strides)]
    batch, rows = node.spec(0).shape[:2]
    split = (batch, rows // taps, taps, int(np.prod(blocks)))
    x = g.add(
        "transpose", [g.add("reshape", [x], **reshape_attrs(split, x.spec))], perm=(0, 3, 2, 1)
    )
    x = g.add("reshape", [x], **reshape_attrs((batch, *blocks, rows), x.spec))
    left = tuple(r % s for r, s in zip(room, strides))
    return g.add(
        "transpose", [g.add(op, [x], **attrs, output_padding=left)], perm=geometry.to_first(n + 2)
    )


@op.cases
def cases(rng):
    def case(x, m, kernel, stride=1, pad=0, dilation=1, output_padding=0, **more):
        n = len(kernel)
        return dict(
            x=rng(*x, m * int(np.prod(kernel))),
            bias=rng(m),
            kernel=kernel,
            strides=(stride,) * n,
            pads=(pad,) * 2 * n,
            dilations=(dilation,) * n,
            output_padding=(output_padding,) * n,
            **more,
        )

    yield case((1, 1, 1), 1, (1, 1))
    yield case((2, 30), 1, (16,), stride=8)
    yield case((1, 9), 2, (5,), stride=7, pad=2, output_padding=3)
    yield case((1, 6, 5), 3, (4, 4), stride=2, pad=1)
    yield case((2, 7, 6), 5, (3, 3), stride=2, dilation=2, pad=3, output_padding=1)
    yield case((1, 4, 5), 4, (3, 2), stride=2, auto_pad="same_lower")
    yield case((1, 3, 4, 5), 2, (3, 3, 3), stride=2, pad=1)
    yield case((0, 3, 4), 3, (4, 4), stride=2)
    yield case((1, 7, 8), 3, (3, 3), pad=4)
    post = (("add", 0.0, 0.0, 2), ("silu", 0.0, 0.0, -1))
    yield {**case((1, 6, 5), 3, (4, 4), stride=2, pad=1, post=post), "extras": [rng(1, 12, 10, 3)]}


@op.benches
def benches(rng):
    attrs = dict(pads=(0, 0), dilations=(1,), output_padding=(0,))
    yield dict(x=rng(1, 4000, 16), kernel=(16,), strides=(8,), **attrs)
    yield dict(x=rng(1, 400, 1024), kernel=(1024,), strides=(256,), **attrs)
