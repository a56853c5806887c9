"""How long something takes, in a measure that survives noise and changes of clock rate.

A time is the least of many rounds, and of the CPU time where other processes ran meanwhile. Between
the rounds the FMA peak of one thread is measured, and the time is given as the number of floating
point operations that the CPU could have done in it at that peak: a machine that runs slower for a
while slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from wnn.runtime import _core

CALIBRATIONS = 10
CALIBRATION_SECONDS = 5e-5

Run = Callable[[], int]  # runs once and returns the nanoseconds that count
Repeat = Callable[..., object]  # repeat(target, setup=, rounds=): runs both so many times


class Measured(NamedTuple):
    """cost: ns * gflops, the operations that the FMA peak would have made in that time."""

    ns: int
    gflops: float

    @property
    def cost(self) -> float:
        return self.ns * self.gflops


class Clock:
    """A timer for pytest-benchmark that counts only what runs report."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


CLOCK = Clock()


def _repeat(target: Callable, setup: Callable, rounds: int) -> None:
    for _ in range(rounds):
        setup()
        target()


def measure(run: Run, seconds: float = 0.02, repeat: Repeat = _repeat) -> Measured:
    """Runs as often as fits in some seconds, 5 to 200 times; the least time, the highest peak."""
    run()
    start = time.perf_counter()
    run()
    rounds = int(min(200, max(5, seconds / (time.perf_counter() - start))))
    every = max(1, rounds // CALIBRATIONS)
    times: list[int] = []
    peaks: list[float] = []

    def calibrate() -> None:
        if len(times) % every == 0:
            peaks.append(_core.fma_peak(CALIBRATION_SECONDS))

    def target() -> None:
        times.append(run())
        CLOCK.seconds += times[-1] * 1e-9

    repeat(target, setup=calibrate, rounds=rounds)
    return Measured(min(times), max(peaks))
