"""Half-precision models compute in float32."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import wnn

RNG = np.random.default_rng(7)


def mlp(kind, cast_between=False):
    """relu(x w1) w2 in half precision."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((16, 16)).astype(np.float32) / 4 for _ in range(2)]
    nodes = [helper.make_node("MatMul", ["x", "w0"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    if cast_between:
        nodes.append(helper.make_node("Cast", ["b"], ["f"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Cast", ["f"], ["c"], to=kind))
    nodes.append(helper.make_node("MatMul", ["c" if cast_between else "b", "w1"], ["y"]))
    info = helper.make_tensor_value_info
    halves = []
    for i, w in enumerate(weights):
        if kind == TensorProto.FLOAT16:
            halves.append(numpy_helper.from_array(w.astype(np.float16), f"w{i}"))
        else:
            halves.append(helper.make_tensor(f"w{i}", kind, w.shape, w.ravel()))
    graph = helper.make_graph(
        nodes, "g", [info("x", kind, ["n", 16])], [info("y", kind, ["n", 16])], halves
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), weights


@pytest.mark.parametrize("cast_between", [False, True])
def test_float16_model_computes_in_float32(cast_between):
    model, weights = mlp(TensorProto.FLOAT16, cast_between)
    net = wnn.NNForward(num_threads=1).load_from_proto(model)
    x = np.random.default_rng(1).standard_normal((5, 16)).astype(np.float16)
    (y,) = net.infer([x])
    w0, w1 = (w.astype(np.float16).astype(np.float64) for w in weights)
    want = np.maximum(x.astype(np.float64) @ w0, 0) @ w1
    assert y.dtype == np.float16
    np.testing.assert_allclose(y, want, rtol=2e-3, atol=2e-3)
    kinds = [v.spec.dtype for n in net.graph.nodes for v in n.outputs if n.op.name != "cast"]
    assert set(kinds) == {"f32"} and not net.fallback_ops()


def test_bfloat16_model_is_not_rounded_between_operators():
    model, _ = mlp(TensorProto.BFLOAT16)
    net = wnn.NNForward(num_threads=1).load_from_proto(model)
    assert [n.op.name for n in net.graph.nodes] == ["cast", "linear", "linear", "cast"]


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_what_an_importer_computes_in_float32_stays_so(kind):
    """Convolutions: no kernel takes half precision, and nothing in the model says to round."""
    info = helper.make_tensor_value_info
    w = helper.make_tensor("w", kind, [8, 8, 3, 3], RNG.standard_normal(576))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["y"]),
    ]
    shape = [1, 8, 9, 9]
    graph = helper.make_graph(nodes, "g", [info("x", kind, shape)], [info("y", kind, None)], [w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])
    net = wnn.NNForward(num_threads=1).load_from_proto(model)
    assert [n.op.name for n in net.graph.nodes].count("cast") == 2  # at the ends


def test_cast_to_float16_rounds():
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
    ]
    x, y = (info(n, TensorProto.FLOAT, [3]) for n in "xy")
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)]
    )
    onnx.checker.check_model(model)
    net = wnn.NNForward(num_threads=1).load_from_proto(model)
    x = np.float32([1 / 3, 1e-5, 70000])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(net.infer([x])[0], x.astype(np.float16).astype(np.float32))
