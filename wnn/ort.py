"""onnxruntime's Python interface on top of wnn, for programs and packages that are written for it.

    import wnn.ort as ort
    session = ort.InferenceSession("model.onnx")
    (y,) = session.run(None, {"x": x})

`install()` makes `import onnxruntime` give this module, so that packages run unchanged. Options
that cannot change a result (arenas, logging, optimisation levels) are kept and have no effect; the
others raise.
"""

from __future__ import annotations

import enum
import os
import sys
import types
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from . import dtypes
from .errors import DtypeError, MissingOperatorError, ModelError, UnsupportedError, WnnError

__version__ = "1.22.0"  # of the interface that is followed here
_PROVIDER = "CPUExecutionProvider"
_ONNX_NAMES = {
    "f32": "float", "f64": "double", "f16": "float16", "bf16": "bfloat16",
    "str": "string", "bool": "bool",
    "i8": "int8", "u8": "uint8", "i16": "int16", "u16": "uint16", "i32": "int32", "u32": "uint32",
    "i64": "int64", "u64": "uint64", "c64": "complex64", "c128": "complex128",
}  # fmt: skip


# -- errors ---------------------------------------------------------------------------------------
class Fail(WnnError):
    """Something failed for a reason without a class of its own."""


class InvalidArgument(WnnError, ValueError):
    """An input, output name or option does not fit."""


class NoSuchFile(WnnError, FileNotFoundError):
    """There is no model file at the path."""


class InvalidProtobuf(WnnError):
    """The model is damaged."""


class InvalidGraph(InvalidProtobuf):
    """The model's graph is inconsistent."""


class _NotImplemented(WnnError):
    """An operator or a feature that is not there."""


NotImplemented = _NotImplemented  # the name that packages import


class RuntimeException(WnnError, RuntimeError):
    """A kernel failed."""


class NoModel(Fail):
    """Kept for programs that name it."""


class ModelLoaded(Fail):
    """Kept for programs that name it."""


class EngineError(Fail):
    """Kept for programs that name it."""


class EPFail(Fail):
    """Kept for programs that name it."""


# -- options --------------------------------------------------------------------------------------
class GraphOptimizationLevel(enum.IntEnum):
    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(enum.IntEnum):
    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


class ExecutionOrder(enum.IntEnum):
    DEFAULT = 0
    PRIORITY_BASED = 1
    MEMORY_EFFICIENT = 2


class _Config:
    """String entries by key."""

    def __init__(self) -> None:
        self._entries: dict[str, str] = {}

    def _get(self, key: str) -> str:
        if key not in self._entries:
            raise RuntimeException(
                f"[wnn.ort] found no config entry {key!r}; "
                "expected one that was added; add it first"
            )
        return self._entries[key]


@dataclass
class SessionOptions(_Config):
    """Options of a session; intra_op_num_threads alone has effect (0: what the machine allows)."""

    enable_cpu_mem_arena: bool = True
    enable_mem_pattern: bool = True
    enable_mem_reuse: bool = True
    enable_profiling: bool = False
    execution_mode: ExecutionMode = ExecutionMode.ORT_SEQUENTIAL
    execution_order: ExecutionOrder = ExecutionOrder.DEFAULT
    graph_optimization_level: GraphOptimizationLevel = GraphOptimizationLevel.ORT_ENABLE_ALL
    inter_op_num_threads: int = 0
    intra_op_num_threads: int = 0
    log_severity_level: int = -1
    log_verbosity_level: int = 0
    logid: str = ""
    optimized_model_filepath: str = ""
    profile_file_prefix: str = "onnxruntime_profile_"
    use_deterministic_compute: bool = False
    use_per_session_threads: bool = True
    _entries: dict[str, str] = field(default_factory=dict, repr=False)

    def add_session_config_entry(self, key: str, value: str) -> None:
        self._entries[key] = value

    def get_session_config_entry(self, key: str) -> str:
        return self._get(key)

    def add_provider(self, name: str, options: Mapping[str, str] | None = None) -> None:
        _check_providers([name])

    def register_custom_ops_library(self, path: str) -> None:
        raise _NotImplemented(
            f"[wnn.ort] found a library of custom operators {path!r}; "
            "expected an op package of wnn; see docs/plugins.md for how to write one"
        )


