"""Post-operations: what a GEMM or convolution does to each finished tile while it is in cache.

An operator made with `posts=True` carries an attribute `post`: a tuple of (kind, a, b, input),
applied in order.

kind: a name of KINDS; `vec` kinds read a vector (C,), `mat` kinds a tensor of the output's shape.
a, b: its parameters.  input: index of the node's input that it reads, or -1.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

MAX_POSTS = 8  # of a node; PostList of gemm.h has room for twice as many

# name: (number in wnn_abi.h, what its input is)
KINDS = {
    "bias": (1, "vec"),
    "add": (2, "mat"),
    "mul": (3, "mat"),
    "relu": (4, None),
    "clip": (5, None),
    "leaky_relu": (6, None),
    "sigmoid": (7, None),
    "tanh": (8, None),
    "silu": (9, None),
    "gelu": (10, None),
    "gelu_tanh": (11, None),
    "hard_swish": (12, None),
    "hard_sigmoid": (13, None),
    "scale": (14, None),
    "prelu": (15, "vec"),
    "channel_mul": (16, "vec"),
}


def pack(post: Sequence[tuple]) -> bytes:
    """struct { int32 count, zero; struct { int32 kind, input; float a, b; } [count]; }"""
    head = struct.pack("ii", len(post), 0)
    return head + b"".join(struct.pack("iiff", KINDS[k][0], i, a, b) for k, a, b, i in post)


def _sigmoid(y: np.ndarray) -> np.ndarray:
    return np.where(y >= 0, 1, np.exp(-np.abs(y))) / (1 + np.exp(-np.abs(y)))


def _gelu(y: np.ndarray) -> np.ndarray:
    from math import erf

    return 0.5 * y * (1 + np.vectorize(erf, otypes=[np.float64])(y / np.sqrt(2.0)))


_FORMULA = {
    "bias": lambda y, a, b, x: y + x,
    "add": lambda y, a, b, x: y + x,
    "mul": lambda y, a, b, x: y * x,
    "relu": lambda y, a, b, x: np.maximum(y, 0),
    "clip": lambda y, a, b, x: np.minimum(np.maximum(y, a), b),
    "leaky_relu": lambda y, a, b, x: np.where(y >= 0, y, a * y),
    "sigmoid": lambda y, a, b, x: _sigmoid(y),
    "tanh": lambda y, a, b, x: np.tanh(y),
    "silu": lambda y, a, b, x: y * _sigmoid(y),
    "gelu": lambda y, a, b, x: _gelu(y),
    "gelu_tanh": lambda y, a, b, x: (
        0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    ),
    "hard_swish": lambda y, a, b, x: y * np.clip(y / 6 + 0.5, 0, 1),
    "hard_sigmoid": lambda y, a, b, x: np.clip(a * y + b, 0, 1),
    "scale": lambda y, a, b, x: a * y + b,
    "prelu": lambda y, a, b, x: np.where(y >= 0, y, x * y),
    "channel_mul": lambda y, a, b, x: y * x,
}


def apply(y: np.ndarray, post: Sequence[tuple], inputs: Sequence[np.ndarray | None]) -> np.ndarray:
    """The meaning of a list of post-operations; inputs: all of the node's inputs."""
    for kind, a, b, i in post:
        y = _FORMULA[kind](y, a, b, inputs[i] if i >= 0 else None)
    return y
