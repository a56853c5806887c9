"""y: boxes by falling score, without those that overlap one taken before too much.

boxes: (N, B, 4), corners (y1, x1, y2, x2) or, if centred, (x, y, width, height).
scores: (N, classes, B)    y: (N * classes * most, 3) i64, rows (image, class, box)    number: (1,)
i64, how many rows there are; those beyond hold 0.
Per class at most `most` boxes (0 by default), with score above `least`; two boxes overlap too much
where intersection over union exceeds `overlap`.
Source: ONNX NonMaxSuppression-11.
"""

import struct

import numpy as np

from ..errors import ShapeError
from ..op import Op, Spec, need
from ..rules import differ

op = Op(
    "non_max_suppression",
    inputs="boxes scores most? overlap? least?",
    outputs="y number",
    attrs={"centred": False},
)
op.float64 = False


@op.rule
def rule(boxes, scores, most=None, overlap=None, least=None, centred=False):
    fits = boxes.rank == scores.rank == 3 and not differ(boxes.shape[2], 4)
    if not fits or any(map(differ, boxes.shape[:2], (scores.shape[0], scores.shape[2]))):
        raise ShapeError(
            f"[non_max_suppression] found boxes {boxes} and scores {scores}; "
            "expected (N, B, 4) and (N, classes, B); correct the model"
        )
    return Spec((_room(boxes, scores, most), 3), "i64"), Spec((1,), "i64")


def _room(boxes, scores, most):
    """How many rows there can be."""
    most = 0 if most is None else int(need(most, 2).reshape(-1)[0])
    each = min(max(most, 0), boxes.shape[1]) if isinstance(boxes.shape[1], int) else max(most, 0)
    return scores.shape[0] * scores.shape[1] * each


def _corners(boxes: np.ndarray, centred: bool) -> np.ndarray:
    if centred:
        xy, half = boxes[..., :2], boxes[..., 2:] / 2
        return np.concatenate([xy - half, xy + half], -1)
    return np.concatenate(
        [np.minimum(boxes[..., :2], boxes[..., 2:]), np.maximum(boxes[..., :2], boxes[..., 2:])], -1
    )


@op.reference
def reference(boxes, scores, most=None, overlap=None, least=None, centred=False):
    limit = 0 if most is None else int(np.reshape(most, -1)[0])
    overlap = 0.0 if overlap is None else float(overlap.reshape(-1)[0])
    corners = _corners(boxes, centred)
    areas = np.prod(corners[..., 2:] - corners[..., :2], -1)
    rows = []
    for n, c in np.ndindex(scores.shape[:2]):
        order = np.argsort(-scores[n, c], kind="stable")
        if least is not None:
            order = order[scores[n, c][order] > least.reshape(-1)[0]]
        taken = 0
        while order.size and taken < limit:
            best, order = order[0], order[1:]
            rows.append((n, c, best))
            taken += 1
            sides = np.minimum(corners[n, best, 2:], corners[n, order, 2:]) - np.maximum(
                corners[n, best, :2], corners[n, order, :2]
            )
            shared = np.prod(np.maximum(sides, 0), -1)
            order = order[~(shared > overlap * (areas[n, best] + areas[n, order] - shared))]
    y = np.zeros(
        (_room(boxes, scores, None if most is None else Spec.of(np.array(most))), 3), np.int64
    )
    y[: len(rows)] = np.array(rows).reshape(-1, 3)
    return y, np.array([len(rows)])


@op.kernel("f32 f32 i64 f32", "non_max_suppression")
def pack(centred, overlap, least):
    return struct.pack("ii", centred, (overlap is not None) | (least is not None) << 1)


@op.importer("NonMaxSuppression")
def from_onnx(g, node):
    y, number = g.add(op, node.inputs, centred=bool(node.attr("center_point_box", 0)))
    return g.add("slice", [y, g.const(np.zeros(1, np.int64)), number])


@op.cases
def cases(rng):
    boxes = np.abs(rng(1, 20, 4))
    yield dict(
        boxes=boxes,
        scores=rng(1, 2, 20),
        most=np.array([5]),
        overlap=np.float32([0.3]),
        least=np.float32([0.0]),
    )
    yield dict(
        boxes=boxes,
        scores=rng(1, 1, 20),
        most=np.array([20]),
        overlap=np.float32([0.5]),
        centred=True,
    )
    for count, overlap in ((400, 0.1), (1200, 0.1), (1200, 0.5)):  # without strips, and with
        at = np.arange(count, dtype=np.float32)[:, None] % (count - 100)
        yield dict(
            boxes=rng(1, count, 4) * np.float32(9) + at,
            scores=rng(1, 1, count),
            most=np.array([count]),
            overlap=np.float32([overlap]),
        )


@op.benches
def benches(rng):
    boxes = rng(1, 3000, 4) * np.float32(20) + np.arange(3000, dtype=np.float32)[:, None]
    yield dict(
        boxes=boxes, scores=rng(1, 4, 3000), most=np.array([3000]), overlap=np.float32([0.5])
    )


op.nonfinite = False
