"""ONNX import: every way a model can be written, and every way a file can be wrong."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from wnn import NNForward, dtypes
from wnn.errors import ModelError
from wnn.importer import import_model

F, I64 = TensorProto.FLOAT, TensorProto.INT64
RNG = np.random.default_rng(0)


def info(name, shape=None, dtype=F):
    return helper.make_tensor_value_info(name, dtype, shape)


def model_of(nodes, inputs, outputs, inits=(), opset=21, functions=(), **more):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(inits), **more)
    imports = [helper.make_opsetid("", opset)] + [
        helper.make_opsetid(d, 1) for d in {f.domain for f in functions}
    ]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=list(functions))


def evaluate(graph, arrays):
    """Runs a graph node by node through the operators' references."""
    env = {id(v): a for v, a in zip(graph.inputs, arrays, strict=True)}

    def get(v):
        return None if v is None else v.array if v.const is not None else env[id(v)]

    for node in graph.nodes:
        ins = [get(v) for v in node.inputs]
        fn = node.op._control
        got = fn(evaluate, *ins, **node.attrs) if fn else node.op._reference(*ins, **node.attrs)
        for v, a in zip(node.outputs, got if fn or isinstance(got, tuple) else (got,), strict=True):
            env[id(v)] = a
            if v.spec is not None and v.spec.dtype != "obj":
                assert np.ndim(a) == v.spec.rank, node
    return [get(v) for v in graph.outputs]


def agree(model, feeds):
    from onnx.reference import ReferenceEvaluator

    want = ReferenceEvaluator(model).run(None, feeds)
    graph = import_model(model.SerializeToString())
    graph.verify()
    got = evaluate(graph, [feeds[v.name] for v in graph.inputs])
    for g, w in zip(got, want, strict=True):
        if isinstance(w, list):
            assert len(g) == len(w)
            for a, b in zip(g, w):
                np.testing.assert_allclose(a, b, rtol=1e-5)
        else:
            assert np.shape(g) == np.shape(w)
            np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)
    return graph


def relu_model():
    return model_of(
        [helper.make_node("Relu", ["x"], ["y"], name="r")], [info("x", [2])], [info("y")]
    )


def add_model(init):
    return model_of(
        [helper.make_node("Add", ["x", "w"], ["y"])], [info("x", [2, 3])], [info("y")], [init]
    )


# -- initializers
def test_initializers_raw_and_typed_agree():
    w = RNG.standard_normal((2, 3)).astype(np.float32)
    x = np.ones((2, 3), np.float32)
    agree(add_model(numpy_helper.from_array(w, "w")), {"x": x})
    agree(add_model(helper.make_tensor("w", F, [2, 3], w.ravel().tolist())), {"x": x})


@pytest.mark.parametrize(
    "code", [c for c in TensorProto.DataType.values() if c not in (0, 8, 14, 15)]
)
def test_initializers_of_every_type_hold_their_values(code):
    values = np.array([0, 1, 1, 0, 1], np.float32)
    dtype = helper.tensor_dtype_to_np_dtype(code)
    raw = numpy_helper.from_array(values.astype(dtype), "w")
    typed = helper.make_tensor(
        "w", code, [5], values.astype(dtype).tolist() if code != 24 else values.astype(dtype)
    )
    for t in (raw, typed):
        m = model_of([helper.make_node("Identity", ["w"], ["y"])], [], [info("y")], [t], opset=23)
        m.ir_version = 13
        m.graph.node[0].op_type = "Shape"
        m.graph.output.append(info("w"))
        out = import_model(m).outputs[1]
        got = out.array
        if out.spec.dtype in dtypes.BITS:
            got = got.astype(dtype) if dtype.name[0] in "iu" else got.view(dtype)
        np.testing.assert_array_equal(
            got.astype(np.float32), values.astype(dtype).astype(np.float32)
        )


def test_initializer_that_is_also_an_input_is_no_input():
    m = add_model(numpy_helper.from_array(np.ones((2, 3), np.float32), "w"))
    m.graph.input.append(info("w", [2, 3]))
    assert [v.name for v in import_model(m).inputs] == ["x"]


