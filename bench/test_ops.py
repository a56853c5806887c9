"""Every operator's kernels, on the cases of its tests and on the larger ones that its record names.

What counts is the time inside kernels, on one thread, without what other processes took of it.
Where a kernel packs weights all inputs but the first are constants.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from wnn import testing
from wnn.kernel_checks import graph_of
from wnn.op import Op
from wnn.plan import Program
from wnn.plugins import summon_plugins
from wnn.registry import REGISTRY

from .measure import CLOCK, Run

SECONDS = 0.02
LARGE_SECONDS = 0.06


def names(op: Op, large: bool) -> Iterator[str]:
    """A name for each case that stays the same when others are added."""
    seen: Counter = Counter()
    for case in testing.cases(op, large):
        given = {k: v for k, v in case.attrs.items() if repr(v) != repr(op.attrs.get(k))}
        words = [op.name, *map(str, case.specs), *(f"{k}={v!r}" for k, v in given.items())]
        name = " ".join(" ".join(words).split())
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} #{seen[name]}"


def subjects() -> Iterator:
    summon_plugins()
    for name, op in sorted(REGISTRY.ops.items()):
        for large in (False, True):
            for i, case in enumerate(names(op, large)):
                yield pytest.param(op, large, i, case, id=f"{name}-{'large' * large}{i}")


def make(op: Op, large: bool, i: int) -> Run:
    """Builds a graph around the operator's case number i."""
    case = next(c for k, c in enumerate(testing.cases(op, large)) if k == i)
    packs = any(k.pack_weights or k.derive for k in op.kernels)
    graph, feed = graph_of(case, constants=packs)
    program = Program(graph, num_threads=1)

    def run() -> int:
        timings: list = []
        start = time.thread_time_ns()
        program.run(feed, None, timings)
        spent = time.thread_time_ns() - start
        return min(spent, sum(ns for s, ns in timings if s.kernel != "reference"))

    return run


@pytest.mark.benchmark(timer=CLOCK, disable_gc=True)
@pytest.mark.parametrize(("op", "large", "i", "name"), list(subjects()))
def test_operator(timed, op, large, i, name):
    timed(name, lambda: make(op, large, i), LARGE_SECONDS if large else SECONDS)
