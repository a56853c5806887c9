"""What steps of a plan run in Python: references, kernels that are functions, and checks of others.

A plan hands over arrays upon its memory; constants are taken from the graph, unpacked.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import NONSENSE, WnnError, senseless
from .graph import Constant, Node
from .op import Call, Kernel


def given(node: Node, tensors: list[int]) -> tuple[int, ...]:
    """The tensors that a plan has to hand over: none (-1) for constants."""
    consts = _constants(node)
    return tuple([-1 if i in consts else t for i, t in enumerate(tensors)])


def compute(node: Node, kernel: Kernel | None, call: Call, label: str) -> Callable:
    """run(arrays, results) by a Python kernel; without one, by the operator's reference."""
    apply = _reference(call) if kernel is None else _function(kernel.function, call.attrs)
    consts = _constants(node)

    def run(arrays: list, results: list) -> None:
        try:
            apply(_filled(arrays, consts), results)
        except WnnError:
            raise
        except NONSENSE as e:
            raise senseless(e, node.op.name, call.ins, call.attrs, label) from e

    return run


def check(node: Node, call: Call, n: int, label: str) -> Callable:
    """run(arrays, []) that holds what a kernel wrote, behind its n inputs, against the reference:
    WNN_CHECK=1.
    """
    op, specs, consts = node.op, tuple(call.outs), _constants(node)

    def run(arrays: list, _: list) -> None:
        wanted = op.run_reference(_filled(arrays[:n], consts), call.attrs, specs)
        for got, want, spec in zip(arrays[n:], wanted, specs):
            rtol, atol = op.tol.get(spec.dtype, (0, 0))
            known = want.dtype.kind == "f" and want.size
            scale = float(np.nanmax(np.abs(want), initial=0)) if known else 0.0
            near = {"rtol": 10 * rtol, "atol": 10 * atol + rtol * scale}
            if not np.allclose(got, want, **near, equal_nan=True):
                worst = np.nanmax(np.abs(got.astype(np.float64) - want))
                raise WnnError(
                    f"[{op.name}] WNN_CHECK found a difference of {worst:.3g} from the reference "
                    f"at node {label!r} ({call.ins} -> {spec}); expected rtol {rtol}, atol {atol}; "
                    "report this kernel as wrong"
                )

    return run


def _constants(node: Node) -> dict[int, Constant]:
    return {i: v.const for i, v in enumerate(node.inputs) if v is not None and v.const is not None}


def _filled(arrays: list, consts: dict[int, Constant]) -> list[Any]:
    return [consts[i].array if i in consts else a for i, a in enumerate(arrays)]


def _reference(call: Call) -> Callable:
    def apply(arrays: list, results: list) -> None:
        for r, y in zip(results, call.op.run_reference(arrays, call.attrs, tuple(call.outs))):
            r[...] = y

    return apply


def _function(fn: Callable, attrs: dict) -> Callable:
    """A kernel may take the results as `out`."""
    if "out" in inspect.signature(fn).parameters:
        return lambda arrays, results: fn(
            *arrays, **attrs, out=results[0] if len(results) == 1 else tuple(results)
        )

    def apply(arrays: list, results: list) -> None:
        got = fn(*arrays, **attrs)
        for r, y in zip(results, got if isinstance(got, tuple) else (got,)):
            r[...] = y

    return apply
