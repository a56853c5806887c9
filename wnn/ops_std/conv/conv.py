"""y = post(conv(x, w) + bias): cross-correlation, channels last, any number of groups.

x: (N, *spatial, C)    w: (groups, taps * C/groups, M/groups), taps before channels    bias: (M,)
y: (N, *out, M), out = (in + pads - dilation * (kernel - 1) - 1) // stride + 1
kernel, strides, dilations: per spatial axis    pads: all befores, then all afters
auto_pad: "", "same_upper" or "same_lower" (then pads are not used)
Source: ONNX Conv-11.
"""

import functools

import numpy as np

from ... import post as posts
from ... import strassen as halves
from ...errors import ShapeError
from ...op import Op, Spec
from ...pattern import C, OneOf, P, V
from . import geometry
from .chain import CHAIN

op = Op(
    "conv",
    inputs="x w bias? *extras",
    attrs={**geometry.ATTRS, "groups": 1, "strassen": 0},
    posts=True,
    tol={"f32": (3e-5, 3e-4)},
)


@op.rule
def rule(
    x, w, bias=None, *extras, kernel, strides, pads, dilations, auto_pad, groups, post, strassen=0
):
    m = geometry.channels("conv", x, w, bias, kernel, groups)
    out = geometry.output_shape("conv", x.shape[1:-1], kernel, strides, pads, dilations, auto_pad)
    return Spec((x.shape[0], *out, m), x.dtype)


@op.reference
def reference(
    x, w, bias=None, *extras, kernel, strides, pads, dilations, auto_pad, groups, post, strassen=0
):
    out = geometry.output_shape("conv", x.shape[1:-1], kernel, strides, pads, dilations, auto_pad)
    pads = geometry.resolve_pads(x.shape[1:-1], kernel, strides, pads, dilations, auto_pad)
    c, m = x.shape[-1] // groups, w.shape[2]
    y = np.zeros((x.shape[0], *out, groups * m), x.dtype)
    for t, seen in geometry.windows(x, out, kernel, strides, pads, dilations):
        for g in range(groups):
            y[..., g * m : (g + 1) * m] += (
                seen[..., g * c : (g + 1) * c] @ w[g, t * c : (t + 1) * c]
            )
    if bias is not None:
        y = y + bias
    return posts.apply(y, post, [x, w, bias, *extras])


op.batch(geometry.batch_first)


FEW_CHANNELS = 16  # as in conv.cc


