"""A Conformer that listens as it runs: keys, values and convolution state go from chunk to chunk.
What comes out equals the offline model, whose mask shows each query its own chunk and all before.
"""

import numpy as np
import pytest

from wnn.forward import NNForward
from wnn.onnx_model import OnnxModel
from wnn_contrib.conformer.relative_attention import op

pytest.importorskip("onnx")
F = np.float32
H, D, CHUNK, COUNT, KERNEL, LAYERS = 2, 8, 4, 5, 5, 2
C, T = H * D, CHUNK * COUNT
FAR = T + CHUNK  # row FAR of the table of positions is for distance 0


def heads(m, x, perm):
    return m.Transpose(m.Reshape(x, [0, -1, H, D]), perm=perm)


def normalised(m, x):
    return m.LayerNormalization(x, m.random(C) + 1, m.random(C), axis=-1)


def attend(m, x, k_before, v_before, mask):
    """Attention of Transformer-XL; returns y, and the keys and values to keep."""
    h = normalised(m, x)
    q, a, b = m.Reshape(m.linear(h, C, C), [0, -1, H, D]), m.random(H, D), m.random(H, D)
    k, v = (heads(m, m.linear(h, C, C), [0, 2, 1, 3]) for _ in range(2))
    if k_before is not None:
        k, v = m.Concat(k_before, k, axis=2), m.Concat(v_before, v, axis=2)
    queries, keys = (m.Shape(z, start=axis, end=axis + 1) for z, axis in ((x, 1), (k, 2)))
    start, end = m.Sub([FAR + 1], keys), m.Add([FAR], queries)
    p = m.linear(m.Slice(m.random(1, 2 * FAR + 1, C), start, end, [1]), C, C, bias=False)
    qa, qb = (m.Transpose(m.Add(q, bias), perm=[0, 2, 1, 3]) for bias in (a, b))
    M = m.Pad(m.MatMul(qb, heads(m, p, [0, 2, 3, 1])), [0, 0, 0, 1, 0, 0, 0, 0])
    columns = m.Sub(m.Add(queries, keys), [1])
    M = m.Slice(m.Reshape(M, m.Concat([0], [H], [-1], queries, axis=0)), [1], [2**62], [2])
    M = m.Slice(m.Reshape(M, m.Concat([0], [H], queries, columns, axis=0)), [0], keys, [3])
    s = m.Div(m.Add(m.MatMul(qa, m.Transpose(k, perm=[0, 1, 3, 2])), M), D**0.5)
    s = s if mask is None else m.Add(s, mask)
    y = m.Transpose(m.MatMul(m.Softmax(s, axis=-1), v), perm=[0, 2, 1, 3])
    return m.Add(x, m.linear(m.Reshape(y, [0, -1, C]), C, C)), k, v


def convolve(m, x, before):
    """The causal convolution module; returns y, and the state to keep."""
    h = m.Transpose(normalised(m, x), perm=[0, 2, 1])
    first, gate = m.Split(m.Conv(h, m.random(2 * C, C, 1, scale=0.25)), [C, C], axis=1, outputs=2)
    h = m.Concat(before, m.Mul(first, m.Sigmoid(gate)), axis=2)
    y = m.Conv(h, m.random(C, 1, KERNEL, scale=0.4), m.random(C), group=C)
    y = normalised(m, m.Transpose(y, perm=[0, 2, 1]))
    y = m.linear(m.Mul(y, m.Sigmoid(y)), C, C)
    return m.Add(x, y), m.Slice(h, [1 - KERNEL], [2**62], [2])


def conformer(time, listens, mask=None):
    """x, and k, v and state of each layer before it where it listens; y, and those after it."""
    m, x, kept, given = OnnxModel(seed=3), "x", [], {"x": (F, [1, time, C])}
    for i in range(LAYERS):
        k, v, state = None, None, np.zeros((1, C, KERNEL - 1), F)
        if listens:
            k, v, state = f"k{i}", f"v{i}", f"s{i}"
            given |= {
                k: (F, [1, H, "c", D]),
                v: (F, [1, H, "c", D]),
                state: (F, [1, C, KERNEL - 1]),
            }
        x, k, v = attend(m, x, k, v, mask)
        x, state = convolve(m, x, state)
        kept += [k, v, state]
    return m.finish([x, *kept], **given)


def nothing():
    """The state before the first chunk."""
    empty = np.zeros((1, H, 0, D), F)
    return [empty, empty, np.zeros((1, C, KERNEL - 1), F)] * LAYERS


@pytest.mark.parametrize("plugins", [["contrib.conformer"], None], ids=["package", "core"])
def test_chunk_by_chunk_equals_offline(plugins):
    at = np.arange(T) // CHUNK
    mask = np.where(at[:, None] >= at, F(0), F(-np.inf))

    def load(model):
        return NNForward(num_threads=1, plugins=plugins).load_from_proto(model)

    offline = load(conformer(T, False, mask))
    listening = load(conformer(CHUNK, True))
    for net in (offline, listening):
        names = [n.op.name for n in net.graph.nodes]
        assert names.count(op.name) == (LAYERS if plugins else 0), net.graph.meta["near_misses"]
    x = np.random.default_rng(5).standard_normal((1, T, C)).astype(F)
    want = offline.infer([x])
    state, got = nothing(), []
    for i in range(COUNT):
        y, *state = listening.infer([x[:, i * CHUNK : (i + 1) * CHUNK], *state])
        got.append(y)
    np.testing.assert_allclose(np.concatenate(got, 1), want[0], rtol=1e-4, atol=1e-5)
    for a, b in zip(state, want[1:]):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    alone = listening.infer([x[:, -CHUNK:], *nothing()])[0]
    assert np.abs(alone - got[-1]).max() > 1e-2  # what went before does matter
