"""Inputs for a model from files, or random ones for checks, benches and profiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import dtypes
from .errors import ShapeError, UnsupportedError, WnnError
from .resolve import MAX_TENSOR_BYTES

if TYPE_CHECKING:
    from .forward import NNForward


def random_inputs(
    model: NNForward, shapes: Mapping[str, Sequence[int]] | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Random arrays by input name: floats are normal, integers 0 or 1.

    shapes: by input name, for inputs with free axes, or one length by the name of a free axis. Axes
    of one name are equally long; a free axis 0 that is not told is 1, and free axes after it are 64
    where there are four or more axes (pictures), 16 otherwise.
    """
    rng = np.random.default_rng(seed)
    shapes = dict(shapes or {})
    axes = _axes(model.inputs, shapes)
    try:
        return {p.name: _random(p, shapes.get(p.name), axes, rng) for p in model.inputs}
    except MemoryError as e:
        raise ShapeError(
            f"[inputs] found inputs that memory does not hold ({e}); expected smaller ones; pass "
            "inputs, or shapes for free axes"
        ) from e


def _axes(ports: Sequence[Any], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Lengths of free axes by name, as far as the shapes tell."""
    inputs = {p.name: p.shape or () for p in ports}
    axes = dict.fromkeys(d for shape in inputs.values() for d in shape if isinstance(d, str))
    found: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in inputs and (name not in axes or len(shape) != 1):
            raise ShapeError(
                f"[inputs] found shape {tuple(shape)} for {name!r}; expected one for an input of "
                f"{list(inputs)}, or one length for a free axis of {list(axes)}; correct it"
            )
        found |= {d: n for d, n in zip(inputs.get(name, (name,)), shape) if isinstance(d, str)}
    return found


def _random(
    port: Any, shape: Sequence[int] | None, axes: dict[str, int], rng: np.random.Generator
) -> np.ndarray:
    """An array for an input; axes: gets the lengths chosen here."""
    if shape is None and port.shape is None:
        raise ShapeError(
            f"[inputs] found an input {port.name!r} of which nothing is known; "
            "expected a declared type; pass inputs"
        )
    if shape is None:
        usual = 64 if len(port.shape) >= 4 else 16
        shape = [
            d if isinstance(d, int) else axes.setdefault(d, usual if i else 1)
            for i, d in enumerate(port.shape)
        ]
    if any(n < 0 for n in shape):
        raise ShapeError(
            f"[inputs] found shape {tuple(shape)} for input {port.name!r}; expected lengths of 0 "
            "or more; correct it"
        )
    if port.dtype in ("str", "obj"):
        raise UnsupportedError(
            f"[inputs] found an input {port.name!r} of dtype {port.dtype}; "
            "expected numbers; pass inputs"
        )
    if math.prod(shape) * 8 > MAX_TENSOR_BYTES:
        raise ShapeError(
            f"[inputs] found an input {port.name!r} of shape {tuple(shape)}; expected one that "
            "memory holds; pass inputs, or shapes for free axes"
        )
    if port.dtype in ("bool", *dtypes.INTS, *dtypes.SMALL):
        return rng.integers(0, 2, shape).astype(dtypes.NUMPY[port.dtype])
    if port.dtype == "bf16":  # the upper half of a float32
        return (rng.standard_normal(shape, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return rng.standard_normal(shape).astype(dtypes.NUMPY[port.dtype])


# -- from files -----------------------------------------------------------------------------------
def from_files(
    model: NNForward,
    arguments: Sequence[str],
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (255.0,),
    bgr: bool = False,
) -> dict[str, np.ndarray]:
    """Inputs from "path" (in the model's order), "name=path" or an .npz with the inputs' names.

    .npy is taken as it is; anything else is a picture, scaled to the input's height and width; for
    floating-point inputs mean (of values in 0..255) is subtracted and std divides.
    """
    ports = {p.name: p for p in model.inputs}
    feed: dict[str, np.ndarray] = {}
    for argument in arguments:
        name, _, path = argument.rpartition("=")
        if argument.endswith(".npz"):
            with _opened(np.load, argument) as archive:
                feed.update(archive)
            continue
        name = name or next((n for n in ports if n not in feed), "")
        if not name:
            raise WnnError(
                f"[inputs] found {argument!r} beyond the {len(ports)} inputs; expected one file "
                "for "
                f"each of {list(ports)}; leave it out"
            )
        if name not in ports:
            raise WnnError(
                f"[inputs] found {argument!r} for input {name!r}; expected inputs {list(ports)}; "
                "write NAME=PATH with one of these names"
            )
        if path.endswith(".npy"):
            feed[name] = _opened(np.load, path)
        else:
            feed[name] = _picture(path, ports[name], np.float32(mean), np.float32(std), bgr)
    return feed


def _opened(read: Callable, path: str) -> Any:
    try:
        return read(path)
    except Exception as e:  # each reader has errors of its own
        raise WnnError(
            f"[inputs] found no readable file {path!r} ({e}); expected .npy, .npz or a picture; "
            "correct the path"
        ) from None


def _picture(path: str, port: Any, mean: np.ndarray, std: np.ndarray, bgr: bool) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError:
        raise WnnError(
            "[inputs] found no package pillow; expected it for pictures; pip install 'wnn[cli]'"
        ) from None
    if port.shape is None or len(port.shape) != 4:
        raise ShapeError(
            f"[inputs] found input {port.name!r} of shape {port.shape} for a picture; "
            "expected (N, C, H, W) or (N, H, W, C); pass a .npy file"
        )
    first = port.shape[1] in (1, 3) or port.shape[3] not in (1, 3)
    channels, height, width = (port.shape[i] for i in ((1, 2, 3) if first else (3, 1, 2)))
    image = _opened(Image.open, path)
    if image.mode[0] in "IF":
        raise UnsupportedError(
            f"[inputs] found a picture of mode {image.mode!r} in {path!r}; expected 8 bits a "
            "channel; convert it, or pass its numbers as a .npy file"
        )
    mode = "L" if channels == 1 else "RGB"
    image = _opened(lambda _: image.convert(mode), path)  # which reads the pixels
    size = [
        d if isinstance(d, int) else n for d, n in zip((width, height), image.size, strict=True)
    ]
    x = np.asarray(image.resize(size, Image.Resampling.BILINEAR)).reshape(size[1], size[0], -1)
    x = x[..., ::-1] if bgr else x
    if port.dtype in dtypes.FLOATS:
        for name, numbers in (("mean", mean), ("std", std)):
            if numbers.size not in (1, x.shape[-1]) or (name == "std" and not numbers.all()):
                raise WnnError(
                    f"[--{name}] found {numbers.tolist()}; expected 1 or {x.shape[-1]} numbers"
                    f"{' other than 0' if name == 'std' else ''}; correct them"
                )
        x = (x - mean) / std
    x = (x.transpose(2, 0, 1) if first else x)[None]
    return np.ascontiguousarray(x, dtypes.NUMPY[port.dtype])
