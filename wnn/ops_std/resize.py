"""y: x resampled along some axes, one after another: y_o = sum_k weight[o, k] x[index[o, k]].

x: any rank; f32, or any dtype in mode "nearest".
factors, size: what x's lengths are multiplied by (and rounded down), or become, for every axis;
    where both are given, factors say how coordinates map. Or the values of scales or sizes, for
    `axes` alone where given.
mode: nearest, linear, cubic.  coordinates, nearest, cubic_a, exclude_outside, extrapolation,
    antialias, policy: ONNX's coordinate_transformation_mode, nearest_mode, cubic_coeff_a, ...,
    keep_aspect_ratio_policy.  window: its roi, (start, end) for every axis.
Source: ONNX Resize-19.
"""

import struct
from fractions import Fraction

import numpy as np

from ..errors import ShapeError, UnsupportedError
from ..op import Op, Permuted, Spec, need
from ..pattern import P, V
from ..rules import axis_of, bounded, ints_of, inverse, settled
from ..symbols import Sym
from .sampling import COORDINATES, MODES, NEAREST, taps

POLICIES = ("stretch", "not_larger", "not_smaller")

op = Op(
    "resize",
    inputs="x roi? scales? sizes?",
    attrs={
        "mode": "nearest",
        "coordinates": "half_pixel",
        "nearest": "round_prefer_floor",
        "cubic_a": -0.75,
        "exclude_outside": False,
        "extrapolation": 0.0,
        "antialias": False,
        "policy": "stretch",
        "axes": None,
        "factors": None,
        "size": None,
        "window": None,
    },
)


# -- shapes ----------------------------------------------------------------------------------------
def _grown(d, factor: float):
    """floor(d * factor)."""
    if not 0 < factor < 1e9:
        raise ShapeError(
            f"[resize] found factor {factor}; expected a positive number; correct the scales"
        )
    if not isinstance(d, Sym):
        return int(np.floor(d * factor))
    f = Fraction(factor).limit_denominator(64)
    return d * f.numerator // f.denominator


def _shared(x: Spec, over: tuple, want: tuple, policy: str) -> tuple[list, list]:
    """Sizes and factors for one factor along all axes."""
    pick = min if policy == "not_larger" else max
    factor = pick(n / x.shape[a] for a, n in zip(over, want))
    return [int(np.floor(factor * x.shape[a] + 0.5)) for a in over], [factor] * len(over)


def geometry(
    x, roi, scales, sizes, axes, factors, size, window, policy
) -> tuple[tuple, tuple, tuple]:
    """(lengths, factors, window) of every axis; a factor of None is the ratio of the lengths."""
    rank = x.rank
    if factors is None and size is None:
        over = (
            tuple(range(rank)) if axes is None else tuple(axis_of(a, rank, "resize") for a in axes)
        )
        lengths, ratios = list(x.shape), [1.0] * rank
        if sizes is not None:
            need(sizes, 3)
            want = ints_of(sizes)
            each = [
                None if isinstance(n, Sym) or n != x.shape[a] else 1.0 for a, n in zip(over, want)
            ]
            if policy != "stretch":
                want, each = _shared(x, over, want, policy)
        else:
            if scales is None:
                raise ShapeError(
                    f"[resize] found neither scales nor sizes for {x}; expected one of them; "
                    "correct the model"
                )
            each = [float(f) for f in need(scales, 2).ravel()]
            want = [_grown(x.shape[a], f) for a, f in zip(over, each)]
        if len(each) != len(over):
            raise ShapeError(
                f"[resize] found {len(each)} numbers for axes {over} of {x}; "
                "expected one for each; correct the scales or sizes"
            )
        bounds = need(roi, 1).ravel() if roi is not None and roi.size else None
        crop = [(0.0, 1.0)] * rank
        for k, a in enumerate(over):
            lengths[a], ratios[a] = want[k], each[k]
            if bounds is not None:
                crop[a] = (float(bounds[k]), float(bounds[k + len(over)]))
        size, factors, window = tuple(lengths), tuple(ratios), tuple(crop)
    elif size is None:
        size = tuple(_grown(d, f) for d, f in zip(x.shape, factors))
    factors = factors or tuple(
        None if isinstance(n, Sym) or n != d else 1.0 for n, d in zip(size, x.shape)
    )
    if len(size) != rank or len(factors) != rank:
        raise ShapeError(
            f"[resize] found {len(size)} lengths for {x}; expected {rank}; "
            "correct the scales or sizes"
        )
    if any(not isinstance(n, Sym) and (n < 0 or n > 0 and d == 0) for n, d in zip(size, x.shape)):
        raise ShapeError(
            f"[resize] found {x} to become {size}, factors {factors}; expected positive ones; "
            "correct the scales or sizes"
        )
    return size, factors, window or ((0.0, 1.0),) * rank


