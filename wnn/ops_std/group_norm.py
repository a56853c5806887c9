"""y = (x - mean) / sqrt(var + eps) * gamma + beta, channels last, statistics over each sample's
positions and group of channels.

x, y: (N, *spatial, C)    gamma, beta: (C,), 1 and 0 where absent
groups: divides C; as many as C is instance normalization
Kernel: group_norm.cc; attrs: struct { int64 groups; float eps; }
Source: Wu and He 2018 (arXiv:1803.08494), Ulyanov et al. 2016 (arXiv:1607.08022); ONNX
GroupNormalization-21, InstanceNormalization-6.
"""

import struct

import numpy as np

from ..errors import ShapeError, UnsupportedError
from ..op import Op
from ..pattern import C, OneOf, P, V
from ..rules import may_be
from .conv import geometry
from .layer_norm import per_channel

op = Op(
    "group_norm",
    inputs="x gamma? beta?",
    attrs={"groups": ..., "eps": 1e-5},
    tol={"f32": (1e-5, 1e-5)},
)
op.batch(geometry.batch_first)


@op.rule
def rule(x, gamma=None, beta=None, groups=1, eps=1e-5):
    c = x.shape[-1] if x.rank > 1 else 0
    if x.rank < 2 or groups < 1 or isinstance(c, int) and c % groups:
        raise ShapeError(
            f"[group_norm] found x {x} and {groups} groups; expected (N, *spatial, C), "
            "C a multiple of the groups; correct one"
        )
    for name, v in (("gamma", gamma), ("beta", beta)):
        if v is not None and not may_be(v.shape, x.shape[-1:]):
            raise ShapeError(
                f"[group_norm] found {name} {v} for x {x}; expected ({x.shape[-1]},), "
                "one per channel; reshape it"
            )
    return x.like()


@op.reference
def reference(x, gamma=None, beta=None, groups=1, eps=1e-5):
    parts = x.reshape(x.shape[0], int(np.prod(x.shape[1:-1])), groups, x.shape[-1] // groups)
    d = parts - parts.mean((1, 3), keepdims=True)
    y = (d / np.sqrt((d * d).mean((1, 3), keepdims=True) + eps)).reshape(x.shape)
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


@op.kernel("f32", "group_norm_f32", inplace="x")
def pack(groups, eps):
    return struct.pack("qf", groups, eps)


def _first(g, x, gamma, beta, **attrs):
    """group_norm of x (N, C, *spatial)."""
    rank = x.spec.rank
    y = g.add(op, [g.add("transpose", [x], perm=geometry.to_last(rank)), gamma, beta], **attrs)
    return g.add("transpose", [y], perm=geometry.to_first(rank))


@op.importer("InstanceNormalization", since=6)
def from_instance(g, node):
    x, gamma, beta = node.inputs
    if not isinstance(gamma.shape[0], int):
        raise UnsupportedError("[group_norm] the number of channels is not known")
    return _first(g, x, gamma, beta, groups=gamma.shape[0], eps=float(node.attr("epsilon", 1e-5)))


@op.importer("GroupNormalization", since=18)
def from_group(g, node):
    x, gamma, beta = node.inputs
    groups, c = node.attr("num_groups"), x.shape[1]
    if node.opset < 21 and groups != c:  # one factor a group
        if gamma.const is None or beta.const is None or not isinstance(c, int):
            raise UnsupportedError("[group_norm] factors per group are not constant")
        gamma, beta = (g.const(np.repeat(v.array, c // groups)) for v in (gamma, beta))
    return _first(g, x, gamma, beta, groups=groups, eps=float(node.attr("epsilon", 1e-5)))


_norm = P.group_norm(
    OneOf(P.transpose(P.reshape(V("x")).named("rows")), P.reshape(V("x")).named("rows")),
    C("gamma"),
    C("beta"),
)


@op.fuse(P.reshape(OneOf(P.transpose(_norm.named("norm")), _norm.named("norm"))))
def from_instances(g, m):
    """Instance normalization of x seen as (N, groups, the rest)."""
    x, y, attrs = m.x.spec, m.root.outputs[0].spec, m.norm.producer.attrs
    groups = attrs["groups"]
    rank = x.rank
    if (
        x.shape != y.shape
        or rank < 3
        or m.rows.spec.rank != 3
        or (rank, x.shape[1]) == (3, groups)  # it would become what it is
        or not isinstance(x.shape[1], int)
        or x.shape[1] % groups
    ):
        return None
    seen = (
        m.rows.shape[:2]
        if m.norm.producer.inputs[0] is not m.rows
        else (m.rows.shape[0], m.rows.shape[2])
    )
    if seen != (x.shape[0], groups) or m.norm.shape[-1] != groups:
        return None
    gamma, beta = (g.const(np.repeat(v.array, x.shape[1] // groups)) for v in (m.gamma, m.beta))
    return _first(g, m.x, gamma, beta, **attrs)


_affine = P.transpose(P.group_norm(V("x"), C("gamma"), C("beta")).named("norm")).named("seen")


def _adjusted(g, m, gamma, beta):
    y = g.add(op, [m.x, g.const(gamma), g.const(beta)], **m.norm.producer.attrs)
    return g.add("transpose", [y], **m.seen.producer.attrs)


def _vector(g, m, name):
    return per_channel(
        g, m[name], m.seen.spec, m.seen.producer.attrs["perm"].index(m.seen.spec.rank - 1)
    )


@op.fuse(P.mul(_affine, C("scale")))
def with_scale(g, m):
    v = _vector(g, m, "scale")
    return None if v is None else _adjusted(g, m, m.gamma.array * v.array, m.beta.array * v.array)


@op.fuse(P.add(_affine, C("shift")))
def with_shift(g, m):
    v = _vector(g, m, "shift")
    return None if v is None else _adjusted(g, m, m.gamma.array, m.beta.array + v.array)


@op.cases
def cases(rng):
    for shape, groups in [
        ((1, 1), 1),
        ((2, 5, 6, 12), 3),
        ((2, 5, 6, 12), 12),
        ((1, 33, 17), 17),
        ((3, 50, 32), 1),
        ((1, 2, 3, 4, 64), 32),
        ((0, 4, 6), 2),
        ((2, 700, 40), 8),
        ((2, 9000, 1), 1),  # few channels: of 9000, 67 and 35 positions 60, 1 and 7 make a row
        ((1, 67, 3), 3),
        ((3, 5, 7, 6), 2),
    ]:
        yield dict(x=rng(*shape) + 2, gamma=rng(shape[-1]), beta=rng(shape[-1]), groups=groups)
    yield dict(x=rng(2, 9, 8), groups=4, eps=1e-6)


@op.benches
def benches(rng):
    yield dict(x=rng(1, 64, 64, 320), gamma=rng(320), beta=rng(320), groups=32)
    yield dict(x=rng(1, 56, 56, 64), gamma=rng(64), beta=rng(64), groups=64)
    yield dict(x=rng(1, 131072, 1), gamma=rng(1), beta=rng(1), groups=1)
