"""The file format: what is written is read back, opens with safetensors, and damage is an error."""

from __future__ import annotations

import json
import math
import os
import random
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from wnn import NNForward, plugins, wnnx
from wnn.errors import MissingOperatorError, ModelError, UnsupportedError, WnnError
from wnn.graph import Constant, Graph, Value
from wnn.graph_json import encode
from wnn.op import Op, Spec
from wnn.registry import REGISTRY
from wnn.symbols import Sym, maximum


@pytest.fixture(autouse=True, scope="module")
def operators():
    """Two operators that carry attributes of every kind."""
    plugins.ensure_std()
    anything = Op("test_anything", inputs="*x", attrs={"a": None}, doc="test")
    anything.rule(lambda *x, a: x[0])
    anything.reference(lambda *x, a: x[0])
    anything.cases(lambda rng: [])
    posts = Op("test_posts", inputs="x *more", posts=True, doc="test")
    posts.rule(lambda x, *more, post: x)
    posts.reference(lambda x, *more, post: x)
    posts.cases(lambda rng: [])
    for op in (anything, posts):
        REGISTRY.add(op)
    yield
    for op in (anything, posts):
        REGISTRY.remove(op)


def small_graph(**attrs) -> Graph:
    n = Sym("N")
    g = Graph("small")
    x = g.input("x", Spec((n, 3, maximum(n * 2, 5) // 3 + n % 4), "f32").like((n, 3, 4)))
    g.scope = "first"
    y = g.add("transpose", [x], perm=(0, 2, 1))
    c = g.const(np.arange(12, dtype=np.float32).reshape(4, 3), name="weight")
    flags = g.const(np.array([True, False, True]), name="flags")
    words = g.const(np.array(["a", "ü", ""], object), dtype="str", name="words")
    empty = g.const(np.zeros((0, 7), np.int64), name="weight")
    z = g.add("test_anything", [y, None, c, flags, words, empty, c], **({"a": None} | attrs))
    g.outputs, g.output_names = [z, y], ["z", "y"]
    g.meta = {"producer_name": "tests", "custom": {"character": "a\nb"}}
    return g


def same(a: Graph, b: Graph) -> None:
    def store(array, dtype, hint):
        return f"{dtype} {array.tolist()}"

    assert json.dumps(encode(a, store)) == json.dumps(encode(b, store))


def resign(data: bytearray) -> None:
    data[wnnx._DIGITS_AT : wnnx._DIGITS_AT + 64] = wnnx._checksum(data)


def rebuild(path, change) -> None:
    """Writes the file anew, with its header changed and a valid checksum."""
    data = path.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + n])
    meta = header["__metadata__"]
    graph = json.loads(meta["graph"])
    change(header, graph)
    meta["graph"] = json.dumps(graph)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-(8 + len(head)) % 64)
    out = bytearray(struct.pack("<Q", len(head)) + head + data[8 + n :])
    resign(out)
    path.write_bytes(out)


def test_save_and_load_give_the_same_graph(tmp_path):
    g = small_graph()
    wnnx.save(g, tmp_path / "m.wnnx")
    got = wnnx.load(tmp_path / "m.wnnx")
    same(g, got)
    assert got.meta == g.meta
    assert [n.name for n in got.nodes] == ["first", "first"]
    assert os.listdir(tmp_path) == ["m.wnnx"]


def test_attributes_of_every_kind_survive(tmp_path):
    body = Graph("body")
    v = body.input("i", Spec((2,), "i64"))
    body.outputs, body.output_names = [body.add("transpose", [v], perm=(0,))], ["o"]
    n = Sym("N")
    attr = (
        1,
        -2.5,
        1e-5,
        "text",
        True,
        None,
        b"\0\xff",
        math.inf,
        -math.inf,
        [1, (2, 3)],
        {"k": 1, 2: "v"},
        n,
        (n * n * 3 - 7) // 2 % 5,
        np.float32(0.1),
    )
    g = small_graph(a=(attr, body, np.arange(6).reshape(2, 3)))
    wnnx.save(g, tmp_path / "m.wnnx")
    got, graph, array = wnnx.load(tmp_path / "m.wnnx").nodes[1].attrs["a"]
    assert got == attr
    assert list(map(type, got[:-1])) == list(map(type, attr[:-1]))
    same(graph, body)
    np.testing.assert_array_equal(array, np.arange(6).reshape(2, 3))


def test_attribute_without_a_form_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(UnsupportedError, match=r"test_anything\.a"):
        wnnx.save(small_graph(a=object()), tmp_path / "m.wnnx")
    assert os.listdir(tmp_path) == []


