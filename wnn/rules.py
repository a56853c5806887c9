"""Rules that many operators share: broadcasting, axes, and how transposes and batches pass
through.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .errors import ShapeError
from .op import Permuted, Spec
from .symbols import Sym

Perm = tuple[int, ...]


def axis_of(axis: int, rank: int, who: str, what: str = "axis") -> int:
    """A non-negative axis; ShapeError where it lies outside the rank."""
    if not -rank <= axis < rank:
        raise ShapeError(
            f"[{who}] found {what} {axis}; expected one in [{-rank}, {rank - 1}] for {rank} "
            "dimensions; correct the attribute"
        )
    return axis % rank if rank else 0


def broadcast(who: str, *shapes: Sequence) -> tuple:
    """The shape that numpy broadcasting gives. A symbol against another length is taken to be equal
    to it.
    """
    rank = max((len(s) for s in shapes), default=0)
    out = []
    for i in range(rank):
        d: Any = 1
        for s in shapes:
            j = i - rank + len(s)
            if j < 0 or s[j] == 1 or s[j] == d:
                continue
            if d == 1 or isinstance(d, Sym):
                d = s[j] if d == 1 or isinstance(s[j], int) else d
            elif not isinstance(s[j], Sym):
                raise ShapeError(
                    f"[{who}] found shapes {' and '.join(map(str, map(tuple, shapes)))}; expected "
                    "shapes that broadcast (equal or 1 from the right); reshape one of them"
                )
        out.append(d)
    return tuple(out)


def differ(a, b) -> bool:
    """Whether two lengths are known not to be equal. A symbol may turn out to equal any length."""
    d = a - b
    return not isinstance(d, Sym) and d != 0


def may_be(shape: Sequence, want: Sequence) -> bool:
    """Whether a shape can turn out to be `want`: of its rank, and no length is known to differ."""
    return len(shape) == len(want) and not any(map(differ, shape, want))


def same_dtype(who: str, *specs: Spec) -> str:
    """The dtype all specs share."""
    from .errors import DtypeError

    found = {s.dtype for s in specs}
    if len(found) > 1:
        raise DtypeError(
            f"[{who}] found dtypes {sorted(found)}; expected one dtype for all inputs; insert a "
            "Cast before export"
        )
    return found.pop()


# -- transposes
def inverse(perm: Perm) -> Perm:
    """perm such that transposing by both gives the original."""
    return tuple(int(i) for i in np.argsort(perm))


def transpose_elementwise(
    perm: Perm, i: int, ins: list[Spec | None], attrs: dict
) -> Permuted | None:
    """All inputs of the full rank are permuted alike. (Lower ranks are first reshaped up by the
    pass.)
    """
    if any(s is not None and s.rank not in (0, len(perm)) for s in ins):
        return None
    return Permuted([perm if s is not None and s.rank else None for s in ins], [perm], attrs)


def transpose_axis(key: str = "axis"):
    """For operators that work along attrs[key] of inputs that all are permuted alike (softmax,
    concat, ...).
    """

    def rule(perm: Perm, i: int, ins: list[Spec | None], attrs: dict) -> Permuted | None:
        if any(s is not None and s.rank != len(perm) for s in ins):
            return None
        return Permuted([perm] * len(ins), [perm], {**attrs, key: perm[attrs[key] % len(perm)]})

    return rule


# -- batches
def batch_elementwise(
    axes: list[int | None], ins: list[Spec | None], outs: list[Spec], attrs: dict
) -> list[int | None] | None:
    """Samples stay apart where they lie along the same axis of the broadcast result."""
    rank = outs[0].rank
    found = {a + rank - s.rank for a, s in zip(axes, ins) if a is not None}
    if len(found) != 1:
        return None
    axis = found.pop()
    own = [
        s.shape[axis - rank + s.rank]
        for a, s in zip(axes, ins)
        if a is None and s is not None and s.rank >= rank - axis
    ]
    return [axis] * len(outs) if all(d == 1 for d in own) else None


def batch_except(*keys: str):
    """Independent along every axis but those named in attrs (an int or a tuple of them), with axes
    kept in place.
    """

    def rule(
        axes: list[int | None], ins: list[Spec | None], outs: list[Spec], attrs: dict
    ) -> list[int | None] | None:
        if axes[0] is None or any(a is not None for a in axes[1:]):
            return None
        rank = ins[0].rank
        for k in keys:
            mixed = attrs[k] if isinstance(attrs[k], (tuple, list)) else (attrs[k],)
            if axes[0] in {a % rank for a in mixed}:
                return None
        return [axes[0]] * len(outs)

    return rule


def batch_leading(trailing: int):
    """Independent along every axis of input 0 but its last `trailing`; other inputs must be
    shared.
    """

    def rule(
        axes: list[int | None], ins: list[Spec | None], outs: list[Spec], attrs: dict
    ) -> list[int | None] | None:
        if (
            axes[0] is None
            or axes[0] >= ins[0].rank - trailing
            or any(a is not None for a in axes[1:])
        ):
            return None
        return [axes[0]] * len(outs)

    return rule


# -- strides
@lru_cache(4096)
def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    out = []
    n = 1
    for d in reversed(shape):
        out.append(n)
        n *= max(d, 1)
    return tuple(reversed(out))


def is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the strides are row-major, axes of length 1 aside; of no elements any are."""
    if strides == contiguous_strides(shape) or 0 in shape:
        return True
    n = 1
    for d, s in zip(reversed(shape), reversed(strides)):
        if d != 1 and s != n:
            return False
        n *= d
    return True


