"""The passes: named rewrites that turn an imported graph into the one that runs, in this order.

Each can be switched off (WNN_SKIP_PASSES="channels-last,epilogues", names as in PASSES), the graph
is verified after each, and WNN_DEBUG=3 prints it after each that changed it, WNN_DEBUG=4 every
rewrite of a fusion as well.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable

import numpy as np

from . import dtypes, environment, layout
from .branches import branches
from .epilogues import epilogues, scales_into_weights
from .errors import NONSENSE, ModelError, WnnError
from .graph import Constant, Graph, Node, Value
from .op import Call, Spec
from .pattern import Fusion
from .precision import single_precision
from .rules import broadcast, reshape_attrs, settled, transpose_elementwise
from .siblings import siblings
from .strassen import strassen

# elements; what is larger, and larger than its inputs, is computed by each run
FOLD_LIMIT = 1 << 24


class Context:
    """What passes are given beside the graph: the fusions in force, and where notes for `wnn
    inspect` go.
    """

    def __init__(self, graph: Graph, fusions: Iterable[Fusion]) -> None:
        self.graph = graph  # the outermost
        self.fusions = list(fusions)
        self.misses: list[tuple[str, Node, str]] = []
        self.debug = int(environment.number("WNN_DEBUG", 0))

    def of(self, name: str) -> list[Fusion]:
        """The fusions that run in the pass of that name."""
        return [f for f in self.fusions if f.op.fused_in == name]


def run(graph: Graph, fusions: Iterable[Fusion], skip: Iterable[str] = ()) -> Graph:
    """Runs all passes on a graph and on the bodies in it, in place; returns it."""
    ctx = Context(graph, fusions)
    skipped = set(skip) | {
        s.strip() for s in os.environ.get("WNN_SKIP_PASSES", "").split(",") if s.strip()
    }
    unknown = skipped - {name for name, _ in PASSES}
    if unknown:
        raise WnnError(
            f"[passes] found {sorted(unknown)} to be skipped; expected names of "
            f"{[n for n, _ in PASSES]}; correct WNN_SKIP_PASSES"
        )
    for name, fn in PASSES:
        if name not in skipped or fn is pack_weights:
            _run_one(graph, name, fn, ctx)
    graph.meta["near_misses"] = [(f, n.name or n.op.name, why) for f, n, why in ctx.misses]
    return graph


def _run_one(graph: Graph, name: str, fn: Callable, ctx: Context) -> None:
    for node in graph.nodes:
        for body in _bodies(node):
            _run_one(body, name, fn, ctx)
    try:
        changed = fn(graph, ctx)
    except NONSENSE as e:
        if isinstance(e, WnnError):
            raise
        raise ModelError(
            f"[{name}] found a graph that makes no sense to this pass ({type(e).__name__}: "
            f"{e!s:.200}); expected operators used as they are defined; check the model, or leave "
            f"the pass out by WNN_SKIP_PASSES={name!r}"
        ) from e
    graph.scope, graph.at = "", None
    graph.prune()
    graph.verify(name)
    if changed and ctx.debug >= 3:
        print(f"--- after {name}\n{graph}", file=sys.stderr)


def _bodies(node: Node) -> list[Graph]:
    return [a for a in node.attrs.values() if isinstance(a, Graph)]


# -- normalise
def fold_constants(g: Graph, ctx: Context) -> bool:
    """Nodes whose inputs are all constant become constants; so does whatever the rules already know
    the value of.
    """
    changed = False
    for node in list(g.nodes):
        if node.op.name == "if" and node.inputs and node.inputs[0].const is not None:
            from .ops_std.control_flow import inline_if

            changed |= inline_if(g, node)
    for node in list(g.nodes):
        if node.op._control is not None or any(v.spec is None for v in node.outputs):
            _reinfer(g, node)
            if any(v.spec is None for v in node.outputs) or node.op._control is not None:
                continue
        values = [v.spec.value for v in node.outputs]
        if not all(v is not None and v.dtype != object for v in values):
            constant = node.inputs and all(v is None or v.const is not None for v in node.inputs)
            limit = max(FOLD_LIMIT, sum(v.spec.size for v in node.inputs if v)) if constant else 0
            small = all(
                v.spec.concrete and v.spec.size <= limit and v.spec.dtype not in ("str", "obj")
                for v in node.outputs
            )
            if not constant or not small or node.op._reference is None:
                continue
            arrays = [None if v is None else v.array for v in node.inputs]
            values = node.op.run_reference(arrays, node.attrs, tuple(v.spec for v in node.outputs))
        for old, value in zip(list(node.outputs), values):
            new = g.const(
                np.asarray(value, dtypes.NUMPY[old.spec.dtype], order="C"),
                dtype=old.spec.dtype,
                name=old.name,
            )
            new.const.quantized = _quantized(node)
            g.replace(old, new)
        g.discard(node)
        changed = True
    return changed


def _quantized(node: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """The integers and scales whose product a folded node's output is; None where it is none."""
    x = node.inputs[0] if node.inputs else None
    if x is None or x.const is None:
        return None
    if node.op.name == "dequantize" and x.const.dtype in ("u8", "i8", "i32"):
        _, scale, zero = (*node.inputs, None)[:3]
        q = x.array.astype(np.int64)
        q = (q if zero is None else q - zero.array).astype(np.int32)
        return q, np.broadcast_to(scale.array, q.shape)
    moves = node.op.keeps_order or node.op.name == "transpose"
    if moves and x.const.quantized is not None:
        rest = [v and v.array for v in node.inputs[1:]]
        return tuple(node.op._reference(part, *rest, **node.attrs) for part in x.const.quantized)
    return None


