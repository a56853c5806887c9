"""non_zero: (rank, n) i64, the positions of all elements of x that are not zero, in row-major
order.

count: (1,) i64, n: how many there are. The shape of y follows from its value, so that plans differ
by how many elements are found, not by where.
count_non_zero: that count.
Source: ONNX NonZero-13, Compress-11.
"""

import numpy as np

from ..op import NeedValue, Op, Spec

count_non_zero = Op("count_non_zero", outputs="count")
non_zero = Op("non_zero", inputs="x count")
count_non_zero.float64 = non_zero.float64 = False


@count_non_zero.rule
def count_rule(x):
    return Spec((1,), "i64")


@count_non_zero.reference
def count_reference(x):
    return np.array([np.count_nonzero(x)])


@count_non_zero.kernel("*", "count_non_zero")
@non_zero.kernel("*", "non_zero")
def pack():
    return b""


@non_zero.rule
def rule(x, count):
    if count.value is None:
        raise NeedValue(1)
    return Spec((max(x.rank, 1), int(count.value[0])), "i64")


@non_zero.outline
def outline(symbol, x, count):
    return Spec((max(x.rank, 1), symbol("found")), "i64")


@non_zero.reference
def reference(x, count):
    return np.array(np.nonzero(np.atleast_1d(x)), np.int64)


def positions(g, x):
    """The positions of what is not zero in x."""
    return g.add(non_zero, [x, g.add(count_non_zero, [x])])


@non_zero.importer("NonZero")
def from_onnx(g, node):
    return positions(g, node.inputs[0])


@non_zero.importer("Compress", takes="f16 bits")
def compress_from_onnx(g, node):
    """The slices along an axis (the elements, without one) for which a condition holds."""
    x, condition = node.inputs
    at = g.add("reshape", [positions(g, condition)], to=(-1,))
    axis = node.attr("axis")
    return g.add(
        "gather", [g.add("reshape", [x], to=(-1,)) if axis is None else x, at], axis=axis or 0
    )


@count_non_zero.cases
def count_cases(rng):
    for case in cases(rng):
        yield {"x": case["x"]}


@non_zero.cases
def cases(rng):
    odd = np.float32([[0, -0.0, np.nan], [np.inf, 1e-40, -3]])
    grid = rng.integers(0, 2, (3, 4, 5))
    for x in (grid, grid > 0, grid.astype(np.uint8), odd, odd.astype(np.float64), np.array(3)):
        yield {"x": x, "count": count_reference(x)}
    for x in (odd.astype(np.float16), np.zeros((2, 2), np.float32), np.zeros((0, 3), np.int32)):
        yield {"x": x, "count": count_reference(x)}


non_zero.nonfinite = False  # they are found, and change how many there are
