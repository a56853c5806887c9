"""Whole models on one thread: small ones made here, and real ones of ../shared where present."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
import nets

from wnn import NNForward

from .cases import shared_models
from .measure import CLOCK, Run

SECONDS = 0.5


def small_models() -> Iterator[tuple[str, Callable[[], tuple[Any, list]]]]:
    """Name, and what gives the model and its inputs."""
    draw = np.random.default_rng(0).standard_normal
    yield "convolutions", lambda: (nets.conv_net(), [draw((1, 3, 96, 96), np.float32)])
    net, shape = nets.attention_net, (1, 197, 192)
    yield "transformer block", lambda: (net(197, 3, 64), [draw(shape, np.float32)])


def subjects() -> Iterator:
    for name, load in small_models():
        yield pytest.param(name, load, id=name.replace(" ", "-"))
    for case in shared_models(Path(__file__).parents[2] / "shared" / "models"):
        yield pytest.param(case.name, lambda case=case: (case.path, case.inputs), id=case.name)


def make(load: Callable[[], tuple[Any, list]]) -> Run:
    source, inputs = load()
    model = NNForward(num_threads=1)
    model.load_from_file(source) if isinstance(source, Path) else model.load_from_proto(source)

    def run() -> int:
        start = time.thread_time_ns()
        model.infer(inputs)
        return time.thread_time_ns() - start

    return run


@pytest.mark.benchmark(timer=CLOCK, disable_gc=True)
@pytest.mark.parametrize(("name", "load"), list(subjects()))
def test_model(timed, name, load):
    timed(f"model {name}", lambda: make(load), SECONDS)
