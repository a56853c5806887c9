"""The exceptions of onnxruntime, which are wnn's as well."""

from __future__ import annotations

from ..errors import WnnError


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


class Unimplemented(WnnError):
    """An operator or a feature that is not there."""


NotImplemented = Unimplemented  # the name that packages import


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
