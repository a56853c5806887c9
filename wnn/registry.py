"""The registry of all known operators, and the error for one that is not there."""

from __future__ import annotations

from collections.abc import Callable

from .errors import MissingOperatorError, PluginError
from .op import Op


def missing_operator(rows: list[tuple[str, str, str]]) -> MissingOperatorError:
    """The error for operators that nothing provides. rows: (operator, node name, inputs in words),
    all at once.
    """
    lines = []
    for name, node, inputs in rows:
        domain = name.rpartition(":")[0]
        if domain.startswith("contrib."):
            remedy = f"pip install wnn-contrib-{domain.removeprefix('contrib.')}"
        elif domain == "onnx":
            remedy = "pip install 'wnn[onnx]', whose numpy implementation it runs on"
        elif domain:
            remedy = f"install the op package that provides {domain!r}"
        else:
            remedy = "upgrade wnn and onnx, or export the model with other operators"
        where = f' (node "{node}"{", inputs " + inputs if inputs else ""})' if node else ""
        lines.append(f"[{name}] no package provides this operator{where}; {remedy}")
    return MissingOperatorError("\n".join(lines))


class Registry:
    """All known operators: by name, and by what they import."""

    def __init__(self) -> None:
        self.ops: dict[str, Op] = {}
        self._importers: dict[tuple[str, str], dict[int, Callable]] = {}  # by opset

    def add(self, op: Op, provider: str = "wnn") -> None:
        """Registers an operator; refuses an incomplete record and says what to add, and what is
        registered already.
        """
        if lacks := op.missing():
            raise PluginError(
                f"[{op.name}] the record in {op.module} is incomplete; add {', '.join(lacks)}"
            )
        old = self.ops.get(op.name)
        if old is op:
            return
        if old is not None:
            raise PluginError(
                f"[{op.name}] both {old.module} and {op.module} provide this operator; remove one "
                f"({provider})"
            )
        for domain, name, since, fn in op.importers:
            other = self._importers.get((domain, name), {}).get(since)
            if other is not None:
                raise PluginError(
                    f"[{op.name}] both {other.__module__} and {fn.__module__} import {name!r} of "
                    f"domain {domain!r} since opset {since}; remove one ({provider})"
                )
        self.ops[op.name] = op
        for domain, name, since, fn in op.importers:
            self._importers.setdefault((domain, name), {})[since] = fn

    def remove(self, op: Op) -> None:
        """Takes an operator out again, with its importers."""
        if self.ops.get(op.name) is op:
            del self.ops[op.name]
            for domain, name, since, _ in op.importers:
                del self._importers[domain, name][since]

    def without(self, domains: set[str]) -> Registry:
        """All operators but those of these domains."""
        if not domains:
            return self
        rest = Registry()
        for op in self.ops.values():
            if op.domain not in domains:
                rest.add(op)
        return rest

    def get(self, name: str) -> Op:
        """The operator of that name; MissingOperatorError names the package to install."""
        if name not in self.ops:
            raise missing_operator([(name, "", "")])
        return self.ops[name]

    def importer(self, domain: str, name: str, opset: int) -> Callable | None:
        """The newest importer of an ONNX operator that an opset version reaches, or None."""
        known = self._importers.get(("" if domain == "ai.onnx" else domain, name), {})
        return known.get(max((since for since in known if since <= opset), default=None))

    def imported(self) -> list[tuple[str, str]]:
        """(domain, name) of every ONNX operator that has an importer."""
        return sorted(self._importers)

    def fusions(self) -> list:
        """Every fusion of every operator, in registration order."""
        return [f for op in self.ops.values() for f in op.fusions]


REGISTRY = Registry()
