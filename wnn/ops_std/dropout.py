"""dropout: y = x, and a mask of ones; what Dropout, Identity and their like are when a model is only run.

Source: ONNX Dropout-13 with training_mode false, Identity-19.
"""

import numpy as np

from ..errors import UnsupportedError
from ..op import Op, Spec

op = Op("dropout", outputs="y mask")
op.float64 = False


@op.rule
def rule(x):
    return x, Spec(x.shape, "bool")


@op.reference
def reference(x):
    return x, np.ones(x.shape, bool)


@op.importer("Dropout")
def from_onnx(g, node):
    x, _, training = (*node.inputs, None, None)[:3]
    if training is not None and (training.const is None or training.array.any()):
        raise UnsupportedError(f"[Dropout] found training_mode (node {node.name!r}); expected inference; export the model in evaluation mode")
    return x if node.num_outputs == 1 else (x, g.add(op, [x])[1])


@op.importer("Identity")
def identity_from_onnx(g, node):
    return node.inputs[0]


@op.cases
def cases(rng):
    yield dict(x=rng(3, 4))
