"""softmax(q k^T) v, as exporters write it, becomes one attention with equal results."""

import numpy as np
import pytest

import wnn
from wnn import passes
from wnn.graph import Graph
from wnn.op import Spec
from wnn.plan import Program
from wnn.plugins import ensure_std
from wnn.registry import REGISTRY
from wnn.symbols import Sym
from wnn.windows import window

ensure_std()


class Builder:
    """A graph and what is fed to it."""

    def __init__(self):
        self.g = Graph("attention")
        self.feed = []
        self.rng = np.random.default_rng(1)

    def input(self, *shape, dtype="f32"):
        x = self.rng.standard_normal(shape).astype(np.float32)
        self.feed.append(x > -1 if dtype == "bool" else x)
        return self.g.input(f"x{len(self.feed)}", Spec(shape, dtype))

    def __getattr__(self, name):
        return lambda *ins, **attrs: self.g.add(name, list(ins), **attrs)

    def number(self, x):
        return self.g.const(np.float32(x))

    def heads(self, x, *perm):
        B, T, C = x.shape
        return self.transpose(self.reshape(x, to=(B, T, 4, C // 4)), perm=perm)


def scaled_scores(b):
    q, k, v = (b.input(2, 9, 32) for _ in range(3))
    s = b.matmul(b.heads(q, 0, 2, 1, 3), b.heads(k, 0, 2, 3, 1))
    return b.matmul(b.softmax(b.div(s, b.number(8**0.5)), axis=-1), b.heads(v, 0, 2, 1, 3))


def scaled_q_and_k_with_mask(b):
    q, k, v = b.input(2, 4, 9, 8), b.input(2, 4, 13, 8), b.input(2, 4, 13, 5)
    kt = b.mul(b.transpose(k, perm=(0, 1, 3, 2)), b.number(0.6))
    s = b.add(b.matmul(b.mul(q, b.number(0.6)), kt), b.input(2, 1, 1, 13))
    return b.matmul(b.softmax(s, axis=3), v)


def mask_added_before_scale(b):
    q, k, v = (b.input(1, 4, 9, 8) for _ in range(3))
    s = b.add(b.input(4, 9, 9), b.matmul(q, b.transpose(k, perm=(0, 1, 3, 2))))
    return b.matmul(b.softmax(b.mul(s, b.number(0.3)), axis=-1), v)


def replaced_scores(b):
    q, k, v = (b.input(2, 4, 9, 8) for _ in range(3))
    s = b.matmul(q, b.transpose(k, perm=(0, 1, 3, 2)))
    s = b.where(b.input(2, 1, 9, 9, dtype="bool"), s, b.number(-np.inf))
    return b.matmul(b.softmax(s, axis=-1), v)


def heads_in_the_batch(b):
    q, k, v = (b.input(8, 9, 16) for _ in range(3))
    s = b.matmul(q, b.transpose(k, perm=(0, 2, 1)))
    return b.matmul(b.softmax(b.add(s, b.input(8, 9, 9)), axis=-1), v)


def one_head(b):
    q, k, v = b.input(9, 16), b.input(30, 16), b.input(30, 7)
    return b.matmul(b.softmax(b.matmul(q, b.transpose(k, perm=(1, 0))), axis=-1), v)


def shifted_windows(b):
    q, k, v = (b.input(6, 4, 9, 8) for _ in range(3))
    s = b.matmul(q, b.transpose(k, perm=(0, 1, 3, 2)))
    s = b.add(s, b.g.const(b.rng.standard_normal((1, 4, 9, 9)).astype(np.float32)))
    mask = b.g.const(b.rng.standard_normal((1, 3, 1, 9, 9)).astype(np.float32))
    s = b.add(b.reshape(s, to=(2, 3, 4, 9, 9)), mask)
    return b.matmul(b.softmax(b.reshape(s, to=(6, 4, 9, 9)), axis=-1), v)


def guarded_softmax(b):
    q, k, v = (b.input(2, 9, 32) for _ in range(3))
    k = b.mul(b.heads(k, 0, 2, 1, 3), b.number(0.6))
    q = b.mul(b.heads(q, 0, 2, 1, 3), b.number(0.6))
    mask = np.zeros((2, 1, 9, 9), np.float32)
    mask[1, 0, 4] = mask[0, 0, :, 3] = -np.inf
    s = b.add(b.matmul(q, b.transpose(k, perm=(0, 1, 3, 2))), b.g.const(mask))
    p = b.softmax(s, axis=-1)
    p = b.where(b.isnan(p), b.number(0), p)
    return b.matmul(p, b.heads(v, 0, 2, 1, 3))


def reshaped_scores(b):
    q, k, v = (b.input(9, 16) for _ in range(3))
    s = b.mul(b.matmul(q, b.transpose(k, perm=(1, 0))), b.number(0.25))
    p = b.softmax(b.reshape(s, to=(1, 1, 9, 9)), axis=3)
    return b.matmul(b.reshape(p, to=(9, 9)), v)


def mask_of_another_shape(b):
    """As SAM adds what depends on rows to what depends on columns."""
    q, k, v = (b.input(2, 9, 8) for _ in range(3))
    s = b.matmul(q, b.transpose(k, perm=(0, 2, 1)))
    mask = b.add(b.input(2, 3, 3, 3, 1), b.input(2, 3, 3, 1, 3))
    return b.matmul(b.softmax(b.add(s, b.reshape(mask, to=(2, 9, 9))), axis=-1), v)


def weights_replaced_where_scores_are(b):
    q, k, v = (b.input(2, 4, 9, 8) for _ in range(3))
    hidden = b.g.const(np.triu(np.ones((9, 9), bool), 1)[None, None])
    s = b.matmul(q, b.transpose(k, perm=(0, 1, 3, 2)))
    p = b.softmax(b.where(hidden, b.number(-1e30), s), axis=-1)
    return b.matmul(b.where(hidden, b.number(0), p), v)


def scores_of_two_products(b):
    q, k, v, x, y = (b.input(2, 4, 9, 8) for _ in range(5))
    s = b.matmul(q, b.transpose(k, perm=(0, 1, 3, 2)))
    t = b.matmul(x, b.transpose(y, perm=(0, 1, 3, 2)))
    return b.matmul(b.softmax(b.mul(b.add(s, t), b.number(0.3)), axis=-1), v)


FORMS = [
    guarded_softmax,
    reshaped_scores,
    scaled_scores,
    scaled_q_and_k_with_mask,
    mask_added_before_scale,
    replaced_scores,
    heads_in_the_batch,
    one_head,
    shifted_windows,
    mask_of_another_shape,
    weights_replaced_where_scores_are,
]


def run(form, skip=()):
    b = Builder()
    b.g.outputs, b.g.output_names = [form(b)], ["y"]
    passes.run(b.g, REGISTRY.fusions(), skip)
    return b.g, Program(b.g).run(b.feed)[0]


@pytest.mark.parametrize("form", FORMS)
def test_form_becomes_one_attention_with_equal_results(form):
    fused, got = run(form)
    _, want = run(form, ["core attention"])
    names = [n.op.name for n in fused.nodes]
    assert names.count("attention") == 1
    assert not {"softmax", "matmul"} & set(names), names
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_of_two_products_one_is_the_mask_of_the_other():
    fused, got = run(scores_of_two_products)
    _, want = run(scores_of_two_products, ["core attention"])
    names = [n.op.name for n in fused.nodes]
    assert names.count("attention") == names.count("matmul") == 1 and "softmax" not in names
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_scores_that_are_needed_elsewhere_stay():
    b = Builder()
    q, k, v = (b.input(2, 9, 16) for _ in range(3))
    p = b.softmax(b.matmul(q, b.transpose(k, perm=(0, 2, 1))), axis=-1)
    b.g.outputs, b.g.output_names = [b.matmul(p, v), p], ["y", "p"]
    passes.run(b.g, REGISTRY.fusions())
    assert "attention" not in [n.op.name for n in b.g.nodes]


def test_window_begins_where_a_symbol_says():
    """The middle of a table of positions: [far - t, far + t - 1)."""
    t = Sym("t")
    table = Graph("g").const(np.zeros((1, 99, 8), np.float32))
    x = Graph("g").add("slice", [table], window=((1, 50 - t, 49 + t, 1),))
    w = window(x)
    assert (w.source, w.offset) == (table, (50 - t) * 8)
    assert w.strides() == [0, 8, 1]


# -- ONNX's operator -------------------------------------------------------------------------------
def onnx_attention(shape=(2, 3, 7, 8), keys=9, kv=None, mask=None, **attrs):
    """(net, feeds, what ONNX's reference answers) of an Attention; mask: an array that is fed."""
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(0)
    kv = kv or (*shape[:-2], keys, shape[-1])
    feeds = dict(zip("qkv", (rng.standard_normal(s, np.float32) for s in (shape, kv, kv))))
    if mask is not None:
        feeds["m"] = mask
    h = onnx.helper
    types = {n: h.np_dtype_to_tensor_dtype(x.dtype) for n, x in feeds.items()}
    graph = h.make_graph(
        [h.make_node("Attention", list(feeds), ["y"], **attrs)],
        "g",
        [h.make_tensor_value_info(n, types[n], x.shape) for n, x in feeds.items()],
        [h.make_tensor_value_info("y", 1, None)],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 23)], ir_version=10)
    net = wnn.NNForward(num_threads=1, plugins=None).load_from_proto(model)
    return net, feeds, ReferenceEvaluator(model).run(None, feeds)[0]


SEEN = np.random.default_rng(3).random((2, 1, 7, 9)) > 0.4
SEEN[1, 0, 2] = False  # a query that sees nothing
NUMBERS = np.where(SEEN, np.random.default_rng(4).random((2, 1, 7, 9)), -np.inf)


@pytest.mark.parametrize(
    "case",
    [
        dict(),
        dict(scale=0.3),
        dict(mask=SEEN),
        dict(mask=NUMBERS.astype(np.float32)),
        dict(keys=7, is_causal=1),
        dict(is_causal=1),
        dict(mask=SEEN, is_causal=1),
        dict(shape=(2, 7, 24), q_num_heads=3, kv_num_heads=3, mask=SEEN),
    ],
    ids=str,
)
def test_onnx_attention_is_one_step(case):
    net, feeds, want = onnx_attention(**case)
    names = [n.op.name for n in net.graph.nodes]
    assert "attention" in names and "softmax" not in names
    (got,) = net.infer(feeds)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    if "mask" in case and len(want.shape) == 4:
        assert (got[1, :, 2] == 0).all()


def test_nan_stays_nan_in_onnx_attention_with_a_mask():
    net, feeds, _ = onnx_attention(mask=SEEN)
    feeds["q"][0, 1, 3] = np.nan
    (got,) = net.infer(feeds)
    bad = np.isnan(got).all(-1)
    assert bad[0, 1, 3] and bad.sum() == 1 and np.isnan(got).sum() == got.shape[-1]


FORMS_OF_THE_FUNCTION = [
    dict(softcap=2.0),
    dict(shape=(2, 7, 24), kv=(2, 9, 8), q_num_heads=3, kv_num_heads=1),
]


@pytest.mark.parametrize("case", FORMS_OF_THE_FUNCTION, ids=str)
def test_other_forms_of_onnx_attention_run_as_its_function(case):
    net, feeds, want = onnx_attention(**case)
    np.testing.assert_allclose(net.infer(feeds)[0], want, rtol=1e-5, atol=1e-6)
