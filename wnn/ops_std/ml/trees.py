"""Ensembles of decision trees: every row goes down all trees at once, a level at a time.

At each level the nodes that rows are in are gathered, their features compared, and their children
taken; leaves lead to themselves. Source: Nakandala et al. 2020 (arXiv:2010.04804), tree traversal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import (
    damaged,
    importer,
    ints,
    label,
    labels_of,
    numbers,
    refuse,
    table,
    transformed,
    two_labels,
)

_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "LEAF")
MAX_LEVELS = 64  # a few operators each


@dataclass
class Trees:
    """Nodes of all trees: `yes` follows where feature <= threshold (where `equal`, ==) or where
    the feature is NaN and `missing` says so, `no` follows elsewhere.
    """

    feature: np.ndarray
    threshold: np.ndarray
    yes: np.ndarray
    no: np.ndarray
    equal: np.ndarray
    missing: np.ndarray
    roots: np.ndarray
    levels: int
    index: dict[tuple[int, int], int]  # by (tree, node)


def numbers_of(node, name: str) -> np.ndarray:
    """An attribute of floats, or of doubles under its other name."""
    wide = node.attr(f"{name}_as_tensor")
    return np.array(node.attr(name) or [], np.float32) if wide is None else np.asarray(wide)


def trees_of(node) -> Trees:
    trees, ids = node.attr("nodes_treeids"), node.attr("nodes_nodeids")
    index = {key: i for i, key in enumerate(zip(trees, ids, strict=True))}
    modes = np.array([_MODES.index(m) if m in _MODES else -1 for m in node.attr("nodes_modes")])
    if (modes < 0).any():
        raise refuse(node, f"modes {sorted(set(node.attr('nodes_modes')))}", f"some of {_MODES}")
    leaf, own = modes == 6, np.arange(len(modes))

    def children(name: str) -> np.ndarray:
        given = node.attr(name)
        at = [i if leaf[i] else index.get((trees[i], given[i]), -1) for i in range(len(modes))]
        if -1 in at:
            raise damaged(node, f"a node of {name} that is not there", "nodes of the same tree")
        return np.array(at)

    yes, no = children("nodes_truenodeids"), children("nodes_falsenodeids")
    threshold = numbers_of(node, "nodes_values").copy()
    missing = np.array(node.attr("nodes_missing_value_tracks_true") or np.zeros(len(modes)), bool)
    below = (modes == 1) | (modes == 2)  # x < t is x <= the number below t
    threshold[below] = np.nextafter(threshold[below], threshold.dtype.type(-np.inf))
    turned = np.isin(modes, (2, 3, 5))  # x >= t, x > t and x != t by their opposites
    yes, no = np.where(turned, no, yes), np.where(turned, yes, no)
    missing = np.where(turned, ~missing, missing)
    roots = np.setdiff1d(own, np.concatenate([yes[~leaf], no[~leaf]]))
    if len(roots) != len(set(trees)):
        raise damaged(node, f"{len(roots)} roots of {len(set(trees))} trees", "one for each")
    at, levels = roots, 0
    while not leaf[at].all():
        at, levels = np.union1d(yes[at], no[at]), levels + 1
        if levels > len(modes):
            raise damaged(node, "a node below itself", "trees")
    if levels > MAX_LEVELS:
        raise refuse(node, f"{levels} levels", f"at most {MAX_LEVELS}")
    return Trees(
        np.array(node.attr("nodes_featureids")) * ~leaf, threshold, yes, no,
        (modes == 4) | (modes == 5), missing & ~leaf, roots, levels, index,
    )  # fmt: skip


def leaves(node, t: Trees):
    """(N, trees) i64: the leaf of every tree that a row of x comes to."""
    x = node.inputs[0] if node.spec(0).dtype == "f64" else table(node)
    if node.spec(0).dtype != "f64" and t.threshold.dtype == np.float64:
        x = node.call("Cast", x, to=11)
    threshold = node.const(t.threshold.astype(np.float64 if x.spec.dtype == "f64" else np.float32))
    feature, yes, no = (node.const(a.astype(np.int64)) for a in (t.feature, t.yes, t.no))
    rows = node.call("Shape", x, start=0, end=1)
    shape = node.call("Concat", rows, ints(node, len(t.roots)), axis=0)
    at = node.call("Expand", node.const(t.roots.astype(np.int64)), shape)
    for _ in range(t.levels):
        value = node.call("GatherElements", x, node.call("Gather", feature, at), axis=1)
        limit = node.call("Gather", threshold, at)
        go = node.call("LessOrEqual", value, limit)
        if t.equal.any():
            where = node.call("Gather", node.const(t.equal), at)
            go = node.call("Where", where, node.call("Equal", value, limit), go)
        if t.missing.any():
            lost = node.call("Gather", node.const(t.missing), at)
            go = node.call("Or", go, node.call("And", node.call("IsNaN", value), lost))
        at = node.call("Where", go, node.call("Gather", yes, at), node.call("Gather", no, at))
    return at


def weights_of(node, t: Trees, kind: str, columns: int) -> np.ndarray:
    """(nodes, columns): what a leaf adds to each target or class."""
    ids = [node.attr(f"{kind}_{n}") for n in ("treeids", "nodeids", "ids")]
    values = numbers_of(node, f"{kind}_weights")
    out = np.zeros((len(t.feature), columns), values.dtype)
    for tree, at, column, value in zip(*ids, values, strict=True):
        out[t.index[tree, at], column] += value
    return out


def based(node, y, columns: int):
    """y and the attribute base_values."""
    base = numbers_of(node, "base_values")
    if not len(base):
        return y
    if len(base) not in (1, columns):
        raise refuse(node, f"{len(base)} base values", f"1 or {columns}")
    return node.call(
        "Add", y, node.const(base.astype(np.float64 if y.spec.dtype == "f64" else "f4"))
    )


def narrow(node, y):
    return node.call("Cast", y, to=1) if y.spec.dtype == "f64" else y


@importer("TreeEnsembleRegressor")
def regressor(g, node):
    t, targets = trees_of(node), node.attr("n_targets", 1)
    how = node.attr("aggregate_function", "SUM")
    if how not in ("SUM", "AVERAGE", "MIN", "MAX"):
        raise refuse(node, f"aggregate_function {how}", "SUM, AVERAGE, MIN or MAX")
    reduce = {"SUM": "ReduceSum", "AVERAGE": "ReduceMean", "MIN": "ReduceMin", "MAX": "ReduceMax"}
    each = node.call("Gather", node.const(weights_of(node, t, "target", targets)), leaves(node, t))
    y = based(node, node.call(reduce[how], each, ints(node, 1), keepdims=0), targets)
    return transformed(node, narrow(node, y))


@importer("TreeEnsembleClassifier")
def classifier(g, node):
    labels = labels_of(node, "classlabels_strings", "classlabels_int64s")
    t, used = trees_of(node), sorted(set(node.attr("class_ids")))
    weights = weights_of(node, t, "class", len(labels))
    one = len(labels) == 2 and len(used) == 1  # one score tells two classes apart
    weights = weights[:, used] if one else weights
    each = node.call("Gather", node.const(weights), leaves(node, t))
    s = node.call("ReduceSum", each, ints(node, 1), keepdims=0)
    s = narrow(node, based(node, s, weights.shape[1]))
    if not one:
        return label(node, labels, s), transformed(node, s)
    if (weights >= 0).all():  # it is the probability of the second
        if node.attr("post_transform", "NONE") != "NONE":
            raise refuse(node, "a transform of one score of positive weights", "NONE")
        other = node.call("Sub", numbers(node, 1), s)
        return two_labels(node, labels, s, 0.5), node.call("Concat", other, s, axis=1)
    both = node.call("Concat", node.call("Neg", s), s, axis=1)
    return two_labels(node, labels, s, 0.0), transformed(node, both)
