"""ai.onnx.ml operators against formulas in numpy, and onnxruntime's own where it is installed."""

import numpy as np
import pytest
from onnx import helper

import wnn
from wnn.errors import ModelError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 4)).astype(np.float32)


def make(op, feeds, outputs=1, version=3, **attrs):
    names = [f"y{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, list(feeds), names, domain="ai.onnx.ml", **attrs)],
        "g",
        [
            helper.make_tensor_value_info(
                k,
                helper.np_dtype_to_tensor_dtype(a.dtype),
                a.shape if len(feeds) > 1 else ["N", *a.shape[1:]],
            )
            for k, a in feeds.items()
        ],
        [helper.make_empty_tensor_value_info(n) for n in names],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def run(op, feeds, outputs=1, native=True, **attrs):
    """wnn's outputs, after they were held against onnxruntime's."""
    feeds = feeds if isinstance(feeds, dict) else {"x": feeds}
    model = make(op, feeds, outputs, **attrs)
    net = wnn.NNForward(num_threads=1).load_from_proto(model)
    got = net.infer(feeds)
    assert not native or not net.fallback_ops()
    try:
        import onnxruntime as ort
    except ImportError:
        return got
    session = ort.InferenceSession(model.SerializeToString())
    for g, w in zip(got, session.run(None, feeds), strict=True):
        if isinstance(w, list):
            assert [d.keys() for d in g] == [d.keys() for d in w]
            g, w = (np.array([list(d.values()) for d in y]) for y in (g, w))
        assert g.shape == w.shape
        if w.dtype.kind in "OU":
            assert g.tolist() == w.tolist()
        else:
            np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5)
    return got


# -- columns and linear models --------------------------------------------------------------------
def test_scaler():
    offset, scale = RNG.random((2, 4)).astype(np.float32)
    (y,) = run("Scaler", X, offset=offset.tolist(), scale=scale.tolist())
    np.testing.assert_allclose(y, (X - offset) * scale, rtol=1e-5)
    (y,) = run("Scaler", np.arange(8).reshape(2, 4), offset=[1.0], scale=[0.5])
    np.testing.assert_allclose(y, (np.arange(8).reshape(2, 4) - 1) / 2)


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer(norm):
    x = np.abs(X) + 0.1
    x[2:3] = 0 if norm != "MAX" else x[2:3]
    size = {"MAX": x.max(1), "L1": x.sum(1), "L2": np.sqrt((x**2).sum(1))}[norm][:, None]
    want = np.divide(x, size, out=np.zeros_like(x), where=size != 0)
    np.testing.assert_allclose(run("Normalizer", x, norm=norm)[0], want, rtol=1e-5)


def test_binarizer_imputer_and_extractor():
    np.testing.assert_array_equal(run("Binarizer", X, threshold=0.25)[0], X > 0.25)
    x = X.copy()
    x[1, 2] = x[0, 0] = np.nan
    fill = [1.0, 2.0, 3.0, 4.0]
    (y,) = run("Imputer", x, imputed_value_floats=fill, replaced_value_float=float("nan"))
    np.testing.assert_array_equal(y, np.where(np.isnan(x), np.float32(fill), x))
    integers = np.array([[1, -1], [-1, 5]])
    (y,) = run("Imputer", integers, imputed_value_int64s=[9], replaced_value_int64=-1)
    np.testing.assert_array_equal(y, [[1, 9], [9, 5]])
    (y,) = run("ArrayFeatureExtractor", {"x": X, "at": np.array([[3, 0]])})
    np.testing.assert_array_equal(y, X[:, [3, 0]])
    (y,) = run("FeatureVectorizer", {"a": X, "b": X[:, :2]}, inputdimensions=[4, 2])
    np.testing.assert_array_equal(y, np.concatenate([X, X[:, :2]], 1))


