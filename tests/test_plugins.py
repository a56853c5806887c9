"""Op packages: found, reported, blocked, isolated from each other; their native side with really
built libraries.
"""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pluggy
import pytest

import wnn

ROOT = Path(wnn.__file__).parents[1]
INCLUDE = ROOT / "wnn" / "runtime"
CC = shutil.which("cc") or shutil.which("gcc")
needs_cc = pytest.mark.skipif(CC is None, reason="no C compiler")

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


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_report_names_what_was_found(site):
    site.install("good")
    out = site.run("print(summon_plugins())")
    row = next(line for line in out.splitlines() if line.startswith("contrib.good"))
    assert row.split()[:6] == ["contrib.good", "1.2.0", "wnn-contrib-good", "1", "1", "ready"]
    assert any(line.startswith("wnn ") for line in out.splitlines())


def test_import_of_wnn_scans_nothing(site):
    site.install("good")
    out = site.run("print([m for m in ('x_good', 'importlib.metadata') if m in sys.modules])")
    assert out.strip() == "[]"
    code = "import sys, wnn; print([m for m in ('pluggy', 'importlib.metadata', 'wnn.plugins') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_raising_package_costs_one_warning_and_nothing_else(site):
    site.install("good")
    site.install("bad", source="raise RuntimeError('no such luck')")
    out = site.run("""
        r = summon_plugins()
        summon_plugins()
        print({p.name: p.state for p in r.packages})
        print(r)
        try:
            summon_plugins(strict=True)
        except PluginError as e:
            print("strict:", e)
    """)
    assert out.count("PluginWarning") == 1
    assert "'contrib.good': 'ready'" in out
    assert "'contrib.bad': 'broken'" in out
    assert (
        "strict: [wnn-contrib-bad] importing x_bad raised RuntimeError: no such luck; pip install "
        "-U --force-reinstall wnn-contrib-bad" in out
    )


def test_missing_module_is_reported(site):
    module = site.install("gone")
    (site.path / f"{module}.py").unlink()
    assert "ModuleNotFoundError" in site.run("print(summon_plugins())")


@pytest.mark.parametrize(
    "arguments, env",
    [
        ("block=['wnn-contrib-good']", {}),
        ("block=['contrib.good']", {}),
        ("block=['good']", {}),
        ("block='x_good'", {}),
        ("", {"WNN_DISABLE_PLUGINS": "other,wnn_contrib_good"}),
    ],
)
def test_blocked_package_is_not_imported(site, arguments, env):
    site.install("good")
    site.install("fine")
    out = site.run(
        f"r = summon_plugins({arguments}); print({{p.name: p.state for p in r.packages}}, 'x_good' "
        "in sys.modules)",
        **env,
    )
    assert "'contrib.good': 'blocked'" in out
    assert "'contrib.fine': 'ready'" in out
    assert out.splitlines()[0].endswith("False")


def test_unknown_name_to_block_costs_one_warning(site):
    site.install("good")
    out = site.run(
        "summon_plugins(block=(n for n in ['godo', 'good'])); summon_plugins()",
        WNN_DISABLE_PLUGINS="godo, wnn",
    )
    for name in ("'godo'", "'wnn'"):
        assert out.count(f"PluginWarning: [plugins] found no op package {name} to leave out") == 1
    assert re.search("installed are .*contrib.good", out)
    assert "PluginWarning" not in site.run("summon_plugins(block=['godo'])", WNN_NO_PLUGINS="1")


def test_wnn_no_plugins_leaves_out_all(site):
    site.install("good")
    out = site.run(
        "r = summon_plugins(); print([p.name for p in r.active], 'x_good' in sys.modules)",
        WNN_NO_PLUGINS="1",
    )
    assert out.strip() == "['wnn'] False"


def test_two_packages_of_one_domain_are_refused_by_name(site):
    site.install("good")
    site.install("rival", domain="contrib.good")
    out = site.run("print(summon_plugins())")
    assert (
        "[contrib.good] both x_good and x_rival provide operators of this domain; pip uninstall "
        "one of them" in out
    )
    assert out.count("PluginWarning") == 1


