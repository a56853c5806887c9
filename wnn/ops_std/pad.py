"""y: x with `before` and `after` elements put around each axis; negative amounts cut off.

mode: constant (the scalar input `value`, 0 if absent), edge (the nearest element), reflect
    (mirrored, the edge itself once), wrap.
pads: all befores, then all afters; or the values of the input `amounts`, for `axes` alone where
given.
Source: ONNX Pad-21.
"""

import struct

import numpy as np

from ..errors import DtypeError, ShapeError, UnsupportedError
from ..op import Op, Permuted, Spec, need
from ..pattern import P
from ..rules import axis_of, bounded, ints_of, settled

op = Op("pad", inputs="x amounts? value? axes?", attrs={"pads": None, "mode": "constant"})
op.float64 = False
MODES = ("constant", "edge", "reflect", "wrap")


def amounts_of(x, amounts=None, axes=None, pads=None) -> tuple:
    """All befores, then all afters, for every axis of x."""
    if pads is None:
        need(amounts, 1)
        pads = ints_of(amounts)
    over = tuple(range(x.rank))
    if axes is not None:
        need(axes, 3)
        over = tuple(axis_of(a, x.rank, "pad") for a in ints_of(axes))
    if len(pads) != 2 * len(over) or len(set(over)) != len(over):
        raise ShapeError(
            f"[pad] found {len(pads)} amounts for axes {over} of {x}; expected {2 * len(over)}; "
            "correct the pads"
        )
    out = [0] * (2 * x.rank)
    for k, a in enumerate(over):
        out[a], out[a + x.rank] = pads[k], pads[k + len(over)]
    return tuple(out)


@op.rule
def rule(x, amounts=None, value=None, axes=None, pads=None, mode="constant"):
    if mode not in MODES:
        raise UnsupportedError(
            f"[pad] found mode {mode!r}; expected one of {MODES}; correct the attribute"
        )
    if value is not None and value.dtype != x.dtype:
        raise DtypeError(
            f"[pad] found value {value} for {x}; expected one dtype for both; cast the value"
        )
    by = amounts_of(x, amounts, axes, pads)
    shape = []
    for d, before, after in zip(x.shape, by, by[x.rank :]):
        n = d + before + after
        if isinstance(n, int) and isinstance(d, int):
            kept = d + min(before, 0) + min(after, 0)
            most = max(before, after)
            if (
                n < 0
                or kept < 0
                or mode != "constant"
                and most > 0
                and kept < (most + 1 if mode == "reflect" else 1)
            ):
                raise ShapeError(
                    f"[pad] found {by} for {x}, mode {mode!r}; "
                    "expected amounts that leave and repeat what is there; correct the pads"
                )
        shape.append(n)
    return bounded("pad", Spec(shape, x.dtype))


@op.outline
def outline(symbol, x, amounts=None, value=None, axes=None, pads=None, mode="constant"):
    over = None if axes is None else ints_of(axes)
    over = range(x.rank) if over is None else [axis_of(a, x.rank, "pad") for a in over]
    return x.like([symbol("padded") if i in over else d for i, d in enumerate(x.shape)])


@op.reference
def reference(x, amounts=None, value=None, axes=None, pads=None, mode="constant"):
    by = amounts_of(Spec.of(x), *[None if v is None else Spec.of(v) for v in (amounts, axes)], pads)
    pairs = list(zip(by, by[x.ndim :]))
    x = x[tuple(slice(max(-b, 0), d - max(-a, 0)) for d, (b, a) in zip(x.shape, pairs))]
    pairs = [(max(b, 0), max(a, 0)) for b, a in pairs]
    if mode == "constant":
        return np.pad(x, pairs, constant_values=0 if value is None else value.reshape(-1)[0])
    return np.pad(x, pairs, mode)


@op.transpose
def transpose(perm, i, ins, attrs):
    if i or attrs["pads"] is None:
        return None
    rank = len(perm)
    pads = [0] * (2 * rank)
    for k, p in enumerate(perm):
        pads[p], pads[p + rank] = attrs["pads"][k], attrs["pads"][k + rank]
    return Permuted([perm] + [None] * (len(ins) - 1), [perm], {**attrs, "pads": tuple(pads)})


@op.batch
def batch(axes, ins, outs, attrs):
    a = axes[0]
    if a is None or any(b is not None for b in axes[1:]):
        return None
    by = amounts_of(
        ins[0], ins[1] if len(ins) > 1 else None, ins[3] if len(ins) > 3 else None, attrs["pads"]
    )
    return [a] if by[a] == 0 and by[a + ins[0].rank] == 0 else None


@op.kernel("*", "pad")
def pack(x, amounts, axes, pads, mode):
    by = amounts_of(x, amounts, axes, pads)
    return struct.pack(f"q{x.rank}q", MODES.index(mode), *by[: x.rank])


@op.fuse(P.pad())
def settle(g, m):
    """Amounts that are known have their place in `pads`."""
    node = m.root
    x, amounts, value, axes = (*node.inputs, None, None, None)[:4]
    if node.attrs["pads"] is not None or any(
        v is not None and ints_of(v) is None for v in (amounts, axes)
    ):
        return None
    pads = amounts_of(x.spec, amounts.spec, None if axes is None else axes.spec)
    return (
        g.add(op, [x, None, value], pads=pads, mode=node.attrs["mode"])
        if settled(g, *pads)
        else None
    )


@op.importer("Pad")
def from_onnx_attributes(g, node):
    value = node.attr("value", 0.0)
    ins = [
        node.inputs[0],
        None,
        g.const(value, node.spec(0).dtype if node.spec(0) else "f32") if value else None,
    ]
    return g.add(op, ins, pads=tuple(node.attr("pads")), mode=node.attr("mode", "constant"))


@op.importer("Pad", since=11)
def from_onnx(g, node):
    x, amounts, value, axes = (*node.inputs, None, None)[:4]
    if value is not None and value.const is not None and not value.array.any():
        value = None
    mode = node.attr("mode", "constant")
    if (
        amounts.const is not None
        and (axes is None or axes.const is not None)
        and x.spec is not None
    ):
        pads = amounts_of(x.spec, amounts.spec, None if axes is None else axes.spec)
        return g.add(op, [x, None, value], pads=pads, mode=mode)
    return g.add(op, [x, amounts, value, axes], mode=mode)


@op.cases
def cases(rng):
    x = rng(2, 5, 33)
    yield dict(x=x, pads=(0, 1, 2, 0, 3, 4))
    yield dict(x=x, pads=(0, -1, 2, 1, 0, -4), value=np.float32(1.5))
    for mode in ("edge", "reflect", "wrap"):
        yield dict(x=x, pads=(0, 2, 3, 1, 4, 1), mode=mode)
    yield dict(
        x=np.arange(6).reshape(2, 3),
        amounts=np.array([1, 2]),
        axes=np.array([-1]),
        value=np.int64(7),
    )


@op.benches
def benches(rng):
    yield dict(x=rng(1, 112, 112, 32), pads=(0, 1, 1, 0, 0, 1, 1, 0))
    yield dict(x=rng(1, 1, 16000), pads=(0, 0, 256, 0, 0, 256), mode="reflect")
