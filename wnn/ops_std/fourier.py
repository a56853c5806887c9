"""DFT and STFT, the discrete Fourier transforms, as products with a constant matrix of cosines and
sines (a strided convolution, for STFT's frames).

Source: ONNX DFT-20, STFT-17.
"""

import numpy as np

from ..errors import UnsupportedError
from .einsum import permuted, reshaped
from .matmul import op as matmul

MAX_DFT = 4096  # a longer transform's matrix is too large to be worth it


def basis(n: int, bins: int, inverse: bool = False) -> np.ndarray:
    """(n, 2, bins, 2): what a real and an imaginary part at each position add to both parts of each
    bin.
    """
    angle = 2 * np.pi * (np.outer(np.arange(n), np.arange(bins)) % n) / n
    cos, sin = np.cos(angle), np.sin(angle) * (1 if inverse else -1)
    parts = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)
    return parts / n if inverse else parts


@matmul.importer("DFT", since=17)
def dft_17_from_onnx(g, node):
    return dft(g, node, node.attr("axis", 1))


@matmul.importer("DFT", since=20)
def dft_20_from_onnx(g, node):
    axis = node.input(2)
    return dft(g, node, -2 if axis is None else int(node.known(2)))


def dft(g, node, axis: int):
    x = node.inputs[0]
    rank, inverse = node.rank(0), bool(node.attr("inverse", 0))
    axis %= rank
    n = x.shape[axis]
    length = n if node.input(1) is None else int(node.known(1))
    parts = x.shape[-1]
    onesided = bool(node.attr("onesided", 0))
    if (
        not isinstance(n, int)
        or length > MAX_DFT
        or x.spec.dtype not in ("f32", "f64")
        or (onesided and inverse)
    ):
        raise UnsupportedError(
            f"[{node.name}] found a DFT over {n} of {x.spec}; expected a float tensor, a fixed "
            "length and not both onesided and inverse; use another form"
        )
    bins = length // 2 + 1 if onesided else length
    taken = min(n, length)
    w = basis(length, bins, inverse)[:taken, :parts].reshape(taken * parts, bins * 2)
    if taken < n:
        x = node.call("Slice", x, *(node.const(np.array([v])) for v in (0, taken, axis)))
    last = [i for i in range(rank - 1) if i != axis]
    x = permuted(g, x, [*last, axis, rank - 1])
    lead = [x.shape[i] for i in range(rank - 2)]
    x = reshaped(g, x, [*lead, taken * parts])
    y = node.call(
        "MatMul", x, node.const(w.astype(np.float32 if x.spec.dtype == "f32" else np.float64))
    )
    y = reshaped(g, y, [*lead, bins, 2])
    order = [*last, axis]
    return permuted(g, y, [*(order.index(i) for i in range(rank - 1)), rank - 1])


@matmul.importer("STFT", since=17)
def stft_from_onnx(g, node):
    x, window = node.inputs[0], node.input(2)
    step = int(node.known(1))
    length = int(node.known(3)) if node.input(3) is not None else window.shape[0]
    if node.rank(0) == 3:
        if x.shape[2] != 1:
            raise UnsupportedError(
                f"[{node.name}] found the complex signal {x.spec}; expected a real one; use DFT "
                "on frames"
            )
        x = node.call("Squeeze", x, node.const(np.array([2])))
    if x.spec.dtype != "f32":
        raise UnsupportedError(
            f"[{node.name}] found the signal {x.spec}; expected float32; cast it"
        )
    bins = length // 2 + 1 if node.attr("onesided", 1) else length
    w = basis(length, bins)[:, 0].reshape(length, bins * 2)
    if window is not None:
        w = w * node.known(2).astype(np.float64)[:, None]
    x = node.call("Unsqueeze", x, node.const(np.array([1])))
    y = node.call("Conv", x, node.const(w.T[:, None].astype(np.float32)), strides=[step])
    y = node.call("Transpose", y, perm=[0, 2, 1])
    return reshaped(g, y, [y.shape[0], y.shape[1], bins, 2])