def test_sparse_initializer_is_made_dense():
    values = helper.make_tensor("w", F, [2], [5.0, 7.0])
    sparse = helper.make_sparse_tensor(
        values, helper.make_tensor("i", I64, [2, 2], [0, 1, 1, 2]), [2, 3]
    )
    m = model_of([helper.make_node("Add", ["x", "w"], ["y"])], [info("x", [2, 3])], [info("y")])
    m.graph.sparse_initializer.append(sparse)
    (y,) = evaluate(import_model(m), [np.zeros((2, 3), np.float32)])
    np.testing.assert_array_equal(y, [[0, 5, 0], [0, 0, 7]])


@pytest.mark.parametrize(
    "attr, value",
    [
        ("value_float", 2.0),
        ("value_ints", [1, 2]),
        ("value_strings", ["a", "b"]),
        ("value_int", 3),
        ("value_string", "s"),
    ],
)
def test_constant_nodes_of_every_kind(attr, value):
    m = model_of([helper.make_node("Constant", [], ["y"], **{attr: value})], [], [info("y")])
    got = import_model(m).outputs[0].array
    assert got.shape == np.shape(value) and (got == np.array(value)).all()


# -- external data
def external_model(tmp_path, location, length=None, offset=None, write=24):
    t = TensorProto(name="w", data_type=F, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for k, v in (("location", location), ("length", length), ("offset", offset)):
        if v is not None:
            t.external_data.add(key=k, value=str(v))
    folder = tmp_path / "m"
    folder.mkdir(exist_ok=True)
    (folder / "w.bin").write_bytes(np.arange(6, dtype=np.float32).tobytes()[:write])
    path = folder / "model.onnx"
    path.write_bytes(add_model(t).SerializeToString())
    return path


def test_external_data_beside_the_model_is_read(tmp_path):
    graph = import_model(external_model(tmp_path, "w.bin", 24, 0))
    (y,) = evaluate(graph, [np.zeros((2, 3), np.float32)])
    np.testing.assert_array_equal(y, np.arange(6).reshape(2, 3))


@pytest.mark.parametrize(
    "location, length, offset, write",
    [
        ("../w.bin", 24, 0, 24),
        ("/etc/passwd", 24, 0, 24),
        ("none.bin", 24, 0, 24),
        ("w.bin", 20, 0, 24),
        ("w.bin", 24, 4, 24),
        ("w.bin", 24, -4, 24),
        ("w.bin", None, None, 20),
        ("w.bin", "x", 0, 24),
        ("", 24, 0, 24),
        (".", 24, 0, 24),
        ("link.bin", 24, 0, 24),
    ],
)
def test_external_data_elsewhere_or_wrong_is_refused(tmp_path, location, length, offset, write):
    path = external_model(tmp_path, location, length, offset, write)
    (tmp_path / "w.bin").write_bytes(bytes(24))
    os.symlink(tmp_path / "w.bin", path.parent / "link.bin")
    with pytest.raises(ModelError):
        import_model(path)
    with pytest.raises(ModelError):
        import_model(path.read_bytes())


# -- inputs
def test_free_axes_become_symbols():
    m = model_of(
        [helper.make_node("Identity", ["a"], ["y"])],
        [info("a", ["N", "h w", -1, 0]), info("b", ["N", "?", "?", "h.w"])],
        [info("y")],
    )
    a, b = (v.spec.shape for v in import_model(m).inputs)
    assert a[0] == b[0] and len({*a, *b}) == 7
    assert all(s.isidentifier() for d in (*a, *b) for s in d.symbols())


# -- functions and bodies
def scaled_function():
    node = helper.make_node("LeakyRelu", ["x"], ["t"])
    node.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    return helper.make_function(
        "local",
        "Inner",
        ["x", "b"],
        ["y"],
        [node, helper.make_node("Add", ["t", "t"], ["y"])],
        [helper.make_opsetid("", 21)],
        attribute_protos=[helper.make_attribute("slope", 0.5)],
    )


@pytest.mark.parametrize("given", [{}, {"slope": 0.25}])
def test_functions_are_expanded_with_their_attributes(given):
    inner = helper.make_node("Inner", ["x"], ["y"], domain="local")
    if given:
        inner.attribute.add(name="slope", ref_attr_name="s", type=onnx.AttributeProto.FLOAT)
    outer = helper.make_function(
        "local",
        "Outer",
        ["x"],
        ["y"],
        [inner],
        [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)],
        ["s"],
    )
    call = helper.make_node("Outer", ["x"], ["y"], domain="local", s=0.25)
    m = model_of([call], [info("x", [2, 3])], [info("y")], functions=[scaled_function(), outer])
    x = RNG.standard_normal((2, 3)).astype(np.float32)
    (y,) = evaluate(import_model(m), [x])
    np.testing.assert_allclose(y, 2 * np.where(x < 0, x * given.get("slope", 0.5), x), rtol=1e-6)


