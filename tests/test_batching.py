"""Batches in chunks: where samples are proven independent, and what only looks like samples."""

import json
from pathlib import Path

import numpy as np
import pytest
from nets import TensorProto, attention_net, conv_net, draw, model, node, real_model, weights

import wnn
from wnn import batching


def test_batches_are_chunked_where_samples_are_independent():
    net = wnn.NNForward(num_threads=2).load_from_proto(conv_net())
    chunked = wnn.NNForward(num_threads=1, max_batchsize=2).load_from_proto(conv_net())
    x = draw(5, 3, 9, 8)
    for a, b in zip(chunked.infer([x]), net.infer([x]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert batching.independent(chunked.graph, [True]) is None


def test_attention_block_is_independent_over_its_batch():
    net = wnn.NNForward().load_from_proto(attention_net())
    assert batching.independent(net.graph, [True]) is None


def reduction_net(shape):
    return model(
        [node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), node("Sub", ["x", "m"], ["y"])],
        [("x", shape)],
        ["y"],
        opset=13,
    )


def test_a_reduction_over_axis_0_runs_whole():
    x = draw(6, 4)
    (y,) = wnn.NNForward(max_batchsize=2).load_from_proto(reduction_net(["n", 4])).infer([x])
    np.testing.assert_allclose(y, x - x.mean(0), rtol=1e-5, atol=1e-6)


def test_a_frozen_batch_that_is_not_proven_independent_is_refused():
    net = wnn.NNForward(max_batchsize=2).load_from_proto(reduction_net([2, 4]))
    with pytest.raises(wnn.errors.ShapeError, match="may mix samples"):
        net.infer([draw(4, 4)])


def test_a_frozen_batch_is_chunked_as_exported():
    m = model([node("MatMul", ["x", "w"], ["y"])], [("x", [2, 4])], ["y"], {"w": weights(4, 3)})
    net = wnn.NNForward().load_from_proto(m)
    x = draw(6, 4)
    (y,) = net.infer([x])
    np.testing.assert_array_equal(
        y, np.concatenate([net.infer([x[i : i + 2]])[0] for i in (0, 2, 4)])
    )
    with pytest.raises(wnn.errors.ShapeError, match="multiple"):
        net.infer([draw(5, 4)])


ZERO, THREE = np.array(0), np.array([3])
LSTM = {"W": weights(1, 12, 4), "R": weights(1, 12, 3)}
# what looks like a batch along axis 0 and is none: time, positions, rows that meet each other
MIXED = {
    "time": ([node("LSTM", ["x", "W", "R"], ["y"], hidden_size=3)], ["t", 1, 4], LSTM),
    "running sum": ([node("CumSum", ["x", "zero"], ["y"])], ["n", 4], {"zero": ZERO}),
    "each with each": (
        [node("Transpose", ["x"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"])],
        ["n", 4],
        {},
    ),
    "their number": (
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"]),
            node("Cast", ["n"], ["c"], to=TensorProto.FLOAT),
            node("Mul", ["x", "c"], ["y"]),
        ],
        ["n", 4],
        {"zero": ZERO},
    ),
    "backwards": (
        [node("Slice", ["x", "end", "start", "axis", "end"], ["y"])],
        ["n", 4],
        {"end": np.array([-1]), "start": np.array([-1000]), "axis": np.array([0])},
    ),
    "the best": ([node("TopK", ["x", "k"], ["y", "i"], axis=0)], ["n", 4], {"k": THREE}),
}


@pytest.mark.parametrize("case", MIXED)
def test_what_runs_along_axis_0_without_being_samples_runs_whole(case):
    nodes, shape, consts = MIXED[case]
    m = model(nodes, [("x", shape)], ["y"], consts)
    x = draw(*[6 if isinstance(d, str) else d for d in shape])
    (want,) = wnn.NNForward(num_threads=1).load_from_proto(m).infer([x])
    net = wnn.NNForward(num_threads=1, max_batchsize=2).load_from_proto(m)
    np.testing.assert_array_equal(net.infer([x])[0], want)
    if case != "the best":  # of chunks there would be too few
        chunked = np.concatenate([net.infer([x[i : i + 2]])[0] for i in (0, 2, 4)])
        assert chunked.shape != want.shape or not np.allclose(chunked, want)


def test_text_along_axis_0_is_not_taken_for_samples():
    net = wnn.NNForward(max_batchsize=2).load_from_file(real_model("g2p-en-gru-loop"))
    folder = Path(real_model("g2p-en-gru-loop")).parent
    case = json.loads((folder / "io.json").read_text())["cases"][0]
    feed = {i["name"]: np.load(folder / i["file"]) for i in case["inputs"]}
    for got, o in zip(net.infer(feed), case["outputs"], strict=True):
        want = np.load(folder / o["file"])
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_state_of_a_detector_is_not_taken_for_samples():
    net = wnn.NNForward(max_batchsize=1).load_from_file(real_model("silero-vad-v6"))
    assert batching.independent(net.graph, [True, True, False]) is not None


def test_a_run_that_outlives_its_model_says_nothing_of_the_next_one():
    net = wnn.NNForward(max_batchsize=2)
    net.load_from_proto(model([node("Relu", ["x"], ["y"])], [("x", ["n", 4])], ["y"]))
    before, x = net._loaded(), draw(6, 4)
    net.load_from_proto(reduction_net(["n", 4]))
    batching.run(net, before, [x], None, None)  # as of a thread that had begun before
    np.testing.assert_allclose(net.infer([x])[0], x - x.mean(0), rtol=1e-5, atol=1e-6)