def accepts(kind: str, shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether strides fit what a kernel takes: "any", "matrix", "last", "rows" or "contiguous" (see
    `Kernel`).
    """
    if kind == "any" or is_contiguous(shape, strides):
        return True
    if kind == "matrix":
        return len(shape) < 2 or strides[-1] == 1 or strides[-2] == 1
    if kind == "contiguous" or (shape[-1] != 1 and strides[-1] != 1):
        return False
    if kind == "last":
        return True
    row = None  # "rows": the axes before the last collapse into one
    for d, s in zip(reversed(shape[:-1]), reversed(strides[:-1])):
        if d == 1:
            continue
        if row is not None and s != row:
            return False
        row = s * d
    return True


# -- axes that move, values that are known
def relabel(got: Sequence, made: Sequence) -> Perm | None:
    """perm such that transposing axes labelled `made` gives the order `got`; None where they agree
    already.
    """
    perm = tuple(list(made).index(label) for label in got)
    return None if perm == tuple(range(len(perm))) else perm


def ints_of(value: Any) -> tuple | None:
    """The integers that a graph Value or a Spec is known to hold, flat (Syms among them); None
    where it is not known.
    """
    spec = getattr(value, "spec", value)
    if spec is None or spec.value is None:
        return None
    return tuple(d if isinstance(d, Sym) else int(d) for d in spec.value.ravel())


def reshape_attrs(shape: tuple, x: Spec) -> dict:
    """The attributes of Reshape that give x `shape`, with as few Syms in them as can be."""
    if 0 in shape:
        return {"to": tuple(shape), "allowzero": True}
    to = [
        0 if isinstance(d, Sym) and k < x.rank and x.shape[k] == d else d
        for k, d in enumerate(shape)
    ]
    left = [k for k, d in enumerate(to) if isinstance(d, Sym)]
    if len(left) > 1:  # these may turn out to be 0, which then must not mean to copy a length
        return {"to": tuple(shape), "allowzero": True}
    return {"to": tuple(-1 if left == [k] else d for k, d in enumerate(to)), "allowzero": False}


def settled(g: Any, *values: Any) -> bool:
    """Whether numbers may become attributes: their symbols, if any, are lengths of the graph's
    inputs.
    """
    known = {
        s
        for v in g.inputs
        if v.spec is not None
        for d in v.spec.shape
        if isinstance(d, Sym)
        for s in d.symbols()
    }
    return all(not isinstance(d, Sym) or d.symbols() <= known for d in values)


def bounded(who: str, spec: Spec, limit: int = 1 << 32) -> Spec:
    """spec, unless its tensor would be larger than `limit` bytes: then ShapeError."""
    from .dtypes import ITEMSIZE

    if spec.concrete and spec.size * ITEMSIZE[spec.dtype] > limit:
        raise ShapeError(
            f"[{who}] found a tensor {spec}; expected at most {limit} bytes; check the values that "
            "give its size"
        )
    return spec
