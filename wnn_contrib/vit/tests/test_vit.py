"""The vit package: its operator against its record, its pattern on what exporters write."""

import numpy as np
import pytest

import wnn_contrib.vit  # registers the package
from wnn.forward import NNForward
from wnn.onnx_model import OnnxModel
from wnn.testing import check_isa, opcheck, other_isas
from wnn_contrib.vit.packed_attention import op

onnx = pytest.importorskip("onnx")
F = np.float32
B, T, H, D = 2, 9, 3, 8
C = H * D


def test_operator_agrees_with_its_reference():
    opcheck(op)


@pytest.mark.parametrize("isa", other_isas())
def test_kernel_agrees_on_other_instruction_sets(isa):
    check_isa(isa, [op.name])


def split_squeeze(m, x, free):
    """timm, TorchScript: reshape to (B, T, 3, H, D), permute, unbind."""
    qkv = m.linear(x, C, 3 * C)
    if free:
        b, t = (m.Unsqueeze(m.Gather(m.Shape(x), np.int64(i), axis=0), [0]) for i in (0, 1))
        shape = m.Concat(b, t, [3], [H], [D], axis=0)
    else:
        shape = [B, T, 3, H, D]
    qkv = m.Transpose(m.Reshape(qkv, shape), perm=[2, 0, 3, 1, 4])
    parts = m.Split(qkv, [1, 1, 1], axis=0, outputs=3)
    return [m.Squeeze(p, [0]) for p in parts]


def gathers(m, x, free):
    """Older timm: qkv[0], qkv[1], qkv[2]."""
    qkv = m.Transpose(m.Reshape(m.linear(x, C, 3 * C), [0, 0, 3, H, D]), perm=[2, 0, 3, 1, 4])
    return [m.Gather(qkv, np.int64(i), axis=0) for i in (0, 1, -1)]


def slices(m, x, free):
    """dynamo: slices of the permuted tensor."""
    qkv = m.Transpose(m.Reshape(m.linear(x, C, 3 * C), [0, 0, 3, H, D]), perm=[2, 0, 3, 1, 4])
    return [m.Squeeze(m.Slice(qkv, [i], [i + 1], [0]), [0]) for i in range(3)]


def chunks(m, x, free):
    """einops: chunk(3), then "b t (h d) -> b h t d"."""
    parts = m.Split(m.linear(x, C, 3 * C), [C, C, C], axis=-1, outputs=3)
    return [m.Transpose(m.Reshape(p, [0, 0, H, D]), perm=[0, 2, 1, 3]) for p in parts]


def interleaved(m, x, free):
    """(H, 3, D): each head's q, k and v side by side."""
    qkv = m.Transpose(m.Reshape(m.linear(x, C, 3 * C), [0, 0, H, 3 * D]), perm=[0, 2, 1, 3])
    return m.Split(qkv, [D, D, D], axis=-1, outputs=3)


PROJECTIONS = [split_squeeze, gathers, slices, chunks, interleaved]
R = D**-0.25


def scale_q(m, q, k):
    return m.MatMul(m.Mul(q, R * R), m.Transpose(k, perm=[0, 1, 3, 2]))


def scale_both(m, q, k):
    return m.MatMul(m.Mul(q, R), m.Mul(m.Transpose(k, perm=[0, 1, 3, 2]), R))


def scale_after(m, q, k):
    return m.Div(m.MatMul(q, m.Transpose(k, perm=[0, 1, 3, 2])), 1 / (R * R))


def scale_first(m, q, k):
    """R on the left, and k transposed as a batch of matrices."""
    k = m.Reshape(m.Transpose(m.Reshape(k, [-1, T, D]), perm=[0, 2, 1]), [-1, H, D, T])
    return m.MatMul(m.Mul(R, q), m.Mul(R, k))


def attend(m, x, project, score, free=False, mask=None):
    q, k, v = project(m, x, free)
    s = score(m, q, k)
    if mask == "add":
        s = m.Add(s, "mask")
    elif mask == "where":
        s = m.Where("mask", -np.inf, s)
    y = m.Transpose(m.MatMul(m.Softmax(s, axis=-1), v), perm=[0, 2, 1, 3])
    return m.linear(m.Reshape(y, [0, 0, C]), C, C)


def compare(model, feed, fused=1):
    with_package = NNForward(num_threads=1, plugins=["contrib.vit"]).load_from_proto(model)
    core = NNForward(num_threads=1, plugins=None).load_from_proto(model)
    names = [n.op.name for n in with_package.graph.nodes]
    assert names.count(op.name) == fused, (
        f"{with_package.graph}\n{with_package.graph.meta.get('near_misses')}"
    )
    if fused:
        assert "softmax" not in names
        assert "transpose" not in names
    a, b = with_package.infer(feed)[0], core.infer(feed)[0]
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    return a


def x_of(b=B, t=T):
    return np.random.default_rng(1).standard_normal((b, t, C)).astype(np.float32)


@pytest.mark.parametrize("project", PROJECTIONS)
@pytest.mark.parametrize("score", [scale_q, scale_both, scale_after, scale_first])
def test_attention_is_found_as_exporters_write_it(project, score):
    m = OnnxModel()
    compare(m.finish(attend(m, "x", project, score), x=(F, [B, T, C])), [x_of()])


@pytest.mark.parametrize("project", PROJECTIONS)
@pytest.mark.parametrize("axes", [["b", T, C], [1, "t", C], ["b", "t", C]])
def test_attention_is_found_with_free_axes(project, axes):
    m = OnnxModel()
    model = m.finish(attend(m, "x", project, scale_both, free=True), x=(F, axes))
    compare(model, [x_of(1)])
    if axes[0] == "b":
        compare(model, [x_of(5)])


