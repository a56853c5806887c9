"""What an operator's importer sees: the ONNX node, with its inputs as Values and its attributes as
Python values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import dtypes
from .errors import UnsupportedError
from .graph import Graph, Value
from .onnx_proto import A, array_of, dense_of, onnx, refuse, value_of
from .op import Op, Spec
from .symbols import Sym

if TYPE_CHECKING:
    from .importer import Importer


class Unknown(Exception):
    """An importer asked for a spec of which nothing is known; the fallback needs none."""


class OnnxNode:
    """What an importer sees of an ONNX node.

    inputs: a Value each, None where absent; trailing absent ones are dropped.  outputs: names, ''
    where not wanted.
    """

    def __init__(
        self,
        importer: Importer,
        scope: Scope,
        proto: onnx.NodeProto,
        inputs: list[Value | None],
        name: str,
    ) -> None:
        self.op_type = proto.op_type
        self.domain = proto.domain
        self.opset = scope.opsets.get(proto.domain, 1)
        self.name = name
        self.inputs = inputs
        self.outputs = list(proto.output)
        self._importer = importer
        self._scope = scope
        self._attrs = {a.name: a for a in proto.attribute}

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def wants(self, i: int) -> bool:
        """Whether output i is used."""
        return i < len(self.outputs) and bool(self.outputs[i])

    def input(self, i: int) -> Value | None:
        """Input i; None where it is absent."""
        return self.inputs[i] if i < len(self.inputs) else None

    def spec(self, i: int) -> Spec | None:
        """The spec of input i; None where it is absent."""
        v = self.input(i)
        if v is not None and v.spec is None:
            raise Unknown
        return None if v is None else v.spec

    def rank(self, i: int) -> int:
        """The number of dimensions of input i."""
        return self.spec(i).rank

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute: int, float, str, numpy array, or a list of one of these."""
        a = self._attrs.get(name)
        return default if a is None else value_of(a, self._importer.folder, self.name)

    def known(self, i: int) -> np.ndarray:
        """The value of input i; UnsupportedError where only running the model tells it."""
        spec = self.spec(i)
        if spec is None or not spec.known:
            raise UnsupportedError(
                f"[{self.name}] found input {i} of {self.op_type} without a constant value; "
                "expected one; use another form"
            )
        return spec.value

    def const(self, array: np.ndarray) -> Value:
        """A constant of the graph that is being made."""
        return self._scope.graph.const(array)

    def symbol(self, hint: str) -> Sym:
        """A new symbol, for a length that only running the model tells."""
        return self._importer.fresh(hint)

    def body(self, name: str, specs: list[Spec | None]) -> tuple[Graph, list[Value]]:
        """A body as a graph, and the outer values it reads: its inputs are those of the given
        specs, then these.
        """
        return self._importer.body(self._graph(name), self._scope, specs)

    def inline(self, name: str) -> tuple[Value, ...]:
        """Imports a body without inputs in place; its outputs."""
        return self._importer.inline(self._graph(name), self._scope)

    def call(self, op_type: str, *inputs: Value | None, outputs: int = 1, **attrs: Any):
        """The output, or a tuple of them, of a standard operator of the newest opset, for importers
        that are made of others.
        """
        return self._importer.call(op_type, inputs, outputs, attrs, self._scope, self.name)

    def _graph(self, name: str) -> onnx.GraphProto:
        a = self._attrs.get(name)
        if a is None or a.type != A.GRAPH:
            refuse(self.name, f"no graph in attribute {name!r}", "the body of the operator")
        return a.g


