"""Operators without an importer: the functions ONNX defines for them, and the onnx package's numpy
implementation.

An operator made here is called `onnx:Det`. Its shapes are those that ONNX infers, else known once
it ran; its attributes are the ONNX node itself, and nothing but a Python step can run it, slowly.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from . import dtypes
from .errors import UnsupportedError, WnnError
from .onnx_proto import onnx, spec_of, type_of
from .op import Op, Spec

PREFIX = "onnx:"


@lru_cache(256)
def operator(name: str) -> Op:
    """The fallback operator of that name, as `onnx:Det` or `onnx:ai.onnx.ml.Scaler`."""
    doc = (
        f"{name.removeprefix(PREFIX)} as the onnx package implements it.\n\nSource: onnx.reference."
    )
    op = Op(name, "*x", "y", {"node": ..., "opsets": ..., "bits": ()}, doc=doc)
    op.float64 = False
    op.reference(run)
    return op


@lru_cache(1024)
def evaluator(node: bytes, opsets: tuple[tuple[str, int], ...]):
    """A ReferenceEvaluator of a single serialised node."""
    import onnx.reference

    proto = onnx.NodeProto.FromString(node)
    function = onnx.helper.make_function(
        "wnn.fallback",
        "node",
        [n for n in proto.input if n],
        [n for n in proto.output if n],
        [proto],
        [onnx.helper.make_opsetid(*row) for row in opsets],
    )
    return onnx.reference.ReferenceEvaluator(function)


def run(*arrays, node: bytes, opsets: tuple, bits: tuple[tuple[int, str], ...] = ()):
    """The node's output, or a tuple of them; sequences are lists, absent optionals None."""
    session = evaluator(node, opsets)
    proto = session.proto_.node[0]
    feeds = {name: a for name, a in zip(proto.input, arrays) if name}
    for i, dtype in bits:
        own = onnx.helper.tensor_dtype_to_np_dtype(dtypes.CODE[dtype])
        a = arrays[i]
        feeds[proto.input[i]] = a.astype(own) if dtype[0] in "iu" else a.view(own)
    try:
        got = session.run(None, feeds, attributes={})
    except WnnError:
        raise
    except Exception as e:
        facts = ", ".join(
            f"{a.dtype}{a.shape}" if isinstance(a, np.ndarray) else type(a).__name__ for a in arrays
        )
        raise UnsupportedError(
            f"[{PREFIX}{proto.op_type}] found that the onnx package fails on inputs {facts} "
            f"({type(e).__name__}: {str(e)[:200]}); expected inputs it supports; install an op "
            "package that provides the operator"
        ) from e
    return _plain(got[0]) if len(got) == 1 else tuple(_plain(g) for g in got)


def _plain(got):
    if got is None or isinstance(got, (list, tuple)):
        return got if got is None else [_plain(g) for g in got]
    got = np.asarray(got)
    if got.dtype.kind in "SU":
        return got.astype(object)
    return dtypes.bits_of(got)


def implemented(node: onnx.NodeProto, opsets: tuple) -> bool:
    """Whether the onnx package can run this node at all."""
    if any(
        a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute
    ):
        return False
    schema = schema_of(node, dict(opsets)[node.domain])
    if (
        schema is None
        or len(node.output) > schema.max_output
        or not schema.min_input <= len(node.input) <= schema.max_input
    ):
        return False
    try:
        evaluator(node.SerializeToString(), opsets)
    except Exception:  # whatever stops it from being made, it cannot run
        return False
    return True


def schema_of(node: onnx.NodeProto, version: int):
    """The ONNX schema that a node follows, or None."""
    try:
        return onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return None


def function_of(
    node: onnx.NodeProto, version: int, specs: list[Spec | None]
) -> onnx.FunctionProto | None:
    """The function by which ONNX defines an operator, for inputs of these specs (None: absent);
    None if there is none.
    """
    schema = schema_of(node, version)
    if schema is None:
        return None
    body = b""
    if schema.has_function:
        body = schema.get_function_with_opset_version(
            _fitting(schema.function_opset_versions, version)
        )
    elif schema.has_context_dependent_function:
        names: dict = {}
        sequence = onnx.helper.make_sequence_type_proto(onnx.helper.make_tensor_type_proto(1, None))
        types = [onnx.TypeProto() if s is None else type_of(s, names) or sequence for s in specs]
        fitting = _fitting(schema.context_dependent_function_opset_versions, version)
        body = schema.get_context_dependent_function_with_opset_version(
            fitting, node.SerializeToString(), [t.SerializeToString() for t in types]
        )
    if not body:
        return None
    function = onnx.FunctionProto.FromString(body)
    given = {a.name for a in function.attribute_proto}
    defaults = [
        a.default_value
        for a in schema.attributes.values()
        if a.default_value.name and a.name not in given
    ]
    function.attribute_proto.extend(defaults)
    return function


def _fitting(versions: list[int], version: int) -> int:
    return max([v for v in versions if v <= version], default=min(versions))


def infer(node: onnx.NodeProto, opsets: tuple, specs: list[Spec | None]) -> list[Spec | None]:
    """Output specs by the onnx package's shape inference; None for each that is not fully known."""
    nothing: list[Spec | None] = [None] * len(node.output)
    versions = dict(opsets)
    schema = schema_of(node, versions.get(node.domain, 1))
    if schema is None:
        return nothing
    names: dict = {}
    types, data = {}, {}
    for name, spec in zip(node.input, specs):
        if not name:
            continue
        t = type_of(spec, names) if spec is not None else None
        if t is None:
            return nothing
        types[name] = t
        if spec.known and spec.dtype not in ("str", *dtypes.BITS) and spec.value.size <= 4096:
            data[name] = onnx.numpy_helper.from_array(np.asarray(spec.value, order="C"), name)
    imports = [onnx.helper.make_opsetid(*row) for row in opsets]
    try:
        found = onnx.shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=imports
        )
    except Exception:  # its C++ raises many kinds; not knowing is always right
        return nothing

    def spec(name: str) -> Spec | None:
        tp = found.get(name)
        if tp is None or not tp.WhichOneof("value"):
            return None
        if tp.WhichOneof("value") != "tensor_type":
            return Spec((), "obj")
        if not tp.tensor_type.elem_type:
            return None
        s = spec_of(
            tp,
            lambda d, _: d.dim_value if d.HasField("dim_value") else names.get(d.dim_param),
            name,
        )
        return None if s is None or None in s.shape else s

    return [spec(name) for name in node.output]
