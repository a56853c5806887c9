"""check_kernels: an operator's kernels against its reference, on the instruction set in force; see
`wnn.testing`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from . import dtypes
from .errors import WnnError
from .graph import Graph
from .op import Call, Op, Spec
from .passes import Context, pack_weights
from .plan import Program
from .resolve import handle
from .rules import inverse
from .runtime import _core
from .testing import ISAS, Case, OpCheckError, batchings, cases, close, is_float, near

THREADS = (1, 2, 8)


def check_kernels(op: Op, begin: Callable[[Case], None] = lambda case: None) -> None:
    """The operator's kernels against the reference. begin: called with each case before it runs."""
    if not op.kernels:
        return
    ran: set[str] = set()
    for case in itertools.chain(cases(op), resized(op), typed(op)):
        if not all(a is None or isinstance(a, np.ndarray) and a.dtype != object for a in case.ins):
            continue
        begin(case)
        plain = _run_case(case, case.ins, _plain, ran=ran)
        for n in THREADS[1:]:
            _same_bits(
                case, plain, _run_case(case, case.ins, _plain, n), f"{n} threads and 1 thread"
            )
        for build in (_constants, _transposed, _swapped, _among, _dying):
            _run_case(case, case.ins, build, ran=ran)
        for label, ins in _nonfinite(case):
            _run_case(replace(case, ins=ins, label=f"{case.label}, {label}"), ins, _plain)
    for case in doubled(op):
        begin(case)
        _run_case(case, case.ins, _dying)
    for case in mistyped(op):
        try:
            _run_case(case, case.ins, _plain)
        except OpCheckError:
            raise
        except WnnError:  # refused: as well as right
            continue
    expected = {k.name for k in op.kernels if "bf16" not in k.dtypes}
    if _core.isa() != ISAS[-1]:  # not all are built for each
        able = {k.name for k in op.kernels if k.function is not None or handle(op, k.name)}
        expected &= able
    if idle := expected - ran:
        raise OpCheckError(
            f"[{op.name}] the kernels {sorted(idle)} ran in no case; add a case for each, or build "
            "them"
        )


def resized(op: Op) -> Iterator[Case]:
    """The first cases with 0, 1 and 7 samples along axes that the batch rule calls independent."""
    for case in itertools.islice(cases(op), 3):
        for axes, _ in itertools.islice(batchings(case), 2):
            for n in (0, 1, 7):
                ins = [
                    a if axes[i] is None else np.take(a, np.arange(n) % a.shape[axes[i]], axes[i])
                    for i, a in enumerate(case.ins)
                ]
                new = Case(op, ins, case.attrs, f"{case.label} with {n} samples along {axes}")
                try:
                    new.infer()
                    new.want()
                except (WnnError, ValueError, IndexError):  # an attribute fixes the number
                    continue
                yield new


def typed(op: Op) -> Iterator[Case]:
    """The first cases with inputs of the dtypes that each kernel names, where no case has them."""
    given = [case.specs for case in cases(op)]
    for kernel in op.kernels:
        if any(map(kernel.takes, given)):
            continue
        for case in itertools.islice(cases(op), 3):
            wanted = [*kernel.dtypes, *kernel.dtypes[-1:] * len(case.ins)]
            ins = [
                a if a is None or d == "*" else _as(a, d)
                for a, d in zip(case.ins, wanted, strict=False)
            ]
            yield from _sensible(Case(op, ins, case.attrs, f"{case.label} as {kernel.dtypes}"))


def doubled(op: Op) -> Iterator[Case]:
    """The cases in which another input may be the one that a kernel overwrites, with it as both."""
    places = {op.index[name] for k in op.kernels for name in k.inplace}
    for case in cases(op):
        for i, j in itertools.permutations(range(len(case.ins)), 2):
            a, b = case.ins[i], case.ins[j]
            if i not in places or a is None or b is None:
                continue
            if a.shape == b.shape and a.dtype == b.dtype == np.float32:
                ins = [a if k == j else x for k, x in enumerate(case.ins)]
                label = f"{case.label} with input {i} as input {j}"
                yield from _sensible(Case(op, ins, case.attrs, label))


def mistyped(op: Op) -> Iterator[Case]:
    """The first cases with one input after the first of another dtype."""
    for case in itertools.islice(cases(op), 3):
        for i, a in enumerate(case.ins):
            if i and a is not None and a.dtype.kind in "fi":
                for dtype in {"f": ("f64", "i32"), "i": ("i32", "i64")}[a.dtype.kind]:
                    ins = [_as(a, dtype) if k == i else b for k, b in enumerate(case.ins)]
                    label = f"{case.label} with input {i} as {dtype}"
                    yield from _sensible(Case(op, ins, case.attrs, label))


def _sensible(case: Case) -> Iterator[Case]:
    """The case, unless rule or reference refuse it."""
    try:
        case.infer()
        case.want()
    except (WnnError, TypeError, ValueError):
        return
    yield case


