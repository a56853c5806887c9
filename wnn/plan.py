"""From a graph and the shapes of its inputs to steps that run.

A `Program` holds what is fixed per model. For each set of input shapes it makes a chain of stages,
kept in a bounded cache: a native stage is one immutable `_core.Plan` (kernels, views, arena
offsets, steps); a Python stage runs nodes whose outputs are known only afterwards (control flow,
`onnx.reference`). Where a shape depends on a value, a stage ends, the value is looked at, and
planning goes on under a key that contains it.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from . import dtypes, environment
from .errors import NONSENSE, ModelError, ShapeError, WnnError, senseless
from .graph import Graph, Node, Value
from .op import NeedValue, Spec
from .plan_cache import bind, dtype_of, given, look, remember, shape_key
from .registry import REGISTRY
from .resolve import Resolved, Resolver
from .stage import NativeStage, Step
from .steps import build_native
from .symbols import is_name

OBJECTS = ("obj", "str")
OBJECT = Spec((), "obj")  # of what is no plain tensor: strings, sequences, None
RESTING_BYTES = 256 << 20  # memory of contexts at rest, beside that of the plan used last


class Stage:
    """One link of a chain: what it leaves known, and the links that may follow."""

    def __init__(self, specs: dict[Value, Spec], pending: list[Node]) -> None:
        self.specs = specs
        self.pending = pending
        self.native: NativeStage | None = None
        self.python: list[Node] = []
        # values that planning worked out and later stages or outputs use
        self.known: dict[Value, np.ndarray] = {}
        self.looked: list[Value] = []  # values whose contents choose the next stage
        self.shaped: list[Value] = []  # values whose shapes do
        self.drop: list[Value] = []  # arrays that nothing needs any more
        self.next: OrderedDict[tuple, Stage] = OrderedDict()
        self.symbols: dict[str, int] = {}
        self.direct = False  # one native stage takes the graph's inputs to all of its outputs

    @property
    def last(self) -> bool:
        return not self.pending


class Program:
    """A graph made ready to run on arrays; safe to use from many threads.

    run(arrays) takes one array per graph input, in order, and returns one per graph output.
    """

    def __init__(self, graph: Graph, num_threads: int = 1, check: bool | None = None) -> None:
        self.graph = graph
        self.num_threads = num_threads
        self.check = bool(environment.number("WNN_CHECK", 0)) if check is None else check
        self.fallbacks: dict[str, str] = {}  # operator -> "reference" or "onnx.reference"
        # which inputs are batched -> why samples depend on each other, or None
        self.independence: dict[tuple, str | None] = {}
        self._first: OrderedDict[tuple, Stage] = OrderedDict()
        self._bodies: dict[int, Program] = {}
        self._lock = threading.RLock()
        self.resolver = Resolver(num_threads)
        self._born: dict[Value, list[tuple[int, str]]] = {}  # lengths told by running: axis, name
        self._plain: set[int] = set()  # nodes that only inputs could make Python's
        self.fixed = _fixed(graph)
        self._register(graph.nodes)
        self._branches: dict[tuple[int, bool], list[Node]] = {}
        _PROGRAMS.add(self)

    # -- running
    def run(
        self,
        arrays: Sequence[np.ndarray],
        out: Sequence[np.ndarray | None] | None = None,
        timings: list | None = None,
    ) -> list:
        """Runs the model. out: arrays to write outputs into where given. timings: gets (Step,
        nanoseconds) per step.
        """
        stage = self._start(arrays)
        if stage.direct:  # the steady case: one native stage
            return self._collect(stage.native.run_direct(arrays, out, timings), out)
        results, made = self._results(stage, arrays, timings)
        for i, v in enumerate(self.graph.outputs):
            if v in made:
                made.remove(v)  # a second time it is another array
            else:  # the plan or an input may hold it, or Python's operators give a window on one
                results[i] = _own(results[i])
        return self._collect(results, out)

    def _results(
        self, stage: Stage, arrays: Sequence, timings: list | None = None
    ) -> tuple[list, set[Value]]:
        """The outputs, and which values kernels wrote to arrays of this run's."""
        env: dict[Value, Any] = dict(zip(self.graph.inputs, arrays))
        made: set[Value] = set()
        for s in self._walk(stage, env, timings):
            made.update(s.native.outputs if s.native is not None else ())
        return [v.array if v.const is not None else env[v] for v in self.graph.outputs], made

    @staticmethod
    def _collect(results: list, out: Sequence[np.ndarray | None] | None) -> list:
        if out is None:
            return results
        for i, o in enumerate(out):
            if o is not None and o is not results[i]:
                if not isinstance(results[i], np.ndarray):
                    raise ShapeError(
                        f"[infer] found an array as out[{i}]; expected None, as this output is a "
                        f"{type(results[i]).__name__}; pass None"
                    )
                if o.shape != results[i].shape or o.dtype != results[i].dtype:
                    raise ShapeError(
                        f"[infer] found out[{i}] {o.dtype}{o.shape}; expected "
                        f"{results[i].dtype}{results[i].shape}; pass an array of that shape and "
                        "dtype"
                    )
                o[...] = results[i]
                results[i] = o
        return results

    def stages(self, arrays: Sequence[np.ndarray]) -> list[Stage]:
        """The chain of stages that these inputs go through (after running them)."""
        env: dict[Value, Any] = dict(zip(self.graph.inputs, arrays))
        return list(self._walk(self._start(arrays), env, None))

    def _walk(self, stage: Stage, env: dict[Value, Any], timings: list | None) -> Iterator[Stage]:
        """Runs a stage and those that follow, on the values in env; each one, once it has run."""
        while True:
            env.update(stage.known)
            if stage.native is not None:
                stage.native.run(env, timings)
            for node in stage.python:
                self._run_python(node, env, timings)
            yield stage
            if stage.last:
                return
            stage = self._follow(stage, env)

    def plan(self, shapes: Sequence[Sequence[int]]) -> Stage:
        """Plans for input shapes without running; returns the first stage."""
        made = [v.spec.dtype if v.spec else "f32" for v in self.graph.inputs]
        return self._start_key(tuple([(tuple(s), dtypes.NUMPY[d]) for s, d in zip(shapes, made)]))

    def known(self, arrays: Sequence[np.ndarray]) -> NativeStage | None:
        """The native stage that is all there is to do for such inputs, where planned already."""
        stage = self._first.get(given(arrays))
        return stage.native if stage is not None and stage.direct else None

    def _start(self, arrays: Sequence[np.ndarray]) -> Stage:
        key = given(arrays)
        stage = self._first.get(key)
        return self._start_key(key) if stage is None else stage

    def _start_key(self, key: tuple) -> Stage:
        with self._lock:
            if (stage := self._first.get(key)) is not None:  # another thread has made it since
                return stage
            specs: dict[Value, Spec] = {}
            env: dict[str, int] = {}
            for v, (shape, dtype) in zip(self.graph.inputs, key):
                if shape is not None and v.spec is not None:
                    bind(v, shape, env)
                specs[v] = OBJECT if shape is None else Spec(shape, dtype_of(v, dtype))
            stage = self._make_stage(specs, list(self.graph.nodes), {}, set(self.graph.inputs), env)
            remember(self._first, key, stage)
            return stage

    def _follow(self, stage: Stage, env: dict[Value, Any]) -> Stage:
        key = tuple([look(env[v]) for v in stage.looked]) + tuple(
            [shape_key(env[v]) for v in stage.shaped]
        )
        nxt = stage.next.get(key)
        if nxt is None:
            with self._lock:
                specs, symbols = dict(stage.specs), dict(stage.symbols)
                for v in stage.shaped:
                    a = env[v]
                    plain = isinstance(a, np.ndarray) and a.dtype != object
                    specs[v] = Spec(a.shape, dtypes.name_of(a.dtype)) if plain else OBJECT
                    if plain and v in self._born:
                        self._learn(v, a.shape, symbols)
                values = {v: np.array(env[v]) for v in stage.looked}
                nxt = self._make_stage(specs, stage.pending, values, set(env), symbols)
                remember(stage.next, key, nxt)
        for v in nxt.drop:
            env.pop(v, None)
        return nxt

    # -- planning
    def _make_stage(
        self, specs: dict, pending: list[Node], values: dict, have: set[Value], symbols: dict
    ) -> Stage:
        for v, a in values.items():
            if v in specs and a.dtype != object:
                specs[v] = Spec(a.shape, specs[v].dtype, a)
        ready, deferred, wanted = self._infer(specs, pending, symbols)
        stage = Stage(specs, deferred)
        stage.symbols = symbols
        python = [
            n
            for n in deferred
            if self._is_python(n, specs) and all(self._at_hand(v, have, specs) for v in n.inputs)
        ]
        now = [v for v in wanted if v in have and v not in values]
        if now and not python:  # what is wanted is here already: look before doing anything
            stage.looked = now
            stage.pending = pending
            stage.specs = {v: s for v, s in specs.items() if v in have}
            return stage
        made = {o for n, _ in ready for o in n.outputs}
        wanted_later = {v for n in deferred for v in n.inputs if v is not None and v.const is None}
        outputs = [v for v in dict.fromkeys([*self.graph.outputs, *wanted_later]) if v in made]
        for v in outputs:
            if specs[v].known:
                stage.known[v] = specs[v].value.astype(dtypes.NUMPY[specs[v].dtype], copy=False)
        computed = [v for v in outputs if v not in stage.known]
        if computed:
            stage.native = build_native(self, ready, specs, computed)
        if python and not computed:
            stage.python = python
            taken = set(map(id, python))
            stage.pending = [n for n in deferred if id(n) not in taken]
            stage.shaped = [o for n in python for o in n.outputs]
        else:
            stage.looked = [v for v in wanted if v in made and not specs[v].known]
            if not stage.native and not python and deferred and not stage.looked:
                names = [n.name or n.op.name for n in deferred[:3]]
                raise ModelError(
                    f"[plan] found nodes {names} that wait for values nothing makes; expected "
                    "every input to be made; check the model"
                )
        needed = {v for n in stage.pending for v in n.inputs if v is not None} | set(
            self.graph.outputs
        )
        needed |= {v for n in stage.python for v in n.inputs if v is not None}
        if stage.native is not None:
            needed |= set(stage.native.inputs)
        stage.drop = [v for v in have if v not in needed]
        stage.direct = bool(stage.native and stage.native.order is not None and not stage.pending)
        return stage

    def _infer(
        self, specs: dict, pending: list[Node], symbols: dict
    ) -> tuple[list[tuple[Node, Resolved]], list[Node], list[Value]]:
        """Works out specs as far as they go: (nodes that can be planned, nodes that must wait,
        values they wait for).
        """
        ready, deferred, wanted = [], [], []
        todo = pending[::-1]
        while todo:
            node = todo.pop()
            if _is_branch(node):
                cond = node.inputs[0].spec if node.inputs[0].const else specs.get(node.inputs[0])
                if cond is not None and cond.known and cond.size == 1:
                    todo += reversed(self._branch(node, bool(cond.value), specs, symbols))
                else:
                    wanted += [node.inputs[0]] if cond is not None else []
                    deferred.append(node)
                continue
            ins = []
            python = id(node) not in self._plain and self._is_python(node, specs)
            for v in node.inputs:
                s = None if v is None else v.spec if v.const is not None else specs.get(v)
                if s is None and v is not None:
                    break
                if s is not None and s.dtype in OBJECTS:
                    python = True
                ins.append(s)
            if len(ins) < len(node.inputs) or python:
                deferred.append(node)
                continue
            try:
                answer = self.resolver.resolve(node, ins, symbols)
            except NeedValue as e:
                wanted += [node.inputs[i] for i in e.indices]
                deferred.append(node)
                continue
            for v, s in zip(node.outputs, answer.outs):
                specs[v] = s
                if v in self._born:
                    self._learn(v, s.shape, symbols)
            ready.append((node, answer))
        return ready, deferred, list(dict.fromkeys(wanted))

    def _register(self, nodes: list[Node]) -> None:
        """Makes nodes known; and which of their outputs have lengths that running them tells."""
        self.resolver.register(nodes)
        self._plain.update(id(n) for n in nodes if not _is_branch(n) and not self._is_python(n, {}))
        for v in [v for n in nodes for v in n.outputs if v.spec is not None]:
            axes = [(i, next(iter(d.terms))[0]) for i, d in enumerate(v.spec.shape) if is_name(d)]
            if born := [(i, name) for i, name in axes if name[0] == "_"]:
                self._born[v] = born

    def _learn(self, v: Value, shape: tuple, symbols: dict[str, int]) -> None:
        for i, name in self._born[v]:
            symbols.setdefault(name, shape[i])

    def _branch(self, node: Node, cond: bool, specs: dict, symbols: dict) -> list[Node]:
        """The nodes of the branch that an If takes, between those that hand values in and out."""
        which = "then" if cond else "else"
        body = node.attrs[f"{which}_body"]
        given = [node.inputs[1 + i] for i in node.attrs[f"{which}_inputs"]]
        for inner, outer in zip(body.inputs, given):
            spec = outer.spec if outer.const is not None else specs.get(outer)
            if spec is not None and inner.spec is not None:
                bind(inner, spec.shape, symbols)
        nodes = self._branches.get((id(node), cond))
        if nodes is None:
            nodes = [_handed(a, b) for a, b in zip(given, body.inputs)] + list(body.nodes)
            nodes += [_handed(a, b) for a, b in zip(body.outputs, node.outputs)]
            self._register(nodes)
            self._branches[id(node), cond] = nodes
        return nodes

    @staticmethod
    def _is_python(node: Node, specs: dict) -> bool:
        if _is_branch(node):
            return False
        if node.op._rule is None:
            return True
        for v in (*node.inputs, *node.outputs):
            spec = specs.get(v, v.spec) if v is not None else None
            if spec is not None and spec.dtype in OBJECTS:
                return True
        return False

    @staticmethod
    def _at_hand(v: Value | None, have: set[Value], specs: dict) -> bool:
        return v is None or v.const is not None or v in have or (v in specs and specs[v].known)

    # -- Python stages
    def _run_python(self, node: Node, env: dict, timings: list | None) -> None:
        start = time.perf_counter_ns()
        args = [
            None if v is None else v.array if v.const is not None else env[v] for v in node.inputs
        ]
        if node.op._control is None:
            self.fallbacks[node.op.name] = (
                "onnx.reference" if node.op.name.startswith("onnx:") else "reference"
            )
        try:
            if node.op._control is not None:
                outs = node.op._control(self._run_body, *args, **node.attrs)
            else:
                outs = node.op._reference(*map(_dense, args), **node.attrs)
        except WnnError:
            raise
        except NONSENSE as e:
            given = [a.shape if isinstance(a, np.ndarray) else type(a).__name__ for a in args]
            raise senseless(e, node.op.name, given, node.attrs, node.name) from e
        if node.op._control is None:
            outs = outs if isinstance(outs, tuple) else (outs,)  # a list is one value: a sequence
        for v, a in zip(node.outputs, outs):
            env[v] = a if a is None or isinstance(a, (list, np.ndarray)) else np.asarray(a)
        if timings is not None:
            kernel = "reference" if node.op._control is None else "control flow"
            step = Step(node.name or node.op.name, node.op.name, kernel, None, node)
            timings.append((step, time.perf_counter_ns() - start))

    def _run_body(self, graph: Graph, arrays: Sequence[np.ndarray]) -> list:
        body = self._bodies.get(id(graph))
        if body is None:
            with self._lock:
                body = self._bodies.setdefault(
                    id(graph), Program(graph, self.num_threads, self.check)
                )
        arrays = [_dense(a) for a in arrays]
        stage = body._start(arrays)
        if stage.direct:
            results = stage.native.run_direct(arrays, None, None)
        else:  # not copied: they do not go to a caller yet, and a sequence may have grown long
            results, _ = body._results(stage, arrays)
        if body.fallbacks:
            self.fallbacks.update(body.fallbacks)
        return results

    def arena_bytes(self) -> int:
        """Memory of the contexts at rest, bodies included."""
        own = sum(stage.idle_bytes for stage in self._native_stages())
        return own + sum(b.arena_bytes() for b in self._bodies.values())

    def make_room(self, native: NativeStage) -> None:
        """Frees memory of older plans' contexts where one more, of `native`, would be too much."""
        with self._lock:
            others = [n for n in self._native_stages() if n is not native]
            resting = native.plan.arena_bytes + sum(n.idle_bytes for n in others)
            for n in reversed(others):
                if resting <= RESTING_BYTES:
                    break
                resting -= n.idle_bytes
                n.let_go()

    def lasting_bytes(self) -> int:
        """What a context of each plan keeps of values that shapes alone decide."""
        return sum(stage.lasting_bytes for stage in self._native_stages())

    def _native_stages(self) -> Iterator[NativeStage]:
        todo = list(self._first.values())
        while todo:
            stage = todo.pop()
            todo += stage.next.values()
            if stage.native is not None:
                yield stage.native


