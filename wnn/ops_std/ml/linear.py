"""Columns scaled, picked and put together, and linear models of them."""

from __future__ import annotations

import numpy as np

from . import importer, ints, label, labels_of, numbers, refuse, table, transformed, two_labels


@importer("Scaler")
def scaler(g, node):
    x = node.call("Sub", table(node), numbers(node, node.attr("offset") or [0.0]))
    return node.call("Mul", x, numbers(node, node.attr("scale") or [1.0]))


@importer("Normalizer")
def normalizer(g, node):
    x, kind = table(node), node.attr("norm", "MAX")
    if kind == "MAX":
        return node.call("Div", x, node.call("ReduceMax", x, ints(node, -1)))
    if kind not in ("L1", "L2"):
        raise refuse(node, f"norm {kind}", "MAX, L1 or L2")
    size = node.call(f"Reduce{kind}", x, ints(node, -1))
    none = node.call("Equal", size, numbers(node, 0))  # such a row stays as it is
    return node.call("Div", x, node.call("Where", none, numbers(node, 1), size))


@importer("Binarizer")
def binarizer(g, node):
    above = node.call("Greater", table(node), numbers(node, node.attr("threshold", 0.0)))
    return node.call("Cast", above, to=1)


@importer("Imputer")
def imputer(g, node):
    x = node.inputs[0]
    integers = node.spec(0).dtype == "i64"
    kind = "int64" if integers else "float"
    fill = node.attr(f"imputed_value_{kind}s")
    wanted = node.attr(f"replaced_value_{kind}", 0)
    if not fill or node.spec(0).dtype not in ("f32", "f64", "i64"):
        raise refuse(node, f"no values for {node.spec(0)}", f"imputed_value_{kind}s")
    dtype = {"f32": np.float32, "f64": np.float64, "i64": np.int64}[node.spec(0).dtype]
    if wanted != wanted:
        missing = node.call("IsNaN", x)
    else:
        missing = node.call("Equal", x, node.const(np.array(wanted, dtype)))
    return node.call("Where", missing, node.const(np.array(fill, dtype)), x)


@importer("ArrayFeatureExtractor")
def array_feature_extractor(g, node):
    x = node.inputs[0]
    if node.rank(0) == 1:
        x = node.call("Unsqueeze", x, ints(node, 0))
    return node.call("Gather", x, node.call("Reshape", node.inputs[1], ints(node, -1)), axis=-1)


@importer("FeatureVectorizer")
def feature_vectorizer(g, node):
    columns = [table(node, i) for i in range(len(node.inputs))]
    return node.call("Concat", *columns, axis=1)


def scores(node, targets: int):
    """(N, targets): x by the coefficients, and the intercepts."""
    weights = np.array(node.attr("coefficients"), np.float32).reshape(targets, -1)
    y = node.call("MatMul", table(node), node.const(np.ascontiguousarray(weights.T)))
    intercepts = node.attr("intercepts")
    return node.call("Add", y, numbers(node, intercepts)) if intercepts else y


@importer("LinearRegressor")
def linear_regressor(g, node):
    return transformed(node, scores(node, node.attr("targets", 1)))


@importer("LinearClassifier")
def linear_classifier(g, node):
    labels = labels_of(node, "classlabels_strings", "classlabels_ints")
    targets = len(node.attr("intercepts") or labels)
    s = scores(node, targets)
    if targets == len(labels) > 1:
        return label(node, labels, s), transformed(node, s)
    if targets != 1 or len(labels) != 2 or node.attr("post_transform", "NONE") != "LOGISTIC":
        raise refuse(
            node,
            f"{targets} scores for {len(labels)} classes, {node.attr('post_transform', 'NONE')}",
            "a score for each class, or one for two with LOGISTIC",
        )
    both = node.call("Concat", node.call("Neg", s), s, axis=1)
    return two_labels(node, labels, s, 0.0), transformed(node, both)
