"""The small language that fusions are written in.

    P.add(P.mul(V("x"), C("scale")), V("bias"))   nodes by operator name; commutative operators
                                                  match both ways
    V("x")                                        any value; the same name twice must be the same
                                                  value
    C("eps"), C("half", value=0.5)                a constant (its number is near `value`)
    P.softmax(V("s"), axis=-1)                    attributes: a value, or a function of the
                                                  attribute; a negative axis counts from the end
    OneOf(p, q, ...)                              alternatives, tried in order
    Opt(p, "x")                                   p where it matches, else whatever stands there,
                                                  captured as "x"
    P.split(V("x"), out=1)                        output 1 of an operator with several
    P.tanh(V("u")).named("t")                     captures the node's output as well

`@op.fuse(pattern)` gives fn(g, m): m.x is the captured Value, m.root the node that the pattern
describes; fn returns the Value that replaces its output (a tuple where it has several), or None, or
raises Decline with a reason. What a pattern cannot say, `wnn.windows` may. Inner nodes that
something outside the match still uses make it fail, as they would be computed twice. Patterns are
matched against the dialect that docs/dialect.md describes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .graph import Graph, Node, Value
from .spec import NeedValue

DIALECT = 1  # version of the graph that patterns match against: docs/dialect.md


class Decline(Exception):
    """Raised by a fusion's function: this match is not to be replaced; the reason is shown by `wnn
    inspect`.
    """


class Match:
    """Captured values by name (m["x"] or m.x) and the nodes that the pattern covered (m.nodes)."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []

    def copy(self) -> Match:
        new = Match()
        new.values = dict(self.values)
        new.nodes = list(self.nodes)
        return new

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def __getattr__(self, name: str) -> Value:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None

    def get(self, name: str) -> Value | None:
        return self.values.get(name)

    def number(self, name: str) -> float:
        """The single number in a captured constant."""
        return float(self.values[name].array.reshape(-1)[0])

    @property
    def root(self) -> Node:
        """The node whose output the pattern describes."""
        return self.nodes[0]


class Pattern:
    """Something that a value can match; match() yields every way it does."""

    name: str | None = None

    def match(self, v: Value, m: Match) -> Iterator[Match]:
        raise NotImplementedError

    def node_count(self) -> int:
        """How many nodes it describes at most; larger patterns are tried first."""
        return 0

    def roots(self) -> set[str]:
        """Names of the operators whose output it can match; none: any value."""
        return set()

    def named(self, name: str) -> Pattern:
        """Captures what matched under a name, too."""
        self.name = name
        return self

    def _bind(self, v: Value, m: Match) -> Match | None:
        if self.name is None:
            return m
        if self.name in m.values:
            return m if m.values[self.name] is v else None
        m = m.copy()
        m.values[self.name] = v
        return m


def near(got: float, want: float) -> bool:
    """Whether a number of a model stands for one of a formula: models round those that have no end,
    such as sqrt(2), to as few as four digits.
    """
    return got == want or abs(got - want) <= 1e-3 * max(abs(want), 1e-6)


class V(Pattern):
    """Any value; where(v) may narrow it."""

    def __init__(
        self, name: str | None = None, where: Callable[[Value], bool] | None = None
    ) -> None:
        self.name = name
        self.where = where

    def match(self, v: Value, m: Match) -> Iterator[Match]:
        if v is not None and (self.where is None or self.where(v)):
            bound = self._bind(v, m)
            if bound is not None:
                yield bound


class C(Pattern):
    """A constant; with value, one number near it; with size, of that many elements."""

    def __init__(
        self, name: str | None = None, value: float | None = None, size: int | None = None
    ) -> None:
        self.name = name
        self.value = value
        self.size = 1 if value is not None else size

    def match(self, v: Value, m: Match) -> Iterator[Match]:
        if v is None or v.const is None or (self.size is not None and v.spec.size != self.size):
            return
        if self.value is not None and not near(float(v.array.reshape(-1)[0]), self.value):
            return
        bound = self._bind(v, m)
        if bound is not None:
            yield bound


class OneOf(Pattern):
    """Alternatives."""

    def __init__(self, *choices: Pattern) -> None:
        self.choices = choices

    def node_count(self) -> int:
        return max(c.node_count() for c in self.choices)

    def roots(self) -> set[str]:
        return set().union(*(c.roots() for c in self.choices))

    def match(self, v: Value, m: Match) -> Iterator[Match]:
        for c in self.choices:
            for got in c.match(v, m):
                bound = self._bind(v, got)
                if bound is not None:
                    yield bound


class NodeOf(Pattern):
    """A node of an operator, with patterns for its inputs and conditions on its attributes."""

    def __init__(
        self, op: str, inputs: tuple, attrs: dict[str, Any], out: int | None, shared: bool
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.attrs = attrs
        self.out = out
        self.shared = shared

    def node_count(self) -> int:
        return 1 + sum(p.node_count() for p in self.inputs if p is not None)

    def roots(self) -> set[str]:
        return {self.op}

    def match(self, v: Value, m: Match) -> Iterator[Match]:
        node = v.producer if v is not None else None
        if node is None or node.op.name != self.op or len(node.inputs) < len(self.inputs):
            return
        if any(x is not None for x in node.inputs[len(self.inputs) :]) and self.inputs:
            return
        if self.out is not None and node.outputs[self.out] is not v:
            return
        if not all(k in node.attrs and _agrees(node, k, want) for k, want in self.attrs.items()):
            return
        bound = self._bind(v, m)
        if bound is None:
            return
        bound = bound.copy()
        if not self.shared:
            bound.nodes.append(node)
        yield from self._inputs(list(node.inputs), bound)
        if node.op.commutative and len(self.inputs) == 2:
            yield from self._inputs(list(reversed(node.inputs)), bound)

    def _inputs(self, values: list, m: Match, i: int = 0) -> Iterator[Match]:
        if i == len(self.inputs):
            yield m
            return
        p = self.inputs[i]
        if p is None:
            if values[i] is None:
                yield from self._inputs(values, m, i + 1)
            return
        for got in p.match(values[i], m):
            yield from self._inputs(values, got, i + 1)


def _agrees(node: Node, key: str, want: Any) -> bool:
    got = node.attrs[key]
    if callable(want):
        return bool(want(got))
    rank = (
        node.inputs[0].spec.rank
        if node.inputs and node.inputs[0] is not None and node.inputs[0].spec
        else 0
    )

    def norm(a):
        return (
            tuple(norm(x) for x in a)
            if isinstance(a, (tuple, list))
            else a % rank
            if rank and isinstance(a, int) and a < 0
            else a
        )

    if key in ("axis", "axes"):
        return norm(got) == norm(want)
    return near(got, want) if isinstance(want, float) else got == want


class _P:
    def __getattr__(self, op: str):
        return self.of(op)

    def of(self, op: str):
        """P.of("contrib.vit:attention")(...): operators whose name is no Python name."""

        def make(
            *inputs: Pattern | None, out: int | None = None, shared: bool = False, **attrs: Any
        ) -> NodeOf:
            return NodeOf(op, inputs, attrs, out, shared)

        return make


P = _P()


def Opt(p: Pattern, name: str) -> Pattern:
    """p where it matches, else anything, captured as `name`."""
    return OneOf(p, V(name))


@dataclass
class Fusion:
    """A pattern and what to put in its place."""

    name: str
    pattern: Pattern
    build: Callable[[Graph, Match], Value | None]
    where: Callable[[Match], bool] | None = None
    op: Any = None
    size: int | None = None  # nodes that it replaces; those of the pattern where not given

    def __post_init__(self) -> None:
        if self.size is None:
            self.size = self.pattern.node_count()

    def roots(self) -> set[str]:
        """Names of the operators that the pattern's root can be."""
        return self.pattern.roots()

    def apply(self, g: Graph, v: Value, log: list | None = None) -> Value | None:
        """The replacement of v, or None. log collects (fusion, node, reason) of near misses."""
        for m in self.pattern.match(v, Match()):
            outside = _used_outside(g, m, v)
            if outside is not None:
                if log is not None:
                    log.append((self.name, outside, "its output is used elsewhere too"))
                continue
            if self.where is not None and not self.where(m):
                if log is not None:
                    log.append((self.name, m.root, "the pattern's condition does not hold"))
                continue
            before = len(g.nodes)
            g.stand_in_for(m.root)
            reason = "the fusion declined"
            try:
                new = self.build(g, m)
            except Decline as e:
                new, reason = None, str(e)
            except NeedValue:
                new, reason = None, "only running the model tells a shape"
            if new is not None:
                return new
            del_new = g.nodes[before:]
            for n in del_new:
                for x in n.inputs:
                    if x is not None:
                        x.users.remove(n)
            del g.nodes[before:]
            if log is not None:
                log.append((self.name, m.root, reason))
        return None


def _used_outside(g: Graph, m: Match, root: Value) -> Node | None:
    inside = {id(n) for n in m.nodes}
    for n in m.nodes:
        for out in n.outputs:
            if out is root:
                continue
            if g.is_output(out) or any(id(u) not in inside for u in out.users):
                return n
    return None
