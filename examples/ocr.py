"""Reads the text in a picture: rapidocr's own code and models, run by wnn in onnxruntime's place.

usage: python examples/ocr.py [PICTURE] [--out OUT.png]     (`make demo`; pip install '.[demo]')

Without a picture it draws one. The three models (where text is, which way up, what it says) lie in
rapidocr's wheel; nothing is downloaded.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import wnn.ort

LINES = [
    "Text in a picture",
    "numpy in, numpy out",
    "Pick any font you like",
    "2 threads, no GPU, no cloud",
]


class TimedSession(wnn.ort.InferenceSession):
    """A session that remembers how long each run took."""

    seconds: ClassVar = defaultdict(list)  # by model

    def __init__(self, path, *args, **kwargs):
        super().__init__(path, *args, **kwargs)
        self.name = Path(path).stem

    def run(self, *args, **kwargs):
        start = time.perf_counter()
        outputs = super().run(*args, **kwargs)
        self.seconds[self.name].append(time.perf_counter() - start)
        return outputs


wnn.ort.InferenceSession = TimedSession
wnn.ort.install()

from rapidocr import RapidOCR  # noqa: E402 (imports onnxruntime)


def drawn_picture() -> Image.Image:
    """A page with the lines above, in Pillow's own font."""
    image = Image.new("RGB", (720, 400), (250, 248, 240))
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(LINES):
        color = ("black", "darkblue", "darkgreen", "maroon")[i]
        draw.text((50, 40 + 85 * i), line, fill=color, font=ImageFont.load_default(44))
    return image


def annotated(image: Image.Image, boxes: np.ndarray, texts: tuple, scores: tuple) -> Image.Image:
    """The picture with the boxes and what was read in them."""
    image = image.copy()
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(18)
    for box, text, score in zip(boxes, texts, scores, strict=True):
        draw.polygon([tuple(p) for p in box], outline="red", width=2)
        draw.text((box[0][0], box[0][1] - 23), f"{text} ({score:.0%})", fill="red", font=font)
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?")
    parser.add_argument("--out", default="ocr_demo.png")
    args = parser.parse_args()

    image = Image.open(args.picture).convert("RGB") if args.picture else drawn_picture()
    # any font path keeps rapidocr from downloading a font, which only its own drawing would need
    engine = RapidOCR(params={"Global.log_level": "warning", "Global.font_path": __file__})
    pixels = np.asarray(image)[..., ::-1]  # BGR
    engine(pixels)  # makes the plans for these shapes
    TimedSession.seconds.clear()
    result = engine(pixels)

    if result.txts is None:
        raise SystemExit("found no text")
    for text, score in zip(result.txts, result.scores, strict=True):
        print(f"{score:6.1%}  {text}")
    print()
    for name, seconds in TimedSession.seconds.items():
        runs = f"{len(seconds)} run{'s' if len(seconds) > 1 else ''}"
        print(f"{sum(seconds) * 1e3:8.1f} ms  {name} ({runs})")
    annotated(image, result.boxes, result.txts, result.scores).save(args.out)
    print(f"\nwritten: {args.out}")


if __name__ == "__main__":
    main()
