"""Spec: what is known of a tensor before it is computed; and what rules say with specs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import dtypes

# elements; values of larger tensors are not followed while shapes are being worked out
MAX_KNOWN = 4096


class Spec:
    """What is known of a tensor before it is computed.

    shape: tuple of ints or `Sym`s.  dtype: a short name of `wnn.dtypes`.
    value: None, or a numpy array of that shape (object dtype where elements are Syms).
    """

    __slots__ = ("shape", "dtype", "value", "_key", "_short")

    def __init__(self, shape: Iterable, dtype: str, value: np.ndarray | None = None) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.value = value
        self._key = None
        self._short = None  # the key that planning goes by

    @classmethod
    def of(cls, array: np.ndarray) -> Spec:
        """The spec of a concrete array, with its value."""
        array = np.asarray(array)
        return cls(array.shape, dtypes.name_of(array.dtype), array)

    def like(self, shape: Iterable | None = None, dtype: str | None = None) -> Spec:
        """A spec with the same dtype and shape except where given, and no value."""
        return Spec(self.shape if shape is None else shape, dtype or self.dtype)

    @property
    def key(self) -> tuple:
        """Hashable identity, for memoised rules. Large constants count by identity."""
        if self._key is None:
            v = self.value
            if v is not None:
                v = (
                    id(v)
                    if v.size > MAX_KNOWN
                    else tuple(v.ravel())
                    if v.dtype == object
                    else v.tobytes()
                )
            self._key = (self.shape, self.dtype, v)
        return self._key

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def concrete(self) -> bool:
        """Whether every axis is an int."""
        return all(isinstance(d, int) for d in self.shape)

    @property
    def size(self):
        """Number of elements: an int, or a Sym."""
        n = 1
        for d in self.shape:
            n = n * d
        return n

    @property
    def known(self) -> bool:
        """Whether the value is known, with no symbol in it."""
        return self.value is not None and self.value.dtype != object

    def __repr__(self) -> str:
        return f"{self.dtype}({','.join(str(d) for d in self.shape)})"


class NeedValue(Exception):
    """Raised by a rule that cannot go on without the value of one of its inputs.

    The plan then ends a segment: it runs what it has, looks at the value, and plans on.
    """

    def __init__(self, *indices: int) -> None:
        self.indices = indices


def need(spec: Spec, index: int) -> np.ndarray:
    """spec.value where it is known (perhaps with symbols); else raises NeedValue(index)."""
    if spec.value is None:
        raise NeedValue(index)
    return spec.value


@dataclass
class Permuted:
    """A transpose rule's answer: op(transpose(x_i, inputs[i])...) == transpose(op'(x_i...),
    outputs[j]).

    inputs[i] is None where that input is taken as it is; attrs are those of op'.
    """

    inputs: list[tuple[int, ...] | None]
    outputs: list[tuple[int, ...] | None]
    attrs: dict[str, Any]
