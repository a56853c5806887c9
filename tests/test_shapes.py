"""Operators that move data, where bounds and indices are hostile, lengths are symbols, or axes "
"are permuted."""

import numpy as np
import pytest

from wnn.errors import ShapeError, WnnError
from wnn.graph import Graph
from wnn.op import Spec
from wnn.ops_std.reshape import reshape, restride
from wnn.plan import Program
from wnn.plugins import ensure_std
from wnn.registry import REGISTRY
from wnn.rules import contiguous_strides
from wnn.symbols import Sym, evaluate

ensure_std()
FAR = (1 << 63) - 1
X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def run(name, *arrays, constant=False, **attrs):
    """One operator on arrays; all but the first are constants of the graph if so wanted."""
    g = Graph(name)
    values, feed = [], []
    for i, a in enumerate(arrays):
        if a is None or constant and i:
            values.append(None if a is None else g.const(a))
        else:
            values.append(g.input(f"x{i}", Spec(a.shape, Spec.of(a).dtype)))
            feed.append(a)
    out = g.add(name, values, **attrs)
    g.outputs = list(out) if isinstance(out, tuple) else [out]
    g.output_names = [f"y{i}" for i in range(len(g.outputs))]
    return [np.array(y) for y in Program(g).run(feed)]


def ints(*values):
    return np.array(values, np.int64)


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(
    ("name", "arrays", "attrs"),
    [
        ("gather", (X, ints(0, 3)), {"axis": 1}),
        ("gather", (X, ints(-4)), {"axis": 1}),
        ("gather", (X, np.int32([[0, 1 << 30]])), {"axis": 0}),
        ("gather", (X[:0], ints(0)), {"axis": 0}),
        ("gather_elements", (X, np.full((2, 3, 1), 4)), {"axis": 2}),
        ("gather_nd", (X, ints(1, 3).reshape(1, 2)), {}),
        ("gather_nd", (X, np.full((2, 1), -(1 << 62))), {"batch_dims": 1}),
        ("scatter_elements", (X, np.full((1, 1, 1), 2), X[:1, :1, :1]), {"axis": 0}),
        ("scatter_nd", (X, ints(-3).reshape(1, 1), X[:1]), {}),
    ],
)
def test_index_out_of_range_raises(name, arrays, attrs, constant):
    with pytest.raises(WnnError, match=rf"\[{name}\] found index .* expected one in"):
        run(name, *arrays, constant=constant, **attrs)


@pytest.mark.parametrize("start", [-FAR - 1, -100, -4, -1, 0, 1, 3, 4, 100, FAR])
@pytest.mark.parametrize("end", [-FAR - 1, -100, -4, 0, 2, 4, 100, FAR])
@pytest.mark.parametrize("step", [1, 3, -1, -2, FAR])
def test_slice_clamps_like_numpy(start, end, step):
    want = X[:, :, start:end:step]
    given = [ints(start), ints(end), ints(2), ints(step)]
    for constant in (False, True):
        np.testing.assert_array_equal(run("slice", X, *given, constant=constant)[0], want)
    np.testing.assert_array_equal(run("slice", X, window=((2, start, end, step),))[0], want)


