"""What is known of op packages, and how reports show it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .errors import WnnError
from .op import Op
from .pattern import DIALECT, Fusion


def _plain(name: str) -> str:
    return (
        name.strip().lower().replace("_", "-").removeprefix("wnn-").replace("contrib-", "contrib.")
    )


@dataclass
class Package:
    """One op package, as reports show it.

    state: "ready"; "blocked"; "no kernels" where the shared library cannot be used, so that its
    operators run on their references and its patterns rest; "broken". The last two come with a
    reason and a remedy.
    """

    name: str
    module: str
    distribution: str = ""
    version: str = ""
    operators: list[Op] = field(default_factory=list)
    library: str = ""
    dialect: int = DIALECT
    abi: str = ""
    state: str = "ready"
    reason: str = ""
    remedy: str = ""
    load_ms: float = 0.0

    @property
    def domains(self) -> list[str]:
        return sorted({op.domain for op in self.operators})

    @property
    def fusions(self) -> list[Fusion]:
        """The package's patterns; none where they were written for a later dialect."""
        return [f for op in self.operators for f in op.fusions] if self.dialect <= DIALECT else []

    def explain(self, error: Exception) -> None:
        """Takes reason and remedy from an error."""
        if isinstance(error, WnnError):
            self.reason, _, self.remedy = str(error).removeprefix(f"[{self.who}] ").rpartition("; ")
        else:
            self.reason = f"importing {self.module} raised {type(error).__name__}: {error}"
            self.remedy = (
                f"pip install -U --force-reinstall {self.who}, or leave it out with "
                f"WNN_DISABLE_PLUGINS={self.who}"
            )

    @property
    def who(self) -> str:
        return self.distribution or self.name

    @property
    def says(self) -> str:
        return f"[{self.who}] {self.reason}; {self.remedy}"

    def answers_to(self, names: Iterable[str]) -> bool:
        """Whether one of the names is this package's: its domain, distribution, module, or the last
        word of one.
        """
        own = {_plain(n) for n in (self.name, self.distribution, self.module, *self.domains) if n}
        own |= {n.rpartition(".")[2] for n in own}
        return any(_plain(n) in own for n in names)


@dataclass
class Report:
    """What summon_plugins found; print it. `packages` holds one row each, the standard operators
    first.
    """

    packages: list[Package]

    @property
    def active(self) -> list[Package]:
        """The packages that can be used."""
        return [p for p in self.packages if p.state == "ready"]

    @property
    def broken(self) -> list[Package]:
        """The packages that something is wrong with."""
        return [p for p in self.packages if p.state in ("broken", "no kernels")]

    def __str__(self) -> str:
        head = (
            "package",
            "version",
            "distribution",
            "operators",
            "patterns",
            "ABI",
            "state",
            "load",
        )
        rows = [
            (
                p.name,
                p.version,
                p.distribution,
                str(len(p.operators)),
                str(len(p.fusions)),
                p.abi,
                p.state,
                f"{p.load_ms:.1f} ms",
            )
            for p in self.packages
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows)]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip()
            for row in (head, *rows)
        ]
        lines += [p.says for p in self.packages if p.reason]
        return "\n".join(lines)

    __repr__ = __str__
