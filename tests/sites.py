"""Op packages written down, installed into a folder, and used by Python processes of their own."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import wnn

ROOT = Path(wnn.__file__).parents[1]
INCLUDE = ROOT / "wnn" / "runtime"
CC = shutil.which("cc") or shutil.which("gcc")

OPERATOR = '''
"""y = 2 x. Source: arithmetic."""
import struct
from pathlib import Path
from wnn.op import Op, Spec
from wnn.pattern import P, V
from wnn.plugins import hookimpl, register

__version__ = "{version}"
op = Op("{domain}:double")
op.rule(lambda x: Spec(x.shape, x.dtype))
op.reference(lambda x: x + x)
op.cases(lambda rng: [dict(x=rng(3, 5))])
op.kernel("f32", "double_f32")(lambda: struct.pack("f", 2.0))
op.fuse(P.add(V("x"), V("x")))(lambda g, m: g.add(op, [m.x]))

@hookimpl
def wnn_operators():
    return [op]

@hookimpl
def wnn_native():
    return str(Path(__file__).with_suffix(".native"))
'''
REGISTER = "\nregister(__name__)\n"

NATIVE = """
#include "wnn_abi.h"
#ifndef HOST_MINOR
#define HOST_MINOR WNN_ABI_MINOR
#endif
static int twice(wnn_ctx *ctx, const void *attrs, const wnn_tensor *const *in, int nin, wnn_tensor *const *out, int nout) {
  int64_t n = 1;
  for (int i = 0; i < in[0]->ndim; i++) n *= in[0]->shape[i];
  for (int64_t i = 0; i < n; i++) ((float *)out[0]->data)[i] = *(const float *)attrs * ((const float *)in[0]->data)[i];
  (void)ctx, (void)nin, (void)nout;
  return 0;
}
const wnn_plugin_info wnn_plugin = {sizeof(wnn_plugin_info), WNN_ABI_MAJOR, WNN_ABI_MINOR, HOST_MINOR, 0};
int wnn_plugin_init(const wnn_api *api) { return api->register_kernel(api, "DOMAIN:double_f32", 0, twice, 0); }
"""


class Site:
    """A folder of installed packages, and Python processes that see it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def install(
        self, name: str, domain: str = "", source: str = OPERATOR + REGISTER, version: str = "1.2.0"
    ) -> str:
        """A distribution wnn-contrib-NAME with module x_NAME; returns the module's name."""
        module = f"x_{name}"
        domain = domain or f"contrib.{name}"
        (self.path / f"{module}.py").write_text(
            source.replace("{domain}", domain).replace("{version}", version)
        )
        info = self.path / f"wnn_contrib_{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: wnn-contrib-{name}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[wnn]\n{domain} = {module}\n")
        return module

    def build(self, name: str, source: str = NATIVE, *flags: str) -> Path:
        """Compiles the shared library of a package."""
        c, so = self.path / f"{name}.c", self.path / f"x_{name}.native"
        c.write_text(source.replace("DOMAIN", f"contrib.{name}"))
        command = [
            CC,
            "-std=c99",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
            "-shared",
            "-fPIC",
            *flags,
            f"-I{INCLUDE}",
        ]
        subprocess.run([*command, str(c), "-o", str(so)], check=True)
        return so

    def run(self, code: str, **env: str) -> str:
        """What a new process prints, warnings included."""
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
            env={**os.environ, "PYTHONPATH": f"{self.path}{os.pathsep}{ROOT}", **env},
            cwd=self.path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


PRELUDE = """
import sys, wnn, numpy as np
from wnn import plugins
from wnn.plugins import summon_plugins
from wnn.errors import *

def double():
    from wnn.graph import Graph
    from wnn.op import Spec
    from wnn.registry import REGISTRY
    from wnn.plan import Program
    name = next(n for n in REGISTRY.ops if n.endswith(":double"))
    g = Graph()
    g.outputs = [g.add(name, [g.input("x", Spec((3, 5), "f32"))])]
    g.output_names = ["y"]
    program = Program(g)
    x = np.arange(15, dtype=np.float32).reshape(3, 5)
    print("right" if np.array_equal(program.run([x])[0], 2 * x) else "WRONG", "fallbacks:", *program.fallbacks)
"""
