"""Profiles, latencies and traces are whole and true."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

pytest.importorskip("onnx")
import nets

from wnn import NNForward, profiling
from wnn.runtime import _core


@pytest.fixture(scope="module")
def model():
    return NNForward(num_threads=1).load_from_proto(nets.conv_net())


@pytest.fixture(scope="module")
def feed(model):
    return [np.ones((1, *p.shape[1:-2], 16, 16), np.float32) for p in model.inputs]


def test_peak_is_above_what_any_kernel_reaches():
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((512, 512), np.float32) for _ in range(2))
    m = NNForward(num_threads=1).load_from_proto(
        nets.model([nets.node("MatMul", ["a", "b"], ["y"])], [("a", (512, 512))], ["y"], {"b": b})
    )
    found = profiling.profile(m, [a])
    assert found.machine.gflops > max(s.gflops or 0 for s in found.steps)
    assert _core.fma_peak(0.001) > 1


def test_profile_has_every_step_with_rates_and_bounds(model, feed):
    found = profiling.profile(model, feed, runs=3)
    assert [(s.name, s.op) for s in found.steps] == [row[:2] for row in model.profile(feed)]
    conv = next(s for s in found.steps if s.op == "conv")
    assert conv.flops > 0 and conv.nbytes > 0 and conv.kernel.startswith("conv")
    assert math.isclose(conv.gflops, conv.flops / conv.ns)
    assert found.bound_ns(conv) >= conv.flops / found.machine.gflops
    assert sum(s.ns for s, _ in found.groups()) == found.ns == sum(s.ns for s in found.steps)


def test_bound_is_that_of_all_threads():
    step = profiling.Timed("", "conv", "", "", 1000, 2000, 80)
    machine = profiling.Machine(gflops=10.0, gbytes=4.0)
    assert profiling.Profile([step], 1, machine).bound_ns(step) == 200
    assert profiling.Profile([step], 2, machine).of_bound([step]) == 0.1


def test_trace_is_a_list_of_complete_events_without_gaps(model, feed):
    found = profiling.profile(model, feed, runs=2)
    events = json.loads(json.dumps(found.trace()))["traceEvents"]
    steps = [e for e in events if e["ph"] == "X"]
    assert {e["ph"] for e in events} == {"M", "X"} and len(steps) == len(found.steps)
    for a, b in itertools.pairwise(steps):
        assert math.isclose(a["ts"] + a["dur"], b["ts"], abs_tol=1e-6)
    assert all({"pid", "tid", "name", "args"} <= e.keys() for e in steps)


def test_latency_counts_runs_and_arithmetic(model, feed):
    done: list[float] = []
    found = profiling.latency(model, feed, 0.05, done.append)
    assert len(found.ms) >= 3 and done[-1] == 1.0
    assert found.flops == profiling.profile(model, feed, runs=2).flops
    assert 0 < found.share_of_peak < 2
    assert profiling.peak_memory() > 1 << 20
