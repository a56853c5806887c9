"""Large initializers out of a serialised ONNX model before it is parsed, so that memory holds the
weights once.

Parsing a whole model would hold them twice: in the message and as arrays. Here long raw_data fields
are replaced by a short token; their bytes stay in the file's mapping until an array is made of
them.
Source: the protobuf wire format; field numbers of onnx.proto.
"""

from __future__ import annotations

import os

LONG = 4096  # bytes; shorter fields stay where they are
# message: {field number: what lies in it}
FIELDS = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {6: "graph", 11: "graph"},
    "tensor": {9: "raw"},
}


class Large:
    """The long fields that were taken out, each with a token in its place."""

    def __init__(self) -> None:
        self.key = os.urandom(16)
        self.parts: list[memoryview] = []

    def token(self, part: memoryview) -> bytes:
        self.parts.append(part)
        return self.key + len(self.parts).to_bytes(4, "little")

    def find(self, data: bytes) -> memoryview | bytes:
        """What the content of a raw_data field stands for: itself, unless it is a token."""
        if len(data) != len(self.key) + 4 or not data.startswith(self.key):
            return data
        return self.parts[int.from_bytes(data[-4:], "little") - 1]


def lighten(data: memoryview, large: Large) -> bytes:
    """The serialised model with its long fields as tokens. ValueError where the wire format is
    broken.
    """
    return b"".join(_message(data, "model", large, 0))


def _message(data: memoryview, kind: str, large: Large, depth: int) -> list:
    out: list = []
    done = i = 0
    while i < len(data):
        start = i
        tag, i = _varint(data, i)
        wire = tag & 7
        if wire == 2:
            size, i = _varint(data, i)
            end = i + size
        elif wire == 0:
            _, end = _varint(data, i)
        elif wire in (1, 5):
            end = i + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"wire type {wire}")
        if end > len(data):
            raise ValueError("a field beyond the end")
        inside = FIELDS[kind].get(tag >> 3)
        if wire == 2 and inside and size > LONG and depth < 60:
            part = data[i:end]
            made = (
                [large.token(part)] if inside == "raw" else _message(part, inside, large, depth + 1)
            )
            out += [data[done:start], _encoded(tag), _encoded(sum(map(len, made))), *made]
            done = end
        i = end
    out.append(data[done:])
    return out


def _varint(data: memoryview, i: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if i >= len(data):
            raise ValueError("a number beyond the end")
        byte = data[i]
        i += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, i
        shift += 7
    raise ValueError("a number that is too long")


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
