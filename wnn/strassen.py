"""Large products by one level of Strassen's algorithm (ops_std/strassen.cc): seven products of
halves instead of eight. Its rows are paired, so it is for those that belong to one sample.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

import numpy as np

from . import post as posts
from .batching import sample_axes
from .graph import Graph
from .op import Spec

if TYPE_CHECKING:
    from .passes import Context


MAKE, KEEP = 1, 2  # values of the attribute: how the sums of panels come about
WINDOW = ("kernel", "strides", "pads", "dilations", "auto_pad")
FEW_ROWS = 256  # of a sample, so few that sums of panels take too long to be made in each call
KEPT = 64 << 20  # bytes of weights of a model, to which as much is added at the most


def strassen(g: Graph, ctx: Context) -> bool:
    """Products whose rows belong to samples along axis 0, or to the only sample that a graph takes,
    may be by Strassen's algorithm; which are, the plan knows by their shapes.
    """
    if g is not ctx.graph:  # a body: what its inputs hold is not known
        return False
    single = all(v.spec is not None and v.spec.shape[:1] == (1,) for v in g.inputs)
    axes, _ = sample_axes(g)
    changed, room = False, KEPT
    for node in g.nodes:
        if "strassen" not in node.op.attrs or node.inputs[1].const is None:
            continue
        if "kernel" in node.attrs and not rows_of(*map(node.attrs.get, WINDOW)):
            continue
        x, out = node.inputs[0], node.outputs[0].spec
        if x.spec is None or not (single or axes.get(x) == 0):
            continue
        mode, size = MAKE, node.inputs[1].const.data.nbytes
        # a new length is to be planned at once: then none are kept
        if all(isinstance(d, int) for d in out.shape[1:]) and size <= room:
            rows = math.prod(out.shape[1:-1])
            mode, room = KEEP, room - size * (rows <= FEW_ROWS)
        node.attrs["strassen"], changed = mode, True
    return changed


def rows_of(kernel: tuple, strides: tuple, pads: tuple, dilations: tuple, auto_pad: str) -> int:
    """How many rows of x (N, *spatial, C) lie between those that a convolution multiplies by its
    weights: single ones, or along one axis windows of several, which lie in memory as rows do. 0
    where they do not.
    """
    if any(pads) or auto_pad or any(d != 1 for d in dilations):
        return 0
    if len(kernel) == 1:
        return strides[0]
    return int(math.prod(kernel) == math.prod(strides) == 1)


def _sizes(w: Spec, out: Spec) -> tuple[int, int, int]:
    k, n = w.shape[-2:]
    return out.size // n // out.shape[0], k, n


def pays(w: Spec, out: Spec, strassen: int) -> bool:
    """Whether rows (samples, ..., K) times w, a matrix, take less time so: one product in eight is
    saved, for sums of products, of the matrix and of rows. Shares of the time as measured on Zen 4
    and Zen 5 with vectors of 16; with shorter ones nothing is gained, and there is no kernel.
    """
    if not strassen or not out.concrete or out.rank < 3 or not out.size * w.size or w.shape[-2] % 2:
        return False
    m, k, n = _sizes(w, out)
    share = 13 / k + (5 if _kept(m, strassen) else 10) / m + 4 / n
    return n >= 160 and share < 0.08


def _kept(m: int, strassen: int) -> bool:
    return strassen == KEEP and m <= FEW_ROWS


def half_block(k: int, n: int) -> int:
    """Half the width of the blocks of columns, which tiles of three vectors fill best: with long
    columns less, that they stay in L2, and else what leaves few columns over.
    """
    panels = n // 16
    halves = [p for p in ((3, 6, 8) if k > 512 else (6, 3, 8)) if 2 * p <= panels]
    return 16 * min(halves, key=lambda p: panels % (2 * p))


def pack(w: Spec, out: Spec, strassen: int, post: tuple, step: int) -> bytes:
    """struct { int32 half, kept, step; posts }. step: rows of x from one row to the next."""
    m, k, n = _sizes(w, out)
    return struct.pack("iii", half_block(k, n), _kept(m, strassen), step) + posts.pack(post)


def derive(w: Spec, out: Spec, strassen: int) -> list:
    """The sums of panels, where they are kept: as much memory again as the weights."""
    m, k, n = _sizes(w, out)
    half = half_block(k, n)
    return [("w", f"strassen {half}", lambda w: sums(w, k, half))] if _kept(m, strassen) else []


def sums(w: np.ndarray, k: int, half: int) -> np.ndarray:
    """T1 to T4 of each block, as panels, each followed by the largest magnitude and zeros up to
    the step that strassen.cc expects: (blocks, 4, half * k / 2 + 320).
    """
    blocks = w.shape[-1] // (2 * half)
    w = w.reshape(k, -1)[:, : 2 * half * blocks].reshape(2, k // 2, blocks, 2, half // 16, 16)
    quarters = w.transpose(2, 0, 3, 4, 1, 5).reshape(blocks, 2, 2, -1)
    (b11, b12), (b21, b22) = np.moveaxis(quarters, 0, 2)
    size = b11.shape[-1]
    out = np.zeros((blocks, 4, size + 320), np.float32)
    t1, t2, t3, t4 = (out[:, i, :size] for i in range(4))
    with np.errstate(all="ignore"):
        np.subtract(b12, b11, out=t1)
        np.subtract(b22, t1, out=t2)
        np.subtract(b22, b12, out=t3)
        np.subtract(b21, t2, out=t4)
        out[:, 0, size] = np.maximum(quarters.max((1, 2, 3)), -quarters.min((1, 2, 3)))
    return out