def test_only_files_of_ours_are_replaced(tmp_path):
    path, other = tmp_path / "m.wnnx", tmp_path / "m.onnx"
    for _ in range(2):
        wnnx.save(small_graph(), path)
    other.write_bytes(b"a model")
    for wrong in (other, tmp_path, "/dev/null", None):
        with pytest.raises(ModelError, match=r"\[wnnx\] found .*; expected .*; "):
            wnnx.save(small_graph(), wrong)
    assert other.read_bytes() == b"a model" and len(list(tmp_path.iterdir())) == 2


def test_a_file_is_known_by_its_start(tmp_path):
    path = tmp_path / "m.bin"
    wnnx.save(small_graph(), path)
    assert [p.name for p in NNForward().load_from_file(path).inputs] == ["x"]


def test_file_opens_with_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors")
    wnnx.save(small_graph(), tmp_path / "m.wnnx")
    with safetensors.safe_open(tmp_path / "m.wnnx", "numpy") as f:
        assert f.metadata()["format"] == "wnnx"
        assert set(f.keys()) == {"weight", "flags", "words", "weight#2"}
        np.testing.assert_array_equal(f.get_tensor("weight")[:12], np.arange(12))
        assert f.get_tensor("weight").nbytes % 64 == 0


def test_weights_are_read_only_windows_on_the_mapping(tmp_path):
    wnnx.save(small_graph(), tmp_path / "m.wnnx")
    for v in wnnx.load(tmp_path / "m.wnnx").constants().values():
        if v.spec.dtype != "str":
            assert not v.const.data.flags.owndata and not v.const.data.flags.writeable
            assert v.const.data.size == 0 or v.const.data.ctypes.data % 64 == 0


@pytest.mark.parametrize(
    "dtype",
    [
        "f32",
        "f64",
        "f16",
        "bf16",
        "i8",
        "u8",
        "i16",
        "u16",
        "i32",
        "u32",
        "i64",
        "u64",
        "bool",
        "c64",
        "c128",
    ],
)
def test_constants_of_every_dtype_survive(tmp_path, dtype):
    from wnn import dtypes

    array = np.arange(35).reshape(5, 7).astype(dtypes.NUMPY[dtype])
    g = Graph()
    x = g.input("x", Spec((1,), "f32"))
    g.outputs, g.output_names = (
        [
            g.add(
                "test_anything",
                [x, Value("c", Spec((5, 7), dtype, array), Constant(array, dtype=dtype))],
            )
        ],
        ["y"],
    )
    wnnx.save(g, tmp_path / "m.wnnx")
    (v,) = wnnx.load(tmp_path / "m.wnnx").constants().values()
    assert (v.const.dtype, v.spec.dtype, v.const.array.dtype) == (dtype, dtype, array.dtype)
    np.testing.assert_array_equal(v.array, array)


def test_other_version_asks_for_an_update(tmp_path):
    path = tmp_path / "m.wnnx"
    wnnx.save(small_graph(), path)
    path.write_bytes(path.read_bytes().replace(b'"version":"0"', b'"version":"7"'))
    with pytest.raises(UnsupportedError, match="update wnn"):
        wnnx.load(path)


def test_missing_package_is_named(tmp_path):
    path = tmp_path / "m.wnnx"
    wnnx.save(small_graph(), path)

    def change(header, graph):
        header["__metadata__"]["packages"] = json.dumps(
            [{"domain": "contrib.nowhere", "package": "x", "version": ">=1"}]
        )

    rebuild(path, change)
    with pytest.raises(MissingOperatorError, match="pip install wnn-contrib-nowhere"):
        wnnx.load(path)


def test_missing_operators_are_listed_at_once(tmp_path):
    path = tmp_path / "m.wnnx"
    wnnx.save(small_graph(), path)

    def change(header, graph):
        graph["nodes"][0]["op"], graph["nodes"][1]["op"] = "contrib.a:one", "contrib.b:two"

    rebuild(path, change)
    with pytest.raises(MissingOperatorError) as e:
        wnnx.load(path)
    assert "pip install wnn-contrib-a" in str(e.value) and "pip install wnn-contrib-b" in str(
        e.value
    )
    assert 'node "first", inputs f32(N,3,4)' in str(e.value)


def _node(i, key, value):
    return lambda header, graph: graph["nodes"][i].update({key: value})


def _constant(key, value):
    return lambda header, graph: graph["constants"][0].update({key: value})


def _tensor(key, value):
    return lambda header, graph: header["weight"].update({key: value})


def _top(key, value):
    return lambda header, graph: graph.update({key: value})


