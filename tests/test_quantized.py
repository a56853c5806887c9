"""Quantised models: they compute on the integers, and agree with dequantised arithmetic."""

import numpy as np
import pytest
from nets import model, node, weights

import wnn

RNG = np.random.default_rng(3)


def load(m, monkeypatch=None):
    if monkeypatch is not None:
        monkeypatch.setenv("WNN_SKIP_PASSES", "integer kernels")
    return wnn.NNForward(num_threads=1).load_from_proto(m)


def ops(net):
    return {n.op.name for n in net.graph.nodes}


class Quantised:
    """Builds chains of DequantizeLinear, operator, QuantizeLinear."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.nodes, self.consts = [], {}

    def const(self, name, value):
        self.consts[name] = np.asarray(value)
        return name

    def quantise(self, x, scale, zero):
        s, z = self.const(f"{x}_s", np.float32(scale)), self.const(f"{x}_z", self.dtype(zero))
        self.nodes.append(node("QuantizeLinear", [x, s, z], [f"{x}_q"]))
        self.nodes.append(node("DequantizeLinear", [f"{x}_q", s, z], [f"{x}_d"]))
        return f"{x}_d"

    def weight(self, name, w, zero=0):
        """Per output channel where zero is 0, else as u8 with that zero point."""
        rows = np.abs(w).reshape(len(w), -1).max(1) if zero == 0 else np.abs(w).max()
        scale = (rows / 127).astype(np.float32)
        shape = (-1, *[1] * (w.ndim - 1)) if scale.ndim else ()
        q = np.rint(w / scale.reshape(shape))
        kind = np.int8 if zero == 0 else np.uint8
        q = np.clip(q + zero, np.iinfo(kind).min, np.iinfo(kind).max).astype(kind)
        zeros = np.full(scale.shape, zero, kind)
        args = [self.const(name, q), self.const(f"{name}_s", scale), self.const(f"{name}_z", zeros)]
        self.nodes.append(node("DequantizeLinear", args, [f"{name}_d"], axis=0))
        return f"{name}_d"

    def op(self, kind, inputs, out, scale, zero, **attrs):
        self.nodes.append(node(kind, inputs, [out], **attrs))
        return self.quantise(out, scale, zero)


def conv_net(dtype, zero=0):
    q = Quantised(dtype)
    middle = 128 if dtype is np.uint8 else 0
    x = q.quantise("x", 0.02, middle)
    a = q.op(
        "Conv", [x, q.weight("w0", weights(8, 3, 3, 3), zero)], "a", 0.03, middle, pads=[1] * 4
    )
    q.nodes.append(
        node("Conv", [a, q.weight("w1", weights(8, 1, 3, 3))], ["b"], group=8, pads=[1] * 4)
    )
    b = q.op("Relu", ["b"], "r", 0.01, middle - 128)
    c = q.op("Conv", [b, q.weight("w2", weights(8, 8, 1, 1), zero)], "c", 0.02, middle + 7)
    s = q.op("Add", [c, a], "s", 0.04, middle)
    h = q.op("Sigmoid", [s], "h", 1 / 256, middle - 128)
    m = q.op("Mul", [s, h], "m", 0.04, middle)
    p = q.op("GlobalAveragePool", [m], "p", 0.02, middle)
    q.nodes.append(node("Flatten", [p], ["f"]))
    q.nodes.append(node("Gemm", ["f", q.weight("w3", weights(5, 8))], ["y"], transB=1))
    return model(q.nodes, [("x", ("N", 3, "H", "W"))], ["y", "m"], q.consts)


@pytest.mark.parametrize("zero", [0, 90])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_qdq_model_computes_on_integers_as_on_dequantised(dtype, zero, monkeypatch):
    m = conv_net(dtype, zero)
    net = load(m)
    assert {"conv_quantized", "conv_depthwise_quantized", "add_quantized", "lookup"} <= ops(net)
    assert not {"conv", "conv_depthwise", "linear", "sigmoid"} & ops(net)
    assert not net.fallback_ops()
    plain = load(m, monkeypatch)
    assert "conv_quantized" not in ops(plain)
    for shape in [(1, 3, 9, 11), (2, 3, 5, 4)]:
        x = RNG.standard_normal(shape).astype(np.float32)
        for got, want in zip(net.infer([x]), plain.infer([x]), strict=True):
            assert (
                np.abs(got - want).max() <= 0.08
            )  # two steps of the coarsest scale: ties that float sums miss


def test_qlinear_conv_is_exact():
    x = RNG.integers(0, 256, (1, 4, 6, 5)).astype(np.uint8)
    w = RNG.integers(-128, 128, (7, 4, 3, 3)).astype(np.int8)
    bias = RNG.integers(-999, 999, 7).astype(np.int32)
    ws = (RNG.random(7) * 0.01 + 0.001).astype(np.float32)
    consts = {
        "xs": np.float32(0.02), "xz": np.uint8(121), "w": w, "ws": ws, "wz": np.zeros(7, np.int8),
        "ys": np.float32(0.05), "yz": np.uint8(99), "b": bias,
    }  # fmt: skip
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
    n = node("QLinearConv", names, ["y"], pads=[1] * 4)
    net = load(model([n], [("x", x.shape, 2)], ["y"], consts))
    (got,) = net.infer([x])
    padded = np.pad(x.astype(np.int64) - 121, ((0, 0), (0, 0), (1, 1), (1, 1)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    sums = np.einsum("nchwij,mcij->nmhw", seen, w.astype(np.int64)) + bias[:, None, None]
    scale = np.float32(0.02) * ws / np.float32(0.05)
    want = np.rint(sums.astype(np.float32) * scale[:, None, None]) + 99
    np.testing.assert_array_equal(got, np.clip(want, 0, 255).astype(np.uint8))


def test_dynamic_quantisation_multiplies_integers():
    w = RNG.integers(0, 256, (40, 24)).astype(np.uint8)
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", ["q", "w", "z", "wz"], ["i"]),
        node("Cast", ["i"], ["f"], to=1),
        node("Mul", ["s", "ws"], ["scale"]),
        node("Mul", ["f", "scale"], ["m"]),
        node("Add", ["m", "b"], ["y"]),
    ]
    b = weights(24)
    consts = {"w": w, "wz": np.uint8(120), "ws": np.float32(0.01), "b": b}
    net = load(model(nodes, [("x", ("B", "T", 40))], ["y"], consts))
    assert ops(net) == {"dynamic_quantize", "conv_quantized"}
    x = RNG.standard_normal((2, 3, 40)).astype(np.float32)
    (y,) = net.infer([x])
    want = x @ ((w.astype(np.float32) - 120) * np.float32(0.01)) + b
    assert np.abs(y - want).max() < 0.1 * np.abs(want).max()


def test_requantising_by_the_same_scale_vanishes():
    q = Quantised(np.uint8)
    x = q.quantise("x", 0.02, 100)
    q.nodes.append(node("Reshape", [x, q.const("to", np.array([2, -1]))], ["r"]))
    q.consts |= {"r_s": q.consts["x_s"], "r_z": q.consts["x_z"]}
    q.quantise("r", 0.02, 100)
    net = load(model([*q.nodes, node("Neg", ["r_d"], ["y"])], [("x", (4, 6))], ["y"], q.consts))
    assert [n.op.name for n in net.graph.nodes].count("quantize") == 1
