"""y = conv(x - x_zero, w - w_zero) of integers, in int32; channels last, any groups.

x: (N, *spatial, C)    w: (groups, taps * C/groups, M/groups), taps before channels
x_zero?: a number    w_zero?: a number or (M,)    y: (N, *out, M) i32; attributes as for conv
Constant weights make it a conv_quantized.    Source: ONNX ConvInteger-10.
"""

import numpy as np

from ...op import Op
from ...pattern import P
from .. import conv as real
from ..conv import geometry
from . import depthwise, fusion
from .conv import op as quantized

op = Op("conv_integer", inputs="x w x_zero? w_zero?", attrs={**geometry.ATTRS, "groups": 1})
op.fused_in = "integer kernels"


@op.rule
def rule(x, w, x_zero=None, w_zero=None, **attrs):
    return real.conv.rule(x, w, **attrs, post=()).like(dtype="i32")


@op.reference
def reference(x, w, x_zero=None, w_zero=None, **attrs):
    x = x.astype(np.float64) - (0 if x_zero is None else x_zero)
    if w_zero is not None and w_zero.size > 1:
        w_zero = w_zero.reshape(w.shape[0], 1, w.shape[2])
    w = w.astype(np.float64) - (0 if w_zero is None else w_zero)
    return real.conv.reference(x, w, **attrs, post=()).astype(np.int64).astype(np.int32)


@op.importer("ConvInteger")
def from_onnx(g, node):
    x, w, x_zero, w_zero = (node.input(i) for i in range(4))
    rank, groups = node.rank(1), node.attr("group", 1)
    m, c, *kernel = node.spec(1).shape
    taps = int(np.prod(kernel))
    w = g.add("reshape", [w], to=(groups, m // groups, c, taps))
    w = g.add("transpose", [w], perm=(0, 3, 2, 1))
    w = g.add("reshape", [w], to=(groups, taps * c, m // groups))
    x = g.add("transpose", [x], perm=geometry.to_last(rank))
    attrs = geometry.from_onnx(node, rank - 2, tuple(kernel))
    y = g.add(op, [x, w, x_zero, w_zero], **attrs, groups=groups)
    return g.add("transpose", [y], perm=geometry.to_first(rank))


@op.fuse(P.conv_integer())
def of_constants(g, m):
    node = m.root
    x, w, x_zero, w_zero = [*node.inputs, None, None][:4]
    if w.const is None or (w_zero is not None and w_zero.const is None):
        return None
    groups, _, n = w.shape
    zero = np.int32(0) if w_zero is None else w_zero.array.astype(np.int32)
    zero = zero.reshape(groups, 1, n) if np.size(zero) > 1 else zero
    integers = w.array - zero
    attrs = dict(node.attrs)
    if n == 1 and groups == x.shape[-1] > 1 and w.shape[1] <= depthwise.MOST_TAPS:
        del attrs["groups"]
        each = np.ascontiguousarray(integers[..., 0].T, np.float32)
        return fusion.integer_sums(g, depthwise.op, x, each, x_zero, attrs)
    return fusion.integer_sums(g, quantized, x, integers, x_zero, attrs)


@op.cases
def cases(rng):
    for x, w, kernel, pad, groups, zero in [
        ((1, 6, 5, 8), (1, 72, 12), (3, 3), 1, 1, np.uint8(3)),
        ((2, 9, 6), (2, 9, 4), (3,), 0, 2, np.arange(8).astype(np.uint8)),
    ]:
        n = len(kernel)
        yield {
            "x": rng.integers(0, 256, x).astype(np.uint8),
            "w": rng.integers(0, 256, w).astype(np.uint8),
            "x_zero": np.uint8(100),
            "w_zero": zero,
            "kernel": kernel,
            "strides": (1,) * n,
            "pads": (pad,) * 2 * n,
            "dilations": (1,) * n,
            "groups": groups,
        }
