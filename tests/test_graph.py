"""Graphs as passes see them: outputs, and work in proportion to what there is."""

import time

from wnn.graph import Graph
from wnn.op import Spec
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
        start = time.perf_counter()
        g.prune()
        g.verify()
        assert all(g.is_output(v) for n in g.nodes for v in n.outputs)
        return time.perf_counter() - start

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
