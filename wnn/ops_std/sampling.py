"""Which elements of an axis a resampled one is made of, and how much of each.

Source: ONNX Resize-19; Keys 1981 (cubic convolution).
"""

import numpy as np

MODES = ("nearest", "linear", "cubic")
COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple")


def _coordinates(n: int, d: int, factor: float, kind: str, crop: tuple) -> np.ndarray:
    """Where each of n outputs lies on an axis of length d."""
    o = np.arange(n, dtype=np.float64)
    length = factor * d
    if kind == "align_corners":
        return o * (d - 1) / (length - 1) if length != 1 else o * 0
    if kind == "asymmetric":
        return o / factor
    if kind == "tf_half_pixel_for_nn":
        return (o + 0.5) / factor
    if kind == "tf_crop_and_resize":
        start, end = crop
        if length == 1:
            return o * 0 + (start + end) * (d - 1) / 2
        return o * (end - start) * (d - 1) / (length - 1) + start * (d - 1)
    if kind == "pytorch_half_pixel" and length == 1:
        return o * 0 - 0.5
    shift = d / 2 * (1 - n / length) if kind == "half_pixel_symmetric" else 0
    return shift + (o + 0.5) / factor - 0.5


def cubic(t: np.ndarray, a: float) -> np.ndarray:
    """The weight of an element at distance t."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    return np.where(t <= 1, near, np.where(t < 2, ((t - 5) * t + 8) * t * a - 4 * a, 0))


def taps(
    n, d, factor, crop, mode, coordinates, nearest, cubic_a, exclude_outside, antialias, **_
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(index (n, taps) in [0, d), weight (n, taps), whether each output lies in the axis (n,))."""
    factor = n / d if factor is None else factor
    x = _coordinates(n, d, factor, coordinates, crop)
    inside = (x >= 0) & (x <= d - 1) if coordinates == "tf_crop_and_resize" else np.ones(n, bool)
    left = np.ceil(x) - 1  # the neighbour on the left of x, also where x lies on a neighbour
    ratio = x - left
    if mode == "nearest":
        up = {
            "round_prefer_floor": ratio > 0.5,
            "round_prefer_ceil": ratio >= 0.5,
            "floor": ratio == 1,
            "ceil": ratio > 0,
            "simple": (ratio > 0) if factor < 1 else ratio == 1,
        }[nearest]
        index, weight = (left + up)[:, None], np.ones((n, 1))
    else:
        width = 1 if mode == "linear" else 2
        stretch = min(factor, 1.0) if antialias else 1.0
        start = int(np.floor(-width / stretch)) + 1
        at = np.arange(start, 2 - start)
        t = (at - ratio[:, None]) * stretch
        weight = np.maximum(1 - np.abs(t), 0) if mode == "linear" else cubic(t, cubic_a)
        index = left[:, None] + at
        if exclude_outside:
            weight = np.where((index < 0) | (index >= d), 0, weight)
        if antialias or exclude_outside:
            weight = weight / weight.sum(1, keepdims=True)
    return np.clip(index, 0, d - 1).astype(np.int64), weight, inside