def winograd_pays(x, w, out, kernel, strides, dilations, groups):
    """Whether F(4x4, 3x3) beats nine multiplications for each output, input and channel: costs in
    multiply-adds, of which a transformed weight, input or output takes as long as many."""
    plain = kernel == (3, 3) and strides == (1, 1) and dilations == (1, 1) and groups == 1
    if not plain or not out.concrete:  # asked again when the plan knows
        return False
    c, m = x.shape[-1], out.shape[-1]
    tiles = x.shape[0] * -(-out.shape[1] // 4) * -(-out.shape[2] // 4)
    cost = (41 * tiles + 300) * c * m + 500 * tiles * (c + m)
    return min(c, m) >= 16 and cost < 9 * out.size * c


def winograd_groups(taps):
    """(products of a tile, groups) of what winograd_1d.cc makes of a kernel: of four taps each,
    seven products, then of three.
    """
    threes = [max(0, -(-(taps - 4 * fours) // 3)) for fours in range(-(-taps // 4) + 1)]
    return min((7 * fours + 6 * n, fours + n) for fours, n in enumerate(threes))


def winograd_1d_pays(x, out, kernel, strides, pads, dilations, auto_pad, groups):
    """Whether F(4, 3) and F(4, 4) along the only axis that a kernel has beat a multiplication for
    each tap: costs as above.
    """
    axis = int(np.argmax(kernel))
    k = kernel[axis]
    if not np.prod(strides) == groups == 1 or k != np.prod(kernel) or k < 3 or not out.concrete:
        return False
    pads = geometry.resolve_pads(x.shape[1:-1], kernel, strides, pads, dilations, auto_pad)
    c, m, n = x.shape[-1], out.shape[-1], len(kernel)
    apart = dilations[axis] * int(np.prod(out.shape[2 + axis : -1]))
    if sum(pads) != pads[axis] + pads[n + axis] or not 0 < apart <= 64:
        return False
    stretch = 4 * dilations[axis]
    tiles = out.size / m / out.shape[1 + axis] * -(-out.shape[1 + axis] // stretch) * stretch / 4
    products, groups = winograd_groups(k)
    cost = (tiles + 6) * products * c * m + tiles * (80 * groups * c + 36 * m)
    return min(c, m) > 16 and cost < 0.95 * out.size * k * c


def planes_pay(x, out, kernel, strides, dilations, groups):
    """Whether vectors along pixels beat vectors of 16 output channels, of which few are used. Costs
    in cycles per pixel, as measured on Zen 4; an input or output that is moved takes 0.4 of one."""
    pointwise = np.prod(kernel) == 1 or np.prod(kernel[:-1]) > geometry.KERNEL_ROWS
    if groups != 1 or pointwise or not out.concrete or out.shape[-2] < 16:
        return False
    c, m = x.shape[-1], out.shape[-1]
    k, moved = c * np.prod(kernel), np.prod(strides) * c + m
    return m <= FEW_CHANNELS and k * max(m, 2) / 16 + 0.4 * moved < 1.15 * k + 6


def threes_fit(x, w, out, kernel, strides, pads, dilations, auto_pad):
    """Whether all windows are three wide, padded by one, and a group's outputs are most of a
    vector.
    """
    near = len(kernel) <= 3 and kernel[-1] == 3 and strides[-1] <= 2 and dilations[-1] == 1
    if not near or not 12 < w.shape[-1] <= 16 or not (x.concrete and out.concrete):
        return False
    pads = geometry.resolve_pads(x.shape[1:-1], kernel, strides, pads, dilations, auto_pad)
    fits = out.shape[-2] >= 7 and np.prod(kernel[:-1]) <= 16  # a tile, as in threes.cc
    return fits and max(pads[len(kernel) - 1], pads[-1]) <= 1


def _exact(call):
    """Whether an infinity or NaN stays in its own window."""
    names = ("x", "out", "kernel", "strides", "pads", "dilations", "auto_pad", "groups")
    x, out, kernel, strides, _, dilations, _, groups = facts = [*map(call.arg, names)]
    plain = winograd_pays(x, call.arg("w"), out, kernel, strides, dilations, groups)
    return not plain and not winograd_1d_pays(*facts)


op.nonfinite = _exact
_STRIDES = {"x": "rows", "extras": "rows", "y": "rows"}


def small_groups(x, out, kernel, groups):
    """Whether vectors of outputs are whole groups, none of which has more inputs than outputs."""
    c, m = x.shape[-1], out.shape[-1]
    rows = len(kernel) <= 3 and np.prod(kernel[:-1]) <= geometry.KERNEL_ROWS
    return rows and m >= 16 and m // groups in (2, 4, 8) and c <= m


def by_tap(kernel):
    """w as grouped.cc reads it, (taps, inputs, groups * outputs)."""
    taps = int(np.prod(kernel))

    def arrange(w):
        parts = w.reshape(w.shape[0], taps, -1, w.shape[-1]).transpose(1, 2, 0, 3)
        return parts.reshape(taps, parts.shape[1], -1)

    return [("w", f"{taps} taps", arrange)]


def pack(x, kernel, strides, pads, dilations, auto_pad, groups, post):
    return geometry.pack(x, kernel, strides, pads, dilations, auto_pad, groups) + posts.pack(post)


def pack_halves(w, out, kernel, strides, pads, dilations, auto_pad, strassen, post):
    step = halves.rows_of(kernel, strides, pads, dilations, auto_pad)
    return halves.pack(w, out, strassen, post, step)


# in the order of preference
op.kernel("f32 f32", "conv_grouped_f32", strides=_STRIDES, accept=small_groups, derive=by_tap)(pack)
_kernel = functools.partial(op.kernel, "f32 f32", pack_weights={"w": 1})
_kernel("conv_winograd_f32", strides=_STRIDES, accept=winograd_pays)(pack)
_kernel("conv_winograd_1d_f32", strides=_STRIDES, accept=winograd_1d_pays)(pack)
_kernel(
    "strassen_f32",
    strides={"extras": "rows", "y": "rows"},
    accept=lambda w, out, kernel, strides, pads, dilations, auto_pad, groups, strassen: (
        groups == 1
        and halves.rows_of(kernel, strides, pads, dilations, auto_pad)
        and halves.pays(w, out, strassen)
    ),
    derive=halves.derive,
)(pack_halves)
_kernel("conv_threes_f32", strides=_STRIDES, accept=threes_fit)(pack)
_kernel("conv_planes_f32", strides={**_STRIDES, "x": "any"}, accept=planes_pay)(pack)
_kernel(
    "conv_f32",
    strides={**_STRIDES, "x": "any"},
    accept=lambda x, kernel, dilations, groups: (
        len(kernel) <= 3
        and x.shape[-1] < FEW_CHANNELS
        and groups == dilations[-1] == 1 < kernel[-1]
    ),
    chain=CHAIN,
)(pack)
_kernel(
    "conv_f32",
    strides={**_STRIDES, "w": "any"},
    accept=lambda kernel: len(kernel) <= 3,
    chain=CHAIN,
)(pack)


@op.flops
def flops(w, out):
    return 2 * out.size * w.shape[1]


@op.importer("Conv", takes="")
def from_onnx(g, node):
    x, w, bias = (*node.inputs, None)[:3]
    rank = node.rank(1)
    m, c, *kernel = node.spec(1).shape
    groups = node.attr("group", 1)
    if m % groups:
        raise ShapeError(
            f"[Conv] found {m} output channels in {groups} groups (node {node.name!r}); expected a "
            "multiple; correct group"
        )
    attrs = geometry.from_onnx(node, rank - 2, tuple(kernel))
    taps = int(np.prod(kernel))
    x = g.add("transpose", [x], perm=geometry.to_last(rank))
    if groups == m and c == 1 and groups > 1:
        w = g.add("transpose", [g.add("reshape", [w], to=(m, taps))], perm=(1, 0))
        y = g.add("conv_depthwise", [x, w, bias], **attrs)
    else:
        w = g.add("reshape", [w], to=(groups, m // groups, c, taps))
        w = g.add(
            "reshape",
            [g.add("transpose", [w], perm=(0, 3, 2, 1))],
            to=(groups, taps * c, m // groups),
        )
        y = g.add(op, [x, w, bias], **attrs, groups=groups)
    return g.add("transpose", [y], perm=geometry.to_first(rank))


def _phase(v):
    """(x, (step, start) of each axis) where v takes every so many elements of x, to its end."""
    steps = {}
    while v.producer is not None and v.producer.op.name == "slice":
        window, x = v.producer.attrs["window"], v.producer.inputs[0]
        if x.spec is None or window is None:
            return None
        for axis, start, end, step in window:
            d = x.shape[axis]  # where it is not known, phases of unequal lengths are to be refused
            if axis in steps or not 0 <= start < step or not isinstance(d, int) or end < d:
                return None
            steps[axis] = (step, start)
        v = x
    return v, steps


_phases = P.transpose(P.concat(axis=1), perm=(0, 2, 3, 1))


@op.fuse(OneOf(P.conv(_phases, C("w"), V("bias")), P.conv(_phases, C("w"))))
def focus(g, m):
    """A convolution of the phases of a picture, side by side as channels (YOLO's Focus), is one of
    the picture, with the weights of a kernel and a stride that are larger.
    """
    node, joined = m.root, m.nodes[2]
    attrs, w = node.attrs, m.w
    found = [_phase(v) for v in joined.inputs]
    if attrs["auto_pad"] or attrs["dilations"] != (1, 1) or attrs["groups"] != 1:
        return None
    if None in found or len({id(x) for x, _ in found}) > 1 or any({*s} != {2, 3} for _, s in found):
        return None
    (step, _), places = found[0][1][2], [(s[2][1], s[3][1]) for _, s in found]
    if any(s[a][0] != step for _, s in found for a in (2, 3)):
        return None
    if sorted(places) != [(i, j) for i in range(step) for j in range(step)]:
        return None
    x, (kh, kw) = found[0][0], attrs["kernel"]
    old = w.array.reshape(kh, kw, len(places), -1, w.shape[-1])
    new = np.empty((kh, step, kw, step, *old.shape[3:]), old.dtype)
    for q, (i, j) in enumerate(places):
        new[:, i, :, j] = old[:, :, q]
    larger = {k: tuple(step * n for n in attrs[k]) for k in ("kernel", "strides", "pads")}
    x = g.add("transpose", [x], perm=(0, 2, 3, 1))
    w = g.const(new.reshape(1, -1, w.shape[-1]))
    return g.add(op, [x, w, *node.inputs[2:]], **{**attrs, **larger})


def _case(rng, x, m, kernel, stride=1, pad=0, dilation=1, groups=1, **more):
    n = len(kernel)
    c = x[-1] // groups
    yield dict(
        x=rng(*x),
        w=rng(groups, int(np.prod(kernel)) * c, m // groups),
        bias=rng(m),
        kernel=kernel,
        strides=(stride,) * n,
        pads=(pad,) * 2 * n,
        dilations=(dilation,) * n,
        groups=groups,
        **more,
    )


@op.cases
def cases(rng):
    yield from _case(rng, (1, 5, 5, 8), 24, (1, 1))
    yield from _case(rng, (2, 15, 17, 320), 208, (1, 1), strassen=halves.KEEP)
    yield from _case(rng, (2, 411, 130), 208, (3,), stride=2, strassen=halves.KEEP)
    yield from _case(rng, (1, 701, 170), 208, (3,), strassen=halves.MAKE)
    yield from _case(rng, (2, 9, 7, 16), 33, (3, 3), pad=1)
    yield from _case(rng, (1, 14, 14, 32), 32, (3, 3), pad=1)
    yield from _case(rng, (2, 18, 21, 24), 40, (3, 3), pad=1)
    yield from _case(rng, (1, 20, 20, 96), 160, (3, 3), pad=1, post=(("silu", 0.0, 0.0, -1),))
    yield from _case(rng, (1, 17, 16, 3), 32, (3, 3), stride=2, pad=1)
    yield from _case(rng, (1, 23, 21, 3), 16, (7, 7), stride=2, pad=3)
    yield from _case(rng, (1, 11, 9, 12), 12, (7, 3), pad=1)
    yield from _case(rng, (1, 12, 11, 8), 12, (3, 3), dilation=2, pad=2)
    yield from _case(rng, (2, 8, 6, 12), 18, (3, 3), pad=1, groups=3)
    yield from _case(rng, (1, 8, 19, 24), 24, (3, 3), pad=1, groups=6)
    yield from _case(rng, (1, 9, 20, 32), 32, (3, 3), pad=1, stride=2, groups=4)
    yield from _case(rng, (2, 9, 33, 12), 24, (7, 7), pad=3, stride=2, groups=12)
    yield from _case(rng, (1, 40, 36), 72, (5,), pad=4, dilation=2, groups=18)
    yield from _case(rng, (2, 37, 70), 67, (3,), pad=1, post=(("silu", 0.0, 0.0, -1),))
    yield from _case(rng, (1, 2, 131, 64), 96, (1, 7), pad=0, dilation=3)
    yield from _case(rng, (1, 90, 64), 208, (11,), pad=5)
    yield from _case(rng, (2, 18, 6, 64), 96, (7, 1), pad=0)
    yield from _case(rng, (1, 4, 50, 40), 48, (1, 4), pad=0)
    yield from _case(rng, (1, 31, 10), 20, (5,), pad=2)
    yield from _case(rng, (2, 5, 19, 48), 48, (3, 3), pad=1, groups=3)
    yield from _case(rng, (1, 4, 14, 10), 26, (2, 3), groups=2, post=(("silu", 0.0, 0.0, -1),))
    yield from _case(rng, (1, 40, 20), 16, (3,), pad=1)
    yield from _case(rng, (1, 8, 31, 32), 32, (3, 3), stride=2, pad=1, groups=2)
    yield from _case(rng, (1, 3, 4, 7, 6), 15, (3, 3, 3), pad=1)
    yield from _case(rng, (1, 40, 1), 7, (16,), stride=8)
    yield from _case(rng, (1, 4, 5, 6, 4), 9, (2, 3, 2), pad=1)
    yield from _case(rng, (0, 4, 4, 4), 4, (3, 3))
    yield from _case(rng, (3, 1, 1, 20), 18, (3, 3), pad=1)
    yield from _case(rng, (1, 9, 10, 16), 17, (3, 3), dilation=6, pad=6)
    yield from _case(rng, (2, 9, 10, 8), 24, (3, 3), dilation=12, pad=12, groups=2)
    yield from _case(rng, (2, 2, 8, 7, 8), 20, (3, 3, 3), pad=1)
    yield from _case(rng, (1, 3, 3, 4), 5, (3, 3), stride=4, pad=5)
    yield from _case(rng, (2, 9, 40, 5), 1, (5, 3), pad=2, post=(("silu", 0.0, 0.0, -1),))
    yield from _case(rng, (1, 7, 131, 12), 15, (3, 3), pad=2, dilation=2)
    yield from _case(rng, (1, 6, 70, 8), 10, (2, 5), stride=3, pad=1)
    yield from _case(rng, (1, 400, 3), 7, (9,), stride=2, pad=6)
    yield from _case(rng, (1, 3, 4, 33, 2), 3, (3, 2, 3), pad=1)
    yield from _case(rng, (1, 11, 10, 4), 8, (3, 2), stride=2, auto_pad="same_upper")
    yield from _case(rng, (1, 11, 10, 4), 8, (2, 3), stride=2, auto_pad="same_lower")


@op.benches
def benches(rng):
    yield from _case(rng, (1, 224, 224, 3), 32, (3, 3), stride=2, pad=1)
    yield from _case(rng, (1, 56, 56, 64), 64, (3, 3), pad=1)
    yield from _case(rng, (1, 14, 14, 256), 256, (3, 3), pad=1)
    yield from _case(rng, (1, 28, 28, 128), 128, (3, 3), stride=2, pad=1)
    yield from _case(rng, (1, 16, 16, 128), 64, (3, 3), dilation=12, pad=12)
    yield from _case(rng, (1, 56, 56, 24), 144, (1, 1))
    yield from _case(rng, (1, 14, 14, 576), 96, (1, 1))
    yield from _case(rng, (1, 26, 32, 256), 256, (1, 1), strassen=halves.MAKE)
    yield from _case(rng, (1, 128, 128, 24), 24, (1, 1))
    yield from _case(rng, (1, 128, 187, 12), 12, (7, 3), pad=1)
    yield from _case(rng, (1, 120, 120, 16), 8, (5, 5), pad=2)
    yield from _case(rng, (1, 400, 256), 256, (3,), pad=1)
    yield from _case(rng, (1, 4000, 64), 64, (7,), pad=9, dilation=3)
    yield from _case(rng, (1, 801, 256), 256, (3,), stride=2, strassen=halves.MAKE)
    yield from _case(rng, (1, 56, 56, 128), 128, (3, 3), pad=1, groups=32)
    yield from _case(rng, (1, 64, 64, 48), 96, (7, 7), pad=3, stride=2, groups=48)