def test_operator_without_domain_is_refused(site):
    site.install("good", source=(OPERATOR + REGISTER).replace("{domain}:double", "double"))
    assert "found operator 'double'; expected a name with a domain" in site.run(
        "print(summon_plugins())"
    )


def test_incomplete_record_is_refused_and_leaves_nothing_behind(site):
    more = "\nlame = Op('contrib.good:lame')\nwnn_operators = hookimpl(lambda: [op, lame])\n"
    site.install("good", source=OPERATOR + more + REGISTER)
    out = site.run(
        "print(summon_plugins()); print([n for n in plugins.REGISTRY.ops if 'good' in n])"
    )
    assert "[contrib.good:lame] the record in x_good is incomplete; add a rule" in out
    assert out.strip().splitlines()[-1] == "[]" or "[]\n" in out


def test_second_importer_of_an_opset_is_refused(site):
    take = "\n@op.importer('Softmax', since=13)\ndef take(g, node):\n    return g.add(op, node.inputs)\n"
    site.install("good", source=OPERATOR + take + REGISTER)
    out = site.run("print(summon_plugins())")
    assert "both wnn.ops_std.softmax and x_good import 'Softmax' of domain '' since opset 13" in out


def test_misspelt_hook_is_refused(site):
    site.install(
        "good", source=OPERATOR + "\n@hookimpl\ndef wnn_operater():\n    return []\n" + REGISTER
    )
    assert "unknown hook 'wnn_operater'" in site.run("print(summon_plugins())")


def test_importing_a_package_registers_it(site):
    site.install("good")
    out = site.run(
        "import x_good; x_good.register('x_good'); "
        "print(plugins.REGISTRY.get('contrib.good:double'))"
    )
    assert out.strip() == "Op('contrib.good:double')"


def test_summoning_from_many_threads_registers_once(site):
    site.install(
        "good",
        source=OPERATOR
        + "\nimport time, builtins\ntime.sleep(0.1)\nbuiltins.count = getattr(builtins, 'count', "
        "0) + 1\n" + REGISTER,
    )
    site.install("bad", source="raise RuntimeError")
    out = site.run("""
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(8) as pool:
            reports = list(pool.map(lambda _: summon_plugins(), range(16)))
        import builtins
        ours = lambda r: tuple((p.name, p.state, len(p.operators)) for p in r.packages if p.module.startswith("x_"))
        print(builtins.count, set(map(ours, reports)))
    """)
    assert "1 {(('contrib.bad', 'broken', 0), ('contrib.good', 'ready', 1))}" in out
    assert out.count("PluginWarning") == 1


def test_a_domain_is_summoned_without_importing_others(site):
    site.install("good")
    site.install("fine")
    out = site.run("print(plugins.summon_domain('contrib.good').version, 'x_fine' in sys.modules)")
    assert out.strip() == "1.2.0 False"


def test_missing_old_and_blocked_domains_say_what_to_do(site):
    site.install("good")
    code = """
        for domain, at_least in (("contrib.nope", ""), ("contrib.good", "1.10.0")):
            try:
                plugins.summon_domain(domain, at_least)
            except WnnError as e:
                print(e)
    """
    out = site.run(code)
    assert "pip install wnn-contrib-nope" in out
    assert (
        "found wnn-contrib-good 1.2.0; expected 1.10.0 or later; pip install -U wnn-contrib-good"
        in out
    )
    assert "blocked by the environment" in site.run(code, WNN_DISABLE_PLUGINS="good")


