"""Products by Strassen's algorithm: their error, what becomes of numbers that are not finite, and
that samples remain apart.
"""

import numpy as np
import pytest

from wnn import passes
from wnn.batching import independent
from wnn.graph import Graph
from wnn.op import Spec
from wnn.plan import Program
from wnn.plugins import ensure_std
from wnn.runtime import _core
from wnn.strassen import KEEP, MAKE, pays
from wnn.symbols import Sym

ensure_std()
SHAPES = [
    (250, 768, 256),
    (321, 514, 416),
    (400, 1024, 256),
    (784, 256, 768),
    (261, 3080, 320),
    (2601, 420, 200),
]


def product(x, w, strassen, threads=1):
    g = Graph("strassen")
    vx = g.input("x", Spec(x.shape, "f32"))
    bias = g.const(np.arange(w.shape[1], dtype=np.float32))
    g.outputs, g.output_names = [g.add("linear", [vx, g.const(w), bias], strassen=strassen)], ["y"]
    passes.run(g, [], skip=["strassen"])
    program = Program(g, num_threads=threads)
    y = program.run([x])[0]
    names = {s.kernel for s in program.stages([x])[0].native.steps}
    assert names == {"strassen_f32" if strassen and _core.isa() == "avx512" else "linear_f32"}
    return y


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize("how", [MAKE, KEEP])
@pytest.mark.parametrize("m, k, n", SHAPES)
def test_error_is_near_that_of_the_plain_product(m, k, n, how):
    x, w = numbers(0, 1, m, k), numbers(1, k, n)
    want = x.astype(np.float64) @ w + np.arange(n)
    assert pays(Spec(w.shape, "f32"), Spec(want.shape, "f32"), how)
    plain, got = [np.abs(product(x, w, s) - want).max() for s in (0, how)]
    assert got <= 3 * plain


def test_samples_have_the_same_bits_alone_and_whatever_the_others_hold():
    x, w = numbers(0, 3, 201, 400), numbers(1, 400, 224)
    y = product(x, w, KEEP)
    x[1, 7, 3], x[1, 150, 200], x[1, 0, 0] = np.nan, np.inf, 1e38
    mixed = product(x, w, KEEP, threads=3)
    for i in (0, 2):
        np.testing.assert_array_equal(mixed[i], y[i])
        np.testing.assert_array_equal(product(x[i : i + 1], w, KEEP)[0], y[i])
    np.testing.assert_array_equal(mixed[1], product(x, w, 0)[1])


@pytest.mark.parametrize("of_x, of_w", [(1e25, 1e12), (np.inf, 1), (1, np.inf), (1, np.nan)])
def test_what_could_overflow_is_computed_plainly(of_x, of_w):
    x, w = numbers(0, 1, 201, 400), numbers(1, 400, 224)
    x[0, 100, 20] *= of_x
    w[30, 5] *= of_w
    np.testing.assert_array_equal(product(x, w, KEEP)[..., :192], product(x, w, 0)[..., :192])


def marked(build, *shape):
    g = Graph("model")
    y = build(g, g.input("x", Spec(shape, "f32")))
    g.outputs, g.output_names = [y], ["y"]
    passes.run(g, [])
    return max(n.attrs.get("strassen", 0) for n in g.nodes)


def test_only_products_whose_rows_are_of_one_sample_each_may_use_it():
    w = numbers(0, 64, 64)

    def first(g, x):
        return g.add("linear", [x, g.const(w)])

    def token(g, x):
        start = g.add("expand", [g.const(w[:1])], to=(x.shape[0], 1, 64))
        return first(g, g.add("concat", [start, x], axis=1))

    def mixed(g, x):
        return first(g, g.add("softmax", [x], axis=0))

    n = Sym("n")
    assert marked(first, n, 5, 64) == KEEP
    assert marked(token, n, 5, 64) == KEEP
    assert marked(first, 3, 5, 64) == KEEP
    assert marked(first, 1, n, 64) == MAKE  # the only sample
    assert marked(first, 5, n, 64) == 0
    assert marked(mixed, n, 5, 64) == 0
    assert marked(mixed, 1, 5, 64) == KEEP


def test_what_is_repeated_for_each_sample_does_not_mix_them():
    g, n = Graph("token"), Sym("n")
    x = g.input("x", Spec((n, 3, 4), "f32"))
    start = g.add("expand", [g.const(np.ones((1, 1, 4), np.float32))], to=(n, 1, 4))
    g.outputs, g.output_names = [g.add("concat", [start, x], axis=1)], ["y"]
    assert independent(g, [True]) is None
