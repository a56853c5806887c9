"""NNForward: a model, from numpy to numpy."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import dtypes, environment
from .errors import DtypeError, ModelError, ShapeError, UnsupportedError, WnnError
from .graph import Graph, Value
from .plan import Program
from .symbols import Sym

MAX_THREADS = 255  # WNN_MAX_THREADS of the core


class Port(NamedTuple):
    """An input or output of a model.

    dtype: as in "f32", "i64", "u8", "bool"; "obj" of sequences, maps and optional values.
    shape: ints, or the names of free axes. Each is None where nothing is known.
    """

    name: str
    dtype: str | None
    shape: tuple | None


class NNForward:
    """A model that runs on the CPU. Pickled it is its settings and the path it came from (or the
    bytes), from which the copy loads it again.

    num_threads: worker threads (default: what affinity and control groups allow).
    max_batchsize: larger batches are run in chunks of so many samples, where samples are proven
    independent.
    backend: "cpu".
    plugins: `wnn.summon_plugins` (or the default, "auto"): installed op packages take part; None:
    none of them; a list of domains: these only.

        model = wnn.NNForward(num_threads=2)
        model.load_from_file("model.onnx")
        y, = model.infer([x])
    """

    def __init__(
        self,
        num_threads: int | None = None,
        max_batchsize: int | None = None,
        backend: str = "cpu",
        plugins: Any = "auto",
    ) -> None:
        if backend != "cpu":
            raise WnnError(f"[NNForward] found backend {backend!r}; expected 'cpu'; leave it out")
        if num_threads is None:
            from .runtime import _core

            num_threads = int(
                environment.number("WNN_THREADS", _core.default_threads(), 1, MAX_THREADS)
            )
        limits = (("num_threads", num_threads, MAX_THREADS), ("max_batchsize", max_batchsize, None))
        for name, n, most in limits:
            if n is not None and (
                not isinstance(n, (int, np.integer)) or n < 1 or (most and n > most)
            ):
                raise WnnError(
                    f"[NNForward] found {name}={n!r}; expected a positive integer"
                    f"{f', at most {most}' if most else ''}; pass one, or leave it out"
                )
        self.num_threads = int(num_threads)
        self.max_batchsize = max_batchsize
        self.plugins = plugins
        self._program: Program | None = None
        self._path: str | None = None  # of what was loaded, if it came from a file

    # -- loading
    def load_from_file(self, path: str | os.PathLike) -> NNForward:
        """Loads a `.wnnx` or `.onnx` file; returns self. ModelError, MissingOperatorError for what
        cannot be loaded.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise ModelError(
                f"[load] found {type(path).__name__}; expected the path of a .wnnx or .onnx model; "
                "call load_from_proto for a model's bytes"
            )
        from . import wnnx

        path = os.fsdecode(path)
        graph = wnnx.load(path) if wnnx.is_wnnx(path) else self._import(path)
        return self._adopt(graph, os.path.abspath(path))

    def load_from_proto(self, model: Any) -> NNForward:
        """Loads an `onnx.ModelProto`, or its bytes; returns self."""
        if isinstance(model, (bytearray, memoryview)):
            model = bytes(model)
        if not isinstance(model, bytes) and not hasattr(model, "SerializeToString"):
            raise ModelError(
                f"[load] found {type(model).__name__}; expected an onnx.ModelProto or its bytes; "
                "call load_from_file for a path"
            )
        return self._adopt(self._import(model))

    def load_from_graph(self, graph: Graph) -> NNForward:
        """Takes a graph as it is, without passes; returns self."""
        if not isinstance(graph, Graph):
            raise ModelError(
                f"[load] found {type(graph).__name__}; expected a wnn.graph.Graph; call "
                "load_from_file for a path"
            )
        return self._adopt(graph)

    def _import(self, source: Any) -> Graph:
        from . import importer, passes, plugins
        from .registry import REGISTRY

        packages = plugins.resolve(self.plugins)
        known = REGISTRY.without(plugins.left_out(packages))
        core = [f for f in REGISTRY.fusions() if not f.op.domain]
        try:
            graph = importer.import_model(source, known)
            return passes.run(graph, core + plugins.fusions(packages))
        except MemoryError as e:
            raise UnsupportedError(
                f"[load] found that memory does not suffice ({e}); expected room for the weights; "
                "free some, or load a smaller model"
            ) from e

    def _adopt(self, graph: Graph, path: str | None = None) -> NNForward:
        program = Program(graph, self.num_threads)
        self._path, self._program = path, program
        return self

    # -- running
    def infer(
        self, inputs: Sequence | Mapping[str, Any], out: Sequence[np.ndarray | None] | None = None
    ) -> list[np.ndarray]:
        """Runs the model.

        inputs: arrays in the model's order, or a dict by name; anything with the buffer protocol,
        `__array__` or DLPack.
        out: arrays to write the outputs into.  Returns arrays that the caller owns.
        Raises ShapeError and DtypeError for inputs that do not fit, IndexOutOfRangeError for
        indices out of data, UnsupportedError where memory does not suffice.
        """
        try:
            return self._run(inputs, out, None)
        except MemoryError as e:
            raise UnsupportedError(
                f"[infer] found that memory does not suffice ({e}); expected room for the outputs "
                "and what lies between; use smaller inputs, or max_batchsize"
            ) from e

    __call__ = infer

    def _run(
        self, inputs: Sequence | Mapping[str, Any], out: Sequence | None, timings: list | None
    ) -> list[np.ndarray]:
        program = self._loaded()
        if out is None and self.max_batchsize is None and _are_arrays(inputs):
            native = program.known(inputs)  # planned before: the inputs have been checked then
            if native is not None:
                return native.run_direct(inputs, None, timings)
        arrays = self._arrays(inputs, program.graph)
        if out is not None:
            _check_out(out, len(program.graph.outputs))
        if self.max_batchsize is not None or any(
            _frozen_batch(v, a) for v, a in zip(program.graph.inputs, arrays)
        ):
            from . import batching

            return batching.run(self, program, arrays, out, timings)
        return program.run(arrays, out, timings)

    def _arrays(self, inputs: Sequence | Mapping[str, Any], graph: Graph) -> list:
        if isinstance(inputs, Mapping):
            names = {v.name for v in graph.inputs}
            unknown, missing = (
                [k for k in inputs if k not in names],
                [v.name for v in graph.inputs if v.name not in inputs],
            )
            if unknown or missing:
                raise WnnError(
                    f"[infer] found inputs {sorted(inputs, key=str)}; expected "
                    f"{[v.name for v in graph.inputs]}; "
                    f"{'add ' + str(missing) if missing else 'remove ' + str(unknown)}"
                )
            inputs = [inputs[v.name] for v in graph.inputs]
        elif isinstance(inputs, np.ndarray) or not isinstance(inputs, Sequence):
            raise WnnError(
                f"[infer] found {type(inputs).__name__}; expected a list of arrays or a dict by "
                "name; write infer([x])"
            )
        elif len(inputs) != len(graph.inputs):
            raise WnnError(
                f"[infer] found {len(inputs)} inputs; expected {len(graph.inputs)}: "
                f"{[v.name for v in graph.inputs]}; pass them all"
            )
        return [
            a
            if type(a) is np.ndarray
            and v.spec is not None
            and a.dtype != object
            and a.dtype == dtypes.NUMPY[v.spec.dtype]
            else _to_array(a, v.name, v.spec.dtype if v.spec else _port(graph, v, v.name).dtype)
            for a, v in zip(inputs, graph.inputs)
        ]

    def _loaded(self) -> Program:
        if self._program is None:
            raise WnnError(
                "[NNForward] found no model; expected one to be loaded; call load_from_file first"
            )
        return self._program

    # -- looking
    @property
    def graph(self) -> Graph:
        """The graph as it runs, after all passes."""
        return self._loaded().graph

    @property
    def inputs(self) -> list[Port]:
        """Name, dtype and shape of each input."""
        graph = self.graph
        return [_port(graph, v, v.name) for v in graph.inputs]

    @property
    def outputs(self) -> list[Port]:
        """Name, dtype and shape of each output."""
        graph = self.graph
        return [_port(graph, v, n) for v, n in zip(graph.outputs, graph.output_names)]

    def profile(self, inputs: Sequence | Mapping[str, Any]) -> list[tuple[str, str, int]]:
        """Runs twice and returns (node, operator, nanoseconds) of each step of the second run."""
        self._run(inputs, None, None)
        timings: list = []
        self._run(inputs, None, timings)
        return [(step.label, step.op, ns) for step, ns in timings]

    def memory_report(self) -> dict[str, int]:
        """Bytes held: constants, derived forms of constants, arenas of contexts at rest."""
        program = self._loaded()
        consts = {id(v.const): v.const for v in program.graph.constants().values()}
        return {
            "constants": sum(c.data.nbytes for c in consts.values()),
            "derived": sum(a.nbytes for c in consts.values() for a in c.derived.values()),
            "arenas": program.arena_bytes(),
        }

    def fallback_ops(self) -> dict[str, str]:
        """Operators without a native kernel here: name -> "reference" or "onnx.reference". Complete
        after a first run.
        """
        return dict(self._loaded().fallbacks)

    # -- life
    def close(self) -> None:
        """Lets go of the model and its memory."""
        self._program = None

    def __enter__(self) -> NNForward:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getstate__(self) -> dict:
        from . import wnnx

        state = {**self.__dict__, "_program": None, "plugins": _by_name(self.plugins)}
        program = self._program
        if program and state["_path"] is None:
            state["_bytes"] = wnnx.dumps(program.graph)
        elif not program:
            state["_path"] = None
        return state

    def __setstate__(self, state: dict) -> None:
        from . import wnnx

        data = state.pop("_bytes", None)
        self.__dict__.update(state)
        if data is not None:
            self._adopt(wnnx.loads(data))
        elif self._path is not None:
            self.load_from_file(self._path)

    def __repr__(self) -> str:
        program = self._program  # another thread may close the model
        what = f"{len(program.graph.nodes)} nodes" if program else "no model"
        return f"<NNForward {what}, {self.num_threads} threads>"


