"""What the recurrent layers share: activations, the sweep over time, specs, ONNX's way of writing.

x: (T, B, I)    w: (D, G, I, H)    r: (D, G, H, H)    b: (D, 2, G, H), added after w and after r
lens: (B,) i32, the steps that count of each sequence; all T without it
h0: (D, B, H), zeros where absent    y: (T, D, B, H), zero where a sequence has ended
y_h: (D, B, H), the state after a sequence's last step
T steps, B sequences, D directions, G gates, H hidden units.
direction: "forward", "reverse" or "bidirectional"
acts: (name, alpha, beta) for each activation of each direction
clip: bound on what the gates' activations (not h of LSTM) are given
Source: ONNX RNN-7, GRU-7, LSTM-7 and later; onnxruntime where they leave something open.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np

from ...errors import ShapeError, UnsupportedError
from ...op import Op, Spec
from ...rules import may_be

ATTRS = {"direction": "forward", "acts": ..., "clip": np.inf}
INPUTS = "x w r b? lens? h0?"
TOL = {"f32": (2e-5, 2e-5)}

# ONNX name: (number in recurrent.cc, formula, default alpha and beta; None where it has none)
ACTIVATIONS: dict[str, tuple[int, Callable, float | None, float | None]] = {
    "sigmoid": (0, lambda x, a, b: 0.5 * (1 + np.tanh(0.5 * x)), None, None),
    "tanh": (1, lambda x, a, b: np.tanh(x), None, None),
    "relu": (2, lambda x, a, b: np.maximum(x, 0), None, None),
    "affine": (3, lambda x, a, b: a * x + b, 1.0, 0.0),
    "leakyrelu": (4, lambda x, a, b: np.where(x >= 0, x, a * x), 0.01, None),
    "thresholdedrelu": (5, lambda x, a, b: np.where(x > a, x, 0), 1.0, None),
    "scaledtanh": (6, lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0),
    "hardsigmoid": (7, lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5),
    "elu": (8, lambda x, a, b: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))), 1.0, None),
    "softsign": (9, lambda x, a, b: x / (1 + np.abs(x)), None, None),
    "softplus": (10, lambda x, a, b: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), None, None),
}


def share(op: Op) -> Op:
    """Adds the facts that hold for each layer."""

    @op.batch
    def batch(axes, ins, outs, attrs):
        samples = [1, None, None, None, 0, 1, 1, None]  # x w r b lens h0 c0 p
        if attrs.get("rounded"):  # by the range of all samples together
            return None
        if any(s is not None and a != want for a, s, want in zip(axes, ins, samples, strict=False)):
            return None
        return [2, 1, 1][: len(outs)]

    @op.flops
    def flops(x, w):
        return (
            2
            * x.shape[0]
            * x.shape[1]
            * w.shape[0]
            * w.shape[1]
            * (w.shape[2] + w.shape[3])
            * w.shape[3]
        )

    return op


def specs(
    who: str,
    gates: int,
    direction: str,
    x: Spec,
    w: Spec,
    r: Spec,
    b: Spec | None,
    lens: Spec | None,
    *states: Spec | None,
) -> tuple[Spec, Spec]:
    """The specs of y and of a state; ShapeError where the inputs do not fit together."""
    d = 2 if direction == "bidirectional" else 1
    h = r.shape[-1]
    ok = (
        x.rank == 3
        and may_be(w.shape, (d, gates, x.shape[-1], h))
        and may_be(r.shape, (d, gates, h, h))
        and (b is None or may_be(b.shape, (d, 2, gates, h)))
    )
    if not ok or any(s is not None and not may_be(s.shape, (d, x.shape[1], h)) for s in states):
        raise ShapeError(
            f"[{who}] found x {x}, w {w}, r {r}, b {b}, states {list(states)}; expected "
            f"x (T, B, I), w ({d}, {gates}, I, H), r ({d}, {gates}, H, H), b ({d}, 2, {gates}, H), "
            f"states ({d}, B, H); check hidden_size and direction"
        )
    if lens is not None and not (lens.dtype == "i32" and may_be(lens.shape, (x.shape[1],))):
        raise ShapeError(
            f"[{who}] found sequence_lens {lens}; expected i32 ({x.shape[1]},), one length per "
            "sequence; cast or reshape it"
        )
    return Spec((x.shape[0], d, x.shape[1], h), x.dtype), Spec((d, x.shape[1], h), x.dtype)


def sweep(
    x: np.ndarray,
    lens: np.ndarray | None,
    direction: str,
    states: Sequence[np.ndarray | None],
    hidden: int,
    step: Callable,
) -> tuple:
    """y and the last states. step(d, x_t, states) -> the states after it, the output first."""
    t, b = x.shape[:2]
    d = 2 if direction == "bidirectional" else 1
    last = [np.zeros((d, b, hidden), x.dtype) if s is None else s.astype(x.dtype) for s in states]
    y = np.zeros((t, d, b, hidden), x.dtype)
    for k in range(d):
        backward = direction == "reverse" or k == 1
        for i in reversed(range(t)) if backward else range(t):
            active = np.ones((b, 1), bool) if lens is None else i < lens[:, None]
            new = step(k, x[i], [s[k] for s in last])
            for s, n in zip(last, new, strict=True):
                s[k] = np.where(active, n, s[k])
            y[i, k] = np.where(active, new[0], 0)
    return (y, *last)


def activation(acts: tuple, clip: float, d: int, count: int) -> list[Callable]:
    """The functions of direction d; the first two bound what they are given."""

    def make(limit: float, name: str, a: float, b: float) -> Callable:
        return lambda x: ACTIVATIONS[name][1](np.clip(x, -limit, limit), a, b)

    return [
        make(clip if i < 2 else np.inf, *row)
        for i, row in enumerate(acts[d * count : (d + 1) * count])
    ]


def projected(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, which: int, d: int) -> np.ndarray:
    """(G, B, H): x by the gates' matrices of direction d, with their biases."""
    y = x @ w[d]
    return y if b is None else y + b[d, which][:, None]


