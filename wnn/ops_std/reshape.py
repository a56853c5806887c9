"""The same elements in the same order under another shape.

reshape: x of any shape to `to`, or to the values of the input `shape`. 0 copies x's length there
    (unless allowzero), -1 takes what is left. Lengths may be Syms.
squeeze: takes away the axes `axes` (or the values of `at`), all of length 1; every axis of length 1
    where none is given.
unsqueeze: puts in axes of length 1, so that they are the axes `axes` (or the values of `at`) of y.
Views wherever the strides allow it.
Source: ONNX Reshape-14, Squeeze-13, Unsqueeze-13, Flatten-13, DepthToSpace-13.
"""

import numpy as np

from ..errors import ShapeError
from ..op import NeedValue, Op, Permuted, Spec, need
from ..pattern import P
from ..rules import axis_of, ints_of, relabel, reshape_attrs
from ..symbols import Sym, product

reshape = Op("reshape", inputs="x shape?", attrs={"to": None, "allowzero": False})
squeeze = Op("squeeze", inputs="x at?", attrs={"axes": None})
unsqueeze = Op("unsqueeze", inputs="x at?", attrs={"axes": None})
for _op in (reshape, squeeze, unsqueeze):
    _op.float64, _op.symbolic, _op.keeps_order = False, True, True


# -- reshape ---------------------------------------------------------------------------------------
def _fail(x: Spec, want: tuple, expected: str) -> ShapeError:
    return ShapeError(
        f"[reshape] found {x} to be reshaped to {want}; expected {expected}; correct the shape"
    )


def resolve(x: Spec, want: tuple, allowzero: bool) -> tuple:
    """The shape that `want` asks for. Lengths that are copied cancel, so that -1 is defined also
    for empty tensors.
    """
    copied = {i for i, d in enumerate(want) if not allowzero and not isinstance(d, Sym) and d == 0}
    if any(i >= x.rank for i in copied):
        raise _fail(x, want, "0 only where x has an axis to copy")
    if want.count(-1) > 1 or any(not isinstance(d, Sym) and d < -1 for d in want):
        raise _fail(x, want, "at most one -1 and no other negative length")
    have = product(d for i, d in enumerate(x.shape) if i not in copied)
    given = product(d for i, d in enumerate(want) if i not in copied and d != -1)
    out = [x.shape[i] if i in copied else d for i, d in enumerate(want)]
    if -1 in want:
        if not isinstance(given, Sym) and (
            given == 0 or not isinstance(have, Sym) and have % given
        ):
            raise _fail(x, want, "lengths that divide the number of elements")
        out[want.index(-1)] = have // given
    elif not isinstance(have, Sym) and not isinstance(given, Sym) and have != given:
        raise _fail(x, want, "as many elements as there are")
    return tuple(out)


def restride(shape: tuple, strides: tuple, new: tuple) -> tuple | None:
    """Strides that show a strided tensor under another shape, or None: it must be copied.
    As numpy's no-copy reshape.
    """
    if 0 in new:
        return (0,) * len(new)
    old = [(d, s) for d, s in zip(shape, strides) if d != 1]
    out = [0] * len(new)
    i = j = 0
    while i < len(old):
        first, have, want, j0 = i, old[i][0], 1, j
        while j < len(new) and new[j] == 1:
            j += 1
        want, j = new[j], j + 1
        while have != want:
            if have < want:
                i += 1
                have *= old[i][0]
            else:
                want *= new[j]
                j += 1
        if any(old[k][1] != old[k + 1][0] * old[k + 1][1] for k in range(first, i)):
            return None
        step = old[i][1]
        for k in range(j - 1, j0 - 1, -1):
            out[k] = step
            step *= new[k]
        i += 1
    return tuple(out)


@reshape.rule
def reshape_rule(x, shape=None, to=None, allowzero=False):
    if to is None:
        need(shape, 1)
        to = ints_of(shape)
    return Spec(resolve(x, tuple(to), allowzero), x.dtype)


@reshape.outline
def reshape_outline(symbol, x, shape=None, to=None, allowzero=False):
    if not shape.concrete:
        raise NeedValue(1)
    return x.like([symbol("length") for _ in range(shape.size)])


