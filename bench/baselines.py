"""Baselines: what each case cost before, on this CPU and instruction set.

A case that costs more than the noise allows is a suspect. Suspects are measured again, from new
memory and some time later; those that are never as fast as the baseline have regressed. What is
as large as a cache may be faster by half where its pages happen to lie well, so a baseline is the
middle of three measurements, and what ran before stays in memory while suspects are tried.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wnn import __version__
from wnn.runtime import _core

from .measure import Measured, Run, measure

LIMIT = 1.2  # of the baseline's cost
SLACK_NS = 1000  # what timers, calls and tiny kernels vary by
ATTEMPTS = 8
PAUSE_SECONDS = 0.5


def machine() -> str:
    """The CPU and the instruction set in force, as a file name."""
    words = [_core.cpu()["name"], *_model_numbers(), _core.isa()]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def _model_numbers() -> list[str]:
    """What tells apart CPUs of one name, as virtual machines often show them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    found = [re.search(rf"^{k}\s*: (.*)$", text, re.M) for k in ("model", "stepping", "cache size")]
    return [m[1] for m in found if m]


@dataclass
class Case:
    """One thing that is timed. make() builds it anew and gives what runs it."""

    name: str
    make: Callable[[], Run]
    seconds: float
    found: list[Measured]
    kept: list[Run] = field(default_factory=list)

    @property
    def best(self) -> Measured:
        return min(self.found, key=lambda m: m.cost)

    @property
    def usual(self) -> Measured:
        return sorted(self.found, key=lambda m: m.cost)[len(self.found) // 2]

    def again(self, keep: bool = False) -> None:
        """Measures once more; keep: the memory is not given back."""
        run = self.make()
        self.found.append(measure(run, self.seconds))
        if keep:
            self.kept.append(run)


@dataclass
class Book:
    """The baseline, and the cases of this run."""

    path: Path
    update: bool = False
    cases: dict[str, Case] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)  # of the baseline

    def __post_init__(self) -> None:
        self.exists = self.path.exists()
        if self.exists:
            self.costs = json.loads(self.path.read_text())["costs"]

    def add(self, name: str, make: Callable[[], Run], seconds: float, found: Measured) -> None:
        self.cases[name] = Case(name, make, seconds, [found])

    def settle(self) -> list[Case]:
        """Measures again what has to be, writes what is new; the cases that have regressed."""
        if self.update:
            new = list(self.cases.values())
        else:
            new = [c for c in self.cases.values() if c.name not in self.costs]
        for _ in range(2):
            for case in new:
                case.again()
        suspects = [] if self.update else self.slower(list(self.cases.values()))
        for _ in range(ATTEMPTS):
            if suspects:
                time.sleep(PAUSE_SECONDS)
            for case in suspects:
                case.again(keep=True)
            suspects = self.slower(suspects)
        if new:
            self._write(new)
        return suspects

    def slower(self, cases: list[Case]) -> list[Case]:
        """Those beyond the noise."""
        return [
            c
            for c in cases
            if c.name in self.costs
            and c.best.cost > LIMIT * self.costs[c.name] + SLACK_NS * c.best.gflops
        ]

    def ratio(self, case: Case) -> float:
        """Of the case's cost to the baseline's, either of which may be next to nothing."""
        slack = SLACK_NS * case.best.gflops
        return (case.best.cost + slack) / (self.costs[case.name] + slack)

    def _write(self, new: list[Case]) -> None:
        self.costs |= {c.name: float(f"{c.usual.cost:.4g}") for c in new}
        facts = {"cpu": _core.cpu()["name"], "isa": _core.isa(), "wnn": __version__}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(
            json.dumps({**facts, "costs": dict(sorted(self.costs.items()))}, indent=1)
        )

    def report(self, regressed: list[Case]) -> Iterator[str]:
        """What the run came to, in lines."""
        known = [c for c in self.cases.values() if self.exists and c.name in self.costs]
        if not self.exists:
            yield f"no baseline of this CPU; {len(self.cases)} cases written to {self.path}"
        elif self.update:
            yield f"{len(self.cases)} cases written to {self.path}"
        else:
            ratios = [self.ratio(c) for c in known]
            mean = math.exp(sum(map(math.log, ratios)) / max(1, len(ratios)))
            faster = sum(r < 1 / LIMIT for r in ratios)
            yield (
                f"{len(known)} cases against {self.path.name}: geometric mean of the costs' ratio "
                f"{mean:.3f}, {faster} much faster, {len(regressed)} regressed"
            )
        for case in sorted(regressed, key=self.ratio, reverse=True):
            yield f"REGRESSED {self.ratio(case):.2f} x  {case.best.ns / 1e3:.1f} us  {case.name}"
