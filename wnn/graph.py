"""Graph, Node, Value: what a model is between the importer and the plan.

A graph is a list of nodes in a valid order over values; each value has one producer (a node, the
graph's inputs, or a constant). Passes rewrite it through `add`, `replace` and `prune`; `verify`
holds it against every operator's rule.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from . import dtypes
from .errors import ModelError, WnnError
from .op import NeedValue, Op, Spec
from .registry import REGISTRY
from .runtime import _core
from .runtime._core import PANEL16, PLAIN
from .symbols import Sym


class Constant:
    """A constant tensor, stored plain or packed.

    data: the stored array (flat float32 panels where packed).  shape, dtype: the logical tensor's.
    groups: leading axes that are packed one by one (see `Kernel.pack_weights`).
    derived: what kernels made of it.
    quantized: (integers, scales), both of its shape, whose product a dequantised constant is.
    """

    __slots__ = (
        "data",
        "shape",
        "dtype",
        "layout",
        "groups",
        "derived",
        "quantized",
        "_likeness",
    )

    def __init__(self, data: np.ndarray, shape=None, dtype=None, layout=PLAIN, groups=0) -> None:
        self.data = data
        self.shape = tuple(data.shape if shape is None else shape)
        self.dtype = dtype or dtypes.name_of(data.dtype)
        self.layout = layout
        self.groups = groups
        self.derived: dict[str, np.ndarray] = {}
        self.quantized: tuple[np.ndarray, np.ndarray] | None = None
        self._likeness: object = None

    def matrices(self) -> tuple[int, int, int]:
        """(count, K, N) of the matrices that packing sees."""
        g, s = self.groups, self.shape
        count = int(np.prod(s[:g], dtype=np.int64))
        return count, int(np.prod(s[g:-1], dtype=np.int64)), s[-1]

    @property
    def array(self) -> np.ndarray:
        """The logical tensor; unpacked anew where it is stored packed."""
        if self.layout == PLAIN:
            return self.data.reshape(self.shape)
        count, k, n = self.matrices()
        out = np.empty((count, k, n), dtypes.NUMPY[self.dtype])
        for i, row in enumerate(self.data.reshape(count, -1)):
            _core.unpack(PANEL16, 1, row, out[i])
        return out.reshape(self.shape)

    def likeness(self) -> object:
        """The same for all that `equals` is true of, seldom for others: some of the elements."""
        if self._likeness is None:
            if self.layout != PLAIN or self.data.dtype == object:
                self._likeness = id(self)
            else:
                flat = self.data.reshape(-1)
                some = flat[:: max(1, flat.size // 64)]
                self._likeness = (self.dtype, self.shape, some.tobytes())
        return self._likeness

    def equals(self, other: Constant) -> bool:
        """Whether both are one tensor, bit by bit."""
        if self is other:
            return True
        if self.likeness() != other.likeness() or self.quantized or other.quantized:
            return False
        size = self.data.itemsize
        # integers: these are compared as fast as they are read
        bits = f"{'u' if size <= 8 else 'V'}{size}"
        return np.array_equal(self.data.view(bits), other.data.view(bits))

    def packed(self, groups: int) -> Constant:
        """The same tensor as panels of 16 columns."""
        new = Constant(self.data, self.shape, self.dtype, PANEL16, groups)
        count, k, n = new.matrices()
        src = np.ascontiguousarray(self.array).reshape(count, k, n)
        new.data = np.zeros((count, -(-n // 16) * k * 16), np.float32)
        for i in range(count):
            _core.pack(PANEL16, 1, src[i], new.data[i])
        return new


class Value:
    """One tensor of a graph."""

    __slots__ = ("name", "spec", "const", "producer", "users")

    def __init__(self, name: str, spec: Spec | None, const: Constant | None = None) -> None:
        self.name = name
        self.spec = spec  # None: nothing is known (the output of an operator without a rule)
        self.const = const
        self.producer: Node | None = None
        self.users: list[Node] = []  # once per use

    @property
    def shape(self) -> tuple:
        return self.spec.shape

    @property
    def array(self) -> np.ndarray:
        """The constant's value."""
        return self.const.array

    def __repr__(self) -> str:
        return f"%{self.name}:{self.spec}" + ("=const" if self.const else "")


