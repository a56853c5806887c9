"""Graphs as passes see them: outputs, and work in proportion to what there is."""

import time

import numpy as np
import pytest

from wnn.graph import Graph
from wnn.op import Spec
from wnn.plan import Program
from wnn.plugins import ensure_std

ensure_std()


def wide(n):
    """A graph of n nodes on one input, each an output and all joined in one."""
    g = Graph()
    x = g.input("x", Spec((1,), "f32"))
    parts = [g.add("relu", [x]) for _ in range(n)]
    g.outputs = [*parts, g.add("concat", parts, axis=0)]
    return g


def test_work_on_a_graph_is_in_proportion_to_its_nodes():
    def seconds(g):
        start = time.thread_time()  # other processes take their share of the clock
        g.prune()
        g.verify()
        assert all(g.is_output(v) for n in g.nodes for v in n.outputs)
        return time.thread_time() - start

    small, large = wide(500), wide(5000)
    assert min(seconds(large) for _ in range(3)) < 40 * min(seconds(small) for _ in range(3))


def test_outputs_are_told_as_they_are_now():
    g = wide(2)
    a, b, joined = g.outputs
    assert g.is_output(a) and not g.is_output(g.inputs[0])
    g.outputs = [joined]
    assert g.is_output(joined) and not g.is_output(a)
    g.outputs.append(b)
    assert g.is_output(b)
    g.replace(b, a)
    assert g.is_output(a) and not g.is_output(b) and g.outputs == [joined, a]


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_constants_may_be_windows_on_arrays(dtype):
    g, w = Graph(), np.arange(12, dtype=np.float32).reshape(3, 4)
    g.outputs = [g.add("add", [g.input("x", Spec((4, 3), dtype)), g.const(w.T, dtype)])]
    x = np.ones((4, 3), "f" if dtype == "f32" else "d")
    np.testing.assert_array_equal(Program(g).run([x])[0], x + w.T)
    assert np.shares_memory(g.const(w).array, w) and g.const(np.float32(2)).array.shape == ()
