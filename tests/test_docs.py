"""The documentation says what is there."""

from __future__ import annotations

import contextlib
import inspect
import io
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("wnn_contrib/*/*.md")]


def sources() -> str:
    files = [p for s in ("py", "pyx", "cc") for p in (ROOT / "wnn").rglob(f"*.{s}")]
    return "\n".join(p.read_text(encoding="utf-8") for p in files)


def test_every_environment_variable_is_documented():
    found = set(
        re.findall(r'(?:environ(?:\.get)?|getenv|environment\.number)[\[(]"(WNN_\w+)"', sources())
    )
    documented = set(re.findall(r"`(WNN_\w+)=", (ROOT / "docs/environment.md").read_text()))
    assert found == documented


def test_every_command_is_documented():
    pytest.importorskip("typer")
    from wnn.commands import app

    commands = {c.name or c.callback.__name__ for c in app.registered_commands}
    text = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in text for name in commands)


def test_every_error_is_documented():
    from wnn import errors

    names = {n for n, c in vars(errors).items() if isinstance(c, type) and n != "WnnError"}
    assert names == set(re.findall(r"^\| `(\w+)` ", (ROOT / "docs/errors.md").read_text(), re.M))


def test_every_hook_is_documented():
    from wnn.plugins import Hooks

    text = (ROOT / "docs/plugins.md").read_text()
    hooks = {name: h for name, h in vars(Hooks).items() if name.startswith("wnn_")}
    assert hooks and all(f"def {name}()" in text and h.__doc__ for name, h in hooks.items())


API = (ROOT / "docs/api.md").read_text()
OWNERS = {
    "model": "wnn.NNForward",
    "report": "wnn.packages.Report",
    "package": "wnn.packages.Package",
    "session": "wnn.ort.InferenceSession",
    "options": "wnn.ort.SessionOptions",
}


def test_public_names_are_on_the_api_page():
    import wnn

    names = [f"wnn.{n}" for n in wnn.__all__]
    names += [f"model.{n}" for n in vars(wnn.NNForward) if n[0] != "_"]
    assert not [n for n in names if not re.search(rf"`{re.escape(n)}\b", API)]


def test_names_on_the_api_page_are_as_shown():
    from wnn import errors, plugins

    owners = "|".join(["wnn", *OWNERS])
    for owner, name, shown in re.findall(rf"`({owners})\.([\w.]+)(\(.*?\))?`", API):
        if owner == "wnn":
            found = pkgutil.resolve_name(f"wnn.{name}")
        else:
            c = pkgutil.resolve_name(OWNERS[owner])
            found = {**vars(c), **getattr(c, "__dataclass_fields__", {})}[name]
        if shown:
            parameters = inspect.signature(found).parameters.values()
            plain = [p.replace(annotation=p.empty) for p in parameters if p.name != "self"]
            assert str(inspect.Signature(plain)) == shown.replace('"', "'"), name
    for name in re.findall(r"`(\w+(?:Error|Warning))`", API):
        assert hasattr(errors, name) or hasattr(plugins, name), name
    variables = (ROOT / "docs/environment.md").read_text()
    assert all(f"`{v}=" in variables for v in re.findall(r"`(WNN_\w+)`", API))


def test_examples_on_the_api_page_print_what_is_shown(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    names = {}
    for code, shown in re.findall(r"```python\n(.*?)```\n```\n(.*?)```", API, re.S):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, names)
        assert printed.getvalue() == shown


def test_report_of_op_packages_is_shown_as_it_is():
    page = (ROOT / "docs/plugins.md").read_text()
    code, shown = re.search(r"```python\n(import wnn\n.*?)```\n```\n(.*?)```", page, re.S).groups()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = {line.split()[0]: line.split()[:-2] for line in done.stdout.splitlines()}
    for line in shown.splitlines():
        name = line.split()[0]
        if name in found and name != "wnn":  # the core's numbers grow
            assert line.split()[:-2] == found[name]


def test_contributing_shows_the_operator_as_it_is():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    blocks = dict(re.findall(r"```(python|cpp)\n(.*?)\n```", text, re.S))
    assert len(blocks) == 2
    for kind, suffix in (("python", "py"), ("cpp", "cc")):
        source = (ROOT / f"wnn/ops_std/lp_normalize.{suffix}").read_text().rstrip()
        assert source.endswith(blocks[kind])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\]\(([^)#:]+)\)", prose):
        assert (page.parent / link).exists(), link


def test_every_onnx_operator_is_on_the_scoreboard():
    pytest.importorskip("onnx")
    from docs.scoreboard import DOMAINS, newest

    listed = re.findall(r"^\| (\w+) \| (\d+) ", (ROOT / "docs/operators.md").read_text(), re.M)
    assert sorted(listed) == sorted(
        (s.name, str(s.since_version)) for d in DOMAINS for s in newest(d)
    )


def test_operator_that_needs_attributes_is_no_unsupported_one():
    onnx = pytest.importorskip("onnx")
    from docs.scoreboard import Row

    assert Row().status(onnx.defs.get_schema("RandomNormal")) == "fallback"
