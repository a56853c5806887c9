"""ONNX to Graph, asking each operator's importers.

A node becomes what the first of these gives: an importer of an operator; the function that the model or ONNX defines for
it, expanded in place; the onnx package's own implementation as a slow fallback. What nothing provides is listed whole.
"""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np

from . import onnx_fallback
from .errors import MissingOperatorError, ModelError, UnsupportedError, WnnError
from .graph import Graph, Value
from .onnx_tensor import array_of, dense_of, onnx, refuse, spec_of
from .op import REGISTRY, Op, Registry, Spec, missing_operator
from .plugins import ensure_std
from .symbols import Sym

OLDEST_OPSET = 7
MAX_NODES = 300_000  # after functions are expanded: a small file can define very many
MAX_DEPTH = 60  # of functions and bodies in each other
BF16_AS_IT_IS = {
    "Cast", "CastLike", "Concat", "Constant", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "If",
    "IsInf", "IsNaN", "Loop", "Reshape", "Scan", "Shape", "Size", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    "Where",
}  # all others compute in float32 and round once  # fmt: skip
ANONYMOUS = {"", "?", "-1", "*", "None", "none", "unk", "unknown", "dynamic"}
A = onnx.AttributeProto


class Unknown(Exception):  # noqa: N818 (a signal, not an error)
    """An importer asked for the spec of a value of which nothing is known; the fallback needs none."""


def import_model(source: str | os.PathLike | bytes | onnx.ModelProto, registry: Registry = REGISTRY) -> Graph:
    """The graph of an ONNX model, given as a path, as bytes or as a ModelProto.

    Raises ModelError for what is damaged or inconsistent, MissingOperatorError for operators that nothing provides.
    """
    ensure_std()
    folder = None
    if isinstance(source, onnx.ModelProto):
        model = source
    else:
        if not isinstance(source, (bytes, bytearray, memoryview)):
            folder = os.path.dirname(os.path.abspath(source))
            try:
                with open(source, "rb") as f:
                    source = f.read()
            except OSError as e:
                refuse("importer", f"{os.fspath(source)!r}: {e.strerror}", "a readable file", "correct the path")
        try:
            model = onnx.ModelProto.FromString(bytes(source))
        except Exception as e:  # protobuf's DecodeError has no stable home
            refuse("importer", f"bytes that are no ONNX model ({e})", "a whole .onnx file", "copy or export the file again")
        del source
    try:
        return _Importer(model, folder, registry).graph()
    except (WnnError, MemoryError):
        raise
    except Exception as e:
        raise ModelError(f"[importer] found what no ONNX model holds ({type(e).__name__}: {e}); expected a valid model; export it again") from e


def metadata(model: onnx.ModelProto) -> dict[str, Any]:
    """What the file says of itself."""
    return {
        "producer_name": model.producer_name,
        "producer_version": model.producer_version,
        "graph_name": model.graph.name,
        "domain": model.domain,
        "description": model.doc_string,
        "graph_description": model.graph.doc_string,
        "version": model.model_version,
        "custom": {p.key: p.value for p in model.metadata_props},
    }


class OnnxNode:
    """What an importer sees of an ONNX node.

    inputs: a Value each, None where absent; trailing absent ones are dropped.  outputs: names, '' where not wanted.
    """

    def __init__(self, importer: _Importer, scope: _Scope, proto: onnx.NodeProto, inputs: list[Value | None], name: str) -> None:
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
        return default if a is None else self._importer.decode(a, self.name)

    def symbol(self, hint: str) -> Sym:
        """A new symbol, for a length that only running the model tells."""
        return self._importer.fresh(hint)

    def body(self, name: str, specs: list[Spec | None]) -> tuple[Graph, list[Value]]:
        """A body as a graph, and the outer values it reads: its inputs are those of the given specs, then these."""
        return self._importer.body(self._graph(name), self._scope, specs)

    def inline(self, name: str) -> tuple[Value, ...]:
        """Imports a body without inputs in place; its outputs."""
        return self._importer.inline(self._graph(name), self._scope)

    def _graph(self, name: str) -> onnx.GraphProto:
        a = self._attrs.get(name)
        if a is None or a.type != A.GRAPH:
            refuse(self.name, f"no graph in attribute {name!r}", "the body of the operator")
        return a.g


