"""opcheck: holds everything that an operator's record says against its reference.

    from wnn.testing import opcheck
    opcheck(op)     rule, views, transpose and batch rules, kernels; raises OpCheckError

    python -m wnn.testing [-v] [NAME...]    kernels only, of all operators or those named, on the
        ISA that WNN_ISA names; -v names each case on stderr before it runs

Kernels run (see kernel_checks.py) on the operator's cases, on the cases with other numbers of
samples (0, 1, 7), with strided and misaligned inputs, with constants, in place, with NaN and
infinities, on 1, 2 and 8 threads, and twice; all against the reference in float64 by |got - want|
<= atol + rtol * |want|, the same bits whatever the number of threads.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import dtypes
from .errors import UnsupportedError, WnnError
from .op import NeedValue, Op, Spec
from .plugins import ensure_std
from .registry import REGISTRY
from .rules import contiguous_strides, inverse
from .symbols import Sym, evaluate

ISAS = ("baseline", "avx2", "avx512")
RUNNING = "running "


class OpCheckError(AssertionError):
    """A fact of an operator's record does not hold; the message shows the whole case."""


@dataclass
class Case:
    """One application of an operator to arrays."""

    op: Op
    ins: list
    attrs: dict[str, Any]
    label: str = ""

    def __post_init__(self) -> None:
        self.attrs = self.op.attrs_with_defaults(self.attrs)
        self.ins = [np.asarray(a) if isinstance(a, np.generic) else a for a in self.ins]

    def __str__(self) -> str:
        with np.printoptions(threshold=200, precision=9, linewidth=120):
            rows = [f"  input {i}: {_show(a)}" for i, a in enumerate(self.ins)]
        return "\n".join(
            [f"{self.op.name} {self.label}".rstrip(), f"  attributes: {self.attrs}", *rows]
        )

    def fail(self, what: str) -> None:
        raise OpCheckError(f"[{self.op.name}] {what}\n{self}")

    @property
    def specs(self) -> list[Spec | None]:
        return [None if a is None else Spec.of(a) for a in self.ins]

    def infer(self) -> tuple[Spec, ...]:
        """Output specs by the rule, given no more values than it asks for."""
        specs = [None if s is None else s.like() for s in self.specs]
        for _ in range(len(specs) + 1):
            try:
                outs = self.op._rule(*specs, **self.attrs)
                return outs if isinstance(outs, tuple) else (outs,)
            except NeedValue as e:
                for i in e.indices:
                    specs[i] = Spec.of(self.ins[i])
        self.fail("the rule asks again for values that it was given")

    def want(self, ins: list | None = None, attrs: dict | None = None) -> list[np.ndarray]:
        """Outputs by the reference, float ones in float64."""
        op = self.op
        arrays = self.ins if ins is None else ins
        if op.float64:
            arrays = [a.astype(np.float64) if is_float(a) else a for a in arrays]
        with np.errstate(all="ignore"):
            got = op._reference(*arrays, **(self.attrs if attrs is None else attrs))
        return [np.asarray(g) for g in (got if isinstance(got, tuple) else (got,))]


def opcheck(op: Op, kernels: bool = True) -> None:
    """Checks everything that the record says, kernels on the ISA in force. Raises OpCheckError with
    the case.
    """
    ensure_std()
    try:
        op.attrs_with_defaults({"no such attribute": 1})
    except WnnError:
        pass
    else:
        raise OpCheckError(f"[{op.name}] an unknown attribute was accepted")
    for case in cases(op):
        check_rule(case)
        check_view(case)
        check_transpose(case)
        check_batch(case)
    if kernels:
        from .kernel_checks import check_kernels

        check_kernels(op)


def cases(op: Op, large: bool = False) -> Iterator[Case]:
    """The operator's own cases; large: those that only the bench runs."""
    if (op._benches if large else op._cases) is not None:
        for i, (ins, attrs) in enumerate(op.case_list(large)):
            yield Case(op, ins, attrs, f"case {i}")


