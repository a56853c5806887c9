"""y = post(depthwise conv(x, w) + bias): each channel by its own kernel, channels last.

x: (N, *spatial, C)    w: (taps, C)    bias: (C,)    y: (N, *out, C); attributes as for conv
Source: ONNX Conv-11 with group = C; Howard et al. 2017 (arXiv:1704.04861).
"""

import numpy as np

from ... import post as posts
from ...errors import ShapeError
from ...op import Op, Spec
from ...rules import differ
from . import geometry
from .chain import CHAIN

op = Op(
    "conv_depthwise",
    inputs="x w bias? *extras",
    attrs=geometry.ATTRS,
    posts=True,
    tol={"f32": (2e-5, 2e-5)},
)


@op.rule
def rule(x, w, bias=None, *extras, kernel, strides, pads, dilations, auto_pad, post):
    if (
        w.rank != 2
        or x.rank != len(kernel) + 2
        or w.shape[0] != int(np.prod(kernel))
        or differ(w.shape[1], x.shape[-1])
    ):
        raise ShapeError(
            f"[conv_depthwise] found x {x}, w {w}, kernel {kernel}; expected x (N, *spatial, "
            f"{w.shape[-1]}); check the input's channels"
        )
    if bias is not None and bias.shape != w.shape[1:]:
        raise ShapeError(
            f"[conv_depthwise] found bias {bias}; expected ({w.shape[1]},), one per channel; "
            "reshape it"
        )
    out = geometry.output_shape(
        "conv_depthwise", x.shape[1:-1], kernel, strides, pads, dilations, auto_pad
    )
    return Spec((x.shape[0], *out, w.shape[1]), x.dtype)


@op.reference
def reference(x, w, bias=None, *extras, kernel, strides, pads, dilations, auto_pad, post):
    out = geometry.output_shape(
        "conv_depthwise", x.shape[1:-1], kernel, strides, pads, dilations, auto_pad
    )
    pads = geometry.resolve_pads(x.shape[1:-1], kernel, strides, pads, dilations, auto_pad)
    y = np.zeros((x.shape[0], *out, x.shape[-1]), x.dtype)
    inside = geometry.windows(np.ones(x.shape, bool), out, kernel, strides, pads, dilations)
    for (t, seen), (_, real) in zip(
        geometry.windows(x, out, kernel, strides, pads, dilations), inside
    ):
        y += np.where(real, seen * w[t], 0)  # padding takes no part, whatever the weight
    if bias is not None:
        y = y + bias
    return posts.apply(y, post, [x, w, bias, *extras])


op.batch(geometry.batch_first)


MANY_TAPS, COMMON = 15, (3, 5, 7)  # COMMON: kernels that depthwise.cc knows


def many(kernel, strides, dilations):
    """Whether bringing what is read side by side pays, as measured on Zen 5 (depthwise_many.cc)."""
    rows = len(kernel) <= 3 and np.prod(kernel[:-1]) <= geometry.KERNEL_ROWS
    fits = rows and strides[-1] == dilations[-1]
    return fits and np.prod(kernel) >= MANY_TAPS and kernel[-1] not in COMMON


_STRIDES = {"x": "rows", "extras": "rows", "y": "rows"}


@op.kernel(
    "f32 f32",
    "conv_depthwise_f32",
    strides=_STRIDES,
    accept=lambda kernel: len(kernel) <= 3,
    chain=CHAIN,
)
@op.kernel("f32 f32", "conv_depthwise_many_f32", strides=_STRIDES, accept=many)
def pack(x, kernel, strides, pads, dilations, auto_pad, post):
    return geometry.pack(x, kernel, strides, pads, dilations, auto_pad, x.shape[-1]) + posts.pack(
        post
    )


@op.flops
def flops(w, out):
    return 2 * out.size * w.shape[0]


@op.cases
def cases(rng):
    for x, kernel, stride, pad, dilation in [
        ((1, 5, 6, 16), (3, 3), 1, 1, 1),
        ((2, 9, 8, 33), (3, 3), 2, 1, 1),
        ((1, 14, 13, 48), (5, 5), 1, 2, 1),
        ((1, 7, 7, 20), (7, 7), 1, 3, 1),
        ((1, 12, 12, 5), (3, 3), 1, 2, 2),
        ((1, 30, 24), (31,), 1, 15, 1),
        ((2, 19, 13, 21), (9, 9), 1, 4, 1),
        ((1, 9, 40, 20), (4, 6), 2, 3, 2),
        ((1, 3, 6, 7, 9), (2, 3, 4), 1, 1, 1),
        ((2, 241, 320), (25,), 1, 12, 1),
        ((1, 5, 300), (26,), 1, 24, 1),
        ((2, 17, 7), (3,), 2, 1, 1),
        ((1, 4, 5, 6, 8), (3, 3, 3), 1, 1, 1),
        ((0, 4, 4, 8), (3, 3), 1, 1, 1),
        ((2, 7, 19, 35), (3, 3), 1, 0, 1),
        ((1, 9, 15, 24), (3, 3), 2, (0, 0, 1, 1), 1),
        ((2, 10, 12, 16), (3, 3), 1, (1, 0, 0, 1), 1),
        ((2, 11, 9, 16), (3, 3), 1, 1, 1),
        ((1, 6, 6, 40), (3, 3), 1, (0, 0, 1, 1), 1),
        ((1, 14, 10, 200), (3, 3), 1, 1, 1),
        ((1, 9, 19, 40), (5, 5), 1, (3, 4, 4, 2), 2),
        ((1, 12, 15, 17), (3, 3), 1, 3, 3),
        ((2, 70, 33), (7,), 1, 24, 8),
        ((1, 6, 31, 20), (5, 5), 2, 2, 1),
        ((1, 12, 10, 20), (5, 4), 1, (3, 2, 1, 0), (2, 1)),
    ]:
        n = len(kernel)
        yield dict(
            x=rng(*x),
            w=rng(int(np.prod(kernel)), x[-1]),
            bias=rng(x[-1]),
            kernel=kernel,
            strides=(stride,) * n,
            pads=(pad,) * 2 * n if isinstance(pad, int) else pad,
            dilations=(dilation,) * n if isinstance(dilation, int) else dilation,
        )


@op.benches
def benches(rng):
    for x, kernel, stride in [
        ((1, 112, 112, 32), (3, 3), 1),
        ((1, 56, 56, 144), (3, 3), 2),
        ((1, 14, 14, 384), (5, 5), 1),
        ((1, 400, 256), (31,), 1),
        ((1, 200, 1024), (31,), 1),
    ]:
        n = len(kernel)
        yield dict(
            x=rng(*x),
            w=rng(int(np.prod(kernel)), x[-1]),
            bias=rng(x[-1]),
            kernel=kernel,
            strides=(stride,) * n,
            pads=(kernel[0] // 2,) * 2 * n,
            dilations=(1,) * n,
        )
