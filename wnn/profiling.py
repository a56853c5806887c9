"""Where a model's time goes, step by step, and how near each step is to what the machine can do.

A step's bound is the time that its arithmetic needs at the FMA peak, or its inputs and outputs at
the rate of a copy within L2, whichever is longer: no kernel of the same arithmetic can be faster.
Algorithms that save arithmetic (Winograd, Strassen) can be. Both rates are measured between the
runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from . import dtypes
from .errors import WnnError
from .op import Call, Spec
from .runtime import _core

if TYPE_CHECKING:
    from .forward import NNForward
    from .stage import Step

COPIED = 1 << 17  # bytes; with their copy they lie in any L2


@dataclass
class Machine:
    """The best rates of one thread seen so far."""

    gflops: float = 0.0  # float32 multiply-adds, counted as two
    gbytes: float = 0.0  # read and written

    _memory: np.ndarray = field(default_factory=lambda: np.zeros((2, COPIED), np.uint8))

    def measure(self, seconds: float = 0.002) -> None:
        """Looks again; the rates only rise."""
        self.gflops = max(self.gflops, _core.fma_peak(seconds))
        target, source = self._memory
        for _ in range(20):
            start = time.perf_counter_ns()
            np.copyto(target, source)
            self.gbytes = max(self.gbytes, 2 * COPIED / (time.perf_counter_ns() - start))


@dataclass
class Timed:
    """A step, or several alike: what ran, for how long, with what arithmetic and data.

    flops: None where the operator does not tell.  nbytes: of all inputs and outputs.
    """

    name: str
    op: str
    kernel: str
    output: str
    ns: int
    flops: int | None
    nbytes: int
    steps: int = 1

    @property
    def gflops(self) -> float | None:
        """Achieved, per second."""
        return self.flops / self.ns if self.flops and self.ns else None

    @property
    def gbytes(self) -> float:
        """Achieved, per second."""
        return self.nbytes / max(1, self.ns)


@dataclass
class Profile:
    """One run of a model: its steps in order, each with the least time seen."""

    steps: list[Timed]
    threads: int
    machine: Machine

    @property
    def ns(self) -> int:
        return sum(s.ns for s in self.steps)

    @property
    def flops(self) -> int:
        return sum(s.flops or 0 for s in self.steps)

    def bound_ns(self, step: Timed) -> float:
        """The time that the step's arithmetic or data needs at the machine's best rates."""
        compute = (step.flops or 0) / self.machine.gflops
        return max(compute, step.nbytes / self.machine.gbytes) / self.threads

    def of_bound(self, steps: Iterable[Timed]) -> float:
        """The bound's share of the time taken."""
        steps = list(steps)
        return sum(map(self.bound_ns, steps)) / max(1, sum(s.ns for s in steps))

    def groups(self) -> list[tuple[Timed, float]]:
        """(all steps of one operator and kernel as one, share of bound), the longest first."""
        rows: dict[tuple[str, str], list[Timed]] = {}
        for s in self.steps:
            rows.setdefault((s.op, s.kernel), []).append(s)
        found = [(_sum(same), self.of_bound(same)) for same in rows.values()]
        return sorted(found, key=lambda row: -row[0].ns)

    def trace(self) -> dict[str, Any]:
        """Trace events (JSON object format) that Chrome's and Perfetto's viewers open."""
        events: list[dict] = [
            {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "wnn"}},
            {"ph": "M", "pid": 1, "tid": 1, "name": "thread_name", "args": {"name": "steps"}},
        ]
        start = 0
        for s in self.steps:
            args: dict[str, Any] = {"node": s.name, "kernel": s.kernel, "output": s.output}
            args |= {"GB/s": round(s.gbytes, 2), "of bound": round(self.of_bound([s]), 3)}
            if s.gflops:
                args["GFLOP/s"] = round(s.gflops, 2)
            events.append(
                {"ph": "X", "pid": 1, "tid": 1, "name": s.op, "cat": "step", "args": args}
            )
            events[-1] |= {"ts": start / 1e3, "dur": s.ns / 1e3}
            start += s.ns
        return {"traceEvents": events, "displayTimeUnit": "ns"}


