"""What a node comes to once its inputs' specs are known: output specs, kernel, packed attributes.

Answers are remembered by operator, attributes and specs, since layers repeat: planning a deep model
costs little more than planning one of its layers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import dtypes, environment
from .errors import NONSENSE, ModelError, WnnError, senseless
from .graph import PLAIN, Node
from .op import Call, Kernel, NeedValue, Op, Spec
from .runtime import _core
from .symbols import Sym, evaluate

MAX_TENSOR_BYTES = int(environment.number("WNN_MAX_TENSOR_GIB", 16) * (1 << 30))
MEMORY = 20_000  # answers kept
SMALL = 16  # elements; values of larger constants count only where a rule asks for them
SMALL_INTS = 256


class Resolved:
    """A node's answer; shared by all nodes that ask the same."""

    __slots__ = ("call", "outs", "_asked", "_derived", "_kernel", "_payloads", "_reads")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.outs = call.outs
        self._kernel: Kernel | None = None
        self._asked = False
        self._payloads: dict[str, bytes] = {}
        self._derived: dict[str, list] = {}
        self._reads: dict[str | None, list] = {}

    def kernel(self, node: Node) -> Kernel | None:
        """The first kernel that takes the node, or None."""
        if not self._asked:
            self._kernel = next((k for k in self.call.op.kernels if self._fits(k, node)), None)
            self._asked = True
        return self._kernel

    def _fits(self, kernel: Kernel, node: Node) -> bool:
        if not _takes(kernel, self.call) or (kernel.pack_weights and not _packed(node, kernel)):
            return False
        return all(node.inputs[node.op.index[n]].const for n, _, _ in self.derived(kernel))

    def derived(self, kernel: Kernel) -> list:
        """What the kernel wants made of constants: (input, key, fn) each."""
        if kernel.derive is None:
            return []
        rows = self._derived.get(kernel.name)
        if rows is None:
            rows = self._derived[kernel.name] = kernel.derive(self.call)
        return rows

    def reads(self, kernel: Kernel | None) -> list[tuple[str, bool]]:
        """Of each input: the strides the kernel (None: the reference) takes, whether packed."""
        name = kernel.name if kernel is not None else None
        rows = self._reads.get(name)
        if rows is None:
            count = len(self.call.ins)
            if kernel is None:
                rows = [("any", False)] * count
            else:
                rows = [input_kind(self.call.op, kernel, i) for i in range(count)]
            self._reads[name] = rows
        return rows

    def payload(self, kernel: Kernel) -> bytes:
        """The kernel's packed attributes."""
        packed = self._payloads.get(kernel.name)
        if packed is None:
            packed = self._payloads[kernel.name] = kernel.pack(self.call) or b""
        return packed


class Resolver:
    """Resolves the nodes of one program."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._answers: dict[tuple, Resolved] = {}
        # node -> (frozen attributes, those with lengths)
        self._attrs: dict[int, tuple[int, list[str]]] = {}
        self._interned: dict[Any, int] = {}

    def register(self, nodes: list[Node]) -> None:
        """Makes nodes known; once, before they are resolved."""
        for n in nodes:
            symbolic = [k for k, v in n.attrs.items() if _has_sym(v)]
            fixed = _freeze({k: v for k, v in n.attrs.items() if k not in symbolic})
            # a kernel is chosen by which inputs are constants, and how they are stored
            stored = tuple([v and v.const and v.const.layout for v in n.inputs])
            frozen = (n.op.name, fixed, stored)
            self._attrs[id(n)] = (self._interned.setdefault(frozen, len(self._interned)), symbolic)

    def resolve(self, node: Node, ins: list[Spec | None], symbols: dict[str, int]) -> Resolved:
        """The node's answer for input specs. NeedValue, or a WnnError that names the node."""
        frozen, symbolic = self._attrs[id(node)]
        try:
            lengths = tuple([_evaluate(node.attrs[k], symbols) for k in symbolic])
        except ArithmeticError as e:
            raise senseless(e, node.op.name, symbols, node.attrs, node.name) from e
        if any(_has_sym(v) for v in lengths):
            raise NeedValue  # of a length that no node has told yet
        key = (frozen, lengths, tuple([None if s is None else _key(s) for s in ins]))
        found = self._answers.get(key)
        if found is not None:
            return found
        attrs = {**node.attrs, **dict(zip(symbolic, lengths))} if symbolic else node.attrs
        light = [None if s is None else _light(s) for s in ins]
        try:
            found = self._answer(node, light, attrs)
        except NeedValue:
            return self._answer(node, ins, attrs)  # by a large value: not remembered
        if len(self._answers) >= MEMORY:
            self._answers.clear()
        self._answers[key] = found
        return found

    def _answer(self, node: Node, ins: list[Spec | None], attrs: dict[str, Any]) -> Resolved:
        try:
            outs = node.op.infer(ins, attrs)
        except WnnError as e:
            where = f" (node {node.name!r})" if node.name and node.name not in str(e) else ""
            raise type(e)(f"{e}{where}") from None
        except NONSENSE as e:
            raise senseless(e, node.op.name, ins, attrs, node.name) from e
        if len(outs) < len(node.outputs):
            raise ModelError(
                f"[{node.op.name}] found {len(node.outputs)} outputs (node {node.name!r}); "
                f"expected at most {len(outs)} from its inputs and attributes; check the model"
            )
        for s in outs:
            if not s.concrete or s.size * dtypes.ITEMSIZE[s.dtype] > MAX_TENSOR_BYTES:
                raise ModelError(
                    f"[{node.op.name}] found an output {s} (node {node.name!r}); expected at most "
                    f"{MAX_TENSOR_BYTES >> 30} GiB; check the inputs' shapes, or raise "
                    "WNN_MAX_TENSOR_GIB"
                )
        return Resolved(Call(node.op, ins, list(outs), attrs, self.threads))