def _reinfer(g: Graph, node: Node) -> None:
    """Tries again where the importer could not tell the outputs' specs: inputs may have become
    known since.
    """
    if node.op._rule is None:
        return
    for v, s in zip(node.outputs, g._infer(node, len(node.outputs))):
        if s is not None:
            v.spec = s


def symbolic_shapes(g: Graph, ctx: Context) -> bool:
    """Reshapes and Expands whose target is known, perhaps with symbols, carry it themselves; Shape
    chains then die.
    """
    changed = False
    for node in g.nodes:
        if "to" not in node.op.attrs or len(node.inputs) < 2 or node.inputs[1] is None:
            continue
        spec = node.outputs[0].spec
        if spec is None or not settled(g, *spec.shape):
            continue
        x = node.inputs[0].spec
        plain = node.op.name != "reshape" or x is None
        node.attrs.update({"to": spec.shape} if plain else reshape_attrs(spec.shape, x))
        g.set_input(node, 1, None)
        node.inputs.pop()
        changed = True
    return changed


def canonical_forms(g: Graph, ctx: Context) -> bool:
    """One form for what can be said in several: no-ops vanish, equal nodes become one, chains of
    Reshapes or Transposes too.
    """
    changed = True
    rounds = 0
    while changed and rounds < 8:
        changed = False
        rounds += 1
        seen: dict = {}
        for node in list(g.nodes):
            changed |= _unexpanded(g, node)
            new = _simpler(g, node, seen)
            if new is not None and new is not node.outputs[0]:
                g.replace(node.outputs[0], new)
                g.discard(node)
                changed = True
        if changed:
            g.prune()
    return rounds > 1


NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "div": 1}


def _unchanged(node: Node) -> Value | None:
    """The input that a node gives, as far as values go, where its output has that one's spec."""
    (x, *rest), name, attrs = node.inputs, node.op.name, node.attrs
    if name == "pad":
        same = attrs["pads"] is not None and not any(attrs["pads"])
    elif name == "slice":
        same = attrs["window"] is not None and all(step == 1 for *_, step in attrs["window"])
    elif name in NEUTRAL:
        if x.const is not None and name in ("add", "mul"):
            x, rest = rest[0], [x]
        same = rest[0].const is not None and bool((rest[0].array == NEUTRAL[name]).all())
    else:
        same = node.op.keeps_order or name in ("expand", "cast")
    return x if same else None


