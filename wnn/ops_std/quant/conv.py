"""y = f(conv(x - x_zero, w + shift) + bias), integers up to f; channels last, any groups.

x: (N, *spatial, C) u8    w: (groups, taps * C/groups, M/groups) i8, taps before channels
bias: (M,) i32    shift: an integer, for weights that need more than eight bits
f(acc) = post(acc * scale * x_scale), a number of real value: scale: (M,) f32    x_scale: a number
dtype: "f32"; "u8": y = saturate(round(f / y_scale) + y_zero); "i32": the sums
y: (N, *out, M); padding counts as x_zero (a u8 number, 0 where absent). Else as for conv
Source: ONNX QLinearConv-10; Jacob et al. 2018 (arXiv:1712.05877).
"""

import struct

import numpy as np

from ... import post as posts
from ...errors import ShapeError
from ...op import Op, Spec
from ...pattern import OneOf, P, V
from ...rules import differ, may_be
from ..conv import geometry
from . import fusion

ATTRS = {**geometry.ATTRS, "shift": 0, "dtype": "f32", "y_scale": 1.0, "y_zero": 0}
INPUTS = "x w scale bias? x_zero? x_scale? *extras"

op = Op(
    "conv_quantized",
    inputs=INPUTS,
    attrs={**ATTRS, "groups": 1},
    posts=True,
    tol={"f32": (1e-5, 1e-5)},
)
op.fused_in = "integer kernels"
op.float64 = False


def columns(who: str, n, scale, bias=None, x_zero=None, x_scale=None, *extras: Spec | None) -> None:
    """Holds the inputs that belong to columns or to x against their number; ShapeError."""
    rows, single = (scale, bias), (x_zero, x_scale)
    if any(v is not None and not may_be(v.shape, (n,)) for v in rows) or any(
        v is not None and differ(v.size, 1) for v in single
    ):
        raise ShapeError(
            f"[{who}] found scale {scale}, bias {bias}, x_zero {x_zero}, x_scale {x_scale}; "
            f"expected ({n},) twice and one element twice; reshape them"
        )


@op.rule
def rule(x, w, scale, *rest, kernel, strides, pads, dilations, auto_pad, groups, **attrs):
    taps = int(np.prod(kernel))
    if w.rank != 3 or w.shape[0] != groups or differ(w.shape[1] * groups, taps * x.shape[-1]):
        raise ShapeError(
            f"[conv_quantized] found x {x}, w {w}, kernel {kernel}, groups {groups}; expected x "
            f"(N, *spatial, {w.shape[1]} * groups / {taps}); check the input's channels"
        )
    out = geometry.output_shape(
        "conv_quantized", x.shape[1:-1], kernel, strides, pads, dilations, auto_pad
    )
    columns("conv_quantized", groups * w.shape[2], scale, *rest)
    return Spec((x.shape[0], *out, groups * w.shape[2]), attrs["dtype"])


@op.reference
def reference(x, w, scale, bias=None, x_zero=None, x_scale=None, *extras, **attrs):
    kernel, strides, dilations = (attrs[k] for k in ("kernel", "strides", "dilations"))
    spatial, groups = x.shape[1:-1], attrs["groups"]
    args = (spatial, kernel, strides, attrs["pads"], dilations, attrs["auto_pad"])
    out = geometry.output_shape("conv_quantized", *args)
    pads = geometry.resolve_pads(*args)
    c, m = x.shape[-1] // groups, w.shape[2]
    weights = w.astype(np.float64) + attrs["shift"]
    centred = x.astype(np.float64) - (0 if x_zero is None else x_zero)
    acc = np.zeros((x.shape[0], *out, groups * m))
    for t, seen in geometry.windows(centred, out, kernel, strides, pads, dilations):
        for g in range(groups):
            part = seen[..., g * c : (g + 1) * c] @ weights[g, t * c : (t + 1) * c]
            acc[..., g * m : (g + 1) * m] += part
    inputs = [x, w, scale, bias, x_zero, x_scale, *extras]
    return finish(acc, inputs, attrs)


def finish(acc: np.ndarray, inputs: list, attrs: dict) -> np.ndarray:
    """y from the sums of products."""
    scale, bias, x_scale = inputs[2], inputs[3], inputs[5]
    if bias is not None:
        acc = acc + bias
    if attrs["dtype"] == "i32":
        return acc.astype(np.int32)
    y = acc.astype(np.float32) * (scale if x_scale is None else scale * x_scale)
    y = posts.apply(y, attrs["post"], inputs)
    if attrs["dtype"] == "f32":
        return y
    steps = np.rint(y.astype(np.float32) / np.float32(attrs["y_scale"]))
    return np.clip(steps + attrs["y_zero"], 0, 255).astype(np.uint8)


@op.batch
def batch(axes, ins, outs, attrs):
    if axes[0] != 0 or any(a is not None for a in axes[1:6]):
        return None
    return (
        [0] if all(a == 0 for a, s in zip(axes[6:], ins[6:], strict=True) if s.rank > 1) else None
    )


