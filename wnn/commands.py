"""The commands of `wnn`: run, convert, inspect, doctor, profile, bench."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from . import __version__, dtypes, environment, feeds, plugin_commands
from .errors import WnnError
from .forward import NNForward, Port
from .terminal import new_table, out

app = typer.Typer(
    help="Runs neural networks on the CPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(plugin_commands.plugins_app, name="plugins")
app.add_typer(plugin_commands.plugin_app, name="plugin")

Model = Annotated[Path, typer.Argument(help="An .onnx or .wnnx file.", show_default=False)]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", help="PATH or NAME=PATH: .npy, .npz or a picture; repeat."),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        help="NAME=1,3,224,224 or AXIS=128, lengths of random inputs' free axes; repeat.",
    ),
]
Threads = Annotated[int | None, typer.Option(help="Worker threads; default: all allowed.")]
NoPlugins = Annotated[bool, typer.Option("--no-plugins", help="Use no op package.")]


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"wnn {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """What comes before a command."""


def _load(path: Path, threads: int | None = None, no_plugins: bool = False) -> NNForward:
    model = NNForward(num_threads=threads, plugins=None if no_plugins else "auto")
    model.load_from_file(path)
    return model


def _feed(model: NNForward, inputs: Iterable[str] | None, shapes: Iterable[str] | None) -> dict:
    if inputs:
        return feeds.from_files(model, inputs)
    feed = feeds.random_inputs(model, _shapes(shapes))
    shown = ", ".join(f"{name} {_shape(a.shape)}" for name, a in feed.items())
    if shown:
        out.print(f"random inputs: {shown}; --shape and --input choose others", style="dim")
    return feed


def _shapes(words: Iterable[str] | None) -> dict[str, list[int]]:
    found = {}
    for word in words or ():
        name, _, axes = word.rpartition("=")
        try:
            found[name] = [int(n) for n in axes.split(",") if n]
        except ValueError:
            raise WnnError(
                f"[--shape] found {word!r}; expected NAME=1,3,224,224 or AXIS=128; correct it"
            ) from None
    return found


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(n) for n in text.split(",")]
    except ValueError:
        raise WnnError(f"[{option}] found {text!r}; expected numbers; separate by commas") from None


def _mb(n: float) -> str:
    return f"{n / 1e6:.2f} MB"


def _shape(shape: tuple | None) -> str:
    return "?" if shape is None else "(" + ", ".join(map(str, shape)) + ")"


# -- running --------------------------------------------------------------------------------------
@app.command()
def run(
    model: Model,
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Inputs: PATH or NAME=PATH; .npy, .npz or a picture."),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write all outputs to an .npz; sequences as NAME[0], ..."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Class names, one per line; shows a table. One fewer: class 0 is background."
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Rows of that table.", min=1)] = 5,
    mean: Annotated[str, typer.Option(help="Pictures: subtracted, one or per channel.")] = "0",
    std: Annotated[str, typer.Option(help="Pictures: divides after that.")] = "255",
    bgr: Annotated[bool, typer.Option("--bgr", help="Pictures: blue first.")] = False,
    threads: Threads = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Run a model on files; show or save what comes out."""
    m = _load(model, threads, no_plugins)
    feed = feeds.from_files(m, files or (), _numbers(mean, "--mean"), _numbers(std, "--std"), bgr)
    results = _arrays(m, m.infer(feed))
    if save is not None:
        _save(save, results)
        out.print(f"{', '.join(port.name for port, _ in results)} written to {save}")
    if labels is not None:
        out.print(_top(*results[0], labels, top))
    elif save is None:
        out.print(_summary(results))


def _arrays(m: NNForward, results: list) -> list[tuple[Port, np.ndarray]]:
    """The outputs; those that are sequences of tensors as NAME[0], NAME[1] and so on."""
    found = []
    for port, y in zip(m.outputs, results, strict=True):
        if isinstance(y, list) and y and all(isinstance(a, np.ndarray) for a in y):
            found += [(port._replace(name=f"{port.name}[{i}]"), a) for i, a in enumerate(y)]
        else:
            found.append((port, np.asarray(y)))
    return found


