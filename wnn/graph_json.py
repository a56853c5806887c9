"""A Graph as JSON, and back: the `graph` entry of a .wnnx file (wnnx.py has its specification).

Decoding trusts nothing: every index, dtype, shape and attribute is checked before use.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import dtypes, post
from .errors import MissingOperatorError, UnsupportedError, WnnError
from .graph import PANEL16, PLAIN, Constant, Graph, Node, Value
from .op import Op, Spec
from .registry import REGISTRY, missing_operator
from .symbols import Sym, is_name

MAX_RANK = 32
MAX_DIM = 1 << 40
LAYOUTS = {"plain": PLAIN, "panel16": PANEL16}
_LAYOUT_NAMES = {v: k for k, v in LAYOUTS.items()}
_QUOTIENTS = ("//", "%", "min", "max")


class Damaged(Exception):
    """The first two facts of an error; whoever knows the file makes a ModelError of it."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"found {found}; expected {expected}")


# -- to JSON ---------------------------------------------------------------------------------------
def encode(graph: Graph, store: Callable[[np.ndarray, str, str], str]) -> dict[str, Any]:
    """JSON of a graph. store(array, dtype, hint) keeps an array and returns the tensor's name."""
    index: dict[int, int] = {}

    def number(v: Value) -> int:
        index[id(v)] = len(index)
        return index[id(v)]

    for v in graph.inputs:
        number(v)
    constants = []
    for v in graph.constants().values():
        number(v)
        constants.append(_constant(v, store))
    nodes = []
    for n in graph.nodes:
        ins = [None if v is None else index[id(v)] for v in n.inputs]
        outs = [[v.name, *_spec(v.spec)] for v in n.outputs]
        for v in n.outputs:
            number(v)
        attrs = {k: _attr(a, f"{n.op.name}.{k}", store) for k, a in n.attrs.items()}
        nodes.append({"op": n.op.name, "name": n.name, "in": ins, "out": outs, "attrs": attrs})
    return {
        "name": graph.name,
        "inputs": [[v.name, *_spec(v.spec)] for v in graph.inputs],
        "constants": constants,
        "nodes": nodes,
        "outputs": [index[id(v)] for v in graph.outputs],
        "output_names": list(graph.output_names),
        "meta": graph.meta,
    }


def _constant(v: Value, store: Callable) -> dict[str, Any]:
    c = v.const
    out = {
        "name": v.name,
        "tensor": store(c.data, "f32" if c.layout else c.dtype, v.name),
        "dtype": c.dtype,
        "shape": list(c.shape),
    }
    if c.layout != PLAIN:
        out |= {"layout": _LAYOUT_NAMES[c.layout], "groups": c.groups}
    return out


def _spec(spec: Spec | None) -> list:
    return [] if spec is None else [spec.dtype, [_dim(d) for d in spec.shape]]


def _dim(d: int | Sym) -> Any:
    if not isinstance(d, Sym):
        return int(d)
    return {
        "sym": [
            [c, *(a if isinstance(a, str) else [a[0], _dim(a[1]), _dim(a[2])] for a in atoms)]
            for atoms, c in d.terms.items()
        ]
    }


def _attr(a: Any, who: str, store: Callable) -> Any:
    if isinstance(a, np.generic):
        a = a.item()
    if a is None or isinstance(a, (bool, int, str)):
        return a
    if isinstance(a, float):
        return a if math.isfinite(a) else {"float": str(a)}
    if isinstance(a, tuple):
        return [_attr(x, who, store) for x in a]
    if isinstance(a, list):
        return {"list": [_attr(x, who, store) for x in a]}
    if isinstance(a, dict):
        return {"dict": [[_attr(k, who, store), _attr(x, who, store)] for k, x in a.items()]}
    if isinstance(a, Sym):
        return _dim(a)
    if isinstance(a, bytes):
        return {"bytes": base64.b64encode(a).decode()}
    if isinstance(a, Graph):
        return {"graph": encode(a, store)}
    if isinstance(a, np.ndarray):
        dtype = dtypes.name_of(a.dtype)
        return {"array": [store(a, dtype, who), dtype, list(a.shape)]}
    raise UnsupportedError(
        f"[wnnx] found an attribute {who} of type {type(a).__name__}; "
        "expected numbers, text, tuples, arrays or graphs; run the ONNX file as it is"
    )


