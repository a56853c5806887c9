"""The swin package: its operator against its record, and its pattern on window attention as
exporters write it.
"""

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
    return m.Concat(
        m.Slice(x, [-shift], [FAR], [axis]), m.Slice(x, [0], [-shift], [axis]), axis=axis
    )


def packed(m, y, n):
    """timm: one projection, split after a permutation."""
    qkv = m.Transpose(m.Reshape(m.linear(y, C, 3 * C), [-1, n, 3, HEADS, D]), perm=[2, 0, 3, 1, 4])
    return [m.Gather(qkv, np.int64(i), axis=0) for i in range(3)]


def separate(m, y, n):
    """transformers: three projections, that of the keys without a bias."""
    parts = [m.linear(y, C, C, bias=i != 1) for i in range(3)]
    return [m.Transpose(m.Reshape(p, [-1, n, HEADS, D]), perm=[0, 2, 1, 3]) for p in parts]


def scaled(m, q, k):
    return m.MatMul(m.Mul(q, D**-0.5), m.Transpose(k, perm=[0, 1, 3, 2]))


def cosine(m, q, k):
    """F.normalize, and a factor for each head."""
    q, k = (
        m.Div(x, m.Expand(m.Clip(m.ReduceL2(x, axes=[-1], keepdims=1), 1e-12), m.Shape(x)))
        for x in (q, k)
    )
    return m.Mul(m.MatMul(q, m.Transpose(k, perm=[0, 1, 3, 2])), np.abs(m.random(HEADS, 1, 1)) + 1)


def cosine_of_sums(m, q, k):
    """The length spelt out."""
    q, k = (m.Div(x, m.Max(m.Sqrt(m.ReduceSum(m.Mul(x, x), [-1])), 1e-6)) for x in (q, k))
    return m.Mul(np.abs(m.random(HEADS, 1, 1)) + 1, m.MatMul(q, m.Transpose(k, perm=[0, 1, 3, 2])))


