"""The engines that are compared. Run as a program: one engine, one model, one process.

    python -m bench.engines ENGINE MODEL THREADS

Prints a line of JSON when loaded: {"version", "load_ms", "memory_mb", "error"}, error being the
largest difference from the expected outputs relative to the largest expected value; or {"failed"}.
Then for each line with a number of seconds on stdin, the milliseconds of the runs in that time.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from .cases import ModelCase

Feed = dict[str, np.ndarray]
Infer = Callable[[], list[np.ndarray]]


def wnn(path: Path, feed: Feed, threads: int) -> Infer:
    from wnn import NNForward

    model = NNForward(num_threads=threads).load_from_file(path)
    return lambda: model.infer(feed)


def onnxruntime(path: Path, feed: Feed, threads: int) -> Infer:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feed)


def openvino(path: Path, feed: Feed, threads: int) -> Infer:
    from openvino import Core

    core = Core()
    model = core.read_model(path)
    model.reshape({name: list(a.shape) for name, a in feed.items()})
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(model, "CPU", {**hints, "INFERENCE_NUM_THREADS": threads})
    request, outputs = compiled.create_infer_request(), range(len(compiled.outputs))

    def infer() -> list[np.ndarray]:
        request.infer(feed, share_inputs=True)
        return [np.array(request.get_output_tensor(i).data) for i in outputs]

    return infer


def mnn(path: Path, feed: Feed, threads: int) -> Infer:
    import MNN
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    names = [i.name for i in graph.input if i.name in feed], [o.name for o in graph.output]
    how = {"backend": "CPU", "precision": "high", "numThread": threads}
    runtime = MNN.nn.create_runtime_manager((how,))
    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder, "model.mnn")
        command = ["MNN.tools.mnnconvert", "-f", "ONNX", "--bizCode", "bench"]
        command += ["--modelFile", path, "--MNNModel", converted]
        # it would install packages by itself
        _quietly([sys.executable, "-m", *command], {"PIP_NO_INDEX": "1"})
        module = MNN.nn.load_module_from_file(str(converted), *names, runtime_manager=runtime)
    arrays = [feed[n].astype(np.int32) if feed[n].dtype == np.int64 else feed[n] for n in names[0]]
    expr = MNN.expr
    kinds = {"f": expr.float, "i": expr.int}

    def infer() -> list[np.ndarray]:
        ins = [expr.const(a, list(a.shape), expr.NCHW, kinds[a.dtype.kind]) for a in arrays]
        outs = module.forward(ins)
        outs = outs if isinstance(outs, list) else [outs]
        return [np.array(expr.convert(y, expr.NCHW).read()) for y in outs]

    return infer


def ncnn(path: Path, feed: Feed, threads: int) -> Infer:
    import ncnn as engine

    net = engine.Net()
    net.opt.num_threads = threads
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(path, folder)
        shapes = ",".join(str(list(a.shape)).replace(" ", "") for a in feed.values())
        pnnx = shutil.which("pnnx") or Path(sys.executable).with_name("pnnx")
        _quietly([pnnx, copy, f"inputshape={shapes}", "fp16=0"], {})
        base = copy.removesuffix(".onnx")
        if net.load_param(f"{base}.ncnn.param") or net.load_model(f"{base}.ncnn.bin"):
            raise RuntimeError("pnnx could not convert it")
    inputs = [engine.Mat(np.ascontiguousarray(a[0])) for a in feed.values()]

    def infer() -> list[np.ndarray]:
        extractor = net.create_extractor()
        for name, x in zip(net.input_names(), inputs, strict=True):
            extractor.input(name, x)
        return [np.array(extractor.extract(name)[1])[None] for name in net.output_names()]

    return infer


ENGINES: dict[str, tuple[str, Callable[[Path, Feed, int], Infer]]] = {  # name -> distribution, load
    "wnn": ("wnn", wnn),
    "onnxruntime": ("onnxruntime", onnxruntime),
    "OpenVINO": ("openvino", openvino),
    "MNN": ("MNN", mnn),
    "ncnn": ("ncnn", ncnn),
}


def _quietly(command: list, environment: dict[str, str]) -> None:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, env={**os.environ, **environment}, check=False, **quiet)


def difference(got: list[np.ndarray], want: list[np.ndarray]) -> float:
    """The largest, relative to the largest expected value; infinite where shapes or NaN differ."""
    if len(got) != len(want):
        return float("inf")
    worst = 0.0
    for y, w in zip(got, want, strict=True):
        y, w = np.asarray(y, np.float64), np.asarray(w, np.float64)
        if y.size != w.size or not np.array_equal(np.isnan(y).ravel(), np.isnan(w).ravel()):
            return float("inf")
        if w.size:
            scale = np.nanmax(np.abs(w)) + 1e-9
            worst = max(worst, float(np.nanmax(np.abs(y.reshape(w.shape) - w)) / scale))
    return worst


def installed(engine: str) -> str:
    """The engine's version; PackageNotFoundError."""
    if engine == "wnn":
        import wnn as here

        return here.__version__
    return version(ENGINES[engine][0])


def serve(engine: str, path: Path, threads: int) -> None:
    """Loads a model into an engine and times it as stdin says."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print what they like

    def say(what: object) -> None:
        print(json.dumps(what), file=answer, flush=True)

    case = ModelCase(path.stem, path)
    feed, want = case.inputs, case.outputs
    try:
        start = time.perf_counter()
        infer = ENGINES[engine][1](path, feed, threads)
        load_ms = (time.perf_counter() - start) * 1e3
        error = difference(infer(), want) if want else None
    except Exception as e:
        return say({"failed": f"{type(e).__name__}: {str(e)[:200]}"})
    with open("/proc/self/status") as f:
        memory = next(int(line.split()[1]) for line in f if line.startswith("VmHWM"))
    facts = {"version": installed(engine), "load_ms": load_ms, "memory_mb": memory / 1024}
    say({**facts, "error": error})
    for line in sys.stdin:
        infer()
        times, end = [], time.perf_counter() + float(line)
        while len(times) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            infer()
            times.append((time.perf_counter() - start) * 1e3)
        say(times)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
