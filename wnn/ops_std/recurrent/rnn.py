"""The plain recurrent layer: h' = f(x w + h r).

acts: f.    Source: Elman 1990.
"""

from ...op import Op
from . import layers

op = layers.share(Op("rnn", layers.INPUTS, "y y_h", layers.ATTRS, tol=layers.TOL))
ACTS = ("tanh",)


@op.rule
def rule(x, w, r, b=None, lens=None, h0=None, *, direction, acts, clip):
    return layers.specs("rnn", 1, direction, x, w, r, b, lens, h0)


@op.reference
def reference(x, w, r, b=None, lens=None, h0=None, *, direction, acts, clip):
    def step(d, x_t, states):
        (f,) = layers.activation(acts, clip, d, 1)
        return (
            f(layers.projected(x_t, w, b, 0, d)[0] + layers.projected(states[0], r, b, 1, d)[0]),
        )

    return layers.sweep(x, lens, direction, (h0,), r.shape[-1], step)


layers.kernel(op)


@op.importer("RNN", takes="")
def from_onnx(g, node):
    inputs, attrs, _, finish = layers.from_onnx(g, node, 1, ACTS)
    return finish(g.add(op, inputs, **attrs))


@op.cases
def cases(rng):
    yield from layers.cases(rng, 1, ACTS, lambda d, b, h: {})
