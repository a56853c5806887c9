"""make bench: every operator on its largest case, and the real models of ../shared where these are.

.venv/bin/python -m pytest bench --benchmark-only -k softmax        one operator
.venv/bin/python -m pytest bench --benchmark-only --benchmark-save=NAME, later --benchmark-compare
Medians of single-threaded runs; a model's inputs are those stored beside it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import wnn
from wnn.graph import Graph
from wnn.op import REGISTRY, Op, Spec
from wnn.plugins import summon_plugins

MODELS = Path(__file__).parents[2] / "shared" / "models"
summon_plugins()
OPS = [op for op in REGISTRY.ops.values() if op.kernels and op._cases is not None]


def largest_case(op: Op) -> tuple[list, dict]:
    cases = list(op.case_list())
    return max(cases, key=lambda c: sum(np.size(a) for a in c[0] if isinstance(a, np.ndarray)))


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_operator(benchmark, op):
    arrays, attrs = largest_case(op)
    packed = {name for k in op.kernels for name in k.pack_weights}
    g = Graph(op.name)
    values, feed = [], []
    for i, a in enumerate(arrays):
        name = op.inputs[min(i, len(op.inputs) - 1)]
        if not isinstance(a, np.ndarray) or name in packed or a.dtype.kind not in "f":
            values.append(None if a is None else g.const(a))
        else:
            values.append(g.input(f"{name}{i}", Spec.of(a).like()))
            feed.append(a)
    made = g.add(op, values, **attrs)
    g.outputs = list(made) if isinstance(made, tuple) else [made]
    g.output_names = [f"y{i}" for i in range(len(g.outputs))]
    model = wnn.NNForward(num_threads=1).load_from_graph(g)
    model.infer(feed)
    benchmark(model.infer, feed)


@pytest.mark.parametrize("name", sorted(p.parent.name for p in MODELS.glob("*/io.json")))
def test_model(benchmark, name):
    folder = MODELS / name
    case = json.loads((folder / "io.json").read_text())["cases"][0]
    feed = {i["name"]: np.load(folder / i["file"]) for i in case["inputs"]}
    model = wnn.NNForward(num_threads=1).load_from_file(folder / "model.onnx")
    model.infer(feed)
    benchmark(model.infer, feed)