def profile(
    model: NNForward, inputs: Sequence | Mapping[str, Any], runs: int = 10, seconds: float = 1.0
) -> Profile:
    """Runs a model a number of times, or as often as fits in some seconds, but twice at least.

    Steps get the least time of all runs, or that of the fastest run where runs differ in steps.
    """
    machine = Machine()
    model._run(inputs, None, None)
    taken: list[list[tuple[Step, int]]] = []
    end = time.perf_counter() + seconds
    while len(taken) < 2 or len(taken) < runs and time.perf_counter() < end:
        machine.measure()
        timings: list = []
        model._run(inputs, None, timings)
        taken.append(timings)
    best = min(taken, key=lambda run: sum(ns for _, ns in run))
    if all([s for s, _ in run] == [s for s, _ in best] for run in taken):
        best = [(s, min(run[i][1] for run in taken)) for i, (s, _) in enumerate(best)]
    return Profile([_timed(s, ns) for s, ns in best], model.num_threads, machine)


@dataclass
class Latency:
    """Repeated runs of a model: the first, then the others, in milliseconds."""

    first_ms: float
    ms: list[float]
    flops: int
    threads: int
    machine: Machine

    @property
    def share_of_peak(self) -> float:
        """Of the FMA peak of all threads, by the median run."""
        rate = self.flops / (float(np.median(self.ms)) * 1e6)
        return rate / (self.machine.gflops * self.threads)


def latency(
    model: NNForward,
    inputs: Sequence | Mapping[str, Any],
    seconds: float = 3.0,
    progress: Callable[[float], None] = lambda done: None,
) -> Latency:
    """Runs a model for some seconds, three times at least. progress: called with the part done."""
    machine = Machine()

    def timed() -> float:
        start = time.perf_counter()
        model.infer(inputs)
        return (time.perf_counter() - start) * 1e3

    first, ms = timed(), []
    begin = looked = time.perf_counter()
    while len(ms) < 3 or looked - begin < seconds:
        machine.measure()
        burst = time.perf_counter()
        while time.perf_counter() - burst < 0.1:
            ms.append(timed())
        looked = time.perf_counter()
        progress(min(1.0, (looked - begin) / max(seconds, 1e-9)))
    timings: list = []
    model._run(inputs, None, timings)
    done = sum(_step_flops(s) or 0 for s, _ in timings)
    return Latency(first, ms, done, model.num_threads, machine)


def peak_memory() -> int:
    """The most bytes that this process has had in memory so far."""
    with open("/proc/self/status") as f:
        line = next(line for line in f if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def flops(call: Call) -> int | None:
    """Floating point operations of an operator on specs; None where the operator does not tell."""
    if call.op._flops is None or not all(isinstance(s, Spec) and s.concrete for s in call.outs):
        return None
    try:
        return int(call.op._flops(call))
    except (WnnError, TypeError, AttributeError):  # attributes that hold symbols, absent inputs
        return None


def _timed(step: Step, ns: int) -> Timed:
    output = str(step.spec) if step.spec is not None else "?"
    if step.call is None:
        nbytes = 2 * _nbytes(step.spec) if step.spec is not None else 0
        return Timed(step.label, step.op, step.kernel, output, ns, None, nbytes)
    inner = [c.outs[0] for _, c in step.before]
    ins = [s for c in (*(c for _, c in step.before), step.call) for s in c.ins]
    nbytes = sum(map(_nbytes, (*ins, *step.call.outs))) - sum(map(_nbytes, inner))
    return Timed(step.label, step.op, step.kernel, output, ns, _step_flops(step), nbytes)


def _step_flops(step: Step) -> int | None:
    told = [flops(c) for c in (*(c for _, c in step.before), step.call) if c is not None]
    return None if None in told or not told else sum(told)


def _nbytes(spec: Spec | None) -> int:
    if spec is None or not spec.concrete:
        return 0
    return spec.size * dtypes.ITEMSIZE.get(spec.dtype, 0)


def _sum(same: list[Timed]) -> Timed:
    told = [s.flops for s in same if s.flops]
    return Timed(
        same[0].name,
        same[0].op,
        same[0].kernel,
        same[0].output,
        sum(s.ns for s in same),
        sum(told) if told else None,
        sum(s.nbytes for s in same),
        len(same),
    )
