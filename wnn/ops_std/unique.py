"""unique: which of the slices of x along axis 0 are different.

x: (n, m)    first: (n,) i64, where each different slice comes first    inverse: (n,) i64, for each
slice which of the different ones it is    counts: (n,) i64, how often each comes    number: (1,)
i64, how many are different; beyond it first and counts hold 0. The different ones are in
lexicographic order if `sorted`, else as they come; NaN is the largest number, and equals itself.
Source: ONNX Unique-11.
"""

import struct

import numpy as np

from ..op import Op, Spec
from ..rules import axis_of
from ..symbols import product

op = Op("unique", outputs="first inverse counts number", attrs={"sorted": True})
op.float64 = False
WIDER = {"f16": "f32", **dict.fromkeys(("i32", "u32", "i16", "u16", "i8", "u8", "bool"), "i64")}


@op.rule
def rule(x, sorted):
    n = Spec(x.shape[:1], "i64")
    return n, n.like(), n.like(), Spec((1,), "i64")


@op.reference
def reference(x, sorted):
    _, first, inverse, counts = np.unique(
        x, return_index=True, return_inverse=True, return_counts=True, axis=0
    )
    inverse = inverse.reshape(-1)
    if not sorted:
        order = np.argsort(first)
        first, inverse, counts = first[order], np.argsort(order)[inverse], counts[order]
    number = len(first)
    rest = (0, len(x) - number)
    return np.pad(first, rest), inverse.astype(np.int64), np.pad(counts, rest), np.array([number])


for _dtype in ("f32", "f64", "i64"):

    @op.kernel(_dtype, "unique")
    def pack(sorted):
        return struct.pack("q", sorted)


@op.importer("Unique", since=11, takes="f16 bits")
def from_onnx(g, node):
    x, axis, spec = node.inputs[0], node.attr("axis"), node.spec(0)
    if axis is None:
        x = rows = g.add("reshape", [x], to=(-1, 1))
        x = g.add("reshape", [x], to=(-1,))
    else:
        axis = axis_of(axis, spec.rank, "unique")
        perm = (axis, *[i for i in range(spec.rank) if i != axis])
        rest = product([d for i, d in enumerate(spec.shape) if i != axis])
        rows = g.add("transpose", [x], perm=perm)
        rows = g.add("reshape", [rows], to=(spec.shape[axis], rest))
    if spec.dtype in WIDER:
        rows = g.add("cast", [rows], to=WIDER[spec.dtype])
    elif spec.dtype == "bf16":
        rows = g.add("cast", [rows], to="f32", source="bf16")
    first, inverse, counts, number = g.add(op, [rows], sorted=bool(node.attr("sorted", 1)))
    start = g.const(np.zeros(1, np.int64))
    first, counts = (g.add("slice", [v, start, number]) for v in (first, counts))
    return g.add("gather", [x, first], axis=axis or 0), first, inverse, counts


@op.cases
def cases(rng):
    yield {"x": rng.integers(0, 5, (12, 1)).astype(np.float32)}
    yield {"x": rng.integers(0, 5, (300, 1)), "sorted": False}
    yield {"x": rng.integers(0, 2, (40, 3)).astype(np.float64)}
    yield {"x": rng.integers(0, 2, (40, 3)), "sorted": False}
    yield {"x": np.zeros((0, 2), np.float32)}


op.nonfinite = False  # numpy holds that slices with NaN all differ
