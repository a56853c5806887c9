"""If, Loop, Scan and sequences: bodies as ONNX's own evaluator runs them."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from references import I64, F, agree, evaluate, if_model, info, model_of

from wnn import NNForward
from wnn.importer import import_model

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("c1", [True, False])
@pytest.mark.parametrize("c2", [True, False])
def test_if_runs_the_branch_that_holds(c1, c2):
    agree(
        if_model(),
        {
            "a": RNG.standard_normal((2, 2)).astype(np.float32),
            "c1": np.array(c1),
            "c2": np.array([c2]),
        },
    )


def test_if_with_a_known_condition_is_inlined():
    m = if_model()
    del m.graph.input[1:]
    m.graph.initializer.extend(
        [numpy_helper.from_array(np.array(v), n) for n, v in (("c1", True), ("c2", False))]
    )
    graph = agree(m, {"a": np.ones((2, 2), np.float32)})
    assert all(n.op.name != "if" for n in graph.nodes)


def test_inline_if_replaces_the_node_by_the_branch():
    from wnn.ops_std.control_flow import inline_if

    graph = import_model(if_model())
    (node,) = [n for n in graph.nodes if n.op.name == "if"]
    assert not inline_if(graph, node)
    graph.set_input(node, 0, graph.const(np.array(False)))
    assert inline_if(graph, node)
    graph.prune()
    graph.verify()
    x = np.ones((2, 2), np.float32)
    (y,) = evaluate(graph, [x, np.array(True), np.array([True])])
    np.testing.assert_array_equal(y, -3 * x)


def loop_model(trips, cond, grow=True):
    nodes = [
        helper.make_node(
            "Concat" if grow else "Sum", ["s", "x"], ["s2"], **({"axis": 0} if grow else {})
        ),
        helper.make_node("ReduceSum", ["s2"], ["t"], keepdims=0),
        helper.make_node("Less", ["t", "limit"], ["go"]),
        helper.make_node("Unsqueeze", ["t", "axes"], ["row"]),
    ]
    body = helper.make_graph(
        nodes,
        "body",
        [info("i", [], I64), info("c", [], TensorProto.BOOL), info("s", [2])],
        [info("go", [], TensorProto.BOOL), info("s2"), info("row", [1])],
    )
    m = model_of(
        [helper.make_node("Loop", [trips, cond, "x"], ["y", "rows"], body=body)],
        [info("x", [2]), info("trips", [], I64), info("cond", [], TensorProto.BOOL)],
        [info("y"), info("rows")],
        [
            numpy_helper.from_array(np.float32(9), "limit"),
            numpy_helper.from_array(np.array([0]), "axes"),
        ],
    )
    return m


@pytest.mark.parametrize("grow", [True, False])
@pytest.mark.parametrize("trips, cond", [("trips", "cond"), ("trips", ""), ("", "cond"), ("", "")])
@pytest.mark.parametrize("n", [1, 3, 20])
def test_loop_runs_until_its_count_or_condition(grow, trips, cond, n):
    x = np.array([0.5, 1], np.float32)
    y, rows = evaluate(
        import_model(loop_model(trips, cond, grow)), [x, np.array(n), np.array(True)]
    )
    s, want = x, []
    while len(want) < (n if trips else 100) and (not want or want[-1] < 9):
        s = np.concatenate([s, x]) if grow else s + x
        want.append(s.sum())
    np.testing.assert_allclose(y, s)
    np.testing.assert_allclose(rows, np.array(want)[:, None])


@pytest.mark.parametrize("rows", [0, 5])
def test_what_both_branches_of_an_if_share_is_known_after_it(rows):
    """Detectors: of nothing found one branch makes an empty list."""
    some = helper.make_graph([helper.make_node("Relu", ["x"], ["r"])], "some", [], [info("r")])
    none = helper.make_graph(
        [helper.make_node("Slice", ["x", "zero", "zero"], ["e"])], "none", [], [info("e")]
    )
    nodes = [
        helper.make_node("If", ["any"], ["found"], then_branch=some, else_branch=none),
        helper.make_node("MatMul", ["found", "w"], ["y"]),
    ]
    w = RNG.standard_normal((4, 3)).astype(np.float32)
    consts = {"w": w, "zero": np.array([0])}
    m = model_of(
        nodes,
        [info("x", ["n", 4]), info("any", [], TensorProto.BOOL)],
        [info("y")],
        [numpy_helper.from_array(a, n) for n, a in consts.items()],
    )
    net = NNForward().load_from_proto(m)
    assert [n.op.name for n in net.graph.nodes] == ["if", "linear"]  # which wants 4 columns
    x = RNG.standard_normal((5, 4)).astype(np.float32)
    (y,) = net.infer([x, np.array(rows > 0)])
    np.testing.assert_allclose(y, np.maximum(x[:rows], 0) @ w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("which", [True, False])
def test_constants_of_both_branches_are_told_apart(which):
    def branch(value):
        const = helper.make_node("Constant", [], ["r"], value_int=value)
        return helper.make_graph([const], f"b{value}", [], [info("r", [], TensorProto.INT64)])

    nodes = [
        helper.make_node("If", ["c"], ["n"], then_branch=branch(2), else_branch=branch(5)),
        helper.make_node("Add", ["n", "one"], ["y"]),
    ]
    one = numpy_helper.from_array(np.array(1), "one")
    m = model_of(
        nodes, [info("c", [], TensorProto.BOOL)], [info("y", None, TensorProto.INT64)], [one]
    )
    (y,) = NNForward().load_from_proto(m).infer([np.array(which)])
    assert y == (3 if which else 6)


@pytest.mark.parametrize("n, go", [(0, True), (3, False)])
def test_loop_without_iterations_gives_empty_rows(n, go):
    graph = import_model(loop_model("trips", "cond"))
    y, rows = evaluate(graph, [np.ones(2, np.float32), np.array(n), np.array(go)])
    assert y.shape == (2,) and rows.shape == (0, 1)


@pytest.mark.parametrize("back", [0, 1])
@pytest.mark.parametrize("axis_in, axis_out", [(0, 0), (1, 1), (-1, -1)])
def test_scan_agrees_with_onnx(back, axis_in, axis_out):
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "a"], ["s2"]), helper.make_node("Mul", ["s2", "k"], ["r"])],
        "body",
        [info("s", [3]), info("a", [3])],
        [info("s2"), info("r")],
    )
    node = helper.make_node(
        "Scan",
        ["x0", "x"],
        ["y", "rows"],
        body=body,
        num_scan_inputs=1,
        scan_input_axes=[axis_in],
        scan_output_axes=[axis_out],
        scan_input_directions=[back],
        scan_output_directions=[back],
    )
    shape = [5, 3] if axis_in == 0 else [3, 5]
    m = model_of(
        [node], [info("x0", [3]), info("x", shape), info("k", [3])], [info("y"), info("rows")]
    )
    x0, x, k = RNG.standard_normal(3), RNG.standard_normal(shape), RNG.standard_normal(3)
    graph = import_model(m)
    y, rows = evaluate(graph, [a.astype(np.float32) for a in (x0, x, k)])
    xs = x if axis_in == 0 else x.T
    steps = np.cumsum(xs[::-1] if back else xs, 0) + x0
    want = (steps[::-1] if back else steps) * k
    np.testing.assert_allclose(y, steps[-1], rtol=1e-5)
    np.testing.assert_allclose(rows, want if axis_out == 0 else want.T, rtol=1e-5, atol=1e-6)


def test_scan_8_scans_each_sample():
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "a"], ["s2"]), helper.make_node("Identity", ["s2"], ["r"])],
        "body",
        [info("s", [2]), info("a", [2])],
        [info("s2"), info("r")],
    )
    node = helper.make_node(
        "Scan", ["lens", "x0", "x"], ["y", "rows"], body=body, num_scan_inputs=1
    )
    m = model_of(
        [node],
        [info("lens", [2], I64), info("x0", [2, 2]), info("x", [2, 3, 2])],
        [info("y"), info("rows")],
        opset=8,
    )
    x = RNG.standard_normal((2, 3, 2)).astype(np.float32)
    y, rows = evaluate(import_model(m), [np.array([3, 2]), np.zeros((2, 2), np.float32), x])
    np.testing.assert_allclose(y, [x[0].sum(0), x[1, :2].sum(0)], rtol=1e-5)
    np.testing.assert_allclose(rows[1], [x[1, 0], x[1, :2].sum(0), [0, 0]], rtol=1e-5)


def test_sequences_travel_through_loops_and_nodes():
    body = helper.make_graph(
        [helper.make_node("SequenceInsert", ["s", "x"], ["s2"])],
        "body",
        [
            info("i", [], I64),
            info("c", [], TensorProto.BOOL),
            helper.make_tensor_sequence_value_info("s", F, None),
        ],
        [info("c", [], TensorProto.BOOL), helper.make_tensor_sequence_value_info("s2", F, None)],
    )
    nodes = [
        helper.make_node("SequenceEmpty", [], ["s0"]),
        helper.make_node("Loop", ["n", "", "s0"], ["s1"], body=body),
        helper.make_node("ConcatFromSequence", ["s1"], ["y"], axis=0),
    ]
    m = model_of(nodes, [info("x", [2]), info("n", [], I64)], [info("y")])
    (y,) = evaluate(import_model(m), [np.ones(2, np.float32), np.array(3)])
    np.testing.assert_array_equal(y, np.ones(6))
