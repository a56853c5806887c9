"""The native side of op packages, with libraries that are really built."""

import re

import pytest
from sites import CC, INCLUDE, NATIVE

needs_cc = pytest.mark.skipif(CC is None, reason="no C compiler")


def adjustable_header(site):
    """A folder with a wnn_abi.h whose version flags may set."""
    header = re.sub(
        r"(#define (WNN_ABI_M...R) .*)",
        r"#ifndef \2\n\1\n#endif",
        (INCLUDE / "wnn_abi.h").read_text(),
    )
    (site.path / "wnn_abi.h").write_text(header)
    return site.path


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
@pytest.mark.parametrize(
    "body, timeout, how",
    [
        ("int64_t *volatile no = 0; *no = 1;", 600, "exit code -11 (SIGSEGV)"),
        ("volatile int on = 1; while (on) {}", 8, "no end within 8 s"),
    ],
)
def test_crash_or_hang_on_another_instruction_set_names_the_case(site, body, timeout, how):
    site.install("good")
    site.build("good", NATIVE.replace("int64_t n = 1;", f"int64_t n = 1; {body}"))
    out = site.run(f"""
        from wnn.testing import OpCheckError, check_isa
        try:
            check_isa("baseline", ["neg", "contrib.good:double"], {timeout})
        except OpCheckError as e:
            print(e)
    """)
    assert f"WNN_ISA=baseline: {how} running contrib.good:double case 0" in out
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

    from wnn.libraries import PluginInfo

    row = next(line for line in LAYOUT.splitlines() if line.startswith("wnn_plugin_info"))
    assert row.split(": ")[1] == " ".join(
        f"{n} {getattr(PluginInfo, n).offset}" for n, _ in PluginInfo._fields_
    )
