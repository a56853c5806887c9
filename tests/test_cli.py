"""The command line: every command runs, and what it prints is true."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("typer")
from typer.testing import CliRunner  # noqa: E402

from wnn import __version__  # noqa: E402
from wnn.commands import app  # noqa: E402
from wnn.errors import WnnError  # noqa: E402
from wnn.onnx_model import OnnxModel  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """Ten class scores of a picture: a convolution, a mean, a softmax."""
    h, n = onnx.helper, onnx.numpy_helper
    rng = np.random.default_rng(0)
    w = n.from_array(rng.standard_normal((10, 3, 3, 3), np.float32), "w")
    axes = n.from_array(np.array([2, 3]), "axes")
    graph = h.make_graph(
        [
            h.make_node("Conv", ["x", "w"], ["c"], name="first", pads=[1, 1, 1, 1]),
            h.make_node("ReduceMean", ["c", "axes"], ["m"], name="mean", keepdims=0),
            h.make_node("Softmax", ["m"], ["scores"], name="last", axis=-1),
        ],
        "classifier",
        [h.make_tensor_value_info("x", 1, ["N", 3, 8, 8])],
        [h.make_tensor_value_info("scores", 1, ["N", 10])],
        [w, axes],
    )
    proto = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)])
    proto.ir_version = 8
    path = tmp_path_factory.mktemp("cli") / "m.onnx"
    onnx.save(proto, path)
    return str(path)


def wnn(*args: str) -> str:
    result = CliRunner().invoke(app, list(map(str, args)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def x(tmp_path) -> str:
    np.save(tmp_path / "x.npy", np.random.default_rng(1).standard_normal((2, 3, 8, 8), np.float32))
    return str(tmp_path / "x.npy")


def test_run_shows_a_summary_and_writes_npz(model, x, tmp_path):
    assert "scores" in wnn("run", model, x)
    wnn("run", model, f"x={x}", "--out", tmp_path / "y.npz")
    y = np.load(tmp_path / "y.npz")["scores"]
    assert y.shape == (2, 10)
    np.testing.assert_allclose(y.sum(1), 1, rtol=1e-5)
    np.savez(tmp_path / "in.npz", x=np.load(x))
    wnn("run", model, tmp_path / "in.npz", "--out", tmp_path / "z.npz", "--threads", "1")
    np.testing.assert_allclose(np.load(tmp_path / "z.npz")["scores"], y, rtol=1e-5)


def test_run_without_inputs_writes_sequences_and_any_name(tmp_path, monkeypatch):
    m = OnnxModel()
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    outputs = ["file", m.SplitToSequence(rows, np.array([1, 2]), axis=0)]
    m.nodes.append(onnx.helper.make_node("Neg", [m.constant(rows)], ["file"]))
    path, target = tmp_path / "m.onnx", tmp_path / "y.npz"
    onnx.save(m.finish(outputs), path)
    assert f"{outputs[1]}[1]  f32    (2, 4)" in wnn("run", path)
    wnn("run", path, "-o", target)
    with np.load(target) as found:
        np.testing.assert_array_equal(found["file"], -rows)
        np.testing.assert_array_equal(found[f"{outputs[1]}[1]"], rows[1:])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WnnError, match="device"):
        wnn("run", path, "-o", tmp_path / "pipe")
    before, files = target.read_bytes(), sorted(tmp_path.iterdir())

    def full(file, a):
        file.write(b"a part")
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(WnnError, match="no space left"):
        wnn("run", path, "-o", target)
    assert (before, files) == (target.read_bytes(), sorted(tmp_path.iterdir()))


def test_run_on_a_picture_gives_a_table_of_labels(model, tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (20, 30), "red").save(tmp_path / "p.png")
    (tmp_path / "names.txt").write_text("\n".join(f"name{i}" for i in range(10)))
    text = wnn("run", model, tmp_path / "p.png", "--labels", tmp_path / "names.txt", "--top", "3")
    rows = [line.split() for line in text.splitlines() if "name" in line and "score" not in line]
    assert len(rows) == 3
    assert all(r[2] == f"name{r[1]}" for r in rows)
    scores = [float(r[0]) for r in rows]
    assert scores == sorted(scores, reverse=True)
    (tmp_path / "names.txt").write_text("\n".join(f"name{i}" for i in range(1, 10)))
    text = wnn("run", model, tmp_path / "p.png", "--labels", tmp_path / "names.txt", "--top", "10")
    rows = dict(line.split()[1:] for line in text.splitlines() if line.startswith("0."))
    assert rows == {"0": "background", **{str(i): f"name{i}" for i in range(1, 10)}}


@pytest.mark.parametrize("dtype", ["UINT8", "BFLOAT16", "FLOAT8E4M3FN"])
def test_labels_go_by_the_numbers_that_an_output_holds(tmp_path, dtype):
    m, kind = OnnxModel(), getattr(onnx.TensorProto, dtype)
    graph = m.finish(m.Cast(np.float32([[2, 0, 3]]), to=kind), 19)
    graph.graph.output[0].type.tensor_type.elem_type = kind
    onnx.save(graph, tmp_path / "m.onnx")
    (tmp_path / "names.txt").write_text("two\nzero\nthree\n")
    text = wnn("run", tmp_path / "m.onnx", "--labels", tmp_path / "names.txt")
    assert [line.split() for line in text.splitlines() if "0000" in line] == [
        ["3.0000", "2", "three"],
        ["2.0000", "0", "two"],
        ["0.0000", "1", "zero"],
    ]
    assert wnn("run", tmp_path / "m.onnx").split()[-3:] == ["0", "1.66667", "3"]


@pytest.mark.parametrize(
    "found, build",
    [
        ("str(1, 2)", lambda m, x: m.Cast(x, to=onnx.TensorProto.STRING)),
        ("object(1)", lambda m, x: m.ZipMap(x, classlabels_strings=["a", "b"])),
        ("float64(0)", lambda m, x: m.SequenceEmpty()),
        ("f32(0, 2)", lambda m, x: m.Slice(x, np.array([0]), np.array([0]))),
    ],
)
def test_labels_of_what_holds_no_scores_are_refused(tmp_path, found, build):
    m = OnnxModel()
    graph = m.finish(build(m, np.float32([[1, 2]])))
    graph.graph.output[0].ClearField("type")
    for node in graph.graph.node:
        node.domain = "ai.onnx.ml" if node.op_type == "ZipMap" else ""
    graph.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3))
    onnx.save(graph, tmp_path / "m.onnx")
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    with pytest.raises(WnnError, match=rf"of {re.escape(found)}; expected numbers"):
        wnn("run", tmp_path / "m.onnx", "--labels", tmp_path / "names.txt")
    wnn("run", tmp_path / "m.onnx")


def test_names_are_shown_as_they_are(tmp_path):
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y[red]"], name="a[bold]b")],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [1, 2])],
        [onnx.helper.make_tensor_value_info("y[red]", 1, [1, 2])],
    )
    onnx.save(onnx.helper.make_model(graph, ir_version=8), tmp_path / "m.onnx")
    text = wnn("inspect", tmp_path / "m.onnx", "--nodes")
    assert "y[red]" in text and "a[bold]b" in text


def test_convert_checks_and_the_file_runs(model, x, tmp_path):
    target = tmp_path / "m.wnnx"
    assert "same bits" in wnn("convert", model, target, "--check")
    assert "same bits" in wnn("convert", model, target, "--check", "--input", x)
    wnn("run", target, x)


def test_inspect_says_on_what_each_operator_runs(model):
    text = wnn("inspect", model, "--shape", "x=2,3,8,8")
    assert "conv" in text and "runs on" in text and "weights" in text
    assert "first" in wnn("inspect", model, "--nodes")
    assert "random inputs: x (1, 3, 64, 64)" not in text
    assert "random inputs: x (1, 3, 8, 8)" in wnn("inspect", model)


def test_a_free_axis_is_as_long_in_every_input(tmp_path):
    m = OnnxModel()
    text = {name: (np.float32, ["batch", "sequence"]) for name in ("ids", "mask")}
    path = tmp_path / "m.onnx"
    onnx.save(
        m.finish(m.Add(m.Mul("ids", "mask"), "more"), **text, more=(np.float32, ["sequence"])), path
    )
    for shape, want in (("ids=2,5", "(2, 5)"), ("sequence=7", "(1, 7)"), ("more=9", "(1, 9)")):
        assert f"ids {want}, mask {want}" in wnn("inspect", path, "--shape", shape)


def test_inspect_names_the_node_where_a_pattern_failed(tmp_path):
    m = OnnxModel()
    weights = m.Softmax(m.MatMul("q", m.Transpose("k", perm=[0, 1, 3, 2])), axis=-1)
    y = m.MatMul(weights, "v")
    m.nodes[-2].name = "weights"
    path = tmp_path / "m.onnx"
    given = {name: (np.float32, [1, 2, 5, 4]) for name in "qkv"}
    onnx.save(m.finish(m.Concat(y, weights, axis=-1), **given), path)
    wnn("convert", path, tmp_path / "m.wnnx")
    for file in (path, tmp_path / "m.wnnx"):
        found = [line.split() for line in wnn("inspect", file, "--misses").splitlines()]
        assert any("elsewhere" in line and line[-1] == "weights" for line in found), found


def test_version_is_shown():
    assert wnn("--version") == f"wnn {__version__}\n"


def test_plugins_doctor_and_bench_report(model):
    assert "wnn" in wnn("plugins")
    text = wnn("doctor")
    assert "GFLOP/s" in text and "instruction set" in text
    text = wnn("bench", model, "--seconds", "0")
    assert all(word in text for word in ("p99", "throughput", "peak memory", "share of FMA peak"))


def test_profile_shows_rates_and_writes_a_trace(model, tmp_path):
    text = wnn("profile", model, "--seconds", "0.05", "--trace", tmp_path / "t.json")
    assert "by operator" in text and "of bound" in text and "GFLOP/s" in text
    names = [e["name"] for e in json.loads((tmp_path / "t.json").read_text())["traceEvents"]]
    assert "conv" in names and "softmax" in names


@pytest.mark.parametrize(
    "args",
    [
        ("run", "MODEL", "none.npy"),
        ("run", "MODEL", "other=none.npy"),
        ("run", "none.onnx", "x.npy"),
        ("run", "MODEL", "X", "X"),
        ("run", "MODEL", "X", "--mean", "a"),
        ("run", "MODEL"),
        ("run", "MODEL", "X", "--out", "/no/such/folder/y.npz"),
        ("run", "MODEL", "X", "--out", "/"),
        ("run", "MODEL", "X", "--labels", "X"),
        ("run", "MODEL", "PICTURE", "--mean", "1,2"),
        ("run", "MODEL", "PICTURE", "--std", "0"),
        ("run", "MODEL", "PICTURE", "--labels", "NAMES"),
        ("run", "MODEL", "PART"),
        ("run", "MODEL", "DEEP"),
        ("inspect", "MODEL", "--shape", "x=a"),
        ("inspect", "MODEL", "--shape", "y=1"),
        ("inspect", "MODEL", "--shape", "x=-1,3,8,8"),
        ("inspect", "MODEL", "--shape", "N=1,3"),
        ("convert", "MODEL", "/no/such/folder/m.wnnx"),
        ("profile", "MODEL", "--seconds", "0", "--trace", "/no/such/folder/t.json"),
        ("profile", "MODEL", "--seconds", "0", "--trace", "/"),
    ],
)
def test_wrong_use_is_a_wnn_error(model, x, args, tmp_path):
    given = {"MODEL": model, "X": x, "NAMES": tmp_path / "names.txt"}
    given["NAMES"].write_text("one\ntwo\n")
    pictures = {name: tmp_path / f"{name}.png" for name in ("PICTURE", "PART", "DEEP")}
    given |= pictures
    if pictures.keys() & set(args):
        image = pytest.importorskip("PIL.Image")
        image.new("RGB", (8, 8), "red").save(given["PICTURE"])
        given["PART"].write_bytes(given["PICTURE"].read_bytes()[:-30])
        image.fromarray(np.full((8, 8), 1000, np.uint16)).save(given["DEEP"])
    with pytest.raises(WnnError, match="expected"):
        wnn(*[given.get(a, a) for a in args])


@pytest.mark.parametrize(
    "variable", ["", "WNN_ISA", "WNN_DEBUG", "WNN_MAX_TENSOR_GIB", "WNN_THREADS"]
)
def test_error_is_one_message_on_stderr_and_exit_code_1(variable):
    got = subprocess.run(
        [sys.executable, "-m", "wnn", "inspect", "none.onnx"],
        capture_output=True,
        text=True,
        env=os.environ | ({variable: "x"} if variable else {}),
    )
    assert got.returncode == 1
    assert got.stderr.startswith("[") and got.stderr.count("\n") == 1
    assert (variable or "none.onnx") in got.stderr


def test_missing_extra_says_what_to_install():
    code = "import sys; sys.modules['typer'] = None; from wnn.cli import main; main()"
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert got.returncode == 1
    assert "pip install 'wnn[cli]'" in got.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_nobody_takes_gives_no_traceback(model):
    command = f'"{sys.executable}" -m wnn inspect "{model}"'
    got = subprocess.run(f"{command} >/dev/full", shell=True, capture_output=True, text=True)
    assert got.returncode == 1 and got.stderr.startswith("[wnn] found that nothing can be printed")
    assert got.stderr.count("\n") == 1
    got = subprocess.run(f"{command} >&-", shell=True, capture_output=True, text=True)
    assert (got.returncode, got.stderr) == (0, "")