# -- facts that need no kernel ---------------------------------------------------------------------
def check_rule(case: Case) -> None:
    """The rule's shapes and dtypes are the reference's; also with names in place of lengths."""
    if case.op._rule is None:
        return
    outs = case.infer()
    want = case.want()
    for j, (o, w) in enumerate(zip(outs, want, strict=True)):
        kind = dtypes.NUMPY[o.dtype].kind
        if tuple(o.shape) != w.shape:
            case.fail(f"output {j}: the rule says {o}, the reference gives shape {w.shape}")
        if kind in "fb" and w.dtype.kind not in (kind, "V") and o.dtype != "bf16":
            case.fail(f"output {j}: the rule says {o.dtype}, the reference gives {w.dtype}")
    env = {
        f"n{i}_{k}": n
        for i, s in enumerate(case.specs)
        if s is not None
        for k, n in enumerate(s.shape)
    }
    for i, s in enumerate(case.specs):
        if s is None or not s.rank:
            continue
        free = [None if t is None else t.like() for t in case.specs]
        free[i] = Spec([Sym(f"n{i}_{k}") for k in range(s.rank)], s.dtype)
        try:
            got = case.op._rule(*free, **case.attrs)
        except NeedValue:
            continue
        except WnnError as e:
            if i:  # weights and the like are known
                continue
            case.fail(f"the rule refuses free lengths in input 0, which may turn out to fit: {e}")
        for o, w in zip(got if isinstance(got, tuple) else (got,), want):
            shape = tuple(evaluate(d, env) for d in o.shape)
            if shape != w.shape:
                case.fail(
                    f"with free lengths in input {i} the rule says {o.shape}, here {shape}; the "
                    f"reference gives {w.shape}"
                )


def check_view(case: Case) -> None:
    """The windows that a view rule answers show what the reference computes."""
    if case.op._view is None:
        return
    outs = case.infer()
    want = case.want()
    x = np.asarray(case.ins[0])
    for perm in {tuple(range(x.ndim)), tuple(reversed(range(x.ndim)))}:
        base = np.ascontiguousarray(np.transpose(x, perm)).reshape(-1)
        strides = (
            [contiguous_strides(tuple(x.shape[p] for p in perm))[k] for k in inverse(perm)]
            if x.ndim
            else []
        )
        views = case.op._view(tuple(strides), Spec.of(x).like(), list(outs), **case.attrs)
        if views is None:
            continue
        for j, ((offset, st), o, w) in enumerate(zip(views, outs, want, strict=True)):
            step = [s * base.itemsize for s in st]
            got = (
                np.lib.stride_tricks.as_strided(
                    base[offset:].view(dtypes.NUMPY[o.dtype]), o.shape, step
                )
                if w.size
                else np.empty(o.shape, x.dtype)
            )
            if not np.array_equal(got, w, equal_nan=is_float(w)):
                case.fail(
                    f"output {j}: the view (offset {offset}, strides {st}) on strides {strides} "
                    "shows another tensor than the reference"
                )


def check_transpose(case: Case) -> None:
    """op(transpose(x)) is transpose(op'(x)) as the transpose rule says."""
    if case.op._transpose is None:
        return
    want = case.want()
    for i, s in enumerate(case.specs):
        if s is None or s.rank < 2:
            continue
        for perm in itertools.islice(itertools.permutations(range(s.rank)), 1, 8):
            rule = case.op._transpose(perm, i, case.specs, dict(case.attrs))
            if rule is None:
                continue
            base = [
                np.transpose(a, inverse(rule.inputs[k]))
                if k < len(rule.inputs) and rule.inputs[k] is not None
                else a
                for k, a in enumerate(case.ins)
            ]
            got = case.want(base, rule.attrs)
            for g, w, p in zip(got, want, rule.outputs, strict=True):
                if not close(np.transpose(g, p) if p is not None else g, w, 1e-6, 1e-9):
                    case.fail(
                        f"for input {i} transposed by {perm} the transpose rule {rule} gives "
                        "another result"
                    )


