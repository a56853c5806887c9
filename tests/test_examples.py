"""The examples, as a user runs them, on real models where these are."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
MODELS = ROOT.parent / "shared" / "models"
image = pytest.importorskip("PIL.Image")


def example(name: str, *args: object) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, args)]
    got = subprocess.run(command, capture_output=True, text=True)
    assert got.returncode == 0, got.stderr
    return got.stdout


def model(name: str) -> Path:
    pytest.importorskip("onnx")
    path = MODELS / name / "model.onnx"
    if not path.exists():
        pytest.skip(f"{name} is not here")
    return path


def picture(path: Path, of: str, scale: np.ndarray, shift: np.ndarray, bgr: bool) -> Path:
    """Writes the picture that a stored input was made from."""
    x = np.load(MODELS / of)[0].transpose(1, 2, 0) * scale + shift
    x = x.round().clip(0, 255).astype(np.uint8)
    image.fromarray(np.ascontiguousarray(x[..., ::-1] if bgr else x)).save(path)
    return path


def test_classify_names_the_cat(tmp_path):
    path = model("mobilenetv2-imagenet-fp32")
    stored = "mobilenetv2-imagenet-fp32/inputs/case0_input_0.npy"
    cat = picture(tmp_path / "cat.png", stored, np.float32(127.5), np.float32(127.5), False)
    assert example("classify.py", path, cat).splitlines()[0].split() == ["67.2%", "Egyptian", "cat"]


@pytest.mark.parametrize("name", ["nanodet-m-416", "nanodet-plus-m-dyn"])
def test_detect_finds_people_and_the_bus(tmp_path, name):
    path = model(name)
    mean, std = np.float32([103.53, 116.28, 123.675]), np.float32([57.375, 57.12, 58.395])
    stored = "nanodet-m-416/inputs/input_0.npy"
    street = picture(tmp_path / "street.png", stored, std, mean, True)
    text = example("detect.py", path, street, tmp_path / "out.png")
    assert text.count("person") >= 3 and text.count("bus") == 1
    assert image.open(tmp_path / "out.png").size == image.open(street).size


def test_ocr_reads_its_own_picture(tmp_path):
    if importlib.util.find_spec("rapidocr") is None:
        pytest.skip("rapidocr is not installed (make demo installs it)")
    text = example("ocr.py", "--out", tmp_path / "out.png")
    for line in ("Text in a picture", "numpy in, numpy out", "2 threads, no GPU, no cloud"):
        assert line in text
    assert text.count(" ms ") == 3
    assert image.open(tmp_path / "out.png").size == (720, 400)


@pytest.mark.parametrize("name", ["classify.py", "detect.py"])
def test_without_arguments_the_usage_is_shown(name):
    command = [sys.executable, str(ROOT / "examples" / name)]
    got = subprocess.run(command, capture_output=True, text=True)
    assert got.returncode == 1 and "usage:" in got.stderr
