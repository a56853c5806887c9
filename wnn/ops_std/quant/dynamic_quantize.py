"""y, scale, zero: x as u8 by the range of its values, which is made to hold 0.

x: any shape    scale = (max - min) / 255, a number    zero = round(-min / scale)
Source: ONNX DynamicQuantizeLinear-11.
"""

import numpy as np

from ...op import Op, Spec
from .quantize import reference as quantize

op = Op("dynamic_quantize", outputs="y scale zero")
op.float64 = False
op.nonfinite = False


@op.rule
def rule(x):
    return Spec(x.shape, "u8"), Spec((), "f32"), Spec((), "u8")


@op.reference
def reference(x):
    low, high = np.float32(min(x.min(initial=0), 0)), np.float32(max(x.max(initial=0), 0))
    scale = np.float32(high - low) / np.float32(255)
    scale = scale if scale else np.float32(1)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    return quantize(x, scale, zero, dtype="u8"), scale, zero


@op.kernel("f32", "dynamic_quantize")
def pack():
    return b""


@op.importer("DynamicQuantizeLinear")
def from_onnx(g, node):
    return g.add(op, node.inputs)


@op.cases
def cases(rng):
    for shape in [(), (1,), (3, 5, 33), (7, 1000), (0, 3)]:
        yield {"x": rng(*shape) * 3}
    yield {"x": np.abs(rng(5, 77)) + 1}
    yield {"x": np.zeros((4, 4), np.float32)}
