"""onnxruntime's Python interface on top of wnn, for programs and packages that are written for it.

    import wnn.ort as ort
    session = ort.InferenceSession("model.onnx")
    (y,) = session.run(None, {"x": x})

`install()` makes `import onnxruntime` give this module, so that packages run unchanged. Options
that cannot change a result (arenas, logging, optimisation levels) are kept and have no effect; the
others raise.

A folder in the environment variable WNN_ORT_CACHE, or in the config entry "wnn.cache" of
SessionOptions, keeps what models were converted to, by a hash of each model. The next session of
the same model maps that file and imports nothing of ONNX. Another model, another version of wnn or
of an op package makes another file; old ones may be deleted at any time.

    errors.py, options.py   what is raised, what can be asked for      session.py  the session
    values.py               OrtValue and IOBinding                     cache.py    converted models
    installed.py            onnxruntime's place among the modules
"""

from __future__ import annotations

from typing import Any

from .errors import (
    EngineError,
    EPFail,
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    ModelLoaded,
    NoModel,
    NoSuchFile,
    NotImplemented,
    RuntimeException,
)
from .options import (
    PROVIDER,
    ExecutionMode,
    ExecutionOrder,
    GraphOptimizationLevel,
    RunOptions,
    SessionOptions,
)
from .session import InferenceSession, ModelMetadata, NodeArg
from .values import IOBinding, OrtDevice, OrtValue

__version__ = "1.22.0"  # of the interface that is followed here
SessionIOBinding = IOBinding
__all__ = [
    "EPFail",
    "EngineError",
    "ExecutionMode",
    "ExecutionOrder",
    "Fail",
    "GraphOptimizationLevel",
    "IOBinding",
    "InferenceSession",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "ModelLoaded",
    "ModelMetadata",
    "NoModel",
    "NoSuchFile",
    "NodeArg",
    "NotImplemented",
    "OrtDevice",
    "OrtValue",
    "RunOptions",
    "RuntimeException",
    "SessionIOBinding",
    "SessionOptions",
    "disable_telemetry_events",
    "enable_telemetry_events",
    "get_all_providers",
    "get_available_providers",
    "get_build_info",
    "get_device",
    "get_version_string",
    "has_collective_ops",
    "install",
    "preload_dlls",
    "set_default_logger_callback",
    "set_default_logger_severity",
    "set_default_logger_verbosity",
    "set_global_thread_pool_sizes",
    "set_seed",
]


def get_available_providers() -> list[str]:
    return [PROVIDER]


get_all_providers = get_available_providers


def get_device() -> str:
    return "CPU"


def get_version_string() -> str:
    return __version__


def get_build_info() -> str:
    from .. import __version__ as version

    return f"wnn {version}"


def set_default_logger_severity(severity: int) -> None:
    """There is no logger."""


def set_default_logger_verbosity(verbosity: int) -> None:
    """There is no logger."""


def set_seed(seed: int) -> None:
    """Random operators have seeds of their own."""


def disable_telemetry_events() -> None:
    """There is no telemetry."""


def enable_telemetry_events() -> None:
    """There is no telemetry."""


def set_default_logger_callback(callback: Any) -> None:
    """There is no logger."""


def set_global_thread_pool_sizes(intra_op: int, inter_op: int) -> None:
    """Each session has threads of its own; say how many in its options."""


def has_collective_ops() -> bool:
    return False


def preload_dlls(*args: Any, **kwargs: Any) -> None:
    """There is nothing to load."""


def install() -> None:
    """Makes `import onnxruntime` give this module. Call it before anything imports onnxruntime.

    WnnError where onnxruntime is imported already.
    """
    from . import installed

    installed.install(__version__)
