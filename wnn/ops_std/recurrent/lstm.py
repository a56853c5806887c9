"""LSTM: i, o, f = f(x w + h r + p c);  n = g(x w_n + h r_n);  c' = f c + i n;  h' = o h(c').

Gates in ONNX's order i o f n; o sees c', i and f see c.    acts: f g h    c0, y_c: (D, B, H)
p: (D, 3, H), peepholes of i o f    coupled: the forget gate is 1 - i.
Source: Hochreiter and Schmidhuber 1997; Gers and Schmidhuber 2000 for peepholes.
"""

from ...op import Op
from . import layers

op = layers.share(
    Op(
        "lstm",
        layers.INPUTS + " c0? p?",
        "y y_h y_c",
        {**layers.ATTRS, "coupled": False},
        tol=layers.TOL,
    )
)
ACTS = ("sigmoid", "tanh", "tanh")


@op.rule
def rule(x, w, r, b=None, lens=None, h0=None, c0=None, p=None, *, direction, acts, clip, coupled):
    y, state = layers.specs(
        "lstm", 4, direction, x, w, r, b, lens, h0, c0, p and p.like((p.shape[0], 1, p.shape[2]))
    )
    return y, state, state


@op.reference
def reference(
    x, w, r, b=None, lens=None, h0=None, c0=None, p=None, *, direction, acts, clip, coupled
):
    def step(d, x_t, states):
        h, c = states
        f, g, last = layers.activation(acts, clip, d, 3)
        peep_i, peep_o, peep_f = (0, 0, 0) if p is None else p[d]
        i, o, forget, new = layers.projected(x_t, w, b, 0, d) + layers.projected(h, r, b, 1, d)
        i = f(i + peep_i * c)
        c = (1 - i if coupled else f(forget + peep_f * c)) * c + i * g(new)
        return f(o + peep_o * c) * last(c), c

    return layers.sweep(x, lens, direction, (h0, c0), r.shape[-1], step)


layers.kernel(op, "coupled")


@op.importer("LSTM")
def from_onnx(g, node):
    inputs, attrs, by_time, finish = layers.from_onnx(g, node, 4, ACTS)
    c0, p = by_time(node.input(6)), node.input(7)
    if p is not None:
        d, _, h = node.spec(2).shape
        p = g.add("reshape", [p], to=(d, 3, h))
    return finish(g.add(op, [*inputs, c0, p], **attrs, coupled=bool(node.attr("input_forget", 0))))


@op.cases
def cases(rng):
    def more(d, b, h):
        return {"c0": rng(d, b, h), "p": rng(d, 3, h) if b > 1 else None, "coupled": b == 4}

    yield from layers.cases(rng, 4, ACTS, more)