class Node:
    """One application of an operator."""

    __slots__ = ("op", "inputs", "outputs", "attrs", "name", "rank", "sound")

    def __init__(
        self, op: Op, inputs: list[Value | None], attrs: dict[str, Any], name: str
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.outputs: list[Value] = []
        self.attrs = attrs
        self.name = name
        self.rank = 0  # where it wants to stand in the order of nodes
        self.sound: list = []  # the specs and attributes that the operator's rule agreed with

    def specs(self) -> list[Spec | None]:
        return [None if v is None else v.spec for v in self.inputs]

    def facts(self) -> list:
        """All that the operator's rule is asked about: specs and attributes."""
        return [*self.specs(), *(v.spec for v in self.outputs), *self.attrs.values()]

    def __repr__(self) -> str:
        ins = ", ".join("-" if v is None else repr(v) for v in self.inputs)
        outs = ", ".join(repr(v) for v in self.outputs)
        shown = {
            k: v
            for k, v in self.attrs.items()
            if v != self.op.attrs.get(k) and not isinstance(v, Graph)
        }
        ins += "".join(f", {k}={v}" for k, v in shown.items())
        return f"{outs} = {self.op.name}({ins})"


class Graph:
    """Nodes in order, with named inputs and outputs."""

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []  # assigned or appended to; no item is put in another's place
        self.output_names: list[str] = []
        self.nodes: list[Node] = []
        self.scope = ""  # name given to nodes that are added: the source node's
        self.at: int | None = None  # rank given to them; None: after all others
        # of the source: producer, domain, version, description, "custom": {str: str}
        self.meta: dict[str, Any] = {}
        self.narrowed: set[Value] = set()  # by an importer, to the half precision it was given
        self._output_ids: tuple[list[Value], int, set[int]] = (self.outputs, 0, set())
        self._count = 0
        self._ranks = 0
        self._symbols = [0]  # how many there are; one count for a graph and its bodies

    # -- building
    def fresh(self, hint: str = "v") -> str:
        """A value name not used before."""
        self._count += 1
        return f"{hint}~{self._count}"

    def symbol(self, hint: str) -> Sym:
        """A length that only running the model tells: no name of a model's own begins with "_"."""
        self._symbols[0] += 1
        return Sym(f"_{hint}_{self._symbols[0]}")

    def body(self, name: str) -> Graph:
        """A new graph for a body of one of this graph's nodes."""
        g = Graph(name)
        g._symbols = self._symbols
        return g

    def input(self, name: str, spec: Spec | None) -> Value:
        """Adds an input of the graph."""
        v = Value(name, spec)
        self.inputs.append(v)
        return v

    def const(
        self,
        array: np.ndarray | float | int | list,
        dtype: str | None = None,
        name: str | None = None,
    ) -> Value:
        """A constant. Python numbers become float32 or int64 unless dtype is given."""
        if not isinstance(array, (np.ndarray, np.generic)):
            array = np.asarray(array)
            dtype = dtype or ("f32" if array.dtype.kind == "f" else "i64")
        array = np.asarray(array, order="C")
        if dtype not in (None, "obj"):
            array = array.astype(dtypes.NUMPY[dtype], copy=False)
        c = Constant(array, dtype=dtype)
        return Value(name or self.fresh("c"), Spec(array.shape, c.dtype, array), c)

    def add(
        self,
        op: str | Op,
        inputs: Iterable[Value | None],
        outputs: int | None = None,
        /,
        **attrs: Any,
    ):
        """Adds a node and returns its output Value (a tuple of them where the operator has
        several).

        Shapes are worked out at once; a WnnError names the node. outputs: how many, for operators
        with a free number.
        """
        rec = REGISTRY.get(op) if isinstance(op, str) else op
        ins = list(inputs)
        while len(ins) > rec.required and ins and ins[-1] is None:
            ins.pop()
        node = Node(rec, ins, rec.attrs_with_defaults(attrs), self.scope)
        specs = self._infer(node, outputs, self.symbol)
        for s in specs:
            v = Value(self.fresh(rec.name.rpartition(":")[2]), s)
            v.producer = node
            node.outputs.append(v)
        for v in ins:
            if v is not None:
                v.users.append(node)
        node.sound = node.facts()
        self._ranks += 1
        node.rank = self._ranks if self.at is None else self.at
        self.nodes.append(node)
        return node.outputs[0] if len(node.outputs) == 1 else tuple(node.outputs)

    def narrow(self, v: Value, to: str) -> Value:
        """v in half precision, by a Cast that the model does not say."""
        self.narrowed.add(y := self.add("cast", [v], to=to))
        return y

    def _infer(
        self, node: Node, outputs: int | None, symbol: Callable[[str], Sym] | None = None
    ) -> tuple[Spec | None, ...]:
        ins = node.specs()
        unknown = any(v is not None and v.spec is None for v in node.inputs)
        if not unknown and node.op._rule is not None:
            try:
                try:
                    return node.op.infer(ins, node.attrs)
                except NeedValue:
                    if symbol is not None and node.op._outline is not None:
                        out = node.op._outline(symbol, *ins, **node.attrs)
                        return out if isinstance(out, tuple) else (out,)
            except NeedValue:
                pass
            except WnnError as e:
                raise type(e)(
                    f"{e} (node {node.name!r})" if node.name and node.name not in str(e) else str(e)
                ) from None
        return (None,) * (outputs or len(node.op.outputs))

    # -- rewriting
    def stand_in_for(self, node: Node) -> None:
        """Nodes added from now on take this node's name and its place in the order."""
        self.scope, self.at = node.name, node.rank

    def replace(self, old: Value, new: Value) -> None:
        """Every use of `old`, as input or as output of the graph, becomes `new`."""
        if old is new:
            return
        for node in list(dict.fromkeys(old.users)):
            for i, v in enumerate(node.inputs):
                if v is old:
                    node.inputs[i] = new
                    new.users.append(node)
        old.users.clear()
        if self.is_output(old):
            self.outputs = [new if v is old else v for v in self.outputs]

    def set_input(self, node: Node, i: int, new: Value | None) -> None:
        """Makes input i of a node another value."""
        old = node.inputs[i]
        if old is not None:
            old.users.remove(node)
        node.inputs[i] = new
        node.sound = []  # else it keeps what the old value was
        if new is not None:
            new.users.append(node)

    def discard(self, node: Node) -> None:
        """Unhooks a node that nobody uses any more, and what only it used; `prune` then takes them
        off the list.
        """
        todo = [node]
        while todo:
            n = todo.pop()
            if not n.inputs or any(v.users or self.is_output(v) for v in n.outputs):
                continue
            for v in n.inputs:
                if v is not None:
                    v.users.remove(n)
                    if v.producer is not None:
                        todo.append(v.producer)
            n.inputs, n.sound = [], []

    def prune(self) -> bool:
        """Removes nodes whose outputs nobody uses and puts the rest in a valid order, keeping
        today's where it is valid.
        """
        live: set[Node] = set()
        todo = [v.producer for v in self.outputs]
        while todo:
            node = todo.pop()
            if node is not None and node not in live:
                live.add(node)
                todo += [v.producer for v in node.inputs if v is not None]
        order = []
        for node in self.nodes:
            if node in live:
                order.append(node)
                continue
            for v in node.inputs:
                if v is not None:
                    v.users.remove(node)
            node.inputs, node.sound = [], []
        changed = len(order) != len(self.nodes)
        self.nodes = _stable(order)
        return changed

    def is_output(self, v: Value) -> bool:
        outputs, count, ids = self._output_ids
        if outputs is not self.outputs or count != len(outputs):
            ids = set(map(id, self.outputs))
            self._output_ids = (self.outputs, len(self.outputs), ids)
        return id(v) in ids

    def constants(self) -> dict[int, Value]:
        """Every constant in use, by identity."""
        out: dict[int, Value] = {}
        for node in self.nodes:
            for v in node.inputs:
                if v is not None and v.const is not None:
                    out[id(v)] = v
        for v in self.outputs:
            if v.const is not None:
                out[id(v)] = v
        return out

    # -- checking and showing
    def verify(self, where: str = "") -> None:
        """Raises ModelError unless order, users, attributes and specs agree with the operators'
        records; rules are asked about nodes that are not as they were when they last agreed.
        """

        def fail(text: str) -> None:
            raise ModelError(
                f"[graph {self.name!r}{' after ' + where if where else ''}] {text}; this is a "
                "defect of the pass: please report it"
            )

        seen = {id(v) for v in self.inputs}
        listed: dict[Value, set[Node]] = {}  # the users of values that have many
        for node in self.nodes:
            for v in node.inputs:
                if v is None or v.const is not None:
                    continue
                if id(v) not in seen:
                    fail(f"{node!r} uses {v!r} before it is made")
                users = v.users
                if len(users) > 8:
                    users = listed.get(v) or listed.setdefault(v, set(users))
                if node not in users:
                    fail(f"{v!r} does not list its user {node!r}")
            for v in node.outputs:
                if v.producer is not node or id(v) in seen:
                    fail(f"{v!r} is made twice or by another node than {node!r}")
                seen.add(id(v))
            unknown = set(node.attrs) ^ set(node.op.attrs)
            if unknown:
                fail(f"{node!r} has other attributes than its operator: {sorted(unknown)}")
            facts = node.facts()
            if len(facts) == len(node.sound) and all(map(operator.is_, facts, node.sound)):
                continue
            node.sound = facts
            specs = self._infer(node, len(node.outputs))
            for v, s in zip(node.outputs, specs):
                if (
                    s is not None
                    and v.spec is not None
                    and (s.dtype != v.spec.dtype or len(s.shape) != len(v.spec.shape))
                ):
                    fail(f"{node!r}: the rule gives {s}, the graph says {v.spec}")
        for v in self.outputs:
            if id(v) not in seen and v.const is None:
                fail(f"output {v!r} is never made")

    def __str__(self) -> str:
        lines = [f"graph {self.name}({', '.join(map(repr, self.inputs))})"]
        lines += [f"  {n!r}" + (f"    # {n.name}" if n.name else "") for n in self.nodes]
        lines.append(f"  return {', '.join(map(repr, self.outputs))}")
        return "\n".join(lines)


def _stable(nodes: list[Node]) -> list[Node]:
    """A topological order that follows the nodes' ranks, and today's order among equal ones, where
    dependencies allow (Kahn's algorithm with a heap).
    """
    import heapq

    rank = {n: (n.rank, i) for i, n in enumerate(nodes)}
    waiting: dict[Node, int] = {}
    users: dict[Node, list[Node]] = {}
    for n in nodes:
        deps = {v.producer for v in n.inputs if v is not None and v.producer is not None}
        waiting[n] = len(deps)
        for d in deps:
            users.setdefault(d, []).append(n)
    heap = [(rank[n], n) for n in nodes if waiting[n] == 0]
    heapq.heapify(heap)
    out: list[Node] = []
    while heap:
        _, n = heapq.heappop(heap)
        out.append(n)
        for u in users.get(n, ()):
            waiting[u] -= 1
            if waiting[u] == 0:
                heapq.heappush(heap, (rank[u], u))
    if len(out) != len(nodes):
        left = [n for n in nodes if waiting[n] > 0][:3]
        raise ModelError(
            f"[graph] found a cycle through {[n.name or n.op.name for n in left]}; expected none; "
            "export the model again"
        )
    return out