# changes that a consistent checksum does not reveal
DAMAGE = {
    "input number": _node(0, "in", [99]),
    "negative number": _node(0, "in", [-1]),
    "number as text": _node(0, "in", ["0"]),
    "number as bool": _node(0, "in", [True]),
    "too few inputs": _node(0, "in", []),
    "too many inputs": _node(0, "in", [0, 0, 0]),
    "later value": _node(0, "in", [6]),
    "no outputs": _node(0, "out", []),
    "wrong dtype": _node(0, "out", [["y", "i64", [1, 2, 3]]]),
    "unknown dtype": _node(0, "out", [["y", "f33", [1, 2, 3]]]),
    "wrong rank": _node(0, "out", [["y", "f32", [1, 2]]]),
    "huge axis": _node(0, "out", [["y", "f32", [1, 2, 10**30]]]),
    "attribute name": _node(0, "attrs", {"parm": [0, 2, 1]}),
    "attribute value": _node(0, "attrs", {"perm": [0, 0, 7]}),
    "attribute type": _node(0, "attrs", {"perm": "abc"}),
    "attribute kind": _node(0, "attrs", {"perm": {"what": 1}}),
    "attribute object": _node(0, "attrs", {"perm": {}}),
    "division by zero": _node(0, "out", [["y", "f32", [{"sym": [[1, ["//", 1, 0]]]}, 4, 3]]]),
    "no symbol": _node(0, "out", [["y", "f32", [{"sym": [[1]]}, 4, 3]]]),
    "deep": _node(0, "attrs", {"perm": json.loads("[" * 900 + "]" * 900)}),
    "shape too large": _constant("shape", [4, 5]),
    "shape far too large": _constant("shape", [1 << 39, 1 << 39]),
    "negative shape": _constant("shape", [-4, -3]),
    "no such tensor": _constant("tensor", "nothing"),
    "dtype of another": _constant("dtype", "f64"),
    "unknown layout": _constant("layout", "panel17"),
    "packed without groups": _constant("layout", "panel16"),
    "offset beyond": _tensor("data_offsets", [0, 1 << 62]),
    "offset negative": _tensor("data_offsets", [-64, 0]),
    "offset odd": _tensor("data_offsets", [0, 63]),
    "hole": _tensor("data_offsets", [64, 128]),
    "stored dtype": _tensor("dtype", "I8"),
    "outputs": _top("outputs", [99]),
    "output names": _top("output_names", ["one"]),
    "inputs": _top("inputs", [["x", "f32", [{"sym": [[2, "N"]]}]]]),
    "inputs twice": _top("inputs", [["x", "f32", [1]], ["x", "f32", [1]]]),
    "nodes": _top("nodes", {"a": 1}),
    "meta": _top("meta", 7),
    "dtypes of ports": _top("meta", {"dtypes": 7}),
    "dtype of a port": _top("meta", {"dtypes": {"x": "f33"}}),
    "cycle": _node(0, "in", [5]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_hostile_header_is_an_error(tmp_path, name):
    path = tmp_path / "m.wnnx"
    wnnx.save(small_graph(), path)
    rebuild(path, DAMAGE[name])
    with pytest.raises(ModelError) as e:
        wnnx.load(path)
    assert "m.wnnx" in str(e.value) and "found" in str(e.value) and "expected" in str(e.value)


@pytest.mark.parametrize(
    "post",
    [
        (("bias", 0.0, 0.0, 9),),
        (("bias", 0.0, 0.0, -1),),
        (("relu", 0.0, 0.0, 1),),
        (("add", 0.0, 0.0, 1),),
        (("dance", 0.0, 0.0, -1),),
        (("bias", "a", 0.0, 1),),
        (("relu", 0.0, 0.0, -1),) * 9,
        (1,),
        7,
    ],
)
def test_hostile_post_operations_are_an_error(tmp_path, post):
    g = Graph()
    x, b = g.input("x", Spec((Sym("N"), 4), "f32")), g.const(np.zeros(4, np.float32))
    y = g.add("test_posts", [x, b], post=(("bias", 0.0, 0.0, 1), ("clip", 0.0, 6.0, -1)))
    g.outputs, g.output_names = [y], ["y"]
    wnnx.save(g, tmp_path / "m.wnnx")
    assert wnnx.load(tmp_path / "m.wnnx").nodes[0].attrs == g.nodes[0].attrs
    g.nodes[0].attrs["post"] = post
    wnnx.save(g, tmp_path / "m.wnnx")
    with pytest.raises(ModelError):
        wnnx.load(tmp_path / "m.wnnx")


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\0" * 1000, b"\xff" * 1000, b'{"__metadata__"' * 30]
)
def test_other_files_are_an_error(tmp_path, content):
    path = tmp_path / "m.wnnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.wnnx"):
        wnnx.load(path)


