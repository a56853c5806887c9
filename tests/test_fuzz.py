"""Operators of ONNX's own tests with nonsense in their attributes, constants, shapes and inputs:
each model is refused with a WnnError or runs, in little time and memory, and never crashes.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import traceback

import numpy as np
import pytest

import wnn

onnx = pytest.importorskip("onnx")

INTS = [-1, 0, 1, 2, 3, -2, 7, 16, 255, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**63)]
FLOATS = [0.0, 1.0, -1.0, 1e30, float("inf"), -float("inf"), float("nan"), 0.5]
WORDS = [b"", b"\xff", b"linear", b"cubic", b"reflect", b"wrap", b"SAME_UPPER", b"VALID", b"max"]
CASES = int(os.environ.get("FUZZ_CASES", "300"))
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))
BYTES, SECONDS = 4 << 30, 30


@pytest.fixture(scope="module")
def corpus():
    from onnx.backend.test.case.node import collect_testcases

    found = []
    for case in collect_testcases(None):
        feed = case.data_sets[0][0]
        if all(isinstance(a, np.ndarray) for a in feed) and case.model.ByteSize() < 20_000:
            found.append((case.name, case.model.SerializeToString(), feed))
    return found


def change_attribute(a, rng) -> None:
    kind = onnx.AttributeProto
    if a.type == kind.INT:
        a.i = rng.choice(INTS)
    elif a.type == kind.FLOAT:
        a.f = rng.choice(FLOATS)
    elif a.type == kind.STRING:
        a.s = rng.choice(WORDS)
    elif a.type == kind.INTS:
        if a.ints and rng.random() < 0.7:
            a.ints[rng.randrange(len(a.ints))] = rng.choice(INTS)
        else:
            a.ints.append(rng.choice(INTS))


def change_node(node, rng) -> None:
    what = rng.randrange(4)
    if what <= 1 and node.attribute:
        change_attribute(rng.choice(node.attribute), rng)
    elif what == 2 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice([*node.input, ""])
    elif node.input:
        del node.input[-1]


def change_input(a: np.ndarray, rng) -> np.ndarray:
    a = a.copy()
    if a.size and a.dtype.kind in "iuf":
        with np.errstate(all="ignore"):
            value = rng.choice(FLOATS if a.dtype.kind == "f" else INTS)
            a.flat[rng.randrange(a.size)] = np.array(value).astype(a.dtype)
    return a[..., :1] if a.ndim and rng.random() < 0.2 else a


def changed(corpus, seed: int):
    """(name, model, inputs): an operator's test with one thing or two changed; inputs may have
    become constants, and lengths free.
    """
    rng = random.Random(seed)
    name, data, feed = rng.choice(corpus)
    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice((0, 1, 1, 2))):
        change_node(rng.choice(model.graph.node), rng)
    feed = [change_input(a, rng) if rng.random() < 0.3 else a for a in feed]
    if rng.random() < 0.1:
        model.opset_import[0].version = rng.randrange(1, 25)
    free, kept = rng.random() < 0.5, []
    for port, a in zip(list(model.graph.input), feed):
        if a.dtype.kind in "iufb" and rng.random() < 0.3:
            model.graph.initializer.append(onnx.numpy_helper.from_array(a, port.name))
            continue
        kept.append(a)
        for i, d in enumerate(port.type.tensor_type.shape.dim if free else ()):
            d.dim_param = f"{port.name}_{i}"
    return name, model, kept


def run_in_child(name: str, model, feed: list) -> None:
    """Loads and runs; exits with 1 and a traceback where anything but a WnnError comes out."""
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        wnn.NNForward(num_threads=1).load_from_proto(model).infer(feed)
        code = 0
    except wnn.WnnError as e:
        code = 0 if str(e).startswith("[") else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


@pytest.mark.filterwarnings("ignore")
def test_nonsense_in_operators_is_refused_or_runs(corpus):
    wnn.NNForward(num_threads=1).load_from_proto(corpus[0][1])  # what children share
    bad = []
    for seed in range(FIRST, FIRST + CASES):
        name, model, feed = changed(corpus, seed)
        pid = os.fork()
        if pid == 0:
            run_in_child(name, model, feed)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code:
            bad.append((seed, name, signal.Signals(-code).name if code < 0 else code))
    assert not bad
