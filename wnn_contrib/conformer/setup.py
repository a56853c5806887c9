"""Builds native.so from the .cc files beside this one: plain C++ against wnn_abi.h, no Python API,
one wheel for every Python.

A file whose first line is "// wnn: once" is compiled once, any other once per instruction set, with
WNN_ISA = 0, 1, 2.
"""

import platform
import shlex
import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

PACKAGE = "wnn_contrib.conformer"
HERE = Path(__file__).parent.resolve()
HEADERS = ("wnn_abi.h", "simd.h", "vecmath.h")
BESIDE, CHECKOUT = HERE / "include", HERE.parents[1] / "wnn" / "runtime"
INCLUDE = BESIDE if BESIDE.exists() else CHECKOUT
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
ISA_FLAGS = [[], AVX2, AVX512] if platform.machine() == "x86_64" else [[]]
FLAGS = shlex.split(
    "-std=c++17 -O2 -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti -fno-threadsafe-statics"
    " -fno-math-errno -fno-trapping-math -ffp-contract=fast -Wall -Wextra -Wno-unused-function"
)


class BuildNative(build_ext):
    def get_ext_filename(self, fullname):
        return fullname.replace(".", "/") + ".so"

    def build_extension(self, ext):
        out, objects = Path(self.build_temp), []
        out.mkdir(parents=True, exist_ok=True)
        for source in ext.sources:
            once = Path(source).read_text().startswith("// wnn: once")
            for isa, flags in enumerate(ISA_FLAGS[:1] if once else ISA_FLAGS):
                objects.append(str(out / f"{Path(source).stem}.{isa}.o"))
                seen = [f"-DWNN_ISA={isa}", f"-I{INCLUDE}"]
                command = [*self.compiler.compiler_cxx, *FLAGS, *flags, *seen]
                self.spawn([*command, "-c", source, "-o", objects[-1]])
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        link = [self.compiler.compiler[0], "-shared", "-s", "-Wl,-z,now", "-o", str(target)]
        self.spawn([*link, *objects, "-lm"])


class WithoutSetup(build_py):
    def find_package_modules(self, package, package_dir):
        return [m for m in super().find_package_modules(package, package_dir) if m[1] != "setup"]


class NativeWheel(bdist_wheel):
    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class WithHeaders(sdist):
    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        include = Path(base_dir, "include")
        include.mkdir(exist_ok=True)
        for h in HEADERS:
            shutil.copy(INCLUDE / h, include / h)


setup(
    ext_modules=[Extension(f"{PACKAGE}.native", sorted(p.name for p in HERE.glob("*.cc")))],
    cmdclass={
        "build_ext": BuildNative,
        "build_py": WithoutSetup,
        "bdist_wheel": NativeWheel,
        "sdist": WithHeaders,
    },
)