def packed(w: np.ndarray, taps: int) -> np.ndarray:
    """(groups, panels, K / 4, 16, 4): channels of each tap padded to fours, columns to sixteens."""
    groups, k, n = w.shape
    c = k // taps
    full = np.zeros((groups, taps, -(-c // 4) * 4, -(-n // 16) * 16), np.int8)
    full[:, :, :c, :n] = w.reshape(groups, taps, c, n)
    rows = full.reshape(groups, -1, 4, full.shape[-1] // 16, 16)
    return np.ascontiguousarray(rows.transpose(0, 3, 1, 4, 2))


def sums(w: np.ndarray) -> np.ndarray:
    """(M,): the sum of each column."""
    return w.sum(1, dtype=np.int32).reshape(-1)


@op.kernel(
    "u8 i8 f32 i32 u8 f32",
    "conv_quantized",
    strides={"x": "rows", "extras": "rows", "y": "rows"},
    accept=lambda kernel: len(kernel) <= 3,
    derive=lambda kernel: [
        ("w", f"u8 panels {int(np.prod(kernel))}", lambda w: packed(w, int(np.prod(kernel)))),
        ("w", "sums", sums),
    ],
)
def pack(x, attrs, groups):
    return payload(x, attrs, groups)


def payload(x: Spec, attrs: dict, groups: int) -> bytes:
    """ConvAttrs of conv.h, struct { float y_scale; int32 y_zero, shift, zero; }, posts."""
    head = geometry.pack(x, *[attrs[k] for k in geometry.ATTRS], groups)
    return (
        head
        + struct.pack("fiii", attrs["y_scale"], attrs["y_zero"], attrs["shift"], 0)
        + posts.pack(attrs["post"])
    )


@op.flops
def flops(w, out):
    return 2 * out.size * w.shape[1]


# -- how it comes about
@op.fuse(P.conv())
def from_conv(g, m):
    node = m.root
    x, w = node.inputs[:2]
    given, weights = fusion.dequantized(g, x), fusion.eight_bits(w)
    if given is None or weights is None:
        return None
    q, scale, shift = weights
    inputs, attrs = fusion.arguments(g, node, given, q, scale, shift)
    return g.add(op, inputs, **attrs)


@op.fuse(P.linear())
def from_linear(g, m):
    node = m.root
    x, w = node.inputs[:2]
    given = fusion.dequantized(g, x)
    weights = fusion.eight_bits(w, lambda part: part[None])
    if given is None or weights is None:
        return None
    q, scale, shift = weights
    inputs, attrs = fusion.arguments(g, node, given, q, scale, shift)
    return None if x.spec.rank < 2 else g.add(op, inputs, **attrs, **rows(x.spec.rank))


def rows(rank: int) -> dict:
    """Attributes of a convolution that is a product of (..., K) with a matrix."""
    n = rank - 2
    return {"kernel": (1,) * n, "strides": (1,) * n, "pads": (0,) * 2 * n, "dilations": (1,) * n}


_sums = OneOf(P.conv_quantized().named("y"), P.conv_depthwise_quantized().named("y"))


@op.fuse(P.mul(P.cast(_sums), V("s")))
def scaled(g, m):
    """Integer sums, cast and scaled: by a number that depends on x, and by constants."""
    node = m.y.producer
    factors = m.s.producer.inputs if m.s.producer and m.s.producer.op.name == "mul" else [m.s]
    scale, given = np.ones(m.y.shape[-1], np.float32), None
    for f in factors:
        if f.const is not None and f.spec.size in (1, f.shape[-1] if f.spec.rank else 1):
            scale = scale * f.array.reshape(-1)
        elif given is None and f.spec.size == 1:
            given = f if f.spec.rank == 0 else g.add("reshape", [f], to=())
        else:
            return None
    if node.attrs["dtype"] != "i32" or scale.shape != m.y.shape[-1:] or m.s.spec.dtype != "f32":
        return None
    inputs = [*node.inputs, None, None, None][:5]
    inputs[2] = g.const(np.ascontiguousarray(scale, np.float32))
    return g.add(node.op, [*inputs, given], **{**node.attrs, "dtype": "f32"})


@op.fuse(fusion.each("quantize", P.conv_quantized()))
def with_quantize(g, m):
    return fusion.quantized_output(g, m.root)


@op.cases
def cases(rng):
    def case(x, m, kernel, pad=0, stride=1, groups=1, wide=False, **more):
        n, c = len(kernel), x[-1] // groups
        return {
            "x": rng.integers(0, 256, x).astype(np.uint8),
            "w": rng.integers(-128, 128, (groups, int(np.prod(kernel)) * c, m // groups)).astype(
                np.int8
            ),
            "scale": np.abs(rng(m)) * np.float32(0.002) + np.float32(1e-4),
            "bias": rng.integers(-9999, 9999, m).astype(np.int32),
            "shift": 37 if wide else 0,
            "x_zero": np.uint8(117),
            "kernel": kernel,
            "strides": (stride,) * n,
            "pads": (pad,) * 2 * n,
            "dilations": (1,) * n,
            "groups": groups,
            **more,
        }

    u8 = {"dtype": "u8", "y_scale": 1.0, "y_zero": 128}
    yield case((1, 5, 5, 8), 24, (1, 1))
    yield case((1, 9, 7, 32), 130, (1, 1), wide=True)
    yield case((2, 9, 7, 16), 33, (3, 3), pad=1, wide=True, **u8)
    yield case((1, 17, 16, 3), 32, (3, 3), pad=1, stride=2, **u8)
    yield case((1, 13, 11, 6), 12, (3, 3), pad=1, groups=2, **u8)
    yield case((1, 8, 6, 12), 18, (3, 3), pad=1, groups=3)
    yield case((11, 20), 20, (), dtype="i32")
    yield case((1, 31, 20), 20, (5,), pad=2, x_scale=np.float32(0.5))
    yield case((1, 20, 100), 70, (1,), post=(("relu", 0.0, 0.0, -1),), **u8)
    clip = (("bias", 0.0, 0.0, 6), ("clip", 0.0, 6.0, -1))
    yield case((1, 20, 64), 70, (1,), post=clip, extras=[rng(70)], **{**u8, "y_scale": 0.05})
    silu = (("silu", 0.0, 0.0, -1), ("add", 0.0, 0.0, 6))
    yield case((1, 20, 65), 70, (1,), post=silu, extras=[rng(1, 20, 70)])
    yield case((0, 4, 4, 4), 4, (3, 3))
