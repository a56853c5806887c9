"""Convolutions that run together by bands of rows give the bits of one after the other."""

import os
import subprocess
import sys

import numpy as np
import pytest

from wnn.graph import Graph
from wnn.op import Spec
from wnn.ops_std.conv import chain
from wnn.plan import Program
from wnn.plugins import ensure_std

ensure_std()
RNG = np.random.default_rng(0)
RELU = (("bias", 0.0, 0.0, 2), ("clip", 0.0, 6.0, -1))

# x, then of each link: depthwise?, channels, kernel, stride, pads, dilation
CASES = [
    ((1, 61, 47, 3), (0, 32, (3, 3), 2, 1, 1), (1, 32, (3, 3), 1, 1, 1), (0, 8, (1, 1), 1, 0, 1)),
    ((2, 80, 64, 3), (0, 48, (3, 3), 1, 1, 1), (1, 48, (3, 3), 2, 1, 1)),
    ((3, 64, 40, 16), (0, 96, (1, 1), 1, 0, 1), (1, 96, (3, 3), 1, 1, 1), (0, 24, (1, 1), 1, 0, 1)),
    ((1, 77, 40, 16), (0, 40, (1, 1), 1, 0, 1), (1, 40, (5, 5), 2, 2, 1), (0, 33, (1, 1), 2, 0, 1)),
    ((1, 70, 40, 16), (0, 35, (1, 1), 3, 0, 1), (1, 35, (3, 3), 1, 2, 2)),
    ((2, 49, 60, 16), (0, 40, (1, 1), 1, 0, 1), (1, 40, (3, 3), 2, (0, 1, 1, 0), 1)),
    ((1, 90, 70, 1), (0, 20, (5, 3), 1, (2, 1, 2, 1), 1), (1, 20, (3, 3), 1, 1, 1),
     (0, 17, (3, 3), 1, 1, 1), (1, 17, (3, 1), 1, 0, 1)),
    ((1, 300, 3, 3), (0, 600, (3, 3), 1, 1, 1), (1, 600, (3, 3), 1, 1, 1)),
]  # fmt: skip


def net(shape, *links):
    g = Graph("chain")
    x = g.input("x", Spec(shape, "f32"))
    v, c = x, shape[-1]
    for depthwise, m, kernel, stride, pads, dilation in links:
        taps = int(np.prod(kernel))
        w = RNG.standard_normal((taps, m) if depthwise else (1, taps * c, m)).astype(np.float32)
        bias = RNG.standard_normal(m).astype(np.float32)
        v = g.add(
            "conv_depthwise" if depthwise else "conv",
            [v, g.const(w), g.const(bias)],
            kernel=kernel,
            strides=(stride, stride),
            pads=(pads,) * 4 if isinstance(pads, int) else pads,
            dilations=(dilation, dilation),
            post=RELU,
        )
        c = m
    g.outputs, g.output_names = [v], ["y"]
    return g


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_bits_are_those_of_one_after_the_other(monkeypatch, case, threads):
    g = net(*case)
    x = RNG.standard_normal(case[0]).astype(np.float32)
    (want,) = Program(g, num_threads=1).run([x])
    monkeypatch.setattr(chain, "LARGE", 0)
    monkeypatch.setattr(chain, "LIGHT", 1 << 20)
    monkeypatch.setattr(chain, "WIDER", 0)
    program = Program(g, num_threads=threads)
    for _ in range(2):
        timings = []
        (got,) = program.run([x], timings=timings)
        np.testing.assert_array_equal(got, want)
        assert [len(s.before) for s, _ in timings if s.call] == [len(case) - 2]


@pytest.mark.skipif("WNN_ISA" in os.environ, reason="for each anyway")
@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_on_narrower_instruction_sets(isa):
    command = [sys.executable, "-m", "pytest", "-q", "-k", "bits", __file__]
    done = subprocess.run(
        command, env={**os.environ, "WNN_ISA": isa}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("what", ["LARGE", "LIGHT", "WIDER"])
def test_what_would_not_pay_stays_apart(monkeypatch, what):
    case = ((1, 160, 128, 3), (0, 32, (3, 3), 1, 1, 1), (1, 32, (3, 3), 1, 1, 1))
    x = RNG.standard_normal(case[0]).astype(np.float32)
    g = net(*case)
    for limit, links in ((None, 2), ({"LARGE": 1 << 22, "LIGHT": 26, "WIDER": 11}[what], 1)):
        if limit is not None:
            monkeypatch.setattr(chain, what, limit)
        timings = []
        Program(g).run([x], timings=timings)
        assert max(1 + len(s.before) for s, _ in timings) == links
