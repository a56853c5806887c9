"""Half-precision models with weights compute in float32: CPUs have kernels for that.

Each operator on float16 or bfloat16 tensors takes them as float32, and its results are narrowed
again only for those who cannot take float32: the graph's outputs, bodies, operators without a rule.
Between operators nothing is rounded, so that results are nearer to exact arithmetic than those of
half precision throughout. A Cast to float16 in the model rounds, as it says, and so does every
operator of a graph without such weights: it is a formula, not a network.
"""

from __future__ import annotations

from .dtypes import FLOATS, from_bf16
from .errors import WnnError
from .graph import Graph, Node, Value

HALVES = ("f16", "bf16")
WEIGHTS = 256  # elements of the smallest constant that counts as weights


def single_precision(g: Graph, ctx) -> bool:
    """The pass: half precision becomes float32 wherever an operator computes."""
    constants = [v.const for n in g.nodes for v in n.inputs if v is not None and v.const]
    if not any(c.dtype in FLOATS and c.data.size >= WEIGHTS for c in constants):
        return False
    wide: dict[Value, Value] = {}  # half-precision values as float32
    changed = False
    for node in list(g.nodes):
        if node.op._rule is None or node.op._control or not node.inputs:
            continue
        if any(v is not None and v.spec is None for v in (*node.inputs, *node.outputs)):
            continue
        if any(v is not None and v.spec.dtype in HALVES for v in node.inputs):
            changed |= _widen(g, node, wide)
        elif node.attrs.get("rounds"):
            node.attrs["rounds"], changed = None, True
        elif node.outputs[0] in g.narrowed:
            wide[node.outputs[0]] = node.inputs[0]
    return changed


def _widen(g: Graph, node: Node, wide: dict[Value, Value]) -> bool:
    """Puts the same operator on float32 tensors in the node's place, if it has one such meaning."""
    g.stand_in_for(node)
    inputs = [
        _as_f32(g, v, wide) if v is not None and v.spec.dtype in HALVES else v for v in node.inputs
    ]
    attrs = {**node.attrs, "source": None} if node.op.name == "cast" else node.attrs
    try:
        made = g.add(node.op, inputs, len(node.outputs), **attrs)
    except WnnError:
        return False
    made = made if isinstance(made, tuple) else (made,)
    kinds = [(old.spec.dtype, new.spec and new.spec.dtype) for old, new in zip(node.outputs, made)]
    if any(a != b and not (a in HALVES and b == "f32") for a, b in kinds):
        g.discard(made[0].producer)
        return False
    for old, new in zip(list(node.outputs), made):
        if old.spec.dtype != new.spec.dtype:
            wide[narrow := g.add("cast", [new], to=old.spec.dtype)] = new
            new = narrow
        g.replace(old, new)
    return True


def _as_f32(g: Graph, v: Value, wide: dict[Value, Value]) -> Value:
    if v not in wide:
        is_bf16 = v.spec.dtype == "bf16"
        if v.const is not None:
            array = from_bf16(v.array) if is_bf16 else v.array.astype("float32")
            wide[v] = g.const(array, name=v.name)
        else:
            wide[v] = g.add("cast", [v], to="f32", source="bf16" if is_bf16 else None)
    return wide[v]