@pytest.mark.parametrize("post", ["NONE", "LOGISTIC", "SOFTMAX"])
def test_linear_models(post):
    w, b = RNG.standard_normal((3, 4)).astype(np.float32), np.float32([0.1, -0.2, 0.3])
    s = X @ w.T + b
    e = np.exp(s - s.max(1, keepdims=True))
    want = {"NONE": s, "LOGISTIC": 1 / (1 + np.exp(-s)), "SOFTMAX": e / e.sum(1, keepdims=True)}
    given = dict(coefficients=w.ravel().tolist(), intercepts=b.tolist(), post_transform=post)
    (y,) = run("LinearRegressor", X, targets=3, **given)
    np.testing.assert_allclose(y, want[post], rtol=1e-4, atol=1e-5)
    labels, y = run("LinearClassifier", X, 2, classlabels_ints=[5, 6, 9], **given)
    np.testing.assert_array_equal(labels, np.array([5, 6, 9])[s.argmax(1)])
    np.testing.assert_allclose(y, want[post], rtol=1e-4, atol=1e-5)


def test_linear_classifier_of_one_score():
    w = [1.0, -1.0, 0.5, 0.0]
    given = dict(coefficients=w, intercepts=[0.2], classlabels_strings=["no", "yes"])
    labels, y = run("LinearClassifier", X, 2, False, post_transform="LOGISTIC", **given)
    p = 1 / (1 + np.exp(-(X @ np.float32(w) + 0.2)))
    np.testing.assert_allclose(y, np.stack([1 - p, p], 1), rtol=1e-4)
    assert labels.tolist() == np.where(p > 0.5, "yes", "no").tolist()


# -- trees ----------------------------------------------------------------------------------------
class Forest:
    """Random trees as ONNX writes them, and what they answer by the definition."""

    def __init__(self, modes, trees=3, depth=4, nans=False):
        self.nodes = []  # tree, node, feature, value, mode, yes, no, missing
        self.leaves = []
        self.nans = nans
        for tree in range(trees):
            self.grow(tree, depth, modes)

    def grow(self, tree, depth, modes):
        at = sum(n[0] == tree for n in self.nodes)
        row = [tree, at, 0, 0.0, "LEAF", 0, 0, 0]
        self.nodes.append(row)
        if depth == 0 or (depth < 3 and RNG.random() < 0.3):
            self.leaves.append((tree, at))
            return at
        row[2:5] = (
            int(RNG.integers(4)),
            float(np.float32(RNG.choice(X[:, 0]))),
            str(RNG.choice(modes)),
        )
        row[7] = int(self.nans and RNG.integers(2))
        row[5] = self.grow(tree, depth - 1, modes)
        row[6] = self.grow(tree, depth - 1, modes)
        return at

    def attrs(self):
        names = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids",
                 "falsenodeids", "missing_value_tracks_true")  # fmt: skip
        return {f"nodes_{k}": list(v) for k, v in zip(names, zip(*self.nodes), strict=True)}

    def fallen(self, x, tree):
        """The leaf of a row."""
        rows = {n[1]: n for n in self.nodes if n[0] == tree}
        at = 0
        while rows[at][4] != "LEAF":
            _, _, feature, value, mode, yes, no, missing = rows[at]
            v, t = x[feature], np.float32(value)
            go = {"BRANCH_LEQ": v <= t, "BRANCH_LT": v < t, "BRANCH_GTE": v >= t,
                  "BRANCH_GT": v > t, "BRANCH_EQ": v == t, "BRANCH_NEQ": v != t}[mode]  # fmt: skip
            at = yes if go or (missing and np.isnan(v)) else no
        return tree, at


MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]


