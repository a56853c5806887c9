"""y: each box of x resampled to one size, channels last.

x: (N, H, W, C)    boxes: (R, 4), corners (x1, y1, x2, y2); times `scale` they are in elements of x.
image: (R,) i64, which of the N.    y: (R, *size, C)
A cell is the mean of points that are interpolated in x (mode "max": the largest of their weighted
neighbours), `samples` per axis, 0 for as many as the box has elements in the cell. centred: boxes
are shifted by half an element, as their numbers count from edges; else they are at least 1 wide.
Source: He et al. 2017 (arXiv:1703.06870); ONNX RoiAlign-16.
"""

import struct

import numpy as np

from ..errors import IndexOutOfRangeError, ShapeError
from ..op import Op
from ..rules import differ

op = Op(
    "roi_align",
    inputs="x boxes image",
    attrs={"size": ..., "scale": 1.0, "samples": 0, "centred": True, "mode": "avg"},
    tol={"f32": (1e-4, 1e-5)},
)
MOST_SAMPLES = 4096


@op.rule
def rule(x, boxes, image, size, scale, samples, centred, mode):
    ranks = x.rank, boxes.rank, image.rank
    fits = ranks == (4, 2, 1) and min(size) > 0 and x.shape[1] != 0 != x.shape[2]
    if not fits or differ(boxes.shape[1], 4) or differ(boxes.shape[0], image.shape[0]):
        raise ShapeError(
            f"[roi_align] found x {x}, boxes {boxes}, image {image}, size {size}; "
            "expected (N, H, W, C), (R, 4), (R,), positive H, W and size; correct the model"
        )
    return x.like((boxes.shape[0], *size, x.shape[3]))


def _points(start: float, length: float, cells: int, samples: int, d: int) -> list[list[tuple]]:
    """For each cell the points along one axis: [(index, weight), (index, weight)], none where they
    lie outside.
    """
    n = samples or int(np.ceil(length / cells))
    if not np.isfinite(length) or not np.isfinite(start) or n > MOST_SAMPLES:
        raise ShapeError(
            f"[roi_align] found a box of length {length}; "
            f"expected at most {MOST_SAMPLES} points in a cell; correct the boxes"
        )
    out = []
    for c in range(cells):
        row = []
        for k in range(n):
            v = start + c * length / cells + (k + 0.5) * length / cells / n
            if v < -1 or v > d:
                row.append(None)
                continue
            v = max(v, 0.0)
            low = min(int(v), d - 1)
            frac = 0.0 if low == d - 1 else v - low
            row.append([(low, 1 - frac), (min(low + 1, d - 1), frac)])
        out.append(row)
    return out


@op.reference
def reference(x, boxes, image, size, scale, samples, centred, mode):
    y = np.zeros((len(boxes), *size, x.shape[3]), x.dtype)
    for r, (box, n) in enumerate(zip(boxes, image)):
        if not -x.shape[0] <= n < x.shape[0]:
            raise IndexOutOfRangeError(
                f"[roi_align] found index {n} at position {r}; "
                f"expected one in [0, {x.shape[0] - 1}]; correct the indices"
            )
        x1, y1, x2, y2 = box * scale - (0.5 if centred else 0)
        h, w = (y2 - y1, x2 - x1) if centred else (max(y2 - y1, 1), max(x2 - x1, 1))
        rows, columns = (
            _points(y1, h, size[0], samples, x.shape[1]),
            _points(x1, w, size[1], samples, x.shape[2]),
        )
        for i, j in np.ndindex(*size):
            found = []
            for a in rows[i]:
                for b in columns[j]:
                    terms = (
                        [x[n, p, q] * (u * v) for p, u in a for q, v in b]
                        if a and b
                        else [np.zeros(x.shape[3])] * 4
                    )
                    found.append(sum(terms) if mode == "avg" else np.max(terms, 0))
            if found:
                y[r, i, j] = np.mean(found, 0) if mode == "avg" else np.max(found, 0)
    return y


op.nonfinite = False  # a neighbour of weight 0 need not be read


@op.batch
def batch(axes, ins, outs, attrs):
    return [0] if axes[0] is None and axes[1] == axes[2] == 0 else None


@op.kernel("f32 f32 i64", "roi_align_f32")
def pack(scale, samples, centred, mode):
    return struct.pack("fiii", scale, samples, centred, mode == "max")


@op.importer("RoiAlign", since=10)
def from_onnx(g, node):
    x, boxes, image = node.inputs
    how = node.attr(
        "coordinate_transformation_mode", "half_pixel" if node.opset >= 16 else "output_half_pixel"
    )
    y = g.add(
        op,
        [g.add("transpose", [x], perm=(0, 2, 3, 1)), boxes, image],
        size=(node.attr("output_height", 1), node.attr("output_width", 1)),
        scale=node.attr("spatial_scale", 1.0),
        samples=node.attr("sampling_ratio", 0),
        centred=how == "half_pixel",
        mode=node.attr("mode", "avg"),
    )
    return g.add("transpose", [y], perm=(0, 3, 1, 2))


@op.cases
def cases(rng):
    x = rng(2, 9, 11, 5)
    boxes = np.float32([[0, 0, 8, 6], [3.5, 2.5, 30, 20], [-4, -4, 2, 1], [5, 5, 5, 5]])
    image = np.array([0, 1, 1, 0])
    yield dict(x=x, boxes=boxes, image=image, size=(3, 2), scale=0.5)
    yield dict(x=x, boxes=boxes, image=image, size=(2, 2), samples=2, centred=False)
    yield dict(x=x, boxes=boxes, image=image, size=(2, 3), samples=1, mode="max")
