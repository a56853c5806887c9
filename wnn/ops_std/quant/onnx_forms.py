"""ONNX's operators on quantised tensors as dequantize, a float operator, and quantize.

The passes make integer kernels of such chains where the weights are constant. Where they are not,
the product is of whole numbers in float32, exact up to 2**24, and is scaled after the sum.
Source: ONNX QLinearConv-10, QLinearMatMul-10; onnxruntime's ContribOperators.md.
"""

import numpy as np

from .dequantize import op as dequantize


@dequantize.importer("QLinearConv")
def qlinear_conv(g, node):
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = node.inputs[:8]
    bias = node.input(8)
    xs = node.call("DequantizeLinear", x, x_scale, x_zero)
    ws = node.call("DequantizeLinear", w, w_scale, w_zero, axis=0)
    if bias is not None:
        scale = g.add("reshape", [g.add("mul", [x_scale, w_scale])], to=w_scale.shape)
        bias = node.call("DequantizeLinear", bias, scale, axis=0)
    y = node.call("Conv", xs, ws, bias, **conv_attrs(node))
    return node.call("QuantizeLinear", y, y_scale, y_zero)


def whole(node, x, zero, **axis):
    """x - zero in float32."""
    ones = np.ones(() if zero is None else zero.shape, np.float32)
    return node.call("DequantizeLinear", x, node.const(ones), zero, **axis)


def conv_attrs(node) -> dict:
    keys = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    return {k: node.attr(k) for k in keys if node.attr(k) is not None}


@dequantize.importer("QLinearMatMul", takes="")
def qlinear_matmul(g, node):
    a, b = node.inputs[:3], node.inputs[3:6]
    y_scale, y_zero = node.inputs[6:8]
    if b[0].const is None and a[1].spec.size == 1 and a[1].spec.dtype == "f32":
        y = node.call(
            "MatMul", whole(node, a[0], a[2]), whole(node, b[0], b[2], axis=node.rank(3) - 1)
        )
        scale = g.add("div", [g.add("mul", [a[1], b[1]]), y_scale])
        return node.call("QuantizeLinear", g.add("mul", [y, scale]), g.const(1.0), y_zero)
    a = node.call("DequantizeLinear", *a, axis=node.rank(0) - 2)
    b = node.call("DequantizeLinear", *b, axis=node.rank(3) - 1)
    return node.call("QuantizeLinear", node.call("MatMul", a, b), y_scale, y_zero)


@dequantize.importer("MatMulNBits", domain="com.microsoft")
def matmul_nbits(g, node):
    k, n, bits, size = (node.attr(a) for a in ("K", "N", "bits", "block_size"))
    a, packed, scales, zero = (node.input(i) for i in range(4))
    if (
        packed.const is None
        or (zero is not None and (zero.const is None or zero.spec.dtype != "u8"))
        or node.input(4) is not None
    ):
        return None
    blocks = -(-k // size)
    q = unpacked(packed.array.reshape(n, -1), bits)[:, : blocks * size].reshape(n, blocks, size)
    if zero is None:
        z = np.full((n, blocks), 1 << (bits - 1), np.uint8)
    else:
        z = unpacked(zero.array.reshape(n, -1), bits)[:, :blocks]
    scale = g.add("reshape", [scales], to=(n, blocks, 1))
    w = g.add(dequantize, [g.const(q), scale, g.const(z[:, :, None])])
    w = g.add("slice", [g.add("reshape", [w], to=(n, blocks * size))], window=((1, 0, k, 1),))
    y = node.call("MatMul", a, g.add("transpose", [w], perm=(1, 0)))
    bias = node.input(5)
    return y if bias is None else node.call("Add", y, bias)


def unpacked(rows: np.ndarray, bits: int) -> np.ndarray:
    """(rows, n) numbers of 2, 4 or 8 bits out of bytes, the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (
        ((rows[:, :, None] >> shifts) & ((1 << bits) - 1))
        .astype(np.uint8)
        .reshape(rows.shape[0], -1)
    )