# -- from JSON -------------------------------------------------------------------------------------
def decode(obj: Any, fetch: Callable[[str, str, int], np.ndarray]) -> Graph:
    """The graph that `encode` described.

    fetch(tensor, dtype, count): the first count elements of a stored tensor.
    Raises Damaged, or MissingOperatorError with every operator that no installed package provides.
    """
    reader = _Reader(fetch)
    graph = reader.graph(obj)
    if reader.missing:
        raise reader.missing_error()
    return graph


def text(x: Any, what: str) -> str:
    """x, if it is text."""
    if not isinstance(x, str):
        raise Damaged(f"{what} {x!r:.80}", "text")
    return x


def whole(x: Any, what: str, low: int, high: int) -> int:
    """x, if it is a whole number in [low, high]."""
    if type(x) is not int or not low <= x <= high:
        raise Damaged(f"{what} {x!r:.80}", f"a whole number in [{low}, {high}]")
    return x


def items(x: Any, what: str, n: int | None = None) -> list:
    """x, if it is a list (of n items)."""
    if not isinstance(x, list) or (n is not None and len(x) != n):
        raise Damaged(f"{what} {x!r:.80}", f"a list{'' if n is None else f' of {n}'}")
    return x


def member(obj: Any, key: str, kind: type) -> Any:
    """obj[key], if obj is an object and that member is of the kind."""
    if not isinstance(obj, dict) or not isinstance(obj.get(key), kind):
        raise Damaged(f"{key!r} in {obj!r:.80}", f"a member {key!r} of type {kind.__name__}")
    return obj[key]


def shape_of(x: Any, what: str) -> tuple[int, ...]:
    """A concrete shape within the limits."""
    shape = tuple(whole(d, f"an axis of {what}", 0, MAX_DIM) for d in items(x, f"shape of {what}"))
    if len(shape) > MAX_RANK or math.prod(d for d in shape if d) > MAX_DIM:
        raise Damaged(
            f"shape {shape!r:.200} of {what}", f"at most {MAX_RANK} axes and {MAX_DIM} elements"
        )
    return shape


def dtype_of(x: Any, what: str) -> str:
    if not isinstance(x, str) or x not in dtypes.NUMPY:
        raise Damaged(f"dtype {x!r:.80} of {what}", f"one of {sorted(dtypes.NUMPY)}")
    return x


