"""The wheels that `make wheels` wrote, as a user installs and uses them: `make test-wheels`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
FETCHED = ROOT / "build" / "fetched"  # numpy, pluggy and onnx, with what they need
WHEELS = sorted(DIST.glob("*.whl"))
MODEL = Path(__file__).parent / "exports" / "conformer_time_ts"
OPERATOR = "contrib.conformer:relative_attention"

pytestmark = pytest.mark.wheels


@pytest.mark.parametrize("wheel", WHEELS, ids=lambda p: p.name.partition("-")[0])
def test_wheel_is_small_and_serves_what_its_name_says(wheel, tmp_path):
    core = wheel.name.startswith("wnn-")
    tags = "cp311-abi3-manylinux" if core else "py3-none-manylinux"
    assert re.fullmatch(rf"\w+-[\d.]+-{tags}[\w.]*_x86_64\.whl", wheel.name)
    assert wheel.stat().st_size < (640_000 if core else 100_000)
    with zipfile.ZipFile(wheel) as z:
        z.extractall(tmp_path)
        names = z.namelist()
    assert not [n for n in names if n.endswith((".cc", ".pyx", ".c", "setup.py"))]
    assert not core or "wnn/py.typed" in names
    assert core or not any(n.startswith(("wnn/", "wnn_contrib/__init__")) for n in names)
    (library,) = [n for n in names if n.endswith(".so")]
    seen = subprocess.run(
        ["readelf", "-d", str(tmp_path / library)], capture_output=True, text=True, check=True
    ).stdout
    assert set(re.findall(r"NEEDED.*\[(.*)\]", seen)) <= {"libc.so.6", "libm.so.6"}


def test_there_is_a_wheel_of_every_package():
    names = {p.name.partition("-")[0] for p in WHEELS}
    packages = {p.parent.name for p in ROOT.glob("wnn_contrib/*/pyproject.toml")}
    assert names == {"wnn", *(f"wnn_contrib_{n}" for n in packages)}


class User:
    """Someone with a new environment: its folder is all that PATH has, so there is no compiler."""

    def __init__(self, home: Path) -> None:
        self.home = home
        subprocess.run([sys.executable, "-m", "venv", str(home / "env")], check=True)
        (home / "dist").symlink_to(DIST)
        self.shell(f"pip install --no-index --find-links {FETCHED} numpy pluggy")

    def shell(self, command: str) -> str:
        env = {
            "PATH": str(self.home / "env/bin"),
            "HOME": str(self.home),
            "PIP_CONFIG_FILE": os.devnull,
        }
        done = subprocess.run(
            command.split() if isinstance(command, str) else command,
            cwd=self.home,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, code: str) -> str:
        return self.shell([str(self.home / "env/bin/python"), "-c", textwrap.dedent(code)])

    def answer(self, model: str) -> np.ndarray:
        """What three lines give; the operators that ran are left in `operators`."""
        self.operators = self.python(f"""
            import numpy as np
            x = np.load("x.npy")

            import wnn
            model = wnn.NNForward().load_from_file("{model}")
            y, = model.infer([x])

            np.save("y.npy", y)
            print(*[operator for node, operator, ns in model.profile([x])])
            assert not model.fallback_ops(), model.fallback_ops()
            import sys
            assert "{model}".endswith(".onnx") or "onnx" not in sys.modules
        """).split()
        return np.load(self.home / "y.npy")


INSTALL = "pip install --no-index --find-links dist wnn wnn-contrib-conformer"


def test_installed_package_speeds_up_a_conformer_and_can_be_taken_away(tmp_path):
    case = np.load(f"{MODEL}.npz")
    want, close = case["y"], 1e-4 * np.abs(case["y"]).max()

    maker = User(tmp_path / "maker")
    maker.shell(INSTALL)
    maker.shell(f"pip install --no-index --find-links {FETCHED} onnx")
    maker.python(f"import wnn; wnn.convert('{MODEL}.onnx', 'm.wnnx')")

    user = User(tmp_path / "user")
    (user.home / "m.wnnx").write_bytes((maker.home / "m.wnnx").read_bytes())
    (user.home / "m.onnx").write_bytes(Path(f"{MODEL}.onnx").read_bytes())
    np.save(user.home / "x.npy", case["x"])
    user.shell(INSTALL)
    np.testing.assert_allclose(user.answer("m.wnnx"), want, rtol=0, atol=close)
    assert user.operators.count(OPERATOR) == 2

    user.shell("pip uninstall -y wnn-contrib-conformer")
    said = user.python("""
        import wnn
        try:
            wnn.NNForward().load_from_file("m.wnnx")
        except wnn.WnnError as e:
            print(e)
    """)
    assert "pip install wnn-contrib-conformer" in said
    user.shell(f"pip install --no-index --find-links {FETCHED} onnx")
    np.testing.assert_allclose(user.answer("m.onnx"), want, rtol=0, atol=close)
    assert OPERATOR not in user.operators
