"""If, Loop and Scan: operators that run bodies, which are graphs among their attributes.

A body's inputs are what the operator hands it, then the outer values it reads; those are the
operator's last inputs.
Source: ONNX If-1, Loop-1, Scan-8, Scan-9.
"""

from __future__ import annotations

import numpy as np

from .. import dtypes
from ..errors import ModelError, ShapeError
from ..graph import Graph, Node
from ..op import Op, Spec
from ..symbols import Sym

MAX_TRIPS = (1 << 63) - 1

if_op = Op(
    "if",
    "cond *captured",
    "*y",
    {"then_body": ..., "else_body": ..., "then_inputs": (), "else_inputs": ()},
    doc="""y = then_body(captured[then_inputs]) where cond, else else_body(captured[else_inputs]).

    Source: ONNX If-1.""",
)
loop = Op(
    "loop",
    "trips? cond? *carried",
    "*y",
    {"body": ..., "carried": 0},
    doc="""carried values through body until `trips` are done or its condition is false; then scans.

    body(iteration, cond, carried..., captured...) -> cond, carried..., scans...
    Source: ONNX Loop-1.""",
)
scan = Op(
    "scan",
    "*x",
    "*y",
    {
        "body": ...,
        "states": 0,
        "scans": ...,
        "batched": False,
        "input_axes": ...,
        "input_backward": ...,
        "output_axes": ...,
        "output_backward": ...,
    },
    doc="""states through body along an axis of each scanned input; then stacked scan outputs.

    x: states, scanned, captured; first sequence_lens where batched.  body(states..., slices...,
    captured...) -> states..., scans...
    Source: ONNX Scan-8 (batched: axis 0 holds independent sequences), Scan-9.""",
)


# -- If
@if_op.control
def run_if(run, cond, *captured, then_body, else_body, then_inputs, else_inputs):
    body, indices = (then_body, then_inputs) if truth(cond, "if") else (else_body, else_inputs)
    return run(body, [captured[i] for i in indices])


@if_op.importer("If", takes="f16 bits obj")
def if_from_onnx(g, node):
    cond = node.inputs[0]
    if cond.spec is not None and cond.spec.known:
        return node.inline("then_branch" if truth(cond.spec.value, node.name) else "else_branch")
    then_body, then_values = node.body("then_branch", [])
    else_body, else_values = node.body("else_branch", [])
    captured = list({id(v): v for v in then_values + else_values}.values())
    where = {id(v): i for i, v in enumerate(captured)}
    made = outputs(
        g.add(
            if_op,
            [cond, *captured],
            len(then_body.outputs),
            then_body=then_body,
            else_body=else_body,
            then_inputs=tuple(where[id(v)] for v in then_values),
            else_inputs=tuple(where[id(v)] for v in else_values),
        )
    )
    settle(made, then_body.outputs, else_body.outputs, node)
    return made


def inline_if(graph: Graph, node: Node) -> bool:
    """Puts the branch that a known condition selects in place of an If; False where it is not
    known.
    """
    cond = node.inputs[0].spec
    if node.op is not if_op or cond is None or not cond.known:
        return False
    which = "then" if truth(cond.value, "if") else "else"
    body, indices = node.attrs[f"{which}_body"], node.attrs[f"{which}_inputs"]
    for inner, i in zip(list(body.inputs), indices):
        body.replace(inner, node.inputs[1 + i])
    for n in body.nodes:
        for v in n.outputs:
            v.name = graph.fresh(v.name.partition("~")[0])
    at = graph.nodes.index(node)
    graph.nodes[at : at + 1] = body.nodes
    for v in node.inputs:
        v.users.remove(node)
    for old, new in zip(node.outputs, body.outputs):
        graph.replace(old, new)
    return True


