"""The domain ai.onnx.ml: what scikit-learn's models and others of tables are exported to.

Most become standard operators, whose kernels are there. Source: ONNX's Operators-ml.md, versions 1
to 4; onnxruntime where it leaves something open.
"""

from __future__ import annotations

import numpy as np

from ...errors import ModelError, UnsupportedError
from ..domains import importers

DOMAIN = "ai.onnx.ml"
importer = importers(DOMAIN)


def refuse(node, found: str, expected: str) -> UnsupportedError:
    """For forms that are left to the onnx package."""
    return UnsupportedError(
        f"[{node.op_type}] found {found}; expected {expected}; convert the model so "
        f"(node {node.name!r})"
    )


def damaged(node, found: str, expected: str) -> ModelError:
    return ModelError(
        f"[{node.op_type}] found {found}; expected {expected}; export the model again "
        f"(node {node.name!r})"
    )


def ints(node, *values: int):
    return node.const(np.array(values, np.int64))


def numbers(node, values):
    return node.const(np.asarray(values, np.float32))


def table(node, i: int = 0):
    """Input i as float32 rows (N, F)."""
    x = node.inputs[i] if node.spec(i).dtype == "f32" else node.call("Cast", node.inputs[i], to=1)
    return node.call("Unsqueeze", x, ints(node, 0)) if node.rank(i) == 1 else x


def constant(node, values: list):
    """A constant of texts, or of integers."""
    return node.const(np.array(values, object if isinstance(values[0], str) else np.int64))


def labels_of(node, *names: str) -> list:
    """The first of these attributes that holds class labels."""
    for name in names:
        if found := node.attr(name):
            return list(found)
    raise refuse(node, "no class labels", f"one of {names}")


def label(node, labels: list, scores):
    """(N,): the label of each row's highest score, the first of equal ones."""
    return node.call(
        "Gather", constant(node, labels), node.call("ArgMax", scores, axis=1, keepdims=0)
    )


def two_labels(node, labels: list, score, above: float):
    """(N,): the second of two labels where a score (N, 1) is above a number, else the first."""
    positive = node.call("Greater", score, numbers(node, above))
    row = node.call("Squeeze", node.call("Cast", positive, to=7), ints(node, 1))
    return node.call("Gather", constant(node, labels), row)


def transformed(node, scores):
    """Scores (N, C) after the attribute post_transform."""
    kind = node.attr("post_transform", "NONE")
    if kind == "NONE":
        return scores
    if kind == "LOGISTIC":
        return node.call("Sigmoid", scores)
    if kind == "SOFTMAX":
        return node.call("Softmax", scores, axis=-1)
    if kind == "SOFTMAX_ZERO":  # zeros stay zeros; the rest sums to 1
        top = node.call("ReduceMax", scores, ints(node, -1))
        e = node.call("Exp", node.call("Sub", scores, top))
        zero = node.call("LessOrEqual", node.call("Abs", scores), numbers(node, 1e-7))
        e = node.call("Where", zero, numbers(node, 0), e)
        return node.call("Div", e, node.call("ReduceSum", e, ints(node, -1)))
    raise refuse(node, f"post_transform {kind}", "NONE, LOGISTIC, SOFTMAX or SOFTMAX_ZERO")