def test_plugins_argument_chooses_patterns(site):
    site.install("good")
    site.install("fine")
    out = site.run("""
        import x_good
        f = lambda p: sorted(x.name for x in plugins.fusions(plugins.resolve(p)) if x.op.module.startswith("x_"))
        print(f(None), f("auto") == f(summon_plugins) == f(summon_plugins()), f("auto"))
        print(f(["good"]), f(x_good), f(summon_plugins(block=["good"])))
        try:
            f(["nope"])
        except MissingOperatorError as e:
            print(e)
    """)
    good, fine = "contrib.good:double", "contrib.fine:double"
    assert f"[] True {[fine, good]}" in out.replace('"', "'")
    assert f"{[good]} {[good]} {[fine]}" in out
    assert re.search("found no op package 'nope'; installed are .*contrib.fine, contrib.good", out)


def test_plugins_argument_chooses_importers(site):
    take = "\n@op.importer('Double', domain='com.acme')\ndef take(g, node):\n    return g.add(op, node.inputs)\n"
    site.install("good", source=OPERATOR + take + REGISTER)
    site.install("fine")
    out = site.run("""
        import onnx
        from onnx import helper as h
        value = lambda n: h.make_tensor_value_info(n, 1, ["n"])
        graph = h.make_graph([h.make_node("Double", ["x"], ["y"], domain="com.acme")], "g", [value("x")], [value("y")])
        m = h.make_model(graph, opset_imports=[h.make_opsetid("com.acme", 1)], ir_version=8)
        for chosen in (None, "auto", None, ["fine"], ["good"]):
            try:
                wnn.NNForward(plugins=chosen).load_from_proto(m)
                print(chosen, "loads")
            except MissingOperatorError as e:
                print(chosen, "misses")
    """)
    found = [line for line in out.splitlines() if line.endswith(("loads", "misses"))]
    assert found == [
        "None misses",
        "auto loads",
        "None misses",
        "['fine'] misses",
        "['good'] loads",
    ]


def test_patterns_for_a_later_dialect_rest(site):
    site.install(
        "good", source=OPERATOR + "\n@hookimpl\ndef wnn_dialect():\n    return 99\n" + REGISTER
    )
    out = site.run(
        "print(plugins.fusions(plugins.resolve(['good'])), plugins.REGISTRY.get('contrib.good:double'))"
    )
    assert out.strip() == "[] Op('contrib.good:double')"


def adjustable_header(site):
    """A folder with a wnn_abi.h whose version flags may set."""
    header = re.sub(
        r"(#define (WNN_ABI_M...R) .*)",
        r"#ifndef \2\n\1\n#endif",
        (INCLUDE / "wnn_abi.h").read_text(),
    )
    (site.path / "wnn_abi.h").write_text(header)
    return site.path


# -- the native side -------------------------------------------------------------------------------
@needs_cc
def test_kernel_runs_from_the_package_library(site):
    site.install("good")
    site.build("good")
    out = site.run("summon_plugins(); double(); print(summon_plugins())")
    assert "right fallbacks:\n" in out
    assert next(line for line in out.splitlines() if line.startswith("contrib.good")).split()[
        5:7
    ] == ["0.2+", "ready"]


@needs_cc
def test_library_is_opened_by_the_first_kernel_only(site):
    site.install("good")
    site.build("good")
    out = site.run("""
        opened = lambda: any("x_good.native" in line for line in open("/proc/self/maps"))
        summon_plugins(); print(opened()); double(); print(opened())
    """)
    assert out.split() == ["False", "right", "fallbacks:", "True"]


@needs_cc
@pytest.mark.parametrize(
    "flags, says",
    [
        (["-DWNN_ABI_MAJOR=9"], "this wnn has ABI"),
        (["-DHOST_MINOR=99"], "pip install -U wnn"),
        (["-Dwnn_plugin_init=other_name"], "undefined symbol: wnn_plugin_init"),
        (["-Dwnn_plugin=other_name"], "undefined symbol: wnn_plugin"),
    ],
)
def test_library_that_does_not_fit_costs_one_warning(site, flags, says):
    site.install("good")
    site.build("good", NATIVE, f"-I{adjustable_header(site)}", *flags)
    _one_warning(site, says)


