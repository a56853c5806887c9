"""Models with inputs, and outputs that they should give."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np


@dataclass
class ModelCase:
    """A model's file. What to feed lies beside: MODEL.npz (arrays in*, out*), io.json or nothing.

    io.json: {"cases": [{"inputs": [{"name", "file"}], "outputs": [{"name", "file"}]}]}, .npy files.
    """

    name: str
    path: Path

    @cached_property
    def _arrays(self) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        folder, archive = self.path.parent, self.path.with_suffix(".npz")
        if archive.exists():
            z = np.load(archive)
            outputs = sorted(k for k in z.files if k.startswith("out"))
            return {k: z[k] for k in z.files if k not in outputs}, [z[k] for k in outputs]
        if (folder / "io.json").exists():
            case = json.loads((folder / "io.json").read_text())["cases"][0]
            inputs = {i["name"]: np.load(folder / i["file"]) for i in case["inputs"]}
            return inputs, [np.load(folder / o["file"]) for o in case["outputs"]]
        from wnn import NNForward
        from wnn.feeds import random_inputs

        return random_inputs(NNForward(num_threads=1).load_from_file(self.path)), []

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        return self._arrays[0]

    @property
    def outputs(self) -> list[np.ndarray]:
        """What is expected; empty where nobody says."""
        return self._arrays[1]


def shared_models(folder: Path) -> Iterator[ModelCase]:
    """The models of a folder: NAME.onnx, or NAME/model.onnx."""
    found = [*folder.glob("*.onnx"), *folder.glob("*/model.onnx")]
    cases = [ModelCase(p.parent.name if p.stem == "model" else p.stem, p) for p in found]
    yield from sorted(cases, key=lambda c: c.name)
