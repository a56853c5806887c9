"""onnxruntime's place among the modules and distributions of a program, taken by wnn.ort."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from importlib.metadata import Distribution
from typing import Any

from ..errors import WnnError

NAME = "onnxruntime"
_CAPI = ("_pybind_state", "onnxruntime_pybind11_state", "onnxruntime_inference_collection")


class NotHere(WnnError, ModuleNotFoundError):
    """A part of onnxruntime that has no counterpart."""


class _Metadata(Distribution):
    """The distribution as importlib.metadata sees it, for packages that ask for its version."""

    def __init__(self, version: str) -> None:
        self._text = f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n"

    def read_text(self, filename: str) -> str | None:
        return self._text if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        raise FileNotFoundError(path)


class _Finder:
    """Says what is not here of onnxruntime, and its version."""

    def __init__(self, version: str) -> None:
        self._distribution = _Metadata(version)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if not name.startswith(f"{NAME}."):
            return
        raise NotHere(
            f"[wnn.ort] found an import of {name}; expected {NAME}'s way to run models, which is "
            f"all that wnn has; use {NAME} itself for it, in a program of its own",
            name=name,
        )

    def find_distributions(self, context: Any) -> Iterator[Distribution]:
        if context.name in (None, NAME):
            yield self._distribution


def install(version: str) -> None:
    me = sys.modules[__package__]
    if sys.modules.setdefault(NAME, me) is not me:
        raise WnnError(
            f"[wnn.ort] found that {NAME} is imported already; "
            "expected install() to come first; call it at the top of the program"
        )
    if any(isinstance(f, _Finder) for f in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder(version))
    me.capi = _module("capi", me)
    for name in _CAPI:
        setattr(me.capi, name, _module(f"capi.{name}", me))


def _module(name: str, source: types.ModuleType) -> types.ModuleType:
    module = types.ModuleType(f"{NAME}.{name}", source.__doc__)
    module.__dict__.update({k: v for k, v in vars(source).items() if not k.startswith("_")})
    sys.modules[module.__name__] = module
    return module
