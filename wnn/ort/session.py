"""The session: a loaded model, what it tells, and running it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import DtypeError, MissingOperatorError, ModelError, UnsupportedError, WnnError
from . import cache
from .errors import (
    Fail,
    InvalidArgument,
    InvalidProtobuf,
    NoSuchFile,
    RuntimeException,
    Unimplemented,
)
from .options import PROVIDER, RunOptions, SessionOptions, check_providers
from .values import IOBinding, OrtValue, plain, type_name


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
        self._options.check()
        check_providers(providers or ())
        self._model = _load(path_or_bytes, self._options)
        self._names = [p.name for p in self._model.outputs]

    # -- running
    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: RunOptions | None = None,
    ) -> list:
        """The outputs of these names (None or none: all), for inputs by name."""
        picked = self._picked(output_names)
        outputs = self._infer({k: plain(v) for k, v in input_feed.items()}, None, run_options)
        return [outputs[i] for i in picked]

    def run_with_ort_values(
        self,
        output_names: Sequence[str] | None,
        input_dict_ort_values: Mapping[str, OrtValue],
        run_options: RunOptions | None = None,
    ) -> list[OrtValue]:
        """As run, with OrtValues in and out."""
        made = self.run(output_names, input_dict_ort_values, run_options)
        return [self._value(i, y) for i, y in zip(self._picked(output_names), made, strict=True)]

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        callback: Callable,
        user_data: Any,
        run_options: RunOptions | None = None,
    ) -> None:
        """As run, in a thread, which then calls callback(outputs, user_data, error message)."""

        def work() -> None:
            made, error = [], ""
            try:
                made = self.run(output_names, input_feed, run_options)
            except WnnError as e:
                error = str(e)
            callback(made, user_data, error)

        threading.Thread(target=work).start()

    def io_binding(self) -> IOBinding:
        """A binding of inputs and outputs to memory."""
        return IOBinding(self)

    def run_with_iobinding(
        self, iobinding: IOBinding, run_options: RunOptions | None = None
    ) -> None:
        """Runs on the bound inputs; the bound outputs are then what the binding gives."""
        picked = self._picked(list(iobinding._outputs))
        out: list = [None] * len(self._names)
        for i, value in zip(picked, iobinding._outputs.values(), strict=True):
            out[i] = plain(value)
        feed = {k: plain(v) for k, v in iobinding._inputs.items()}
        made = self._infer(feed, out if any(a is not None for a in out) else None, run_options)
        iobinding._made = [self._value(i, made[i]) for i in picked]

    def _picked(self, names: Sequence[str] | None) -> list[int]:
        unknown = [n for n in names or () if n not in self._names]
        if unknown:
            raise InvalidArgument(
                f"[wnn.ort] found output names {unknown}; "
                f"expected some of {self._names}; correct them"
            )
        return [self._names.index(n) for n in names or self._names]

    def _infer(self, feed: dict, out: list | None, options: RunOptions | None) -> list:
        if options is not None and options.terminate:
            raise Fail("[wnn.ort] found RunOptions.terminate set; expected it unset; unset it")
        try:
            return self._model.infer(feed, out)
        except MissingOperatorError as e:
            raise Unimplemented(str(e)) from e
        except (DtypeError, ValueError) as e:
            raise InvalidArgument(str(e)) from e
        except IndexError as e:
            raise RuntimeException(str(e)) from e
        except WnnError as e:
            raise InvalidArgument(str(e)) from e

    def _value(self, i: int, y: Any) -> OrtValue:
        return OrtValue(y, self._model.outputs[i].dtype if hasattr(y, "dtype") else None)

    # -- looking
    def get_inputs(self) -> list[NodeArg]:
        return [self._told(p) for p in self._model.inputs]

    def get_outputs(self) -> list[NodeArg]:
        return [self._told(p) for p in self._model.outputs]

    def _told(self, port: Any) -> NodeArg:
        shape = [self._options._lengths.get(d, d) for d in port.shape or ()]
        return NodeArg(port.name, type_name(port.dtype), shape)

    def get_overridable_initializers(self) -> list[NodeArg]:
        return []

    def get_modelmeta(self) -> ModelMetadata:
        graph = self._model.graph
        meta = {k: v for k, v in graph.meta.items() if k in ModelMetadata.__dataclass_fields__}
        custom = dict(graph.meta.get("custom", {}))
        return ModelMetadata(**{"graph_name": graph.name, **meta, "custom_metadata_map": custom})

    def get_session_options(self) -> SessionOptions:
        return self._options

    # -- providers: there is one
    def get_providers(self) -> list[str]:
        return [PROVIDER]

    def get_provider_options(self) -> dict[str, dict]:
        return {PROVIDER: {}}

    def set_providers(self, providers: Sequence | None = None, options: Any = None) -> None:
        check_providers(providers or ())

    def disable_fallback(self) -> None:
        """There is one provider, so nothing to fall back to."""

    enable_fallback = disable_fallback

    def end_profiling(self) -> str:
        raise Unimplemented(
            "[wnn.ort] found end_profiling; expected no profile; use `wnn profile` instead"
        )


def _load(source: str | os.PathLike | bytes, options: SessionOptions) -> Any:
    if isinstance(source, (bytearray, memoryview)):
        source = bytes(source)
    if not isinstance(source, bytes):
        source = os.fspath(source)
        if not os.path.exists(source):
            raise NoSuchFile(
                f"[wnn.ort] found no file {source}; expected a model; correct the path"
            )
        if source.endswith(".ort"):
            raise Unimplemented(
                f"[wnn.ort] found {source} in onnxruntime's own format; "
                "expected .onnx or .wnnx; take the file that it was made from"
            )
    try:
        folder = options._entries.get("wnn.cache") or os.environ.get("WNN_ORT_CACHE")
        return cache.load(source, options.intra_op_num_threads or None, folder)
    except (MissingOperatorError, UnsupportedError) as e:
        raise Unimplemented(str(e)) from e
    except ModelError as e:
        raise InvalidProtobuf(str(e)) from e
