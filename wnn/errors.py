"""Errors that users see: `[who] found (values); expected (values); what to do next`."""

import struct


class WnnError(Exception):
    """Base of every error that wnn raises on purpose."""


class ModelError(WnnError):
    """The model's file or graph is damaged, inconsistent or beyond a limit."""


class ShapeError(WnnError, ValueError):
    """A tensor's shape or size is not the one that was expected."""


class DtypeError(WnnError, TypeError):
    """A tensor's dtype is not the one that was expected."""


class IndexOutOfRangeError(WnnError, IndexError):
    """An index that came from data lies outside the axis it addresses."""


class MissingOperatorError(WnnError, LookupError):
    """No installed package provides an operator, or no kernel has the name that was asked for."""


class PluginError(WnnError):
    """An op package could not be loaded, or was built for an incompatible ABI."""


class UnsupportedError(WnnError):
    """The request is well formed, but wnn cannot do it on this machine or in this version."""


# what an operator's functions raise when attributes or shapes make no sense to them
NONSENSE = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError),
    *(RecursionError, struct.error),
)


def senseless(error: Exception, op: str, inputs: object, attrs: object, node: str) -> ModelError:
    """The ModelError for one of NONSENSE."""
    return ModelError(
        f"[{op}] found inputs {inputs!s:.300} and attributes {attrs!s:.300} that make no sense "
        f"({type(error).__name__}: {error!s:.200}; node {node!r}); expected what the operator is "
        "defined for; check the model"
    )