def _unexpanded(g: Graph, node: Node) -> bool:
    """Inputs of an operator that broadcasts need not be expanded to what the others have."""
    changed, out = False, node.outputs[0].spec
    if node.op._transpose is not transpose_elementwise or None in node.inputs or out is None:
        return False
    for i, v in enumerate(node.inputs):
        if v.producer is None or v.producer.op.name != "expand":
            continue
        inputs = [*node.inputs[:i], v.producer.inputs[0], *node.inputs[i + 1 :]]
        if any(u.spec is None for u in inputs):
            continue
        if broadcast(node.op.name, *[u.spec.shape for u in inputs]) == out.shape:
            g.set_input(node, i, inputs[i])
            changed = True
    return changed


def _simpler(g: Graph, node: Node, seen: dict) -> Value | None:
    x = node.inputs[0] if node.inputs else None  # none: discarded already
    if len(node.outputs) != 1 or x is None or x.spec is None or node.outputs[0].spec is None:
        return None
    out = node.outputs[0]
    name = node.op.name
    g.stand_in_for(node)
    same = _unchanged(node)
    if (
        same
        and same.spec
        and (same.spec.shape, same.spec.dtype) == (out.spec.shape, out.spec.dtype)
    ):
        return same if not (g.is_output(out) and any(same is v for v in g.inputs)) else None
    if name == "transpose":
        new = layout.simpler_transpose(g, node)
        if new is not None:
            return new
    if (
        name == "reshape"
        and x.producer is not None
        and x.producer.op.name == "reshape"
        and node.attrs["to"] is not None
    ):
        first = x.producer.inputs[0]
        return (
            g.add(node.op, [first], **reshape_attrs(out.spec.shape, first.spec))
            if first.spec is not None
            else None
        )
    if node.op._control is not None or any(v is not None and v.spec is None for v in node.inputs):
        return None
    key = (
        name,
        tuple(id(v) if v is None or v.const is None else v.const.likeness() for v in node.inputs),
        repr(sorted(node.attrs.items(), key=lambda kv: kv[0])),
    )
    first = seen.get(key)
    if first is None or not first.producer.inputs:  # none, or discarded since
        seen[key] = out
        return None
    pairs = zip(node.inputs, first.producer.inputs, strict=True)
    equal = all(v is u or v.const.equals(u.const) for v, u in pairs)
    return first if equal else None


# -- fusions
MOST_FUSIONS, MOST_ROUNDS = 16, 64  # for each node of the graph; of fusing what fusions made


def _endless(g: Graph) -> ModelError:
    name, node = g.meta["fused"][-1]
    return ModelError(
        f"[fuse] found that {name!r} goes on for ever (at node {node!r}); expected a fusion that "
        "does not match what it makes; report it to its author, and leave it out until then"
    )


def fuse_all(g: Graph, ctx: Context, fusions: list[Fusion]) -> bool:
    """Fuses until nothing changes: what is fused may be part of other patterns."""
    for round_ in range(MOST_ROUNDS):
        if not fuse(g, ctx, fusions):
            return round_ > 0
        canonical_forms(g, ctx)
    raise _endless(g)


def fuse(g: Graph, ctx: Context, fusions: list[Fusion]) -> bool:
    """Replaces what the patterns describe, largest pattern first, until none matches."""
    changed = False
    left = MOST_FUSIONS * (len(g.nodes) + 1)
    for f in sorted(fusions, key=lambda f: -f.size):
        roots = f.roots()
        again = True
        while again:
            again = False
            for node in list(g.nodes):
                if node.op.name not in roots or not any(
                    v.users or g.is_output(v) for v in node.outputs
                ):
                    continue
                if any(v is not None and v.spec is None for v in (*node.inputs, *node.outputs)):
                    continue
                new = f.apply(g, node.outputs[0], ctx.misses)
                if new is None:
                    continue
                old = node.outputs if isinstance(new, tuple) else node.outputs[:1]
                for o, n in zip(old, new if isinstance(new, tuple) else (new,)):
                    if n is not None:
                        g.replace(o, n)
                g.discard(node)
                if ctx.debug >= 4:
                    print(f"fused {f.name} at {node.name or node.op.name}", file=sys.stderr)
                g.meta.setdefault("fused", []).append((f.name, node.name or node.op.name))
                again = changed = True
                left -= 1
                if left < 0:
                    raise _endless(g)
    if changed:
        g.prune()
    return changed