@reshape.reference
def reshape_reference(x, shape=None, to=None, allowzero=False):
    return x.reshape(resolve(Spec.of(x), tuple(shape.tolist() if to is None else to), allowzero))


@reshape.view
def reshape_view(strides, x, outs, to, allowzero):
    found = restride(x.shape, strides, outs[0].shape)
    return None if found is None else [(0, found)]


def _groups(old: tuple, new: tuple) -> list[tuple[list, list]] | None:
    """Which axes of one shape merge and split into which of another; those of length 1 belong
    nowhere.
    """
    a = [k for k, d in enumerate(old) if d != 1]
    b = [k for k, d in enumerate(new) if d != 1]
    cuts, n = {}, 1  # number of elements before -> place in a
    for i, k in enumerate(a):
        cuts[n] = i
        n = n * old[k]
    cuts[n] = len(a)
    groups, n, i0, j0 = [], 1, 0, 0
    for j, k in enumerate(b):
        n = n * new[k]
        if n in cuts:
            groups.append((a[i0 : cuts[n]], b[j0 : j + 1]))
            i0, j0 = cuts[n], j + 1
    return groups if i0 == len(a) and j0 == len(b) else None


@reshape.transpose
def reshape_transpose(perm, i, ins, attrs):
    """A transpose passes as far as it orders groups of axes that are merged and split together.

    What it does inside a group stays before the reshape: the answer's perm is then not the one
    that was asked about.
    """
    if i:
        return None
    seen, out = ins[0].shape, reshape_rule(*ins, **attrs).shape
    groups = None if 0 in seen or 0 in out else _groups(seen, out)
    if groups is None:
        return None
    groups.sort(key=lambda g: min(perm[k] for k in g[0]))
    inner = [
        k for axes, _ in groups for k in axes
    ]  # the input's axes, groups in the order of the untransposed tensor's
    inner += [k for k in range(len(perm)) if k not in inner]
    if _in_order(perm, inner, seen):
        inner.sort(key=lambda k: perm[k])
    passing = tuple(inner.index(k) for k in range(len(perm)))
    if passing == tuple(range(len(perm))):
        return None
    made = [k for _, axes in groups for k in axes]
    for k in (
        k for k, d in enumerate(out) if d == 1
    ):  # axes of length 1 stay behind what they follow
        made.insert(made.index(k - 1) + 1 if k else 0, k)
    x = Spec([seen[k] for k in inner], ins[0].dtype)
    rest = [None] * (len(ins) - 1)
    return Permuted(
        [passing, *rest],
        [relabel(range(len(out)), made)],
        reshape_attrs(tuple(out[k] for k in made), x),
    )


def _in_order(perm: tuple, axes: list, shape: tuple) -> bool:
    """Whether axes of a transposed tensor stand as in the untransposed one, those of length 1
    aside.
    """
    side = [perm[k] for k in axes if shape[k] != 1]
    return side == sorted(side)


