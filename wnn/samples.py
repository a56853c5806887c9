"""Inputs for a model whose user gave none: for checks, benches and profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import dtypes
from .errors import ShapeError, UnsupportedError

if TYPE_CHECKING:
    from .forward import NNForward


def random_inputs(
    model: NNForward, shapes: Mapping[str, Sequence[int]] | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Random arrays by input name: floats are normal, integers 0 or 1.

    shapes: by input name, for inputs with free axes; else a free axis 0 is 1 and free axes after it
    are 64 where there are four or more axes (pictures), 16 otherwise.
    """
    rng = np.random.default_rng(seed)
    shapes = dict(shapes or {})
    unknown = set(shapes) - {p.name for p in model.inputs}
    if unknown:
        raise ShapeError(
            f"[samples] found shapes for {sorted(unknown)}; "
            f"expected names of {[p.name for p in model.inputs]}; correct them"
        )
    return {p.name: _random(p, shapes.get(p.name), rng) for p in model.inputs}


def _random(port: Any, shape: Sequence[int] | None, rng: np.random.Generator) -> np.ndarray:
    if shape is None and port.shape is None:
        raise ShapeError(
            f"[samples] found an input {port.name!r} of which nothing is known; "
            "expected a declared type; pass inputs"
        )
    if shape is None:
        usual = 64 if len(port.shape) >= 4 else 16
        lengths = [1 if i == 0 else usual for i in range(len(port.shape))]
        shape = [d if isinstance(d, int) else n for d, n in zip(port.shape, lengths, strict=True)]
    if port.dtype in ("str", "obj"):
        raise UnsupportedError(
            f"[samples] found an input {port.name!r} of dtype {port.dtype}; "
            "expected numbers; pass inputs"
        )
    if port.dtype in ("bool", *dtypes.INTS):
        return rng.integers(0, 2, shape).astype(dtypes.NUMPY[port.dtype])
    if port.dtype == "bf16":  # the upper half of a float32
        return (rng.standard_normal(shape, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return rng.standard_normal(shape).astype(dtypes.NUMPY[port.dtype])
