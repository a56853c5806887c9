"""y: the inputs one after another along `axis`.

xs: one dtype, one rank, equal lengths along all other axes.
Source: ONNX Concat-13.
"""

import numpy as np

from ..errors import ShapeError
from ..op import Op, Spec
from ..pattern import P
from ..rules import axis_of, same_dtype, transpose_axis
from ..symbols import Sym

op = Op("concat", inputs="*xs", attrs={"axis": ...})
op.float64, op.symbolic = False, True


@op.rule
def rule(*xs, axis):
    dtype = same_dtype("concat", *xs)
    a = axis_of(axis, xs[0].rank, "concat")
    shape = list(xs[0].shape)
    for x in xs[1:]:
        if x.rank != len(shape):
            raise ShapeError(
                f"[concat] found {', '.join(map(repr, xs))}; expected inputs of one rank; "
                "reshape them"
            )
        for k, d in enumerate(x.shape):
            if k == a:
                shape[k] = shape[k] + d
            elif isinstance(shape[k], Sym):
                shape[k] = shape[k] if isinstance(d, Sym) else d
            elif not isinstance(d, Sym) and d != shape[k]:
                raise ShapeError(
                    f"[concat] found {', '.join(map(repr, xs))}; "
                    f"expected equal lengths along all axes but {a}; correct the shapes"
                )
    return Spec(shape, dtype)


@op.reference
def reference(*xs, axis):
    return np.concatenate(xs, axis)


op.transpose(transpose_axis())


@op.batch
def batch(axes, ins, outs, attrs):
    found = set(axes)
    a = axes[0]
    return [a] if len(found) == 1 and a != attrs["axis"] % outs[0].rank else None


@op.window
def window(strides, ins, outs, axis):
    out, offset = [], 0
    for x in ins:
        out.append((offset, strides))
        offset += x.shape[axis] * strides[axis]
    return out


@op.importer("Concat", takes="f16 bits")
def from_onnx(g, node):
    xs = list(node.inputs)
    return xs[0] if len(xs) == 1 else g.add(op, xs, axis=node.attr("axis", 1))


@op.fuse(P.concat())
def of_joined(g, m):
    """What another concatenation joins already is not joined once more: in dense blocks each then
    lies in the next one's memory (Huang et al. 2017, arXiv:1608.06993).
    """
    node = m.root
    found = [
        u
        for u in node.inputs[0].users
        if u.op is op
        and u.attrs["axis"] == node.attrs["axis"]
        and 1 < len(u.inputs) < len(node.inputs)
        and u.inputs == node.inputs[: len(u.inputs)]
    ]
    if not found:
        return None
    first = max(found, key=lambda u: len(u.inputs))
    rest = node.inputs[len(first.inputs) :]
    return g.add(op, [first.outputs[0], *rest], axis=node.attrs["axis"])


@op.cases
def cases(rng):
    yield dict(xs=[rng(2, 3), rng(2, 5)], axis=1)
    yield dict(xs=[rng(2, 3, 4), rng(1, 3, 4), rng(0, 3, 4)], axis=0)
    yield dict(xs=[rng(2, 3, 4), rng(2, 1, 4)], axis=-2)
    yield dict(xs=[rng(17, 33, 5), rng(17, 33, 19)], axis=2)
    yield dict(xs=[np.array([1, 2]), np.array([3])], axis=0)


@op.benches
def benches(rng):
    yield dict(xs=[rng(1, 52, 52, 64), rng(1, 52, 52, 64)], axis=3)
    yield dict(xs=[rng(1, 196, 192), rng(1, 1, 192)], axis=1)
