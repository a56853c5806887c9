"""MaxUnpool: x put where the indices say in a tensor of zeros; what that is padded to comes last.

Source: ONNX MaxUnpool-11.
"""

import numpy as np

from ..dtypes import NUMPY
from ..errors import UnsupportedError
from ..rules import ints_of
from .scatter import scatter_elements


@scatter_elements.importer("MaxUnpool", since=9)
def from_onnx(g, node):
    x, indices, shape = (*node.inputs, None)[:3]
    kernel = node.attr("kernel_shape")
    n = len(kernel)
    strides, pads = node.attr("strides") or [1] * n, node.attr("pads") or [0] * (2 * n)
    spatial = [
        (d - 1) * s + k - a - b
        for d, s, k, a, b in zip(x.shape[2:], strides, kernel, pads, pads[n:])
    ]
    full = (*x.shape[:2], *spatial)
    if not all(isinstance(d, int) for d in full) or shape is not None and shape.const is None:
        raise UnsupportedError(
            f"[MaxUnpool] found {x.spec}; expected known lengths (node {node.name!r}); "
            "export with fixed shapes"
        )
    zeros = g.const(np.zeros(int(np.prod(full)), NUMPY[x.spec.dtype]), dtype=x.spec.dtype)
    x, indices = (g.add("reshape", [v], to=(-1,)) for v in (x, indices))
    y = g.add("reshape", [g.add(scatter_elements, [zeros, indices, x])], to=full)
    if shape is None:
        return y
    return g.add(
        "pad", [y], pads=(0,) * len(full) + tuple(m - d for m, d in zip(ints_of(shape), full))
    )
