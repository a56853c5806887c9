"""Support vector machines. Source: Chang and Lin 2011 (LIBSVM), section 8 for probabilities."""

from __future__ import annotations

import numpy as np

from ...op import Op
from . import DOMAIN, constant, importer, ints, labels_of, numbers, refuse, table, transformed

couple = Op("couple", "pairs")
couple.float64 = False


@couple.rule
def rule(pairs):
    return pairs.like(pairs.shape[:2])


@couple.reference
def reference(pairs):
    """(N, C) probabilities of classes from (N, C, C): pairs[:, i, j] is that of i against j.

    The second method of Wu, Lin and Weng 2004 (JMLR 5), with LIBSVM's steps and end.
    """
    r = pairs.astype(np.float64)
    n, k, _ = r.shape
    q = -r * r.transpose(0, 2, 1)
    for t in range(k):
        others = np.delete(r[:, :, t], t, axis=1)
        q[:, t, t] = (others**2).sum(1)
    p = np.full((n, k), 1 / k)
    qp = np.einsum("nij,nj->ni", q, p)
    pqp = (p * qp).sum(1)
    for _ in range(max(100, k)):
        going = np.abs(qp - pqp[:, None]).max(1, initial=0) >= 0.005 / k
        if not going.any():
            break
        for t in range(k):
            d = np.where(going, (pqp - qp[:, t]) / q[:, t, t], 0)
            p[:, t] += d
            pqp = (pqp + d * (d * q[:, t, t] + 2 * qp[:, t])) / (1 + d) ** 2
            qp = (qp + d[:, None] * q[:, t]) / (1 + d)[:, None]
            p /= (1 + d)[:, None]
        qp = np.where(going[:, None], np.einsum("nij,nj->ni", q, p), qp)
        pqp = np.where(going, (p * qp).sum(1), pqp)
    return p.astype(np.float32)


@couple.cases
def cases(rng):
    for n, k in ((5, 2), (7, 3), (2, 6), (0, 3)):
        p = 1 / (1 + np.exp(-rng(n, k, k)))
        yield {"pairs": np.tril(p, -1) + np.triu(1 - p.transpose(0, 2, 1), 1)}


def kernels(node, vectors: np.ndarray):
    """(N, V): the kernel function of each row of x and each support vector."""
    x, kind = table(node), node.attr("kernel_type", "LINEAR")
    gamma, coef0, degree = (*(node.attr("kernel_params") or ()), 0.0, 0.0, 0.0)[:3]
    dot = node.call("MatMul", x, node.const(np.ascontiguousarray(vectors.T)))
    if kind == "LINEAR":
        return dot
    if kind == "RBF":
        squares = node.call("ReduceSumSquare", x, ints(node, 1))
        far = node.call("Add", squares, numbers(node, (vectors**2).sum(1)))
        far = node.call("Sub", far, node.call("Mul", dot, numbers(node, 2)))
        return node.call("Exp", node.call("Mul", far, numbers(node, -gamma)))
    y = node.call("Add", node.call("Mul", dot, numbers(node, gamma)), numbers(node, coef0))
    if kind == "SIGMOID":
        return node.call("Tanh", y)
    if kind == "POLY":
        return node.call("Pow", y, numbers(node, degree))
    raise refuse(node, f"kernel_type {kind}", "LINEAR, RBF, POLY or SIGMOID")


def vectors_of(node, count: int) -> np.ndarray:
    return np.array(node.attr("support_vectors"), np.float32).reshape(count, -1)


@importer("SVMRegressor")
def regressor(g, node):
    count = node.attr("n_supports", 0)
    weights = np.array(node.attr("coefficients"), np.float32)
    x = kernels(node, vectors_of(node, count)) if count else table(node)
    y = node.call("MatMul", x, node.const(weights[:, None]))
    y = node.call("Add", y, numbers(node, node.attr("rho")[0]))
    if not node.attr("one_class", 0):
        return transformed(node, y)
    positive = node.call("Greater", y, numbers(node, 0))
    return node.call("Where", positive, numbers(node, 1), numbers(node, -1))


@couple.importer("SVMClassifier", domain=DOMAIN)
def classifier(g, node):
    """Of kernels, one class against one, with probabilities; other forms are refused."""
    labels = labels_of(node, "classlabels_strings", "classlabels_ints")
    sizes, n = node.attr("vectors_per_class"), len(labels)
    if not sizes or not node.attr("prob_a") or n < 2:
        raise refuse(node, "no support vectors or probabilities", "vectors_per_class and prob_a")
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    ends = np.cumsum([0, *sizes])
    given = np.array(node.attr("coefficients"), np.float32).reshape(n - 1, ends[-1])
    weights = np.zeros((ends[-1], len(pairs)), np.float32)
    first, second = np.zeros((2, len(pairs), n), np.float32)
    for p, (i, j) in enumerate(pairs):
        of_i, of_j = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
        weights[of_i, p], weights[of_j, p] = given[j - 1, of_i], given[i, of_j]
        first[p, i], second[p, j] = 1, 1
    k = kernels(node, vectors_of(node, ends[-1]))
    s = node.call(
        "Add", node.call("MatMul", k, node.const(weights)), numbers(node, node.attr("rho"))
    )
    won = node.call("Cast", node.call("Greater", s, numbers(node, 0)), to=1)
    lost = node.call("Sub", numbers(node, 1), won)
    votes = node.call(
        "Add",
        node.call("MatMul", won, node.const(first)),
        node.call("MatMul", lost, node.const(second)),
    )
    at = node.call("ArgMax", votes, axis=1, keepdims=0)
    fit = node.call("Mul", s, numbers(node, node.attr("prob_a")))
    fit = node.call(
        "Sigmoid", node.call("Neg", node.call("Add", fit, numbers(node, node.attr("prob_b"))))
    )
    fit = node.call("Clip", fit, numbers(node, 1e-7), numbers(node, 1 - 1e-7))
    return node.call("Gather", constant(node, labels), at), coupled(g, node, fit, pairs, n)


def coupled(g, node, fit, pairs: list, n: int):
    """(N, n): probabilities of classes from those of pairs (N, pairs)."""
    place = np.full((n, n), 2 * len(pairs))
    for p, (i, j) in enumerate(pairs):
        place[i, j], place[j, i] = p, len(pairs) + p
    own = node.call(
        "Mul",
        node.call("Slice", fit, ints(node, 0), ints(node, 1), ints(node, 1)),
        numbers(node, 0),
    )
    all_ = node.call("Concat", fit, node.call("Sub", numbers(node, 1), fit), own, axis=1)
    return g.add(couple, [node.call("Gather", all_, node.const(place), axis=1)])
