"""Passes on convolutions: which become one, what goes into them, and where channels are last."""

import numpy as np
import pytest
from nets import SWITCHABLE, conv_net, load, model, node, ops

from wnn.onnx_model import OnnxModel

RNG = np.random.default_rng(0)


def test_convolutions_fuse_to_channels_last():
    names = ops(load(conv_net()))
    assert (
        "mul" not in names and "add" not in names and "relu" not in names
    )  # folded, or post-operations
    assert names.count("transpose") <= 2  # the input's, and the output z's


def test_convolution_of_phases_is_one_of_the_picture():
    places = [(0, 0), (1, 0), (0, 1), (1, 1)]
    consts = {"two": np.array([2]), "end": np.array([2**31 - 1])}
    nodes = []
    for q, (i, j) in enumerate(places):
        nodes.append(node("Slice", ["x", f"s{i}", "end", "a2", "two"], [f"r{q}"]))
        nodes.append(node("Slice", [f"r{q}", f"s{j}", "end", "a3", "two"], [f"p{q}"]))
    consts |= {f"{n}{i}": np.array([i]) for n, i in [("s", 0), ("s", 1), ("a", 2), ("a", 3)]}
    consts["w"] = RNG.standard_normal((16, 12, 3, 3)).astype(np.float32)
    consts["b"] = RNG.standard_normal(16).astype(np.float32)
    conv = node("Conv", ["c", "w", "b"], ["y"], pads=[1, 1, 1, 1])
    nodes += [node("Concat", [f"p{q}" for q in range(4)], ["c"], axis=1), conv]
    net = load(model(nodes, [("x", ("n", 3, 12, 20))], ["y"], consts))
    assert "concat" not in ops(net) and "slice" not in ops(net)
    x = RNG.standard_normal((1, 3, 12, 20)).astype(np.float32)
    phases = np.concatenate([x[:, :, i::2, j::2] for i, j in places], 1)
    plain = load(model([conv], [("c", (1, 12, 6, 10))], ["y"], {k: consts[k] for k in "wb"}))
    np.testing.assert_allclose(net.infer([x])[0], plain.infer([phases])[0], 1e-4, 1e-5)


@pytest.mark.parametrize("size", [(1, 24, 9, 20), ("n", 24, "h", "w")])
def test_narrow_convolutions_of_one_input_become_one(size):
    consts = {"w": RNG.standard_normal((24, 24, 3, 3)).astype(np.float32)}
    nodes = [node("Conv", ["x", "w"], ["z"], pads=[1] * 4)]
    for i, n in enumerate([1, 4, 10, 1]):  # a detector's heads: 1x1, then depthwise 3x3
        consts[f"w{i}"] = RNG.standard_normal((n, 24, 1, 1)).astype(np.float32)
        consts[f"d{i}"] = RNG.standard_normal((n, 1, 3, 3)).astype(np.float32)
        consts[f"b{i}"] = RNG.standard_normal(n).astype(np.float32)
        bias = [f"b{i}"] if i != 2 else []
        nodes.append(node("Conv", ["z", f"w{i}", *bias], [f"p{i}"]))
        nodes.append(node("Conv", [f"p{i}", f"d{i}", f"b{i}"], [f"y{i}"], group=n, pads=[1] * 4))
    nodes.append(node("Sigmoid", ["y3"], ["s"]))
    outputs = ["y0", "y1", "y2", "s"]
    net = load(model(nodes, [("x", size)], outputs, consts))
    assert ops(net).count("conv") == 2
    assert ops(net).count("conv_depthwise") == 1
    x = RNG.standard_normal((1, 24, 9, 20)).astype(np.float32)
    apart = [load(model(nodes, [("x", size)], [y], consts)) for y in outputs]
    for y, other in zip(net.infer([x]), apart, strict=True):
        np.testing.assert_allclose(y, other.infer([x])[0], 2e-4, 2e-4)