def _carried(x: tuple, axis: int, y: tuple) -> int | None:
    """The axis of y along which axis `axis` of x still runs: as it was, merged with what follows
    it, or split off again.
    """
    before, d = product(x[:axis]), x[axis]
    n = 1
    for b, e in enumerate(y):
        if n == before and (e != 1 or d == 1):
            split = (
                isinstance(d, Sym)
                and isinstance(e, Sym)
                and isinstance(d // e, int)
                and d // e * e == d
            )
            return b if split or d != 0 and e // d * d == e else None
        n = n * e
    return None


@reshape.batch
def reshape_batch(axes, ins, outs, attrs):
    """Samples may come to lie in blocks (N, T, C -> N*T, C), and out of them again where symbols
    prove it.
    """
    if axes[0] is None or any(a is not None for a in axes[1:]):
        return None
    b = _carried(ins[0].shape, axes[0], outs[0].shape)
    return None if b is None else [b]


@reshape.importer("Reshape", takes="f16 bits")
def reshape_from_onnx(g, node):
    x, shape = node.inputs
    allowzero = bool(node.attr("allowzero", 0))
    if shape.const is not None:
        return g.add(reshape, [x], to=ints_of(shape), allowzero=allowzero)
    return g.add(reshape, [x, shape], allowzero=allowzero)


@reshape.importer("Flatten", takes="f16 bits")
def flatten_from_onnx(g, node):
    (x,) = node.inputs
    axis = node.attr("axis", 1)
    if axis in (0, 1):
        return g.add(reshape, [x], to=(1, -1) if axis == 0 else (0, -1))
    axis = axis_of(axis, node.rank(0), "flatten") if axis != node.rank(0) else axis
    return g.add(
        reshape, [x], **reshape_attrs((product(x.shape[:axis]), product(x.shape[axis:])), x.spec)
    )


def _chain(g, x, to, perm, back):
    y = g.add(reshape, [x], **reshape_attrs(to, x.spec))
    y = g.add("transpose", [y], perm=perm)
    return g.add(reshape, [y], **reshape_attrs(back, y.spec))


@reshape.importer("DepthToSpace")
def depth_to_space_from_onnx(g, node):
    (x,) = node.inputs
    n, c, h, w = x.shape
    b = node.attr("blocksize")
    c, back = c // (b * b), (n, c // (b * b), h * b, w * b)
    if node.attr("mode", "DCR") == "DCR":
        return _chain(g, x, (n, b, b, c, h, w), (0, 3, 4, 1, 5, 2), back)
    return _chain(g, x, (n, c, b, b, h, w), (0, 1, 4, 2, 5, 3), back)


@reshape.importer("SpaceToDepth")
def space_to_depth_from_onnx(g, node):
    (x,) = node.inputs
    n, c, h, w = x.shape
    b = node.attr("blocksize")
    perm = (0, 3, 5, 1, 2, 4) if node.attr("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return _chain(g, x, (n, c, h // b, b, w // b, b), perm, (n, c * b * b, h // b, w // b))


@reshape.cases
def reshape_cases(rng):
    yield dict(x=rng(2, 3, 4), to=(4, 6))
    yield dict(x=rng(2, 3, 4), to=(0, -1))
    yield dict(x=rng(2, 3, 4), shape=np.array([1, 0, 2, -1]))
    yield dict(x=rng(2, 12, 5), to=(2, 2, 6, 5))
    yield dict(x=rng(0, 3, 4), to=(0, -1))
    yield dict(x=rng(0, 3), to=(3, 0), allowzero=True)
    yield dict(x=rng(1, 1), to=())


# -- squeeze, unsqueeze ----------------------------------------------------------------------------
def _axes(who: str, at, axes, rank: int, index: int) -> tuple:
    if axes is None:
        need(at, index)
        axes = ints_of(at)
    out = tuple(axis_of(a, rank, who) for a in axes)
    if len(set(out)) != len(out):
        raise ShapeError(
            f"[{who}] found axes {tuple(axes)} for {rank} dimensions; expected each once; "
            "correct the axes"
        )
    return out


def _squeezed(x, at, axes) -> tuple:
    """The axes to take away, counted from 0."""
    if axes is not None or at is not None:
        return _axes("squeeze", at, axes, x.rank, 1)
    if not x.concrete:
        raise NeedValue(0)
    return tuple(k for k, d in enumerate(x.shape) if d == 1)


@squeeze.rule
def squeeze_rule(x, at=None, axes=None):
    gone = _squeezed(x, at, axes)
    for k in gone:
        if not isinstance(x.shape[k], Sym) and x.shape[k] != 1:
            raise ShapeError(
                f"[squeeze] found axis {k} of {x}; expected length 1; correct the axes"
            )
    return Spec([d for k, d in enumerate(x.shape) if k not in gone], x.dtype)


@squeeze.reference
def squeeze_reference(x, at=None, axes=None):
    axes = at.tolist() if axes is None and at is not None else axes
    return np.squeeze(x, None if axes is None else tuple(axes))


@squeeze.view
def squeeze_view(strides, x, outs, axes):
    return [(0, restride(x.shape, strides, outs[0].shape))]


@squeeze.transpose
def squeeze_transpose(perm, i, ins, attrs):
    if i or attrs["axes"] is None:
        return None
    gone = {perm[axis_of(a, len(perm), "squeeze")] for a in attrs["axes"]}
    got = [p for p in perm if p not in gone]
    return Permuted([perm], [relabel(got, sorted(got))], {"axes": tuple(sorted(gone))})


@squeeze.batch
def squeeze_batch(axes, ins, outs, attrs):
    gone = _squeezed(*ins, *[None] * (2 - len(ins)), attrs["axes"])
    return (
        None if axes[0] is None or axes[0] in gone else [axes[0] - sum(k < axes[0] for k in gone)]
    )


@squeeze.importer("Squeeze", takes="f16 bits")
def squeeze_from_onnx(g, node):
    return _from_onnx(g, node, squeeze)


@squeeze.cases
def squeeze_cases(rng):
    yield dict(x=rng(1, 3, 1, 4))
    yield dict(x=rng(1, 3, 1, 4), axes=(2,))
    yield dict(x=rng(1, 3, 1, 4), at=np.array([0, -2]))


@unsqueeze.rule
def unsqueeze_rule(x, at=None, axes=None):
    if axes is None:
        need(at, 1)
    rank = x.rank + len(axes if axes is not None else ints_of(at))
    put = _axes("unsqueeze", at, axes, rank, 1)
    rest = iter(x.shape)
    return Spec([1 if k in put else next(rest) for k in range(rank)], x.dtype)


@unsqueeze.reference
def unsqueeze_reference(x, at=None, axes=None):
    return np.expand_dims(x, tuple(at.ravel().tolist() if axes is None else axes))


@unsqueeze.view
def unsqueeze_view(strides, x, outs, axes):
    return [(0, restride(x.shape, strides, outs[0].shape))]


@unsqueeze.transpose
def unsqueeze_transpose(perm, i, ins, attrs):
    if i or attrs["axes"] is None:
        return None
    rank = len(perm) + len(attrs["axes"])
    put = {axis_of(a, rank, "unsqueeze") for a in attrs["axes"]}
    home = [k for k in range(rank) if k not in put]
    moved = iter(perm)
    got = [k if k in put else home[next(moved)] for k in range(rank)]
    return Permuted([perm], [relabel(got, range(rank))], attrs)


@unsqueeze.batch
def unsqueeze_batch(axes, ins, outs, attrs):
    if axes[0] is None:
        return None
    put = _axes("unsqueeze", ins[1] if len(ins) > 1 else None, attrs["axes"], outs[0].rank, 1)
    return [[k for k in range(outs[0].rank) if k not in put][axes[0]]]


@unsqueeze.importer("Unsqueeze", takes="f16 bits")
def unsqueeze_from_onnx(g, node):
    return _from_onnx(g, node, unsqueeze)


@unsqueeze.cases
def unsqueeze_cases(rng):
    yield dict(x=rng(3, 4), axes=(0, 3))
    yield dict(x=rng(3, 4), axes=(-1,))
    yield dict(x=rng(3), at=np.array([1]))


def _from_onnx(g, node, op):
    """Axes are an attribute before opset 13, an input from then on."""
    x, at = (*node.inputs, None)[:2]
    axes = node.attr("axes")
    if at is not None and at.const is not None:
        axes = ints_of(at)
    return g.add(
        op,
        [x, at] if at is not None and axes is None else [x],
        axes=None if axes is None else tuple(axes),
    )


@squeeze.fuse(P.squeeze())
def settle_squeeze(g, m):
    """Axes that are known have their place in `axes`."""
    return _settle(g, m.root)


@unsqueeze.fuse(P.unsqueeze())
def settle_unsqueeze(g, m):
    """Axes that are known have their place in `axes`."""
    return _settle(g, m.root)


def _settle(g, node):
    axes = ints_of(node.inputs[1]) if len(node.inputs) > 1 else None
    return (
        None
        if axes is None or node.attrs["axes"] is not None
        else g.add(node.op, [node.inputs[0]], axes=axes)
    )