@dataclass
class RunOptions(_Config):
    """Options of one run; none of them changes its result."""

    log_severity_level: int = -1
    log_verbosity_level: int = 0
    logid: str = ""
    only_execute_path_to_fetches: bool = False
    terminate: bool = False
    _entries: dict[str, str] = field(default_factory=dict, repr=False)

    def add_run_config_entry(self, key: str, value: str) -> None:
        self._entries[key] = value

    def get_run_config_entry(self, key: str) -> str:
        return self._get(key)


# -- what a session tells -------------------------------------------------------------------------
class NodeArg(NamedTuple):
    """An input or output: type such as "tensor(float)", shape of ints and names of free axes."""

    name: str
    type: str
    shape: list


@dataclass
class ModelMetadata:
    """What the model's file says of itself."""

    producer_name: str = ""
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = 0
    custom_metadata_map: dict[str, str] = field(default_factory=dict)


class OrtValue:
    """A tensor in the CPU's memory."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    @staticmethod
    def ortvalue_from_numpy(
        array: np.ndarray, device_type: str = "cpu", device_id: int = 0
    ) -> OrtValue:
        """A value that shares the array's memory."""
        _only_cpu(device_type)
        return OrtValue(np.asarray(array))

    @staticmethod
    def ortvalue_from_shape_and_type(
        shape: Sequence[int], element_type: Any, device_type: str = "cpu", device_id: int = 0
    ) -> OrtValue:
        """A value with unspecified contents; element_type: a numpy dtype or an ONNX number."""
        _only_cpu(device_type)
        if isinstance(element_type, int):
            element_type = dtypes.NUMPY[dtypes.NAME[element_type]]
        return OrtValue(np.empty(tuple(shape), element_type))

    def numpy(self) -> np.ndarray:
        return self._array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._array, dtype, copy=copy)

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def data_type(self) -> str:
        return _type(dtypes.name_of(self._array.dtype))

    def element_type(self) -> int:
        return dtypes.CODE[dtypes.name_of(self._array.dtype)]

    def data_ptr(self) -> int:
        return self._array.ctypes.data

    def device_name(self) -> str:
        return "cpu"

    def has_value(self) -> bool:
        return True

    def is_tensor(self) -> bool:
        return True

    def is_sparse_tensor(self) -> bool:
        return False

    def is_tensor_sequence(self) -> bool:
        return False

    def update_inplace(self, array: np.ndarray) -> None:
        self._array[...] = array


def _only_cpu(device_type: str) -> None:
    if device_type.lower() != "cpu":
        raise _NotImplemented(
            f"[wnn.ort] found device {device_type!r}; expected 'cpu'; run the model on the CPU"
        )


def _type(dtype: str) -> str:
    return f"tensor({_ONNX_NAMES.get(dtype, 'float')})"


# -- the session ----------------------------------------------------------------------------------
class InferenceSession:
    """A loaded model. path_or_bytes: path of an .onnx or .wnnx file, or bytes of an ONNX model."""

    def __init__(
        self,
        path_or_bytes: str | os.PathLike | bytes,
        sess_options: SessionOptions | None = None,
        providers: Sequence | None = None,
        provider_options: Sequence | None = None,
        **kwargs: Any,
    ) -> None:
        self._options = sess_options or SessionOptions()
        _check_options(self._options)
        _check_providers(providers or ())
        self._model = _load(path_or_bytes, self._options.intra_op_num_threads or None)
        self._names = [p.name for p in self._model.outputs]

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: RunOptions | None = None,
    ) -> list:
        """The outputs of these names (None or none: all), for inputs by name."""
        unknown = [n for n in output_names or () if n not in self._names]
        if unknown:
            raise InvalidArgument(
                f"[wnn.ort] found output names {unknown}; "
                f"expected some of {self._names}; correct them"
            )
        feed = {k: v.numpy() if isinstance(v, OrtValue) else v for k, v in input_feed.items()}
        try:
            outputs = self._model.infer(feed)
        except MissingOperatorError as e:
            raise _NotImplemented(str(e)) from e
        except (DtypeError, ValueError) as e:
            raise InvalidArgument(str(e)) from e
        except IndexError as e:
            raise RuntimeException(str(e)) from e
        except WnnError as e:
            raise InvalidArgument(str(e)) from e
        if not output_names:
            return outputs
        return [outputs[self._names.index(n)] for n in output_names]

    def run_with_ort_values(
        self,
        output_names: Sequence[str] | None,
        input_dict_ort_values: Mapping[str, OrtValue],
        run_options: RunOptions | None = None,
    ) -> list[OrtValue]:
        """As run, with OrtValues in and out."""
        return [OrtValue(y) for y in self.run(output_names, input_dict_ort_values, run_options)]

    def get_inputs(self) -> list[NodeArg]:
        return [_node_arg(p) for p in self._model.inputs]

    def get_outputs(self) -> list[NodeArg]:
        return [_node_arg(p) for p in self._model.outputs]

    def get_overridable_initializers(self) -> list[NodeArg]:
        return []

    def get_modelmeta(self) -> ModelMetadata:
        graph = self._model.graph
        meta = {k: v for k, v in graph.meta.items() if k in ModelMetadata.__dataclass_fields__}
        custom = dict(graph.meta.get("custom", {}))
        return ModelMetadata(**{"graph_name": graph.name, **meta, "custom_metadata_map": custom})

    def get_providers(self) -> list[str]:
        return [_PROVIDER]

    def get_provider_options(self) -> dict[str, dict]:
        return {_PROVIDER: {}}

    def set_providers(self, providers: Sequence | None = None, options: Any = None) -> None:
        _check_providers(providers or ())

    def get_session_options(self) -> SessionOptions:
        return self._options

    def disable_fallback(self) -> None:
        """There is one provider, so nothing to fall back to."""

    enable_fallback = disable_fallback


