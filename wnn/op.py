"""Op: everything known of one operator, in one place.

A stem (`ops_std/softmax.py`, or a module of an op package) makes an `Op` and hangs its facts on it
with decorators: rule, reference, importers, kernels, transpose and batch rules, fusions, cases.
Nothing else needs editing: the importer, the passes, the plan, the tests and the bench all ask the
record.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import dtypes
from .errors import WnnError
from .spec import MAX_KNOWN, Spec
from .spec import NeedValue as NeedValue
from .spec import Permuted as Permuted
from .spec import need as need


@dataclass
class Kernel:
    """One kernel of an operator and what it accepts.

    dtypes: short names of the inputs' dtypes, the last one also of all that follow; "*" accepts
        any.
    strides: input or output name -> "any", "matrix" (unit stride on one of the last two axes),
        "last" (on the last) or "rows" (on the last, and the other axes collapse into one); names
        not given must be contiguous.
    inplace: names of inputs whose memory output 0 may take over when they die here.
    pack_weights: input name -> number of leading group axes; a constant given there is stored as
        panels of 16.
    accept: called like `pack`; False means the next kernel is tried.
    derive: called like `pack`; a list of (input name, key, fn(array) -> array): constants made once
        from constants, appended to the kernel's inputs.
    function: the kernel itself where it is Python; called with the input arrays and attributes.
    chain: the kernel that runs such kernels, each on the output of the one before, as one step.
    """

    name: str
    dtypes: tuple[str, ...]
    pack: Callable[[Call], bytes]
    strides: dict[str, str] = field(default_factory=dict)
    inplace: tuple[str, ...] = ()
    pack_weights: dict[str, int] = field(default_factory=dict)
    accept: Callable[[Call], bool] | None = None
    derive: Callable[[Call], list] | None = None
    function: Callable | None = None
    chain: Chain | None = None

    def takes(self, ins: Sequence[Spec | None]) -> bool:
        """Whether it takes inputs of these dtypes; of absent ones any."""
        last = len(self.dtypes) - 1
        return all(
            s is None or last < 0 or self.dtypes[min(i, last)] in ("*", s.dtype)
            for i, s in enumerate(ins)
        )


@dataclass
class Chain:
    """A kernel in place of several, each of which reads as its first input what the one before
    gives, and nobody else does.

    joins: fn(calls, call) -> bool, whether one more goes behind those before
    pack: fn(calls, their packed attributes, handles of their kernels) -> bytes
    It gets all their inputs, in order; that first input of all but the first is absent.
    """

    kernel: str
    joins: Callable[[list[Call], Call], bool]
    pack: Callable[[list[Call], list[bytes], list[int]], bytes]


@dataclass
class Call:
    """An operator applied to specs: what `pack`, `accept`, `derive` and `flops` can ask for by
    parameter name.

    An input's name gives its Spec (None where absent; a variadic name gives a list), an attribute's
    its value;
    `ins` and `outs` give all specs, `out` the first output's, `threads` the number of threads.
    """

    op: Op
    ins: list[Spec | None]
    outs: list[Spec]
    attrs: dict[str, Any]
    threads: int = 1

    def arg(self, name: str):
        op = self.op
        if name in op.index:
            i = op.index[name]
            if op.variadic == name:
                return self.ins[i:]
            return self.ins[i] if i < len(self.ins) else None
        if name in self.attrs:
            return self.attrs[name]
        return self.outs[0] if name == "out" else getattr(self, name)


def _by_name(fn: Callable) -> Callable[[Call], Any]:
    """Calls fn with whichever facts of a Call its parameters name."""
    names = fn.__code__.co_varnames[: fn.__code__.co_argcount]
    return lambda call: fn(*[call.arg(n) for n in names])


class Op:
    """The record of one operator.

    name: "softmax", or "contrib.swin:window_attention" for one of a package.
    inputs: names in order; "bias?" may be absent, "*rest" takes any number.  outputs: names in
    order.
    attrs: name -> default; `...` as default means required.
    tol: dtype -> (rtol, atol) that kernels keep against the reference.
    commutative: the first two inputs may be swapped.   posts: takes post-operations (attribute
    `post`).
    """

    def __init__(
        self,
        name: str,
        inputs: str = "x",
        outputs: str = "y",
        attrs: dict[str, Any] | None = None,
        tol: dict[str, tuple[float, float]] | None = None,
        commutative: bool = False,
        posts: bool = False,
        doc: str | None = None,
    ) -> None:
        self.name = name
        words = inputs.split()
        self.inputs = [w.strip("?*") for w in words]
        self.required = sum(not w.startswith("*") and not w.endswith("?") for w in words)
        self.variadic = next((w[1:] for w in words if w.startswith("*")), None)
        self.outputs = outputs.split()
        self.index = {n: i for i, n in enumerate(self.inputs)}
        self.attrs = dict(attrs or {})
        self.posts = posts
        if posts:
            self.attrs.setdefault("post", ())
        self.tol = {
            "f32": (1e-5, 1e-6),
            "f64": (1e-12, 1e-14),
            "f16": (2e-3, 1e-3),
            "bf16": (2e-2, 1e-2),
            **(tol or {}),
        }
        self.commutative = commutative
        caller = inspect.currentframe().f_back
        self.doc = doc if doc is not None else caller.f_globals.get("__doc__") or ""
        self.module = caller.f_globals.get("__name__", "")
        self.importers: list[tuple[str, str, int, Callable]] = []
        self.kernels: list[Kernel] = []
        self.fusions: list = []
        self._rule: Callable | None = None
        self._outline: Callable | None = None
        self._reference: Callable | None = None
        self._view: Callable | None = None
        self._window: Callable | None = None
        self._transpose: Callable | None = None
        self._batch: Callable | None = None
        self._cases: Callable | None = None
        self._benches: Callable | None = None
        self._flops: Callable[[Call], int] | None = None
        self._control: Callable | None = None
        self.as_post: Callable | None = None
        self.float64 = True
        # Whether the reference takes object arrays of Syms too, as shape arithmetic needs
        self.symbolic = False
        # Whether the output is what input 0 holds, in that order, in another shape at most
        self.keeps_order = False
        # Whether kernels are as fast in any order of axes, so that a transpose may stay before it
        self.any_layout = False
        # The pass that its fusions run in
        self.fused_in = "package patterns" if self.domain else "core idioms"
        # Whether NaN and infinities in inputs mean what the reference says, or a function of a Call
        self.nonfinite: bool | Callable[[Call], bool] = True

    # -- facts
    def rule(self, fn: Callable) -> Callable:
        """rule(*input specs, **attrs) -> Spec, or a tuple of them. Raises WnnError for what cannot
        be, NeedValue.
        """
        self._rule = fn
        return fn

    def outline(self, fn: Callable) -> Callable:
        """outline(symbol, *input specs, **attrs) -> what the rule would say, with new lengths
        symbol(hint) where only running the model tells them.
        """
        self._outline = fn
        return fn

    def reference(self, fn: Callable) -> Callable:
        """reference(*input arrays, **attrs) -> array or tuple: the operator's meaning, in numpy.

        Float inputs arrive as float64 and the results are rounded once, unless op.float64 is False.
        """
        self._reference = fn
        return fn

    def importer(
        self, onnx_name: str, since: int = 1, domain: str = "", takes: str = "f16"
    ) -> Callable:
        """@op.importer("Softmax", since=13): fn(g, node) -> Value or tuple of Values; the newest
        fitting one is used.

        takes: of "f16", "bits" (bf16 and the types of 8 bits or fewer) and "obj" (sequences and
        optionals) what inputs may be as they are. Others of the former two are given as float32
        (integers as int8), and what is made of them is rounded once.
        """

        def register(fn: Callable) -> Callable:
            fn.takes = takes.split()
            self.importers.append((domain, onnx_name, since, fn))
            return fn

        return register

    def kernel(
        self,
        dtypes: str,
        name: str,
        strides: dict[str, str] | None = None,
        inplace: str = "",
        pack_weights: dict[str, int] | None = None,
        accept: Callable | None = None,
        derive: Callable | None = None,
        chain: Chain | None = None,
    ) -> Callable:
        """@op.kernel("f32", "softmax_f32"): pack(...) -> bytes of the kernel's attrs; see `Kernel`
        and `Call`.
        """

        def register(pack: Callable) -> Callable:
            self.kernels.append(
                Kernel(
                    name,
                    tuple(dtypes.split()),
                    _by_name(pack),
                    strides or {},
                    tuple(inplace.split()),
                    pack_weights or {},
                    _by_name(accept) if accept else None,
                    _by_name(derive) if derive else None,
                    chain=chain,
                )
            )
            return pack

        return register

    def python_kernel(
        self, dtypes: str, strides: dict[str, str] | None = None, accept: Callable | None = None
    ) -> Callable:
        """@op.python_kernel("f32"): fn(*input arrays, **attrs) -> array or tuple, in numpy or
        compiled.

        Inputs have the dtypes that are named, and are contiguous unless `strides` says otherwise;
        an absent one is None. A parameter `out` gets the array to write into (a tuple where there
        are several outputs); such a function returns None.
        """

        def register(fn: Callable) -> Callable:
            self.kernels.append(
                Kernel(
                    fn.__name__,
                    tuple(dtypes.split()),
                    lambda call: b"",
                    strides or {},
                    accept=_by_name(accept) if accept else None,
                    function=fn,
                )
            )
            return fn

        return register

    def control(self, fn: Callable) -> Callable:
        """control(run, *input arrays, **attrs) -> list of outputs: operators that run bodies (If,
        Loop, Scan).

        run(graph, arrays) -> list of arrays runs a body graph as plans. Such an operator needs no
        rule.
        """
        self._control = fn
        return fn

    def view(self, fn: Callable) -> Callable:
        """view(strides, x, outs, **attrs) -> [(offset, strides) per output] in elements, or None:
        outputs that are windows on input 0.
        """
        self._view = fn
        return fn

    def window(self, fn: Callable) -> Callable:
        """window(strides, ins, outs, **attrs) -> [(offset, strides) per input]: inputs that are
        windows on output 0 (concat).
        """
        self._window = fn
        return fn

    def transpose(self, fn: Callable) -> Callable:
        """transpose(perm, i, ins, attrs) -> Permuted or None: how a transposed input i passes
        through. ins: specs.
        """
        self._transpose = fn
        return fn

    def batch(self, fn: Callable) -> Callable:
        """batch(axes, ins, outs, attrs) -> axis per output, or None.

        axes[i] is the axis of input i along which samples lie, None for an input all samples share.
        The answer says along which axis each output's samples lie, given that none depends on
        another; None: they may depend.
        """
        self._batch = fn
        return fn

    def fuse(
        self,
        pattern,
        where: Callable | None = None,
        name: str | None = None,
        size: int | None = None,
    ) -> Callable:
        """@op.fuse(pattern): fn(g, m) -> Value or tuple replacing the pattern's outputs, or None to
        decline. Larger patterns are tried first; size says how many nodes are replaced where fn
        finds more of them than the pattern describes.
        """
        from .pattern import Fusion

        def register(fn: Callable) -> Callable:
            named = self.name if fn.__name__ == "<lambda>" else f"{self.name}.{fn.__name__}"
            self.fusions.append(Fusion(name or named, pattern, fn, where, self, size))
            return fn

        return register

    def cases(self, fn: Callable) -> Callable:
        """cases(rng) yields dicts of inputs and attrs; rng(*shape) draws float32. They feed tests
        and bench.
        """
        self._cases = fn
        return fn

    def benches(self, fn: Callable) -> Callable:
        """benches(rng) yields dicts as cases do: realistic sizes, which only the bench runs."""
        self._benches = fn
        return fn

    def flops(self, fn: Callable) -> Callable:
        """flops(...) -> int, called like a kernel's pack; multiply and add count one each."""
        self._flops = _by_name(fn)
        return fn

    # -- questions
    @property
    def domain(self) -> str:
        return self.name.rpartition(":")[0]

    def attrs_with_defaults(self, given: dict[str, Any]) -> dict[str, Any]:
        """given, completed by the defaults; refuses unknown names and missing required ones."""
        for k in given:
            if k not in self.attrs:
                raise WnnError(
                    f"[{self.name}] found attribute {k!r} = {given[k]!r}; expected one of "
                    f"{sorted(self.attrs)}; "
                    "correct the name or update the package that provides the operator"
                )
        out = {**self.attrs, **given}
        missing = [k for k, v in out.items() if v is ...]
        if missing:
            raise WnnError(f"[{self.name}] required attributes {missing} are missing; give them")
        return out

    def infer(self, ins: list[Spec | None], attrs: dict[str, Any]) -> tuple[Spec, ...]:
        """Output specs, by the rule; and their values, by the reference, where all inputs' values
        are known and small.
        """
        if len(ins) < self.required:
            raise WnnError(
                f"[{self.name}] found {len(ins)} inputs; expected at least {self.required} "
                f"({' '.join(self.inputs)}); "
                "check the model"
            )
        out = self._rule(*ins, **attrs)
        out = out if isinstance(out, tuple) else (out,)
        if all(s is None or s.value is not None for s in ins) and all(o.value is None for o in out):
            return self._fold(ins, attrs, out)
        return out

    def _fold(self, ins, attrs, out) -> tuple[Spec, ...]:
        if not ins or any(s is not None and s.value.size > MAX_KNOWN for s in ins):
            return out
        if any(not o.concrete or o.size > MAX_KNOWN or o.dtype in ("str", "obj") for o in out):
            return out
        symbolic = any(s is not None and s.value.dtype == object for s in ins)
        if symbolic and not self.symbolic:
            return out
        try:
            values = self.run_reference([None if s is None else s.value for s in ins], attrs, out)
        except (TypeError, ValueError, NotImplementedError):
            if symbolic:  # an expression that numpy cannot follow: the value stays unknown
                return out
            raise
        # new ones: a rule may give the same spec for several outputs
        return tuple(Spec(o.shape, o.dtype, v) for o, v in zip(out, values, strict=True))

    def run_reference(
        self, arrays: list, attrs: dict[str, Any], outs: tuple[Spec, ...]
    ) -> list[np.ndarray]:
        """The reference on concrete arrays, in float64 where inputs are floats, cast to the output
        specs' dtypes.
        """
        if self.float64:
            arrays = [
                a.astype(np.float64)
                if isinstance(a, np.ndarray) and a.dtype in (np.float32, np.float16)
                else a
                for a in arrays
            ]
        with np.errstate(all="ignore"):
            got = self._reference(*arrays, **attrs)
            got = got if isinstance(got, tuple) else (got,)
            result = []
            for g, o in zip(got, outs):
                g = np.asarray(g)
                if g.dtype == object and o.dtype not in ("str", "obj"):
                    result.append(_settle(g, o))
                else:
                    result.append(np.asarray(g, dtypes.NUMPY[o.dtype]))
        return result

    def missing(self) -> list[str]:
        """What the record still lacks, in words; empty when complete."""
        lacks = []
        if self._rule is None and self._control is None:
            lacks.append("a rule (@op.rule)")
        if self._reference is None and self._control is None:
            lacks.append("a reference (@op.reference)")
        if self._cases is None and self._control is None:
            lacks.append("cases (@op.cases)")
        if not self.doc.strip():
            lacks.append("a docstring with formula, shapes and source")
        return lacks

    def case_list(self, large: bool = False) -> Iterator[tuple[list, dict[str, Any]]]:
        """(inputs, attrs) for each of the operator's cases; large: of those for the bench."""
        gen = np.random.default_rng(0)

        def rng(*shape: int) -> np.ndarray:
            return gen.standard_normal(shape).astype(np.float32)

        rng.integers = gen.integers
        for case in (self._benches if large else self._cases)(rng):
            ins: list = []
            for n in self.inputs:
                if n == self.variadic:
                    ins.extend(case.get(n, []))
                else:
                    ins.append(case.get(n))
            while ins and ins[-1] is None:
                ins.pop()
            yield ins, {k: v for k, v in case.items() if k not in self.index}

    def __repr__(self) -> str:
        return f"Op({self.name!r})"


def _settle(g: np.ndarray, o: Spec) -> np.ndarray:
    """An object array back to its dtype, unless a Sym is still in it."""
    try:
        return g.astype(dtypes.NUMPY[o.dtype])
    except TypeError:
        return g
