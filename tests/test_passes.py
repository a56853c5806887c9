"""Passes: what fuses, and that fused and unfused graphs agree."""

import numpy as np
import pytest
from nets import SWITCHABLE, attention_net, conv_net, load, model, node, ops
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

import wnn
from wnn import passes
from wnn.onnx_model import OnnxModel
from wnn.pattern import Fusion, P, V
from wnn.registry import REGISTRY

RNG = np.random.default_rng(0)
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


def test_attention_block_fuses():
    names = ops(load(attention_net()))
    assert "softmax" not in names and "erf" not in names
    assert names.count("linear") == 4


def gelu_net(cube):
    """x (0.5 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))), the cubic term as `cube` spells it."""
    nodes = [
        *cube,
        node("Add", ["x", "c3"], ["s"]),
        node("Mul", ["root", "s"], ["u"]),
        node("Tanh", ["u"], ["t"]),
        node("Add", ["one", "t"], ["t1"]),
        node("Mul", ["half", "t1"], ["h"]),
        node("Mul", ["x", "h"], ["y"]),
    ]
    f = np.float32
    consts = {"root": f((2 / np.pi) ** 0.5), "one": f(1), "half": f(0.5), "k": f(0.044715)}
    return model(nodes, [("x", ["n", 9])], ["y"], consts | {"three": f(3)})


@pytest.mark.parametrize(
    "cube",
    [
        [node("Pow", ["x", "three"], ["c1"]), node("Mul", ["c1", "k"], ["c3"])],
        [
            node("Mul", ["k", "x"], ["c1"]),
            node("Mul", ["x", "c1"], ["c2"]),
            node("Mul", ["x", "c2"], ["c3"]),
        ],
    ],
    ids=["torch", "jax"],
)
def test_gelu_by_tanh_fuses(cube, monkeypatch):
    fused, plain = load(gelu_net(cube)), load(gelu_net(cube), monkeypatch, "core idioms")
    assert ops(fused) == ["gelu_tanh"]
    assert "tanh" in ops(plain)
    x = RNG.standard_normal((4, 9)).astype(np.float32) * 3
    np.testing.assert_allclose(fused.infer([x])[0], plain.infer([x])[0], rtol=2e-5, atol=2e-6)


def test_every_fusion_runs_in_a_pass():
    names = {name for name, _ in passes.PASSES}
    assert {f.op.fused_in for f in REGISTRY.fusions()} <= names


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


def test_debug_levels_print_plans_and_step_times(tmp_path):
    import os
    import subprocess
    import sys

    (tmp_path / "m.onnx").write_bytes(attention_net().SerializeToString())
    code = (
        "import numpy as np, sys, wnn\n"
        "net = wnn.NNForward().load_from_file(sys.argv[1])\n"
        "net.infer([np.zeros((1, 7, 32), np.float32)])"
    )
    for level, seen in (("1", "arena"), ("2", " us  linear")):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "m.onnx")],
            env={**os.environ, "WNN_DEBUG": level},
            capture_output=True,
            text=True,
            check=True,
        )
        assert seen in done.stderr


@pytest.mark.parametrize("spelled", ["equal", "OneHot"])
def test_product_with_one_hot_rows_is_a_lookup(spelled):
    w, b = RNG.standard_normal((5, 8)), RNG.standard_normal(8)
    nodes = {
        "equal": [
            node("Unsqueeze", ["x", "axes"], ["e"]),
            node("Equal", ["e", "classes"], ["same"]),
            node("Cast", ["same"], ["hot"], to=1),
        ],
        "OneHot": [node("OneHot", ["x", "depth", "values"], ["hot"])],
    }[spelled]
    nodes += [
        node("MatMul", ["hot", "w"], ["p"]),
        node("Add", ["p", "b"], ["s"]),
        node("Tanh", ["s"], ["y"]),
    ]
    constants = {
        "axes": np.array([2]),
        "classes": np.arange(5, dtype=np.int32).reshape(1, 1, 5),
        "depth": np.array(5),
        "values": np.array([0, 1], np.float32),
        "w": w.astype(np.float32),
        "b": b.astype(np.float32),
    }
    net = load(model(nodes, [("x", ("n", 6), TensorProto.INT32)], ["y"], constants))
    assert "gather" in ops(net) and not {"equal", "one_hot", "linear", "tanh"} & {*ops(net)}
    x = np.array([[0, 4, 2, 5, -1, 9], [1, 1, -5, -6, 3, 2**31 - 1]], np.int32)
    table = np.concatenate([np.tanh(w + b), np.tanh(b)[None]])
    at = np.where((x < 0) & (x >= -5) & (spelled == "OneHot"), x + 5, x)
    (y,) = net.infer([x])
    np.testing.assert_allclose(y, table[np.where((at < 0) | (at > 4), 5, at)], 1e-5, 1e-5)


def test_transposed_weights_are_folded_whatever_their_size(monkeypatch):
    monkeypatch.setattr(passes, "FOLD_LIMIT", 10)
    consts = {"w": RNG.standard_normal((6, 5)).astype(np.float32)}
    net = load(model([node("Gemm", ["x", "w"], ["y"], transB=1)], [("x", (2, 5))], ["y"], consts))
    assert ops(net) == ["linear"]