@pytest.mark.parametrize("modes", [MODES[:1], MODES, *([m] for m in MODES[1:])])
@pytest.mark.parametrize("how", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_tree_regressor_follows_every_mode(modes, how):
    forest = Forest(modes)
    weights = {leaf: RNG.standard_normal(2).astype(np.float32) for leaf in forest.leaves}
    rows = [(t, n, k, float(w)) for (t, n), ws in weights.items() for k, w in enumerate(ws)]
    target = dict(zip(("treeids", "nodeids", "ids", "weights"), map(list, zip(*rows)), strict=True))
    given = {f"target_{k}": v for k, v in target.items()} | forest.attrs()
    (y,) = run(
        "TreeEnsembleRegressor",
        X,
        n_targets=2,
        aggregate_function=how,
        base_values=[0.5, 1.0],
        **given,
    )
    each = np.array([[weights[forest.fallen(x, t)] for t in range(3)] for x in X])
    f = {"SUM": np.sum, "AVERAGE": np.mean, "MIN": np.min, "MAX": np.max}[how]
    np.testing.assert_allclose(y, f(each, 1) + [0.5, 1.0], rtol=1e-5, atol=1e-6)


def test_tree_regressor_of_missing_values():
    forest = Forest(MODES[:4], nans=True)
    weights = {leaf: float(i) for i, leaf in enumerate(forest.leaves)}
    x = X.copy()
    x[RNG.random(x.shape) < 0.5] = np.nan
    given = dict(
        target_treeids=[t for t, _ in weights],
        target_nodeids=[n for _, n in weights],
        target_ids=[0] * len(weights),
        target_weights=list(weights.values()),
        **forest.attrs(),
    )
    net = wnn.NNForward().load_from_proto(make("TreeEnsembleRegressor", {"x": x}, **given))
    want = [[sum(weights[forest.fallen(row, t)] for t in range(3))] for row in x]
    np.testing.assert_array_equal(net.infer([x])[0], want)


@pytest.mark.parametrize("labels", [[3, 5, 6], ["a", "b", "c"]])
@pytest.mark.parametrize("post", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_tree_classifier(labels, post):
    forest = Forest(MODES[:1])
    weights = {leaf: RNG.random(len(labels)).astype(np.float32) for leaf in forest.leaves}
    rows = [(t, n, k, float(w)) for (t, n), ws in weights.items() for k, w in enumerate(ws)]
    given = dict(zip(("treeids", "nodeids", "ids", "weights"), map(list, zip(*rows)), strict=True))
    kind = "classlabels_strings" if isinstance(labels[0], str) else "classlabels_int64s"
    attrs = {f"class_{k}": v for k, v in given.items()} | forest.attrs() | {kind: labels}
    native = kind != "classlabels_strings"
    label, _ = run("TreeEnsembleClassifier", X, 2, native, post_transform=post, **attrs)
    s = np.array([sum(weights[forest.fallen(x, t)] for t in range(3)) for x in X])
    assert label.tolist() == [labels[i] for i in s.argmax(1)]


@pytest.mark.parametrize("positive, post", [(True, "NONE"), (False, "NONE"), (False, "LOGISTIC")])
def test_tree_classifier_of_one_score(positive, post):
    forest = Forest(MODES[:1])
    weights = {
        leaf: float(RNG.random() / 3 if positive else RNG.standard_normal())
        for leaf in forest.leaves
    }
    attrs = dict(
        class_treeids=[t for t, _ in weights],
        class_nodeids=[n for _, n in weights],
        class_ids=[0] * len(weights),
        class_weights=list(weights.values()),
        classlabels_int64s=[0, 1],
        post_transform=post,
        **forest.attrs(),
    )
    label, y = run("TreeEnsembleClassifier", X, 2, **attrs)
    s = np.array([sum(weights[forest.fallen(x, t)] for t in range(3)) for x in X])
    np.testing.assert_array_equal(label, s > (0.5 if positive else 0))
    p = 1 / (1 + np.exp(-s)) if post == "LOGISTIC" else s
    other = 1 - p if positive or post == "LOGISTIC" else -s
    np.testing.assert_allclose(y, np.stack([other, p], 1), rtol=1e-4, atol=1e-6)


def test_damaged_trees_are_refused():
    attrs = Forest(MODES[:1], trees=1).attrs()
    leaf = dict(target_treeids=[0], target_nodeids=[0], target_ids=[0], target_weights=[1.0])
    for k, v in (
        ("nodes_truenodeids", [99] * len(attrs["nodes_modes"])),
        ("nodes_truenodeids", [0] * len(attrs["nodes_modes"])),
    ):
        with pytest.raises(ModelError, match="expected"):
            run("TreeEnsembleRegressor", X, **{**attrs, **leaf, k: v})


# -- support vectors ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "kind, params",
    [
        ("LINEAR", (0, 0, 0)),
        ("RBF", (0.3, 0, 0)),
        ("POLY", (0.5, 1, 2)),
        ("SIGMOID", (0.2, 0.1, 0)),
    ],
)
def test_support_vector_machines(kind, params):
    v = RNG.standard_normal((6, 4)).astype(np.float32)
    dot, far = X @ v.T, ((X[:, None] - v) ** 2).sum(2)
    g, c, d = (*params, 0, 0, 0)[:3]
    k = {"LINEAR": lambda: dot, "RBF": lambda: np.exp(-g * far), "POLY": lambda: (g * dot + c) ** d,
         "SIGMOID": lambda: np.tanh(g * dot + c)}[kind]()  # fmt: skip
    weights = RNG.standard_normal((2, 6)).astype(np.float32)
    given = dict(
        kernel_type=kind,
        kernel_params=[float(p) for p in params],
        support_vectors=v.ravel().tolist(),
    )
    (y,) = run(
        "SVMRegressor", X, n_supports=6, coefficients=weights[0].tolist(), rho=[0.3], **given
    )
    np.testing.assert_allclose(y[:, 0], k @ weights[0] + 0.3, rtol=1e-3, atol=1e-4)
    sizes, rho = [1, 2, 3], [0.1, -0.2, 0.3]
    label, p = run(
        "SVMClassifier",
        X,
        2,
        False,
        coefficients=weights.ravel().tolist(),
        vectors_per_class=sizes,
        rho=rho,
        prob_a=[-1.0, -0.5, -2.0],
        prob_b=[0.1, 0.0, -0.1],
        classlabels_ints=[0, 1, 2],
        **given,
    )
    of = [slice(0, 1), slice(1, 3), slice(3, 6)]
    votes = np.zeros((7, 3))
    for (i, j), r in zip(((0, 1), (0, 2), (1, 2)), rho, strict=True):
        s = k[:, of[i]] @ weights[j - 1, of[i]] + k[:, of[j]] @ weights[i, of[j]] + r
        votes[np.arange(7), np.where(s > 0, i, j)] += 1
    np.testing.assert_array_equal(label, votes.argmax(1))
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)


