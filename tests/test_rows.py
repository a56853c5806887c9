"""Rows that are moved as wholes: the table of a chain of moves, by numpy and in the graph."""

import numpy as np
import pytest

from wnn.graph import Graph
from wnn.op import Spec
from wnn.plan import Program
from wnn.plugins import ensure_std
from wnn.rows import moved_rows, moves_rows
from wnn.symbols import Sym

ensure_std()
C = 3


def roll(g, x, by, axis):
    parts = [g.add("slice", [x], window=((axis, *w, 1),)) for w in ((by, 1 << 40), (0, by))]
    return g.add("concat", parts, axis=axis)


def cut(g, x, n):
    """x (B, H, W, C), padded to windows of n x n, rolled and cut into them."""
    B, H, W, _ = x.shape
    down, right = ((n - d % n) % n for d in (H, W))
    x = g.add("pad", [x], pads=(0, 0, 0, 0, 0, down, right, 0))
    x = roll(g, roll(g, x, 1, 1), 1, 2)
    h, w = (H + down) // n, (W + right) // n
    x = g.add("transpose", [g.add("reshape", [x], to=(B, h, n, w, n, C))], perm=(0, 1, 3, 2, 4, 5))
    return g.add("reshape", [x], to=(B * h * w, n * n, C))


def chain(B, H, W, n=2):
    g = Graph("rows")
    x = g.input("x", Spec((B, H, W, C), "f32"))
    y = cut(g, x, n)
    g.outputs, g.output_names = [y], ["y"]
    return g, x, y


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 1)])
def test_table_says_where_rows_went(size):
    g, x, y = chain(2, *size)
    a = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    moved = moved_rows(y, 2)
    assert moved.source is x
    rows = np.concatenate([a.reshape(2, -1, C), np.zeros((2, 1, C), np.float32)], 1)
    want = rows[:, moved.table()].reshape(y.shape)
    np.testing.assert_array_equal(Program(g).run([a])[0], want)


@pytest.mark.parametrize("samples", [1, Sym("b")])
def test_table_of_free_lengths_is_computed_in_the_graph(samples):
    g, _, y = chain(samples, Sym("h"), Sym("w"))
    moved = moved_rows(y, samples)
    assert moved.free() == ["h", "w"]
    sizes = [(4, 6), (5, 3), (2, 2), (9, 8)]
    wanted = [moved.table({"h": h, "w": w}) for h, w in sizes]
    g.outputs = [moved.in_graph(g)]
    g.prune()
    program = Program(g)
    for size, want in zip(sizes, wanted):
        (got,) = program.run([np.zeros((1, *size, C), np.float32)])
        np.testing.assert_array_equal(got.reshape(-1), want)


def test_samples_that_are_mixed_have_no_table():
    g, x, _ = chain(2, 4, 4)
    y = roll(g, x, 1, 0)
    assert moved_rows(y, 2).table() is None


def test_rows_that_are_changed_are_a_source():
    g, x, _ = chain(2, 4, 4)
    y = g.add("relu", [x])
    z = g.add("reshape", [y], to=(2, 16, C))
    assert moved_rows(z, 2).source is y
    assert moved_rows(g.add("concat", [x, y], axis=1), 2) is None
    assert not moves_rows(g.add("transpose", [x], perm=(0, 3, 1, 2)).producer)
