"""Kernels that are functions: of numpy, and compiled by Cython as docs/plugins.md shows."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import wnn
from wnn.errors import WnnError
from wnn.graph import Graph
from wnn.op import Op, Spec
from wnn.plan import Program
from wnn.plugin_template import write_package
from wnn.testing import OpCheckError

ROOT = Path(wnn.__file__).parents[1]


def swish(kernel=None) -> Op:
    """y = x sigmoid(a x)"""
    op = Op("test.python:swish", attrs={"a": 1.0}, tol={"f32": (1e-5, 1e-6)})
    op.doc = swish.__doc__ + ". Source: a test."
    op.rule(lambda x, a: Spec(x.shape, x.dtype))
    op.reference(lambda x, a: x / (1 + np.exp(-a * x)))
    op.cases(lambda rng: [{"x": rng(3, 5)}, {"x": rng(2, 0, 4)}, {"x": rng(70, 33), "a": 1.5}])
    op.nonfinite = False
    if kernel is not None:
        op.python_kernel("f32")(kernel)
    return op


def program(op: Op, shape: tuple, **attrs) -> Program:
    g = Graph()
    g.outputs = [g.add(op, [g.input("x", Spec(shape, "f32"))], **attrs)]
    g.output_names = ["y"]
    return Program(g)


def returns(x, *, a):
    return x / (1 + np.exp(-a * x))


def writes(x, *, a, out):
    np.divide(x, 1 + np.exp(-a * x), out=out)


@pytest.mark.parametrize("kernel", [returns, writes])
def test_function_of_numpy_is_a_kernel(kernel, opcheck):
    op = swish(kernel)
    opcheck(op)
    p = program(op, (4, 6), a=0.5)
    x = np.linspace(-3, 3, 24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_allclose(p.run([x])[0], returns(x, a=0.5), rtol=1e-6)
    assert not p.fallbacks  # a kernel, no reference


def test_wrong_function_is_found(opcheck):
    with pytest.raises(OpCheckError, match="swish"):
        opcheck(swish(lambda x, *, a: x / (1 + np.exp(-x))))


def test_function_that_gives_another_shape_says_so():
    with pytest.raises(WnnError, match="swish"):
        program(swish(lambda x, *, a: x[:, :2]), (4, 6)).run([np.ones((4, 6), np.float32)])


def shown(start: str) -> str:
    """The block of docs/plugins.md that starts so."""
    blocks = re.findall(r"```\w+\n(.*?)```", (ROOT / "docs/plugins.md").read_text(), re.S)
    (block,) = (b for b in blocks if b.startswith(start))
    return block


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_function_of_cython_is_a_kernel_when_built_as_the_docs_say(tmp_path, opcheck):
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools", "77")
    folder = write_package("my_gate", tmp_path)
    for source in folder.glob("*.cc"):
        source.unlink()
    (folder / "swish.pyx").write_text(shown("# cython:"))
    (folder / "setup.py").write_text(shown("from Cython.Build"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "wheel", ".")
    how = ("--no-build-isolation", "--no-deps", "-w", str(tmp_path))
    quick = os.environ | {"CFLAGS": "-O0 -g0"}
    subprocess.run([*pip, *how], cwd=folder, env=quick, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as z:
        z.extractall(tmp_path)
    (so,) = tmp_path.glob("wnn_contrib/my_gate/swish*.so")
    spec = importlib.util.spec_from_file_location("swish", so)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    op = swish(module.swish)
    opcheck(op)
    assert not program(op, (4, 6)).fallbacks
