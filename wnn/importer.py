"""ONNX to Graph, asking each operator's importers.

A node becomes what the first of these gives: an importer of an operator; the function that the
model or ONNX defines for it, expanded in place; the onnx package's own implementation as a slow
fallback. What nothing provides is listed whole.
"""

from __future__ import annotations

import mmap
import os
import re
from typing import Any

import numpy as np

from . import dtypes, onnx_fallback
from .errors import MissingOperatorError, ModelError, UnsupportedError, WnnError
from .graph import Graph, Value
from .onnx_node import OnnxNode, Scope, Unknown, by_name, constant, widened
from .onnx_old import modern
from .onnx_proto import (
    array_of,
    declared,
    dense_of,
    element_of,
    onnx,
    ordered,
    refuse,
    resolved,
    spec_of,
    without,
)
from .onnx_wire import Large, lighten
from .op import Spec
from .plugins import ensure_std
from .registry import REGISTRY, Registry, missing_operator
from .symbols import Sym

OLDEST_OPSET = 1
MAX_NODES = 300_000  # after functions are expanded: a small file can define very many
MAX_DEPTH = 60  # of functions and bodies in each other
ANONYMOUS = {"", "?", "-1", "*", "None", "none", "unk", "unknown", "dynamic"}


def import_model(
    source: str | os.PathLike | bytes | onnx.ModelProto, registry: Registry = REGISTRY
) -> Graph:
    """The graph of an ONNX model, given as a path, as bytes or as a ModelProto.

    Raises ModelError for what is damaged or inconsistent, MissingOperatorError for operators that
    nothing provides.
    """
    ensure_std()
    folder, large = None, Large()
    if isinstance(source, onnx.ModelProto):
        model = source
    elif isinstance(source, (bytes, bytearray, memoryview)):
        model = parse(memoryview(source).cast("B"), large)
    else:
        folder = os.path.dirname(os.path.abspath(source))
        model = parse(mapped(source), large)
    try:
        return Importer(model, folder, registry, large).graph()
    except (WnnError, MemoryError):
        raise
    except Exception as e:
        raise ModelError(
            f"[importer] found what no ONNX model holds ({type(e).__name__}: {e}); expected a "
            "valid model; export it again"
        ) from e


def mapped(path: str | os.PathLike) -> memoryview:
    """The bytes of a file, mapped read-only."""
    try:
        with open(path, "rb") as f:
            if not os.path.getsize(path):
                return memoryview(b"")
            return memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as e:
        refuse(
            "importer", f"{os.fspath(path)!r}: {e.strerror}", "a readable file", "correct the path"
        )


def parse(data: memoryview, large: Large) -> onnx.ModelProto:
    """The message in the bytes, its long initializers kept in `large`."""
    try:
        return onnx.ModelProto.FromString(lighten(data, large))
    except Exception as e:  # protobuf's DecodeError has no stable home
        refuse(
            "importer",
            f"bytes that are no ONNX model ({e})",
            "a whole .onnx file",
            "copy or export the file again",
        )


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


