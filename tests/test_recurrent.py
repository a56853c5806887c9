"""Recurrent layers as ONNX writes them, and branches that shapes decide."""

import numpy as np
import pytest
from nets import helper, model, node, weights

import wnn


def load(m):
    return wnn.NNForward(num_threads=1).load_from_proto(m)


@pytest.mark.parametrize("op, gates", [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_batch_first_layout_is_the_transposed_layer(op, gates):
    t, b, i, h = 5, 3, 4, 6
    consts = {
        "w": weights(2, gates * h, i),
        "r": weights(2, gates * h, h),
        "b": weights(2, 2 * gates * h),
    }
    lens = {"lens": np.array([5, 2, 3], np.int32)}
    names, outs = ["x", "w", "r", "b", "lens"], ["y", "h"]
    kept = dict(hidden_size=h, direction="bidirectional")
    by_time = load(model([node(op, names, outs, **kept)], [("x", (t, b, i))], outs, consts | lens))
    first = load(
        model([node(op, names, outs, **kept, layout=1)], [("x", (b, t, i))], outs, consts | lens)
    )
    x = weights(t, b, i, scale=1.0)
    y, last = by_time.infer([x])
    y1, last1 = first.infer([x.transpose(1, 0, 2).copy()])
    np.testing.assert_array_equal(y.transpose(2, 0, 1, 3), y1)
    np.testing.assert_array_equal(last.transpose(1, 0, 2), last1)
    assert not y[2:, :, 1].any() and not by_time.fallback_ops()
    np.testing.assert_array_equal(y[1, 0, 1], last[0, 1])  # forward: the last step that counts
    np.testing.assert_array_equal(y[0, 1], last[1])


def test_a_sequence_in_pieces_gives_the_same_states():
    t, i, h = 9, 3, 20
    consts = {"w": weights(1, 4 * h, i), "r": weights(1, 4 * h, h)}
    n = node("LSTM", ["x", "w", "r", "", "", "h0", "c0"], ["y", "h", "c"], hidden_size=h)
    states = [("h0", (1, 1, h)), ("c0", (1, 1, h))]
    net = load(model([n], [("x", ("T", 1, i)), *states], ["y", "h", "c"], consts))
    x, state = weights(t, 1, i, scale=1.0), [np.zeros((1, 1, h), np.float32)] * 2
    whole, *last = net.infer([x, *state])
    parts = []
    for k in range(t):
        y, *state = net.infer([x[k : k + 1], *state])
        parts.append(y)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(state, last)


def choose(cond, out, then, otherwise):
    """An If whose branches are one node each."""

    def graph(name, n):
        return helper.make_graph([n], name, [], [helper.make_tensor_value_info("o", 1, None)])

    return node(
        "If", [cond], [out], then_branch=graph("t", then), else_branch=graph("e", otherwise)
    )


def test_branches_are_planned_once_their_condition_is_known():
    one = {"one": np.array([1])}
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "last"], ["n"]),
        node("Equal", ["n", "one"], ["c"]),
        choose("c", "z", node("Squeeze", ["x", "axis"], ["o"]), node("Neg", ["x"], ["o"])),
        node("Greater", ["flag", "half"], ["g"]),
        choose("g", "y", node("Relu", ["z"], ["o"]), node("Abs", ["z"], ["o"])),
    ]
    consts = {**one, "last": np.array([-1]), "axis": np.array([-1]), "half": np.float32(0.5)}
    net = load(model(nodes, [("x", ("A", "B")), ("flag", ())], ["y"], consts))
    x = np.array([[-1.0], [2.0]], np.float32)
    wide = np.array([[-1.0, 2.0]], np.float32)
    for flag in (0.0, 1.0, 0.0):
        f = np.maximum if flag else lambda a, _: np.abs(a)
        np.testing.assert_array_equal(net.infer([x, np.float32(flag)])[0], f(x[:, 0], 0))
        np.testing.assert_array_equal(net.infer([wide, np.float32(flag)])[0], f(-wide, 0))
    assert not any(kernel == "if" for _, kernel, *_ in net.profile([x, np.float32(1)]))


def test_a_layer_of_constants_keeps_each_of_its_states():
    consts = {"x": weights(2, 1, 2), "w": weights(1, 4, 2), "r": weights(1, 4, 1)}
    nodes = [node("LSTM", [*consts], ["y", "h", "c"], hidden_size=1)]
    y, h, c = load(model(nodes, [], ["y", "h", "c"], consts)).infer([])
    np.testing.assert_array_equal(y[-1], h)
    assert h != c
