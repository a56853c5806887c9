"""A native stage: an immutable plan of the compiled core, and what it takes to run and show it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import dtypes, environment
from .op import Call, Spec

if TYPE_CHECKING:
    from .graph import Node, Value

CONTEXTS = 8  # kept per stage when at rest
DEBUG = int(environment.number("WNN_DEBUG", 0))


class Step(NamedTuple):
    """One step. kernel: its name, "reference" or "control flow"; spec: of the first output, None
    where unknown; call: None of copies and of what has no specs; before: the nodes, with their
    calls, that a chain runs in the same step.
    """

    label: str
    op: str
    kernel: str
    spec: Spec | None
    node: Node | None
    call: Call | None = None
    before: tuple[tuple[Node, Call], ...] = ()


class NativeStage:
    """An immutable native plan with its pool of contexts."""

    def __init__(
        self,
        plan: Any,
        inputs: list[Value],
        outputs: list[Value],
        specs: list[Spec],
        steps: list[Step],
        make_room: Callable[[NativeStage], None],
    ) -> None:
        self.plan = plan
        self.inputs = inputs
        self.outputs = outputs
        self.shapes = [(s.shape, dtypes.NUMPY[s.dtype]) for s in specs]
        self.steps = steps
        # the graph's inputs it takes, where it computes all of the graph's outputs
        self.order: list[int] | None = None
        self.lasting_bytes = 0  # of a context's memory: what it computes only once
        self._contexts: list = []
        self._make_room = make_room  # called before a context is made
        if DEBUG >= 1:
            print(self, file=sys.stderr)

    def run_direct(
        self, arrays: Sequence[np.ndarray], out: Sequence | None, timings: list | None
    ) -> list:
        """Runs on the graph's inputs, in the graph's order of outputs."""
        outs = [np.empty(shape, dtype) for shape, dtype in self.shapes]
        if out is not None:
            outs = [
                o if _usable(o, a, [*arrays, *out[:i], *out[i + 1 :]]) else a
                for i, (o, a) in enumerate(zip(out, outs))
            ]
        ins = [arrays[i] for i in self.order]
        self._run(
            [a if a.flags.c_contiguous else np.ascontiguousarray(a) for a in ins], outs, timings
        )
        return outs

    def run(self, env: dict, timings: list | None) -> None:
        """Takes its inputs from env and puts its outputs there."""
        outs = [np.empty(shape, dtype) for shape, dtype in self.shapes]
        self._run([np.ascontiguousarray(env[v]) for v in self.inputs], outs, timings)
        env.update(zip(self.outputs, outs))

    def _run(self, ins: list, outs: list, timings: list | None) -> None:
        try:
            context = self._contexts.pop()
        except IndexError:
            self._make_room(self)
            context = self.plan.context()
        try:
            if timings is None and DEBUG < 2:
                context.run(ins, outs)
                return
            ns = context.run_timed(ins, outs)
            if timings is not None:
                timings += zip(self.steps, ns)
            if DEBUG >= 2:
                rows = [f"{t / 1e3:10.1f} us  {s}" for s, t in zip(map(_show, self.steps), ns)]
                print("\n".join(rows), file=sys.stderr)
        finally:
            if len(self._contexts) < CONTEXTS:
                self._contexts.append(context)

    @property
    def idle_bytes(self) -> int:
        """Memory of the contexts at rest."""
        return self.plan.arena_bytes * len(self._contexts)

    def let_go(self) -> None:
        """Frees the contexts at rest."""
        self._contexts.clear()

    def __str__(self) -> str:
        head = f"plan of {len(self.steps)} steps, arena {self.plan.arena_bytes} bytes"
        return "\n".join([head, *[f"  {_show(s)}" for s in self.steps]])


def _show(s: Step) -> str:
    return f"{s.op} {s.kernel} -> {s.spec}  # {s.label}"


def _usable(given: np.ndarray | None, made: np.ndarray, others: list) -> bool:
    """Whether a kernel may write straight into an array of the caller's."""
    if given is None or given.shape != made.shape or given.dtype != made.dtype:
        return False
    if not given.flags.c_contiguous or not given.flags.writeable:
        return False
    return not any(isinstance(a, np.ndarray) and np.may_share_memory(given, a) for a in others)