def test_an_equal_node_that_is_gone_takes_no_other_ones_place():
    m = OnnxModel()  # the first reshape goes with the second, before the third that is equal to it
    chain = m.Reshape(m.Reshape("x", [6, 4]), [3, 8])
    again = m.Relu(m.Reshape("x", [6, 4]))
    net = load(m.finish([m.Neg(chain), again], x=(np.float32, [2, 12])))
    x = RNG.standard_normal((2, 12)).astype(np.float32)
    negated, positive = net.infer([x])
    assert np.array_equal(negated, -x.reshape(3, 8))
    assert np.array_equal(positive, np.maximum(x.reshape(6, 4), 0))


@pytest.mark.parametrize(
    ("indices", "fused"),
    [([[0]], True), ([1, 2, 3], True), ([[-5, 2], [3, -2]], True), (-2, True), ([3, 1], False)],
)
def test_known_indices_that_are_evenly_apart_are_a_window(indices, fused):
    m = OnnxModel()
    size = 6 if np.size(indices) > 1 or np.ravel(indices)[0] else 1
    y = m.Relu(m.Gather(m.Neg("x"), np.array(indices), axis=1))
    net = load(m.finish(y, x=(np.float32, ["n", size, 4])))
    assert ("gather" not in ops(net)) == fused
    x = RNG.standard_normal((3, size, 4)).astype(np.float32)
    want = np.maximum(np.take(-x, indices, axis=1), 0)
    np.testing.assert_array_equal(net.infer([x])[0], want)


@pytest.mark.parametrize(
    "window, fused",
    [
        ((slice(None), slice(1, None), slice(2, 4)), True),
        ((slice(0, 1), slice(None), slice(None)), True),
        ((slice(None), slice(None), slice(None)), True),
        ((slice(1, 2), slice(2, 3)), True),
        ((slice(None), slice(None, None, 2), slice(None)), False),
    ],
)
def test_assigning_to_a_window_joins_it_with_what_lies_around(window, fused):
    x = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
    at = np.stack(np.meshgrid(*[np.arange(d)[w] for d, w in zip(x.shape, window)], indexing="ij"))
    at = np.moveaxis(at, 0, -1)
    updates = RNG.standard_normal((*at.shape[:-1], *x.shape[len(window) :])).astype(np.float32)
    at[..., 1] -= x.shape[1]  # counted from the end
    m = OnnxModel()
    y = m.ScatterND("x", at, "updates")
    net = load(m.finish(y, x=(np.float32, x.shape), updates=(np.float32, updates.shape)))
    assert ("scatter_nd" not in ops(net)) == fused
    want = x.copy()
    want[window] = updates
    np.testing.assert_array_equal(net.infer({"x": x, "updates": updates})[0], want)


@pytest.mark.parametrize(
    "shape, axis, reduction, fused",
    [
        ((3, 1, 1), 0, "none", True),
        ((3, 1, 1), 0, "add", True),
        ((1, 3, 1), 1, "none", False),
        ((3, 4, 1), 0, "none", False),  # other rows for other columns
        ((1, 1, 1), 0, "none", False),  # one row, several times
    ],
)
def test_rows_with_one_index_each_are_scattered_whole(shape, axis, reduction, fused):
    x, updates = (RNG.standard_normal((4, 4, 5)).astype(np.float32) for _ in range(2))
    updates = updates[:3] if axis == 0 else updates[:, :3]
    at = RNG.integers(-4, 4, shape)
    m = OnnxModel()
    indices = m.Expand("at", np.array(updates.shape))
    y = m.ScatterElements("x", indices, "updates", axis=axis, reduction=reduction)
    given = dict(x=(np.float32, x.shape), at=(np.int64, shape), updates=(np.float32, updates.shape))
    proto = m.finish(y, opset=18, **given)
    net = load(proto)
    assert ("scatter_nd" in ops(net)) == fused
    feed = {"x": x, "at": at, "updates": updates}
    want = ReferenceEvaluator(proto).run(None, feed)[0]
    np.testing.assert_allclose(net.infer(feed)[0], want, rtol=1e-6)


def test_of_a_sum_of_products_each_adds_to_the_one_before():
    m = OnnxModel()
    weights = RNG.standard_normal((8, 6, 6)).astype(np.float32)
    h, total = "x", None
    for w, v in zip(weights[::2], weights[1::2]):
        h = m.Relu(m.MatMul(h, w))
        part = m.MatMul(h, v)
        total = part if total is None else m.Add(total, part)
    net = load(m.finish(total, x=(np.float32, [5, 6])))
    posts = [[kind for kind, *_ in n.attrs["post"]] for n in net.graph.nodes]
    assert sorted(map(len, posts)) == [0] + [1] * 7 and "add" not in ops(net)
    x = RNG.standard_normal((5, 6)).astype(np.float32)
    h, want = x, 0
    for w, v in zip(weights[::2], weights[1::2]):
        h = np.maximum(h @ w, 0)
        want = want + h @ v
    np.testing.assert_allclose(net.infer([x])[0], want, 1e-4, 1e-4)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("tanh", [False, True])
