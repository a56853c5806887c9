"""ONNX import: every way a model can be written, and every way a file can be wrong."""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from references import I64, F, agree, evaluate, info, model_of, relu_model

from wnn import dtypes
from wnn.errors import ModelError
from wnn.importer import import_model
from wnn.onnx_model import OnnxModel

RNG = np.random.default_rng(0)


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


# -- memory
def test_weights_are_in_memory_once_also_while_they_are_loaded(tmp_path):
    """Each is copied, transposed and packed by itself; what it was before is let go of at once."""
    m, x = OnnxModel(), "x"
    for _ in range(16):
        x = m.Gemm(x, m.random(1024, 1024), transB=1)
    onnx.save(m.finish(x, x=(np.float32, [1, 1024])), path := tmp_path / "m.onnx")
    code = (
        "import sys, wnn, wnn.importer, wnn.ops_std; from wnn.profiling import peak_memory\n"
        "before = peak_memory(); model = wnn.NNForward().load_from_file(sys.argv[1])\n"
        "print((peak_memory() - before) / model.memory_report()['constants'])"
    )
    got = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert got.returncode == 0, got.stderr
    assert float(got.stdout) < 1.4
