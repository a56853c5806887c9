"""LSTM: i, o, f = f(x w + h r + p c);  n = g(x w_n + h r_n);  c' = f c + i n;  h' = o h(c').

Gates in ONNX's order i o f n; o sees c', i and f see c.    acts: f g h    c0, y_c: (D, B, H)
p: (D, 3, H), peepholes of i o f    coupled: the forget gate is 1 - i.
rounded: h goes through dynamic_quantize before each product with r, as in onnxruntime's
    DynamicQuantizeLSTM, whose integer products are those of the rounded numbers.
Source: Hochreiter and Schmidhuber 1997; Gers and Schmidhuber 2000 for peepholes; onnxruntime's
ContribOperators.md.
"""

import numpy as np

from ...errors import ShapeError
from ...op import Op
from ...rules import may_be
from ..quant import dynamic_quantize
from . import layers

op = layers.share(
    Op(
        "lstm",
        layers.INPUTS + " c0? p?",
        "y y_h y_c",
        {**layers.ATTRS, "coupled": False, "rounded": False},
        tol=layers.TOL,
    )
)
ACTS = ("sigmoid", "tanh", "tanh")


@op.rule
def rule(x, w, r, b=None, lens=None, h0=None, c0=None, p=None, **attrs):
    y, state = layers.specs(
        "lstm",
        4,
        attrs["direction"],
        x,
        w,
        r,
        b,
        lens,
        h0,
        c0,
    )
    if p is not None and not may_be(p.shape, (state.shape[0], 3, state.shape[2])):
        raise ShapeError(
            f"[lstm] found peepholes {p}; expected ({state.shape[0]}, 3, {state.shape[2]}), those "
            "of the input, output and forget gates; reshape them"
        )
    return y, state, state


@op.reference
def reference(
    x, w, r, b=None, lens=None, h0=None, c0=None, p=None,
    *, direction, acts, clip, coupled, rounded,
):  # fmt: skip
    def step(d, x_t, states):
        h, c = states
        if rounded:
            q, scale, zero = dynamic_quantize.reference(np.float32(h))
            h = (q.astype(x.dtype) - zero) * scale
        f, g, last = layers.activation(acts, clip, d, 3)
        peep_i, peep_o, peep_f = (0, 0, 0) if p is None else p[d]
        i, o, forget, new = layers.projected(x_t, w, b, 0, d) + layers.projected(h, r, b, 1, d)
        i = f(i + peep_i * c)
        c = (1 - i if coupled else f(forget + peep_f * c)) * c + i * g(new)
        return f(o + peep_o * c) * last(c), c

    return layers.sweep(x, lens, direction, (h0, c0), r.shape[-1], step)


layers.kernel(op, "coupled", "rounded")


@op.importer("LSTM", takes="")
def from_onnx(g, node):
    inputs, attrs, by_time, finish = layers.from_onnx(g, node, 4, ACTS)
    c0, p = by_time(node.input(6)), node.input(7)
    if p is not None:
        d, _, h = node.spec(2).shape
        p = g.add("reshape", [p], to=(d, 3, h))
    attrs["coupled"] = bool(node.attr("input_forget", 0))
    attrs["rounded"] = node.op_type == "DynamicQuantizeLSTM"
    return finish(g.add(op, [*inputs, c0, p], **attrs))


@op.importer("DynamicQuantizeLSTM", domain="com.microsoft")
def from_dynamic(g, node):
    """x goes through bytes too; w and r, here (D, K, 4H), become the numbers they stand for."""

    def meant(i, at):
        params = []
        for v in (node.input(at), node.input(at + 1)):  # one for each direction, or column of it
            d, n = (*v.spec.shape, 1)[:2] if v is not None else (1, 1)
            params.append(v and g.add("reshape", [v], to=(d, 1, n)))
        return g.add("transpose", [g.add("dequantize", [node.input(i), *params])], perm=(0, 2, 1))

    x = node.call("DequantizeLinear", *node.call("DynamicQuantizeLinear", node.input(0), outputs=3))
    node.inputs = [x, meant(1, 8), meant(2, 10), *node.inputs[3:8]]
    return from_onnx(g, node)


@op.cases
def cases(rng):
    def more(d, b, h):
        return {"c0": rng(d, b, h), "p": rng(d, 3, h) if b > 1 else None, "coupled": b == 4}

    yield from layers.cases(rng, 4, ACTS, more)
    for t, b, h in [(3, 1, 16), (4, 3, 21)]:
        x, w, r = rng(t, b, 5), rng(1, 4, 5, h), rng(1, 4, h, h)
        acts = tuple((name, 0.0, 0.0) for name in ACTS)
        yield {"x": x, "w": w, "r": r * np.float32(0.2), "acts": acts, "rounded": True}
