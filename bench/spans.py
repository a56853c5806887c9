"""What operators of the op packages take the place of, alone in a graph, as exporters write it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from wnn.onnx_model import OnnxModel

END = 2**63 - 1


class Span(NamedTuple):
    """model: a ModelProto. products: the products by constant weights that the operator has taken
    in, as another; None where it has none.
    """

    package: str
    name: str
    model: Any
    products: Any = None


def spans() -> Iterator[Span]:
    """Of Conformers of 1 to 40 seconds, the four stages of Swin-T, and ViTs."""
    for frames, heads in ((50, 4), (100, 4), (200, 4), (400, 4), (1000, 4), (249, 16)):
        for constant in (True, False):
            kind = "constant" if constant else "computed"
            name = f"relative attention, {frames} frames, {heads} heads, {kind} positions"
            yield Span("conformer", name, relative_attention(frames, heads, 64, constant))
    for side, heads in ((56, 3), (28, 6), (14, 12), (7, 24)):
        for shift in (0, 3) if side > 7 else (0,):
            name = f"windows of 7 x 7 in {side} x {side}, {heads} heads{', shifted' * (shift > 0)}"
            model = window_attention(side, 7, heads, 32, shift)
            yield Span("swin", name, model, projections(side * side, heads * 32))
    for tokens, heads in ((197, 3), (197, 12), (785, 6)):
        yield Span("vit", f"{tokens} tokens, {heads} heads", packed_attention(tokens, heads, 64))


def finish(m: OnnxModel, outputs: str | list[str], **inputs: list[int]) -> Any:
    return m.finish(outputs, **{name: (np.float32, shape) for name, shape in inputs.items()})


def relative_attention(frames: int, heads: int, dim: int, constant: bool) -> Any:
    """Content and position scores, shift, softmax and values; positions are given or constant."""
    m, C, P = OnnxModel(), heads * dim, 2 * frames - 1
    q, k, v = (m.Reshape(x, [0, frames, heads, dim]) for x in "qkv")
    content, position = (
        m.Transpose(m.Add(q, m.random(heads, dim)), perm=[0, 2, 1, 3]) for _ in range(2)
    )
    p = m.Reshape(m.random(1, P, C) if constant else "p", [1, P, heads, dim])
    s = m.MatMul(content, m.Transpose(k, perm=[0, 2, 3, 1]))
    M = m.MatMul(position, m.Transpose(p, perm=[0, 2, 3, 1]))
    M = m.Reshape(m.Pad(M, [0, 0, 0, 1, 0, 0, 0, 0]), [0, heads, 2 * frames, frames])
    M = m.Reshape(m.Slice(M, [1], [END], [2], [1]), [0, heads, frames, P])
    M = m.Slice(M, [0], [frames], [3], [1])
    w = m.Softmax(m.Add(m.Mul(s, dim**-0.5), m.Mul(M, dim**-0.5)), axis=-1)
    y = m.MatMul(w, m.Transpose(v, perm=[0, 2, 1, 3]))
    y = m.Reshape(m.Transpose(y, perm=[0, 2, 1, 3]), [0, frames, C])
    x, given = [1, frames, C], {} if constant else {"p": [1, P, C]}
    return finish(m, y, q=x, k=x, v=x, **given)


def window_attention(side: int, n: int, heads: int, dim: int, shift: int) -> Any:
    """Roll, partition, projection, attention with bias and mask, projection, and back."""
    m, C, count = OnnxModel(), heads * dim, side // n

    def roll(x: str, by: int) -> str:
        for axis in (1, 2) if by else ():
            parts = m.Slice(x, [by], [END], [axis], [1]), m.Slice(x, [0], [by], [axis], [1])
            x = m.Concat(*parts, axis=axis)
        return x

    x = m.Reshape(roll("x", shift), [1, count, n, count, n, C])
    x = m.Reshape(m.Transpose(x, perm=[0, 1, 3, 2, 4, 5]), [-1, n * n, C])
    qkv = m.Reshape(m.linear(x, C, 3 * C), [-1, n * n, 3, heads, dim])
    qkv = m.Transpose(qkv, perm=[2, 0, 3, 1, 4])
    q, k, v = (m.Gather(qkv, np.int64(i), axis=0) for i in range(3))
    s = m.MatMul(m.Mul(q, dim**-0.5), m.Transpose(k, perm=[0, 1, 3, 2]))
    s = m.Add(s, m.random(1, heads, n * n, n * n))
    if shift:
        s = m.Add(m.Reshape(s, [1, -1, heads, n * n, n * n]), apart(side, n, shift)[None, :, None])
        s = m.Reshape(s, [-1, heads, n * n, n * n])
    y = m.Transpose(m.MatMul(m.Softmax(s, axis=-1), v), perm=[0, 2, 1, 3])
    y = m.linear(m.Reshape(y, [-1, n * n, C]), C, C)
    y = m.Transpose(m.Reshape(y, [1, count, count, n, n, C]), perm=[0, 1, 3, 2, 4, 5])
    return finish(m, roll(m.Reshape(y, [1, side, side, C]), -shift), x=[1, side, side, C])


def apart(side: int, n: int, shift: int) -> np.ndarray:
    """-100 for pairs of a window that were rolled together, (windows, n*n, n*n)."""
    part = np.digitize(np.arange(side), [side - n, side - shift])
    region = (3 * part[:, None] + part).reshape(side // n, n, side // n, n)
    region = region.swapaxes(1, 2).reshape(-1, n * n)
    return np.where(region[:, :, None] != region[:, None], np.float32(-100), np.float32(0))


def projections(rows: int, C: int) -> Any:
    m = OnnxModel()
    return finish(m, [m.linear("x", C, 3 * C), m.linear("y", C, C)], x=[rows, C], y=[rows, C])


def packed_attention(tokens: int, heads: int, dim: int) -> Any:
    """Attention on a packed projection, which is given."""
    m, C = OnnxModel(), heads * dim
    qkv = m.Transpose(m.Reshape("qkv", [0, tokens, 3, heads, dim]), perm=[2, 0, 3, 1, 4])
    q, k, v = (m.Gather(qkv, np.int64(i), axis=0) for i in range(3))
    s = m.Mul(m.MatMul(q, m.Transpose(k, perm=[0, 1, 3, 2])), dim**-0.5)
    y = m.Transpose(m.MatMul(m.Softmax(s, axis=-1), v), perm=[0, 2, 1, 3])
    return finish(m, m.Reshape(y, [0, tokens, C]), qkv=[1, tokens, 3 * C])
