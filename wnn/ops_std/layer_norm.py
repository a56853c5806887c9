"""y = (x - mean) / sqrt(var + eps) * gamma + beta, statistics over the last axis.

x, y: (..., C)    gamma, beta: (C,), 1 and 0 where absent    eps: same units as x**2
Kernel: layer_norm.cc; attrs: float eps.
Source: Ba et al. 2016 (arXiv:1607.06450); ONNX LayerNormalization-17.
"""

import struct

import numpy as np

from ..errors import ShapeError
from ..op import Op, Permuted
from ..pattern import C, OneOf, P, V
from ..rules import axis_of, batch_leading, inverse, may_be, reshape_attrs
from ..symbols import product

op = Op("layer_norm", inputs="x gamma? beta?", attrs={"eps": 1e-5}, tol={"f32": (1e-5, 1e-5)})
op.batch(batch_leading(1))


@op.rule
def rule(x, gamma=None, beta=None, eps=1e-5):
    for name, v in (("gamma", gamma), ("beta", beta)):
        if v is not None and not may_be(v.shape, x.shape[-1:]):
            raise ShapeError(
                f"[layer_norm] found {name} {v} for x {x}; expected ({x.shape[-1]},), "
                "as x's last axis; reshape one"
            )
    return x.like()


@op.reference
def reference(x, gamma=None, beta=None, eps=1e-5):
    d = x - x.mean(-1, keepdims=True)
    y = d / np.sqrt((d * d).mean(-1, keepdims=True) + eps)
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


@op.transpose
def keeps_last(perm, i, ins, attrs):
    return None if i or perm[-1] != len(perm) - 1 else Permuted([perm], [perm], attrs)


@op.kernel("f32", "layer_norm_f32", inplace="x")
def pack(eps):
    return struct.pack("f", eps)


def flattened(g, name, x, axes, vectors=(), **attrs):
    """The norm `name` of x over `axes`, brought to the last axis, and back; None where that fails.

    vectors: Values of the shape of those axes, or None.
    """
    rank = x.spec.rank
    axes = sorted(axis_of(a, rank, name) for a in axes)
    if axes == [rank - 1]:
        return g.add(name, [x, *vectors], **attrs)
    if len(axes) == 1:
        perm = (*[k for k in range(rank) if k != axes[0]], axes[0])
        y = g.add(name, [g.add("transpose", [x], perm=perm), *vectors], **attrs)
        return g.add("transpose", [y], perm=inverse(perm))
    if not axes or axes != list(range(axes[0], rank)):
        return None
    last = product(x.shape[axes[0] :])
    flat = g.add("reshape", [x], **reshape_attrs((*x.shape[: axes[0]], last), x.spec))
    vectors = [v if v is None else g.add("reshape", [v], to=(-1,)) for v in vectors]
    y = g.add(name, [flat, *vectors], **attrs)
    return g.add("reshape", [y], **reshape_attrs(x.shape, y.spec))


def normalization(g, node, name):
    """An importer of ONNX's norms over the axes from `axis` on."""
    x, *vectors = node.inputs
    rank = node.rank(0)
    axes = range(axis_of(node.attr("axis", -1), rank, node.op_type), rank)
    eps = float(node.attr("epsilon", 1e-5))
    whole = [v is None or v.spec is not None and v.shape == x.shape[axes[0] :] for v in vectors]
    if all(whole):
        return flattened(g, name, x, axes, vectors, eps=eps)
    y = flattened(g, name, x, axes, eps=eps)
    for v, how in zip(vectors, ("mul", "add")):
        y = y if v is None else g.add(how, [y, v])
    return y


@op.importer("LayerNormalization", since=17)
@op.importer("LayerNormalization", domain="com.microsoft")
def from_onnx(g, node):
    return normalization(g, node, "layer_norm")


@op.importer("SkipLayerNormalization", domain="com.microsoft")
def skip_from_onnx(g, node):
    x, skip, gamma, beta, bias = (*node.inputs, None, None)[:5]
    total = g.add("add", [x, skip])
    total = total if bias is None else g.add("add", [total, bias])
    y = g.add(op, [total, gamma, beta], eps=float(node.attr("epsilon", 1e-12)))
    return y, None, None, total


# -- how exporters spell it
def square(p):
    return OneOf(P.mul(p, p), P.pow(p, C(value=2.0)))


