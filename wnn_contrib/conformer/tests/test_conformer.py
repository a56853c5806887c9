"""The conformer package: operators against their records, patterns on what exporters write."""

import numpy as np
import pytest

from wnn.forward import NNForward
from wnn.onnx_model import OnnxModel
from wnn.testing import check_isa, opcheck, other_isas
from wnn_contrib.conformer.relative_attention import op

pytest.importorskip("onnx")
F = np.float32
T, H, D = 11, 2, 8
C = H * D
FAR = 2**62


def test_operator_agrees_with_its_reference():
    opcheck(op)


@pytest.mark.parametrize("isa", other_isas())
def test_kernel_agrees_on_other_instruction_sets(isa):
    check_isa(isa, [op.name])


def padded(m, M, t):
    """transformers, NeMo: a zero column in front, rows one shorter, the first one gone, the first
    Tk columns kept.
    """
    M = m.Pad(M, [0, 0, 0, 1, 0, 0, 0, 0])
    M = m.Slice(
        m.Reshape(M, [0, H, -1, T])
        if t is None
        else m.Reshape(M, m.Concat([0], [H], [-1], t, axis=0)),
        [1],
        [FAR],
        [2],
    )
    if t is None:
        return m.Slice(m.Reshape(M, [0, H, T, 2 * T - 1]), [0], [T], [3])
    columns = m.Sub(m.Mul(t, [2]), [1])
    return m.Slice(m.Reshape(M, m.Concat([0], [H], t, columns, axis=0)), [0], t, [3])


def joined(m, M, t):
    """ESPnet, WeNet: the zero column joined on, the rest viewed as before."""
    zeros = np.zeros((1, H, T, 1), F)
    M = m.Slice(m.Reshape(m.Concat(zeros, M, axis=-1), [0, 0, 2 * T, T]), [1], [FAR], [2])
    return m.Slice(m.Reshape(M, [1, H, T, 2 * T - 1]), [0], [T], [-1])


def gathered(m, M, t):
    """icefall: the columns of each row gathered."""
    lists = m.Mul(m.Slice(m.Shape(M), [0], [1]), [H])
    if t is None:
        rows, columns = np.arange(T)[::-1].copy(), np.arange(T)
    else:
        end = m.Squeeze(t)
        rows = m.Range(m.Sub(end, np.int64(1)), np.int64(-1), np.int64(-1))
        columns = m.Range(np.int64(0), end, np.int64(1))
    indices = m.Add(m.Unsqueeze(m.Tile(rows, lists), [-1]), columns)
    M = m.Reshape(M, m.Concat([-1], m.Slice(m.Shape(M), [3], [4]), axis=0))
    M = m.GatherElements(M, indices, axis=1)
    return m.Reshape(M, m.Concat([-1], [H], *([t, t] if t else [[T], [T]]), axis=0))


def unshifted(m, M, t):
    """WeNet: as many positions as keys, and no shift."""
    return M


def attend(m, x, shift=padded, early=False, scale="each", mask=None, t=None, batched=False):
    """early: biases are added to (B, T, H, D), before the heads are moved."""
    n, p_in = T, m.random(1, T if shift is unshifted else 2 * T - 1, C)
    if t is not None and shift is unshifted:
        n, p_in = -1, m.Slice(m.random(1, 199, C), [0], t, [1])
    elif t is not None:  # ESPnet: the middle of a long table
        n, p_in = -1, m.Slice(m.random(1, 199, C), m.Sub([100], t), m.Add([99], t), [1])
    heads = [0, n, H, D]
    a, b = m.random(H, D), m.random(H, D)
    q, k, v = (m.Reshape(m.linear(x, C, C), heads) for _ in range(3))
    if early:
        qa, qb = (m.Transpose(m.Add(q, c), perm=[0, 2, 1, 3]) for c in (a, b))
    else:
        q = m.Transpose(q, perm=[0, 2, 1, 3])
        qa, qb = (m.Add(q, c.reshape(1, H, 1, D)) for c in (a, b))
    v = m.Transpose(v, perm=[0, 2, 1, 3])
    p = m.Transpose(m.Reshape(m.linear(p_in, C, C, bias=False), [1, -1, H, D]), perm=[0, 2, 3, 1])
    content = m.MatMul(qa, m.Transpose(k, perm=[0, 2, 3, 1]))
    position = shift(m, m.MatMul(qb, p), t)
    if scale == "each":
        s = m.Add(m.Mul(content, D**-0.5), m.Mul(position, D**-0.5))
    else:
        s = m.Div(m.Add(content, position), D**0.5)
    if mask == "add":
        s = m.Add(s, "mask")
    if mask in ("where", "hidden"):
        s = m.Where("mask", F(-10000.0), s)
    if mask == "seen":
        s = m.Where("mask", s, F(-10000.0))
    if shift is gathered:  # samples and heads are one axis from here on
        s, v = (m.Reshape(x, m.Concat([-1], m.Slice(m.Shape(x), [2], [4]), axis=0)) for x in (s, v))
    w = m.Softmax(s, axis=-1)
    if mask == "hidden":
        w = m.Where("mask", F(0), w)
    if mask == "seen":
        w = m.Where("mask", w, F(0))
    y = m.MatMul(w, v)
    if shift is gathered:
        y = m.Reshape(y, [-1, H, T, D] if t is None else m.Concat([-1], [H], t, [D], axis=0))
    return m.linear(m.Reshape(m.Transpose(y, perm=[0, 2, 1, 3]), [0, n, C]), C, C)