def _fixed(graph: Graph) -> set[int]:
    """Nodes whose results depend on constants and on shapes of inputs, not on what inputs hold."""
    values: set[Value] = set()
    nodes: set[int] = set()
    for node in graph.nodes:
        given = [v for v in node.inputs if v is not None]
        if given and all(v.const is not None or v in values for v in given):
            nodes.add(id(node))
        if id(node) in nodes or node.op.name in ("shape", "size"):
            values.update(node.outputs)
    return nodes


def _own(a: Any) -> Any:
    """A copy; of a sequence, of what it holds."""
    if isinstance(a, list):
        return [_own(x) for x in a]
    return np.array(a, order="C") if isinstance(a, np.ndarray) else a


def _dense(a: Any) -> Any:
    """As numpy lays out arrays of its own: it sums in an order that depends on the layout."""
    if not isinstance(a, np.ndarray) or (a.flags.c_contiguous and a.flags.aligned):
        return a
    return np.array(a, order="C")


def _holds_objects(nodes: list[Node]) -> bool:
    return any(
        v is not None and v.spec is not None and v.spec.dtype in OBJECTS
        for n in nodes
        for v in (*n.inputs, *n.outputs)
    )


def _is_branch(node: Node) -> bool:
    """Whether a node is an If whose branches can be planned once its condition is known."""
    return node.op.name == "if" and not any(
        _holds_objects([node, *node.attrs[k].nodes]) for k in ("then_body", "else_body")
    )


def _handed(source: Value, target: Value) -> Node:
    node = Node(REGISTRY.get("identity"), [source], {}, "")
    node.outputs = [target]
    return node


_PROGRAMS: weakref.WeakSet[Program] = weakref.WeakSet()


def _renew_locks() -> None:
    """A forked child has none of the threads that may have held them."""
    for program in list(_PROGRAMS):
        program._lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_locks)
