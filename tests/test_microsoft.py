"""com.microsoft operators against onnxruntime's own, where onnxruntime is installed, and against
formulas in numpy.
"""

import numpy as np
import pytest
from nets import model, node
from onnx import helper, numpy_helper

import wnn
from wnn import onnx_backend

RNG = np.random.default_rng(0)


def run(op, feeds, consts=(), outputs=("y",), **attrs):
    """A model of one node; wnn's outputs, after they were held against onnxruntime's."""
    names = [*feeds, *["" if a is None else n for n, a in dict(consts).items()]]
    nodes = [helper.make_node(op, names, list(outputs), domain="com.microsoft", **attrs)]
    types = {n: helper.np_dtype_to_tensor_dtype(a.dtype) for n, a in feeds.items()}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, types[n], a.shape) for n, a in feeds.items()],
        [helper.make_tensor_value_info(n, 0, None) for n in outputs if n],
        [
            numpy_helper.from_array(np.asarray(a), n)
            for n, a in dict(consts).items()
            if a is not None
        ],
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
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # with more, ranges of bytes are those of a thread's samples
    session = ort.InferenceSession(model.SerializeToString(), options)
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


def eighths(*shape, dtype=np.uint8):
    low = np.iinfo(dtype).min // 2
    return RNG.integers(low, low + 127, shape).astype(dtype)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
def test_quantized_gemm_agrees(bias, by_column, quantized):
    scale = RNG.uniform(0.01, 0.02, 4).astype(np.float32) if by_column else np.float32(0.02)
    zero = np.zeros(4, np.int8) if by_column else np.int8(3)
    consts = {"as": np.float32(0.02), "az": np.uint8(120), "b": eighths(4, 8, dtype=np.int8)}
    consts |= {"bs": scale, "bz": zero}
    consts["c"] = RNG.integers(-500, 500, 4).astype(np.int32) if bias else None
    if quantized:
        consts |= {"ys": np.float32(0.05), "yz": np.uint8(128)}
    run("QGemm", {"a": eighths(3, 8)}, consts, transB=1, alpha=0.5)


def test_quantized_where_and_pool_agree():
    steps = {"xs": np.float32(0.02), "xz": np.uint8(120)}
    out = {"zs": np.float32(0.05), "zz": np.uint8(128)}
    other = {"o": eighths(3, 4), "os": np.float32(0.03), "oz": np.uint8(110)}
    keep = RNG.integers(0, 2, (3, 4)).astype(bool)
    run("QLinearWhere", {"if": keep, "x": eighths(3, 4)}, {**steps, **other, **out})
    run(
        "QLinearAveragePool",
        {"x": eighths(1, 2, 6, 6)},
        {**steps, **out},
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
    )


def test_dynamic_quantized_matmul_agrees():
    b = RNG.integers(-100, 100, (8, 4)).astype(np.int8)
    run(
        "DynamicQuantizeMatMul",
        {"a": f32(3, 8)},
        {"b": b, "s": np.float32([0.01]), "z": np.int8([3]), "bias": f32(4)},
    )


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("by_column", [False, True])
def test_dynamic_quantized_lstm_agrees(direction, by_column):
    t, b, i, h = 6, 2, 5, 20
    d = 2 if direction == "bidirectional" else 1
    shape = (d, 4 * h) if by_column else (d,)

    def quantized(rows):
        scale = RNG.uniform(0.002, 0.006, shape).astype(np.float32)
        zero = np.zeros(shape, np.int8) if by_column else RNG.integers(-9, 9, shape).astype(np.int8)
        return RNG.integers(-127, 127, (d, rows, 4 * h)).astype(np.int8), scale, zero

    (w, ws, wz), (r, rs, rz) = quantized(i), quantized(h)
    consts = {"w": w, "r": r, "b": f32(d, 8 * h) * np.float32(0.1)}
    consts |= {"lens": np.array([t, t], np.int32), "h0": f32(d, b, h), "c0": f32(d, b, h)}
    consts |= {"p": f32(d, 3 * h), "ws": ws, "wz": wz, "rs": rs, "rz": rz}
    y, h1, c1 = run(
        "DynamicQuantizeLSTM",
        {"x": f32(t, b, i)},
        consts,
        ("y", "h", "c"),
        hidden_size=h,
        direction=direction,
    )
    assert y.shape == (t, d, b, h) and h1.shape == c1.shape == (d, b, h)
    last = y[-1, 0] if direction != "reverse" else y[0, 0]
    np.testing.assert_array_equal(last, h1[0])


def test_dynamic_quantized_lstm_is_the_formula_on_integers():
    """One step by the definition: x and h through bytes, sums of integers, float gates."""
    i, h = 5, 7
    w, r = (RNG.integers(-127, 127, (1, n, 4 * h)).astype(np.int8) for n in (i, h))
    x, h0, c0 = f32(1, 1, i), f32(1, 1, h), f32(1, 1, h)
    scale, zero = np.float32([0.01]), np.int8([4])

    def product(a, m):
        low, high = min(a.min(), 0), max(a.max(), 0)
        step = (high - low) / np.float32(255)
        at = np.rint(-low / step)
        q = np.clip(np.rint(a / step) + at, 0, 255) - at
        return q @ (m.astype(np.int64) - 4) * step * scale

    gates = product(x[0], w[0]) + product(h0[0], r[0])
    i_, o, f, n = np.split(gates, 4, axis=-1)
    c = c0[0] / (1 + np.exp(-f)) + np.tanh(n) / (1 + np.exp(-i_))
    want = np.tanh(c) / (1 + np.exp(-o))
    consts = {"w": w, "r": r, "h0": h0, "c0": c0, "ws": scale, "wz": zero, "rs": scale, "rz": zero}
    names = ["x", "w", "r", "", "", "h0", "c0", "", "ws", "wz", "rs", "rz"]
    n = node("DynamicQuantizeLSTM", names, ["", "y"], hidden_size=h, domain="com.microsoft")
    m = model([n], [("x", x.shape)], ["y"], consts)
    m.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    net = wnn.NNForward().load_from_proto(m)
    np.testing.assert_allclose(net.infer([x])[0][0], want, rtol=1e-4, atol=1e-5)
    assert not net.fallback_ops()