def _as(a: np.ndarray, dtype: str) -> np.ndarray:
    to = dtypes.NUMPY[dtype]
    if to.kind in "iu" and a.dtype.kind == "f":
        a = np.clip(np.round(a * 4), 0 if to.kind == "u" else -100, 100)
    return a.astype(to)


def _run_case(
    case: Case, ins: list, build: Callable, threads: int = 1, ran: set | None = None
) -> list[np.ndarray]:
    """Runs a graph around the operator twice, and holds its outputs against the reference. ran:
    gets the kernels' names.
    """
    g, feed = build(case, ins)
    if g is None:
        return []
    program = Program(g, num_threads=threads)
    kept = [a.copy() for a in feed]
    how = f"{build.__name__.strip('_')}, {threads} thread{'s' * (threads > 1)}"
    got = [np.array(a) for a in program.run(feed)]
    if ran is not None:
        ran |= {
            kernel
            for stage in program.stages(feed)
            if stage.native
            for _, op, kernel, *_ in stage.native.steps
            if op == case.op.name
        }
    _same_bits(case, got, program.run(feed), f"two runs ({how})")
    for i, (a, b) in enumerate(zip(feed, kept)):
        if a.tobytes() != b.tobytes():
            case.fail(f"input {i} was written to ({how})")
    want = case.want(ins)
    specs = Case(case.op, ins, case.attrs).infer()
    for j, (y, w, s) in enumerate(zip(got, want, specs, strict=True)):
        _compare(case, y, w, s, f"output {j} ({how})")
    return got


def _compare(case: Case, got: np.ndarray, want: np.ndarray, spec: Spec, what: str) -> None:
    if got.shape != want.shape or got.dtype != dtypes.NUMPY[spec.dtype]:
        case.fail(f"{what} is {got.dtype}{got.shape}; expected {spec.dtype}{want.shape}")
    rtol, atol = case.op.tol.get(spec.dtype, (0, 0)) if is_float(got) else (0, 0)
    rounded = want
    if is_float(got):
        with np.errstate(over="ignore"):
            rounded = want.astype(got.dtype)
        want = np.where(np.isinf(rounded), rounded, want)
    if close(got, want, rtol, atol):
        return
    bad = np.argwhere(~near(got, want, rtol, atol) if is_float(got) else got != want)
    at = tuple(bad[0])
    with np.printoptions(threshold=200, precision=9, linewidth=120):
        case.fail(
            f"{what}: {len(bad)} of {got.size} elements differ by more than {atol} + {rtol} * "
            f"|want|; the first at {at}: "
            f"found {got[at]!r}, expected {want[at]!r}\n  got:  {got}\n  want: {want}"
        )


def _same_bits(case: Case, a: list, b: list, what: str) -> None:
    for j, (x, y) in enumerate(zip(a, b, strict=True)):
        if x.tobytes() != np.asarray(y).tobytes():
            case.fail(f"output {j} differs between {what}")


# -- graphs around one operator --------------------------------------------------------------------
def graph_of(case: Case, constants: bool) -> tuple[Graph, list]:
    """A graph of the operator alone and what to feed it. constants: all but the first input are."""
    if constants and len(case.ins) > 1 and case.ins[0] is not None:
        return _constants(case, case.ins)
    return _plain(case, case.ins)[0], [_placed(a, 0) for a in case.ins if a is not None]


def _finish(g: Graph, case: Case, values: list) -> Graph:
    outs = g.add(case.op, values, len(case.infer()), **case.attrs)
    g.outputs = list(outs) if isinstance(outs, tuple) else [outs]
    g.output_names = [f"y{j}" for j in range(len(g.outputs))]
    return g


def _plain(case: Case, ins: list) -> tuple[Graph, list]:
    """All inputs given, at addresses that are multiples of their item size and of nothing more."""
    g = Graph(case.op.name)
    values = [
        None if a is None else g.input(f"x{i}", Spec(a.shape, dtypes.name_of(a.dtype)))
        for i, a in enumerate(ins)
    ]
    return _finish(g, case, values), [_placed(a, a.itemsize) for a in ins if a is not None]


def _constants(case: Case, ins: list) -> tuple[Graph | None, list]:
    """All inputs but the first are constants, packed where the kernel wants that."""
    if len(ins) < 2 or ins[0] is None:
        return None, []
    g = Graph(case.op.name)
    values = [g.input("x0", Spec(ins[0].shape, dtypes.name_of(ins[0].dtype)))]
    _finish(g, case, values + [None if a is None else g.const(a) for a in ins[1:]])
    pack_weights(g, Context(g, ()))
    return g, [ins[0]]


def _transposed(case: Case, ins: list) -> tuple[Graph | None, list]:
    """All inputs arrive through a transpose that reverses their axes."""
    return _through(case, ins, lambda rank: tuple(reversed(range(rank))), 2)


