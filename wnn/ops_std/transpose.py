"""y[i_perm[0], ..., i_perm[n-1]] = x[i_0, ..., i_{n-1}]: axis k of y is axis perm[k] of x.

x: any shape and dtype.  perm: tuple of axes.  A view where its users take strided inputs.
Source: ONNX Transpose-1.
"""

import numpy as np

from ..errors import ShapeError
from ..op import Op, Permuted, Spec

op = Op("transpose", attrs={"perm": ...})
op.symbolic = True


@op.rule
def rule(x, perm):
    if sorted(perm) != list(range(x.rank)):
        raise ShapeError(
            f"[transpose] found perm {perm} for {x}; expected each of 0..{x.rank - 1} once; "
            "correct the attribute"
        )
    return Spec([x.shape[p] for p in perm], x.dtype)


@op.reference
def reference(x, perm):
    return np.transpose(x, perm)


@op.view
def view(strides, x, outs, perm):
    return [(0, tuple(strides[p] for p in perm))]


@op.transpose
def transpose(perm, i, ins, attrs):
    return Permuted([perm], [None], {"perm": tuple(perm[p] for p in attrs["perm"])})


@op.batch
def batch(axes, ins, outs, attrs):
    return [attrs["perm"].index(axes[0])]


@op.importer("Transpose", takes="f16 bits")
def from_onnx(g, node):
    (x,) = node.inputs
    return g.add(op, [x], perm=tuple(node.attr("perm") or reversed(range(node.rank(0)))))


@op.cases
def cases(rng):
    yield dict(x=rng(3, 5), perm=(1, 0))
    yield dict(x=rng(2, 3, 1, 17), perm=(0, 3, 1, 2))
    yield dict(x=rng(2, 33, 4, 9), perm=(0, 2, 3, 1))
    yield dict(x=rng(0, 4), perm=(1, 0))


@op.benches
def benches(rng):
    yield dict(x=rng(1, 112, 112, 64), perm=(0, 3, 1, 2))
    yield dict(x=rng(1, 64, 112, 112), perm=(0, 2, 3, 1))
    yield dict(x=rng(1, 1, 400, 3), perm=(0, 3, 1, 2))
    yield dict(x=rng(197, 3, 64), perm=(1, 0, 2))
    yield dict(x=rng(8, 7, 8, 7, 96), perm=(0, 2, 1, 3, 4))
    yield dict(x=rng(56 * 56, 2, 58), perm=(0, 2, 1))
