"""Importers of domains whose operators become standard ones, and so have no stem of their own."""

from __future__ import annotations

from collections.abc import Callable

from .matmul import op as matmul


def importers(domain: str) -> Callable:
    """The decorator @importer(*names) of a domain, for fn(g, node) that adds other operators."""

    def importer(*names: str, takes: str = "f16") -> Callable:
        def register(fn: Callable) -> Callable:
            for name in names:
                matmul.importer(name, domain=domain, takes=takes)(fn)
            return fn

        return register

    return importer