@op.rule
def rule(
    x,
    roi=None,
    scales=None,
    sizes=None,
    mode="nearest",
    coordinates="half_pixel",
    nearest="round_prefer_floor",
    axes=None,
    factors=None,
    size=None,
    window=None,
    policy="stretch",
    **rest,
):
    for found, known in (
        (mode, MODES),
        (coordinates, COORDINATES),
        (nearest, NEAREST),
        (policy, POLICIES),
    ):
        if found not in known:
            raise UnsupportedError(
                f"[resize] found {found!r}; expected one of {known}; correct the attributes"
            )
    return bounded(
        "resize",
        Spec(geometry(x, roi, scales, sizes, axes, factors, size, window, policy)[0], x.dtype),
    )


# -- meaning ---------------------------------------------------------------------------------------
@op.outline
def outline(symbol, x, roi=None, scales=None, sizes=None, axes=None, **rest):
    over = range(x.rank) if axes is None else [axis_of(a, x.rank, "resize") for a in axes]
    return x.like([symbol("size") if i in over else d for i, d in enumerate(x.shape)])


@op.reference
def reference(
    x,
    roi=None,
    scales=None,
    sizes=None,
    axes=None,
    factors=None,
    size=None,
    window=None,
    policy="stretch",
    **how,
):
    given = [None if v is None else Spec.of(v) for v in (roi, scales, sizes)]
    size, factors, window = geometry(Spec.of(x), *given, axes, factors, size, window, policy)
    y, outside = x, np.zeros((1,) * x.ndim, bool)
    for a, (n, f) in enumerate(zip(size, factors)):
        if f == 1.0 and window[a] == (0.0, 1.0):
            continue
        index, weight, inside = taps(n, x.shape[a], f, window[a], **how)
        if how["mode"] == "nearest":
            y = np.take(y, index[:, 0], a)
        else:
            y = sum(
                np.take(y, index[:, k], a)
                * weight[:, k].reshape([-1 if b == a else 1 for b in range(x.ndim)])
                for k in range(index.shape[1])
            )
        outside = outside | ~inside.reshape([-1 if b == a else 1 for b in range(x.ndim)])
    y = np.where(outside, np.asarray(how["extrapolation"], y.dtype), y) if outside.any() else y
    return np.round(y) if x.dtype.kind in "iu" and how["mode"] != "nearest" else y


@op.transpose
def transpose(perm, i, ins, attrs):
    if i or (attrs["factors"] is None and attrs["size"] is None):
        return None
    moved = {}
    for key in ("factors", "size", "window"):
        if attrs[key] is not None:
            row = [None] * len(perm)
            for k, p in enumerate(perm):
                row[p] = attrs[key][k]
            moved[key] = tuple(row)
    last = perm.index(len(perm) - 1)
    if _last_changes(moved, ins[0].shape[last]) and not _last_changes(attrs, ins[0].shape[-1]):
        return None  # see channels_last
    return Permuted([perm], [perm], {**attrs, **moved})


def _last_changes(attrs, length) -> bool:
    """Whether the last axis, of that length, is resampled."""
    size, factors = attrs.get("size"), attrs.get("factors")
    return factors[-1] not in (1.0, None) if size is None else size[-1] != length


