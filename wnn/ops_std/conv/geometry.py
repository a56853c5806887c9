"""What the convolutions share: output lengths, padding, windows in numpy, and ONNX's way of writing
it all.
"""

from __future__ import annotations

import itertools
import struct

import numpy as np

from ...errors import ShapeError
from ...op import Spec
from ...rules import differ, may_be

KERNEL_ROWS = 64  # most_rows of conv.h
ATTRS = {"kernel": ..., "strides": ..., "pads": ..., "dilations": ..., "auto_pad": ""}


def resolve_pads(
    spatial: tuple, kernel: tuple, strides: tuple, pads: tuple, dilations: tuple, auto_pad: str
) -> tuple:
    """(before..., after...) along each spatial axis. auto_pad: "", "same_upper" or "same_lower"."""
    if not auto_pad:
        return pads
    before, after = [], []
    for d, k, s, dil in zip(spatial, kernel, strides, dilations):
        out = (d + s - 1) // s
        total = (out - 1) * s + (k - 1) * dil + 1 - d
        total = max(total, 0) if isinstance(total, int) else total
        small = total // 2
        first, second = (
            (small, total - small) if auto_pad == "same_upper" else (total - small, small)
        )
        before.append(first)
        after.append(second)
    return (*before, *after)


def output_shape(
    who: str, spatial: tuple, kernel, strides, pads, dilations, auto_pad: str
) -> tuple:
    """Lengths of the output's spatial axes."""
    n = len(spatial)
    if not (len(kernel) == len(strides) == len(dilations) == n and len(pads) == 2 * n):
        raise ShapeError(
            f"[{who}] found kernel {kernel}, strides {strides}, pads {pads}, dilations {dilations} "
            f"for {n} spatial "
            "axes; expected one of each per axis and two pads; correct the attributes"
        )
    if any(s < 1 for s in (*strides, *dilations, *kernel)) or any(p < 0 for p in pads):
        raise ShapeError(
            f"[{who}] found kernel {kernel}, strides {strides}, dilations {dilations}, "
            f"pads {pads}; expected positive numbers, and pads from 0 on; correct the attributes"
        )
    if auto_pad:
        return tuple((d + s - 1) // s for d, s in zip(spatial, strides))
    out = []
    for i, (d, k, s, dil) in enumerate(zip(spatial, kernel, strides, dilations)):
        length = (d + pads[i] + pads[n + i] - (k - 1) * dil - 1) // s + 1
        if isinstance(length, int) and length < 0:
            length = 0
        out.append(length)
    return tuple(out)


def channels(who: str, x: Spec, w: Spec, bias: Spec | None, kernel: tuple, groups: int):
    """How many channels the output has, by w (groups, taps * C / groups, M / groups)."""
    taps = int(np.prod(kernel))
    if (
        w.rank != 3
        or w.shape[0] != groups
        or x.rank != len(kernel) + 2
        or differ(w.shape[1] * groups, taps * x.shape[-1])
    ):
        raise ShapeError(
            f"[{who}] found x {x}, w {w}, kernel {kernel}, groups {groups}; expected x (N, "
            f"*spatial, C) with C = {w.shape[1]} * groups / {taps} channels; check the input's "
            "channels"
        )
    m = groups * w.shape[2]
    if bias is not None and not may_be(bias.shape, (m,)):
        raise ShapeError(
            f"[{who}] found bias {bias}; expected ({m},), one per output channel; reshape it"
        )
    return m


def windows(x: np.ndarray, out: tuple, kernel, strides, pads, dilations, fill: float = 0.0):
    """Yields (tap number, x seen through that tap), x: (N, *spatial, C) -> (N, *out, C)."""
    n = len(kernel)
    reach = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(out, strides, kernel, dilations)]
    after = [max(r - dim - p, 0) for r, dim, p in zip(reach, x.shape[1:-1], pads)]
    padded = np.pad(x, [(0, 0), *zip(pads[:n], after), (0, 0)], constant_values=fill)
    for t, offsets in enumerate(itertools.product(*map(range, kernel))):
        cut = [
            slice(o * d, o * d + (m - 1) * s + 1 if m else 0, s)
            for o, d, m, s in zip(offsets, dilations, out, strides)
        ]
        yield t, padded[(slice(None), *cut)]


def three(values: tuple, fill: int) -> tuple:
    """Up to three spatial numbers, led by `fill`."""
    return (fill,) * (3 - len(values)) + tuple(values)


def pack(x, kernel, strides, pads, dilations, auto_pad, groups: int) -> bytes:
    """ConvAttrs of conv.h."""
    n = len(kernel)
    pads = resolve_pads(x.shape[1:-1], kernel, strides, pads, dilations, auto_pad)
    return struct.pack(
        "14i",
        *three(kernel, 1),
        *three(strides, 1),
        *three(pads[:n], 0),
        *three(dilations, 1),
        groups,
        0,
    )


def from_onnx(node, spatial: int, kernel: tuple | None) -> dict:
    """The attributes that ONNX's Conv and pooling operators have in common."""
    kernel = tuple(node.attr("kernel_shape") or kernel or ())
    auto = (node.attr("auto_pad") or "NOTSET").lower()
    return {
        "kernel": kernel,
        "strides": tuple(node.attr("strides") or (1,) * spatial),
        "pads": tuple(node.attr("pads") or (0,) * 2 * spatial)
        if auto == "notset"
        else (0,) * 2 * spatial,
        "dilations": tuple(node.attr("dilations") or (1,) * spatial),
        "auto_pad": auto if auto.startswith("same") else "",
    }


def to_last(rank: int) -> tuple[int, ...]:
    """The permutation from N C spatial to N spatial C."""
    return (0, *range(2, rank), 1)


def to_first(rank: int) -> tuple[int, ...]:
    """The permutation from N spatial C to N C spatial."""
    return (0, rank - 1, *range(1, rank - 1))


def batch_first(axes, ins, outs, attrs):
    """Batch rule: samples lie along axis 0 of x and of what post-operations add; weights are
    shared.
    """
    if (
        axes[0] != 0
        or any(a is not None for a in axes[1:3])
        or any(a != 0 for a, s in zip(axes[3:], ins[3:]) if s.rank > 1)
    ):
        return None
    return [0] * len(outs)
