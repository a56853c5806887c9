"""The few functions of torch with which silero-vad's ONNX path holds its arrays, as numpy arrays.

silero-vad imports torch wherever it is used, and with its ONNX models nothing of torch computes
anything. Hundreds of megabytes to slice and join arrays would be a test of the network.
"""

from __future__ import annotations

import contextlib
import types
from typing import Any

import numpy as np


class Tensor(np.ndarray):
    """An array of float32 with the methods that are called on it."""

    def __new__(cls, data: Any) -> Tensor:
        return np.asarray(data, np.float32).view(cls)

    def dim(self) -> int:
        return self.ndim

    def unsqueeze(self, axis: int) -> Tensor:
        return np.expand_dims(self, axis)

    def numpy(self) -> np.ndarray:
        return np.asarray(self)

    def float(self) -> Tensor:
        return self.astype(np.float32)

    def cpu(self) -> Tensor:
        return self


def from_numpy(array: np.ndarray) -> Tensor:
    return array.view(Tensor)


def is_tensor(x: Any) -> bool:
    return isinstance(x, Tensor)


def zeros(*shape: Any) -> Tensor:
    return Tensor(np.zeros(shape[0] if isinstance(shape[0], tuple) else shape))


def cat(tensors: Any, dim: int = 0) -> Tensor:
    return np.concatenate(tensors, dim).view(Tensor)


def pad(x: Tensor, widths: tuple[int, int], mode: str = "constant", value: float = 0) -> Tensor:
    ends = [(0, 0)] * (x.ndim - 1) + [widths]
    return np.pad(x, ends, mode, constant_values=value).view(Tensor)


def no_grad() -> contextlib.ContextDecorator:
    class Nothing(contextlib.ContextDecorator, contextlib.nullcontext):
        pass

    return Nothing()


def device(name: str) -> str:
    return name


def set_num_threads(n: int) -> None:
    """numpy has no say in it either."""


nn = types.SimpleNamespace(functional=types.SimpleNamespace(pad=pad))