def compare(model, feed):
    package = NNForward(num_threads=1, plugins=["contrib.conformer"]).load_from_proto(model)
    core = NNForward(num_threads=1, plugins=None).load_from_proto(model)
    names = [n.op.name for n in package.graph.nodes]
    assert names.count(op.name) == 1, f"{package.graph}\n{package.graph.meta.get('near_misses')}"
    assert not {"softmax", "pad", "matmul", "attention"} & set(names)
    np.testing.assert_allclose(package.infer(feed)[0], core.infer(feed)[0], rtol=1e-5, atol=1e-5)


def x_of(b=1, t=T):
    return np.random.default_rng(1).standard_normal((b, t, C)).astype(F)


@pytest.mark.parametrize("shift", [padded, joined, gathered, unshifted])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("scale", ["each", "sum"])
def test_attention_is_found_as_exporters_write_it(shift, early, scale):
    m = OnnxModel()
    compare(m.finish(attend(m, "x", shift, early, scale), x=(F, [1, T, C])), [x_of()])


@pytest.mark.parametrize("shift", [padded, gathered, unshifted])
def test_attention_is_found_with_free_batch(shift):
    m = OnnxModel()
    model = m.finish(attend(m, "x", shift), x=(F, ["b", T, C]))
    compare(model, [x_of(1)])
    compare(model, [x_of(3)])


@pytest.mark.parametrize("shift", [padded, gathered, unshifted])
def test_attention_is_found_with_free_time(shift):
    m = OnnxModel()
    t = m.Slice(m.Shape("x"), [1], [2], [0])
    y = attend(m, "x", shift, t=t)
    model = m.finish(y, x=(F, ["b", "t", C]))
    for b, t in ((2, T), (1, 40), (3, 1)):
        compare(model, [x_of(b, t)])


@pytest.mark.parametrize("shape", [[2, 1, 1, T], [1, 1, T, T], [T, T]])
@pytest.mark.parametrize("scale", ["each", "sum"])
def test_additive_mask_is_taken_along(shape, scale):
    m = OnnxModel()
    mask = np.where(np.random.default_rng(2).random(shape) < 0.2, F(-1e9), F(0))
    compare(
        m.finish(attend(m, "x", scale=scale, mask="add"), x=(F, [2, T, C]), mask=(F, shape)),
        [x_of(2), mask],
    )


@pytest.mark.parametrize("shape", [(2, 1, 1, T), (2, 1, T, T)])
@pytest.mark.parametrize("mask", ["where", "hidden", "seen"])
@pytest.mark.parametrize("shift", [padded, unshifted])
def test_where_mask_is_taken_along(shape, mask, shift):
    m = OnnxModel()
    condition = np.random.default_rng(2).random(shape) < 0.3
    condition[0, :, 0] = mask == "hidden"  # a query that sees nothing
    model = m.finish(attend(m, "x", shift, mask=mask), x=(F, [2, T, C]), mask=(bool, shape))
    compare(model, [x_of(2), condition])


def by_distance(m, n, kind, reach=3):
    """The vectors (n, n, D) of Wav2Vec2-BERT, or, the other way round, of lucidrains' Conformer."""
    steps = m.Range(np.int64(0), n, np.int64(1))
    rows, columns = m.Reshape(steps, [-1, 1]), m.Reshape(steps, [1, -1])
    distance = m.Sub(columns, rows) if kind == "forward" else m.Sub(rows, columns)
    distance = m.Add(m.Clip(distance, np.int64(-reach), np.int64(reach)), np.int64(reach))
    return m.Gather(m.random(2 * reach + 1, D), distance)


@pytest.mark.parametrize("kind", ["forward", "backward"])
@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("scale", ["each", "sum"])
def test_vectors_looked_up_by_distance_are_found(kind, free, scale):
    m = OnnxModel()
    n = m.Gather(m.Shape("x"), np.int64(1)) if free else np.int64(T)
    q, k, v = (
        m.Transpose(m.Reshape(m.linear("x", C, C), [0, -1, H, D]), perm=[0, 2, 1, 3])
        for _ in range(3)
    )
    s = m.MatMul(q, m.Transpose(k, perm=[0, 1, 3, 2]))
    position = m.Einsum(q, by_distance(m, n, kind), equation="bhld,lrd->bhlr")
    if scale == "each":
        s = m.Add(m.Mul(s, D**-0.5), m.Div(position, D**0.5))
    else:
        s = m.Div(m.Add(position, s), D**0.5)
    y = m.Transpose(m.MatMul(m.Softmax(s, axis=-1), v), perm=[0, 2, 1, 3])
    model = m.finish(m.Reshape(y, [0, -1, C]), x=(F, ["b", "t" if free else T, C]))
    compare(model, [x_of(2)])
    compare(model, [x_of(1)])
    if free:
        compare(model, [x_of(2, 40)])


def test_products_with_different_queries_stay():
    m = OnnxModel()
    q, k, v, r = (
        m.Transpose(m.Reshape(m.linear("x", C, C), [0, -1, H, D]), perm=[0, 2, 1, 3])
        for _ in range(4)
    )
    position = m.Einsum(r, by_distance(m, np.int64(T), "forward"), equation="bhld,lrd->bhlr")
    s = m.Add(m.MatMul(q, m.Transpose(k, perm=[0, 1, 3, 2])), position)
    y = m.Transpose(m.MatMul(m.Softmax(s, axis=-1), v), perm=[0, 2, 1, 3])
    model = m.finish(m.Reshape(y, [0, -1, C]), x=(F, [1, T, C]))
    package = NNForward(num_threads=1, plugins=["contrib.conformer"]).load_from_proto(model)
    assert op.name not in [n.op.name for n in package.graph.nodes]
    assert "different queries" in str(package.graph.meta["near_misses"])