@op.fuse(P.resize(V("x")))
def channels_last(g, m):
    """Whole vectors of channels are resampled instead of single elements of rows."""
    x, perm = m.x.spec, (0, *range(2, m.x.spec.rank), 1)
    moved = transpose(inverse(perm), 0, [x], m.root.attrs) if x.rank > 2 else None
    if moved is None or isinstance(x.shape[1], Sym) or x.shape[1] < 16:
        return None
    if _last_changes(moved.attrs, x.shape[1]) or not _last_changes(m.root.attrs, x.shape[-1]):
        return None
    if g.is_output(m.root.outputs[0]):
        return None
    y = g.add(op, [g.add("transpose", [m.x], perm=perm)], **moved.attrs)
    return g.add("transpose", [y], perm=inverse(perm))


op.any_layout = True
op.nonfinite = False  # a neighbour of weight 0 need not be read


@op.batch
def batch(axes, ins, outs, attrs):
    a = axes[0]
    if (
        a is None
        or any(b is not None for b in axes[1:])
        or attrs["coordinates"] == "tf_crop_and_resize"
    ):
        return None
    return (
        [a]
        if ins[0].shape[a] == outs[0].shape[a]
        and (attrs["factors"] is None or attrs["factors"][a] in (1.0, None))
        else None
    )


