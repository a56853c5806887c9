"""Opsets of long ago, and types that numpy has no dtype for."""

import numpy as np
import onnx
import pytest
from nets import model, node
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import wnn
from wnn import dtypes

RNG = np.random.default_rng(5)


def run(nodes, feeds, outputs=1, opset=6, types=None):
    """The outputs y0, y1, ... of nodes on inputs; native, or the test fails."""
    types = types or {}
    kind = lambda a: types.get(a, helper.np_dtype_to_tensor_dtype(feeds[a].dtype))  # noqa: E731
    g = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(k, kind(k), a.shape) for k, a in feeds.items()],
        [helper.make_empty_tensor_value_info(f"y{i}") for i in range(outputs)],
    )
    m = helper.make_model(g, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    net = wnn.NNForward(num_threads=1).load_from_proto(m)
    made = net.infer(dict(feeds))
    assert not net.fallback_ops()
    return made


# -- opsets below 7
def test_add_of_opset_6_broadcasts_along_its_axis():
    a, b = RNG.standard_normal((2, 3, 4), np.float32), RNG.standard_normal(3).astype(np.float32)
    node = helper.make_node("Add", ["a", "b"], ["y0"], broadcast=1, axis=1)
    (y,) = run([node], {"a": a, "b": b})
    np.testing.assert_array_equal(y, a + b[:, None])


def test_prelu_of_opset_6_has_a_slope_per_channel():
    x, s = RNG.standard_normal((2, 3, 4), np.float32), RNG.standard_normal(3).astype(np.float32)
    (y,) = run([helper.make_node("PRelu", ["x", "s"], ["y0"])], {"x": x, "s": s})
    np.testing.assert_array_equal(y, np.where(x < 0, x * s[:, None], x))


@pytest.mark.parametrize(
    ("node", "opset", "shape"),
    [
        (helper.make_node("Reshape", ["x"], ["y0"], shape=[3, 2]), 1, (3, 2)),
        (helper.make_node("Concat", ["x", "x"], ["y0"]), 1, (2, 6)),
        (helper.make_node("Cast", ["x"], ["y0"], to="INT32"), 1, (2, 3)),
        (helper.make_node("Pad", ["x"], ["y0"], paddings=[0, 1, 0, 1]), 1, (2, 5)),
    ],
)
def test_forms_of_opset_1_run(node, opset, shape):
    (y,) = run([node], {"x": RNG.standard_normal((2, 3), np.float32)}, opset=opset)
    assert y.shape == shape


def test_batch_normalization_in_training_uses_the_batch():
    x = RNG.standard_normal((4, 3, 5), np.float32)
    params = {k: np.float32([v] * 3) for k, v in zip("sbmv", (1, 0, 2, 3), strict=True)}
    node = helper.make_node(
        "BatchNormalization", ["x", *"sbmv"], ["y0", "y1", "y2"], training_mode=1, momentum=0.75
    )
    y, mean, var = run([node], {"x": x, **params}, 3, opset=15)
    own, spread = x.mean((0, 2)), x.var((0, 2))
    want = (x - own[:, None]) / np.sqrt(spread[:, None] + 1e-5)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean, 2 * 0.75 + own * 0.25, rtol=1e-5)
    np.testing.assert_allclose(var, 3 * 0.75 + spread * 0.25, rtol=1e-5)