# -- Loop
@loop.control
def run_loop(run, trips=None, cond=None, *rest, body, carried):
    state, captured = list(rest[:carried]), list(rest[carried:])
    limit = MAX_TRIPS if trips is None else int(number(trips, "loop"))
    go = cond is None or truth(cond, "loop")
    rows: list[list] = [[] for _ in body.outputs[1 + carried :]]
    i = 0
    while go and i < limit:
        flag, *out = run(body, [np.array(i), np.array(True), *state, *captured])
        go = truth(flag, "loop")
        state = out[:carried]
        for row, y in zip(rows, out[carried:]):
            row.append(y)
        i += 1
    return state + [stack(row, body, 1 + carried + i, 0) for i, row in enumerate(rows)]


@loop.importer("Loop", takes="f16 bits obj")
def loop_from_onnx(g, node):
    trips, cond, *initial = node.inputs
    body, captured = fixed_point(
        node,
        lambda specs: node.body("body", [Spec((), "i64"), Spec((), "bool"), *specs]),
        [v.spec for v in initial],
        1,
    )
    if len(body.outputs) < 1 + len(initial):
        raise ModelError(
            f"[{node.name}] found a body with {len(body.outputs)} outputs; expected at least "
            f"{1 + len(initial)}; export the model again"
        )
    made = outputs(
        g.add(
            loop,
            [trips, cond, *initial, *captured],
            len(body.outputs) - 1,
            body=body,
            carried=len(initial),
        )
    )
    settle(made, initial, body.outputs[1:], node)
    return made


# -- Scan
@scan.control
def run_scan(run, *x, body, states, scans, batched, **layout):
    if not batched:
        return scan_once(
            run,
            x[:states],
            x[states : states + scans],
            x[states + scans :],
            None,
            body=body,
            **layout,
        )
    lens, *x = x
    state, seqs, captured = x[:states], x[states : states + scans], x[states + scans :]
    lengths = [s.shape[1] for s in seqs]
    rows = []
    for b in range(seqs[0].shape[0]):
        n = min(lengths) if lens is None else int(lens[b])
        one = scan_once(
            run, [s[b] for s in state], [s[b] for s in seqs], captured, n, body=body, **layout
        )
        for i in range(states, len(one)):  # past its length a sequence's outputs are zero
            one[i] = np.pad(one[i], [(0, max(lengths) - n)] + [(0, 0)] * (one[i].ndim - 1))
        rows.append(one)
    return [np.stack(column) for column in zip(*rows)]


def scan_once(
    run,
    state,
    seqs,
    captured,
    length,
    *,
    body,
    input_axes,
    input_backward,
    output_axes,
    output_backward,
):
    """One pass over the sequences."""
    seqs = [np.moveaxis(s, axis, 0) for s, axis in zip(seqs, input_axes)]
    lengths = {len(s) for s in seqs}
    if len(lengths) > 1 and length is None:
        raise ShapeError(
            f"[scan] found sequences of lengths {sorted(lengths)}; expected one length; correct "
            "the inputs"
        )
    n = min(lengths) if length is None else length
    if not 0 <= n <= min(lengths):
        raise ShapeError(
            f"[scan] found sequence length {n}; expected at most {min(lengths)}; correct "
            "sequence_lens"
        )
    state = list(state)
    rows: list[list] = [[] for _ in output_axes]
    for i in range(n):
        at = [
            np.asarray(s[n - 1 - i if back else i], order="C")
            for s, back in zip(seqs, input_backward)
        ]
        out = run(body, [*state, *at, *captured])
        state = out[: len(state)]
        for row, y in zip(rows, out[len(state) :]):
            row.append(y)
    layout = zip(rows, output_axes, output_backward)
    return state + [
        stack(row[::-1] if back else row, body, len(state) + i, axis)
        for i, (row, axis, back) in enumerate(layout)
    ]


@scan.importer("Scan", since=8, takes="f16 bits obj")
def scan_8_from_onnx(g, node):
    return scan_from_onnx(g, node, batched=True)


