"""Objects in a picture, by a NanoDet or NanoDet-Plus model trained on COCO; draws their boxes.

usage: python examples/detect.py MODEL PICTURE [OUT.png]
(MODEL: .onnx or .wnnx; pip install 'wnn[onnx]' pillow)

The model sees BGR pixels, normalised. For each cell of grids with strides 8, 16, 32 (and 64) it
gives 80 scores and, per side of the box, a distribution over 8 distances in units of the stride.
Source: https://github.com/RangiLyu/nanodet; generalized focal loss, Li et al. (arXiv:2006.04388).
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import wnn

NAMES = (Path(__file__).parent / "coco_classes.txt").read_text().splitlines()
MEAN, DEVIATION = np.float32([103.53, 116.28, 123.675]), np.float32([57.375, 57.12, 58.395])
BINS = 8


def letterbox(image: Image.Image, height: int, width: int) -> tuple[np.ndarray, float]:
    """The picture scaled to fit, at the top left of (1, 3, height, width); and the scale."""
    scale = min(width / image.width, height / image.height)
    small = image.resize([max(1, int(s * scale)) for s in image.size], Image.Resampling.BILINEAR)
    x = np.zeros((height, width, 3), np.float32)
    x[: small.height, : small.width] = (np.asarray(small, np.float32)[..., ::-1] - MEAN) / DEVIATION
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None]), scale


def levels(outputs: list[np.ndarray], height: int, width: int):
    """Per grid: scores (cells, 80), distances (cells, 4 * BINS), centers (cells, 2), stride."""
    plus = len(outputs) == 1
    if plus:
        rows = outputs[0][0].T
        scores, distances = 1 / (1 + np.exp(-rows[:, :-32])), rows[:, -32:]
        strides, offset = (8, 16, 32, 64), 0.0
    else:
        n = len(outputs) // 2
        scores, distances = (
            np.concatenate([y[0] for y in ys]) for ys in (outputs[:n], outputs[n:])
        )
        strides, offset = (8, 16, 32), 0.5
    begin = 0
    for stride in strides:
        h, w = -(-height // stride), -(-width // stride)
        cells = slice(begin, begin + h * w)
        grid = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).reshape(-1, 2)
        shift = offset * (stride - 1) / stride
        yield scores[cells], distances[cells], (grid + shift) * stride, stride
        begin += h * w


def detect(outputs: list[np.ndarray], height: int, width: int, threshold: float = 0.35):
    """[(score, class, (left, top, right, bottom)), ...], best first."""
    found = []
    for scores, distances, centers, stride in levels(outputs, height, width):
        best = scores.max(1)
        keep = np.flatnonzero(best > threshold)
        bins = np.exp(distances[keep].reshape(-1, 4, BINS))
        sides = (bins / bins.sum(-1, keepdims=True)) @ np.arange(BINS) * stride
        boxes = np.hstack([centers[keep] - sides[:, :2], centers[keep] + sides[:, 2:]])
        found += zip(best[keep], scores[keep].argmax(1), boxes, strict=True)
    return without_doubles(sorted(found, key=lambda d: -d[0]))


def without_doubles(found: list, limit: float = 0.5) -> list:
    """Greedy suppression of boxes of one class that overlap a better one."""
    kept: list = []
    for score, kind, box in found:
        if all(kind != k or overlap(box, b) < limit for _, k, b in kept):
            kept.append((score, kind, box))
    return kept


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    w, h = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - w * h)


def main(model_path: str, picture: str, out: str = "detected.png") -> None:
    model = wnn.NNForward()
    model.load_from_file(model_path)
    height, width = (d if isinstance(d, int) else 416 for d in model.inputs[0].shape[2:])
    image = Image.open(picture).convert("RGB")
    x, scale = letterbox(image, height, width)

    draw, font = ImageDraw.Draw(image), ImageFont.load_default(max(12, image.height // 40))
    found = detect(model.infer([x]), height, width)
    for score, kind, box in found:
        left, top, right, bottom = map(int, box / scale)
        print(f"{score:6.1%}  {NAMES[kind]:14s} ({left}, {top}) to ({right}, {bottom})")
        draw.rectangle((left, top, right, bottom), outline="red", width=2)
        draw.text((left + 3, top + 1), f"{NAMES[kind]} {score:.0%}", fill="red", font=font)
    image.save(out)
    print(f"{len(found)} objects, written: {out}")


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