def test_missing_file_and_directory_are_an_error(tmp_path):
    for path in (tmp_path / "none.wnnx", tmp_path):
        with pytest.raises(ModelError):
            wnnx.load(path)


def test_every_truncation_is_an_error(tmp_path):
    path = tmp_path / "m.wnnx"
    wnnx.save(small_graph(), path)
    data = path.read_bytes()
    for n in sorted({*range(0, len(data), 61), len(data) - 1, len(data) - 64}):
        path.write_bytes(data[:n])
        with pytest.raises(ModelError):
            wnnx.load(path)


def test_every_flipped_byte_is_an_error(tmp_path):
    path = tmp_path / "m.wnnx"
    wnnx.save(small_graph(), path)
    data = path.read_bytes()
    for at in range(0, len(data), 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
        with pytest.raises(WnnError):
            wnnx.load(path)


def test_flipped_bytes_under_a_valid_checksum_never_crash(tmp_path):
    path = tmp_path / "m.wnnx"
    wnnx.save(small_graph(), path)
    data = path.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    rng = random.Random(0)
    loaded = 0
    for _ in range(1500):
        bad = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            bad[rng.randrange(8, header)] = rng.choice(b'0123456789-,:[]{}"\\ eNtf')
        resign(bad)
        path.write_bytes(bad)
        try:
            wnnx.load(path)
            loaded += 1
        except WnnError:
            pass
    assert loaded < 1500


def test_unwritable_place_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="cannot be written"):
        wnnx.save(small_graph(), tmp_path / "no" / "such" / "m.wnnx")


NONSENSE = [
    0,
    1,
    -1,
    2,
    7,
    17,
    1 << 20,
    -(1 << 20),
    1 << 31,
    1 << 39,
    0.5,
    -1e30,
    "x",
    None,
    True,
    [],
]
NONSENSE += [[1, 2], [-1], {"float": "nan"}]


def leaves(obj, path=()):
    """Paths of everything in JSON that is no object or list, but names."""
    rows = obj.items() if isinstance(obj, dict) else enumerate(obj)
    for key, x in rows:
        if isinstance(x, (dict, list)):
            yield from leaves(x, (*path, key))
        elif key != "name":
            yield (*path, key)


def test_nonsense_under_a_valid_checksum_is_an_error_or_runs(tmp_path):
    pytest.importorskip("onnx")
    from nets import attention_net, conv_net

    import wnn
    from wnn.feeds import random_inputs

    rng = random.Random(0)
    path = tmp_path / "m.wnnx"
    ran = 0
    for net in (conv_net(), attention_net()):
        model = wnn.NNForward(num_threads=1).load_from_proto(net)
        wnnx.save(model.graph, tmp_path / "whole.wnnx")
        whole = (tmp_path / "whole.wnnx").read_bytes()

        def change(header, graph):
            for _ in range(rng.choice((1, 1, 2))):
                found = [p for p in leaves(graph) if p[0] in ("nodes", "constants", "outputs")]
                *way, last = rng.choice(found)
                place = graph
                for key in way:
                    place = place[key]
                old = place[last]
                near = type(old) is int and rng.random() < 0.5
                place[last] = old + rng.choice((1, -1, 16)) if near else rng.choice(NONSENSE)

        for _ in range(200):
            path.write_bytes(whole)
            rebuild(path, change)
            try:
                other = wnn.NNForward(num_threads=1).load_from_file(path)
                other.infer(random_inputs(other))
                ran += 1
            except WnnError:
                pass
    assert 0 < ran < 400


def test_threads_may_write_one_path_and_what_a_killed_process_left_is_no_hindrance(tmp_path):
    path = tmp_path / "m.wnnx"
    (tmp_path / f"m.wnnx.{os.getpid()}.tmp").write_bytes(b"half")
    graph = Graph()
    graph.outputs, graph.output_names = [graph.const(np.ones(100_000, np.float32))], ["y"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: wnnx.save(graph, path), range(24)))
    assert wnnx.load(path).outputs and len(list(tmp_path.iterdir())) == 2


def test_what_is_no_path_or_graph_is_said(tmp_path):
    for call in (
        lambda: wnnx.load(None),
        lambda: wnnx.metadata(5),
        lambda: wnnx.save(Graph(), 5),
        lambda: wnnx.save(None, tmp_path / "m.wnnx"),
        lambda: wnnx.save(Graph(), "a\0b"),
        lambda: wnnx.metadata("a\0b"),
    ):
        with pytest.raises(ModelError, match=r"^\[wnnx\] .*; "):
            call()
    assert not list(tmp_path.iterdir())