@scan.importer("Scan", since=9, takes="f16 bits obj")
def scan_from_onnx(g, node, batched=False):
    count = node.attr("num_scan_inputs")
    lens, given = (node.inputs[0], node.inputs[1:]) if batched else (None, node.inputs)
    states = len(given) - count
    lead = 1 if batched else 0
    back = tuple(
        bool(d)
        for d in node.attr("directions" if batched else "scan_input_directions") or [0] * count
    )
    axes = tuple(node.attr("scan_input_axes") or [0] * count)
    seqs = [v.spec for v in given[states:]]
    slices = [
        None
        if s is None
        else s.like([d for i, d in enumerate(s.shape[lead:]) if i != a % (s.rank - lead)])
        for s, a in zip(seqs, axes)
    ]
    initial = [None if v.spec is None else v.spec.like(v.spec.shape[lead:]) for v in given[:states]]
    body, captured = fixed_point(
        node, lambda specs: node.body("body", [*specs, *slices]), initial, 0
    )
    outs = len(body.outputs) - states
    if outs < 0:
        raise ModelError(
            f"[{node.name}] found a body with {len(body.outputs)} outputs; expected at least "
            f"{states}; export the model again"
        )
    inputs = [*([lens] if batched else []), *given, *captured]
    return outputs(
        g.add(
            scan,
            inputs,
            len(body.outputs),
            body=body,
            states=states,
            scans=count,
            batched=batched,
            input_axes=axes,
            input_backward=back,
            output_axes=tuple(node.attr("scan_output_axes") or [0] * outs),
            output_backward=tuple(
                bool(d) for d in node.attr("scan_output_directions") or [0] * outs
            ),
        )
    )


# -- shared
def outputs(made) -> tuple:
    """What g.add returned, always as a tuple."""
    return made if isinstance(made, tuple) else (made,)


def number(a, who: str):
    """The one element of a scalar."""
    a = np.asarray(a)
    if a.size != 1:
        raise ShapeError(
            f"[{who}] found a value of shape {a.shape}; expected one element; correct the model"
        )
    return a.item()


def truth(a, who: str) -> bool:
    """A condition's value."""
    return bool(number(a, who))


def stack(rows: list, body: Graph, i: int, axis: int):
    """Rows of a body's output i along a new axis; without rows, a tensor of length 0 there, of the
    rank that is known.
    """
    if rows:
        return np.stack(rows, axis)
    spec = body.outputs[i].spec
    dtype, shape = (spec.dtype, spec.shape) if spec else body.meta["declared"][i] or ("f32", ())
    shape = [d if isinstance(d, int) else 0 for d in shape]
    shape.insert(axis % (len(shape) + 1), 0)
    return np.zeros(shape, dtypes.NUMPY[dtype])


def fixed_point(node, make, initial: list[Spec | None], first: int):
    """make(specs) with specs of the carried values that hold in every iteration; `first`: where the
    body's outputs have them.

    Starts from the initial values' and frees what the body changes: first lengths, then the whole
    shape.
    """
    specs = [None if s is None else s.like() for s in initial]
    free: set[Sym] = set()
    while True:
        body, captured = make(specs)
        entries = body.inputs[2 * first : 2 * first + len(specs)]
        wider = [
            widen(s, v.spec, w.spec, free, node)
            for s, v, w in zip(specs, entries, body.outputs[first:])
        ]
        if len(wider) < len(specs) or all(a is b for a, b in zip(specs, wider)):
            return body, captured
        specs = wider


def settle(made, either, other, node) -> None:
    """Gives outputs the spec that both of two values have, whichever they turn out to be."""
    for v, a, b in zip(made, either, other):
        if a.spec is not None:
            v.spec = widen(a.spec.like(), a.spec, b.spec, set(), node)


def widen(
    spec: Spec | None, entry: Spec | None, new: Spec | None, free: set[Sym], node
) -> Spec | None:
    """`spec` with what a body changes freed; entry and new: the spec as the body takes it, and as
    it leaves it.
    """
    if spec is None or new is None or spec.dtype != new.dtype or spec.rank != new.rank:
        return None
    shape = list(spec.shape)
    for i, (a, b) in enumerate(zip(entry.shape, new.shape)):
        if a != b and shape[i] not in free:
            shape[i] = node.symbol("carried")
            free.add(shape[i])
    return spec if tuple(shape) == spec.shape else Spec(shape, spec.dtype)