def _swapped(case: Case, ins: list) -> tuple[Graph | None, list]:
    """All inputs arrive through a transpose that keeps the last axis."""
    return _through(case, ins, lambda rank: (1, 0, *range(2, rank)), 3)


def _through(case: Case, ins: list, perm_of: Callable, at_least: int) -> tuple[Graph | None, list]:
    if all(a is None or a.ndim < at_least for a in ins):
        return None, []
    g = Graph(case.op.name)
    values, feed = [], []
    for i, a in enumerate(ins):
        if a is None:
            values.append(None)
            continue
        perm = perm_of(a.ndim) if a.ndim >= at_least else tuple(range(a.ndim))
        base = np.array(np.transpose(a, inverse(perm)), order="C")
        v = g.input(f"x{i}", Spec(base.shape, dtypes.name_of(a.dtype)))
        values.append(g.add("transpose", [v], perm=perm) if a.ndim >= at_least else v)
        feed.append(base)
    return _finish(g, case, values), feed


def _among(case: Case, ins: list) -> tuple[Graph | None, list]:
    """All inputs are windows along the last axis of wider arrays, and so is the output."""
    specs = case.infer()
    if len(specs) != 1 or not specs[0].rank:
        return None, []
    if dtypes.name_of(dtypes.NUMPY[specs[0].dtype]) != specs[0].dtype:  # numpy has no such type
        return None, []
    g = Graph(case.op.name)
    values, feed = [], []
    for i, a in enumerate(ins):
        if a is None or not a.ndim:
            values.append(a if a is None else g.input(f"x{i}", Spec((), dtypes.name_of(a.dtype))))
            feed += [] if a is None else [a]
            continue
        base = np.pad(a, [(0, 0)] * (a.ndim - 1) + [(2, 1)], mode="edge" if a.size else "constant")
        v = g.input(f"x{i}", Spec(base.shape, dtypes.name_of(a.dtype)))
        values.append(g.add("slice", [v], window=((a.ndim - 1, 2, 2 + a.shape[-1], 1),)))
        feed.append(base)
    _finish(g, case, values)
    (y,), axis, n = g.outputs, specs[0].rank - 1, specs[0].shape[-1]
    other = g.const(np.zeros((*specs[0].shape[:-1], 2), dtypes.NUMPY[specs[0].dtype]))
    joined = g.add("concat", [other, y, other], axis=axis)
    g.outputs = [g.add("slice", [joined], window=((axis, 2, 2 + n, 1),))]
    return g, feed


def _dying(case: Case, ins: list) -> tuple[Graph | None, list]:
    """Inputs that a kernel may overwrite are made just before it and needed by nothing else."""
    names = {n for k in case.op.kernels for n in k.inplace}
    taken = [
        i
        for i, a in enumerate(ins)
        if a is not None
        and a.dtype == np.float32
        and case.op.inputs[min(i, len(case.op.inputs) - 1)] in names
    ]
    if not taken:
        return None, []
    g = Graph(case.op.name)
    values, feed, made = [], [], {}
    for i, a in enumerate(ins):
        if a is not None and id(a) not in made:
            v = g.input(f"x{i}", Spec(a.shape, dtypes.name_of(a.dtype)))
            dies = any(ins[k] is a for k in taken)
            made[id(a)] = g.add("neg", [v]) if dies else v
            feed.append(np.asarray(-a) if dies else a)
        values.append(None if a is None else made[id(a)])
    _finish(g, case, values)
    y = g.outputs[0]
    if y.spec.dtype == "f32":  # what the graph gives out is written to the caller's memory
        g.outputs = [g.add("neg", [g.add("neg", [y])]), *g.outputs[1:]]
    return g, feed


# -- arrays ----------------------------------------------------------------------------------------
def _nonfinite(case: Case) -> Iterator[tuple[str, list]]:
    """The case with NaN and infinities strewn over one float32 input at a time: the first and those
    of its shape.
    """
    told = case.op.nonfinite
    if callable(told):
        told = told(Call(case.op, case.specs, list(case.infer()), case.attrs))
    if not told:
        return
    for i, a in enumerate(case.ins):
        if a is None or a.dtype != np.float32 or not a.size or i and a.shape != case.ins[0].shape:
            continue
        x = a.copy()
        at = np.random.default_rng(i).integers(0, x.size, 3)
        x.reshape(-1)[at] = np.float32([np.nan, np.inf, -np.inf])
        yield (
            f"NaN and infinities in input {i}",
            [x if k == i else b for k, b in enumerate(case.ins)],
        )


def _placed(a: np.ndarray, offset: int) -> np.ndarray:
    """A copy that lies so many bytes behind a multiple of 64."""
    memory = np.empty(a.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    out = memory[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    out[...] = a
    return out
