"""Transposed convolution, channels last: y[n, i s - p + t d, m] sums x[n, i, c] w[g, t, c, m] over
i, taps t and channels c; + bias[m], post.

x: (N, *spatial, C)    w: (groups, taps * C/groups, M/groups), taps before channels    bias: (M,)
y: (N, *out, M)
out = (in - 1) stride + (kernel - 1) dilation + 1 + output_padding - pads, or `output_size`, which
then decides the pads
kernel, strides, dilations, output_padding: per spatial axis    pads: all befores, then all afters
auto_pad: "", or "same_upper", "same_lower": out = in * stride
Source: ONNX ConvTranspose-11.
"""

import itertools

import numpy as np

from ... import post as posts
from ...errors import ShapeError
from ...op import Op, Spec
from . import geometry

op = Op(
    "conv_transpose",
    inputs="x w bias? *extras",
    attrs={**geometry.ATTRS, "groups": 1, "output_padding": ..., "output_size": None},
    posts=True,
    tol={"f32": (3e-5, 3e-5)},
)
op.batch(geometry.batch_first)


def placement(
    spatial, kernel, strides, pads, dilations, auto_pad, output_padding, output_size
) -> tuple[tuple, tuple]:
    """(output lengths, elements cut off before the first of them)."""
    n = len(spatial)
    if not len(kernel) == len(strides) == len(dilations) == len(output_padding) == n or any(
        s < 1 for s in (*kernel, *strides, *dilations)
    ):
        raise ShapeError(
            f"[conv_transpose] found kernel {kernel}, strides {strides}, dilations {dilations}, "
            f"output_padding {output_padding} for {n} "
            "spatial axes; expected positive numbers, one per axis; correct the attributes"
        )
    full = [
        (d - 1) * s + (k - 1) * dil + 1 + o
        for d, k, s, dil, o in zip(spatial, kernel, strides, dilations, output_padding)
    ]
    if output_size is None and not auto_pad:
        out = tuple(f - b - a for f, b, a in zip(full, pads[:n], pads[n:]))
        return tuple(max(o, 0) if isinstance(o, int) else o for o in out), pads[:n]
    out = tuple(output_size or (d * s for d, s in zip(spatial, strides)))
    total = [f - o for f, o in zip(full, out)]
    return out, tuple(t // 2 if auto_pad == "same_upper" else t - t // 2 for t in total)


@op.rule
def rule(
    x,
    w,
    bias=None,
    *extras,
    kernel,
    strides,
    pads,
    dilations,
    auto_pad,
    groups,
    output_padding,
    output_size,
    post,
):
    m = geometry.channels("conv_transpose", x, w, bias, kernel, groups)
    out, _ = placement(
        x.shape[1:-1], kernel, strides, pads, dilations, auto_pad, output_padding, output_size
    )
    return Spec((x.shape[0], *out, m), x.dtype)


@op.reference
def reference(
    x,
    w,
    bias=None,
    *extras,
    kernel,
    strides,
    pads,
    dilations,
    auto_pad,
    groups,
    output_padding,
    output_size,
    post,
):
    size, c, m = x.shape[1:-1], x.shape[-1] // groups, w.shape[2]
    out, before = placement(
        size, kernel, strides, pads, dilations, auto_pad, output_padding, output_size
    )
    reach = [
        (d - 1) * s + (k - 1) * dil + 1 for d, k, s, dil in zip(size, kernel, strides, dilations)
    ]
    # zeros around x: every output then has all taps of its phase
    ring = [(r + abs(b) + o) // s + 1 for r, b, o, s in zip(reach, before, out, strides)]
    x = np.pad(x, [(0, 0), *[(r, r) for r in ring], (0, 0)])
    y = np.zeros(
        (x.shape[0], *[r + 2 * s * n for r, s, n in zip(reach, strides, ring)], groups * m), x.dtype
    )
    for t, offsets in enumerate(itertools.product(*map(range, kernel))):
        at = [
            slice(o * dil, o * dil + (d - 1) * s + 1, s)
            for o, dil, d, s in zip(offsets, dilations, x.shape[1:-1], strides)
        ]
        for g in range(groups):
            y[(slice(None), *at, slice(g * m, (g + 1) * m))] += (
                x[..., g * c : (g + 1) * c] @ w[g, t * c : (t + 1) * c]
            )
    y = y[
        (
            slice(None),
            *[slice(n * s + b, n * s + b + o) for n, s, b, o in zip(ring, strides, before, out)],
        )
    ]
    if bias is not None:
        y = y + bias
    return posts.apply(y, post, [x, w, bias, *extras])


@op.kernel(
    "f32 f32",
    "conv_transpose_f32",
    strides={"x": "rows", "extras": "rows", "y": "rows", "w": "any"},
    pack_weights={"w": 1},
    accept=lambda kernel: len(kernel) <= 3,
)
def pack(x, kernel, strides, pads, dilations, auto_pad, groups, output_padding, output_size, post):
    _, before = placement(
        x.shape[1:-1], kernel, strides, pads, dilations, auto_pad, output_padding, output_size
    )
    return geometry.pack(
        x, kernel, strides, (*before, *before), dilations, "", groups
    ) + posts.pack(post)


@op.flops
def flops(x, w):
    return 2 * (x.size // max(x.shape[-1], 1)) * w.size


@op.importer("ConvTranspose", takes="")
def from_onnx(g, node):
    x, w, bias = (*node.inputs, None)[:3]
    rank = node.rank(1)
    c, m, *kernel = node.spec(1).shape
    groups = node.attr("group", 1)
    if c % groups:
        raise ShapeError(
            f"[ConvTranspose] found {c} input channels in {groups} groups (node {node.name!r}); "
            "expected a multiple; correct group"
        )
    attrs = geometry.from_onnx(node, rank - 2, tuple(kernel))
    size = node.attr("output_shape")
    attrs["output_size"] = tuple(size[2 - rank :]) if size else None
    attrs["output_padding"] = tuple(node.attr("output_padding") or (0,) * (rank - 2))
    taps = int(np.prod(kernel))
    w = g.add("reshape", [w], to=(groups, c // groups, m, taps))
    w = g.add(
        "reshape", [g.add("transpose", [w], perm=(0, 3, 1, 2))], to=(groups, taps * c // groups, m)
    )
    x = g.add("transpose", [x], perm=geometry.to_last(rank))
    y = g.add(op, [x, w, bias], **attrs, groups=groups)
    return g.add("transpose", [y], perm=geometry.to_first(rank))


@op.cases
def cases(rng):
    def case(x, m, kernel, stride=1, pad=0, dilation=1, groups=1, output_padding=0, **more):
        n = len(kernel)
        return dict(
            x=rng(*x),
            w=rng(groups, int(np.prod(kernel)) * x[-1] // groups, m // groups),
            bias=rng(m),
            kernel=kernel,
            strides=(stride,) * n,
            pads=(pad,) * 2 * n,
            dilations=(dilation,) * n,
            groups=groups,
            output_padding=(output_padding,) * n,
            **more,
        )

    yield case((1, 1, 1, 1), 1, (1, 1))
    yield case((2, 5, 7, 16), 33, (2, 2), stride=2)
    yield case((1, 6, 5, 24), 17, (4, 4), stride=2, pad=1)
    yield case((1, 6, 5, 8), 12, (3, 3), stride=2, pad=1, output_padding=1)
    yield case((1, 4, 5, 8), 12, (2, 2), stride=3)
    yield case((1, 7, 6, 12), 18, (3, 3), stride=2, groups=3)
    yield case((1, 5, 5, 6), 4, (3, 3), dilation=2, pad=1)
    yield case((1, 5, 5, 6), 4, (3, 3), stride=2, auto_pad="same_upper")
    yield case((1, 5, 5, 6), 4, (3, 3), stride=2, output_size=(10, 11))
    yield case((1, 20, 10), 6, (16,), stride=8, pad=4)
    yield case((1, 3, 4, 5, 4), 6, (2, 2, 2), stride=2)
    yield case((0, 3, 4, 5), 6, (2, 2), stride=2)
    yield case((2, 5, 7, 24), 1, (2, 2), stride=2)
    yield case((2, 5, 7, 12), 16, (2, 2), stride=2)
    yield case((1, 4, 9, 8), 32, (3, 3), stride=3, post=(("relu", 0.0, 0.0, -1),))
    yield {
        **case(
            (1, 4, 9, 8), 5, (2, 2), stride=2, post=(("add", 0.0, 0.0, 3), ("prelu", 0.0, 0.0, 4))
        ),
        "extras": [rng(1, 8, 18, 5), rng(5)],
    }
    yield case((1, 5, 5, 6), 4, (3, 3), stride=2, post=(("silu", 0.0, 0.0, -1),))
