"""The table and the plot of a comparison, losses as plain as wins."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from wnn.errors import WnnError

if TYPE_CHECKING:
    from .peers import Row

LEVEL = 0.02  # a ratio this near to 1 is neither a win nor a loss


def conditions(versions: dict[str, str], threads: int, cpu: str, isa: str) -> str:
    """On what was measured, in a line."""
    engines = ", ".join(f"{e} {v}" for e, v in versions.items())
    count = f"{threads} thread{'s' * (threads > 1)}"
    return f"{cpu}, {isa}, {count}; {engines}; float32; {date.today():%Y-%m-%d}"


def line(row: Row) -> str:
    """One model in a line, with what failed and why."""
    parts = [
        f"{e} {entry.ms:.2f} ms" if entry.rounds else f"{e} failed ({entry.failed[:60]})"
        for e, entry in row.entries.items()
    ]
    return f"{row.model}: {', '.join(parts)}; best peer / wnn {_ratio(row.best)}"


def mean(ratios: list[float]) -> float:
    """Geometric; 0 where any is."""
    if not ratios or min(ratios) <= 0:
        return 0.0
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def table(rows: list[Row], engines: list[str], about: str) -> str:
    """Markdown: milliseconds, and the best peer's time by wnn's."""
    head = ["model", *(f"{e} ms" for e in engines), "of FMA peak", "best peer / wnn", ""]
    lines = [about, "", f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 2)}|---|"]
    for row in rows:
        times = [f"{e.ms:.2f}" if e.rounds else "failed" for e in row.entries.values()]
        share = "" if row.share is None else f"{row.share:.0%}"
        cells = [row.model, *times, share, _ratio(row.best), verdict(row.best)]
        lines.append(f"| {' | '.join(cells)} |")
    known = [r.best for r in rows if r.best is not None]
    verdicts = [verdict(r) for r in known]
    counts = ", ".join(f"{verdicts.count(v)} {n}" for v, n in _COUNTED.items())
    lines += ["", f"Geometric mean {mean(known):.3f} over {len(known)} models: {counts}."]
    return "\n".join(lines) + "\n"


_COUNTED = {"wins": "wins", "level": "level", "**loses**": "losses"}


def verdict(ratio: float | None) -> str:
    if ratio is None:
        return "no peer ran"
    if ratio < 1 - LEVEL:
        return "**loses**"
    return "wins" if ratio > 1 + LEVEL else "level"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def plot(rows: list[Row], engines: list[str], about: str, path: Path) -> None:
    """Bars of peer time / wnn time for each model and peer; those that wnn loses to are red."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise WnnError(
            "[plot] found no package matplotlib; expected it; pip install 'wnn[bench]'"
        ) from None
    peers = [e for e in engines if e != "wnn"]
    height = 0.9 / max(1, len(peers))
    figure = Figure(
        figsize=(9, 1.5 + len(rows) * max(0.35, 0.2 * len(peers))), layout="constrained"
    )
    axes = figure.subplots()
    shades = (0.9, 0.7, 0.5, 0.35)
    for k, peer in enumerate(peers):
        ratios = [row.ratio(peer) or 0.0 for row in rows]
        colors = ["tab:red" if r < 1 - LEVEL else "tab:blue" for r in ratios]
        at = [i + (k + 0.5) * height - 0.45 for i in range(len(rows))]
        bars = axes.barh(at, ratios, height, color=colors, alpha=shades[k % len(shades)])
        texts = [f"{peer} {r:.2f}" if r else f"{peer} failed" for r in ratios]
        texts = [t if rows[i].entries["wnn"].rounds else "wnn failed" for i, t in enumerate(texts)]
        axes.bar_label(bars, texts, padding=2, fontsize=6)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [r.model for r in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("peer's time / wnn's time; red: wnn is slower")
    axes.set_title(about.replace("; ", "\n", 1), fontsize=7)
    axes.margins(x=0.12)
    figure.savefig(path, dpi=130)
