"""wnn.ort: onnxruntime's interface."""

from __future__ import annotations

import dataclasses
import functools
import os
import queue
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


# -- values and bindings --------------------------------------------------------------------------
def test_binding_reads_and_writes_where_it_was_bound(session):
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    y = np.zeros((2, 4, 3), np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("z")
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    for scale in (1, 3):  # what is bound is read at each run
        x *= scale
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(y, x.transpose(0, 2, 1))
        z, into = binding.get_outputs()
        np.testing.assert_array_equal(z.numpy(), x)
        assert into.data_ptr() == y.ctypes.data
    copies = binding.copy_outputs_to_cpu()
    assert not np.shares_memory(copies[1], y)
    np.testing.assert_array_equal(copies[1], y)
    binding.clear_binding_outputs()
    given = ort.OrtValue.ortvalue_from_shape_and_type((2, 4, 3), np.float32)
    binding.bind_ortvalue_output("y", given)
    binding.bind_input("x", "cpu", 0, 1, x.shape, x.ctypes.data)
    session.run_with_iobinding(binding, ort.RunOptions())
    np.testing.assert_array_equal(given.numpy(), y)
    assert len(binding.get_outputs()) == 1


def test_bindings_that_do_not_fit_are_refused(session):
    binding = session.io_binding()
    for name, bind in (("q", binding.bind_output), ("y", lambda n: binding.bind_cpu_input(n, 0))):
        with pytest.raises(ort.InvalidArgument):
            bind(name)
    with pytest.raises(ort.InvalidArgument):
        binding.bind_output("y", buffer_ptr=1)
    with pytest.raises(ort.NotImplemented):
        binding.bind_output("y", "cuda")
    binding.bind_output("y")
    with pytest.raises(ort.InvalidArgument, match="add"):
        session.run_with_iobinding(binding)
    binding.bind_cpu_input("x", np.zeros((2, 3, 4), np.float32))
    small = ort.OrtValue.ortvalue_from_shape_and_type((1, 4, 3), np.float32)
    binding.bind_ortvalue_output("y", small)
    with pytest.raises(ort.InvalidArgument):
        session.run_with_iobinding(binding)


def test_values_share_memory_and_tell_their_types():
    x = np.arange(6, dtype=np.int64).reshape(2, 3)
    v = ort.OrtValue.ortvalue_from_numpy(x)
    assert v.numpy() is x and v.data_ptr() == x.ctypes.data and v.device_name() == "cpu"
    assert (v.shape(), v.data_type(), v.element_type()) == ([2, 3], "tensor(int64)", 7)
    assert v.tensor_size_in_bytes() == 48 and v.is_tensor() and v.has_value()
    v.update_inplace(np.zeros((2, 3), np.int64))
    assert not x.any()
    for other in (np.zeros((3, 2), np.int64), np.zeros((2, 3), np.float32)):
        with pytest.raises(ort.InvalidArgument):
            v.update_inplace(other)
    assert np.shares_memory(np.from_dlpack(v), x)
    assert np.shares_memory(ort.OrtValue.from_dlpack(x).numpy(), x)
    bits = np.zeros((2, 2), np.uint16)
    half = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, 16)
    assert (half.data_type(), half.element_type()) == ("tensor(bfloat16)", 16)
    with pytest.raises(ort.InvalidArgument):
        ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.zeros(2, np.float32), 16)
    with pytest.raises(ort.NotImplemented):
        ort.OrtValue.ortvalue_from_numpy(x, "cuda")


def test_sequences_are_values_too():
    h = onnx.helper
    out = h.make_tensor_sequence_value_info("s", 1, None)
    ins = [h.make_tensor_value_info(n, 1, [n]) for n in "AB"]
    graph = h.make_graph([h.make_node("SequenceConstruct", ["A", "B"], ["s"])], "g", ins, [out])
    proto = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(proto.SerializeToString())
    a, b = np.ones(2, np.float32), np.ones(3, np.float32)
    feed = {k: ort.OrtValue.ortvalue_from_numpy(v) for k, v in (("A", a), ("B", b))}
    (s,) = session.run_with_ort_values(None, feed)
    assert s.is_tensor_sequence() and not s.is_tensor() and s.data_type() == "seq(tensor(float))"
    with pytest.raises(ort.RuntimeException):
        s.numpy()
    assert [len(v) for v in session.run(["s"], feed)[0]] == [2, 3]


