"""The ONNX package's backend interface: `prepare(model).run(inputs)`, for its conformance suite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import dtypes
from .errors import WnnError
from .forward import NNForward
from .onnx_proto import onnx


class Rep:
    """A prepared model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = NNForward(num_threads=1).load_from_proto(model)
        self._types = [_element(vi.type) for vi in model.graph.output]

    def run(self, inputs: Sequence[Any], **_: Any) -> list:
        """Outputs in the model's order. Sequences are lists, absent optionals None."""
        graph = self._model.graph
        if len(inputs) != len(graph.inputs):
            raise WnnError(
                f"[onnx_backend] found {len(inputs)} inputs; expected {len(graph.inputs)}; pass "
                "one per graph input"
            )
        arrays = [_given(a, v.spec) for a, v in zip(inputs, graph.inputs)]
        return [_taken(y, code) for y, code in zip(self._model.infer(arrays), self._types)]

    def fallback_ops(self) -> dict[str, str]:
        """Operators that ran without a native kernel."""
        return self._model.fallback_ops()


def prepare(model: onnx.ModelProto, device: str = "CPU", **_: Any) -> Rep:
    """Loads a model; UnsupportedError or MissingOperatorError where that cannot be."""
    if not supports_device(device):
        raise WnnError(f"[onnx_backend] found device {device!r}; expected 'CPU'; leave it out")
    return Rep(model)


def run_model(model: onnx.ModelProto, inputs: Sequence[Any], device: str = "CPU", **_: Any) -> list:
    """prepare(model).run(inputs)."""
    return prepare(model, device).run(inputs)


def supports_device(device: str) -> bool:
    """Whether "CPU", or one with a number after a colon, is asked for."""
    return device.partition(":")[0] == "CPU"


def _element(tp: onnx.TypeProto) -> int:
    return tp.tensor_type.elem_type if tp.WhichOneof("value") == "tensor_type" else 0


def _given(a: Any, spec) -> Any:
    if isinstance(a, np.ndarray) and spec is not None and spec.dtype in dtypes.BITS:
        return dtypes.bits_of(a)
    if isinstance(a, np.ndarray) and a.dtype.kind in "SU":
        return a.astype(object)
    return a


def _taken(y: Any, code: int) -> Any:
    """The output in numpy's form of the declared type; ml_dtypes has those that numpy lacks."""
    if not isinstance(y, np.ndarray) or not code or y.dtype == object:
        return y
    want = onnx.helper.tensor_dtype_to_np_dtype(code)
    name = dtypes.name_of(want)
    if name not in dtypes.BITS or y.dtype != dtypes.NUMPY[name]:
        return y
    return y.astype(want) if name[0] in "iu" else y.view(want)
