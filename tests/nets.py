"""Small ONNX models that tests share, how they are loaded, and where the real ones are."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import wnn  # noqa: E402
from wnn import passes  # noqa: E402

SHARED = Path(__file__).resolve().parents[2] / "shared"
RNG, INPUTS = np.random.default_rng(0), np.random.default_rng(1)
node = helper.make_node
SWITCHABLE = [name for name, fn in passes.PASSES if fn is not passes.pack_weights]


def draw(*shape: int) -> np.ndarray:
    """Inputs of tests."""
    return INPUTS.standard_normal(shape).astype(np.float32)


def real_model(name: str) -> str:
    """Path of a real model of ../shared; skips the test where it is absent."""
    path = SHARED / "models" / name / "model.onnx"
    if not path.exists():
        pytest.skip("needs ../shared/models")
    return str(path)


def weights(*shape: int, scale: float = 0.3) -> np.ndarray:
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def model(nodes, inputs, outputs, consts=None, opset=17):
    """A ModelProto of float32 inputs [(name, shape)] and outputs [name]; inputs may give a dtype as
    third.
    """

    def info(name, shape, dtype=TensorProto.FLOAT):
        return helper.make_tensor_value_info(name, dtype, shape)

    graph = helper.make_graph(
        nodes,
        "g",
        [info(*i) for i in inputs],
        [info(n, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (consts or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def load(m, monkeypatch=None, skip=""):
    """The model on one thread. skip: passes to leave out, by monkeypatch's environment."""
    if monkeypatch is not None:
        monkeypatch.setenv("WNN_SKIP_PASSES", skip)
    return wnn.NNForward(num_threads=1).load_from_proto(m)


def ops(net):
    """The names of its nodes' operators, in order."""
    return [n.op.name for n in net.graph.nodes]


@functools.cache
def conv_net():
    """Convolutions with BatchNorm, SiLU, a residual, Split and Concat; outputs (N, 5) and (N, 16,
    h, w).
    """
    nodes = [
        node("Conv", ["x", "w0"], ["c0"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c0", "scale", "shift", "mean", "var"], ["b0"]),
        node("Sigmoid", ["b0"], ["s0"]),
        node("Mul", ["b0", "s0"], ["a0"]),
        node(
            "Conv", ["a0", "w1", "bias1"], ["c1"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=8
        ),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], kernel_shape=[1, 1]),
        node("Add", ["c2", "a0"], ["s"]),
        node("Split", ["s"], ["h0", "h1"], axis=1),
        node("Concat", ["h1", "h0", "r1"], ["cat"], axis=1),
        node("Conv", ["cat", "w3"], ["c3"], kernel_shape=[1, 1]),
        node("GlobalAveragePool", ["c3"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w4", "b4"], ["y"], transB=1),
        node("Identity", ["cat"], ["z"]),
    ]
    consts = {
        "w0": weights(8, 3, 3, 3),
        "scale": weights(8) + 1,
        "shift": weights(8),
        "mean": weights(8),
        "var": np.abs(weights(8)) + 0.5,
        "w1": weights(8, 1, 3, 3),
        "bias1": weights(8),
        "w2": weights(8, 8, 1, 1),
        "w3": weights(12, 16, 1, 1),
        "w4": weights(5, 12),
        "b4": weights(5),
    }
    return model(nodes, [("x", ["n", 3, "h", "w"])], ["y", "z"], consts)


@functools.cache
def attention_net(t: int = 7, h: int = 4, d: int = 8):
    """A pre-norm transformer block with one QKV projection, as timm writes it; (n, t, h*d) to the
    same.
    """
    c = h * d
    nodes = [
        node("LayerNormalization", ["x", "g0", "b0"], ["ln"], axis=-1),
        node("MatMul", ["ln", "wqkv"], ["m0"]),
        node("Add", ["m0", "bqkv"], ["qkv"]),
        node("Reshape", ["qkv", "shape5"], ["r5"]),
        node("Transpose", ["r5"], ["t5"], perm=[2, 0, 3, 1, 4]),
        node("Gather", ["t5", "i0"], ["q"], axis=0),
        node("Gather", ["t5", "i1"], ["k"], axis=0),
        node("Gather", ["t5", "i2"], ["v"], axis=0),
        node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q", "kt"], ["s0"]),
        node("Mul", ["s0", "scale"], ["s1"]),
        node("Softmax", ["s1"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["o"]),
        node("Transpose", ["o"], ["ot"], perm=[0, 2, 1, 3]),
        node("Reshape", ["ot", "shape3"], ["or"]),
        node("MatMul", ["or", "wo"], ["pr"]),
        node("Add", ["bo", "pr"], ["pb"]),
        node("Add", ["x", "pb"], ["x1"]),
        node("MatMul", ["x1", "w1"], ["f1"]),
        node("Add", ["f1", "b1"], ["f1b"]),
        node("Div", ["f1b", "sqrt2"], ["e0"]),
        node("Erf", ["e0"], ["e1"]),
        node("Add", ["e1", "one"], ["e2"]),
        node("Mul", ["f1b", "e2"], ["e3"]),
        node("Mul", ["e3", "half"], ["ge"]),
        node("MatMul", ["ge", "w2"], ["f2"]),
        node("Add", ["x1", "f2"], ["y"]),
    ]
    f = np.float32
    consts = {
        "g0": weights(c) + 1,
        "b0": weights(c),
        "wqkv": weights(c, 3 * c),
        "bqkv": weights(3 * c),
        "shape5": np.array([0, t, 3, h, d]),
        "i0": np.array(0),
        "i1": np.array(1),
        "i2": np.array(2),
        "scale": f(d**-0.5),
        "shape3": np.array([0, t, c]),
        "wo": weights(c, c),
        "bo": weights(c),
        "w1": weights(c, 2 * c),
        "b1": weights(2 * c),
        "sqrt2": f(2**0.5),
        "one": f(1),
        "half": f(0.5),
        "w2": weights(2 * c, c),
    }
    return model(nodes, [("x", ["n", t, c])], ["y"], consts)
