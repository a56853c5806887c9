"""Op packages: found, reported, blocked, isolated from each other."""

import os
import re
import subprocess
import sys

import pytest
from sites import OPERATOR, REGISTER, ROOT


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