def test_async_run_calls_back(session):
    got: queue.Queue = queue.Queue()
    x = np.ones((1, 3, 4), np.float32)
    for feed in ({"x": x}, {}):
        session.run_async(["z"], feed, lambda *told: got.put(told), 7)
    told = sorted((got.get(timeout=60) for _ in range(2)), key=lambda t: t[2])
    assert [t[1] for t in told] == [7, 7]
    np.testing.assert_array_equal(told[0][0][0], x)
    assert not told[0][2] and not told[1][0] and "expected" in told[1][2]


def test_run_options_can_refuse_a_run(session):
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    assert options.get_run_config_entry("memory.enable_memory_arena_shrinkage") == "cpu:0"
    feed = {"x": np.ones((1, 3, 4), np.float32)}
    assert len(session.run(None, feed, options)) == 2
    options.terminate = True
    with pytest.raises(ort.Fail):
        session.run(None, feed, options)
    with pytest.raises(ort.NotImplemented):
        options.add_active_adapter(None)


def test_options_without_counterpart_are_refused(model, tmp_path):
    options = ort.SessionOptions()
    with pytest.raises(AttributeError):
        options.intra_op_threads = 1
    with pytest.raises(ort.NotImplemented):
        options.add_initializer("w", ort.OrtValue.ortvalue_from_numpy(np.zeros(1)))
    with pytest.raises(ort.RuntimeException):
        options.get_session_config_entry("nothing")
    options.add_free_dimension_override_by_name("N", 2)
    session = ort.InferenceSession(model, options)
    assert session.get_inputs()[0].shape == [2, 3, 4]
    with pytest.raises(ort.NotImplemented):
        session.end_profiling()
    (tmp_path / "m.ort").write_bytes(b"ORTM")
    with pytest.raises(ort.NotImplemented, match="own format"):
        ort.InferenceSession(tmp_path / "m.ort")


# -- converted models that are kept ---------------------------------------------------------------
def kept(folder) -> list:
    return sorted(folder.glob("*"))


def caching(folder) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.add_session_config_entry("wnn.cache", str(folder))
    return options


def test_kept_model_gives_the_same_and_is_found_by_bytes_and_path(model, tmp_path):
    folder, x = tmp_path / "kept", np.random.default_rng(0).random((2, 3, 4), np.float32)
    want = ort.InferenceSession(model).run(None, {"x": x})
    (tmp_path / "m.onnx").write_bytes(model)
    for source in (model, tmp_path / "m.onnx", str(tmp_path / "m.onnx"), bytearray(model)):
        session = ort.InferenceSession(source, caching(folder))
        assert len(kept(folder)) == 1
        for a, b in zip(session.run(None, {"x": x}), want, strict=True):
            np.testing.assert_array_equal(a, b)
        assert session.get_modelmeta() == ort.InferenceSession(model).get_modelmeta()