@pytest.mark.parametrize(
    "groups, kernels, dilation",
    [(1, (3, 1), 1), (12, (3, 1), 1), (4, (3, 3, 1), 2), (12, (5, 3, 1), 1), (1, (1, 1), 1)],
)
def test_convolutions_of_one_input_that_are_summed_become_one(groups, kernels, dilation):
    c, size = 12, (2, 12, 9, 10)
    normal = lambda *shape: RNG.standard_normal(shape).astype(np.float32)  # noqa: E731
    consts = {
        n: RNG.uniform(0.5, 1.5, c).astype(np.float32) for n in ("gain", "shift", "mean", "var")
    }
    consts |= {"first": normal(c, c, 1, 1), "scale": normal(c, 1, 1)}
    nodes = [node("Conv", ["x", "first"], ["z"])]
    nodes.append(node("BatchNormalization", ["z", "gain", "shift", "mean", "var"], ["s0"]))
    for i, k in enumerate(kernels):
        consts |= {f"w{i}": normal(c, c // groups, k, k), f"b{i}": normal(c)}
        at = {"pads": [k // 2 * dilation] * 4, "dilations": [dilation] * 2, "group": groups}
        nodes.append(node("Conv", ["z", f"w{i}", f"b{i}"], [f"y{i}"], **at))
    parts = [f"y{i}" for i in range(len(kernels))]
    apart = load(model(nodes, [("x", size)], ["s0", *parts], consts))
    for i, part in enumerate(parts):
        nodes.append(node("Sub" if i else "Add", [f"s{i}", part], [f"s{i + 1}"]))
    nodes.append(node("Mul", [f"s{len(parts)}", "scale"], ["y"]))
    net = load(model(nodes, [("x", size)], ["y"], consts))
    joined = "conv_depthwise" if groups == c else "conv"
    assert ops(net) == ["transpose", "conv", joined, "transpose"]
    x = normal(*size)
    s, first, *rest = apart.infer([x])
    np.testing.assert_allclose(
        net.infer([x])[0], (s + first - sum(rest)) * consts["scale"], 1e-4, 1e-4
    )


@pytest.mark.parametrize(
    "other",
    [
        {"kernel_shape": [1, 5], "pads": [0, 2, 0, 2]},  # wider than the first
        {"pads": [2, 2, 2, 2], "dilations": [2, 2]},  # on another grid
        {"pads": [1, 1, 1, 1], "group": 2},
    ],
)
def test_convolutions_of_which_none_covers_the_other_stay(other):
    groups, (kh, kw) = other.get("group", 1), other.get("kernel_shape", (3, 3))
    consts = {
        "v": RNG.standard_normal((8, 8, 3, 3)).astype(np.float32),
        "w": RNG.standard_normal((8, 8 // groups, kh, kw)).astype(np.float32),
    }
    nodes = [
        node("Conv", ["x", "v"], ["a"], pads=[1] * 4),
        node("Conv", ["x", "w"], ["b"], **other),
        node("Add", ["a", "b"], ["y"]),
    ]
    net = load(model(nodes, [("x", (1, 8, 7, 6))], ["y"], consts))
    assert ops(net).count("conv") == 2
    x = RNG.standard_normal((1, 8, 7, 6)).astype(np.float32)
    a, b = load(model(nodes[:2], [("x", (1, 8, 7, 6))], ["a", "b"], consts)).infer([x])
    np.testing.assert_allclose(net.infer([x])[0], a + b, 1e-4, 1e-4)


def test_what_is_expanded_to_another_operands_shape_stays_small():
    consts = {"w": RNG.standard_normal((8, 8, 1, 1)).astype(np.float32), "axes": np.array([2, 3])}
    nodes = [
        node("Conv", ["x", "w"], ["z"]),
        node("ReduceMean", ["z", "axes"], ["mean"], keepdims=1),
        node("Sigmoid", ["mean"], ["gate"]),
        node("Shape", ["z"], ["size"]),
        node("Expand", ["gate", "size"], ["wide"]),
        node("Mul", ["z", "wide"], ["m"]),
        node("Conv", ["m", "w"], ["y"]),
    ]
    net = load(model(nodes, [("x", ("n", 8, "h", "w"))], ["y"], consts))
    assert "expand" not in ops(net) and ops(net).count("transpose") == 2
    x = RNG.standard_normal((2, 8, 5, 6)).astype(np.float32)
    w = consts["w"][:, :, 0, 0]
    z = np.einsum("oc,nchw->nohw", w, x)
    m = z / (1 + np.exp(-z.mean((2, 3), keepdims=True)))
    np.testing.assert_allclose(net.infer([x])[0], np.einsum("oc,nchw->nohw", w, m), 1e-4, 1e-4)


@pytest.mark.parametrize(
    "size, kernel, attrs",
    [
        ((2, 24, 40), (16,), {"strides": [8], "pads": [4, 4]}),
        ((1, 20, 7, 6), (4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((1, 16, 5, 6), (3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ],
)
def test_transposed_convolution_of_few_channels_is_a_product(size, kernel, attrs):
    consts = {"w": RNG.standard_normal((size[1], 3, *kernel)).astype(np.float32)}
    consts["b"] = RNG.standard_normal(3).astype(np.float32)
    up = node("ConvTranspose", ["x", "w", "b"], ["z"], **attrs)
    net = load(model([up, node("Tanh", ["z"], ["y"])], [("x", size)], ["y"], consts))
    assert {"linear", "col2im"} <= {*ops(net)} and not {"conv_transpose", "tanh"} & {*ops(net)}
    wide = {"w": np.tile(consts["w"], (1, 6, *[1] * len(kernel))), "b": np.tile(consts["b"], 6)}
    plain = load(model([up], [("x", size)], ["z"], wide))
    assert "conv_transpose" in ops(plain)
    x = RNG.standard_normal(size).astype(np.float32)
    expected = np.tanh(plain.infer([x])[0][:, :3])
    np.testing.assert_allclose(net.infer([x])[0], expected, 1e-4, 1e-5)


def test_what_grows_is_transposed_before_it_does():
    m = OnnxModel()
    small = m.Conv("x", m.random(20, 3, 1, 1))
    large = m.Resize(small, "", "", np.array([1, 20, 24, 30]), mode="linear")
    net = load(m.finish(large, x=(np.float32, [1, 3, 6, 10])))
    assert ops(net)[-2:] == ["transpose", "resize"]
    again = m.Conv(large, m.random(20, 20, 1, 1))
    net = load(m.finish(again, x=(np.float32, [1, 3, 6, 10])))
    assert ops(net) == ["transpose", "conv", "resize", "conv", "transpose"]


def test_what_is_computed_twice_by_equal_weights_is_computed_once(monkeypatch):
    m = OnnxModel()  # as exporters write a module that is called twice, with weights for each call
    w, b = m.random(8, 3, 3, 3), m.random(8)
    first, second = (m.Relu(m.Conv("x", w.copy(), b.copy())) for _ in range(2))
    other = m.Relu(m.Conv("x", w + (np.arange(216).reshape(w.shape) == 100), b))
    y = [m.Neg(first), m.Abs(second), m.Neg(other)]
    net = load(m.finish(y, x=(np.float32, [1, 3, 9, 9])), monkeypatch, "siblings")
    assert ops(net).count("conv") == 2
    negated, same, different = net.infer([RNG.standard_normal((1, 3, 9, 9)).astype(np.float32)])
    assert np.array_equal(-negated, same)
    assert not np.array_equal(negated, different)


def test_a_scale_goes_into_a_convolution_whose_channels_are_said_by_weights_alone():
    m = OnnxModel()
    y = m.Mul(m.Conv("x", m.random(6, 1, 1, 1), group=6), np.float32(0.5))
    net = load(m.finish(y, x=(np.float32, ["n", "c", "h", "w"])))
    assert "mul" not in ops(net)
    x = RNG.standard_normal((1, 6, 4, 5)).astype(np.float32)
    w = net.infer([np.ones((1, 6, 1, 1), np.float32)])[0]
    np.testing.assert_allclose(net.infer([x])[0], x * w, 1e-5, 1e-6)


@pytest.mark.parametrize("sum_first", [False, True])
def test_channels_are_scaled_and_shifted_in_one_step(sum_first):
    m = OnnxModel()
    w, b = m.random(20, 1, 1), m.random(20, 1, 1)
    x = m.Transpose(m.Neg("x"), perm=[0, 3, 1, 2])
    y = m.Mul(m.Add(x, b), w) if sum_first else m.Add(m.Mul(x, w), b)
    y = m.Transpose(m.Relu(y), perm=[0, 2, 3, 1])
    net = load(m.finish(y, x=(np.float32, ["n", 5, 6, 20])))
    assert ops(net) == ["neg", "batch_norm"]
    x = RNG.standard_normal((2, 5, 6, 20)).astype(np.float32)
    w, b = w.ravel(), b.ravel()
    want = (b - x) * w if sum_first else b - x * w
    np.testing.assert_allclose(net.infer([x])[0], np.maximum(want, 0), 1e-5, 1e-5)


def test_concatenations_of_a_dense_block_copy_nothing(monkeypatch):
    m = OnnxModel()
    parts = [m.Conv("x", m.random(16, 3, 1, 1))]
    for _ in range(3):
        joined = m.Concat(*parts, axis=1) if parts[1:] else parts[0]
        scaled = m.Mul(joined, m.random(16 * len(parts), 1, 1))
        parts.append(m.Conv(m.Relu(scaled), m.random(16, 16 * len(parts), 1, 1)))
    m = m.finish(m.Relu(m.Concat(*parts, axis=1)), x=(np.float32, [1, 3, 9, 8]))
    net = load(m)
    x = RNG.standard_normal((1, 3, 9, 8)).astype(np.float32)
    assert [op for _, op, _ in net.profile([x])].count("copy") == 2  # to channels last, and back
    plain = load(m, monkeypatch, ",".join(SWITCHABLE))
    np.testing.assert_allclose(net.infer([x])[0], plain.infer([x])[0], 1e-4, 1e-4)