class _Scope:
    """The names of one graph or function body, and the way to those outside."""

    def __init__(
        self, importer: _Importer, graph: Graph, opsets: dict[str, int], outside: _Scope | None = None, attrs: dict | None = None, prefix: str = ""
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
        return name in self.env or name in self.seen or (self.outside is not None and self.outside.knows(name))

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
        for outer, inner in zip(self.captured, self.graph.inputs[-len(self.captured) :] if self.captured else []):
            if outer is v:
                return inner
        self.captured.append(v)
        return self.graph.input(v.name, self.local(spec))

    def local(self, spec: Spec | None) -> Spec | None:
        """The spec as a body declares it: free lengths are plain symbols there."""
        if spec is None:
            return None
        return spec.like([self.inner.setdefault(d, self.fresh("body")) if isinstance(d, Sym) else d for d in spec.shape])


class _Importer:
    def __init__(self, model: onnx.ModelProto, folder: str | None, registry: Registry) -> None:
        self.model = model
        self.folder = folder
        self.registry = registry
        self.functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        self.missing: dict[str, tuple[str, str, str]] = {}
        self.symbols: dict[str, Sym] = {}
        self.count = 0

    # -- the model ---------------------------------------------------------------------------------------------
    def graph(self) -> Graph:
        model = self.model
        if not model.HasField("graph"):
            refuse("importer", "no graph in the file", "an ONNX model", "copy or export the file again")
        if not 3 <= model.ir_version <= onnx.IR_VERSION:
            refuse("importer", f"IR version {model.ir_version}", f"3 to {onnx.IR_VERSION}", "upgrade the onnx package or export the model again")
        g = Graph(model.graph.name or "graph")
        g.meta = {
            "producer": f"{model.producer_name} {model.producer_version}".strip(), "domain": model.domain, "version": model.model_version,
            "description": model.doc_string, "custom": {p.key: p.value for p in model.metadata_props},
        }  # fmt: skip
        scope = _Scope(self, g, self.opsets(model.opset_import))
        given = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
        for vi in model.graph.input:
            if vi.name in given:
                continue
            if vi.name in scope.env or not vi.name:
                refuse("importer", f"input {vi.name!r} twice or without a name", "names that differ")
            spec = spec_of(vi.type, lambda d, i, n=vi.name: self.dim(d, f"{n}_{i}"), f"input {vi.name!r}")
            scope.env[vi.name] = g.input(vi.name, spec)
        if not model.graph.output:
            refuse("importer", "no outputs", "at least one graph output")
        self.fill(model.graph, scope)
        if self.missing:
            raise missing_operator(list(self.missing.values()))
        g.meta.update(metadata(model))
        return g

    def opsets(self, imports) -> dict[str, int]:
        out: dict[str, int] = {}
        for row in imports:
            domain = "" if row.domain == "ai.onnx" else row.domain
            out[domain] = max(out.get(domain, 0), row.version)
        newest = onnx.defs.onnx_opset_version()
        if "" in out and not OLDEST_OPSET <= out[""] <= newest:
            refuse("importer", f"opset {out['']}", f"{OLDEST_OPSET} to {newest}", "convert the model with onnx.version_converter, or upgrade onnx")
        return out

    def dim(self, d, where: str):
        """A declared length; 0 and negative ones are how some exporters write a free axis."""
        if d.HasField("dim_value") and d.dim_value > 0:
            return d.dim_value
        text = d.dim_param.strip()
        if text in ANONYMOUS:
            return self.fresh(where)
        if text not in self.symbols:
            self.symbols[text] = self.fresh(text)
        return self.symbols[text]

    def fresh(self, hint: str) -> Sym:
        """A symbol that no other has the name of."""
        name = re.sub(r"\W", "_", hint, flags=re.ASCII)[:60]
        name = name if name[:1].isalpha() else "d" + name
        taken = {s for v in self.symbols.values() for s in v.symbols()}
        unique, i = name, 1
        while unique in taken:
            unique, i = f"{name}_{i}", i + 1
        return self.symbols.setdefault(f"\0{unique}", Sym(unique))

    # -- graphs ------------------------------------------------------------------------------------------------
    def fill(self, proto: onnx.GraphProto, scope: _Scope) -> None:
        """Imports initializers, nodes and outputs of a graph into the scope's Graph."""
        self.initializers(proto, scope)
        self.nodes(proto.node, scope)
        for vi in proto.output:
            scope.graph.outputs.append(self.lookup(vi.name, scope, "graph output"))
            scope.graph.output_names.append(vi.name)
        if not self.missing:
            scope.graph.prune()

    def initializers(self, proto: onnx.GraphProto, scope: _Scope) -> None:
        for t in proto.initializer:
            self.define(t.name, scope, *array_of(t, self.folder))
        for t in proto.sparse_initializer:
            self.define(t.values.name, scope, *dense_of(t, self.folder))

    def define(self, name: str, scope: _Scope, array: np.ndarray, dtype: str) -> None:
        if name in scope.env or not name:
            refuse("importer", f"initializer {name!r} twice or without a name", "names that differ")
        scope.env[name] = scope.graph.const(array, dtype, name)

    def nodes(self, protos, scope: _Scope) -> None:
        if scope.depth > MAX_DEPTH:
            refuse("importer", f"functions or bodies nested more than {MAX_DEPTH} deep", "less; a function must not call itself")
        for proto in ordered(protos, scope.knows):
            self.count += 1
            if self.count > MAX_NODES:
                refuse("importer", f"more than {MAX_NODES} nodes", "fewer, with functions expanded", "simplify the model")
            self.node(proto, scope)

    def lookup(self, name: str, scope: _Scope, what: str) -> Value:
        if not scope.knows(name):
            refuse("importer", f"{what} {name!r} that nothing defines", "an input, an initializer or a node's output")
        return scope.find(name)

    def body(self, proto: onnx.GraphProto, scope: _Scope, specs: list[Spec | None]) -> tuple[Graph, list[Value]]:
        if len(proto.input) != len(specs):
            refuse(f"body {proto.name!r}", f"{len(proto.input)} inputs", f"{len(specs)}")
        g = Graph(proto.name or "body")
        inner = _Scope(self, g, scope.opsets, scope, scope.attrs, scope.prefix)
        for vi, spec in zip(proto.input, specs):
            inner.env[vi.name] = g.input(vi.name, inner.local(spec))
        self.fill(proto, inner)
        g.meta["declared"] = [declared(vi.type) for vi in proto.output]
        return g, inner.captured

    def inline(self, proto: onnx.GraphProto, scope: _Scope) -> tuple[Value, ...]:
        inner = _Scope(self, scope.graph, scope.opsets, scope, scope.attrs, scope.prefix)
        self.initializers(proto, inner)
        self.nodes(proto.node, inner)
        return tuple(self.lookup(vi.name, inner, "graph output") for vi in proto.output)

    # -- nodes -------------------------------------------------------------------------------------------------
    def node(self, proto: onnx.NodeProto, scope: _Scope) -> None:
        name = scope.prefix + (proto.name or f"{proto.op_type}_{self.count}")
        proto = resolved(proto, scope.attrs)
        if proto.domain not in scope.opsets:
            if proto.domain or scope.opsets:
                scope.opsets.setdefault(proto.domain, 1)
            else:
                refuse(name, "no opset for the standard operators", "opset_import in the model")
        inputs = [self.lookup(n, scope, "input") if n else None for n in proto.input]
        while inputs and inputs[-1] is None:
            inputs.pop()
        node = OnnxNode(self, scope, proto, inputs, name)
        before, scope.graph.scope = scope.graph.scope, name
        try:
            made = self.provide(node, proto, scope)
        finally:
            scope.graph.scope = before
        for out, v in zip(proto.output, made + (None,) * len(proto.output)):
            if not out:
                continue
            if v is None:
                refuse(name, f"output {out!r} of {proto.op_type}", f"at most {len(made)} outputs")
            if out in scope.env:
                refuse(name, f"a second definition of {out!r}", "each name to be defined once")
            scope.env[out] = v

    def provide(self, node: OnnxNode, proto: onnx.NodeProto, scope: _Scope) -> tuple[Value | None, ...]:
        """The node's outputs, from whatever comes first that provides it."""
        if (node.domain, node.op_type) == ("", "Constant"):
            return (scope.graph.const(*constant(node)),)
        if not self.missing:
            for source in (self.from_operator, self.from_function, self.from_schema):
                made = source(node, proto, scope)
                if made is not None:
                    return made
        return self.from_fallback(node, proto, scope)

    def from_operator(self, node: OnnxNode, proto: onnx.NodeProto, scope: _Scope):
        fn = self.registry.importer(node.domain, node.op_type, node.opset)
        full = f"{node.domain}:{node.op_type}"
        if fn is None and full in self.registry.ops:
            fn = by_name(self.registry.ops[full])
        if fn is None:
            return None
        specs = [v.spec if v is not None else None for v in node.inputs]
        if not getattr(fn, "takes_objects", False) and any(s is not None and s.dtype == "obj" for s in specs):
            return None
        if node.op_type not in BF16_AS_IT_IS and any(s is not None and s.dtype == "bf16" for s in specs):
            fn = in_float32(fn)
        try:
            made = fn(scope.graph, node)
        except (Unknown, UnsupportedError, MissingOperatorError):
            return None
        except WnnError as e:
            raise type(e)(str(e) if node.name in str(e) else f"{e} (node {node.name!r})") from None
        except Exception as e:
            if any(v is not None and v.spec is None for v in node.inputs):
                return None
            raise ModelError(
                f"[{node.op_type}] found a node that cannot be read ({type(e).__name__}: {e}; inputs {specs}); "
                f"expected what ONNX defines for opset {node.opset}; export the model again (node {node.name!r})"
            ) from e
        made = made if isinstance(made, tuple) else (made,)
        short = made[:1] == (None,) or any(node.wants(i) for i in range(len(made), node.num_outputs))
        return None if short else made

    def from_function(self, node: OnnxNode, proto: onnx.NodeProto, scope: _Scope):
        f = self.functions.get((proto.domain, proto.op_type, proto.overload))
        return None if f is None else self.expand(f, node, proto, scope)

    def from_schema(self, node: OnnxNode, proto: onnx.NodeProto, scope: _Scope):
        specs = [None if v is None else v.spec or Spec((), "obj") for v in node.inputs]
        specs += [None] * (len(proto.input) - len(specs))
        try:
            f = onnx_fallback.function_of(proto, node.opset, specs)
        except Exception:  # ONNX's C++ refuses contexts it cannot express; the fallback remains
            return None
        if f is None:
            return None
        mark = len(scope.graph.nodes)
        try:
            return self.expand(f, node, proto, scope)
        except (WnnError, Unknown):
            if onnx_fallback.implemented(*self.single(proto, scope)):
                for n in scope.graph.nodes[mark:]:
                    for v in n.inputs:
                        if v is not None:
                            v.users.remove(n)
                del scope.graph.nodes[mark:]
                return None
            raise

    def expand(self, f: onnx.FunctionProto, node: OnnxNode, proto: onnx.NodeProto, scope: _Scope) -> tuple[Value | None, ...]:
        if len(node.inputs) > len(f.input) or len(proto.output) > len(f.output):
            refuse(node.name, f"{len(node.inputs)} inputs and {len(proto.output)} outputs", f"at most {len(f.input)} and {len(f.output)} ({f.name})")
        attrs = {a.name: a for a in f.attribute_proto} | {a.name: a for a in proto.attribute}
        inner = _Scope(self, scope.graph, {**scope.opsets, **self.opsets(f.opset_import)}, None, attrs, node.name + "/")
        inner.depth = scope.depth + 1
        inner.env.update({n: v for n, v in zip(f.input, node.inputs + [None] * len(f.input)) if v is not None})
        absent = {n for n in f.input if n not in inner.env}
        self.nodes([without(n, absent) for n in f.node], inner)
        return tuple(inner.find(n) if inner.knows(n) else None for n in f.output)

    def single(self, proto: onnx.NodeProto, scope: _Scope) -> tuple[onnx.NodeProto, tuple]:
        """The node with plain names, and the opsets it needs: what the fallback stores."""
        alone = onnx.NodeProto()
        alone.CopyFrom(proto)
        alone.name = alone.doc_string = ""
        del alone.input[:], alone.output[:], alone.metadata_props[:]
        alone.input.extend(f"i{i}" if n else "" for i, n in enumerate(proto.input))
        alone.output.extend(f"o{i}" if n else "" for i, n in enumerate(proto.output))
        return alone, ((proto.domain, scope.opsets[proto.domain]),)

    def from_fallback(self, node: OnnxNode, proto: onnx.NodeProto, scope: _Scope) -> tuple[Value | None, ...]:
        alone, opsets = self.single(proto, scope)
        full = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
        if not onnx_fallback.implemented(alone, opsets):
            if not self.provided(proto, scope):
                shown = ", ".join(str(v.spec) for v in node.inputs if v is not None and v.spec is not None)
                self.missing.setdefault(full, (full, node.name, shown))
            elif not self.missing:
                raise UnsupportedError(f"[{node.op_type}] found inputs {node.inputs} that no implementation takes; expected a plain form of it; export the model in another way (node {node.name!r})")
            return tuple(Value(n, None) for n in proto.output)
        specs = [v.spec if v is not None else None for v in node.inputs]
        bf16 = tuple(i for i, s in enumerate(specs) if s is not None and s.dtype == "bf16")
        wanted = [n for n in alone.output if n]
        op = onnx_fallback.operator(onnx_fallback.PREFIX + (full.replace(":", ".")))
        made = scope.graph.add(op, node.inputs, len(wanted), node=alone.SerializeToString(), opsets=opsets, bf16=bf16)
        made = iter(made if isinstance(made, tuple) else (made,))
        outs = tuple(next(made) if n else None for n in alone.output)
        if all(v is None or v.spec is not None for v in node.inputs):
            for v, s in zip(outs, onnx_fallback.infer(alone, opsets, specs + [None] * len(alone.input))):
                if v is not None:
                    v.spec = s
        return outs

    def provided(self, proto: onnx.NodeProto, scope: _Scope) -> bool:
        """Whether an operator is known by name, though perhaps not for this node."""
        if self.registry.importer(proto.domain, proto.op_type, scope.opsets[proto.domain]):
            return True
        if f"{proto.domain}:{proto.op_type}" in self.registry.ops or (proto.domain, proto.op_type, proto.overload) in self.functions:
            return True
        schema = onnx_fallback.schema_of(proto, scope.opsets[proto.domain])
        return schema is not None and (schema.has_function or schema.has_context_dependent_function)

    def decode(self, a: onnx.AttributeProto, who: str) -> Any:
        """An attribute's value in Python's terms."""
        simple = {A.INT: "i", A.FLOAT: "f", A.INTS: "ints", A.FLOATS: "floats"}
        if a.type in simple:
            value = getattr(a, simple[a.type])
            return list(value) if a.type in (A.INTS, A.FLOATS) else value
        if a.type == A.STRING:
            return a.s.decode("utf-8", "surrogateescape")
        if a.type == A.STRINGS:
            return [s.decode("utf-8", "surrogateescape") for s in a.strings]
        if a.type == A.TENSOR:
            return array_of(a.t, self.folder, f"attribute {a.name!r} of {who}")[0]
        if a.type == A.TENSORS:
            return [array_of(t, self.folder, who)[0] for t in a.tensors]
        if a.type == A.SPARSE_TENSOR:
            return dense_of(a.sparse_tensor, self.folder)[0]
        return refuse(who, f"attribute {a.name!r} of type {a.type}", "a number, a string, a tensor or a list of these")


def declared(tp: onnx.TypeProto) -> list | None:
    """[dtype, shape] that a body's output is declared to have, free axes as 0; None where it is open."""
    if tp.WhichOneof("value") == "tensor_type" and not tp.tensor_type.elem_type:
        return None
    spec = spec_of(tp, lambda d, _: d.dim_value, "body output")
    return None if spec is None else [spec.dtype, list(spec.shape)]


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

    return fn


def in_float32(fn):
    """An importer for bf16 inputs: it sees them as float32, and what is float32 then is rounded to bf16."""

    def wrapped(g: Graph, node: OnnxNode):
        given = node.inputs
        node.inputs = [v if v is None or v.spec is None or v.spec.dtype != "bf16" else g.add("cast", [v], to="f32", source="bf16") for v in given]
        try:
            made = fn(g, node)
        finally:
            node.inputs = given
        made = made if isinstance(made, tuple) else (made,)
        if any(v is not None and v.spec is None for v in made):
            raise Unknown
        return tuple(g.add("cast", [v], to="bf16") if v is not None and v.spec.dtype == "f32" else v for v in made)

    return wrapped


def resolved(proto: onnx.NodeProto, attrs: dict | None) -> onnx.NodeProto:
    """The node with attributes that refer to a function's filled in; those that the call does not give are left out."""
    proto_attrs = proto.attribute
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    if domain == proto.domain and not any(a.ref_attr_name for a in proto_attrs):
        return proto
    new = onnx.NodeProto()
    new.CopyFrom(proto)
    new.domain = domain
    del new.attribute[:]
    for a in proto_attrs:
        if not a.ref_attr_name:
            new.attribute.add().CopyFrom(a)
        elif attrs and a.ref_attr_name in attrs:
            b = new.attribute.add()
            b.CopyFrom(attrs[a.ref_attr_name])
            b.name = a.name
    return new


def without(proto: onnx.NodeProto, absent: set[str]) -> onnx.NodeProto:
    """The node with inputs that the call leaves out written as absent."""
    if not absent.intersection(proto.input):
        return proto
    new = onnx.NodeProto()
    new.CopyFrom(proto)
    new.input[:] = ["" if n in absent else n for n in proto.input]
    return new


def outer_names(proto: onnx.NodeProto) -> list[str]:
    """All names a node reads: its inputs, and what its bodies take from outside."""
    names = [n for n in proto.input if n]
    for a in proto.attribute:
        for g in [a.g] if a.type == A.GRAPH else a.graphs:
            inner = {v.name for v in g.input} | {t.name for t in g.initializer} | {t.values.name for t in g.sparse_initializer}
            inner |= {o for n in g.node for o in n.output}
            names += [n for m in g.node for n in outer_names(m) if n not in inner]
            names += [v.name for v in g.output if v.name not in inner]
    return names


def ordered(protos, known) -> list[onnx.NodeProto]:
    """The nodes, sorted so that each follows what it reads; as they are where they are sorted already."""
    protos = list(protos)
    needs = [outer_names(p) for p in protos]
    made: set[str] = set()
    if all([all(n in made or known(n) for n in need) and not made.update(p.output) for p, need in zip(protos, needs)]):
        return protos
    maker = {o: i for i, p in enumerate(protos) for o in p.output if o}
    for p, need in zip(protos, needs):
        for n in need:
            if n not in maker and not known(n):
                refuse(p.name or p.op_type, f"input {n!r} that nothing defines", "an input, an initializer or a node's output")
    waiting = [len({maker[n] for n in need if n in maker and not known(n)}) for need in needs]
    users: dict[int, set[int]] = {}
    for i, need in enumerate(needs):
        for n in need:
            if n in maker and not known(n):
                users.setdefault(maker[n], set()).add(i)
    ready = [i for i, w in enumerate(waiting) if w == 0]
    for i in ready:
        for u in sorted(users.get(i, ())):
            waiting[u] -= 1
            if waiting[u] == 0:
                ready.append(u)
    if len(ready) != len(protos):
        left = [p.name or p.op_type for p, w in zip(protos, waiting) if w][:3]
        refuse("importer", f"a cycle through {left}", "nodes that do not depend on their own outputs")
    return [protos[i] for i in ready]
