"""What a native stage is made of: nodes whose shapes are all known, those of them that are needed,
and where their results go.

Concat hands windows on its output to the producers of its inputs, and outputs theirs, through
reshapes, so that most write in place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import dtypes
from .arena import Buffer, Window
from .graph import Node, Value
from .op import Kernel, Spec
from .resolve import Resolved, input_kind
from .rules import accepts, contiguous_strides, is_contiguous
from .runtime._core import ARENA, OUTPUT

if TYPE_CHECKING:
    from .plan import Program

LASTING = 64 << 20  # bytes that the plans of a model may keep for values that shapes alone decide


class Segment:
    """nodes: the live ones, in order.  users, uses: of each value.  lasting: ids of the nodes that
    run once in each context.  inputs: values from elsewhere.  placed: windows that producers are to
    write to.  output_buffers: of the outputs.  chains: nodes that run in one step, by the id of the
    last one; chained: ids of the others.
    """

    def __init__(
        self,
        program: Program,
        nodes: list[tuple[Node, Resolved]],
        specs: dict[Value, Spec],
        outputs: list[Value],
    ) -> None:
        self.program = program
        self.answers = {id(n): r for n, r in nodes}
        self.specs = specs
        self.outputs = outputs
        self.nodes = self._live([n for n, _ in nodes])
        self.lasting, self.lasting_bytes = self._find_lasting()
        self.inputs = self._find_inputs()
        self.placed: dict[Value, Window] = {}
        self.output_buffers: dict[Value, Buffer] = {}

    def spec(self, v: Value) -> Spec:
        return v.spec if v.const is not None else self.specs[v]

    def nbytes(self, v: Value) -> int:
        spec = self.spec(v)
        return spec.size * dtypes.ITEMSIZE[spec.dtype]

    def kernel(self, node: Node) -> Kernel | None:
        return self.answers[id(node)].kernel(node)

    def _live(self, nodes: list[Node]) -> list[Node]:
        """Nodes that the outputs depend on; also lists who uses each value, and counts the uses."""
        self.users: dict[Value, list[Node]] = {}
        specs, needed, live = self.specs, set(self.outputs), []
        for node in reversed(nodes):
            if needed.isdisjoint(node.outputs):
                continue
            live.append(node)
            for v in node.inputs:
                if v is None or v.const is not None:
                    continue
                self.users.setdefault(v, []).append(node)
                if not specs[v].known:
                    needed.add(v)
        self.live = set(map(id, live))
        self.uses = {v: len(nodes) for v, nodes in self.users.items()}
        return live[::-1]

    def _find_lasting(self) -> tuple[set[int], int]:
        """Nodes whose results depend on shapes alone, as positions do, and how many bytes of these
        others read: they run once in each context. Their values have one use more than there is, so
        that their memory is never given to others.
        """
        made: set[Value] = set()
        lasting: set[int] = set()
        for node in self.nodes:
            if id(node) not in self.program.fixed or any(v in self.outputs for v in node.outputs):
                continue
            given = [v for v in node.inputs if v is not None and v.const is None]
            if all(v in made or self.specs[v].known for v in given):
                lasting.add(id(node))
                made.update(node.outputs)
        users = self.users
        read = [v for v in made if any(id(n) not in lasting for n in users.get(v, ()))]
        nbytes = sum(map(self.nbytes, read))
        if nbytes > LASTING - self.program.lasting_bytes():
            return set(), 0
        for v in read:
            self.uses[v] += 1
        return lasting, nbytes

    def _find_inputs(self) -> list[Value]:
        made = {o for n in self.nodes for o in n.outputs}
        used = [v for n in self.nodes for v in n.inputs if v is not None] + self.outputs
        return [
            v
            for v in dict.fromkeys(used)
            if v.const is None and v not in made and not self.spec(v).known
        ]

    # -- where results go
    def place_outputs(self) -> None:
        """Outputs are written straight into the caller's arrays, also by producers that a chain of
        reshapes lies behind.
        """
        made = {o: n for n in self.nodes for o in n.outputs}
        for i, v in enumerate(self.outputs):
            buffer = Buffer(OUTPUT, i, self.nbytes(v))
            buffer.uses = 1 << 30
            self.output_buffers[v] = buffer
            root = v
            while (
                root in made
                and made[root].op.name in ("reshape", "identity")
                and made[root].inputs[0].const is None
            ):
                root = made[root].inputs[0]
            if root not in made or root in self.placed or id(made[root]) in self.lasting:
                continue
            if root is v or root not in self.outputs:
                self.placed[root] = Window(buffer, 0, contiguous_strides(self.specs[root].shape))

    def place_concat(self, node: Node) -> None:
        """Gives the producers of a concatenation's inputs their parts of its output, where they can
        write there.
        """
        out = node.outputs[0]
        spec = self.specs[out]
        whole = self.placed.get(out)
        if whole is None:
            buffer = Buffer(ARENA, 0, self.nbytes(out))
            whole = self.placed[out] = Window(buffer, 0, contiguous_strides(spec.shape))
        ins = [self.spec(v) for v in node.inputs]
        for v, (offset, strides) in zip(
            node.inputs, node.op._window(whole.strides, ins, [spec], **node.attrs)
        ):
            s = self.spec(v)
            producer = v.producer
            if (
                v.const is not None
                or s.known
                or v in self.placed
                or v in self.outputs
                or producer is None
                or node.inputs.count(v) > 1
            ):
                continue
            if (
                v not in self.specs
                or id(producer) not in self.live
                or (id(producer) in self.lasting) != (id(node) in self.lasting)
            ):
                continue
            if producer.op._window is not None:
                fits = self._read_by(v, s, strides)
            elif producer.op._view is not None:
                fits = producer.op.name == "reshape" and self.uses[v] == 1  # copied there at once
            else:
                fits = is_contiguous(s.shape, strides) or self._fits(producer, v, s, strides)
            if fits:
                self.placed[v] = Window(whole.buffer, whole.offset + offset, strides)

    def _fits(self, producer: Node, v: Value, s: Spec, strides: tuple) -> bool:
        """Whether v's producer can write, and all its users read, by these strides."""
        kernel = self.kernel(producer)
        name = _name(producer.op.outputs, producer.outputs.index(v))
        return (
            kernel is not None
            and accepts(kernel.strides.get(name, "contiguous"), s.shape, strides)
            and self._read_by(v, s, strides)
        )

    def _read_by(self, v: Value, s: Spec, strides: tuple) -> bool:
        """Whether all users of v can read it by these strides."""
        for user in self.users.get(v, ()):
            if user.op._window is not None:
                continue
            if user.op._view is not None:
                return False
            k = self.kernel(user)
            if k is None or not all(
                accepts(input_kind(user.op, k, i)[0], s.shape, strides)
                for i, x in enumerate(user.inputs)
                if x is v
            ):
                return False
        return True

    def find_chains(self) -> None:
        """Nodes that run in one step with the node that alone reads what they give."""
        self.chains: dict[int, list[Node]] = {}  # by the last
        able = {n.op for n in self.nodes if any(k.chain for k in n.op.kernels)}
        for node in self.nodes if able and not self.program.check else ():
            if node.op not in able:
                continue
            v = node.inputs[0] if node.inputs else None
            before = v.producer if v is not None else None
            if before is None or id(before) not in self.live or self.uses.get(v) != 1:
                continue
            kernel = self.kernel(node)
            chain = kernel and kernel.chain
            if not chain or v in self.outputs or v in self.placed:
                continue
            nodes = self.chains.get(id(before), [before])
            if self.kernel(before) is None or self.kernel(before).chain is not chain:
                continue
            calls = [self.answers[id(n)].call for n in nodes]
            if chain.joins(calls, self.answers[id(node)].call):
                self.chains.pop(id(before), None)
                self.chains[id(node)] = [*nodes, node]
        self.chained = {id(n) for nodes in self.chains.values() for n in nodes[:-1]}


def _name(names: list[str], i: int) -> str:
    return names[min(i, len(names) - 1)]
