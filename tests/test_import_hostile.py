"""Hostile models: each is refused with an error that says what to do, and none crashes."""

import contextlib

import onnx
import pytest
from onnx import TensorProto, helper
from references import I64, F, if_model, info, model_of, relu_model

from wnn.errors import MissingOperatorError, ModelError, WnnError
from wnn.importer import import_model


def broken(edit):
    m = relu_model()
    edit(m)
    return m


def add_init(m, **fields):
    m.graph.initializer.append(TensorProto(name="w", **fields))


HOSTILE = {
    "cycle": lambda m: m.graph.node.extend(
        [helper.make_node("Add", ["p", "x"], ["q"]), helper.make_node("Add", ["q", "x"], ["p"])]
    ),
    "self": lambda m: m.graph.node.append(helper.make_node("Add", ["p", "x"], ["p"])),
    "undefined": lambda m: m.graph.node.append(helper.make_node("Add", ["nowhere", "x"], ["p"])),
    "undefined output": lambda m: m.graph.output.append(info("nowhere")),
    "undefined in a body": lambda m: m.graph.node.append(
        helper.make_node(
            "If",
            ["x"],
            ["p"],
            then_branch=helper.make_graph([], "t", [], [info("no")]),
            else_branch=helper.make_graph([], "e", [], [info("no")]),
        )
    ),
    "twice": lambda m: m.graph.node.append(helper.make_node("Neg", ["x"], ["y"])),
    "input made again": lambda m: m.graph.node.append(helper.make_node("Neg", ["y"], ["x"])),
    "inputs twice": lambda m: m.graph.input.append(info("x", [2])),
    "initializer twice": lambda m: [
        add_init(m, data_type=F, dims=[1], float_data=[1]) for _ in range(2)
    ],
    "no name": lambda m: m.graph.initializer.append(
        TensorProto(data_type=F, dims=[1], float_data=[1])
    ),
    "no outputs": lambda m: m.graph.ClearField("output"),
    "no opset": lambda m: m.ClearField("opset_import"),
    "old opset": lambda m: setattr(m.opset_import[0], "version", 0),
    "new opset": lambda m: setattr(m.opset_import[0], "version", 999),
    "new ir": lambda m: setattr(m, "ir_version", 999),
    "no ir": lambda m: m.ClearField("ir_version"),
    "no data": lambda m: add_init(m, data_type=F, dims=[3]),
    "short data": lambda m: add_init(m, data_type=F, dims=[3], raw_data=b"1234"),
    "long data": lambda m: add_init(m, data_type=F, dims=[1], raw_data=bytes(8)),
    "short list": lambda m: add_init(m, data_type=F, dims=[3], float_data=[1]),
    "wrong list": lambda m: add_init(m, data_type=F, dims=[1], int32_data=[1]),
    "huge": lambda m: add_init(m, data_type=F, dims=[1 << 40, 1 << 40], raw_data=b"1234"),
    "negative": lambda m: add_init(m, data_type=F, dims=[-1, -4], raw_data=bytes(16)),
    "no type": lambda m: add_init(m, dims=[1], float_data=[1]),
    "unknown type": lambda m: add_init(m, data_type=99, dims=[1], float_data=[1]),
    "untyped input": lambda m: m.graph.input.append(info("z", [2], 0)),
    "sparse huge": lambda m: m.graph.sparse_initializer.append(
        onnx.SparseTensorProto(
            values=helper.make_tensor("w", F, [1], [1.0]),
            indices=helper.make_tensor("i", I64, [1], [0]),
            dims=[1 << 40],
        )
    ),
    "sparse outside": lambda m: m.graph.sparse_initializer.append(
        onnx.SparseTensorProto(
            values=helper.make_tensor("w", F, [1], [1.0]),
            indices=helper.make_tensor("i", I64, [1], [9]),
            dims=[4],
        )
    ),
    "if without body": lambda m: m.graph.node.append(helper.make_node("If", ["x"], ["p"])),
    "constant without value": lambda m: m.graph.node.append(
        helper.make_node("Constant", [], ["p"])
    ),
    "wrong attribute": lambda m: m.graph.node.append(
        helper.make_node("Transpose", ["x"], ["p"], perm="no")
    ),
    "wrong perm": lambda m: m.graph.node.append(
        helper.make_node("Transpose", ["x"], ["p"], perm=[5])
    ),
    "no inputs": lambda m: m.graph.node.append(helper.make_node("Transpose", [], ["p"])),
    "too many outputs": lambda m: m.graph.node.append(
        helper.make_node("Transpose", ["x"], ["p", "q"])
    ),
    "split into another number": lambda m: m.graph.node.append(
        helper.make_node("Split", ["x"], ["p", "q"], num_outputs=1)
    ),
    "loop body": lambda m: m.graph.node.append(
        helper.make_node("Loop", ["", ""], ["p"], body=helper.make_graph([], "b", [], [info("x")]))
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_models_are_refused(case):
    with pytest.raises(WnnError) as e:
        import_model(broken(HOSTILE[case]).SerializeToString())
    assert str(e.value).startswith("["), e.value


def test_damaged_files_are_refused(tmp_path):
    whole = relu_model().SerializeToString()
    for data in (b"", b"not a model", bytes(100), whole[:-3], whole[: len(whole) // 2]):
        with pytest.raises(WnnError):
            import_model(data)
    with pytest.raises(ModelError):
        import_model(tmp_path / "none.onnx")
    with pytest.raises(ModelError):
        import_model(tmp_path)


def test_flipped_bytes_never_crash():
    whole = bytearray(if_model().SerializeToString())
    for i in range(0, len(whole), 3):
        for flip in (0x01, 0x80, 0xFF):
            data = bytearray(whole)
            data[i] ^= flip
            with contextlib.suppress(WnnError):
                import_model(bytes(data))


def test_all_missing_operators_are_listed_at_once():
    nodes = [
        helper.make_node("window_attention", ["x"], ["a"], domain="contrib.nowhere"),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Nonsense", ["b"], ["y"], domain="com.acme"),
    ]
    m = model_of(nodes, [info("x", [2, 3])], [info("y")])
    m.opset_import.append(helper.make_opsetid("contrib.nowhere", 1))
    with pytest.raises(MissingOperatorError) as e:
        import_model(m)
    assert "pip install wnn-contrib-nowhere" in str(e.value) and "com.acme:Nonsense" in str(e.value)
