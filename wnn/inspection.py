"""What a model does with given inputs: on what each node runs and why, weights, FLOPs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .forward import NNForward
from .graph import PLAIN, Node
from .op import Call
from .profiling import flops


@dataclass
class Row:
    """A node. runs: "kernel", "view", "planning", "control flow", "reference" or "onnx.reference".

    detail: the kernel's name, or why there is none.  flops: None where the operator does not tell.
    """

    name: str
    op: str
    runs: str
    detail: str
    output: str
    flops: int | None


@dataclass
class Inspection:
    """A model as it runs on one set of inputs."""

    rows: list[Row]
    copies: int  # made because a kernel cannot read the strides of a window
    stages: int
    weights: int  # elements
    weight_bytes: int
    packed_bytes: int  # of these, stored as panels
    fused: Counter = field(default_factory=Counter)  # fusion or epilogue -> how often
    near_misses: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    # (fusion, reason) -> the nodes where it failed

    @property
    def flops(self) -> int:
        return sum(r.flops or 0 for r in self.rows)


def inspect(model: NNForward, inputs: Mapping[str, Any]) -> Inspection:
    """Runs the model once and looks at its plans."""
    program = model._loaded()
    graph = program.graph
    stages = program.stages(model._arrays(inputs, graph))
    specs: dict = {}
    steps: dict[int, str] = {}
    copies = 0
    for stage in stages:
        specs.update(stage.specs)
        if stage.native is not None:
            for step in stage.native.steps:
                if step.call is not None:
                    for node in (step.node, *(n for n, _ in step.before)):
                        steps[id(node)] = step.kernel
                else:
                    copies += 1
    fused = Counter(name for name, _ in graph.meta.get("fused", ()))
    for node in graph.nodes:
        fused.update(f"{post[0]} into {node.op.name}" for post in node.attrs.get("post", ()))
    constants = {id(v.const): v.const for v in graph.constants().values()}.values()
    return Inspection(
        rows=[_row(n, steps.get(id(n)), specs, model.num_threads) for n in graph.nodes],
        copies=copies,
        stages=len(stages),
        weights=sum(int(np.prod(c.shape, dtype=np.int64)) for c in constants),
        weight_bytes=sum(c.data.nbytes for c in constants),
        packed_bytes=sum(c.data.nbytes for c in constants if c.layout != PLAIN),
        fused=fused,
        near_misses=_near_misses(graph.meta.get("near_misses", ())),
    )


def _near_misses(log: Iterable[Sequence[str]]) -> dict[tuple[str, str], list[str]]:
    """Nodes by fusion and reason, the most frequent first; a pattern is tried more than once."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, node, why in dict.fromkeys(map(tuple, log)):  # lists, where read from a file
        found.setdefault((name, why), []).append(node)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _row(node: Node, kernel: str | None, specs: dict, threads: int) -> Row:
    ins = [
        None if v is None else v.spec if v.const is not None else specs.get(v) for v in node.inputs
    ]
    outs = [specs.get(v) for v in node.outputs]
    call = Call(node.op, ins, outs, node.attrs, threads)
    runs, detail = _place(call, kernel)
    return Row(node.name, node.op.name, runs, detail, str(outs[0] or "?"), flops(call))


def _place(call: Call, kernel: str | None) -> tuple[str, str]:
    op = call.op
    if kernel == "reference":
        return "reference", _why_no_kernel(call)
    if kernel is not None:
        return "kernel", kernel
    if op.name.startswith("onnx:"):
        return "onnx.reference", "wnn has no such operator"
    if op._control is not None:
        return "control flow", "runs its bodies as models of their own"
    if op._rule is None or any(s is None for s in call.outs):
        return "reference", "its shapes are known only after it ran"
    if all(s.known for s in call.outs):
        return "planning", "its value follows from shapes alone"
    return "view", "a window on its input"


def _why_no_kernel(call: Call) -> str:
    if not call.op.kernels:
        return "the operator has no kernels"
    found = [None if s is None else s.dtype for s in call.ins]
    fitting = [k for k in call.op.kernels if k.takes(call.ins)]
    if not fitting:
        return f"no kernel takes {' '.join(map(str, found))}"
    if all(k.accept is not None and not k.accept(call) for k in fitting):
        return f"{', '.join(k.name for k in fitting)}: not for these shapes or attributes"
    return f"{fitting[0].name}: not compiled in, or its weights are stored otherwise"