def kernel(op: Op, *flags: str) -> None:
    """The native kernel; flags: the attributes that are bits of LayerAttrs' flags."""

    @op.kernel(
        "f32 f32 f32 f32 i32 f32",
        f"{op.name}_f32",
        strides={"w": "any", "r": "any"},
        pack_weights={"w": 2, "r": 2},
    )
    def pack(direction, clip, acts, attrs):
        count = len(acts) // (2 if direction == "bidirectional" else 1)
        rows = [*acts, *[("sigmoid", 0.0, 0.0)] * (6 - len(acts))]
        bits = sum(bool(attrs[name]) << i for i, name in enumerate(flags))
        head = struct.pack("iii", direction == "reverse", bits, count)
        packed = [struct.pack("iff", ACTIVATIONS[n][0], a, b) for n, a, b in rows]
        return head + struct.pack("f", min(clip, 3.4028234e38)) + b"".join(packed)


def from_onnx(g, node, gates: int, default: tuple[str, ...]):
    """(inputs x w r b lens h0, attributes, by_time, finish) of an ONNX layer.

    by_time(state) and finish(outputs) mind ONNX's layout attribute.
    """
    x, w, r, b, lens, h0 = (node.input(i) for i in range(6))
    (d, _, i), h = node.spec(1).shape, node.spec(2).shape[-1]
    first = node.attr("layout", 0)  # 1: the batch's axis leads

    def by_time(v):
        return g.add("transpose", [v], perm=(1, 0, 2)) if first and v is not None else v

    def gate_matrices(v, k):
        return g.add("transpose", [g.add("reshape", [v], to=(d, gates, h, k))], perm=(0, 1, 3, 2))

    inputs = [
        by_time(x),
        gate_matrices(w, i),
        gate_matrices(r, h),
        b and g.add("reshape", [b], to=(d, 2, gates, h)),
        lens,
        by_time(h0),
    ]
    attrs = {
        "direction": node.attr("direction", "forward").lower(),
        "acts": activations(node, default * d),
        "clip": node.attr("clip", np.inf),
    }

    def finish(outs):
        if not first:
            return outs
        return (g.add("transpose", [outs[0]], perm=(2, 0, 1, 3)), *[by_time(v) for v in outs[1:]])

    return inputs, attrs, by_time, finish


def activations(node, default: tuple[str, ...]) -> tuple:
    """(name, alpha, beta) per activation; only those that take an alpha or beta are given one."""
    names = [n.lower() for n in node.attr("activations") or default]
    alphas, betas = (
        iter(node.attr("activation_alpha") or ()),
        iter(node.attr("activation_beta") or ()),
    )
    if len(names) != len(default) or set(names) - set(ACTIVATIONS):
        raise UnsupportedError(
            f"[{node.op_type}] found activations {names}; expected {len(default)} of "
            f"{sorted(ACTIVATIONS)}; export with these (node {node.name!r})"
        )
    rows = []
    for n in names:
        _, _, a, b = ACTIVATIONS[n]
        rows.append(
            (
                n,
                float(0.0 if a is None else next(alphas, a)),
                float(0.0 if b is None else next(betas, b)),
            )
        )
    return tuple(rows)


def cases(rng, gates: int, acts: tuple[str, ...], more: Callable):
    """Inputs that serve all layers; more(d, b, h) gives those that a layer has beside them."""

    def rows(names: tuple[str, ...]) -> tuple:
        return tuple((n, ACTIVATIONS[n][2] or 0.0, ACTIVATIONS[n][3] or 0.0) for n in names)

    others = tuple(ACTIVATIONS)[2:]
    n = len(acts)
    for t, b, i, h, direction, names in [
        (1, 1, 8, 16, "forward", acts), (5, 1, 7, 5, "reverse", acts),
        (3, 4, 16, 33, "bidirectional", acts), (70, 1, 20, 64, "forward", acts),
        (4, 2, 3, 19, "forward", others[:n]), (4, 2, 3, 19, "reverse", others[3 : 3 + n]),
        (2, 3, 3, 6, "forward", others[6 : 6 + n]), (0, 1, 4, 4, "forward", acts),
    ]:  # fmt: skip
        d = 2 if direction == "bidirectional" else 1
        full = t > 1
        yield {
            "x": rng(t, b, i),
            "w": rng(d, gates, i, h) * np.float32(0.4),
            "r": rng(d, gates, h, h) * np.float32(0.2),
            "b": rng(d, 2, gates, h) if full else None,
            "lens": np.arange(b, dtype=np.int32) % (t + 1) if b > 2 else None,
            "h0": rng(d, b, h) * np.float32(0.5) if full else None,
            "direction": direction,
            "acts": rows(names) * d,
            "clip": 0.8 if b == 2 else np.inf,
            **(more(d, b, h) if full else {}),
        }