def rooted(variance):
    """(ways to write 1 / sqrt(variance + eps), ways to write its inverse)"""
    safe = P.add(variance, C("eps", size=1))
    root = OneOf(P.sqrt(safe), P.pow(safe, C(value=0.5)))
    return OneOf(P.reciprocal(root), P.div(C(value=1.0), root), P.pow(safe, C(value=-0.5))), root


_mean = P.reduce_mean(V("x"), keepdims=True).named("mean")
_d = P.sub(V("x"), _mean).named("d")
_rstd, _std = rooted(P.reduce_mean(square(_d), keepdims=True).named("var"))
_gain = OneOf(P.mul(_rstd, C("gamma")), _rstd).named("gain")


def reduced(v):
    """The axes that the reduction which made v takes away."""
    return sorted(a % v.spec.rank for a in v.producer.attrs["axes"])


@op.fuse(
    OneOf(P.div(_d, _std), P.mul(_d, _rstd)), where=lambda m: reduced(m.mean) == reduced(m.var)
)
def from_parts(g, m):
    return flattened(g, "layer_norm", m.x, reduced(m.mean), eps=m.number("eps"))


@op.fuse(
    P.add(P.mul(V("x"), _gain), P.sub(V("beta"), P.mul(_mean, _gain))),
    where=lambda m: reduced(m.mean) == reduced(m.var),
)
def from_gain(g, m):
    y = flattened(g, "layer_norm", m.x, reduced(m.mean), eps=m.number("eps"))
    if y is not None:
        y = g.add("mul", [y, m.gamma]) if m.get("gamma") is not None else y
        return g.add("add", [y, m.beta])


_plain = P.layer_norm(V("x")).named("norm")
_scaled = P.layer_norm(V("x"), V("gamma")).named("norm")


def through(p):
    """p as it stands, or seen through one Reshape or Transpose."""
    return OneOf(p, P.reshape(p).named("seen"), P.transpose(p).named("seen"))


def vector_of(g, m, name):
    """The captured constant as the vector (C,) that the norm takes; None where it is none."""
    c, seen, n = m[name], m.get("seen"), m.norm.shape[-1]
    if seen is None:
        return per_channel(g, c, m.norm.spec, m.norm.spec.rank - 1)
    if seen.producer.op.name == "transpose":
        return per_channel(g, c, seen.spec, seen.producer.attrs["perm"].index(m.norm.spec.rank - 1))
    trailing = seen.shape[seen.spec.rank - c.spec.rank :]
    return g.const(c.array.reshape(-1)) if c.spec.size == n and c.spec.shape == trailing else None


def per_channel(g, c, spec, axis):
    """A constant that broadcasts to spec along one axis only, as a vector; else None."""
    n, rank = spec.shape[axis], spec.rank
    if not isinstance(n, int) or c.spec.rank > rank or c.spec.size not in (1, n):
        return None
    if c.spec.size != 1 and ((1,) * (rank - c.spec.rank) + tuple(c.shape))[axis] != n:
        return None
    return g.const(np.broadcast_to(c.array.reshape(-1), (n,)).copy())


def again(g, m, y):
    """y seen as the norm was."""
    seen = m.get("seen")
    return y if seen is None else g.add(seen.producer.op, [y], **seen.producer.attrs)


@op.fuse(P.mul(through(_plain), C("gamma")))
def with_gamma(g, m):
    gamma = vector_of(g, m, "gamma")
    if gamma is not None:
        return again(g, m, g.add(op, [m.x, gamma], eps=m.norm.producer.attrs["eps"]))


@op.fuse(P.add(through(OneOf(_plain, _scaled)), C("beta")))
def with_beta(g, m):
    beta = vector_of(g, m, "beta")
    if beta is not None:
        return again(g, m, g.add(op, [m.x, m.get("gamma"), beta], eps=m.norm.producer.attrs["eps"]))


@op.cases
def cases(rng):
    for shape in [(1, 1), (5, 17), (2, 3, 33), (197, 768), (3, 192), (0, 4), (4, 1000)]:
        c = shape[-1]
        yield dict(x=rng(*shape), gamma=rng(c), beta=rng(c))
    yield dict(x=rng(7, 40) + 30, eps=1e-6)
    yield dict(x=rng(7, 40), gamma=rng(40))
    yield dict(x=rng(7, 40), beta=rng(40))
    yield dict(x=np.full((5, 4096), 3.3, np.float32))  # what sums lose must not look like variance


@op.benches
def benches(rng):
    for shape in [(197, 192), (128, 384), (3136, 96)]:
        yield dict(x=rng(*shape), gamma=rng(shape[-1]), beta=rng(shape[-1]))
