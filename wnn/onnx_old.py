"""Nodes of opsets below 7 in the form of opset 7: what has changed its meaning since.

Source: ONNX's changelog of operators.
"""

from __future__ import annotations

import numpy as np

from .graph import Graph, Value
from .onnx_node import OnnxNode
from .onnx_proto import onnx, refuse

LIMITED = ["Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less"]


def modern(g: Graph, node: OnnxNode) -> None:
    """Gives a node the inputs and attributes that it would have in opset 7."""
    if node.op_type in LIMITED and len(node.inputs) == 2:
        a, b = node.inputs
        if node.attr("broadcast", 0) and a.spec is not None and b.spec is not None:
            lead = node.attr("axis", a.spec.rank - b.spec.rank)
            node.inputs = [a, _aligned(g, b, a.spec.rank - lead % max(a.spec.rank, 1))]
    elif node.op_type == "PRelu":
        x, slope = node.inputs
        if node.rank(1) == 1 and node.rank(0) > 1:
            node.inputs = [x, _aligned(g, slope, node.rank(0) - 1)]
    elif node.op_type == "Cast" and isinstance(node.attr("to"), str):
        codes = dict(onnx.TensorProto.DataType.items())
        if node.attr("to") not in codes:
            refuse(node.name, f"data type {node.attr('to')!r}", "one that ONNX defines")
        _set(node, to=codes[node.attr("to")])
    elif node.op_type == "Reshape" and len(node.inputs) == 1:
        node.inputs = [*node.inputs, g.const(np.array(node.attr("shape"), np.int64))]
    elif node.op_type == "Concat" and node.opset < 4 and node.attr("axis") is None:
        _set(node, axis=1)
    elif node.op_type == "Pad" and node.attr("pads") is None:
        _set(node, pads=node.attr("paddings"))
    elif node.op_type == "Upsample" and node.attr("scales") is None:
        _set(node, scales=[1.0, 1.0, node.attr("height_scale"), node.attr("width_scale")])
    elif node.op_type == "Tile" and node.opset < 6:
        refuse(node.name, "Tile of opset 1", "opset 6 or newer")


def _aligned(g: Graph, b: Value, rank: int) -> Value:
    """b with axes of length 1 behind its own, so that there are `rank`."""
    lengths = (*b.shape, *[1] * (rank - b.spec.rank))
    return b if lengths == b.shape else g.add("reshape", [b], to=lengths)


def _set(node: OnnxNode, **attrs) -> None:
    for k, v in attrs.items():
        node._attrs[k] = onnx.helper.make_attribute(k, v)