# -- types of 8 bits or fewer
@pytest.mark.parametrize("name", sorted(dtypes.SMALL))
def test_small_types_travel_as_their_bits(name):
    code = dtypes.CODE[name]
    own = helper.tensor_dtype_to_np_dtype(code)
    x = np.arange(2) if name[0] != "f" else np.float32([0.3, 1e9, -0.7, 3])
    x = x.astype(np.float32).astype(own)
    nodes = [
        helper.make_node("Reshape", ["x", "to"], ["r"]),
        helper.make_node("Cast", ["r"], ["y0"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["y0"], ["y1"], to=code, saturate=0),
    ]
    to = np.array([-1, 2], np.int64)
    y, z = run(nodes, {"x": x, "to": to}, 2, opset=25, types={"x": code})
    np.testing.assert_array_equal(y, x.astype(np.float32).reshape(-1, 2))
    np.testing.assert_array_equal(z, dtypes.bits_of(x).reshape(-1, 2))


def test_int4_weights_dequantise():
    w = RNG.integers(-8, 8, (4, 6))
    zero, scale = RNG.integers(-8, 8, 6), np.abs(RNG.standard_normal(6)).astype(np.float32)
    consts = [
        helper.make_tensor("w", TensorProto.INT4, w.shape, w.ravel()),
        helper.make_tensor("z", TensorProto.INT4, zero.shape, zero),
        numpy_helper.from_array(scale, "s"),
    ]
    node = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["y"], axis=1)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 6])
    m = helper.make_model(
        helper.make_graph([node], "g", [], [y], consts),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    (y,) = wnn.NNForward(num_threads=1).load_from_proto(m).infer([])
    np.testing.assert_allclose(y, (w - zero) * scale, rtol=1e-6)


# -- types of 16 bits
def test_softmax_of_half_precision_rounds_each_step():
    x = RNG.standard_normal((5, 9)).astype(np.float16)
    (y,) = run([helper.make_node("Softmax", ["x"], ["y0"])], {"x": x}, opset=13)
    e = np.exp(x - x.max(-1, keepdims=True))
    np.testing.assert_array_equal(y, e / e.sum(-1, keepdims=True))


# -- shapes that depend on values
def tail():
    """What a detector does after its network: boxes that are kept, and the best of them."""
    consts = {
        "most": np.int64([50]), "iou": np.float32([0.5]), "least": np.float32([0.3]),
        "two": np.int64([2]), "one": np.int64([1]), "zero": np.int64([0]),
        "hundred": np.int64([100]), "low": np.float32(0.1),
        "w": np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32),
    }  # fmt: skip
    rows = [
        ("NonMaxSuppression", "boxes scores most iou least", "kept", {}),
        ("Gather", "kept two", "column", {"axis": 1}),
        ("Squeeze", "column one", "at", {}),
        ("Squeeze", "boxes zero", "all", {}),
        ("Gather", "all at", "picked", {}),
        ("MatMul", "picked w", "features", {}),
        ("Softmax", "features", "p", {}),
        ("ReduceMax", "p", "best", {"axes": [1], "keepdims": 0}),
        ("Shape", "best", "n", {}),
        ("Concat", "hundred n", "both", {"axis": 0}),
        ("ReduceMin", "both", "k", {"axes": [0]}),
        ("TopK", "best k", "top where", {}),
        ("Gather", "picked where", "final", {}),
        ("Transpose", "final", "y1", {}),
        ("Greater", "top low", "mask", {}),
        ("NonZero", "mask", "found", {}),
        ("Transpose", "found", "rows", {}),
        ("GatherND", "final rows", "y0", {}),
    ]
    nodes = [helper.make_node(k, i.split(), o.split(), **a) for k, i, o, a in rows]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tail",
        [info("boxes", 1, [1, "n", 4]), info("scores", 1, [1, 1, "n"])],
        [info("y0", 1, ["k", 4]), info("y1", 1, [4, "q"])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in consts.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def boxes_and_scores(seed):
    rng = np.random.default_rng(seed)
    corner = rng.random((1, 200, 2), np.float32)
    boxes = np.concatenate([corner, corner + rng.random((1, 200, 2), np.float32) / 10], -1)
    return boxes, rng.random((1, 1, 200), np.float32)


def test_shapes_that_depend_on_values_run_natively(tmp_path):
    m = tail()
    net = wnn.NNForward(num_threads=1).load_from_proto(m)
    onnx.save(m, tmp_path / "tail.onnx")
    wnn.convert(tmp_path / "tail.onnx", tmp_path / "tail.wnnx")
    stored = wnn.NNForward(num_threads=1).load_from_file(tmp_path / "tail.wnnx")
    reference = ReferenceEvaluator(m)
    for seed in range(4):
        boxes, scores = boxes_and_scores(seed)
        want = reference.run(None, {"boxes": boxes, "scores": scores})
        for loaded in (net, stored):
            for y, w in zip(loaded.infer([boxes, scores]), want, strict=True):
                np.testing.assert_allclose(y, w, rtol=1e-5, atol=1e-6)
    assert not net.fallback_ops() and not stored.fallback_ops()


def test_found_elements_replan_by_their_number_only():
    x = np.zeros((40, 40), np.float32)
    node = [helper.make_node("NonZero", ["x"], ["f"]), helper.make_node("Transpose", ["f"], ["y0"])]
    info = helper.make_tensor_value_info("x", 1, [40, 40])
    g = helper.make_graph(node, "g", [info], [helper.make_empty_tensor_value_info("y0")])
    m = helper.make_model(g, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    net = wnn.NNForward(num_threads=1).load_from_proto(m)
    program = None
    for seed in range(6):
        x = np.zeros(1600, np.float32)
        x[np.random.default_rng(seed).permutation(1600)[:9]] = 1
        x = x.reshape(40, 40)
        np.testing.assert_array_equal(net.infer([x])[0], np.argwhere(x))
        stages = net._program.stages([x])
        program = program or stages
        assert stages == program


@pytest.mark.parametrize(("axis", "in_order"), [(None, 1), (None, 0), (0, 1), (1, 0)])
def test_unique_gives_what_numpy_does(axis, in_order):
    x = RNG.integers(0, 2, (9, 2)).astype(np.float32)
    names = [f"y{i}" for i in range(4)]
    attrs = {"sorted": in_order} | ({} if axis is None else {"axis": axis})
    y, *places = run([helper.make_node("Unique", ["x"], names, **attrs)], {"x": x}, 4, opset=13)
    want, *where = np.unique(x, True, True, True, axis=axis)
    if not in_order:
        order = np.argsort(where[0])
        want = np.take(want, order, axis or 0)
        where = [where[0][order], np.argsort(order)[where[1].reshape(-1)], where[2][order]]
    np.testing.assert_array_equal(y, want)
    for got, w in zip(places, where, strict=True):
        np.testing.assert_array_equal(got, w.reshape(-1))


def test_a_range_of_floats_up_to_a_free_length():
    """As grids of detectors are exported: a length cast to float counts up from 0.0 by 1.0."""
    nodes = [
        node("Shape", ["x"], ["s"], start=1),
        node("Cast", ["s"], ["f"], to=1),
        node("Squeeze", ["f"], ["n"]),
        node("Range", ["from", "n", "step"], ["r"]),
        node("Add", ["r", "half"], ["y"]),
    ]
    for start, step in ((0.0, 1.0), (2.0, 1.0), (0.5, 1.0), (0.0, 0.5)):
        consts = {k: np.float32(v) for k, v in {"from": start, "step": step, "half": 0.5}.items()}
        net = wnn.NNForward().load_from_proto(model(nodes, [("x", ("A", "B"))], ["y"], consts))
        for n in (5, 3, 1, 0):
            want = np.arange(start, n, step, dtype=np.float32) + np.float32(0.5)
            np.testing.assert_array_equal(net.infer([np.zeros((2, n), np.float32)])[0], want)


@pytest.mark.parametrize("equation", ["ij,ij->", "ij,ij->i", "ij,kj", "ij,kl->kilj"])
@pytest.mark.parametrize("fixed", [True, False])
def test_einsum_of_free_lengths_runs_as_numpy_says(equation, fixed):
    w = np.arange(9, dtype=np.float32).reshape(3, 3)
    consts, more = ({"w": w}, []) if fixed else ({}, [("w", ("K", "L"))])
    nodes = [node("Einsum", ["x", "w"], ["y"], equation=equation)]
    net = wnn.NNForward().load_from_proto(model(nodes, [("x", ("N", "M")), *more], ["y"], consts))
    (y,) = net.infer([w + 1] + [w] * len(more))
    np.testing.assert_array_equal(y, np.einsum(equation, w + 1, w))


def test_a_number_may_be_transposed():
    nodes = [node("Transpose", ["x"], ["t"]), node("Relu", ["t"], ["y"])]
    net = wnn.NNForward().load_from_proto(model(nodes, [("x", ())], ["t", "y"]))
    np.testing.assert_array_equal(net.infer([np.float32(-2)]), [-2, 0])


def test_a_product_over_no_columns_is_zero():
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    consts = {"w": np.zeros((0, 6), np.float32)}
    net = wnn.NNForward().load_from_proto(model(nodes, [("x", (1, "N", 0))], ["y"], consts))
    np.testing.assert_array_equal(
        net.infer([np.zeros((1, 3, 0), np.float32)])[0], np.zeros((1, 3, 6))
    )


@pytest.mark.parametrize("align", [0, 1])
def test_cubic_samples_beyond_the_border_see_it_repeated(align):
    """As in torch and onnxruntime: what lies around is padded, points are not moved inside."""
    x = RNG.standard_normal((1, 1, 5, 5), np.float32)
    grid = RNG.uniform(-1.5, 1.5, (1, 6, 6, 2)).astype(np.float32)
    attrs = dict(mode="cubic", align_corners=align)
    (y,) = run(
        [helper.make_node("GridSample", ["x", "g"], ["y0"], padding_mode="border", **attrs)],
        {"x": x, "g": grid},
        opset=20,
    )
    wide = np.pad(x, ((0, 0), (0, 0), (5, 5), (5, 5)), mode="edge")
    inner = grid * np.float32(4 / 14 if align else 5 / 15)
    (want,) = run(
        [helper.make_node("GridSample", ["x", "g"], ["y0"], **attrs)],
        {"x": wide, "g": inner},
        opset=20,
    )
    np.testing.assert_allclose(y, want, 1e-4, 1e-4)


@pytest.mark.parametrize("lengths", [(2, 3), (0, 3), (2, 0), (0, 0)])
def test_free_lengths_that_move_may_be_zero(lengths):
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 2, 3, 0]), node("Relu", ["t"], ["y"])]
    net = wnn.NNForward().load_from_proto(model(nodes, [("x", (1, "N", 4, "M"))], ["y"]))
    x = RNG.standard_normal((1, lengths[0], 4, lengths[1]), np.float32)
    np.testing.assert_array_equal(net.infer([x])[0], np.maximum(x.transpose(1, 2, 3, 0), 0))


def test_lengths_of_parameters_may_be_free():
    nodes = [
        node("Conv", ["x", "w", "b"], ["y"]),
        node("ConvTranspose", ["x", "v", "b"], ["z"]),
        node("Cast", ["b"], ["i"], to=TensorProto.INT64),
        node("OneHot", ["i", "d", "p"], ["o"]),
    ]
    consts = {
        "w": np.ones((2, 1, 1), np.float32),
        "v": np.ones((1, 2, 1), np.float32),
        "d": np.array(3),
    }
    inputs = [("x", (1, 1, "T")), ("b", ("B",)), ("p", ("P",))]
    net = wnn.NNForward().load_from_proto(model(nodes, inputs, ["y", "z", "o"], consts))
    x, b = np.ones((1, 1, 4), np.float32), np.float32([1, 2])
    y, z, o = net.infer([x, b, np.float32([5, 6])])
    np.testing.assert_array_equal(y, x + b[:, None])
    np.testing.assert_array_equal(z, y)
    np.testing.assert_array_equal(o, [[5, 6, 5], [5, 5, 6]])
    with pytest.raises(wnn.errors.ShapeError, match=r"found bias f32\(3\)"):
        net.infer([x, np.ones(3, np.float32), np.float32([5, 6])])
