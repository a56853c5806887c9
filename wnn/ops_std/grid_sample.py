"""y: x read at the points of a grid, channels last; between elements, interpolated.

x: (N, *spatial, C)    y: (N, *out, C)
grid: (N, *out, D), D = number of spatial axes; numbers in [-1, 1], the last spatial axis first.
mode: nearest, linear, cubic.  padding: what lies outside x: zeros, border, reflection.
align: whether -1 and 1 are the centres of x's outermost elements, or their outer edges.
Source: ONNX GridSample-20.
"""

import struct

import numpy as np

from ..errors import ShapeError, UnsupportedError
from ..op import Op
from ..rules import differ, same_dtype
from .sampling import cubic

MODES = ("nearest", "linear", "cubic")
PADDINGS = ("zeros", "border", "reflection")
op = Op(
    "grid_sample",
    inputs="x grid",
    attrs={"mode": "linear", "padding": "zeros", "align": False},
    tol={"f32": (2e-5, 2e-5)},
)


@op.rule
def rule(x, grid, mode, padding, align):
    if mode not in MODES or padding not in PADDINGS:
        raise UnsupportedError(
            f"[grid_sample] found mode {mode!r}, padding {padding!r}; "
            f"expected one of {MODES} and of {PADDINGS}; correct the attributes"
        )
    fits = grid.rank == x.rank > 2 and not differ(grid.shape[-1], x.rank - 2)
    if not fits or differ(x.shape[0], grid.shape[0]):
        raise ShapeError(
            f"[grid_sample] found x {x} and grid {grid}; "
            "expected (N, *spatial, C) and (N, *out, spatial axes); correct the model"
        )
    same_dtype("grid_sample", x, grid)
    return x.like((*grid.shape[:-1], x.shape[-1]))


def _reflected(v: np.ndarray, low: float, high: float) -> np.ndarray:
    span = high - low
    if span <= 0:
        return np.full_like(v, low)
    t = np.abs(v - low) % (2 * span)
    return low + np.where(t > span, 2 * span - t, t)


def _taps(at: np.ndarray, d: int, mode: str, padding: str, align: bool) -> list[tuple]:
    """[(index, weight, whether it counts)] along one axis of length d."""
    low, high = (0, d - 1) if align else (-0.5, d - 0.5)
    v = (at + 1) / 2 * (d - 1) if align else ((at + 1) * d - 1) / 2
    v = np.clip(np.nan_to_num(v, nan=-1e8, posinf=1e8, neginf=-1e8), -1e8, 1e8)
    v = np.rint(v) if mode == "nearest" else v
    outside = (v < low) | (v > high)
    if padding == "border" and mode != "cubic":  # whose four taps are each moved, as torch has it
        v = np.where(outside, np.clip(v, 0, d - 1), v)
    elif padding == "reflection":
        v = np.where(outside, _reflected(v, low, high), v)
    first = np.floor(v)
    out = []
    for k in {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}[mode]:
        i = first + k
        t = np.abs(v - i)
        w = 1 if mode == "nearest" else 1 - t if mode == "linear" else cubic(t, -0.75)
        counts = (i >= 0) & (i < d) if padding == "zeros" else np.ones(i.shape, bool)
        if padding == "reflection":
            i = np.where((i < low) | (i > high), np.trunc(_reflected(i, low, high)), i)
        out.append((np.clip(i, 0, d - 1).astype(np.int64), w, counts))
    return out


@op.reference
def reference(x, grid, mode, padding, align):
    spatial = x.shape[1:-1]
    n = np.arange(x.shape[0]).reshape((-1,) + (1,) * (grid.ndim - 2))
    y = np.zeros((*grid.shape[:-1], x.shape[-1]), x.dtype)
    if 0 in y.shape or 0 in spatial:
        return y
    axes = [_taps(grid[..., -1 - a], d, mode, padding, align) for a, d in enumerate(spatial)]
    for at in np.ndindex(*[len(t) for t in axes]):
        picked = [t[k] for t, k in zip(axes, at)]
        weight = np.ones(grid.shape[:-1], x.dtype)
        for _, w, counts in picked:
            weight = weight * np.where(counts, w, 0)
        y += x[(n, *[i for i, *_ in picked])] * weight[..., None]
    return y


op.nonfinite = False  # a neighbour of weight 0 need not be read


@op.batch
def batch(axes, ins, outs, attrs):
    return [0] if axes[0] == axes[1] == 0 else None


@op.kernel("f32 f32", "grid_sample_f32", accept=lambda x: x.rank <= 5)
def pack(mode, padding, align):
    return struct.pack("qqq", MODES.index(mode), PADDINGS.index(padding), align)


@op.importer("GridSample", since=16)
def from_onnx(g, node):
    x, grid = node.inputs
    rank = node.rank(0)
    mode = node.attr("mode", "linear")
    y = g.add(
        op,
        [g.add("transpose", [x], perm=(0, *range(2, rank), 1)), grid],
        mode={"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode),
        padding=node.attr("padding_mode", "zeros"),
        align=bool(node.attr("align_corners", 0)),
    )
    return g.add("transpose", [y], perm=(0, rank - 1, *range(1, rank - 1)))


@op.cases
def cases(rng):
    for mode in MODES:
        for padding in PADDINGS:
            yield dict(
                x=rng(2, 5, 7, 19),
                grid=rng(2, 3, 4, 2),
                mode=mode,
                padding=padding,
                align=padding == "border",
            )
    yield dict(x=rng(1, 3, 4, 5, 8), grid=rng(1, 2, 3, 2, 3), align=True)
    yield dict(x=rng(1, 6, 33), grid=rng(1, 9, 1), padding="reflection")


@op.benches
def benches(rng):
    for channels in (1, 32):
        yield dict(x=rng(1, 32, 40, channels), grid=np.tanh(rng(1, 100, 64, 2)))
