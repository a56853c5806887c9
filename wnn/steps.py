"""Builds native stages: kernels, views, memory and steps for the nodes of a segment.

Every tensor is a window (offset, strides) on a buffer; a buffer lies in the arena, in an input, in
an output, or is a constant. Reshape, Transpose, Split, Slice and Expand only make windows. A kernel
that needs other strides than a window has gets a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from . import dtypes, python_steps
from .arena import Arena, Buffer, Window
from .errors import NONSENSE, ShapeError, WnnError, senseless
from .graph import PLAIN, Node, Value
from .op import Call, Chain, Kernel, Spec
from .resolve import Resolved, handle
from .rules import accepts, contiguous_strides, is_contiguous
from .runtime import _core
from .runtime._core import ARENA, CONSTANT, INPUT, OUTPUT
from .segment import Segment
from .stage import NativeStage, Step

if TYPE_CHECKING:
    from .plan import Program


def build_native(
    program: Program, nodes: list[tuple[Node, Resolved]], specs: dict[Value, Spec], outputs: list
) -> NativeStage:
    """The native stage that computes `outputs` by those of `nodes` that they need."""
    return _Builder(Segment(program, nodes, specs, outputs)).build()


class _Builder:
    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.program = segment.program
        self.answers, self.specs = segment.answers, segment.specs
        self.placed, self.uses = segment.placed, segment.uses
        self.check = segment.program.check
        self.plan = _core.Plan(
            segment.program.num_threads,
            [segment.nbytes(v) for v in segment.inputs],
            [segment.nbytes(v) for v in segment.outputs],
        )
        self.arena = Arena()
        self.windows: dict[Value, Window] = {}
        self.steps: list[tuple] = []

    def build(self) -> NativeStage:
        segment, graph = self.segment, self.program.graph
        segment.place_outputs()
        for node in reversed(segment.nodes):
            if node.op._window is not None:
                self._sensibly(segment.place_concat, node)
        segment.find_chains()
        for node in segment.nodes:
            if id(node) in segment.lasting:
                self._sensibly(self._node, node)
        self.plan.last()
        for node in segment.nodes:
            if id(node) not in segment.lasting:
                self._sensibly(self._node, node)
        inputs, outputs = segment.inputs, segment.outputs
        for i, v in enumerate(outputs):
            self._finish_output(i, v)
        self.plan.seal(self.arena.size)
        specs = [self.specs[v] for v in outputs]
        make_room = self.program.make_room
        stage = NativeStage(self.plan, inputs, outputs, specs, self.steps, make_room)
        stage.lasting_bytes = segment.lasting_bytes
        if outputs == graph.outputs and set(inputs) <= set(graph.inputs):
            stage.order = [graph.inputs.index(v) for v in inputs]
        return stage

    @staticmethod
    def _sensibly(step: Callable[[Node], None], node: Node) -> None:
        try:
            step(node)
        except WnnError:
            raise
        except NONSENSE as e:
            raise senseless(e, node.op.name, node.specs(), node.attrs, node.name) from e

    # -- nodes
    def _node(self, node: Node) -> None:
        if id(node) in self.segment.chained:
            return
        if node.op._view is not None and self._as_view(node):
            pass
        elif node.op._window is not None:
            self._as_windows(node)
        else:
            self._as_step(node)
        for n in self.segment.chains.get(id(node), (node,)):
            for v in n.inputs:
                if v is not None and v.const is None:
                    self._release(v)

    def _as_view(self, node: Node) -> bool:
        src = node.inputs[0]
        w = self._window(src)
        call = self.answers[id(node)].call
        views = node.op._view(w.strides, call.ins[0], call.outs, **call.attrs)
        if views is None and self._copied_into_place(node, w, call):
            return True
        if views is None:
            w = self._contiguous(src, w)
            views = node.op._view(w.strides, call.ins[0], call.outs, **call.attrs)
            if views is None:
                return False
        for o, (offset, strides) in zip(node.outputs, views):
            placed = self.placed.get(o)
            if placed is not None and not (
                placed.buffer is w.buffer and placed.offset == w.offset + offset
            ):
                self._copy(w.buffer, w.offset + offset, strides, o, placed)
                self._set(o, placed)
            else:
                self._set(o, Window(w.buffer, w.offset + offset, tuple(strides)))
        return True

    def _copied_into_place(self, node: Node, w: Window, call: Call) -> bool:
        """Copies a window straight to where its reshaped form has been placed, if that place can be
        seen in the window's shape.
        """
        target = self.placed.get(node.outputs[0])
        if target is None or node.op.name != "reshape":
            return False
        x = call.ins[0]
        back = node.op._view(target.strides, call.outs[0], [x], **{**call.attrs, "to": x.shape})
        if back is None:
            return False
        self._materialise(target.buffer)
        (offset, strides), *_ = back
        self._step_copy(w, x, Window(target.buffer, target.offset + offset, strides), node)
        self._set(node.outputs[0], target)
        return True

    def _as_windows(self, node: Node) -> None:
        out = node.outputs[0]
        spec = self.specs[out]
        whole = self.placed[out]
        self._materialise(whole.buffer)
        call = self.answers[id(node)].call
        for v, s, (offset, strides) in zip(
            node.inputs, call.ins, node.op._window(whole.strides, call.ins, [spec], **call.attrs)
        ):
            w = self._window(v)
            if w.buffer is whole.buffer and w.offset == whole.offset + offset or s.size == 0:
                continue
            self._step_copy(w, s, Window(whole.buffer, whole.offset + offset, strides), node)
        self._set(out, whole)

    def _as_step(self, node: Node) -> None:
        if all(0 in self.specs[o].shape for o in node.outputs):  # kernels need not expect it
            for j, o in enumerate(node.outputs):
                self._set(o, self._output_window(node, None, o, j, []))
        else:
            self._as_computed(node)
        for o in node.outputs:
            if not self.uses.get(o) and o not in self.segment.output_buffers:
                self._give(self.windows[o].buffer)

    def _as_computed(self, node: Node) -> None:
        answer = self.answers[id(node)]
        kernel, call = answer.kernel(node), answer.call
        before = self.segment.chains.get(id(node), [node])[:-1]
        ins = [i for n in before for i in self._read(n, n is not before[0])[0]]
        own, windows = self._read(node, bool(before))
        ins += own
        if kernel is not None and kernel.derive is not None:
            ins += self._derived(node, kernel)
        outs = []
        for j, o in enumerate(node.outputs):
            w = self._output_window(node, kernel, o, j, windows)
            self._set(o, w)
            outs.append(self._tensor(w, self.specs[o], None))
        label = node.name or node.op.name
        if kernel is None:
            self.program.fallbacks[node.op.name] = "reference"
        if kernel is None or kernel.function is not None:
            self._python_step(node, kernel, call, ins, outs, label)
        elif before:
            self._chain_step(kernel.chain, [*before, node], ins, outs)
        else:
            self.plan.step(
                handle(node.op, kernel.name), answer.payload(kernel), tuple(ins), tuple(outs), label
            )
            self.steps.append(Step(label, node.op.name, kernel.name, call.outs[0], node, call))
            if self.check:
                self._check_step(node, call, ins[: len(node.inputs)], outs, label)

    def _read(self, node: Node, chained: bool) -> tuple[list[int], list[Window | None]]:
        """Of each input: its tensor's number and window; none of the first one if that is chained,
        nor of absent ones.
        """
        answer = self.answers[id(node)]
        kernel, call = answer.kernel(node), answer.call
        ins: list[int] = []
        windows: list[Window | None] = []
        for v, spec, (kind, packed) in zip(node.inputs, call.ins, answer.reads(kernel)):
            if v is None or (chained and not ins):
                ins.append(-1)
                windows.append(None)
                continue
            w = self._window(v, packed)
            if (
                kind != "any"
                and w.strides != contiguous_strides(spec.shape)
                and not accepts(kind, spec.shape, w.strides)
            ):
                w = self._contiguous(v, w)
            ins.append(self._tensor(w, spec, v if packed else None))
            windows.append(w)
        return ins, windows

    def _chain_step(self, chain: Chain, nodes: list[Node], ins: list, outs: list) -> None:
        answers = [self.answers[id(n)] for n in nodes]
        calls = [a.call for a in answers]
        payloads = [a.payload(a.kernel(n)) for a, n in zip(answers, nodes)]
        label = " + ".join(n.name or n.op.name for n in nodes)
        name = "+".join(dict.fromkeys(n.op.name for n in nodes))
        handles = [handle(n.op, a.kernel(n).name) for a, n in zip(answers, nodes)]
        attrs = chain.pack(calls, payloads, handles)
        self.plan.step(handle(nodes[0].op, chain.kernel), attrs, tuple(ins), tuple(outs), label)
        before = tuple(zip(nodes[:-1], calls))
        self.steps.append(
            Step(label, name, chain.kernel, calls[-1].outs[0], nodes[-1], calls[-1], before)
        )

    def _output_window(
        self, node: Node, kernel: Kernel | None, o: Value, j: int, windows: list
    ) -> Window:
        spec = self.specs[o]
        if o in self.placed:
            w = self.placed[o]
            self._materialise(w.buffer)
            return w
        nbytes = self.segment.nbytes(o)
        if j == 0 and kernel is not None and not self.check:
            places = [node.op.index[name] for name in kernel.inplace]
            for i in places:
                if i >= len(node.inputs) or node.inputs[i] is None:
                    continue
                v, w = node.inputs[i], windows[i]
                # as another input, such as what is added afterwards, it would be read too late
                count = sum(u is v for k, u in enumerate(node.inputs) if k in places)
                dies = (
                    w is self.windows.get(v)
                    and w.buffer.slot == ARENA
                    and w.buffer.uses == count == self.uses[v]
                )
                if (
                    dies
                    and w.buffer.nbytes == nbytes
                    and is_contiguous(self.segment.spec(v).shape, w.strides)
                    and self.segment.spec(v).shape == spec.shape
                ):
                    return Window(w.buffer, w.offset, contiguous_strides(spec.shape))
        buffer = Buffer(ARENA, 0, nbytes)
        self._materialise(buffer)
        return Window(buffer, 0, contiguous_strides(spec.shape))

    def _python_step(
        self, node: Node, kernel: Kernel | None, call: Call, ins: list, outs: list, label: str
    ) -> None:
        """A step in Python: the operator's reference, or a kernel that is a function."""
        run = python_steps.compute(node, kernel, call, label)
        self.plan.python_step(run, python_steps.given(node, ins), tuple(outs), label)
        name = "reference" if kernel is None else kernel.name
        self.steps.append(Step(label, node.op.name, name, call.outs[0], node, call))

    def _check_step(self, node: Node, call: Call, ins: list, outs: list, label: str) -> None:
        run = python_steps.check(node, call, len(ins), label)
        self.plan.python_step(run, (*python_steps.given(node, ins), *outs), (), f"check {label}")
        self.steps.append(Step(f"check {label}", "check", "reference", call.outs[0], node))

    def _derived(self, node: Node, kernel: Kernel) -> list[int]:
        extra = []
        for name, key, make in self.answers[id(node)].derived(kernel):
            const = node.inputs[node.op.index[name]].const
            array = const.derived.get(key)
            if array is None:
                array = const.derived[key] = np.ascontiguousarray(make(const.array))
            w = Window(Buffer(CONSTANT, 0, array.nbytes, array), 0, contiguous_strides(array.shape))
            extra.append(self._tensor(w, Spec(array.shape, dtypes.name_of(array.dtype)), None))
        return extra

    # -- windows
    def _window(self, v: Value, packed: bool = False) -> Window:
        w = self.windows.get(v)
        if w is None:
            spec = self.segment.spec(v)
            if v.const is not None:
                array = v.const.data if packed or v.const.layout == PLAIN else v.const.array
                w = Window(
                    Buffer(CONSTANT, 0, array.nbytes, array), 0, contiguous_strides(spec.shape)
                )
            elif spec.known:
                array = np.ascontiguousarray(spec.value, dtypes.NUMPY[spec.dtype])
                w = Window(
                    Buffer(CONSTANT, 0, array.nbytes, array), 0, contiguous_strides(spec.shape)
                )
            else:
                w = Window(
                    Buffer(INPUT, self.segment.inputs.index(v), self.segment.nbytes(v)),
                    0,
                    contiguous_strides(spec.shape),
                )
            self._set(v, w)
        return w

    def _set(self, v: Value, w: Window) -> None:
        self.windows[v] = w
        w.buffer.uses += self.uses.get(v, 0)

    def _release(self, v: Value) -> None:
        w = self.windows.get(v)
        if w is None:
            return
        self.uses[v] -= 1
        w.buffer.uses -= 1
        if self.uses[v] == 0 and w.copy is not None:
            w.copy.buffer.uses -= 1
            self._give(w.copy.buffer)
        self._give(w.buffer)

    def _give(self, buffer: Buffer) -> None:
        if buffer.slot == ARENA and buffer.uses == 0 and buffer.offset >= 0:
            self.arena.give(buffer.offset, buffer.nbytes)
            buffer.offset = -2

    def _materialise(self, buffer: Buffer) -> None:
        if buffer.slot == ARENA and buffer.offset == -1:
            buffer.offset = self.arena.take(buffer.nbytes)

    def _contiguous(self, v: Value, w: Window) -> Window:
        """A contiguous copy of a window; made once, kept until the value's last use."""
        if w.copy is None:
            spec = self.segment.spec(v)
            if w.buffer.slot == CONSTANT:
                array = np.ascontiguousarray(
                    np.lib.stride_tricks.as_strided(
                        w.buffer.array.reshape(-1)[w.offset :],
                        spec.shape,
                        [s * w.buffer.array.itemsize for s in w.strides],
                    )
                )
                w.copy = Window(
                    Buffer(CONSTANT, 0, array.nbytes, array), 0, contiguous_strides(spec.shape)
                )
            else:
                buffer = Buffer(ARENA, 0, self.segment.nbytes(v))
                self._materialise(buffer)
                w.copy = Window(buffer, 0, contiguous_strides(spec.shape))
                self._step_copy(w, spec, w.copy, v.producer)
            w.copy.buffer.uses += 1
        return w.copy

    def _copy(self, buffer: Buffer, offset: int, strides: tuple, v: Value, target: Window) -> None:
        self._materialise(target.buffer)
        self._step_copy(Window(buffer, offset, tuple(strides)), self.specs[v], target, v.producer)

    def _step_copy(self, src: Window, spec: Spec, dst: Window, node: Node | None) -> None:
        label = (node.name or node.op.name) if node else "copy"
        self.plan.step(
            handle(None, "copy"),
            b"",
            (self._tensor(src, spec, None),),
            (self._tensor(dst, spec, None),),
            label,
        )
        self.steps.append(Step(label, "copy", "copy", spec, node))

    def _finish_output(self, i: int, v: Value) -> None:
        buffer = self.segment.output_buffers[v]
        spec = self.specs[v]
        w = self._window(v)
        if w.buffer is not buffer or w.offset or not is_contiguous(spec.shape, w.strides):
            if w.buffer.slot == OUTPUT and w.buffer is buffer:
                raise ShapeError(f"[plan] output {v.name!r} overlaps itself; please report this")
            self._step_copy(w, spec, Window(buffer, 0, contiguous_strides(spec.shape)), v.producer)

    def _tensor(self, w: Window, spec: Spec, packed: Value | None) -> int:
        key = (spec.dtype, spec.shape)
        number = w.ids.get(key)
        if number is None:
            b = w.buffer
            itemsize = dtypes.ITEMSIZE[spec.dtype]
            layout = (
                packed.const.layout if packed is not None and packed.const is not None else PLAIN
            )
            strides = None if is_contiguous(spec.shape, w.strides) else w.strides
            start = w.offset * itemsize + (b.offset if b.slot == ARENA else 0)
            if 0 in spec.shape:  # a window on nothing may begin beyond its buffer's end
                start = 0
            number = w.ids[key] = self.plan.tensor(
                b.slot,
                start,
                dtypes.STORED[spec.dtype],
                spec.shape,
                strides,
                layout=layout,
                index=b.index,
                constant=b.array,
            )
        return number
