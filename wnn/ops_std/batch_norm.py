"""Batch normalization for inference, y = (x - mean) / sqrt(var + eps) * scale + shift, as one
product and one sum.

x: (N, C, ...)    scale, shift, mean, var: (C,). It needs no operator: the product and the sum go
into the weights of a convolution before them.
Source: Ioffe and Szegedy 2015 (arXiv:1502.03167); ONNX BatchNormalization-15.
"""

import numpy as np

from ..errors import UnsupportedError
from .binary import BY_NAME


@BY_NAME["mul"].importer("BatchNormalization", since=7)
def from_onnx(g, node):
    x, *params = node.inputs
    if node.attr("training_mode", 0) or any(node.wants(i) for i in range(1, 5)):
        raise UnsupportedError(
            "[BatchNormalization] found training mode; expected inference; "
            "export the model with model.eval()"
        )
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
