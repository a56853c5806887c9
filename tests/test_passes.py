"""Passes: what fuses, and that fused and unfused graphs agree."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import wnn  # noqa: E402
from wnn import passes  # noqa: E402

RNG = np.random.default_rng(0)
SWITCHABLE = [name for name, fn in passes.PASSES if fn is not passes.pack_weights]


def weights(*shape, scale=0.3):
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def model(nodes, inputs, outputs, consts, opset=17):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in consts.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def load(m, monkeypatch=None, skip=""):
    if monkeypatch is not None:
        monkeypatch.setenv("WNN_SKIP_PASSES", skip)
    return wnn.NNForward(num_threads=1).load_from_proto(m)


def ops(net):
    return [n.op.name for n in net.graph.nodes]


def conv_net():
    n = helper.make_node
    nodes = [
        n("Conv", ["x", "w0"], ["c0"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        n("BatchNormalization", ["c0", "scale", "shift", "mean", "var"], ["b0"]),
        n("Sigmoid", ["b0"], ["s0"]),
        n("Mul", ["b0", "s0"], ["a0"]),
        n("Conv", ["a0", "w1", "bias1"], ["c1"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=8),
        n("Relu", ["c1"], ["r1"]),
        n("Conv", ["r1", "w2"], ["c2"], kernel_shape=[1, 1]),
        n("Add", ["c2", "a0"], ["s"]),
        n("Split", ["s"], ["h0", "h1"], axis=1),
        n("Concat", ["h1", "h0", "r1"], ["cat"], axis=1),
        n("Conv", ["cat", "w3"], ["c3"], kernel_shape=[1, 1]),
        n("GlobalAveragePool", ["c3"], ["p"]),
        n("Flatten", ["p"], ["f"]),
        n("Gemm", ["f", "w4", "b4"], ["y"], transB=1),
        n("Identity", ["cat"], ["z"]),
    ]
    consts = {
        "w0": weights(8, 3, 3, 3), "scale": weights(8) + 1, "shift": weights(8), "mean": weights(8), "var": np.abs(weights(8)) + 0.5,
        "w1": weights(8, 1, 3, 3), "bias1": weights(8), "w2": weights(8, 8, 1, 1), "w3": weights(12, 16, 1, 1),
        "w4": weights(5, 12), "b4": weights(5),
    }  # fmt: skip
    return model(nodes, [("x", ["n", 3, "h", "w"])], ["y", "z"], consts)


def attention_net():
    n = helper.make_node
    t, h, d = 7, 4, 8
    c = h * d
    nodes = [
        n("LayerNormalization", ["x", "g0", "b0"], ["ln"], axis=-1),
        n("MatMul", ["ln", "wqkv"], ["m0"]),
        n("Add", ["m0", "bqkv"], ["qkv"]),
        n("Reshape", ["qkv", "shape5"], ["r5"]),
        n("Transpose", ["r5"], ["t5"], perm=[2, 0, 3, 1, 4]),
        n("Gather", ["t5", "i0"], ["q"], axis=0),
        n("Gather", ["t5", "i1"], ["k"], axis=0),
        n("Gather", ["t5", "i2"], ["v"], axis=0),
        n("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        n("MatMul", ["q", "kt"], ["s0"]),
        n("Mul", ["s0", "scale"], ["s1"]),
        n("Softmax", ["s1"], ["p"], axis=-1),
        n("MatMul", ["p", "v"], ["o"]),
        n("Transpose", ["o"], ["ot"], perm=[0, 2, 1, 3]),
        n("Reshape", ["ot", "shape3"], ["or"]),
        n("MatMul", ["or", "wo"], ["pr"]),
        n("Add", ["bo", "pr"], ["pb"]),
        n("Add", ["x", "pb"], ["x1"]),
        n("MatMul", ["x1", "w1"], ["f1"]),
        n("Add", ["f1", "b1"], ["f1b"]),
        n("Div", ["f1b", "sqrt2"], ["e0"]),
        n("Erf", ["e0"], ["e1"]),
        n("Add", ["e1", "one"], ["e2"]),
        n("Mul", ["f1b", "e2"], ["e3"]),
        n("Mul", ["e3", "half"], ["ge"]),
        n("MatMul", ["ge", "w2"], ["f2"]),
        n("Add", ["x1", "f2"], ["y"]),
    ]
    i64 = lambda *a: np.array(a, np.int64)  # noqa: E731
    f = np.float32
    consts = {
        "g0": weights(c) + 1, "b0": weights(c), "wqkv": weights(c, 3 * c), "bqkv": weights(3 * c), "shape5": i64(0, t, 3, h, d),
        "i0": np.array(0), "i1": np.array(1), "i2": np.array(2), "scale": f(d**-0.5), "shape3": i64(0, t, c), "wo": weights(c, c),
        "bo": weights(c), "w1": weights(c, 2 * c), "b1": weights(2 * c), "sqrt2": f(2**0.5), "one": f(1), "half": f(0.5), "w2": weights(2 * c, c),
    }  # fmt: skip
    return model(nodes, [("x", ["n", t, c])], ["y"], consts)


NETS = {
    "convolutions": (conv_net, [(2, 3, 17, 14), (1, 3, 8, 8)]),
    "attention": (attention_net, [(3, 7, 32), (1, 7, 32)]),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("skipped", [*SWITCHABLE, ",".join(SWITCHABLE)])
def test_fused_and_unfused_agree(name, skipped, monkeypatch):
    build, shapes = NETS[name]
    m = build()
    fused = load(m)
    plain = load(m, monkeypatch, skipped)
    for shape in shapes:
        x = RNG.standard_normal(shape).astype(np.float32)
        for a, b in zip(fused.infer([x]), plain.infer([x]), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_convolutions_fuse_to_channels_last():
    names = ops(load(conv_net()))
    assert "mul" not in names and "add" not in names and "relu" not in names  # folded, or post-operations
    assert names.count("transpose") <= 2  # the input's, and the output z's


def test_attention_block_fuses():
    names = ops(load(attention_net()))
    assert "softmax" not in names and "erf" not in names
    assert names.count("linear") == 4


def test_unknown_pass_is_refused(monkeypatch):
    with pytest.raises(wnn.WnnError, match="channels-last"):
        load(conv_net(), monkeypatch, "no such pass")


def test_debug_prints_the_graph_after_each_pass(monkeypatch, capsys):
    monkeypatch.setenv("WNN_DEBUG", "3")
    load(attention_net())
    err = capsys.readouterr().err
    assert "--- after core idioms" in err and "linear(" in err


def test_check_mode_agrees_with_the_references(monkeypatch):
    monkeypatch.setenv("WNN_CHECK", "1")
    for build, shapes in NETS.values():
        load(build()).infer([RNG.standard_normal(shapes[0]).astype(np.float32)])
