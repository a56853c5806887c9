"""Compares wnn without its op packages and with them: python -m bench.packages [FOLDER] [options]

First the operators of the packages, each on what it takes the place of, alone in a graph
(spans.py); then the models of FOLDER. Both ways live in one process and take turns; a time is the
least of a round, a ratio that of the same round, the median of the rounds: over 1 the package is
faster. Where an operator has products by constant weights in it, the core's time of these alone is
measured too, and the last ratio is that of what is left without it: of what the package does in
another way.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import wnn
from wnn import NNForward
from wnn.errors import WnnError
from wnn.feeds import random_inputs
from wnn.plugins import summon_plugins
from wnn.runtime import _core

from . import report
from .cases import shared_models
from .engines import difference
from .spans import spans

TOLERANCE = 1e-4  # of the largest value


class Row(NamedTuple):
    """fused: how many of the package's operators. rest: the ratio without products; or None."""

    name: str
    fused: int
    core_ms: float
    package_ms: float
    ratio: float
    rest: float | None = None

    def cells(self) -> list[str]:
        times = f"{self.core_ms:.3f}", f"{self.package_ms:.3f}", f"{self.ratio:.2f}"
        rest = "" if self.rest is None else f"{self.rest:.2f}"
        verdict = report.verdict(self.ratio) if self.fused else "not fused"
        return [self.name, str(self.fused), *times, rest, verdict]


def compare(
    name: str, source: Any, options: argparse.Namespace, feed: Any = None, products: Any = None
) -> Row:
    """Times one model both ways. WnnError where the answers differ."""

    def load(source: Any, plugins: Any) -> NNForward:
        model = NNForward(num_threads=options.threads, plugins=plugins)
        return (model.load_from_file if isinstance(source, Path) else model.load_from_proto)(source)

    core, package = load(source, None), load(source, summon_plugins)
    feed = random_inputs(core) if feed is None else feed
    error = difference(package.infer(feed), core.infer(feed))
    if not error <= TOLERANCE:
        raise WnnError(f"[packages] found answers of {name} {error:.1e} apart; expected the same")
    runs = [(core, feed), (package, feed)]
    if products is not None:
        alone = load(products, None)
        runs.append((alone, random_inputs(alone)))
    rounds = [[least(*run, options.seconds) for run in runs] for _ in range(options.rounds)]
    times = [min(t) for t in zip(*rounds, strict=True)]

    def ratio(a: int, b: int) -> float:
        return statistics.median(r[a] / r[b] for r in rounds)

    rest = None
    if products is not None:
        rest = (ratio(0, 2) - 1) / max(ratio(1, 2) - 1, 1e-6)
    fused = sum(":" in n.op.name for n in package.graph.nodes)
    return Row(name, fused, *times[:2], ratio(0, 1), rest)


def least(model: NNForward, feed: Any, seconds: float) -> float:
    """The least milliseconds of the runs in some time, three at least; of one thread the CPU's."""
    clock = time.thread_time if model.num_threads == 1 else time.perf_counter
    model.infer(feed)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = clock()
        model.infer(feed)
        times.append((clock() - start) * 1e3)
    return min(times)


def table(rows: list[Row], about: str) -> str:
    head = ["", "fused", "core ms", "package ms", "core / package", "without products", ""]
    lines = [about, "", f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 2)}|---|"]
    lines += [f"| {' | '.join(row.cells())} |" for row in rows]
    return "\n".join(lines) + "\n"


def subjects(options: argparse.Namespace) -> Iterator[Row]:
    for span in spans():
        if options.only in f"{span.package} {span.name}":
            name = f"{span.package}: {span.name}"
            yield compare(name, span.model, options, products=span.products)
    for case in shared_models(options.folder) if options.folder else ():
        if options.only in case.name:
            yield compare(case.name, case.path, options, case.inputs)


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.packages", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="models to compare as well")
    parser.add_argument("--only", default="", help="those with this in their names")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.1, help="per way and round")
    parser.add_argument("--table", type=Path, help="write the table (markdown) here")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    rows = []
    for row in subjects(options):
        rows.append(row)
        print("  ".join(row.cells()), flush=True)
    about = {"wnn": wnn.__version__}
    text = table(rows, report.conditions(about, options.threads, _core.cpu()["name"], _core.isa()))
    print(f"\n{text}")
    if options.table:
        options.table.write_text(text)
    return any(row.fused and row.ratio < 1 - report.LEVEL for row in rows)


if __name__ == "__main__":
    sys.exit(main())