def _counts(s: Spec) -> bool:
    return s.value is not None and (
        s.value.size <= SMALL or (s.value.size <= SMALL_INTS and s.value.dtype.kind in "iub")
    )


def _key(s: Spec) -> tuple:
    key = s._short
    if key is None:
        key = s._short = s.key if s.value is None or _counts(s) else (s.shape, s.dtype)
    return key


def _light(s: Spec) -> Spec:
    return s if s.value is None or _counts(s) else Spec(s.shape, s.dtype)


def _takes(kernel: Kernel, call: Call) -> bool:
    """Whether a kernel is there and takes these dtypes and shapes."""
    if not kernel.takes(call.ins):
        return False
    if kernel.accept is not None and not kernel.accept(call):
        return False
    return kernel.function is not None or bool(handle(call.op, kernel.name))


def input_kind(op: Op, kernel: Kernel, i: int) -> tuple[str, bool]:
    """(strides that a kernel takes of input i, whether it takes panels)."""
    name = op.inputs[i] if i < len(op.inputs) else op.variadic or "post"
    packed = name in kernel.pack_weights
    return kernel.strides.get(name, "any" if packed else "contiguous"), packed


def _packed(node: Node, kernel: Kernel) -> bool:
    """Whether weights come as the kernel reads them; a kernel that names their strides also reads
    plain ones.
    """
    for name in kernel.pack_weights:
        i = node.op.index[name]
        v = node.inputs[i] if i < len(node.inputs) else None
        plain = v is None or v.const is None or v.const.layout == PLAIN
        if plain and name not in kernel.strides:
            return False
    return True


_HANDLES: dict[str, int] = {}  # kernel -> handle, 0 where no library has it


def handle(op: Op | None, name: str) -> int:
    """The native handle of a kernel of an operator (None: of the core itself), or 0."""
    full = f"{op.domain}:{name}" if op is not None and op.domain else name
    h = _HANDLES.get(full)
    if h is None:
        if op is not None and op.domain:
            from .plugins import kernel_handle

            h = kernel_handle(op, name)
        else:
            h = _core.kernel(name) if name in _core.kernels() else 0
        _HANDLES[full] = h
    return h


def _has_sym(x: Any) -> bool:
    return isinstance(x, Sym) or (isinstance(x, (tuple, list)) and any(_has_sym(y) for y in x))


def _evaluate(x: Any, env: dict) -> Any:
    if isinstance(x, (tuple, list)):
        return tuple([evaluate(y, env) if isinstance(y, Sym) else _evaluate(y, env) for y in x])
    return evaluate(x, env)


def _freeze(x: Any) -> Any:
    if isinstance(x, dict):
        return tuple([(k, _freeze(v)) for k, v in sorted(x.items())])
    if isinstance(x, (list, tuple)):
        return tuple([_freeze(y) for y in x])
    if isinstance(x, np.ndarray):
        return (x.shape, x.dtype.str, x.tobytes())
    try:
        hash(x)
    except TypeError:
        return id(x)
    return (x, "nan") if x != x else (type(x).__name__, x)
