"""What an installation needs: two packages, no compiler, no onnx; little time and room."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest

import wnn

ROOT = Path(__file__).parent.parent
MODELS = ROOT.parent / "shared" / "models"


def bare(code: str, folder: Path) -> str:
    """Runs code that can import only the standard library, numpy, pluggy and wnn; without PATH."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    for name in ("numpy", "pluggy", "wnn"):
        source = Path(__import__(name).__file__).parent
        for path in (source, source.with_name(f"{name}.libs")):
            if path.exists() and not (site / path.name).exists():
                (site / path.name).symlink_to(path)
    start = f"import sys; sys.path.append({str(site)!r})\n"
    env = {"PATH": "", "HOME": str(folder)}
    got = subprocess.run(
        [sys.executable, "-I", "-S", "-c", start + textwrap.dedent(code)],
        capture_output=True, text=True, env=env, cwd=folder,
    )  # fmt: skip
    assert got.returncode == 0, got.stderr
    return got.stdout


def small_onnx(path: Path) -> np.ndarray:
    """A model with a convolution, an activation, shape arithmetic and a GEMM; returns an input."""
    onnx = pytest.importorskip("onnx")
    h, n = onnx.helper, onnx.numpy_helper
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((8, 3, 3, 3), np.float32),
        "b": rng.standard_normal((8,), np.float32),
        "fc": rng.standard_normal((8 * 36, 5), np.float32),
        "tail": np.array([-1], np.int64),
        "zero": np.array([0], np.int64),
    }
    graph = h.make_graph(
        [
            h.make_node("Conv", ["x", "w", "b"], ["c"], name="conv"),
            h.make_node("Relu", ["c"], ["r"], name="relu"),
            h.make_node("Shape", ["r"], ["s"], name="shape"),
            h.make_node("Gather", ["s", "zero"], ["batch"], name="gather"),
            h.make_node("Concat", ["batch", "tail"], ["to"], axis=0, name="concat"),
            h.make_node("Reshape", ["r", "to"], ["f"], name="flatten"),
            h.make_node("MatMul", ["f", "fc"], ["y"], name="fc"),
        ],
        "small",
        [h.make_tensor_value_info("x", 1, ["N", 3, 8, 8])],
        [h.make_tensor_value_info("y", 1, ["N", 5])],
        [n.from_array(a, k) for k, a in weights.items()],
    )
    proto = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)])
    proto.ir_version = 8
    onnx.save(proto, path)
    return rng.standard_normal((2, 3, 8, 8), np.float32)


RUN = """
    import builtins, numpy as np, wnn
    for name in ("onnx", "google.protobuf", "ml_dtypes", "Cython", "setuptools"):
        try:
            __import__(name)
        except ImportError:
            continue
        raise SystemExit(f"{name} is there")
    model = wnn.NNForward(num_threads=2)
    model.load_from_file("m.wnnx")
    np.savez("y.npz", *model.infer([np.load("x.npy")]))
    import sys
    assert not any(m == "onnx" or m.startswith("onnx.") for m in sys.modules)
"""


def test_wnnx_runs_with_neither_onnx_nor_a_compiler(tmp_path):
    x = small_onnx(tmp_path / "m.onnx")
    check_alone(tmp_path, tmp_path / "m.onnx", x)


def test_real_wnnx_runs_with_neither_onnx_nor_a_compiler(tmp_path):
    folder = MODELS / "mobilenetv2-imagenet-fp32"
    if not folder.exists():
        pytest.skip("the model is not here")
    case = json.loads((folder / "io.json").read_text())["cases"][0]
    x = np.load(folder / case["inputs"][0]["file"])
    (y,) = check_alone(tmp_path, folder / "model.onnx", x)
    want = np.load(folder / case["outputs"][0]["file"])
    np.testing.assert_allclose(y, want, atol=1e-3 * want.max())


def check_alone(tmp_path: Path, source: Path, x: np.ndarray) -> list[np.ndarray]:
    wnn.convert(source, tmp_path / "m.wnnx")
    np.save(tmp_path / "x.npy", x)
    bare(RUN, tmp_path)
    model = wnn.NNForward(num_threads=2)
    model.load_from_file(source)
    want = model.infer([x])
    with np.load(tmp_path / "y.npz") as got:
        for a, b in zip(want, got.values(), strict=True):
            assert a.dtype == b.dtype and a.tobytes() == b.tobytes()
    return want


def test_onnx_file_without_onnx_says_what_to_install(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"")
    code = """
        import wnn
        try:
            wnn.NNForward().load_from_file("m.onnx")
        except wnn.WnnError as e:
            print(e)
    """
    assert "wnn[onnx]" in bare(code, tmp_path)


def test_import_is_lazy(tmp_path):
    code = """
        import sys, wnn
        heavy = {"pluggy", "numpy", "importlib.metadata", "onnx", "typer", "wnn.forward"}
        print(sorted(heavy & set(sys.modules)))
    """
    assert bare(code, tmp_path).strip() == "[]"


def test_import_takes_little_time(tmp_path):
    code = "import numpy, time; t = time.perf_counter(); import wnn; print(time.perf_counter() - t)"
    assert min(float(bare(code, tmp_path)) for _ in range(5)) < 0.005


def test_core_stays_small(tmp_path):
    from wnn.runtime import _core

    smaller = tmp_path / "core.so"
    strip = shutil.which("strip") or pytest.skip("needs strip")
    subprocess.run([strip, "-o", str(smaller), _core.__file__], check=True)
    assert smaller.stat().st_size < 1_000_000


def test_installation_needs_numpy_and_pluggy_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = sorted(d.partition(">")[0] for d in project["dependencies"])
    assert names == ["numpy", "pluggy"]
