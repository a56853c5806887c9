"""y[..., i, j] = x[..., i, T - 1 - i + j]: scores by distance become scores by position.

x: (..., T, 2T - 1)    y: (..., T, T). A view: each row starts one element further left.
Source: Dai et al. 2019 (arXiv:1901.02860), appendix B, who pad, reshape and slice to the same end.
"""

import numpy as np

from ..errors import ShapeError
from ..op import Op, Spec
from ..pattern import C, P, V
from ..rules import batch_leading, differ

op = Op("relative_shift")
op.fused_in = "core attention"
op.batch(batch_leading(2))


@op.rule
def rule(x):
    if x.rank < 2 or differ(x.shape[-1], 2 * x.shape[-2] - 1):
        raise ShapeError(
            f"[relative_shift] found {x}; expected (..., T, 2T - 1); pass scores for every distance"
        )
    return Spec((*x.shape[:-1], x.shape[-2]), x.dtype)


@op.reference
def reference(x):
    t = x.shape[-2]
    i = np.arange(t)
    return x[..., i[:, None], t - 1 - i[:, None] + i]


@op.view
def view(strides, x, outs):
    *lead, row, step = strides
    return [((x.shape[-2] - 1) * step, (*lead, row - step, step))]


def _is_shift(m):
    x, pad = m.x.spec, m.pad.producer
    if pad.attrs["pads"] != (*(0,) * (x.rank - 1), 1, *(0,) * x.rank) or x.rank < 3:
        return False
    *lead, t, s = x.shape
    wide, tall, back = m.wide.shape, m.tall.shape, m.root.outputs[0].shape
    return (
        s == 2 * t - 1
        and tuple(wide) == (*lead, s + 1, t)
        and tuple(tall) == (*lead, t, s)
        and tuple(back) == (*lead, t, t)
        and m.first.producer.attrs["window"] == ((x.rank - 2, 1, (1 << 63) - 1, 1),)
        and m.root.attrs["window"][0][:2] == (x.rank - 1, 0)
    )


_pad = P.pad(V("x")).named("pad")
_first = P.slice(P.reshape(_pad).named("wide")).named("first")


@op.fuse(P.slice(P.reshape(_first).named("tall")), where=_is_shift)
def from_pad_reshape_slice(g, m):
    return g.add("relative_shift", [m.x])


@op.fuse(P.mul(P.relative_shift(V("x")), C("scale", size=1)))
def scale_before(g, m):
    """A scale moves before the shift, to what makes the scores."""
    if m.scale.spec.rank > m.x.spec.rank:
        return None
    return g.add("relative_shift", [g.add("mul", [m.x, m.scale])])


@op.cases
def cases(rng):
    for shape in [(1, 1), (3, 5), (2, 3, 4, 7), (1, 2, 17, 33)]:
        yield dict(x=rng(*shape))
