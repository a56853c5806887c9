"""Models of a few nodes, and their graphs by the operators' references against ONNX's evaluator."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from wnn.importer import import_model

F, I64 = TensorProto.FLOAT, TensorProto.INT64


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
