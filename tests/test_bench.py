"""The bench suite: baselines are written, held and broken; comparisons tell wins from losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("pytest_benchmark")
import nets  # noqa: E402

from bench import baselines, measure, packages, peers, report  # noqa: E402
from bench.cases import shared_models  # noqa: E402
from bench.engines import difference  # noqa: E402

ROOT = Path(__file__).parent.parent


def run_bench(folder: Path, *args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "-q", "bench", "--benchmark-only", "-p"]
    command += ["no:cacheprovider", "--benchmark-quiet", "--baselines", str(folder), *args]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_baseline_is_written_then_held_and_a_regression_is_named(tmp_path):
    only = ("-k", "test_operator and layer_norm-large")
    first = run_bench(tmp_path, *only)
    assert first.returncode == 0 and "no baseline" in first.stdout, first.stdout
    (file,) = tmp_path.iterdir()
    assert file.stem == baselines.machine()
    again = run_bench(tmp_path, *only)
    assert again.returncode == 0 and "0 regressed" in again.stdout, again.stdout
    content = json.loads(file.read_text())
    name = max(content["costs"], key=content["costs"].get)
    content["costs"][name] /= 10
    file.write_text(json.dumps(content))
    worse = run_bench(tmp_path, *only)
    assert worse.returncode == 1
    assert "1 regressed\nREGRESSED" in worse.stdout and name in worse.stdout


def book(tmp_path, costs: dict, found: dict) -> baselines.Book:
    """A book whose cases take as many nanoseconds as found says, one list entry per measurement."""
    path = tmp_path / "cpu.json"
    path.write_text(json.dumps({"costs": costs}))
    made = baselines.Book(path)
    for name, times in found.items():
        rest = iter(times[1:])
        first = measure.Measured(times[0], 1.0)
        made.add(name, lambda rest=rest: next(rest, 10**9), 0, first)
    return made


def test_a_suspect_that_is_fast_once_has_not_regressed(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(baselines, "measure", lambda ns, _: measure.Measured(ns, 1.0))
    found = {"same": [1e6], "noisy": [3e6, 2.9e6, 1.1e6], "slow": [1.4e6, 1.3e6, 1.31e6]}
    made = book(tmp_path, dict.fromkeys(found, 1e6), found)
    regressed = made.settle()
    assert [c.name for c in regressed] == ["slow"]
    lines = list(made.report(regressed))
    assert "3 cases" in lines[0] and "1 regressed" in lines[0]
    assert "1.30 x" in lines[1] and lines[1].endswith("slow")


def test_a_case_that_takes_next_to_nothing_can_be_compared(tmp_path):
    made = book(tmp_path, {"tiny": 0.0}, {"tiny": [50]})
    assert made.settle() == []
    assert "1 cases" in next(made.report([])) and made.ratio(made.cases["tiny"]) == 1.05


def test_cases_without_a_baseline_join_it(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "measure", lambda ns, _: measure.Measured(ns, 1.0))
    made = book(tmp_path, {"old": 500.0}, {"old": [500], "new": [800, 700, 900]})
    assert made.settle() == []
    assert json.loads(made.path.read_text())["costs"] == {"new": 800.0, "old": 500.0}


def test_cost_does_not_depend_on_the_clock_rate():
    assert measure.Measured(100, 200.0).cost == measure.Measured(200, 100.0).cost


@pytest.fixture
def folder(tmp_path) -> Path:
    onnx.save(nets.conv_net(), tmp_path / "net.onnx")
    np.savez(tmp_path / "net.npz", x=np.ones((1, 3, 8, 8), np.float32))
    return tmp_path


def test_comparison_writes_a_table_and_a_plot(folder):
    words = [str(folder), "--rounds", "2", "--seconds", "0.01"]
    words += ["--engines", "onnxruntime", "--table", str(folder / "t.md")]
    assert peers.main(words) == 0
    text = (folder / "t.md").read_text()
    assert "| net |" in text and "avx" in text or "baseline" in text
    assert "1 thread" in text and "wnn 0." in text


def test_wrong_results_count_as_failures(folder):
    np.savez(folder / "net.npz", x=np.ones((1, 3, 8, 8), np.float32), out0=np.ones(3), out1=[1.0])
    assert peers.main([str(folder), "--rounds", "1", "--seconds", "0", "--engines", "wnn"]) == 1


ROWS = [
    peers.Row("won", {"wnn": peers.Entry([1.0]), "peer": peers.Entry([1.5])}, 0.8),
    peers.Row("lost", {"wnn": peers.Entry([2.0]), "peer": peers.Entry([1.0])}, 0.4),
    peers.Row("alone", {"wnn": peers.Entry([2.0]), "peer": peers.Entry(failed="no")}),
    peers.Row("failed", {"wnn": peers.Entry(failed="x"), "peer": peers.Entry([1.0])}),
]


def test_table_shows_losses_and_failures():
    text = report.table(ROWS, ["wnn", "peer"], "here")
    won, lost, alone, failed = text.splitlines()[4:8]
    assert "1.50 | wins" in won and "80%" in won
    assert "0.50 | **loses**" in lost
    assert "failed" in alone and "no peer ran" in alone
    assert "failed" in failed and "0.00 | **loses**" in failed
    assert "Geometric mean 0.000 over 3 models: 1 wins, 0 level, 2 losses." in text
    assert "failed (x)" in report.line(ROWS[3])


def test_plot_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    report.plot(ROWS, ["wnn", "peer"], "here; there", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_difference_is_relative_and_sees_shapes_and_nan():
    w = [np.array([1.0, 10.0])]
    assert difference(w, w) == 0
    assert np.isclose(difference([np.array([1.0, 11.0])], w), 0.1)
    assert difference([np.array([1.0, np.nan])], w) == float("inf")
    assert difference([np.ones(3)], w) == difference([], w) == float("inf")


def test_models_of_a_folder_come_with_what_to_feed(folder):
    (case,) = shared_models(folder)
    assert case.name == "net" and list(case.inputs) == ["x"] and case.outputs == []


def test_packages_are_compared_with_the_core(tmp_path, folder, capsys):
    for name in ("conformer", "swin"):
        pytest.importorskip(f"wnn_contrib.{name}")
    words = ["--rounds", "1", "--seconds", "0", "--table", str(tmp_path / "t.md")]
    packages.main([*words, "--only", "50 frames"])
    packages.main([*words, "--only", "windows of 7 x 7 in 14"])
    fused = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert sum("| 1 |" in line for line in fused) == 4
    assert packages.main([str(folder), *words, "--only", "net"]) == 0
    assert "| net | 0 |" in (tmp_path / "t.md").read_text()