def test_gates_of_halves_are_one_step(split, tanh):
    m = OnnxModel()
    x = m.Neg("x")
    if split:
        a, b = m.Split(x, axis=1, num_outputs=2, outputs=2)
    else:
        a, b = (
            m.Slice(x, np.array([s]), np.array([e]), np.array([1])) for s, e in ((0, 3), (3, 99))
        )
    net = load(m.finish(m.Mul(m.Tanh(a) if tanh else a, m.Sigmoid(b)), x=(np.float32, [2, 6, 5])))
    assert ops(net).count("glu") == 1 and "sigmoid" not in ops(net)
    x = RNG.standard_normal((2, 6, 5)).astype(np.float32)
    a, b = -x[:, :3], -x[:, 3:]
    want = (np.tanh(a) if tanh else a) / (1 + np.exp(-b))
    np.testing.assert_allclose(net.infer([x])[0], want, 1e-5, 1e-6)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_sums_of_two_halves_are_additions(keepdims):
    m = OnnxModel()
    y = m.ReduceSum(m.Neg("x"), np.array([1]), keepdims=keepdims)
    net = load(m.finish(y, x=(np.float32, [3, 2, 4])))
    assert "add" in ops(net) and "reduce_sum" not in ops(net)
    x = RNG.standard_normal((3, 2, 4)).astype(np.float32)
    np.testing.assert_array_equal(net.infer([x])[0], -x.sum(1, keepdims=bool(keepdims)))


def test_picks_by_a_mask_are_rows():
    m = OnnxModel()
    at = m.Transpose(m.NonZero(m.Greater("scores", np.float32(0))), perm=[1, 0])
    net = load(m.finish(m.GatherND("x", at), x=(np.float32, [9, 4]), scores=(np.float32, [9])))
    assert "gather" in ops(net) and "gather_nd" not in ops(net)
    x, scores = (RNG.standard_normal(s).astype(np.float32) for s in [(9, 4), (9,)])
    np.testing.assert_array_equal(net.infer({"x": x, "scores": scores})[0], x[scores > 0])


def test_neutral_constants_vanish_unless_they_broadcast():
    consts = {"zeros": np.zeros((1, 3), np.float32), "ones": np.ones(3, np.float32)}
    consts["wide"] = np.zeros((2, 1, 3), np.float32)
    nodes = [
        node("Add", ["zeros", "x"], ["a"]),
        node("Mul", ["a", "ones"], ["b"]),
        node("Sub", ["b", "zeros"], ["c"]),
        node("Neg", ["c"], ["d"]),
        node("Add", ["d", "wide"], ["y"]),
    ]
    net = load(model(nodes, [("x", (5, 3))], ["y"], consts))
    assert ops(net) == ["neg", "add"]
    x = RNG.standard_normal((5, 3)).astype(np.float32)
    np.testing.assert_array_equal(net.infer([x])[0], np.stack([-x, -x]))


def test_instances_of_one_channel_are_normalised():
    m = OnnxModel()
    y = m.InstanceNormalization("x", m.random(1), m.random(1))
    net = load(m.finish(y, x=(np.float32, ["n", 1, 300])))
    x = RNG.standard_normal((2, 1, 300)).astype(np.float32)
    gamma, beta = (v.array for v in net.graph.constants().values())
    want = (x - x.mean(2, keepdims=True)) / np.sqrt(x.var(2, keepdims=True) + 1e-5)
    np.testing.assert_allclose(net.infer([x])[0], want * gamma + beta, 1e-5, 1e-5)


@pytest.mark.parametrize("canonical", [False, True])
def test_a_fusion_that_matches_what_it_makes_is_refused(canonical):
    def again(g, m):  # as it is, or as canonical forms leave it
        y = g.add("relu", [m.x])
        return g.add("identity", [y]) if canonical else y

    fusion = Fusion("again", P.relu(V("x")), again)
    m = OnnxModel()
    net = load(m.finish(m.Relu("x"), x=(np.float32, [4])))
    with pytest.raises(wnn.WnnError, match=r"found that 'again' goes on for ever .*not match"):
        passes.fuse_all(net.graph, passes.Context(net.graph, [fusion]), [fusion])


def test_scores_may_be_the_sum_of_more_terms_than_python_nests_calls():
    n = 1200
    nodes = [node("Add", [f"s{i}", "x"], [f"s{i + 1}"]) for i in range(n)]
    nodes += [node("Softmax", [f"s{n}"], ["p"]), node("MatMul", ["p", "v"], ["y"])]
    shape = [1, 2, 4, 4]
    m = model(nodes, [("s0", shape), ("x", shape), ("v", shape)], ["y"])
    s0, v = (RNG.standard_normal(shape).astype(np.float32) for _ in range(2))
    (y,) = load(m).infer([s0, np.zeros_like(s0), v])
    weights = np.exp(s0 - s0.max(-1, keepdims=True))
    want = weights / weights.sum(-1, keepdims=True) @ v
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
