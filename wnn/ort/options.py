"""Options of sessions and runs."""

from __future__ import annotations

import enum
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .errors import RuntimeException, Unimplemented

PROVIDER = "CPUExecutionProvider"


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

    __slots__ = ()
    _entries: dict[str, str]

    def _get(self, key: str) -> str:
        if key not in self._entries:
            raise RuntimeException(
                f"[wnn.ort] found no config entry {key!r}; "
                "expected one that was added; add it first"
            )
        return self._entries[key]


@dataclass(slots=True)
class SessionOptions(_Config):
    """Options of a session. These have effect:

    intra_op_num_threads: worker threads (0: what the machine allows)
    the config entry "wnn.cache": a folder for converted models, see `wnn.ort`
    add_free_dimension_override_by_name: what get_inputs says of an axis

    Those that raise Unimplemented would change what a model does or writes; all others are kept.
    """

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
    _lengths: dict[str, int] = field(default_factory=dict, repr=False)

    def add_session_config_entry(self, key: str, value: str) -> None:
        self._entries[key] = value

    def get_session_config_entry(self, key: str) -> str:
        return self._get(key)

    def add_free_dimension_override_by_name(self, name: str, length: int) -> None:
        self._lengths[name] = length

    def add_provider(self, name: str, options: Mapping[str, str] | None = None) -> None:
        check_providers([name])

    def has_providers(self) -> bool:
        return False

    def register_custom_ops_library(self, path: str) -> None:
        raise Unimplemented(
            f"[wnn.ort] found a library of custom operators {path!r}; "
            "expected an op package of wnn; see docs/plugins.md for how to write one"
        )

    def add_initializer(self, name: str, ortvalue: object) -> None:
        raise Unimplemented(
            f"[wnn.ort] found a value for the initializer {name!r}; expected the model's own; "
            "write it into the model, or make it an input"
        )

    def add_external_initializers(self, names: Sequence[str], ortvalues: Sequence) -> None:
        self.add_initializer(", ".join(names), ortvalues)

    def check(self) -> None:
        """Unimplemented for options that have no counterpart."""
        for name in ("enable_profiling", "optimized_model_filepath"):
            if getattr(self, name):
                raise Unimplemented(
                    f"[wnn.ort] found SessionOptions.{name} set; expected it unset; "
                    "use `wnn profile` or `wnn convert` instead"
                )


@dataclass(slots=True)
class RunOptions(_Config):
    """Options of one run; none changes its result, and terminate refuses it."""

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

    def add_active_adapter(self, adapter: object) -> None:
        raise Unimplemented(
            "[wnn.ort] found a LoRA adapter; expected none; merge it into the model's weights"
        )


def check_providers(providers: Sequence) -> None:
    """Warns where the CPU is not among those that are asked for."""
    names = [p if isinstance(p, str) else p[0] for p in providers]
    if names and PROVIDER not in names:
        warnings.warn(
            f"[wnn.ort] found providers {names}; only {PROVIDER} is there and is used",
            stacklevel=4,
        )
