"""Errors that users see: `[who] found (values); expected (values); what to do next`."""


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