def test_meaning_is_that_of_numpy():
    m = OnnxModel()
    x = x_of()
    got = compare(m.finish(attend(m, "x", chunks, scale_q), x=(F, [B, T, C])), [x])
    w, b, wo, bo = (
        onnx.numpy_helper.to_array(m.constants[i]).astype(np.float64) for i in (0, 1, -2, -1)
    )
    q, k, v = (p.reshape(B, T, H, D).swapaxes(1, 2) for p in np.split(x @ w + b, 3, -1))
    s = q @ k.swapaxes(-1, -2) * D**-0.5
    e = np.exp(s - s.max(-1, keepdims=True))
    y = ((e / e.sum(-1, keepdims=True)) @ v).swapaxes(1, 2).reshape(B, T, C) @ wo + bo
    np.testing.assert_allclose(got, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [[B, 1, 1, T], [1, H, T, T], [T, T], [1, 1, T, T], [B, H, T, T]])
def test_additive_mask_is_taken_along(shape):
    m = OnnxModel()
    mask = np.where(np.random.default_rng(2).random(shape) < 0.2, -np.inf, 1.0).astype(np.float32)
    mask[..., 0] = 0.5
    compare(
        m.finish(
            attend(m, "x", split_squeeze, scale_both, mask="add"), x=(F, [B, T, C]), mask=(F, shape)
        ),
        [x_of(), mask],
    )


def test_where_mask_is_taken_along():
    m = OnnxModel()
    mask = np.random.default_rng(2).random((B, 1, 1, T)) < 0.3
    mask[..., 0] = False
    model = m.finish(
        attend(m, "x", split_squeeze, scale_after, mask="where"),
        x=(F, [B, T, C]),
        mask=(bool, mask.shape),
    )
    compare(model, [x_of(), mask])


def test_time_before_batch_is_found():
    """torch.nn.MultiheadAttention: (T, B, C), heads merged into the batch."""
    m = OnnxModel()
    parts = m.Split(m.linear("x", C, 3 * C), [C, C, C], axis=-1, outputs=3)
    q, k, v = (m.Transpose(m.Reshape(p, [T, B * H, D]), perm=[1, 0, 2]) for p in parts)
    s = m.MatMul(m.Mul(q, D**-0.5), m.Transpose(k, perm=[0, 2, 1]))
    y = m.Transpose(m.MatMul(m.Softmax(s, axis=-1), v), perm=[1, 0, 2])
    y = m.linear(m.Reshape(y, [T, B, C]), C, C)
    model = m.finish(y, x=(F, [T, B, C]))
    core = NNForward(num_threads=1, plugins=None).load_from_proto(model)
    vit = NNForward(num_threads=1, plugins=["vit"]).load_from_proto(model)
    x = np.ascontiguousarray(x_of().swapaxes(0, 1))
    assert op.name in [n.op.name for n in vit.graph.nodes]
    np.testing.assert_allclose(vit.infer([x])[0], core.infer([x])[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_separate_projections_are_joined(bias):
    m = OnnxModel()
    q, k, v = (
        m.Transpose(m.Reshape(m.linear("x", C, C, bias), [0, 0, H, D]), perm=[0, 2, 1, 3])
        for _ in range(3)
    )
    y = m.MatMul(m.Softmax(scale_q(m, q, k), axis=-1), v)
    model = m.finish(m.Reshape(m.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, C]), x=(F, ["b", "t", C]))
    compare(model, [x_of()])


def test_projections_that_are_used_elsewhere_too_are_not_joined():
    """DeBERTa: what is added to the scores is made of queries, too."""
    m = OnnxModel()
    q, k, v = (
        m.Transpose(m.Reshape(m.linear("x", C, C), [0, 0, H, D]), perm=[0, 2, 1, 3])
        for _ in range(3)
    )
    table = np.random.default_rng(3).standard_normal((D, T)).astype(np.float32)
    s = m.Add(scale_after(m, q, k), m.MatMul(q, table))
    y = m.MatMul(m.Softmax(s, axis=-1), v)
    model = m.finish(m.Reshape(m.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, C]), x=(F, [B, T, C]))
    compare(model, [x_of()], fused=0)


def test_attention_between_two_tensors_is_left_to_the_core():
    m = OnnxModel()
    q, k, v = (
        m.Transpose(m.Reshape(m.linear(x, C, C), [0, 0, H, D]), perm=[0, 2, 1, 3]) for x in "xzz"
    )
    y = m.MatMul(m.Softmax(scale_q(m, q, k), axis=-1), v)
    model = m.finish(
        m.Reshape(m.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, C]), x=(F, [B, T, C]), z=(F, [B, T, C])
    )
    compare(model, [x_of(), x_of() + 1], fused=0)


def test_scores_that_are_an_output_too_stay():
    m = OnnxModel()
    q, k, v = split_squeeze(m, "x", False)
    p = m.Softmax(scale_q(m, q, k), axis=-1)
    y = m.MatMul(p, v)
    model = m.finish(
        m.Concat(m.ReduceSum(y, [-1], keepdims=0), m.ReduceSum(p, [-1], keepdims=0), axis=0),
        x=(F, [B, T, C]),
    )
    compare(model, [x_of()], fused=0)


def test_package_is_registered():
    assert wnn_contrib.vit.wnn_operators() == [op]
