"""The swin package: its operator against its record, and its pattern on window attention as exporters write it."""

import numpy as np
import pytest
from wnn.forward import NNForward
from wnn.onnx_model import OnnxModel
from wnn.testing import check_isa, opcheck, other_isas

from wnn_contrib.swin.window_attention import op

pytest.importorskip("onnx")
F = np.float32
HEADS, D = 2, 8
C = HEADS * D
FAR = 2**62


def test_operator_agrees_with_its_reference():
    opcheck(op)


@pytest.mark.parametrize("isa", other_isas())
def test_kernel_agrees_on_other_instruction_sets(isa):
    check_isa(isa, [op.name])


def roll(m, x, shift, axis):
    """torch.roll: the parts before and after the seam, joined the other way round."""
    return m.Concat(m.Slice(x, [-shift], [FAR], [axis]), m.Slice(x, [0], [-shift], [axis]), axis=axis)


def block(m, x, H, W, n, shift=0, pad="after", views="numbers"):
    """x + window attention of x (B, H, W, C). pad: before or after the roll, where H or W is no multiple of n."""
    right, down = -W % n, -H % n
    h, w = H + down, W + right
    y = m.LayerNormalization(x, m.random(C), m.random(C), axis=-1)

    def padded(y):
        return m.Pad(y, [0, 0, 0, 0, 0, down, right, 0]) if right or down or pad == "always" else y

    y = padded(y) if pad == "before" else y
    if shift:
        y = roll(m, roll(m, y, -shift, 1), -shift, 2)
    y = y if pad == "before" else padded(y)
    y = m.Transpose(m.Reshape(y, [-1, h // n, n, w // n, n, C]), perm=[0, 1, 3, 2, 4, 5])
    windows = h // n * w // n
    y = m.Reshape(m.Reshape(y, [-1, n, n, C]), [-1, n * n, C])
    qkv = m.Transpose(m.Reshape(m.linear(y, C, 3 * C), [-1, n * n, 3, HEADS, D]), perm=[2, 0, 3, 1, 4])
    q, k, v = (m.Gather(qkv, np.int64(i), axis=0) for i in range(3))
    s = m.MatMul(m.Mul(q, D**-0.5), m.Transpose(k, perm=[0, 1, 3, 2]))
    s = m.Add(s, m.random(1, HEADS, n * n, n * n))
    if shift:
        mask = np.where(m.random(1, windows, 1, n * n, n * n) < 0.5, F(0), F(-100))
        s = m.Reshape(m.Add(m.Reshape(s, [-1, windows, HEADS, n * n, n * n]), mask), [-1, HEADS, n * n, n * n])
    y = m.Reshape(m.Transpose(m.MatMul(m.Softmax(s, axis=-1), v), perm=[0, 2, 1, 3]), [-1, n * n, C])
    y = m.Reshape(m.linear(y, C, C), [-1, h // n, w // n, n, n, C])
    y = m.Reshape(m.Transpose(y, perm=[0, 1, 3, 2, 4, 5]), [-1, h, w, C])

    def cropped(y):
        return m.Slice(m.Slice(y, [0], [H], [1]), [0], [W], [2]) if right or down or pad == "always" else y

    y = y if pad == "before" else cropped(y)
    if shift:
        y = roll(m, roll(m, y, shift, 1), shift, 2)
    return m.Add(x, cropped(y) if pad == "before" else y)


def compare(model, feed, fused=1):
    package = NNForward(num_threads=1, plugins=["contrib.swin"]).load_from_proto(model)
    core = NNForward(num_threads=1, plugins=None).load_from_proto(model)
    names = [n.op.name for n in package.graph.nodes]
    assert names.count(op.name) == fused, f"{package.graph}\n{package.graph.meta.get('near_misses')}"
    if fused:
        assert not {"softmax", "attention", "pad", "concat", "slice", "transpose"} & set(names)
    for threads in (1, 2):
        package = NNForward(num_threads=threads, plugins=["contrib.swin"]).load_from_proto(model)
        np.testing.assert_allclose(package.infer(feed)[0], core.infer(feed)[0], rtol=1e-5, atol=1e-5)


def x_of(b, H, W):
    return np.random.default_rng(1).standard_normal((b, H, W, C)).astype(F)


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("pad", ["before", "after", "always"])
@pytest.mark.parametrize("size", [(6, 9), (7, 7), (3, 3)])
def test_window_attention_is_found(shift, pad, size):
    H, W = size
    m = OnnxModel()
    y = block(m, "x", H, W, 3, shift if min(size) > 3 else 0, pad)
    compare(m.finish(y, x=(F, [1, H, W, C])), [x_of(1, H, W)])


@pytest.mark.parametrize("shift", [0, 1])
def test_window_attention_is_found_with_free_batch(shift):
    m = OnnxModel()
    model = m.finish(block(m, "x", 7, 8, 4, shift), x=(F, ["b", 7, 8, C]))
    for b in (1, 3):
        compare(model, [x_of(b, 7, 8)])


def test_two_blocks_are_both_found():
    m = OnnxModel()
    model = m.finish(block(m, block(m, "x", 6, 6, 3), 6, 6, 3, 1), x=(F, [2, 6, 6, C]))
    compare(model, [x_of(2, 6, 6)], fused=2)


def test_windows_that_overlap_are_left_to_the_core():
    m = OnnxModel()
    y = m.Concat(m.Slice("x", [0], [4], [1]), m.Slice("x", [2], [6], [1]), axis=1)
    qkv = m.Transpose(m.Reshape(m.linear(m.Reshape(y, [-1, 16, C]), C, 3 * C), [-1, 16, 3, HEADS, D]), perm=[2, 0, 3, 1, 4])
    q, k, v = (m.Gather(qkv, np.int64(i), axis=0) for i in range(3))
    s = m.MatMul(m.Mul(q, D**-0.5), m.Transpose(k, perm=[0, 1, 3, 2]))
    y = m.Reshape(m.Transpose(m.MatMul(m.Softmax(s, axis=-1), v), perm=[0, 2, 1, 3]), [-1, 16, C])
    y = m.Slice(m.Reshape(m.linear(y, C, C), [-1, 8, 4, C]), [1], [7], [1])
    package = NNForward(plugins=["swin"]).load_from_proto(m.finish(y, x=(F, [1, 6, 4, C])))
    assert op.name not in [n.op.name for n in package.graph.nodes]
