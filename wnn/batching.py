"""Large batches in chunks, where the operators' batch rules prove that samples do not depend on
each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import ShapeError
from .graph import Graph, Node, Value
from .op import NeedValue
from .symbols import Sym

if TYPE_CHECKING:
    from .plan import Program


def sample_axes(
    graph: Graph, batched: list[bool] | None = None
) -> tuple[dict[Value, int], str | None]:
    """Along which axis samples lie in each value, given that they do along axis 0 of the batched
    inputs (None: those that share the first free length there; all where no length is free); and
    why it is not known of some, or None.
    """
    if batched is None:
        shapes = [v.spec.shape if v.spec is not None else () for v in graph.inputs]
        free = next((s[0] for s in shapes if s and isinstance(s[0], Sym)), None)
        fixed = not any(isinstance(d, Sym) for s in shapes for d in s)
        batched = [bool(s) and (fixed or s[0] == free) for s in shapes]
    axis: dict[Value, int] = {v: 0 for v, b in zip(graph.inputs, batched) if b}
    mixed: set[Value] = set()
    reason = None
    for node in graph.nodes:
        axes = [axis.get(v) if v is not None else None for v in node.inputs]
        lost = not mixed.isdisjoint(node.inputs)
        if not lost and all(a is None for a in axes):
            if node.op.name == "expand" and _repeats(node):
                axis[node.outputs[0]] = 0
            continue
        got = None if lost else _ask(node, axes)
        if got is None:
            mixed.update(node.outputs)
            name = node.name or node.op.name
            reason = reason or f"node {name!r} ({node.op.name}) may mix samples"
            continue
        for v, a in zip(node.outputs, got):
            if a is not None:
                axis[v] = a
    return axis, reason


def _repeats(node: Node) -> bool:
    """Whether an Expand repeats its input along a new or free axis 0."""
    x, y = node.inputs[0].spec, node.outputs[0].spec
    if x is None or y is None or not y.shape or not isinstance(y.shape[0], Sym):
        return False
    return x.rank < y.rank or x.shape[0] == 1


def independent(graph: Graph, batched: list[bool]) -> str | None:
    """None where axis 0 of the batched inputs carries independent samples to axis 0 of every
    output; else the reason why not.
    """
    axis, reason = sample_axes(graph, batched)
    if reason is not None:
        return reason
    for v, name in zip(graph.outputs, graph.output_names):
        if axis.get(v) != 0:
            return f"output {name!r} does not carry the samples along axis 0"
    return None


def _ask(node: Node, axes: list) -> list | None:
    if node.op._batch is None or any(
        v is not None and v.spec is None for v in (*node.inputs, *node.outputs)
    ):
        return None
    post = node.attrs.get("post", ())
    reads = {i for *_, i in post if i >= 0}
    core = [a for i, a in enumerate(axes) if i not in reads]
    specs = [s for i, s in enumerate(node.specs()) if i not in reads]
    try:
        got = node.op._batch(core, specs, [v.spec for v in node.outputs], node.attrs)
    except NeedValue:
        return None
    if got is None:
        return None
    for kind, _, _, i in post:
        if i >= 0 and axes[i] is not None and (kind not in ("add", "mul") or axes[i] != got[0]):
            return None
    return got


def run(
    model, program: Program, arrays: list, out: list | None, timings: list | None
) -> list[np.ndarray]:
    """Runs whole where it fits, else in chunks; refuses with the reason where a frozen batch axis
    leaves no other way.
    """
    graph = program.graph
    declared = [
        v.spec.shape[0] if v.spec is not None and v.spec.shape else None for v in graph.inputs
    ]
    sizes = [a.shape[0] if isinstance(a, np.ndarray) and a.ndim else None for a in arrays]
    frozen = [isinstance(d, int) for d in declared]
    over = [f and n is not None and n != d for f, n, d in zip(frozen, sizes, declared)]
    if any(over):
        batched, chunk = over, next(d for d, o in zip(declared, over) if o)
    else:
        syms = [d for d in declared if isinstance(d, Sym)]
        batched = [isinstance(d, Sym) and d == syms[0] for d in declared]
        chunk = model.max_batchsize
    totals = {n for n, b in zip(sizes, batched) if b}
    if not any(batched) or totals and max(totals) <= (chunk or 0) and not any(over):
        return program.run(arrays, out, timings)
    reason = (
        "inputs disagree about the number of samples"
        if len(totals) > 1
        else _reason(program, batched)
    )
    total = max(totals)
    if reason is None and any(over) and (chunk == 0 or total % chunk):
        reason = f"{total} is no multiple of it"
    if reason is not None:
        if not any(over):
            return program.run(arrays, out, timings)
        i = over.index(True)
        raise ShapeError(
            f"[infer] found {sizes[i]} samples in input {graph.inputs[i].name!r}; expected "
            f"{declared[i]}, frozen at export, and {reason}; export the model with a free batch "
            "axis"
        )
    parts = []
    for start in range(0, total, chunk):
        parts.append(
            program.run(
                [
                    np.ascontiguousarray(a[start : start + chunk]) if b else a
                    for a, b in zip(arrays, batched)
                ],
                None,
                timings,
            )
        )
    if not parts:
        return program.run(arrays, out, timings)
    return program._collect([np.concatenate(column) for column in zip(*parts)], out)


def _reason(program: Program, batched: list[bool]) -> str | None:
    key = tuple(batched)
    if key not in program.independence:
        program.independence[key] = independent(program.graph, batched)
    return program.independence[key]
