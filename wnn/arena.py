"""Where tensors lie while a plan runs: buffers, windows on them, and the arena they share."""

from __future__ import annotations

import numpy as np

ALIGN = 64


class Buffer:
    """A piece of memory and how many uses of it are still to come."""

    __slots__ = ("slot", "index", "offset", "nbytes", "uses", "array")

    def __init__(self, slot: int, index: int, nbytes: int, array: np.ndarray | None = None) -> None:
        self.slot = slot
        self.index = index
        self.offset = -1  # in the arena; -1: not placed yet
        self.nbytes = nbytes
        self.uses = 0
        self.array = array


class Window:
    """A tensor's place: elements of `buffer` from `offset` on, by `strides`."""

    __slots__ = ("buffer", "offset", "strides", "ids", "copy")

    def __init__(self, buffer: Buffer, offset: int, strides: tuple[int, ...]) -> None:
        self.buffer = buffer
        self.offset = offset
        self.strides = strides
        self.ids: dict = {}  # (dtype, shape) -> number of the native tensor
        self.copy: Window | None = None  # a contiguous copy, made for a kernel that needs one


class Arena:
    """Best-fit allocation of byte ranges in the order of the steps."""

    def __init__(self) -> None:
        self.free: list[tuple[int, int]] = []  # (offset, size), by offset
        self.size = 0

    def take(self, nbytes: int) -> int:
        n = max(ALIGN, -(-nbytes // ALIGN) * ALIGN)
        best = -1
        for i, (_, size) in enumerate(self.free):
            if size >= n and (best < 0 or size < self.free[best][1]):
                best = i
        if best >= 0:
            offset, size = self.free[best]
            if size == n:
                del self.free[best]
            else:
                self.free[best] = (offset + n, size - n)
            return offset
        if self.free and sum(self.free[-1]) == self.size:  # the last hole grows
            offset, _ = self.free.pop()
            self.size = offset + n
            return offset
        offset = self.size
        self.size += n
        return offset

    def give(self, offset: int, nbytes: int) -> None:
        n = max(ALIGN, -(-nbytes // ALIGN) * ALIGN)
        i = 0
        while i < len(self.free) and self.free[i][0] < offset:
            i += 1
        self.free.insert(i, (offset, n))
        for j in (i, i - 1):
            if 0 <= j < len(self.free) - 1 and sum(self.free[j]) == self.free[j + 1][0]:
                self.free[j] = (self.free[j][0], self.free[j][1] + self.free[j + 1][1])
                del self.free[j + 1]