def _by_name(plugins: Any) -> Any:
    """A choice of packages as it can be pickled: reports and modules as names."""
    from .plugins import resolve

    if plugins is None or isinstance(plugins, str) or callable(plugins):
        return plugins
    return [p.name for p in resolve(plugins)]


def _port(graph: Graph, v: Value, name: str) -> Port:
    if v.spec is None:
        return Port(name, graph.meta.get("dtypes", {}).get(name), None)
    return Port(
        name, v.spec.dtype, tuple(str(d) if isinstance(d, Sym) else d for d in v.spec.shape)
    )


def _are_arrays(inputs: Any) -> bool:
    return type(inputs) is list and {*map(type, inputs)} <= {np.ndarray}


def _frozen_batch(v: Value, a: Any) -> bool:
    """Whether an array differs from the declared shape in a frozen axis 0 only."""
    if v.spec is None or not isinstance(a, np.ndarray) or not v.spec.shape or a.ndim != v.spec.rank:
        return False
    d = v.spec.shape[0]
    return isinstance(d, int) and a.shape[0] != d


def _to_array(a: Any, name: str, want: str | None) -> Any:
    """A numpy array of the dtype `want`, without a copy where possible; DtypeError for what is of
    another one. Anything where that is None or "obj", with its arrays in this machine's byte order.
    """
    if want in ("obj", None):
        return _native(a)
    if not isinstance(a, np.ndarray):
        a = _read(a, name, want)
    found = dtypes.name_of(a.dtype)
    if a.dtype.kind in "SO" and not all(isinstance(x, str) for x in a.flat):
        found = "obj"
    if found == want:
        if want in dtypes.BITS:
            return dtypes.bits_of(a)
        if want == "str":  # texts of a fixed length would cut off longer ones put among them
            return a.astype(object, copy=False)
        return _native(a)
    if want in dtypes.BITS and a.dtype == dtypes.NUMPY[want]:
        return a
    if want == "str":
        form, remedy = "an array of str", "convert it with .astype(str)"
    elif want in dtypes.BITS:
        form = f"its dtype of the package ml_dtypes, or its bits as {dtypes.NUMPY[want]}"
        remedy = "convert it by ml_dtypes"
    else:
        form, remedy = dtypes.NUMPY[want], f"convert it with .astype({dtypes.NUMPY[want]})"
    raise DtypeError(
        f"[infer] found input {name!r} of dtype {a.dtype}; expected {want} ({form}); {remedy}"
    )