@pytest.mark.parametrize(
    ("name", "arrays", "attrs"),
    [
        ("slice", (X, ints(0), ints(2), ints(0), ints(0)), {}),
        ("slice", (X,), {"window": ((3, 0, 1, 1),)}),
        ("slice", (X,), {"window": ((0, 0, 1, 1), (-3, 0, 1, 1))}),
        ("pad", (X, ints(0, 0, 0, 0, 0, FAR)), {}),
        ("pad", (X, ints(0, 0, -5, 0, 0, 0)), {}),
        ("pad", (X, ints(0, 0, -3, 0, 0, -3)), {}),
        ("pad", (X, ints(0, 0, 4, 0, 0, 0)), {"mode": "reflect"}),
        ("pad", (X, ints(0, 0, 0)), {}),
        ("pad", (X[:0], ints(1, 0, 0, 0, 0, 0)), {"mode": "edge"}),
        ("reshape", (X, ints(5, -1)), {}),
        ("reshape", (X, ints(-1, -1)), {}),
        ("reshape", (X, ints(2, 3, 4, 0)), {}),
        ("reshape", (X, ints(-24)), {}),
        ("expand", (X, ints(2, 3, 5)), {}),
        ("expand", (X, ints(1 << 40, 2, 3, 4)), {}),
        ("tile", (X, ints(1, 1 << 40, 1)), {}),
        ("tile", (X, ints(1, -1, 1)), {}),
        ("split", (X, ints(5, -1)), {"axis": 2}),
        ("split", (X,), {"axis": 1, "parts": 0}),
        ("constant_of_shape", (ints(1 << 40, 1 << 40),), {}),
        ("constant_of_shape", (ints(-1),), {}),
        ("range", (ints(0), ints(FAR), ints(1)), {}),
        ("range", (ints(0), ints(5), ints(0)), {}),
        ("range", (np.float32([0]), np.float32([np.inf]), np.float32([1])), {}),
        ("topk", (X, ints(5)), {}),
        ("one_hot", (ints(1), ints(0), ints(0, 1)), {}),
        ("one_hot", (ints(1), ints(1 << 50), ints(0, 1)), {}),
        ("resize", (X,), {"factors": (1.0, 1.0, 1e8)}),
        ("resize", (X,), {"factors": (1.0, 1.0, -1.0)}),
        ("resize", (X,), {"factors": (1.0, 1.0, float("nan"))}),
        ("squeeze", (X, ints(0)), {}),
        ("squeeze", (X, ints(7)), {}),
        ("unsqueeze", (X, ints(1, 1)), {}),
        ("gather_nd", (ones(3, 2), ints(0, 1).reshape(2, 1)), {"batch_dims": 1}),
        ("grid_sample", (ones(2, 4, 4, 1), ones(1, 3, 3, 2)), {}),
        ("non_max_suppression", (ones(1, 5, 4), ones(1, 2, 9), ints(3)), {}),
    ],
)
def test_hostile_arguments_raise(name, arrays, attrs):
    with pytest.raises(WnnError, match="expected"):
        run(name, *arrays, **attrs)


def test_trilu_takes_any_diagonal():
    for k in (-FAR - 1, -5, 0, 5, FAR):
        (y,) = run("trilu", X, np.array(k), upper=True)
        np.testing.assert_array_equal(y, np.triu(X, int(np.clip(k, -10, 10))))


@pytest.mark.parametrize(
    ("shape", "perm", "to"),
    [
        (("N", "H", "W", 8), (0, 3, 1, 2), ("N", 8, -1)),
        (("N", "H", "W", 8), (0, 3, 1, 2), ("N", 2, 4, "H", "W")),
        (("N", 1, 1, 8), (0, 3, 1, 2), ("N", 8)),
        (("N", "T", 4, 16), (0, 2, 1, 3), ("N", 1, 4, "T", 16)),
    ],
)
def test_reshape_lets_a_transpose_through(shape, perm, to):
    env = {"N": 2, "H": 3, "W": 5, "T": 6}
    lengths = tuple(Sym(d) if isinstance(d, str) else d for d in shape)
    to = tuple(Sym(d) if isinstance(d, str) else d for d in to)
    seen = Spec([lengths[p] for p in perm], "f32")
    found = reshape._transpose(perm, 0, [seen], {"to": to, "allowzero": False})
    assert found is not None
    x = np.random.default_rng(0).random([evaluate(d, env) for d in lengths])
    inner = x.reshape(
        [evaluate(d, env) if d != 0 else x.shape[k] for k, d in enumerate(found.attrs["to"])]
    )
    want = x.transpose(perm).reshape([evaluate(d, env) for d in to])
    np.testing.assert_array_equal(
        inner if found.outputs[0] is None else inner.transpose(found.outputs[0]), want
    )


def test_reshape_stops_a_transpose_whose_axes_it_merges():
    assert (
        reshape._transpose(
            (0, 3, 1, 2), 0, [Spec((2, 8, 3, 5), "f32")], {"to": (2, -1), "allowzero": False}
        )
        is None
    )


