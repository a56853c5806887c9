"""Lengths that are not known yet: equal ones compare equal, and evaluate to what integers give."""

import random

import pytest

from wnn.symbols import Sym, evaluate, maximum

T = Sym("t")


@pytest.mark.parametrize(
    "a, b",
    [
        ((2 * T) // 2, T),
        (T // 5 // 2, T // 10),
        ((T // 5 - 1) // 2, (T - 5) // 10),
        (((T - 1) // 2 - 1) // 2, (T - 3) // 4),
        ((2 * T - 1) // 2, T - 1),
    ],
)
def test_equal_lengths_compare_equal(a, b):
    assert a == b


@pytest.mark.parametrize(
    "length, text",
    [
        ((T - 1) // 2 - 4, "((t - 1) // 2) - 4"),
        (2 * T // 3, "((2*t) // 3)"),
        (7 // (2 * T), "(7 // (2*t))"),
        (maximum(T // 3, 5) * T + 2, "((t // 3) max 5)*t + 2"),
    ],
)
def test_length_is_printed_as_it_is_computed(length, text):
    assert str(length) == text


def expression(draw, t, depth):
    """A random expression over t, the same for the same state of draw."""
    if not depth:
        return t
    x = expression(draw, t, depth - 1)
    kind = draw.randrange(5)
    if kind == 0:
        return x + draw.randint(-5, 5)
    if kind == 1:
        return x // draw.randint(1, 5)
    if kind == 2:
        return x * draw.randint(1, 3)
    if kind == 3:
        return x - 2 * t
    return x + expression(draw, t, depth - 1)


@pytest.mark.parametrize("seed", range(200))
def test_symbolic_arithmetic_is_that_of_integers(seed):
    symbolic = expression(random.Random(seed), T, 6)
    for value in (0, 1, 2, 7, 31, 100):
        assert evaluate(symbolic, {"t": value}) == expression(random.Random(seed), value, 6)
