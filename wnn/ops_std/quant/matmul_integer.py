"""y = (a - a_zero) (b - b_zero), matrix products of integers over broadcast leading axes, in int32.

a: (..., M, K)    b: (..., K, N)    a_zero?: a number or (..., M, 1)    b_zero?: a number, (N,) or
(..., 1, N)    y: (..., M, N) i32
Source: ONNX MatMulInteger-10.
"""

import numpy as np

from ...op import Op
from ...pattern import P
from .. import matmul
from . import conv, fusion

op = Op("matmul_integer", inputs="a b a_zero? b_zero?")
op.fused_in = "integer kernels"


@op.rule
def rule(a, b, a_zero=None, b_zero=None):
    return matmul.rule(a, b.like(dtype=a.dtype), post=()).like(dtype="i32")


@op.reference
def reference(a, b, a_zero=None, b_zero=None):
    def centred(x, zero):
        return x.astype(np.float64) if zero is None else x.astype(np.float64) - zero

    return np.matmul(centred(a, a_zero), centred(b, b_zero)).astype(np.int64).astype(np.int32)


@op.importer("MatMulInteger")
def from_onnx(g, node):
    a_zero, b_zero = node.input(2), node.input(3)
    if a_zero is not None and a_zero.spec.rank == 1:
        column = a_zero.spec.size != 1
        a_zero = g.add("reshape", [a_zero], to=(a_zero.shape[0], 1) if column else ())
    if b_zero is not None and b_zero.spec.rank == 1 and b_zero.spec.size == 1:
        b_zero = g.add("reshape", [b_zero], to=())
    return g.add(op, [*node.inputs[:2], a_zero, b_zero])


@op.fuse(P.matmul_integer())
def of_constants(g, m):
    a, b, a_zero, b_zero = [*m.root.inputs, None, None][:4]
    rank = a.spec.rank
    if b.const is None or b.spec.rank != 2 or rank < 2 or (b_zero and b_zero.const is None):
        return None
    w = b.array.astype(np.int32) - (0 if b_zero is None else b_zero.array)
    return fusion.integer_sums(g, conv.op, a, w[None], a_zero, conv.rows(rank))


@op.cases
def cases(rng):
    def u8(*shape):
        return rng.integers(0, 256, shape).astype(np.uint8)

    def i8(*shape):
        return rng.integers(-128, 128, shape).astype(np.int8)

    yield {"a": u8(5, 7), "b": i8(7, 3), "a_zero": np.uint8(120)}
    yield {"a": u8(2, 17, 64), "b": i8(64, 33), "a_zero": np.uint8(3), "b_zero": np.int8(0)}
    yield {"a": u8(9, 30), "b": u8(30, 16), "a_zero": np.uint8(3), "b_zero": u8(16)}
    yield {"a": i8(9, 300), "b": i8(300, 70), "b_zero": np.int8(4)}
    yield {"a": u8(3, 2, 4, 8), "b": i8(3, 1, 8, 4), "a_zero": u8(4, 1)}
