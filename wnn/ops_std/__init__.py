"""The standard operators, one stem each. They register through the same hooks as any op package."""

from __future__ import annotations

import importlib
import pkgutil

from ..op import Op
from ..plugins import hookimpl, register


@hookimpl
def wnn_operators() -> list[Op]:
    """Every Op that a module of this folder (or of a folder in it) holds."""
    return collect(__name__, __path__)


def collect(package: str, path) -> list[Op]:
    """All Op objects at the top level of a package's modules, and in their lists."""
    found: dict[int, Op] = {}
    for info in pkgutil.walk_packages(path, package + "."):
        module = importlib.import_module(info.name)
        for thing in vars(module).values():
            for op in thing if isinstance(thing, list) else [thing]:
                if isinstance(op, Op) and op.module == info.name:
                    found[id(op)] = op
    return list(found.values())


register(__name__)
