"""y_j: consecutive parts of x along `axis`; concatenated, they are x.

x: any shape and dtype.  Their lengths are `sizes`, or the values of the input `lengths`, or equal
for `parts` parts (the last one shorter, or more of them, where it does not come out even). Views.
Source: ONNX Split-18.
"""

import numpy as np

from ..errors import ModelError, ShapeError
from ..op import NeedValue, Op, Permuted, Spec, need
from ..pattern import P
from ..rules import axis_of, batch_except, ints_of, settled
from ..symbols import Sym

op = Op("split", inputs="x lengths?", attrs={"axis": 0, "sizes": None, "parts": None})
op.float64, op.symbolic = False, True


def sizes_of(x, lengths, axis, sizes, parts) -> tuple:
    """The length of each part."""
    d = x.shape[axis_of(axis, x.rank, "split")]
    if sizes is None and lengths is not None:
        need(lengths, 1)
        sizes = ints_of(lengths)
    if sizes is None:
        if not isinstance(parts, int) or parts < 1:
            raise ShapeError(f"[split] found {parts} parts; expected at least 1; correct the model")
        each = (
            d // parts
            if isinstance(d, Sym) and d // parts * parts == d
            else (d + parts - 1) // parts
        )
        if isinstance(d, Sym):
            sizes = [each] * (parts - 1) + [d - each * (parts - 1)]
        else:
            sizes = [min(each, max(0, d - each * k)) for k in range(parts)]
    if (
        any(not isinstance(s, Sym) and s < 0 for s in sizes)
        or not isinstance(sum(sizes, d * 0), Sym)
        and isinstance(d, int)
        and sum(sizes) != d
    ):
        raise ShapeError(
            f"[split] found lengths {tuple(sizes)} for axis {axis} of {x}; "
            f"expected non-negative ones that add up to {d}; correct them"
        )
    return tuple(sizes)


@op.rule
def rule(x, lengths=None, axis=0, sizes=None, parts=None):
    a = axis_of(axis, x.rank, "split")
    return tuple(
        Spec([*x.shape[:a], n, *x.shape[a + 1 :]], x.dtype)
        for n in sizes_of(x, lengths, axis, sizes, parts)
    )


@op.outline
def outline(symbol, x, lengths=None, axis=0, sizes=None, parts=None):
    if not lengths.concrete:
        raise NeedValue(1)
    a = axis_of(axis, x.rank, "split")
    return tuple(
        x.like([*x.shape[:a], symbol("part"), *x.shape[a + 1 :]]) for _ in range(lengths.size)
    )


@op.reference
def reference(x, lengths=None, axis=0, sizes=None, parts=None):
    given = None if lengths is None else Spec.of(lengths)
    sizes = sizes_of(Spec.of(x), given, axis, sizes, parts)
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


@op.view
def view(strides, x, outs, axis, sizes, parts):
    out, offset = [], 0
    for y in outs:
        out.append((0 if 0 in y.shape else offset, strides))
        offset += y.shape[axis] * strides[axis]
    return out


@op.transpose
def transpose(perm, i, ins, attrs):
    if i:
        return None
    count = len(rule(*ins, **attrs))
    return Permuted(
        [perm] + [None] * (len(ins) - 1),
        [perm] * count,
        {**attrs, "axis": perm[attrs["axis"] % len(perm)]},
    )


op.batch(batch_except("axis"))


@op.fuse(P.split())
def settle(g, m):
    """Lengths that are known have their place in `sizes`."""
    node = m.root
    sizes = ints_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if sizes is None or not settled(g, *sizes):
        return None
    return g.add(op, [node.inputs[0]], len(sizes), axis=node.attrs["axis"], sizes=sizes)


@op.importer("Split", takes="f16 bits")
def from_onnx(g, node):
    x, lengths = (*node.inputs, None)[:2]
    axis, sizes, parts = node.attr("axis", 0), node.attr("split"), None
    if lengths is not None and lengths.const is not None:
        sizes = ints_of(lengths)
    if sizes is None and lengths is None:
        parts = node.attr("num_outputs", node.num_outputs)
        if parts != node.num_outputs:  # onnx's own shape inference would write out of bounds
            raise ModelError(
                f"[split] found num_outputs={parts} of a node with {node.num_outputs} outputs; "
                "expected the same number; correct the attribute"
            )
    ins = [x, lengths] if lengths is not None and sizes is None else [x]
    return g.add(
        op,
        ins,
        node.num_outputs,
        axis=axis,
        sizes=None if sizes is None else tuple(sizes),
        parts=parts,
    )


@op.cases
def cases(rng):
    yield dict(x=rng(6, 5), parts=3)
    yield dict(x=rng(3, 7), axis=-1, parts=3)
    yield dict(x=rng(3, 7), axis=1, sizes=(0, 5, 2))
    yield dict(x=rng(3, 7), axis=1, lengths=np.array([3, 4]))


@op.benches
def benches(rng):
    yield dict(x=rng(1, 52, 52, 128), axis=3, parts=2)
