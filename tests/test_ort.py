"""wnn.ort: onnxruntime's interface."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
import wnn.ort as ort  # noqa: E402
from wnn import WnnError  # noqa: E402


@pytest.fixture(scope="module")
def model() -> bytes:
    """y = transpose(x) of (N, 3, 4), z = x; with metadata."""
    h = onnx.helper
    graph = h.make_graph(
        [
            h.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 1]),
            h.make_node("Identity", ["x"], ["z"]),
        ],
        "two",
        [h.make_tensor_value_info("x", 1, ["N", 3, 4])],
        [h.make_tensor_value_info("y", 1, ["N", 4, 3]), h.make_tensor_value_info("z", 1, None)],
    )
    proto = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], producer_name="tests")
    proto.ir_version = 8
    proto.model_version = 7
    h.set_model_props(proto, {"character": "a\nb", "k": "v"})
    return proto.SerializeToString()


@pytest.fixture(scope="module")
def session(model) -> ort.InferenceSession:
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"])


def test_run_gives_outputs_by_name(session):
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    y, z = session.run(None, {"x": x})
    np.testing.assert_array_equal(y, x.transpose(0, 2, 1))
    np.testing.assert_array_equal(z, x)
    (z,) = session.run(["z"], {"x": x}, ort.RunOptions())
    np.testing.assert_array_equal(z, x)
    z, y = session.run_with_ort_values(["z", "y"], {"x": ort.OrtValue.ortvalue_from_numpy(x)})
    assert (y.shape(), y.data_type(), y.element_type()) == ([2, 4, 3], "tensor(float)", 1)
    np.testing.assert_array_equal(np.asarray(y), x.transpose(0, 2, 1))


def test_inputs_outputs_and_metadata(session):
    (x,) = session.get_inputs()
    assert (x.name, x.type, x.shape) == ("x", "tensor(float)", ["N", 3, 4])
    assert [o.name for o in session.get_outputs()] == ["y", "z"]
    assert session.get_outputs()[0].shape == ["N", 4, 3]
    meta = session.get_modelmeta()
    assert meta.custom_metadata_map == {"character": "a\nb", "k": "v"}
    assert (meta.producer_name, meta.graph_name, meta.version) == ("tests", "two", 7)
    assert session.get_providers() == ort.get_available_providers() == ["CPUExecutionProvider"]


def test_wnnx_file_keeps_the_metadata(model, tmp_path):
    import wnn

    (tmp_path / "m.onnx").write_bytes(model)
    wnn.convert(tmp_path / "m.onnx", tmp_path / "m.wnnx", check=True)
    one = ort.InferenceSession(str(tmp_path / "m.onnx")).get_modelmeta()
    assert one == ort.InferenceSession(tmp_path / "m.wnnx").get_modelmeta()


def test_bad_arguments_are_invalid_argument(session):
    x = np.zeros((1, 3, 4), np.float32)
    for names, feed in [
        (["nothing"], {"x": x}),
        (None, {}),
        (None, {"x": x, "more": x}),
        (None, {"x": x.astype(np.float64)}),
        (None, {"x": x[0]}),
    ]:
        with pytest.raises(ort.InvalidArgument) as e:
            session.run(names, feed)
        assert isinstance(e.value, WnnError) and isinstance(e.value, ValueError)


def test_bad_models_have_their_errors(tmp_path):
    with pytest.raises(ort.NoSuchFile):
        ort.InferenceSession(str(tmp_path / "none.onnx"))
    with pytest.raises(ort.InvalidProtobuf):
        ort.InferenceSession(b"\x08\x08\xff\xff")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(ort.InvalidProtobuf):
        ort.InferenceSession(tmp_path / "bad.onnx")


def test_options_are_kept_and_unknown_features_refused(model):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model, sess_options=options)
    got = session.get_session_options()
    assert got.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    with pytest.raises(ort.NotImplemented):
        options.register_custom_ops_library("x.so")
    options.optimized_model_filepath = "x.onnx"
    with pytest.raises(ort.NotImplemented):
        ort.InferenceSession(model, options)
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        ort.InferenceSession(model, providers=["CUDAExecutionProvider"])


def test_install_serves_packages_that_import_onnxruntime():
    code = """
        import wnn.ort
        wnn.ort.install()
        wnn.ort.install()
        import importlib.util
        import onnxruntime, onnxruntime as rt
        from onnxruntime import InferenceSession, SessionOptions, GraphOptimizationLevel, get_device
        from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument, Fail
        from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented
        from onnxruntime.capi import _pybind_state as C
        import onnxruntime.capi.onnxruntime_inference_collection as collection
        assert InferenceSession is wnn.ort.InferenceSession is collection.InferenceSession
        assert C.SessionOptions is SessionOptions and InvalidArgument is wnn.ort.InvalidArgument
        assert onnxruntime.__version__ and get_device() == "CPU"
        assert importlib.util.find_spec("onnxruntime")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_install_after_onnxruntime_is_refused():
    code = """
        import sys, types
        sys.modules["onnxruntime"] = types.ModuleType("onnxruntime")
        import wnn.ort
        try:
            wnn.ort.install()
        except wnn.WnnError as e:
            assert "top of the program" in str(e)
        else:
            raise SystemExit("no error")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
