"""What plans are remembered by: shapes and dtypes of inputs, and values that shapes depend on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import dtypes
from .errors import ShapeError
from .graph import Value
from .symbols import Sym

if TYPE_CHECKING:
    from .plan import Stage

CACHED_PLANS = 64  # sets of input shapes (and of values that shapes depend on) kept per stage


def bind(v: Value, shape: tuple, env: dict[str, int]) -> None:
    """Holds an input's shape against the declared one and learns the symbols' values."""
    want = v.spec.shape
    ok = len(want) == len(shape)
    for d, n in zip(want, shape):
        if isinstance(d, Sym):
            name = next(iter(d.terms))[0]
            ok &= env.setdefault(name, n) == n
        else:
            ok &= d == n
    if not ok:
        known = {
            k: n
            for k, n in env.items()
            if any(isinstance(d, Sym) and k in d.symbols() for d in want)
        }
        raise ShapeError(
            f"[infer] found input {v.name!r} of shape {shape}; expected "
            f"{v.spec}{f' with {known}' if known else ''}; reshape the array or export the model "
            "with free axes"
        )


def given(arrays: Sequence) -> tuple:
    """What plans of inputs are remembered by: shapes and dtypes, (None, None) of objects."""
    try:
        return tuple([(a.shape, a.dtype) for a in arrays])
    except AttributeError:
        return tuple([(getattr(a, "shape", None), getattr(a, "dtype", None)) for a in arrays])


def dtype_of(v: Value, dtype: np.dtype) -> str:
    """The dtype of an input; those that numpy lacks travel as integers."""
    return v.spec.dtype if v.spec and v.spec.dtype in dtypes.BITS else dtypes.name_of(dtype)


def look(a: Any) -> Any:
    return (a.shape, a.tobytes()) if isinstance(a, np.ndarray) and a.dtype != object else id(a)


def shape_key(a: Any) -> Any:
    return (a.shape, a.dtype.str) if isinstance(a, np.ndarray) else type(a).__name__


def remember(cache: OrderedDict, key: tuple, stage: Stage) -> None:
    cache[key] = stage
    if len(cache) > CACHED_PLANS:
        cache.popitem(last=False)
