"""Small ONNX models written down for tests: m = OnnxModel(); y = m.Softmax(m.MatMul("x", w),
axis=-1).
"""

from __future__ import annotations

from typing import Any

import numpy as np


class OnnxModel:
    """A graph under construction. m.NAME(inputs..., outputs=1, **attributes) adds a node and
    returns its output's name.

    Inputs are names, or arrays and numbers, which become initializers (Python floats as float32).
    """

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list = []
        self.constants: list = []
        self.rng = np.random.default_rng(seed)

    def __getattr__(self, kind: str):
        import onnx

        if kind.startswith("__"):
            raise AttributeError(kind)

        def add(*inputs: Any, outputs: int = 1, **attrs: Any) -> Any:
            names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
            out = [f"{kind}_{len(self.nodes)}_{k}" for k in range(outputs)]
            self.nodes.append(onnx.helper.make_node(kind, names, out, **attrs))
            return out[0] if outputs == 1 else out

        return add

    def constant(self, value: Any) -> str:
        """An initializer; returns its name."""
        import onnx

        a = np.asarray(value)
        name = f"c{len(self.constants)}"
        self.constants.append(
            onnx.numpy_helper.from_array(a.astype(np.float32) if a.dtype == np.float64 else a, name)
        )
        return name

    def random(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        """Normally distributed float32."""
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)

    def linear(self, x: str, k: int, n: int, bias: bool = True) -> str:
        """MatMul with a random (k, n) matrix, and Add of a bias."""
        y = self.MatMul(x, self.random(k, n, scale=k**-0.5))
        return self.Add(self.random(n, scale=0.1), y) if bias else y

    def finish(self, outputs: str | list[str], opset: int = 17, **inputs: tuple):
        """The ModelProto. inputs: name=(numpy dtype, shape), shape with names for free axes."""
        import onnx

        info, kind = onnx.helper.make_tensor_value_info, onnx.helper.np_dtype_to_tensor_dtype
        ins = [info(n, kind(np.dtype(d)), s) for n, (d, s) in inputs.items()]
        outs = [
            info(n, onnx.TensorProto.FLOAT, None)
            for n in ([outputs] if isinstance(outputs, str) else outputs)
        ]
        graph = onnx.helper.make_graph(self.nodes, "g", ins, outs, self.constants)
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