def check_batch(case: Case) -> None:
    """Where the batch rule says that samples are independent, replacing one sample by another does
    just that.
    """
    for axes, found in batchings(case):
        want = case.want()
        n = next(case.ins[i].shape[a] for i, a in enumerate(axes) if a is not None)
        for to, source in ((0, n - 1), (n - 1, 0)):
            ins = [
                a if axes[i] is None else _replaced(a, axes[i], to, source)
                for i, a in enumerate(case.ins)
            ]
            for j, (g, w) in enumerate(zip(case.want(ins), want, strict=True)):
                expected = (
                    w
                    if found[j] is None
                    else _replaced(w, found[j], to, source, w.shape[found[j]] // n)
                )
                if not close(g, expected, 1e-6, 1e-9):
                    case.fail(
                        f"the batch rule answers {found} for samples along axes {axes}, yet "
                        f"replacing sample {to} by {source} changes output {j} elsewhere or "
                        "otherwise"
                    )


def batchings(case: Case) -> Iterator[tuple[list, list]]:
    """(axes, answer) for every choice of sample axes that the batch rule accepts."""
    if case.op._batch is None or case.attrs.get("post"):
        return
    choices = []
    for a in case.ins:
        rank = np.ndim(a) if isinstance(a, np.ndarray) and a.dtype != object else 0
        choices.append([None, *range(rank)])
    outs = list(case.infer())
    for axes in itertools.islice(itertools.product(*choices), 1, 400):
        lengths = {case.ins[i].shape[a] for i, a in enumerate(axes) if a is not None}
        if len(lengths) == 1 and lengths.pop() > 1:
            found = case.op._batch(list(axes), case.specs, outs, case.attrs)
            if found is not None:
                yield list(axes), list(found)


# -- arrays ----------------------------------------------------------------------------------------
def _replaced(a: np.ndarray, axis: int, to: int, source: int, block: int = 1) -> np.ndarray:
    """a with sample `to` replaced by another; a sample may be a block of indices (reshape merges
    axes).
    """
    out = np.moveaxis(a.copy(), axis, 0)
    out[to * block : (to + 1) * block] = out[source * block : (source + 1) * block]
    return np.moveaxis(out, 0, axis)


def is_float(a: Any) -> bool:
    return isinstance(a, np.ndarray) and a.dtype.kind == "f"


def near(got: np.ndarray, want: np.ndarray, rtol: float, atol: float) -> np.ndarray:
    if not is_float(want) and not is_float(got):
        return got == want
    with np.errstate(all="ignore"):
        return (
            (got == want)
            | (np.abs(got - want) <= atol + rtol * np.abs(want))
            | (np.isnan(got) & np.isnan(want))
        )


def close(got: np.ndarray, want: np.ndarray, rtol: float, atol: float) -> bool:
    if got.shape != want.shape:
        return False
    return bool(np.all(near(got, want, rtol, atol)))


def _show(a: Any) -> str:
    return f"{a.dtype}{a.shape} {np.array2string(a)}" if isinstance(a, np.ndarray) else repr(a)


# -- other instruction sets ------------------------------------------------------------------------
def other_isas() -> list[str]:
    """The instruction sets that this CPU has and that are not in force here."""
    from .runtime import _core

    able = ISAS[: ISAS.index(_core.cpu()["isa"]) + 1]
    return [isa for isa in able if isa != _core.isa()]


def check_isa(isa: str, names: list[str] | None = None, timeout: float = 600) -> None:
    """Runs check_kernels of all operators (or those named) under another instruction set, in a
    process of its own, for `timeout` seconds. OpCheckError with what it said; after a crash, or
    where it came to no end, with the case that ran.
    """
    if isa not in ISAS:
        raise UnsupportedError(
            f"[opcheck] found ISA {isa!r}; expected one of {ISAS}; correct the name"
        )
    command = [sys.executable, "-m", "wnn.testing", "-v", *(names or [])]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "WNN_ISA": isa},
            capture_output=True,
            check=False,
            timeout=timeout,
        )
        code = done.returncode
        how = f"exit code {code}" + (f" ({signal.Signals(-code).name})" if code < 0 else "")
    except subprocess.TimeoutExpired as e:
        done, code, how = e, -signal.SIGKILL, f"no end within {timeout:g} s"  # run killed it
    if code:
        stdout, stderr = ((s or b"").decode(errors="replace") for s in (done.stdout, done.stderr))
        lines = stderr.splitlines()
        said = "\n".join(line for line in lines if not line.startswith(RUNNING))
        ran = [line for line in lines if line.startswith(RUNNING)]
        case = f" {ran[-1]}" if code < 0 and ran else ""
        raise OpCheckError(
            f"[opcheck] WNN_ISA={isa}: {how}{case}\n{stdout[-20000:]}\n{said[-4000:]}"
        )


def _say(case: Case) -> None:
    print(f"{RUNNING}{case.op.name} {case.label}", file=sys.stderr, flush=True)


def _main(arguments: list[str]) -> int:
    from .kernel_checks import check_kernels
    from .plugins import summon_domain

    names = [a for a in arguments if a != "-v"]
    options = {"begin": _say} if "-v" in arguments else {}
    ensure_std()
    for domain in {n.rpartition(":")[0] for n in names} - {""}:
        summon_domain(domain)
    failed = 0
    for name in names or sorted(REGISTRY.ops):
        try:
            check_kernels(REGISTRY.get(name), **options)
        except Exception as e:
            failed += 1
            print(f"{type(e).__name__}: {e}\n", flush=True)
    return min(failed, 100)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
