"""Compares wnn with other engines: python -m bench.peers FOLDER [options]

FOLDER holds NAME.onnx with NAME.npz (arrays in*, out*), or NAME/model.onnx with io.json and .npy
files beside; models without inputs get random ones. Each engine that is installed lives in a
process of its own, which sleeps while others run; rounds go engine by engine, so that drift hits
all alike. A time is the least of a round; a ratio is peer time / wnn time of the same round, the
median of the rounds: over 1 wnn is faster. Who fails or gives other results than expected has no
time; for wnn that counts as a loss.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from wnn.profiling import Machine
from wnn.runtime import _core

from .cases import ModelCase, shared_models
from .engines import ENGINES, installed

TOLERANCE = 1e-3  # of the largest expected value
PEER_TOLERANCE = 2e-2  # peers may be less exact than wnn


@dataclass
class Entry:
    """One engine on one model. rounds: least milliseconds of each; empty where it failed."""

    rounds: list[float] = field(default_factory=list)
    failed: str = ""
    facts: dict = field(default_factory=dict)

    @property
    def ms(self) -> float:
        return statistics.median(self.rounds)


@dataclass
class Row:
    """One model. share: of the FMA peak that wnn reached, None where its arithmetic is unknown."""

    model: str
    entries: dict[str, Entry]
    share: float | None = None

    def ratio(self, engine: str) -> float | None:
        """The engine's time by wnn's; None where the engine has none, 0 where wnn has none."""
        peer, own = self.entries[engine], self.entries["wnn"]
        if not peer.rounds:
            return None
        if not own.rounds:
            return 0.0
        return statistics.median(p / w for p, w in zip(peer.rounds, own.rounds, strict=True))

    @property
    def best(self) -> float | None:
        """The fastest peer's ratio."""
        found = [self.ratio(e) for e in self.entries if e != "wnn"]
        return min((r for r in found if r is not None), default=None)


class Worker:
    """An engine's process."""

    def __init__(self, engine: str, case: ModelCase, threads: int) -> None:
        command = [sys.executable, "-m", "bench.engines", engine, str(case.path), str(threads)]
        quiet = {"stderr": subprocess.DEVNULL, "text": True, "cwd": Path(__file__).parents[1]}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, **quiet)
        self.facts = self._answer() or {"failed": "its process died"}

    def _answer(self) -> dict | list | None:
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def times(self, seconds: float) -> list[float]:
        """Milliseconds of runs; empty where the process died."""
        try:
            print(seconds, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            return []
        return self._answer() or []

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def compare(case: ModelCase, engines: Iterable[str], options: argparse.Namespace) -> Row:
    """Times one model on all engines."""
    workers = {e: Worker(e, case, options.threads) for e in engines}
    entries = {}
    for engine, worker in workers.items():
        entries[engine] = Entry(facts=worker.facts, failed=worker.facts.get("failed", ""))
        error = worker.facts.get("error")
        if error is not None and not error <= (TOLERANCE if engine == "wnn" else PEER_TOLERANCE):
            entries[engine].failed = f"wrong: differs by {error:.1e}"
    machine = Machine()
    for _ in range(options.rounds):
        machine.measure()
        for engine, entry in entries.items():
            times = [] if entry.failed else workers[engine].times(options.seconds)
            if times:
                entry.rounds.append(min(times))
            elif not entry.failed:
                entry.failed, entry.rounds = "its process died", []
    for worker in workers.values():
        worker.close()
    row = Row(case.name, entries)
    if entries["wnn"].rounds and (flops := _flops(case)):
        rate = flops / (entries["wnn"].ms * 1e6)
        row.share = rate / (machine.gflops * options.threads)
    return row


def _flops(case: ModelCase) -> int:
    from wnn import NNForward, profiling

    model = NNForward(num_threads=1).load_from_file(case.path)
    return profiling.profile(model, case.inputs, runs=2, seconds=0).flops


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", help="names, by commas; default: all")
    parser.add_argument("--engines", default=",".join(ENGINES), help="by commas; default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="per engine and round")
    parser.add_argument("--table", type=Path, help="write the table (markdown) here")
    parser.add_argument("--plot", type=Path, help="write the plot (PNG) here; needs matplotlib")
    return parser.parse_args(words)


def versions(engines: Iterable[str]) -> dict[str, str]:
    """Engine -> version, of those that are installed."""
    found = {}
    for engine in engines:
        try:
            found[engine] = installed(engine)
        except PackageNotFoundError:
            print(f"{engine}: not installed")
    return found


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    found = versions(dict.fromkeys(["wnn", *options.engines.split(",")]))
    cases = list(shared_models(options.folder))
    if options.models:
        cases = [c for c in cases if c.name in options.models.split(",")]
    if not cases:
        sys.exit(f"[peers] found no such models in {options.folder}; expected NAME.onnx files")
    from . import report

    rows = []
    for case in cases:
        rows.append(compare(case, found, options))
        print(report.line(rows[-1]), flush=True)
    conditions = report.conditions(found, options.threads, _core.cpu()["name"], _core.isa())
    table = report.table(rows, list(found), conditions)
    print(f"\n{table}")
    if options.table:
        options.table.write_text(table)
    if options.plot:
        report.plot(rows, list(found), conditions, options.plot)
    return any(not r.entries["wnn"].rounds for r in rows)


if __name__ == "__main__":
    sys.exit(main())