def _save(path: Path, results: list[tuple[Port, np.ndarray]]) -> None:
    """Writes an .npz."""
    with _written(path, "--out") as file, zipfile.ZipFile(file, "x") as archive:
        for port, a in results:  # np.savez would take some names for parameters of its own
            with archive.open(f"{port.name}.npy", "w", force_zip64=True) as f:
                np.save(f, a)


@contextlib.contextmanager
def _written(path: Path, option: str) -> Iterator[Path]:
    """A new file that takes the place of `path` once it is written: whole or not at all."""
    target = path.resolve()  # a link stays one
    temporary = Path(f"{target}.{os.urandom(6).hex()}.tmp")
    try:
        if target.exists() and not target.is_file():  # or it would be replaced
            raise OSError(errno.EEXIST, "a folder or device")
        yield temporary
        os.replace(temporary, target)
    except OSError as e:
        raise WnnError(
            f"[{option}] found that {str(path)!r} cannot be written ({e.strerror}); expected a "
            "place with room; choose another path"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _values(port: Port, a: np.ndarray) -> np.ndarray | None:
    """The numbers that an output holds; None of texts, maps and the like."""
    from .ops_std import cast

    if a.dtype.kind not in "fiub":
        return None
    if port.dtype in dtypes.BITS:
        a = cast.reference(a, "f64", port.dtype)
    return a.astype(np.float64)


def _top(port: Port, y: np.ndarray, labels: Path, top: int) -> Table:
    try:
        names = labels.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise WnnError(f"[--labels] found {e}; expected a text file; correct the path") from None
    scores = _values(port, y)
    if scores is None or not scores.size:
        raise WnnError(
            f"[--labels] found the first output {port.name!r} of {port.dtype or y.dtype}"
            f"{_shape(y.shape)}; expected numbers, one per class; leave --labels out"
        )
    scores = scores.reshape(-1, scores.shape[-1] if scores.ndim else 1)[0]
    if len(names) + 1 == len(scores):
        names = ["background", *names]
    if len(names) != len(scores):
        raise WnnError(
            f"[--labels] found {len(names)} names in {str(labels)!r}; expected {len(scores)}, one "
            "per class of the first output, or one fewer; pass the labels of this model"
        )
    table = new_table("", "score", "class", "name", right=(0, 1))
    for i in np.argsort(-scores)[:top]:
        table.add_row(f"{scores[i]:.4f}", str(i), names[i])
    return table


def _summary(results: list[tuple[Port, np.ndarray]]) -> Table:
    table = new_table("", "output", "dtype", "shape", "min", "mean", "max", right=(3, 4, 5))
    for port, a in results:
        numbers = ["", "", ""]
        found = _values(port, a)
        if a.size and found is not None:
            numbers = [f"{x:.6g}" for x in (found.min(), found.mean(), found.max())]
        table.add_row(port.name, port.dtype, _shape(a.shape), *numbers)
    return table


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="The .onnx file.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="The .wnnx file to write.", show_default=False)],
    check: Annotated[bool, typer.Option("--check", help="Run both and compare every bit.")] = False,
    inputs: Inputs = None,
    shapes: Shapes = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Write an ONNX model as .wnnx."""
    from . import wnnx
    from .conversion import compare

    with out.status(f"reading {source}"):
        m = _load(source, no_plugins=no_plugins)
    with out.status(f"writing {target}"):
        wnnx.save(m.graph, target)
    sizes = [_mb(os.path.getsize(p)) for p in (source, target)]
    out.print(f"{source} ({sizes[0]}) -> {target} ({sizes[1]})")
    if check:
        with out.status("comparing"):
            compare(m, target, _feed(m, inputs, shapes))
        out.print("checked: both give the same bits")


# -- looking --------------------------------------------------------------------------------------
@app.command()
def inspect(
    model: Model,
    nodes: Annotated[bool, typer.Option("--nodes", help="One row per node.")] = False,
    misses: Annotated[bool, typer.Option("--misses", help="Fusions that nearly applied.")] = False,
    inputs: Inputs = None,
    shapes: Shapes = None,
    threads: Threads = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Show what a model takes and gives, and on what each of its operators runs."""
    from .inspection import inspect as look

    m = _load(model, threads, no_plugins)
    ports = new_table("", "", "name", "dtype", "shape")
    for kind, rows in (("input", m.inputs), ("output", m.outputs)):
        for p in rows:
            ports.add_row(kind, p.name, p.dtype, _shape(p.shape))
    out.print(ports)
    found = look(m, _feed(m, inputs, shapes))
    out.print(_nodes(found) if nodes else _operators(found))
    if found.fused:
        table = new_table("fusions", "fusion", "times", right=(1,))
        for name, n in found.fused.most_common():
            table.add_row(name, str(n))
        out.print(table)
    if found.near_misses and misses:
        table = new_table("near misses", "fusion", "times", "why not", "first node", right=(1,))
        for (name, why), nodes in found.near_misses.items():
            table.add_row(name, str(len(nodes)), why, nodes[0])
        out.print(table)
    elif found.near_misses:
        n = sum(len(nodes) for nodes in found.near_misses.values())
        out.print(f"{n} near misses (--misses lists them)")
    out.print(
        f"{found.weights / 1e6:.3f} M weights ({_mb(found.weight_bytes)}, of which "
        f"{_mb(found.packed_bytes)} packed), {found.flops / 1e9:.3f} GFLOP, "
        f"{len(found.rows)} nodes in {found.stages} stage(s), {found.copies} copies"
    )


def _operators(found: Any) -> Table:
    table = new_table(
        "operators", "operator", "nodes", "runs on", "GFLOP", "what or why", right=(1, 3)
    )
    rows: dict[tuple, list] = {}
    for r in found.rows:
        rows.setdefault((r.op, r.runs, r.detail), []).append(r)
    for (op, runs, detail), same in sorted(rows.items(), key=lambda kv: -len(kv[1])):
        flops = sum(r.flops or 0 for r in same)
        table.add_row(
            op, str(len(same)), _styled(runs), f"{flops / 1e9:.3f}" if flops else "", detail
        )
    return table


def _nodes(found: Any) -> Table:
    table = new_table(
        "nodes", "node", "operator", "runs on", "output", "MFLOP", "what or why", right=(4,)
    )
    for r in found.rows:
        flops = f"{r.flops / 1e6:.1f}" if r.flops else ""
        table.add_row(r.name, r.op, _styled(r.runs), r.output, flops, r.detail)
    return table


def _styled(runs: str) -> Text:
    colors = {"reference": "yellow", "onnx.reference": "red", "kernel": "green"}
    return Text(runs, colors.get(runs, ""))


@app.command()
def doctor() -> None:
    """Show what wnn finds on this machine."""
    from importlib.metadata import PackageNotFoundError, version

    from .runtime import _core

    cpu = _core.cpu()
    table = new_table("", "", "")
    table.add_row("wnn", __version__)
    table.add_row("Python", f"{sys.version.split()[0]}, {sys.executable}")
    table.add_row("CPU", cpu["name"])
    table.add_row("features", ", ".join(cpu["features"]) or "none beyond the baseline")
    forced = " (WNN_ISA)" if os.environ.get("WNN_ISA") else ""
    table.add_row("instruction set", f"{_core.isa()}{forced}, the CPU has {cpu['isa']}")
    forced = " (WNN_THREADS)" if os.environ.get("WNN_THREADS") else ""
    threads = int(environment.number("WNN_THREADS", _core.default_threads(), 1, 255))
    table.add_row("threads", f"{threads}{forced}, of {os.cpu_count()} CPUs")
    peak = max(_core.fma_peak(0.05) for _ in range(5))
    table.add_row("FMA peak", f"{peak:.0f} GFLOP/s float32 per thread")
    table.add_row("kernels", str(len(_core.kernels())))
    for name in ("numpy", "pluggy", "onnx", "typer", "rich", "pillow", "safetensors"):
        try:
            table.add_row(name, version(name))
        except PackageNotFoundError:
            table.add_row(name, "not installed")
    for name in sorted(n for n in os.environ if n.startswith("WNN_")):
        table.add_row(name, os.environ[name])
    out.print(table)
    plugin_commands.show_plugins()


# -- timing ---------------------------------------------------------------------------------------
@app.command()
def profile(
    model: Model,
    top: Annotated[int, typer.Option(help="Rows of the table of steps.")] = 15,
    trace: Annotated[
        Path | None, typer.Option(help="Write trace events for Chrome's or Perfetto's viewer.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long to measure.")] = 2.0,
    inputs: Inputs = None,
    shapes: Shapes = None,
    threads: Threads = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Show where the time goes, by operator and by step, and how near to its bound each is."""
    from .profiling import profile as take

    m = _load(model, threads, no_plugins)
    found = take(m, _feed(m, inputs, shapes), runs=1000, seconds=seconds)
    table = _profile_table("by operator", "operator", "kernel", "steps")
    for s, bound in found.groups():
        table.add_row(s.op, s.kernel, str(s.steps), *_rates(s, found.ns, bound))
    out.print(table)
    table = _profile_table("slowest steps", "node", "kernel", "output")
    for s in sorted(found.steps, key=lambda s: -s.ns)[:top]:
        table.add_row(s.name, s.kernel, s.output, *_rates(s, found.ns, found.of_bound([s])))
    out.print(table)
    out.print(
        f"{found.ns / 1e6:.3f} ms in {len(found.steps)} steps on {found.threads} thread(s), "
        f"{found.flops / 1e9:.3f} GFLOP; bounds at {found.machine.gflops:.0f} GFLOP/s and "
        f"{found.machine.gbytes:.0f} GB/s per thread"
    )
    if trace is not None:
        with _written(trace, "--trace") as file:
            file.write_text(json.dumps(found.trace()), encoding="utf-8")
        out.print(f"trace written to {trace}; open it in chrome://tracing or ui.perfetto.dev")


def _profile_table(title: str, *first: str) -> Table:
    columns = (*first, "ms", "share", "GFLOP/s", "GB/s", "of bound")
    words = len(first) - (first[-1] == "steps")
    return new_table(title, *columns, right=range(words, len(columns)))


def _rates(s: Any, total: int, bound: float) -> tuple[str, ...]:
    gflops = f"{s.gflops:.1f}" if s.gflops else ""
    gbytes = f"{s.gbytes:.1f}" if s.nbytes else ""
    known = f"{bound:.0%}" if s.nbytes else ""
    return f"{s.ns / 1e6:.3f}", f"{s.ns / max(1, total):.1%}", gflops, gbytes, known


@app.command()
def bench(
    model: Model,
    seconds: Annotated[float, typer.Option(help="How long to measure.")] = 3.0,
    inputs: Inputs = None,
    shapes: Shapes = None,
    threads: Threads = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Measure latency, throughput, peak memory, and the share of the machine's FMA peak."""
    from rich.progress import Progress

    from . import profiling

    before = profiling.peak_memory()
    start = time.perf_counter()
    m = _load(model, threads, no_plugins)
    load_ms = (time.perf_counter() - start) * 1e3
    feed = _feed(m, inputs, shapes)
    with Progress(console=out, transient=True) as progress:
        task = progress.add_task("measuring", total=1.0)
        found = profiling.latency(m, feed, seconds, lambda x: progress.update(task, completed=x))
    table = new_table("", "", "", right=(1,))
    table.add_row("load", f"{load_ms:.3f} ms")
    table.add_row("first run", f"{found.first_ms:.3f} ms")
    table.add_row("min", f"{min(found.ms):.3f} ms")
    for p in (50, 90, 99):
        table.add_row(f"p{p}", f"{np.percentile(found.ms, p):.3f} ms")
    table.add_row("max", f"{max(found.ms):.3f} ms")
    table.add_row("runs", f"{len(found.ms)}")
    table.add_row("throughput", f"{1e3 / np.mean(found.ms):.1f} per second")
    peak = profiling.peak_memory()
    table.add_row("peak memory", f"{_mb(peak)}, {_mb(peak - before)} more than before loading")
    for kind, nbytes in m.memory_report().items():
        table.add_row(f"  {kind}", _mb(nbytes))
    table.add_row("threads", str(m.num_threads))
    table.add_row("arithmetic", f"{found.flops / 1e9:.3f} GFLOP")
    table.add_row(
        "share of FMA peak",
        f"{found.share_of_peak:.1%} of {m.num_threads} x {found.machine.gflops:.0f} GFLOP/s",
    )
    out.print(table)
