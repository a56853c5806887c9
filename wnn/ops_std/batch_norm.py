"""Batch normalization for inference, y = (x - mean) / sqrt(var + eps) * scale + shift, as one
product and one sum.

x: (N, C, ...)    scale, shift, mean, var: (C,). It needs no operator: the product and the sum go
into the weights of a convolution before them.
Source: Ioffe and Szegedy 2015 (arXiv:1502.03167); ONNX BatchNormalization-15.
"""

import numpy as np

from .binary import BY_NAME


@BY_NAME["mul"].importer("BatchNormalization")
def from_onnx(g, node):
    x, *params = node.inputs
    if node.attr("training_mode", 0):
        return by_batch(g, node)
    shape = (-1,) + (1,) * (node.rank(0) - 2)
    eps = node.attr("epsilon", 1e-5)
    if all(p.const is not None for p in params):
        scale, shift, mean, var = (p.array.astype(np.float64) for p in params)
        gain = scale / np.sqrt(var + eps)
        rest = shift - mean * gain
        gain, rest = (g.const(v.astype(params[0].array.dtype).reshape(shape)) for v in (gain, rest))
    else:
        scale, shift, mean, var = (g.add("reshape", [p], to=shape) for p in params)
        root = g.add("sqrt", [g.add("add", [var, g.const(float(eps), var.spec.dtype)])])
        gain = g.add("div", [scale, root])
        rest = g.add("sub", [shift, g.add("mul", [mean, gain])])
    return g.add("add", [g.add("mul", [x, gain]), rest])


def by_batch(g, node):
    """y by the mean and variance of x itself; and what they make of the running ones."""
    x, scale, shift, mean, var = node.inputs
    axes = tuple(i for i in range(node.rank(0)) if i != 1)
    keep, shape = {"axes": axes, "keepdims": True}, (-1,) + (1,) * (node.rank(0) - 2)
    own = g.add("reduce_mean", [x], **keep)
    apart = g.add("sub", [x, own])
    spread = g.add("reduce_mean", [g.add("mul", [apart, apart])], **keep)
    eps = g.const(float(node.attr("epsilon", 1e-5)), x.spec.dtype)
    y = g.add("div", [apart, g.add("sqrt", [g.add("add", [spread, eps])])])
    scale, shift = (g.add("reshape", [p], to=shape) for p in (scale, shift))
    y = g.add("add", [g.add("mul", [y, scale]), shift])
    momentum = node.attr("momentum", 0.9)

    def running(old, new):
        old = g.add("mul", [old, g.const(momentum, old.spec.dtype)])
        new = g.add(
            "mul", [g.add("reshape", [new], to=(-1,)), g.const(1 - momentum, new.spec.dtype)]
        )
        return g.add("add", [old, new])

    return y, running(mean, own), running(var, spread)
