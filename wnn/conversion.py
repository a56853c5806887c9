"""ONNX to .wnnx: import once, keep the graph after all passes, run anywhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import wnnx
from .errors import ModelError
from .feeds import random_inputs
from .forward import NNForward


def convert(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    plugins: Any = "auto",
    check: bool | Mapping[str, Any] | Sequence = False,
) -> None:
    """Writes the model at src (.onnx) to dst (.wnnx).

    plugins: as for NNForward; with None the file needs no op package.
    check: True runs both files on random inputs, inputs run them on these; ModelError unless the
        results are the same bits.
    """
    model = NNForward(plugins=plugins)
    model.load_from_file(src)
    wnnx.save(model.graph, dst)
    if check is not False:
        compare(model, dst, random_inputs(model) if check is True else check)


def compare(
    model: NNForward, path: str | os.PathLike, inputs: Mapping[str, Any] | Sequence
) -> None:
    """Raises ModelError unless the file at path gives the model's results, bit by bit."""
    with NNForward(num_threads=model.num_threads) as other:
        other.load_from_file(path)
        pairs = zip(model.outputs, model.infer(inputs), other.infer(inputs), strict=True)
        for port, want, got in pairs:
            if not same_bits(want, got):
                raise ModelError(
                    f"[convert] found another result in output {port.name!r} of {os.fspath(path)}; "
                    "expected the same bits as from the source; please report this model"
                )


def same_bits(a: Any, b: Any) -> bool:
    """Whether two outputs are equal in dtype, shape and every bit."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return np.array_equal(a, b) if a.dtype == object else a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same_bits, a, b))
    return type(a) is type(b) and a == b