def apart(h, w, n, shift):
    """Which pairs of each window's tokens were rolled together, (windows, n*n, n*n)."""
    region = np.zeros((h, w), int)
    for i, rows in enumerate((slice(-n), slice(-n, -shift), slice(-shift, None))):
        for j, columns in enumerate((slice(-n), slice(-n, -shift), slice(-shift, None))):
            region[rows, columns] = 3 * i + j
    region = region.reshape(h // n, n, w // n, n).swapaxes(1, 2).reshape(-1, n * n)
    return region[:, :, None] != region[:, None, :]


def added(m, s, bias, mask):
    """timm and torchvision: bias, then mask on scores with an axis for windows."""
    s = m.Add(s, bias)
    if mask is None:
        return s
    n = bias.shape[-1]
    s = m.Add(m.Reshape(s, [-1, len(mask), HEADS, n, n]), mask[None, :, None])
    return m.Reshape(s, [-1, HEADS, n, n])


def added_twice(m, s, bias, mask):
    """Swin V2 of transformers."""
    n = bias.shape[-1]
    return (
        added(m, s, bias, None)
        if mask is None
        else m.Add(m.Reshape(added(m, s, bias, mask), [-1, HEADS, n, n]), bias * 0.5)
    )


def together(m, s, bias, mask):
    """transformers, sdpa: bias and mask are one constant."""
    return m.Add(s, bias if mask is None else bias + mask[:, None])


def expanded(m, s, bias, mask):
    """transformers, free batch: the mask is repeated for each sample and added to the bias."""
    if mask is None:
        return m.Add(s, bias)
    n, count = bias.shape[-1], len(mask)
    b = m.Div(m.Gather(m.Shape(s), np.array([0]), axis=0), np.array([count]))
    mask = m.Expand(mask[None, :, None], m.Concat(b, np.array([count, 1, n, n]), axis=0))
    return m.Add(s, m.Add(bias, m.Reshape(mask, [-1, 1, n, n])))


def chosen(m, s, bias, mask):
    """Where in place of a mask."""
    s = m.Add(s, bias)
    if mask is None:
        return s
    n = bias.shape[-1]
    s = m.Where(mask[None, :, None] == 0, m.Reshape(s, [-1, len(mask), HEADS, n, n]), F(-np.inf))
    return m.Reshape(s, [-1, HEADS, n, n])


def block(m, x, H, W, n, shift=0, pad="after", project=packed, score=scaled, add=added, low=-100.0):
    """x + window attention of x (B, H, W, C). pad: before or after the roll, where H or W is no
    multiple of n.
    """
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
    q, k, v = project(m, m.Reshape(m.Reshape(y, [-1, n, n, C]), [-1, n * n, C]), n * n)
    mask = np.where(apart(h, w, n, shift), F(low), F(0)) if shift else None
    s = add(m, score(m, q, k), m.random(1, HEADS, n * n, n * n), mask)
    y = m.Reshape(
        m.Transpose(m.MatMul(m.Softmax(s, axis=-1), v), perm=[0, 2, 1, 3]), [-1, n * n, C]
    )
    y = m.Reshape(m.linear(y, C, C), [-1, h // n, w // n, n, n, C])
    y = m.Reshape(m.Transpose(y, perm=[0, 1, 3, 2, 4, 5]), [-1, h, w, C])

    def cropped(y):
        return (
            m.Slice(m.Slice(y, [0], [H], [1]), [0], [W], [2])
            if right or down or pad == "always"
            else y
        )

    y = y if pad == "before" else cropped(y)
    if shift:
        y = roll(m, roll(m, y, shift, 1), shift, 2)
    return m.Add(x, cropped(y) if pad == "before" else y)


def compare(model, feed, fused=1):
    package = NNForward(num_threads=1, plugins=["contrib.swin"]).load_from_proto(model)
    core = NNForward(num_threads=1, plugins=None).load_from_proto(model)
    names = [n.op.name for n in package.graph.nodes]
    assert names.count(op.name) == fused, (
        f"{package.graph}\n{package.graph.meta.get('near_misses')}"
    )
    if fused:
        assert not {"softmax", "attention", "pad", "concat", "slice", "transpose"} & set(names)
    for threads in (1, 2):
        package = NNForward(num_threads=threads, plugins=["contrib.swin"]).load_from_proto(model)
        np.testing.assert_allclose(
            package.infer(feed)[0], core.infer(feed)[0], rtol=1e-5, atol=1e-5
        )
    return package


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


@pytest.mark.parametrize("project", [packed, separate])
@pytest.mark.parametrize("score", [scaled, cosine, cosine_of_sums])
def test_projections_and_cosines_are_found(project, score):
    m = OnnxModel()
    compare(
        m.finish(block(m, "x", 7, 8, 4, 2, project=project, score=score), x=(F, [2, 7, 8, C])),
        [x_of(2, 7, 8)],
    )


@pytest.mark.parametrize("add", [added, added_twice, together, expanded, chosen])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("low", [-100.0, -1e9, -np.inf])
def test_bias_and_mask_are_found_with_free_batch(add, shift, low):
    m = OnnxModel()
    size = ["b", 8, 8, C] if add is not together else [1, 8, 8, C]
    model = m.finish(block(m, "x", 8, 8, 4, shift, add=add, low=low, score=cosine), x=(F, size))
    for b in (1, 3) if add is not together else (1,):
        program = compare(model, [x_of(b, 8, 8)])
    (node,) = [n for n in program.graph.nodes if n.op is op]
    mask = node.inputs[op.index["mask"]] if len(node.inputs) > op.index["mask"] else None
    assert (mask is None) == (shift == 0)
    if shift:
        assert mask.shape == (3, 1, 16, 16)  # at the last row, the last column, and the corner


def free_block(m, x, n, shift):
    """The same for any H and W, all lengths being computed."""
    H, W = (m.Gather(m.Shape(x), np.array([i]), axis=0) for i in (1, 2))
    down, right = (
        m.Mod(m.Sub(np.array([n]), m.Mod(d, np.array([n]))), np.array([n])) for d in (H, W)
    )
    h, w = m.Add(H, down), m.Add(W, right)
    hn, wn = m.Div(h, np.array([n])), m.Div(w, np.array([n]))

    def to(*lengths):
        return m.Concat(*[d if isinstance(d, str) else np.array([d]) for d in lengths], axis=0)

    def partition(y, *last):
        y = m.Transpose(
            m.Reshape(y, to(-1, hn, n, wn, n, *last)), perm=[0, 1, 3, 2, 4, *([5] if last else [])]
        )
        return m.Reshape(y, to(-1, n * n, *last))

    y = m.Pad(
        m.LayerNormalization(x, m.random(C), m.random(C), axis=-1),
        to(0, 0, 0, 0, 0, down, right, 0),
    )
    y = roll(m, roll(m, y, -shift, 1), -shift, 2) if shift else y
    q, k, v = packed(m, partition(y, C), n * n)
    s = m.Add(scaled(m, q, k), m.random(1, HEADS, n * n, n * n))
    if shift:
        late = [
            m.GreaterOrEqual(
                m.Range(np.int64(0), m.Squeeze(d), np.int64(1)), m.Sub(d, np.array([shift]))
            )
            for d in (h, w)
        ]
        rows, columns = (m.Cast(d, to=1) for d in late)
        region = partition(m.Add(m.Mul(m.Unsqueeze(rows, [1]), 2.0), m.Unsqueeze(columns, [0])))
        apart = m.Sub(m.Unsqueeze(region, [1]), m.Unsqueeze(region, [2]))
        mask = m.Where(m.Equal(apart, 0.0), 0.0, -100.0)
        s = m.Reshape(s, m.Concat([-1], m.Mul(hn, wn), [HEADS, n * n, n * n], axis=0))
        s = m.Reshape(m.Add(s, m.Unsqueeze(mask, [0, 2])), [-1, HEADS, n * n, n * n])
    y = m.Reshape(
        m.Transpose(m.MatMul(m.Softmax(s, axis=-1), v), perm=[0, 2, 1, 3]), [-1, n * n, C]
    )
    y = m.Transpose(m.Reshape(m.linear(y, C, C), to(-1, hn, wn, n, n, C)), perm=[0, 1, 3, 2, 4, 5])
    y = m.Reshape(y, to(-1, h, w, C))
    y = roll(m, roll(m, y, shift, 1), shift, 2) if shift else y
    return m.Add(x, m.Slice(m.Slice(y, [0], H, [1]), [0], W, [2]))


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("b", [1, "b"])
def test_window_attention_is_found_with_free_size(shift, b):
    m = OnnxModel()
    model = m.finish(free_block(m, "x", 4, shift), x=(F, [b, "h", "w", C]))
    package = NNForward(num_threads=1, plugins=["contrib.swin"]).load_from_proto(model)
    core = NNForward(num_threads=1, plugins=None).load_from_proto(model)
    assert [n.op.name for n in package.graph.nodes].count(op.name) == 1
    for size in [(8, 8), (8, 12), (7, 9), (4, 4), (13, 5)]:
        x = x_of(1 if b == 1 else 2, *size)
        got, want = package.infer([x])[0], core.infer([x])[0]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_one_window_without_partition_is_found():
    m = OnnxModel()
    q, k, v = packed(m, m.LayerNormalization("x", m.random(C), m.random(C), axis=-1), 16)
    s = m.Add(scaled(m, q, k), m.random(1, HEADS, 16, 16))
    y = m.Reshape(m.Transpose(m.MatMul(m.Softmax(s, axis=-1), v), perm=[0, 2, 1, 3]), [-1, 16, C])
    model = m.finish(m.Add("x", m.linear(y, C, C)), x=(F, ["b", 16, C]))
    compare(model, [x_of(3, 4, 4).reshape(3, 16, C)])


def test_attention_without_windows_or_bias_is_left_to_others():
    m = OnnxModel()
    q, k, v = packed(m, "x", 16)
    y = m.MatMul(m.Softmax(scaled(m, q, k), axis=-1), v)
    y = m.linear(m.Reshape(m.Transpose(y, perm=[0, 2, 1, 3]), [-1, 16, C]), C, C)
    compare(m.finish(y, x=(F, [2, 16, C])), [x_of(2, 4, 4).reshape(2, 16, C)], fused=0)


@pytest.mark.parametrize("rows", [[16], [4, 4]])
@pytest.mark.parametrize("kind", ["blocks", "grid"])
def test_other_partitions_are_found(kind, rows):
    """MaxViT: windows are blocks, or grids spread over the image; timm's have two axes of rows."""
    m = OnnxModel()
    split, perm = (
        ([-1, 2, 4, 3, 4, C], [0, 1, 3, 2, 4, 5])
        if kind == "blocks"
        else ([-1, 4, 2, 4, 3, C], [0, 2, 4, 1, 3, 5])
    )
    back, again = (
        ([-1, 2, 3, 4, 4, C], [0, 1, 3, 2, 4, 5])
        if kind == "blocks"
        else ([-1, 2, 3, 4, 4, C], [0, 3, 1, 4, 2, 5])
    )
    y, shape = m.Transpose(m.Reshape("x", split), perm=perm), [-1, *rows, C]
    q, k, v = packed(m, m.Reshape(y, shape), 16)
    s = m.Add(scaled(m, q, k), m.random(HEADS, 16, 16))
    y = m.Reshape(m.Transpose(m.MatMul(m.Softmax(s, axis=-1), v), perm=[0, 2, 1, 3]), shape)
    y = m.Reshape(m.Transpose(m.Reshape(m.linear(y, C, C), back), perm=again), [-1, 8, 12, C])
    compare(m.finish(m.Add("x", y), x=(F, ["b", 8, 12, C])), [x_of(2, 8, 12)])


def test_windows_with_an_axis_of_their_own_are_found():
    """torchvision's MaxViT: attention on (B, windows, heads, n, dim)."""
    m = OnnxModel()
    y = m.Transpose(m.Reshape("x", [-1, 2, 4, 3, 4, C]), perm=[0, 1, 3, 2, 4, 5])
    parts = m.Split(m.linear(m.Reshape(y, [-1, 6, 16, C]), C, 3 * C), axis=-1, outputs=3)
    q, k, v = (
        m.Transpose(m.Reshape(p, [-1, 6, 16, HEADS, D]), perm=[0, 1, 3, 2, 4]) for p in parts
    )
    s = m.MatMul(q, m.Transpose(m.Mul(k, D**-0.5), perm=[0, 1, 2, 4, 3]))
    y = m.MatMul(m.Softmax(m.Add(s, m.random(1, HEADS, 16, 16)), axis=-1), v)
    y = m.Reshape(m.Transpose(y, perm=[0, 1, 3, 2, 4]), [-1, 6, 16, C])
    y = m.Reshape(m.linear(y, C, C), [-1, 2, 3, 4, 4, C])
    y = m.Reshape(m.Transpose(y, perm=[0, 1, 3, 2, 4, 5]), [-1, 8, 12, C])
    compare(m.finish(m.Add("x", y), x=(F, [2, 8, 12, C])), [x_of(2, 8, 12)])


def test_two_blocks_are_both_found():
    m = OnnxModel()
    model = m.finish(block(m, block(m, "x", 6, 6, 3), 6, 6, 3, 1), x=(F, [2, 6, 6, C]))
    compare(model, [x_of(2, 6, 6)], fused=2)


def test_windows_that_overlap_are_left_to_the_core():
    m = OnnxModel()
    y = m.Concat(m.Slice("x", [0], [4], [1]), m.Slice("x", [2], [6], [1]), axis=1)
    qkv = m.Transpose(
        m.Reshape(m.linear(m.Reshape(y, [-1, 16, C]), C, 3 * C), [-1, 16, 3, HEADS, D]),
        perm=[2, 0, 3, 1, 4],
    )
    q, k, v = (m.Gather(qkv, np.int64(i), axis=0) for i in range(3))
    s = m.MatMul(m.Mul(q, D**-0.5), m.Transpose(k, perm=[0, 1, 3, 2]))
    y = m.Reshape(m.Transpose(m.MatMul(m.Softmax(s, axis=-1), v), perm=[0, 2, 1, 3]), [-1, 16, C])
    y = m.Slice(m.Reshape(m.linear(y, C, C), [-1, 8, 4, C]), [1], [7], [1])
    package = NNForward(plugins=["swin"]).load_from_proto(m.finish(y, x=(F, [1, 6, 4, C])))
    assert op.name not in [n.op.name for n in package.graph.nodes]
