"""GRU: z, r = f(x w_z + h r_z), f(...);  n = g(x w_n + (r h) r_n);  h' = (1 - z) n + z h.

Gates in ONNX's order z r n; acts: f g.
after: the reset gate acts on h r_n with its bias, not on h (ONNX's linear_before_reset).
Source: Cho et al. 2014 (arXiv:1406.1078).
"""

from ...op import Op
from . import layers

op = layers.share(
    Op("gru", layers.INPUTS, "y y_h", {**layers.ATTRS, "after": False}, tol=layers.TOL)
)
ACTS = ("sigmoid", "tanh")


@op.rule
def rule(x, w, r, b=None, lens=None, h0=None, *, direction, acts, clip, after):
    return layers.specs("gru", 3, direction, x, w, r, b, lens, h0)


@op.reference
def reference(x, w, r, b=None, lens=None, h0=None, *, direction, acts, clip, after):
    def step(d, x_t, states):
        (h,) = states
        f, g = layers.activation(acts, clip, d, 2)
        xz, xr, xn = layers.projected(x_t, w, b, 0, d)
        hz, hr, hn = layers.projected(h, r, b, 1, d)
        z, reset = f(xz + hz), f(xr + hr)
        hn = reset * hn if after else layers.projected(reset * h, r, b, 1, d)[2]
        return ((1 - z) * g(xn + hn) + z * h,)

    return layers.sweep(x, lens, direction, (h0,), r.shape[-1], step)


layers.kernel(op, "after")


@op.importer("GRU", takes="")
def from_onnx(g, node):
    inputs, attrs, _, finish = layers.from_onnx(g, node, 3, ACTS)
    return finish(g.add(op, inputs, **attrs, after=bool(node.attr("linear_before_reset", 0))))


@op.cases
def cases(rng):
    yield from layers.cases(rng, 3, ACTS, lambda d, b, h: {})
    for case in layers.cases(rng, 3, ACTS, lambda d, b, h: {}):
        yield {**case, "after": True}