def test_warm_start_imports_nothing_of_onnx(model, tmp_path):
    (tmp_path / "m.onnx").write_bytes(model)
    code = """
        import sys
        import numpy as np
        import wnn.ort
        session = wnn.ort.InferenceSession("m.onnx")
        y, z = session.run(None, {"x": np.ones((1, 3, 4), np.float32)})
        print(y.sum(), "onnx" in sys.modules)
    """
    env = {**os.environ, "WNN_ORT_CACHE": "kept"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    run = functools.partial(subprocess.run, capture_output=True, text=True, check=True)
    said = [run(command, cwd=tmp_path, env=env).stdout.split() for _ in range(2)]
    assert said == [["12.0", "True"], ["12.0", "False"]]


def test_another_version_makes_another_file(model, tmp_path, monkeypatch):
    import wnn
    from wnn import plugins

    ort.InferenceSession(model, caching(tmp_path))
    monkeypatch.setattr(wnn, "__version__", "99.0")
    ort.InferenceSession(model, caching(tmp_path))
    assert len(kept(tmp_path)) == 2
    found = plugins.summon_plugins()
    newer = plugins.Report([dataclasses.replace(p, version="99.0") for p in found.packages])
    monkeypatch.setattr(plugins, "summon_plugins", lambda: newer)
    ort.InferenceSession(model, caching(tmp_path))
    assert len(kept(tmp_path)) == 3
    ort.InferenceSession(model + b"\x12\x00", caching(tmp_path))  # the producer's name, again
    assert len(kept(tmp_path)) == 4


def test_damaged_file_is_made_again(model, tmp_path):
    ort.InferenceSession(model, caching(tmp_path))
    (file,) = kept(tmp_path)
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2])
    with pytest.warns(UserWarning, match="made again"):
        session = ort.InferenceSession(model, caching(tmp_path))
    assert len(session.run(None, {"x": np.ones((1, 3, 4), np.float32)})) == 2
    assert kept(tmp_path) == [file] and file.read_bytes() == good


def test_place_that_cannot_be_written_is_told(model, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.warns(UserWarning, match="could not be written"):
        session = ort.InferenceSession(model, caching(tmp_path / "file"))
    assert len(session.run(None, {"x": np.ones((1, 3, 4), np.float32)})) == 2


def test_processes_may_write_at_once(model, tmp_path):
    (tmp_path / "m.onnx").write_bytes(model)
    code = """
        import numpy as np
        import wnn.ort
        for _ in range(5):
            session = wnn.ort.InferenceSession("m.onnx")
            assert session.run(["y"], {"x": np.ones((1, 3, 4), np.float32)})[0].sum() == 12
            for p in __import__("pathlib").Path("kept").glob("*.wnnx"):
                p.unlink(missing_ok=True)
    """
    env = {**os.environ, "WNN_ORT_CACHE": "kept"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    started = [subprocess.Popen(command, cwd=tmp_path, env=env) for _ in range(4)]
    assert [p.wait(120) for p in started] == [0] * 4
    assert not kept(tmp_path / "kept")  # no half-written file is left


def test_model_with_data_in_other_files_is_not_kept(tmp_path):
    h = onnx.helper
    w = onnx.numpy_helper.from_array(np.ones(1000, np.float32), "w")
    x, y = (h.make_tensor_value_info(n, 1, [1000]) for n in "xy")
    proto = h.make_model(h.make_graph([h.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [w]))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data")
    session = ort.InferenceSession(tmp_path / "m.onnx", caching(tmp_path / "kept"))
    assert session.run(None, {"x": np.ones(1000, np.float32)})[0].sum() == 2000
    assert not (tmp_path / "kept").exists()


# -- onnxruntime's place --------------------------------------------------------------------------
def test_install_answers_for_the_distribution_and_for_what_is_not_here():
    code = """
        import importlib.metadata
        import wnn.ort
        wnn.ort.install()
        import onnxruntime
        assert importlib.metadata.version("onnxruntime") == onnxruntime.__version__
        assert importlib.metadata.version("numpy")
        from onnxruntime import IOBinding, OrtDevice, SessionIOBinding
        for name in ("quantization", "quantization.quantize", "transformers.optimizer", "tools"):
            try:
                __import__(f"onnxruntime.{name}")
            except ImportError as e:
                assert isinstance(e, wnn.WnnError) and "expected" in str(e), e
            else:
                raise SystemExit(f"{name} was imported")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_values_become_arrays_without_numpy_2(monkeypatch):
    made = np.array

    def array_of_numpy_1(a, dtype=None, *, copy=True):
        if copy is None:
            raise ValueError("NoneType copy mode not allowed.")
        return made(a, dtype, copy=copy)

    x = np.ones((2, 3), np.float32)
    value = ort.OrtValue.ortvalue_from_numpy(x)
    monkeypatch.setattr(np, "array", array_of_numpy_1)
    assert value.__array__() is x and value.__array__(copy=True) is not x
