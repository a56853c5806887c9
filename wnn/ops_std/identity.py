"""y = x.

Identity, and Dropout when a model is only run (its mask is all ones).
Source: ONNX Identity-19, Dropout-13.
"""

from ..errors import UnsupportedError
from ..op import Op, Permuted

op = Op("identity")
op.float64, op.keeps_order = False, True


@op.rule
def rule(x):
    return x


@op.reference
def reference(x):
    return x


@op.view
def view(strides, x, outs):
    return [(0, strides)]


@op.transpose
def transpose(perm, i, ins, attrs):
    return Permuted([perm], [perm], attrs)


@op.batch
def batch(axes, ins, outs, attrs):
    return axes


@op.importer("Identity", takes="f16 bits")
def from_onnx(g, node):
    return node.inputs[0]


@op.importer("Dropout")
def dropout_from_onnx(g, node):
    x, _, training = (*node.inputs, None, None)[:3]
    if training is not None and (training.const is None or training.array.any()):
        raise UnsupportedError(
            f"[Dropout] found training_mode (node {node.name!r}); expected inference; "
            "export the model in evaluation mode"
        )
    if node.num_outputs == 1:
        return x
    return x, g.add("constant_of_shape", [g.add("shape", [x])], value=True, dtype="bool")


@op.cases
def cases(rng):
    yield dict(x=rng(3, 4))