class _Reader:
    def __init__(self, fetch: Callable) -> None:
        self.fetch = fetch
        self.missing: list[tuple[str, str, str]] = []

    def missing_error(self) -> MissingOperatorError:
        seen: dict[str, tuple[str, str, str]] = {}
        for row in self.missing:
            seen.setdefault(row[0], row)
        return missing_operator(list(seen.values()))

    def graph(self, obj: Any) -> Graph:
        g = Graph(text(member(obj, "name", str), "name"))
        values: list[Value] = []
        names = set()
        for row in member(obj, "inputs", list):
            v = g.input(*self.named(row))
            axes = v.spec.shape if v.spec is not None else ()
            if v.name in names or any(isinstance(d, Sym) and not is_name(d) for d in axes):
                raise Damaged(
                    f"an input {v!r:.200}", "one of each name, with lengths or names as axes"
                )
            names.add(v.name)
            values.append(v)
        for row in member(obj, "constants", list):
            values.append(self.constant(row))
        for row in member(obj, "nodes", list):
            self.node(g, row, values)
        g.outputs = [
            values[whole(i, "output", 0, len(values) - 1)] for i in member(obj, "outputs", list)
        ]
        g.output_names = [text(n, "output name") for n in member(obj, "output_names", list)]
        if len(g.output_names) != len(g.outputs):
            raise Damaged(
                f"{len(g.output_names)} output names for {len(g.outputs)} outputs", "one for each"
            )
        g.meta = member(obj, "meta", dict)
        if "dtypes" in g.meta:
            for name, dtype in member(g.meta, "dtypes", dict).items():
                dtype_of(dtype, f"{name!r:.80}")
        g._count = len(values)
        if not self.missing:
            _verify(g)
        return g

    def named(self, row: Any) -> tuple[str, Spec | None]:
        """(name, spec) of [name] or [name, dtype, dims]."""
        name = text(items(row, "value")[0] if row else row, "name of a value")
        if len(row) == 1:
            return name, None
        _, dtype, dims = items(row, f"value {name!r}", 3)
        shape = [self.dim(d, name) for d in items(dims, f"shape of {name!r}")]
        if len(shape) > MAX_RANK:
            raise Damaged(f"{len(shape)} axes of {name!r}", f"at most {MAX_RANK}")
        return name, Spec(shape, dtype_of(dtype, name))

    def dim(self, d: Any, name: str) -> int | Sym:
        return self.sym(d) if isinstance(d, dict) else whole(d, f"an axis of {name!r}", 0, MAX_DIM)

    def sym(self, d: Any) -> Sym:
        terms: dict = {}
        for row in member(d, "sym", list):
            if not items(row, "term of a length"):
                raise Damaged("an empty term of a length", "[factor, atoms...]")
            atoms = [a if isinstance(a, str) else self.quotient(a) for a in row[1:]]
            key = tuple(sorted(atoms, key=lambda a: a if isinstance(a, str) else repr(a)))
            factor = whole(row[0], "factor", -MAX_DIM, MAX_DIM)
            if not factor or key in terms:
                raise Damaged(
                    f"a length with the term {row!r:.80}",
                    "factors that are not 0, each product once",
                )
            terms[key] = factor
        if not any(terms):
            raise Damaged(f"length {d!r:.80}", "one with a symbol in it")
        return Sym(terms)

    def quotient(self, a: Any) -> tuple:
        kind, left, right = items(a, "atom of a length", 3)
        if kind not in _QUOTIENTS or (kind in ("//", "%") and right == 0):
            raise Damaged(f"atom {a!r:.80} of a length", f"one of {_QUOTIENTS}, not by zero")
        return (
            kind,
            *(
                self.sym(x)
                if isinstance(x, dict)
                else whole(x, "part of a length", -MAX_DIM, MAX_DIM)
                for x in (left, right)
            ),
        )

    def constant(self, row: Any) -> Value:
        name = member(row, "name", str)
        dtype = dtype_of(row.get("dtype"), name)
        shape = shape_of(row.get("shape"), f"constant {name!r}")
        tensor = member(row, "tensor", str)
        layout = row.get("layout", "plain")
        if layout == "plain":
            const = Constant(self.array(tensor, dtype, shape), shape, dtype)
            return Value(name, Spec(shape, dtype, const.data), const)
        if layout != "panel16" or dtype != "f32":
            raise Damaged(
                f"constant {name!r} of dtype {dtype} in layout {layout!r:.40}",
                f"one of {sorted(LAYOUTS)}, and f32 where packed",
            )
        groups = whole(row.get("groups"), f"groups of constant {name!r}", 0, len(shape) - 1)
        const = Constant(np.empty(0, np.float32), shape, dtype, PANEL16, groups)
        count, k, n = const.matrices()
        panels = -(-n // 16) * k * 16
        const.data = self.array(tensor, "f32", (count, panels))
        return Value(name, Spec(shape, dtype), const)

    def array(self, tensor: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        return self.fetch(tensor, dtype, math.prod(shape)).reshape(shape)

    def node(self, g: Graph, row: Any, values: list[Value]) -> None:
        op_name, name = member(row, "op", str), member(row, "name", str)
        ins = [
            None if i is None else values[whole(i, f"input of {name!r}", 0, len(values) - 1)]
            for i in member(row, "in", list)
        ]
        attrs = {k: self.attr(a) for k, a in member(row, "attrs", dict).items()}
        outs = [Value(*self.named(v)) for v in member(row, "out", list)]
        values.extend(outs)
        op = REGISTRY.ops.get(op_name) or _fallback(op_name)
        if op is None:
            words = ", ".join("-" if v is None else repr(v.spec) for v in ins)
            self.missing.append((op_name, name, words))
            return
        if (
            not outs
            or len(ins) < op.required
            or (op.variadic is None and len(ins) > len(op.inputs))
        ):
            raise Damaged(
                f"{len(ins)} inputs and {len(outs)} outputs of {op_name} (node {name!r})",
                f"those of {op_name}({' '.join(op.inputs)})",
            )
        node = Node(op, ins, op.attrs_with_defaults(attrs), name)
        if op.posts:
            _check_posts(node, outs[0])
        node.outputs = outs
        for v in outs:
            v.producer = node
        for v in ins:
            if v is not None:
                v.users.append(node)
        g.nodes.append(node)

    def attr(self, a: Any) -> Any:
        if a is None or isinstance(a, (bool, int, str, float)):
            return a
        if isinstance(a, list):
            return tuple(self.attr(x) for x in a)
        ((kind, x),) = a.items()
        if kind == "sym":
            return self.sym(a)
        if kind == "float":
            return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[x]
        if kind == "list":
            return [self.attr(y) for y in items(x, "list")]
        if kind == "dict":
            return {self.attr(k): self.attr(v) for k, v in items(x, "dict")}
        if kind == "bytes":
            return base64.b64decode(x, validate=True)
        if kind == "graph":
            return self.graph(x)
        if kind == "array":
            tensor, dtype, shape = items(x, "array", 3)
            return self.array(
                text(tensor, "tensor"), dtype_of(dtype, "array"), shape_of(shape, "array")
            )
        raise Damaged(
            f"an attribute of kind {kind!r:.40}", "sym, float, list, dict, bytes, graph or array"
        )


def _fallback(op_name: str) -> Op | None:
    """The operator that runs a node on the onnx package, where that is installed."""
    if not op_name.startswith("onnx:"):
        return None
    try:
        from . import onnx_fallback
    except WnnError:
        return None
    return onnx_fallback.operator(op_name)


def _verify(g: Graph) -> None:
    try:
        g.verify("loading")
    except WnnError as e:
        raise Damaged(f"a graph that its operators refuse ({e})", "what they accept") from None


def _check_posts(node: Node, out: Value) -> None:
    """Post-operations read memory by input number: number and size of what they read must fit."""
    if len(node.attrs["post"]) > post.MAX_POSTS:
        raise Damaged(f"{len(node.attrs['post'])} post-operations", f"at most {post.MAX_POSTS}")
    for row in node.attrs["post"]:
        kind, a, b, i = row
        reads = post.KINDS[kind][1]
        if not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
            raise Damaged(f"parameters {a!r:.40}, {b!r:.40} of post-operation {kind}", "numbers")
        whole(
            i,
            f"input of post-operation {kind} in {node.name!r}",
            0 if reads else -1,
            len(node.inputs) - 1 if reads else -1,
        )
        if reads and out.spec is not None:
            v = node.inputs[i]
            want = out.spec.shape[-1:] if reads == "vec" else out.spec.shape
            if v is None or v.spec is None or v.spec.dtype != "f32" or v.spec.shape != want:
                raise Damaged(f"{v!r} read by post-operation {kind} of {node.name!r}", f"f32{want}")
