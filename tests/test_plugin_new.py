"""`wnn plugin new` writes a package that builds, installs, passes its tests and is found, with no
edit.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import wnn
from wnn.errors import WnnError
from wnn.plugin_template import HEADERS, RUNTIME, TEMPLATE, write_package

ROOT = Path(wnn.__file__).parents[1]
CONTRIB = sorted((ROOT / "wnn_contrib").glob("*/setup.py"))


def setuptools_builds() -> bool:
    try:
        return int(version("setuptools").split(".")[0]) >= 77 and bool(shutil.which("cc"))
    except PackageNotFoundError:
        return False


def run(*command: str, cwd: Path | None = None, **env: str) -> str:
    done = subprocess.run(
        command, env={**os.environ, **env}, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not setuptools_builds(), reason="needs setuptools 77 and a C++ compiler")
def test_new_package_builds_installs_and_passes_its_tests(tmp_path):
    folder = write_package("my_gate", tmp_path)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    (told,) = re.findall(r"^ *pip (wheel .*?) *#", (folder / "README.md").read_text(), re.M)
    run(*pip, *told.split(), "--no-build-isolation", cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    assert wheel.name.startswith("wnn_contrib_my_gate-0.1.0-py3-none-")
    assert wheel.stat().st_size < 100_000
    site = tmp_path / "site"
    run(*pip, "install", "--no-deps", "--target", str(site), str(wheel))
    path = f"{site}{os.pathsep}{ROOT}"
    report = run(
        sys.executable, "-c", "import wnn; print(wnn.summon_plugins(native=True))", PYTHONPATH=path
    )
    assert any(
        line.split()[:6] == ["contrib.my_gate", "0.1.0", "wnn-contrib-my-gate", "1", "1", "0.2+"]
        for line in report.splitlines()
    )
    pytest_here = (sys.executable, "-m", "pytest", "-q")
    assert "passed" in run(*pytest_here, "tests", cwd=folder, PYTHONPATH=path)
    quick = (*pytest_here, "-k", "pattern")
    assert "passed" in run(*quick, cwd=folder, PYTHONPATH=path)
    assert "passed" in run(*quick, f"{folder.name}/tests", cwd=tmp_path, PYTHONPATH=path)


def test_names_and_folders_that_do_not_fit_are_refused(tmp_path):
    for name in ("My-Gate", "1st", "../x", "", "class"):
        with pytest.raises(WnnError, match="expected a module name"):
            write_package(name, tmp_path)
    write_package("gate", tmp_path)
    with pytest.raises(WnnError, match="already there"):
        write_package("gate", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(WnnError, match="cannot be written"):
        write_package("gate", tmp_path / "file")


def test_headers_of_a_new_package_are_those_of_wnn(tmp_path):
    folder = write_package("gate", tmp_path)
    for header in HEADERS:
        assert (folder / "include" / header).read_bytes() == (RUNTIME / header).read_bytes()


@pytest.mark.parametrize("setup", CONTRIB, ids=lambda p: p.parent.name)
def test_packages_here_are_built_as_the_template_says(setup):
    template = (TEMPLATE / "setup.py.in").read_text()
    assert setup.read_text() == template.replace("{{name}}", setup.parent.name)
