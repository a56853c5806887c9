"""NNForward: inputs, outputs, and what it refuses."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from nets import TensorProto, conv_net, draw, helper, model, node, numpy_helper, weights

import wnn
from wnn import importer, plan, segment


@pytest.fixture
def net():
    return wnn.NNForward(num_threads=2).load_from_proto(conv_net())


def test_inputs_by_list_and_by_name_and_other_containers_agree(net):
    x = draw(2, 3, 9, 8)
    want = net.infer([x])
    for given in ({"x": x}, [memoryview(x)], [np.asfortranarray(x)], [x.astype(">f4")]):
        for a, b in zip(net(given), want, strict=True):
            np.testing.assert_array_equal(a, b)


def test_ports_tell_names_dtypes_and_free_axes(net):
    assert net.inputs == [("x", "f32", ("n", 3, "h", "w"))]
    assert [o.name for o in net.outputs] == ["y", "z"]


def test_out_writes_into_the_callers_arrays(net):
    x = draw(1, 3, 8, 8)
    y, _ = net.infer([x])
    mine = np.empty_like(y)
    got = net.infer([x], out=[mine, None])
    assert got[0] is mine
    np.testing.assert_array_equal(mine, y)
    strided = np.empty((1, 10), np.float32)[:, ::2]
    net.infer([x], out=[strided, None])
    np.testing.assert_array_equal(strided, y)
    with pytest.raises(wnn.errors.ShapeError):
        net.infer([x], out=[np.empty((3, 3), np.float32), None])


def test_out_may_be_the_input():
    m = model([node("Transpose", ["x"], ["y"], perm=[1, 0])], [("x", [40, 40])], ["y"])
    net = wnn.NNForward(num_threads=1).load_from_proto(m)
    x = draw(40, 40)
    want = x.T.copy()
    assert net.infer([x], out=[x])[0] is x
    np.testing.assert_array_equal(x, want)
    both = np.empty_like(x)
    for out in ([np.eye(40, dtype=np.float32).T], [both]):
        np.testing.assert_array_equal(net.infer([x], out=out)[0], x.T)


def read_only(shape):
    a = np.empty(shape, np.float32)
    a.flags.writeable = False
    return a


@pytest.mark.parametrize("out", [5, [None], [read_only((1, 5)), None], [[1, 2], None], draw(2, 5)])
def test_out_that_cannot_be_written_is_refused_beforehand(net, out):
    with pytest.raises(wnn.errors.ShapeError, match=r"\[infer\] found .*; expected .*; "):
        net.infer([draw(1, 3, 8, 8)], out=out)


class Lends:
    """An array by DLPack alone; `device` 2 is CUDA."""

    def __init__(self, a, device=1):
        self.a, self.device = a, device

    def __dlpack__(self, **kwargs):
        if self.device != 1:
            raise BufferError("on another device")
        return self.a.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return (self.device, 0)


class Foreign:
    """What has the shape and dtype of an array, and becomes one."""

    def __init__(self, a):
        self.a, self.shape, self.dtype = a, a.shape, a.dtype

    def __array__(self, dtype=None, copy=None):
        return self.a


class Refuses:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("cannot convert a CUDA tensor")


def test_results_without_elements_need_no_kernel():
    w = np.ones((8, 2, 3), np.float32)
    nodes = [node("Conv", ["x", "w"], ["a"], group=4), node("Relu", ["a"], ["y"])]
    m = model(nodes, [("x", (1, 8, "t"))], ["y"], {"w": w})
    net = wnn.NNForward(num_threads=2).load_from_proto(m)
    for t in (1, 2, 3):
        assert net.infer([draw(1, 8, t)])[0].shape == (1, 8, max(0, t - 2))


def test_plans_of_many_shapes_share_a_limit_of_memory(net, monkeypatch):
    monkeypatch.setattr(plan, "RESTING_BYTES", 1 << 20)
    shapes = [(1, 3, 40 + i, 64) for i in range(12)]
    want = [net.infer([np.ones(s, np.float32)])[0] for s in shapes]
    largest = max(s.plan.arena_bytes for s in net._program._native_stages())
    assert net.memory_report()["arenas"] <= (1 << 20) + largest
    for s, y in zip(shapes, want, strict=True):
        np.testing.assert_array_equal(net.infer([np.ones(s, np.float32)])[0], y)


def test_ports_without_a_shape_keep_their_dtype():
    m = model([node("Neg", ["i"], ["y"])], [("i", None, TensorProto.INT64)], ["y"])
    m.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    net = wnn.NNForward().load_from_proto(m)
    assert net.inputs == [("i", "i64", None)] and net.outputs == [("y", "i64", None)]
    np.testing.assert_array_equal(net.infer([[1, 2]])[0], [-1, -2])
    with pytest.raises(wnn.errors.DtypeError, match="expected i64"):
        net.infer([draw(2)])


def test_bf16_takes_numbers_by_value_and_names_what_makes_it():
    m = model([node("Identity", ["x"], ["y"])], [("x", ["n"], TensorProto.BFLOAT16)], ["y"])
    net = wnn.NNForward().load_from_proto(m)
    assert net.infer([[1, 2.5]])[0].tolist() == [0x3F80, 0x4020]
    with pytest.raises(wnn.errors.DtypeError, match="ml_dtypes"):
        net.infer([draw(2)])


@pytest.mark.parametrize("given", [np.array([1, 2]), [1, 2], np.array([b"a"]), np.array([1], "O")])
def test_what_holds_no_strings_is_refused_for_strings(given):
    m = model([node("Identity", ["s"], ["y"])], [("s", ["n"], TensorProto.STRING)], ["y"])
    net = wnn.NNForward().load_from_proto(m)
    for s in (["a", "b"], np.array(["a", "b"]), np.array(["a", "b"], object)):
        assert list(net.infer([s])[0]) == ["a", "b"]
    with pytest.raises(wnn.errors.DtypeError, match="expected str"):
        net.infer([given])


def test_a_model_in_memory_is_no_path_and_what_cannot_be_read_is_named(tmp_path):
    data = conv_net().SerializeToString()
    for held in (data, bytearray(data), memoryview(data)):
        assert wnn.NNForward().load_from_proto(held).inputs
        with pytest.raises(wnn.errors.ModelError, match="load_from_proto") as e:
            wnn.NNForward().load_from_file(held)
        assert len(str(e.value)) < 300
    for path in (tmp_path, tmp_path / "none.onnx", "a" * 5000, "a\0b"):
        with pytest.raises(wnn.errors.ModelError, match=r"\[load\] found no file to read"):
            wnn.NNForward().load_from_file(path)


def test_memory_that_does_not_suffice_for_loading_is_said(monkeypatch):
    def fail(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(importer.Importer, "graph", fail)
    with pytest.raises(wnn.errors.UnsupportedError, match="no room"):
        wnn.NNForward().load_from_proto(conv_net())


def test_inputs_by_dlpack_array_and_lists(net):
    x = draw(1, 3, 8, 8)
    want = net.infer([x])
    for given in (Lends(x), x.tolist(), memoryview(x), Foreign(x)):
        for a, b in zip(net.infer([given]), want, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "given", [Lends(draw(1), 2), Refuses(), [[1, 2], [3]], ["a"], None, object(), b"abcd", "abcd"]
)
def test_what_gives_no_array_is_refused(net, given):
    with pytest.raises(wnn.errors.DtypeError, match=r"\[infer\] found input 'x' .*; expected .*; "):
        net.infer([given])


@pytest.mark.parametrize("given", [[1.5], [2**70], [1 + 2j]])
def test_lists_are_not_rounded_to_whole_numbers(given):
    m = model([node("Add", ["i", "i"], ["y"])], [("i", ["n"], TensorProto.INT64)], ["y"])
    net = wnn.NNForward().load_from_proto(m)
    np.testing.assert_array_equal(net.infer([[1, 2]])[0], [2, 4])
    assert net.infer([[]])[0].shape == (0,)
    with pytest.raises(wnn.errors.DtypeError):
        net.infer([given])


def test_outputs_belong_to_the_caller(net):
    x = draw(1, 3, 8, 8)
    first = net.infer([x])
    kept = [a.copy() for a in first]
    for a in first:
        a += 1
    for a, b in zip(net.infer([x]), kept, strict=True):
        np.testing.assert_array_equal(a, b)


def test_outputs_that_alias_inputs_or_constants_are_copies():
    m = model(
        [
            node("Identity", ["x"], ["y"]),
            node("Identity", ["c"], ["z"]),
            node("Reshape", ["x", "s"], ["r"]),
        ],
        [("x", [2, 3])],
        ["y", "z", "r", "y"],
        {"c": weights(4), "s": np.array([6])},
    )
    net = wnn.NNForward().load_from_proto(m)
    x = draw(2, 3)
    outs = net.infer([x])
    np.testing.assert_array_equal(outs[0], x)
    np.testing.assert_array_equal(outs[2], x.reshape(6))
    for i, a in enumerate(outs):
        assert not np.may_share_memory(a, x)
        assert not any(np.may_share_memory(a, b) for b in outs[:i])
    outs[1][:] = 0
    assert net.infer([x])[1].any()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([], wnn.WnnError),
        ([np.zeros((1, 3, 8, 8))], wnn.errors.DtypeError),
        ([np.zeros((1, 4, 8, 8), np.float32)], wnn.errors.ShapeError),
        ([np.zeros((3, 8, 8), np.float32)], wnn.errors.ShapeError),
        ({"y": np.zeros((1, 3, 8, 8), np.float32)}, wnn.WnnError),
        (np.zeros((1, 3, 8, 8), np.float32), wnn.WnnError),
        ({}, wnn.WnnError),
    ],
)
def test_bad_inputs_are_refused_with_three_facts(net, given, error):
    with pytest.raises(error, match=r"\[infer\] found .*; expected .*; "):
        net.infer(given)


def test_infer_without_a_model_says_so():
    with pytest.raises(wnn.WnnError, match="load_from_file"):
        wnn.NNForward().infer([])
    with pytest.raises(wnn.WnnError, match="no file"):
        wnn.NNForward().load_from_file("missing.onnx")
    with pytest.raises(wnn.WnnError, match="num_threads"):
        wnn.NNForward(num_threads=0)
    for load in ("load_from_file", "load_from_proto", "load_from_graph"):
        with pytest.raises(wnn.WnnError, match=r"\[load\] found .*; expected .*; "):
            getattr(wnn.NNForward(), load)(3)
    with pytest.raises(wnn.WnnError, match="plugins"):
        wnn.NNForward(plugins=5).load_from_proto(conv_net())


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1e9", "nan"])
def test_nonsense_in_the_environment_is_refused(monkeypatch, value):
    monkeypatch.setenv("WNN_THREADS", value)
    with pytest.raises(wnn.WnnError, match=r"found WNN_THREADS=.*; expected .*; "):
        wnn.NNForward()
    monkeypatch.setenv("WNN_THREADS", "3")
    assert wnn.NNForward().num_threads == 3


def test_outputs_beyond_memory_are_refused():
    inputs = [("x", [1]), ("s", [2], TensorProto.INT64)]
    m = model([node("Expand", ["x", "s"], ["y"])], inputs, ["y"])
    net = wnn.NNForward().load_from_proto(m)
    with pytest.raises(wnn.WnnError, match="GiB"):
        net.infer([draw(1), np.array([1 << 30, 1 << 30])])


# -- hostile data
def test_an_index_out_of_range_raises():
    m = model(
        [node("Gather", ["t", "i"], ["y"])],
        [("t", ["n", 4]), ("i", ["k"], TensorProto.INT64)],
        ["y"],
    )
    net = wnn.NNForward().load_from_proto(m)
    t = draw(5, 4)
    np.testing.assert_array_equal(net.infer([t, np.array([0, -5, 4])])[0], t[[0, -5, 4]])
    for bad in (5, -6, 2**62, -(2**63)):
        with pytest.raises(wnn.errors.IndexOutOfRangeError, match="5"):
            net.infer([t, np.array([0, bad])])


def test_slice_clamps_and_refuses_hostile_bounds():
    m = model(
        [node("Slice", ["x", "a", "b", "ax", "st"], ["y"])],
        [("x", ["n", 4]), *[(k, [1], TensorProto.INT64) for k in ("a", "b", "ax", "st")]],
        ["y"],
    )
    net = wnn.NNForward().load_from_proto(m)
    x = draw(5, 4)
    one = lambda v: np.array([v])  # noqa: E731
    big = 2**63 - 1
    np.testing.assert_array_equal(net.infer([x, one(-big), one(big), one(0), one(2)])[0], x[::2])
    np.testing.assert_array_equal(net.infer([x, one(big), one(-big), one(0), one(-1)])[0], x[::-1])
    for a, b, axis, step in [(0, 5, 7, 1), (0, 5, 0, 0), (0, 5, -3, 1)]:
        with pytest.raises(wnn.WnnError):
            net.infer([x, one(a), one(b), one(axis), one(step)])


def test_pad_refuses_hostile_bounds():
    m = model(
        [node("Pad", ["x", "p"], ["y"], mode="reflect")],
        [("x", [3, 4]), ("p", [4], TensorProto.INT64)],
        ["y"],
    )
    net = wnn.NNForward().load_from_proto(m)
    x = draw(3, 4)
    np.testing.assert_array_equal(
        net.infer([x, np.array([1, 0, 1, 2])])[0], np.pad(x, [(1, 1), (0, 2)], "reflect")
    )
    for bad in ([-9, 0, 0, 0], [2**40, 0, 0, 2**40], [9, 0, 0, 0]):
        with pytest.raises(wnn.WnnError):
            net.infer([x, np.array(bad)])


def lasting_net():
    """x (n, t, 4) + positions of t, projected; and these beside it, and by themselves."""
    consts = {
        "table": draw(20, 6),
        "w": draw(6, 4),
        "zero": np.array([0]),
        "one": np.array(1),
        "axis": np.array([0]),
    }
    nodes = [
        node("Shape", ["x"], ["size"]),
        node("Gather", ["size", "one"], ["t"]),
        node("Unsqueeze", ["t", "axis"], ["end"]),
        node("Slice", ["table", "zero", "end", "axis"], ["rows"]),
        node("MatMul", ["rows", "w"], ["p"]),
        node("Relu", ["p"], ["r"]),
        node("Add", ["x", "r"], ["sum"]),
        node("Neg", ["sum"], ["y"]),
        node("Unsqueeze", ["r", "axis"], ["r3"]),
        node("Expand", ["r3", "size"], ["wide"]),
        node("Concat", ["y", "wide"], ["both"], axis=2),
        node("Unsqueeze", ["p", "axis"], ["alone"]),
    ]
    m = model(nodes, [("x", ("n", "t", 4))], ["both", "alone"], consts)

    def expected(x):
        p = consts["table"][: x.shape[1]] @ consts["w"]
        r = np.maximum(p, 0)
        return np.concatenate([-(x + r), np.broadcast_to(r, x.shape)], 2), p[None]

    return m, expected


@pytest.mark.parametrize("room", [segment.LASTING, 0])
def test_what_shapes_alone_decide_is_computed_once(room, monkeypatch):
    monkeypatch.setattr(segment, "LASTING", room)
    m, expected = lasting_net()
    net = wnn.NNForward(num_threads=2).load_from_proto(m)
    for t in (7, 12, 7):
        for _ in range(3):
            x = draw(2, t, 4)
            for got, want in zip(net.infer([x]), expected(x), strict=True):
                np.testing.assert_allclose(got, want, 1e-5, 1e-5)
    again = [op for _, op, ns in net.profile([x]) if ns == 0]
    assert ("linear" in again) == (room > 0)
    with ThreadPoolExecutor(4) as pool:
        many = draw(40, 2, 7, 4)
        for x, (got, _) in zip(many, pool.map(lambda x: net.infer([x]), many), strict=True):
            np.testing.assert_allclose(got, expected(x)[0], 1e-5, 1e-5)


def sequence(name):
    return helper.make_tensor_sequence_value_info(name, TensorProto.FLOAT, None)


def sequence_model(nodes, inputs, outputs, consts=None):
    """As `model`, of inputs and outputs that are ValueInfos, sequences among them."""
    inits = [numpy_helper.from_array(a, n) for n, a in (consts or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, inits)
    return wnn.NNForward().load_from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    )


def info(name, dtype=TensorProto.FLOAT, shape=("n",)):
    return helper.make_tensor_value_info(name, dtype, shape)


def test_what_planning_knows_of_outputs_belongs_to_the_caller_too():
    nodes = [node("Relu", ["x"], ["y"]), node("Shape", ["x"], ["s"])]
    net = sequence_model(nodes, [info("x")], [info("y"), info("s", TensorProto.INT64, [1])])
    x = draw(5)
    net.infer([x])[1][:] = 77
    assert net.infer([x])[1] == 5


def test_texts_and_sequences_belong_to_the_caller():
    string = TensorProto.STRING
    nodes = [node("Reshape", ["x", "to"], ["y"]), node("Transpose", ["x"], ["z"])]
    outputs = [info("y", string), info("z", string, ["m", "n"])]
    net = sequence_model(nodes, [info("x", string, ["n", "m"])], outputs, {"to": np.array([-1])})
    x = np.array([["a", "b"], ["c", "d"]], object)
    y, z = net.infer([x], out=[None, x])
    assert z is x and x.tolist() == [["a", "c"], ["b", "d"]] and y.tolist() == ["a", "b", "c", "d"]

    nodes = [
        node("SequenceConstruct", ["x", "c"], ["q"]),
        node("SequenceInsert", ["q", "x"], ["r"]),
    ]
    c = weights(4)
    net = sequence_model(nodes, [info("x")], [sequence("q"), sequence("r")], {"c": c})
    x = draw(4)
    kept = x.copy()
    for part in itertools.chain(*net.infer([x])):
        part += 1
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(net.infer([x])[0][1], c)


def test_arrays_in_sequences_may_have_the_other_byte_order():
    nodes = [node("SequenceAt", ["q", "i"], ["x"]), node("Relu", ["x"], ["y"])]
    net = sequence_model(nodes, [sequence("q")], [info("y")], {"i": np.array(0)})
    x = draw(9)
    np.testing.assert_array_equal(net.infer([[x.astype(">f4")]])[0], np.maximum(x, 0))


def test_out_takes_no_array_for_a_sequence_and_none_twice(net):
    nodes = [node("SequenceConstruct", ["x"], ["q"])]
    with pytest.raises(wnn.errors.ShapeError, match=r"out\[0\]; expected None"):
        sequence_model(nodes, [info("x")], [sequence("q")]).infer([draw(3)], out=[draw(3)])
    nodes = [node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["z"])]
    two = sequence_model(nodes, [info("x")], [info("y"), info("z")])
    x, out = draw(4), np.empty((5, 2), np.float32)
    with pytest.raises(wnn.errors.ShapeError, match=r"out\[0\] and out\[1\] in the same memory"):
        two.infer([x], out=[out[:4, 0], out[1:, 0]])
    two.infer([x], out=[out[:4, 0], out[:4, 1]])
    np.testing.assert_array_equal(out[:4], np.stack([np.maximum(x, 0), -x], 1))


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="needs numpy 2")
def test_strings_of_numpys_own_are_strings():
    string = TensorProto.STRING
    net = sequence_model([node("Identity", ["x"], ["y"])], [info("x", string)], [info("y", string)])
    x = np.array(["a", "bcd"], np.dtypes.StringDType())
    assert net.infer([x])[0].tolist() == ["a", "bcd"]
    with pytest.raises(wnn.errors.DtypeError, match="expected f32"):
        sequence_model([node("Relu", ["x"], ["y"])], [info("x")], [info("y")]).infer([x])


def test_texts_among_shorter_ones_are_not_cut_off():
    string = TensorProto.STRING
    nodes = [node("ScatterElements", ["x", "i", "u"], ["y"]), node("Pad", ["x", "p", "v"], ["z"])]
    consts = {"i": np.array([1]), "p": np.array([0, 1]), "v": np.array("as long", object)}
    net = sequence_model(
        nodes,
        [info("x", string), info("u", string, ["k"])],
        [info("y", string), info("z", string)],
        consts,
    )
    y, z = net.infer([np.array(["a", "b"]), np.array(["much longer"])])
    assert y.tolist() == ["a", "much longer"] and z.tolist() == ["a", "b", "as long"]


def test_numpys_sums_do_not_depend_on_how_inputs_lie():
    nodes = [node("InstanceNormalization", ["x", "s", "s"], ["y"])]
    net = sequence_model(nodes, [info("x", shape=[2, 5, 9, 7]), info("s")], [info("y")])
    x, s = draw(2, 5, 9, 7), draw(5)
    unaligned = np.empty(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    unaligned[...] = x
    (y,) = net.infer([x, s])
    assert net.fallback_ops()
    for other in (np.asfortranarray(x), unaligned, x[::-1].copy()[::-1]):
        np.testing.assert_array_equal(net.infer([other, s])[0], y)
