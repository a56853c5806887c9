"""The GEMM behind linear, matmul and the convolutions, at sizes below, at and above its tiles and
blocks.
"""

import numpy as np
import pytest

from wnn.graph import Graph
from wnn.op import Spec
from wnn.plan import Program
from wnn.plugins import ensure_std

ensure_std()
ROWS = (0, 1, 2, 3, 8, 9, 10, 13, 14, 15, 29, 250)
COLUMNS = (1, 8, 12, 15, 16, 17, 24, 33, 40, 48, 49, 64, 65, 100)


def product(x, w, threads, transposed=False, computed=False):
    """x w + bias by linear (w a constant) or by matmul (w computed, perhaps from a transpose)."""
    g = Graph("gemm")
    vx = g.input("x", Spec(x.shape, "f32"))
    if not computed:
        y = g.add("linear", [vx, g.const(w), g.const(np.arange(w.shape[1], dtype=np.float32))])
        feed = [x]
    else:
        stored = np.ascontiguousarray(w.T) if transposed else w
        vw = g.input("w", Spec(stored.shape, "f32"))
        y = g.add("matmul", [vx, g.add("transpose", [vw], perm=(1, 0)) if transposed else vw])
        feed = [x, stored]
    g.outputs, g.output_names = [y], ["y"]
    return Program(g, num_threads=threads).run(feed)[0]


def check(got, x, w, bias):
    want = x.astype(np.float64) @ w + bias
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * (1 + len(w)) ** 0.5 * 4)


@pytest.mark.parametrize("k", [0, 1, 2, 3, 22, 33])
@pytest.mark.parametrize("kind", ["packed", "plain", "transposed"])
def test_gemm_agrees_with_float64_around_every_tile(kind, k):
    rng = np.random.default_rng(k)
    for m in ROWS:
        for n in COLUMNS:
            x, w = rng.uniform(-1, 1, (m, k)).astype("f4"), rng.uniform(-1, 1, (k, n)).astype("f4")
            if kind == "packed":
                check(product(x, w, 1), x, w, np.arange(n))
            else:
                check(product(x, w, 1, kind == "transposed", computed=True), x, w, 0)


@pytest.mark.parametrize(
    "m, n, k", [(1, 700, 3000), (5, 90, 1600), (150, 200, 1700), (700, 65, 40), (300, 300, 300)]
)
def test_gemm_gives_the_same_bits_for_any_number_of_threads(m, n, k):
    rng = np.random.default_rng(m)
    x, w = rng.uniform(-1, 1, (m, k)).astype("f4"), rng.uniform(-1, 1, (k, n)).astype("f4")
    one = product(x, w, 1)
    check(one, x, w, np.arange(n))
    for threads in (2, 3, 8):
        assert product(x, w, threads).tobytes() == one.tobytes()
        assert (
            product(x, w, threads, computed=True).tobytes()
            == product(x, w, 1, computed=True).tobytes()
        )