# -- kernels ---------------------------------------------------------------------------------------
def pack(
    x,
    roi,
    scales,
    sizes,
    mode,
    coordinates,
    nearest,
    cubic_a,
    exclude_outside,
    extrapolation,
    antialias,
    policy,
    axes,
    factors,
    size,
    window,
):
    """int64 axes; for each that is resampled: int64 axis, taps, then int32 index[taps][n], f32
    weight[taps][n], each padded to 8 bytes.
    """
    size, factors, window = geometry(x, roi, scales, sizes, axes, factors, size, window, policy)
    parts = []
    for a, (n, f) in enumerate(zip(size, factors)):
        if f == 1.0 and window[a] == (0.0, 1.0):
            continue
        index, weight, _ = taps(
            n,
            x.shape[a],
            f,
            window[a],
            mode,
            coordinates,
            nearest,
            cubic_a,
            exclude_outside,
            antialias,
        )
        parts += [
            struct.pack("qq", a, index.shape[1]),
            *[_padded(t.T.tobytes()) for t in (index.astype(np.int32), weight.astype(np.float32))],
        ]
    return struct.pack("q", len(parts) // 3) + b"".join(parts)


def _padded(b: bytes) -> bytes:
    return b + b"\0" * (-len(b) % 8)


def _inside(coordinates):
    return coordinates != "tf_crop_and_resize"


op.kernel(
    "f32 *",
    "resize_f32",
    accept=lambda mode, coordinates: mode != "nearest" and _inside(coordinates),
)(pack)
op.kernel(
    "*",
    "resize_nearest",
    accept=lambda mode, coordinates: mode == "nearest" and _inside(coordinates),
)(pack)


# -- ONNX ------------------------------------------------------------------------------------------
@op.fuse(P.resize())
def settle(g, m):
    """Scales and sizes that are known have their place in `factors` and `size`."""
    node = m.root
    x, roi, scales, sizes = (*node.inputs, None, None, None)[:4]
    known = [v for v in (roi, scales, sizes) if v is not None]
    if (
        not known
        or any(v.spec.value is None for v in known)
        or sizes is not None
        and not x.spec.concrete
        and node.attrs["policy"] != "stretch"
    ):
        return None
    specs = [None if v is None else v.spec for v in (roi, scales, sizes)]
    size, factors, window = geometry(
        x.spec, *specs, *[node.attrs[k] for k in ("axes", "factors", "size", "window", "policy")]
    )
    if sizes is None:
        size = None
    elif not settled(g, *size):
        return None
    elif node.attrs["policy"] == "stretch":
        factors = None
    attrs = {**node.attrs, "axes": None, "policy": "stretch", "factors": factors, "size": size}
    return g.add(
        op,
        [x],
        **{
            **attrs,
            "window": window if node.attrs["coordinates"] == "tf_crop_and_resize" else None,
        },
    )


@op.importer("Upsample")
def upsample_from_onnx(g, node):
    x = node.inputs[0]
    how = {"mode": node.attr("mode", "nearest"), "coordinates": "asymmetric", "nearest": "floor"}
    if node.attr("scales") is not None:
        return g.add(op, [x], factors=tuple(node.attr("scales")), **how)
    return g.add(op, [x, None, node.inputs[1]], **how)


@op.importer("Resize", since=10, takes="")
def resize10_from_onnx(g, node):
    x, scales = node.inputs
    return g.add(
        op,
        [x, None, scales],
        mode=node.attr("mode", "nearest"),
        coordinates="asymmetric",
        nearest="simple",
    )


@op.importer("Resize", since=11, takes="")
def from_onnx(g, node):
    x, roi, scales, sizes = (*node.inputs, None, None, None)[:4]
    if scales is not None and scales.spec is not None and scales.spec.shape == (0,):
        scales = None
    coordinates = node.attr("coordinate_transformation_mode", "half_pixel")
    axes = node.attr("axes")
    return g.add(
        op,
        [x, roi if coordinates == "tf_crop_and_resize" else None, scales, sizes],
        mode=node.attr("mode", "nearest"),
        coordinates=coordinates,
        nearest=node.attr("nearest_mode", "round_prefer_floor"),
        cubic_a=node.attr("cubic_coeff_a", -0.75),
        exclude_outside=bool(node.attr("exclude_outside", 0)),
        extrapolation=node.attr("extrapolation_value", 0.0),
        antialias=bool(node.attr("antialias", 0)),
        policy=node.attr("keep_aspect_ratio_policy", "stretch"),
        axes=None if axes is None else tuple(axes),
    )


@op.cases
def cases(rng):
    x = rng(1, 5, 7, 19)
    for coordinates in COORDINATES[:5]:
        yield dict(x=x, size=(1, 9, 4, 19), mode="linear", coordinates=coordinates)
        yield dict(x=x, size=(1, 9, 4, 19), coordinates=coordinates)
    for nearest in NEAREST:
        yield dict(x=x, factors=(1.0, 1.0, 2.0, 0.6), nearest=nearest, coordinates="asymmetric")
    yield dict(x=x, factors=(1.0, 2.0, 2.0, 1.0), mode="linear")
    yield dict(x=x, scales=np.float32([1, 1.5, 0.5, 1]), mode="cubic")
    yield dict(
        x=x,
        sizes=np.array([8, 20]),
        axes=(-3, -1),
        mode="cubic",
        cubic_a=-0.5,
        exclude_outside=True,
    )
    for shape, size in [
        ((2, 3, 9, 21), (2, 3, 30, 50)),
        ((1, 2, 3, 4), (1, 2, 9, 70)),
        ((1, 2, 5, 60), (1, 2, 40, 23)),
        ((3, 5, 8), (3, 5, 33)),
    ]:
        for mode in ("linear", "cubic"):
            yield dict(x=rng(*shape), size=size, mode=mode)
            yield dict(x=rng(*shape), size=size, mode=mode, coordinates="align_corners")
    yield dict(x=x, size=(1, 3, 3, 8), mode="linear", antialias=True)
    yield dict(x=x, size=(1, 3, 3, 8), mode="cubic", antialias=True)
    yield dict(x=x, sizes=np.array([6, 6]), axes=(1, 2), policy="not_larger", mode="linear")
    yield dict(
        x=x,
        roi=np.float32([0.2, 0.1, 1.4, 0.9]),
        sizes=np.array([4, 6]),
        axes=(1, 2),
        mode="linear",
        coordinates="tf_crop_and_resize",
        extrapolation=9.0,
    )
    yield dict(
        x=rng.integers(0, 255, (1, 4, 4, 3)).astype(np.uint8),
        factors=(1.0, 2.0, 2.0, 1.0),
        coordinates="asymmetric",
        nearest="floor",
    )


@op.benches
def benches(rng):
    x = rng(1, 40, 40, 96)
    yield dict(x=x, factors=(1.0, 2.0, 2.0, 1.0), coordinates="asymmetric", nearest="floor")
    yield dict(x=x, factors=(1.0, 2.0, 2.0, 1.0), mode="linear")
    yield dict(x=rng(1, 3, 120, 160), factors=(1.0, 1.0, 2.0, 2.0), mode="linear")
    yield dict(x=rng(1, 120, 160, 3), factors=(1.0, 2.0, 2.0, 1.0), mode="cubic")