class Importer:
    def __init__(
        self, model: onnx.ModelProto, folder: str | None, registry: Registry, large: Large
    ) -> None:
        self.model = model
        self.folder = folder
        self.registry = registry
        self.large = large
        self.functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        self.missing: dict[str, tuple[str, str, str]] = {}
        self.symbols: dict[str, Sym] = {}  # by the names that the model gives to lengths
        self.named: dict[str, int] = {}  # symbols' names -> the last number put behind each
        self.count = 0

    # -- the model
    def graph(self) -> Graph:
        model = self.model
        if not model.HasField("graph"):
            refuse(
                "importer", "no graph in the file", "an ONNX model", "copy or export the file again"
            )
        if not 3 <= model.ir_version <= onnx.IR_VERSION:
            refuse(
                "importer",
                f"IR version {model.ir_version}",
                f"3 to {onnx.IR_VERSION}",
                "upgrade the onnx package or export the model again",
            )
        g = Graph(model.graph.name or "graph")
        scope = Scope(self, g, self.opsets(model.opset_import))
        given = {t.name for t in model.graph.initializer} | {
            t.values.name for t in model.graph.sparse_initializer
        }
        for vi in model.graph.input:
            if vi.name in given:
                continue
            if vi.name in scope.env or not vi.name:
                refuse(
                    "importer", f"input {vi.name!r} twice or without a name", "names that differ"
                )
            spec = spec_of(
                vi.type, lambda d, i, n=vi.name: self.dim(d, f"{n}_{i}"), f"input {vi.name!r}"
            )
            scope.env[vi.name] = g.input(vi.name, spec)
        if not model.graph.output:
            refuse("importer", "no outputs", "at least one graph output")
        self.fill(model.graph, scope)
        if self.missing:
            raise missing_operator(list(self.missing.values()))
        g.meta.update(metadata(model))
        ports = (*model.graph.input, *model.graph.output)
        g.meta["dtypes"] = {vi.name: t for vi in ports if (t := element_of(vi.type))}
        return g

    def opsets(self, imports) -> dict[str, int]:
        out: dict[str, int] = {}
        for row in imports:
            domain = "" if row.domain == "ai.onnx" else row.domain
            out[domain] = max(out.get(domain, 0), row.version)
        newest = onnx.defs.onnx_opset_version()
        if "" in out and not OLDEST_OPSET <= out[""] <= newest:
            refuse(
                "importer",
                f"opset {out['']}",
                f"{OLDEST_OPSET} to {newest}",
                "convert the model with onnx.version_converter, or upgrade onnx",
            )
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
        unique = name
        while unique in self.named:
            self.named[name] += 1
            unique = f"{name}_{self.named[name]}"
        self.named[unique] = 0
        return Sym(unique)

    # -- graphs
    def fill(self, proto: onnx.GraphProto, scope: Scope) -> None:
        """Imports initializers, nodes and outputs of a graph into the scope's Graph."""
        self.initializers(proto, scope)
        self.nodes(proto.node, scope)
        for vi in proto.output:
            scope.graph.outputs.append(self.lookup(vi.name, scope, "graph output"))
            scope.graph.output_names.append(vi.name)
        if not self.missing:
            scope.graph.prune()

    def initializers(self, proto: onnx.GraphProto, scope: Scope) -> None:
        for t in proto.initializer:
            self.define(t.name, scope, *array_of(t, self.folder, find=self.large.find))
        for t in proto.sparse_initializer:
            self.define(t.values.name, scope, *dense_of(t, self.folder))

    def define(self, name: str, scope: Scope, array: np.ndarray, dtype: str) -> None:
        if name in scope.env or not name:
            refuse("importer", f"initializer {name!r} twice or without a name", "names that differ")
        scope.env[name] = scope.graph.const(array, dtype, name)

    def nodes(self, protos, scope: Scope) -> None:
        if scope.depth > MAX_DEPTH:
            refuse(
                "importer",
                f"functions or bodies nested more than {MAX_DEPTH} deep",
                "less; a function must not call itself",
            )
        for proto in ordered(protos, scope.knows):
            self.count += 1
            if self.count > MAX_NODES:
                refuse(
                    "importer",
                    f"more than {MAX_NODES} nodes",
                    "fewer, with functions expanded",
                    "simplify the model",
                )
            self.node(proto, scope)

    def lookup(self, name: str, scope: Scope, what: str) -> Value:
        if not scope.knows(name):
            refuse(
                "importer",
                f"{what} {name!r} that nothing defines",
                "an input, an initializer or a node's output",
            )
        return scope.find(name)

    def body(
        self, proto: onnx.GraphProto, scope: Scope, specs: list[Spec | None]
    ) -> tuple[Graph, list[Value]]:
        if len(proto.input) != len(specs):
            refuse(f"body {proto.name!r}", f"{len(proto.input)} inputs", f"{len(specs)}")
        g = scope.graph.body(proto.name or "body")
        inner = Scope(self, g, scope.opsets, scope, scope.attrs, scope.prefix)
        for vi, spec in zip(proto.input, specs):
            inner.env[vi.name] = g.input(vi.name, inner.local(spec))
        self.fill(proto, inner)
        g.meta["declared"] = [declared(vi.type) for vi in proto.output]
        return g, inner.captured

    def inline(self, proto: onnx.GraphProto, scope: Scope) -> tuple[Value, ...]:
        inner = Scope(self, scope.graph, scope.opsets, scope, scope.attrs, scope.prefix)
        self.initializers(proto, inner)
        self.nodes(proto.node, inner)
        return tuple(self.lookup(vi.name, inner, "graph output") for vi in proto.output)

    # -- nodes
    def node(self, proto: onnx.NodeProto, scope: Scope) -> None:
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
            if not node.domain and node.opset < 7:
                modern(scope.graph, node)
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

    def provide(
        self, node: OnnxNode, proto: onnx.NodeProto, scope: Scope
    ) -> tuple[Value | None, ...]:
        """The node's outputs, from whatever comes first that provides it."""
        if (node.domain, node.op_type) == ("", "Constant"):
            return (scope.graph.const(*constant(node)),)
        if not self.missing:
            for source in (self.from_operator, self.from_function, self.from_schema):
                made = source(node, proto, scope)
                if made is not None:
                    return made
        return self.from_fallback(node, proto, scope)

    def from_operator(self, node: OnnxNode, proto: onnx.NodeProto, scope: Scope):
        fn = self.registry.importer(node.domain, node.op_type, node.opset)
        full = f"{node.domain}:{node.op_type}"
        if fn is None and full in self.registry.ops:
            fn = by_name(self.registry.ops[full])
        if fn is None:
            return None
        specs = [v.spec if v is not None else None for v in node.inputs]
        kinds = {"bits" if s.dtype in dtypes.BITS else s.dtype for s in specs if s is not None}
        untaken = kinds & {"f16", "bits", "obj"} - {*fn.takes}
        if "obj" in untaken:
            return None
        if untaken:
            fn = widened(fn)
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
                f"[{node.op_type}] found a node that cannot be read ({type(e).__name__}: {e}; "
                f"inputs {specs}); "
                f"expected what ONNX defines for opset {node.opset}; export the model again "
                f"(node {node.name!r})"
            ) from e
        made = made if isinstance(made, tuple) else (made,)
        short = made[:1] == (None,) or any(
            node.wants(i) for i in range(len(made), node.num_outputs)
        )
        return None if short else made

    def from_function(self, node: OnnxNode, proto: onnx.NodeProto, scope: Scope):
        f = self.functions.get((proto.domain, proto.op_type, proto.overload))
        return None if f is None else self.expand(f, node, proto, scope)

    def from_schema(self, node: OnnxNode, proto: onnx.NodeProto, scope: Scope):
        specs = [None if v is None else v.spec or Spec((), "obj") for v in node.inputs]
        specs += [None] * (len(proto.input) - len(specs))
        try:
            f = onnx_fallback.function_of(proto, node.opset, specs)
        except Exception:  # ONNX's C++ refuses contexts it cannot express; the fallback remains
            return None
        if f is None:
            return None
        known = set(self.missing)
        try:
            made = self.expand(f, node, proto, scope)
        except (WnnError, Unknown):
            if onnx_fallback.implemented(*self.single(proto, scope)):
                return None
            raise
        if len(self.missing) > len(known) and onnx_fallback.implemented(*self.single(proto, scope)):
            self.missing = {k: row for k, row in self.missing.items() if k in known}
            return None
        return made

    def expand(
        self, f: onnx.FunctionProto, node: OnnxNode, proto: onnx.NodeProto, scope: Scope
    ) -> tuple[Value | None, ...]:
        if len(node.inputs) > len(f.input) or len(proto.output) > len(f.output):
            refuse(
                node.name,
                f"{len(node.inputs)} inputs and {len(proto.output)} outputs",
                f"at most {len(f.input)} and {len(f.output)} ({f.name})",
            )
        attrs = {a.name: a for a in f.attribute_proto} | {a.name: a for a in proto.attribute}
        inner = Scope(
            self,
            scope.graph,
            {**scope.opsets, **self.opsets(f.opset_import)},
            None,
            attrs,
            node.name + "/",
        )
        inner.depth = scope.depth + 1
        inner.env.update(
            {n: v for n, v in zip(f.input, node.inputs + [None] * len(f.input)) if v is not None}
        )
        absent = {n for n in f.input if n not in inner.env}
        self.nodes([without(n, absent) for n in f.node], inner)
        return tuple(inner.find(n) if inner.knows(n) else None for n in f.output)

    def single(self, proto: onnx.NodeProto, scope: Scope) -> tuple[onnx.NodeProto, tuple]:
        """The node with plain names, and the opsets it needs: what the fallback stores."""
        alone = onnx.NodeProto()
        alone.CopyFrom(proto)
        alone.name = alone.doc_string = ""
        del alone.input[:], alone.output[:], alone.metadata_props[:]
        alone.input.extend(f"i{i}" if n else "" for i, n in enumerate(proto.input))
        alone.output.extend(f"o{i}" if n else "" for i, n in enumerate(proto.output))
        return alone, ((proto.domain, scope.opsets[proto.domain]),)

    def from_fallback(
        self, node: OnnxNode, proto: onnx.NodeProto, scope: Scope
    ) -> tuple[Value | None, ...]:
        alone, opsets = self.single(proto, scope)
        full = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
        if not onnx_fallback.implemented(alone, opsets):
            if not self.provided(proto, scope):
                shown = ", ".join(
                    str(v.spec) for v in node.inputs if v is not None and v.spec is not None
                )
                self.missing.setdefault(full, (full, node.name, shown))
            elif not self.missing:
                raise UnsupportedError(
                    f"[{node.op_type}] found inputs {node.inputs} that no implementation takes; "
                    "expected a plain form of it; export the model in another way (node "
                    f"{node.name!r})"
                )
            return tuple(Value(n, None) for n in proto.output)
        specs = [v.spec if v is not None else None for v in node.inputs]
        bits = tuple((i, s.dtype) for i, s in enumerate(specs) if s and s.dtype in dtypes.BITS)
        wanted = [n for n in alone.output if n]
        op = onnx_fallback.operator(onnx_fallback.PREFIX + (full.replace(":", ".")))
        made = scope.graph.add(
            op, node.inputs, len(wanted), node=alone.SerializeToString(), opsets=opsets, bits=bits
        )
        made = iter(made if isinstance(made, tuple) else (made,))
        outs = tuple(next(made) if n else None for n in alone.output)
        if all(v is None or v.spec is not None for v in node.inputs):
            for v, s in zip(
                outs, onnx_fallback.infer(alone, opsets, specs + [None] * len(alone.input))
            ):
                if v is not None:
                    v.spec = s
        return outs

    def provided(self, proto: onnx.NodeProto, scope: Scope) -> bool:
        """Whether an operator is known by name, though perhaps not for this node."""
        if self.registry.importer(proto.domain, proto.op_type, scope.opsets[proto.domain]):
            return True
        if (
            f"{proto.domain}:{proto.op_type}" in self.registry.ops
            or (proto.domain, proto.op_type, proto.overload) in self.functions
        ):
            return True
        schema = onnx_fallback.schema_of(proto, scope.opsets[proto.domain])
        return schema is not None and (schema.has_function or schema.has_context_dependent_function)

    def call(self, op_type: str, inputs: tuple, outputs: int, attrs: dict, scope: Scope, name: str):
        """Imports a standard operator of the newest opset on values."""
        names = [f"i{i}" if v is not None else "" for i, v in enumerate(inputs)]
        proto = onnx.helper.make_node(
            op_type, names, [f"o{i}" for i in range(outputs)], f"{name}/{op_type}", **attrs
        )
        inner = Scope(self, scope.graph, {"": onnx.defs.onnx_opset_version()})
        inner.env = {n: v for n, v in zip(names, inputs) if n}
        self.node(proto, inner)
        made = tuple(inner.env[n] for n in proto.output)
        return made[0] if outputs == 1 else made