def core_idioms(g: Graph, ctx: Context) -> bool:
    """LayerNorm, GELU, SiLU, Linear, BatchNorm into Conv and the like: the core operators' own
    patterns.
    """
    return fuse_all(g, ctx, ctx.of("core idioms"))


def package_patterns(g: Graph, ctx: Context) -> bool:
    """The patterns of op packages, largest first."""
    changed = fuse(g, ctx, ctx.of("package patterns"))
    return canonical_forms(g, ctx) if changed else False


def core_attention(g: Graph, ctx: Context) -> bool:
    """Multi-head attention as the core knows it, where no package took it."""
    changed = fuse(g, ctx, ctx.of("core attention"))
    return canonical_forms(g, ctx) if changed else False


def channels_last(g: Graph, ctx: Context) -> bool:
    """Transposes sink by the operators' transpose rules until they cancel."""
    changed = layout.sink(g)
    changed = canonical_forms(g, ctx) or changed
    return layout.split_before_merge(g) or changed


def batch_norms(g: Graph, ctx: Context) -> bool:
    """Constant factors and summands of channels that no weights took are one step."""
    return fuse(g, ctx, ctx.of("batch norms"))


# -- integers
def integer_kernels(g: Graph, ctx: Context) -> bool:
    """What lies between dequantised inputs and a quantised output computes on the integers."""
    changed = fuse_all(g, ctx, ctx.of("integer kernels"))
    if changed:
        epilogues(g, ctx)
    for v in g.constants().values():
        v.const.quantized = None
    return changed


# -- weights
def pack_weights(g: Graph, ctx: Context) -> bool:
    """Constants take the layout that the node's kernel reads."""
    cache: dict[tuple[int, int], Value] = {}
    for node in g.nodes:
        kernel = _kernel_of(node)
        if kernel is None:
            continue
        for name, groups in kernel.pack_weights.items():
            i = node.op.index[name]
            v = node.inputs[i] if i < len(node.inputs) else None
            if (
                v is None
                or v.const is None
                or v.const.layout
                or v.spec.dtype != "f32"
                or v.spec.rank < groups + 2
            ):
                continue
            key = (id(v.const), groups)
            if key not in cache:
                const: Constant = v.const.packed(groups)
                cache[key] = Value(v.name, Spec(v.spec.shape, "f32"), const)
                cache[key].spec.value = None
            g.set_input(node, i, cache[key])
    return bool(cache)


def _kernel_of(node: Node):
    """The kernel that the plan will choose, as far as specs with free axes tell."""
    ins = node.specs()
    if any(v is not None and v.spec is None for v in (*node.inputs, *node.outputs)):
        return next((k for k in node.op.kernels if k.pack_weights), None)  # packing can be undone
    call = Call(node.op, ins, [v.spec for v in node.outputs], node.attrs)
    for k in node.op.kernels:
        if not k.takes(ins):
            continue
        try:
            if k.accept is None or k.accept(call):
                return k
        except TypeError:  # it compares lengths that are not known yet
            continue
    return None


PASSES: list[tuple[str, Callable[[Graph, Context], bool]]] = [
    ("fold constants", fold_constants),
    ("single precision", single_precision),
    ("symbolic shapes", symbolic_shapes),
    ("canonical forms", canonical_forms),
    ("core idioms", core_idioms),
    ("package patterns", package_patterns),
    ("core attention", core_attention),
    ("channels-last", channels_last),
    ("scales into weights", scales_into_weights),
    ("branches", branches),
    ("batch norms", batch_norms),
    ("epilogues", epilogues),
    ("siblings", siblings),
    ("integer kernels", integer_kernels),
    ("strassen", strassen),
    ("pack weights", pack_weights),
]
