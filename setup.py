"""Builds the one compiled module, wnn.runtime._core.

Every .cc file below wnn/ops_std and wnn/runtime is part of it, compiled once per instruction set,
with WNN_ISA = 0, 1, 2, and to be small. Words in its first line, // wnn: WORDS, change that:
    once    for the baseline alone
    wide    not for the baseline, where another kernel does the same
    avx2    not for AVX-512: memory is the limit, wider vectors would not help
            (with any of these, products are made by calls of the best gemm_block)
    inline  to be small, but with functions of vectors (exp and the like) in place
    hot     to be fast
The baseline, which is for the few CPUs without AVX2, is always small, unless it is the only build.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
ISA_FLAGS = {"x86_64": [[], AVX2, AVX512], "aarch64": [[]]}
INLINE = ["-Os"]
SMALL = [*INLINE, "-DWNN_SMALL"]

COMPILE = shlex.split(
    "-O2 -fPIC -fvisibility=hidden -ffunction-sections -fdata-sections -fno-plt"
    " -fno-asynchronous-unwind-tables -fno-unwind-tables"
    # without these passes and gaps code is as fast, and compresses by a thirtieth more
    " -fno-schedule-insns2 -fno-caller-saves -falign-jumps=1 -falign-labels=1"
)
CXX_COMPILE = shlex.split(
    "-std=c++17 -fno-exceptions -fno-rtti -fno-threadsafe-statics -fno-math-errno"
    " -fno-trapping-math -ffp-contract=fast -Wall -Wextra -Wno-unused-function"
)
# else GCC keeps addresses in vector registers, and each use takes a multiply-add's place
NO_VECTOR_SPILLS = "-mtune-ctrl=^inter_unit_moves_from_vec"
LINK = shlex.split("-shared -Wl,--gc-sections,--as-needed,--build-id=none,-z,now")
# instruction sets have some functions in common, of which gold keeps one; or else no pages between
# code and data
FOLDED, CLOSE = ["-fuse-ld=gold", "-Wl,--icf=all"], ["-Wl,-z,noseparate-code"]


def tool(variable: str, fallback: str) -> list[str]:
    """The compiler that the environment names, else Python's own, else the system's."""
    if os.environ.get(variable):
        return shlex.split(os.environ[variable])
    command = shlex.split(sysconfig.get_config_var(variable) or fallback)[0]
    return [command if shutil.which(command) else fallback]


def links(command: list[str]) -> bool:
    """Whether a shared library can be linked so."""
    with tempfile.TemporaryDirectory() as folder:
        test = [*command, "-x", "c", os.devnull, "-o", f"{folder}/test.so"]
        return subprocess.run(test, capture_output=True).returncode == 0


def accepted(command: list[str], flag: str) -> list[str]:
    """The flag, if the compiler knows it."""
    test = [*command, flag, "-Werror", "-x", "c++", "-E", os.devnull]
    return [flag] if subprocess.run(test, capture_output=True).returncode == 0 else []


def platform_isas() -> list[list[str]]:
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ISA_FLAGS:
        sys.exit(
            f"[wnn] found platform {sys.platform} on {machine}; expected linux on one of"
            f" {', '.join(ISA_FLAGS)}; wnn does not build elsewhere yet"
        )
    return ISA_FLAGS[machine]


class Object:
    """One object file: compiled again when its command or a file it included has changed."""

    def __init__(self, path: Path, source: Path, command: list[str]):
        self.path, self.depends = path, path.with_suffix(".d")
        self.command = [*command, "-MMD", "-MF", str(self.depends), "-c", str(source)]
        self.command += ["-o", str(path)]

    def is_fresh(self) -> bool:
        record = self.path.with_suffix(".cmd")
        if not self.path.exists() or not record.exists() or not self.depends.exists():
            return False
        if record.read_text() != shlex.join(self.command):
            return False
        inputs = shlex.split(self.depends.read_text().replace("\\\n", " "))[1:]
        built = self.path.stat().st_mtime_ns
        return all(os.path.exists(f) and os.stat(f).st_mtime_ns <= built for f in inputs)

    def compile(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(self.command, capture_output=True, text=True)
        sys.stderr.write(done.stderr)
        if done.returncode:
            sys.exit(f"[wnn] compilation failed; the command was:\n{shlex.join(self.command)}")
        self.refuse_weak_symbols()
        self.path.with_suffix(".cmd").write_text(shlex.join(self.command))

    def refuse_weak_symbols(self) -> None:
        """Of several weak definitions the linker keeps any: perhaps one for another CPU."""
        symbols = subprocess.run(["nm", "-C", self.path], capture_output=True, text=True).stdout
        weak = [line for line in symbols.splitlines() if line[17:18] in ("W", "V", "u")]
        if weak:
            sys.exit(
                "\n".join([f"[wnn] found weak symbols in {self.path}:", *weak, "make them local"])
            )


class BuildCore(build_ext):
    def finalize_options(self) -> None:
        super().finalize_options()
        tag = "abi3" if ABI3 else sysconfig.get_config_var("SOABI")
        self.build_temp = (
            f"build/temp.{platform.machine()}-{tag}"  # also where pip would use a new one
        )
        self.strip = [] if self.inplace else ["-Wl,-s"]  # in place, profilers want the names

    def build_extension(self, ext: Extension) -> None:
        isas = platform_isas()
        objects = [self.python_object(ext)]
        compiler = tool("CXX", "c++")
        compiler += accepted(compiler, NO_VECTOR_SPILLS)
        for source in sorted(Path("wnn").glob("*/**/*.cc")):
            objects += self.kernel_objects(compiler, source, isas)
        stale = [o for o in objects if not o.is_fresh()]
        with ThreadPoolExecutor(self.parallel or os.cpu_count()) as pool:
            list(pool.map(Object.compile, stale))
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        link = [*tool("CC", "cc"), *LINK, *self.strip, *shlex.split(os.environ.get("LDFLAGS", ""))]
        link += FOLDED if links([*link, *FOLDED]) else CLOSE
        # a new file, never the old one overwritten: a running process may have it mapped
        target.unlink(missing_ok=True)
        self.spawn([*link, "-o", str(target), *(str(o.path) for o in objects), "-lm"])

    def python_object(self, ext: Extension) -> Object:
        from Cython.Build import cythonize
        from Cython.Compiler import Options

        Options.docstrings = False  # they are for those who read the source
        (module,) = cythonize([ext], build_dir=self.build_temp, language_level=3, quiet=True)
        include = [f"-I{sysconfig.get_path('include')}", "-Iwnn/runtime"]
        limited = ["-DPy_LIMITED_API=0x030B0000"] if ABI3 else []
        cc = tool("CC", "cc")
        # this is the border to Python, and half of it is error handling
        small = accepted(cc, "-Oz") or INLINE
        command = [*cc, *COMPILE, *small, "-DNDEBUG", *include, *limited]
        return Object(Path(self.build_temp, "_core.o"), Path(module.sources[0]), command)

    def kernel_objects(
        self, compiler: list[str], source: Path, isas: list[list[str]]
    ) -> list[Object]:
        with source.open() as f:
            marker, _, words = f.readline().partition("// wnn: ")
        words = [] if marker else words.split()
        end = 1 if "once" in words else 2 if "avx2" in words else 3
        numbers = range("wide" in words and len(isas) > 1, min(end, len(isas)))
        common = [*compiler, *COMPILE, *CXX_COMPILE, "-Iwnn/runtime"]
        common += shlex.split(os.environ.get("CXXFLAGS", ""))
        if end < 3:
            common.append("-DWNN_BEST_GEMM")
        usual = [] if "hot" in words else INLINE if "inline" in words else SMALL
        return [
            Object(
                Path(self.build_temp, source).with_suffix(f".{isa}.o"),
                source,
                [*common, f"-DWNN_ISA={isa}", *isas[isa], *size],
            )
            for isa in reversed(numbers)  # compresses better
            for size in [SMALL if isa == 0 < numbers[-1] else usual]
        ]


setup(
    ext_modules=[Extension("wnn.runtime._core", ["wnn/runtime/_core.pyx"], py_limited_api=ABI3)],
    cmdclass={"build_ext": BuildCore},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {},
)
