"""y = f(depthwise conv(x - x_zero, w) + bias) with integers up to f; channels last.

x: (N, *spatial, C) u8    w: (taps, C) f32, which holds integers    all else as for conv_quantized
Source: ONNX QLinearConv-10 with group = C.
"""

import numpy as np

from ...errors import ShapeError
from ...op import Op, Spec
from ...pattern import P
from ...rules import may_be
from ..conv import geometry
from . import conv, fusion

op = Op("conv_depthwise_quantized", conv.INPUTS, attrs=conv.ATTRS, posts=True, tol=conv.op.tol)
op.fused_in = "integer kernels"
op.float64 = False
MOST_TAPS = 256  # sums of products stay below 2^24, exact in f32


@op.rule
def rule(x, w, scale, *rest, kernel, strides, pads, dilations, auto_pad, **attrs):
    if not may_be(w.shape, (int(np.prod(kernel)), x.shape[-1])):
        raise ShapeError(
            f"[conv_depthwise_quantized] found x {x}, w {w}, kernel {kernel}; expected x "
            f"(N, *spatial, {w.shape[-1]}); check the input's channels"
        )
    out = geometry.output_shape(
        "conv_depthwise_quantized", x.shape[1:-1], kernel, strides, pads, dilations, auto_pad
    )
    conv.columns("conv_depthwise_quantized", w.shape[1], scale, *rest)
    return Spec((x.shape[0], *out, w.shape[1]), attrs["dtype"])


@op.reference
def reference(x, w, scale, bias=None, x_zero=None, x_scale=None, *extras, **attrs):
    kernel, strides, dilations = (attrs[k] for k in ("kernel", "strides", "dilations"))
    args = (x.shape[1:-1], kernel, strides, attrs["pads"], dilations, attrs["auto_pad"])
    out = geometry.output_shape("conv_depthwise_quantized", *args)
    pads = geometry.resolve_pads(*args)
    centred = x.astype(np.float64) - (0 if x_zero is None else x_zero)
    acc = np.zeros((x.shape[0], *out, x.shape[-1]))
    for t, seen in geometry.windows(centred, out, kernel, strides, pads, dilations):
        acc += seen * w[t]
    return conv.finish(acc, [x, w, scale, bias, x_zero, x_scale, *extras], attrs)


op.batch(conv.batch)


@op.kernel(
    "u8 f32 f32 i32 u8 f32",
    "conv_depthwise_quantized",
    strides={"x": "rows", "extras": "rows", "y": "rows"},
    accept=lambda kernel: len(kernel) <= 3 and np.prod(kernel) <= MOST_TAPS,
    derive=lambda: [("w", "sums", lambda w: w.sum(0).astype(np.int32))],
)
def pack(x, attrs):
    return conv.payload(x, attrs, x.shape[-1])


@op.flops
def flops(w, out):
    return 2 * out.size * w.shape[0]


@op.fuse(P.conv_depthwise())
def from_conv(g, m):
    node = m.root
    x, w = node.inputs[:2]
    given, weights = fusion.dequantized(g, x), fusion.centred(w)
    if given is None or weights is None or w.shape[0] > MOST_TAPS or abs(weights[0]).max() > 256:
        return None
    q, scale = weights
    inputs, attrs = fusion.arguments(g, node, given, np.ascontiguousarray(q, np.float32), scale, 0)
    return g.add(op, inputs, **attrs)


@op.fuse(fusion.each("quantize", P.conv_depthwise_quantized()))
def with_quantize(g, m):
    return fusion.quantized_output(g, m.root)


@op.cases
def cases(rng):
    for x, kernel, stride, pad, more in [
        ((1, 9, 11, 16), (3, 3), 1, 1, {}),
        ((2, 12, 13, 33), (3, 3), 2, 1, {"dtype": "u8", "y_zero": 3}),
        ((1, 14, 13, 72), (5, 5), 1, 2, {"dtype": "u8", "y_zero": 100}),
        ((1, 14, 15, 20), (5, 5), 2, 2, {"dtype": "u8", "post": (("relu", 0.0, 0.0, -1),)}),
        ((1, 3, 4, 7), (3, 3), 1, 1, {"post": (("silu", 0.0, 0.0, -1),)}),
        ((1, 40, 24), (31,), 1, 15, {}),
        ((1, 4, 5, 6, 8), (3, 3, 3), 1, 1, {}),
    ]:
        n, c = len(kernel), x[-1]
        yield {
            "x": rng.integers(0, 256, x).astype(np.uint8),
            "w": rng.integers(-200, 200, (int(np.prod(kernel)), c)).astype(np.float32),
            "scale": np.abs(rng(c)) * np.float32(0.002) + np.float32(1e-4),
            "bias": rng.integers(-9999, 9999, c).astype(np.int32),
            "x_zero": np.uint8(117),
            "kernel": kernel,
            "strides": (stride,) * n,
            "pads": (pad,) * 2 * n,
            "dilations": (1,) * n,
            **more,
        }