def _native(a: Any) -> Any:
    if isinstance(a, (list, tuple)):
        return [_native(x) for x in a]
    if isinstance(a, np.ndarray) and not a.dtype.isnative:
        return a.astype(a.dtype.newbyteorder("="))
    return a


def _read(a: Any, name: str, want: str) -> np.ndarray:
    """The array that an object holds; Python's numbers, strings and lists of them take the dtype
    `want`. DtypeError for what holds none.
    """
    dtype = dtypes.NUMPY[want]
    try:
        if hasattr(a, "__dlpack__") and not hasattr(a, "__array__"):
            return np.from_dlpack(a)
        if not isinstance(a, (int, float, bool, str, list, tuple)):
            return np.asarray(a)
        plain = np.asarray(a)
        if want == "str" or plain.dtype.kind == "U":
            return plain
        if want == "bf16":
            return dtypes.to_bf16(plain)
        if want in dtypes.SMALL and want[0] == "f":
            raise TypeError("numbers for bits")
        if plain.dtype.kind in "fc" and plain.size and dtype.kind in "iub":
            raise TypeError("fractions for whole numbers")
        return np.asarray(a, dtype)
    except Exception as e:  # whatever foreign objects raise: of other devices, ragged, ...
        raise DtypeError(
            f"[infer] found input {name!r} ({type(a).__name__}) that gives no array "
            f"({type(e).__name__}: {e}); expected one of {dtype} in memory that the CPU "
            "reaches; pass a numpy array"
        ) from e


def _check_out(out: Any, count: int) -> None:
    """Holds what the caller wants written against what can be; ShapeError."""
    if isinstance(out, np.ndarray) or not isinstance(out, Sequence) or len(out) != count:
        what = f"{len(out)} arrays" if isinstance(out, (list, tuple)) else type(out).__name__
        raise ShapeError(
            f"[infer] found {what} in out; expected a list of {count}, one per output; use None "
            "for those to be made"
        )
    for i, o in enumerate(out):
        if o is not None and (not isinstance(o, np.ndarray) or not o.flags.writeable):
            what = "an array that is read-only" if isinstance(o, np.ndarray) else type(o).__name__
            raise ShapeError(
                f"[infer] found {what} as out[{i}]; expected a writable numpy array or None; "
                "make one with np.empty"
            )
        for j, other in enumerate(out[:i]):
            if o is not None and other is not None and _overlap(o, other):
                raise ShapeError(
                    f"[infer] found out[{j}] and out[{i}] in the same memory; expected arrays "
                    "apart; make each with np.empty"
                )


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    try:
        return np.shares_memory(a, b, max_work=10000)
    except np.exceptions.TooHardError:
        return True
