"""The page docs/operators.md: every ONNX operator, how wnn runs it, on which types.

    python docs/scoreboard.py > docs/operators.md

Each operator is run on the cases that the onnx package's conformance suite has of it. Where the
suite has none, the registry tells how it would be run.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from wnn import dtypes, onnx_fallback
from wnn.errors import WnnError
from wnn.onnx_proto import onnx
from wnn.plugins import ensure_std
from wnn.registry import REGISTRY

DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview.training")
ORDER = [*dtypes.FLOATS, *dtypes.SMALL, *dtypes.INTS, "bool", "str", "obj"]
Kind = onnx.defs.OpSchema.AttrType
EXAMPLES = {Kind.INT: 1, Kind.INTS: [1], Kind.STRING: "x", Kind.STRINGS: ["x"]}  # of attributes
HEAD = """# Operators

Written by `python docs/scoreboard.py`; do not edit.

How wnn runs each operator of onnx {version}, by the cases of its conformance suite. Opset: that of
the operator's newest version; models of older opsets, down to 1, are read in their own form.
**native**: compiled kernels, or folded when the model is planned, in every case; **mixed**: not in
every one; **fallback**: numpy in Python, by wnn or the onnx package; **unsupported**: refused when
the model is loaded. Types: of the first input where a case ran natively, and those of the kernels
where one operator of wnn is all it takes.
"""


@dataclass
class Row:
    """What became of an operator's cases."""

    outcomes: Counter = field(default_factory=Counter)
    types: set = field(default_factory=set)

    def status(self, schema: onnx.defs.OpSchema) -> str:
        """native, mixed, fallback or unsupported."""
        if self.outcomes:
            if not self.outcomes["fallback"] and not self.outcomes["refused"]:
                return "native"
            if self.outcomes["native"]:
                return "mixed"
            return "fallback" if self.outcomes["fallback"] else "unsupported"
        if REGISTRY.importer(schema.domain, schema.name, schema.since_version):
            return "native"
        attributes = {
            name: EXAMPLES[a.type]
            for name, a in schema.attributes.items()
            if a.required and a.type in EXAMPLES
        }
        inputs, outputs = ["x"] * schema.min_input, ["y"] * schema.min_output
        node = onnx.helper.make_node(
            schema.name, inputs, outputs, domain=schema.domain, **attributes
        )
        opsets = ((schema.domain, schema.since_version),)
        return "fallback" if onnx_fallback.implemented(node, opsets) else "unsupported"


def page() -> str:
    """The page, in Markdown."""
    ensure_std()
    rows = measured()
    lines = [HEAD.format(version=onnx.__version__)]
    for domain in DOMAINS:
        schemas = sorted(newest(domain), key=lambda s: s.name)
        counts = Counter(rows[s.domain, s.name].status(s) for s in schemas)
        words = ", ".join(f"{n} {status}" for status, n in counts.most_common())
        lines += [f"## {domain or 'ai.onnx'}", "", f"{len(schemas)} operators: {words}.", ""]
        lines += ["| operator | opset | runs | cases | types |", "|---|---|---|---|---|"]
        for s in schemas:
            row = rows[s.domain, s.name]
            total, native = sum(row.outcomes.values()), row.outcomes["native"]
            types = " ".join(t for t in ORDER if t in row.types)
            cases = f"{native} of {total}" if total else ""
            lines.append(f"| {s.name} | {s.since_version} | {row.status(s)} | {cases} | {types} |")
        lines.append("")
    names = sorted(n for d, n in REGISTRY.imported() if d == "com.microsoft")
    lines += ["## com.microsoft", "", "What onnxruntime's optimizer and quantiser write, as the"]
    lines += ["operators it was made of: " + ", ".join(names) + ".", ""]
    return "\n".join(lines)


def newest(domain: str) -> list[onnx.defs.OpSchema]:
    """The newest schema of every operator of a domain that is not deprecated."""
    found: dict[str, onnx.defs.OpSchema] = {}
    for s in onnx.defs.get_all_schemas_with_history():
        if s.domain == domain and s.since_version >= getattr(found.get(s.name), "since_version", 0):
            found[s.name] = s
    return [s for s in found.values() if not s.deprecated]


def measured() -> dict[tuple[str, str], Row]:
    """What became of the cases of each operator, by domain and name."""
    rows: dict[tuple[str, str], Row] = defaultdict(Row)
    for node, outcome, types in outcomes():
        row = rows[node.domain, node.op_type]
        row.outcomes[outcome] += 1
        if outcome == "native":
            row.types |= types
    return rows


def outcomes() -> Iterator[tuple[onnx.NodeProto, str, set[str]]]:
    """(node, "native", "fallback" or "refused", types that run) of each case of one node."""
    from onnx.backend.test.loader import load_model_tests

    from wnn.onnx_backend import prepare

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    for case in cases:
        nodes = case.model.graph.node if case.model else ()
        if len(nodes) != 1 or not case.data_sets:
            continue
        inputs = [_plain(v) for v in case.data_sets[0][0]]
        types = {_dtype(case.model.graph, nodes[0])} - {""}
        try:
            model = prepare(case.model)
            model.run(inputs)
        except WnnError:
            yield nodes[0], "refused", types
        else:
            made = [n.op for n in model._model.graph.nodes]
            if len(made) == 1:
                types |= {k.dtypes[0] for k in made[0].kernels if k.dtypes and k.dtypes[0] != "*"}
            yield nodes[0], "fallback" if model.fallback_ops() else "native", types


def _dtype(graph: onnx.GraphProto, node: onnx.NodeProto) -> str:
    """The dtype of a node's first input, "" where it has none."""
    types = {v.name: v.type for v in graph.input}
    tp = types.get(next((n for n in node.input if n), ""))
    if tp is None:
        return ""
    if tp.WhichOneof("value") != "tensor_type":
        return "obj"
    return dtypes.NAME.get(tp.tensor_type.elem_type, "obj")


def _plain(value) -> np.ndarray | list | None:
    """A stored input as `infer` takes it."""
    if isinstance(value, onnx.SequenceProto):
        return onnx.numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return onnx.numpy_helper.to_optional(value)
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


if __name__ == "__main__":
    print(page(), end="")
