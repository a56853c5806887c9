"""com.microsoft operators against onnxruntime's own, where onnxruntime is installed, and against
formulas in numpy.
"""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from wnn import onnx_backend

RNG = np.random.default_rng(0)


def run(op, feeds, consts=(), outputs=("y",), **attrs):
    """A model of one node; wnn's outputs, after they were held against onnxruntime's."""
    names = [*feeds, *consts]
    nodes = [helper.make_node(op, names, list(outputs), domain="com.microsoft", **attrs)]
    types = {n: helper.np_dtype_to_tensor_dtype(a.dtype) for n, a in feeds.items()}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, types[n], a.shape) for n, a in feeds.items()],
        [helper.make_tensor_value_info(n, 0, None) for n in outputs if n],
        [numpy_helper.from_array(a, n) for n, a in dict(consts).items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    got = onnx_backend.prepare(model).run(list(feeds.values()))
    try:
        import onnxruntime as ort
    except ImportError:
        return got
    for vi in model.graph.output:
        vi.ClearField("type")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for g, w in zip(got, session.run(None, feeds), strict=True):
        assert g.dtype == w.dtype and g.shape == w.shape
        if g.dtype.kind in "iu":
            assert np.abs(g.astype(int) - w).max() <= 1
        else:
            np.testing.assert_allclose(g, w, rtol=2e-3, atol=1e-4)
    return got


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("op", ["Gelu", "FastGelu", "QuickGelu"])
def test_activations_agree(op):
    run(op, {"x": f32(3, 8)})


def test_gelu_with_bias_agrees():
    run("BiasGelu", {"x": f32(3, 8)}, {"b": f32(8)})
    run("FastGelu", {"x": f32(3, 8)}, {"b": f32(8)})


@pytest.mark.parametrize("a, b", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_fused_matmul_agrees(a, b):
    x, y = f32(*((2, 5, 3) if a else (2, 3, 5))), f32(*((2, 4, 5) if b else (2, 5, 4)))
    (got,) = run("FusedMatMul", {"x": x, "x2": y}, transA=a, transB=b, alpha=0.5)
    want = 0.5 * (x.swapaxes(1, 2) if a else x) @ (y.swapaxes(1, 2) if b else y)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_fused_matmul_with_rotated_batch_agrees():
    run("FusedMatMul", {"x": f32(3, 2, 5), "x2": f32(2, 5, 4)}, transBatchA=1)


@pytest.mark.parametrize(
    "activation, params", [("Relu", []), ("LeakyRelu", [0.1]), ("Clip", [0.0, 6.0])]
)
def test_fused_conv_agrees(activation, params):
    more = {"activation_params": params} if params else {}
    run(
        "FusedConv",
        {"x": f32(1, 3, 8, 8)},
        {"w": f32(4, 3, 3, 3), "b": f32(4)},
        activation=activation,
        **more,
    )


def test_skip_layer_norm_agrees():
    run(
        "SkipLayerNormalization",
        {"x": f32(2, 3, 8), "s": f32(2, 3, 8)},
        {"g": f32(8), "b": f32(8), "bias": f32(8)},
        ("y", "", "", "sum"),
        epsilon=1e-5,
    )
    run(
        "SkipSimplifiedLayerNormalization",
        {"x": f32(2, 3, 8), "s": f32(2, 3, 8)},
        {"g": f32(8)},
        epsilon=1e-5,
    )


def test_embed_layer_norm_agrees():
    ids = RNG.integers(0, 10, (2, 4)).astype(np.int32)
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.int32)
    tables = {"w": f32(10, 8), "p": f32(6, 8), "t": f32(2, 8), "g": f32(8), "b": f32(8), "m": mask}
    run("EmbedLayerNormalization", {"ids": ids, "seg": ids % 2}, tables, ("y", "n"), epsilon=1e-5)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_agrees(causal, masked):
    mask = {"m": np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], np.int32)} if masked else {}
    run(
        "Attention",
        {"x": f32(2, 5, 8)},
        {"w": f32(8, 24), "b": f32(24), **mask},
        num_heads=2,
        unidirectional=causal,
    )


def test_multi_head_attention_agrees():
    run(
        "MultiHeadAttention",
        {"q": f32(2, 5, 8), "k": f32(2, 6, 8), "v": f32(2, 6, 8)},
        {"b": f32(24)},
        num_heads=2,
    )


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_quantized_pairs_agree(op):
    a, b = (RNG.integers(0, 255, (3, 4)).astype(np.uint8) for _ in range(2))
    s, z = (lambda v: np.float32(v)), (lambda v: np.uint8(v))
    feeds = {
        "a": a,
        "as": s(0.02),
        "az": z(120),
        "b": b,
        "bs": s(0.03),
        "bz": z(110),
        "ys": s(0.05),
        "yz": z(128),
    }
    run(op, {"a": a}, {k: np.asarray(v) for k, v in feeds.items() if k != "a"})


def test_dynamic_quantized_matmul_agrees():
    b = RNG.integers(-100, 100, (8, 4)).astype(np.int8)
    run(
        "DynamicQuantizeMatMul",
        {"a": f32(3, 8)},
        {"b": b, "s": np.float32([0.01]), "z": np.int8([3]), "bias": f32(4)},
    )