def _load(source: str | os.PathLike | bytes, num_threads: int | None) -> Any:
    from .forward import NNForward

    model = NNForward(num_threads=num_threads)
    try:
        if isinstance(source, (bytes, bytearray, memoryview)):
            return model.load_from_proto(bytes(source))
        if not os.path.exists(source):
            raise NoSuchFile(
                f"[wnn.ort] found no file {os.fspath(source)}; expected a model; correct the path"
            )
        return model.load_from_file(source)
    except (MissingOperatorError, UnsupportedError) as e:
        raise _NotImplemented(str(e)) from e
    except ModelError as e:
        raise InvalidProtobuf(str(e)) from e


def _node_arg(port: Any) -> NodeArg:
    return NodeArg(port.name, _type(port.dtype), list(port.shape or ()))


def _check_options(options: SessionOptions) -> None:
    for name in ("enable_profiling", "optimized_model_filepath"):
        if getattr(options, name):
            raise _NotImplemented(
                f"[wnn.ort] found SessionOptions.{name} set; expected it unset; "
                "use `wnn profile` or `wnn convert` instead"
            )


def _check_providers(providers: Sequence) -> None:
    names = [p if isinstance(p, str) else p[0] for p in providers]
    if names and _PROVIDER not in names:
        warnings.warn(
            f"[wnn.ort] found providers {names}; only {_PROVIDER} is there and is used",
            stacklevel=3,
        )


# -- module functions -----------------------------------------------------------------------------
def get_available_providers() -> list[str]:
    return [_PROVIDER]


get_all_providers = get_available_providers


def get_device() -> str:
    return "CPU"


def get_version_string() -> str:
    return __version__


def get_build_info() -> str:
    from . import __version__ as version

    return f"wnn {version}"


def set_default_logger_severity(severity: int) -> None:
    """There is no logger."""


def set_default_logger_verbosity(verbosity: int) -> None:
    """There is no logger."""


def set_seed(seed: int) -> None:
    """Random operators have seeds of their own."""


def disable_telemetry_events() -> None:
    """There is no telemetry."""


def preload_dlls(*args: Any, **kwargs: Any) -> None:
    """There is nothing to load."""


def install() -> None:
    """Makes `import onnxruntime` give this module. Call it before anything imports onnxruntime."""
    me = sys.modules[__name__]
    if sys.modules.setdefault("onnxruntime", me) is not me:
        raise WnnError(
            "[wnn.ort] found that onnxruntime is imported already; "
            "expected install() to come first; call it at the top of the program"
        )
    for name in (
        "",
        "._pybind_state",
        ".onnxruntime_pybind11_state",
        ".onnxruntime_inference_collection",
    ):
        module = types.ModuleType(f"onnxruntime.capi{name}", __doc__)
        module.__dict__.update({k: v for k, v in vars(me).items() if not k.startswith("_")})
        sys.modules[module.__name__] = module
        if name:
            setattr(sys.modules["onnxruntime.capi"], name[1:], module)
    me.capi = sys.modules["onnxruntime.capi"]
