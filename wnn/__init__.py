"""wnn: a tiny, plugin-oriented inference engine, from numpy to numpy in three lines.

    model = wnn.NNForward(num_threads=2, max_batchsize=8, plugins=wnn.summon_plugins)
    model.load_from_file("model.wnnx")      # or .onnx
    y, = model.infer([x])

The way of the data:  forward -> importer -> passes -> plan -> runtime

    forward.py   NNForward                      op.py       Op: everything known of one operator
    batching.py  large batches in chunks        ops_std/    the standard operators, one stem each
    importer.py  ONNX -> Graph                  graph.py    Graph, Node, Value
    passes.py    the named rewrites             pattern.py  the language fusions are written in
    layout.py    channels-last                  symbols.py  lengths not known yet
    epilogues.py what follows a product         siblings.py products of one input
    branches.py  sums of convolutions
    plan.py      shapes -> stages               resolve.py  what a node comes to for given specs
    plan_cache.py  what they are kept by        plugins.py  op packages; libraries.py: their kernels
    segment.py   what a native stage is made of steps.py    builds it; python_steps.py: in Python
    arena.py     its memory                     stage.py    running it
    wnnx.py      the file format                errors.py   what can go wrong
    conversion.py  ONNX -> .wnnx                ort/, cli.py  other ways in
    environment.py  variables                   runtime/    the compiled core
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import WnnError

if TYPE_CHECKING:
    from .conversion import convert
    from .forward import NNForward
    from .plugins import summon_plugins

__version__ = "0.1.0"
__all__ = ["NNForward", "WnnError", "convert", "summon_plugins"]
_LAZY = {"NNForward": "forward", "summon_plugins": "plugins", "convert": "conversion"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'wnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