def test_restride_agrees_with_numpy():
    rng = np.random.default_rng(0)
    base = np.arange(2 * 3 * 4 * 6)
    for _ in range(300):
        x = base.reshape(2, 3, 4, 6).transpose(rng.permutation(4))[
            rng.integers(0, 2) :, :: rng.integers(1, 3)
        ]
        factors = [f for d in x.shape for f in _factors(d)]
        cut = sorted(rng.integers(0, len(factors) + 1, 2))
        new = tuple(
            int(np.prod(f))
            for f in (factors[: cut[0]], factors[cut[0] : cut[1]], factors[cut[1] :])
        )
        found = restride(x.shape, tuple(s // x.itemsize for s in x.strides), new)
        try:
            y = x.view()
            y.shape = new
        except AttributeError:
            assert found is None
            continue
        got = np.lib.stride_tricks.as_strided(x, new, [s * x.itemsize for s in found])
        np.testing.assert_array_equal(got, y)


def _factors(n):
    return [n] if n < 4 or n % 2 else [2, n // 2]


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_of_channels_last_equals_channels_first(mode):
    x = np.random.default_rng(0).random((2, 6, 5, 7)).astype(np.float32)
    how = {"mode": mode, "coordinates": "half_pixel"}
    (first,) = run("resize", x, size=(2, 6, 9, 3), **how)
    (last,) = run("resize", np.ascontiguousarray(x.transpose(0, 2, 3, 1)), size=(2, 9, 3, 6), **how)
    np.testing.assert_allclose(last.transpose(0, 3, 1, 2), first, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["reshape", "slice", "split", "expand", "squeeze", "pad", "resize"]
)
def test_settled_forms_need_no_second_input(name):
    assert REGISTRY.get(name).required == 1


def test_contiguous_strides_of_an_empty_reshape():
    with pytest.raises(ShapeError):
        run("reshape", X[:0], to=(0, -1), allowzero=True)
    assert run("reshape", X[:0], to=(0, -1))[0].shape == (0, 12)
    assert restride((0, 3), contiguous_strides((0, 3)), (3, 0)) == (0, 0)


# -- lengths that are free -------------------------------------------------------------------------
def test_a_length_padded_to_a_multiple_is_seen_to_be_one():
    n = Sym("n")
    padded = n + (4 - n % 4) % 4
    assert padded % 4 == 0
    assert padded // 4 * 4 == padded
    assert [evaluate(padded, {"n": i}) for i in (0, 1, 4, 5, 7)] == [0, 4, 4, 8, 8]
    assert evaluate(7 % n, {"n": 3}) == 1


@pytest.mark.parametrize(("start", "end"), [(-4, 0), (-4, 1), (-2, 0), (-3, FAR), (-4, 3)])
def test_slice_across_the_ends_of_a_free_axis_has_the_length_that_numpy_says(start, end):
    spec = Spec((Sym("n"),), "f32")
    (length,) = REGISTRY.get("slice")._rule(spec, window=((0, start, end, 1),)).shape
    for n in (1, 2, 3, 4, 5, 9):
        assert evaluate(length, {"n": n}) == len(range(n)[start:end])


@pytest.mark.parametrize("start", [-FAR, -3, -1, 0, 2, FAR])
@pytest.mark.parametrize("end", [-FAR, -4, -1, 0, 3, FAR])
@pytest.mark.parametrize("step", [-1, -2, -3])
def test_slice_that_walks_a_free_axis_back_has_the_length_that_numpy_says(start, end, step):
    spec = Spec((Sym("n"),), "f32")
    (length,) = REGISTRY.get("slice")._rule(spec, window=((0, start, end, step),)).shape
    for n in (1, 2, 3, 4, 5, 9):
        assert evaluate(length, {"n": n}) == len(range(n)[start:end:step])


@pytest.mark.parametrize("start", [-FAR, -3, -1, 0, 2, FAR])
@pytest.mark.parametrize("end", [-FAR, -4, -1, 0, 3, FAR])
@pytest.mark.parametrize("step", [1, 2, -1, -2])
def test_slice_of_a_free_axis_runs_as_numpy_says(start, end, step):
    pytest.importorskip("onnx")
    from nets import model, node

    import wnn

    consts = {k: np.array([v]) for k, v in dict(a=start, b=end, c=0, d=step).items()}
    nodes = [node("Slice", ["x", "a", "b", "c", "d"], ["y"])]
    graph = model(nodes, [("x", ["n", 2])], ["y"], consts)
    net = wnn.NNForward(num_threads=1).load_from_proto(graph)
    for n in (1, 2, 3, 4, 5, 9):
        x = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
        np.testing.assert_array_equal(net.infer([x])[0], x[start:end:step])


def test_a_reshaped_output_may_turn_out_to_have_no_elements():
    from wnn import NNForward
    from wnn.onnx_model import OnnxModel

    pytest.importorskip("onnx")
    m = OnnxModel()
    y = m.Reshape(m.Expand("x", "to"), [-1, 4])
    given = dict(x=(np.float32, ["n", 1, 4]), to=(np.int64, [3]))
    net = NNForward(num_threads=1).load_from_proto(m.finish(y, **given))
    x = np.ones((3, 1, 4), np.float32)
    assert [net.infer([x, ints(3, n, 4)])[0].shape for n in (2, 0)] == [(6, 4), (0, 4)]


@pytest.mark.parametrize("n", [0, 3])
def test_nothing_may_be_found_by_what_is_joined_to_an_output(n):
    from wnn import NNForward
    from wnn.onnx_model import OnnxModel

    pytest.importorskip("onnx")
    m = OnnxModel()
    y = m.Concat("a", m.Relu("b"), axis=1)
    given = dict(a=(np.float32, ["n", 1]), b=(np.float32, ["n", 4]))
    net = NNForward().load_from_proto(m.finish(y, **given))
    (got,) = net.infer({"a": np.ones((n, 1), np.float32), "b": np.ones((n, 4), np.float32)})
    np.testing.assert_array_equal(got, np.ones((n, 5), np.float32))


F, U = np.float32, np.uint8
ACTS = tuple((name, 0.0, 0.0) for name in ("sigmoid", "tanh", "tanh"))
LAYER = dict(direction="forward", acts=ACTS, clip=np.inf)
LSTM = [np.ones(s, F) for s in [(3, 4, 5), (1, 4, 5, 6), (1, 4, 6, 6)]]
ROI = dict(size=(2, 2), scale=1.0)
CONV = dict(kernel=(1, 1), strides=(1, 1), pads=(0,) * 4, dilations=(1, 1), groups=1)
QUANTIZED = [np.ones((1, 3, 3, 4), U), np.ones((1, 4, 2), np.int8)]
MISFITS = {
    "lstm, state of another batch": ("lstm", [*LSTM, None, None, np.ones((1, 1, 6), F)], LAYER),
    "lstm, lengths of another batch": ("lstm", [*LSTM, None, np.ones(2, np.int32)], LAYER),
    "lstm, lengths of i64": ("lstm", [*LSTM, None, np.ones(4, np.int64)], LAYER),
    "lstm, peepholes": ("lstm", [*LSTM, None, None, None, None, np.ones((1, 2, 6), F)], LAYER),
    "roi_align, indices": (
        "roi_align",
        [np.ones((1, 4, 4, 2), F), np.ones((5, 4), F), ints(0)],
        ROI,
    ),
    "roi_align, no rows": (
        "roi_align",
        [np.ones((1, 0, 4, 2), F), np.ones((1, 4), F), ints(0)],
        ROI,
    ),
    "conv, negative pads": (
        "conv",
        [np.ones((1, 3, 3, 4), F), np.ones((1, 4, 2), F)],
        {**CONV, "pads": (-1,) * 4},
    ),
    "lookup, short table": ("lookup", [np.ones(3, U), np.ones(1, U)], {}),
    "conv_quantized, scale": ("conv_quantized", [*QUANTIZED, np.ones(1, F)], CONV),
    "conv_quantized, zero": (
        "conv_quantized",
        [*QUANTIZED, np.ones(2, F), None, np.ones(4, U)],
        CONV,
    ),
    "pad, value": ("pad", [X, None, ints(0).reshape(())], dict(pads=(0, 0, 1, 0, 0, 0))),
}


@pytest.mark.parametrize("case", MISFITS)
def test_inputs_that_do_not_fit_are_refused(case):
    name, arrays, attrs = MISFITS[case]
    with pytest.raises(WnnError, match=rf"\[{name}\] found .*; expected .*; "):
        run(name, *arrays, **attrs)


def test_taps_beyond_a_kernels_room_take_the_reference():
    x, w = np.full((1, 1, 700, 8), 3, U), np.ones((600, 8), F)
    attrs = {k: v for k, v in CONV.items() if k != "groups"}
    (y,) = run("conv_depthwise_quantized", x, w, np.ones(8, F), **{**attrs, "kernel": (1, 600)})
    np.testing.assert_array_equal(y, np.full((1, 1, 101, 8), 1800, F))
