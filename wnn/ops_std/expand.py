"""y = x broadcast with a shape, by numpy's rules; and tile: x repeated along each axis.

expand: x of any dtype; the shape is `to`, or the values of the input `shape`. A view with strides
    of 0.
tile: repeats: (rank,), non-negative.
Source: ONNX Expand-13, Tile-13.
"""

import numpy as np

from ..errors import ShapeError
from ..op import NeedValue, Op, Permuted, Spec, need
from ..rules import bounded, broadcast, ints_of
from ..symbols import Sym

expand = Op("expand", inputs="x shape?", attrs={"to": None})
tile = Op("tile", inputs="x repeats")
expand.float64 = tile.float64 = False
expand.symbolic = tile.symbolic = True


def _wanted(shape, to) -> tuple:
    if to is None:
        need(shape, 1)
        to = ints_of(shape)
    if any(not isinstance(d, Sym) and d < 0 for d in to):
        raise ShapeError(
            f"[expand] found shape {tuple(to)}; expected non-negative lengths; correct the shape"
        )
    return tuple(to)


@expand.rule
def expand_rule(x, shape=None, to=None):
    return Spec(broadcast("expand", x.shape, _wanted(shape, to)), x.dtype)


@expand.outline
def expand_outline(symbol, x, shape=None, to=None):
    if not shape.concrete:
        raise NeedValue(1)
    lead = (1,) * (shape.size - x.rank)
    return x.like([symbol("length") if d == 1 else d for d in (*lead, *x.shape)])


@expand.reference
def expand_reference(x, shape=None, to=None):
    return np.broadcast_to(
        x, np.broadcast_shapes(x.shape, tuple(shape.tolist() if to is None else to))
    )


@expand.view
def expand_view(strides, x, outs, to):
    lead = outs[0].rank - x.rank
    return [
        (
            0,
            (0,) * lead
            + tuple(s if d == e else 0 for d, e, s in zip(x.shape, outs[0].shape[lead:], strides)),
        )
    ]


@expand.transpose
def expand_transpose(perm, i, ins, attrs):
    if i or attrs["to"] is None or len(attrs["to"]) > len(perm):
        return None
    to = (1,) * (len(perm) - len(attrs["to"])) + tuple(attrs["to"])
    moved = [1] * len(perm)
    for k, p in enumerate(perm):
        moved[p] = to[k]
    return Permuted([perm], [perm], {"to": tuple(moved)})


@expand.batch
def expand_batch(axes, ins, outs, attrs):
    if axes[0] is None or any(a is not None for a in axes[1:]):
        return None
    a = axes[0] + outs[0].rank - ins[0].rank
    return [a] if outs[0].shape[a] == ins[0].shape[axes[0]] else None


@expand.importer("Expand", takes="f16 bits")
def expand_from_onnx(g, node):
    x, shape = node.inputs
    return (
        g.add(expand, [x], to=ints_of(shape))
        if shape.const is not None
        else g.add(expand, [x, shape])
    )


@expand.cases
def expand_cases(rng):
    yield dict(x=rng(3, 1, 5), to=(2, 1, 4, 1))
    yield dict(x=rng(3, 1), shape=np.array([1, 6]))
    yield dict(x=rng(1), to=(0,))
    yield dict(x=rng(), to=(2, 2))


@tile.rule
def tile_rule(x, repeats):
    need(repeats, 1)
    times = ints_of(repeats)
    if len(times) != x.rank or any(not isinstance(n, Sym) and n < 0 for n in times):
        raise ShapeError(
            f"[tile] found repeats {times} for {x}; expected {x.rank} non-negative numbers; "
            "correct them"
        )
    return bounded("tile", Spec([d * n for d, n in zip(x.shape, times)], x.dtype))


@tile.outline
def tile_outline(symbol, x, repeats):
    return x.like([symbol("length") for _ in x.shape])


@tile.reference
def tile_reference(x, repeats):
    return np.tile(x, repeats)


@tile.batch
def tile_batch(axes, ins, outs, attrs):
    a = axes[0]
    return (
        [a] if a is not None and outs[0].shape[a] == ins[0].shape[a] and axes[1] is None else None
    )


@tile.kernel("*", "tile")
def tile_pack():
    return b""


@tile.importer("Tile", takes="f16 bits")
def tile_from_onnx(g, node):
    return g.add(tile, node.inputs)


@tile.cases
def tile_cases(rng):
    yield dict(x=rng(2, 3), repeats=np.array([2, 3]))
    yield dict(x=rng(2, 1, 5), repeats=np.array([1, 4, 1]))
    yield dict(x=rng(2, 3), repeats=np.array([0, 2]))