def test_a_function_that_calls_itself_is_refused():
    f = helper.make_function(
        "local",
        "F",
        ["x"],
        ["y"],
        [helper.make_node("F", ["x"], ["y"], domain="local")],
        [helper.make_opsetid("local", 1)],
    )
    with pytest.raises(ModelError, match="deep"):
        import_model(
            model_of(
                [helper.make_node("F", ["x"], ["y"], domain="local")],
                [info("x", [1])],
                [info("y")],
                functions=[f],
            )
        )


def test_functions_that_multiply_are_refused():
    fs = [scaled_function()]
    fs[0].name = "F0"
    for i in range(1, 30):
        calls = [
            helper.make_node(f"F{i - 1}", [a], [b], domain="local")
            for a, b in (("x", "t"), ("t", "y"))
        ]
        fs.append(
            helper.make_function(
                "local", f"F{i}", ["x"], ["y"], calls, [helper.make_opsetid("local", 1)]
            )
        )
    import wnn.importer as importer

    limit, importer.MAX_NODES = importer.MAX_NODES, 2000
    try:
        with pytest.raises(ModelError, match="nodes"):
            import_model(
                model_of(
                    [helper.make_node("F29", ["x"], ["y"], domain="local")],
                    [info("x", [1])],
                    [info("y")],
                    functions=fs,
                )
            )
    finally:
        importer.MAX_NODES = limit


def test_functions_that_onnx_defines_are_expanded():
    m = model_of(
        [helper.make_node("MeanVarianceNormalization", ["x"], ["y"])],
        [info("x", [2, 3, 4, 5])],
        [info("y")],
    )
    agree(m, {"x": RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)})


def if_model():
    def branch(op):
        inner = helper.make_graph([helper.make_node("Neg", ["z"], ["r"])], "n", [], [info("r")])
        nodes = [
            helper.make_node(op, ["x", "w"], ["z"]),
            helper.make_node(
                "If",
                ["c2"],
                ["o"],
                then_branch=inner,
                else_branch=helper.make_graph([], "e", [], [info("z")]),
            ),
        ]
        return helper.make_graph(nodes, op, [], [info("o")])

    nodes = [
        helper.make_node("Relu", ["a"], ["x"]),
        helper.make_node("If", ["c1"], ["y"], then_branch=branch("Add"), else_branch=branch("Mul")),
    ]
    w = numpy_helper.from_array(np.full((2, 1), 3, np.float32), "w")
    return model_of(
        nodes,
        [info("a", ["N", 2]), info("c1", [], TensorProto.BOOL), info("c2", [1], TensorProto.BOOL)],
        [info("y")],
        [w],
    )


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


# -- what is tolerated
def test_nodes_out_of_order_are_sorted():
    nodes = [helper.make_node("Neg", ["t"], ["y"]), helper.make_node("Relu", ["x"], ["t"])]
    graph = import_model(model_of(nodes, [info("x", [2])], [info("y")]))
    np.testing.assert_array_equal(evaluate(graph, [np.array([1, -1], np.float32)])[0], [-1, 0])


def test_wrong_declared_outputs_and_duplicate_opsets_are_ignored():
    m = relu_model()
    m.graph.output[0].CopyFrom(info("y", [7, 7, 7], I64))
    m.opset_import.append(helper.make_opsetid("ai.onnx", 13))
    m.opset_import.append(helper.make_opsetid("", 21))
    (y,) = evaluate(import_model(m), [np.array([1, -1], np.float32)])
    assert y.shape == (2,)