class Scope:
    """The names of one graph or function body, and the way to those outside."""

    def __init__(
        self,
        importer: Importer,
        graph: Graph,
        opsets: dict[str, int],
        outside: Scope | None = None,
        attrs: dict | None = None,
        prefix: str = "",
    ) -> None:
        self.fresh = importer.fresh
        self.graph = graph
        self.opsets = opsets
        self.outside = outside
        self.attrs = attrs  # of the function call being expanded, for attributes that refer to it
        self.prefix = prefix
        self.env: dict[str, Value] = {}
        self.seen: dict[str, Value] = {}  # values of outer scopes, as this graph sees them
        self.captured: list[Value] = []
        self.inner: dict[Sym, Sym] = {}
        self.depth = outside.depth + 1 if outside else 0

    def knows(self, name: str) -> bool:
        return (
            name in self.env
            or name in self.seen
            or (self.outside is not None and self.outside.knows(name))
        )

    def find(self, name: str) -> Value:
        """The value of a name; one from outside becomes an extra input of a body."""
        v = self.env.get(name) or self.seen.get(name)
        if v is None:
            v = self.outside.find(name)
            if self.outside.graph is not self.graph:
                v = self._capture(v)
            self.seen[name] = v
        return v

    def _capture(self, v: Value) -> Value:
        spec = v.spec
        if v.const is not None:
            return Value(v.name, spec, v.const)
        if spec is not None and spec.known and spec.dtype != "obj":
            return self.graph.const(spec.value, spec.dtype, v.name)
        for outer, inner in zip(
            self.captured, self.graph.inputs[-len(self.captured) :] if self.captured else []
        ):
            if outer is v:
                return inner
        self.captured.append(v)
        return self.graph.input(v.name, self.local(spec))

    def local(self, spec: Spec | None) -> Spec | None:
        """The spec as a body declares it: free lengths are plain symbols there."""
        if spec is None:
            return None
        for d in spec.shape:
            if isinstance(d, Sym) and d not in self.inner:
                self.inner[d] = self.fresh("body")
        return spec.like([self.inner.get(d, d) for d in spec.shape])


def constant(node: OnnxNode) -> tuple[np.ndarray, str | None, str]:
    """(array, dtype, name) of a Constant node."""
    found = [k for k in node._attrs if k.startswith(("value", "sparse_value"))]
    if len(found) != 1:
        refuse(node.name, f"attributes {found} of Constant", "exactly one value")
    a = node._attrs[found[0]]
    name = node.outputs[0] if node.outputs else ""
    folder = node._importer.folder
    if a.type == A.TENSOR:
        return *array_of(a.t, folder, node.name), name
    if a.type == A.SPARSE_TENSOR:
        return *dense_of(a.sparse_tensor, folder), name
    dtype = {A.FLOAT: "f32", A.FLOATS: "f32", A.INT: "i64", A.INTS: "i64"}.get(a.type, "str")
    value = node.attr(found[0])
    return np.array(value, {"f32": np.float32, "i64": np.int64, "str": object}[dtype]), dtype, name


def by_name(op: Op):
    """The importer of an operator of a package whose ONNX form has its own names."""

    def fn(g: Graph, node: OnnxNode):
        attrs = {k: tuple(v) if isinstance(v := node.attr(k), list) else v for k in node._attrs}
        return g.add(op, node.inputs, **attrs)

    fn.takes = ["f16"]
    return fn


def widened(fn):
    """An importer for inputs that travel as bits, or float16 ones: it sees them in what they are
    computed in. Where one is of half precision, what is float32 then is rounded to that.
    """

    def wrapped(g: Graph, node: OnnxNode):
        given = node.inputs
        found = [None if v is None or v.spec is None else v.spec.dtype for v in given]
        node.inputs = [_wide(g, v, d) for v, d in zip(given, found)]
        try:
            made = fn(g, node)
        finally:
            node.inputs = given
        made = made if isinstance(made, tuple) else (made,)
        half = next((d for d in found if d in ("f16", "bf16")), None)
        if half is None:
            return made
        if any(v is not None and v.spec is None for v in made):
            raise Unknown
        return tuple(
            g.narrow(v, half) if v is not None and v.spec.dtype == "f32" else v for v in made
        )

    return wrapped


def _wide(g: Graph, v: Value | None, dtype: str | None) -> Value | None:
    if dtype == "f16":
        return g.add("cast", [v], to="f32")
    if dtype not in dtypes.BITS:
        return v
    return g.add("cast", [v], to=dtypes.SMALL.get(dtype, "f32"), source=dtype)