# -- labels ---------------------------------------------------------------------------------------
def test_zip_map_gives_rows_by_label():
    x = np.abs(X[:, :2])
    (y,) = run("ZipMap", x, classlabels_strings=["a", "b"])
    assert y == [{"a": a, "b": b} for a, b in x.tolist()]
    (y,) = run("ZipMap", x, classlabels_int64s=[7, 9])
    assert list(y[0]) == [7, 9] and all(type(k) is int for k in y[0])


def test_label_encoder_of_texts_and_numbers():
    texts = np.array([["a", "c"], ["x", "b"]], object)
    (y,) = run(
        "LabelEncoder",
        texts,
        native=False,
        keys_strings=["a", "b", "c"],
        values_int64s=[1, 2, 3],
        default_int64=-7,
    )
    np.testing.assert_array_equal(y, [[1, 3], [-7, 2]])
    (y,) = run(
        "LabelEncoder", np.array([4, 5]), native=False, keys_int64s=[4], values_strings=["four"]
    )
    assert y.tolist() == ["four", "_Unused"]
    x = np.float32([0.1, np.nan, 3])
    (y,) = run(
        "LabelEncoder",
        x,
        native=False,
        version=4,
        keys_floats=[0.1, float("nan")],
        values_floats=[1.0, 2.0],
        default_float=5.0,
    )
    np.testing.assert_array_equal(y, [1, 2, 5])
    (y,) = run("CategoryMapper", texts, native=False, cats_strings=["a", "x"], cats_int64s=[1, 2])
    np.testing.assert_array_equal(y, [[1, -1], [2, -1]])