@needs_cc
def test_package_for_an_older_abi_runs(site):
    site.install("good")
    site.build("good", NATIVE, f"-I{adjustable_header(site)}", "-DWNN_ABI_MINOR=0")
    out = site.run("summon_plugins(); double(); print(summon_plugins())")
    assert "right fallbacks:\n" in out
    assert "0.0+" in out


@needs_cc
def test_package_for_a_later_abi_may_cap_itself_to_this_host(site):
    site.install("good")
    source = NATIVE.replace("WNN_ABI_MAJOR, WNN_ABI_MINOR,", "WNN_ABI_MAJOR, WNN_ABI_MINOR + 1,")
    site.build("good", source)
    assert "right fallbacks:\n" in site.run("summon_plugins(); double()")


@needs_cc
def test_library_with_an_undefined_symbol_costs_one_warning(site):
    site.install("good")
    site.build(
        "good",
        NATIVE.replace("return api->", "extern int nowhere(void); return nowhere() + api->"),
        "-Wl,-z,now",
    )
    _one_warning(site, "undefined symbol: nowhere")


@needs_cc
def test_library_for_another_architecture_costs_one_warning(site):
    site.install("good")
    so = site.build("good")
    data = bytearray(so.read_bytes())
    data[18:20] = (243).to_bytes(2, "little")  # e_machine: RISC-V
    so.write_bytes(data)
    _one_warning(site, "the shared library cannot be used")


def test_missing_library_costs_one_warning(site):
    site.install("good")
    _one_warning(site, "cannot open shared object file")


@needs_cc
def test_library_that_declines_costs_one_warning(site):
    site.install("good")
    site.build(
        "good", NATIVE.replace("return api->register_kernel", "return 7 + api->register_kernel")
    )
    _one_warning(site, "declined this host with code 7")


@needs_cc
def test_library_without_the_kernel_costs_one_warning(site):
    site.install("good")
    site.build("good", NATIVE.replace("double_f32", "treble_f32"))
    _one_warning(site, "has no kernel 'double_f32'")


@needs_cc
def test_crash_on_another_instruction_set_names_the_case(site):
    site.install("good")
    site.build(
        "good", NATIVE.replace("int64_t n = 1;", "int64_t n = 1, *volatile no = 0; *no = 1;")
    )
    out = site.run("""
        from wnn.testing import OpCheckError, check_isa
        try:
            check_isa("baseline", ["neg", "contrib.good:double"])
        except OpCheckError as e:
            print(e)
    """)
    assert "exit code -11 (SIGSEGV) running contrib.good:double case 0" in out
    assert "running neg" not in out


def _one_warning(site, says):
    """The operator runs on its reference, patterns rest, and one warning names the package and the
    remedy.
    """
    out = site.run("""
        summon_plugins(); double(); double()
        fusion, = plugins.fusions(plugins.resolve(["good"])) or [None]
        print("patterns rest:", fusion is None or not fusion.where(None))
        print(summon_plugins())
    """)
    assert out.count("PluginWarning") == 1
    assert says in out
    assert "[wnn-contrib-good]" in out
    assert "pip install -U" in out
    assert "right fallbacks: contrib.good:double" in out
    assert "patterns rest: True" in out
    assert "no kernels" in out


def test_plugin_info_mirrors_the_header():
    from test_abi import LAYOUT

    from wnn.plugins import PluginInfo

    row = next(line for line in LAYOUT.splitlines() if line.startswith("wnn_plugin_info"))
    assert row.split(": ")[1] == " ".join(
        f"{n} {getattr(PluginInfo, n).offset}" for n, _ in PluginInfo._fields_
    )


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="not in a checkout")
def test_every_hook_is_documented():
    from wnn.plugins import GROUP, Hooks

    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    text = (ROOT / "docs" / "plugins.md").read_text()
    hooks = [h for h in vars(manager.hook) if h.startswith("wnn_")]
    assert hooks
    for hook in hooks:
        assert f"def {hook}" in text
        assert getattr(Hooks, hook).__doc__
